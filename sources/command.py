"""Sub-commands of prepare.py, and what those that convert a data set have in common."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runtime.cli import positive_int
from sources.carry_out import carry_out


class Command(NamedTuple):
    """A sub-command of prepare.py. Each module of sources/ lists its commands in COMMANDS."""

    name: str
    about: str  # its line in the help
    run: Callable  # options as argparse gives them -> dict of what was found or made
    options: tuple  # of `option`
    example: str  # what stands behind its name in the last line of its help
    description: str | None = None


def option(*names, **settings):
    """An option of a sub-command: what argparse's `add_argument` takes."""
    return names, settings


def converter(name, planner, about, source, *options, many_sources=False, example=None):
    """The command that converts a data set: `planner(source, **options)` gives the `Plan`.

    `about` and `source` are what the help says, each of `options` is an argument of the planner.
    With `many_sources` the planner gets a list of sources.
    """
    first = (
        option("source", nargs="+" if many_sources else None, help=source),
        option("--out", default=f"data/{name}", help="data folder to make"),
    )
    run = functools.partial(_convert, planner)
    example = example or f"DIR --out data/{name}"
    return Command(name, about, run, (*first, *options, *CARRYING_OUT), example, about)


CARRYING_OUT = (
    option("--copy", action="store_true", help="copy instead of linking"),
    option("--dry_run", action="store_true", help="print the summary, write nothing"),
    option("--num_workers", type=positive_int, default=os.cpu_count() or 1,
           help="threads that write the images whose pixels change"),
)  # fmt: skip
ORDERED = ("maps", "corners")  # lists in which order and repetition matter
NOT_PLANNED = ("command", "source", "out", "copy", "dry_run", "num_workers")
SKIP_MISSING = option("--skip_missing", action="store_true",
                      help="leave out what a split file lists and the copy lacks")  # fmt: skip


def _convert(planner, opts):
    """Convert a data set by links; returns counts and notes."""
    options = {name: value for name, value in vars(opts).items() if name not in NOT_PLANNED}
    for name, value in options.items():
        if isinstance(value, list) and name not in ORDERED:  # a choice of several
            options[name] = sorted(set(value))
    plan = planner(opts.source, **options)
    mark = _mark(opts, {**options, **plan.mark})
    how = {"copy": opts.copy, "dry_run": opts.dry_run, "num_workers": opts.num_workers}
    return carry_out(plan, opts.out, mark, **how)


def _mark(opts, options):
    """How a folder was made, as plain values: another way needs another folder."""
    sources = opts.source if isinstance(opts.source, list) else [opts.source]
    mark = {"command": opts.command, "source": [str(Path(path).resolve()) for path in sources]}
    for name, value in options.items():
        if isinstance(value, Path):
            value = str(value.resolve())
        if name != "skip_missing":  # a copy may be completed later
            mark[name] = list(value) if isinstance(value, tuple) else value
    return mark
