"""The branches of the networks: backbones of torchvision by name; timm's are in timm_branch.py.

A branch turns images into a pooled feature, in the same way for every backbone (`Branch`); the
published branches, `ft_net` and `ft_net_VGG16`, are in model.py. What a backbone expects of its
images (`input_spec`) comes from the metadata of its ImageNet weights; only
`download_imagenet_weights` downloads anything.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision import models

from networks.blocks import GeM, kept_statistics, ring_pool
from networks.timm_models import TIMM, timm_config, timm_package
from runtime.printing import quoted

BACKBONES = {  # name: (torchvision builder, torchvision weights, channels of the last feature map)
    "resnet18": (models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1, 512),
    "resnet50": (models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1, 2048),
    "resnet101": (models.resnet101, models.ResNet101_Weights.IMAGENET1K_V1, 2048),
    "vgg16_bn": (models.vgg16_bn, models.VGG16_BN_Weights.IMAGENET1K_V1, 512),
    "convnext_tiny": (models.convnext_tiny, models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1, 768),
    "convnext_small": (models.convnext_small, models.ConvNeXt_Small_Weights.IMAGENET1K_V1, 768),
    "convnext_base": (models.convnext_base, models.ConvNeXt_Base_Weights.IMAGENET1K_V1, 1024),
    "swin_t": (models.swin_t, models.Swin_T_Weights.IMAGENET1K_V1, 768),
    "swin_s": (models.swin_s, models.Swin_S_Weights.IMAGENET1K_V1, 768),
    "swin_b": (models.swin_b, models.Swin_B_Weights.IMAGENET1K_V1, 1024),
    "swin_v2_t": (models.swin_v2_t, models.Swin_V2_T_Weights.IMAGENET1K_V1, 768),
    "swin_v2_s": (models.swin_v2_s, models.Swin_V2_S_Weights.IMAGENET1K_V1, 768),
    "swin_v2_b": (models.swin_v2_b, models.Swin_V2_B_Weights.IMAGENET1K_V1, 1024),
    "vit_b_16": (models.vit_b_16, models.ViT_B_16_Weights.IMAGENET1K_V1, 768),
    "vit_b_32": (models.vit_b_32, models.ViT_B_32_Weights.IMAGENET1K_V1, 768),
    "vit_l_16": (models.vit_l_16, models.ViT_L_16_Weights.IMAGENET1K_V1, 1024),
}
POOLS = ("avg", "max", "avg+max", "gem", "cls", "cls+gem")


class InputSpec(NamedTuple):
    """What a backbone expects of its images."""

    mean: tuple  # of each colour, images scaled to 0..1
    std: tuple
    size: tuple  # (height, width) in pixels, that of the training on ImageNet
    fixed: bool  # whether no other size is possible
    multiple: int  # both sides must be a multiple of this

    def check_size(self, name, height, width):
        """Raise ValueError where backbone `name` cannot take images of height x width pixels."""
        if self.fixed and (height, width) != self.size:
            raise ValueError(
                f"backbone {name} takes images of {self.size[0]} x {self.size[1]} pixels only, not "
                f"{height} x {width}: give --h {self.size[0]} --w {self.size[1]}"
            )
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"backbone {name} cuts images into squares of {self.multiple} pixels, and "
                f"{height} x {width} is not a multiple of that: change --h and --w (and --ms)"
            )


def check_backbone(name):
    """Raise ValueError unless `name` is a backbone that can be built here."""
    if name.startswith(TIMM):
        timm_config(name)
    elif name not in BACKBONES:
        raise ValueError(
            f"backbone {name!r} is unknown: expected {', '.join(BACKBONES)}, or {TIMM}NAME with a "
            "name of the timm package"
        )


def input_spec(name):
    """`InputSpec` of a backbone, from the metadata of its ImageNet weights.

    A network of timm that was trained at a `fixed` size may take others, see `TimmBranch`.
    """
    check_backbone(name)
    if name.startswith(TIMM):
        config = timm_config(name)
        return InputSpec(
            tuple(config.mean),
            tuple(config.std),
            tuple(config.input_size[1:]),
            bool(config.fixed_input_size),
            1,
        )
    preset = BACKBONES[name][1].transforms()
    multiple = int(name.rpartition("_")[2]) if name.startswith("vit_") else 1  # the patch's side
    size = (preset.crop_size[0], preset.crop_size[0])
    return InputSpec(tuple(preset.mean), tuple(preset.std), size, False, multiple)


# ---------------------------------------------------------------- options
def check_network(backbone="resnet50", *, stride=2, pool="avg", LPN=False, block=4, usam=False):
    """Raise ValueError where options of a network are unknown or contradict each other."""
    check_backbone(backbone)
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r} is unknown: expected one of {', '.join(POOLS)}")
    if stride not in (1, 2):
        raise ValueError(f"stride {stride} is not possible: expected 1 or 2")
    # vgg16_bn ignores the stride, as published: options files of such runs may hold a 1.
    if stride == 1 and not backbone.startswith(("resnet", "vgg")):
        raise ValueError(f"stride 1 changes a ResNet's last stage; {backbone} has none")
    if usam and not backbone.startswith("resnet"):
        raise ValueError(f"--usam goes behind a ResNet's stem and first stage, not into {backbone}")
    if "cls" in pool and not backbone.startswith(("vit", TIMM)):
        raise ValueError(f"pool {pool} is made of the class token of a ViT; {backbone} has none")
    if LPN and pool not in ("avg", "max", "avg+max"):
        raise ValueError(f"--LPN pools its rings with avg, max or avg+max, not with {pool}")
    if LPN and block < 1:
        raise ValueError(f"--LPN with {block} parts is not possible: --block must be at least 1")


# ---------------------------------------------------------------- branches
class Branch(nn.Module):
    """A backbone up to its last feature map, then one pooling, global or over `block` rings.

    Images (B, 3, H, W) -> pooled feature (B, D), with rings (B, D, block). `init_model` shares the
    backbone and pooling of another branch. The ImageNet classifiers of ResNet and VGG stay in the
    state dict, unused and without gradients, because the published files hold them; other
    backbones lose theirs.
    """

    unused = ()  # children of `model` that no forward pass uses
    after_map = ()  # children of `model` that work on the pooled feature
    foldable = True  # whether children are registered in the order of use: see fold_batch_norm
    checkpointing = False
    trained_blocks = None  # after `freeze`: how many of the last `stages` train

    def __init__(self, backbone, pool, init_model, block=None):
        super().__init__()
        if init_model is not None:
            for name in ("model", "pool", "block", "backbone", "channels", "input_spec"):
                setattr(self, name, getattr(init_model, name))
            return
        check_network(backbone, pool=pool, LPN=block is not None, block=block)
        self.pool, self.block, self.backbone = pool, block, backbone
        self.input_spec = input_spec(backbone)
        self.model, self.channels = self.build(backbone)
        for name in self.unused:
            getattr(self.model, name).requires_grad_(False)
        if "gem" in self.kinds:
            self.model.gem2 = GeM(self.channels)

    @staticmethod
    def build(backbone):
        """The backbone with random weights, and the channels of its last feature map."""
        builder, _, channels = BACKBONES[backbone]
        return builder(), channels

    @property
    def kinds(self):
        """The kinds of pooling whose results stand side by side in the pooled feature."""
        return self.pool.split("+")

    @property
    def pooled_dim(self):
        """Length D of the pooled feature."""
        return len(self.kinds) * self.channels

    def misfits(self, state):
        """Keys of the backbone that a state dict lacks or has in another shape.

        The ImageNet classifier and batch norm's counters (older files have none) may be absent.
        """
        optional = tuple(f"{name}." for name in (*self.unused, "gem2"))
        return [
            key
            for key, value in self.model.state_dict().items()
            if not key.startswith(optional)
            and not key.endswith("num_batches_tracked")
            and getattr(state.get(key), "shape", None) != value.shape
        ]

    def load_imagenet(self, state, source):
        """Load a state dict of torchvision or timm into the backbone, in place.

        ValueError, naming the file `source`, where one of its `misfits` keeps it from fitting.
        """
        if not isinstance(state, dict):
            raise ValueError(f"{source} holds a {type(state).__name__}, expected a state dict")
        expected, wrong = self.model.state_dict(), self.misfits(state)
        if wrong and any(str(key).startswith(("model_1.", "module.model_1.")) for key in state):
            raise ValueError(
                f"{source} holds the network of a whole run, where a backbone is expected: to "
                f"start from that run, give --init {quoted(source)}"
            )
        if wrong:
            raise ValueError(
                f"{source} does not fit the backbone: {len(wrong)} of {len(expected)} entries are "
                f"missing or of another shape, first {wrong[0]}; expected the state dict of "
                f"{'' if self.backbone.startswith(TIMM) else 'torchvision network '}"
                f"{self.backbone}, named by --backbone"
            )
        fitting = {k: v for k, v in state.items() if k in expected and v.shape == expected[k].shape}
        self.model.load_state_dict(fitting, strict=False)

    def feature_map(self, x):
        """(B, 3, H, W) -> (B, C, H', W')."""
        raise NotImplementedError

    def stages(self):
        """The blocks or stages in the order of use, each as a sequence of modules.

        A block of a transformer or of VGG, a stage of the others. The last of the modules gives
        the map of the stage, and is called as a module.
        """
        raise NotImplementedError

    def freeze(self, blocks=0):
        """From now on the backbone stays as it is, batch norm too; the last `blocks` stages train.

        With them trains what follows: the last normalisation and GeM's exponents, which without
        them stay as well. The frozen part works as in evaluation, also while training, and gets
        and keeps no gradients. ValueError where there are fewer stages.
        """
        if blocks and blocks > len(self.stages()):
            raise ValueError(
                f"--train_blocks {blocks} is more than the {len(self.stages())} blocks or stages "
                f"that {self.backbone} has: give fewer, or leave --freeze out"
            )
        self.trained_blocks = blocks
        self.requires_grad_(False)
        for module in self._trained():
            for weight in module.parameters(recurse=False):
                weight.requires_grad_()
        self.train(self.training)

    def _trained(self):
        """After `freeze`: modules from the first stage that trains on, in the order of use."""
        if not self.trained_blocks:
            return []
        modules = list(self.model.modules())  # registered in the order of use, stages at least
        start = modules.index(self.stages()[-self.trained_blocks][0])
        unused = {m for name in self.unused for m in getattr(self.model, name).modules()}
        return [module for module in modules[start:] if module not in unused]

    def train(self, mode=True):
        """As in torch, but what `freeze` has frozen stays in evaluation mode."""
        super().train(mode)
        if self.trained_blocks is not None:
            self.model.eval()
            for module in self._trained():
                module.training = mode
        return self

    def checkpoint_gradients(self):
        """From now on keep only the input of a block, and repeat the block in the backward pass.

        The same gradients for a third more work (Chen et al., Training Deep Nets with Sublinear
        Memory Cost, 2016). ValueError for a network of timm that cannot.
        """
        self.checkpointing = True

    def through(self, stage, x):
        """x through a stage: a block, or an nn.Sequential of stages."""
        if type(stage) is not nn.Sequential:
            return self.recomputed(stage, x)
        for part in stage:
            x = self.through(part, x)
        return x

    def recomputed(self, block, x):
        """x through a block, repeated in the backward pass after `checkpoint_gradients`."""
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            return block(x)

        def contexts():
            return nullcontext(), kept_statistics(block)

        return checkpoint(block, x, use_reentrant=False, context_fn=contexts)

    def normalised(self, x):
        """The backbone's last normalisation where it follows the pooling; (B, C, P) -> the same."""
        return x

    def forward(self, x):
        """Images (B, 3, H, W) float -> pooled feature (B, D), with rings (B, D, block)."""
        return self.pooled(self.feature_map(x))

    def pooled(self, x):
        """Feature map (B, C, H', W') -> pooled feature (B, D), with rings (B, D, block)."""
        pooled = [self.normalised(self._pooled(x, kind)) for kind in self.kinds]
        pooled = torch.cat(pooled, dim=1)
        return pooled if self.block else pooled.squeeze(2)

    def _pooled(self, x, kind):
        """Feature map (B, C, H', W') -> (B, C, P), with P = 1 where there are no rings."""
        if self.block:
            return ring_pool(x, self.block, kind)
        if kind == "cls":  # the first position, see `token_map`
            return x[:, :, 0]
        if kind == "gem":
            return self.model.gem2(x[:, :, 1:] if "cls" in self.kinds else x)[:, :, None]
        if kind == "max":
            return x.amax(dim=(2, 3))[:, :, None]
        return x.mean(dim=(2, 3))[:, :, None]

    def token_map(self, first, patches):
        """Class token (B, C) and map of the patches (B, C, H', W') -> what `pooled` expects.

        It is the map; with pool `cls` the token as a map, (B, C, 1, 1), and with `cls+gem` the
        token and then the patches, one below the other: (B, C, 1 + H' W', 1).
        """
        if "cls" not in self.kinds:
            return patches
        if self.pool == "cls":
            return first[:, :, None, None]
        return torch.cat((first[:, :, None], patches.flatten(2)), dim=2)[..., None]


