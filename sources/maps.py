"""Georeferenced maps of several kinds, read as squares of Web Mercator (evaluation/mercator.py).

- GeoTIFF, COG and VRT in any coordinate system, by `rasterio` (optional);
- MBTiles, whose rows count from the south;
- a folder z/x/y of Web Mercator tiles; its rows count from the south where gdal2tiles left a
  tilemapresource.xml;
- a plain picture with a world file beside it, or with the places of its four corners.

`open_map(path)` gives any of them as an object with

    bounds      (left, bottom, right, top), metres of the projection
    resolution  metres of the projection for one pixel
    read(box, pixels)  a square (left, bottom, right, top) as uint8 (pixels, pixels, 4): RGB and
                       alpha, 0 where the map has no data

`read` may be called from several threads.
"""

import functools
import os
import re
import sqlite3
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation import mercator
from evaluation.map_folder import TABLE
from imaging.files import IMAGE_SUFFIXES, Unreadable, need_file
from imaging.pixels import decode_with_alpha
from runtime.optional import require
from runtime.printing import quoted

PACKAGES = "-r requirements-maps.txt"
RASTERS = frozenset({".tif", ".tiff", ".vrt"})
CACHED = 256  # web tiles kept decoded, 256 KiB each
WEB_TILE = 256  # pixels of a web tile's side, for which zoom levels are defined
CUT_OFF = (2, 98)  # percentiles of 16-bit pixels that become 0 and 255
LARGEST_PICTURE = 2**29  # pixels of a plain picture, which is held in memory, 4 bytes each
NO_GEOREFERENCE = (
    "has no georeference: give it one (gdal_edit.py), put a world file beside it, or name its "
    "corners with --corners"
)


def is_map(path):
    """Whether a path is a map by its suffix, or a z/x/y folder; a picture may be one too."""
    path = Path(path)
    return path.suffix.lower() in {*RASTERS, ".mbtiles"} or bool(path.is_dir() and _web_tiles(path))


def _web_tiles(folder, coarser=0):
    """{(zoom, column, row): file} of a zoom level of a z/x/y folder, rows as named.

    Of the finest level, or of the one that is so many steps `coarser`.
    """
    zooms = [int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal()]
    files = {}
    for zoom in [max(zooms) - coarser] if zooms else []:
        for file in (folder / str(zoom)).glob("*/*"):
            numbers = file.parent.name, file.stem
            if file.suffix.lower() in IMAGE_SUFFIXES and all(map(str.isdecimal, numbers)):
                files[zoom, int(numbers[0]), int(numbers[1])] = file
    return files


def open_map(path, corners=None, crs=None):
    """Open a map file or folder; see the top of this file.

    `corners` are the (latitude, longitude) of a picture's upper left, upper right, lower right and
    lower left corner: 4 pairs. `crs` names the coordinate system, such as EPSG:25832, of a world
    file in metres or of a raster that does not tell. Raises FileNotFoundError, OSError or
    ValueError, which say what was found.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(
            f"map {path} not found: name a GeoTIFF, an MBTiles file, a z/x/y folder of tiles, or a "
            "picture with a world file"
        )
    if path.is_dir():
        return TileFolder(path)
    if suffix == ".mbtiles":
        return MBTiles(path)
    if suffix in RASTERS and not corners:
        return Raster(path, crs)
    if suffix in IMAGE_SUFFIXES:
        try:
            need_file(path)
            if corners:
                return Picture(path, corners, upright=True)  # they are named after a look at it
            return Picture(path, world_file_corners(path, crs))
        except Unreadable as fault:
            raise OSError(fault.about(path)) from None
    raise ValueError(
        f"{path} is no map that can be read: expected .tif, .vrt, .mbtiles, a picture, or a z/x/y "
        "folder of tiles"
    )


# ---------------------------------------------------------------- rasters
def coordinate_system(name):
    """rasterio's CRS of a name such as EPSG:25832; ValueError for what is none."""
    rasterio = require("rasterio", f"--crs {name}", PACKAGES)
    try:
        with rasterio.Env():  # without it GDAL prints a line of its own
            return rasterio.crs.CRS.from_user_input(name)
    except rasterio.errors.CRSError:
        raise ValueError(
            f"--crs {name!r} is no coordinate system that is known: give one such as EPSG:25832"
        ) from None


