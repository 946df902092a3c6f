"""Tables beside a feature file: which gallery images belong to a query, which queries are asked.

They are UTF-8 text. They name an image by its file name, or by as many of the folders before it as
it takes (0001/image-01.jpeg), or all images of a folder by the folder's name, a building's.

- Semi-positives and positives: a comma-separated table; its first column, `query` (or panorama),
  names a query image, its columns `semi_1`, `semi_2`, ... gallery images. Where none is called so,
  all columns after the first do. Lines of the same query add up.
- The query list of University-160k: no header, the name of an image a line.

Coordinates are read by `evaluation.places`.
"""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

MARKER = "prepare.yaml"  # in a data folder that prepare.py converted: how it was made
QUERY_COLUMNS = ("query", "panorama")


class Matches(NamedTuple):
    """A table of gallery images by query image, as `read_matches` gives it."""

    names: dict[str, list[str]]
    source: str  # the file's name, for messages


# ---------------------------------------------------------------- reading
def find_side_file(data_dir, *names):
    """The first file of these names in a data folder, given by itself or by its train/ or test/.

    None where there is none.
    """
    folder = Path(data_dir)
    folders = [folder, folder.parent] if folder.name in ("train", "test") else [folder]
    return next((p / name for p in folders for name in names if (p / name).is_file()), None)


def read_lines(path):
    """The lines of a text file. FileNotFoundError, or ValueError where it is not UTF-8."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} not found: name the side file that prepare.py wrote")
    try:
        # splitlines() would split within names too, at U+0085 and others.
        return Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as such") from None


def read_table(path):
    """(column names in lower case, [(line number, cells)]) of a comma-separated file.

    Empty lines are passed over. Raises FileNotFoundError or ValueError.
    """
    reader = csv.reader(read_lines(path))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: not comma-separated text ({error}): save it as such"
        ) from None
    rows = [(line, cells) for line, cells in rows if any(cells)]
    return [cell.lower() for cell in rows[0][1]] if rows else [], rows[1:]


def check_width(cells, header, where):
    """ValueError where a line has more or fewer cells than there are columns."""
    if len(cells) != len(header):
        raise ValueError(f"{where}: {len(cells)} columns, expected {len(header)}")


def read_matches(path):
    """Read `Matches` from a table, see the top of this file; empty cells are passed over.

    Raises FileNotFoundError or ValueError.
    """
    header, rows = read_table(path)
    if not header or header[0] not in QUERY_COLUMNS:
        raise ValueError(
            f"{path} begins with {','.join(header) or 'nothing'!r}, expected the header "
            "query,gallery,... above lines of a query image and its gallery images"
        )
    chosen = [i for i, column in enumerate(header) if re.fullmatch(r"semi_\d+", column)]
    names = {}
    for line, cells in rows:
        if chosen:  # else a line has as many images as it has
            check_width(cells, header, f"{path}, line {line}")
        found = [cells[i] for i in chosen] if chosen else cells[1:]
        names.setdefault(clean(cells[0]), []).extend(clean(cell) for cell in found if cell)
    return Matches(names, str(path))


def read_query_list(path):
    """Read image names, one a line, in their order. FileNotFoundError or ValueError."""
    names = [clean(line.strip()) for line in read_lines(path) if line.strip()]
    if not names:
        raise ValueError(f"{path} is empty, expected the name of a query image a line")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"{path} names {twice} more than once: remove the repeated lines")
    return names


# ---------------------------------------------------------------- names of images
def clean(name):
    """A name as it is compared: with / between its parts, and none at its ends."""
    return name.replace("\\", "/").removeprefix("./").strip("/")


def names_of(path, longest, folder=False):
    """Names of an image or its folder: the last `longest` parts of the path, then fewer, to one."""
    parts = path.split("/")[: -1 if folder else None]
    return ["/".join(parts[-count:]) for count in range(min(longest, len(parts)), 0, -1)]


def depth(names):
    """Parts of the name that has most."""
    return max((name.count("/") + 1 for name in names), default=0)


def with_slashes(paths):
    """Paths with / between their parts; ValueError where one is not known."""
    if not all(paths):
        raise ValueError(
            "the feature file holds no image paths, by which side files are read: write it again "
            "with `python test.py`"
        )
    return [str(path).replace("\\", "/") for path in paths]


def find_images(names, paths, source, by_folder=True):
    """Indices among `paths` of the images that names stand for: {name: int64 array}.

    A name is the end of one path or, `by_folder`, of the folder of any number of them. Raises
    ValueError, with `source`, for names of nothing, or of several images in different folders.
    """
    wanted, longest = set(names), depth(names)
    images, folders = {}, {}
    for index, path in enumerate(with_slashes(paths)):
        for name in wanted.intersection(names_of(path, longest)):
            images.setdefault(name, []).append(index)
        for name in wanted.intersection(names_of(path, longest, True)) if by_folder else ():
            folders.setdefault(name, []).append(index)
    missing = sorted(wanted - images.keys() - folders.keys())
    if missing:
        raise ValueError(
            f"{source} names {len(missing)} images that are not among the {len(paths)} of the "
            f"feature file, first {missing[0]}: is it of another data set?"
        )
    twice = sorted(name for name, found in images.items() if len(found) > 1)
    if twice:
        raise ValueError(f"{source} names {twice[0]}, as several images are called: add the folder")
    return {name: np.array(found) for name, found in (folders | images).items()}


def matches_of(query, gallery, matches):
    """Gallery indices of `Matches` for every query: a list of Nq int64 arrays, empty without line.

    Lines of queries that are not in the feature file are passed over. Raises ValueError where no
    query has a line, or a line names a gallery image that is not there.
    """
    table, longest = matches.names, depth(matches.names)
    lines = [
        next((table[name] for name in names_of(path, longest) if name in table), [])
        for path in with_slashes(query.paths)
    ]
    if not any(lines):
        raise ValueError(
            f"{matches.source} has no line for any of the {len(lines)} queries, first "
            f"{query.paths[0]}: is it of another data set?"
        )
    found = find_images({name for line in lines for name in line}, gallery.paths, matches.source)
    nothing = np.empty(0, dtype=np.int64)
    return [np.unique(np.concatenate([nothing, *(found[name] for name in line)])) for line in lines]