def stages_behind_stem(features):
    """`stages` of torchvision's ConvNeXt and Swin: of stem, stage, halving, stage, halving, ..."""
    first, *others = features[1:]
    halved = zip(others[::2], others[1::2], strict=True)
    return [[*first], *([halving, *stage] for halving, stage in halved)]


class ConvNeXtBranch(Branch):
    """ConvNeXt branch (Liu et al., CVPR 2022), map H/32 x W/32; layer norm after the pooling."""

    after_map = ("classifier",)

    @staticmethod
    def build(backbone):
        model, channels = Branch.build(backbone)
        model.classifier = model.classifier[:1]  # the layer norm, without flattening and classes
        return model, channels

    def stages(self):
        return stages_behind_stem(self.model.features)

    def feature_map(self, x):
        return self.through(self.model.features, x)

    def normalised(self, x):
        return self.model.classifier(x[..., None])[..., 0]


class SwinBranch(Branch):
    """Swin branch, V1 or V2 (Liu et al., ICCV 2021, CVPR 2022), map H/32 x W/32, normalised."""

    @staticmethod
    def build(backbone):
        model, channels = Branch.build(backbone)
        model.head = nn.Identity()
        return model, channels

    def stages(self):
        return stages_behind_stem(self.model.features)

    def feature_map(self, x):
        return self.model.permute(self.model.norm(self.through(self.model.features, x)))


