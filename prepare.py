"""Make, check and convert data folders in the University-1652 layout.

python prepare.py toy --out data/toy                    # render the toy campus
python prepare.py check data/toy                        # what is there, what is missing
python prepare.py cvusa downloads/CVUSA --out data/cvusa    # a public data set, by links
python prepare.py pairs pairs.csv --out data/mine       # your own images
python prepare.py wx data/toy --out data/wx             # the test images in ten kinds of weather
"""

import argparse
import difflib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import convert
from imaging.weather import CONDITIONS, SPEC_VERSION, parse_conditions
from runtime import cli, files, progress
from runtime.cli import natural_int, number_within, positive_int, script
from sources.campus import render as campus

TRAIN_FOLDERS = tuple(f"train/{view}" for view in ("satellite", "drone", "street", "google"))
TEST_FOLDERS = tuple(
    f"test/{role}_{view}"
    for role in ("query", "gallery")
    for view in ("satellite", "drone", "street")
)
EXAMPLE_COMMAND = "python prepare.py toy --out data/toy   # shows the layout"
# University-1652 as released: {folder: (classes, images)}; None where no count was published.
UNIVERSITY_1652 = {
    "train/satellite": (701, 701),
    "train/drone": (701, 37854),
    "train/street": (701, 11663),
    "test/query_satellite": (701, 701),
    "test/query_drone": (701, 37855),
    "test/query_street": (None, 2579),
    "test/gallery_satellite": (951, 951),
    "test/gallery_drone": (951, 51355),
    "test/gallery_street": (793, 2921),
}


# ---------------------------------------------------------------- options
def parse_args(argv=None):
    """Options: a sub-command and its own."""
    parser = cli.Parser(
        description="Make, check and convert data folders in the University-1652 layout."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    style = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}

    toy = commands.add_parser("toy", help="render the toy campus", **style)
    toy.add_argument("--out", default="data/toy", help="folder to make")
    toy.add_argument("--seed", type=natural_int, default=0, help="which campus")
    defaults = campus.render_campus.__kwdefaults__
    for option, kind, help_text in (
        ("num_train", positive_int, "buildings to train on"),
        ("num_test", positive_int, "buildings to query in the test"),
        ("num_distractors", natural_int, "more buildings in the test gallery"),
        ("drone_frames", positive_int, "drone frames kept of the 54 of a flight"),
        ("image_size", positive_int, "side of the square images, pixels"),
    ):
        toy.add_argument(f"--{option}", type=kind, default=defaults[option], help=help_text)
    toy.add_argument(
        "--num_workers",
        type=natural_int,
        default=os.cpu_count() or 1,
        help="processes; 0 renders in this one; the bytes are the same",
    )

    check = commands.add_parser("check", help="compare a folder with the layout", **style)
    check.add_argument("folder", help="data folder")

    show = commands.add_parser("show", help="draw some buildings in every view", **style)
    show.add_argument("folder", help="data folder")
    show.add_argument("--buildings", type=positive_int, default=4, help="rows of the picture")
    show.add_argument("--seed", type=natural_int, default=0, help="which buildings")
    show.add_argument(
        "--weather",
        type=parse_conditions,
        default=(),
        metavar="NAME,...",
        help="draw a drone image of each building under all conditions, or some (fog,rain)",
    )
    show.add_argument("--output", default="views.jpg", help="the picture")

    for name in CONVERTERS:
        _add_converter(commands, name, style)
    return parser.parse_args(argv)


def _add_converter(commands, name, style):
    """Add the sub-command that converts a data set: its own options, and those that all have."""
    _, about, source, options = CONVERTERS[name]
    parser = commands.add_parser(name, help=about, description=about, **style)
    parser.add_argument("source", nargs="+" if name == "pairs" else None, help=source)
    parser.add_argument("--out", default=f"data/{name}", help="data folder to make")
    for option, settings in options.items():
        parser.add_argument(f"--{option}", **settings)
    parser.add_argument("--copy", action="store_true", help="copy instead of linking")
    parser.add_argument("--dry_run", action="store_true", help="print the summary, write nothing")
    parser.add_argument(
        "--num_workers",
        type=positive_int,
        default=os.cpu_count() or 1,
        help="threads that write the images whose pixels change",
    )


