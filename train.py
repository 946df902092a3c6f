"""Train a network into model/<name>/ from a data folder in the University-1652 layout.

python train.py --name two_view --data_dir data/toy --train_all
python train.py --name two_view --resume            # continue an interrupted run exactly
python train.py --config recipes/strong.yaml --name strong --data_dir data/toy
torchrun --nproc_per_node 4 train.py --name two_view --data_dir data/toy       # on four GPUs
"""

import argparse
import functools
import inspect
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import utils
from runtime import cli, processes, progress, startup
from runtime.cli import natural_int, number_within, positive_int, script

SNAPSHOT_EVERY = 10  # epochs
# An option that is off by default and has a `--no-` form, for what a recipe may have switched on.
SWITCH = {"action": argparse.BooleanOptionalAction, "default": False}
READ_EVERY = 100  # steps on a GPU between two looks at the loss
VIEW_CHOICES = {"2": ("satellite", "drone"), "3": ("satellite", "street", "drone")}
# What a resumed run may change: where and how it runs, and for how long, never what it computes.
FREE_ON_RESUME = {
    *("config", "data_dir", "device", "gpu_ids", "num_workers", "epochs"),
    *("compile", "cache", "grad_checkpoint"),
}
REFUSED = {
    "use_dense": "it never had an effect in the published code; choose a network with --backbone",
    "use_NAS": "it never had an effect in the published code; choose a network with --backbone",
}
PAIR_LOSSES = ("circle", "contrast", "triplet", "lifted")  # of images of one group
PUBLISHED_LOSSES = ("arcface", "cosface", "sphere", *PAIR_LOSSES)


# ---------------------------------------------------------------- options
def view_names(text):
    """argparse type: `2`, `3`, or names such as `satellite,street`, as a list of view names."""
    from_number = VIEW_CHOICES.get(text)
    names = list(from_number or (part.strip() for part in text.split(",")))
    known = {"satellite", "street", "drone", "google"}
    if not known.issuperset(names) or len(set(names)) != len(names) or len(names) not in (2, 3):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 2, 3, or two different names of {', '.join(sorted(known))}"
        )
    if len(names) == 3 and set(names) != set(VIEW_CHOICES["3"]):
        raise argparse.ArgumentTypeError(
            f"{text!r}: three views are satellite,street,drone; --extra_Google adds google to them"
        )
    return list(VIEW_CHOICES["3"]) if len(names) == 3 else names