class ViTBranch(Branch):
    """ViT branch (Dosovitskiy et al., ICLR 2021): one position for each patch, normalised.

    For images of another size than in the training on ImageNet the position embeddings are
    interpolated bicubically.
    """

    @staticmethod
    def build(backbone):
        model, channels = Branch.build(backbone)
        model.heads = nn.Identity()
        return model, channels

    def _positions(self, height, width):
        """Position embeddings of the class token and height x width patches: (1, 1 + N, C)."""
        trained = self.model.encoder.pos_embedding
        side = self.model.image_size // self.model.patch_size
        if (height, width) == (side, side):
            return trained
        grid = trained[:, 1:].float().transpose(1, 2).unflatten(2, (side, side))  # (1, C, h, w)
        grid = F.interpolate(grid, (height, width), mode="bicubic", antialias=True)
        return torch.cat((trained[:, :1], grid.flatten(2).transpose(1, 2).to(trained.dtype)), dim=1)

    def stages(self):
        return [[block] for block in self.model.encoder.layers]

    def feature_map(self, x):
        self.input_spec.check_size(self.backbone, *x.shape[-2:])
        net = self.model
        patches = net.conv_proj(x)  # (B, C, H', W')
        size = patches.shape[-2:]
        first = net.class_token.expand(len(x), -1, -1)
        tokens = torch.cat((first, patches.flatten(2).transpose(1, 2)), dim=1)  # (B, 1 + N, C)
        tokens = net.encoder.dropout(tokens + self._positions(*size))
        tokens = net.encoder.ln(self.through(net.encoder.layers, tokens))
        patches = tokens[:, 1:].transpose(1, 2).unflatten(2, size)
        return self.token_map(tokens[:, 0], patches)


