"""prepare.py pairs PHOTOS --map MAP: photos with known places, and the map around each.

A line through the area parts training from test: no training tile, however far off its photo,
reaches over it, and photos too near it are left out. A training photo gets several tiles of the
map, each off the photo's place by chance, because tiles of a map are never centred on what a photo
shows. Test photos are searched among a regular grid of tiles, as `prepare.py tiles` cuts it.
"""

import functools
import hashlib
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation import mercator
from locating.photos import list_photos, read_each, read_place
from runtime.cli import number_within, positive_int
from runtime.progress import progress_bar
from sources.command import option
from sources.maps import open_map
from sources.plan import Entry, Plan
from sources.tiles import (
    cut_tile,
    in_degrees,
    marks_of,
    parse_corners,
    plan_tiles,
    warn_of_blur,
)

VIEWS = ("drone", "satellite")  # of the photos, of the map
CUTS = 4  # tiles of a training place
OVERLAP = 0.5  # of neighbours in the grid: no photo is further off a tile than a quarter of a side
SAME_PLACE = 0.1  # shares of a side: training photos so near one another are one place
NO_PADDING = 0.99  # least share of data in a training tile
LEAST_DATA = 0.5  # in a tile of the grid
LOOK = 16  # pixels of a look at whether there is data
SIDES = ("east", "north", "west", "south")


class Photos(NamedTuple):
    """N photos with a place on the map."""

    paths: list[Path]
    degrees: np.ndarray  # (N, 2) float64: latitude, longitude
    centres: np.ndarray  # (N, 2) float64: x, y in metres of the projection
    sides: np.ndarray  # (N,) float64: side of a tile there, metres of the projection

    def boxes(self, off_centre=0.0):
        """Left, bottom, right, top (N, 4) of what tiles up to so many sides off may reach."""
        return boxes_around(self.centres, self.sides * (1 + 2 * off_centre))

    def where(self, rows):
        """The photos of these rows."""
        return Photos([self.paths[row] for row in rows], *(each[rows] for each in self[1:]))


def plan_map_pairs(sources, views, test_share, seed, *, maps, metres=100.0, pixels=256,
                   off_centre=0.25, corners=None, crs=None):  # fmt: skip
    """The plan of photos (files, folders) and maps, which are one map, the first on top.

    train/ has an ID a place: its photos, and `CUTS` tiles of `metres` that are off it by up to
    `off_centre` sides to the east and to the north, evenly drawn. test/ has an ID a tile of the
    grid, with the photos that it is the nearest to. coordinates.csv has the places of all, and the
    sides of the tiles, of which a photo is taken to show as much.
    """
    plan = Plan("pairs")
    opened = [open_map(path, corners, crs) for path in maps]
    plan.mark = {"maps": marks_of(maps), "metres": metres, "pixels": pixels,
                 "off_centre": off_centre,
                 "corners": corners and [list(corner) for corner in corners]}  # fmt: skip
    photos = _photos_on_map(sources, opened, metres, off_centre, plan)
    warn_of_blur(opened, _reach(photos.boxes()), metres, pixels)
    tile_entry = functools.partial(_tile_entry, opened, Path(maps[0]), pixels)
    train, test, tiles = split_by_place(photos, opened, metres, off_centre, test_share, seed, plan)
    views = views or VIEWS
    rows = _plan_training(plan, photos.where(train), off_centre, seed, views, tile_entry)
    rows += _plan_test(plan, photos.where(test), tiles, views, tile_entry)
    header = ["name", "latitude", "longitude", "metres"]
    plan.add_table("coordinates.csv", header, [
        [name, f"{latitude:.8f}", f"{longitude:.8f}", f"{metres:g}"]
        for name, latitude, longitude in rows
    ])  # fmt: skip
    # Tiles of the same names elsewhere are others, which the files' times do not tell.
    places = hashlib.sha256(plan.sidecars["coordinates.csv"].encode())
    plan.mark["places"] = places.hexdigest()[:16]
    return plan