def build_parser():
    """The parser: published flags under their published names, then our additions."""
    parser = cli.Parser(
        description="Train a network into model/<name>/.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    run = parser.add_argument_group("run")
    run.add_argument("--name", default="two_view", help="name of the run folder in model/")
    run.add_argument(
        "--config",
        default=None,
        metavar="FILE",
        help="options of a recipe, recipes/NAME.yaml; those of the command line win",
    )
    run.add_argument("--resume", action="store_true", help="continue the run --name exactly")
    run.add_argument("--overwrite", action="store_true", help="replace an earlier run of this name")
    cli.add_machine_options(run)
    run.add_argument("--seed", type=natural_int, default=0, help="seed of everything random")

    _add_data_options(parser.add_argument_group("data"))
    _add_network_options(parser.add_argument_group("network"))
    _add_loss_options(parser.add_argument_group("losses"))
    _add_optimisation_options(parser.add_argument_group("optimisation"))
    cli.add_refused(parser.add_argument_group("published flags that are refused"), REFUSED)
    return parser


def _add_data_options(data):
    data.add_argument("--data_dir", default="./data/train", help="data folder or its train/")
    data.add_argument(
        "--views",
        dest="view_names",
        type=view_names,
        default="2",
        help="2 (satellite, drone), 3 (and street), or names: satellite,street",
    )
    data.add_argument(
        "--extra_Google",
        "--extra",
        **SWITCH,
        help="with --views 3: add the google images to the street branch",
    )
    data.add_argument(
        "--train_all",
        **SWITCH,
        help="train on all buildings; else a tenth is held out for validation",
    )
    data.add_argument(
        "--sampler",
        default="paired",
        choices=("paired", "independent"),
        help="paired: one image of each view of the same buildings; independent: "
        "every view shuffled on its own, as published",
    )
    data.add_argument(
        "--epoch_over",
        default=None,
        choices=("satellite", "street", "drone"),
        help="paired: the view of which an epoch shows every image once (None: the first view)",
    )
    data.add_argument(
        "--images_per_building",
        type=positive_int,
        default=1,
        help="paired: images of each view of a building in a batch (the K of P x K)",
    )
    data.add_argument(
        "--joint_flips",
        **SWITCH,
        help="paired: mirror all images of a building in a batch, or none",
    )
    data.add_argument(
        "--batchsize",
        type=positive_int,
        default=8,
        help="images per view and step (of each process of torchrun)",
    )
    data.add_argument(
        "--hard_negatives",
        default="none",
        choices=("none", "similarity", "coordinates", "both"),
        help="paired: fill batches with buildings that look alike, or stand close by "
        "(coordinates.csv of the data folder); both: close by until the first look",
    )
    data.add_argument(
        "--hard_negatives_every",
        type=positive_int,
        default=4,
        help="epochs between two looks at which buildings are alike",
    )
    data.add_argument("--h", type=_image_side, default=384, help="input height, pixels")
    data.add_argument("--w", type=_image_side, default=384, help="input width, pixels")
    data.add_argument("--pad", type=natural_int, default=10, help="padding before crop, pixels")
    data.add_argument(
        "--no_turn",
        action="store_true",
        help="do not turn satellite images, as those in polar coordinates must not be",
    )
    data.add_argument("--color_jitter", **SWITCH, help="jitter the colours")
    data.add_argument("--DA", **SWITCH, help="AutoAugment (ImageNet policy)")
    data.add_argument(
        "--erasing_p", type=number_within(0, 1), default=0.0, help="random erasing, probability"
    )
    data.add_argument(
        "--weather",
        type=_conditions,
        default=[],
        metavar="NAME,...",
        help="draw weather on drone images: all, or of normal, fog, rain, snow, dark, "
        "over_exposure, fog_rain, fog_snow, rain_snow, wind",
    )
    data.add_argument(
        "--zoom",
        type=number_within(1, 4),
        default=1.0,
        help="magnify by up to this, or as much smaller",
    )
    data.add_argument(
        "--recolour",
        type=number_within(0, 1),
        default=0.0,
        help="strength of a random change of brightness, contrast and each colour's gamma",
    )
    cli.add_cache_option(data)


def _add_network_options(net):
    net.add_argument(
        "--backbone",
        default="resnet50",
        help="network of the branches: resnet18, resnet50, resnet101, vgg16_bn, convnext_tiny, "
        "swin_t, vit_b_16, ... of torchvision, or timm:NAME; a wrong name prints all",
    )
    net.add_argument(
        "--use_vgg16",
        dest="backbone",
        action="store_const",
        const="vgg16_bn",
        default=argparse.SUPPRESS,
        help="the same as --backbone vgg16_bn",
    )
    net.add_argument("--share", **SWITCH, help="one set of weights: satellite, drone")
    net.add_argument(
        "--droprate", type=number_within(0, 1), default=0.5, help="dropout before the classifier"
    )
    net.add_argument(
        "--pool", default="avg", choices=("avg", "max", "avg+max", "gem", "cls"), help="pool"
    )
    net.add_argument("--stride", type=int, default=2, choices=(1, 2), help="last ResNet stage")
    net.add_argument("--LPN", **SWITCH, help="square rings, each with its own head")
    net.add_argument("--block", type=positive_int, default=4, help="number of rings of --LPN")
    net.add_argument("--usam", **SWITCH, help="RK-Net's attention in a ResNet")
    net.add_argument(
        "--musenet",
        **SWITCH,
        help="MuSe-Net: satellite and drone branches adapt to the weather (resnet50, 101, 18)",
    )
    net.add_argument(
        "--btnk",
        type=_switches,
        default=None,
        metavar="0,1,...",
        help="blocks that --musenet modulates, 0 or 1 for each of layer1, then of layer2 "
        "(None: layer1 without its first)",
    )
    net.add_argument(
        "--ibn_weights",
        default=None,
        help="file of IBN-Net's weights for --musenet (None: downloaded; with --weights made of "
        "these)",
    )
    net.add_argument("--no_pretrained", action="store_true", help="start from random weights")
    net.add_argument("--weights", default=None, help="file of torchvision backbone weights")


def _add_loss_options(group):
    group.add_argument(
        "--loss_weights",
        type=_loss_weights,
        default={"instance": 1.0},
        metavar="NAME=WEIGHT,...",
        help="weights of the loss terms, e.g. instance=1,infonce=0.5; a wrong name prints all; "
        "instance is 1 unless it is named",
    )
    for name in PUBLISHED_LOSSES:
        group.add_argument(
            f"--{name}", action="store_true", help=f"the same as --loss_weights {name}=1"
        )
    group.add_argument(
        "--loss_merge",
        **SWITCH,
        help="metric losses compare the images of all views together, not view by view",
    )


def _add_optimisation_options(optim):
    optim.add_argument("--epochs", type=positive_int, default=120, help="epochs to train")
    optim.add_argument("--optimizer", default="sgd", choices=("sgd", "adamw"), help="optimizer")
    optim.add_argument(
        "--lr",
        type=number_within(0, above=True),
        default=0.01,
        help="learning rate of the head",
    )
    optim.add_argument(
        "--backbone_lr",
        type=number_within(0, above=True),
        default=None,
        help="backbone's learning rate as a multiple of --lr "
        "(None: 0.1, or 1 with --no_pretrained)",
    )
    optim.add_argument(
        "--weight_decay",
        type=number_within(0),
        default=None,
        help="weight decay (None: 5e-4 of sgd, 0.01 of adamw)",
    )
    optim.add_argument(
        "--schedule",
        default="step",
        choices=("step", "cosine"),
        help="how the learning rate falls: tenfold at --step_size, or by half a cosine to zero",
    )
    optim.add_argument(
        "--step_size",
        type=_epochs,
        default=None,
        help="epochs after which the learning rate falls tenfold again and again, or the epochs "
        "at which it does, e.g. 120,180 (None: two thirds of --epochs)",
    )
    optim.add_argument(
        "--warm_epoch",
        "--warm",
        type=number_within(0),
        default=0.0,
        help="epochs over which the learning rate rises from a tenth",
    )
    optim.add_argument(
        "--clip_norm",
        type=number_within(0, above=True),
        default=None,
        help="largest norm of the gradient of all weights together",
    )
    optim.add_argument(
        "--clip_value",
        type=number_within(0, above=True),
        default=None,
        help="largest size of each number of the gradient",
    )
    optim.add_argument(
        "--micro_batchsize",
        type=_at_least_two,
        default=None,
        help="images per view that are in memory at once: a larger --batchsize goes through in "
        "parts, twice, and the loss compares all of it; batch norm sees each part",
    )
    optim.add_argument(
        "--grad_checkpoint",
        **SWITCH,
        help="compute the blocks of the network twice instead of keeping what is in them",
    )
    optim.add_argument(
        "--moving_avg",
        type=number_within(0, 1),
        default=1.0,
        help="decay of an exponential moving average of the weights per step, "
        "saved in their place; 1: none",
    )
    cli.add_precision_options(optim)
    optim.add_argument(
        "--sync_bn",
        action="store_true",
        help="with torchrun on GPUs: batch norm over the batch of all processes, not of each",
    )
    optim.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network: minutes at the start, pays on a GPU in a long run",
    )


