"""--turns: how many right-angle turns of an image, view by view."""

import argparse
import random

import numpy as np
import pytest
import torch

from extract import copies_of
from imaging.augmentation import Augmentation
from imaging.turns import turns_by_view, turns_in_test, turns_of


def test_what_is_written():
    assert turns_by_view("4") == 4
    assert turns_by_view("satellite=4, drone=2") == {"satellite": 4, "drone": 2}
    for text in ("3", "0", "", "drone", "drone=3", "plane=4", "drone=1,drone=2", "4,drone=1"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not 1, 2 or 4, nor a list"):
            turns_by_view(text)


def test_of_a_view():
    assert [turns_of(4, "drone"), turns_of(None, "drone")] == [4, 1]
    assert [turns_of({"satellite": 4}, view) for view in ("satellite", "drone")] == [4, 1]


def test_of_a_run():
    views = ("satellite", "drone")
    assert turns_in_test(None, views, 32, 48) == {"satellite": 1, "drone": 1}
    assert turns_in_test(2, views, 32, 48) == {"satellite": 2, "drone": 2}
    assert turns_in_test({"drone": 4}, views, 32, 32) == {"satellite": 1, "drone": 4}
    for turns in (3, "4", {"drone": 8}, [4]):
        with pytest.raises(ValueError, match="opts.yaml has turns"):
            turns_in_test(turns, views, 32, 32)
    with pytest.raises(ValueError, match="names street, and the run has satellite, drone"):
        turns_in_test({"street": 4}, views, 32, 32)
    with pytest.raises(ValueError, match="32 x 48 pixels are not square"):
        turns_in_test({"drone": 4}, views, 32, 48)


@pytest.mark.parametrize("turns", [1, 2, 4])
def test_a_drawn_copy_is_one_of_those_that_are_averaged(turns):
    """The same pixels, and number 2 * turn + mirrored in the order of `copies_of`."""
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    pairs = copies_of(torch.from_numpy(image).permute(2, 0, 1)[None], turns)
    copies = [each[0].permute(1, 2, 0).numpy() for pair in pairs for each in pair]
    assert len({copy.tobytes() for copy in copies}) == 2 * turns
    augmentation = Augmentation(6, 6, pad=0, turns=turns)
    assert augmentation.fixed
    seen = set()
    for seed in range(60):
        mirrored = (None, True, False)[seed % 3]
        turn, heads = augmentation.copy_of(random.Random(seed), mirrored)
        assert mirrored in (None, heads)
        found = augmentation.rearrange(image, random.Random(seed), mirrored)
        np.testing.assert_array_equal(found, copies[2 * turn + heads])
        seen.add(2 * turn + heads)
    assert seen == set(range(2 * turns))
