"""Render a toy campus in the University-1652 layout: buildings seen by satellite, drone and street.

`render_campus("data/campus", seed=0)` writes the picture folders and `coordinates.csv`; nothing is
downloaded. A single building is drawn with

    site = make_site(seed=0, building=7)
    picture = render_view(site, "drone", frame=28, size=256)  # (256, 256, 3) uint8

How a picture is made: a site is a list of convex solids on a painted ground. `cast` finds the first
solid on each pixel's ray, `shade` colours the hits under a sun with cast shadows, and `develop`
turns radiance into what one particular sensor would have recorded. All lengths are metres, with x
to the east, y to the north and z up from the ground; the building stands at the origin.
"""

import csv
import io
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

VIEWS = ("satellite", "drone", "street", "google")
VERSION = 1  # of the pictures: raised when the same seed renders others

# The flight of University-1652: 54 frames, three turns, descending from 256 m to 121.5 m.
SPIRAL_FRAMES = 54
SPIRAL_TURNS = 3
SPIRAL_TOP, SPIRAL_BOTTOM = 256.0, 121.5  # altitudes, metres
TILT_TOP, TILT_BOTTOM = 80.0, 66.0  # camera elevation seen from the building, degrees

FIRST_TEST_ID = 5001  # train IDs start at 1, so neither split's size moves the other's buildings
LAST_ID = 9999
CAMPUS_ORIGIN = (48.1402, 11.5600)  # latitude, longitude in degrees of the grid's corner
CAMPUS_PITCH = 0.0022  # degrees between neighbours on the campus grid

GROUND_TEXELS = 1024
TEXEL = 0.24  # metres per ground texel
NOISE_TEXELS = 256
FAR = 5000.0  # metres; a camera this far off stands in for an orthographic one
OVERSAMPLING = 1.25
LAMP_SIZE = 416  # pixels of the shadow map, both ways
SCENERY = 100.0  # metres from the building within which trees and cars are placed
EMPTY_GOOGLE_SHARE = 0.05


# What a random stream is for: with the seed and the building ID it fixes every number drawn.
Stream = IntEnum("Stream", "SITE NOISE SATELLITE DRONE STREET GOOGLE PRESENCE", start=0)
Shape = IntEnum("Shape", "BOX CYLINDER ELLIPSOID", start=0)
Material = IntEnum("Material", "PLAIN WALL FLAT_ROOF TILES PANELS LEAVES GROUND SKY", start=0)
# What a texel of the ground shows; the car colours are numbered on from CAR.
Land = IntEnum(
    "Land",
    "LAWN MEADOW ASPHALT MARKING PATH PAVING PARKING WATER COURT COURT_EDGE TURF_LIGHT TURF_DARK "
    "SOIL CAR_SHADOW CAR_GLASS CAR",
    start=0,
)

CAR_COLOURS = np.array(
    [[0.75, 0.75, 0.76], [0.5, 0.52, 0.54], [0.04, 0.04, 0.05], [0.2, 0.21, 0.23],
     [0.45, 0.05, 0.05], [0.06, 0.12, 0.36], [0.8, 0.79, 0.74], [0.3, 0.27, 0.22]]
)  # fmt: skip
LAND_COLOURS = np.array(
    [[0.13, 0.2, 0.06], [0.17, 0.21, 0.08], [0.11, 0.11, 0.12], [0.7, 0.7, 0.66],
     [0.42, 0.4, 0.36], [0.36, 0.32, 0.28], [0.17, 0.17, 0.17], [0.05, 0.09, 0.1],
     [0.12, 0.26, 0.3], [0.3, 0.12, 0.08], [0.13, 0.25, 0.07], [0.1, 0.2, 0.05],
     [0.2, 0.14, 0.09], [0.05, 0.05, 0.06], [0.03, 0.04, 0.05]]
)  # fmt: skip
LAND_ROUGHNESS = np.array(
    [0.5, 0.7, 0.25, 0.2, 0.2, 0.25, 0.25, 0.1, 0.15, 0.15, 0.3, 0.3, 0.5] + [0.05] * 10, np.float32
)
GLASS_COLOUR = np.array([0.07, 0.09, 0.11], np.float32)
WALL_COLOURS = np.array(
    [[0.34, 0.15, 0.1], [0.5, 0.4, 0.28], [0.45, 0.44, 0.41], [0.7, 0.68, 0.63],
     [0.3, 0.3, 0.31], [0.55, 0.47, 0.36], [0.24, 0.27, 0.31]]
)  # fmt: skip
FLAT_COLOURS = np.array(  # gravel, bitumen, membranes, brick-red paint, sedum, blue-grey metal
    [[0.42, 0.41, 0.39], [0.22, 0.22, 0.22], [0.62, 0.61, 0.58], [0.38, 0.33, 0.27],
     [0.3, 0.31, 0.28], [0.5, 0.47, 0.42], [0.78, 0.77, 0.74], [0.12, 0.12, 0.13],
     [0.42, 0.2, 0.15], [0.2, 0.25, 0.12], [0.24, 0.31, 0.42], [0.56, 0.44, 0.27]]
)  # fmt: skip
TILE_COLOURS = np.array(  # clay, slate, brown, copper, zinc, orange clay, blue slate, moss, straw
    [[0.36, 0.14, 0.08], [0.16, 0.16, 0.18], [0.28, 0.17, 0.12], [0.22, 0.34, 0.29],
     [0.45, 0.45, 0.46], [0.52, 0.23, 0.08], [0.13, 0.18, 0.28], [0.2, 0.24, 0.13],
     [0.5, 0.38, 0.2]]
)  # fmt: skip
SEAT_COLOURS = np.array([[0.4, 0.4, 0.42], [0.12, 0.2, 0.4], [0.4, 0.1, 0.08]])
CONIFER = 2  # the row of FOLIAGE that keeps its needles
FOLIAGE = {  # season -> colour of the two broad-leaved species and of the conifers
    "spring": [[0.2, 0.3, 0.08], [0.24, 0.27, 0.12], [0.06, 0.12, 0.06]],
    "summer": [[0.08, 0.16, 0.04], [0.11, 0.19, 0.06], [0.05, 0.1, 0.05]],
    "autumn": [[0.34, 0.19, 0.05], [0.3, 0.1, 0.05], [0.06, 0.1, 0.05]],
    "winter": [[0.2, 0.17, 0.14], [0.23, 0.19, 0.15], [0.06, 0.1, 0.06]],
}
GRASS = {  # season -> factor on the colour of everything that grows
    "spring": (1.0, 1.25, 0.9),
    "summer": (1.0, 1.0, 1.0),
    "autumn": (1.5, 1.1, 1.1),
    "winter": (1.6, 1.05, 1.5),
}
SEASONS = {  # the satellite and the drone never come in the same season
    Stream.SATELLITE: ("autumn", "winter"),
    Stream.DRONE: ("spring", "summer"),
}


def _stream(seed: int, building: int, stream: int, part: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, building, int(stream), part])