# ---------------------------------------------------------------- photos
def _photos_on_map(sources, maps, metres, off_centre, plan):
    """The `Photos` that have a place around which the map has data; the others are noted."""
    paths = list_photos(sources)
    found, damaged = read_each(progress_bar(paths, "photos"), read_place)
    paths, known = list(found), list(found.values())
    plan.notes += [f"{damage}; left out" for damage in damaged]
    reasons = Counter(each.note for each in known if each.place is None)
    without = [f"{count} of {len(paths)} photos: {note}" for note, count in reasons.items()]
    if all(each.place is None for each in known):
        raise ValueError(
            f"no photo has a place ({'; '.join(without)}): give photos with GPS in EXIF or XMP, or "
            "pairs in a CSV file"
        )
    plan.notes += [f"{note}; left out" for note in without]
    paths = [path for path, each in zip(paths, known, strict=True) if each.place]
    degrees = np.array([each.place for each in known if each.place])
    limit = mercator.LARGEST_LATITUDE  # a place beyond is off the map too
    latitude = np.clip(degrees[:, 0], -limit, limit)
    x, y, sides = mercator.square(latitude, degrees[:, 1], metres)
    left = min(each.bounds[0] for each in maps)
    x = left + (x - left) % (2 * mercator.HALF_WORLD)  # of a map across the 180th meridian
    photos = Photos(paths, degrees, np.stack([x, y], 1), sides)
    on_map = np.flatnonzero(_have_data(maps, photos.boxes(off_centre), NO_PADDING))
    outside = len(paths) - len(on_map)
    whole = _reach(np.array([each.bounds for each in maps]))
    if not len(on_map):
        raise ValueError(
            f"the map, {in_degrees(whole)}, has no data around any of {len(paths)} photos; the "
            f"first was taken at latitude {degrees[0, 0]:.6f}, longitude {degrees[0, 1]:.6f}"
        )
    if outside:
        off = np.delete(photos.boxes(off_centre), on_map, axis=0)
        plan.notes.append(
            f"{outside} of {len(paths)} photos with a place left out: the map does not cover all "
            f"{metres * (1 + 2 * off_centre):g} m of ground around them, as their tiles may need "
            f"({sides_off(off, whole)})"
        )
    return photos.where(on_map)


def sides_off(boxes, whole):
    """How many boxes (N, 4) reach over which side of the map `whole` (4,), in words.

    Each counts at the side over which it reaches furthest.
    """
    beyond = np.maximum((boxes - whole) * [-1, -1, 1, 1], 0)  # (N, 4)
    counts = Counter(np.where(beyond.any(axis=1), beyond.argmax(axis=1), 4).tolist())
    words = [f"over the {side} edge" for side in ("west", "south", "east", "north")]
    words.append("where it has no data")
    return ", ".join(f"{counts[i]} {words[i]}" for i in sorted(counts))


def boxes_around(centres, sides):
    """Squares (N, 4), left, bottom, right, top, around centres (N, 2); sides (N,) or a number."""
    half = np.broadcast_to(np.asarray(sides) / 2, len(centres))[:, None]
    return np.concatenate([centres - half, centres + half], axis=1)


def _reach(boxes):
    """Left, bottom, right, top of boxes (N, 4) together."""
    return (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))


def _have_data(maps, boxes, share):
    """Whether each of boxes (N, 4) has so large a share of data."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda box: cut_tile(maps, tuple(box), LOOK, share), boxes)
        return [image is not None for image in progress_bar(found, "looking", len(boxes))]


# ---------------------------------------------------------------- split
def split_by_place(photos, maps, metres, off_centre, test_share, seed, plan):
    """(rows to train on, rows to test on, grid `Tile`s): their tiles do not overlap.

    The test photos are those furthest to one side; by `seed`, to the ends of the longer way through
    the area and then of the shorter. The grid covers the ground around them. To train on are those
    whose tiles, however far off they are, end before the grid begins.
    """
    count = max(round(test_share * len(photos.paths)), test_share > 0)
    if not count:
        return np.arange(len(photos.paths)), np.arange(0), []
    side = choose_side(photos.centres, seed)
    axis, sign = side % 2, 1 if side < 2 else -1
    along = sign * photos.centres[:, axis]
    test = np.flatnonzero(along >= np.sort(along)[-count])
    tiles = plan_tiles(_reach(photos.boxes()[test]), metres, OVERLAP)
    have_data = _have_data(maps, [tile.box for tile in tiles], LEAST_DATA)
    tiles = [tile for tile, has_data in zip(tiles, have_data, strict=True) if has_data]
    if test_share == 1:
        return np.arange(0), test, tiles
    # The grid's edge towards the others, and theirs towards it.
    edge = min(sign * tile.box[axis + 2 * (sign < 0)] for tile in tiles)
    reach = sign * photos.boxes(off_centre)[:, axis + 2 * (sign > 0)]
    train = np.flatnonzero(reach <= edge)
    between = len(along) - len(train) - len(test)
    said = (
        f"{len(train)} photos to train on, {len(test)} to test on, furthest to the {SIDES[side]}, "
        f"{between} between them left out"
    )
    if len(train) < 2:
        raise ValueError(
            f"too few places to split: {said}; give photos of a larger area, or a smaller "
            "--test_share, --metres or --off_centre"
        )
    plan.notes.append(f"{said}: no tile of the first overlaps one of the second")
    return train, test, tiles


def choose_side(centres, seed):
    """The index in `SIDES` of the side of the area to test on; centres (N, 2)."""
    extent = np.ptp(centres, axis=0)
    longer = int(extent[1] > extent[0])
    return (longer, longer + 2, 1 - longer, 3 - longer)[seed % 4]


# ---------------------------------------------------------------- entries
def _tile_entry(maps, source, pixels, box, target):
    """The entry of a tile, which is cut when it is written; `source` is the first map's path."""
    return Entry(source, target, draw=lambda: np.array(cut_tile(maps, tuple(box), pixels)))


