"""The networks: one branch per platform, one shared head; `build_model(...)` makes them by name.

Class names, call signatures and state-dict keys are those of University1652-Baseline, so that its
checkpoints load here. Branches start with random weights; `load_backbone` gives them ImageNet's.
"""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from networks.backbones import TIMM, Branch, check_network, make_branch, pooled_dim

# What scripts need of the backbones they find here.
from networks.backbones import check_input_size as check_input_size
from networks.backbones import download_imagenet_weights as download_imagenet_weights
from networks.backbones import ft_net as ft_net
from networks.backbones import ft_net_VGG16 as ft_net_VGG16
from networks.backbones import input_spec as input_spec

# The order of the published three-view network: model_1 satellite, model_2 street, model_3 drone.
THREE_VIEWS = ("satellite", "street", "drone")


# ---------------------------------------------------------------- head
class ClassBlock(nn.Module):
    """Head shared by all views: Linear to the embedding, batch norm, dropout, Linear to classes.

    Feature (B, input_dim) -> logits (B, class_num), or `(logits, embedding)` with `return_f`.
    The embedding (B, num_bottleneck) is what retrieval uses; in training it has seen the dropout.
    """

    def __init__(
        self,
        input_dim,
        class_num,
        droprate,
        relu=False,
        bnorm=True,
        num_bottleneck=512,
        linear=True,
        return_f=False,
    ):
        super().__init__()
        self.return_f = return_f
        block = [nn.Linear(input_dim, num_bottleneck)] if linear else []
        width = num_bottleneck if linear else input_dim
        if bnorm:
            block.append(nn.BatchNorm1d(width))
        if relu:
            block.append(nn.LeakyReLU(0.1))
        if droprate > 0:
            block.append(nn.Dropout(droprate))
        self.add_block = nn.Sequential(*block)
        self.classifier = nn.Sequential(nn.Linear(width, class_num))
        self._initialise()

    def _initialise(self):
        # As published: He et al. 2015 by fan-out for the embedding, near-zero class weights.
        for layer in self.add_block:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm1d):
                nn.init.normal_(layer.weight, 1.0, 0.02)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classifier[0].weight, std=0.001)
        nn.init.zeros_(self.classifier[0].bias)

    def embed(self, x):
        """Pooled feature (B, input_dim) -> embedding (B, num_bottleneck), not normalised."""
        return self.add_block(x)

    def forward(self, x):
        embedding = self.embed(x)
        logits = self.classifier(embedding)
        return (logits, embedding) if self.return_f else logits


# ---------------------------------------------------------------- multi-view networks
def _split(output, parts):
    """Undo `torch.cat(parts)` in the output of a network, a tensor or a tuple of tensors."""
    sizes = [len(part) for part in parts]
    if isinstance(output, tuple):
        return list(zip(*(element.split(sizes) for element in output), strict=True))
    return output.split(sizes)


