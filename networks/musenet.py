"""MuSe-Net: networks that adapt to the weather in an image (Wang et al., Pattern Recognition 2024).

A style network, a ResNet up to its second stage, looks at the image first. What it finds gives the
weather, as logits of WEATHERS classes, and maps that scale and shift the instance-normalised
channels of the main network, position by position. Both parts are those of the published code,
wtyhub/MuseNet, with a ResNet-50; ResNet-18 and 101 are additions of this project by the same rules.
model.py adds `MuSeNet` to the networks for two and three views: `build_model(..., musenet=True)`.
"""

import re
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from networks.branch import Branch

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

    `btnk` has a 0 or 1 for each block of layer1, then of layer2, as in the published `--btnk`;
    blocks beyond its end count as 0. None means all blocks of layer1 except the first, the
    published 0 1 1 0 0 0 0 of a ResNet-50.
    ValueError where the backbone is not in STAGES or `btnk` does not fit it.
    """
    if backbone not in STAGES:
        raise ValueError(
            f"--musenet changes the blocks of a ResNet, and {backbone} is not one it can change: "
            f"choose --backbone {', '.join(STAGES)}"
        )
    first, second = STAGES[backbone]
    blocks = [(1, number) for number in range(first)] + [(2, number) for number in range(second)]
    if btnk is None:
        return blocks[1:first]
    fits = isinstance(btnk, (list, tuple)) and len(btnk) <= len(blocks)
    if not fits or not all(switch in (0, 1) for switch in btnk) or not any(btnk):
        raise ValueError(
            f"btnk {btnk!r} does not fit {backbone}: expected up to {len(blocks)} numbers 0 or 1, "
            f"for {first} blocks of layer1 and {second} of layer2, at least one of them 1"
        )
    return [block for block, switch in zip(blocks, btnk, strict=False) if switch]


# ---------------------------------------------------------------- IBN-a
class IBN(nn.Module):
    """Instance norm of the first half of the channels, batch norm of the second half.

    (B, C, H, W) -> the same (IBN-Net: Pan et al., Two at Once, ECCV 2018). With `modulation` =
    (g, b), each (B, C / 2, H, W), the first half is IN(x) (1 + g) + b, as in MuSe-Net.
    """

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        # Instance norm as group norm with one channel per group: faster on channels-last maps and,
        # unlike torch's instance norm, possible for an empty batch.
        self.IN = nn.GroupNorm(half, half)
        self.BN = nn.BatchNorm2d(channels - half)

    def forward(self, x, modulation=None):
        first, second = x.split((self.IN.num_channels, self.BN.num_features), dim=1)
        # Cloned: norms of a strided view are several times slower.
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
    """The state dict of a ResNet for its IBN-a form: each batch norm is split between IBN's norms.

    Instance norm takes scale and shift of the first half of the channels, and has no running
    statistics. This rule is ours: IBN-Net's authors train on ImageNet from random weights
    (`IBN_FILES`).
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
    """3 x 3 convolution, zeros outside, of `x` enlarged twofold by repeating each position.

    (B, C, H, W) -> (B, O, 2 H, 2 W). An output sees 2 x 2 positions of `x`, each up to four times,
    so the weights are added up and used in a transposed convolution: 16 / 36 of the work, and the
    enlarged map is never made.
    """
    flipped = weight.flip(2, 3)
    shifts = [(0, 1, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0)]
    kernel = sum(F.pad(flipped, shift) for shift in shifts)  # (O, C, 4, 4)
    kernel = kernel.transpose(0, 1).to(x.dtype)
    return F.conv_transpose2d(x, kernel, bias.to(x.dtype), stride=2, padding=1)


class StyleNetwork(Branch):
    """What the weather looks like: the published `pt_model`.

    The stem, layer1 and layer2 of a ResNet, the last block without any ReLU, give the style
    features (B, C, H/8, W/8). From these, two 3 x 3 convolutions for each modulated block make the
    maps for scale and shift (`layer1_2_w` and `layer1_2_b` for block 2 of layer1); average pooling,
    batch norm, dropout and a linear layer make the logits of the weather.
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
        """Maps for scale and shift of a block, (B, 32 * stage, *size) each, from style features.

        Maps twice as large as the features are convolutions of the repeated features, as published;
        where a side is odd the published code fails, and here the surplus is cut off.
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
    """x through a ResNet's block, with (scale, shift) = `modulation(size)` for the IBN in it."""
    out = block.conv1(x)
    out = block.relu(block.bn1(out, modulation(out.shape[-2:])))
    out = block.bn2(block.conv2(out))
    if hasattr(block, "conv3"):
        out = block.bn3(block.conv3(block.relu(out)))
    identity = x if block.downsample is None else block.downsample(x)
    return block.relu(out + identity)


