"""prepare.py tiles: a georeferenced map cut into square tiles (a map folder).

A tile is a north-up square of Web Mercator, `--metres` long on the ground at its middle. Tiles
stand in rows from the north; within a row and between rows they overlap by `--overlap` of their
side; the last ends where the map ends. Of several maps the first is on top.
"""

import argparse
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from evaluation import mercator
from evaluation.map_folder import TABLE, write_tiles
from evaluation.side_files import MARKER
from runtime.cli import number_within, place, positive_int
from runtime.files import read_yaml, replacing, write_yaml
from runtime.locks import sole_writer
from runtime.progress import progress_bar
from sources.carry_out import JPEG
from sources.command import Command, option
from sources.maps import Raster, open_map

FOLDER = "tiles"
VERSION = 1  # of the tiles: raised when the same map gives others
SAMPLES = 16  # tiles that a dry run cuts to tell how large they are


class Tile(NamedTuple):
    """One tile to cut."""

    name: str  # within the map folder
    box: tuple[float, float, float, float]  # left, bottom, right, top: metres of the projection
    metres: float  # side on the ground


def cut_tiles(opts):
    """Cut the maps into tiles; returns {"out", "tiles", "without_data", "bytes"}."""
    maps = [open_map(path, opts.corners, opts.crs) for path in opts.map]
    if systems := dict.fromkeys(each.system for each in maps if isinstance(each, Raster)):
        print(f"coordinate system of the map: {', '.join(systems)}")
    bounds = _bounds(maps, opts.bounds)
    tiles = [tile for metres in opts.metres for tile in plan_tiles(bounds, metres, opts.overlap)]
    for metres in opts.metres:
        warn_of_blur(maps, bounds, metres, opts.pixels)
    if opts.dry_run:
        return _dry_run(maps, tiles, bounds, opts)
    out, mark = Path(opts.out), _mark(opts)
    with sole_writer(out, "choose another --out"):
        if _is_finished(out, mark):
            print(f"{out} is there already")
            return {"out": str(out)}
        write_yaml(out / MARKER, mark)
        sizes = _cut_all(maps, tiles, out, opts)
        kept = [tile for tile, size in zip(tiles, sizes, strict=True) if size]
        if not kept:
            (out / MARKER).unlink()  # so that other options may use the folder
            raise ValueError(
                f"none of {len(tiles)} tiles of {in_degrees(bounds)} holds "
                f"{opts.least_data:.0%} of data: is the map empty there, smaller than the tiles "
                "(--metres), or --least_data too much?"
            )
        write_tiles(out, [_row(tile, opts.pixels) for tile in kept])
    found = {"out": str(out), "tiles": len(kept), "without_data": len(tiles) - len(kept)}
    found["bytes"] = sum(filter(None, sizes))
    print(
        f"{out}: {found['tiles']} tiles, {found['bytes'] / 2**20:.1f} MiB, "
        f"{found['without_data']} without data left out, {in_degrees(bounds)}"
    )
    return found


# ---------------------------------------------------------------- plan
def plan_tiles(bounds, metres, overlap):
    """The `Tile`s of one size that cover `bounds` (left, bottom, right, top; Web Mercator)."""
    left, bottom, right, top = bounds
    tiles, upper, row = [], top, 0
    while True:
        side = _projected_side(upper, metres)
        last_row = upper - side <= bottom
        if last_row and row:  # ends where the map ends
            side = _projected_side(bottom, metres, upwards=True)
            upper = bottom + side
        for column, start in enumerate(_starts(left, right, side, overlap)):
            name = f"{FOLDER}/{metres:g}m_{row:05d}_{column:05d}.jpg"
            tiles.append(Tile(name, (start, upper - side, start + side, upper), metres))
        if last_row:
            return tiles
        upper -= side * (1 - overlap)
        row += 1


def _projected_side(edge, metres, upwards=False):
    """Side of a tile in metres of the projection, of which `edge` is the upper or lower edge."""
    side = metres * mercator.per_ground_metre(edge)
    for _ in range(3):  # its middle depends on its side: this converges at once
        middle = edge + (side / 2 if upwards else -side / 2)
        side = metres * mercator.per_ground_metre(middle)
    return float(side)