def _loss_weights(text):
    from losses import parse_loss_weights  # imports torch

    return parse_loss_weights(text)


def _conditions(text):
    from imaging.weather import parse_conditions

    return list(parse_conditions(text))  # a list, as opts.yaml gives it back


def _switches(text):
    if not set(text.split(",")) <= {"0", "1"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of 0 and 1 such as 0,1,1")
    return [int(part) for part in text.split(",")]


def _image_side(text):
    value = positive_int(text)
    if value < 32:
        raise argparse.ArgumentTypeError(f"{value} is too small: at least 32 pixels")
    return value


def _at_least_two(text):
    value = positive_int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} is too small: batch norm needs two images")
    return value


def _epochs(text):
    """A number of epochs, or several as a list."""
    numbers = [positive_int(part) for part in text.split(",")]
    if numbers != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a rising list of epochs")
    return numbers[0] if len(numbers) == 1 else numbers


def parse_args(argv=None):
    """Options of a run; with --resume those of its opts.yaml, which the command line must match."""
    parser = build_parser()
    opts = parser.parse_args(argv)
    if not opts.resume:
        opts = parser.parse_args(cli.with_config(parser, argv))
    else:  # opts.yaml holds what the recipe said
        saved = utils.read_opts(utils.run_folder(opts.name))
        begun, now = saved.get("world_size", 1), processes.world_size()
        if begun != now:
            parser.error(
                f"{opts.name} was begun with {begun} process(es), not with {now}: --resume "
                f"continues it as it was; start it "
                + ("without torchrun" if begun == 1 else f"with torchrun, {begun} in all")
            )
        # What an older version had no option for, it did as the default says.
        usual = {key: parser.get_default(key) for key in vars(opts)}
        saved = {key: saved.get(key, value) for key, value in usual.items()}
        saved = {key: value for key, value in saved.items() if key not in ("resume", "overwrite")}
        parser.set_defaults(**saved)
        opts = parser.parse_args(argv)
        for key in sorted(saved.keys() - FREE_ON_RESUME):
            if getattr(opts, key) != saved[key]:
                parser.error(
                    f"{_flag(key)} {getattr(opts, key)} differs from {saved[key]}, with which "
                    f"{opts.name} was begun: --resume continues it as it was; drop the option, or "
                    "start a run of another --name"
                )
        if opts.schedule == "cosine" and opts.epochs != saved["epochs"]:
            parser.error(
                f"--epochs {opts.epochs}: the learning rate of {opts.name} ends at zero after "
                f"{saved['epochs']} epochs: start a longer run of another --name"
            )
    published = {name: 1.0 for name in PUBLISHED_LOSSES if getattr(opts, name)}
    opts.loss_weights = {**published, **opts.loss_weights}
    if opts.musenet:
        opts.loss_weights.setdefault("weather", 1.0)
    _check_combinations(parser, opts)
    if opts.backbone_lr is None:
        opts.backbone_lr = 1.0 if opts.no_pretrained else 0.1
    if opts.step_size is None and opts.schedule == "step":
        opts.step_size = max(1, round(opts.epochs * 2 / 3))  # the published 80 of 120
    opts.world_size = processes.world_size()
    return opts


def _flag(key):
    return "--views" if key == "view_names" else f"--{key}"


def _check_combinations(parser, opts):
    if opts.extra_Google and len(opts.view_names) != 3:
        parser.error(
            "--extra_Google adds to the street branch of three views: give --views 3, or "
            "--no-extra_Google where a recipe has set it"
        )
    if opts.pad >= min(opts.h, opts.w):
        parser.error(f"--pad {opts.pad} does not fit images of {opts.h} x {opts.w}: lower it")
    if opts.no_pretrained and opts.weights:
        parser.error("--no_pretrained and --weights FILE contradict each other")
    if opts.resume and opts.overwrite:
        parser.error("--resume and --overwrite contradict each other")
    if opts.backbone == "vgg16_bn" and opts.stride == 1:
        parser.error("--stride 1 changes a ResNet's last stage; vgg16_bn has none")
    if opts.cache != "none" and (opts.color_jitter or opts.DA or opts.weather):
        parser.error(
            "--cache keeps resized images, and --color_jitter, --DA and --weather change an image "
            "before it is resized: use one or the other"
        )
    if opts.weather and "drone" not in opts.view_names:
        parser.error("--weather is drawn on drone images, and --views has none")
    _check_musenet(parser, opts)
    if opts.sync_bn and processes.world_size() == 1:
        parser.error("--sync_bn joins the batches of several processes: start them with torchrun")
    if opts.compile and (opts.micro_batchsize or opts.grad_checkpoint):
        parser.error(
            "--compile saves memory its own way: drop --micro_batchsize, --grad_checkpoint"
        )
    if opts.micro_batchsize and opts.micro_batchsize > opts.batchsize:
        parser.error(
            f"--micro_batchsize {opts.micro_batchsize} is above --batchsize {opts.batchsize}"
        )
    _check_sampling(parser, opts)
    if opts.step_size and opts.schedule != "step" and not opts.resume:
        parser.error(f"--step_size is of --schedule step, not of {opts.schedule}")
    if opts.block != parser.get_default("block") and not opts.LPN and not opts.resume:
        parser.error(f"--block {opts.block} is the number of rings of --LPN: add it")
    if opts.moving_avg == 0:
        parser.error("--moving_avg 0 would keep no average: give a decay such as 0.999, or 1")
    if opts.droprate == 1:
        parser.error("--droprate 1 would drop everything: give less than 1")