def name_of(crs):
    """EPSG:25832, or the name of a coordinate system that has no such number."""
    if code := crs.to_epsg():
        return f"EPSG:{code}"
    name = re.match(r'\w+\["([^"]+)"', crs.to_wkt())
    return name[1] if name else "one without a name"


class Raster:
    """A GeoTIFF, COG or VRT; each square is warped from the full picture.

    Not from its overviews, which are often made of single pixels (the default of gdaladdo).
    """

    def __init__(self, path, crs=None):
        self.path = path
        os.environ.setdefault("GDAL_CACHEMAX", "256")  # MiB; else 5 % of the machine's memory
        self.rasterio = require("rasterio", f"{path} (a GeoTIFF)", PACKAGES)
        self.vrt, self.warp = (
            require(f"rasterio.{name}", str(path), PACKAGES) for name in ("vrt", "warp")
        )
        self._datasets = threading.local()  # threads may not share one
        with warnings.catch_warnings():  # what is said below
            warnings.simplefilter("ignore", self.rasterio.errors.NotGeoreferencedWarning)
            dataset = self._dataset()
        named = crs and coordinate_system(crs)
        self.crs = dataset.crs or named
        if self.crs is None or dataset.transform.is_identity:
            raise ValueError(f"{path} {NO_GEOREFERENCE}; --crs names a coordinate system it lacks")
        self.system = name_of(self.crs)
        if named and named != self.crs:
            print(
                f"warning: {path} is read in {self.system}, which it names, not in --crs "
                f"{crs}: if that is wrong, mend the file (gdal_edit.py -a_srs {quoted(crs)})",
                file=sys.stderr,
            )
        self.palette = self._palette(dataset)
        self.bounds = self._projected_bounds(dataset)
        self.resolution = (self.bounds[2] - self.bounds[0]) / dataset.width
        self.stretch = self._find_stretch(dataset)

    def _dataset(self):
        if not hasattr(self._datasets, "dataset"):
            try:
                self._datasets.dataset = self.rasterio.open(self.path)
            except self.rasterio.errors.RasterioError as error:
                raise OSError(f"{self.path} cannot be read as a map ({error})") from None
        return self._datasets.dataset

    def _projected_bounds(self, dataset):
        try:
            degrees = self.warp.transform_bounds(self.crs, "EPSG:4326", *dataset.bounds)
        except self.rasterio.errors.RasterioError:
            degrees = [np.inf] * 4
        west, south, east, north = degrees
        limit = mercator.LARGEST_LATITUDE
        if (
            not np.isfinite(degrees).all()
            or np.abs(degrees).max() > 360
            or south < -90
            or north > 90
        ):
            edges = ",".join(f"{edge:g}" for edge in dataset.bounds)
            raise ValueError(
                f"{self.path} reaches over {edges} (left,bottom,right,top), which are no places of "
                f"its coordinate system, {self.system}: name the right one, of a file that "
                "names none by --crs, else by gdal_edit.py -a_srs"
            )
        if south > limit or north < -limit:
            mercator.project(south, west)  # says so
        east += 360 * (east < west)  # it crosses the 180th meridian
        corners = mercator.project(np.clip([south, north], -limit, limit), [west, east])
        (left, right), (bottom, top) = corners
        return left, bottom, right, top

    def _find_stretch(self, dataset):
        """(lowest, highest) value that become 0 and 255; None for bytes."""
        if dataset.dtypes[0] == "uint8":
            return None
        shape = (min(dataset.height, 1024), min(dataset.width, 1024))
        band = dataset.read(self._bands(dataset), out_shape=(3, *shape), masked=True)
        values = band.compressed()
        values = values[np.isfinite(values)]
        if not len(values):
            raise ValueError(f"{self.path} holds no data at all")
        low, high = np.percentile(values, CUT_OFF)
        return low, max(high, low + 1e-9)

    @staticmethod
    def _palette(dataset):
        """The colours (256, 4) uint8, RGBA, of the numbers of a palette; None without one."""
        if dataset.colorinterp[0].name != "palette":
            return None
        colours = np.zeros((256, 4), np.uint8)
        for number, colour in dataset.colormap(1).items():
            colours[number] = colour
        return colours

    @staticmethod
    def _bands(dataset):
        """The numbers of the bands for red, green and blue: one band serves all three."""
        names = [interpretation.name for interpretation in dataset.colorinterp]
        if {"red", "green", "blue"} <= set(names):
            return [names.index(colour) + 1 for colour in ("red", "green", "blue")]
        return [1, 2, 3] if dataset.count >= 3 else [1, 1, 1]

    def read(self, box, pixels):
        dataset = self._dataset()
        settings = {
            "crs": "EPSG:3857",
            "src_crs": self.crs,
            "transform": self.rasterio.transform.from_bounds(*box, pixels, pixels),
            "width": pixels,
            "height": pixels,
            # Colours of a palette are numbers that may not be mixed.
            "resampling": self.rasterio.enums.Resampling[
                "cubic" if self.palette is None else "nearest"
            ],
            "add_alpha": "alpha" not in [each.name for each in dataset.colorinterp],
        }
        try:
            with self.vrt.WarpedVRT(dataset, **settings) as warped:
                image = warped.read(self._bands(dataset))  # (3, pixels, pixels)
                alpha = warped.dataset_mask()
        except self.rasterio.errors.RasterioError as error:
            raise OSError(f"{self.path} cannot be read here ({error}): is it complete?") from None
        if self.palette is not None:
            looked_up = self.palette[image[0]]  # (pixels, pixels, 4)
            looked_up[..., 3] = np.minimum(looked_up[..., 3], alpha)
            return looked_up
        if self.stretch:
            low, high = self.stretch
            image = np.nan_to_num((image - low) / (high - low)).clip(0, 1) * 255
        return np.dstack([*image, alpha]).astype(np.uint8)


