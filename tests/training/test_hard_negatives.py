"""Hard negatives: near neighbours against brute force, and the batches they fill."""

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, fails
from PIL import Image

import dataset
import train
from imaging.pixels import read_image
from training import build, engine, hard_negatives, samplers


def unit_rows(count, seed):
    rows = np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [3, 256])
def test_alike_is_the_mutual_similarity(monkeypatch, block):
    monkeypatch.setattr(hard_negatives, "BLOCK", block)
    one, other = unit_rows(10, 0), unit_rows(10, 1)
    found = hard_negatives.alike(one, other, 4)
    assert found.shape == (10, 4) and found.dtype == np.int64
    for a in range(10):
        scores = {b: float(one[a] @ other[b] + one[b] @ other[a]) for b in range(10) if b != a}
        assert found[a].tolist() == sorted(scores, key=lambda b: -scores[b])[:4]
    assert hard_negatives.alike(one, other, 50).shape == (10, 9)


@pytest.mark.parametrize("longitude", [10, 180])
def test_close_by_is_the_distance_on_the_sphere(longitude):
    """By vectors; at 60 degrees north one degree of longitude is half one of latitude."""
    rng = np.random.default_rng(2)
    places = np.array([60, longitude]) + rng.uniform(-0.01, 0.01, (9, 2))
    places[:, 1] -= 360 * (places[:, 1] > 180)
    vectors = [
        (math.cos(a) * math.cos(b), math.cos(a) * math.sin(b), math.sin(a))
        for a, b in np.radians(places)
    ]
    found = hard_negatives.close_by(places, False, 3)
    for a in range(9):
        distance = {b: math.dist(vectors[a], vectors[b]) for b in range(9) if b != a}
        assert found[a].tolist() == sorted(distance, key=distance.get)[:3]
    # In degrees taken for a plane, the order would be another one for some.
    assert not np.array_equal(found, hard_negatives.close_by(places, True, 3))