def _check_musenet(parser, opts):
    if opts.no_pretrained and opts.ibn_weights:
        parser.error("--no_pretrained and --ibn_weights FILE contradict each other")
    if opts.musenet and opts.grad_checkpoint:
        parser.error("--musenet has no gradient checkpointing: leave --grad_checkpoint out")
    if opts.musenet and not opts.weather:
        parser.error("--musenet learns to tell the weather: give some to learn, --weather all")
    if opts.musenet:
        return
    for flag, given in (("--btnk", opts.btnk), ("--ibn_weights", opts.ibn_weights)):
        if given:
            parser.error(f"{flag} is of --musenet: add it")
    if opts.loss_weights.get("weather"):
        parser.error("the weather loss judges the weather that --musenet sees: add it")


def _check_sampling(parser, opts):
    paired = {
        "--epoch_over": opts.epoch_over,
        "--images_per_building": opts.images_per_building > 1,
        "--joint_flips": opts.joint_flips,
        "--hard_negatives": opts.hard_negatives != "none",
    }
    for flag, given in paired.items():
        if given and opts.sampler != "paired":
            parser.error(f"{flag} is of --sampler paired, not of {opts.sampler}")
    looking = opts.hard_negatives in ("similarity", "both")
    if opts.hard_negatives_every != parser.get_default("hard_negatives_every") and not looking:
        parser.error("--hard_negatives_every is of --hard_negatives similarity or both: add it")
    if opts.hard_negatives == "similarity" and opts.epochs <= opts.hard_negatives_every:
        parser.error(
            f"--hard_negatives similarity looks every {opts.hard_negatives_every} epochs, never in "
            f"{opts.epochs}: lower --hard_negatives_every, or use both"
        )
    if opts.epoch_over and opts.epoch_over not in opts.view_names:
        parser.error(f"--epoch_over {opts.epoch_over} is none of {', '.join(opts.view_names)}")
    if opts.images_per_building > max(1, opts.batchsize):
        parser.error(
            f"--images_per_building {opts.images_per_building} does not fit in --batchsize "
            f"{opts.batchsize}"
        )
    alone = opts.sampler == "paired" and opts.images_per_building == 1 and not opts.loss_merge
    for name in PAIR_LOSSES:
        if alone and opts.loss_weights.get(name):
            parser.error(
                f"the {name} loss has nothing to compare: a view shows a building once in a batch; "
                "add --loss_merge or --images_per_building 2"
            )


def input_views(opts):
    """The views the network is called with, in order; a view may be absent from a batch."""
    return [*opts.view_names, *(["google"] if opts.extra_Google else [])]


# ---------------------------------------------------------------- data
@dataclass
class TrainingData:
    """Class list, loader and sampler of the training buildings, and the held-out images."""

    class_names: list
    samples: dict  # {view: [(path, label)]}
    loader: Any
    sampler: Any
    held_out: dict  # {view: {ID: paths}}, empty with --train_all
    images: dict  # {view: cache.ResizedImages}


def open_data(opts, pin_memory):
    """Scan the views asked for, split the buildings, build the loader."""
    import dataset
    from imaging.augmentation import Augmentation
    from imaging.cache import open_view
    from training import samplers

    views = input_views(opts)
    scanned = dataset.scan_training_views(opts.data_dir, views)
    class_names, held_out = dataset.class_list(scanned), {}
    if not opts.train_all:
        pair = (opts.view_names[0], opts.view_names[-1])
        in_both = [name for name in class_names if all(scanned[view].get(name) for view in pair)]
        held_names = dataset.hold_out(in_both, opts.seed)
        held_out = {view: {name: scanned[view][name] for name in held_names} for view in pair}
        class_names = [name for name in class_names if name not in held_out[pair[0]]]
    samples = dataset.label_samples(scanned, class_names)
    images = {
        view: open_view(
            [path for paths in scanned[view].values() for path in paths],
            opts.h,
            opts.w,
            opts.cache,
            opts.num_workers,
        )
        for view in views
    }
    augmentations = {
        view: Augmentation(
            opts.h,
            opts.w,
            turned=view == "satellite" and not opts.no_turn,
            pad=opts.pad,
            color_jitter=opts.color_jitter,
            auto_augment=opts.DA,
            erasing_p=opts.erasing_p,
            zoom=opts.zoom,
            recolouring=opts.recolour,
            weather=tuple(opts.weather) if view == "drone" else (),
        )
        for view in views
    }
    paired = {
        "anchor_view": opts.epoch_over,
        "images_per_building": opts.images_per_building,
        "joint_flips": opts.joint_flips,
    }
    sampler = samplers.SAMPLERS[opts.sampler](
        samples,
        opts.batchsize,
        opts.seed,
        rank=processes.rank(),
        world_size=processes.world_size(),
        **(paired if opts.sampler == "paired" else {}),
    )
    loader = dataset.batch_loader(
        dataset.TrainingViews(samples, images, augmentations),
        sampler,
        opts.num_workers,
        pin_memory,
    )
    counts = ", ".join(f"{len(pairs)} {view}" for view, pairs in samples.items())
    print(f"{len(class_names)} buildings, {counts} images, {len(sampler)} steps an epoch")
    if opts.world_size > 1:
        print(
            f"{opts.world_size} processes of {opts.batchsize} images per view: an effective batch "
            f"of {opts.world_size * opts.batchsize}, learning rate {opts.lr:g}"
        )
    return TrainingData(class_names, samples, loader, sampler, held_out, images)


# ---------------------------------------------------------------- training
@dataclass
class Training:
    """Everything a step needs; `forward` is the network, compiled where asked for."""

    network: Any
    forward: Any
    views: list
    losses: Any
    optimizer: Any
    scaler: Any
    average: Any  # AveragedModel or None
    device: Any
    precision: str
    clip: dict  # arguments of optimisation.clip_gradients
    micro_batchsize: int | None  # images per view in memory at once

    @property
    def evaluated(self):
        """The network that is saved and validated: the moving average where there is one."""
        return self.average.module if self.average else self.network


