"""The branch of a network of the timm package, `timm:NAME`, for images of any size it can take."""

import torch
from torch import nn

from networks.branch import Branch
from networks.timm_models import build_timm, converted_state


class TimmBranch(Branch):
    """Branch of a network of the timm package: `backbone` is `timm:NAME`.

    `image_size` (height, width) in pixels matters to networks that timm builds for one size, see
    `build_timm`; most transformers take any multiple of their patch, whatever it says.
    """

    after_map = ("head", "fc_norm")
    foldable = False

    def __init__(self, backbone, pool, init_model, block=None, image_size=None, **pooling):
        self.image_size = image_size  # before the rest, for `build`
        super().__init__(backbone, pool, init_model, block, **pooling)
        if "cls" in self.kinds and getattr(self.model, "cls_token", None) is None:
            raise ValueError(
                f"pool {self.pool}: {self.backbone} has no class token; choose another pool"
            )

    def build(self, backbone):
        model = build_timm(backbone, self.image_size)
        if self.input_spec.fixed:
            self.input_spec = self._spec_of(model)
        return model, model.num_features

    def _spec_of(self, model):
        """What a transformer expects of its images once it is built."""
        reduction = model.feature_info[-1]["reduction"] if hasattr(model, "feature_info") else 1
        if not getattr(model, "dynamic_img_size", False):
            if self.image_size in (None, self.input_spec.size):
                return self.input_spec
            return self.input_spec._replace(size=tuple(self.image_size), multiple=reduction)
        # Where there are tokens, a patch is what one of them sees; Swin makes larger ones of them.
        tokens = hasattr(model, "num_prefix_tokens")
        patch = reduction if tokens else model.patch_embed.patch_size[0]
        return self.input_spec._replace(fixed=False, multiple=patch)

    def load_imagenet(self, state, source):
        if isinstance(state, dict) and self.misfits(state):
            state = converted_state(self.model, state)
        super().load_imagenet(state, source)

    def stages(self):
        names = [n for n in ("blocks", "stages", "layers") if hasattr(self.model, n)]
        if names:
            return [[stage] for stage in getattr(self.model, names[0])]
        if hasattr(self.model, "layer4"):  # a ResNet's
            return [[getattr(self.model, f"layer{number}")] for number in range(1, 5)]
        raise ValueError(
            f"the blocks of {self.backbone} are not known: leave --train_blocks out, or choose "
            "another backbone"
        )

    def checkpoint_gradients(self):
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules()):
            raise ValueError(
                f"{self.backbone} has batch norm, which timm's checkpointing would count twice: "
                "leave --grad_checkpoint out"
            )
        try:
            self.model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError, NotImplementedError):
            raise ValueError(
                f"{self.backbone} cannot checkpoint its gradients: leave --grad_checkpoint out"
            ) from None

    def feature_map(self, x):
        self.input_spec.check_size(self.backbone, *x.shape[-2:])
        return self.as_map(self.model.forward_features(x), x.shape[-2:])

    def as_map(self, output, size):
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"--maps: the maps of {self.backbone} are not one tensor each")
        if self.pool == "cls":
            return output[:, 0, :, None, None]
        if output.ndim == 3:  # (B, class token and registers, then N patches, C)
            return self.token_map(output[:, 0], self._grid(output, size))
        # "NHWC": (B, H', W', C); without `output_fmt` it is (B, C, H', W').
        last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return output.permute(0, 3, 1, 2) if last else output

    def _reductions(self):
        """{name of a module that gives a map: how much smaller than the image}, in their order."""
        info = getattr(self.model, "feature_info", [])
        return {each["module"]: each["reduction"] for each in info}

    @property
    def pyramid(self):
        return len(set(self._reductions().values())) > 1

    def map_module(self, number):
        modules = self._reductions()
        known = dict(enumerate(modules, start=1))
        if self.pyramid:  # of several of one size the first
            stages = {2 ** (stage + 1): stage for stage in range(1, 8)}
            sized = [(stages[side], name) for name, side in modules.items() if side in stages]
            known = dict(reversed(sized))
        if number not in known:
            there = ", ".join(map(str, [*sorted(known), "last"]))
            raise ValueError(
                f"--maps {number}: {self.backbone} has maps {there}: give some of these"
            )
        return self.model.get_submodule(known[number])

    def _grid(self, tokens, size):
        """Tokens (B, extra + N, C) of an image of `size` pixels -> map (B, C, H', W')."""
        patches = tokens[:, getattr(self.model, "num_prefix_tokens", 0) :]
        reduction = self.model.feature_info[-1]["reduction"]
        height, width = (side // reduction for side in size)
        if patches.shape[1] != height * width:
            raise ValueError(
                f"{self.backbone} gives {patches.shape[1]} tokens, not a map of {height} x {width}"
            )
        return patches.transpose(1, 2).unflatten(2, (height, width))

    def normalised(self, x):
        head_norm = getattr(getattr(self.model, "head", None), "norm", None)
        if isinstance(head_norm, nn.LayerNorm):  # timm's LayerNorm2d, over the channels of a map
            x = head_norm(x[..., None])[..., 0]
        token_norm = getattr(self.model, "fc_norm", None)
        if isinstance(token_norm, nn.LayerNorm):
            x = token_norm(x.transpose(1, 2)).transpose(1, 2)
        return x
