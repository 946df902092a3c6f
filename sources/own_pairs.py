"""The user's own pairs of images: two folders of files with equal stems, a CSV file, or a map."""

import argparse
import csv
import hashlib
import io
from pathlib import Path
from typing import NamedTuple

from imaging.files import TEST_VIEWS, composed, is_image_name, list_images
from runtime.cli import natural_int, number_within
from sources.command import SKIP_MISSING, converter, option
from sources.map_pairs import OPTIONS, plan_map_pairs
from sources.plan import Plan
from sources.reading import DEGREES, check_numbers, keep_complete, need_folder, read_text

COLUMN_ALIASES = {"building": "id", "lat": "latitude", "lon": "longitude", "lng": "longitude"}


class Row(NamedTuple):
    """One row of the user's pairs: an image of each view, the building, its coordinates."""

    first: Path
    second: Path
    name: str | None = None
    place: tuple | None = None  # latitude, longitude in degrees


def plan_pairs(sources, *, views=None, test_share=0.2, seed=0, skip_missing=False, **map_options):
    """The plan of the user's pairs: `sources` are two folders, one CSV file, or photos of a map.

    `views` names the views of the first and the second; None where the folders or the columns of
    the CSV have the names of views. The CSV has a header, two columns of image paths (relative to
    it), and may have `id`, `latitude`, `longitude`, which give coordinates.csv. Rows of one ID, or
    that share an image, are one building. A share of the buildings, by seed, becomes test/, for
    queries in both directions; the others train/. With `maps` among `map_options` the sources are
    photos instead: see `map_pairs.plan_map_pairs`.
    """
    given = {name: value for name, value in map_options.items() if value is not None}
    if "maps" in given:
        if skip_missing:
            raise ValueError("--skip_missing goes with a CSV file, not with --map: leave it out")
        return plan_map_pairs(sources, views, test_share, seed, **given)
    if given:
        raise ValueError(f"--{next(iter(given))} goes with --map MAP: add it, or leave it out")
    plan = Plan("pairs")
    views, rows, present = _read_pairs([Path(path) for path in sources], views, plan, skip_missing)
    # From all rows: a copy that is completed later keeps its names and its test buildings.
    buildings, present = _name_buildings(rows), set(present)
    test = _choose_test(sorted(buildings), test_share, seed)
    places = []
    for name, group in sorted(buildings.items()):
        group = [row for row in group if row in present]
        prefixes = ("test/query_", "test/gallery_") if name in test else ("train/",)
        for column, view in enumerate(views):
            for prefix in prefixes:
                plan.add_distinct(f"{prefix}{view}/{name}", [row[column] for row in group])
        places += [[name, *row.place] for row in group if row.place][:1]
    if places:
        plan.add_coordinates(places)
    return plan


def _read_pairs(sources, views, plan, skip_missing):
    """The two views, all rows, and those whose images exist."""
    if len(sources) > 2:
        raise ValueError(f"{len(sources)} sources given: expected two folders, or one CSV file")
    if len(sources) == 2:
        for path in sources:
            need_folder(path, "a folder of images")
        views = views or _view_names([path.name for path in sources], "the folders are named")
        rows = _rows_of_folders(*sources, plan)
        return views, rows, rows
    if sources[0].is_dir():
        raise ValueError(f"{sources[0]} is one folder: give a second one, or a CSV file of pairs")
    columns, rows, lines = _rows_of_csv(sources[0])
    views = views or _view_names(columns, f"{sources[0]} has image columns")
    what = f"rows of {sources[0]}"
    return views, rows, keep_complete(rows, lambda row: row[:2], what, plan, skip_missing, lines)


def _view_names(names, where):
    """Two names as two views; ValueError where they are not."""
    if not _are_two_views(names):
        raise ValueError(
            f"{where} {', '.join(names)}: name the two views, e.g. --views drone,satellite "
            f"(of {', '.join(TEST_VIEWS)})"
        )
    return tuple(names)


def _are_two_views(names):
    return len(names) == len(set(names)) == 2 and set(names) <= set(TEST_VIEWS)


# ---------------------------------------------------------------- reading
def _rows_of_folders(first, second, plan):
    by_stem = []
    for folder in (first, second):
        stems = {}
        for path in list_images(folder):
            stems.setdefault(composed(path.stem), []).append(path)
        if not stems:
            raise ValueError(f"{folder} holds no images itself: expected files, not sub-folders")
        by_stem.append(stems)
    common = by_stem[0].keys() & by_stem[1].keys()
    if not common:
        raise ValueError(
            f"no file of {first} has the stem of one of {second}: {min(by_stem[0])} and "
            f"{min(by_stem[1])} are the first; use a CSV of pairs for other names"
        )
    for folder, stems in zip((first, second), by_stem, strict=True):
        alone = sorted(stems.keys() - common)
        if alone:
            plan.notes.append(
                f"{len(alone)} stems of {folder} have no partner and are left out, first {alone[0]}"
            )
    return [Row(a, b, name=stem) for stem in sorted(common) for a in by_stem[0][stem]
            for b in by_stem[1][stem]]  # fmt: skip


