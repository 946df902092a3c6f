"""Named loss terms, each a module `loss(outputs, labels) -> scalar`, some with trained weights.

`outputs` is {view: what the network gave for it, see `as_output`}, `labels` is {view: (B,) int64}.
A view may be absent, and a building may occur several times. A term that finds nothing to compare
in a batch is 0 with zero gradients, never left out: the log has means over all steps. Everything is
computed in float32, or in float64 where the network is; call it outside autocast. Each of several
processes computes the loss of the whole batch, so the weights of a term have the same gradient in
all of them.
"""

import argparse
import math
import warnings
from itertools import combinations
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from networks.musenet import WeatherLoss

LOGIT_TERMS = ("instance", "weather")  # need no embedding
CLASS_TERMS = ("arcface", "cosface", "sphere")  # unit embeddings against trained class vectors
PAIR_TERMS = ("circle", "contrast", "triplet", "lifted")  # images of a group against each other
CROSS_VIEW_TERMS = ("infonce", "soft_triplet", "verification", "dwdr", "overlap")  # view by view
TERMS = (*LOGIT_TERMS, *CLASS_TERMS, *PAIR_TERMS, *CROSS_VIEW_TERMS)


# ---------------------------------------------------------------- inputs
class Output(NamedTuple):
    """What a network gives for the images of a view."""

    logits: torch.Tensor  # (B, C)
    embedding: torch.Tensor | None = None  # (B, D), not normalised; None without `return_f`
    weather: torch.Tensor | None = None  # (B, 11), for networks.musenet.WeatherLoss alone
    condition: torch.Tensor | None = None  # (B,) int64, a label, for the same loss
    ground: torch.Tensor | None = None  # (B, 3), see `ground_overlap`, for the overlap loss alone


def as_output(output):
    """Logits (B, C), or a tuple with the fields of Output, as an Output in float32 (or float64).

    A sum of exponentials overflows half precision, and so does the norm of a long embedding.
    """
    output = output if isinstance(output, tuple) else (output,)
    return Output(*(None if x is None else _full(x) for x in output))


def _full(x):
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _embeddings(outputs):
    """{view: embedding (B, D)}; ValueError where the network gave none."""
    embeddings = {view: as_output(output).embedding for view, output in outputs.items()}
    if any(embedding is None for embedding in embeddings.values()):
        raise ValueError(
            "every loss but instance and weather compares embeddings, and the network gave none: "
            "build it with return_f=True"
        )
    return embeddings


# ---------------------------------------------------------------- classes
class InstanceLoss(nn.Module):
    """Cross-entropy of every view against the building's class, summed over the views.

    All views share one classifier, so the term pulls the images of a building, from any platform,
    to one class vector (Zheng et al., Dual-Path Convolutional Image-Text Embeddings with Instance
    Loss, TOMM 2020; University-1652, ACM MM 2020, eq. 1).
    """

    def forward(self, outputs, labels):
        return sum(
            class_loss(as_output(output).logits, labels[view]) for view, output in outputs.items()
        )


def class_loss(logits, labels):
    """Mean cross-entropy of logits (B, C), or the sum over the parts of LPN's logits (B, C, P)."""
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels)
    parts = logits.shape[2]
    return parts * F.cross_entropy(logits, labels[:, None].expand(-1, parts))


# ---------------------------------------------------------------- published metric terms
class MetricTerm(nn.Module):
    """A published metric loss on unit embeddings, view by view or over the views together.

    `criterion(embeddings (N, D), labels (N,)) -> scalar`. As in the published code, each view is a
    group of images and the values are summed; with `merge` (`--loss_merge` there) the images of all
    views form one group. `per_image` divides by the images per view, as published for the circle
    and sphere losses. A batch with one image per building and view has positive pairs only
    *between* views: the pair terms learn from them only with `merge`.
    """

    def __init__(self, criterion, merge=False, per_image=False):
        super().__init__()
        self.criterion = criterion
        self.merge = merge
        self.per_image = per_image

    def forward(self, outputs, labels):
        groups = [(F.normalize(x), labels[view]) for view, x in _embeddings(outputs).items()]
        views = 1
        if self.merge:
            views = len(groups)
            groups = [tuple(torch.cat(part) for part in zip(*groups, strict=True))]
        values = [
            self.criterion(x, y) * (views / len(y) if self.per_image else 1) for x, y in groups
        ]
        return torch.stack(values).sum()


