"""MuSe-Net: networks that adapt to the weather in an image (Wang et al., Pattern Recognition 2024).

Its style network, a ResNet up to its second stage, looks at the image first. From what it finds
come the weather, as logits of WEATHERS classes, and maps that scale and shift the
instance-normalised channels of the main network, place by place. Both parts are defined in the
published code, wtyhub/MuseNet, with a ResNet-50; ResNet-18 and 101 are this project's addition,
made by the same rules. `build_model`, `model_from_opts` and `load_backbone` are those of model.py
with these networks added.
"""

import re
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

import model
from networks.backbones import Branch

WEATHERS = 11  # 0 none, a satellite image; 1 to 10 the conditions of weather.CONDITIONS
STAGES = {"resnet18": (2, 2), "resnet50": (3, 4), "resnet101": (3, 4)}  # blocks of layer1, layer2
IBN_URL = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/"
IBN_FILES = {
    "resnet18": "resnet18_ibn_a-2f571257.pth",
    "resnet50": "resnet50_ibn_a-d9d0bb7b.pth",
    "resnet101": "resnet101_ibn_a-59ea0ac6.pth",
}


# ---------------------------------------------------------------- options
def modulated_blocks(backbone, btnk=None):
    """The blocks that are modulated, [(stage, number)] with stage 1 or 2 and number from 0.

    `btnk` is a 0 or 1 for each block of layer1, then of layer2, as in the published `--btnk`. None
    means the blocks of layer1 but its first, which is the published 0 1 1 0 0 0 0 of a ResNet-50.
    Raises ValueError where the backbone is no ResNet of STAGES or `btnk` does not fit it.
    """
    if backbone not in STAGES:
        raise ValueError(
            f"--musenet changes the blocks of a ResNet, and {backbone} is none it knows: choose "
            f"--backbone {', '.join(STAGES)}"
        )
    first, second = STAGES[backbone]
    blocks = [(1, number) for number in range(first)] + [(2, number) for number in range(second)]
    if btnk is None:
        return blocks[1:first]
    fits = isinstance(btnk, (list, tuple)) and len(btnk) == len(blocks)
    if not fits or not all(switch in (0, 1) for switch in btnk) or not any(btnk):
        raise ValueError(
            f"btnk {btnk!r} does not fit {backbone}: expected {len(blocks)} numbers 0 or 1, for "
            f"{first} blocks of layer1 and {second} of layer2, one of them 1 at least"
        )
    return [block for block, switch in zip(blocks, btnk, strict=True) if switch]


# ---------------------------------------------------------------- IBN-a
class IBN(nn.Module):
    """Instance norm of the first half of the channels, batch norm of the second half.

    Pan et al., Two at Once, ECCV 2018 (IBN-Net). With `modulation` = (g, b), each (B, C / 2, H, W),
    the first half is IN(x) (1 + g) + b, as in MuSe-Net. (B, C, H, W) -> the same.
    """

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        # Instance norm is group norm with one channel a group, which is faster on channels-last
        # maps and, unlike torch's instance norm, takes an empty batch.
        self.IN = nn.GroupNorm(half, half)
        self.BN = nn.BatchNorm2d(channels - half)

    def forward(self, x, modulation=None):
        first, second = x.split((self.IN.num_channels, self.BN.num_features), dim=1)
        # Cloned, because norms of every other half pixel are several times slower.
        first = self.IN(first.clone()).to(x.dtype)  # autocast makes it float32
        if modulation is not None:
            scale, shift = modulation
            first = torch.addcmul(first + shift, first, scale)
        return torch.cat((first, self.BN(second.clone())), dim=1)


def add_instance_norm(branch):
    """Make a ResNet branch IBN-a, in place: `bn1` of every block of the first three stages."""
    for layer in (branch.model.layer1, branch.model.layer2, branch.model.layer3):
        for block in layer:
            block.bn1 = IBN(block.bn1.num_features)


def is_ibn(branch):
    """Whether a branch has been made IBN-a."""
    return any(isinstance(module, IBN) for module in branch.modules())


def ibn_state(state):
    """A ResNet's state dict for its IBN-a form: halves of a batch norm go to the norms of IBN.

    Instance norm takes over scale and shift of its channels and has no running statistics. A rule
    of this project: IBN-Net's authors train on ImageNet from random weights (`IBN_FILES`).
    """
    converted = {}
    for key, value in state.items():
        match = re.fullmatch(r"(layer[123]\.\d+\.bn1)\.(\w+)", key)
        if not match:
            converted[key] = value
            continue
        name, part = match.groups()
        half = len(value) // 2 if value.ndim else 0  # num_batches_tracked is a number
        converted[f"{name}.BN.{part}"] = value[half:] if half else value
        if part in ("weight", "bias"):
            converted[f"{name}.IN.{part}"] = value[:half]
    return converted


