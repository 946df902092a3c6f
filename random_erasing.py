"""Random erasing: a random rectangle of a training image is replaced by the mean colour."""

import math

import numpy as np

IMAGENET_MEAN_COLOUR = (124, 116, 104)  # the mean of ImageNet's normalisation in whole levels


def random_rectangle(height, width, rng, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3)):
    """A rectangle (top, left, height, width) inside an image of height x width pixels, or None.

    The share of the area is uniform in `scale`, the ratio of height to width uniform in `ratio`, so
    that three of four rectangles are taller than wide; None where none fits in a hundred tries.
    `rng` is a random.Random.
    Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020, algorithm 1.
    """
    for _ in range(100):
        area = height * width * rng.uniform(*scale)
        tallness = rng.uniform(*ratio)
        h, w = round(math.sqrt(area * tallness)), round(math.sqrt(area / tallness))
        if 0 < h < height and 0 < w < width:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return None


def random_erasing(image, probability, rng, value=IMAGENET_MEAN_COLOUR, **limits):
    """An image (H, W, 3) uint8 with one rectangle erased, in a copy, with the given probability.

    The rectangle is filled with `value`, one number per channel; `limits` are `scale` and `ratio`
    of `random_rectangle`. `rng` is a random.Random.
    """
    if rng.random() >= probability:
        return image
    rectangle = random_rectangle(*image.shape[:2], rng, **limits)
    if rectangle is None:
        return image
    top, left, height, width = rectangle
    erased = np.array(image)
    erased[top : top + height, left : left + width] = value
    return erased


if __name__ == "__main__":
    raise SystemExit("random_erasing.py is a library: run train.py --erasing_p 0.5")