def branch_class(backbone):
    """The class of a backbone's branch; ResNet's and VGG's, the published ones, are in model.py."""
    families = {"convnext": ConvNeXtBranch, "swin": SwinBranch, "vit": ViTBranch}
    for prefix, branch in families.items():
        if backbone.startswith(prefix):
            return branch
    raise ValueError(f"backbone {backbone} has no branch: give its family one in branch_class")


def branches_of(network):
    """The different branches of a multi-view network; a shared one comes once."""
    return [module for module in network.modules() if isinstance(module, Branch)]


# ---------------------------------------------------------------- ImageNet weights
def download_imagenet_weights(backbone):
    """State dict of a backbone's ImageNet weights (kept on disk after the first time).

    Raises OSError that names the alternatives where the download is not possible.
    """
    check_backbone(backbone)
    try:
        if backbone.startswith(TIMM):
            name = backbone.removeprefix(TIMM)
            source = timm_config(backbone).hf_hub_id or name
            return timm_package().create_model(name, pretrained=True, num_classes=0).state_dict()
        weights = BACKBONES[backbone][1]
        source = weights.url
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no route, a proxy's page, or a damaged file
        raise OSError(
            f"the ImageNet weights of {backbone} cannot be downloaded ({error}): fetch "
            f"{source} on another machine and pass it as --weights FILE, or train from "
            "random weights with --no_pretrained"
        ) from None