def _plan_training(plan, photos, off_centre, seed, views, tile_entry):
    """Put places, their photos and tiles into train/; returns the rows (name, place) of all."""
    photo_view, map_view = views
    rows = []
    for number, members in enumerate(group_places(photos), 1):
        name = f"{number:05d}"
        rows.append((name, *photos.degrees[members[0]]))
        rows += _add_photos(plan, f"train/{photo_view}/{name}", photos, members)
        rng = random.Random(f"{seed}/{name}")
        for cut in range(CUTS):
            offset = np.array([rng.uniform(-off_centre, off_centre) for _ in "xy"])
            centre = photos.centres[members[0]] + offset * photos.sides[members[0]]
            box = boxes_around(centre[None], photos.sides[members[0]])[0]
            target = f"train/{map_view}/{name}/cut_{cut + 1}.jpg"
            plan.entries.append(tile_entry(box, target))
            rows.append((target.removeprefix("train/"), *mercator.unproject(*centre)))
    return rows


def group_places(photos):
    """Rows of the photos of each place: those within `SAME_PLACE` sides of the place's first."""
    places = []
    firsts = np.empty((len(photos.paths), 2))
    for row, (centre, side) in enumerate(zip(photos.centres, photos.sides, strict=True)):
        apart = np.abs(firsts[: len(places)] - centre).max(axis=1) / side
        if len(places) and apart.min() <= SAME_PLACE:
            places[apart.argmin()].append(row)
        else:
            firsts[len(places)] = centre
            places.append([row])
    return places


def _plan_test(plan, photos, tiles, views, tile_entry):
    """Put the grid and the photos into test/; returns the rows (name, place) of all."""
    if not tiles:
        return []
    photo_view, map_view = views
    boxes = np.array([tile.box for tile in tiles])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # (M, 2)
    nearest = [int(np.linalg.norm(centres - place, axis=1).argmin()) for place in photos.centres]
    rows = []
    for index, tile in enumerate(tiles):
        name = Path(tile.name).stem
        target = f"test/gallery_{map_view}/{name}/{name}.jpg"
        plan.entries.append(tile_entry(tile.box, target))
        rows.append((name, *mercator.unproject(*centres[index])))
        members = [row for row, tile_row in enumerate(nearest) if tile_row == index]
        rows += _add_photos(plan, f"test/query_{photo_view}/{name}", photos, members)
    return rows


def _add_photos(plan, folder, photos, members):
    """Put photos into a class folder; returns the rows (name, place) of them."""
    targets = plan.add_distinct(folder, [photos.paths[row] for row in members])
    names = (target.split("/", 1)[1] for target in targets)
    return [(name, *photos.degrees[row]) for name, row in zip(names, members, strict=True)]


# ---------------------------------------------------------------- options
OPTIONS = (
    option("--map", dest="maps", nargs="+", metavar="MAP",
           help="the sources are photos with GPS: cut their partners out of this map (what "
           "`prepare.py tiles` takes)"),
    option("--metres", type=number_within(1, 1e5), metavar="M",
           help="--map: sides of the tiles on the ground (if left out: 100)"),
    option("--pixels", type=positive_int,
           help="--map: sides of the tiles in pixels (if left out: 256)"),
    option("--off_centre", type=number_within(0, 0.5), metavar="SHARE",
           help="--map: training tiles are off their photo by up to this share of a side (if "
           "left out: 0.25)"),
    option("--corners", type=parse_corners, metavar="LAT,LON;...",
           help="--map: as of `prepare.py tiles`"),
    option("--crs", metavar="NAME", help="--map: as of `prepare.py tiles`"),
)  # fmt: skip
