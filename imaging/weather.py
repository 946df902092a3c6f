"""The ten weather conditions of University1652-WX (normal, fog, rain, snow, ...) on drone images.

Conditions and parameters are those published with MuseNet (Wang et al., Pattern Recognition 2024);
every formula stands in weather.md beside this file. A picture depends on the image, the condition
and the seed alone, not on the images, processes or threads before it.

    weathered = apply_weather(image, "fog_rain", seed=7)  # uint8 (H, W, 3) RGB -> the same shape
    seed = weather_seed("0839/image-54.jpeg", "fog_rain")  # of an image of a test set
"""

import argparse
import hashlib
import math
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageChops

from imaging.colour import COLOUR_SPACES

SPEC_VERSION = 2  # of weather.md: raised when an image, condition and seed give another picture
PUBLISHED_SIDE = 512  # pixels: the images that the published lengths are made for


# ---------------------------------------------------------------- conditions
def apply_weather(image, condition, seed):
    """Draw a condition on an image: uint8 (H, W, 3) RGB -> uint8 (H, W, 3), a new array.

    `seed` is a whole number from 0 to 2^64 - 1: that of a training sample, or `weather_seed`.
    Raises ValueError for another image, condition or seed.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition {condition!r} is not one of {', '.join(CONDITIONS)}: name one")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} is not within 0 to 2^64 - 1: weather_seed makes such")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}, expected uint8 (H, W, 3): "
            "imaging.pixels.read_image gives that"
        )
    if not STEPS[condition]:
        return image.copy()
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)  # one colour after another
    draws = Draws(int(seed))
    for step in STEPS[condition]:
        step(planes, draws)
    levels = np.rint(planes, out=planes).astype(np.uint8)
    return np.array(Image.merge("RGB", [Image.fromarray(plane) for plane in levels]))


def parse_conditions(text):
    """argparse type: `all`, or names such as `fog,over-exposure`, as a tuple in published order."""
    given = [part.strip().replace("-", "_").replace("+", "_") for part in text.split(",")]
    names = list(CONDITIONS) if given == ["all"] else given
    if not set(CONDITIONS).issuperset(names) or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not all, nor different names of {', '.join(CONDITIONS)}"
        )
    return tuple(name for name in CONDITIONS if name in names)


def condition_label(condition):
    """The published name of a condition: over-exposure, fog+rain, ..."""
    return condition.replace("_", "-" if condition == "over_exposure" else "+")


def weather_seed(name, condition, seed=0):
    """Seed of an image of a test set under a condition: 0 to 2^63 - 1, the same everywhere.

    `name` identifies the image: a str such as `<ID>/<file name>`, or its bytes. `seed` chooses
    among several drawings of the whole set.
    """
    # A file's name need not be text: Python keeps its bytes as surrogates.
    name = name.encode(errors="surrogateescape") if isinstance(name, str) else name
    text = f"weather {SPEC_VERSION} {condition} {seed}\n".encode() + name
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def draw_weather(image, path, condition):
    """Draw a condition on the image of a file: always the same for one class folder and name."""
    path = Path(path)
    return apply_weather(
        image, condition, weather_seed(f"{path.parent.name}/{path.name}", condition)
    )


def choose_condition(conditions, seed):
    """One of the conditions, each with the same probability; `seed` is of a training sample."""
    return conditions[weather_seed("", "which", seed) % len(conditions)]


# ---------------------------------------------------------------- random numbers
class Draws:
    """Random numbers that are a function of a seed alone: the raw words of a Philox generator.

    NumPy promises that the words of its bit generators stay the same in later versions; it does not
    promise that for the numbers a Generator makes of them.
    """

    def __init__(self, seed):
        self._generator = np.random.Philox(key=seed)

    def uniform(self, low=0.0, high=1.0, shape=None):
        """A float in [low, high), or a float64 array of them of some shape."""
        words = np.asarray(self._generator.random_raw(shape), np.uint64)
        numbers = low + (high - low) * (words >> np.uint64(11)) * 2.0**-53
        return float(numbers) if shape is None else numbers

    def content(self, count):
        """`count` random bytes."""
        words = self._generator.random_raw(-(-count // 8))
        return words.astype("<u8", copy=False).tobytes()[:count]


# ---------------------------------------------------------------- noise
def enlarge(grid, height, width):
    """Interpolate uint8 or float32 (h, w) by Pillow's bicubic filter to (height, width)."""
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def cloud_noise(draws, height, width, most):
    """Cloud noise for an image of height x width pixels: float64 (h, w) from 0 to 1.

    The longer side has `most` points, or as many as the image has pixels; no side less than 4.
    """
    scale = min(1.0, most / max(height, width))
    shape = max(4, round(scale * height)), max(4, round(scale * width))
    rows, columns = (np.fft.fftfreq(points) for points in shape)  # cycles a point
    power = rows[:, None] ** 2 + columns**2  # f^2
    power[0, 0] = np.inf
    size, phase = draws.uniform(shape=shape), draws.uniform(high=2 * np.pi, shape=shape)
    noise = np.fft.ifft2(size * np.exp(1j * phase) / power).real
    return (noise - noise.min()) / (noise.max() - noise.min())


