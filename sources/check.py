"""prepare.py check: compare a data folder with the layout; what is missing, unreadable or alone."""

import difflib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from evaluation.side_files import MARKER
from imaging.files import TEST_FOLDERS, TRAIN_FOLDERS, list_classes, read_image
from runtime.files import read_yaml
from runtime.progress import progress_bar
from sources.command import Command, option

NOTE, PROBLEM = "note", "problem"  # a problem stops training or testing, a note does not
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


class Folder(NamedTuple):
    """What one view's folder holds."""

    classes: dict  # {ID: image paths}
    images: list  # all image paths
    strays: list  # what is neither a class folder nor an image in one
    unreadable: list  # (path, reason)

    @property
    def filled(self):
        """IDs that have an image."""
        return {name for name, paths in self.classes.items() if paths}


def check_data(opts):
    """Compare a folder with the layout and print what was found; ValueError where it is unfit."""
    root = Path(opts.folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} not found: expected a data folder with train/ and test/; "
            "`python prepare.py toy --out data/toy` makes one"
        )
    present = [name for name in (*TRAIN_FOLDERS, *TEST_FOLDERS) if (root / name).is_dir()]
    if not present:
        raise ValueError(
            f"{root} holds none of {_some(TRAIN_FOLDERS)}, {_some(TEST_FOLDERS)}: give the folder "
            "above train/ and test/; `python prepare.py toy --out data/toy` shows the layout"
        )
    folders = {name: read_folder(root / name) for name in present}
    findings = [*check_names(root), *check_contents(root, folders)]
    if (root / "train").is_dir():
        findings += check_training(folders)
    else:
        findings.append((NOTE, "train/ is missing: this folder is for testing only", ""))
    findings += check_testing(root, folders)
    if claims_university1652(root, folders):
        findings += check_official_counts(folders)
    return report(root, folders, findings)


# ---------------------------------------------------------------- reading
def read_folder(path):
    """List a view's folder and decode every image of it, on all cores."""
    classes = list_classes(path)
    images = [image for paths in classes.values() for image in paths]
    known = {*images, *(path / name for name in classes)}
    strays = [p for p in sorted([*path.iterdir(), *path.glob("*/*")]) if p not in known]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = list(progress_bar(pool.map(_why_unreadable, images), "decoding", len(images)))
    unreadable = [(p, reason) for p, reason in zip(images, reasons, strict=True) if reason]
    return Folder(classes, images, strays, unreadable)


def _why_unreadable(path):
    try:
        read_image(path)
    except OSError as error:
        return str(error).split(" cannot be read as an image ")[-1].split(": replace")[0]
    return None


# ------------------------------------------- checks: they yield (kind, sentence, mending command)
def check_names(root):
    """Folders that are not part of the layout, with the name they may be meant to have."""
    known = {*TRAIN_FOLDERS, *TEST_FOLDERS}
    found = {f"{path.parent.name}/{path.name}" for split in ("train", "test")
             for path in root.glob(f"{split}/*") if path.is_dir()}  # fmt: skip
    for name in sorted(found - known):
        close = difflib.get_close_matches(name, known - found, n=1, cutoff=0.8)
        mend = f"mv '{root / name}' '{root / close[0]}'" if close else ""
        yield NOTE, f"{name}/ is not part of the layout and not looked at", mend


def check_contents(root, folders):
    """Files that are not images, images that cannot be read, and classes without any."""
    for name, folder in folders.items():
        if not folder.images:
            mend = f"mv '{root / name}' '{root / name}.empty'"
            yield PROBLEM, f"{name}/ holds no images", mend
        for path, reason in folder.unreadable:
            yield PROBLEM, f"{path} cannot be read {reason}", f"rm '{path}'"
        if folder.strays:
            sentence = f"{name}/ has {len(folder.strays)} file(s) that are not read, such as"
            expected = "images are <ID>/<name> with an image suffix"
            yield NOTE, f"{sentence} {folder.strays[0]}: {expected}", ""
        empty = sorted(folder.classes.keys() - folder.filled)
        if empty:
            yield NOTE, f"{name}/ has {len(empty)} empty class(es): {_some(empty)}", ""


