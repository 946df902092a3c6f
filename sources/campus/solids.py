"""Convex solids, and the ray casting that finds which of them each pixel sees."""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from sources.campus.camera import Camera
from sources.campus.palette import Material

Shape = IntEnum("Shape", "BOX CYLINDER ELLIPSOID", start=0)
FACES = 8  # face slots per solid: four sides, cap, underside, the round side, one spare
CAP, UNDERSIDE, ROUND = 4, 5, 6


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
    exited = (table.bounded & (room > 0)).tolist()
    offset = np.einsum("nij,nj->ni", table.to_unit, camera.eye - table.centre)
    spokes = table.to_unit @ camera.axes.T  # (N, 3, 3): columns right, up, forward
    leafy = np.where(table.species >= 0, 0.55, 0.0)
    for solid, rows, cols in _screen_tiles(table, camera):
        tile = single[0][cols], single[1][rows]
        near, far, slot = _cross_planes(slopes[solid], entered[solid], exited[solid], *tile)
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


def _cross_planes(slopes, entered, exited, u, v):
    """Inverse depths where rays enter and leave half-spaces, and the slot of the entry plane.

    `near` is None where no plane is entered: the eye is on the inner side of all of them.
    """
    near, slot, far = None, 0, np.float32(0.0)
    for plane, (right, up, forward) in enumerate(slopes):
        if not (entered[plane] or exited[plane]):
            continue
        level = np.add.outer(up * v + forward, right * u)
        if exited[plane]:
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
