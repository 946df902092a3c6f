"""Images and texts in the University-1652 layout: names of views, folders of classes.

What has the suffix of an image and is not hidden is meant as one, and must be a file that can be
read: nothing of that name in a class folder is passed over. Texts, the view `text`, stand in .txt
files, a description a line; each is a sample of its own, named as editors name a line, a.txt:2.

<data>/train/{satellite,street,drone,google,text}/<ID>/*
<data>/test/{query,gallery}_{satellite,street,drone,text}/<ID>/*
"""

import os
import re
import stat
import unicodedata
from pathlib import Path

from runtime.printing import is_utf8, quoted

VIEWS = SATELLITE, STREET, DRONE, GOOGLE = ("satellite", "street", "drone", "google")
TEST_VIEWS = VIEWS[:3]  # web photographs are for training alone
TEXT = "text"  # the view of words; those above are of images
# The folders of the layout, in the order in which they are listed.
TRAIN_FOLDERS = tuple(f"train/{view}" for view in (SATELLITE, DRONE, STREET, GOOGLE, TEXT))
TEST_FOLDERS = tuple(
    f"test/{role}_{view}"
    for role in ("query", "gallery")
    for view in (SATELLITE, DRONE, STREET, TEXT)
)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
TEXT_SUFFIX = ".txt"


def split_folder(data_dir, split):
    """The `train` or `test` folder of a data folder given by itself or by its parent.

    Raises FileNotFoundError where there is neither.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"data folder {data_dir} not found: expected a folder holding {split}/; "
            "`python prepare.py toy --out data/toy` makes one to try with"
        )
    if (data_dir / split).is_dir():
        return data_dir / split
    prefixes = ("",) if split == "train" else ("query_", "gallery_")
    if any((data_dir / f"{prefix}{view}").is_dir() for prefix in prefixes for view in VIEWS):
        return data_dir
    found = sorted(path.name for path in data_dir.iterdir())[:6]
    raise FileNotFoundError(
        f"{data_dir} holds neither {split}/ nor folders named {prefixes[0]}{VIEWS[0]}, "
        f"{prefixes[0]}{VIEWS[2]}, ...; found {', '.join(found) or 'nothing'}: "
        f"`python prepare.py check {quoted(data_dir)}` says what is missing"
    )


def scan_classes(folder):
    """{ID: sorted image paths} of a view's folder; a class folder without images gives [].

    Of a folder of texts, {ID: samples}: a line of a file each. Raises FileNotFoundError where the
    folder is missing, ValueError where it holds no image, or words, at all, OSError where a path
    with an image's name, or a link to a class folder, leads to nothing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        present = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        raise FileNotFoundError(
            f"{folder} not found: there are {', '.join(present) or 'no folders'} beside it; "
            "name other views, or check the layout with `python prepare.py check`"
        )
    texts = holds_texts(folder)
    classes = list_classes(folder, is_text_name if texts else is_image_name)
    need_files([*dangling_links(folder), *(path for paths in classes.values() for path in paths)])
    if texts:
        classes = {
            n: [s for path in paths for s in samples_of(path)] for n, paths in classes.items()
        }
    if not any(classes.values()):
        expected = (
            f"<ID>/<name>{TEXT_SUFFIX} with a description a line"
            if texts
            else f"<ID>/<image> with a suffix of {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
        raise ValueError(
            f"{folder} holds no {'texts' if texts else 'images'}: expected {expected}; see "
            "`python prepare.py check DIR`"
        )
    return classes


def task_folders(task):
    """The two folders of a test task, (view of the queries, view of the gallery), in test/."""
    query, gallery = task
    return f"query_{query}", f"gallery_{gallery}"


def scan_test_folders(test_dir, tasks):
    """{"query_drone": {ID: paths}, ...} of the folders that the tasks need."""
    folders = sorted({folder for task in tasks for folder in task_folders(task)})
    scanned = {folder: scan_classes(test_dir / folder) for folder in folders}
    need_one_form(scanned.values())
    for folder in folders:
        if folder.startswith("query_"):
            _check_known(scanned[folder], test_dir, test_dir / folder)
    return scanned


def retrieval_labels(*class_names):
    """{ID: integer label} of all IDs, for query and gallery alike: int(ID), as published.

    Where an ID is not a number, or two are the same number (`1` and `0001`), all IDs are numbered
    in sorted order instead. -1 is the published label of junk images.
    """
    names = sorted(set().union(*class_names))
    if all(re.fullmatch("-1|[0-9]{1,18}", name) for name in names):
        labels = {name: int(name) for name in names}
        if len(set(labels.values())) == len(names):
            return labels
    return {name: number for number, name in enumerate(names)}


def _check_known(classes, test_dir, folder):
    """Raise ValueError for a query class that no gallery folder holds: a misplaced folder."""
    galleries = [path for path in test_dir.glob("gallery_*") if path.is_dir()]
    known = {path.name for gallery in galleries for path in gallery.iterdir()}
    strangers = [name for name, paths in classes.items() if paths and name not in known]
    if strangers:
        raise ValueError(
            f"{folder} has {len(strangers)} class folder(s) that no gallery folder holds, first "
            f"{strangers[0]}: add its gallery images or remove it"
        )


def is_image_name(path):
    """Whether a path has the suffix of an image and is not a hidden file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def holds_texts(folder):
    """Whether a folder of the layout is one of texts, by its name."""
    return Path(folder).name in (TEXT, f"query_{TEXT}", f"gallery_{TEXT}")


def is_text_name(path):
    """Whether a path has the suffix of a text and is not a hidden file."""
    return path.suffix.lower() == TEXT_SUFFIX and not path.name.startswith(".")


def samples_of(path):
    """The samples of a text file: a path `<file>:<line>`, from 1, for each line with words."""
    lines = read_lines(path)
    return [Path(f"{path}:{n}") for n, line in enumerate(lines, start=1) if line.strip()]


def read_lines(path):
    """The lines of a text file, as editors count them; ValueError where it is not in UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig").split("\n")  # \r\n and \r are \n by now
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}): save it again") from None


