"""The branch of the image tower of a CLIP: `open_clip:NAME`."""

from networks.branch import Branch
from networks.clip_models import build_clip


class ClipBranch(Branch):
    """Images (B, 3, H, W) -> the feature (B, D) in which CLIP compares images with texts.

    It has no map: the feature stands for one, (B, D, 1, 1).
    """

    foldable = False
    pyramid = False

    def __init__(self, backbone, pool, init_model, block=None, **pooling):
        super().__init__(backbone, pool, init_model, block, **pooling)
        if self.pool != "avg" or self.block or self.maps != ("last",):
            raise ValueError(
                f"{backbone} gives one feature, no map to pool in parts: leave --pool, --maps and "
                "--LPN out"
            )

    @staticmethod
    def build(backbone):
        towers = build_clip(backbone)
        return towers.visual, towers.text.output_dim

    def load_imagenet(self, state, source):
        if isinstance(state, dict):  # a file of the pair
            of_images = {k: v for k, v in state.items() if str(k).startswith("visual.")}
            state = {k.removeprefix("visual."): v for k, v in of_images.items()} or state
        super().load_imagenet(state, source)

    def stages(self):
        blocks = getattr(getattr(self.model, "transformer", None), "resblocks", None)
        if blocks is None:
            raise ValueError(f"the blocks of {self.backbone} are not known: drop --train_blocks")
        return [[block] for block in blocks]

    def checkpoint_gradients(self):
        self.model.set_grad_checkpointing(True)

    def feature_map(self, x):
        self.input_spec.check_size(self.backbone, *x.shape[-2:])
        return self.model(x)[:, :, None, None]
