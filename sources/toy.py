"""prepare.py toy: the toy campus (sources/campus/) as a data folder."""

import os
import shutil
from pathlib import Path

from runtime.cli import natural_int, positive_int
from runtime.files import read_yaml, temporary_beside, write_yaml
from runtime.locks import sole_writer
from runtime.progress import progress_bar
from sources.campus.render import VERSION, render_campus
from sources.command import Command, option

MARKER = "campus.yaml"  # in the folder: how it was made


def make_toy(opts):
    """Render the toy campus into a fresh folder; a folder of the same campus is left as it is."""
    out = Path(opts.out)
    with sole_writer(out, "give another --out"):
        return _make_toy(opts, out)


def _make_toy(opts, out):
    not_in_pixels = ("command", "out", "num_workers")
    spec = {key: value for key, value in vars(opts).items() if key not in not_in_pixels}
    mark = {**spec, "version": VERSION}
    if (out / MARKER).is_file() and read_yaml(out / MARKER) == mark:
        print(f"{out} is there already")
        return {"out": str(out), "rendered": False}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists and is not this toy campus: remove it, or give another --out"
        )
    partial = temporary_beside(out)
    partial.mkdir()
    total = opts.num_train + opts.num_test + opts.num_distractors
    try:
        with progress_bar(None, "buildings", total=total) as bar:
            counts = render_campus(
                partial,
                **spec,
                num_workers=opts.num_workers,
                progress=lambda finished: bar.update(finished - bar.n),
            )
        write_yaml(partial / MARKER, mark)
        if out.exists():
            out.rmdir()
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out}: " + ", ".join(f"{count} {folder}" for folder, count in counts.items()))
    return {"out": str(out), "rendered": True, **counts}


DEFAULTS = render_campus.__kwdefaults__
COMMANDS = (
    Command("toy", "render the toy campus", make_toy, (
        option("--out", default="data/toy", help="folder to make"),
        option("--seed", type=natural_int, default=0, help="which campus"),
        *(option(f"--{name}", type=kind, default=DEFAULTS[name], help=help_text)
          for name, kind, help_text in (
              ("num_train", positive_int, "buildings to train on"),
              ("num_test", positive_int, "buildings to query in the test"),
              ("num_distractors", natural_int, "more buildings in the test gallery"),
              ("drone_frames", positive_int, "drone frames to keep of a flight's 54"),
              ("image_size", positive_int, "side of the square images, pixels"))),
        option("--num_workers", type=natural_int, default=os.cpu_count() or 1,
               help="processes, 0 for this one alone; the images do not depend on it"),
    ), "--out data/toy"),
)  # fmt: skip