# ------------------------------------------------------------------------------------- cameras


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels: `axes` holds its right, up and forward directions."""

    eye: np.ndarray  # (3,)
    axes: np.ndarray  # (3, 3)
    focal: float  # pixels
    size: int  # pixels, both ways

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Tangents of the pixel centres: right per column and up per row, each (size,)."""
        centre = (np.arange(self.size) + 0.5 - self.size / 2) / self.focal
        return centre, -centre

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Column, row and depth (metres along the optical axis) of points (..., 3)."""
        right, up, depth = np.moveaxis((points - self.eye) @ self.axes.T, -1, 0)
        scale = self.focal / np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        return self.size / 2 + right * scale, self.size / 2 - up * scale, depth

    def unproject(self, inverse: np.ndarray) -> np.ndarray:
        """World points (3, H * W) seen at inverse depths (H, W)."""
        across, upward = (line.astype(np.float32) for line in self.grid())
        depth = 1.0 / np.maximum(inverse, 1e-5)
        right, up, forward = self.axes.astype(np.float32)
        points = np.empty((3, *inverse.shape), np.float32)
        for axis in range(3):
            ray = np.add.outer(upward * up[axis] + forward[axis], across * right[axis])
            np.multiply(ray, depth, out=points[axis])
            points[axis] += np.float32(self.eye[axis])
        return points.reshape(3, -1)


def look_at(eye, target, span: float, size: int, up=(0.0, 0.0, 1.0), roll: float = 0.0) -> Camera:
    """Camera at `eye` whose picture is `span` metres wide at `target`, rolled by `roll` degrees."""
    eye, target = np.asarray(eye, float), np.asarray(target, float)
    distance = np.linalg.norm(target - eye)
    forward = (target - eye) / distance
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    lifted = np.cross(right, forward)
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    axes = np.stack([cos * right + sin * lifted, cos * lifted - sin * right, forward])
    return Camera(eye, axes, size * distance / span, size)


def drone_position(frame: int) -> tuple[float, float, float]:
    """East, north and altitude (metres) of spiral frame 1..54, relative to the building."""
    if not 1 <= frame <= SPIRAL_FRAMES:
        raise ValueError(f"drone frame is {frame}, expected 1..{SPIRAL_FRAMES}")
    progress = (frame - 1) / (SPIRAL_FRAMES - 1)
    altitude = SPIRAL_TOP + (SPIRAL_BOTTOM - SPIRAL_TOP) * progress
    tilt = np.radians(TILT_TOP + (TILT_BOTTOM - TILT_TOP) * progress)
    azimuth = 2 * np.pi * SPIRAL_TURNS * progress
    radius = altitude / np.tan(tilt)
    return float(radius * np.sin(azimuth)), float(radius * np.cos(azimuth)), altitude


def spiral_frames(count: int) -> list[int]:
    """Choose `count` of the 54 frames, evenly in altitude and well spread in azimuth."""
    if not 1 <= count <= SPIRAL_FRAMES:
        raise ValueError(f"drone_frames is {count}, expected 1..{SPIRAL_FRAMES}")
    # Equal steps alone would fall into step with the turns and see only one or two sides.
    chosen = [1]
    edges = np.linspace(1, SPIRAL_FRAMES + 1, count + 1).round().astype(int)
    for first, stop in zip(edges[1:-1], edges[2:], strict=True):
        gaps = [min(_azimuth_gap(frame, other) for other in chosen) for frame in range(first, stop)]
        chosen.append(int(first) + int(np.argmax(gaps)))
    return chosen


def _azimuth_gap(frame: int, other: int) -> float:
    """Angle between two frames as seen from the building, as a share of a turn (0..0.5)."""
    turns = SPIRAL_TURNS * (frame - other) / (SPIRAL_FRAMES - 1) % 1.0
    return round(min(turns, 1.0 - turns), 6)


# -------------------------------------------------------------------------- solids and ray casting


class Solid(NamedTuple):
    """A convex block. Its sides are +x, +y, -x, -y in its own frame, turned by `yaw` radians."""

    x: float
    y: float
    half_x: float
    half_y: float
    base: float
    top: float
    yaw: float = 0.0
    shape: Shape = Shape.BOX
    insets: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # how far each side leans in towards the top
    side: Material = Material.WALL
    cap: Material = Material.FLAT_ROOF
    side_colour: tuple[float, ...] = (0.5, 0.5, 0.5)
    cap_colour: tuple[float, ...] = (0.5, 0.5, 0.5)
    facade: tuple[float, ...] = (4.0, 0.6, 0.5, 3.6)  # bay, window width and height shares, storey
    species: int = -1  # row of the season's foliage, for trees


FACES = 8  # face slots per solid: four sides, cap, underside, the round side, one spare
CAP, UNDERSIDE, ROUND = 4, 5, 6


class SolidTable:
    """The solids of a scene as arrays; face number = FACES * solid + slot, then ground and sky."""

    def __init__(self, solids: list[Solid]):
        self.count = len(solids)
        self.ground, self.sky = FACES * self.count, FACES * self.count + 1
        column = dict(zip(Solid._fields, map(np.array, zip(*solids, strict=True)), strict=True))
        self.shape, self.species = column["shape"], column["species"]
        x, y, half_x, half_y, base, top = (column[name] for name in Solid._fields[:6])
        cos, sin = np.cos(column["yaw"]), np.sin(column["yaw"])
        zero = np.zeros(self.count)
        self.axis_x = np.stack([cos, sin, zero], 1)  # (N, 3)
        self.axis_y = np.stack([-sin, cos, zero], 1)
        self.foot = np.stack([x, y, base], 1)
        half = np.stack([half_x, half_y, half_x, half_y], 1)
        self._add_planes(half, top - base, column["insets"])
        self._add_corners(half, top - base, column["insets"])
        # A map to the unit sphere, or, with no z row, to the unit cylinder.
        self.to_unit = np.zeros((self.count, 3, 3))
        self.to_unit[:, 0] = self.axis_x / half_x[:, None]
        self.to_unit[:, 1] = self.axis_y / half_y[:, None]
        self.to_unit[:, 2, 2] = np.where(self.shape == Shape.CYLINDER, 0.0, 2 / (top - base))
        self.centre = np.stack([x, y, (base + top) / 2], 1)
        self._add_faces(column)
        # What the painters look up per pixel, in single precision.
        self.frame = np.stack([x, y, cos, sin]).astype(np.float32)
        self.facade = column["facade"].T.astype(np.float32)
        self.half_x, self.half_y, self.base, self.top, self.middle, self.squash = np.stack(
            [half_x, half_y, base, top, self.centre[:, 2], self.to_unit[:, 2, 2] ** 2]
        ).astype(np.float32)

    def _add_planes(self, half: np.ndarray, height: np.ndarray, insets: np.ndarray) -> None:
        """Half-spaces n.p <= d as rows (n, d): (N, 6, 4), and which of them bound the solid."""
        self.planes = np.zeros((self.count, 6, 4))
        outward = (self.axis_x, self.axis_y, -self.axis_x, -self.axis_y)
        for slot in range(4):
            normal = outward[slot] * height[:, None]
            normal[:, 2] = insets[:, slot]
            normal /= np.linalg.norm(normal, axis=1, keepdims=True)
            edge = self.foot + outward[slot] * half[:, slot, None]
            self.planes[:, slot] = np.column_stack([normal, (normal * edge).sum(1)])
        self.planes[:, CAP, 2:] = np.column_stack([np.ones(self.count), self.foot[:, 2] + height])
        self.planes[:, UNDERSIDE, 2:] = np.column_stack([-np.ones(self.count), -self.foot[:, 2]])
        self.bounded = np.ones((self.count, 6), bool)
        self.bounded[self.shape != Shape.BOX, :4] = False
        self.bounded[self.shape == Shape.ELLIPSOID] = False

    def _add_corners(self, half: np.ndarray, height: np.ndarray, insets: np.ndarray) -> None:
        """Corners (N, 8, 3) of a hull around each solid, for its place on the screen."""
        corners = []
        for above in (0, 1):
            reach = half - above * insets
            for x, y in ((0, 1), (2, 1), (2, 3), (0, 3)):
                along = reach[:, x, None] * (1 - x) * self.axis_x
                across = reach[:, y, None] * (2 - y) * self.axis_y
                corners.append(self.foot + along + across)
                corners[-1][:, 2] += above * height
        self.corners = np.stack(corners, 1)

    def _add_faces(self, column: dict[str, np.ndarray]) -> None:
        """Material (8N + 2,), roundness (8N + 2,), colour and normal (8N + 2, 3) per face."""
        material = np.repeat(column["side"][:, None], FACES, 1)
        colour = np.repeat(column["side_colour"][:, None], FACES, 1)
        material[:, CAP], colour[:, CAP] = column["cap"], column["cap_colour"]
        normal = np.zeros((self.count, FACES, 3))
        normal[:, :6] = self.planes[:, :, :3]
        extra = [Material.GROUND, Material.SKY]
        self.material = np.concatenate([material.ravel(), extra]).astype(np.uint8)
        self.rounded = np.arange(self.sky + 1) % FACES == ROUND
        self.colour = np.concatenate([colour.reshape(-1, 3), np.ones((2, 3))])
        self.normal = np.concatenate([normal.reshape(-1, 3), [[0, 0, 1.0], [0, 0, 1.0]]])


def cast(table: SolidTable, camera: Camera, grain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First hit of every pixel's ray: inverse depth (H, W) float32, 0 in the sky, and face number.

    `grain` (at least H, W) in 0..1 frays the outlines of the leaves.
    """
    across, upward = camera.grid()
    single = across.astype(np.float32), upward.astype(np.float32)
    right, up, forward = (-camera.axes[:, 2] / camera.eye[2]).tolist()
    inverse = np.maximum(np.add.outer(up * single[1] + forward, right * single[0]), 0)
    face = np.where(inverse > 0, table.ground, table.sky)

    # Along a ray, one over the depth of a plane is linear in the pixel's coordinates: no division.
    room = table.planes[..., 3] - table.planes[..., :3] @ camera.eye  # (N, 6)
    room = np.where(np.abs(room) < 1e-6, 1e-6, room)
    slopes = (table.planes[..., :3] @ camera.axes.T / room[..., None]).tolist()  # (N, 6, 3)
    entered = (table.bounded & (room < 0)).tolist()
    left = (table.bounded & (room > 0)).tolist()
    offset = np.einsum("nij,nj->ni", table.to_unit, camera.eye - table.centre)
    spokes = table.to_unit @ camera.axes.T  # (N, 3, 3): columns right, up, forward
    leafy = np.where(table.species >= 0, 0.55, 0.0)
    for solid, rows, cols in _screen_tiles(table, camera):
        tile = single[0][cols], single[1][rows]
        near, far, slot = _cross_planes(slopes[solid], entered[solid], left[solid], *tile)
        if table.shape[solid] != Shape.BOX:
            tile, fray = (across[cols], upward[rows]), grain[rows, cols] * leafy[solid]
            crossing = _cross_quadric(offset[solid], spokes[solid], *tile, fray)
            near, far, slot = _intersect_intervals(near, far, slot, crossing)
        if near is None:
            continue  # the eye is inside
        seen = near > np.maximum(inverse[rows, cols], far)
        np.copyto(inverse[rows, cols], near, where=seen)
        np.copyto(face[rows, cols], FACES * solid + slot, where=seen)
    return inverse, face


def _screen_tiles(table: SolidTable, camera: Camera) -> Iterator[tuple[int, slice, slice]]:
    """Solids that may show, each with the rows and columns of the picture it can cover."""
    cols, rows, depth = camera.project(table.corners)  # (N, 8) each
    beside = depth.min(1) < 0.3  # reaching past the eye, so that its outline has no bounds
    edges = np.stack([rows.min(1), cols.min(1), rows.max(1) + 1, cols.max(1) + 1])
    edges[:, beside] = [[0], [0], [camera.size], [camera.size]]
    edges = np.clip(edges, 0, camera.size).astype(int)
    # Leaves or a car in the photographer's face would cost more than they are worth.
    shown = (depth.max(1) > 0.3) & ~(beside & (table.half_x < 5))
    shown &= ((edges[2:] - edges[:2]) > 3).all(0)
    for solid in np.flatnonzero(shown).tolist():
        top, left, bottom, right = edges[:, solid].tolist()
        yield solid, slice(top, bottom), slice(left, right)


