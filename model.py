"""The networks: one branch per platform, one shared head; `build_model(...)` makes them by name.

Class names, call signatures and state-dict keys are those of University1652-Baseline, so that its
checkpoints load here. Branches start with random weights; `load_backbone` gives them ImageNet's.
"""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torchvision import models

BACKBONES = {  # name: (torchvision builder, torchvision weights, channels of the last feature map)
    "resnet18": (models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1, 512),
    "resnet50": (models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1, 2048),
    "vgg16_bn": (models.vgg16_bn, models.VGG16_BN_Weights.IMAGENET1K_V1, 512),
}
POOLS = ("avg", "max", "avg+max", "gem")
# The order of the published three-view network: model_1 satellite, model_2 street, model_3 drone.
THREE_VIEWS = ("satellite", "street", "drone")


# ---------------------------------------------------------------- pooling
class GeM(nn.Module):
    """Generalised-mean pooling, a trained exponent per channel (Radenovic et al., TPAMI 2019).

    y_c = (mean over positions of max(x_c, eps)^p_c)^(1/p_c), eq. 3; p = 1 is the average,
    p -> infinity the maximum. (B, C, H, W) -> (B, C).
    """

    def __init__(self, dim, p=3.0, eps=1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.full((dim,), float(p)))  # (C,)
        self.eps = eps

    def forward(self, x):
        # float32: x^p overflows half precision already at x = 41 with p = 3.
        p = self.p.float()
        powered = x.float().clamp(min=self.eps).pow(p[:, None, None])  # (B, C, H, W)
        return powered.mean(dim=(2, 3)).pow(1 / p)  # (B, C)


def check_pool(pool):
    """Raise ValueError unless `pool` is one of POOLS."""
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r} is unknown: expected one of {', '.join(POOLS)}")


def pooled_dim(channels, pool):
    """Length of the pooled feature of a map with `channels` channels."""
    return 2 * channels if pool == "avg+max" else channels


# ---------------------------------------------------------------- branches
class _Branch(nn.Module):
    """A torchvision backbone up to its last feature map, then one global pooling.

    The ImageNet classifier stays in the state dict, unused and so without gradients, because the
    published files hold it.
    """

    def __init__(self, backbone, pool, init_model):
        super().__init__()
        if init_model is not None:
            self.model, self.pool = init_model.model, init_model.pool
            return
        check_pool(pool)
        builder, _, channels = BACKBONES[backbone]
        self.model = builder()
        for unused in imagenet_classifiers(self):
            unused.requires_grad_(False)
        self.pool = pool
        if pool == "gem":
            self.model.gem2 = GeM(channels)

    def feature_map(self, x):
        """(B, 3, H, W) -> (B, C, H', W')."""
        raise NotImplementedError

    def forward(self, x):
        """Images (B, 3, H, W) float -> pooled feature (B, D) float."""
        return self.pooled(self.feature_map(x))

    def pooled(self, x):
        """Feature map (B, C, H', W') -> pooled feature (B, D)."""
        if self.pool == "gem":
            return self.model.gem2(x)
        if self.pool == "avg":
            return x.mean(dim=(2, 3))
        if self.pool == "max":
            return x.amax(dim=(2, 3))
        return torch.cat((x.mean(dim=(2, 3)), x.amax(dim=(2, 3))), dim=1)


class ft_net(_Branch):
    """ResNet branch: images (B, 3, H, W) -> pooled feature (B, 2048), or 4096 with `avg+max`.

    `stride` is that of the last stage (2 as in ImageNet, or 1: a map twice as fine). `class_num`
    and `droprate` are part of the published signature; the head that uses them belongs to the
    multi-view networks. `init_model` shares another branch's backbone and pooling.
    """

    def __init__(
        self, class_num, droprate=0.5, stride=2, init_model=None, pool="avg", *, backbone="resnet50"
    ):
        super().__init__(backbone, pool, init_model)
        if stride not in (1, 2):
            raise ValueError(f"stride {stride} is not possible: expected 1 or 2")
        if stride == 1 and init_model is None:
            block = self.model.layer4[0]
            # The 3x3 convolution that halves the map is the second one in a bottleneck block.
            (block.conv2 if hasattr(block, "conv3") else block.conv1).stride = (1, 1)
            block.downsample[0].stride = (1, 1)

    def feature_map(self, x):
        net = self.model
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))  # (B, 64, H/4, W/4)
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))  # (B, C, H/32, W/32)


class ft_net_VGG16(_Branch):
    """VGG16-bn branch: images (B, 3, H, W) -> pooled feature (B, 512), or 1024 with `avg+max`.

    The map is H/32 x W/32. `stride` is part of the published signature; a VGG has no last stage
    whose stride could be changed.
    """

    def __init__(self, class_num, droprate=0.5, stride=2, init_model=None, pool="avg"):
        super().__init__("vgg16_bn", pool, init_model)

    def feature_map(self, x):
        return self.model.features(x)


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
def _make_branch(class_num, stride, pool, backbone):
    if backbone == "vgg16_bn":
        return ft_net_VGG16(class_num, stride=stride, pool=pool)
    return ft_net(class_num, stride=stride, pool=pool, backbone=backbone)


def _split(output, parts):
    """Undo `torch.cat(parts)` in the output of a network, a tensor or a tuple of tensors."""
    sizes = [len(part) for part in parts]
    if isinstance(output, tuple):
        return list(zip(*(element.split(sizes) for element in output), strict=True))
    return output.split(sizes)


