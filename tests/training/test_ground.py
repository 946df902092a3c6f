"""The ground that images show, from coordinates.csv to the batches."""

import numpy as np
import pytest
import torch

import dataset
from imaging.augmentation import Augmentation
from losses import ground_overlap
from training.ground import read_ground

SAMPLES = {
    "satellite": [("d/train/satellite/1/a.jpg", 0), ("d/train/satellite/2/b.jpg", 1)],
    "drone": [("d/train/drone/1/x.jpg", 0)],
}
METRE = 1 / (np.pi / 180 * 6_378_137)  # degrees of longitude at the equator


def write(folder, header, *rows):
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (folder / "coordinates.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("latitude, longitude", [(0, 10), (48, 11.5), (-60, 180 - 20 * METRE)])
def test_squares_of_degrees(workdir, latitude, longitude):
    """50 m to the east, across the 180th meridian in one case, of 100: a third is shared."""
    east = longitude + 50 * METRE / np.cos(np.radians(latitude))
    east = (east + 180) % 360 - 180
    rows = ("1", longitude, 100), ("satellite/2/b.jpg", east, 100), ("drone/1/x.jpg", longitude, 50)
    rows = [(name, latitude, *more) for name, *more in rows]
    write(workdir, "name,latitude,longitude,metres", *rows)
    ground = read_ground(workdir, SAMPLES)
    assert ground["satellite"].dtype == torch.float32 and ground["drone"].shape == (1, 3)
    shared = ground_overlap(ground["drone"], ground["satellite"])
    assert shared.tolist() == [pytest.approx([1 / 4, 25 * 50 / 11250], abs=1e-4)]
    shared = ground_overlap(ground["satellite"], ground["satellite"])
    assert shared[0].tolist() == pytest.approx([1, 1 / 3], abs=1e-4)


def test_squares_of_metres(workdir):
    write(workdir, "name,x,y,metres", ("1", 5e6, 4e6, 100), ("2", 5e6 + 50, 4e6 - 50, 100))
    ground = read_ground(workdir / "train", SAMPLES)
    shared = ground_overlap(ground["drone"], ground["satellite"])
    assert shared.tolist() == [pytest.approx([1, 1 / 7])]


def test_what_is_missing_is_said(workdir):
    with pytest.raises(FileNotFoundError, match="overlap loss needs the places"):
        read_ground(workdir, SAMPLES)
    write(workdir, "name,latitude,longitude", (1, 2, 3))
    with pytest.raises(ValueError, match="expected name,latitude,longitude,metres"):
        read_ground(workdir, SAMPLES)
    write(workdir, "name,latitude,longitude,metres", (1, 2, 3, 100))
    with pytest.raises(ValueError, match="no place for 1 of 2 images, first d/train/satellite/2/b"):
        read_ground(workdir, SAMPLES)
    write(workdir, "name,latitude,longitude,metres", (1, 2, 3, 100), (2, 2, 3, 0))
    with pytest.raises(ValueError, match="metres of 0: a side is above 0"):
        read_ground(workdir, SAMPLES)


def test_batches_carry_the_ground_of_their_images():
    images = {name: np.zeros((8, 8, 3), np.uint8) for name in "abc"}
    samples = {"satellite": [("a", 0), ("b", 1), ("c", 2)]}
    ground = {"satellite": torch.arange(9.0).view(3, 3)}
    views = dataset.TrainingViews(
        samples, {"satellite": images}, {"satellite": Augmentation(8, 8, pad=0)}, ground
    )
    _, labels, more = views[[dataset.Draw("satellite", index, 5) for index in (2, 0)]]["satellite"]
    assert labels.tolist() == [2, 0] and more["ground"].tolist() == [[6, 7, 8], [0, 1, 2]]
