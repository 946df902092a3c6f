"""The networks: one branch per view and one head for all, and their builder, `build_model`.

Class names, call signatures and state-dict keys are those of University1652-Baseline, so that its
checkpoints load here. Branches start with random weights; `load_backbone` gives them ImageNet's.
The base class of the branches and those of further backbones are in networks/branch.py.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

import utils
from imaging.files import TEST_VIEWS, TEXT
from imaging.texts import TokenizedTexts
from networks.backbones import check_network
from networks.blocks import USAM
from networks.branch import Branch, branch_class, branches_of
from networks.clip_branch import ClipBranch
from networks.clip_models import CLIP
from networks.heads import Centring, ClassBlock, make_head  # noqa: F401
from networks.musenet import MuSeNet, from_published, is_ibn, load_ibn_weights
from networks.run_options import network_options, option_in, switch_in
from networks.text import TextBranch, need_same_words, read_encoder, read_tokenizer
from networks.timm_branch import TimmBranch
from networks.timm_models import TIMM

# The order of the published three-view network: model_1 satellite, model_2 street, model_3 drone.
THREE_VIEWS = TEST_VIEWS


# ---------------------------------------------------------------- branches
class ft_net(Branch):
    """ResNet branch: images (B, 3, H, W) -> pooled feature (B, 2048), or 4096 with `avg+max`.

    `stride` is that of the last stage (2 as in ImageNet, or 1: a map twice as fine). `class_num`
    and `droprate` are part of the published signature; the head that uses them belongs to the
    multi-view networks. `init_model` shares the backbone and pooling of another branch. `block`
    rings make it LPN's branch, (B, 2048, block); `usam` adds RK-Net's two attention modules.
    """

    unused = ("fc",)

    def __init__(
        self,
        class_num,
        droprate=0.5,
        stride=2,
        init_model=None,
        pool="avg",
        block=None,
        *,
        backbone="resnet50",
        usam=False,
        **pooling,
    ):
        super().__init__(backbone, pool, init_model, block, **pooling)
        check_network(self.backbone, stride=stride)
        if init_model is not None:
            self.usam_1, self.usam_2 = init_model.usam_1, init_model.usam_2
            return
        self.usam_1, self.usam_2 = (USAM() if usam else nn.Identity() for _ in range(2))
        if stride == 1:
            first = self.model.layer4[0]
            # The 3x3 convolution that halves the map is the second one in a bottleneck block.
            (first.conv2 if hasattr(first, "conv3") else first.conv1).stride = (1, 1)
            first.downsample[0].stride = (1, 1)

    def _map_channels(self):
        # A stage has twice the channels of the one before.
        stages = [4 if number == "last" else number for number in self.maps]
        return [self.channels // 2 ** (4 - number) for number in stages]

    def stages(self):
        net = self.model
        return [[*stage] for stage in (net.layer1, net.layer2, net.layer3, net.layer4)]

    def feature_map(self, x):
        net = self.model
        x = self.usam_1(net.relu(net.bn1(net.conv1(x))))  # (B, 64, H/2, W/2)
        x = self.usam_2(self.through(net.layer1, net.maxpool(x)))  # (B, 64 or 256, H/4, W/4)
        for stage in (net.layer2, net.layer3, net.layer4):
            x = self.through(stage, x)
        return x  # (B, C, H/32, W/32)


class ft_net_VGG16(Branch):
    """VGG16-bn branch: images (B, 3, H, W) -> pooled feature (B, 512), or 1024 with `avg+max`.

    The map is H/32 x W/32. `stride` is part of the published signature and has no effect.
    """

    unused = ("classifier",)
    before_maps = 1

    def __init__(
        self, class_num, droprate=0.5, stride=2, init_model=None, pool="avg", block=None, **pooling
    ):
        super().__init__("vgg16_bn", pool, init_model, block, **pooling)

    def stages(self):
        layers = self.model.features
        ends = [n for n, layer in enumerate(layers, 1) if isinstance(layer, nn.MaxPool2d)]
        return [layers[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def feature_map(self, x):
        for block in self.stages():
            x = self.recomputed(block, x)
        return x


def make_branch(
    class_num, stride, pool, backbone, block=None, usam=False, image_size=None, **pooling
):
    """The branch of a backbone; `check_network` refuses the options that do not fit it.

    `image_size` (height, width) in pixels matters to transformers of timm alone, see `TimmBranch`;
    `pooling` are the `maps` and `rings` of a `Branch`.
    """
    if backbone.startswith("resnet"):
        options = {"backbone": backbone, "usam": usam, **pooling}
        return ft_net(class_num, 0.5, stride, None, pool, block, **options)
    if backbone == "vgg16_bn":
        return ft_net_VGG16(class_num, 0.5, stride, None, pool, block, **pooling)
    if backbone.startswith(TIMM):
        return TimmBranch(backbone, pool, None, block, image_size, **pooling)
    if backbone.startswith(CLIP):
        return ClipBranch(backbone, pool, None, block, **pooling)
    return branch_class(backbone)(backbone, pool, None, block, **pooling)


# ---------------------------------------------------------------- multi-view networks
def _split(output, parts):
    """Undo `torch.cat(parts)` in the output of a network, a tensor or a tuple of tensors."""
    sizes = [len(part) for part in parts]
    if isinstance(output, tuple):
        return list(zip(*(element.split(sizes) for element in output), strict=True))
    return output.split(sizes)


class _MultiViewNet(nn.Module):
    """Branches `model_1`, `model_2`, ... and one head for all; see the subclasses.

    Branch number `text_branch`, if any, is one of texts around `encoder` (networks/text.py), the
    others are of images. With `share_weight` the last of these is the first one; its tensors then
    stand twice in the state dict, as published. The head is `classifier`; with `LPN` there is one
    for each of the `block` square rings (Wang et al., TCSVT 2021), `classifier0`, `classifier1`,
    ..., inner to outer. `usam` makes the branches RK-Net's (Lin et al., TIP 2022).

    `maps` are those that are pooled, see `Branch`. `head` is one of `networks.options.HEADS`, with
    an embedding of `embedding_dim` numbers; with `center` the pooled features of each view are
    centred before it, and whitened to the width `whiten` (`networks.heads.Centring`).

    Attributes:
        parts: parts of an embedding: `block` with `LPN`, else 1.
        embedding_dim: numbers of an embedding, all parts together.
        input_spec: what the branches expect of their images, `networks.backbones.InputSpec`.
        read_words: of a trained run with texts, (samples, texts) -> imaging.texts.TokenizedTexts.
    """

    read_words = None
    num_branches = 0
    view_branches = ()  # the number of the branch of each input

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
        image_size=None,
        maps=("last",),
        head="block",
        embedding_dim=512,
        center=False,
        whiten=None,
        text_branch=None,
        encoder=None,
    ):
        super().__init__()
        backbone = "vgg16_bn" if VGG16 else backbone
        check_network(
            backbone,
            stride=stride,
            pool=pool,
            LPN=LPN,
            block=block,
            usam=usam,
            maps=maps,
            head=head,
            center=center or whiten,
        )
        options = (class_num, stride, pool, backbone, block if LPN else None, usam, image_size)
        pooling = {"maps": tuple(maps), "rings": block}
        of_images = [n for n in range(1, self.num_branches + 1) if n != text_branch]
        for number in of_images:
            shared = share_weight and number == of_images[-1]
            branch = self.image_branch if shared else make_branch(*options, **pooling)
            self.add_module(f"model_{number}", branch)
        self.input_spec, pooled_dim = self.image_branch.input_spec, self.image_branch.pooled_dim
        if text_branch:
            self.add_module(f"model_{text_branch}", TextBranch(encoder, pooled_dim))
        self.heads = [f"classifier{part}" for part in range(block)] if LPN else ["classifier"]
        self.parts, self.LPN, self.return_f = len(self.heads), LPN, return_f
        self.head_dim = whiten or pooled_dim
        self.embedding_dim = self.parts * (self.head_dim if head == "none" else embedding_dim)
        sizes = self.num_branches, pooled_dim, whiten
        self.center = Centring(*sizes) if center or whiten else None
        for name in self.heads:
            sizes = self.head_dim, class_num, droprate, embedding_dim
            self.add_module(name, make_head(head, *sizes, return_f))

    @property
    def image_branch(self):
        """The first of the branches for images."""
        return branches_of(self)[0]

    def _classify(self, inputs):
        """Outputs for inputs, each through its branch and then the head.

        Inputs are images (B, 3, H, W), token ids (B, L), or None.

        The views of a branch go through it as one batch, and all views through the head as one:
        batch norm is then trained on the same mixture of views as its running statistics, used in
        testing, describe. (The published code normalises each view by itself in training.)
        """
        branches = [getattr(self, f"model_{number}") for number in self.view_branches]
        present = [n for n, x in enumerate(inputs) if x is not None]
        pooled = [None] * len(inputs)
        for key in dict.fromkeys((branches[n], inputs[n].shape[1:]) for n in present):
            members = [n for n in present if (branches[n], inputs[n].shape[1:]) == key]
            batch = [inputs[n] for n in members]
            output = self._branch_output(key[0], torch.cat(batch))
            for n, part in zip(members, _split(output, batch), strict=True):
                pooled[n] = part
        return self.classify_pooled(pooled)

    def classify_pooled(self, pooled):
        """Outputs, or None, for what `_branch_output` gave of each input, or None."""
        pairs = zip(pooled, self.view_branches, strict=True)
        return self.classify_centred([x if x is None else self.centred(x, n) for x, n in pairs])

    def centred(self, pooled, number):
        """Pooled features (B, D) of branch `number` as the head takes them."""
        return self.center(pooled, number) if self.center else pooled

    def classify_centred(self, pooled):
        """Outputs, or None, for what `centred` gave of each input, or None."""
        present = [x for x in pooled if x is not None]
        outputs = iter(self._outputs(present) if present else ())
        return tuple(None if x is None else next(outputs) for x in pooled)

    def _feature_maps(self, branch, images):
        """Images (B, 3, H, W) -> the feature maps [(B, C, H', W')] of a branch."""
        return branch.feature_maps(images)

    def _branch_output(self, branch, images):
        """Images (B, 3, H, W) -> what `_outputs` needs of a branch: pooled features (B, D)."""
        return branch.pooled(self._feature_maps(branch, images))

    def _parts(self, pooled):
        """[(head, pooled features (B, D) of its ring)] with `LPN`, else the one head and all."""
        heads = [getattr(self, name) for name in self.heads]
        return [(head, pooled[:, :, n] if self.LPN else pooled) for n, head in enumerate(heads)]

    def _outputs(self, pooled):
        """Pooled features (B, D) of each view -> the output of each view, see `two_view_net`."""
        outputs = [head(part) for head, part in self._parts(torch.cat(pooled))]
        if not self.LPN:
            return _split(outputs[0], pooled)
        if not self.return_f:
            return _split(torch.stack(outputs, dim=2), pooled)  # (B, class_num, block)
        logits, embeddings = (torch.stack(part, dim=2) for part in zip(*outputs, strict=True))
        return _split((logits, embeddings.flatten(1)), pooled)

    def pool(self, images, number):
        """Images (B, 3, H, W) of branch number 1, 2 (or 3) -> pooled features (B, D).

        Images are converted to the type of the first weights of the branch (half precision in an
        `inference_copy`), feature maps back to float32. Of a branch for texts, token ids (B, L).
        """
        branch = getattr(self, f"model_{number}")
        if images.is_floating_point():
            images = images.to(next(branch.parameters()).dtype)
        maps = self._feature_maps(branch, images)
        return branch.pooled([each.float() for each in maps])

    def embed(self, images, number):
        """Images (B, 3, H, W) of branch number 1, 2 (or 3) -> embedding (B, 512 * parts).

        Embeddings of several versions of an image are added, and `finish` makes the feature of the
        sum. With `LPN` number c of part p stands at c * parts + p, as in published feature files.
        """
        pooled = self.centred(self.pool(images, number), number)
        embedded = [head.embed(part) for head, part in self._parts(pooled)]
        return torch.stack(embedded, dim=2).flatten(1)  # (B, 512, parts) flattened

    def finish(self, embedding):
        """Embeddings, or sums of them, (B, 512 * parts) -> features of length 1, the same shape.

        Each part is divided by its length, and all by sqrt(parts), as published for LPN.
        """
        parts = F.normalize(embedding.unflatten(1, (-1, self.parts)), dim=1)
        return parts.flatten(1) / self.parts**0.5


class two_view_net(_MultiViewNet):
    """Two branches, one head: `net(x1, x2) -> (y1, y2)`; `None` in gives `None` out.

    `y` is the logits (B, class_num), with `LPN` those of each part (B, class_num, block), also in
    evaluation (see `predicted_classes`). With `return_f` it is `(logits, embedding)`, the embedding
    (B, 512 * parts) as `embed` gives it. With `share_weight` both branches are the same.
    """

    num_branches = 2
    view_branches = (1, 2)

    def forward(self, x1, x2):
        return self._classify((x1, x2))


class three_view_net(_MultiViewNet):
    """Three branches, one head: `net(x1, x2, x3, x4=None) -> (y1, y2, y3[, y4])`.

    x1 satellite, x2 street, x3 drone, x4 additional street images, through the street branch. With
    `share_weight` the satellite and drone branches are the same, as published.
    """

    num_branches = 3
    view_branches = (1, 2, 3, 2)

    def forward(self, x1, x2, x3, x4=None):
        outputs = self._classify((x1, x2, x3, x4))
        return outputs[:3] if x4 is None else outputs


class muse_two_view_net(MuSeNet, two_view_net):
    """`two_view_net` as a MuSe-Net: both branches adapt to the weather."""


class muse_three_view_net(MuSeNet, three_view_net):
    """`three_view_net` as a MuSe-Net: the satellite and drone branches adapt, the street's not."""


