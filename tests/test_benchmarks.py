"""The measured comparisons run and measure what they say."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import fails
from PIL import Image

from features import Features, save_features

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import toy_difficulty  # noqa: E402


def test_colour_histogram_counts_colours(tmp_path):
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, 0] = (255, 0, 0)  # one red pixel, seven black ones
    Image.fromarray(pixels).save(tmp_path / "a.png")
    histogram = toy_difficulty.colour_histogram(tmp_path / "a.png", bins=4)
    assert histogram.shape == (64,) and np.linalg.norm(histogram) == pytest.approx(1)
    assert histogram[0] / histogram[3 * 16] == pytest.approx(7)


def test_histograms_find_images_of_the_same_colour(tmp_path, workdir, capsys):
    paths = []
    for number, colour in enumerate([(200, 0, 0), (0, 200, 0), (0, 0, 200)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (8, 8), colour).save(paths[-1])
    labels = np.arange(3)
    features = np.eye(3, dtype=np.float32)
    gallery = Features(features, labels, paths)
    save_features("f.mat", Features(features[[1, 0, 2]], labels, paths), gallery)
    result = toy_difficulty.main(["f.mat"])
    assert result["histogram"] == 100.0 and result["trained"] == pytest.approx(100 / 3)
    assert result["ratio"] == pytest.approx(3)
    assert "histogram 16^3" in capsys.readouterr().out
    fails(toy_difficulty.main, ["absent.mat"], capsys, "absent.mat not found")