def _rows_of_csv(path):
    """The two image columns' names, the rows, and their line numbers."""
    table = _read_cells(path)
    names = [name.lower() for name in next(iter(table.values()), [])]
    header = [COLUMN_ALIASES.get(name, name) for name in names]
    columns = _image_columns(path, header, max(0, len(table) - 1))
    rows = []
    for number, cells in list(table.items())[1:]:
        if len(cells) != len(header) or not all(cells[header.index(c)] for c in columns):
            raise ValueError(f"{path} line {number} is {cells}: expected {', '.join(header)}")
        row = dict(zip(header, cells, strict=True))
        images = (path.parent / row[column] for column in columns)
        place = row.get("latitude"), row.get("longitude")
        if any(place):
            check_numbers(place, f"{path} line {number}", DEGREES)
        name = composed(row.get("id", "")) or None
        rows.append(Row(*images, name, place if any(place) else None))
    return columns, rows, list(table)[1:]


def _read_cells(path):
    """{number of a row's last line: its cells} of a CSV file, empty rows left out."""
    text = read_text(path, "a folder, or a CSV file of pairs")
    first = text.strip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    table = {}
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                table[reader.line_num] = cells
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num} is not CSV ({error}): mend it") from None
    return table


def _image_columns(path, header, count):
    """The names of the two columns of images; ValueError where the header is not as expected."""
    columns = [name for name in header if name not in ("id", "latitude", "longitude")]
    if any(is_image_name(Path(name)) for name in columns):
        raise ValueError(
            f"{path} begins with {','.join(header)!r}: expected a header above the rows, such as "
            "drone,satellite (id, latitude, longitude if known)"
        )
    if len(columns) != 2 or len(set(header)) != len(header) or not count:
        raise ValueError(
            f"{path} has the header {','.join(header)!r} and {count} rows: "
            "expected two columns of image paths, id, latitude, longitude if known, and rows"
        )
    if ("latitude" in header) != ("longitude" in header):
        raise ValueError(f"{path} has one of latitude and longitude: expected both, or neither")
    return columns


# ---------------------------------------------------------------- buildings
def _name_buildings(rows):
    """{ID: rows}. Rows that share an image are one building: a satellite image seen by many drones.

    A building without an ID gets the number of its first row. ValueError where two IDs share an
    image, or where an ID cannot be a folder name.
    """
    width = max(4, len(str(len(rows))))
    buildings = {}
    for number, group in _groups(rows).items():
        names = sorted({row.name for row in group if row.name}) or [f"{number + 1:0{width}d}"]
        if len(names) > 1:
            raise ValueError(f"the ids {names[0]} and {names[1]} share an image: give them one id")
        if names[0].startswith(".") or set(names[0]) & set('/\\:*?"<>|'):
            raise ValueError(f"the id {names[0]!r} cannot be a folder name: use letters and digits")
        if names[0] in buildings:
            raise ValueError(f"row {number + 1} has no id, its number is taken: give all rows ids")
        buildings[names[0]] = group
    return buildings


def _groups(rows):
    """{number of the first row: rows} of rows connected by an image or an ID (union-find)."""
    parent = list(range(len(rows)))

    def root(number):
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first_with = {}
    for number, row in enumerate(rows):
        for key in (*row[:2], *([f"id {row.name}"] if row.name else [])):
            roots = sorted((root(number), root(first_with.setdefault(key, number))))
            parent[roots[1]] = roots[0]
    groups = {}
    for number, row in enumerate(rows):
        groups.setdefault(root(number), []).append(row)
    return groups


def _choose_test(names, share, seed):
    """The IDs to test on; each half that is asked for gets at least two."""
    count = round(share * len(names))
    if 0 < share < 1:
        if len(names) < 4:
            raise ValueError(
                f"found {len(names)} buildings: four are needed, two to train and two to test on; "
                "--test_share 0 or 1 makes one half alone"
            )
        count = min(max(2, count), len(names) - 2)

    # By a hash and not by a shuffle: a building added later moves no more others than it must.
    def draw(name):
        return hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest()

    return set(sorted(names, key=draw)[:count])


# ---------------------------------------------------------------- options
def _two_views(text):
    """argparse type: two names of views."""
    views = tuple(text.split(","))
    if not _are_two_views(views):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not two of {', '.join(TEST_VIEWS)}, such as drone,satellite"
        )
    return views


COMMANDS = (
    converter("pairs", plan_pairs, "your own pairs of images",
              "two folders of images with equal stems, or a CSV file of pairs; with --map photos "
              "with GPS, files or folders",
              option("--views", type=_two_views, metavar="FIRST,SECOND",
                     help="views of the two, e.g. drone,satellite; by default the names of the "
                     "folders or columns"),
              option("--test_share", type=number_within(0, 1), default=0.2,
                     help="share of the buildings, or with --map of the photos, that goes to "
                     "test/"),
              option("--seed", type=natural_int, default=0,
                     help="which buildings; with --map: at which side of the area, of four"),
              SKIP_MISSING, *OPTIONS, many_sources=True,
              example="photos tiles --views drone,satellite --out data/mine"),
)  # fmt: skip