# ---------------------------------------------------------------- style
def doubled_convolution(x, weight, bias):
    """3 x 3 convolution, zeros outside, of a map enlarged twofold by repeating its positions.

    (B, C, H, W) -> (B, O, 2 H, 2 W). An output sees 2 x 2 positions of `x` and each of them up to
    four times, so it is computed as a transposed convolution with those weights added up: 16 / 36
    of the work, and the enlarged map is never made.
    """
    flipped = weight.flip(2, 3)
    shifts = [(0, 1, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0)]
    kernel = sum(F.pad(flipped, shift) for shift in shifts)  # (O, C, 4, 4)
    kernel = kernel.transpose(0, 1).to(x.dtype)
    return F.conv_transpose2d(x, kernel, bias.to(x.dtype), stride=2, padding=1)


class StyleNetwork(Branch):
    """What the weather looks like: the published `pt_model`.

    A ResNet's stem, layer1 and layer2, whose last block has no ReLU at all, gives the style
    features, (B, C, H/8, W/8). For each modulated block two 3 x 3 convolutions make its scale and
    shift maps of them, `layer1_2_w` and `layer1_2_b` for block 2 of layer1; and average pooling,
    batch norm, dropout and one linear layer the logits of the weather.
    """

    def __init__(self, backbone, btnk=None):
        blocks = modulated_blocks(backbone, btnk)
        super().__init__(backbone, "avg", None)
        self.blocks = blocks
        for stage, number in self.blocks:
            for part in "wb":
                convolution = nn.Conv2d(self.channels, 32 * stage, kernel_size=3)
                nn.init.normal_(convolution.weight, std=0.001)
                nn.init.zeros_(convolution.bias)
                self.add_module(f"layer{stage}_{number}_{part}", convolution)
        self.classifier = nn.Sequential(
            nn.BatchNorm1d(self.channels), nn.Dropout(0.5), nn.Linear(self.channels, WEATHERS)
        )
        nn.init.normal_(self.classifier[0].weight, 1.0, 0.02)
        nn.init.normal_(self.classifier[2].weight, std=0.001)
        nn.init.zeros_(self.classifier[2].bias)

    @staticmethod
    def build(backbone):
        net, channels = Branch.build(backbone)
        del net.layer3, net.layer4, net.avgpool, net.fc
        net.layer2[-1].relu = nn.Identity()
        return net, channels // 4  # every stage doubles them

    def feature_map(self, x):
        net = self.model
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return net.layer2(net.layer1(x))

    def weather(self, style):
        """Style features (B, C, H', W') -> logits of the weather (B, WEATHERS)."""
        return self.classifier(style.mean(dim=(2, 3)))

    def modulation(self, style, stage, number, size):
        """Scale and shift maps (B, 32 * stage, *size) of a block, from the style features.

        Maps of twice the features' size are convolutions of the features repeated twofold, as
        published; with an odd side, where the published code fails, what stands out is cut off.
        """
        scale, shift = (getattr(self, f"layer{stage}_{number}_{part}") for part in "wb")
        weight, bias = torch.cat((scale.weight, shift.weight)), torch.cat((scale.bias, shift.bias))
        if style.shape[-2:] == size:
            maps = F.conv2d(style, weight.to(style.dtype), bias.to(style.dtype), padding=1)
        else:
            maps = doubled_convolution(style, weight, bias)[..., : size[0], : size[1]]
        return maps.chunk(2, dim=1)


# ---------------------------------------------------------------- networks
def modulated_block(block, x, modulation):
    """A block of a ResNet with `modulation(size)` = (scale, shift) for its IBN; its own forward."""
    out = block.conv1(x)
    out = block.relu(block.bn1(out, modulation(out.shape[-2:])))
    out = block.bn2(block.conv2(out))
    if hasattr(block, "conv3"):
        out = block.bn3(block.conv3(block.relu(out)))
    identity = x if block.downsample is None else block.downsample(x)
    return block.relu(out + identity)