def build_network(opts, class_num):
    """The network of the options, with ImageNet or given weights unless --no_pretrained."""
    import model
    from losses import LOGIT_TERMS
    from networks.backbones import download_imagenet_weights
    from networks.musenet import download_ibn_weights

    used = {name for name, weight in opts.loss_weights.items() if weight}
    network = model.build_model(
        class_num,
        tuple(opts.view_names),
        backbone=opts.backbone,
        droprate=opts.droprate,
        stride=opts.stride,
        pool=opts.pool,
        share=opts.share,
        LPN=opts.LPN,
        block=opts.block,
        usam=opts.usam,
        return_f=bool(used - set(LOGIT_TERMS)),
        musenet=opts.musenet,
        btnk=opts.btnk,
        return_weather="weather" in used,
    )
    network.input_spec.check_size(opts.backbone, opts.h, opts.w)
    if opts.resume or opts.no_pretrained:
        return network
    if opts.weights:
        weights, source = utils.load_tensors(opts.weights), opts.weights
    else:
        weights, source = download_imagenet_weights(opts.backbone), "the ImageNet weights"
    ibn, ibn_source = None, opts.ibn_weights
    if opts.ibn_weights:
        ibn = utils.load_tensors(opts.ibn_weights)
    elif opts.musenet and not opts.weights:
        ibn, ibn_source = download_ibn_weights(opts.backbone), "IBN-Net's weights"
    model.load_backbone(network, weights, source, ibn, ibn_source)
    return network


def compile_network(network, device):
    """`torch.compile` for fixed batch sizes: each combination of sizes is compiled by itself.

    The paired sampler draws two sizes, b and b - 1; more come where buildings lack a view, and
    beyond torch's limit (eight) a batch runs uncompiled. On a GPU the kernels of a pass are
    replayed as one CUDA graph, because small batches wait for Python more than for the GPU.
    """
    import torch

    alone = processes.world_size() == 1  # else gradients are exchanged in the midst of a pass
    mode = "reduce-overhead" if device.type == "cuda" and alone else "default"
    return torch.compile(network, dynamic=False, mode=mode)


def distribute(network, device):
    """The network to call in training: with gradients averaged over torchrun's processes, if any.

    Batch norm's running statistics are not exchanged in every step: their update is linear, so to
    average them once, after an epoch (`average_statistics`), comes to the same.
    """
    if processes.world_size() == 1:
        return network
    from torch.nn.parallel import DistributedDataParallel

    own = [device] if device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    # The name since torch 2.14, and the one before.
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(network, device_ids=own, **{name: False})


def average_statistics(*networks):
    """Average batch norm's running statistics over the processes, in place."""
    for network in networks:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                processes.sum_over_ranks(buffer).div_(processes.world_size())


def build_training(opts, network, device, class_num):
    """Losses, optimizer, loss scaler and moving average around a network."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    import losses
    from model import split_parameters
    from networks.backbones import branches_of
    from training import optimisation

    if opts.sync_bn:
        if device.type != "cuda":
            raise ValueError("--sync_bn works on GPUs alone: leave it out with --device cpu")
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if opts.grad_checkpoint:
        for branch in branches_of(network):
            branch.checkpoint_gradients()
    network.to(device, memory_format=torch.channels_last)
    terms = losses.build_losses(
        opts.loss_weights, class_num, 512 * network.parts, loss_merge=opts.loss_merge
    ).to(device)
    average = None
    if opts.moving_avg < 1:
        average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(opts.moving_avg), use_buffers=True
        )
    forward = distribute(network, device)
    head, backbone = split_parameters(network)
    groups = [(backbone, opts.lr * opts.backbone_lr), ([*head, *terms.parameters()], opts.lr)]
    return Training(
        network=network,
        forward=compile_network(forward, device) if opts.compile else forward,
        views=input_views(opts),
        losses=terms,
        optimizer=optimisation.build_optimizer(groups, opts.optimizer, opts.weight_decay),
        scaler=torch.amp.GradScaler(device.type, enabled=opts.fp16),
        average=average,
        device=device,
        precision=cli.precision_of(opts),
        clip={"norm": opts.clip_norm, "value": opts.clip_value},
        micro_batchsize=opts.micro_batchsize,
    )


def with_every_view(batch, views):
    """The batch with an empty one, (0, 3, H, W), for each view that it lacks.

    Of several processes each must go through all weights, for they wait for one another's
    gradients. An empty batch gives gradients of zero and leaves batch norm as it was.
    """
    import torch

    images = next((x for x, *_ in batch.values()), torch.empty(0, 3, 32, 32, dtype=torch.uint8))
    empty = images[:0], torch.empty(0, dtype=torch.long)
    return {view: batch.get(view, empty) for view in views}


def gather_views(outputs, labels, sizes):
    """Outputs {view: losses.Output} and labels {view: (B,)} -> those of all processes' batch.

    Every process then computes the loss of the whole batch, whatever that compares. A view of
    which no process has an image is left out.
    """
    from losses import Output
    from runtime.exchange import gather_batch

    present = [view for view in outputs if any(sizes[view])]
    # Weights that only an absent view uses must get their gradient of zero all the same.
    absent = [x for view in outputs if view not in present for x in outputs[view]]
    nothing = sum(0 * x.sum() for x in absent if x is not None)

    def gather(output, counts):
        *computed, condition = output  # the last is a label, as integers
        computed = [x if x is None else gather_batch(x + nothing, counts) for x in computed]
        if condition is not None:
            condition = gather_batch(condition, counts)
        return Output(*computed, condition)

    return (
        {view: gather(outputs[view], sizes[view]) for view in present},
        {view: gather_batch(labels[view], sizes[view]) for view in present},
    )


def forward_views(training, images):
    """{view: losses.Output}, in float32, of images {view: (B, 3, H, W)}."""
    from losses import as_output

    with utils.autocast(training.device, training.precision):
        outputs = training.forward(*[images.get(view) for view in training.views])
    return {
        view: as_output(output)
        for view, output in zip(training.views, outputs, strict=False)
        if output is not None
    }


def condition_of(batch, device):
    """The weather in a view's images, (B,) int64: the last of (images, labels, condition), or 0."""
    import torch

    _, labels, *rest = batch
    condition = rest[0] if rest else torch.zeros_like(labels)
    return condition.to(device, non_blocking=True)


