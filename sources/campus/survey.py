"""A map of an area from above, and the photos of a flight over it on another day.

Written are `map/<zoom>/<column>/<row>.jpg`, web tiles of Web Mercator, `map.tif`, a GeoTIFF of the
same pixels, and `flight/photo_<number>.jpg`, which carry their times and the drone's places.
"""

import io
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from evaluation import mercator
from locating.photos import exif_of
from runtime.files import write_bytes
from sources.campus.area import AREA_ID, PLOT, make_area
from sources.campus.camera import FAR, Camera, look_at
from sources.campus.light import SENSORS, develop
from sources.campus.scene import Scene, stage
from sources.campus.site import Stream, random_stream
from sources.campus.views import OVERSAMPLING, expose, jpeg

VERSION = 1  # of the map and the photos: raised when the same seed renders others
PLACE = (48.6, 11.56)  # latitude and longitude, degrees, of the map's north-western tile
LARGEST = 12  # plots along a side; memory grows by the square, 0.5 GB for 6
ZOOM, TILE_PIXELS = 18, 256  # 0.39 m a pixel there
ABOVE = 10 * FAR  # metres; so far up, the map's tiles see no side of a building
PHOTO_SIZE = 384  # pixels
ALTITUDE, TILT = 150.0, 80.0  # metres and degrees, as on the spiral of camera.py
LENS = 0.82  # width of what a photo shows, over the distance
TAKE_OFF = datetime(2026, 6, 14, 10, 30)
INTERVAL, SPEED = 3, 12.0  # seconds from photo to photo, metres a second


class Frame(NamedTuple):
    """Where an area lies, and the `tiles` x `tiles` web tiles about its origin that show it."""

    column: int  # of the north-western tile
    row: int
    tiles: int
    tile_metres: float  # side of a tile, metres of the area
    origin: tuple[float, float]  # of the area, metres of the projection
    scale: float  # metres of the projection for one of the area

    def degrees(self, x, y):
        """Latitude and longitude of points x metres east and y metres north of the origin."""
        return mercator.unproject(self.origin[0] + self.scale * x, self.origin[1] + self.scale * y)


class Shot(NamedTuple):
    """Where the drone is at a photo and how it looks."""

    eye: np.ndarray  # (3,) metres
    heading: float  # radians from north over east
    tilt: float  # degrees below the horizon
    roll: float  # degrees