def test_equal_places_keep_their_order_and_leave_the_building_out():
    assert hard_negatives.close_by(np.zeros((4, 2)), True, 3).tolist() == [
        [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]  # fmt: skip


def test_places_of_the_buildings(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="coordinates.csv not found.*similarity"):
        hard_negatives.read_places(tmp_path / "train", ["0001"])
    table = tmp_path / "coordinates.csv"
    table.write_text("building,latitude,longitude\n0002,3.5,-4\n0001,1,2\n")
    for folder in (tmp_path, tmp_path / "train"):
        places, planar = hard_negatives.read_places(folder, ["0001", "0002"])
        assert places.tolist() == [[1, 2], [3.5, -4]] and not planar
    with pytest.raises(ValueError, match="1 of 2 buildings, first 0003"):
        hard_negatives.read_places(tmp_path, ["0001", "0003"])


def test_batches_hold_close_buildings():
    """Those of a batch are distinct and near, and each building is in one batch of an epoch."""
    places = np.random.default_rng(3).uniform(0, 0.01, (64, 2))
    samples = {view: [(f"{n}", n) for n in range(64)] for view in ("satellite", "drone")}
    sampler = samplers.PairedSampler(samples, 16)

    def mean_distance():
        batches = [sorted({d.index for d in draws}) for draws in sampler]
        assert sorted(sum(batches, [])) == list(range(64)) and set(map(len, batches)) == {16}
        pairs = [(a, b) for batch in batches for a in batch for b in batch if a < b]
        return np.mean([np.hypot(*(places[a] - places[b])) for a, b in pairs])

    plain = mean_distance()
    sampler.neighbours = torch.from_numpy(hard_negatives.close_by(places, False, 16))
    assert mean_distance() < 0.9 * plain


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    """64 buildings in eight towns and, in each of these, eight colours."""
    folder = tmp_path_factory.mktemp("towns")
    rng = np.random.default_rng(0)
    lines = ["building,latitude,longitude"]
    colours = list(itertools.product((40, 200), repeat=3))
    for number in range(64):
        for view in ("satellite", "drone"):
            path = folder / "train" / view / f"{number:04}" / "a.png"
            path.parent.mkdir(parents=True)
            noise = rng.integers(-20, 21, (32, 32, 3))
            Image.fromarray((colours[number % 8] + noise).astype(np.uint8)).save(path)
        lines.append(f"{number:04},{48 + number // 8 + rng.uniform(0, 0.01):.6f},11.5")
    (folder / "coordinates.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("none", "----"), ("coordinates", "tttt"), ("similarity", "--cc"), ("both", "ttcc")],
)
def test_a_run_draws_its_batches_by_them(towns, workdir, monkeypatch, kind, expected):
    """Of each epoch: whether buildings of one town (t) or of one colour (c) fill the batches.

    Of 8 buildings drawn from 64, two are of one town, or of one colour, with probability 7/63. A
    batch filled by these has 5 of one and 3 of another: 13 of 28 pairs, less what was left over.
    """
    batches = []

    def record(training, batch, sizes):
        batches.append(batch["satellite"][1].tolist())
        assert batches[-1] == batch["drone"][1].tolist()
        return {"instance": torch.tensor(1.0)}, {}

    monkeypatch.setattr(engine, "train_step", record)
    monkeypatch.setattr(train, "save_epoch", lambda *args: None)
    options = ["--data_dir", str(towns), *SMALL, "--share", "--batchsize", "8", "--train_all"]
    options += ["--epochs", "4", "--hard_negatives", kind]
    if kind in ("similarity", "both"):
        options += ["--hard_negatives_every", "2"]
    train.main(options)
    assert [len(batch) for batch in batches] == [8] * 32
    found = ""
    for epoch in range(4):
        drawn = batches[8 * epoch : 8 * epoch + 8]
        assert sorted(sum(drawn, [])) == list(range(64))
        pairs = [pair for batch in drawn for pair in itertools.combinations(batch, 2)]
        shares = {
            "t": np.mean([a // 8 == b // 8 for a, b in pairs]),
            "c": np.mean([a % 8 == b % 8 for a, b in pairs]),
        }
        assert all(not 0.17 < share < 0.23 for share in shares.values()), shares
        found += "".join(letter for letter, share in shares.items() if share > 0.2) or "-"
    assert found == expected


def test_features_of_buildings_are_those_of_their_images(towns, workdir, tmp_path_factory):
    """Of the image and its mirror image; of a building without a view, those of the other."""
    data = tmp_path_factory.mktemp("sparse") / "data"
    for view, missing in (("satellite", 3), ("drone", 5)):
        for number in set(range(6)) - {missing}:
            name = Path("train", view, f"{number:04}")
            shutil.copytree(towns / name, data / name)
    opts = train.parse_args(["--data_dir", str(data), *SMALL, "--train_all", "--batchsize", "3"])
    torch.manual_seed(0)
    training = build.build_training(opts, build.build_network(opts, 6), torch.device("cpu"), 6)
    training.network.train()
    found = hard_negatives.building_features(training, build.open_data(opts, False), opts, epoch=4)
    assert training.network.training
    network = training.network.eval()

    def feature(number, view):
        path = data / "train" / view / f"{number:04}" / "a.png"
        if not path.exists():
            return None
        pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None]
        image = dataset.to_network_input(pixels, "cpu")
        branch = {"satellite": 1, "drone": 2}[view]
        with torch.no_grad():
            total = sum(network.embed(x, branch) for x in (image, image.flip(3)))
        return total[0] / total.norm()

    for number in range(6):
        one, other = feature(number, "satellite"), feature(number, "drone")
        expected = (other if one is None else one), (one if other is None else other)
        for row, value in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(row[number]), value, atol=1e-5, rtol=0)


def test_missing_coordinates_are_one_line(toy, workdir, capsys):
    bare = workdir / "bare"
    shutil.copytree(toy / "train", bare / "train")
    argv = ["--data_dir", bare, *SMALL, "--train_all", "--hard_negatives", "both"]
    fails(train.main, argv, capsys, "coordinates.csv not found", "--hard_negatives similarity")
