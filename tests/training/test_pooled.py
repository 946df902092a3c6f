"""Pooled features computed once: the means of --center, and training on them."""

from unittest import mock

import numpy as np
import pytest
import torch
from conftest import NARROW, SMALL, fails
from test_test import QUICK

import dataset
import model
import test
import train
import utils
from networks.heads import Centring
from training import build, pooled

CPU = torch.device("cpu")
POOLED = ["--freeze", "--turns", "satellite=4,drone=2", "--pad", "0"]


def weights(name):
    return utils.load_state_dict(utils.run_folder(name) / "net_last.pth")


def losses_of(name):
    skipped = ("seconds", "seconds_waiting", "val_recall@1", "val_AP")
    log = utils.load_tensors(utils.run_folder(name) / "train_state.pth")["log"]
    return [{k: v for k, v in entry.items() if k not in skipped} for entry in log]


@pytest.mark.parametrize(
    "options",
    [
        ["--center", "--head", "linear", "--embedding_dim", "24", "--maps", "2,3,last", "--pool",
         "gem", "--epoch_passes", "2", "--loss_weights", "instance=1,infonce=1", "--joint_flips",
         "--optimizer", "adamw", "--lr", "0.001", "--micro_batchsize", "2"],
        ["--views", "3", "--extra_Google", "--share", "--pool", "avg+rings", "--block", "2",
         "--center", "--whiten", "16", "--moving_avg", "0.9"],
        ["--head", "none", "--sampler", "independent"],
        ["--center", "--whiten", "12", "--head", "linear", "--droprate", "0"],
    ],
    ids=["linear", "block", "none", "whitened"],
)  # fmt: skip
def test_training_on_them_is_training_on_images(toy, workdir, monkeypatch, capsys, options):
    argv = [*SMALL, "--data_dir", str(toy), "--train_all", "--epochs", "2", *POOLED, *options]
    train.main([*argv, "--name", "once"])
    images, copies = (8, 8), (16, 4)
    count = sum(n * k for n, k in (images, copies))
    more = sum(2 * len(list((toy / "train" / view).glob("*/*"))) for view in ("street", "google"))
    count += more if "--views" in options else 0
    assert f"{count} pooled features, of images and their copies, in" in capsys.readouterr().out

    monkeypatch.setattr(build, "pools_once", lambda opts: False)
    train.main([*argv, "--name", "images"])
    assert ("pooled features" in capsys.readouterr().out) == ("--center" in options)
    for once, others in zip(losses_of("once"), losses_of("images"), strict=True):
        assert once == pytest.approx(others, abs=1e-4)
    others = weights("images")
    for key, value in weights("once").items():
        torch.testing.assert_close(value, others[key], atol=1e-4, rtol=1e-4)
    assert losses_of("once")[0]["loss"] != pytest.approx(losses_of("once")[1]["loss"], abs=1e-3)


def test_a_resumed_run_is_the_same(toy, workdir, capsys):
    argv = [*SMALL, "--data_dir", str(toy), *POOLED, "--center", "--head", "linear", "--step_size",
            "9", "--moving_avg", "0.9", "--maps", "3,last", "--epoch_passes", "2"]  # fmt: skip
    train.main([*argv, "--name", "whole", "--epochs", "2"])
    train.main([*argv, "--name", "halves", "--epochs", "1"])
    again = ["--name", "halves", "--resume", "--epochs", "2"]
    for options, message in [
        (["--turns", "4"], "--turns 4 differs from {'drone': 2, 'satellite': 4}"),
        (["--maps", "last"], "--maps ['last'] differs from [3, 'last']"),
        (["--no-center"], "--center False differs from True"),
    ]:
        fails(train.main, [*again, *options], capsys, message)
    train.main([*again, "--turns", "drone=2,satellite=4"])
    whole, halves = weights("whole"), weights("halves")
    assert whole["center.means"].shape == (2, 32 + 64)
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert losses_of("whole") == losses_of("halves")
    opts = utils.read_opts(utils.run_folder("halves"))
    assert opts["turns"] == {"satellite": 4, "drone": 2} and opts["maps"] == [3, "last"]
    first = test.main(["--name", "halves", "--test_dir", str(toy), *QUICK])
    other = test.main(
        ["--name", "whole", "--test_dir", str(toy), *QUICK, "--turns", "satellite=4,drone=2"]
    )
    assert first == other