def _cross_planes(slopes, entered, left, u, v):
    """Inverse depths where rays enter and leave half-spaces, and the slot of the entry plane.

    `near` is None where no plane is entered: the eye is on the inner side of all of them.
    """
    near, slot, far = None, 0, np.float32(0.0)
    for plane, (right, up, forward) in enumerate(slopes):
        if not (entered[plane] or left[plane]):
            continue
        level = np.add.outer(up * v + forward, right * u)
        if left[plane]:
            far = np.maximum(far, level)
        elif near is None:
            near, slot = level, plane
        else:
            slot = np.where(level < near, plane, slot)
            near = np.minimum(near, level)
    return near, far, slot


def _cross_quadric(offset, spokes, u, v, fray):
    """Inverse depths where rays enter and leave |offset + depth * ray| <= 1.

    The first is None where the eye is inside, as it is above a dome's upright cylinder.
    """
    outside = offset @ offset - 1.0
    outside = outside if abs(outside) > 1e-9 else 1e-9
    linear = offset @ spokes
    square = spokes.T @ spokes
    half_b = np.add.outer(linear[1] * v + linear[2], linear[0] * u)
    norm = np.add.outer(
        (square[1, 1] * v + 2 * square[1, 2]) * v + square[2, 2],
        (square[0, 0] * u + 2 * square[0, 2]) * u,
    ) + np.multiply.outer(2 * square[0, 1] * v, u)
    inside = half_b * half_b - outside * norm
    inside -= square[2, 2] * fray
    root = np.sqrt(np.maximum(inside, 0.0))
    far = ((-root - half_b) / outside).astype(np.float32)
    if outside < 0:
        return None, far
    return np.where(inside > 0, (root - half_b) / outside, -1.0).astype(np.float32), far


def _intersect_intervals(near, far, slot, crossing):
    """Cut the rays' stay between planes down to their stay within the quadric."""
    round_near, round_far = crossing
    far = np.maximum(far, round_far)
    if round_near is None:
        return near, far, slot
    if near is None:
        return round_near, far, ROUND
    return np.minimum(near, round_near), far, np.where(round_near < near, ROUND, slot)


# ------------------------------------------------------------------------------------ the building


@dataclass(frozen=True)
class Style:
    """What the wings of one building share: walls, flat roofs, facade and pitched roofs."""

    wall: dict[str, tuple]  # Solid fields
    tiles: dict[str, object]  # Solid fields
    pitched: bool
    gabled: bool
    slope: float


def _pick(rng: np.random.Generator, colours: np.ndarray) -> tuple[float, ...]:
    """One of the colours, a little lighter or darker and a little off in hue."""
    return tuple(rng.choice(colours) * rng.normal(1, 0.12) * rng.normal(1, 0.06, 3))


def _draw_style(rng: np.random.Generator) -> Style:
    window = 1.0 if rng.random() < 0.3 else rng.uniform(0.35, 0.85)  # 1: ribbons of glass
    facade = (rng.uniform(2.6, 6.0), window, rng.uniform(0.4, 0.72), rng.uniform(3.3, 4.3))
    wall = {"side_colour": _pick(rng, WALL_COLOURS), "cap_colour": _pick(rng, FLAT_COLOURS)}
    tile = _pick(rng, TILE_COLOURS)
    tiles = {"side": Material.TILES, "side_colour": tile, "cap": Material.TILES, "cap_colour": tile}
    pitched, gabled = rng.random(2) < (0.35, 0.5)
    return Style({**wall, "facade": facade}, tiles, pitched, gabled, rng.uniform(0.35, 0.75))


def _wing(rng, style: Style, x0, y0, x1, y1, height, yaw=0.0) -> list[Solid]:
    """A wing between two corners under its roof, which is pitched or flat with equipment."""
    x, y, half_x, half_y = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    block = Solid(x, y, half_x, half_y, 0.0, height, yaw, **style.wall)
    if not style.pitched:
        return [block, *_roof_plant(rng, block)]
    half_x, half_y = half_x + 0.6, half_y + 0.6
    span = min(half_x, half_y)
    end = 0.0 if style.gabled else span
    insets = (end, half_y) * 2 if half_x >= half_y else (half_x, end) * 2
    ridge = height + style.slope * span
    roof = Solid(x, y, half_x, half_y, height, ridge, yaw, insets=insets, **style.tiles)
    chimney = Solid(*_inside(rng, block, 3), 0.8, 0.8, height, ridge + 1.5, yaw)
    return [block, roof, chimney._replace(side=Material.PLAIN)]


def _inside(rng: np.random.Generator, block: Solid, margin: float) -> tuple[float, float]:
    """A point of the block's plan at least `margin` from its edges (or its middle)."""
    along = rng.uniform(-1, 1) * max(block.half_x - margin, 0.0)
    across = rng.uniform(-1, 1) * max(block.half_y - margin, 0.0)
    cos, sin = np.cos(block.yaw), np.sin(block.yaw)
    return block.x + along * cos - across * sin, block.y + along * sin + across * cos


def _roof_plant(rng: np.random.Generator, block: Solid) -> list[Solid]:
    """Equipment on a flat roof: machines and tanks, a lift tower, a skylight or solar panels."""
    plant, roof = [], {"base": block.top, "yaw": block.yaw, "side": Material.PLAIN}
    for _ in range(int(np.clip(block.half_x * block.half_y / 40, 1, 5))):
        x, y = _inside(rng, block, 3.0)
        size, tank = rng.uniform(0.8, 2.6, 2), rng.random() < 0.2
        half = {"half_x": size[0], "half_y": size[0] if tank else size[1]}
        paint = dict.fromkeys(("side_colour", "cap_colour"), (rng.uniform(0.25, 0.7),) * 3)
        plant.append(
            Solid(
                x,
                y,
                **half,
                **roof,
                **paint,
                top=block.top + rng.uniform(0.9, 2.6),
                shape=Shape.CYLINDER if tank else Shape.BOX,
                cap=Material.PLAIN,
            )
        )
    x, y = _inside(rng, block, 5.0)
    paint = {"side_colour": block.side_colour, "cap_colour": block.cap_colour}
    plant.append(Solid(x, y, 2.5, rng.uniform(2.5, 5), top=block.top + 3.4, **roof, **paint))
    kind = rng.random()
    if kind < 0.3:
        wide = block.half_x > block.half_y
        half = (0.7 * block.half_x, 1.4) if wide else (1.4, 0.7 * block.half_y)
        glass = {"cap": Material.PANELS, "cap_colour": (0.13, 0.2, 0.24), "insets": (1.0,) * 4}
        plant.append(Solid(block.x, block.y, *half, top=block.top + 1.3, **roof, **glass))
    elif kind < 0.55:
        half = rng.uniform(0.3, 0.6, 2) * (block.half_x, block.half_y)
        x, y = _inside(rng, block, max(half) + 1.5)
        solar = {"cap": Material.PANELS, "cap_colour": (0.03, 0.045, 0.09)}
        plant.append(Solid(x, y, *half, top=block.top + 0.5, **roof, **solar))
    return plant


def _plans(length: float, width: float, depth: float, cut: float) -> dict[str, list[tuple]]:
    """Footprints made of bars `depth` deep, as rectangles (x0, y0, x1, y1); 0 < cut < 1."""
    mid_x, mid_y = cut * (length - depth), cut * (width - depth)
    south, north = (0, 0, length, depth), (0, width - depth, length, width)
    west, east = (0, 0, depth, width), (length - depth, 0, length, width)
    along, across = (0, mid_y, length, mid_y + depth), (mid_x, 0, mid_x + depth, width)
    thin = 0.75 * depth
    teeth = [(x, 0, x + thin, width) for x in np.linspace(0, length - thin, 4)]
    return {
        "slab": [along, (mid_x, mid_y, mid_x + 14, mid_y + depth + 9)],
        "corner": [south, west],
        "u": [south, west, east],
        "t": [north, across],
        "h": [west, east, along],
        "court": [south, north, west, east],
        "two courts": [south, north, west, east, across],
        "cross": [along, across],
        "comb": [(0, 0, length, thin), *teeth],
        "z": [(0, 0, mid_x + depth, depth), across, (mid_x, width - depth, length, width)],
        "f": [west, north, along],
        "parallel": [south, north, (mid_x, 0, mid_x + 6, width)],
    }


def _barred(rng: np.random.Generator, style: Style) -> list[Solid]:
    length, depth, cut = rng.uniform(46, 88), rng.uniform(11, 19), rng.uniform(0.25, 0.75)
    plans = _plans(length, length * rng.uniform(0.55, 0.95), depth, cut)
    solids, mirrored, storeys = [], rng.random() < 0.5, rng.integers(2, 6)
    for x0, y0, x1, y1 in plans[rng.choice(list(plans))]:
        # The odd centimetres keep crossing roofs out of one plane, where they would flicker.
        height = 3.8 * max(storeys + rng.choice([-1, 0, 0, 1, 3]), 1) + rng.uniform(0.8, 1.6)
        x0, x1 = (-x1, -x0) if mirrored else (x0, x1)
        solids += _wing(rng, style, x0, y0, x1, y1, height)
    return solids


def _rotunda(rng: np.random.Generator, style: Style) -> list[Solid]:
    """A domed drum with two or four wings."""
    radius, height, half = rng.uniform(13, 22), rng.uniform(13, 22), rng.uniform(5, 9)
    reach, rise, inner = radius + rng.uniform(8, 20), *rng.uniform(0.6, 0.95, 2) * radius
    drum = Solid(0, 0, radius, radius, 0, height, shape=Shape.CYLINDER, **style.wall)
    dome = drum._replace(
        half_x=inner,
        half_y=inner,
        base=height - rise,
        top=height + rise,
        shape=Shape.ELLIPSOID,
        **style.tiles,
    )
    lantern = drum._replace(half_x=1.8, half_y=1.8, base=dome.top - 1, top=dome.top + 3)
    low = height * rng.uniform(0.45, 0.75)
    solids = [drum, dome, lantern, *_wing(rng, style, -reach, -half, reach, half, low)]
    if rng.random() < 0.5:
        solids += _wing(rng, style, -half, -reach, half, 0, low + 1.1)
    return solids


