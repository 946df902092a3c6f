"""prepare.py check: compare a data folder with the layout; what is missing, unreadable or alone."""

import difflib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from evaluation.side_files import MARKER
from imaging.files import (
    TEST_FOLDERS,
    TRAIN_FOLDERS,
    Unreadable,
    composed,
    dangling_links,
    holds_texts,
    is_image_name,
    is_text_name,
    list_classes,
    need_file,
    read_lines,
    samples_of,
    unicode_doubles,
)
from imaging.pixels import decode_file
from runtime.files import read_yaml
from runtime.printing import printable, quoted
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
    flat: list  # images that stand in the view itself, without a class folder
    strays: list  # what else is neither a class folder nor an image in one
    unreadable: list  # (path, files.Unreadable)
    damaged: list  # (path, what is damaged) of images that can be read in part

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
    findings += [*check_testing(root, folders), *check_overlap(folders)]
    findings += check_forms(root, folders)
    if claims_university1652(root, folders):
        findings += check_official_counts(folders)
    return report(root, folders, findings)


# ---------------------------------------------------------------- reading
def read_folder(path):
    """List a view's folder and decode every image of it, on all cores, or read every text."""
    texts = holds_texts(path)
    is_wanted, find_fault = (is_text_name, _text_fault) if texts else (is_image_name, _find_fault)
    classes = list_classes(path, is_wanted)
    images = [image for paths in classes.values() for image in paths]
    dangling = dangling_links(path)
    flat = [p for p in sorted(path.iterdir()) if is_wanted(p) and p.name not in classes]
    flat = [image for image in flat if image not in dangling]
    known = {*images, *flat, *dangling, *(path / name for name in classes)}
    strays = [p for p in sorted([*path.iterdir(), *path.glob("*/*")]) if p not in known]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = list(progress_bar(pool.map(find_fault, images), "decoding", len(images)))
    found = [*zip(images, faults, strict=True), *((link, _find_fault(link)) for link in dangling)]
    unreadable = [(p, fault) for p, fault in found if isinstance(fault, Unreadable)]
    damaged = [(p, fault) for p, fault in found if isinstance(fault, str) and fault]
    if texts:  # a line each
        lost = {p for p, _ in unreadable}
        whole = {n: [p for p in paths if p not in lost] for n, paths in classes.items()}
        classes = {n: [s for p in paths for s in samples_of(p)] for n, paths in whole.items()}
        images = [sample for samples in classes.values() for sample in samples]
    return Folder(classes, images, flat, strays, unreadable, damaged)


def _find_fault(path):
    """Why an image cannot be read, as `files.Unreadable`, or what is damaged in it, else ""."""
    try:
        return decode_file(path)[1]
    except Unreadable as fault:
        return fault


def _text_fault(path):
    """As `_find_fault`, of a text."""
    try:
        need_file(path)
        if not any(map(str.strip, read_lines(path))):
            return Unreadable("it holds no words", "write a description into it, or remove it")
    except Unreadable as fault:
        return fault
    except ValueError:
        return Unreadable("it is not in UTF-8", "save it again")
    return ""


# ------------------------------------------- checks: they yield (kind, sentence, mending command)
def check_names(root):
    """Folders that are not part of the layout, with the name they may be meant to have."""
    known = {*TRAIN_FOLDERS, *TEST_FOLDERS}
    found = {f"{path.parent.name}/{path.name}" for split in ("train", "test")
             for path in root.glob(f"{split}/*") if path.is_dir()}  # fmt: skip
    for name in sorted(found - known):  # the list of before: `found` grows
        close = difflib.get_close_matches(name, known - found, n=1, cutoff=0.8)
        # Not to a view set aside (see check_contents); to one of two alike, or they would nest.
        fits = close and not name.endswith(".empty")
        mend = f"mv {quoted(root / name)} {quoted(root / close[0])}" if fits else ""
        found.update(close if fits else ())
        yield NOTE, f"{name}/ is not part of the layout and not looked at", mend