# ---------------------------------------------------------------- web tiles
def _warn_of_part(path, zoom, beyond):
    """Say it where the finest zoom level leaves out tiles, `beyond` so many, of the one above."""
    if beyond:
        print(f"warning: {path}: only the finest zoom level is cut, {zoom}, and it shows a part of "
              f"the ground: {beyond} tiles of level {zoom - 1} lie outside it",
              file=sys.stderr)  # fmt: skip


class WebTiles:
    """Tiles of a zoom level of Web Mercator; a subclass says which there are and reads them."""

    def __init__(self, path, zoom, columns, rows):
        """`columns` and `rows` (first, last) of the finest zoom level, rows from the north."""
        self.path, self.zoom = path, zoom
        self.side = 2 * mercator.HALF_WORLD / 2**zoom  # metres of the projection
        self.tile = functools.lru_cache(CACHED)(self._decode)  # neighbouring squares share tiles
        (first, last), (top, bottom) = columns, rows
        self.bounds = (
            first * self.side - mercator.HALF_WORLD,
            mercator.HALF_WORLD - (bottom + 1) * self.side,
            (last + 1) * self.side - mercator.HALF_WORLD,
            mercator.HALF_WORLD - top * self.side,
        )
        tile = self.tile(first, top)
        for column in range(first, last + 1):  # the corner may be empty
            tile = tile or self.tile(column, top)
        self.pixels = tile.width if tile else WEB_TILE
        self.resolution = self.side / self.pixels

    def _decode(self, column, row):
        """The tile as an RGBA image, or None where there is none."""
        try:
            content = self.content(column, row)
            return None if content is None else decode_with_alpha(content)
        except Unreadable as fault:
            raise OSError(fault.about(f"{self.path}: tile {self.zoom}/{column}/{row}")) from None

    def read(self, box, pixels):
        left, bottom, right, top = box
        first, start = divmod((left + mercator.HALF_WORLD) / self.side, 1)
        upper, begin = divmod((mercator.HALF_WORLD - top) / self.side, 1)
        width, height = (right - left) / self.side, (top - bottom) / self.side
        columns, rows = int(np.ceil(start + width)), int(np.ceil(begin + height))
        mosaic = Image.new("RGBA", (columns * self.pixels, rows * self.pixels))
        for row in range(rows):
            for column in range(columns):
                tile = self.tile((int(first) + column) % 2**self.zoom, int(upper) + row)
                if tile and tile.size != (self.pixels, self.pixels):  # of another server
                    tile = tile.resize((self.pixels, self.pixels), Image.Resampling.BICUBIC)
                if tile:
                    mosaic.paste(tile, (column * self.pixels, row * self.pixels))
        edges = (start, begin, start + width, begin + height)
        where = tuple(edge * self.pixels for edge in edges)
        return np.array(mosaic.resize((pixels, pixels), Image.Resampling.BICUBIC, where))


