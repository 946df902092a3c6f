"""train.py through its own door: what a run leaves, resuming, precision, averaging, refusals."""

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import NARROW, SMALL, SMALL_COMMAND, fails, narrow_resnet
from PIL import Image

import model
import train
import utils
from evaluation import feature_file
from imaging.augmentation import Augmentation
from runtime import cli
from training import build, engine, options

ROOT = Path(__file__).resolve().parent.parent


def run_training(toy, name, *options):
    return train.main(["--name", name, "--data_dir", str(toy), *SMALL, *options])


def weights(name, file="net_last.pth"):
    return utils.load_tensors(Path("model") / name / file)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def log_of(name):
    lines = (Path("model") / name / "log.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("seconds")} for line in lines
    ]


def test_only_who_holds_the_lock_removes_partial_files(tmp_path, monkeypatch):
    """Processes of torchrun that do not hold it come here while another run may be writing."""
    opts = options.parse_args(["--overwrite"])
    partial = tmp_path / ".partial-0123abcd-net_last.pth"
    for holds in (False, True):
        partial.touch()
        monkeypatch.setattr(train.processes, "is_main", lambda holds=holds: holds)
        train.open_run(opts, tmp_path)
        assert partial.exists() is not holds


def test_a_run_leaves_what_it_promises(toy, workdir, capsys):
    # With plain images, no dropout and AdamW it learns far more than rounding could hide.
    plain = ["--no_flip", "--no_turn", "--pad", "0", "--droprate", "0", "--optimizer", "adamw"]
    result = run_training(toy, "full", "--epochs", "12", "--train_all", "--lr", "0.001", *plain)
    run_dir = workdir / "model" / "full"
    names = {path.name for path in run_dir.iterdir()}
    assert names == {"opts.yaml", "log.jsonl", "train.jpg", "train_state.pth",
                     "net_009.pth", "net_last.pth"}  # fmt: skip
    opts = utils.read_opts(run_dir)
    assert opts["nclasses"] == 8 and opts["view_names"] == ["satellite", "drone"]
    assert opts["views"] == 2 and opts["batchsize"] == 4 and opts["h"] == 32
    log = log_of("full")
    assert [entry["epoch"] for entry in log] == list(range(12)) and result["epoch"] == 11
    for entry in log:
        assert entry["loss"] == pytest.approx(entry["instance"])
        assert 0 <= entry["error_satellite"] <= 100 and 0 <= entry["error_drone"] <= 100
    assert log[-1]["lr"] == pytest.approx(0.0001)  # a tenth from epoch 8 on
    assert sum(entry["loss"] for entry in log[-4:]) / 4 < log[0]["loss"]
    with Image.open(run_dir / "train.jpg") as picture:
        assert picture.format == "JPEG" and picture.width > 600
    out = capsys.readouterr().out
    assert "8 buildings, 8 satellite, 16 drone images, 2 steps an epoch" in out
    assert "epoch 11/11" in out
    assert not same(weights("full"), weights("full", "net_009.pth"))


def test_what_is_printed_of_the_options(toy, workdir, capsys):
    """Only what differs from the defaults, and nothing where there is nothing to train on."""
    run_training(toy, "told", "--epochs", "1", "--train_all", "--share")
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("run ")]
    assert line.removeprefix("run model/told on cpu: ").split() == [
        *(f"backbone={NARROW}", "backbone_lr=1.0", "batchsize=4", f"data_dir={toy}", "device=cpu"),
        *("epochs=1", "h=32", "no_pretrained=True", "num_workers=0", "pad=2", "share=True"),
        *("step_size=1", "train_all=True", "w=32"),
    ]
    with pytest.raises(SystemExit):
        train.main(["--name", "nothing", "--data_dir", "absent", *SMALL])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["plain", "it's here"])
def test_ctrl_c_says_how_to_go_on(toy, workdir, monkeypatch, capsys, name):
    """The line can be pasted; before the first epoch is complete there is nothing to resume."""
    trained = engine.train_one_epoch

    def stop_in(epoch):
        def train_then_stop(training, data, number, lr_factor):
            if number == epoch:
                raise KeyboardInterrupt
            return trained(training, data, number, lr_factor)

        monkeypatch.setattr(engine, "train_one_epoch", train_then_stop)

    def interrupted(*argv):
        with pytest.raises(SystemExit) as stop:
            train.main([*argv])
        assert stop.value.code == 130
        return capsys.readouterr().err

    options = ["--name", name, "--data_dir", str(toy), *SMALL, "--epochs", "2", "--train_all"]
    stop_in(0)
    assert interrupted(*options) == "interrupted; no epoch was complete: begin again\n"
    stop_in(1)
    before, offered = interrupted(*options).strip().split(": ")
    assert before == "interrupted; go on with"
    stop_in(None)
    python, script, *resumed = shlex.split(offered)
    assert (python, script, resumed) == ("python", "train.py", ["--name", name, "--resume"])
    assert train.main(resumed)["epoch"] == 1