class CircleLoss(nn.Module):
    """Circle loss of all pairs of a group together (Sun et al., CVPR 2020, eq. 6).

    log(1 + sum_n exp(g a_n (s_n - m)) * sum_p exp(-g a_p (s_p - 1 + m))) over the similarities s_n
    of different and s_p of equal buildings, with a_n = max(s_n + m, 0) and
    a_p = max(1 + m - s_p, 0) held constant. (pytorch-metric-learning sums per anchor, unlike the
    published code.)
    """

    def __init__(self, m=0.25, gamma=32.0):
        super().__init__()
        self.m = m
        self.gamma = gamma

    def forward(self, embeddings, labels):
        similarity = embeddings @ embeddings.T  # (N, N)
        same = labels[:, None] == labels
        each = torch.ones_like(same).triu(diagonal=1)  # every pair once
        positive, negative = similarity[same & each], similarity[~same & each]
        pull = (1 + self.m - positive.detach()).clamp(min=0) * (1 - self.m - positive)
        push = (negative.detach() + self.m).clamp(min=0) * (negative - self.m)
        # Without pairs the sum is log 0 = -inf, and the term 0.
        return F.softplus((self.gamma * pull).logsumexp(0) + (self.gamma * push).logsumexp(0))


class _Mined(nn.Module):
    """A loss of pytorch-metric-learning on the pairs its miner chooses."""

    def __init__(self, loss, miner):
        super().__init__()
        self.loss = loss
        self.miner = miner

    def forward(self, embeddings, labels):
        return self.loss(embeddings, labels, self.miner(embeddings, labels))


def _angles(cosines):
    """arccos with a finite gradient at 1, where an embedding is its class vector.

    The library's version turns the gradient of the whole batch into NaN there.
    """
    limit = 1 - torch.finfo(cosines.dtype).eps
    return cosines.clamp(-limit, limit).acos()


def _criterion(name, class_num, embedding_dim):
    """The criterion of a published flag, with the published code's constants.

    x are unit embeddings, W the normalised trained class vectors, t the angle between x and the
    vector of the true class, d the distance and s the cosine similarity of two embeddings.

    arcface: cross-entropy of 64 cos(x, W), with cos(t + 28.6 degrees) for the true class (Deng et
        al., CVPR 2019, eq. 3; beyond 180 degrees cos t - m sin m, as in their code).
    cosface: the same with cos t - 0.35 (Wang et al., CVPR 2018, eq. 4).
    sphere: cross-entropy of cos(x, W), with (-1)^k cos 4t - 2k for the true class,
        k = floor(4t / pi) (A-Softmax, Liu et al., CVPR 2017; the published code has |x| = 1).
    contrast: mean of the d > 0 of positives plus mean of the 1 - d > 0 of negatives (Hadsell et
        al., CVPR 2006, linear instead of squared, as in the library).
    triplet: mean of the d_p - d_n + 0.3 > 0 (Schroff et al., CVPR 2015, linear too), of the pairs
        chosen as in Wang et al., CVPR 2019, section 4.1: positives with s - 0.1 < the largest s of
        a negative, negatives with s + 0.1 > the smallest s of a positive.
    lifted: mean over the anchors of max(0, log sum exp d_p + log sum exp(1 - d_n)) (Hermans et al.,
        arXiv 1703.07737, "generalized lifted"); without pairs a sum is left out, as in the library.
    """
    if name == "circle":
        return CircleLoss()
    try:  # its import takes seconds
        from pytorch_metric_learning import losses, miners
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the {name} loss needs {error.name}: pip install pytorch-metric-learning"
        ) from None
    if name == "contrast":
        return losses.ContrastiveLoss(pos_margin=0, neg_margin=1)
    if name == "lifted":
        return losses.GeneralizedLiftedStructureLoss(pos_margin=0, neg_margin=1)
    if name == "triplet":
        return _Mined(losses.TripletMarginLoss(margin=0.3), miners.MultiSimilarityMiner())
    if name == "cosface":
        return losses.CosFaceLoss(class_num, embedding_dim)
    if name == "sphere":
        with warnings.catch_warnings():  # the library hands a tensor to SciPy
            warnings.simplefilter("ignore", DeprecationWarning)
            return losses.SphereFaceLoss(class_num, embedding_dim, margin=4)
    if name != "arcface":
        raise ValueError(f"the loss {name} has no builder: add one to build_losses")
    criterion = losses.ArcFaceLoss(class_num, embedding_dim)
    criterion.get_angles = _angles
    return criterion