def train_step(training, batch, sizes):
    """One update from a batch of dataset.TrainingViews: loss terms and wrong answers per view.

    Without the instance loss there is no classifier to be wrong. Both are 0-d tensors, {term: loss}
    and {view: count}, and stay on the device: to read one would make this process wait for a GPU in
    every step. `sizes` {view: images in the batch of each process}; the loss and the answers are
    those of the batch of all.
    """
    from dataset import to_network_input
    from model import predicted_classes
    from training import gradient_cache
    from training.optimisation import clip_gradients

    device, spec = training.device, training.network.input_spec
    images = {view: to_network_input(x, device, spec) for view, (x, *_) in batch.items()}
    labels = {view: y.to(device, non_blocking=True) for view, (_, y, *_) in batch.items()}
    longest = max(map(max, sizes.values()))
    parts = gradient_cache.split_batch(images, training.micro_batchsize, longest)
    if len(parts) > 1:
        cache = gradient_cache.GradientCache(training.network, training.forward)
        outputs = cache.first_pass(lambda part: forward_views(training, part), parts)
    else:
        outputs = forward_views(training, images)
    outputs = {
        view: y if y.weather is None else y._replace(condition=condition_of(batch[view], device))
        for view, y in outputs.items()
    }
    if processes.world_size() > 1:
        outputs, labels = gather_views(outputs, labels, sizes)
    terms = training.losses(outputs, labels)
    loss = sum(terms.values())
    if processes.world_size() > 1:  # the processes wait for gradients of what no term uses too
        loss = loss + sum(0 * x.sum() for y in outputs.values() for x in y[:3] if x is not None)
    training.optimizer.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()
    if len(parts) > 1:
        cache.second_pass(lambda part: forward_views(training, part), parts)
    if any(training.clip.values()):
        training.scaler.unscale_(training.optimizer)
        clip_gradients(training.optimizer, **training.clip)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    if training.average:
        training.average.update_parameters(training.network)
    wrong = {}
    if "instance" in training.losses:  # else nothing trains the classifier
        wrong = {
            view: (predicted_classes(y.logits) != labels[view]).sum() for view, y in outputs.items()
        }
    return {name: value.detach() for name, value in terms.items()}, wrong


class Tally:
    """Loss terms and wrong answers of an epoch, left on the device and read every few steps."""

    def __init__(self, read_every):
        self.read_every = read_every
        self.steps = 0
        self.unread = []  # {term: 0-d tensor} of the last steps
        self.sums = {}  # {term: float} of the steps before
        self.wrong, self.seen = {}, {}  # by view

    def add(self, terms, wrong, sizes):
        """Count a step: what `train_step` returned, and was given."""
        self.steps += 1
        self.unread.append(terms)
        for view, count in wrong.items():
            self.wrong[view] = self.wrong.get(view, 0) + count
            self.seen[view] = self.seen.get(view, 0) + sum(sizes[view])
        if len(self.unread) >= self.read_every:
            self.read()

    def read(self):
        """Add up the unread terms; FloatingPointError names a step's term that is not finite."""
        import torch

        from losses import require_finite

        if not self.unread:
            return
        names = list(self.unread[0])
        values = torch.stack([terms[name] for terms in self.unread for name in names])
        first = self.steps - len(self.unread)
        for step, row in enumerate(values.view(-1, len(names)).tolist(), first):
            terms = dict(zip(names, row, strict=True))
            require_finite(terms, step)
            for name, value in terms.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.unread.clear()

    def summary(self):
        """{"loss", a mean per term, "error_<view>" in percent} of all steps."""
        self.read()
        if not self.steps:
            raise ValueError(
                "no batch held two images of one view: add images or raise --batchsize"
            )
        means = {name: value / self.steps for name, value in self.sums.items()}
        errors = {
            f"error_{view}": 100 * int(wrong) / self.seen[view]
            for view, wrong in self.wrong.items()
        }
        return {"loss": sum(means.values()), **means, **errors}


def find_neighbours(training, data, opts, epoch):
    """Before an epoch, where it is due: set the near neighbours that fill a building's batch."""
    import torch

    from training import hard_negatives

    if opts.hard_negatives == "none":
        return
    count = opts.batchsize * opts.world_size  # more are never looked at
    found = None
    if opts.hard_negatives != "similarity" and epoch == 0:
        places = hard_negatives.read_places(opts.data_dir, data.class_names)
        found = hard_negatives.close_by(*places, count)
    looks = epoch > 0 and epoch % opts.hard_negatives_every == 0
    if opts.hard_negatives != "coordinates" and looks:
        found = hard_negatives.alike(*building_features(training, data, opts, epoch), count)
    if found is not None:
        data.sampler.neighbours = torch.from_numpy(found)