def predicted_classes(logits):
    """The class (B,) int64 of logits (B, C), or of LPN's (B, C, parts).

    With parts it is the class whose probabilities have the highest sum, as published.
    """
    return logits.argmax(1) if logits.ndim == 2 else logits.softmax(1).sum(2).argmax(1)


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
    encoder=None,
    droprate=0.5,
    share=False,
    LPN=False,
    musenet=False,
    btnk=None,
    return_weather=False,
    stages=(1, 2),
    **options,
):
    """The network for two views of any name, for satellite, street and drone, or two and text.

    `encoder` is that of the view `text` (networks/text.py). `options` are those of the networks
    above: stride, pool, backbone, LPN, block, usam, return_f, image_size, maps, head,
    embedding_dim, center, whiten.
    `musenet` makes the branches adapt to the weather; only then `btnk`, `return_weather` and
    `stages` have a meaning, see `networks.musenet.MuSeNet`. ValueError where options do not fit
    together.
    """
    views = tuple(view_names)
    if len(views) != 2 and views != THREE_VIEWS and (len(views) != 3 or views[2] != TEXT):
        expected = f"two of any name, {','.join(THREE_VIEWS)}, or two and {TEXT}"
        raise ValueError(f"views {','.join(views)}: expected {expected}")
    if TEXT in views:
        if share and len(views) == 2:
            raise ValueError(
                "--share is of two views of images, and there is one: leave it out, or give "
                "--no-share where a recipe has set it"
            )
        if LPN or musenet:
            raise ValueError(f"{'--musenet' if musenet else '--LPN'} has no branch for texts")
        options |= {"text_branch": views.index(TEXT) + 1, "encoder": encoder}
    network = two_view_net if len(views) == 2 else three_view_net
    if musenet:
        network = muse_two_view_net if len(views) == 2 else muse_three_view_net
        options |= {"btnk": btnk, "return_weather": return_weather, "stages": stages}
    return network(class_num, droprate, share_weight=share, LPN=LPN, **options)


