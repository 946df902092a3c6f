"""A site: one building and its surroundings, as they are in every season."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from PIL import Image

from sources.campus.buildings import BARRED_SHARE, FAMILIES, barred, draw_style, stadium
from sources.campus.grounds import SCENERY, Grounds, Plot
from sources.campus.palette import Land
from sources.campus.solids import Solid, SolidTable

NOISE_TEXELS = 256
# What a random stream is for: with the seed and the building ID it fixes every number drawn.
Stream = IntEnum("Stream", "SITE NOISE SATELLITE DRONE STREET GOOGLE PRESENCE TEXT", start=0)


def random_stream(seed: int, building: int, stream: int, part: int = 0) -> np.random.Generator:
    """The generator of one purpose, or of a part of it."""
    return np.random.default_rng([seed, building, int(stream), part])


class Plan(NamedTuple):
    """What a site was laid out from, in the building's frame, which is turned by `yaw`."""

    shape: str  # of the building, see buildings.py
    yaw: float  # radians
    half: tuple[float, float]  # metres, of the sides of the box about the building
    block: list[Solid]  # the building
    plots: list[Plot]
    roads: list[tuple]  # start and stop, each x and y


@dataclass(frozen=True)
class Site:
    """A building and its surroundings, as they are in every season."""

    seed: int
    building: int
    solids: list[Solid]  # buildings and trees, cars excepted
    table: SolidTable  # the same as arrays
    land: np.ndarray  # (T, T) uint8 rows of Land, north up
    stalls: np.ndarray  # (S, 3): x, y and heading of the places where a car may stand
    noise: np.ndarray  # (256, 256) float32, about -1..1; any power of two
    grain: np.ndarray  # (512, 512) float32, 0..1
    reach: float  # metres from the origin to the building's farthest corner
    plan: Plan | None = None  # of an area none

    def grain_for(self, size: int) -> np.ndarray:
        """The grain for a picture, at least (size, size)."""
        return np.resize(self.grain, (size, size)) if size > len(self.grain) else self.grain


def make_site(seed: int, building: int, room=np.inf) -> Site:
    """The building with this ID and its surroundings; the same for the same seed and ID.

    With `room`, the half sides of a plot to the east and to the north, (2,) metres, nothing but
    the building stands outside it.
    """
    rng = random_stream(seed, building, Stream.SITE)
    family = barred if rng.random() < BARRED_SHARE else FAMILIES[rng.integers(len(FAMILIES))]
    shape, block = family(rng, draw_style(rng))
    hull = SolidTable(block).corners[..., :2].reshape(-1, 2)
    (x, y), (reach_x, reach_y) = (hull.max(0) + hull.min(0)) / 2, (hull.max(0) - hull.min(0)) / 2
    block = [solid._replace(x=solid.x - x, y=solid.y - y) for solid in block]

    yaw = rng.uniform(0, 2 * np.pi)
    grounds = Grounds(rng, yaw, room)
    grounds.surround(reach_x, reach_y)
    grounds.scatter(40, 0, 0, reach_x + 30, reach_y + 30)
    for solid in block:
        if solid.base == 0:  # paved round about, which also keeps the trees out of the walls
            size = (solid.half_x + 2, solid.half_y + 2)
            grounds.brush.rect(solid.x, solid.y, *size, Land.PATH, solid.yaw)
    if family is stadium:
        grounds.field(0, 0, reach_x * 0.72, reach_y * 0.65)
    grounds.plant_trees()

    turn, stalls = grounds.brush.turn, np.array(grounds.stalls)
    stalls = np.column_stack([stalls[:, :2] @ turn, stalls[:, 2] + yaw])
    on_plot = (np.abs(stalls[:, :2]) <= room).all(1)
    solids = [solid._replace(**dict(zip("xy", (solid.x, solid.y) @ turn, strict=True)),
                             yaw=solid.yaw + yaw) for solid in block + grounds.solids]  # fmt: skip
    texture = random_stream(seed, building, Stream.NOISE)
    return Site(
        seed=seed, building=building, solids=solids, table=SolidTable(solids),
        land=np.asarray(grounds.land),
        stalls=stalls[(np.hypot(stalls[:, 0], stalls[:, 1]) < SCENERY) & on_plot],
        noise=draw_noise(texture), grain=texture.random((512, 512), np.float32),
        reach=float(np.hypot(reach_x, reach_y)),
        plan=Plan(shape, yaw, (reach_x, reach_y), block, grounds.plots, grounds.roads),
    )  # fmt: skip


def draw_noise(rng: np.random.Generator, texels: int = NOISE_TEXELS) -> np.ndarray:
    """Noise (texels, texels) float32 of three octaves, about -1..1."""
    total = np.zeros((texels, texels), np.float32)
    for coarseness, weight in ((1, 0.45), (4, 0.35), (16, 0.3)):
        cells = texels // coarseness
        octave = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
        total += weight * np.asarray(octave.resize(total.shape, Image.Resampling.BICUBIC))
    return np.clip(total, -1.5, 1.5)