def building_features(training, data, opts, epoch):
    """Features of each building in the pair of views that is retrieved, first and last: two (N, D).

    Each is of one image, another one from look to look; a building without a view is known by the
    other view alone.
    """
    import random

    import numpy as np

    from extract import extract_features
    from model import branch_numbers
    from networks.inference import inference_copy

    network = inference_copy(training.network, training.precision)
    found = {}
    for view in (opts.view_names[0], opts.view_names[-1]):
        images_of = {}
        for path, label in data.samples[view]:
            images_of.setdefault(label, []).append(path)
        rng = random.Random(f"{opts.seed}/{epoch}/{view}")
        features = extract_features(
            network,
            branch_numbers(opts.view_names)[view],
            [rng.choice(paths) for paths in images_of.values()],
            data.images[view],
            device=training.device,
            batch_size=opts.batchsize,
            num_workers=opts.num_workers,
            description=f"hard negatives, {view}",
        )
        if not np.isfinite(features).all():
            raise FloatingPointError(
                f"features of epoch {epoch} are not finite: lower --lr, or use --bf16 for --fp16"
            )
        found[view] = np.zeros((len(data.class_names), features.shape[1]), np.float32)
        found[view][list(images_of)] = features
    one, other = found.values()
    return (
        np.where(one.any(axis=1, keepdims=True), one, other),
        np.where(other.any(axis=1, keepdims=True), other, one),
    )


def train_one_epoch(training, data, epoch, lr_factor):
    """Train on every batch.

    Returns {"loss", a mean per term, "error_<view>" in percent, "seconds_waiting" for images}.
    """
    training.network.train()
    training.losses.train()
    data.sampler.epoch = epoch
    tally = Tally(READ_EVERY if training.device.type == "cuda" else 1)
    batches = progress.Stopwatch(progress.progress_bar(data.loader, f"epoch {epoch}"))
    for batch in batches:
        counts = [len(batch[view][1]) if view in batch else 0 for view in training.views]
        gathered = zip(*processes.gather_counts(counts), strict=True)
        sizes = dict(zip(training.views, gathered, strict=True))
        if not any(map(sum, sizes.values())):  # no view had two images
            continue
        if processes.world_size() > 1:
            batch = with_every_view(batch, training.views)
        for group in training.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor(epoch, tally.steps / len(data.loader))
        tally.add(*train_step(training, batch, sizes), sizes)
    if processes.world_size() > 1:
        average_statistics(training.network, *filter(None, [training.average]))
    return {**tally.summary(), "seconds_waiting": batches.seconds}


def validate(training, opts, data):
    """Retrieval among the held-out buildings, last view -> first view: Recall@1 and AP, percent."""
    from dataset import retrieval_labels
    from evaluate_gpu import evaluate
    from extract import view_features
    from model import branch_numbers
    from networks.inference import inference_copy

    network = inference_copy(training.evaluated, training.precision)
    gallery_view, query_view = opts.view_names[0], opts.view_names[-1]
    numbers, label_of = branch_numbers(opts.view_names), retrieval_labels(data.held_out[query_view])
    query, gallery = (
        view_features(
            network,
            numbers[view],
            data.held_out[view],
            label_of,
            data.images[view],
            device=training.device,
            batch_size=opts.batchsize,
            num_workers=opts.num_workers,
            description=f"validation, {view}",
        )
        for view in (query_view, gallery_view)
    )
    if not processes.is_main():  # the first process scores and writes
        return {}
    metrics = evaluate(query, gallery)
    return {"val_recall@1": metrics["recall@1"], "val_AP": metrics["AP"]}


# ---------------------------------------------------------------- run folder
def open_run(opts):
    """The run folder and the files of an earlier run of its name, which a new one replaces.

    Refuses to write over a finished or resumable run unless told to.
    """
    run_dir = utils.run_folder(opts.name)
    weights = [*run_dir.glob("net_*.pth"), *run_dir.glob("train_state.pth")]
    if opts.resume:
        if not (run_dir / "train_state.pth").is_file():
            raise FileNotFoundError(
                f"{run_dir} has no train_state.pth, so there is nothing to resume: it is written "
                "at the end of each epoch; start again without --resume"
            )
    elif weights and not opts.overwrite:
        raise ValueError(
            f"{run_dir} already holds a trained run: continue it with --resume, replace it with "
            "--overwrite, or choose another --name"
        )
    return run_dir, [
        *weights,
        *(run_dir / name for name in ("log.jsonl", "result.txt", "train.jpg")),
    ]


def save_epoch(run_dir, training, data, epoch, log):
    """Write what an epoch leaves: weights and curves every tenth, the log, and, last, the state.

    The state comes last because it is what says that the epoch is complete: a run killed before it
    trains this epoch once more and writes the same files again.
    """
    if (epoch + 1) % SNAPSHOT_EVERY == 0:
        utils.save_tensors(run_dir / f"net_{epoch:03d}.pth", training.evaluated.state_dict())
        draw_curves(run_dir / "train.jpg", log)
    utils.write_log(run_dir, log)
    state = {
        "epoch": epoch,
        "class_names": data.class_names,
        "neighbours": data.sampler.neighbours,
        "network": training.network.state_dict(),
        "losses": training.losses.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "average": training.average.state_dict() if training.average else None,
        "log": log,
    }
    utils.save_tensors(run_dir / "train_state.pth", state)


def load_epoch(run_dir, training, data):
    """Restore the last complete epoch; returns (the next epoch, the log so far)."""
    from training.optimisation import load_optimizer

    path = run_dir / "train_state.pth"
    state = utils.load_tensors(path)
    try:
        if state["class_names"] != data.class_names:
            raise ValueError(
                f"{path} was trained on {len(state['class_names'])} buildings and --data_dir holds "
                f"{len(data.class_names)}, or others: give the data folder the run was begun with"
            )
        training.network.load_state_dict(state["network"])
        training.losses.load_state_dict(state["losses"])
        load_optimizer(training.optimizer, state["optimizer"])
        data.sampler.neighbours = state.get("neighbours")
        training.scaler.load_state_dict(state["scaler"])
        if training.average:
            training.average.load_state_dict(state["average"])
        return state["epoch"] + 1, state["log"]
    except (KeyError, TypeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["?"])[0]
        raise ValueError(
            f"{path} does not fit this run ({reason}): it was written by another version or is "
            "damaged; start again with --overwrite"
        ) from None


