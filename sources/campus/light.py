"""Light: the colours of what the camera sees, and what one particular sensor records of them."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from sources.campus.camera import SPIRAL_BOTTOM, Camera
from sources.campus.grounds import TEXEL
from sources.campus.palette import GLASS_COLOUR, LAND_ROUGHNESS, Material
from sources.campus.scene import Scene
from sources.campus.solids import FACES, ROUND, Shape


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
        noise = self.scene.site.noise
        wrap = len(noise) - 1
        return noise.take((row & wrap) * len(noise) + (column & wrap))

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
    texels = len(surface.scene.land)
    column = (texels / 2 + x / TEXEL).astype(np.intp) % texels
    row = (texels / 2 - y / TEXEL).astype(np.intp) % texels
    land = surface.scene.land.take(row * texels + column).astype(np.intp)
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
    depth = np.maximum(depth - np.float32(lamp.axes[2] @ lamp.eye), np.float32(1))
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
