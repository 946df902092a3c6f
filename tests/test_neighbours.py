"""Hard negatives: near neighbours against brute force, and the batches they fill."""

import math

import numpy as np
import pytest
import torch
from conftest import SMALL, fails

import dataset
import neighbours
import train


def unit_rows(count, seed):
    rows = np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [3, 256])
def test_alike_is_the_mutual_similarity(monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    one, other = unit_rows(10, 0), unit_rows(10, 1)
    found = neighbours.alike(one, other, 4)
    assert found.shape == (10, 4) and found.dtype == np.int64
    for a in range(10):
        scores = {b: float(one[a] @ other[b] + one[b] @ other[a]) for b in range(10) if b != a}
        assert found[a].tolist() == sorted(scores, key=lambda b: -scores[b])[:4]
    assert neighbours.alike(one, other, 50).shape == (10, 9)


def test_close_by_is_the_distance_on_the_sphere():
    """By vectors; at 60 degrees north one degree of longitude is half one of latitude."""
    rng = np.random.default_rng(2)
    places = np.column_stack([60 + rng.uniform(-0.01, 0.01, 9), 10 + rng.uniform(-0.01, 0.01, 9)])
    vectors = [
        (math.cos(a) * math.cos(b), math.cos(a) * math.sin(b), math.sin(a))
        for a, b in np.radians(places)
    ]
    found = neighbours.close_by(places, False, 3)
    for a in range(9):
        distance = {b: math.dist(vectors[a], vectors[b]) for b in range(9) if b != a}
        assert found[a].tolist() == sorted(distance, key=distance.get)[:3]
    # In degrees taken for a plane, the order would be another one for some.
    assert not np.array_equal(found, neighbours.close_by(places, True, 3))


def test_equal_places_keep_their_order_and_leave_the_building_out():
    assert neighbours.close_by(np.zeros((4, 2)), True, 3).tolist() == [
        [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]  # fmt: skip


def test_places_of_the_buildings(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="coordinates.csv not found.*similarity"):
        neighbours.read_places(tmp_path / "train", ["0001"])
    table = tmp_path / "coordinates.csv"
    table.write_text("building,latitude,longitude\n0002,3.5,-4\n0001,1,2\n")
    for folder in (tmp_path, tmp_path / "train"):
        places, planar = neighbours.read_places(folder, ["0001", "0002"])
        assert places.tolist() == [[1, 2], [3.5, -4]] and not planar
    with pytest.raises(ValueError, match="1 of 2 buildings, first 0003"):
        neighbours.read_places(tmp_path, ["0001", "0003"])


def test_batches_hold_close_buildings():
    """Those of a batch are distinct and near, and each building is in one batch of an epoch."""
    places = np.random.default_rng(3).uniform(0, 0.01, (64, 2))
    samples = {view: [(f"{n}", n) for n in range(64)] for view in ("satellite", "drone")}
    sampler = dataset.PairedSampler(samples, 16)

    def mean_distance():
        batches = [sorted({d.index for d in draws}) for draws in sampler]
        assert sorted(sum(batches, [])) == list(range(64)) and set(map(len, batches)) == {16}
        pairs = [(a, b) for batch in batches for a in batch for b in batch if a < b]
        return np.mean([np.hypot(*(places[a] - places[b])) for a, b in pairs])

    plain = mean_distance()
    sampler.neighbours = torch.from_numpy(neighbours.close_by(places, False, 16))
    assert mean_distance() < 0.9 * plain


def test_a_run_by_coordinates_draws_by_them(toy, workdir, monkeypatch):
    found = []
    original = train.train_one_epoch

    def spy(training, data, epoch, lr_factor):
        found.append(data.sampler.neighbours)
        return original(training, data, epoch, lr_factor)

    monkeypatch.setattr(train, "train_one_epoch", spy)
    options = ["--data_dir", str(toy), *SMALL, "--train_all", "--epochs", "2"]
    train.main([*options, "--hard_negatives", "coordinates"])
    names = sorted(path.name for path in (toy / "train" / "satellite").iterdir())
    expected = neighbours.close_by(*neighbours.read_places(toy, names), 4)
    assert [each.tolist() for each in found] == [expected.tolist()] * 2


def test_similarity_is_looked_up_when_it_is_due(toy, workdir, monkeypatch):
    looks = []
    original = train.building_features

    def spy(training, data, opts, epoch):
        looks.append(epoch)
        one, other = original(training, data, opts, epoch)
        assert one.shape == other.shape == (8, 512)
        assert np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
        return one, other

    monkeypatch.setattr(train, "building_features", spy)
    options = ["--data_dir", str(toy), *SMALL, "--train_all", "--epochs", "5"]
    train.main([*options, "--hard_negatives", "similarity", "--hard_negatives_every", "2"])
    assert looks == [2, 4]


def test_missing_coordinates_are_one_line(toy, workdir, capsys):
    import shutil

    bare = workdir / "bare"
    shutil.copytree(toy / "train", bare / "train")
    argv = ["--data_dir", bare, *SMALL, "--train_all", "--hard_negatives", "both"]
    fails(train.main, argv, capsys, "coordinates.csv not found", "--hard_negatives similarity")