def split_sample(sample):
    """(file, line) of a text sample; of an image's path (path, None)."""
    name, colon, line = str(sample).rpartition(":")
    if colon and line.isdigit() and name.lower().endswith(TEXT_SUFFIX):
        return Path(name), int(line)
    return Path(sample), None


def list_classes(folder, is_image=is_image_name):
    """{ID: sorted paths} of a folder of class folders, empty ones included, hidden ones not.

    `is_image` says which paths count.
    """
    folders = (p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith("."))
    return {path.name: list_images(path, is_image) for path in folders}


def list_images(folder, is_image=is_image_name):
    """The sorted paths in a folder for which `is_image` holds."""
    return sorted(filter(is_image, folder.iterdir()))


def composed(name):
    """A name with each accented letter as one sign (Unicode's form NFC), as most systems write."""
    return unicodedata.normalize("NFC", name)


def unicode_doubles(names):
    """Lists of names that differ only in Unicode form (an accent apart, or composed), sorted."""
    by_form = {}
    for name in sorted({name for name in names if not name.isascii()}):
        by_form.setdefault(composed(name), []).append(name)
    return [group for group in by_form.values() if len(group) > 1]


def need_one_form(folders):
    """ValueError where IDs of the folders, each {ID: paths}, differ only in Unicode form."""
    for first, second, *_ in unicode_doubles(name for classes in folders for name in classes):
        raise ValueError(
            f"the class folders {first} ({ascii(first)} and {ascii(second)}) differ only in "
            "Unicode form, so that a building would be two: `python prepare.py check DIR` prints "
            "what joins them"
        )


def dangling_links(folder):
    """The links in a folder that lead nowhere: perhaps class folders on a disk that is missing."""
    links = (path for path in sorted(folder.iterdir()) if path.is_symlink() and not path.exists())
    return [path for path in links if not path.name.startswith(".")]


# ---------------------------------------------------------------- what is no file
class Unreadable(Exception):
    """Why a file cannot be read as an image, what mends it, and whether its bytes are damaged."""

    def __init__(self, reason, advice, damaged=False):
        super().__init__(reason)
        self.reason, self.advice, self.damaged = reason, advice, damaged

    def about(self, path):
        """What to tell the user."""
        kind = "a text" if is_text_name(Path(path)) else "an image"
        return f"{path} cannot be read as {kind} ({self.reason}): {self.advice}"

    def error(self, path):
        """The OSError that tells the user."""
        return OSError(f"{self.about(path)}; `python prepare.py check DIR` lists all such files")


def need_file(path):
    """Raise `Unreadable` unless a path is a file, or a link to one; a pipe would be waited for."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not os.path.islink(path):
            raise Unreadable("it is gone", "put it back") from None
        lost = f"a link to {os.readlink(path)}, which is not there"
        raise Unreadable(lost, "put that back, or remove the link") from None
    except OSError as error:  # a circle of links, or a folder that must not be entered
        raise Unreadable(error.strerror, "make it readable") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise Unreadable(f"{what}, not a file", "rename it or move it away")


def need_utf8(name, shown=None):
    """Raise a ValueError for a name that is not UTF-8, which no table can hold.

    `shown` is the path to rename, where it is another one.
    """
    if not is_utf8(os.fspath(name)):
        shown = os.fsencode(shown or name).decode(errors="backslashreplace")
        raise ValueError(f"{shown} has a name that is not UTF-8: rename it")


def need_files(paths):
    """Raise an OSError for the first of the paths that is no file."""
    for path in paths:
        try:
            need_file(path)
        except Unreadable as fault:
            raise fault.error(path) from None