class MuSeNet:
    """Mixin for a network of model.py, named before it among the bases: makes it a MuSe-Net.

    The first and the last branch, satellite and drone, are adaptive: IBN-a, modulated by one style
    network, `pt_model`. With `share_weight`, as published, the two are the same. With
    `return_weather` an output is `(logits, embedding, weather)`: the embedding None without
    `return_f`, the weather logits (B, WEATHERS), None for a plain branch. Without `return_weather`
    the layer of the weather is not trained. `btnk`: see `modulated_blocks`. Of these blocks only
    those in `stages` are modulated; the style network has the weights of the others all the same.
    """

    def __init__(
        self,
        *plain,
        backbone="resnet50",
        usam=False,
        btnk=None,
        return_weather=False,
        stages=(1, 2),
        **options,
    ):
        # Refuses wrong options before anything is built.
        modulated_blocks("vgg16_bn" if options.get("VGG16") else backbone, btnk)
        if usam:
            raise ValueError("--musenet and --usam are two networks: choose one")
        center = options.get("center") or options.get("whiten")
        if tuple(options.get("maps", ("last",))) != ("last",) or center:
            raise ValueError("--musenet adapts the last map: leave --maps and --center out")
        super().__init__(*plain, backbone=backbone, **options)
        for branch in dict.fromkeys(self.adaptive):
            add_instance_norm(branch)
        self.pt_model = StyleNetwork(backbone, btnk)
        self.modulated = [block for block in self.pt_model.blocks if block[0] in stages]
        self.return_weather = return_weather
        self.pt_model.classifier.requires_grad_(return_weather)

    @property
    def adaptive(self):
        """The two adaptive branches, the same one with `share_weight`."""
        return self.model_1, getattr(self, f"model_{self.num_branches}")

    def _adapted_map(self, branch, images, style):
        """Images and their style features -> the feature map of an adaptive branch."""
        net = branch.model
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        for stage, layer in enumerate((net.layer1, net.layer2), start=1):
            for number, block in enumerate(layer):
                if (stage, number) in self.modulated:
                    x = modulated_block(
                        block, x, partial(self.pt_model.modulation, style, stage, number)
                    )
                else:
                    x = block(x)
        return net.layer4(net.layer3(x))

    def _feature_maps(self, branch, images):
        if not is_ibn(branch):  # not by which branch it is: in an export it is another object
            return super()._feature_maps(branch, images)
        return [self._adapted_map(branch, images, self.pt_model.feature_map(images))]

    def _branch_output(self, branch, images):
        if not self.return_weather or not is_ibn(branch):
            return super()._branch_output(branch, images)
        style = self.pt_model.feature_map(images)
        pooled = branch.pooled([self._adapted_map(branch, images, style)])
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


class WeatherLoss(nn.Module):
    """Cross-entropy of the weather that MuSe-Net sees, summed over the views that adapt to it.

    `outputs` is {view: losses.Output}. The class of an image is `condition`, (B,) int64: 0 for a
    satellite image, 1 to 10 for a drone image in the order of weather.CONDITIONS (as in the
    published code).
    """

    def forward(self, outputs, labels):
        seen = [y for y in outputs.values() if y.weather is not None]
        if not seen:  # a batch without any image of those views
            return sum(0 * y.logits.sum() for y in outputs.values())
        return sum(F.cross_entropy(y.weather, y.condition) for y in seen)


# ---------------------------------------------------------------- weights
def load_ibn_weights(branch, state, source, state_ibn=None, source_ibn=None):
    """Load ImageNet weights into an IBN-a branch, in place; ValueError where they do not fit.

    `state_ibn` are IBN-Net's weights (`IBN_FILES`), with which the published network starts;
    without them torchvision's, `state`, are converted (`ibn_state`).
    """
    if state_ibn is not None:
        state, source = state_ibn, source_ibn
    elif isinstance(state, dict):
        state = ibn_state(state)
    branch.load_imagenet(state, source)


def download_ibn_weights(backbone):
    """State dict of IBN-Net's ImageNet weights for a ResNet (kept on disk after the first time).

    Raises OSError that names the alternatives where the download is not possible.
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
    """A state dict of MuSe-Net's published code under the names used here; others are unchanged.

    `classifier.Linear` and `bnorm` are `add_block.0` and `add_block.1` here, the convolutions of
    the style network have shorter names, and the stages of it that nothing uses (layer3, layer4,
    fc) are left out. The names are read from the published code, not from a published file.
    """
    if not isinstance(state, dict):
        return state
    renamed = {}
    for key, value in ((str(key), value) for key, value in state.items()):
        if not re.match(r"pt_model\.model\.(layer3|layer4|fc)\.", key):
            key = re.sub(r"^(classifier\d*)\.Linear\.", r"\1.add_block.0.", key)
            key = re.sub(r"^(classifier\d*)\.bnorm\.", r"\1.add_block.1.", key)
            renamed[re.sub(r"^(pt_model\.\w+)\.Gen\.0\.conv2d\.", r"\1.", key)] = value
    return renamed