# ---------------------------------------------------------------- one view against another
class CrossViewTerm(nn.Module):
    """Mean of `pair_loss` over the pairs of views that share a building, else 0.

    A subclass defines `pair_loss(a (A, D), b (B, D), same (A, B) bool) -> scalar`, which is finite
    even where no pair is the same; it may define what is the `same`.
    """

    def forward(self, outputs, labels):
        embeddings = _embeddings(outputs)
        values, shared = [], []
        for one, other in combinations(embeddings, 2):
            same = self.same(outputs, labels, one, other)
            values.append(self.pair_loss(embeddings[one], embeddings[other], same))
            shared.append(same.any())
        if not values:  # every weight needs a gradient, in all processes
            return sum(0 * x.sum() for x in (*embeddings.values(), *self.parameters()))
        values, shared = torch.stack(values), torch.stack(shared)
        return (values * shared).sum() / shared.sum().clamp(min=1)

    def same(self, outputs, labels, one, other):
        return labels[one][:, None] == labels[other]

    def pair_loss(self, a, b, same):
        raise NotImplementedError


class InfoNCE(CrossViewTerm):
    """Symmetric InfoNCE: the images of a building among those of other buildings.

    Logits are exp(s) cos(a_i, b_j), s trained from log(1 / 0.07) and clamped to exp(s) <= 100, as
    in CLIP (Radford et al., ICML 2021, 2.4-2.5); cross-entropy with label smoothing e, mean of
    both directions (Sample4Geo, ICCV 2023, eq. 1, without the clamp). Each positive pair is
    compared only with the negatives of its row: with S = {j} and the images of other buildings,
    L_ij = -(1 - e) log p_j - e / |S| sum_{k in S} log p_k, p a softmax over S. So other images of
    the same building are never negatives; where there are none this is the usual form.
    """

    largest_scale = 100.0

    def __init__(self, temperature=0.07, label_smoothing=0.1):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.label_smoothing = label_smoothing

    def forward(self, outputs, labels):
        with torch.no_grad():  # a `clamp` in the graph would stop the gradient beyond the limit
            self.logit_scale.clamp_(max=math.log(self.largest_scale))
        return super().forward(outputs, labels)

    def pair_loss(self, a, b, same):
        logits = self.logit_scale.exp() * F.normalize(a) @ F.normalize(b).T  # (A, B)
        return (self._one_way(logits, same) + self._one_way(logits.T, same.T)) / 2

    def _one_way(self, logits, same):
        lowest = torch.finfo(logits.dtype).min  # -inf would make the gradient of an empty sum NaN
        negatives = logits.masked_fill(same, lowest).logsumexp(1, keepdim=True)  # (A, 1)
        log_sum = torch.logaddexp(logits, negatives)  # (A, B): over S of the pair
        size = 1 + (~same).sum(1, keepdim=True)
        mean = (logits + logits.masked_fill(same, 0).sum(1, keepdim=True)) / size  # over S
        target = (1 - self.label_smoothing) * logits + self.label_smoothing * mean
        return _mean_where(log_sum - target, same)


class SoftTripletLoss(CrossViewTerm):
    """Weighted soft-margin triplet loss between views (Hu et al., CVM-Net, CVPR 2018).

    Mean of log(1 + exp(alpha (d_p - d_n))) over all triplets of an image, an image of the same
    building and an image of another building, both in the other view; in both directions. d is the
    squared Euclidean distance of unit embeddings, as in the authors' code, and alpha 10.
    """

    def __init__(self, alpha=10.0):
        super().__init__()
        self.alpha = alpha

    def pair_loss(self, a, b, same):
        distance = 2 - 2 * F.normalize(a) @ F.normalize(b).T  # (A, B)
        return (self._one_way(distance, same) + self._one_way(distance.T, same.T)) / 2

    def _one_way(self, distance, same):
        anchor, positive = same.nonzero(as_tuple=True)  # (P,): not A x B x B triplets at once
        gap = distance[anchor, positive][:, None] - distance[anchor]  # (P, B)
        return _mean_where(F.softplus(self.alpha * gap), ~same[anchor])


