"""The options of train.py: their table, and those of a resumed run; training/rules.py checks them.

Imports no torch, so that `--help` answers at once.
"""

import argparse
from pathlib import Path

import utils
from imaging.files import TEST_VIEWS, TEXT, VIEWS
from imaging.turns import turns_by_view
from imaging.weather import parse_conditions
from networks.options import HEADS, POOLS, RINGS, map_numbers
from runtime import processes
from runtime.cli import (
    SWITCH,
    Parser,
    add_cache_option,
    add_machine_options,
    add_options,
    add_precision_options,
    add_refused,
    at_least,
    image_side,
    natural_int,
    number_within,
    positive_int,
    with_config,
)
from runtime.startup import import_torch
from training.rules import (
    EMBEDDING,
    LOOK_EVERY,
    PAIR_LOSSES,
    TEXT_LR,
    TOKENS,
    WARM_FROM,
    check_combinations,
)

VIEW_CHOICES = {"2": ("satellite", "drone"), "3": TEST_VIEWS}
# What a resumed run may change: where and how it runs, and for how long, never what it computes.
FREE_ON_RESUME = {
    *("config", "data_dir", "device", "gpu_ids", "num_workers", "epochs"),
    *("compile", "cache", "grad_checkpoint", "tensorboard"),
}
# What is said for one start of a run, and not kept in its opts.yaml.
ONCE = ("resume", "overwrite", "other_images")
REFUSED = {
    "use_dense": "it never had an effect in the published code; choose a network with --backbone",
    "use_NAS": "it never had an effect in the published code; choose a network with --backbone",
}
PUBLISHED_LOSSES = ("arcface", "cosface", "sphere", *PAIR_LOSSES)


# ---------------------------------------------------------------- argparse types
def view_names(text):
    """`2`, `3`, or names such as `satellite,street`, as a list of view names."""
    from_number = VIEW_CHOICES.get(text)
    names = list(from_number or (part.strip() for part in text.split(",")))
    if (
        not {*VIEWS, TEXT}.issuperset(names)
        or len(set(names)) != len(names)
        or len(names) not in (2, 3)
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 2, 3, or two different names of {', '.join(sorted({*VIEWS, TEXT}))}"
        )
    if len(names) == 3 and TEXT in names:
        return [*(name for name in names if name != TEXT), TEXT]
    if len(names) == 3 and set(names) != set(VIEW_CHOICES["3"]):
        raise argparse.ArgumentTypeError(
            f"{text!r}: three views are satellite,street,drone, or two of images and text; "
            "--extra_Google adds google to the first"
        )
    return list(VIEW_CHOICES["3"]) if len(names) == 3 else names


def loss_weights(text):
    """`instance=1,infonce=0.5` as a dict; see losses.parse_loss_weights."""
    import_torch()  # which losses imports: here, with the collector at rest
    from losses import parse_loss_weights

    return parse_loss_weights(text)


def conditions(text):
    """Names of weather conditions as a list, as opts.yaml gives it back."""
    return list(parse_conditions(text))


