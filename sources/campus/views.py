"""One picture of a site from the satellite, the drone, the street or the web."""

import io

import numpy as np
from PIL import Image

from imaging.files import VIEWS
from sources.campus.camera import FAR, SPIRAL_FRAMES, Camera, drone_position, look_at
from sources.campus.grounds import GROUND_TEXELS, TEXEL
from sources.campus.light import SENSORS, develop, shade
from sources.campus.palette import Land
from sources.campus.scene import Scene, stage, stand_cars
from sources.campus.site import Site, Stream, random_stream
from sources.campus.solids import cast

OVERSAMPLING = 1.25


def picture_span(site: Site) -> float:
    """Metres that the satellite picture of a site shows, both ways."""
    return float(np.clip(2.3 * site.reach, 95, 150))


def _aim(site: Site, view: str, frame: int, size: int, rng: np.random.Generator) -> Camera:
    """The camera of a view; `frame` numbers the drone's frames."""
    span = picture_span(site)
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


def photograph(scene: Scene, view: str, frame: int, size: int) -> np.ndarray:
    """One picture (size, size, 3) uint8 of a staged scene."""
    site = scene.site
    rng = random_stream(site.seed, site.building, Stream[view.upper()], frame + 1)
    fine = int(size * OVERSAMPLING)
    camera = _aim(site, view, frame, fine, rng)
    return develop(expose(scene, camera), size, rng, SENSORS[view])


def expose(scene: Scene, camera: Camera) -> np.ndarray:
    """Radiance (3, H, W) float32 that a camera sees of a staged scene."""
    return shade(scene, camera, *cast(scene.table, camera, scene.site.grain_for(camera.size)))


def jpeg(picture: Image.Image, **settings) -> bytes:
    """A picture as the bytes of a JPEG."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90, **settings)
    return content.getvalue()


def render_view(site: Site, view: str, frame: int = 0, size: int = 256) -> np.ndarray:
    """One picture (size, size, 3) uint8: satellite, drone (with its frame 1..54), street or google.

    Raises ValueError on another view or a frame outside the spiral.
    """
    if view not in VIEWS:
        raise ValueError(f"view is {view!r}, expected one of {', '.join(VIEWS)}")
    scene = stage(site, Stream.SATELLITE if view == "satellite" else Stream.DRONE)
    scene = stand_cars(scene) if view in ("street", "google") else scene
    return photograph(scene, view, frame, size)