class _MultiViewNet(nn.Module):
    """Branches `model_1`, `model_2`, ... and one head for all; see the two subclasses.

    `share_weight` makes the last branch the first one; its tensors then stand twice in the state
    dict, as published. The head is `classifier`; with `LPN` it is `classifier0`, `classifier1`,
    ... for the `block` square rings (Wang et al., TCSVT 2021), inner to outer. `usam` makes the
    branches RK-Net's (Lin et al., TIP 2022).

    Attributes:
        parts: parts of an embedding, `block` with `LPN`, else 1.
        input_spec: what the images must be, `backbones.InputSpec`.
    """

    num_branches = 0

    def __init__(
        self,
        class_num,
        droprate,
        stride=2,
        pool="avg",
        share_weight=False,
        VGG16=False,
        LPN=False,
        block=4,
        *,
        backbone="resnet50",
        return_f=False,
        usam=False,
    ):
        super().__init__()
        backbone = "vgg16_bn" if VGG16 else backbone
        check_network(backbone, stride=stride, pool=pool, LPN=LPN, block=block, usam=usam)
        own = (class_num, stride, pool, backbone, block if LPN else None, usam)
        for number in range(1, self.num_branches + 1):
            shared = share_weight and number == self.num_branches
            branch = self.model_1 if shared else make_branch(*own)
            self.add_module(f"model_{number}", branch)
        self.input_spec = self.model_1.input_spec
        width = pooled_dim(self.model_1.channels, pool)
        self.heads = [f"classifier{part}" for part in range(block)] if LPN else ["classifier"]
        self.parts, self.LPN, self.return_f = len(self.heads), LPN, return_f
        for name in self.heads:
            self.add_module(name, ClassBlock(width, class_num, droprate, return_f=return_f))

    def _classify(self, branches, inputs):
        """Outputs for inputs (B, 3, H, W) or None, each through its branch and then the head.

        Views of one branch go through it as one batch, and all views through the head as one:
        batch norm is then trained on the mixture of views that its running statistics, used in
        testing, describe. (The published code normalises each view by itself in training.)
        """
        present = [(branch, x) for branch, x in zip(branches, inputs, strict=True) if x is not None]
        pooled = [None] * len(present)
        for key in dict.fromkeys((branch, x.shape[1:]) for branch, x in present):
            members = [n for n, (branch, x) in enumerate(present) if (branch, x.shape[1:]) == key]
            batch = [present[n][1] for n in members]
            output = self._branch_output(key[0], torch.cat(batch))
            for n, part in zip(members, _split(output, batch), strict=True):
                pooled[n] = part
        outputs = iter(self._outputs(pooled) if pooled else ())
        return tuple(None if x is None else next(outputs) for x in inputs)

    def _feature_map(self, branch, images):
        """Images (B, 3, H, W) -> the feature map (B, C, H', W') of a branch."""
        return branch.feature_map(images)

    def _branch_output(self, branch, images):
        """Images (B, 3, H, W) of a branch -> what `_outputs` needs of them, pooled (B, D)."""
        return branch.pooled(self._feature_map(branch, images))

    def _outputs(self, pooled):
        """Pooled features (B, D) of each view -> the output of each view."""
        return _split(self._head(torch.cat(pooled)), pooled)

    def _head(self, pooled):
        """Pooled features -> the output described at `two_view_net`."""
        if not self.LPN:
            return self.classifier(pooled)
        heads = [getattr(self, name) for name in self.heads]
        outputs = [head(pooled[:, :, part]) for part, head in enumerate(heads)]
        if not self.return_f:
            return torch.stack(outputs, dim=2)  # (B, class_num, block)
        logits, embeddings = zip(*outputs, strict=True)
        return torch.stack(logits, dim=2), torch.stack(embeddings, dim=2).flatten(1)

    def embed(self, images, branch):
        """Images (B, 3, H, W) of branch number 1, 2 (or 3) -> embedding (B, 512 * parts).

        Embeddings of an image's versions are added, then `finish` makes the feature of the sum.
        With `LPN` number c of part p stands at c * parts + p, as in published feature files. The
        images take the type of the branch's first weights (see `inference_copy`); pooling and head
        keep their own.
        """
        branch = getattr(self, f"model_{branch}")
        features = self._feature_map(branch, images.to(next(branch.parameters()).dtype))
        pooled = branch.pooled(features.float())
        if not self.LPN:
            return self.classifier.embed(pooled)
        heads = [getattr(self, name) for name in self.heads]
        embedded = [head.embed(pooled[:, :, part]) for part, head in enumerate(heads)]
        return torch.stack(embedded, dim=2).flatten(1)  # (B, 512, block) flattened

    def finish(self, embedding):
        """Embeddings, or sums of them, (B, 512 * parts) -> features of length 1, the same shape.

        Each part is divided by its own length, and all by sqrt(parts), as published for LPN.
        """
        parts = F.normalize(embedding.unflatten(1, (-1, self.parts)), dim=1)
        return parts.flatten(1) / self.parts**0.5


class two_view_net(_MultiViewNet):
    """Two branches, one head: `net(x1, x2) -> (y1, y2)`; `None` in gives `None` out.

    `y` is the logits (B, class_num), with `LPN` those of each part (B, class_num, block), in
    evaluation too (see `predicted_classes`). With `return_f` it is `(logits, embedding)`, the
    embedding (B, 512 * parts) as of `embed`. `share_weight` makes both branches one.
    """

    num_branches = 2

    def forward(self, x1, x2):
        return self._classify((self.model_1, self.model_2), (x1, x2))


