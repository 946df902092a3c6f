"""Make and check data folders in the University-1652 layout.

python prepare.py toy --out data/toy        # render the toy campus
python prepare.py check data/toy            # what is there, what is missing
"""

import argparse
import difflib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import campus
import utils
from utils import natural_int, positive_int, script

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
    parser = utils.Parser(description="Make and check data folders in the University-1652 layout.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{toy,check,show}")
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
    show.add_argument("--output", default="views.jpg", help="the picture")
    return parser.parse_args(argv)


# ---------------------------------------------------------------- toy
def make_toy(opts):
    """Render the toy campus into a fresh folder; a folder of the same campus is left as it is."""
    out = Path(opts.out)
    spec = {key: value for key, value in vars(opts).items() if key not in ("command", "out")}
    spec.pop("num_workers")
    mark = {**spec, "version": campus.VERSION}
    marker = out / "campus.yaml"
    if marker.is_file() and utils.read_yaml(marker) == mark:
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
        with utils.progress_bar(None, "buildings", total=total) as bar:
            counts = campus.render_campus(
                partial,
                **spec,
                num_workers=opts.num_workers,
                progress=lambda finished: bar.update(finished - bar.n),
            )
        utils.write_yaml(partial / marker.name, mark)
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
    from dataset import is_image_name

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
        reasons = list(utils.progress_bar(results, "decoding", len(paths)))
    return [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]


def _why_unreadable(path):
    from dataset import read_image

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
    check_training(folders, findings)
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
    print(f"{root} can be trained and tested")
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

    from dataset import scan_classes, split_folder

    folder = split_folder(opts.folder, "train")
    views = [name.removeprefix("train/") for name in TRAIN_FOLDERS]
    scanned = {view: scan_classes(folder / view) for view in views if (folder / view).is_dir()}
    names = sorted(set.intersection(*(set(classes) for classes in scanned.values())))
    if not names:
        raise ValueError(f"no building is in all of {', '.join(scanned)} in {folder}")
    chosen = sorted(random.Random(opts.seed).sample(names, min(opts.buildings, len(names))))
    columns = [(view, share) for view in scanned for share in _columns(scanned[view])]
    sheet = Image.new("RGB", (TILE * len(columns), TILE * len(chosen)), "white")
    for row, name in enumerate(chosen):
        for column, (view, share) in enumerate(columns):
            paths = scanned[view][name]
            if paths:
                tile = _read_tile(paths[round(share * (len(paths) - 1))])
                ImageDraw.Draw(tile).text(
                    (6, 4),
                    f"{view} {name}",
                    "white",
                    stroke_width=2,
                    stroke_fill="black",
                    font_size=14,
                )
                sheet.paste(tile, (TILE * column, TILE * row))
    with utils.replacing(opts.output) as temporary:
        sheet.save(temporary, quality=88)
    print(f"picture: {opts.output}, buildings {', '.join(chosen)}")
    return {"output": opts.output, "buildings": chosen}


def _columns(classes):
    """Places in the list of a building's images to show: three of many, else the first."""
    return (0.0, 0.5, 1.0) if max(map(len, classes.values())) > 2 else (0.0,)


def _read_tile(path):
    from PIL import Image

    from dataset import read_image

    return Image.fromarray(read_image(path)).resize((TILE, TILE))


COMMANDS = {"toy": make_toy, "check": check_data, "show": show_data}


@script
def main(argv=None):
    """Run a sub-command; returns what it found or made."""
    opts = parse_args(argv)
    return COMMANDS[opts.command](opts)


if __name__ == "__main__":
    main()
