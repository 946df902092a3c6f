"""Changed queries, to test robustness: turned, scaled, shifted, from other distances, or fewer.

    turned, more = parse_perturbations("rotate=30,60")
    turned.change(image, input_width=256)  # uint8 (H, W, 3) -> the same shape
    turned.choose(paths)                   # the query images of a building that are used

Pixels from outside the image are black, as in published tests that pad; `shift` mirrors instead.
"""

import argparse
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

KINDS = {  # {name: what its amount is}
    "rotate": "degrees counter-clockwise about the middle",
    "scale": "times larger about the middle; below 1 with a black frame",
    "shift": "pixels of the network's input to the right, filled with the mirror image",
    "pad": "the same, filled with black",
    "distance": "long, middle or short: the drone's first, second or last third of its way down",
    "images": "of each building, spread evenly over those there are",
}
# Frames of a University-1652 building, from 256 m (frame 1) down to 121.5 m (frame 54).
DISTANCES = {
    "long": range(1, 19),
    "middle": range(19, 37),
    "short": range(37, 55),
}
MOST_AMOUNTS = 200  # of a range


class Perturbation(NamedTuple):
    """One change of the queries."""

    kind: str  # one of KINDS
    amount: float | str  # a name for "distance", else a number

    @property
    def label(self):
        """`rotate=30`, as it was given."""
        amount = self.amount
        return f"{self.kind}={amount if isinstance(amount, str) else format(amount, '.12g')}"

    def check(self, input_width):
        """Raise ValueError for a shift that leaves nothing of an image."""
        if self.kind in ("shift", "pad") and abs(self.amount) >= input_width:
            raise ValueError(f"--perturb {self.label} leaves nothing of {input_width} pixels")

    def change(self, image, input_width):
        """The changed image: uint8 (H, W, 3) -> uint8 (H, W, 3), at its own size.

        Shifts are counted in pixels of the network's input, which is `input_width` wide; `check`
        refuses those that leave nothing.
        """
        height, width, _ = image.shape
        if self.kind == "rotate":
            turned = Image.fromarray(image).rotate(self.amount, Image.Resampling.BICUBIC)
            return np.array(turned)
        if self.kind == "scale":
            return _scaled(image, self.amount)
        if self.kind in ("shift", "pad"):
            pixels = min(max(round(self.amount * width / input_width), 1 - width), width - 1)
            return _shifted(image, pixels, mirrored=self.kind == "shift")
        return image

    def choose(self, paths):
        """The images of a building that are used: its list of paths, or a part of it.

        An image whose name does not end in the number of a frame belongs to no distance.
        """
        if self.kind == "distance":
            return [path for path in paths if frame_number(path) in DISTANCES[self.amount]]
        if self.kind == "images":
            # The middles of equal parts, so that one image alone is not from an end of the way.
            count = min(int(self.amount), len(paths))
            return [paths[int((n + 0.5) * len(paths) / count)] for n in range(count)]
        return paths


def _scaled(image, factor):
    """Enlarged or shrunk about the middle, same size."""
    height, width, _ = image.shape
    whole = Image.fromarray(image)
    if factor >= 1:
        left, top = (side * (1 - 1 / factor) / 2 for side in (width, height))
        box = (left, top, width - left, height - top)
        return np.array(whole.resize((width, height), Image.Resampling.BICUBIC, box))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    out = Image.new("RGB", (width, height))
    out.paste(
        whole.resize(size, Image.Resampling.BICUBIC),
        ((width - size[0]) // 2, (height - size[1]) // 2),
    )
    return np.array(out)


def _shifted(image, pixels, mirrored):
    """Moved to the right by a positive number of pixels, to the left by a negative one."""
    if pixels < 0:
        return np.ascontiguousarray(_shifted(image[:, ::-1], -pixels, mirrored)[:, ::-1])
    kept = image[:, : image.shape[1] - pixels]
    return np.pad(kept, ((0, 0), (pixels, 0), (0, 0)), "symmetric" if mirrored else "constant")


def frame_number(path):
    """Frame number of a drone image: the digits at the end of its file's stem, None without any."""
    digits = re.search(r"\d+$", path.stem)
    return int(digits.group()) if digits else None


def parse_perturbations(text):
    """argparse type: `rotate=30`, `rotate=0,30,60`, `rotate=0:180:30` (the end included).

    Returns a tuple of `Perturbation`s of one kind.
    """
    kind, _, amounts = text.partition("=")
    if kind not in KINDS or not amounts:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not KIND=AMOUNT, such as rotate=30 or rotate=0:180:30, with a kind of "
            + ", ".join(KINDS)
        )
    try:
        values = _named(amounts) if kind == "distance" else _numbers(amounts)
        found = tuple(Perturbation(kind, value) for value in values)
        if not found or len({each.label for each in found}) < len(found):
            raise ValueError
        if kind == "scale" and not all(0.05 <= value <= 20 for value in values):
            raise ValueError
        if kind == "images" and not all(value >= 1 and value == int(value) for value in values):
            raise ValueError
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{amounts!r} in {text!r}: expected different amounts ({KINDS[kind]}), such as "
            + {"distance": "long,short", "scale": "0.5,1,2", "images": "1,3"}.get(kind, "0:90:10")
        ) from None
    return found


def _named(amounts):
    names = [part.strip() for part in amounts.split(",")]
    if not set(names) <= set(DISTANCES):
        raise ValueError
    return names


def _numbers(amounts):
    if ":" not in amounts:
        values = [float(part) for part in amounts.split(",")]
    else:
        start, end, step = (float(part) for part in amounts.split(":"))
        # In whole steps, so that 0.1 added up does not miss the end.
        count = int((end - start) / step + 1e-9) + 1 if step else 0
        if not 1 <= count <= MOST_AMOUNTS:
            raise ValueError
        values = [round(start + n * step, 9) for n in range(count)]
    if not np.isfinite(values).all():
        raise ValueError
    return values