class VerificationLoss(CrossViewTerm):
    """The same building or not, from the squared difference of the embeddings of a pair.

    Cross-entropy of a trained linear classifier on (a - b)^2 (Zheng et al., A Discriminatively
    Learned CNN Embedding for Person Re-identification, TOMM 2017, the "square layer"; with two
    classes the softmax is a logistic function of one logit). Positives and negatives have equal
    weight, as there, where equally many are drawn; here all pairs of a batch are used. Embeddings
    have unit norm here, and a factor sqrt(D) makes the size of a step independent of their length.
    """

    def __init__(self, embedding_dim):
        super().__init__()
        self.classifier = nn.Linear(embedding_dim, 1)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def pair_loss(self, a, b, same):
        a, b = F.normalize(a), F.normalize(b)
        weight = self.classifier.weight[0] * math.sqrt(a.shape[1])  # (D,)
        # sum_d w_d (a_d - b_d)^2, without the A x B x D differences.
        squares = (a * a @ weight)[:, None] + b * b @ weight - 2 * (a * weight) @ b.T
        logits = squares + self.classifier.bias  # (A, B)
        positive = _mean_where(F.softplus(-logits), same)
        return (positive + _mean_where(F.softplus(logits), ~same)) / 2


class DWDRLoss(CrossViewTerm):
    """Dynamic weighted decorrelation of the channels of the embedding (Wang et al., TGRS 2024).

    With C (D, D) the correlation of the channels of one view with those of the other, over the
    pairs of images of the same building, at least two,
    L = 1/32 [sum_i (1 - C_ii)/2 (1 - C_ii)^2 + lambda sum_{i != j} |C_ij| C_ij^2]
    (`decouple_loss` of the published code, there of the pooled feature, here of the embedding). The
    weights (1 - C_ii)/2 and |C_ij| have gradients too, as published.
    """

    scale = 1 / 32

    def __init__(self, off_diagonal=0.0013):
        super().__init__()
        self.off_diagonal = off_diagonal

    def pair_loss(self, a, b, same):
        pairs = same.to(a.dtype)  # (A, B): weights, because indices would wait for the GPU
        count = pairs.sum()
        a = self._standardise(a, pairs.sum(1, keepdim=True))
        b = self._standardise(b, pairs.sum(0)[:, None])
        c = a.T @ pairs @ b / count.clamp(min=1)  # (D, D)
        diagonal = c.diagonal()
        others = c - diagonal.diag()
        loss = ((1 - diagonal).pow(3) / 2).sum() + self.off_diagonal * others.abs().pow(3).sum()
        return self.scale * loss * (count > 1)

    @staticmethod
    def _standardise(x, weights, eps=1e-5):
        """(N, D) to mean 0 and variance 1 over the rows, each counted `weights` (N, 1) times."""
        weights = weights / weights.sum().clamp(min=1)
        x = x - (weights * x).sum(0)
        return x / ((weights * x * x).sum(0) + eps).sqrt()


class OverlapLoss(InfoNCE):
    """InfoNCE whose positives count by how much of their ground they share.

    Where places lie close together, images of another one are no pure negatives. With w_ij the
    `ground_overlap` of images i and j, and p_ij the softmax over j of exp(s) cos(a_i, b_j),
    L_i = -sum_j w_ij log p_ij / sum_j w_ij, mean over the i that share some, mean of both
    directions: the loss CWCL (Srinivasa et al., NeurIPS 2023), there with a similarity of features
    for w. GTA-UAV (Ji et al., AAAI 2025) weights the positive pair alone by this overlap and keeps
    others that overlap out of the batch. Where no ground is known, images of one building share
    all of it, and others none.
    """

    def same(self, outputs, labels, one, other):
        a, b = (as_output(outputs[view]).ground for view in (one, other))
        if a is None or b is None:
            return super().same(outputs, labels, one, other).to(self.logit_scale.dtype)
        return ground_overlap(a, b)

    def _one_way(self, logits, same):
        total = same.sum(1)  # (A,)
        value = -(same * logits.log_softmax(1)).sum(1) / total.where(total > 0, 1)
        return _mean_where(value, total > 0)