class three_view_net(_MultiViewNet):
    """Three branches, one head: `net(x1, x2, x3, x4=None) -> (y1, y2, y3[, y4])`.

    x1 satellite, x2 street, x3 drone, x4 more street-like images through the street branch.
    `share_weight` makes the satellite and drone branches one, as published.
    """

    num_branches = 3

    def forward(self, x1, x2, x3, x4=None):
        branches = (self.model_1, self.model_2, self.model_3, self.model_2)
        outputs = self._classify(branches, (x1, x2, x3, x4))
        return outputs[:3] if x4 is None else outputs


def predicted_classes(logits):
    """The class (B,) int64 of logits (B, C), or of LPN's (B, C, parts).

    Of parts it is the class whose probabilities have the highest sum, as published.
    """
    return logits.argmax(1) if logits.ndim == 2 else logits.softmax(1).sum(2).argmax(1)


def split_parameters(network):
    """(head, backbone): the parameters of the classifiers, and those of all branches, two lists.

    The head learns from scratch, so it usually learns faster; GeM and USAM count to the backbone,
    as published, and so does the backbone of MuSe-Net's style network, not what it adds to it.
    """
    groups = [], []
    for name, parameter in network.named_parameters():
        groups[name.startswith(("model_", "pt_model.model."))].append(parameter)
    return groups


# ---------------------------------------------------------------- builders
def branch_numbers(view_names, extra_google=False):
    """View name -> branch number: ("satellite", "drone") -> {"satellite": 1, "drone": 2}.

    `google`, as an addition to three views, goes through the street branch (number 2).
    """
    numbers = {view: number for number, view in enumerate(view_names, start=1)}
    if extra_google:
        numbers["google"] = numbers["street"]
    return numbers


def build_model(
    class_num,
    view_names=("satellite", "drone"),
    *,
    backbone="resnet50",
    droprate=0.5,
    stride=2,
    pool="avg",
    share=False,
    return_f=False,
    LPN=False,
    block=4,
    usam=False,
    networks=(two_view_net, three_view_net),
    **own,
):
    """The network for two views of any name, or for satellite, street and drone.

    `networks` are the classes for two and for three views, `own` what these alone understand.
    """
    if len(view_names) == 3 and tuple(view_names) != THREE_VIEWS:
        raise ValueError(f"three views must be {','.join(THREE_VIEWS)}, not {','.join(view_names)}")
    if len(view_names) not in (2, 3):
        raise ValueError(f"{len(view_names)} views given: expected two or three")
    return networks[len(view_names) - 2](
        class_num,
        droprate,
        stride,
        pool,
        share,
        LPN=LPN,
        block=block,
        backbone=backbone,
        return_f=return_f,
        usam=usam,
        **own,
    )


def views_from_opts(opts):
    """View names and the extra-google switch of a run's options, ours or the published ones.

    Published run folders name no views: their 2 is satellite + street, their 3 adds the drone.
    """
    views = opts.get("view_names")
    if views is None and opts.get("views") in (2, 3):
        views = THREE_VIEWS[: opts["views"]]
    if not isinstance(views, (list, tuple)) or not all(isinstance(view, str) for view in views):
        raise ValueError(
            f"opts.yaml has views: {opts.get('views')!r} and view_names: {views!r}: expected "
            "`views: 2` or `views: 3`, or a list of view names"
        )
    return tuple(views), bool(opts.get("extra_Google", False)) and len(views) == 3


def model_from_opts(opts, weights=(), **own):
    """Rebuild a trained network from the options of its run folder (a dict, see utils.read_opts).

    Understands our run folders and those of University1652-Baseline, LPN and RK-Net; keys that
    older files lack have the published defaults. `weights` is the run's state dict, or its keys:
    a published RK-Net run says in them alone that it is one. `own` goes to `build_model`. Raises
    ValueError where an option has no meaning here.
    """
    for name in ("PCB", "use_dense", "use_NAS"):
        if opts.get(name):
            raise ValueError(f"opts.yaml says {name}: true, a network this project does not have")
    view_names, _ = views_from_opts(opts)
    LPN = bool(opts.get("LPN", False))
    if LPN and "view_names" not in opts and len(view_names) == 2:
        raise ValueError(
            "opts.yaml says LPN: true and views: 2, the published network for panoramas, which "
            "cuts the street view into strips: this project has the square rings alone"
        )
    return build_model(
        _option(opts, "nclasses", int, None),
        view_names,
        backbone=_option(
            opts, "backbone", str, "vgg16_bn" if opts.get("use_vgg16") else "resnet50"
        ),
        droprate=float(_option(opts, "droprate", (int, float), 0.5)),
        stride=_option(opts, "stride", int, 2),
        pool=_option(opts, "pool", str, "avg"),
        share=bool(opts.get("share", False)),
        LPN=LPN,
        block=_option(opts, "block", int, 4),
        usam=bool(opts.get("usam", False)) or any(".usam_1." in key for key in weights),
        **own,
    )