def _shares(text):
    """argparse type: two shares, the first smaller."""
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        first, second = 1.0, 0.0
    if not 0 <= first < second <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TOP,BOTTOM, two shares such as 0.25,0.75"
        )
    return first, second


def _roll(text):
    """argparse type: degrees, or the word random."""
    return text if text == "random" else number_within(-360, 360)(text)


def _size(text):
    """argparse type: HEIGHTxWIDTH in pixels."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 112x616")
    return tuple(map(int, parts))


def _two_views(text):
    """argparse type: two names of views."""
    views = tuple(text.split(","))
    if len(set(views)) != 2 or len(views) != 2 or not set(views) <= set(convert.TESTABLE_VIEWS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not two of {', '.join(convert.TESTABLE_VIEWS)}, such as drone,satellite"
        )
    return views


# ---------------------------------------------------------------- toy
def make_toy(opts):
    """Render the toy campus into a fresh folder; a folder of the same campus is left as it is."""
    out = Path(opts.out)
    spec = {key: value for key, value in vars(opts).items() if key not in ("command", "out")}
    spec.pop("num_workers")
    mark = {**spec, "version": campus.VERSION}
    marker = out / "campus.yaml"
    if marker.is_file() and files.read_yaml(marker) == mark:
        print(f"{out} is there already")
        return {"out": str(out), "rendered": False}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} exists and is not this toy campus: remove it, or give another --out"
        )
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    partial.mkdir(parents=True)
    total = opts.num_train + opts.num_test + opts.num_distractors
    try:
        with progress.progress_bar(None, "buildings", total=total) as bar:
            counts = campus.render_campus(
                partial,
                **spec,
                num_workers=opts.num_workers,
                progress=lambda finished: bar.update(finished - bar.n),
            )
        files.write_yaml(partial / marker.name, mark)
        if out.exists():
            out.rmdir()
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{out}: " + ", ".join(f"{count} {folder}" for folder, count in counts.items()))
    return {"out": str(out), "rendered": True, **counts}


# ---------------------------------------------------------------- check
@dataclass
class Folder:
    """What one view's folder holds."""

    classes: dict  # {ID: image paths}
    strays: list = field(default_factory=list)  # files that are no class folder or no image
    unreadable: list = field(default_factory=list)  # (path, reason)

    @property
    def images(self):
        """All image paths."""
        return [path for paths in self.classes.values() for path in paths]

    @property
    def filled(self):
        """IDs that have an image."""
        return {name for name, paths in self.classes.items() if paths}


@dataclass
class Findings:
    """`problems` stop training or testing, `notes` do not; each is (sentence, mending command)."""

    problems: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def problem(self, sentence, mend=""):
        """Add what makes the folder unfit."""
        self.problems.append((sentence, mend))

    def note(self, sentence, mend=""):
        """Add what a reader should know."""
        self.notes.append((sentence, mend))


def scan_folder(path):
    """List a view's folder without opening an image."""
    from imaging.files import is_image_name

    found = Folder({})
    for entry in sorted(path.iterdir()):
        if not entry.is_dir():
            found.strays.append(entry)
            continue
        files = sorted(entry.iterdir())
        found.classes[entry.name] = [f for f in files if f.is_file() and is_image_name(f)]
        found.strays += [f for f in files if f not in found.classes[entry.name]]
    return found