def _starts(left, right, side, overlap):
    """Left edges of the tiles of a row; a map narrower than a tile has one, in the middle."""
    if right - left <= side:
        return [(left + right - side) / 2]
    count = int(np.ceil((right - left - side) / (side * (1 - overlap)) - 1e-9)) + 1
    return [min(left + i * side * (1 - overlap), right - side) for i in range(count)]


def _bounds(maps, asked):
    """(left, bottom, right, top) of all maps together, or the part of it that was asked for."""
    edges = np.array([each.bounds for each in maps])
    whole = (*edges[:, :2].min(axis=0), *edges[:, 2:].max(axis=0))
    if asked is None:
        return whole
    west, south, east, north = asked
    (left, right), (bottom, top) = mercator.project([south, north], [west, east])
    part = (max(left, whole[0]), max(bottom, whole[1]), min(right, whole[2]), min(top, whole[3]))
    if part[0] >= part[2] or part[1] >= part[3]:
        raise ValueError(
            f"--bounds {','.join(f'{edge:g}' for edge in asked)} lies outside the map, which "
            f"reaches over {in_degrees(whole)}"
        )
    return part


def in_degrees(bounds):
    (south, north), (west, east) = mercator.unproject(bounds[::2], bounds[1::2])
    return f"W,S,E,N = {west:.6f},{south:.6f},{east:.6f},{north:.6f}"


def warn_of_blur(maps, bounds, metres, pixels):
    """Say so where a tile has more pixels than the map."""
    middle = (bounds[1] + bounds[3]) / 2
    finest = min(each.resolution for each in maps) / float(mercator.per_ground_metre(middle))
    if metres / pixels < 0.8 * finest:
        print(
            f"warning: tiles of {metres:g} m with {pixels} pixels have {metres / pixels:.2g} m a "
            f"pixel, the map {finest:.2g} m: they will be blurred"
        )


# ---------------------------------------------------------------- cutting
def _cut_all(maps, tiles, out, opts):
    """The size in bytes of every tile's file, None where the map has too little data."""

    def cut(tile):
        path = out / tile.name
        if path.is_file():  # of an earlier run that was interrupted
            return path.stat().st_size
        image = cut_tile(maps, tile.box, opts.pixels, opts.least_data)
        if image is None:
            return None
        with replacing(path) as temporary:
            image.save(temporary, **JPEG)
        return path.stat().st_size

    with ThreadPoolExecutor(opts.num_workers) as pool:
        return list(progress_bar(pool.map(cut, tiles), "tiles", total=len(tiles)))


def cut_tile(maps, box, pixels, least_data=0.0):
    """A square of the maps as an image, or None where less than that share of it has data.

    What no map has is filled with the mean colour of the rest.
    """
    square = None  # (pixels, pixels, 4)
    for each in maps:
        if _meet(each.bounds, box):
            found = each.read(box, pixels)
            square = found if square is None else np.where(square[..., 3:] == 0, found, square)
            if square[..., 3].all():
                break
    if square is None:
        return None
    if (square[..., 3] == 255).all():
        return Image.fromarray(np.ascontiguousarray(square[..., :3]))
    shown = square[..., 3:] / np.float32(255)  # (pixels, pixels, 1)
    if shown.mean() <= 0 or shown.mean() < least_data:
        return None
    ground = (square[..., :3] * shown).sum(axis=(0, 1)) / shown.sum()
    return Image.fromarray((square[..., :3] * shown + ground * (1 - shown) + 0.5).astype(np.uint8))