def render_survey(
    out_dir: str | Path,
    *,
    seed: int = 0,
    map_plots: int = 6,
    flight_photos: int = 60,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Render an area of `map_plots` x `map_plots` buildings into `out_dir`, a fresh folder.

    The buildings are those of no data folder of the campus (see area.py). The map is of autumn or
    winter, the flight of spring or summer, under another sun. The bytes depend on the numbers
    alone. `progress` is called after each web tile and each photo. Returns the numbers of files.
    Raises ValueError for too many plots.
    """
    area, frame = make_area(seed, map_plots), lay_out(map_plots)
    radiance = look_down(stage(area, Stream.SATELLITE, 2 * area.reach), frame, progress)
    rng = random_stream(seed, AREA_ID, Stream.SATELLITE, 1)
    picture = develop(radiance, frame.tiles * TILE_PIXELS, rng, SENSORS["satellite"])
    write_map(Path(out_dir), picture, frame)
    scene = stage(area, Stream.DRONE, 2 * area.reach)
    for number, shot in enumerate(plan_flight(seed, map_plots, flight_photos)):
        photo = take_photo(scene, shot, number)
        path = Path(out_dir, "flight", f"photo_{number + 1:04d}.jpg")
        write_photo(path, photo, frame.degrees(*shot.eye[:2]), number * INTERVAL)
        progress()
    return {"web tiles": frame.tiles**2, "photos": flight_photos}


def lay_out(plots: int) -> Frame:
    """The frame of an area: as many web tiles as it fills. ValueError for too many plots."""
    if not 1 <= plots <= LARGEST:
        raise ValueError(f"map_plots is {plots}, expected an integer from 1 to {LARGEST}")
    side = 2 * mercator.HALF_WORLD / 2**ZOOM
    x, y = mercator.project(*PLACE)
    tiles = int(plots * PLOT * mercator.per_ground_metre(y) / side)
    column, row = int((mercator.HALF_WORLD + x) / side), int((mercator.HALF_WORLD - y) / side)
    middle = (column + tiles / 2) * side, (row + tiles / 2) * side
    origin = middle[0] - mercator.HALF_WORLD, mercator.HALF_WORLD - middle[1]
    scale = float(mercator.per_ground_metre(origin[1]))
    return Frame(column, row, tiles, side / scale, origin, scale)


# ---------------------------------------------------------------- map
def look_down(scene: Scene, frame: Frame, progress=lambda: None) -> np.ndarray:
    """Radiance (3, H, W) float32 of the whole map, web tile by web tile."""
    size = int(TILE_PIXELS * OVERSAMPLING)
    radiance = np.empty((3, frame.tiles * size, frame.tiles * size), np.float32)
    for row in range(frame.tiles):
        for column in range(frame.tiles):
            middle = (frame.tiles - 1) / 2
            x, y = (column - middle) * frame.tile_metres, (middle - row) * frame.tile_metres
            camera = look_at((x, y, ABOVE), (x, y, 0), frame.tile_metres, size, up=(0, 1, 0))
            top, left = row * size, column * size
            radiance[:, top : top + size, left : left + size] = expose(scene, camera)
            progress()
    return radiance


def write_map(folder: Path, picture: np.ndarray, frame: Frame) -> None:
    """Write a map (H, W, 3) uint8 as web tiles, and as a GeoTIFF what these show."""
    picture = Image.fromarray(picture)
    for row in range(frame.tiles):
        for column in range(frame.tiles):
            corner = column * TILE_PIXELS, row * TILE_PIXELS
            box = (*corner, corner[0] + TILE_PIXELS, corner[1] + TILE_PIXELS)
            content = jpeg(picture.crop(box))
            name = f"map/{ZOOM}/{frame.column + column}/{frame.row + row}.jpg"
            write_bytes(folder / name, content)
            with Image.open(io.BytesIO(content)) as tile:
                picture.paste(tile, corner)
    content = io.BytesIO()
    picture.save(content, "TIFF", compression="tiff_adobe_deflate", tiffinfo=_geo_tags(frame))
    write_bytes(folder / "map.tif", content.getvalue())


def _geo_tags(frame: Frame) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of a GeoTIFF in EPSG:3857. Source: OGC 19-008r4, GeoTIFF Standard 1.1, 7 and 8."""
    pixel = 2 * mercator.HALF_WORLD / 2**ZOOM / TILE_PIXELS
    left = frame.column * TILE_PIXELS * pixel - mercator.HALF_WORLD
    top = mercator.HALF_WORLD - frame.row * TILE_PIXELS * pixel
    keys = (
        (1, 1, 0, 3),  # version 1.1.0, three keys
        (1024, 0, 1, 1),  # projected
        (1025, 0, 1, 1),  # pixels are areas
        (3072, 0, 1, 3857),
    )
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, values in (
        (33550, 12, (pixel, pixel, 0.0)),  # ModelPixelScale
        (33922, 12, (0.0, 0.0, 0.0, left, top, 0.0)),  # ModelTiepoint: the upper left corner
        (34735, 3, sum(keys, ())),  # GeoKeyDirectory
    ):
        tags.tagtype[tag] = kind
        tags[tag] = values
    return tags


# ---------------------------------------------------------------- flight
def plan_flight(seed: int, plots: int, photos: int) -> list[Shot]:
    """The shots of a flight over an area, at equal distances: it goes up and down the rows."""
    rng = random_stream(seed, AREA_ID, Stream.DRONE, 1)
    reach = (max(plots, 3) / 2 - 1) * PLOT  # its photos show nothing beyond the map
    rows = (np.arange(plots) + 0.5 - plots / 2) * PLOT
    turns = [(x, y) for n, y in enumerate(rows[np.abs(rows) < reach + 1])
             for x in ((-reach, reach), (reach, -reach))[n % 2]]  # fmt: skip
    path, flown = _even([*turns, *turns[::-1]])  # and back
    round_corner = np.ones(81) / 81  # metres
    path = np.stack([np.convolve(np.pad(line, 40, "edge"), round_corner, "valid")
                     for line in path.T], 1)  # fmt: skip
    path += 10 * np.sin(flown[:, None] / (90, 130) + rng.uniform(0, 6, 2))  # the wind
    path = path[:, ::-1] if rng.random() < 0.5 else path
    path, flown = _even(path * rng.choice([-1, 1], 2))
    shots = []
    for metres in np.arange(photos) * INTERVAL * SPEED % flown[-1]:
        step = min(int(metres), len(path) - 2)
        east, north = path[step + 1] - path[step]
        eye = np.array([*path[step], ALTITUDE + rng.normal(0, 3)])
        heading = np.arctan2(east, north) + np.radians(rng.normal(0, 4))
        shots.append(Shot(eye, heading, TILT + rng.normal(0, 1.5), rng.normal(0, 1.5)))
    return shots


def _even(corners) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 2) at every metre of a path with these corners, and the metres to each, (N,)."""
    corners = np.array(corners)
    passed = np.append(0, np.cumsum(np.hypot(*np.diff(corners, axis=0).T)))
    metres = np.arange(0, passed[-1])
    return np.stack([np.interp(metres, passed, line) for line in corners.T], 1), metres


def aim(shot: Shot, size: int) -> Camera:
    """The camera of a shot: it looks ahead and down at whatever is there."""
    ahead = shot.eye[2] / np.tan(np.radians(shot.tilt))
    way = np.array([np.sin(shot.heading), np.cos(shot.heading)])
    target = np.array([*(shot.eye[:2] + ahead * way), 0.0])
    span = LENS * np.linalg.norm(target - shot.eye)
    return look_at(shot.eye, target, span, size, roll=shot.roll)


def take_photo(scene: Scene, shot: Shot, number: int) -> np.ndarray:
    """The photo (PHOTO_SIZE, PHOTO_SIZE, 3) uint8 of a shot, the flight's `number`, from 0."""
    rng = random_stream(scene.site.seed, AREA_ID, Stream.DRONE, number + 2)
    camera = aim(shot, int(PHOTO_SIZE * OVERSAMPLING))
    return develop(expose(scene, camera), PHOTO_SIZE, rng, SENSORS["drone"])


def write_photo(path: Path, photo: np.ndarray, place, seconds: int) -> None:
    """Write a photo with its place, (latitude, longitude), and time, seconds after take-off."""
    exif = exif_of(tuple(map(float, place)), TAKE_OFF + timedelta(seconds=seconds))
    write_bytes(path, jpeg(Image.fromarray(photo), exif=exif))