def ground_overlap(a, b):
    """Intersection over union of squares on the ground, (A, 3) and (B, 3) -> (A, B), 0 to 1.

    A square is x and y of its middle and its side, all in one unit; its sides lie along the axes.
    """
    apart = (a[:, None, :2] - b[:, :2]).abs()  # (A, B, 2)
    one, other = a[:, None, 2:], b[:, 2:]  # (A, 1, 1), (B, 1)
    shared = torch.minimum((one + other) / 2 - apart, torch.minimum(one, other)).clamp(min=0)
    both = shared.prod(2)  # (A, B)
    return both / (one[..., 0].square() + other[:, 0].square() - both)


def _mean_where(values, mask):
    """Mean of the values where the mask is true; 0 with zero gradients where it never is."""
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


# ---------------------------------------------------------------- all terms of a run
class LossTerms(nn.ModuleDict):
    """Loss terms by name, in the order of the log; a call gives {name: weight x term}, 0-d each.

    The loss of a step is the sum of these. `needs_embedding`: whether the network must return the
    embedding too.
    """

    def __init__(self, terms, weights):
        super().__init__(terms)
        self.weights = dict(weights)
        self.needs_embedding = any(name not in LOGIT_TERMS for name in terms)

    def forward(self, outputs, labels):
        outputs = {view: as_output(output) for view, output in outputs.items()}
        return {name: self.weights[name] * term(outputs, labels) for name, term in self.items()}


def build_losses(
    weights=None,
    class_num=None,
    embedding_dim=512,
    *,
    loss_merge=False,
    temperature=0.07,
    label_smoothing=0.1,
    dwdr_lambda=0.0013,
):
    """LossTerms of {name: weight}, without those of weight 0; None is the instance loss alone.

    Only arcface, cosface and sphere read `class_num`, these and verification `embedding_dim`.
    `loss_merge`, for CLASS_TERMS and PAIR_TERMS: see MetricTerm.
    """
    weights = {"instance": 1.0} if weights is None else weights
    builders = {
        "instance": InstanceLoss,
        "weather": WeatherLoss,
        "infonce": lambda: InfoNCE(temperature, label_smoothing),
        "soft_triplet": SoftTripletLoss,
        "verification": lambda: VerificationLoss(embedding_dim),
        "dwdr": lambda: DWDRLoss(dwdr_lambda),
        "overlap": lambda: OverlapLoss(temperature),
    }
    terms = {}
    for name in TERMS:  # a fixed order, so that a seed gives the same weights
        if not weights.get(name):
            continue
        if name in builders:
            terms[name] = builders[name]()
        else:
            criterion = _criterion(name, class_num, embedding_dim)
            terms[name] = MetricTerm(criterion, loss_merge, per_image=name in ("circle", "sphere"))
    return LossTerms(terms, weights)


def parse_loss_weights(text):
    """argparse type: `instance=1,infonce=0.5` as {name: weight}; instance is 1 where not named.

    argparse.ArgumentTypeError says in one line what is wrong.
    """
    weights = {"instance": 1.0}
    named = set()
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in TERMS:
            raise argparse.ArgumentTypeError(
                f"{text!r}: there is no loss {name!r}: expected NAME=WEIGHT,..., NAME one of "
                f"{', '.join(TERMS)}"
            )
        if name in named:
            raise argparse.ArgumentTypeError(f"{text!r} gives {name} twice")
        named.add(name)
        weights[name] = _weight(text, name, number) if equals else 1.0
    if not any(weights.values()):
        raise argparse.ArgumentTypeError(f"{text!r} leaves no loss: give one a weight above 0")
    return weights


def _weight(text, name, number):
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r}: the weight {number!r} of {name} is not a number from 0 up"
        )
    return weight


def require_finite(terms, step):
    """Raise FloatingPointError naming the step and the first of {term: number} not finite."""
    for name, value in terms.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the {name} loss became {value} at step {step}: lower --lr, "
                "raise --warm_epoch, or use --bf16 instead of --fp16"
            )


if __name__ == "__main__":
    raise SystemExit("losses.py is a library: run train.py --loss_weights NAME=WEIGHT")