class _MuSeNet(model._MultiViewNet):
    """MuSe-Net of several views; see the two subclasses, and theirs in model.py.

    The first and the last branch, satellite and drone, are adaptive: IBN-a, modulated by the one
    style network `pt_model`. With `share_weight`, as published, they are one. With
    `return_weather` an output is `(logits, embedding, weather)`: the embedding None without
    `return_f`, the weather logits (B, WEATHERS), None of a plain branch. Without, their layer is
    not trained. `btnk`: see `modulated_blocks`.
    """

    def __init__(
        self, *plain, backbone="resnet50", usam=False, btnk=None, return_weather=False, **options
    ):
        # Refuses what does not fit before anything is built.
        modulated_blocks("vgg16_bn" if options.get("VGG16") else backbone, btnk)
        if usam:
            raise ValueError("--musenet and --usam are two networks: choose one")
        super().__init__(*plain, backbone=backbone, **options)
        for branch in dict.fromkeys(self.adaptive):
            add_instance_norm(branch)
        self.pt_model = StyleNetwork(backbone, btnk)
        self.return_weather = return_weather
        self.pt_model.classifier.requires_grad_(return_weather)

    @property
    def adaptive(self):
        """The adaptive branches, which are one with `share_weight`."""
        return self.model_1, getattr(self, f"model_{self.num_branches}")

    def _adapted_map(self, branch, images, style):
        """Images and their style features -> the feature map of an adaptive branch."""
        net = branch.model
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        for stage, layer in enumerate((net.layer1, net.layer2), start=1):
            for number, block in enumerate(layer):
                if (stage, number) in self.pt_model.blocks:
                    x = modulated_block(
                        block, x, partial(self.pt_model.modulation, style, stage, number)
                    )
                else:
                    x = block(x)
        return net.layer4(net.layer3(x))

    def _feature_map(self, branch, images):
        if branch not in self.adaptive:
            return super()._feature_map(branch, images)
        return self._adapted_map(branch, images, self.pt_model.feature_map(images))

    def _branch_output(self, branch, images):
        if not self.return_weather or branch not in self.adaptive:
            return super()._branch_output(branch, images)
        style = self.pt_model.feature_map(images)
        pooled = branch.pooled(self._adapted_map(branch, images, style))
        return pooled, self.pt_model.weather(style)

    def _outputs(self, pooled):
        if not self.return_weather:
            return super()._outputs(pooled)
        pairs = [each if isinstance(each, tuple) else (each, None) for each in pooled]
        outputs = super()._outputs([features for features, _ in pairs])
        return [
            (*(output if self.return_f else (output, None)), weather)
            for output, (_, weather) in zip(outputs, pairs, strict=True)
        ]


class muse_two_view_net(_MuSeNet, model.two_view_net):
    """`model.two_view_net` with two adaptive branches."""


class muse_three_view_net(_MuSeNet, model.three_view_net):
    """`model.three_view_net` with adaptive branches for satellite and drone; street is plain."""


# ---------------------------------------------------------------- builders
def build_model(class_num, view_names=("satellite", "drone"), **options):
    """`model.build_model` of a MuSe-Net, with `btnk` and `return_weather` as options of its own."""
    networks = (muse_two_view_net, muse_three_view_net)
    return model.build_model(class_num, view_names, networks=networks, **options)


def model_from_opts(opts, weights=()):
    """`model.model_from_opts`, for runs of this project's --musenet and published ones too.

    A published MuSe-Net says `norm: spade` in its opts.yaml.
    """
    norm, conv_norm = opts.get("norm", "bn"), opts.get("conv_norm", "none")
    if norm not in ("bn", "spade") or conv_norm != "none":
        raise ValueError(
            f"opts.yaml says norm: {norm} and conv_norm: {conv_norm}, a network this project does "
            "not have: of MuSe-Net's code it has norm: spade with conv_norm: none"
        )
    if not opts.get("musenet") and norm != "spade":
        return model.model_from_opts(opts, weights)
    networks = (muse_two_view_net, muse_three_view_net)
    return model.model_from_opts(opts, weights, networks=networks, btnk=opts.get("btnk"))


# ---------------------------------------------------------------- weights
def load_backbone(network, state, source, state_ibn=None, source_ibn=None):
    """`model.load_backbone` for networks of both kinds; ValueError where a state does not fit.

    IBN-a branches take `state_ibn`, the weights of `IBN_FILES` with which the published network
    starts, all others `state`, torchvision's. Without `state_ibn` all start from `state`, see
    `ibn_state`.
    """
    for branch in model.branches_of(network):
        if not is_ibn(branch):
            model.load_backbone(branch, state, source)
        elif state_ibn is not None:
            model.load_backbone(branch, state_ibn, source_ibn)
        else:
            own = ibn_state(state) if isinstance(state, dict) else state
            model.load_backbone(branch, own, source)


def download_ibn_weights(backbone):
    """State dict of the ImageNet weights of a ResNet's IBN-a form, by IBN-Net's authors.

    Kept on disk after the first time. Raises OSError that names the ways on where the download is
    not possible.
    """
    url = IBN_URL + IBN_FILES[backbone]
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no route, a proxy's page, or a damaged file
        raise OSError(
            f"the IBN-a weights of {backbone} cannot be downloaded ({error}): fetch {url} on "
            "another machine and pass it as --ibn_weights FILE, or train from random weights with "
            "--no_pretrained"
        ) from None


def from_published(state):
    """A state dict of MuSe-Net's published code under this project's names; others are unchanged.

    `classifier.Linear` and `bnorm` are `add_block.0` and `add_block.1` here, the style network's
    convolutions have shorter names, and its stages that nothing uses (layer3, layer4, fc) are left
    out. Read from the published code; no published file was at hand.
    """
    if not isinstance(state, dict):
        return state
    renamed = {}
    for key, value in state.items():
        if not re.match(r"pt_model\.model\.(layer3|layer4|fc)\.", key):
            key = re.sub(r"^(classifier\d*)\.Linear\.", r"\1.add_block.0.", key)
            key = re.sub(r"^(classifier\d*)\.bnorm\.", r"\1.add_block.1.", key)
            renamed[re.sub(r"^(pt_model\.\w+)\.Gen\.0\.conv2d\.", r"\1.", key)] = value
    return renamed
