"""Random changes of training images."""

import math
import random
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from imaging.cache import as_tensor, resize_bicubic
from imaging.pixels import read_image
from imaging.weather import CONDITIONS, apply_weather, choose_condition
from random_erasing import random_erasing


class Augmentation(NamedTuple):
    """The published training augmentation of a view.

    Resize, edge padding by `pad` pixels, random crop, horizontal flip; a satellite image has no
    up, so it is also turned by up to 90 degrees either way. Colour jitter, AutoAugment and random
    erasing apply to every view (the published code forgot the last two for satellites).

    Images that are turned together, as in Sample4Geo's code for panoramas, are told by how many
    `quarters`: the panorama is rolled by as many quarters of its width.

    Not published: with `zoom` Z an image is magnified by 1/Z to Z, as from another height; with
    `recolour` S each colour goes through a tone curve (`tone_curves`), as of another camera.

    An option of train.py with the name of a field fills it (training/build.py).
    """

    height: int  # pixels, of the result
    width: int
    no_flip: bool = False
    turned: bool = False
    rolled: bool = False  # by quarters, where other images are turned
    turns: int | None = None  # copies at right angles, of which one is drawn: 1, 2 or 4
    pad: int = 10
    color_jitter: bool = False
    DA: bool = False  # AutoAugment, the policy for ImageNet
    erasing_p: float = 0.0
    zoom: float = 1.0
    recolour: float = 0.0
    weather: tuple = ()  # of weather.CONDITIONS: one is drawn for each image, all equally likely

    @property
    def seeds_torch(self):
        """Whether torch's global generator is used, of which a process has one."""
        return self.color_jitter or self.DA

    @property
    def fixed(self):
        """Whether a result is one of `turns` right-angle turns of the image, mirrored or not."""
        changes = (self.turned, self.pad, self.erasing_p, self.recolour, self.before_resize)
        return bool(self.turns) and self.zoom == 1 and not any(changes)

    def copy_of(self, rng, mirrored=None):
        """(number of the turn, whether mirrored) of the copy drawn by `rng`, a random.Random."""
        turn, heads = rng.randrange(self.turns), rng.random() < 0.5
        return turn, self._flips(heads, mirrored)

    @property
    def before_resize(self):
        """Whether an image is changed before it is resized, which no cache can hold."""
        return bool(self.seeds_torch or self.weather)

    def load(self, path, images, seed, mirrored=None, quarters=0):
        """The image of a file, changed as `seed` says: uint8 (height, width, 3), a new array.

        `images` is a `cache.ResizedImages` that holds the path; `mirrored` and `quarters` are those
        of `rearrange`.
        """
        if self.before_resize:
            whole = self.before_resizing(read_image(path), seed)
            image = resize_bicubic(whole, self.height, self.width)
        else:
            image = images[path]
        return self.rearrange(image, random.Random(seed), mirrored, quarters)

    def extra_labels(self, seeds):
        """What was drawn for the images of B seeds: with weather {"condition": (B,) int64}.

        A condition is 1 to 10, in the order of weather.CONDITIONS.
        """
        if not self.weather:
            return {}
        drawn = [choose_condition(self.weather, seed) for seed in seeds]
        return {"condition": torch.tensor([CONDITIONS.index(name) + 1 for name in drawn])}

    def before_resizing(self, image, seed):
        """What comes before the resize: uint8 (H, W, 3) -> the same shape."""
        if self.weather:
            image = apply_weather(image, choose_condition(self.weather, seed), seed)
        if not self.seeds_torch:
            return image
        steps = []
        if self.color_jitter:
            steps.append(v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0))
        if self.DA:
            steps.append(v2.AutoAugment(fill=128))  # as published: grey where nothing was
        # torchvision draws from torch's global generator, which belongs to dropout.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone
            return v2.Compose(steps)(as_tensor(image)).permute(1, 2, 0).numpy()

    def rearrange(self, image, rng, mirrored=None, quarters=0):
        """What comes after the resize: uint8 (height, width, 3) -> the same shape, a new array.

        `rng` is a random.Random; it decides about the flip unless `mirrored` does. Before all else
        the image is turned by `quarters` (see `turned_by_quarters`).
        """
        if quarters:
            image = turned_by_quarters(image, quarters, self.rolled)
        if self.turns:
            turn, mirrored = self.copy_of(rng, mirrored)
            image = np.rot90(image, turn * 4 // self.turns)
        angle = rng.uniform(-90, 90) if self.turned else None
        top, left = rng.randint(0, 2 * self.pad), rng.randint(0, 2 * self.pad)
        zoom = self.zoom ** rng.uniform(-1, 1) if self.zoom > 1 else 1.0
        moved = (
            edge_window(image, top - self.pad, left - self.pad, self.height, self.width)
            if angle is None and zoom == 1
            else turned_window(image, angle or 0.0, top, left, self.pad, zoom)
        )
        if self.recolour:
            curves = tone_curves(self.recolour, rng).ravel().tolist()
            moved = np.array(Image.fromarray(moved).point(curves))
        if self._flips(rng.random() < 0.5, mirrored):
            moved = torch.from_numpy(moved).flip(1).numpy()  # ten times NumPy's speed on 3 bytes
        return random_erasing(moved, self.erasing_p, rng)

    def _flips(self, heads, mirrored):
        """Whether an image is mirrored: by the toss of a coin, unless `mirrored` decides."""
        return not self.no_flip and (heads if mirrored is None else mirrored)


def turned_by_quarters(image, quarters, rolled=False):
    """An image (H, W, 3) turned by 90 degrees counter-clockwise so many times.

    A panorama is `rolled` instead, to the left by as many quarters of its width: what was to the
    right of a satellite image is then at its top, and what was east in the panorama, whose bearing
    grows to the right, is where north was.
    """
    if rolled:
        return np.roll(image, -(image.shape[1] * quarters // 4), axis=1)
    return np.rot90(image, quarters)


def edge_window(image, top, left, height, width):
    """A window of an image (H, W, 3) that may reach outside it, where the edges are repeated.

    Equal to padding with mode "edge" and cropping, but only the window is copied. Window and image
    must overlap.
    """
    first_row, first_column = max(0, -top), max(0, -left)
    seen = image[max(0, top) : top + height, max(0, left) : left + width]
    last_row, last_column = first_row + seen.shape[0], first_column + seen.shape[1]
    out = np.empty((height, width, 3), image.dtype)
    out[first_row:last_row, first_column:last_column] = seen
    out[first_row:last_row, :first_column] = seen[:, :1]
    out[first_row:last_row, last_column:] = seen[:, -1:]
    out[:first_row], out[last_row:] = out[first_row], out[last_row - 1]
    return out


def turned_window(image, angle, top, left, pad, zoom=1.0):
    """Pad the edges of an image (H, W, 3), turn and magnify it, and crop the window at (top, left).

    The turn is by `angle` degrees counter-clockwise about the middle of the padded image, with the
    nearest pixel, black outside: torchvision's RandomAffine on a Pillow image, of which only the
    window is computed. With a `zoom` pixels are interpolated.
    """
    height, width, _ = image.shape
    padded = edge_window(image, -pad, -pad, height + 2 * pad, width + 2 * pad)
    cos, sin = (f(math.radians(angle)) / zoom for f in (math.cos, math.sin))
    x0, y0 = width / 2 + pad, height / 2 + pad
    matrix = (  # from a pixel of the window to one of the padded image
        *(cos, -sin, x0 - cos * (x0 - left) + sin * (y0 - top)),
        *(sin, cos, y0 - sin * (x0 - left) - cos * (y0 - top)),
    )
    sampling = Image.Resampling.NEAREST if zoom == 1 else Image.Resampling.BILINEAR
    turned = Image.fromarray(padded).transform(
        (width, height), Image.Transform.AFFINE, matrix, sampling
    )
    return np.array(turned)


def tone_curves(strength, rng):
    """Random curves of the three colours, (3, 256) uint8: brightness, contrast, and a gamma each.

    y = (x^g - 1/2) k + 1/2 + b / 4 on 0..1, with b, log k and, separately for each colour, log g
    uniform in +-strength; `rng` is a random.Random.
    """
    brightness, contrast = rng.uniform(-strength, strength), rng.uniform(-strength, strength)
    gamma = np.exp([[rng.uniform(-strength, strength)] for _ in range(3)])  # (3, 1)
    levels = ((np.arange(256) / 255) ** gamma - 0.5) * math.exp(contrast) + 0.5 + brightness / 4
    return (255 * levels).round().clip(0, 255).astype(np.uint8)
