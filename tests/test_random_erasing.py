"""Random erasing: how often, how much, and where."""

import random

import numpy as np
import pytest

from random_erasing import IMAGENET_MEAN_COLOUR, random_erasing, random_rectangle


def erased_masks(count, probability=1.0, height=40, width=60, **limits):
    rng = random.Random(0)
    image = np.ones((height, width, 3), np.uint8)
    masks = [random_erasing(image, probability, rng, **limits)[..., 0] != 1 for _ in range(count)]
    assert (image == 1).all(), "the input must stay as it is"
    return np.stack(masks)  # (count, H, W)


def test_probability():
    assert erased_masks(50, probability=0.0).sum() == 0
    assert erased_masks(50, probability=1.0).any(axis=(1, 2)).all()
    share = erased_masks(1000, probability=0.3).any(axis=(1, 2)).mean()
    assert share == pytest.approx(0.3, abs=0.05)


def test_it_is_one_rectangle_of_the_asked_size_and_shape():
    masks = erased_masks(300, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    for mask in masks:
        height, width = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        assert mask.sum() == height * width  # filled, no gaps
        assert 0.085 < height * width / mask.size < 0.215  # sides are rounded to pixels
        assert 0.42 < height / width < 2.4


def test_it_reaches_every_place_and_is_mostly_tall():
    masks = erased_masks(2000, height=50, width=50)
    assert masks.any(axis=0).all()
    tall = [mask.any(axis=1).sum() > mask.any(axis=0).sum() for mask in masks]
    assert sum(tall) / len(tall) == pytest.approx(0.76, abs=0.04)  # as the published code


def test_the_ratio_is_uniform():
    """Zhong et al. 2020, algorithm 1: between 0.3 and 1 / 0.3, height to width."""
    rng = random.Random(2)
    boxes = [random_rectangle(2000, 2000, rng, scale=(0.05, 0.2)) for _ in range(4000)]
    ratios = np.sort([height / width for _, _, height, width in boxes])
    expected = np.linspace(0.3, 1 / 0.3, len(ratios))
    assert np.abs(ratios - expected).max() < 0.08


def test_the_area_is_uniform():
    """Zhong et al. 2020, algorithm 1: the share of the area is uniform between its limits."""
    rng = random.Random(1)
    boxes = [random_rectangle(400, 400, rng, scale=(0.1, 0.3), ratio=(0.8, 1.25))
             for _ in range(4000)]  # fmt: skip
    shares = np.sort([height * width / 400**2 for _, _, height, width in boxes])
    expected = np.linspace(0.1, 0.3, len(shares))
    assert np.abs(shares - expected).max() < 0.01  # Kolmogorov's distance, in shares of the area


def test_the_value_fills_each_channel():
    image = np.zeros((20, 20, 3), np.uint8)
    out = random_erasing(image, 1.0, random.Random(1))
    hit = out.any(axis=2)
    assert hit.any() and (out[hit] == IMAGENET_MEAN_COLOUR).all()


def test_what_cannot_fit_is_not_erased():
    image = np.zeros((4, 4, 3), np.uint8)
    assert random_erasing(image, 1.0, random.Random(0), scale=(2.0, 3.0)) is image