def find_unreadable(paths):
    """Decode every image, on all cores; returns (path, reason) of those that cannot be read."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(_why_unreadable, paths)
        reasons = list(progress.progress_bar(results, "decoding", len(paths)))
    return [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]


def _why_unreadable(path):
    from imaging.files import read_image

    try:
        read_image(path)
    except OSError as error:
        return str(error).split(" cannot be read as an image ")[-1].split(": replace")[0]
    return None


def check_names(root, findings):
    """Note folders that are no part of the layout, with the name they may be meant to have."""
    known = {*TRAIN_FOLDERS, *TEST_FOLDERS}
    present = [f"{split}/{p.name}" for split in ("train", "test") for p in _folders(root / split)]
    for name in sorted(set(present) - known):
        close = difflib.get_close_matches(name, known - set(present), n=1, cutoff=0.8)
        mend = f"mv '{root / name}' '{root / close[0]}'" if close else ""
        findings.note(f"{name}/ is not part of the layout and not looked at", mend)


def _folders(path):
    return sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []


def check_contents(root, folders, findings):
    """Files that are no images, images that cannot be read, and classes without any."""
    for name, folder in folders.items():
        if not folder.images:
            findings.problem(
                f"{name}/ holds no images", f"mv '{root / name}' '{root / name}.empty'"
            )
        for path, reason in folder.unreadable:
            findings.problem(f"{path} cannot be read {reason}", f"rm '{path}'")
        if folder.strays:
            findings.note(
                f"{name}/ has {len(folder.strays)} file(s) that are not read, such as "
                f"{folder.strays[0]}: images are <ID>/<name> with an image suffix"
            )
        empty = sorted(folder.classes.keys() - folder.filled)
        if empty:
            findings.note(f"{name}/ has {len(empty)} empty class(es): {_some(empty)}")


def check_training(folders, findings):
    """At least two views with two buildings in common; which IDs are in one view only."""
    views = {n: f for n, f in folders.items() if n in TRAIN_FOLDERS and f.images}
    if len(views) < 2:
        found = _some(views) or "none"
        findings.problem(
            f"training needs two views with images in train/, found {found}", EXAMPLE_COMMAND
        )
        return
    pairs = [(a, b) for a in views for b in views if a < b]
    if all(len(views[a].filled & views[b].filled) < 2 for a, b in pairs):
        findings.problem(
            "no two training views share two buildings: the class folders of a building must "
            "have the same name in every view",
            EXAMPLE_COMMAND,
        )
    for name, folder in views.items():
        others = set().union(*(f.filled for n, f in views.items() if n != name))
        alone = folder.filled - others
        if alone:
            findings.note(f"{len(alone)} ID(s) only in {name}/: {_some(alone)}")


def check_testing(root, folders, findings):
    """At least one query and one gallery of two views; queries whose building no gallery has."""
    queries = {n: f for n, f in folders.items() if n.startswith("test/query_") and f.images}
    galleries = {n: f for n, f in folders.items() if n.startswith("test/gallery_") and f.images}
    tasks = [(q, g) for q in queries for g in galleries if q.split("_")[1] != g.split("_")[1]]
    if not tasks:
        found = _some([*queries, *galleries]) or "none"
        findings.problem(
            "testing needs test/query_<view> and test/gallery_<another view> with images, "
            f"found {found}",
            EXAMPLE_COMMAND,
        )
        return
    known = set().union(*(folder.classes.keys() for folder in galleries.values()))
    for name, folder in queries.items():
        strangers = folder.classes.keys() - known
        if strangers:
            findings.problem(
                f"{name}/ has {len(strangers)} ID(s) that no gallery folder holds: "
                f"{_some(strangers)}",
                f"rm -r '{root / name / min(strangers)}'",
            )
    for query, gallery in tasks:
        unmatched = (queries[query].filled & known) - galleries[gallery].filled
        if unmatched:
            findings.note(
                f"{len(unmatched)} ID(s) of {query}/ have no image in {gallery}/ and cannot be "
                f"found there: {_some(unmatched)}"
            )


def claims_university1652(root, folders):
    """Whether the folder's name or its class counts say that it is University-1652."""
    marker = root / convert.MARKER
    if marker.is_file() and files.read_yaml(marker).get("command") != "limit-views":
        return False
    if "university" in root.resolve().name.lower():
        return True
    full = [("train/satellite", 701), ("train/drone", 701), ("test/gallery_satellite", 951)]
    return any(name in folders and len(folders[name].classes) == count for name, count in full)


