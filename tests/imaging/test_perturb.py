"""Changed queries: pixels by hand, and the ways of naming amounts."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from imaging.perturb import KINDS, Perturbation, parse_perturbations


def noise(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("kind", ["rotate", "scale", "shift", "pad"])
def test_size_and_neutral_amount(kind):
    image = noise()
    neutral = Perturbation(kind, 1 if kind == "scale" else 0).change(image, 30)
    assert np.array_equal(neutral, image)
    changed = Perturbation(kind, 0.5 if kind == "scale" else 7).change(image, 30)
    assert changed.shape == image.shape and changed.dtype == np.uint8
    assert not np.array_equal(changed, image)
    assert np.array_equal(image, noise())


def test_rotation_is_counter_clockwise_about_the_middle():
    image = noise(20, 20)
    for amount, turns in ((90, 1), (180, 2), (-90, 3)):
        out = Perturbation("rotate", amount).change(image, 20)
        assert np.array_equal(out, np.rot90(image, turns))
    corner = Perturbation("rotate", 45).change(np.full((20, 20, 3), 200, np.uint8), 20)
    assert corner[0, 0].tolist() == [0, 0, 0] and corner[10, 10].tolist() == [200, 200, 200]


def test_scale_is_about_the_middle():
    image = np.zeros((40, 40, 3), np.uint8)
    image[15:25, 15:25] = 255
    twice = Perturbation("scale", 2).change(image, 40)
    assert twice[11:29, 11:29].min() > 200 and twice[:8].max() == 0 and twice[:, 32:].max() == 0
    half = Perturbation("scale", 0.5).change(np.full((40, 40, 3), 99, np.uint8), 40)
    assert (half[10:30, 10:30] == 99).all() and half.sum() == 99 * 20 * 20 * 3


def test_shift_mirrors_and_pad_is_black():
    """Amounts are pixels of the input: with one half as wide as the image, two of it."""
    image = noise(4, 30)
    out = Perturbation("shift", 3).change(image, 15)
    assert np.array_equal(out[:, 6:], image[:, :24])
    assert np.array_equal(out[:, :6], image[:, 5::-1])
    black = Perturbation("pad", 3).change(image, 15)
    assert np.array_equal(black[:, 6:], image[:, :24]) and black[:, :6].max() == 0
    left = Perturbation("pad", -3).change(image, 15)
    assert np.array_equal(left[:, :24], image[:, 6:]) and left[:, 24:].max() == 0
    far = Perturbation("shift", 14).change(image, 15)  # mirrored again and again
    assert set(far.reshape(-1, 3)[:, 0]) == set(image[:, :2].reshape(-1, 3)[:, 0])
    most = Perturbation("shift", 14.99)
    most.check(15)
    assert most.change(image, 15).shape == image.shape
    for kind, amount in (("pad", 15), ("shift", -15), ("shift", 1e308)):
        with pytest.raises(ValueError, match="leaves nothing of 15 pixels"):
            Perturbation(kind, amount).check(15)


def test_choices():
    paths = [Path(f"0001/image-{n:02}.jpeg") for n in range(1, 55)]
    thirds = [Perturbation("distance", each).choose(paths) for each in ("long", "middle", "short")]
    assert thirds == [paths[:18], paths[18:36], paths[36:]]
    assert Perturbation("images", 1.0).choose(paths) == [paths[27]]
    assert Perturbation("images", 3.0).choose(paths) == [paths[9], paths[27], paths[45]]
    assert Perturbation("images", 54.0).choose(paths) == paths
    assert Perturbation("images", 99.0).choose(paths) == paths
    assert Perturbation("images", 2.0).choose([]) == []
    assert Perturbation("rotate", 9.0).choose(paths) == paths
    others = [Path("roof.jpeg"), Path("image-55.jpeg"), Path("image-00.jpeg")]
    for each in ("long", "middle", "short"):
        assert Perturbation("distance", each).choose(others) == []


def test_amounts():
    def labels(text):
        return [each.label for each in parse_perturbations(text)]

    assert labels("rotate=30") == ["rotate=30"]
    assert labels("shift=-5,5") == ["shift=-5", "shift=5"]
    assert labels("scale=0.5:1.5:0.1")[-1] == "scale=1.5" and len(labels("scale=.5:1.5:.1")) == 11
    assert labels("rotate=90:0:-45") == ["rotate=90", "rotate=45", "rotate=0"]
    assert labels("rotate=1000001") == ["rotate=1000001"]
    assert labels("distance=short,long") == ["distance=short", "distance=long"]


@pytest.mark.parametrize(
    "text",
    ["", "rotate", "rotate=", "turn=3", "rotate=a", "rotate=1,1", "rotate=0:9:0", "rotate=0:9:-1",
     "rotate=0:9", "rotate=nan", "rotate=0:inf:1", "rotate=0:999:1", "scale=0", "scale=-1",
     "scale=1.00000000000001,1.00000000000002",
     "images=0", "images=1.5", "distance=3", "distance=near"],
)  # fmt: skip
def test_wrong_amounts_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse_perturbations(text)
    kind = text.partition("=")[0]
    assert "rotate=30" in str(error.value) or KINDS[kind] in str(error.value)