def check_training(folders):
    """At least two views with two buildings in common; which IDs are in one view only."""
    views = {n: f for n, f in folders.items() if n in TRAIN_FOLDERS and f.images}
    if len(views) < 2:
        found = _some(views) or "none"
        sentence = f"training needs two views with images in train/, found {found}"
        yield PROBLEM, sentence, EXAMPLE_COMMAND
        return
    pairs = [(a, b) for a in views for b in views if a < b]
    if all(len(views[a].filled & views[b].filled) < 2 for a, b in pairs):
        sentence = (
            "no two training views share two buildings: the class folders of a building must "
            "have the same name in every view"
        )
        yield PROBLEM, sentence, EXAMPLE_COMMAND
    for name, folder in views.items():
        others = set().union(*(f.filled for n, f in views.items() if n != name))
        alone = folder.filled - others
        if alone:
            yield NOTE, f"{len(alone)} ID(s) only in {name}/: {_some(alone)}", ""


def check_testing(root, folders):
    """At least one query and one gallery of two views; queries whose building no gallery has."""
    queries = {n: f for n, f in folders.items() if n.startswith("test/query_") and f.images}
    galleries = {n: f for n, f in folders.items() if n.startswith("test/gallery_") and f.images}
    tasks = [(q, g) for q in queries for g in galleries if q.split("_")[1] != g.split("_")[1]]
    if not tasks:
        found = _some([*queries, *galleries]) or "none"
        needed = "testing needs test/query_<view> and test/gallery_<another view> with images"
        yield PROBLEM, f"{needed}, found {found}", EXAMPLE_COMMAND
        return
    known = set().union(*(folder.classes.keys() for folder in galleries.values()))
    for name, folder in queries.items():
        strangers = folder.classes.keys() - known
        if strangers:
            sentence = f"{name}/ has {len(strangers)} ID(s) that no gallery folder holds"
            mend = f"rm -r '{root / name / min(strangers)}'"
            yield PROBLEM, f"{sentence}: {_some(strangers)}", mend
    for query, gallery in tasks:
        unmatched = (queries[query].filled & known) - galleries[gallery].filled
        if unmatched:
            sentence = f"{len(unmatched)} ID(s) of {query}/ have no image in {gallery}/"
            yield NOTE, f"{sentence} and cannot be found there: {_some(unmatched)}", ""


def claims_university1652(root, folders):
    """Whether the folder's name or its class counts say that it is University-1652."""
    marker = root / MARKER
    if marker.is_file() and read_yaml(marker).get("command") != "limit-views":
        return False
    if "university" in root.resolve().name.lower():
        return True
    full = [("train/satellite", 701), ("train/drone", 701), ("test/gallery_satellite", 951)]
    return any(name in folders and len(folders[name].classes) == count for name, count in full)


def check_official_counts(folders):
    """Where a folder that claims to be University-1652 has other counts than the released."""
    for name, (classes, images) in UNIVERSITY_1652.items():
        if name not in folders:
            yield NOTE, f"{name}/ is part of University-1652 and missing", ""
            continue
        found = folders[name]
        counts = [(len(found.classes), classes, "classes"), (len(found.images), images, "images")]
        for have, official, what in counts:
            if official is not None and have != official:
                yield NOTE, f"{name}/ has {have} {what}, University-1652 has {official}", ""


def _some(names, most=5):
    names = sorted(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


# ---------------------------------------------------------------- what is printed
def report(root, folders, findings):
    """Print the table, the notes and the problems; raise ValueError where there is a problem."""
    print(f"{'folder':<24}{'classes':>8}{'images':>8}")
    for name, folder in folders.items():
        print(f"{name:<24}{len(folder.classes):>8}{len(folder.images):>8}")
    for kind, sentence, mend in sorted(findings, key=lambda finding: finding[0]):  # notes first
        print(f"{kind}: {sentence}" + (f"\n    mend it with: {mend}" if mend else ""))
    problems = [sentence for kind, sentence, _ in findings if kind == PROBLEM]
    if problems:
        raise ValueError(
            f"{root} cannot be trained and tested as it is: {len(problems)} problem(s), "
            f"first: {problems[0]}"
        )
    trainable = any(name.startswith("train/") for name in folders)
    print(f"{root} can be {'trained and tested' if trainable else 'tested'}")
    return {
        "folders": {n: (len(f.classes), len(f.images)) for n, f in folders.items()},
        "notes": [sentence for _, sentence, _ in findings],
    }


COMMANDS = (
    Command("check", "compare a folder with the layout", check_data,
            (option("folder", help="data folder"),), "data/toy"),
)  # fmt: skip
