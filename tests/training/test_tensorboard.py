"""`--tensorboard`: the numbers of log.jsonl as curves, each epoch once, also of a resumed run."""

import json
import sys

import pytest
from conftest import SMALL, fails

import train
from training import tensorboard

OPTIONS = ["--name", "curves", *SMALL, "--step_size", "9"]


def curves(folder):
    """{curve: [(epoch, value)]} of the event files in a folder."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def logged(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def test_curves_are_those_of_the_log(toy, workdir):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run_dir = workdir / "model" / "curves"
    options = [*OPTIONS, "--data_dir", str(toy)]
    train.main([*options, "--epochs", "2", "--tensorboard"])
    names = {"loss/loss", "loss/instance", "error/satellite", "error/drone", "optimisation/lr"}
    names |= {"time/seconds", "time/seconds_waiting", "held_out/recall@1", "held_out/AP"}
    found, log = curves(run_dir / "tensorboard"), logged(run_dir)
    assert found.keys() == names
    assert dict(found["loss/loss"]) == pytest.approx({i: log[i]["loss"] for i in (0, 1)})
    assert [epoch for epoch, _ in found["held_out/AP"]] == [1]
    # A start that ended before its epoch was saved leaves points that are not in the log.
    with tensorboard.curves(run_dir, log, True) as add:
        add({"epoch": 2, "loss": 1e6})
    assert len(curves(run_dir / "tensorboard")["loss/loss"]) == 3
    train.main([*options, "--epochs", "4", "--resume"])
    found, log = curves(run_dir / "tensorboard"), logged(run_dir)
    keys = {"loss/loss": "loss", "error/drone": "error_drone", "time/seconds": "seconds"}
    for name, key in keys.items():
        epochs, values = zip(*found[name], strict=True)
        assert epochs == (0, 1, 2, 3)
        assert values == pytest.approx([entry[key] for entry in log], rel=1e-6)
    assert [epoch for epoch, _ in found["held_out/AP"]] == [1, 3]
    # A new run of the name that wants no curves leaves none of the old one.
    train.main([*options, "--epochs", "1", "--overwrite"])
    assert not list((run_dir / "tensorboard").iterdir())


def test_a_missing_package_is_told_before_anything_is_deleted(toy, workdir, capsys, monkeypatch):
    run_dir = workdir / "model" / "curves"
    run_dir.mkdir(parents=True)
    (run_dir / "net_last.pth").write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    argv = [*OPTIONS, "--data_dir", str(toy), "--overwrite", "--tensorboard"]
    fails(train.main, argv, capsys, "--tensorboard needs the tensorboard package",
          "requirements-tensorboard.txt")  # fmt: skip
    assert (run_dir / "net_last.pth").read_bytes() == b"weights"


def test_without_the_option_nothing_is_written(workdir):
    with tensorboard.curves(workdir, [{"epoch": 0, "loss": 1.0}], False) as add:
        add({"epoch": 1, "loss": 1.0})
    assert not list(workdir.iterdir())