def views_from_opts(opts):
    """View names and the extra-google switch of a run's options, ours or the published ones.

    Published run folders do not name their views: 2 is satellite + street, 3 adds the drone.
    """
    views = opts.get("view_names")
    if views is None and opts.get("views") in (2, 3):
        views = THREE_VIEWS[: int(opts["views"])]
    named = isinstance(views, (list, tuple)) and all(isinstance(view, str) for view in views)
    if not named or len(set(views)) < len(views):
        raise ValueError(
            f"opts.yaml has views: {opts.get('views')!r} and view_names: {views!r}: expected "
            "`views: 2` or `views: 3`, or a list of different view names"
        )
    return tuple(views), switch_in(opts, "extra_Google") and len(views) == 3


def model_from_opts(opts, weights=None, encoder=None):
    """Rebuild a trained network from the options of its run folder (a dict, see utils.read_opts).

    Understands the run folders of this project and of University1652-Baseline, LPN, RK-Net and
    MuSe-Net; keys that older files lack have the published defaults. `weights` is the state dict of
    the run, whose keys alone tell a published RK-Net; `encoder` that of its texts, if it has any.
    ValueError where an option is impossible.
    """
    view_names, _ = views_from_opts(opts)
    options = network_options(opts, view_names, weights)
    return build_model(view_names=view_names, encoder=encoder, **options)