def input_size_from_opts(opts):
    """(height, width) in pixels of a run's options; 256 where an older file names none."""
    return _option(opts, "h", int, 256), _option(opts, "w", int, 256)


def _option(opts, name, kind, default):
    value = opts.get(name, default)
    if not isinstance(value, kind) or (kind is int and value < 1):
        raise ValueError(f"opts.yaml has {name}: {value!r}, which no run writes: restore the file")
    return value


# ---------------------------------------------------------------- inference
def branches_of(network):
    """The different branches of a multi-view network; a shared one comes once."""
    return [module for module in network.modules() if isinstance(module, Branch)]


def imagenet_classifiers(network):
    """The modules that published files hold beyond the last feature map, and nothing uses."""
    return [getattr(branch.model, n) for branch in branches_of(network) for n in branch.unused]


def fold_batch_norm(network):
    """Fold every batch norm into the convolution or linear layer before it, in place.

    In testing batch norm is a fixed scale and shift per channel, which the weights before it can
    carry. "Before" is the order in which a module registered its children, which is the order of
    use in all networks here but timm's: those, and USAM's single channel, keep theirs. Expects
    float32 and evaluation mode; training needs the original.
    """
    foreign = {
        id(module)
        for branch in branches_of(network)
        if not branch.foldable
        for module in branch.modules()
    }
    folds = {
        nn.Conv2d: (fuse_conv_bn_eval, (nn.BatchNorm2d, nn.SyncBatchNorm)),
        nn.Linear: (fuse_linear_bn_eval, (nn.BatchNorm1d, nn.SyncBatchNorm)),
    }
    for parent in list(network.modules()):  # a shared branch comes once
        if id(parent) in foreign:
            continue
        for (name, layer), (norm_name, norm) in pairwise(list(parent.named_children())):
            fuse, norms = folds.get(type(layer), (None, ()))
            if isinstance(norm, norms):
                setattr(parent, name, fuse(layer, norm))
                setattr(parent, norm_name, nn.Identity())
    return network


def inference_copy(network, dtype=torch.float32):
    """A copy for `embed`: evaluation mode, batch norm folded, channels last; the original stays.

    `dtype` is that of the backbones up to their last feature map, float16 and bfloat16 included;
    USAM's attention, pooling, head and embedding stay float32. Weights that are already in half
    precision are faster than autocast, which converts them for every batch, and a little more
    exact.
    """
    unused = {id(module): module for module in imagenet_classifiers(network)}  # not copied
    folded = fold_batch_norm(copy.deepcopy(network, unused).eval())
    for branch in branches_of(folded):
        kept = {*branch.unused, *branch.after_map, "gem2"}
        for name, child in branch.model.named_children():
            if name not in kept:
                child.to(dtype)
        for own in branch.model.parameters(recurse=False):  # a ViT's class token
            own.data = own.data.to(dtype)
    return folded.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------- ImageNet weights
def load_backbone(network, state, source):
    """Load a backbone's state dict, torchvision's or timm's, into every branch of a network.

    The ImageNet classifier and batch norm's counters (older files have none) may be absent from
    `state`; everything else must fit. `source` names the file in the ValueError.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{source} holds a {type(state).__name__}, expected a state dict")
    for branch in branches_of(network):
        own = branch.model.state_dict()
        unused = tuple(f"{name}." for name in (*branch.unused, "gem2"))
        wrong = [
            key
            for key, value in own.items()
            if not key.startswith(unused)
            and not key.endswith("num_batches_tracked")
            and getattr(state.get(key), "shape", None) != value.shape
        ]
        if wrong:
            raise ValueError(
                f"{source} does not fit the backbone: {len(wrong)} of {len(own)} entries are "
                f"missing or of another shape, first {wrong[0]}; expected the state dict of "
                f"{'' if branch.backbone.startswith(TIMM) else 'torchvision network '}"
                f"{branch.backbone}, named by --backbone"
            )
        fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
        branch.model.load_state_dict(fitting, strict=False)
