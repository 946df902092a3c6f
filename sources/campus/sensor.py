"""From radiance to what one particular sensor would have recorded."""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance


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
