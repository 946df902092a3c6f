"""test.py and locate.py with --zero_shot: a pretrained backbone in place of a run."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW, fails, narrow_resnet
from PIL import Image

import locate
import model
import prepare
import test
import utils
import zero_shot
from evaluation.feature_file import load_features
from evaluation.map_folder import read_map
from extract import extract_features
from imaging import cache
from networks.inference import inference_copy

CPU = torch.device("cpu")
QUICK = ["--zero_shot", "--backbone", NARROW, "--weights", "narrow.pth", "--h", "32", "--w", "32",
         "--num_workers", "0", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def weights(workdir):
    """narrow.pth, random weights of the narrow ResNet; returns the state dict."""
    torch.manual_seed(0)
    state = narrow_resnet().state_dict()
    utils.save_tensors("narrow.pth", state)
    return state


def run_test(toy, *options):
    return test.main(["--test_dir", str(toy), *QUICK, *options])


def normalised(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def as_they_are(state, paths, turns=4):
    """Features before centring, by the network that the options stand for."""
    options = {"backbone": NARROW, "pool": "rings", "block": 4, "maps": (2, 3, "last")}
    network = model.build_model(1, **options, share=True, head="none", image_size=(32, 32))
    model.load_backbone(network, state, "")
    images = cache.open_view(paths, 32, 32)
    return extract_features(
        inference_copy(network.eval()), 1, paths, images, device=CPU, turns=turns
    )


def fill(folder, images):
    """Copy images into class folders, one each."""
    for number, image in enumerate(images):
        (folder / f"{number:04}").mkdir(parents=True)
        shutil.copy(image, folder / f"{number:04}" / image.name)


# ---------------------------------------------------------------- test.py
def test_few_images_have_no_mean(toy, weights, capsys):
    assert run_test(toy)["num_queries"] == 10
    out = capsys.readouterr().out
    assert "weights: narrow.pth, rings of maps 2,3,last at 32 x 32 pixels, nothing trained" in out
    assert "not centred: 7 gallery images are too few for a mean (10 are enough, or give" in out
    query, gallery = load_features("pytorch_result.mat")
    np.testing.assert_allclose(query.features, as_they_are(weights, query.paths), atol=1e-5)
    assert query.features.shape == (10, 4 * (16 + 32 + 64))

    run_test(toy, "--query", "satellite", "--gallery", "drone")
    out = capsys.readouterr().out
    assert "centred on the 14 gallery images, the 5 queries too: these are too few (10 are" in out
    query, gallery = load_features("pytorch_result.mat")
    raw = as_they_are(weights, gallery.paths)
    of_queries = as_they_are(weights, query.paths) - raw.mean(0)
    np.testing.assert_allclose(gallery.features, normalised(raw - raw.mean(0)), atol=1e-4)
    np.testing.assert_allclose(query.features, normalised(of_queries), atol=1e-4)
    assert not Path("model").exists()  # no run, no result.txt


def test_each_view_has_its_mean(toy, weights, workdir, capsys):
    """Enough images of both views; those of the street are not turned."""
    images = sorted((toy / "test" / "gallery_drone").glob("*/*"))
    for folder in ("query_drone", "gallery_street"):
        fill(workdir / "data" / "test" / folder, images[:10])
    run_test("data", "--gallery", "street")
    assert "centred on the 10 queries and 10 gallery images themselves" in capsys.readouterr().out
    for side, turns in zip(load_features("pytorch_result.mat"), (4, 1), strict=True):
        raw = as_they_are(weights, side.paths, turns)
        np.testing.assert_allclose(side.features, normalised(raw - raw.mean(0)), atol=1e-4)

    results = run_test("data", "--gallery", "street", "--perturb", "rotate=0,90")
    assert capsys.readouterr().out.count("10 gallery images themselves") == 2
    assert set(results) == {"rotate_0", "rotate_90"} and Path("perturb_rotate.png").exists()
    upright, turned = (load_features(f"pytorch_result_rotate_{a}.mat") for a in ("0", "90"))
    assert np.array_equal(upright[1].features, turned[1].features)
    # Averaged over four turns a query turned by 90 degrees is the same, but for the resizing.
    assert (upright[0].features * turned[0].features).sum(1).min() > 0.99


def test_center_on_the_images_of_a_folder(toy, weights, workdir, capsys):
    images = sorted(toy.glob("train/drone/*/*"))
    fill(workdir / "other" / "train" / "drone", images[:12])
    fill(workdir / "other" / "test" / "gallery_satellite", images[2:13])
    run_test(toy, "--center_on", "other")
    out = capsys.readouterr().out
    assert out.count("centred on") == 1
    assert "centred on 12 drone and 11 satellite images of other\n" in out
    with pytest.raises(SystemExit):  # there is no such view in that folder
        run_test(toy, "--center_on", "other", "--all")
    assert "--center_on other has no street images: expected" in capsys.readouterr().err
    query, gallery = load_features("pytorch_result.mat")
    for side, part in ((query, images[:12]), (gallery, images[2:13])):
        raw = as_they_are(weights, side.paths) - as_they_are(weights, part).mean(0)
        np.testing.assert_allclose(side.features, normalised(raw), atol=1e-4)
    argv = ["--test_dir", toy, *QUICK, "--center_on", toy]
    fails(test.main, argv, capsys, "satellite holds 8 images, too few")


REFUSED = [
    (["--weights", "narrow.pth"], "--weights goes with --zero_shot"),
    (["--maps", "2,last"], "--maps goes with --zero_shot"),
    (["--center_on", "data"], "--center_on goes with --zero_shot"),
    (["--zero_shot", "--name", "small"], "--name is of a run, and --zero_shot has none"),
    (["--zero_shot", "--which_epoch", "9"], "--which_epoch is of a run"),
    ([*QUICK, "--weights", "gone.pth"], "gone.pth not found"),
    ([*QUICK, "--backbone", "resnet9"], "backbone 'resnet9' is unknown"),
    (["--zero_shot", "--backbone", "nosuch"], "backbone 'nosuch' is unknown: expected resnet18"),
    ([*QUICK, "--pool", "avg", "--block", "3"], "--block is the number of rings of --pool rings"),
    ([*QUICK, "--h", "16", "--w", "16"], "16 is too small: at least 32, in pixels"),
    ([*QUICK, "--weights", "damaged.pth"], "damaged.pth holds NaN or infinity in 1 of"),
    ([*QUICK, "--weights", "."], ". is a folder: expected a file written by torch.save"),
    ([*QUICK, "--center_on", ""], "argument --center_on: nothing is given"),
    ([*QUICK, "--pool", "cls"], "pool cls is made of the class token"),
    ([*QUICK, "--maps", "7"], "--maps 7"),
    ([*QUICK, "--center_on", "gone"], "--center_on gone is no folder: give a data folder"),
    ([*QUICK, "--h", "64", "--turns", "4"], "--turns 4 turns images"),
]


@pytest.mark.parametrize(("options", "expected"), REFUSED)
def test_mistakes_are_one_line(toy, weights, capsys, options, expected):
    weights["conv1.weight"][0] = math.nan
    utils.save_tensors("damaged.pth", weights)
    fails(test.main, ["--test_dir", toy, *options], capsys, expected)


def test_views_are_of_a_run(workdir, capsys):
    fails(test.main, [*QUICK, "--views", "3"], capsys, "--views is of a run")
    fails(locate.main, ["x.jpg", "--map", "map", "--pool", "gem"], capsys, "--pool goes with")


def test_maps_of_a_transformer_are_not_of_all_sizes():
    assert zero_shot._usual_maps(NARROW, (32, 32)) == [2, 3, "last"]
    pytest.importorskip("timm")
    assert zero_shot._usual_maps("timm:test_vit", (32, 32)) == ["last"]
    assert zero_shot._usual_maps("timm:test_resnet", (32, 32)) == [2, 3, "last"]


# ---------------------------------------------------------------- locate.py
@pytest.fixture
def area(weights, workdir):
    """A map folder `map` of noise with 12 tiles or more, and a tile as `photo.png`."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((400, 400), Image.Resampling.BICUBIC).save("map.png")
    corners = "-33.85,151.20;-33.85,151.206;-33.8545,151.206;-33.8545,151.20"
    prepare.main(["tiles", "map.png", "--corners", corners, "--metres", "200", "--pixels", "64",
                  "--out", "map"])  # fmt: skip
    table = read_map("map")
    shutil.copy(table.paths[3], "photo.png")
    return table