def switches(text):
    """`0,1,1` as a list of int."""
    if not set(text.split(",")) <= {"0", "1"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of 0 and 1 such as 0,1,1")
    return [int(part) for part in text.split(",")]


def directions(text):
    """A number of directions; none for 0, which undoes what a recipe says."""
    return natural_int(text) or None


def epochs(text):
    """A number of epochs, or several as a list."""
    numbers = [positive_int(part) for part in text.split(",")]
    if numbers != sorted(set(numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a rising list of epochs")
    return numbers[0] if len(numbers) == 1 else numbers


several = at_least(2, "as batch norm needs two images")
share, above_zero, from_zero = number_within(0, 1), number_within(0, above=True), number_within(0)

# ---------------------------------------------------------------- the table
# A row an option: its names, what it takes, its default, its help with the unit, its metavar.
# fmt: off
OPTIONS = {
    "run": [
        ("--name", str, "two_view", "name of the run folder in model/"),
        ("--config", str, None,
         "options of a recipe, recipes/NAME.yaml; those of the command line win", "FILE"),
        ("--resume", SWITCH, False, "continue the run --name exactly"),
        ("--other_images", SWITCH, False,
         "with --resume: go on though images have been added, removed or replaced"),
        ("--overwrite", SWITCH, False, "replace an earlier run of this name"),
        add_machine_options,
        ("--seed", natural_int, 0, "seed of everything random"),
        ("--tensorboard", SWITCH, False,
         "curves of log.jsonl for `tensorboard --logdir model`, in tensorboard/ of the run folder; "
         "needs the package tensorboard"),
    ],
    "data": [
        ("--data_dir", str, "./data/train", "data folder or its train/"),
        ("--views", {"type": view_names, "dest": "view_names"}, "2",
         "2 (satellite, drone), 3 (and street), or names: satellite,street; text,drone; "
         "satellite,drone,text"),
        ("--extra_Google --extra", SWITCH, False,
         "with --views 3: add the google images to the street branch"),
        ("--train_all", SWITCH, False,
         "train on all buildings; else a tenth is held out for validation"),
        ("--sampler", ("paired", "independent"), "paired",
         "paired: one image of each view of the same buildings; independent: every view shuffled "
         "on its own, as published"),
        ("--epoch_over", (*TEST_VIEWS, TEXT), None,
         "paired: the view of which an epoch shows every image once (if left out: the first view)"),
        ("--epoch_passes", positive_int, 1,
         "paired: how often an epoch goes over the data: more where there is little"),
        ("--images_per_building", positive_int, 1,
         "paired: images of each view of a building in a batch (the K of P x K)"),
        ("--joint_flips", SWITCH, False,
         "paired: mirror all images of a building in a batch, or none"),
        ("--joint_turns", SWITCH, False,
         "with --views satellite,street, paired: turn the satellite image by 0, 90, 180 or 270 "
         "degrees, and roll the panorama (with --no_turn the polar satellite image too) with it"),
        ("--batchsize", positive_int, 8, "images per view and step (of each process of torchrun)"),
        ("--hard_negatives", ("none", "similarity", "coordinates", "both"), "none",
         "paired: fill batches with buildings that look alike, or stand close by (coordinates.csv "
         "of the data folder); both: close by until the first look"),
        ("--hard_negatives_every", positive_int, LOOK_EVERY,
         "epochs between two looks at which buildings are alike"),
        ("--h", image_side, 384, "input height, pixels"),
        ("--w", image_side, 384, "input width, pixels"),
        ("--pad", natural_int, 10, "padding before crop, pixels"),
        ("--no_turn", SWITCH, False,
         "do not turn satellite images, as those in polar coordinates must not be"),
        ("--no_flip", SWITCH, False,
         "do not mirror images, nor in the test: where words tell left from right, or east from "
         "west"),
        ("--turns", turns_by_view, None,
         "draw images in 1, 2 or 4 right-angle turns, as well as mirrored: of all views, or by "
         "view, satellite=4,drone=1; test.py then averages these copies (if left out: satellite "
         "images alone are turned, by any angle up to 90 degrees)",
         "N|VIEW=N,..."),
        ("--color_jitter", SWITCH, False, "jitter the colours"),
        ("--DA", SWITCH, False, "AutoAugment (ImageNet policy)"),
        ("--erasing_p", share, 0.0, "random erasing, probability"),
        ("--weather", conditions, [],
         "draw weather on drone images: all, or of normal, fog, rain, snow, dark, over_exposure, "
         "fog_rain, fog_snow, rain_snow, wind", "NAME,..."),
        ("--zoom", number_within(1, 4), 1.0, "magnify by up to this, or as much smaller"),
        ("--recolour", share, 0.0,
         "strength of a random change of brightness, contrast and each colour's gamma"),
        add_cache_option,
    ],
    "network": [
        ("--backbone", str, "resnet50",
         "network of the branches: resnet18, resnet50, resnet101, vgg16_bn, convnext_tiny, swin_t, "
         "vit_b_16, ... of torchvision, timm:NAME, or open_clip:NAME/TAG; a wrong name prints all"),
        ("--use_vgg16", {"dest": "backbone", "action": "store_const", "const": "vgg16_bn"},
         argparse.SUPPRESS, "the same as --backbone vgg16_bn"),
        ("--share", SWITCH, False, "one set of weights: satellite, drone"),
        ("--droprate", share, 0.5,
         "dropout before the classifier; with --head linear before its layer"),
        ("--pool", POOLS, "avg",
         "how a map becomes a feature: average, maximum, generalised mean, a ViT's class token, "
         "the average of each of --block square rings, or two of these side by side"),
        ("--maps", map_numbers, ["last"],
         "maps that are pooled, side by side: numbers of stages (1 has a quarter of the image's "
         "side, each later one half of it; in a transformer the block) and last", "N,...,last"),
        ("--center", SWITCH, False,
         "subtract from the pooled features of a view their mean over its training images as the "
         "network begins, and divide by the length"),
        ("--whiten", directions, None,
         "with --center: take the N strongest directions of these features, each divided by its "
         "spread; 0 undoes it", "N"),
        ("--head", HEADS, "block",
         "block: linear, batch norm, dropout; linear: dropout and a linear layer that begins as a "
         "rotation; none: the pooled feature as it is"),
        ("--embedding_dim", positive_int, EMBEDDING, "numbers of a feature"),
        ("--stride", {"type": int, "choices": (1, 2)}, 2, "last ResNet stage"),
        ("--LPN", SWITCH, False, "square rings, each with its own head"),
        ("--block", positive_int, RINGS, "number of rings of --LPN and --pool rings"),
        ("--usam", SWITCH, False, "RK-Net's attention in a ResNet"),
        ("--musenet", SWITCH, False,
         "MuSe-Net: satellite and drone branches adapt to the weather (resnet50, 101, 18)"),
        ("--btnk", switches, None,
         "blocks that --musenet modulates, 0 or 1 for each of layer1, then of layer2, 0 beyond the "
         "last one given (if left out: layer1 without its first)", "0,1,..."),
        ("--ibn_weights", str, None,
         "file of IBN-Net's weights for --musenet (if left out: downloaded; with --weights made "
         "from those)"),
        ("--text_backbone", str, "small",
         "transformer of the view text: small (random weights, learns its words from the training "
         "texts), hf:NAME or hf:FOLDER of the transformers library, open_clip:NAME/TAG"),
        ("--text_pool", ("mean", "cls"), "mean",
         "how its tokens become a feature: their mean, or the first of them"),
        ("--text_tokens", at_least(8, "for a few words"), None,
         f"tokens of a text that are read; how many are cut is said (if left out: {TOKENS}, or as "
         "many as the text model takes)"),
        ("--no_pretrained", SWITCH, False, "start from random weights (of the images' branches)"),
        ("--weights", str, None, "file of the backbone's weights (if left out: downloaded)"),
        ("--freeze", SWITCH, False,
         "train the head alone: the backbone stays as it came, with batch norm's statistics and "
         "GeM's exponents; with --turns, --pad 0 and no other change of the images what it makes "
         "of them is computed once, and an epoch takes seconds"),
        ("--train_blocks", natural_int, 0,
         "with --freeze: train the last N blocks too, and what follows them: a block of a "
         "transformer or VGG, a stage of ResNet, ConvNeXt, Swin, EfficientNet", "N"),
        ("--train_text", SWITCH, False,
         "with --freeze: train a pretrained text model too (one of random weights always trains)"),
        ("--init", str, None,
         "start from the weights of another run where they fit: its name in model/, a run folder, "
         "a file of weights in one, or a shared run.zip", "RUN"),
    ],
    "losses": [
        ("--loss_weights", loss_weights, {"instance": 1.0},
         "weights of the loss terms, e.g. instance=1,infonce=0.5; a wrong name prints all; "
         "instance is 1 unless it is named", "NAME=WEIGHT,..."),
        *[(f"--{name}", SWITCH, False, f"the same as --loss_weights {name}=1")
          for name in PUBLISHED_LOSSES],
        ("--loss_merge", SWITCH, False,
         "metric losses compare the images of all views together, not view by view"),
    ],
    "optimisation": [
        ("--epochs", positive_int, 120, "epochs to train"),
        ("--optimizer", ("sgd", "adamw"), "sgd", "optimizer"),
        ("--lr", above_zero, 0.01, "learning rate of the head"),
        ("--backbone_lr", above_zero, None,
         "backbone's learning rate as a multiple of --lr (if left out: 0.1, or 1 with "
         "--no_pretrained)"),
        ("--text_lr", above_zero, TEXT_LR,
         "a pretrained text model's learning rate as a multiple of --lr"),
        ("--weight_decay", from_zero, None,
         "weight decay (if left out: 5e-4 with sgd, 0.01 with adamw)"),
        ("--schedule", ("step", "cosine"), "step",
         "how the learning rate falls: tenfold at --step_size, or by half a cosine to zero"),
        ("--step_size", epochs, None,
         "epochs after which the learning rate falls tenfold again and again, or the epochs at "
         "which it does, e.g. 120,180 (if left out: two thirds of --epochs)"),
        ("--warm_epoch --warm", from_zero, 0.0,
         "epochs over which the learning rate rises"),
        ("--warm_from", share, WARM_FROM,
         "--warm_epoch: the share of the learning rate with which the rise begins"),
        ("--clip_norm", above_zero, None, "largest norm of the gradient of all weights together"),
        ("--clip_value", above_zero, None, "largest size of each number of the gradient"),
        ("--micro_batchsize", several, None,
         "images per view that are in memory at once: a larger --batchsize goes through in parts, "
         "twice, and the loss compares all of it; batch norm sees each part"),
        ("--grad_checkpoint", SWITCH, False,
         "compute the blocks of the network twice instead of keeping what is in them"),
        ("--moving_avg", share, 1.0,
         "decay of an exponential moving average of the weights per step, saved in their place; "
         "1: none"),
        add_precision_options,
        ("--sync_bn", SWITCH, False,
         "with torchrun on GPUs: batch norm over the batch of all processes, not of each"),
        ("--compile", SWITCH, False,
         "torch.compile the network: minutes at the start, pays on a GPU in a long run"),
    ],
}
# fmt: on


def build_parser():
    """The parser: published flags under their published names, then our additions."""
    parser = Parser(
        description="Train a network into model/<name>/.",
        epilog="example: python train.py --name two_view --data_dir data/toy",
    )
    for title, rows in OPTIONS.items():
        add_options(parser.add_argument_group(title), rows)
    add_refused(parser.add_argument_group("published flags that are refused"), REFUSED)
    return parser


# ---------------------------------------------------------------- a resumed run
def need_state(run_dir):
    """FileNotFoundError where a run has no complete epoch after which it could go on."""
    if not (run_dir / "train_state.pth").is_file():
        raise FileNotFoundError(
            f"{run_dir} has no train_state.pth, so there is nothing to resume: it is written at "
            "the end of each epoch; start again without --resume"
        )


def resumed_options(parser, argv, name):
    """Options of the run `name` as its opts.yaml says, which the command line must match."""
    run_dir = utils.run_folder(name)
    if run_dir.is_dir() and not (run_dir / "opts.yaml").is_file():
        need_state(run_dir)
    saved = utils.read_opts(run_dir)
    begun, now = saved.get("world_size", 1), processes.world_size()
    if begun != now:
        parser.error(
            f"{name} was begun with {begun} process(es), not with {now}: --resume "
            f"continues it as it was; start it "
            + ("without torchrun" if begun == 1 else f"with torchrun, {begun} in all")
        )
    # What an older version had no option for, it did as the default says.
    usual = {key: parser.get_default(key) for key in vars(parser.parse_args(argv))}
    saved = {key: saved.get(key, value) for key, value in usual.items()}
    saved = {key: value for key, value in saved.items() if key not in ONCE}
    for key, value in saved.items():
        if isinstance(value, bool) != isinstance(usual[key], bool):
            parser.error(f"opts.yaml has {key}: {value!r}, which no run writes: restore the file")
    parser.set_defaults(**saved)
    opts = parser.parse_args(argv)
    if opts.config and Path(opts.config).resolve() != Path(saved["config"] or "").resolve():
        parser.error(
            f"--config {opts.config} is not the recipe with which {name} was begun, "
            f"{saved['config'] or 'without any'}: --resume continues it as it was; drop the option"
        )
    for key in sorted(saved.keys() - FREE_ON_RESUME):
        if getattr(opts, key) != saved[key]:
            flag = "--views" if key == "view_names" else f"--{key}"
            parser.error(
                f"{flag} {getattr(opts, key)} differs from {saved[key]}, with which {name} was "
                "begun: --resume continues it as it was; drop the option, or start a run of "
                "another --name"
            )
    if opts.schedule == "step" and opts.epochs != saved["epochs"]:
        steps = opts.step_size
        when = f"every {steps}" if isinstance(steps, int) else ", ".join(map(str, steps))
        print(f"--step_size stays as {name} was begun: the learning rate falls after {when} epochs")
    if opts.schedule == "cosine" and opts.epochs != saved["epochs"]:
        parser.error(
            f"--epochs {opts.epochs}: the learning rate of {name} ends at zero after "
            f"{saved['epochs']} epochs: start a longer run of another --name"
        )
    return opts


def parse_args(argv=None):
    """Options of a run; with --resume those of its opts.yaml, which the command line must match."""
    parser = build_parser()
    opts = parser.parse_args(argv)
    if opts.resume:  # opts.yaml holds what the recipe said
        opts = resumed_options(parser, argv, opts.name)
    else:
        opts = parser.parse_args(with_config(parser, argv))
        if opts.resume:
            parser.error("--resume belongs on the command line, not in a recipe")
    published = {name: 1.0 for name in PUBLISHED_LOSSES if getattr(opts, name)}
    opts.loss_weights = {**published, **opts.loss_weights}
    if opts.musenet:
        opts.loss_weights.setdefault("weather", 1.0)
    opts.world_size = processes.world_size()
    check_combinations(parser, opts)
    if opts.backbone_lr is None:
        opts.backbone_lr = 1.0 if opts.no_pretrained else 0.1
    if opts.step_size is None and opts.schedule == "step":
        opts.step_size = max(1, round(opts.epochs * 2 / 3))  # the published 80 of 120
    return opts


def changed_options(opts):
    """`name=value` of each option that is not as without any; opts.yaml has all of them."""
    usual = vars(parse_args([]))
    told = ("name", *ONCE)  # by the line before or after, or not of the run
    return [
        f"{name}={value}"
        for name, value in sorted(vars(opts).items())
        if value != usual[name] and name not in told
    ]
