"""Options of a network that scripts share; without torch, so that --help answers at once.

With --zero_shot test.py and locate.py take a pretrained network in place of a run: zero_shot.py.
"""

import argparse

from runtime.cli import SWITCH, add_options, image_side, positive_int

POOLS = ("avg", "max", "avg+max", "gem", "cls", "cls+gem", "rings", "avg+rings", "gem+rings")
HEADS = ("block", "linear", "none")
TOKENIZER, TEXT_CONFIG = "tokenizer.json", "text_config.json"  # in the folder of a run with texts
# What --zero_shot takes where nothing is said: best on real pairs of drone and satellite images.
SIDE, RINGS = 224, 4
MOST_RINGS = 32  # a map is enlarged until each ring has a cell on either side: memory grows
FEWEST = 10  # images whose mean is that of a view, and not of a few places
WITHOUT_RUN = ("backbone", "weights", "h", "w", "maps", "pool", "block", "center_on")
OF_RUN = ("name", "which_epoch", "views")


def map_numbers(text):
    """`2,3,last` as a list of int and "last"."""
    parts = text.split(",")
    if not all(part == "last" or (part.isdecimal() and int(part)) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of stages such as 2,3,last")
    stages = [part if part == "last" else int(part) for part in parts]
    if len(set(stages)) < len(stages):
        raise argparse.ArgumentTypeError(f"{text!r} names a stage twice")
    return stages


def add_zero_shot_options(parser):
    """Add --zero_shot and what describes its network, --h, --w and --pool included."""
    group = parser.add_argument_group("a pretrained network in place of a run")
    # fmt: off
    add_options(group, [
        ("--zero_shot", SWITCH, False,
         "no run: the features of a backbone with its ImageNet weights, nothing trained"),
        ("--backbone", str, None,
         "network, as of train.py: resnet50, timm:NAME, ... (if left out: resnet50)"),
        ("--weights", str, None,
         "file of the backbone's weights (if left out: downloaded)", "FILE"),
        ("--h", image_side, None,
         f"input height, pixels (if left out: {SIDE}); that of a run cannot be changed"),
        ("--w", image_side, None, "input width, as --h"),
        ("--maps", map_numbers, None,
         "maps that are pooled, as of train.py (if left out: 2,3,last; of a transformer whose "
         "blocks keep the size last)", "N,...,last"),
        ("--pool", POOLS, None, "how they are pooled, as of train.py (if left out: rings); that "
         "of a run cannot be changed"),
        ("--block", positive_int, None, f"rings of --pool rings (if left out: {RINGS})"),
        ("--center_on", str, None,
         "data folder whose images of a view give the mean that is subtracted from the features of "
         "that view (if left out: the images that are compared give it themselves)", "DIR"),
    ])
    # fmt: on


def check_zero_shot(parser, opts, compared=()):
    """End the program where options of a network and of a run come together.

    The `compared` may be given with a run: they have to agree with it.
    """
    if not opts.zero_shot:
        for name in WITHOUT_RUN:
            if name not in compared and getattr(opts, name) is not None:
                parser.error(f"--{name} goes with --zero_shot, a run knows its network: add it, or "
                             f"leave --{name} out")  # fmt: skip
        return
    if opts.block is not None and "rings" not in (opts.pool or "rings"):
        parser.error(f"--block is the number of rings of --pool rings, not of {opts.pool}: "
                     "leave one of them out")  # fmt: skip
    for name in OF_RUN:
        if getattr(opts, name, None) != parser.get_default(name):
            parser.error(f"--{name} is of a run, and --zero_shot has none: leave one of them out")
