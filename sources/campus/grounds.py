"""The grounds: a painted map of plots and roads, and what stands on them."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from sources.campus.buildings import draw_style, wing
from sources.campus.palette import CONIFER, Land, Material
from sources.campus.solids import Shape, Solid

GROUND_TEXELS = 1024
TEXEL = 0.24  # metres per ground texel
SCENERY = 100.0  # metres from the building within which trees and cars are placed
PLOT_SHARES = {"car_park": 0.2, "courts": 0.1, "pond": 0.08, "plaza": 0.09, "grove": 0.14,
               "neighbour": 0.2, "field": 0.07, "lawn": 0.12}  # fmt: skip
OPEN_LAND = (Land.LAWN, Land.MEADOW, Land.SOIL)


class Plot(NamedTuple):
    """A piece of the grounds, in the building's frame: metres."""

    kind: str  # one of PLOT_SHARES
    x: float
    y: float
    half_x: float
    half_y: float


class Brush:
    """Paints the ground map in a frame turned by `yaw` about the building."""

    def __init__(self, land: Image.Image, yaw: float):
        self.draw = ImageDraw.Draw(land)
        self.middle = land.width / 2
        self.turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])

    def texels(self, points) -> list[tuple[float, float]]:
        """Columns and rows of the ground map at points (..., 2)."""
        texels = np.reshape(points, (-1, 2)) @ self.turn * (1 / TEXEL, -1 / TEXEL)
        return [tuple(texel) for texel in (texels + self.middle).tolist()]

    def metres(self, texels) -> np.ndarray:
        """East and north of the middle (..., 2) at columns and rows of the ground map."""
        return (np.asarray(texels) - self.middle) * (TEXEL, -TEXEL)

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


class Grounds:
    """Lays out a site in the building's frame: paints the ground, notes what will stand on it.

    With `room`, the half sides of a plot to the east and to the north, nothing stands outside it.
    """

    def __init__(self, rng: np.random.Generator, yaw: float, room=np.inf, texels=GROUND_TEXELS):
        self.rng, self.room = rng, room
        self.land = Image.new("L", (texels, texels), int(Land.LAWN))
        self.brush = Brush(self.land, yaw)
        self.solids: list[Solid] = []
        self.stalls: list[tuple] = []  # x, y and heading
        self.trees: list[tuple] = []  # x and y
        self.plots: list[Plot] = []
        self.roads: list[tuple] = []  # start and stop, each x and y

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
            self.road(_beside(side, out, -170), _beside(side, out, 170))
        if self.rng.random() < 0.25 or not roads:
            slant = max(reach_x, reach_y) + 22 + self.rng.uniform(-50, 50, 2)
            self.road((-170.0, slant[0]), (170.0, slant[1]))
        for side, out in roads:
            gate = self.rng.uniform(-0.4, 0.4) * min(reach_x, reach_y)
            self.brush.line([_beside(side, 0, gate), _beside(side, out, gate)], 2.6, Land.PATH)

    def road(self, start, stop, cars=(90, 250, 7), trees=(60, 280)) -> None:
        """A road with footways, a dashed middle line, parked cars and perhaps a row of trees.

        `cars` are the metres along the road between which they stand, and how many; so are `trees`.
        """
        self.roads.append((start, stop))
        start, way = np.array(start), np.subtract(stop, start)
        length = np.linalg.norm(way)
        way /= length
        beside = np.array([-way[1], way[0]])
        self.brush.line([start, start + way * length], 10.0, Land.PATH)
        self.brush.line([start, start + way * length], 7.2, Land.ASPHALT)
        for along in np.arange(self.rng.uniform(0, 6), length, 6.0):
            dash = [start + way * along, start + way * (along + 2.6)]
            self.brush.line(dash, 0.35, Land.MARKING)
        for number, along in enumerate(self.rng.uniform(*cars)):
            lane = -2 if number % 2 else 2
            self.stalls.append((*(start + way * along + beside * lane), np.arctan2(way[1], way[0])))
        if self.rng.random() < 0.65:
            row = np.arange(*trees, self.rng.uniform(7, 12))[:, None]
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
            self.plots.append(Plot(str(kind), *centre, *half))
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
        (x0, y0), (x1, y1) = (x, y) - part, (x, y) + part
        if not self.fits([(x0, y0), (x0, y1), (x1, y0), (x1, y1)]):
            self.lawn(x, y, half_x, half_y)
            return
        self.brush.rect(x, y, part[0] + 2, part[1] + 2, Land.PATH)
        height = 3.7 * self.rng.integers(1, 5) + 1
        self.solids += wing(self.rng, draw_style(self.rng), x0, y0, x1, y1, height)[:4]
        self.scatter(5, x, y, half_x, half_y)

    def fits(self, points) -> bool:
        """Whether all points (..., 2) lie on the plot."""
        return bool((np.abs(points @ self.brush.turn) <= self.room).all())

    def plant_trees(self, scenery: float = SCENERY) -> None:
        """Set a trunk and a crown wherever a tree is wanted and the ground is open."""
        land, common = np.asarray(self.land), self.rng.integers(0, 3)
        for spot in self.trees:
            column, row = self.brush.texels(spot)[0]
            if np.hypot(*spot) > scenery or land[int(row), int(column)] not in OPEN_LAND:
                continue
            if not self.fits(spot):
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


def _beside(side: int, out: float, along: float) -> tuple[float, float]:
    """The point `out` from the centre towards a side (+x, +y, -x, -y) and `along` it."""
    return ((out, along), (-along, out), (-out, -along), (along, -out))[side]