def specks(draws, shape, density, uniformity, cell, peak=255):
    """Salt noise, denser in some places than in others: uint8 (H, W).

    Args:
        shape: (H, W).
        density: probability that a cell is a speck.
        uniformity: 0 to 1, how evenly the specks are spread.
        cell: height and width of a cell in pixels.
        peak: level of the brightest speck.
    """
    height, width = shape
    rows, columns = max(1, round(height / cell[0])), max(1, round(width / cell[1]))
    salt = draws.content(rows * columns).translate(speck_table(round(256 * density), peak))
    evenness = max(1 - uniformity, 1e-3)
    gate = 1 - (1 - draws.uniform(shape=(8, 8))) ** (1 / evenness)  # Beta(1, evenness)
    gate = Image.fromarray(enlarge(np.rint(255 * gate).astype(np.uint8), rows, columns))
    noise = ImageChops.multiply(Image.frombytes("L", (columns, rows), salt), gate)
    return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))


def speck_table(count, peak):
    """The level of a cell for each random byte, bytes (256,): `count` are specks, the others 0."""
    places = [(number + 0.5) / count for number in range(count)]
    levels = [round(peak / 2 * (1 + math.cos(math.pi / 2 * place))) for place in places]
    return bytes(levels).ljust(256, b"\0")