def _stadium(rng: np.random.Generator, style: Style) -> list[Solid]:
    """Sloping stands on two to four sides of a pitch, one of them under a roof."""
    half_x, half_y = rng.uniform(24, 32), rng.uniform(15, 21)
    rake, high = rng.uniform(8, 13), rng.uniform(7, 13)
    look = {**style.wall, "side": Material.TILES, "side_colour": _pick(rng, SEAT_COLOURS)}
    solids = []
    for side, (x, y) in enumerate(((-1, 0), (0, -1), (1, 0), (0, 1))):
        if side < 2 and rng.random() < 0.25:
            continue
        half = (rake / 2, half_y) if x else (half_x, rake / 2)
        centre = x * (half_x + rake / 2), y * (half_y + rake / 2)
        insets = tuple((rake - 1) * (np.arange(4) == side))
        solids.append(Solid(*centre, *half, 0, high * rng.uniform(0.7, 1.2), insets=insets, **look))
    roof = {**style.wall, "side": Material.PLAIN}
    top = high * 1.5
    solids.append(Solid(0, half_y + rake * 0.65, half_x, rake * 0.5, top, top + 0.8, **roof))
    masts = [(x * (half_x + rake), y * (half_y + rake)) for x in (-0.9, 0.9) for y in (-0.9, 0.9)]
    solids += [Solid(*mast, 1, 1, 0, high * 2, side=Material.PLAIN) for mast in masts]
    return solids


def _church(rng: np.random.Generator, style: Style) -> list[Solid]:
    """A nave with transept under steep gables, an apse and a spired tower."""
    half, arm, width = rng.uniform(20, 32), rng.uniform(12, 20), rng.uniform(5.5, 8.5)
    high, crossing = rng.uniform(10, 15), rng.uniform(3, 14)
    steep = replace(style, pitched=True, gabled=True, slope=rng.uniform(0.8, 1.2))
    solids = _wing(rng, steep, -half, -width, half, width, high)
    solids += _wing(rng, steep, crossing - width, -arm, crossing + width, arm, high - 0.7)
    solids.append(Solid(half, 0, width, width, 0, high - 2, shape=Shape.CYLINDER, **style.wall))
    tall, thick = high * rng.uniform(1.8, 2.6), rng.uniform(3.2, 4.6)
    tower = Solid(
        -half - thick + 1, rng.choice([-1, 0, 1]) * (width - 1), thick, thick, 0, tall, **style.wall
    )
    spire = tower._replace(base=tall, top=tall + 12, insets=(thick,) * 4, **style.tiles)
    return [*solids, tower, spire]


def _stepped(rng: np.random.Generator, style: Style) -> list[Solid]:
    """A podium carrying one or two towers that step back as they rise."""
    half_x, half_y, podium = rng.uniform(24, 38), rng.uniform(18, 28), rng.uniform(5, 10)
    flat = replace(style, pitched=False)
    solids = _wing(rng, flat, -half_x, -half_y, half_x, half_y, podium)
    for place in ((0.1,), (-0.5, 0.5))[rng.integers(2)]:
        x, y = (place + rng.uniform(-0.2, 0.2)) * half_x, rng.uniform(-0.4, 0.4) * half_y
        size, height = rng.uniform(8, 13, 2), podium
        for _ in range(rng.integers(1, 4)):
            height += rng.uniform(8, 14)
            solids += _wing(rng, flat, x - size[0], y - size[1], x + size[0], y + size[1], height)
            size = size * rng.uniform(0.6, 0.8)
    return solids


def _sawtooth(rng: np.random.Generator, style: Style) -> list[Solid]:
    """A hall under a row of north-light roofs, with an office block at one end."""
    half_x, half_y, high = rng.uniform(24, 38), rng.uniform(14, 26), rng.uniform(6, 9)
    solids, teeth = [Solid(0, 0, half_x, half_y, 0, high, **style.wall)], rng.integers(4, 9)
    pitch = half_x / teeth
    for x in np.linspace(-half_x + pitch, half_x - pitch, teeth):
        tooth = Solid(x, 0, pitch, half_y, high, high + 0.8 * pitch, **style.tiles)
        solids.append(tooth._replace(insets=(2 * pitch - 0.3, 0, 0, 0)))
    end, short = rng.choice([-1, 1]) * (half_x + 6), -half_y * rng.uniform(0.5, 1)
    return solids + _wing(rng, style, end - 6, short, end + 6, half_y, high + 7)


def _crescent(rng: np.random.Generator, style: Style) -> list[Solid]:
    """A curved range of bars, with or without a drum at the centre of the bend."""
    radius, depth, sweep = rng.uniform(26, 40), rng.uniform(6, 9), np.radians(rng.uniform(110, 250))
    high, step = rng.uniform(9, 22), rng.choice([0, 0, 1.5])
    half = (radius + depth) * np.tan(sweep / 18)
    solids = []
    for piece, angle in enumerate(np.linspace(-4 / 9, 4 / 9, 9) * sweep):
        x, y = radius * np.sin(angle), radius * np.cos(angle)
        solids.append(Solid(x, y, half, depth, 0, high + step * piece, -angle, **style.wall))
        solids += _roof_plant(rng, solids[-1])[:1]
    if rng.random() < 0.6:
        size = rng.uniform(7, 12)
        solids.append(Solid(0, 0, size, size, 0, high * 0.7, shape=Shape.CYLINDER, **style.wall))
    return solids


def _star(rng: np.random.Generator, style: Style) -> list[Solid]:
    """Three to five wings radiating from a round core."""
    arms, half, high = rng.integers(3, 6), rng.uniform(5.5, 8), rng.uniform(10, 20)
    core = {"half_x": half * 1.6, "half_y": half * 1.6, "shape": Shape.CYLINDER, **style.wall}
    solids = [Solid(0, 0, base=0, top=high + rng.uniform(2, 9), **core)]
    for angle in 2 * np.pi * np.arange(arms) / arms:
        reach = rng.uniform(13, 21)
        x, y, top = reach * np.cos(angle), reach * np.sin(angle), high + rng.uniform(-3, 3)
        solids += _wing(rng, style, x - reach, y - half, x + reach, y + half, top, angle)
    return solids


FAMILIES = (_rotunda, _stadium, _church, _stepped, _sawtooth, _crescent, _star)
BARRED_SHARE = 0.6  # of the buildings are made of bars; the other families share the rest


# ----------------------------------------------------------------------------------- the grounds


class Brush:
    """Paints the ground map in a frame turned by `yaw` about the building."""

    def __init__(self, land: Image.Image, yaw: float):
        self.draw = ImageDraw.Draw(land)
        self.turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])

    def texels(self, points) -> list[tuple[float, float]]:
        """Columns and rows of the ground map at points (..., 2)."""
        texels = np.reshape(points, (-1, 2)) @ self.turn * (1 / TEXEL, -1 / TEXEL)
        return [tuple(texel) for texel in (texels + GROUND_TEXELS / 2).tolist()]

    def rect(self, x, y, half_x, half_y, land: int, yaw: float = 0.0) -> None:
        along = np.array([np.cos(yaw), np.sin(yaw)]) * half_x
        across = np.array([-np.sin(yaw), np.cos(yaw)]) * half_y
        corners = np.array([along + across, across - along, -along - across, along - across])
        self.draw.polygon(self.texels(corners + (x, y)), fill=int(land))

    def line(self, points, width: float, land: int) -> None:
        texels = max(round(width / TEXEL), 1)
        self.draw.line(self.texels(points), fill=int(land), width=texels, joint="curve")

    def frame(self, x, y, half_x, half_y) -> None:
        signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
        self.line(signs * (half_x, half_y) + (x, y), 0.35, Land.MARKING)

    def blob(self, x, y, half_x, half_y, land: int, phase: float = 0.0) -> None:
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        swell = 0.92 + 0.08 * np.sin(2 * angle + phase) * np.sin(3 * angle - phase)
        outline = np.stack([half_x * swell * np.cos(angle), half_y * swell * np.sin(angle)], 1)
        self.draw.polygon(self.texels(outline + (x, y)), fill=int(land))


