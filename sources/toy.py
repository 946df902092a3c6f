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
from sources.campus import descriptions, render, survey
from sources.command import Command, option

MARKER = "campus.yaml"  # in the folder: how it was made
TEXTS = "texts"  # in it: the version of the descriptions


def make_toy(opts):
    """Render the toy campus, and its map, into fresh folders; what is made already is left as is.

    A campus that was made before there were descriptions gets them. Returns {"out", "rendered"}
    with the numbers of what was put into each folder, the same of the map as "map".
    """
    out = Path(opts.out)
    tiles = survey.lay_out(opts.map_plots).tiles ** 2 if opts.map_plots else 0

    def each_building(make, folder, spec):
        total = opts.num_train + opts.num_test + opts.num_distractors
        with progress_bar(None, "buildings", total=total) as bar:
            return make(
                folder,
                **spec,
                num_workers=opts.num_workers,
                progress=lambda finished: bar.update(finished - bar.n),
            )

    def render_campus(folder, spec):
        return each_building(render.render_campus, folder, spec)

    def describe_campus(folder, spec):
        spec = {name: spec[name] for name in ("seed", "num_train", "num_test", "num_distractors")}
        return each_building(render.describe_campus, folder, spec)

    def render_survey(folder, spec):
        with progress_bar(None, "map and flight", total=tiles + opts.flight_photos) as bar:
            return survey.render_survey(folder, **spec, progress=bar.update)

    versions = {"version": render.VERSION, TEXTS: descriptions.VERSION}
    found = _make(out, _spec(opts, CAMPUS), versions, render_campus, describe_campus)
    if opts.map_plots:
        beside = out.with_name(f"{out.name}_map")
        versions = {"version": survey.VERSION}
        found["map"] = _make(beside, _spec(opts, SURVEY), versions, render_survey)
    return found


def _spec(opts, defaults):
    """The options that decide what is in the pictures."""
    names = defaults.keys() - {"num_workers", "progress"}
    return {name: getattr(opts, name) for name in names}


def _make(out, spec, versions, render, describe=None):
    """Have `render` fill a folder of which nothing is seen before it is whole.

    Where all but the descriptions is there, `describe` writes them.
    """
    mark = {**spec, **versions}
    with sole_writer(out, "give another --out"):
        there = read_yaml(out / MARKER) if (out / MARKER).is_file() else {}
        if {**there, **versions} == mark and there.get("version") == versions["version"]:
            counts = describe(out, spec) if there != mark else {}
            if counts:
                write_yaml(out / MARKER, mark)
            print(f"{out} is there already" + _in_words(counts, "; added: "))
            return {"out": str(out), "rendered": False, **counts}
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
    print(f"{out}" + _in_words(counts, ": "))
    return {"out": str(out), "rendered": True, **counts}


def _in_words(counts, start):
    numbers = ", ".join(f"{count} {folder}" for folder, count in counts.items())
    return f"{start}{numbers}" if numbers else ""


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
