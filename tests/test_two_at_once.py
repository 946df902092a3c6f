"""Two of one script at once, on one run, one output or one cache: never a corrupt or mixed file.

GEO_ROUNDS=10 in the environment does each ten times.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_COMMAND, fails

import model
import test as test_script
import train
import utils
from evaluation.feature_file import load_features
from imaging import cache
from runtime import locks

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = pytest.mark.parametrize("turn", range(int(os.environ.get("GEO_ROUNDS", 1))))


def start_both(*commands):
    """Run scripts at the same time: [(exit code, stderr)]."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, ROOT / command[0], *map(str, command[1:])],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, errors, strict=True)]


def only_one(ends, expected):
    """The place of the script that went through; the other was refused in one line."""
    assert sorted(code for code, _ in ends) == [0, 2], ends
    (refused,) = [text for code, text in ends if code == 2]
    assert refused.count("\n") == 1 and "is in use: process " in refused and expected in refused
    return [code for code, _ in ends].index(0)


def hidden(folder):
    return [path for path in folder.rglob(".*") if path.name.startswith((".partial", ".lock"))]


@ROUNDS
def test_two_trainings_of_one_name(toy, workdir, turn):
    base = ["train.py", "--name", "one", "--data_dir", toy, "--epochs", "1", *SMALL_COMMAND]
    ends = start_both(base, [*base, "--share"])
    share = only_one(ends, "or choose another --name") == 1
    opts = utils.read_opts("model/one")
    assert opts["share"] is share
    weights = utils.load_tensors("model/one/net_last.pth")
    views = [weights[f"model_{view}.model.conv1.weight"] for view in (1, 2)]
    assert torch.equal(*views) is share
    assert hidden(workdir) == []


@ROUNDS
def test_two_tests_on_one_output(toy, small_run, workdir, turn):
    names = ["small", "wide"]
    opts = {**utils.read_opts(small_run), "backbone": "resnet18"}
    for name, pool in zip(names, ("avg", "gem"), strict=True):
        utils.write_opts(f"model/{name}", {**opts, "pool": pool})
        network = model.build_model(8, backbone="resnet18", pool=pool)
        utils.save_tensors(f"model/{name}/net_009.pth", network.state_dict())
    commands = [
        ["test.py", "--name", name, "--test_dir", toy, "--num_workers", 0] for name in names
    ]
    winner = names[only_one(start_both(*commands), "or choose another --output")]
    found = load_features("pytorch_result.mat")
    test_script.main([*map(str, commands[names.index(winner)][1:]), "--output", "again.npz"])
    for side, expected in zip(found, load_features("again.npz"), strict=True):
        np.testing.assert_allclose(side.features, expected.features, atol=1e-5)
    assert len(Path("model", winner, "result.txt").read_text().splitlines()) == 2
    assert hidden(workdir) == []


@ROUNDS
def test_two_runs_on_one_cache(toy, workdir, turn):
    base = ["train.py", "--data_dir", toy, "--epochs", "1", "--cache", "disk", *SMALL_COMMAND]
    ends = start_both([*base, "--name", "a"], [*base, "--name", "b"])
    assert [code for code, _ in ends] == [0, 0], ends
    first, second = (utils.load_tensors(f"model/{name}/net_last.pth") for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(list(Path("cache").iterdir())) == 2 and hidden(workdir) == []
    for view in ("satellite", "drone"):
        paths = sorted((toy / "train" / view).glob("*/*.jp*g"))
        (kept,) = Path("cache").glob(f"{view}-*.npy")
        expected = [cache.load_resized(path, 32, 32) for path in paths]
        images = np.load(kept)
        assert len(images) == len(expected)
        assert all(any(np.array_equal(i, e) for e in expected) for i in images)


def test_a_run_in_use_is_not_resumed_nor_overwritten(workdir, capsys):
    opts = vars(train.parse_args(["--name", "one"]))
    opts = {k: v for k, v in opts.items() if k not in ("resume", "overwrite")}
    utils.write_opts("model/one", {**opts, "views": 2})
    with locks.sole_writer("model/one"):
        for option in (["--resume"], ["--overwrite"], []):
            fails(train.main, ["--name", "one", *option], capsys,
                  "model/one is in use: process", "or choose another --name")  # fmt: skip


def test_lines_of_two_tests_are_both_kept(workdir):
    code = "for _ in range(20): test.add_result(pathlib.Path(), sys.argv[1])"
    code = f"import test, sys, pathlib\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", code, word], env=environment) for word in "ab"
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    lines = Path("result.txt").read_text().split()
    assert sorted(lines) == ["a"] * 20 + ["b"] * 20