class TileFolder(WebTiles):
    """A folder z/x/y.png (or .jpg, .webp); of several zoom levels the finest counts."""

    def __init__(self, path):
        if (path / TABLE).is_file():
            raise ValueError(f"{path} is a map that was cut already: give the map it was cut from")
        found = _web_tiles(path)
        if not found:
            raise ValueError(
                f"{path} holds no tiles: expected <zoom>/<column>/<row>.png, as gdal2tiles.py "
                "--xyz and map downloaders write them"
            )
        zoom = next(iter(found))[0]
        shown = {(column // 2, row // 2) for _, column, row in found}
        upper = {(column, row) for _, column, row in _web_tiles(path, coarser=1)}
        _warn_of_part(path, zoom, len(upper - shown))
        files = {(column, row): file for (_, column, row), file in found.items()}
        if (path / "tilemapresource.xml").is_file():
            files = {(x, 2**zoom - 1 - y): file for (x, y), file in files.items()}
        self.files = files
        columns, rows = zip(*files, strict=True)
        super().__init__(path, zoom, (min(columns), max(columns)), (min(rows), max(rows)))

    def content(self, column, row):
        file = self.files.get((column, row))
        if file:
            need_file(file)  # a pipe would be waited for
        return file.read_bytes() if file else None


class MBTiles(WebTiles):
    """An MBTiles file (version 1.3): an SQLite table of tiles whose rows count from the south."""

    def __init__(self, path):
        self.path = path
        self._connections = threading.local()
        found = self._select("SELECT value FROM metadata WHERE name = 'format'", ())
        if found and found[0] == "pbf":
            raise ValueError(f"{path} holds vector tiles, expected pictures (png, jpg, webp)")
        query = """SELECT zoom_level, MIN(tile_column), MAX(tile_column), MIN(tile_row),
            MAX(tile_row) FROM tiles GROUP BY zoom_level ORDER BY zoom_level DESC LIMIT 1"""
        found = self._select(query, ())
        if not found:
            raise ValueError(f"{path} holds no tile: export it again")
        zoom, first, last, bottom, top = found
        query = """SELECT COUNT(*) FROM (SELECT tile_column, tile_row FROM tiles WHERE
            zoom_level = ? EXCEPT SELECT tile_column / 2, tile_row / 2 FROM tiles WHERE
            zoom_level = ?)"""
        _warn_of_part(path, zoom, self._select(query, (zoom - 1, zoom))[0])
        rows = (2**zoom - 1 - top, 2**zoom - 1 - bottom)
        super().__init__(path, zoom, (first, last), rows)

    def _select(self, query, values):
        try:
            if not hasattr(self._connections, "connection"):
                uri = f"{self.path.resolve().as_uri()}?mode=ro"
                self._connections.connection = sqlite3.connect(uri, uri=True)
            return self._connections.connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise OSError(
                f"{self.path} cannot be read as MBTiles ({error}): is it complete?"
            ) from None

    def content(self, column, row):
        query = """SELECT tile_data FROM tiles
            WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"""
        found = self._select(query, (self.zoom, column, 2**self.zoom - 1 - row))
        return found[0] if found else None


# ---------------------------------------------------------------- pictures
class Picture:
    """A picture between four corners, which need not make a rectangle.

    Those of its stored pixels, or with `upright` of the picture as a viewer shows it.
    """

    def __init__(self, path, corners, upright=False):
        latitudes, longitudes = np.transpose(corners)
        x, y = mercator.project(latitudes, unwrapped(longitudes))
        sides = np.diff(np.column_stack([x, y])[[0, 1, 2, 3, 0, 1]], axis=0)  # (5, 2)
        turns = sides[:-1, 0] * sides[1:, 1] - sides[:-1, 1] * sides[1:, 0]
        if not ((turns < 0).all() or (turns > 0).all()):
            raise ValueError(
                f"the four corners of {path} make no four-sided figure: name them in turn, upper "
                "left, upper right, lower right, lower left"
            )
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_PICTURE:
                raise ValueError(
                    f"{path} has {image.width} x {image.height} pixels: a picture is held in "
                    "memory; make a GeoTIFF of it (gdal_translate), which is read by parts"
                )
        # Colours times alpha: of another picture `transform` would make this copy for each square.
        self.image = decode_with_alpha(path.read_bytes(), upright).convert("RGBa")
        self.bounds = (x.min(), y.min(), x.max(), y.max())
        width, height = self.image.size
        ends = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
        self.resolution = float(np.hypot(x[1] - x[0], y[1] - y[0]) / width)
        self.origin = np.array([x.mean(), y.mean()])
        self.to_pixels = homography(np.column_stack([x, y]) - self.origin, ends)

    def read(self, box, pixels):
        left, bottom, right, top = box
        # Drawn as fine as the picture is and then reduced, or it would flicker.
        fine = int(np.ceil(max(1, (right - left) / pixels / self.resolution))) * pixels
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        found = np.column_stack([corners - self.origin, np.ones(4)]) @ self.to_pixels.T
        ends = np.array([(0, 0), (fine, 0), (fine, fine), (0, fine)], dtype=np.float64)
        matrix = homography(ends, found[:, :2] / found[:, 2:])
        square = self.image.transform(
            (fine, fine), Image.Transform.PERSPECTIVE, tuple(matrix.flat[:8]),
            Image.Resampling.BICUBIC,
        )  # fmt: skip
        return np.array(square.reduce(fine // pixels).convert("RGBA"))


def unwrapped(longitudes):
    """Longitudes in degrees, (N,), without a jump at the 180th meridian."""
    return np.degrees(np.unwrap(np.radians(longitudes)))


def homography(sources, targets):
    """The matrix (3, 3) of the projective map that takes 4 points (4, 2) to 4 others.

    Source: Hartley and Zisserman, Multiple View Geometry, 2004, section 4.1, with h_33 = 1.
    """
    rows, values = [], []
    for (x, y), (u, v) in zip(sources, targets, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(rows, values), 1).reshape(3, 3)


def world_file_corners(path, crs=None):
    """(latitude, longitude) of a picture's four corners by its world file, in degrees.

    A world file has six lines A, D, B, E, C, F: x = A column + B row + C and y = D column +
    E row + F at the middle of a pixel. Source: Esri, World files for raster datasets. Without
    `crs` they are degrees of longitude and latitude.
    """
    path = Path(path)
    suffix = path.suffix
    names = [path.with_suffix(f"{suffix[:2]}{suffix[-1]}w"), path.with_suffix(f"{suffix}w"),
             path.with_suffix(".wld")]  # fmt: skip
    file = next((name for name in names if name.is_file()), None)
    if file is None:
        raise ValueError(f"{path} {NO_GEOREFERENCE}")
    try:
        a, d, b, e, c, f = (float(word) for word in file.read_text().split())
    except ValueError:
        raise ValueError(f"{file} is no world file: expected six lines with a number") from None
    with Image.open(path) as image:
        width, height = image.size
    columns, rows = np.array([0, width, width, 0]) - 0.5, np.array([0, 0, height, height]) - 0.5
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    if crs:
        warp = require("rasterio.warp", f"--crs {crs}", PACKAGES)
        x, y = map(np.array, warp.transform(coordinate_system(crs), "EPSG:4326", x, y))
    if np.abs(x).max() > 360 or np.abs(y).max() > 90:
        raise ValueError(
            f"{file} says x {x.min():g} to {x.max():g}, y {y.min():g} to {y.max():g}, which are no "
            "degrees: name its coordinate system, such as --crs EPSG:25832"
        )
    return list(zip(y, x, strict=True))
