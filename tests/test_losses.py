"""Loss terms against hand-worked values and loops over their definitions, and their gradients."""

import argparse
import copy
import importlib.util
import math
import sys
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import losses
from losses import TERMS, Output, as_output, build_losses, parse_loss_weights, require_finite

VIEWS = ("satellite", "drone", "street")
CLASSES, DIM = 5, 6
# Buildings repeat within a view, some have no partner in another, and the views differ in size.
LABELS = {"satellite": [0, 1, 2, 2, 4], "drone": [1, 1, 0, 3], "street": [2, 0, 3, 2, 1, 0]}


def make_batch(labels=LABELS, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    outputs = {
        view: Output(draw(len(y), CLASSES), 3 * draw(len(y), DIM)) for view, y in labels.items()
    }
    return outputs, {view: torch.tensor(y) for view, y in labels.items()}


def make_term(name, **options):
    torch.manual_seed(1)
    return build_losses({name: 1.0}, CLASSES, DIM, **options).double()[name]


def units(outputs):
    """{view: unit embeddings, (B, D) float64 array}."""
    arrays = {view: output.embedding.numpy() for view, output in outputs.items()}
    return {view: [row / np.sqrt((row * row).sum()) for row in x] for view, x in arrays.items()}


# ---------------------------------------------------------------- instance
def test_instance_loss_is_the_sum_over_views():
    """Published defect 19: with `--loss_merge` alone the loss was 4 CE(mean) for three streams."""
    logits = {"satellite": torch.tensor([[0.0, 0.0]]), "drone": torch.tensor([[0.0, math.log(3)]])}
    labels = {"satellite": torch.tensor([0]), "drone": torch.tensor([0])}
    value = build_losses()["instance"](logits, labels)
    assert value.item() == pytest.approx(math.log(2) + math.log(4))


def test_gradient_is_softmax_minus_one_hot():
    logits = torch.tensor([[1.0, 2.0, 0.5]], requires_grad=True)
    build_losses()["instance"]({"drone": logits}, {"drone": torch.tensor([1])}).backward()
    expected = torch.softmax(logits.detach(), 1) - torch.tensor([[0.0, 1.0, 0.0]])
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_terms_are_named(value):
    terms = {"instance": torch.tensor(1.0), "other": torch.tensor(value)}
    with pytest.raises(FloatingPointError, match="the other loss became .* at step 7"):
        require_finite(terms, 7)


# ---------------------------------------------------------------- definitions, as loops
# Published terms: (unit embeddings, labels, the term) of a group of images -> loss.
def cross_entropy(logits, label):
    return math.log(sum(math.exp(z) for z in logits)) - logits[label]


def class_loss(own_logit, scale):
    def loss(x, y, term):
        weights = term.criterion.W.detach().numpy().T  # (C, D)
        total = 0.0
        for row, label in zip(x, y, strict=True):
            cosines = [row @ w / math.sqrt(w @ w) for w in weights]
            cosines[label] = own_logit(math.acos(cosines[label]))
            total += cross_entropy([scale * cosine for cosine in cosines], label)
        return total / len(y)

    return loss


def arcface_logit(angle):
    margin = math.radians(28.6)
    wrapped = angle + margin > math.pi
    return math.cos(angle) - margin * math.sin(margin) if wrapped else math.cos(angle + margin)


def sphere_logit(angle):
    k = math.floor(4 * angle / math.pi)
    return (-1) ** k * math.cos(4 * angle) - 2 * k


def pairs_of(y):
    positive = {(i, j) for i, j in permutations(range(len(y)), 2) if y[i] == y[j]}
    return positive, {pair for pair in permutations(range(len(y)), 2) if pair not in positive}


def distance(a, b):
    return math.sqrt(((a - b) ** 2).sum())


def mean(values):
    return sum(values) / len(values) if values else 0.0


def mean_above_zero(values):
    return mean([value for value in values if value > 0])


def circle_loss(x, y, term, m=0.25, gamma=32):
    positive, negative = pairs_of(y)
    s_p = [x[i] @ x[j] for i, j in positive if i < j]
    s_n = [x[i] @ x[j] for i, j in negative if i < j]
    pull = sum(math.exp(-gamma * max(0, 1 + m - s) * (s - (1 - m))) for s in s_p)
    push = sum(math.exp(gamma * max(0, s + m) * (s - m)) for s in s_n)
    return math.log(1 + pull * push)


def contrastive_loss(x, y, term):
    positive, negative = pairs_of(y)
    return mean_above_zero([distance(x[i], x[j]) for i, j in positive]) + mean_above_zero(
        [1 - distance(x[i], x[j]) for i, j in negative]
    )


def triplet_loss(x, y, term, margin=0.3, epsilon=0.1):
    values = []
    for i in range(len(y)):
        positive = [j for j in range(len(y)) if j != i and y[j] == y[i]]
        negative = [k for k in range(len(y)) if y[k] != y[i]]
        for j in positive:
            for k in negative:
                hard_p = x[i] @ x[j] - epsilon < max(x[i] @ x[n] for n in negative)
                hard_n = x[i] @ x[k] + epsilon > min(x[i] @ x[p] for p in positive)
                if hard_p and hard_n:
                    values.append(distance(x[i], x[j]) - distance(x[i], x[k]) + margin)
    return mean_above_zero(values)


def lifted_loss(x, y, term):
    positive, negative = pairs_of(y)
    values = []
    for i in range(len(y)):
        pull = [math.exp(distance(x[i], x[j])) for a, j in positive if a == i]
        push = [math.exp(1 - distance(x[i], x[j])) for a, j in negative if a == i]
        values.append(max(0, sum(math.log(sum(part)) for part in (pull, push) if part)))
    return mean(values)


GROUP_LOSSES = {
    "arcface": class_loss(arcface_logit, 64),
    "cosface": class_loss(lambda angle: math.cos(angle) - 0.35, 64),
    "sphere": class_loss(sphere_logit, 1),
    "circle": circle_loss,
    "contrast": contrastive_loss,
    "triplet": triplet_loss,
    "lifted": lifted_loss,
}


# Cross-view terms: (unit embeddings a, raw a, labels, the same of b, the term) -> loss.
def infonce_loss(a, b, ya, yb, term, smoothing=0.1):
    scale = math.exp(term.logit_scale.item())
    directions = []
    for x, other, y, z in ((a, b, ya, yb), (b, a, yb, ya)):
        values = []
        for i, j in np.ndindex(len(x), len(other)):
            if y[i] == z[j]:
                kept = [k for k in range(len(other)) if k == j or z[k] != y[i]]
                total = sum(math.exp(scale * x[i] @ other[k]) for k in kept)
                log_p = {k: scale * x[i] @ other[k] - math.log(total) for k in kept}
                values.append(-(1 - smoothing) * log_p[j] - smoothing * mean(list(log_p.values())))
        directions.append(mean(values))
    return mean(directions)


def soft_triplet_loss(a, b, ya, yb, term, alpha=10):
    directions = []
    for x, other, y, z in ((a, b, ya, yb), (b, a, yb, ya)):
        directions.append(
            mean(
                [
                    math.log1p(
                        math.exp(
                            alpha * (distance(x[i], other[j]) ** 2 - distance(x[i], other[k]) ** 2)
                        )
                    )
                    for i, j, k in np.ndindex(len(x), len(other), len(other))
                    if y[i] == z[j] and y[i] != z[k]
                ]
            )
        )
    return mean(directions)


def verification_loss(a, b, ya, yb, term):
    weight = term.classifier.weight.detach().numpy()[0]
    bias = term.classifier.bias.item()
    values = {True: [], False: []}
    for i, j in np.ndindex(len(a), len(b)):
        logit = math.sqrt(DIM) * (weight @ (a[i] - b[j]) ** 2) + bias
        same = ya[i] == yb[j]
        probability = 1 / (1 + math.exp(-logit))
        values[same].append(-math.log(probability if same else 1 - probability))
    return (mean(values[True]) + mean(values[False])) / 2


def dwdr_loss(a, b, ya, yb, term, off_diagonal=0.0013):
    pairs = [(i, j) for i, j in np.ndindex(len(a), len(b)) if ya[i] == yb[j]]
    if len(pairs) < 2:
        return 0.0
    one = np.array([a[i] for i, _ in pairs])
    other = np.array([b[j] for _, j in pairs])
    one = (one - one.mean(0)) / np.sqrt(one.var(0) + 1e-5)
    other = (other - other.mean(0)) / np.sqrt(other.var(0) + 1e-5)
    total = 0.0
    for i, j in np.ndindex(DIM, DIM):
        c = sum(one[n, i] * other[n, j] for n in range(len(pairs))) / len(pairs)
        total += (1 - c) / 2 * (1 - c) ** 2 if i == j else off_diagonal * abs(c) * c**2
    return total / 32


def overlap_loss(a, b, ya, yb, term, weight=None):
    """`weight(i, j)`; by default 1 for images of one building."""
    scale = math.exp(term.logit_scale.item())
    shares = np.array([[float(y == z) for z in yb] for y in ya]) if weight is None else weight
    directions = []
    for x, other, w in ((a, b, shares), (b, a, shares.T)):
        values = []
        for i in range(len(x)):
            logits = [scale * x[i] @ row for row in other]
            total = math.log(sum(map(math.exp, logits)))
            if w[i].sum() > 0:
                values.append(-(w[i] @ (np.array(logits) - total)) / w[i].sum())
        directions.append(mean(values))
    return mean(directions)


PAIR_LOSSES = {
    "overlap": overlap_loss,
    "infonce": infonce_loss,
    "soft_triplet": soft_triplet_loss,
    "verification": verification_loss,
    "dwdr": dwdr_loss,
}


@pytest.mark.parametrize("labels", [LABELS, {view: [0, 1, 2, 3] for view in VIEWS}])
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("name", GROUP_LOSSES)
def test_published_terms_equal_their_definitions(name, merge, labels):
    outputs, y = make_batch(labels)
    term = make_term(name, loss_merge=merge)
    x, groups = units(outputs), [[view] for view in labels]
    if merge:
        groups = [list(labels)]
    expected = 0.0
    for group in groups:
        rows = [row for view in group for row in x[view]]
        classes = [label for view in group for label in labels[view]]
        value = GROUP_LOSSES[name](rows, classes, term)
        per_image = name in ("circle", "sphere")
        expected += value * len(group) / len(rows) if per_image else value
    assert term(outputs, y).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("labels", [LABELS, {view: [0, 1, 2, 3] for view in VIEWS}])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_cross_view_terms_equal_their_definitions(name, labels):
    outputs, y = make_batch(labels)
    term = make_term(name)
    if name == "verification":  # its first weights are so small that every logit is 0
        torch.nn.init.normal_(term.classifier.weight)
        torch.nn.init.constant_(term.classifier.bias, 0.3)
    raw = {view: output.embedding.numpy() for view, output in outputs.items()}
    x = raw if name == "dwdr" else units(outputs)
    couples = (("satellite", "drone"), ("satellite", "street"), ("drone", "street"))
    expected = mean([PAIR_LOSSES[name](x[a], x[b], labels[a], labels[b], term) for a, b in couples])
    assert expected > 0
    assert term(outputs, y).item() == pytest.approx(expected, rel=1e-9)


def test_shared_ground_of_squares():
    a = torch.tensor([[0.0, 0, 100]])
    b = torch.tensor([[0.0, 0, 100], [50, 0, 100], [-50, 50, 100], [100, 0, 100], [10, 10, 50],
                      [500, 0, 100], [40, 0, 60]])  # fmt: skip
    # Shared over the rest: all; 50 x 100 of 15,000; 50 x 50 of 17,500; an edge alone; a small
    # square within a large one; nothing; 40 of 60 x 60 within: 2,400 of 10,000 + 3,600 - 2,400.
    expected = torch.tensor([[1, 1 / 3, 1 / 7, 0, 1 / 4, 0, 2400 / 11200]])
    torch.testing.assert_close(losses.ground_overlap(a, b), expected)
    torch.testing.assert_close(losses.ground_overlap(b, a), expected.T)


def test_overlap_loss_by_hand():
    """Cosines 1, 0 and 0, 1 with exp(s) = log 3 make p 3/4 and 1/4; the images share 1/3."""
    term = make_term("overlap")
    with torch.no_grad():
        term.logit_scale.fill_(math.log(math.log(3)))
    x = torch.eye(2, dtype=torch.float64)
    ground = torch.tensor([[0.0, 0, 100], [50, 0, 100]], dtype=torch.float64)
    outputs = {view: Output(x, x, ground=ground) for view in ("satellite", "drone")}
    labels = {view: torch.tensor([0, 1]) for view in outputs}
    expected = -(3 / 4) * math.log(3 / 4) - (1 / 4) * math.log(1 / 4)  # weights 1 and 1/3
    assert term(outputs, labels).item() == pytest.approx(expected, rel=1e-9)
    apart = {v: y._replace(ground=ground * torch.tensor([9, 1, 1])) for v, y in outputs.items()}
    assert term(apart, labels).item() == pytest.approx(-math.log(3 / 4), rel=1e-9)


def test_overlap_loss_equals_its_definition():
    outputs, labels = make_batch()
    generator = torch.Generator().manual_seed(3)
    ground = {view: 250 * torch.rand(len(y), 3, generator=generator, dtype=torch.float64)
              for view, y in labels.items()}  # fmt: skip
    term, x = make_term("overlap"), units(outputs)
    outputs = {view: y._replace(ground=ground[view]) for view, y in outputs.items()}
    expected, none = [], 0
    for a, b in combinations(VIEWS, 2):
        weight = losses.ground_overlap(ground[a], ground[b]).numpy()
        none += (weight.sum(0) == 0).sum() + (weight.sum(1) == 0).sum()
        expected.append(overlap_loss(x[a], x[b], labels[a], labels[b], term, weight))
    assert none  # an image that shares ground with no other is left out
    assert term(outputs, labels).item() == pytest.approx(mean(expected), rel=1e-9)


def test_every_term_is_tested():
    assert set(TERMS) == {"instance", "weather", *GROUP_LOSSES, *PAIR_LOSSES}


# ---------------------------------------------------------------- gradients
def check_gradients(term, outputs, labels):
    """torch.autograd.gradcheck of the embeddings and of every weight of the term."""
    views = list(outputs)
    embeddings = [outputs[view].embedding.clone().requires_grad_() for view in views]

    def loss(*tensors):
        changed = dict(zip(views, tensors, strict=False))
        return term({v: Output(outputs[v].logits, changed[v]) for v in views}, labels)

    assert torch.autograd.gradcheck(loss, (*embeddings, *term.parameters()), atol=1e-6)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("name", [name for name in GROUP_LOSSES if name != "circle"])
def test_gradients_of_published_terms(name, merge):
    """Published defect 17: the class weights of three losses were in no optimizer."""
    term = make_term(name, loss_merge=merge)
    assert len(list(term.parameters())) == (name in ("arcface", "cosface", "sphere"))
    check_gradients(term, *make_batch())


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradients_of_cross_view_terms(name):
    term = make_term(name)
    assert len(list(term.parameters())) == {"infonce": 1, "overlap": 1, "verification": 2}.get(
        name, 0
    )
    check_gradients(term, *make_batch())


def test_circle_gradient_holds_its_weights_constant():
    outputs, labels = make_batch({"drone": [0, 1, 0, 1, 2]})
    x = F.normalize(outputs["drone"].embedding)
    x = x.requires_grad_()
    make_term("circle").criterion(x, labels["drone"]).backward()

    def with_constant_weights(moved, m=0.25, gamma=32):
        pull, push = 0.0, 0.0
        for i, j in combinations(range(5), 2):
            s, fixed = (moved[i] @ moved[j]).item(), (x[i] @ x[j]).item()
            if labels["drone"][i] == labels["drone"][j]:
                pull += math.exp(-gamma * max(0, 1 + m - fixed) * (s - 1 + m))
            else:
                push += math.exp(gamma * max(0, fixed + m) * (s - m))
        return math.log(1 + pull * push)

    numeric = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = torch.zeros_like(x)
        step[index] = 1e-6
        up, down = with_constant_weights(x + step), with_constant_weights(x - step)
        numeric[index] = (up - down) / 2e-6
    torch.testing.assert_close(x.grad, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["arcface", "cosface", "sphere"])
def test_an_embedding_on_its_class_vector_has_a_finite_gradient(name):
    """acos has none at 1, and the library's would make the whole step NaN."""
    term = make_term(name).float()
    with torch.no_grad():
        term.criterion.W.zero_()[torch.arange(CLASSES), torch.arange(CLASSES)] = 1.0
    x = torch.eye(CLASSES, DIM).requires_grad_()
    term({"drone": Output(x, x)}, {"drone": torch.arange(CLASSES)}).backward()
    assert x.grad.isfinite().all() and term.criterion.W.grad.isfinite().all()


# ---------------------------------------------------------------- what a batch may be
@pytest.mark.parametrize("name", [name for name in TERMS if name not in ("instance", "weather")])
def test_the_order_of_images_and_views_does_not_matter(name):
    outputs, labels = make_batch()
    term = make_term(name, loss_merge=True)
    turned = {view: torch.randperm(len(labels[view])) for view in reversed(VIEWS)}
    shuffled = {
        view: Output(outputs[view].logits[order], outputs[view].embedding[order])
        for view, order in turned.items()
    }
    value = term(shuffled, {view: labels[view][order] for view, order in turned.items()})
    torch.testing.assert_close(value, term(outputs, labels))


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("labels", [{"drone": [0, 1]}, {"drone": [0, 1], "satellite": [2, 3]}])
def test_a_batch_without_a_shared_building_is_zero_with_zero_gradients(name, labels):
    outputs, y = make_batch(labels)
    term = make_term(name)
    for output in outputs.values():
        output.embedding.requires_grad_()
    value = term(outputs, y)
    value.backward()
    leaves = [*term.parameters(), *(output.embedding for output in outputs.values())]
    assert value.item() == 0
    assert all((leaf.grad == 0).all() for leaf in leaves)


@pytest.mark.parametrize("name", ["circle", "contrast", "triplet"])
def test_one_image_of_a_building_per_view_has_pairs_only_when_merged(name):
    """Published defect 18: per-view batches held almost no positive pairs."""
    outputs, labels = make_batch({view: [0, 1, 2] for view in VIEWS})
    far = {view: Output(o.logits, torch.eye(3, DIM).double()) for view, o in outputs.items()}
    for output in far.values():
        output.embedding.requires_grad_()
    value = make_term(name)(far, labels)
    value.backward()  # no positive pair, and the negatives are far enough
    assert value.item() == 0
    assert all((output.embedding.grad == 0).all() for output in far.values())
    assert make_term(name, loss_merge=True)(outputs, labels) > 0


def test_a_view_pair_without_a_shared_building_does_not_dilute_the_mean():
    outputs, labels = make_batch({"satellite": [0, 1], "drone": [0, 1], "street": [2, 3]})
    pair = {view: outputs[view] for view in ("satellite", "drone")}
    term = make_term("infonce")
    torch.testing.assert_close(term(outputs, labels), term(pair, labels))


# ---------------------------------------------------------------- InfoNCE
def test_infonce_of_distinct_buildings_is_smoothed_cross_entropy():
    """Sample4Geo's: both directions of cross-entropy over the batch, smoothing 0.1."""
    outputs, labels = make_batch({"satellite": [3, 0, 2, 1], "drone": [3, 0, 2, 1]})
    a, b = (F.normalize(outputs[view].embedding) for view in ("satellite", "drone"))
    logits, target = a @ b.T / 0.07, torch.arange(4)
    expected = sum(F.cross_entropy(z, target, label_smoothing=0.1) for z in (logits, logits.T)) / 2
    torch.testing.assert_close(make_term("infonce")(outputs, labels), expected, rtol=1e-6, atol=0)


def test_infonce_never_pushes_images_of_one_building_apart():
    """Two drone images of building 0: each is judged as if the other were not there."""
    outputs, labels = make_batch({"satellite": [0, 1], "drone": [0, 0, 1]})
    a, b = (F.normalize(outputs[view].embedding) for view in labels)
    z = a @ b.T / 0.07
    rows = [  # satellite 0 with either drone image, satellite 1
        F.cross_entropy(z[0, [0, 2]][None], torch.tensor([0])),
        F.cross_entropy(z[0, [1, 2]][None], torch.tensor([0])),
        F.cross_entropy(z[1][None], torch.tensor([2])),
    ]
    columns = F.cross_entropy(z.T, torch.tensor([0, 0, 1]))  # each drone image: two satellites
    expected = (sum(rows) / 3 + columns) / 2
    value = make_term("infonce", label_smoothing=0.0)(outputs, labels)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_temperature_starts_published_is_clamped_and_can_fall_again():
    outputs, labels = make_batch({"satellite": [0, 1, 2], "drone": [0, 1, 2]})
    term = make_term("infonce")
    assert term.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        term.logit_scale.fill_(9.0)
    term(outputs, labels).backward()
    assert term.logit_scale.exp().item() == pytest.approx(100)
    assert term.logit_scale.grad != 0


# ---------------------------------------------------------------- numbers
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast_before_it_overflows(dtype):
    """Published defect 20. The squares of numbers about 300 are beyond float16's 65,504."""
    labels = {view: torch.arange(CLASSES) for view in VIEWS}
    half = {
        view: (300 * torch.randn(CLASSES, CLASSES), 300 * torch.randn(CLASSES, 200))
        for view in VIEWS
    }
    half = {view: tuple(x.to(dtype).requires_grad_() for x in pair) for view, pair in half.items()}
    terms = build_losses(dict.fromkeys(TERMS, 1.0), CLASSES, 200, loss_merge=True)
    values = terms(half, labels)
    full = terms({v: Output(a.float(), b.float()) for v, (a, b) in half.items()}, labels)
    assert all(value.dtype == torch.float32 for value in values.values())
    assert all(torch.equal(values[name], full[name]) for name in TERMS)
    sum(values.values()).backward()
    assert all(x.grad.isfinite().all() for pair in half.values() for x in pair)


def test_training_class_weights_and_temperature_lowers_every_loss():
    """The terms' own weights are what an optimizer gets from `parameters()`."""
    outputs, labels = make_batch(dtype=torch.float32)
    names = ("arcface", "cosface", "sphere", "infonce", "verification")
    terms = build_losses(dict.fromkeys(names, 1.0), CLASSES, DIM)
    before = {name: value.item() for name, value in terms(outputs, labels).items()}
    optimizer = torch.optim.SGD(terms.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        sum(terms(outputs, labels).values()).backward()
        optimizer.step()
    after = {name: value.item() for name, value in terms(outputs, labels).items()}
    assert all(after[name] < before[name] for name in names)


# ---------------------------------------------------------------- the terms together
def test_terms_are_weighted_and_named():
    outputs, labels = make_batch(dtype=torch.float32)
    terms = build_losses({"infonce": 0.5, "instance": 2.0, "dwdr": 0.0}, CLASSES, DIM)
    values = terms(outputs, labels)
    assert list(values) == ["instance", "infonce"]
    assert torch.equal(values["infonce"], 0.5 * terms["infonce"](outputs, labels))
    assert torch.equal(values["instance"], 2 * terms["instance"](outputs, labels))
    assert list(terms.state_dict()) == ["infonce.logit_scale"]


def test_terms_survive_a_state_dict():
    outputs, labels = make_batch(dtype=torch.float32)
    weights = dict.fromkeys(TERMS, 1.0)
    terms, others = (build_losses(weights, CLASSES, DIM) for _ in range(2))
    others.load_state_dict(copy.deepcopy(terms.state_dict()))
    first, second = terms(outputs, labels), others(outputs, labels)
    assert all(torch.equal(first[name], second[name]) for name in TERMS)


def test_a_network_without_embeddings_is_told_so():
    assert not build_losses().needs_embedding
    terms = build_losses({"instance": 1.0, "infonce": 1.0})
    assert terms.needs_embedding
    with pytest.raises(ValueError, match="return_f=True"):
        terms({"drone": torch.zeros(2, 3)}, {"drone": torch.tensor([0, 1])})


def test_outputs_are_logits_or_logits_and_embedding():
    logits, embedding = torch.zeros(2, 3), torch.ones(2, 4).half()
    assert as_output(logits).embedding is None
    assert as_output(logits).logits is logits
    assert as_output((logits, embedding)).embedding.dtype == torch.float32
    assert as_output(Output(logits.double(), None)).logits.dtype == torch.float64


def test_other_training_does_not_import_the_metric_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)  # to import it is an error
    spec = importlib.util.spec_from_file_location("losses_alone", losses.__file__)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert len(alone.build_losses({"instance": 1.0, "infonce": 1.0, "circle": 1.0})) == 3


def test_missing_metric_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ValueError, match="arcface .* pip install pytorch-metric-learning"):
        build_losses({"arcface": 1.0}, CLASSES, DIM)


# ---------------------------------------------------------------- --loss_weights
@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("instance=1,infonce=0.5", {"instance": 1.0, "infonce": 0.5}),
        (" triplet = 2 ", {"instance": 1.0, "triplet": 2.0}),
        ("infonce", {"instance": 1.0, "infonce": 1.0}),
        ("instance=0,infonce=1e-1", {"instance": 0.0, "infonce": 0.1}),
    ],
)
def test_loss_weights(text, weights):
    assert parse_loss_weights(text) == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("infonse=1", "there is no loss 'infonse': expected NAME=WEIGHT,..., NAME one of instance"),
        ("", "there is no loss ''"),
        ("infonce=1,", "there is no loss ''"),
        ("infonce=", "the weight '' of infonce is not a number from 0 up"),
        ("infonce=-1", "the weight '-1' of infonce"),
        ("infonce=nan", "the weight 'nan' of infonce"),
        ("infonce=inf", "the weight 'inf' of infonce"),
        ("infonce=1=2", "the weight '1=2' of infonce"),
        ("infonce=1,infonce=2", "gives infonce twice"),
        ("instance=0", "leaves no loss"),
    ],
)
def test_wrong_loss_weights_are_one_line(text, message):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse_loss_weights(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