class _MultiViewNet(nn.Module):
    """Branches `model_1`, `model_2`, ... and one `classifier`; see the two subclasses.

    `share_weight` makes the last branch the first one; its tensors then stand twice in the state
    dict, as published.
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
        *,
        backbone="resnet50",
        return_f=False,
    ):
        super().__init__()
        backbone = "vgg16_bn" if VGG16 else backbone
        for number in range(1, self.num_branches + 1):
            shared = share_weight and number == self.num_branches
            branch = self.model_1 if shared else _make_branch(class_num, stride, pool, backbone)
            self.add_module(f"model_{number}", branch)
        width = pooled_dim(BACKBONES[backbone][2], pool)
        self.classifier = ClassBlock(width, class_num, droprate, return_f=return_f)

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
            for n, part in zip(members, _split(key[0](torch.cat(batch)), batch), strict=True):
                pooled[n] = part  # (B, D)
        outputs = iter(_split(self.classifier(torch.cat(pooled)), pooled) if pooled else ())
        return tuple(None if x is None else next(outputs) for x in inputs)

    def embed(self, images, branch):
        """Images (B, 3, H, W) of branch number 1, 2 (or 3) -> embedding (B, 512).

        The images take the type of the branch's convolutions (see `inference_copy`); pooling and
        head keep their own.
        """
        branch = getattr(self, f"model_{branch}")
        features = branch.feature_map(images.to(next(branch.parameters()).dtype))
        return self.classifier.embed(branch.pooled(features.float()))


class two_view_net(_MultiViewNet):
    """Two branches, one head: `net(x1, x2) -> (y1, y2)`; `None` in gives `None` out.

    `y` is the logits (B, class_num), or `(logits, embedding)` with `return_f`. `share_weight`
    makes both branches one.
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
):
    """The network for two views of any name, or for satellite, street and drone."""
    if len(view_names) == 3 and tuple(view_names) != THREE_VIEWS:
        raise ValueError(f"three views must be {','.join(THREE_VIEWS)}, not {','.join(view_names)}")
    if len(view_names) not in (2, 3):
        raise ValueError(f"{len(view_names)} views given: expected two or three")
    if backbone not in BACKBONES:
        raise ValueError(f"backbone {backbone!r} is unknown: expected {', '.join(BACKBONES)}")
    network = two_view_net if len(view_names) == 2 else three_view_net
    return network(class_num, droprate, stride, pool, share, backbone=backbone, return_f=return_f)


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


def model_from_opts(opts):
    """Rebuild a trained network from the options of its run folder (a dict, see utils.read_opts).

    Understands our run folders and those of University1652-Baseline; keys that older files lack
    have the published defaults. Raises ValueError where an option has no meaning here.
    """
    for name in ("LPN", "PCB", "use_dense", "use_NAS"):
        if opts.get(name):
            raise ValueError(f"opts.yaml says {name}: true, a network this project does not have")
    view_names, _ = views_from_opts(opts)
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
def imagenet_classifiers(network):
    """The modules that torchvision's backbones hold beyond their last feature map."""
    names = ("fc", "classifier")  # of ResNets, of VGG
    holders = [module.model for module in network.modules() if isinstance(module, _Branch)]
    return [getattr(holder, name) for holder in holders for name in names if hasattr(holder, name)]


def fold_batch_norm(network):
    """Fold every batch norm into the convolution or linear layer before it, in place.

    In testing batch norm is a fixed scale and shift per channel, which the weights before it can
    carry. "Before" is the order in which a module registered its children, which is the order of
    use in all networks here. Expects float32 and evaluation mode; training needs the original.
    """
    folds = {
        nn.Conv2d: (fuse_conv_bn_eval, (nn.BatchNorm2d, nn.SyncBatchNorm)),
        nn.Linear: (fuse_linear_bn_eval, (nn.BatchNorm1d, nn.SyncBatchNorm)),
    }
    for parent in list(network.modules()):  # a shared branch comes once
        for (name, layer), (norm_name, norm) in pairwise(list(parent.named_children())):
            fuse, norms = folds.get(type(layer), (None, ()))
            if isinstance(norm, norms):
                setattr(parent, name, fuse(layer, norm))
                setattr(parent, norm_name, nn.Identity())
    return network


def inference_copy(network, dtype=torch.float32):
    """A copy for `embed`: evaluation mode, batch norm folded, channels last; the original stays.

    `dtype` is that of the convolutions, float16 and bfloat16 included; pooling, head and embedding
    stay float32. Weights that are already in half precision are faster than autocast, which
    converts them for every batch, and a little more exact.
    """
    unused = {id(module): module for module in imagenet_classifiers(network)}  # not copied
    folded = fold_batch_norm(copy.deepcopy(network, unused).eval())
    for layer in folded.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(dtype)
    return folded.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------- ImageNet weights
def download_imagenet_weights(backbone):
    """State dict of torchvision's ImageNet weights (cached by torch.hub after the first time).

    Raises OSError that names the two ways on where the download is not possible.
    """
    weights = BACKBONES[backbone][1]
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no route, a proxy's page, or a damaged file
        raise OSError(
            f"the ImageNet weights of {backbone} cannot be downloaded ({error}): fetch "
            f"{weights.url} on another machine and pass it as --weights FILE, or train from "
            "random weights with --no_pretrained"
        ) from None


def load_backbone(network, state, source):
    """Load a torchvision backbone's state dict into every branch of a multi-view network.

    The ImageNet classifier and batch norm's counters (older files have none) may be absent from
    `state`; everything else must fit. `source` names the file in the ValueError.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{source} holds a {type(state).__name__}, expected a state dict")
    for name, branch in network.named_children():
        if not name.startswith("model_"):
            continue
        own = branch.model.state_dict()
        unused = ("fc.", "classifier.", "gem2.")
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
                f"missing or of another shape, first {wrong[0]}; expected the state dict of the "
                "torchvision network named by --backbone"
            )
        fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
        branch.model.load_state_dict(fitting, strict=False)