def check_official_counts(folders, findings):
    """Note where a folder that claims to be University-1652 has other counts than the released."""
    for name, (classes, images) in UNIVERSITY_1652.items():
        if name not in folders:
            findings.note(f"{name}/ is part of University-1652 and missing")
            continue
        found = folders[name]
        counts = [(len(found.classes), classes, "classes"), (len(found.images), images, "images")]
        for have, official, what in counts:
            if official is not None and have != official:
                findings.note(f"{name}/ has {have} {what}, University-1652 has {official}")


def _some(names, most=5):
    names = sorted(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def check_data(opts):
    """Compare a folder with the layout and print what was found; ValueError where it is unfit."""
    root = Path(opts.folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} not found: expected a data folder with train/ and test/; "
            "`python prepare.py toy --out data/toy` makes one"
        )
    folders = {
        name: scan_folder(root / name)
        for name in (*TRAIN_FOLDERS, *TEST_FOLDERS)
        if (root / name).is_dir()
    }
    if not folders:
        raise ValueError(
            f"{root} holds none of {_some(TRAIN_FOLDERS)}, {_some(TEST_FOLDERS)}: give the folder "
            "above train/ and test/; `python prepare.py toy --out data/toy` shows the layout"
        )
    for folder in folders.values():
        folder.unreadable = find_unreadable(folder.images)
    findings = Findings()
    check_names(root, findings)
    check_contents(root, folders, findings)
    if (root / "train").is_dir():
        check_training(folders, findings)
    else:
        findings.note("train/ is missing: this folder can be tested on alone")
    check_testing(root, folders, findings)
    if claims_university1652(root, folders):
        check_official_counts(folders, findings)
    return report(root, folders, findings)


def report(root, folders, findings):
    """Print the table, the notes and the problems; raise ValueError where there is a problem."""
    print(f"{'folder':<24}{'classes':>8}{'images':>8}")
    for name, folder in folders.items():
        print(f"{name:<24}{len(folder.classes):>8}{len(folder.images):>8}")
    for kind, entries in (("note", findings.notes), ("problem", findings.problems)):
        for sentence, mend in entries:
            print(f"{kind}: {sentence}" + (f"\n    mend it with: {mend}" if mend else ""))
    if findings.problems:
        raise ValueError(
            f"{root} cannot be trained and tested as it is: {len(findings.problems)} problem(s), "
            f"first: {findings.problems[0][0]}"
        )
    trainable = any(name.startswith("train/") for name in folders)
    print(f"{root} can be {'trained and tested' if trainable else 'tested'}")
    return {
        "folders": {n: (len(f.classes), len(f.images)) for n, f in folders.items()},
        "notes": [sentence for sentence, _ in findings.notes],
    }


# ---------------------------------------------------------------- show
TILE = 224  # pixels


def show_data(opts):
    """Draw random training buildings, a row each: every view, of many images the first to last."""
    import random

    from PIL import Image, ImageDraw

    from imaging.files import scan_classes, split_folder

    folder = split_folder(opts.folder, "train")
    views = [name.removeprefix("train/") for name in TRAIN_FOLDERS]
    scanned = {view: scan_classes(folder / view) for view in views if (folder / view).is_dir()}
    names = sorted(set.intersection(*(set(classes) for classes in scanned.values())))
    if not names:
        raise ValueError(f"no building is in all of {', '.join(scanned)} in {folder}")
    chosen = sorted(random.Random(opts.seed).sample(names, min(opts.buildings, len(names))))
    if opts.weather:
        rows = _weather_tiles(scanned, chosen, opts.weather)
    else:
        rows = [_view_tiles(scanned, name) for name in chosen]
    width = TILE * max(map(len, rows))
    sheet = Image.new("RGB", (width, TILE * len(rows)), "white")
    for row, tiles in enumerate(rows):
        for column, (tile, label) in enumerate(tiles):
            if tile is not None:
                drawing = ImageDraw.Draw(tile)
                drawing.text(
                    (6, 4), label, "white", stroke_width=2, stroke_fill="black", font_size=14
                )
                sheet.paste(tile, (TILE * column, TILE * row))
    with files.replacing(opts.output) as temporary:
        sheet.save(temporary, quality=88)
    print(f"picture: {opts.output}, buildings {', '.join(chosen)}")
    return {"output": opts.output, "buildings": chosen}