def draw_curves(path, log):
    """Draw loss, top-1 error and (where there is one) validation recall against the epoch."""
    epochs = [entry["epoch"] for entry in log]
    validated = [entry for entry in log if "val_recall@1" in entry]
    panels = 3 if validated else 2
    with utils.chart(path, (4.6 * panels, 3.6), panels) as axes:
        axes[0].plot(epochs, [entry["loss"] for entry in log], color="black")
        axes[0].set(title="Training loss", xlabel="epoch", ylim=(0, None))
        for key in dict.fromkeys(key for entry in log for key in entry if key.startswith("error_")):
            errors = [entry.get(key, float("nan")) for entry in log]
            axes[1].plot(epochs, errors, label=key.removeprefix("error_"))
        axes[1].set(title="Top-1 training error (%)", xlabel="epoch", ylim=(0, 100))
        if axes[1].lines:  # no classifier is trained without the instance loss
            axes[1].legend(frameon=False)
        if validated:
            for key, label in (("val_recall@1", "Recall@1"), ("val_AP", "AP")):
                points = [entry[key] for entry in validated]
                measured = [entry["epoch"] for entry in validated]
                axes[2].plot(measured, points, marker="o", label=label)
            axes[2].set(title="Held-out buildings (%)", xlabel="epoch", ylim=(0, 100))
            axes[2].legend(frameon=False)


def format_epoch(entry, epochs):
    """The line printed for an epoch."""
    parts = [f"epoch {entry['epoch']}/{epochs - 1}", f"loss {entry['loss']:.4f}"]
    parts += [
        f"{key.replace('error_', 'error ')} {value:.2f}%"
        for key, value in entry.items()
        if key.startswith("error_")
    ]
    if "val_recall@1" in entry:
        parts.append(f"held-out R@1 {entry['val_recall@1']:.2f} AP {entry['val_AP']:.2f}")
    waiting = entry["seconds_waiting"] / entry["seconds"]
    times = f"{entry['seconds']:.1f} s ({waiting:.0%} waiting for images)"
    return "  ".join([*parts, f"lr {entry['lr']:.2g}", times])


# ---------------------------------------------------------------- main
def run_epochs(training, data, opts, run_dir, start, log):
    """Train from epoch `start` to the end, writing each; returns the log."""

    from training.optimisation import learning_rate_factor

    lr_factor = functools.partial(
        learning_rate_factor,
        epochs=opts.epochs,
        schedule=opts.schedule,
        warm_epoch=opts.warm_epoch,
        step_size=opts.step_size,
    )
    for epoch in range(start, opts.epochs):
        utils.seed_everything(opts.seed, epoch, processes.rank())
        began = time.perf_counter()
        find_neighbours(training, data, opts, epoch)
        stats = train_one_epoch(training, data, epoch, lr_factor)
        entry = {"epoch": epoch, **stats, "lr": opts.lr * lr_factor(epoch, 1.0)}
        if data.held_out and ((epoch + 1) % SNAPSHOT_EVERY == 0 or epoch + 1 == opts.epochs):
            entry.update(validate(training, opts, data))
        entry["seconds"] = time.perf_counter() - began
        log.append(entry)
        print(format_epoch(entry, opts.epochs), flush=True)
        if processes.is_main():
            save_epoch(run_dir, training, data, epoch, log)
    return log


@script
def main(argv=None):
    """Train as the options say; returns the last epoch's record and the run folder."""
    opts = parse_args(argv)
    run_dir, earlier = open_run(opts)
    startup.import_torch()
    device = utils.select_device(opts.device, opts.gpu_ids)
    saved = {k: v for k, v in vars(opts).items() if k not in ("resume", "overwrite")}
    print(f"run {run_dir} on {device}:", " ".join(f"{k}={v}" for k, v in sorted(saved.items())))
    processes.join_processes(device)
    startup.keep_freed_memory()
    with processes.main_process_first() if opts.cache == "disk" else nullcontext():
        data = open_data(opts, pin_memory=device.type == "cuda")
    utils.seed_everything(opts.seed)
    network = build_network(opts, len(data.class_names))
    training = build_training(opts, network, device, len(data.class_names))

    start, log = 0, []
    if opts.resume:
        start, log = load_epoch(run_dir, training, data)
        print(f"resuming after epoch {start - 1}")
        # The last weights go, or test.py would take them for those of this run's end.
        earlier = [run_dir / utils.LAST_WEIGHTS]
        if start >= opts.epochs:
            earlier = []
            more = "give a larger --epochs to go on"
            if opts.schedule == "cosine":
                more = "its learning rate has come to zero"
            print(f"the run has its {start} epochs already: {more}")
    if processes.is_main():
        for path in earlier:
            path.unlink(missing_ok=True)
        utils.write_opts(
            run_dir, {**saved, "nclasses": len(data.class_names), "views": len(opts.view_names)}
        )
    log = run_epochs(training, data, opts, run_dir, start, log)
    if processes.is_main():
        utils.save_tensors(run_dir / utils.LAST_WEIGHTS, training.evaluated.state_dict())
        draw_curves(run_dir / "train.jpg", log)
    print(f"weights: {run_dir / utils.LAST_WEIGHTS}, curves: {run_dir / 'train.jpg'}")
    return {**log[-1], "run_dir": str(run_dir)}


if __name__ == "__main__":
    main()
