"""The branches of the networks: a backbone, the maps it gives, and their pooling.

`Branch` does it in the same way for every backbone; here are those of torchvision, in
networks/timm_branch.py that of timm, and the published ones, `ft_net` and `ft_net_VGG16`, in
model.py.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import utils
from networks.backbones import BACKBONES, check_network, input_spec
from networks.blocks import GeM, kept_statistics, ring_pool
from networks.timm_models import TIMM
from runtime.printing import quoted


@contextmanager
def outputs_of(modules):
    """Yield {module: output} that fills as the modules are called."""
    outputs = {}

    def keep(module):  # not by the hook's first argument, which in an export is another object
        return module.register_forward_hook(lambda _, __, output: outputs.update({module: output}))

    hooks = [keep(module) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


class Branch(nn.Module):
    """A backbone up to its last feature map, then one pooling, global or over `block` rings.

    Images (B, 3, H, W) -> pooled feature (B, D), with rings (B, D, block). `maps` are those that
    are pooled, numbers of `map_module` and "last"; `rings` is how many the pool `rings` has, which
    stand in one feature. `init_model` shares the backbone and pooling of another branch. The
    ImageNet classifiers of ResNet and VGG stay in the state dict, unused and without gradients,
    because the published files hold them; other backbones lose theirs.
    """

    unused = ()  # children of `model` that no forward pass uses
    after_map = ()  # children of `model` that work on the pooled feature
    pyramid = True  # whether the maps of later stages are smaller, unlike those of a plain ViT
    foldable = True  # whether children are registered in the order of use: see fold_batch_norm
    checkpointing = False
    before_maps = 0  # stages before the one that halves the image's side to a quarter
    trained_blocks = None  # after `freeze`: how many of the last `stages` train

    def __init__(self, backbone, pool, init_model, block=None, *, maps=("last",), rings=4):
        super().__init__()
        if init_model is not None:
            names = "model pool block backbone channels input_spec maps rings map_channels"
            for name in names.split():
                setattr(self, name, getattr(init_model, name))
            return
        check_network(backbone, pool=pool, LPN=block is not None, block=block, maps=maps)
        self.pool, self.block, self.backbone = pool, block, backbone
        self.maps, self.rings = tuple(maps), rings
        self.input_spec = input_spec(backbone)
        self.model, self.channels = self.build(backbone)
        for name in self.unused:
            getattr(self.model, name).requires_grad_(False)
        for number in {*self.maps} - {"last"}:
            self.map_module(number)  # which refuses a map that the backbone has not
        self.map_channels = self._map_channels()
        if "gem" in self.kinds:
            means = [GeM(channels) for channels in self.map_channels]
            self.model.gem2 = means[0] if len(means) == 1 else nn.ModuleList(means)

    @torch.no_grad()
    def _map_channels(self):
        """The channels of each map of `maps`, seen on an empty image where it is not the last."""
        if self.maps == ("last",):
            return [self.channels]
        spec, training = self.input_spec, self.training
        side = -(-64 // spec.multiple) * spec.multiple
        size = spec.size if spec.fixed else (side, side)
        self.eval()
        channels = [each.shape[1] for each in self.feature_maps(torch.zeros(1, 3, *size))]
        self.train(training)
        return channels

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
        parts = sum(self.rings if kind == "rings" else 1 for kind in self.kinds)
        return parts * sum(self.map_channels)

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
                f"{source} holds the network of a whole run, where a backbone is expected: name "
                f"the run in test.py, or to start from it in train.py give --init {quoted(source)}"
            )
        if wrong:
            raise ValueError(
                f"{source} does not fit the backbone: {len(wrong)} of {len(expected)} entries are "
                f"missing or of another shape, first {wrong[0]}; expected the state dict of "
                f"{'' if self.backbone.startswith(TIMM) else 'torchvision network '}"
                f"{self.backbone}, named by --backbone"
            )
        fitting = {
            key: state[key]
            for key, value in expected.items()
            if getattr(state.get(key), "shape", None) == value.shape
        }
        utils.require_finite(fitting, source)
        self.model.load_state_dict(fitting, strict=False)

    def feature_map(self, x):
        """(B, 3, H, W) -> (B, C, H', W')."""
        raise NotImplementedError

    def feature_maps(self, x):
        """(B, 3, H, W) -> a map (B, C, H', W') for each of `maps`, in their order."""
        if self.maps == ("last",):
            return [self.feature_map(x)]
        modules = {number: self.map_module(number) for number in self.maps if number != "last"}
        with outputs_of(modules.values()) as outputs:
            last = self.feature_map(x)
        return [
            last if number == "last" else self.as_map(outputs[modules[number]], x.shape[-2:])
            for number in self.maps
        ]

    def map_module(self, number):
        """The module that gives the map of stage `number`, from 1: see `--maps`.

        A stage halves the map of the one before; map 1 has a quarter of the image's side. Blocks of
        a transformer keep its size, and are counted one by one.
        """
        stages = self.stages()[self.before_maps :]
        if number > len(stages):
            raise ValueError(
                f"--maps {number}: {self.backbone} has maps 1 to {len(stages)} and last: give one "
                "of these"
            )
        return stages[number - 1][-1]

    def as_map(self, output, size):
        """The output of a `map_module` for images of `size` pixels as a map (B, C, H', W')."""
        return output

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
        return self.pooled(self.feature_maps(x))

    def pooled(self, maps):
        """Feature maps [(B, C, H', W')] -> pooled feature (B, D), with LPN's rings (B, D, block).

        Where there are several maps, or rings without LPN, each pooled part has length 1, and they
        stand side by side.
        """
        parts = [self._part(x, kind, n) for n, x in enumerate(maps) for kind in self.kinds]
        if len(maps) == 1 and "rings" not in self.kinds:
            pooled = torch.cat(parts, dim=1)
            return pooled if self.block else pooled.squeeze(2)
        rows = [row for part in parts for row in part.unbind(2)]
        return torch.cat([F.normalize(row, dim=1) for row in rows], dim=1)

    def _part(self, x, kind, n):
        """Map number n of `maps`, (B, C, H', W'), pooled in one way: (B, C, P)."""
        pooled = self._pooled(x, kind, n)
        return self.normalised(pooled) if self.maps[n] == "last" else pooled

    def _pooled(self, x, kind, n):
        """Feature map (B, C, H', W') -> (B, C, P), with P = 1 where there are no rings."""
        if self.block:
            return ring_pool(x, self.block, kind)
        if kind == "rings":
            return ring_pool(x, self.rings)
        if kind == "cls":  # the first position, see `token_map`
            return x[:, :, 0]
        if kind == "gem":
            gem = self.model.gem2[n] if len(self.maps) > 1 else self.model.gem2
            return gem(x[:, :, 1:] if "cls" in self.kinds else x)[:, :, None]
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


# ---------------------------------------------------------------- those of torchvision
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

    def as_map(self, output, size):
        return self.model.permute(output)


class ViTBranch(Branch):
    """ViT branch (Dosovitskiy et al., ICLR 2021): one position for each patch, normalised.

    For images of another size than in the training on ImageNet the position embeddings are
    interpolated bicubically.
    """

    pyramid = False

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
        first = net.class_token.expand(x.shape[0], -1, -1)  # not len: export keeps the batch free
        tokens = torch.cat((first, patches.flatten(2).transpose(1, 2)), dim=1)  # (B, 1 + N, C)
        tokens = net.encoder.dropout(tokens + self._positions(*patches.shape[-2:]))
        return self.as_map(net.encoder.ln(self.through(net.encoder.layers, tokens)), x.shape[-2:])

    def as_map(self, output, size):
        grid = [side // self.model.patch_size for side in size]
        patches = output[:, 1:].transpose(1, 2).unflatten(2, grid)
        return self.token_map(output[:, 0], patches)


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