class Planner:
    """Lays out a site in the building's frame: paints the ground, notes what will stand on it."""

    def __init__(self, rng: np.random.Generator, yaw: float):
        self.rng = rng
        self.land = Image.new("L", (GROUND_TEXELS, GROUND_TEXELS), int(Land.LAWN))
        self.brush = Brush(self.land, yaw)
        self.solids: list[Solid] = []
        self.stalls: list[tuple] = []  # x, y and heading
        self.trees: list[tuple] = []  # x and y

    def surround(self, reach_x: float, reach_y: float) -> None:
        """Roads along some of the sides, a strip of plots on each, and paths to the building."""
        roads = []
        for side in range(4):
            near, along = (reach_x, reach_y) if side % 2 == 0 else (reach_y, reach_x)
            near += self.rng.uniform(5, 13)
            if self.rng.random() < 0.55:
                roads.append((side, near + 4.5))
                near += 10
            depth = self.rng.uniform(24, 40)
            self._fill_strip(side, near, depth, along + 10 + 40 * (side % 2))
            if self.rng.random() < 0.6:
                roads.append((side, near + depth + 6))
        for side, out in roads:
            self._road(_beside(side, out, -170), _beside(side, out, 170))
        if self.rng.random() < 0.25 or not roads:
            slant = max(reach_x, reach_y) + 22 + self.rng.uniform(-50, 50, 2)
            self._road((-170.0, slant[0]), (170.0, slant[1]))
        for side, out in roads:
            gate = self.rng.uniform(-0.4, 0.4) * min(reach_x, reach_y)
            self.brush.line([_beside(side, 0, gate), _beside(side, out, gate)], 2.6, Land.PATH)

    def _road(self, start, stop) -> None:
        """A road with footways, a dashed middle line, parked cars and perhaps a row of trees."""
        start, way = np.array(start), np.subtract(stop, start)
        length = np.linalg.norm(way)
        way /= length
        beside = np.array([-way[1], way[0]])
        self.brush.line([start, start + way * length], 10.0, Land.PATH)
        self.brush.line([start, start + way * length], 7.2, Land.ASPHALT)
        for along in np.arange(self.rng.uniform(0, 6), length, 6.0):
            dash = [start + way * along, start + way * (along + 2.6)]
            self.brush.line(dash, 0.35, Land.MARKING)
        for along, lane in zip(self.rng.uniform(90, 250, 7), (2, -2, 2, -2, 2, -2, 2), strict=True):
            self.stalls.append((*(start + way * along + beside * lane), np.arctan2(way[1], way[0])))
        if self.rng.random() < 0.65:
            row = np.arange(60, 280, self.rng.uniform(7, 12))[:, None]
            self.trees += list(start + way * row + beside * self.rng.choice([-7, 7]))

    def _fill_strip(self, side: int, near: float, depth: float, along: float) -> None:
        """Cut a strip beside the building into two to four plots and lay each out."""
        count = self.rng.integers(2, 5) if along > 45 else 2
        cuts = np.arange(count + 1) + np.pad(self.rng.uniform(-0.25, 0.25, count - 1), 1)
        cuts = (2 * cuts / count - 1) * along
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            centre = _beside(side, near + depth / 2, (start + stop) / 2)
            half = np.abs(_beside(side, depth / 2 - 1.5, (stop - start) / 2 - 1.5))
            kind = self.rng.choice(list(PLOT_SHARES), p=list(PLOT_SHARES.values()))
            getattr(self, kind)(*centre, *half)

    def scatter(self, count: int, x, y, half_x, half_y) -> None:
        """Ask for trees anywhere on a plot."""
        self.trees += list(self.rng.uniform(-1, 1, (count, 2)) * (half_x, half_y) + (x, y))

    def car_park(self, x, y, half_x, half_y) -> None:
        self.brush.rect(x, y, half_x, half_y, Land.PARKING)
        for row in y + np.arange(-half_y + 3.5, half_y - 2.5, 8.5 + 3 * (half_y < 12)):
            for edge in x + np.arange(-half_x + 1.5, half_x - 2.5, 2.7):
                self.brush.line([(edge, row - 2.5), (edge, row + 2.5)], 0.25, Land.MARKING)
                self.stalls.append((edge + 1.35, row, np.pi / 2))
        self.scatter(4, x, y, half_x + 2, half_y + 2)

    def courts(self, x, y, half_x, half_y) -> None:
        self.brush.rect(x, y, half_x, half_y, Land.COURT_EDGE)
        count = max(int(half_x // 9), 1)
        width, length = half_x / count - 1.5, half_y - 2.5
        for middle in x + half_x * ((2 * np.arange(count) + 1) / count - 1):
            self.brush.rect(middle, y, width, length, Land.COURT)
            self.brush.frame(middle, y, width * 0.9, length * 0.92)
            self.brush.frame(middle, y, width * 0.65, length * 0.92)
            self.brush.line([(middle - width, y), (middle + width, y)], 0.4, Land.MARKING)

    def pond(self, x, y, half_x, half_y) -> None:
        phase = self.rng.uniform(0, 6)
        for scale, land in ((1.0, Land.PATH), (0.88, Land.MEADOW), (0.75, Land.WATER)):
            self.brush.blob(x, y, half_x * scale, half_y * scale, land, phase)
        self.scatter(8, x, y, half_x, half_y)

    def plaza(self, x, y, half_x, half_y) -> None:
        self.brush.rect(x, y, half_x, half_y, Land.PAVING)
        for joint in x + np.arange(-half_x, half_x, 4.5):
            self.brush.line([(joint, y - half_y), (joint, y + half_y)], 0.4, Land.PATH)
        self.brush.blob(x, y, 3.5, 3.5, Land.WATER)
        for bed in self.rng.uniform(-0.7, 0.7, (4, 2)) * (half_x, half_y) + (x, y):
            self.brush.rect(*bed, *self.rng.uniform(1.5, 4, 2), Land.SOIL)
            self.trees.append(bed)

    def grove(self, x, y, half_x, half_y) -> None:
        self.brush.blob(x, y, half_x, half_y, Land.MEADOW, self.rng.uniform(0, 6))
        self.scatter(int(half_x * half_y / 18), x, y, half_x, half_y)

    def lawn(self, x, y, half_x, half_y) -> None:
        bend = x + self.rng.uniform(-0.6, 0.6) * half_x
        path = [(x - half_x, y - half_y), (bend, y), (x + half_x, y + half_y)]
        self.brush.line(path, 2.0, Land.PATH)
        self.brush.line([(x - half_x, y + half_y), (bend, y)], 2.0, Land.PATH)
        self.scatter(6, x, y, half_x, half_y)

    def field(self, x, y, half_x, half_y) -> None:
        stripes = int(half_x // 2)
        for number in range(stripes):
            turf = Land.TURF_DARK if number % 2 else Land.TURF_LIGHT
            middle = x + half_x * ((2 * number + 1) / stripes - 1)
            self.brush.rect(middle, y, half_x / stripes, half_y, turf)
        self.brush.frame(x, y, half_x - 1.5, half_y - 1.5)
        self.brush.line([(x, y - half_y + 1.5), (x, y + half_y - 1.5)], 0.35, Land.MARKING)

    def neighbour(self, x, y, half_x, half_y) -> None:
        part = self.rng.uniform(0.55, 0.9, 2) * (half_x, half_y)
        self.brush.rect(x, y, part[0] + 2, part[1] + 2, Land.PATH)
        corners, height = (*((x, y) - part), *((x, y) + part)), 3.7 * self.rng.integers(1, 5) + 1
        self.solids += _wing(self.rng, _draw_style(self.rng), *corners, height)[:4]
        self.scatter(5, x, y, half_x, half_y)

    def plant_trees(self) -> None:
        """Set a trunk and a crown wherever a tree is wanted and the ground is open."""
        land, common = np.asarray(self.land), self.rng.integers(0, 3)
        for spot in self.trees:
            column, row = self.brush.texels(spot)[0]
            if np.hypot(*spot) > SCENERY or land[int(row), int(column)] not in OPEN_LAND:
                continue
            species = int(common if self.rng.random() < 0.7 else self.rng.integers(0, 3))
            radius = self.rng.uniform(2.0, 4.3) * (0.75 if species == CONIFER else 1.0)
            slender = 3.5 if species == CONIFER else self.rng.uniform(2.0, 2.9)
            foot, shade = self.rng.uniform(1.2, 2.2), (self.rng.uniform(0.75, 1.25),) * 3
            leaves = {"side": Material.LEAVES, "side_colour": shade, "species": species}
            trunk = {"side": Material.PLAIN, "side_colour": (0.14, 0.1, 0.07)}
            self.solids += [
                Solid(*spot, radius, radius, foot, foot + radius * slender,
                      shape=Shape.ELLIPSOID, **leaves),
                Solid(*spot, 0.2, 0.2, 0, foot + radius, **trunk),
            ]  # fmt: skip


PLOT_SHARES = {"car_park": 0.2, "courts": 0.1, "pond": 0.08, "plaza": 0.09, "grove": 0.14,
               "neighbour": 0.2, "field": 0.07, "lawn": 0.12}  # fmt: skip
OPEN_LAND = (Land.LAWN, Land.MEADOW, Land.SOIL)


def _beside(side: int, out: float, along: float) -> tuple[float, float]:
    """The point `out` from the centre towards a side (+x, +y, -x, -y) and `along` it."""
    return ((out, along), (-along, out), (-out, -along), (along, -out))[side]


@dataclass(frozen=True)
class Site:
    """A building and its surroundings, as they are in every season."""

    seed: int
    building: int
    solids: list[Solid]  # buildings and trees, cars excepted
    table: SolidTable  # the same as arrays
    land: np.ndarray  # (T, T) uint8 rows of Land, north up
    stalls: np.ndarray  # (S, 3): x, y and heading of the places where a car may stand
    noise: np.ndarray  # (256, 256) float32, about -1..1
    grain: np.ndarray  # (512, 512) float32, 0..1
    reach: float  # metres from the origin to the building's farthest corner


def make_site(seed: int, building: int) -> Site:
    """The building with this ID and its surroundings; the same for the same seed and ID."""
    rng = _stream(seed, building, Stream.SITE)
    family = _barred if rng.random() < BARRED_SHARE else FAMILIES[rng.integers(len(FAMILIES))]
    block = family(rng, _draw_style(rng))
    hull = SolidTable(block).corners[..., :2].reshape(-1, 2)
    (x, y), (reach_x, reach_y) = (hull.max(0) + hull.min(0)) / 2, (hull.max(0) - hull.min(0)) / 2
    block = [solid._replace(x=solid.x - x, y=solid.y - y) for solid in block]

    yaw = rng.uniform(0, 2 * np.pi)
    planner = Planner(rng, yaw)
    planner.surround(reach_x, reach_y)
    planner.scatter(40, 0, 0, reach_x + 30, reach_y + 30)
    for solid in block:
        if solid.base == 0:  # paved round about, which also keeps the trees out of the walls
            size = (solid.half_x + 2, solid.half_y + 2)
            planner.brush.rect(solid.x, solid.y, *size, Land.PATH, solid.yaw)
    if family is _stadium:
        planner.field(0, 0, reach_x * 0.72, reach_y * 0.65)
    planner.plant_trees()

    turn, stalls = planner.brush.turn, np.array(planner.stalls)
    stalls = np.column_stack([stalls[:, :2] @ turn, stalls[:, 2] + yaw])
    solids = [solid._replace(**dict(zip("xy", (solid.x, solid.y) @ turn, strict=True)),
                             yaw=solid.yaw + yaw) for solid in block + planner.solids]  # fmt: skip
    texture = _stream(seed, building, Stream.NOISE)
    return Site(
        seed=seed,
        building=building,
        solids=solids,
        table=SolidTable(solids),
        land=np.asarray(planner.land),
        stalls=stalls[np.hypot(stalls[:, 0], stalls[:, 1]) < SCENERY],
        noise=_draw_noise(texture),
        grain=texture.random((512, 512), np.float32),
        reach=float(np.hypot(reach_x, reach_y)),
    )


def _draw_noise(rng: np.random.Generator) -> np.ndarray:
    """Noise (256, 256) float32 of three octaves, about -1..1."""
    total = np.zeros((NOISE_TEXELS, NOISE_TEXELS), np.float32)
    for cells, weight in ((256, 0.45), (64, 0.35), (16, 0.3)):
        octave = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
        total += weight * np.asarray(octave.resize(total.shape, Image.Resampling.BICUBIC))
    return np.clip(total, -1.5, 1.5)


# ------------------------------------------------------------------------- light, shading, sensors


@dataclass(frozen=True)
class Scene:
    """A site on one day: its season, its cars and its sun."""

    site: Site
    table: SolidTable
    land: np.ndarray  # (T, T) uint8, cars or their shadows painted in
    palette: np.ndarray  # (3, L) float32 ground colours
    colour: np.ndarray  # (3, F) float32 face colours
    cars: np.ndarray  # (C, 4): x, y, heading and colour number
    sun: np.ndarray  # (3,) towards the sun
    light: np.ndarray  # (2, 3) float32: colours of the sun and of the sky
    lamp: Camera  # looks down from the sun
    lamp_inverse: np.ndarray  # (LAMP_SIZE, LAMP_SIZE) inverse depths that the lamp sees


def stage(site: Site, stream: int) -> Scene:
    """The site on the day that `stream` stands for, with the cars painted on the ground."""
    rng = _stream(site.seed, site.building, stream)
    season = str(rng.choice(SEASONS[stream]))
    azimuth, elevation = np.radians(rng.uniform(95, 265)), np.radians(rng.uniform(32, 62))
    flat = np.cos(elevation)
    sun = np.array([np.sin(azimuth) * flat, np.cos(azimuth) * flat, np.sin(elevation)])
    parked = site.stalls[rng.random(len(site.stalls)) < rng.uniform(0.25, 0.85)]
    cars = np.column_stack([parked, rng.integers(0, len(CAR_COLOURS), len(parked))])
    palette = np.concatenate([LAND_COLOURS, CAR_COLOURS]) * rng.normal(1, 0.04, 3)
    for lands, low, high in (
        ((Land.LAWN, Land.MEADOW, Land.TURF_LIGHT, Land.TURF_DARK), 0.8, 1.2),
        ((Land.ASPHALT, Land.PARKING), 0.75, 1.3),
        ((Land.PATH, Land.PAVING), 0.85, 1.15),
    ):
        growth = GRASS[season] if lands[0] == Land.LAWN else (1, 1, 1)
        palette[list(lands)] *= np.array(growth) * rng.uniform(low, high)
    tint, strength = rng.normal(1, 0.04, 3), (rng.uniform(2.2, 3.0), rng.uniform(0.55, 0.95))
    light = np.array([[1.0, 0.94, 0.84], [0.82, 0.93, 1.1]]) * np.reshape(strength, (2, 1))
    lamp = look_at(sun * FAR, (0, 0, 0), 220.0, LAMP_SIZE)
    lamp_inverse, _ = cast(site.table, lamp, site.grain)
    lamp_inverse[[0, -1]] = lamp_inverse[:, [0, -1]] = 0  # nothing beyond its edge is in shadow
    return Scene(
        site=site,
        table=site.table,
        land=_paint_cars(site.land, cars, sun, bodies=True),
        palette=np.clip(palette.T, 0.01, 0.9).astype(np.float32),
        colour=_season_colours(site.table, season, tint),
        cars=cars,
        sun=sun,
        light=light.astype(np.float32),
        lamp=lamp,
        lamp_inverse=lamp_inverse,
    )


def _season_colours(table: SolidTable, season: str, tint: np.ndarray) -> np.ndarray:
    """Face colours (3, F) float32 with the trees in the season's leaf."""
    colour = table.colour * tint
    species = np.repeat(table.species, FACES)
    leafy = np.flatnonzero(species >= 0)
    colour[leafy] *= np.array(FOLIAGE[season])[species[leafy]]
    return np.clip(colour.T, 0.01, 0.9).astype(np.float32)


def stand_cars(scene: Scene) -> Scene:
    """The same day with cars as solids instead of paint, for pictures taken from the ground."""
    cars = []
    for x, y, heading, number in scene.cars:
        paint = tuple(CAR_COLOURS[int(number)])
        look = {"side": Material.PLAIN, "cap": Material.PLAIN, "yaw": heading, "cap_colour": paint}
        cabin = {**look, "insets": (0.5, 0.15, 0.5, 0.15), "side_colour": (0.04, 0.05, 0.06)}
        cars.append(Solid(x, y, 2.2, 0.9, 0.25, 0.85, side_colour=paint, **look))
        cars.append(Solid(x, y, 1.4, 0.85, 0.85, 1.45, **cabin))
    table = SolidTable(scene.site.solids + cars)
    old, new = scene.colour[:, : scene.table.ground], table.colour[scene.table.ground :]
    colour = np.concatenate([old, new.T.astype(np.float32)], 1)
    land = _paint_cars(scene.site.land, scene.cars, scene.sun, bodies=False)
    return replace(scene, table=table, colour=colour, land=land)


def _paint_cars(land: np.ndarray, cars: np.ndarray, sun: np.ndarray, bodies: bool) -> np.ndarray:
    """Ground map with cars as seen from the air, or with nothing but their shadows."""
    image = Image.fromarray(land)
    brush = Brush(image, 0.0)
    paint = Land.CAR + cars[:, 3].astype(int)
    layers = [(2.2, 0.9, -0.8 * sun[:2] / sun[2], np.full_like(paint, Land.CAR_SHADOW))]
    if bodies:
        layers += [
            (2.2, 0.95, 0.0, paint),
            (1.3, 0.8, 0.0, np.full_like(paint, Land.CAR_GLASS)),
            (0.75, 0.8, 0.0, paint),
        ]
    cos, sin = np.cos(cars[:, 2]), np.sin(cars[:, 2])
    turns = np.stack([cos, sin, -sin, cos], 1).reshape(-1, 2, 2)
    for half_x, half_y, shift, fills in layers:
        corners = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * (half_x, half_y) @ turns
        texels = brush.texels(corners + cars[:, None, :2] + shift)
        for car, fill in enumerate(fills.tolist()):
            brush.draw.polygon(texels[4 * car : 4 * car + 4], fill=fill)
    return np.asarray(image)


class Surface:
    """What the camera sees, one entry per pixel; the painters below refine its colour."""

    def __init__(self, scene: Scene, camera: Camera, inverse: np.ndarray, face: np.ndarray):
        table = scene.table
        self.scene, self.table = scene, table
        self.face = face.ravel()
        self.point = camera.unproject(inverse)  # (3, P)
        self.material = table.material[self.face]
        self.colour = np.take(scene.colour, self.face, axis=1)  # (3, P)
        self.direct = np.maximum(table.normal @ scene.sun, 0).astype(np.float32)[self.face]
        self.ambient = (0.72 + 0.28 * table.normal[:, 2]).astype(np.float32)[self.face]

    def of(self, *materials: int) -> np.ndarray:
        """Pixels showing these materials."""
        return np.flatnonzero(np.logical_or.reduce([self.material == m for m in materials]))

    def noise(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The site's noise at these coordinates, in texels, repeating beyond its edge."""
        row, column = first.astype(np.intp), second.astype(np.intp)
        wrap = NOISE_TEXELS - 1
        return self.scene.site.noise.take((row & wrap) * NOISE_TEXELS + (column & wrap))

    def local(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Solid numbers and the points' coordinates in the solids' own frames."""
        solid = self.face[pixels] >> 3
        x, y, cos, sin = self.table.frame[:, solid]
        east, north = self.point[0, pixels] - x, self.point[1, pixels] - y
        return solid, east * cos + north * sin, north * cos - east * sin


def shade(scene: Scene, camera: Camera, inverse: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Radiance (3, H, W) float32 of the hits that `cast` found."""
    surface = Surface(scene, camera, inverse, face)
    for paint in (_shade_round, _paint_ground, _paint_walls, _paint_flat_roofs, _paint_pitched,
                  _paint_leaves):  # fmt: skip
        paint(surface)
    surface.direct *= _sunlit(scene, surface.point)
    sun, sky = scene.light[..., None]
    radiance = (surface.direct * sun + surface.ambient * sky) * surface.colour
    if camera.eye[2] < SPIRAL_BOTTOM / 2:
        _paint_air(surface, camera, radiance)
    return radiance.reshape(3, *inverse.shape)


def _shade_round(surface: Surface) -> None:
    """Lambert terms of the round sides, whose normals differ from pixel to pixel."""
    table, sun = surface.table, surface.scene.sun.astype(np.float32)
    pixels = np.flatnonzero(table.rounded[surface.face])
    solid, along, across = surface.local(pixels)
    along, across = along / table.half_x[solid] ** 2, across / table.half_y[solid] ** 2
    above = (surface.point[2, pixels] - table.middle[solid]) * table.squash[solid]
    _, _, cos, sin = table.frame[:, solid]
    east, north = along * cos - across * sin, along * sin + across * cos
    length = np.sqrt(east**2 + north**2 + above**2)
    surface.direct[pixels] = np.maximum(east * sun[0] + north * sun[1] + above * sun[2], 0) / length
    surface.ambient[pixels] = 0.72 + 0.28 * above / length


def _paint_ground(surface: Surface) -> None:
    pixels = surface.of(Material.GROUND)
    x, y = surface.point[0, pixels], surface.point[1, pixels]
    # Beyond the map the campus repeats, so that a street view has a horizon.
    wrap, middle = GROUND_TEXELS - 1, GROUND_TEXELS / 2
    column = (middle + x / TEXEL).astype(np.intp) & wrap
    row = (middle - y / TEXEL).astype(np.intp) & wrap
    land = surface.scene.land.take(row * GROUND_TEXELS + column).astype(np.intp)
    mottle = 1 + 0.7 * LAND_ROUGHNESS.take(land) * surface.noise(x * 2.3, y * 2.3)
    np.maximum(mottle, 0.3, out=mottle)
    for channel, shades in zip(surface.colour, surface.scene.palette, strict=True):
        channel[pixels] = shades.take(land) * mottle


def _paint_walls(surface: Surface) -> None:
    """Rows of windows between a plinth and a parapet; panes differ a little from each other."""
    pixels = surface.of(Material.WALL)
    table = surface.table
    solid, along, across = surface.local(pixels)
    slot = surface.face[pixels] % FACES
    curve = np.arctan2(across, along) * table.half_x[solid]
    run = np.where(slot == ROUND, curve, np.where(slot % 2 == 0, across, along))
    bay, wide, high, storey = table.facade[:, solid]
    height = surface.point[2, pixels] - table.base[solid]
    floor, level = np.divmod(height / storey, 1.0)
    window, place = np.divmod(run / bay, 1.0)
    pane = (np.abs(place - 0.5) < wide / 2) & (np.abs(level - 0.52) < high / 2)
    pane &= height < table.top[solid] - table.base[solid] - 0.9
    tone = 1 + 0.1 * surface.noise(run * 2, height * 2)
    tone[(level < 0.06) | (height < 0.6)] *= 0.8
    surface.colour[:, pixels] *= tone
    glint = np.maximum(surface.noise(window * 7 + solid, floor * 13)[pane], -0.9)
    surface.colour[:, pixels[pane]] = np.outer(GLASS_COLOUR, 1 + 0.6 * glint)
    surface.ambient[pixels] *= np.clip(0.6 + 0.06 * height, 0.6, 1.0)


def _paint_flat_roofs(surface: Surface) -> None:
    """A light coping, a dark gutter within it, seams and stains."""
    pixels = surface.of(Material.FLAT_ROOF)
    table = surface.table
    solid, along, across = surface.local(pixels)
    half_x, half_y = table.half_x[solid], table.half_y[solid]
    edge = np.minimum(half_x - np.abs(along), half_y - np.abs(across))
    disc = table.shape[solid] == Shape.CYLINDER
    edge[disc] = (half_x * (1 - np.hypot(along / half_x, across / half_y)))[disc]
    tone = 1 + 0.14 * surface.noise(along * 0.9 + solid, across * 0.9)
    tone += 0.06 * surface.noise(along * 5, across * 5)
    tone[np.abs(along / 4.0 % 1.0 - 0.5) < 0.03] *= 0.85
    tone[edge < 1.3] *= 0.68
    tone[edge < 0.6] = 1.3
    surface.colour[:, pixels] *= tone


def _paint_pitched(surface: Surface) -> None:
    """Courses on tiled slopes, a grid of frames on glass and solar panels."""
    pixels = surface.of(Material.TILES, Material.PANELS)
    _, along, across = surface.local(pixels)
    tone = 1 + 0.12 * surface.noise(along * 2, across * 2)
    panel = surface.material[pixels] == Material.PANELS
    frame = (along % 2.0 < 0.25) | (across % 1.7 < 0.3)
    tone[~panel & (surface.point[2, pixels] % 0.9 < 0.22)] *= 0.84
    tone[panel & frame] *= 2.2
    surface.colour[:, pixels] *= tone


def _paint_leaves(surface: Surface) -> None:
    """Clumps of leaves, darker towards the foot of the crown."""
    pixels = surface.of(Material.LEAVES)
    x, y, z = surface.point[:, pixels]
    solid = surface.face[pixels] // FACES
    base, top = surface.table.base[solid], surface.table.top[solid]
    clump = 1 + 0.45 * surface.noise(x * 6 + z * 3.7, y * 6 - z * 2.9)
    surface.colour[:, pixels] *= clump * (0.55 + 0.55 * (z - base) / (top - base))
    surface.direct[pixels] = 0.35 + 0.65 * surface.direct[pixels]


def _sunlit(scene: Scene, point: np.ndarray) -> np.ndarray:
    """Whether the sun sees each of the points (3, P): (P,) bool."""
    lamp = scene.lamp
    right, up, depth = np.einsum("ij,jp->ip", lamp.axes.astype(np.float32), point)
    # The lamp looks at the origin from afar; ground near a street's horizon may lie behind it.
    depth = np.maximum(depth + np.float32(FAR), np.float32(1))
    scale = np.float32(lamp.focal) / depth
    column = np.clip(lamp.size / 2 + right * scale, 0, lamp.size - 1).astype(np.intp)
    row = np.clip(lamp.size / 2 - up * scale, 0, lamp.size - 1).astype(np.intp)
    nearest = scene.lamp_inverse.take(row * lamp.size + column)
    return nearest * (depth - np.float32(0.9)) < 1


def _paint_air(surface: Surface, camera: Camera, radiance: np.ndarray) -> None:
    """A sky that pales towards the horizon, and haze in front of what is far."""
    distance = np.hypot(surface.point[0] - camera.eye[0], surface.point[1] - camera.eye[1])
    haze = np.clip((distance - 60) / 500, 0, 0.85).astype(np.float32)
    radiance += haze * (np.array([[0.9], [1.0], [1.1]], np.float32) - radiance)
    pixels = surface.of(Material.SKY)
    rise = np.clip(1.4 * surface.point[2, pixels] / distance[pixels], 0, 1)
    horizon, zenith = np.array([[[0.95], [1.0], [1.05]], [[0.25], [0.45], [0.85]]], np.float32)
    radiance[:, pixels] = horizon + (zenith - horizon) * np.sqrt(rise)


class Sensor(NamedTuple):
    """How a camera shows colours; its pictures stray from that by `spread`."""

    saturation: float
    contrast: float
    gains: tuple[float, float, float]  # red, green, blue
    haze: float
    spread: float


SENSORS = {
    "satellite": Sensor(0.8, 0.92, (1.05, 1.0, 0.9), 0.08, 1.0),
    "drone": Sensor(1.05, 1.05, (0.98, 1.0, 1.04), 0.02, 1.0),
    "street": Sensor(1.0, 1.0, (1.0, 1.0, 1.0), 0.02, 1.5),
    "google": Sensor(1.0, 1.0, (1.0, 1.0, 1.0), 0.05, 4.0),
}


def develop(radiance: np.ndarray, size: int, rng, sensor: Sensor) -> np.ndarray:
    """One picture (size, size, 3) uint8 of radiance (3, H, W): exposure, tone and flaws.

    Exposure and tone are drawn for each picture, so that colours alone do not give a place away.
    """
    spread = sensor.spread
    level = 0.16 * np.exp(rng.normal(0, 0.08 * spread)) / max(radiance[:, ::4, ::4].mean(), 1e-3)
    encoded = np.sqrt(np.minimum(radiance * np.float32(level), 1.0)) * 255 + 0.5
    image = Image.merge("RGB", [Image.fromarray(plane) for plane in encoded.astype(np.uint8)])
    # The reduction also sets how sharp the lens is.
    filters = (Image.Resampling.BOX, Image.Resampling.HAMMING, Image.Resampling.BICUBIC)
    image = image.resize((size, size), filters[rng.integers(3)])
    saturation = sensor.saturation * np.exp(rng.normal(0, 0.08 * spread))
    image = ImageEnhance.Color(image).enhance(saturation)
    ramp = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.08 * spread))
    ramp = 0.42 + (ramp - 0.42) * sensor.contrast * np.exp(rng.normal(0, 0.05 * spread))
    haze = sensor.haze + rng.uniform(0, 0.04 * spread)
    gains = np.array(sensor.gains) * np.exp(rng.normal(0, 0.02 * spread, 3))
    curves = np.outer(gains, ramp * (1 - haze) + 0.72 * haze)
    image = image.point(np.clip(curves * 255, 0, 255).astype(int).ravel().tolist())
    grain = rng.standard_normal((size, size, 1), np.float32) * np.float32(rng.uniform(1, 3))
    return np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------- the views


def _aim(site: Site, view: str, frame: int, size: int, rng: np.random.Generator) -> Camera:
    """The camera of a view; `frame` numbers the drone's frames."""
    span = float(np.clip(2.3 * site.reach, 95, 150))
    if view == "satellite":
        return look_at((0, 0, FAR), (0, 0, 0), span, size, up=(0, 1, 0))
    if view == "drone":
        eye = np.array(drone_position(frame))
        # The lens is pulled so that the site shrinks far less than the distance grows.
        zoom = 1.2 - 0.25 * (frame - 1) / (SPIRAL_FRAMES - 1)
        target = (*rng.normal(0, 2.0, 2), 5.0)
        return look_at(eye, target, span * zoom, size, roll=rng.normal(0, 1.5))
    eye = _standpoint(site, rng, view == "google")
    wide = rng.uniform(0.8, 1.5) if view == "google" else rng.uniform(1.1, 1.5)
    distance = float(np.hypot(eye[0], eye[1]))
    roll = rng.normal(0, 5) if view == "google" else rng.normal(0, 1)
    target = (*rng.normal(0, 4, 2), rng.uniform(7, 12))
    return look_at(eye, target, distance * wide, size, roll=roll)


def _standpoint(site: Site, rng: np.random.Generator, anywhere: bool) -> np.ndarray:
    """A place to photograph the building from: on a road or a path with little in the way."""
    angle = rng.uniform(0, 2 * np.pi, 60)
    radius = site.reach * rng.uniform(0.7, 1.5, 60) + rng.uniform(15, 30, 60)
    spots = np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1)
    texels = (GROUND_TEXELS / 2 + spots * (1, -1) / TEXEL).astype(int)
    texels = np.clip(texels, 0, GROUND_TEXELS - 1)
    land = site.land[texels[:, 1], texels[:, 0]]
    walkable = np.isin(land, (Land.ASPHALT, Land.PATH, Land.PARKING, Land.PAVING, Land.MARKING))
    obstacles = [solid for solid in site.solids if solid.base < 3 and solid.top > 2]
    bulky = np.array([(s.x, s.y, np.hypot(s.half_x, s.half_y) + 1) for s in obstacles])
    # Trees and walls along the first part of a spot's line of sight count against it.
    sight = spots[:, None] * np.linspace(1, 0.6, 8)[:, None]  # (60, 8, 2)
    room = np.linalg.norm(sight[:, :, None] - bulky[:, :2], axis=-1)  # (60, 8, B)
    blocked = (room < bulky[:, 2]).sum((1, 2))
    height = rng.uniform(1.5, 9.0) if anywhere else rng.uniform(1.6, 2.1)
    score = blocked + 4 * ~walkable + rng.uniform(0, 3 if anywhere else 1, 60)
    return np.array([*spots[int(score.argmin())], height])


def _photograph(scene: Scene, view: str, frame: int, size: int) -> np.ndarray:
    """One picture (size, size, 3) uint8 of a staged scene."""
    site = scene.site
    rng = _stream(site.seed, site.building, Stream[view.upper()], frame + 1)
    fine = int(size * OVERSAMPLING)
    camera = _aim(site, view, frame, fine, rng)
    grain = np.resize(site.grain, (fine, fine)) if fine > len(site.grain) else site.grain
    radiance = shade(scene, camera, *cast(scene.table, camera, grain))
    return develop(radiance, size, rng, SENSORS[view])


def render_view(site: Site, view: str, frame: int = 0, size: int = 256) -> np.ndarray:
    """One picture (size, size, 3) uint8: satellite, drone (with its frame 1..54), street or google.

    Raises ValueError on another view or a frame outside the spiral.
    """
    if view not in VIEWS:
        raise ValueError(f"view is {view!r}, expected one of {', '.join(VIEWS)}")
    scene = stage(site, Stream.SATELLITE if view == "satellite" else Stream.DRONE)
    scene = stand_cars(scene) if view in ("street", "google") else scene
    return _photograph(scene, view, frame, size)


# ------------------------------------------------------------------------------------ the campus


class Job(NamedTuple):
    """One building to render; it goes to worker processes, so it is plain data."""

    out_dir: str
    seed: int
    building: int
    split: str  # "train", "query" (in the gallery too) or "gallery" (a distractor)
    frames: tuple[int, ...]
    size: int


def has_google_photo(seed: int, building: int) -> bool:
    """Whether the web search found a photograph of this training building at all."""
    return bool(_stream(seed, building, Stream.PRESENCE).random() >= EMPTY_GOOGLE_SHARE)


def _google_photo(job: Job, scene: Scene) -> np.ndarray:
    """A web photograph, which now and then shows some other building."""
    if _stream(job.seed, job.building, Stream.PRESENCE, 1).random() < 0.08:
        site = make_site(job.seed, LAST_ID + job.building)
        return render_view(site, "google", size=job.size)
    return _photograph(scene, "google", 0, job.size)


def _folders(job: Job, view: str) -> list[str]:
    if job.split == "train":
        return [f"train/{view}"]
    splits = ("query", "gallery") if job.split == "query" else ("gallery",)
    return [f"test/{split}_{view}" for split in splits]


def _save(job: Job, view: str, name: str, picture: np.ndarray) -> None:
    """Write the picture as JPEG to every folder that shows it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    for folder in _folders(job, view):
        path = Path(job.out_dir, folder, f"{job.building:04d}", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())


def render_building(job: Job) -> dict[str, int]:
    """Render and save one building; returns the number of pictures per folder."""
    # Freeing one big block teaches glibc to keep later ones instead of returning their pages to
    # the system after every step, a sixth of the time. Elsewhere it does nothing.
    np.empty(30 << 20, np.uint8)
    site = make_site(job.seed, job.building)
    label = f"{job.building:04d}"
    above = stage(site, Stream.SATELLITE)
    aloft = stage(site, Stream.DRONE)
    afoot = stand_cars(aloft)
    _save(job, "satellite", f"{label}.jpg", _photograph(above, "satellite", 0, job.size))
    for frame in job.frames:
        _save(job, "drone", f"image-{frame:02d}.jpeg", _photograph(aloft, "drone", frame, job.size))
    _save(job, "street", "1.jpg", _photograph(afoot, "street", 0, job.size))
    made = {"satellite": 1, "drone": len(job.frames), "street": 1}
    if job.split == "train":
        Path(job.out_dir, "train/google", label).mkdir(parents=True, exist_ok=True)
        made["google"] = int(has_google_photo(job.seed, job.building))
        if made["google"]:
            _save(job, "google", "1.jpg", _google_photo(job, afoot))
    return {folder: count for view, count in made.items() for folder in _folders(job, view)}


def _check(seed, num_train, num_test, num_distractors, drone_frames, image_size, num_workers):
    room = FIRST_TEST_ID - 1
    limits = {
        "seed": (seed, 0, 2**32),
        "num_train": (num_train, 0, room),
        "num_test": (num_test, 0, LAST_ID - room),
        "num_distractors": (num_distractors, 0, LAST_ID - room - max(num_test, 0)),
        "drone_frames": (drone_frames, 1, SPIRAL_FRAMES),
        "image_size": (image_size, 32, 4096),
        "num_workers": (num_workers, 0, 1024),
    }
    for name, (value, low, high) in limits.items():
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, expected an integer from {low} to {high}")


def _write_coordinates(path: Path, buildings: list[int]) -> None:
    """building,latitude,longitude of every building, on one grid of a hundred columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["building", "latitude", "longitude"])
        for building in buildings:
            row, column = divmod(building, 100)
            latitude = CAMPUS_ORIGIN[0] + row * CAMPUS_PITCH
            longitude = CAMPUS_ORIGIN[1] + column * CAMPUS_PITCH * 1.5
            table.writerow([f"{building:04d}", f"{latitude:.6f}", f"{longitude:.6f}"])


def _finished(jobs: list[Job], num_workers: int) -> Iterator[dict[str, int]]:
    if num_workers == 0:
        yield from map(render_building, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        yield from pool.map(render_building, jobs, chunksize=2)


def render_campus(
    out_dir: str | Path,
    *,
    seed: int = 0,
    num_train: int = 340,
    num_test: int = 34,
    num_distractors: int = 8,
    drone_frames: int = 7,
    image_size: int = 224,
    num_workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Render the campus into `out_dir`, a fresh folder, in the layout of University-1652.

    The gallery holds the `num_test` query buildings and `num_distractors` more. Each building gets
    one satellite, one street and `drone_frames` of the 54 drone pictures, `image_size` pixels both
    ways; training buildings also get a web photograph or an empty google folder. The bytes depend
    on the seed, the drone frames and the image size alone, not on `num_workers` (0: this process).
    `progress` is called with the number of buildings finished so far. Returns the number of
    pictures per folder, such as {"train/satellite": 240}. Raises ValueError on a bad value.
    """
    _check(seed, num_train, num_test, num_distractors, drone_frames, image_size, num_workers)
    splits = [("train", 1, num_train), ("query", FIRST_TEST_ID, num_test),
              ("gallery", FIRST_TEST_ID + num_test, num_distractors)]  # fmt: skip
    frames = tuple(spiral_frames(drone_frames))
    jobs = [Job(str(out_dir), seed, building, split, frames, image_size)
            for split, first, count in splits
            for building in range(first, first + count)]  # fmt: skip
    _write_coordinates(Path(out_dir, "coordinates.csv"), [job.building for job in jobs])
    folders = [f"train/{view}" for view in VIEWS]
    folders += [f"test/{split}_{view}" for split in ("query", "gallery") for view in VIEWS[:3]]
    counts = dict.fromkeys(folders, 0)
    for folder in folders:
        Path(out_dir, folder).mkdir(parents=True, exist_ok=True)
    for number, made in enumerate(_finished(jobs, num_workers), 1):
        for folder, count in made.items():
            counts[folder] += count
        if progress:
            progress(number)
    return counts