def test_the_means_of_each_view(toy, workdir, capsys):
    """Over all images of the view and their copies, by the network as it begins; google's with
    those of the street, whose branch they share. A network that trains gets its images."""
    argv = [*SMALL, "--data_dir", str(toy), "--train_all", "--views", "3", "--extra_Google"]
    argv += ["--center", "--turns", "satellite=4", "--moving_avg", "0.9", "--pool", "gem"]
    opts = train.parse_args(argv)
    data = build.open_data(opts, False)
    utils.seed_everything(0)
    network = build.build_network(opts, 8)
    training = build.build_training(opts, network, CPU, 8)
    assert torch.equal(network.center.means, torch.zeros(3, 64))
    assert pooled.prepare(training, data, opts) is data
    assert training.to_input(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).min() < -1  # normalised

    rows = {1: [], 2: [], 3: []}
    network.eval()
    for view, number in (("satellite", 1), ("street", 2), ("google", 2), ("drone", 3)):
        for path, _ in data.samples[view]:
            image = data.images[view][path]
            for turn in range(4 if view == "satellite" else 1):
                for copy in (np.rot90(image, turn), np.rot90(image, turn)[:, ::-1]):
                    x = torch.from_numpy(copy.copy()).permute(2, 0, 1)[None]
                    x = dataset.to_network_input(x, CPU, network.input_spec)
                    with torch.no_grad():
                        rows[number].append(network.pool(x, number).numpy()[0])
    expected = np.stack([np.mean(rows[number], axis=0) for number in (1, 2, 3)])
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    np.testing.assert_allclose(network.center.means.numpy(), expected, atol=1e-5)
    assert torch.equal(network.center.means, training.average.module.center.means)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], True),
        (["--turns", "1"], True),
        (["--pad", "1"], False),
        (["--zoom", "1.1"], False),
        (["--recolour", "0.1"], False),
        (["--erasing_p", "0.1"], False),
        (["--weather", "fog"], False),
        (["--color_jitter"], False),
        (["--train_blocks", "1"], False),
        (["--no-freeze"], False),
        (["--LPN"], False),
    ],
)
def test_when_they_suffice(options, expected):
    opts = train.parse_args([*SMALL, *POOLED, *options])
    assert build.pools_once(opts) == expected


def test_without_turns_the_copies_are_not_told_apart():
    """Satellite images turned by any angle, or panoramas rolled with them."""
    turned = ["--freeze", "--pad", "0"]
    joint = [*turned, "--views", "satellite,street", "--joint_turns"]
    for options in (turned, [*turned, "--no_turn"], joint):
        assert not build.pools_once(train.parse_args([*SMALL, *options]))


def test_a_batch_without_images():
    """A process may have none where another has: what stands for it goes through the network."""
    for options, shape in ((POOLED, (0, 64)), ([], (0, 3, 32, 32))):
        opts = train.parse_args([*SMALL, *options, "--views", "3", "--head", "linear"])
        training = build.build_training(opts, build.build_network(opts, 5), CPU, 5)
        assert [x.shape for x in training.nothing.values()] == [shape] * 3
        parts = [training.to_input(x) for x in training.nothing.values()]
        assert [y.shape for y in training.forward(*parts)] == [(0, 5)] * 3
        assert training.forward(None, None, None) == (None, None, None)
    assert training.network.model_1.backbone == NARROW


def test_directions_beyond_those_of_few_images(capsys):
    center = Centring(1, 6, 5)
    pooled.set_center(center, {"drone": torch.randn(1, 4, 6)}, {"drone": 1})
    said = "--whiten 5: 4 features of 6 numbers have only 4 directions, the rest is 0\n"
    assert capsys.readouterr().out == said
    assert not center.directions[:, 4:].any() and center.directions[:, :3].any(0).all()


def test_damaged_weights_are_one_line(toy, workdir, capsys):
    """NaN in the singular values ended in a traceback."""
    settings = {"share": True, "backbone": NARROW, "center": True, "whiten": 8}
    network = model.build_model(8, **settings)
    network.model_1.model.conv1.weight.data[0] = float("nan")
    argv = [*SMALL, "--data_dir", toy, "--share", "--center", "--whiten", "8"]
    with mock.patch.object(model, "build_model", lambda *_, **options: network):
        fails(train.main, [*argv, "--name", "nan"], capsys, "features hold NaN or infinity")


def test_directions_of_another_run_stay():
    """Its head knows no others; means are of these images."""
    features = {"satellite": torch.randn(9, 2, 6), "drone": torch.randn(5, 2, 6)}
    numbers = {"satellite": 1, "drone": 2}
    center = Centring(2, 6, 3)
    pooled.set_center(center, features, numbers)
    first = center.directions.clone()
    assert first.any()
    others = {view: x + 1 for view, x in features.items()}
    others["drone"] = others["drone"] * torch.arange(6)
    pooled.set_center(center, others, numbers)  # and means, where they are of it too
    torch.testing.assert_close(center.means[1], features["drone"].flatten(0, 1).mean(0))
    center.means.zero_()
    pooled.set_center(center, others, numbers)
    assert torch.equal(center.directions, first)
    torch.testing.assert_close(center.means[1], others["drone"].flatten(0, 1).mean(0))
