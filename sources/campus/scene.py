"""A site on one day: its season, its cars and its sun."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from sources.campus.camera import FAR, Camera, look_at
from sources.campus.grounds import Brush
from sources.campus.palette import CAR_COLOURS, LAND_COLOURS, Land, Material
from sources.campus.site import Site, Stream, random_stream
from sources.campus.solids import FACES, Solid, SolidTable, cast

LAMP_SIZE, LAMP_SPAN = 416, 220.0  # the shadow map of a site: pixels and metres, both ways
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
    lamp_inverse: np.ndarray  # (LAMP_SIZE, LAMP_SIZE), or more, inverse depths that the lamp sees


def stage(site: Site, stream: int, span: float = LAMP_SPAN) -> Scene:
    """The site on the day that `stream` stands for, with the cars painted on the ground.

    Within `span` metres, both ways, things cast their shadows.
    """
    rng = random_stream(site.seed, site.building, stream)
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
    wider = span / LAMP_SPAN
    lamp = look_at(sun * FAR * wider, (0, 0, 0), span, int(LAMP_SIZE * wider))
    lamp_inverse, _ = cast(site.table, lamp, site.grain_for(lamp.size))
    lamp_inverse[[0, -1]] = lamp_inverse[:, [0, -1]] = 0  # nothing beyond its edge is in shadow
    return Scene(
        site=site, table=site.table, land=_paint_cars(site.land, cars, sun, bodies=True),
        palette=np.clip(palette.T, 0.01, 0.9).astype(np.float32),
        colour=_season_colours(site.table, season, tint), cars=cars, sun=sun,
        light=light.astype(np.float32), lamp=lamp, lamp_inverse=lamp_inverse,
    )  # fmt: skip


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