def _meet(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _row(tile, pixels):
    """The tile's line in tiles.csv."""
    left, bottom, right, top = tile.box
    (south, middle, north), (west, centre, east) = mercator.unproject(
        [left, (left + right) / 2, right], [bottom, (bottom + top) / 2, top]
    )
    edges = (north, south, west, east)
    return (tile.name, middle, centre, *edges, tile.metres, tile.metres / pixels)


def _dry_run(maps, tiles, bounds, opts):
    """Print how many tiles there would be, and about how large; writes nothing."""
    chosen = tiles[:: max(1, len(tiles) // SAMPLES)]
    sizes = []
    for tile in chosen:
        image = cut_tile(maps, tile.box, opts.pixels, opts.least_data)
        if image is not None:
            content = io.BytesIO()
            image.save(content, "JPEG", **JPEG)
            sizes.append(len(content.getvalue()))
    size = len(tiles) * sum(sizes) // len(chosen)
    for metres in opts.metres:
        count = sum(tile.metres == metres for tile in tiles)
        print(f"{count} tiles of {metres:g} m with {opts.pixels} pixels")
    print(
        f"{opts.out}: at most {len(tiles)} tiles, about {size / 2**20:.1f} MiB, "
        f"{in_degrees(bounds)}; {len(sizes)} of {len(chosen)} samples have data; nothing written"
    )
    return {"out": str(opts.out), "tiles": len(tiles), "bytes": size}


# ---------------------------------------------------------------- the folder
def marks_of(maps):
    """What tells maps from others: their paths and, of files, sizes and times."""
    marks = []
    for path in map(Path, maps):
        about = path.stat()
        size = [about.st_size, about.st_mtime_ns] if path.is_file() else []
        marks.append([str(path.resolve()), *size])
    return marks


def _mark(opts):
    """How the folder is made, as plain values: another way needs another folder."""
    names = ("metres", "overlap", "pixels", "bounds", "corners", "crs", "least_data")
    options = json.loads(json.dumps({name: getattr(opts, name) for name in names}))
    return {"command": "tiles", "source": marks_of(opts.map), "version": VERSION, **options}


def _is_finished(out, mark):
    """Whether these tiles are there already; ValueError where the folder holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / MARKER).is_file() or read_yaml(out / MARKER) != mark:
        raise ValueError(
            f"{out} exists and was not made of this map in this way: remove it, or give another "
            "--out"
        )
    return (out / TABLE).is_file()


# ---------------------------------------------------------------- options
def _numbers(count, low, high, what):
    """An argparse type: `count` numbers (any if 0) within limits, with commas between them."""

    def numbers(text):
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        fits = all(low <= value <= high for value in values)
        if not values or not fits or (count and len(values) != count):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return values

    return numbers


def parse_corners(text):
    """argparse type: four places, latitude,longitude, with ; between them."""
    try:
        corners = [list(place(part)) for part in text.split(";")]
        fits = len(corners) == 4
    except argparse.ArgumentTypeError:
        fits = False
    if not fits:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not four places such as 48.2,11.5;48.2,11.6;48.1,11.6;48.1,11.5"
        )
    return corners


def parse_bounds(text):
    """argparse type: W,S,E,N in degrees."""
    bounds = _numbers(4, -180, 180, "W,S,E,N in degrees")(text)
    west, south, east, north = bounds
    if west >= east or not -90 <= south < north <= 90:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not W,S,E,N in degrees: west before east, south before north, longitude "
            "before latitude"
        )
    return bounds


def _metres(text):
    return sorted(set(_numbers(0, 1, 1e5, "sides in metres, such as 100,200")(text)))


COMMANDS = (
    Command("tiles", "cut a georeferenced map into tiles for locate.py", cut_tiles, (
        option("map", nargs="+", help="GeoTIFF, COG, VRT (rasterio), MBTiles, z/x/y folder, or "
               "picture with a world file; several are one map, the first on top"),
        option("--out", default="data/map", help="map folder to make"),
        option("--metres", type=_metres, default=[100.0], metavar="M,...",
               help="sides of the tiles on the ground"),
        option("--overlap", type=number_within(0, 0.95), default=0.5,
               help="share of a side by which neighbours overlap"),
        option("--pixels", type=positive_int, default=256, help="sides of the tiles in pixels"),
        option("--bounds", type=parse_bounds, metavar="W,S,E,N",
               help="only this part, in degrees"),
        option("--corners", type=parse_corners, metavar="LAT,LON;...",
               help="places of a picture's corners, as a viewer shows it: upper left, upper right, "
               "lower right and lower left"),
        option("--crs", metavar="NAME", help="coordinate system, such as EPSG:25832, of a world "
               "file in metres or of a raster that does not tell (if it does, that counts)"),
        option("--least_data", type=number_within(0, 1), default=0.5,
               help="leave out tiles of which a smaller share has data"),
        option("--dry_run", action="store_true", help="print how many there would be"),
        option("--num_workers", type=positive_int, default=os.cpu_count() or 1, help="threads"),
    ), "map.tif --metres 100,200 --out data/map"),
)  # fmt: skip