def check_contents(root, folders):
    """Files that are not images, images that cannot be read, and classes without any."""
    for name, folder in folders.items():
        if folder.flat:
            sentence = f"{name}/ has {len(folder.flat)} image(s) outside class folders, such as"
            expected = "each building needs a folder, of one name in all views"
            kind = NOTE if folder.images else PROBLEM
            mend = _class_folders(root / name, folder.flat)
            yield kind, f"{sentence} {folder.flat[0].name}: {expected}", mend
        elif not folder.images:
            mend = f"mv {quoted(root / name)} {quoted(root / f'{name}.empty')}"
            yield PROBLEM, f"{name}/ holds no images", mend
        for path, fault in folder.unreadable:
            # Nothing is deleted but bytes that are no image.
            yield PROBLEM, fault.about(path), f"rm {quoted(path)}" if fault.damaged else ""
        if folder.damaged:
            path, damage = folder.damaged[0]
            sentence = f"{name}/ has {len(folder.damaged)} JPEG(s) of which a part is lost"
            yield NOTE, f"{sentence}, such as {path} ({damage}): replace them", ""
        if folder.strays:
            sentence = f"{name}/ has {len(folder.strays)} file(s) that are not read, such as"
            expected = "images are <ID>/<name> with an image suffix, texts in text/ end in .txt"
            yield NOTE, f"{sentence} {folder.strays[0]}: {expected}", ""
        empty = sorted(folder.classes.keys() - folder.filled)
        if empty:
            yield NOTE, f"{name}/ has {len(empty)} empty class(es): {_some(empty)}", ""


def _class_folders(view, images):
    """The command that puts each image of a view into a folder of the name of its stem.

    One that would overwrite another stays where it is.
    """
    patterns = " ".join(f"*{suffix}" for suffix in sorted({image.suffix for image in images}))
    each = 'mkdir -p "./${f%.*}" && mv -n "./$f" "./${f%.*}/"'
    return f"(cd {quoted(view)} && for f in {patterns}; do {each}; done)"


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
    forms = set(map(composed, known))  # of another form: see check_forms
    for name, folder in queries.items():
        strangers = {each for each in folder.filled if composed(each) not in forms}
        if strangers:
            sentence = f"{name}/ has {len(strangers)} ID(s) that no gallery folder holds"
            missing = [root / _gallery_of(name, galleries) / each for each in sorted(strangers)]
            mend = f"mkdir {' '.join(map(quoted, missing[:10]))}   # and put their images there"
            yield PROBLEM, f"{sentence}: {_some(strangers)}", mend
    for query, gallery in tasks:
        unmatched = (queries[query].filled & known) - galleries[gallery].filled
        if unmatched:
            sentence = f"{len(unmatched)} ID(s) of {query}/ have no image in {gallery}/"
            yield NOTE, f"{sentence} and cannot be found there: {_some(unmatched)}", ""


def check_overlap(folders):
    """Buildings that are trained on and searched for: their recall says nothing of new ones."""
    trained = set().union(*(f.filled for n, f in folders.items() if n in TRAIN_FOLDERS))
    queries = [f.filled for n, f in folders.items() if n.startswith("test/query_")]
    both = set().union(*queries) & trained
    if both:
        sentence = f"{len(both)} ID(s) of the queries also stand in train/: {_some(both)}"
        yield NOTE, f"{sentence}; of the same buildings recall says nothing of new ones", ""


def check_forms(root, folders):
    """Class folders of one split that differ only in Unicode form, and what joins them."""
    for split in ("train/", "test/"):
        views = {root / n: f.classes for n, f in folders.items() if n.startswith(split)}
        for group in unicode_doubles(name for classes in views.values() for name in classes):
            moves = [move for view, classes in views.items() for move in
                     _joins(view, [name for name in group if name in classes])]  # fmt: skip
            codes = " and ".join(map(ascii, group))
            sentence = f"class folders of {split} differ only in Unicode form: {group[0]}, as"
            yield PROBLEM, f"{sentence} {codes}", " && ".join(moves)


def _joins(view, names):
    """The commands that give class folders the composed form, or their images to that folder."""
    exists = composed(names[0]) in names if names else False
    for name in sorted(names):
        old, new = quoted(view / name), quoted(view / composed(name))
        if name != composed(name):
            yield f"mv -n {old}/* {new} && rmdir {old}" if exists else f"mv {old} {new}"
        exists = True


def _gallery_of(query, galleries):
    """The first gallery folder of another view than the query folder's, else the first."""
    view = query.split("_")[1]
    return min(galleries, key=lambda name: name.endswith(f"_{view}"))


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
        print(f"{kind}: {printable(sentence)}" + (f"\n    mend it with: {mend}" if mend else ""))
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
