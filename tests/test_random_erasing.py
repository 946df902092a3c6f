"""Random erasing: how often, how much, and where."""

import pytest
import torch

from random_erasing import RandomErasing


def erased_masks(count, height=40, width=60, **options):
    torch.manual_seed(0)
    image = torch.ones(3, height, width)
    erase = RandomErasing(**options)
    masks = torch.stack([erase(image)[0] == 0 for _ in range(count)])  # (count, H, W)
    assert bool((image == 1).all()), "the input must stay as it is"
    return masks


def test_probability():
    assert erased_masks(50, probability=0.0).sum() == 0
    assert erased_masks(50, probability=1.0).any(dim=(1, 2)).all()
    share = erased_masks(1000, probability=0.3).any(dim=(1, 2)).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.05)
    with pytest.raises(ValueError, match="1.5"):
        RandomErasing(1.5)


def test_it_is_one_rectangle_of_the_asked_size_and_shape():
    masks = erased_masks(300, probability=1.0, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    for mask in masks:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        height, width = len(rows), len(columns)
        assert mask.sum() == height * width  # filled, no gaps
        assert 0.085 < height * width / mask.numel() < 0.215  # sides are rounded to pixels
        assert 0.42 < height / width < 2.4


def test_it_reaches_every_place_and_both_shapes():
    masks = erased_masks(2000, probability=1.0)
    assert masks.any(dim=0).all()
    tall = [m.any(1).sum() > m.any(0).sum() for m in masks]
    assert sum(tall) / len(tall) == pytest.approx(0.5, abs=0.06)


def test_the_value_fills_each_channel():
    torch.manual_seed(1)
    image = torch.zeros(3, 20, 20)
    out = RandomErasing(1.0, value=(1.0, 2.0, 3.0))(image)
    hit = out[0] != 0
    assert hit.any()
    assert [out[c][hit].unique().tolist() for c in range(3)] == [[1.0], [2.0], [3.0]]