# ---------------------------------------------------------------- ImageNet weights
def load_backbone(network, state, source, state_ibn=None, source_ibn=None):
    """Load ImageNet weights, a state dict of torchvision or timm, into every branch of a network.

    ValueError where it does not fit; `source` names its file there. The adaptive branches of
    MuSe-Net take `state_ibn` of `source_ibn` where that is given, see `load_ibn_weights`.
    """
    for branch in branches_of(network):
        if is_ibn(branch):
            load_ibn_weights(branch, state, source, state_ibn, source_ibn)
        else:
            branch.load_imagenet(state, source)


# ---------------------------------------------------------------- trained runs
def read_run(run_dir, checkpoint):
    """The network of a run folder with the weights of the file `checkpoint`, on the CPU.

    Returns and raises as `load_run`.
    """
    run_opts = utils.read_opts(run_dir)
    weights = from_published(utils.load_state_dict(checkpoint))
    view_names, extra_google = views_from_opts(run_opts)
    switch_in(run_opts, "no_flip")  # the only switch of these that is for testing
    encoder = read_encoder(run_dir, run_opts) if TEXT in view_names else None
    network = model_from_opts(run_opts, weights, encoder)
    if encoder:
        limit = option_in(run_opts, "text_tokens", int, None)
        words = {"tokenizer": read_tokenizer(run_dir), "limit": limit}
        need_same_words(words["tokenizer"], encoder, run_dir)
        network.read_words = partial(TokenizedTexts, **words)
    utils.load_weights(network, checkpoint, weights)
    return network, branch_numbers(view_names, extra_google), run_opts


def load_run(name, which_epoch, device):
    """The trained network of the run folder model/<name> on a device, ready for testing.

    Returns (network, branch numbers by view name, options of the run). FileNotFoundError or
    ValueError where the folder, the epoch or the file is not what a run leaves.
    """
    run_dir = utils.run_folder(name)
    checkpoint = utils.find_checkpoint(run_dir, which_epoch)
    network, numbers, run_opts = read_run(run_dir, checkpoint)
    print(f"weights: {checkpoint}")
    return network.to(device).eval(), numbers, run_opts


if __name__ == "__main__":
    raise SystemExit("model.py is a library: run train.py or test.py")