def _view_tiles(scanned, name):
    """(tile or None, label) of a building in every view, of many images first, middle and last."""
    tiles = []
    for view, classes in scanned.items():
        for share in _columns(classes):
            paths = classes[name]
            tile = _read_tile(paths[round(share * (len(paths) - 1))]) if paths else None
            tiles.append((tile, f"{view} {name}"))
    return tiles


def _weather_tiles(scanned, names, conditions):
    """Rows of five (tile, label): a drone image of each building under the conditions."""
    from imaging.weather import condition_label

    if not scanned.get("drone"):
        raise ValueError("--weather is drawn on drone images, and there is no train/drone")
    rows = []
    for name in names:
        paths = scanned["drone"][name]
        if not paths:
            continue
        path = paths[len(paths) // 2]
        tiles = [(_read_tile(path, each), condition_label(each)) for each in conditions]
        rows += [tiles[start : start + 5] for start in range(0, len(tiles), 5)]
    return rows


def _columns(classes):
    """Places in the list of a building's images to show: three of many, else the first."""
    return (0.0, 0.5, 1.0) if max(map(len, classes.values())) > 2 else (0.0,)


def _read_tile(path, condition="normal"):
    from PIL import Image

    from imaging.files import read_image
    from imaging.weather import draw_weather

    image = draw_weather(read_image(path), path, condition)
    return Image.fromarray(image).resize((TILE, TILE))


# ---------------------------------------------------------------- convert
PANORAMA_OPTIONS = {
    "crop": {
        "type": _shares,
        "default": (0.0, 1.0),
        "metavar": "TOP,BOTTOM",
        "help": "rows of the panoramas to keep, shares of the height; 0.25,0.75 is usual for CVACT",
    },
    "roll": {
        "type": _roll,
        "default": 0.0,
        "metavar": "DEGREES",
        "help": "roll the panoramas to the right by degrees, or each by a random angle: random",
    },
    "seed": {"type": natural_int, "default": 0, "help": "seed of --roll random"},
}
POLAR_OPTION = {
    "polar": {
        "type": _size,
        "nargs": "?",
        "const": (112, 616),
        "metavar": "HEIGHTxWIDTH",
        "help": "polar transform of the satellite images; without a size 112x616, as published",
    }
}
SKIP_OPTION = {
    "skip_missing": {
        "action": "store_true",
        "help": "leave out what a split file lists and the copy lacks",
    }
}
# Sub-command: planner, what it does, what the source is, its options.
CONVERTERS = {
    "cvusa": (
        convert.plan_cvusa,
        "CVUSA: satellite and street panoramas",
        "folder with splits/, bingmap/ and streetview/",
        {**POLAR_OPTION, **PANORAMA_OPTIONS, **SKIP_OPTION},
    ),
    "cvact": (
        convert.plan_cvact,
        "CVACT: satellite and street panoramas",
        "folder with ACT_data.mat and ANU_data_small/",
        {
            "test_set": {
                "choices": ("val", "test"),
                "default": "val",
                "help": "pairs to test on: valSet, or all of ANU_data_test/",
            },
            **POLAR_OPTION,
            **PANORAMA_OPTIONS,
        },
    ),
    "vigor": (
        convert.plan_vigor,
        "VIGOR: panoramas anywhere in a satellite image",
        "folder with splits/ and a folder for each city",
        {
            "area": {
                "choices": ("same", "cross"),
                "default": "same",
                "help": "train and test in the same four cities, or two each",
            },
            "splits": {
                "default": "splits",
                "help": "folder of the labels in the source, e.g. splits__corrected",
            },
            **PANORAMA_OPTIONS,
            **SKIP_OPTION,
        },
    ),
    "sues200": (
        convert.plan_sues200,
        "SUES-200: a data folder OUT/<height>/ for each flight height",
        "folder with satellite-view/ and drone*/, or Training/ and Testing/",
        {
            "height": {
                "dest": "heights",
                "type": int,
                "nargs": "+",
                "choices": convert.SUES200_HEIGHTS,
                "default": list(convert.SUES200_HEIGHTS),
                "help": "flight heights, metres",
            },
            "mixed": {"action": "store_true", "help": "all heights in one data folder, OUT/mixed/"},
        },
    ),
    "denseuav": (
        convert.plan_denseuav,
        "DenseUAV: drone and satellite images with coordinates",
        "folder with train/, test/ and Dense_GPS_ALL.txt",
        {
            "height": {
                "dest": "heights",
                "type": int,
                "nargs": "+",
                "choices": convert.DENSEUAV_HEIGHTS,
                "default": list(convert.DENSEUAV_HEIGHTS),
                "help": "flight heights, metres",
            },
            "no_old": {
                "dest": "old",
                "action": "store_false",
                "default": True,
                "help": "leave out the older satellite images, *_old.tif",
            },
        },
    ),
    "university160k": (
        convert.plan_university160k,
        "University-160k: masked drone queries, 167,486 more satellite images",
        "folder with test/query_drone_160k/ and test/gallery_satellite_160k/",
        {
            "names": {"help": "query_drone_name.txt, where it is not in the source"},
            "train": {"help": "folder of University-1652, where train/ is not in the source"},
            **SKIP_OPTION,
        },
    ),
    "limit-views": (
        convert.plan_limit_views,
        "University-1652 with fewer drone images to train on",
        "data folder with train/drone/",
        {
            "views": {
                "type": int,
                "choices": tuple(convert.LIMIT_STEPS),
                "required": True,
                "help": "drone images of a building, of 54",
            }
        },
    ),
    "wx": (
        convert.plan_wx,
        "the test images under weather, for other programs: a data folder for each condition",
        "data folder with test/query_drone/",
        {
            "conditions": {
                "type": parse_conditions,
                "default": CONDITIONS,
                "metavar": "NAME,...",
                "help": "all, or some of fog, rain, ...",
            }
        },
    ),
    "pairs": (
        convert.plan_pairs,
        "your own pairs of images",
        "two folders of images with equal stems, or a CSV file of pairs",
        {
            "views": {
                "type": _two_views,
                "metavar": "FIRST,SECOND",
                "help": "views of the two, e.g. drone,satellite; without, the folders' or columns' "
                "names",
            },
            "test_share": {
                "type": number_within(0, 1),
                "default": 0.2,
                "help": "buildings for test/, a share",
            },
            "seed": {"type": natural_int, "default": 0, "help": "which buildings"},
            **SKIP_OPTION,
        },
    ),
}


def convert_data(opts):
    """Convert a data set, the user's own or a public one, by links; returns counts and notes."""
    values = vars(opts)
    planner, _, _, own = CONVERTERS[opts.command]
    options = {name: values[name] for name in (own[key].get("dest", key) for key in own)}
    if "heights" in options:
        options["heights"] = sorted(set(options["heights"]))
    plan = planner(opts.source, **options)
    return convert.carry_out(
        plan,
        opts.out,
        _mark(opts, options),
        copy=opts.copy,
        dry_run=opts.dry_run,
        num_workers=opts.num_workers,
    )


def _mark(opts, options):
    """How a folder was made, as plain values: another way needs another folder."""
    sources = opts.source if isinstance(opts.source, list) else [opts.source]
    mark = {"command": opts.command, "source": [str(Path(path).resolve()) for path in sources]}
    if opts.command == "wx":
        mark["version"] = SPEC_VERSION
    for name, value in options.items():
        if name in ("names", "train") and value:
            value = str(Path(value).resolve())
        if name != "skip_missing":  # a copy may be completed later
            mark[name] = list(value) if isinstance(value, tuple) else value
    return mark


COMMANDS = {
    "toy": make_toy,
    "check": check_data,
    "show": show_data,
    **dict.fromkeys(CONVERTERS, convert_data),
}


@script
def main(argv=None):
    """Run a sub-command; returns what it found or made."""
    opts = parse_args(argv)
    return COMMANDS[opts.command](opts)


if __name__ == "__main__":
    main()