def run_locate(*options):
    return locate.main([*map(str, options), *QUICK, "--map", "map"])


def test_photos_on_a_map(area, weights, workdir, capsys):
    """One photo is centred on the map's mean; ten on their mean; the map's features are kept."""
    tiles = len(area.paths)
    found = run_locate("photo.png")["photos"][0]
    assert found["tile"] == str(area.paths[3]) and found["score"] == pytest.approx(1, abs=1e-4)
    out = capsys.readouterr().out
    assert f"centred on the {tiles} tiles, the 1 photos too: these are too few" in out
    (kept,) = Path("map/features").glob("*.npy")
    stored, raw = np.load(kept), as_they_are(weights, area.paths)
    assert stored.shape == (tiles + 1, raw.shape[1])
    np.testing.assert_allclose(stored[-1], raw.mean(0), atol=1e-5)
    np.testing.assert_allclose(stored[:-1], normalised(raw - raw.mean(0)), atol=1e-4)

    kept_at = kept.stat().st_mtime_ns
    (workdir / "photos").mkdir()
    for row in range(10):
        shutil.copy(area.paths[row], f"photos/{row}.png")
    rows = run_locate("photos", "--turns", 2)["photos"]
    assert f"centred on the 10 photos and {tiles} tiles themselves" in capsys.readouterr().out
    assert [Path(row["tile"]) for row in rows] == area.paths[:10]
    assert kept.stat().st_mtime_ns == kept_at and len(list(Path("map/features").glob("*.npy"))) == 1
    again = run_locate("photo.png")["photos"][0]
    assert again == found

    run_locate("photo.png", "--block", 2)  # another network, other features
    run_locate("photo.png", "--pool", "gem")
    torch.manual_seed(1)
    utils.save_tensors("narrow.pth", narrow_resnet().state_dict())
    run_locate("photo.png")
    assert len(list(Path("map/features").glob("*.npy"))) == 4


def test_a_map_centred_on_a_folder(area, workdir, toy, capsys):
    fill(workdir / "other" / "train" / "drone", sorted(toy.glob("train/drone/*/*"))[:10])
    fill(workdir / "other" / "train" / "satellite", area.paths[:10])
    run_locate("photo.png")
    run_locate("photo.png", "--center_on", "other")
    assert "centred on 10 drone and 10 satellite images of other" in capsys.readouterr().out
    assert len(list(Path("map/features").glob("*.npy"))) == 2
    (workdir / "few").mkdir()
    for row in range(5):
        shutil.copy(area.paths[row], f"few/{row}.png")
    found = locate.main(["photo.png", *QUICK, "--map", "few"])["photos"][0]
    assert "not centred: 5 tiles are too few for a mean" in capsys.readouterr().out
    assert Path(found["tile"]).name == "3.png"
