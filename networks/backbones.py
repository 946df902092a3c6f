"""Backbones: those of torchvision by name, of others as `timm:NAME`, `open_clip:NAME`; their rules.

What a backbone expects of its images (`input_spec`) comes from the metadata of its ImageNet
weights; only `download_imagenet_weights` downloads anything.
"""

from typing import NamedTuple

from torchvision import models

from networks.clip_models import CLIP, build_clip, clip_config, clip_names
from networks.options import HEADS, MOST_RINGS, POOLS
from networks.timm_models import TIMM, timm_config, timm_package

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
    elif name.startswith(CLIP):
        clip_names(name)
    elif name not in BACKBONES:
        raise ValueError(
            f"backbone {name!r} is unknown: expected {', '.join(BACKBONES)}, or {TIMM}NAME or "
            f"{CLIP}NAME with a name of the packages timm and open_clip"
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
    if name.startswith(CLIP):
        side, mean, std = clip_config(name)
        return InputSpec(mean, std, (side, side), True, 1)
    preset = BACKBONES[name][1].transforms()
    multiple = int(name.rpartition("_")[2]) if name.startswith("vit_") else 1  # the patch's side
    size = (preset.crop_size[0], preset.crop_size[0])
    return InputSpec(tuple(preset.mean), tuple(preset.std), size, False, multiple)


# ---------------------------------------------------------------- options
def check_network(
    backbone="resnet50",
    *,
    stride=2,
    pool="avg",
    LPN=False,
    block=4,
    usam=False,
    maps=("last",),
    head="block",
    center=False,
):
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
    if block is not None and not 1 <= block <= MOST_RINGS:
        raise ValueError(f"{block} rings are not possible: --block is from 1 to {MOST_RINGS}")
    if LPN and (tuple(maps) != ("last",) or head != "block" or center):
        raise ValueError(
            "--LPN has rings of the last map, each with its head: drop --maps, --head, "
            "--center; --pool rings has one head for all rings"
        )
    if head not in HEADS:
        raise ValueError(f"head {head!r} is unknown: expected one of {', '.join(HEADS)}")
    if not maps or not all(each == "last" or (type(each) is int and each > 0) for each in maps):
        raise ValueError(f"maps {maps!r}: expected numbers of stages and last, such as 2,3,last")


# ---------------------------------------------------------------- ImageNet weights
def download_imagenet_weights(backbone, trains=True):
    """State dict of a backbone's ImageNet weights (kept on disk after the first time).

    Raises OSError that names the alternatives where the download is not possible; random weights
    are one if the backbone `trains`.
    """
    check_backbone(backbone)
    try:
        if backbone.startswith(TIMM):
            name = backbone.removeprefix(TIMM)
            source = timm_config(backbone).hf_hub_id or name
            return timm_package().create_model(name, pretrained=True, num_classes=0).state_dict()
        if backbone.startswith(CLIP):
            return build_clip(backbone, True).visual.state_dict()
        weights = BACKBONES[backbone][1]
        source = weights.url
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no route, a proxy's page, or a damaged file
        random = ", or train from random weights with --no_pretrained" if trains else ""
        raise OSError(
            f"the ImageNet weights of {backbone} cannot be downloaded ({error}): fetch "
            f"{source} on another machine and pass it as --weights FILE{random}"
        ) from None