def test_weights_load_without_unpickling_code(toy, workdir):
    run_training(toy, "safe", "--epochs", "1", "--train_all", "--share")
    for file in ("net_last.pth", "train_state.pth"):
        assert torch.load(workdir / "model" / "safe" / file, weights_only=True)
    state = weights("safe")
    assert torch.equal(state["model_1.model.conv1.weight"], state["model_2.model.conv1.weight"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_resumed_run_equals_the_unbroken_one(toy, workdir, monkeypatch, workers):
    """Published defects 1 to 4: --resume died; else it lost model, optimizer and schedule."""
    options = ["--epochs", "4", "--moving_avg", "0.9", "--color_jitter", "--erasing_p", "0.5"]
    options += ["--num_workers", workers]
    run_training(toy, "unbroken", *options)

    original = train.save_epoch

    def save_then_stop(run_dir, training, class_names, epoch, log):
        original(run_dir, training, class_names, epoch, log)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(train, "save_epoch", save_then_stop)
        run_training(toy, "broken", *options)
    assert stop.value.code == 130
    # The options come from the run folder.
    result = train.main(["--name", "broken", "--resume"])
    assert result["epoch"] == 3
    assert same(weights("unbroken"), weights("broken"))
    assert log_of("unbroken") == log_of("broken")


def test_an_independent_run_resumes_and_checkpointing_may_begin_at_any_epoch(toy, workdir):
    """--grad_checkpoint changes memory alone, so a resumed run may take it; dropout is the same."""
    options = ["--sampler", "independent", "--step_size", "9", "--train_all"]
    run_training(toy, "unbroken", "--epochs", "2", *options)
    run_training(toy, "broken", "--epochs", "1", *options)
    train.main(["--name", "broken", "--resume", "--epochs", "2", "--grad_checkpoint"])
    assert same(weights("unbroken"), weights("broken"))
    assert log_of("unbroken") == log_of("broken")


@pytest.mark.parametrize("write", range(1, 9))
def test_killed_while_writing_any_file(toy, workdir, monkeypatch, write):
    """Every file is written aside and moved into place; a run stopped between two moves resumes."""
    options = ["--epochs", "3", "--train_all"]
    run_training(toy, "unbroken", *options)
    monkeypatch.setattr(train, "SNAPSHOT_EVERY", 1)
    moves = iter(range(1, 100))
    move = os.replace

    def stop_at(source, target):
        if next(moves) == write:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", stop_at)
    with pytest.raises(SystemExit):
        run_training(toy, "killed", *options)
    monkeypatch.setattr(os, "replace", move)
    if (workdir / "model" / "killed" / "train_state.pth").is_file():
        train.main(["--name", "killed", "--resume"])
    else:  # not one complete epoch: nothing to resume, and nothing in the way of a new start
        run_training(toy, "killed", "--overwrite", *options)
    assert same(weights("unbroken"), weights("killed"))
    assert log_of("unbroken") == log_of("killed")


def test_sigkill_and_resume(toy, workdir):
    options = ["--epochs", "60", "--train_all", "--name", "killed", "--data_dir", str(toy)]
    options += SMALL_COMMAND
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *options],
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    state = workdir / "model" / "killed" / "train_state.pth"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.kill()  # SIGKILL on Linux and macOS
    process.wait()
    assert state.exists(), "no epoch was completed in two minutes"
    done = utils.load_tensors(state)["epoch"] + 1
    assert done < 60, "the run was over before it was killed"
    result = train.main(["--name", "killed", "--resume", "--epochs", str(done + 1)])
    assert result["epoch"] == done
    assert [entry["epoch"] for entry in log_of("killed")] == list(range(done + 1))


def test_resume_refuses_other_options(toy, workdir, capsys):
    run_training(toy, "run", "--epochs", "1", "--train_all")
    train.main(["--name", "run", "--resume", "--epochs", "2"])
    line = "--step_size stays as run was begun: the learning rate falls after every 1 epochs\n"
    assert line in capsys.readouterr().out
    train.main(["--name", "run", "--resume"])
    assert "--step_size" not in capsys.readouterr().out.replace(" step_size=", "")
    fails(train.main, ["--name", "run", "--resume", "--batchsize", "3"], capsys,
          "--batchsize 3 differs from 4")  # fmt: skip
    fails(train.main, ["--name", "run", "--resume", "--config", "recipes/strong.yaml"], capsys,
          "strong.yaml is not the recipe with which run was begun, without any")  # fmt: skip
    fails(train.main, ["--name", "absent", "--resume"], capsys, "opts.yaml not found")
    Path("model/stopped").mkdir()  # before its first epoch was complete
    fails(train.main, ["--name", "stopped", "--resume"], capsys, "nothing to resume")
    (workdir / "model" / "run" / "train_state.pth").unlink()
    fails(train.main, ["--name", "run", "--resume"], capsys, "nothing to resume")


def test_resume_refuses_switches_that_were_changed_in_the_run_folder(toy, workdir, capsys):
    run_training(toy, "run", "--epochs", "1", "--train_all")
    saved = utils.read_opts(workdir / "model" / "run")
    utils.write_opts(workdir / "model" / "run", {**saved, "share": "no"})
    fails(train.main, ["--name", "run", "--resume"], capsys, "opts.yaml has share: 'no'")
    utils.write_opts(workdir / "model" / "run", {**saved, "epochs": True})
    fails(train.main, ["--name", "run", "--resume"], capsys, "opts.yaml has epochs: True")
    utils.write_opts(workdir / "model" / "run", {**saved, "share": True})
    fails(train.main, ["--name", "run", "--resume"], capsys, "train_state.pth has different weights"
          " in model_1.model.conv1.weight and model_2.model.conv1.weight")  # fmt: skip


def test_resume_refuses_other_buildings(toy, workdir, capsys):
    run_training(toy, "run", "--epochs", "1", "--train_all")
    other = shutil.copytree(toy, workdir / "other")
    for view in ("satellite", "drone"):
        first = sorted((other / "train" / view).iterdir())[0]
        first.rename(first.with_name("4321"))
    fails(train.main, ["--name", "run", "--resume", "--data_dir", other, "--epochs", "2"], capsys,
          "give the data folder the run was begun with")  # fmt: skip


CHANGES = {
    "added": lambda path: shutil.copy(path, path.with_name("more.jpeg")),
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("other.jpeg")),
    "replaced": lambda path: path.write_bytes(path.read_bytes() + b"more"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_resume_refuses_other_images(toy, workdir, capsys, change):
    """Of the held-out buildings too; where the folder stands does not matter."""
    run_training(toy, "run", "--epochs", "1")
    other = shutil.copytree(toy, workdir / "other")
    argv = ["--name", "run", "--resume", "--data_dir", str(other), "--epochs"]
    assert train.main([*argv, "2"])["epoch"] == 1
    CHANGES[change](sorted((other / "train" / "drone").glob("*/*.jpeg"))[-1])
    found = 16 + {"added": 1, "removed": -1}.get(change, 0)
    fails(train.main, [*argv, "3"], capsys, "train_state.pth was trained on 16 drone images, and "
          f"the {found} in --data_dir have other names or sizes", "--other_images")  # fmt: skip
    assert train.main([*argv, "3", "--other_images"])["epoch"] == 2
    assert "other_images" not in utils.read_opts(workdir / "model" / "run")
    assert train.main([*argv, "4"])["epoch"] == 3
    fails(train.main, ["--other_images"], capsys, "--other_images goes with --resume")


def test_weights_of_the_end_are_never_those_of_an_earlier_one(toy, workdir, monkeypatch, capsys):
    run_training(toy, "run", "--epochs", "1", "--train_all")
    train.main(["--name", "run", "--resume"])
    assert "has its 1 epochs already" in capsys.readouterr().out

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "train_one_epoch", stop)
    with pytest.raises(SystemExit):
        train.main(["--name", "run", "--resume", "--epochs", "3"])
    assert not (workdir / "model" / "run" / "net_last.pth").exists()


def test_a_view_that_first_comes_later(toy, workdir, tmp_path_factory):
    """A branch whose first images come in the second step trains like any other."""
    data = shutil.copytree(toy, tmp_path_factory.mktemp("sparse") / "data")
    for path in sorted((data / "train" / "street").iterdir())[3:]:
        shutil.rmtree(path)
    result = run_training(data, "sparse", "--views", "3", "--batchsize", "2", "--epochs", "3",
                          "--train_all")  # fmt: skip
    assert result["loss"] > 0


def test_a_finished_run_is_not_overwritten_unasked(toy, workdir, capsys):
    run_training(toy, "run", "--epochs", "1", "--train_all")
    before = weights("run")
    argv = ["--name", "run", "--data_dir", toy, *SMALL, "--epochs", "1", "--seed", "9"]
    fails(train.main, argv, capsys, "already holds a trained run", "--overwrite")
    assert same(before, weights("run"))
    train.main([str(part) for part in [*argv, "--overwrite"]])
    assert not same(before, weights("run"))


def test_seed_decides_everything(toy, workdir):
    """Published defect 26: there was no seed."""
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run_training(toy, name, "--epochs", "1", "--seed", seed)
    assert same(weights("a"), weights("b"))
    assert not same(weights("a"), weights("c"))


@pytest.mark.parametrize("loader", [[], ["--color_jitter"]], ids=["threads", "processes"])
def test_number_of_workers_changes_nothing(toy, workdir, loader):
    run_training(toy, "none", "--epochs", "3", "--train_all", *loader)
    run_training(toy, "two", "--epochs", "3", "--train_all", "--num_workers", "2", *loader)
    assert same(weights("none"), weights("two"))


def test_spawned_workers(toy, workdir):
    """Windows and macOS start loader processes by spawn: nothing may run at import."""
    code = (
        "import multiprocessing, sys\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    import train\n"
        "    train.main(sys.argv[1:])\n"
    )
    script = workdir / "spawned.py"
    script.write_text(code)
    argv = ["--data_dir", str(toy), *SMALL_COMMAND, "--train_all", "--epochs", "1"]
    argv += ["--color_jitter"]
    subprocess.run(
        [sys.executable, str(script), "--name", "spawned", *argv, "--num_workers", "1"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    train.main(["--name", "forked", *argv])
    assert same(weights("spawned"), weights("forked"))


def test_a_tenth_of_the_buildings_is_held_out(toy, workdir):
    """--train_all had no effect in the published code; here it decides about validation."""
    result = run_training(toy, "run", "--epochs", "2")
    assert utils.read_opts(workdir / "model" / "run")["nclasses"] == 7
    assert 0 <= result["val_recall@1"] <= 100 and 0 < result["val_AP"] <= 100
    run_training(toy, "all", "--epochs", "1", "--train_all")
    assert utils.read_opts(workdir / "model" / "all")["nclasses"] == 8


def test_validation_sees_the_weights_of_its_epoch(toy, workdir, monkeypatch):
    """Extraction works on a folded copy of the network: it must be made anew each time."""
    from training import validation

    seen = []
    original = validation.view_features

    def spy(network, *args, **options):
        seen.append(network.classifier.classifier[0].weight.clone())
        return original(network, *args, **options)

    monkeypatch.setattr(validation, "view_features", spy)
    monkeypatch.setattr(train, "SNAPSHOT_EVERY", 1)
    run_training(toy, "run", "--epochs", "2", "--moving_avg", "0.5")
    assert len(seen) == 4 and torch.equal(seen[0], seen[1])
    for copied, file in ((seen[0], "net_000.pth"), (seen[2], "net_001.pth")):
        assert torch.equal(copied, weights("run", file)["classifier.classifier.0.weight"])
    assert not torch.equal(seen[0], seen[2])


def test_any_pair_of_views_and_missing_ones(toy, workdir, tmp_path_factory):
    """Published defect 15: street and google had to exist, whatever was trained."""
    bare = tmp_path_factory.mktemp("bare")
    for view in ("satellite", "street"):
        shutil.copytree(toy / "train" / view, bare / "train" / view)
    result = run_training(bare, "pair", "--views", "satellite,street", "--epochs", "1")
    assert "error_street" in result and "error_drone" not in result
    three = run_training(
        toy, "three", "--views", "3", "--extra", "--epochs", "1", "--batchsize", "8"
    )
    assert {"error_satellite", "error_street", "error_drone", "error_google"} <= three.keys()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_loss_in_float32_and_scaled_only_for_fp16(
    toy, workdir, monkeypatch, precision
):
    """Published defect 20: fp16 logits went into the loss, and bf16 was loss-scaled too."""
    seen = []
    original = engine.train_step

    def spy(training, batch, sizes):
        original_term = training.losses["instance"].forward
        training.losses["instance"].forward = lambda outputs, labels: (
            seen.append({y.logits.dtype for y in outputs.values()})
            or original_term(outputs, labels)
        )
        try:
            return original(training, batch, sizes)
        finally:
            training.losses["instance"].forward = original_term
            seen.append(training.scaler.is_enabled())

    monkeypatch.setattr(engine, "train_step", spy)
    run_training(toy, precision, "--epochs", "1", f"--{precision}")
    assert seen[0] == {torch.float32}
    assert seen[1] is (precision == "fp16")
    assert all(value.dtype != torch.float16 for value in weights(precision).values())


def test_moving_average_is_the_recurrence(toy, workdir, monkeypatch):
    """Published defect 23: the average left out batch norm's statistics and was never saved."""
    history = []
    original = engine.train_step

    def record(training, batch, sizes):
        result = original(training, batch, sizes)
        history.append({k: v.detach().clone() for k, v in training.network.state_dict().items()})
        return result

    monkeypatch.setattr(engine, "train_step", record)
    run_training(toy, "average", "--epochs", "3", "--train_all", "--moving_avg", "0.8")
    average = history[0]
    for state in history[1:]:
        average = {
            key: 0.8 * value + 0.2 * state[key] if value.is_floating_point() else state[key]
            for key, value in average.items()
        }
    saved = weights("average")
    assert saved.keys() == average.keys()
    for key, value in saved.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[key], atol=1e-5, rtol=1e-4)
    key = "classifier.add_block.1.running_mean"
    assert not torch.allclose(saved[key], history[-1][key], atol=1e-4)


def test_logged_loss_is_not_scaled_by_warm_up(toy, workdir):
    """Published defect 21: the loss that warm-up had scaled was logged."""
    run_training(toy, "warm", "--epochs", "1", "--train_all", "--warm", "5")
    # The sum over two views of about ln 8, raised by dropout and the random head.
    assert 3.0 < log_of("warm")[0]["loss"] < 12.0


def test_error_is_a_share_of_the_images_seen(toy, workdir, monkeypatch):
    """Published defect 22: sums over full batches were divided by the size of the data set."""
    monkeypatch.setattr(
        engine, "train_step", lambda training, batch, sizes: (
            {"instance": torch.tensor(1.5)},
            {view: len(labels) for view, (_, labels) in batch.items()},
        )
    )  # fmt: skip
    result = run_training(toy, "wrong", "--epochs", "1", "--train_all", "--batchsize", "3")
    assert result["error_satellite"] == result["error_drone"] == 100.0
    assert result["loss"] == 1.5


def test_non_finite_loss_stops_and_saves_nothing(toy, workdir, capsys):
    argv = ["--name", "nan", "--data_dir", toy, *SMALL, "--epochs", "3", "--lr", "1e30"]
    fails(train.main, argv, capsys, "the instance loss became", "lower --lr")
    assert not list((workdir / "model" / "nan").glob("net_*.pth"))


@pytest.mark.parametrize("read_every", [1, 3, 100])
def test_a_loss_that_is_not_finite_is_named_whenever_it_is_read(read_every):
    """On a GPU the losses of many steps are read at once; none may slip into a checkpoint."""
    tally = engine.Tally(read_every)
    with pytest.raises(FloatingPointError, match="the second loss became nan at step 4"):
        for step in range(7):
            second = torch.tensor(float("nan") if step >= 4 else 1.0)
            tally.add({"first": torch.tensor(2.0), "second": second}, {"drone": 1}, {"drone": [4]})
        tally.summary()


def test_the_tally_does_not_depend_on_when_it_is_read():
    sizes = {"drone": [4], "satellite": [1, 1], "street": [0, 0]}
    summaries = []
    for read_every in (1, 2, 100):
        tally = engine.Tally(read_every)
        for step in range(5):
            wrong = {"drone": torch.tensor(step % 2), "satellite": torch.tensor(2)}
            tally.add({"a": torch.tensor(float(step)), "b": torch.tensor(1.0)}, wrong, sizes)
        summaries.append(tally.summary())
    expected = {"loss": 3.0, "a": 2.0, "b": 1.0, "error_drone": 10.0, "error_satellite": 100.0}
    assert summaries == [expected] * 3


def test_a_run_of_an_earlier_version_resumes(toy, workdir):
    """Its optimizer was not fused: taken over, that would leave the gradients scaled."""
    options = ["--train_all", "--fp16"]
    run_training(toy, "unbroken", "--epochs", "2", "--step_size", "9", *options)
    run_training(toy, "old", "--epochs", "1", "--step_size", "9", *options)
    path = workdir / "model" / "old" / "train_state.pth"
    state = utils.load_tensors(path)
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = None
    del state["files"]  # which images it was trained on, it did not say
    utils.save_tensors(path, state)
    train.main(["--name", "old", "--resume", "--epochs", "2"])
    assert same(weights("old"), weights("unbroken"))


def test_given_weights_are_used(toy, workdir, capsys):
    """Published defect 27: ImageNet weights could come only by download."""
    state = narrow_resnet().state_dict()
    state["conv1.weight"].zero_()
    torch.save(state, "narrow.pth")
    options = [part for part in SMALL if part != "--no_pretrained"]
    argv = ["--name", "w", "--data_dir", str(toy), *options, "--epochs", "1", "--lr", "1e-9"]
    train.main([*argv, "--weights", "narrow.pth"])
    assert weights("w")["model_2.model.conv1.weight"].abs().max() < 1e-6
    fails(train.main, ["--name", "v", *argv[2:], "--weights", "no.pth"], capsys, "no.pth not found")


def test_compile_keeps_plain_checkpoints(toy, workdir, monkeypatch):
    compiled = []
    original = torch.compile

    def compile_without_a_compiler(network, mode, **options):
        assert mode == "default"
        compiled.append(original(network, backend="eager", **options))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", compile_without_a_compiler)
    run_training(toy, "compiled", "--epochs", "1", "--compile")
    assert any("_orig_mod" in key for key in compiled[0].state_dict())
    assert not any("_orig_mod" in key for key in weights("compiled"))


def test_synchronised_batch_norm_needs_gpus():
    opts = train.parse_args([])
    opts.sync_bn = True
    with pytest.raises(ValueError, match="--sync_bn works on GPUs alone"):
        build.build_training(opts, torch.nn.Linear(1, 1), torch.device("cpu"), 8)


@pytest.mark.parametrize("name", options.PUBLISHED_LOSSES)
def test_metric_losses_train_with_two_views(toy, workdir, name):
    """Published defects 8, 17: with two views they crashed, and class weights never trained."""
    last = run_training(toy, name, "--epochs", "2", f"--{name}", "--loss_merge")
    assert last["loss"] == pytest.approx(last["instance"] + last[name])
    state = utils.load_tensors(f"model/{name}/train_state.pth")
    if name in ("arcface", "cosface", "sphere"):
        moved = state["optimizer"]["state"]
        momentum = moved[max(moved)]["momentum_buffer"]  # the losses' weights come last
        (weight,) = state["losses"].values()
        assert momentum.shape == weight.shape and momentum.abs().max() > 0


def test_merging_alone_changes_no_instance_loss(toy, workdir):
    """Published defect 19: `--loss_merge` without a metric loss gave a multiple of the loss."""
    plain = run_training(toy, "plain", "--epochs", "1")
    assert run_training(toy, "merged", "--epochs", "1", "--loss_merge")["loss"] == plain["loss"]


def test_several_losses_and_parts_together(toy, workdir):
    """Weights by name, square rings and attention; the run is tested as it was trained."""
    options = ["--loss_weights", "instance=0.5,infonce=2,dwdr=0.1", "--LPN", "--block", "2",
               "--usam", "--stride", "1"]  # fmt: skip
    last = run_training(toy, "mixed", "--epochs", "1", *options)
    assert last["loss"] == pytest.approx(last["instance"] + last["infonce"] + last["dwdr"])
    assert utils.read_opts("model/mixed")["loss_weights"] == {
        "instance": 0.5, "infonce": 2.0, "dwdr": 0.1
    }  # fmt: skip
    argv = ["--name", "mixed", "--test_dir", str(toy), "--num_workers", "0", "--device", "cpu"]
    test = importlib.import_module("test")
    assert test.main(argv)["num_queries"] == 10
    assert feature_file.load_features("pytorch_result.mat")[0].features.shape == (10, 1024)


def test_sampling_options_reach_the_sampler(toy, workdir, capsys):
    over = ["--epoch_over", "drone", "--images_per_building", "2", "--joint_flips"]
    run_training(toy, "pk", "--epochs", "1", *over, "--triplet")
    assert "2 steps an epoch" not in capsys.readouterr().out  # two drone images: a round of K = 2
    for argv, expected in (
        (["--sampler", "independent", "--joint_flips"], "--joint_flips goes with --sampler paired"),
        (["--epoch_over", "street"], "--epoch_over street is none of satellite, drone"),
        (["--images_per_building", "9"], "does not fit in --batchsize"),
        (["--circle"], "the circle loss has nothing to compare"),
        (["--loss_weights", "nonsense=1"], "there is no loss 'nonsense'"),
        (["--backbone", "resnet19"], "resnet19"),
        (["--LPN", "--pool", "gem"], "--LPN pools its rings"),
    ):
        fails(train.main, ["--data_dir", toy, *SMALL, "--name", "refused", *argv], capsys, expected)


def test_pairs_that_are_turned_together(toy, workdir, monkeypatch):
    """By --joint_turns no satellite image is turned alone, and polar ones are rolled too."""
    views = ["--views", "satellite,street"]
    seen = []
    original = Augmentation.rearrange

    def spy(self, image, rng, mirrored=None, quarters=0):
        seen.append((self.turned, self.rolled, quarters))
        return original(self, image, rng, mirrored, quarters)

    monkeypatch.setattr(Augmentation, "rearrange", spy)
    run_training(toy, "pair", *views, "--joint_turns", "--epochs", "2", "--train_all")
    assert {each[:2] for each in seen} == {(False, False), (False, True)}
    satellite, street = ([e[2] for e in seen if e[1] is rolled] for rolled in (False, True))
    assert satellite == street and set(satellite) > {0}
    for more, turned, rolled in (
        ([], [True, False], [False, True]),
        (["--joint_turns", "--h", "384", "--no_turn"], [False, False], [True, True]),
    ):
        found = build.augmentations(options.parse_args([*views, *more])).values()
        assert [each.turned for each in found] == turned
        assert [each.rolled for each in found] == rolled


@pytest.mark.parametrize("flag", sorted(options.REFUSED))
def test_refused_flags_say_why(workdir, capsys, flag):
    """Published defect 6: flags without effect."""
    fails(train.main, [f"--{flag}"], capsys, f"--{flag} is refused")


def test_every_published_flag_is_known():
    """Section 4a of the published command line, with the short forms its README uses."""
    text = (
        "--gpu_ids 0 --name a --data_dir d --extra_Google --train_all --color_jitter "
        "--batchsize 8 --pad 10 --h 384 --w 384 --views 3 --erasing_p 0.5 --DA --share "
        "--droprate 0.75 --pool avg+max --stride 1 --warm_epoch 5 --lr 0.01 --moving_avg 0.9 --bf16"
    )
    opts = train.parse_args(text.split())
    assert opts.view_names == ["satellite", "street", "drone"] and opts.moving_avg == 0.9
    short = train.parse_args(["--views", "3", "--extra", "--warm", "5", "--fp16", "--use_vgg16"])
    assert short.extra_Google and short.warm_epoch == 5 and short.backbone == "vgg16_bn"
    assert train.parse_args([]).view_names == ["satellite", "drone"]
    assert train.parse_args(["--views", "drone,street"]).view_names == ["drone", "street"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--batchsize", "0"], "--batchsize: 0 is too small"),
        (["--h", "-1"], "--h: -1 is too small"),
        (["--w", "16"], "--w: 16 is too small: at least 32"),
        (["--gpu_ids", "3"], "--gpu_ids 3 asked for"),
        (["--gpu_ids", "0,1"], "names several GPUs"),
        (["--lr", "0"], "--lr: '0' is not a number above 0"),
        (["--erasing_p", "2"], "'2' is not a number from 0 to 1"),
        (["--views", "4"], "'4' is not 2, 3"),
        (["--views", "drone,drone"], "two different names"),
        (["--extra_Google"], "give --views 3"),
        (["--fp16", "--bf16"], "--fp16 and --bf16 contradict each other"),
        (["--pool", "sum"], "invalid choice: 'sum'"),
        (["--weights", "x", "--no_pretrained"], "contradict"),
        (["--sync_bn"], "start them with torchrun"),
        (["--turns", "3"], "'3' is not 1, 2 or 4, nor a list by view such as satellite=4,drone=1"),
        (["--turns", "street=4"], "--turns names a view that is none of satellite, drone"),
        (["--turns", "4", "--no_turn"], "--turns and --no_turn contradict each other"),
        (["--turns", "drone=4", "--w", "352"], "384 x 352 is not square: make --h and --w alike"),
        (["--views", "3", "--extra_Google", "--turns", "google=4", "--w", "64"], "is not square"),
        (["--maps", "2;3"], "'2;3' is not a list of stages such as 2,3,last"),
        (["--maps", "0"], "'0' is not a list of stages such as 2,3,last"),
        (["--maps", "2,02"], "'2,02' names a stage twice"),
        (["--maps", "3"], "--maps without last leaves the last blocks without use: add last"),
        (["--maps", "3", "--freeze", "--train_blocks", "1"], "add last, or --freeze all"),
        (["--head", "none", "--embedding_dim", "64"], "or give --embedding_dim 512 where a recipe"),
        (["--whiten", "16"], "--whiten takes directions about the mean of each view: add --center"),
        (["--weights", ""], "argument --weights: nothing is given"),
        (["--head", "wide"], "invalid choice: 'wide'"),
        (["--block", "3"], "--block 3 is the number of rings of --LPN or --pool rings: add it"),
        (["--sampler", "independent", "--epoch_passes", "2"], "--epoch_passes goes with --sampler"),
        (["--epoch_passes", "0"], "--epoch_passes: 0 is too small"),
        (["--name", "../up"], "is not a folder name"),
        (["--data_dir", "absent"], "data folder absent not found"),
    ],
)
def test_bad_options(workdir, capsys, monkeypatch, options, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    fails(train.main, options, capsys, expected)


def test_bad_folders_and_images(toy, workdir, capsys):
    def spoil(name, content):
        folder = workdir / "spoilt" / "train"
        for view in ("satellite", "drone"):
            for building in "123":
                path = folder / view / building / "a.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((40, 40), 50).convert("RGB").save(path)
        (folder / "drone" / "2" / "a.jpg").write_bytes(content)
        for workers in ("0", "1"):
            argv = ["--name", name, "--data_dir", folder.parent, *SMALL, "--train_all",
                    "--num_workers", workers]  # fmt: skip
            fails(train.main, argv, capsys, "drone/2/a.jpg cannot be read as an image")

    spoil("text", b"this is text")
    picture = next((toy / "train" / "drone").glob("*/*.jpeg")).read_bytes()
    spoil("cut", picture[: len(picture) // 2])
    (workdir / "empty").mkdir()
    fails(train.main, ["--data_dir", "empty"], capsys, "empty holds neither train/", "nothing")
    assert not (workdir / "model" / "text" / "net_last.pth").exists()


def test_options_of_the_network_reach_it(toy, workdir, capsys):
    """And its opts.yaml, from which test.py rebuilds it."""
    argv = ["--pool", "gem+rings", "--block", "2", "--maps", "2,last", "--center", "--head",
            "linear", "--embedding_dim", "24", "--turns", "2"]  # fmt: skip
    run_training(toy, "new", "--epochs", "1", "--train_all", *argv)
    saved = utils.read_opts(workdir / "model" / "new")
    assert (saved["maps"], saved["center"], saved["head"], saved["turns"]) == (
        [2, "last"], True, "linear", 2,
    )  # fmt: skip
    network, _, _ = model.load_run("new", "last", torch.device("cpu"))
    assert network.classifier.add_block[1].weight.shape == (24, 3 * (16 + 64))
    assert network.embedding_dim == 24 and network.center.means.norm(dim=1).min() > 0.1
    for key in ("maps", "center", "head", "turns", "embedding_dim"):
        del saved[key]
    older = model.model_from_opts({**saved, "pool": "avg"})
    assert older.center is None and older.embedding_dim == 512
    assert older.classifier.add_block[0].weight.shape == (512, 64)
    with pytest.raises(ValueError, match="opts.yaml has maps: 'last', which no run writes"):
        model.model_from_opts({**saved, "maps": "last"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--maps", "5,last"], f"--maps 5: {NARROW} has maps 1 to 4 and last"),
        (["--pool", "rings", "--block", "1000"], "1000 rings are not possible: --block is from 1"),
        (["--LPN", "--center"], "drop --maps, --head, --center; --pool rings has one head for all"),
        (["--musenet", "--weather", "fog", "--backbone", "resnet18", "--center"],
         "--musenet adapts the last map: leave --maps and --center out"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be(toy, workdir, capsys, options, expected):
    fails(train.main, ["--data_dir", toy, *SMALL, *options], capsys, expected)
    assert not (workdir / "model" / "two_view" / "opts.yaml").exists()


# ---------------------------------------------------------------- recipes
def test_options_of_a_recipe_and_those_that_win(toy, workdir):
    recipe = workdir / "r.yaml"
    recipe.write_text(
        "source: here\noptions:\n  share: true\n  LPN: false\n  step_size: [2, 5]\n  lr: 0.02\n"
        "  loss_weights: {instance: 0.5, infonce: 2}\n  epochs: 1\n  weight_decay: null\n"
        "  weights: ''\n"
    )
    undone = ["--config", "recipes/few_pairs.yaml", "--no-center", "--whiten", "0"]
    undone[1] = str(Path(train.__file__).parent / undone[1])
    undone += ["--head", "none", "--embedding_dim", "512"]
    opts = train.parse_args(undone)
    assert (opts.center, opts.whiten, opts.head) == (False, None, "none")
    opts = train.parse_args(["--config", str(recipe), "--lr", "0.5", "--no-share"])
    assert (opts.share, opts.LPN, opts.lr, opts.step_size) == (False, False, 0.5, [2, 5])
    assert opts.loss_weights == {"instance": 0.5, "infonce": 2.0} and opts.weight_decay is None
    assert train.parse_args([f"--config={recipe}"]).share
    run_training(toy, "by_recipe", "--config", str(recipe), "--train_all")
    given = ["--share", "--step_size", "2,5", "--lr", "0.02"]
    given += ["--loss_weights", "instance=0.5,infonce=2", "--epochs", "1"]
    run_training(toy, "by_hand", *given, "--train_all")
    first, second = (utils.read_opts(Path("model", name)) for name in ("by_recipe", "by_hand"))
    assert first.pop("config") == str(recipe) and second.pop("config") is None
    assert {**first, "name": ""} == {**second, "name": ""}
    assert same(weights("by_recipe"), weights("by_hand"))


def test_every_switch_of_a_recipe_can_be_undone(workdir):
    """By --no-share, by --turn for no_turn; false in a recipe does the same."""
    switches = [a for a in options.build_parser()._actions if isinstance(a, cli.Switch)]
    names = {action.dest for action in switches} - {"resume", "other_images", "extra_Google"}
    assert names > {"no_turn", "no_pretrained", "fp16", "bf16", "compile", "sync_bn", "triplet"}
    recipe = workdir / "r.yaml"
    for name in sorted(names):
        undo = f"--{name[3:]}" if name.startswith("no_") else f"--no-{name}"
        recipe.write_text(f"options: {{{name}: true}}")
        assert getattr(train.parse_args(["--config", str(recipe), undo]), name) is False
        recipe.write_text(f"options: {{{name}: false}}")
        assert getattr(train.parse_args(["--config", str(recipe)]), name) is False
    recipe.write_text("options: {bf16: true, no_turn: true, extra_Google: true, views: 3}")
    opts = train.parse_args(["--config", str(recipe), "--no-bf16", "--fp16", "--no-extra"])
    assert (opts.fp16, opts.bf16, opts.no_turn, opts.extra_Google) == (True, False, True, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("options: {resume: true}", "--resume belongs on the command line"),
        ("options: {bets: 1}", "sets --bets, which"),
        ("options: {extra_Google: 1}", "unrecognized arguments: 1"),
        ("options: {pool: none}", "argument --pool: invalid choice: 'none'"),
        ("options: [lr, 3]", "holds no options: expected `options:`"),
        ("just text", "holds no options"),
        ("options: {a: [", "is not YAML"),
        (None, "recipe r.yaml not found; there are other"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line(workdir, capsys, text, expected):
    Path("other.yaml").write_text("options: {}")
    if text is not None:
        Path("r.yaml").write_text(text)
    fails(train.main, ["--config", "r.yaml"], capsys, expected)