# ---------------------------------------------------------------- motion blur
def line_kernel(length, angle, direction):
    """The motion blur of a point: {(down, right): weight}, whole weights with the sum 256.

    A line of `length` pixels about the point, `angle` degrees from straight down towards the
    right, with weights linear from (1 - direction) / 2 at the upper end to (1 + direction) / 2.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    shares = {}
    for step in range(length):
        along = step - (length - 1) / 2
        weight = (1 + 2 * direction * along / max(1, length - 1)) / 2
        top, left = math.floor(along * cos), math.floor(along * sin)
        down, right = along * cos - top, along * sin - left
        for row, by_row in ((top, 1 - down), (top + 1, down)):
            for column, by_column in ((left, 1 - right), (left + 1, right)):
                share = weight * by_row * by_column
                shares[row, column] = shares.get((row, column), 0.0) + share
    return whole_weights(shares, 256)


def whole_weights(shares, total):
    """Round {key: share} in proportion to whole numbers with a given sum, by largest remainders.

    Weights of 0 are left out.
    """
    scale = total / sum(shares.values())
    weights = {key: math.floor(scale * share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: weights[key] - scale * shares[key])
    for key in by_remainder[: total - sum(weights.values())]:
        weights[key] += 1
    return {key: weight for key, weight in weights.items() if weight}


def spread(plane, kernel):
    """Convolve uint8 (H, W) with a `line_kernel`: uint8 (H, W), the edges mirrored.

    Whole numbers throughout, so the result is the same on every machine.
    """
    height, width = plane.shape
    reach = max(max(abs(down), abs(right)) for down, right in kernel)
    padded = np.pad(plane, reach, mode="reflect").astype(np.uint16)
    out, part = np.full(plane.shape, 128, np.uint16), np.empty(plane.shape, np.uint16)
    for (down, right), weight in kernel.items():
        top, left = reach - down, reach - right
        shifted = padded[top : top + height, left : left + width]
        out += np.multiply(shifted, np.uint16(weight), out=part)  # at most 128 + 256 * 255
    return (out >> np.uint16(8)).astype(np.uint8)


def odd(length, least):
    """A length in pixels as an odd whole number, at least `least`, itself odd."""
    return max(least, int(length) | 1)


# ---------------------------------------------------------------- steps of a condition
# Each changes planes, float32 (3, H, W) from 0 to 255, in place.
def blend(planes, alpha, colour):
    """(1 - alpha) planes + alpha colour; alpha is (H, W), the colour too or a number."""
    part = np.empty_like(alpha)
    for plane in planes:
        np.subtract(colour, plane, out=part)
        part *= alpha
        plane += part


def add_fog(planes, draws):
    """Clouds between the camera and the ground."""
    height, width = planes.shape[1:]
    fine = cloud_noise(draws, height, width, 128)
    coarse = np.vectorize(NormalDist(0, 2).inv_cdf)(draws.uniform(2.0**-53, 1.0, (8, 8)))
    colour = 225 + enlarge(coarse.astype(np.float32), *fine.shape) + 225 * (2 * fine - 1) / 5
    alpha = (1 + 0.9 * cloud_noise(draws, height, width, 10)) ** 0.9 / 2
    lowest, highest = np.float32(0.5), np.float32(1.9**0.9 / 2)
    blend(
        planes,
        enlarge(alpha.astype(np.float32), height, width).clip(lowest, highest),
        np.minimum(enlarge(colour.astype(np.float32), height, width), np.float32(255)),
    )


def drawn_shape(shape):
    """(H, W) at which rain and snow are drawn: the image, or scaled down to PUBLISHED_SIDE."""
    scale = min(1.0, PUBLISHED_SIDE / max(shape))
    return tuple(max(1, round(scale * side)) for side in shape)


def add_rain(planes, draws, drop_size):
    """Streaks of rain; `drop_size` is the published pair of limits."""
    shape = drawn_shape(planes.shape[1:])
    layers = int(draws.uniform(1, 4))
    drops = np.zeros(shape, np.uint8)
    for _ in range(layers):
        cell = 1, 1 / (1 - draws.uniform(*drop_size))
        density, uniformity = draws.uniform(0.03, 0.14), draws.uniform(0.8, 1.0)
        layer = specks(draws, shape, density, uniformity, cell, peak=255 // layers)
        drops += np.minimum(layer, 255 - drops)  # bicubic edges go beyond the peak
    length = odd(draws.uniform(0.04, 0.06) * max(shape), 9)
    streaks = spread(drops, line_kernel(length, draws.uniform(-15, 15), 1.0))
    alpha = enlarge(streaks, *planes.shape[1:]) * np.float32(1.3 / (255 // layers))
    blend(planes, np.minimum(alpha, np.float32(1), out=alpha), np.float32(240))


def add_snow(planes, draws, flake_size):
    """Flakes of snow; `flake_size` is the published pair of limits."""
    shape = drawn_shape(planes.shape[1:])
    flakes = np.zeros(shape, np.uint8)
    for _ in range(int(draws.uniform(1, 4))):
        cell = max(1.5, max(shape) / PUBLISHED_SIDE / (1 - draws.uniform(*flake_size)))
        density, uniformity = draws.uniform(0.005, 0.075), draws.uniform(0.3, 0.9)
        flakes = np.maximum(flakes, specks(draws, shape, density, uniformity, (cell, cell)))
    speed, angle = draws.uniform(0.007, 0.03), draws.uniform(-30, 30)
    flakes = spread(flakes, line_kernel(odd(speed * max(shape), 1), angle, 1.0))
    alike = draws.uniform(0.4, 0.8)
    levels = 255 * (6 - 5 * alike) * (np.arange(256) / 255) ** (3 - 2 * alike)
    white = levels.astype(np.float32).take(enlarge(flakes, *planes.shape[1:]))
    glow, white = np.float32(0.1 + 20 * speed) * white, np.float32(1 + 20 * speed) * white
    for plane in planes:
        plane += glow
        np.maximum(plane, white, out=plane)
        np.minimum(plane, np.float32(255), out=plane)


def flatten_contrast(planes, draws):
    """The mean of the image 100 levels brighter (255 at most) and of the image times 1/5."""
    brighter = np.minimum(planes + np.float32(100), np.float32(255))
    planes *= np.float32(0.2)
    planes += brighter
    planes *= np.float32(0.5)


def change_brightness(planes, draws, factor, added):
    """The brightness of a colour space that is drawn is multiplied, and U(*added) is added to it.

    In an order that is drawn, held within 0 to 255 after each; the space's other two numbers stay.
    """
    space = COLOUR_SPACES[int(draws.uniform(0, len(COLOUR_SPACES)))]
    adds_first = draws.uniform() < 0.5
    amount = np.float32(draws.uniform(*added))

    def change(brightness):
        if adds_first:
            brightness = (brightness + amount).clip(0, 255)
        brightness = np.floor(brightness * np.float32(factor)).clip(0, 255)
        return brightness if adds_first else (brightness + amount).clip(0, 255)

    space(planes, change)
    np.clip(planes, 0, 255, out=planes)


def add_wind(planes, draws):
    """Motion blur of a shaken camera."""
    length = odd(15 * max(planes.shape[1:]) / PUBLISHED_SIDE, 7)
    kernel = line_kernel(length, draws.uniform(0, 360), draws.uniform(-1, 1))
    for plane in planes:
        plane[:] = spread(plane.astype(np.uint8), kernel)


def _rain(*drop_size):
    return partial(add_rain, drop_size=drop_size)


def _snow(*flake_size):
    return partial(add_snow, flake_size=flake_size)


STEPS = {
    "normal": (),
    "fog": (add_fog,),
    "rain": (*[_rain(0.05, 0.1)] * 2, *[_rain(0.1, 0.2)] * 2, _rain(0.05, 0.2)),
    "snow": (*[_snow(0.5, 0.8)] * 2, *[_snow(0.6, 0.9)] * 2, _snow(0.5, 0.9)),
    "dark": (flatten_contrast, partial(change_brightness, factor=0.2, added=(-30, -15))),
    "over_exposure": (partial(change_brightness, factor=1.6, added=(0, 30)),),
    "fog_rain": (add_fog, *[_rain(0.05, 0.2)] * 2),
    "fog_snow": (add_fog, *[_snow(0.5, 0.9)] * 2),
    "rain_snow": (
        _snow(0.5, 0.8),
        *(_rain(0.05, 0.1), _rain(0.1, 0.2), _rain(0.05, 0.2)),
        _snow(0.6, 0.9),
    ),
    "wind": (add_wind,),
}
# The ten, in the published order; a new one is a line at the end of STEPS.
CONDITIONS = tuple(STEPS)
