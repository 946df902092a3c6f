"""prepare.py toy: the toy campus (sources/campus/) as a data folder, and beside it a map.

The map and a flight over it lie in a folder of their own, `<out>_map`.
"""

import os
import shutil
from pathlib import Path

from runtime.cli import natural_int, positive_int
from runtime.files import read_yaml, temporary_beside, write_yaml
from runtime.locks import sole_writer
from runtime.progress import progress_bar
from sources.campus import render, survey
from sources.command import Command, option

MARKER = "campus.yaml"  # in the folder: how it was made


def make_toy(opts):
    """Render the toy campus, and its map, into fresh folders; what is made already is left as is.

    Returns {"out", "rendered"} with the numbers of pictures in it, the same of the map as "map".
    """
    out = Path(opts.out)
    tiles = survey.lay_out(opts.map_plots).tiles ** 2 if opts.map_plots else 0

    def render_campus(folder, spec):
        total = opts.num_train + opts.num_test + opts.num_distractors
        with progress_bar(None, "buildings", total=total) as bar:
            return render.render_campus(
                folder,
                **spec,
                num_workers=opts.num_workers,
                progress=lambda finished: bar.update(finished - bar.n),
            )

    def render_survey(folder, spec):
        with progress_bar(None, "map and flight", total=tiles + opts.flight_photos) as bar:
            return survey.render_survey(folder, **spec, progress=bar.update)

    found = _make(out, _spec(opts, CAMPUS), render.VERSION, render_campus)
    if opts.map_plots:
        beside = out.with_name(f"{out.name}_map")
        found["map"] = _make(beside, _spec(opts, SURVEY), survey.VERSION, render_survey)
    return found


def _spec(opts, defaults):
    """The options that decide what is in the pictures."""
    names = defaults.keys() - {"num_workers", "progress"}
    return {name: getattr(opts, name) for name in names}


def _make(out, spec, version, render):
    """Have `render` fill a folder of which nothing is seen before it is whole."""
    mark = {**spec, "version": version}
    with sole_writer(out, "give another --out"):
        if (out / MARKER).is_file() and read_yaml(out / MARKER) == mark:
            print(f"{out} is there already")
            return {"out": str(out), "rendered": False}
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(
                f"{out} exists and is not this toy campus: remove it, or give another --out"
            )
        partial = temporary_beside(out)
        partial.mkdir()
        try:
            counts = render(partial, spec)
            write_yaml(partial / MARKER, mark)
            if out.exists():
                out.rmdir()
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    print(f"{out}: " + ", ".join(f"{count} {folder}" for folder, count in counts.items()))
    return {"out": str(out), "rendered": True, **counts}


CAMPUS, SURVEY = render.render_campus.__kwdefaults__, survey.render_survey.__kwdefaults__
COMMANDS = (
    Command("toy", "render the toy campus, and a map of it beside", make_toy, (
        option("--out", default="data/toy", help="folder to make; the map's is <out>_map"),
        option("--seed", type=natural_int, default=0, help="which campus"),
        *(option(f"--{name}", type=kind, default={**CAMPUS, **SURVEY}[name], help=help_text)
          for name, kind, help_text in (
              ("num_train", positive_int, "buildings to train on"),
              ("num_test", positive_int, "buildings to query in the test"),
              ("num_distractors", natural_int, "more buildings in the test gallery"),
              ("drone_frames", positive_int, "drone frames to keep of a flight's 54"),
              ("image_size", positive_int, "side of the square images, pixels"),
              ("map_plots", natural_int, "buildings along each side of the map, which are in no "
               "folder; 0: neither map nor flight"),
              ("flight_photos", positive_int, "photos of the flight over the map"))),
        option("--num_workers", type=natural_int, default=os.cpu_count() or 1,
               help="processes, 0 for this one alone; the images do not depend on it"),
    ), "--out data/toy"),
)  # fmt: skip
