"""One writer at a time: who holds a lock is told, and a killed holder is no obstacle."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from evaluation.feature_file import Features, load_features, save_features
from runtime import files, locks

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
HOLD = """
import sys
from runtime import files, locks
with locks.sole_writer(sys.argv[1]), files.replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""
SAVE = """
import sys, numpy as np
from evaluation.feature_file import Features, save_features
number = int(sys.argv[2])
rows = np.full((3000, 64), number / 8, dtype=np.float32)
side = Features(rows, np.full(3000, number), [f"{number}.jpg"] * 3000)
sys.stdin.readline()
for _ in range(5):
    save_features(sys.argv[1], side, side)
"""


@contextmanager
def holder(path):
    """Another process that holds a lock and is in the middle of writing."""
    command = [sys.executable, "-c", HOLD, path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=ENVIRONMENT, text=True, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_a_name_that_is_no_utf8_can_be_held(tmp_path, monkeypatch):
    path = tmp_path / os.fsdecode(b"\xff")
    monkeypatch.setattr(sys, "argv", ["train.py", str(path)])
    with locks.sole_writer(path):
        assert "udcff" in locks._holder_of(tmp_path / f".lock-{path.name}")


def test_a_second_writer_hears_who_writes_since_when(tmp_path):
    path = tmp_path / "run"
    since = r"2\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
    words = rf"run is in use: process (\d+) on \S+, since {since} \(-c {path}\)"
    with holder(path) as process:
        for _ in range(2):  # to ask does not take the words away
            with pytest.raises(ValueError, match=words) as caught:
                locks.sole_writer(path, "give up").__enter__()
            assert f"process {process.pid} on" in str(caught.value)
            assert str(caught.value).endswith("wait until that has ended, or give up")
    with locks.sole_writer(path):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["run"]  # no lock is left


def test_a_killed_writer_is_no_obstacle(tmp_path):
    path = tmp_path / "run"
    with holder(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = sorted(each.name for each in tmp_path.iterdir())
    assert left[0] == ".lock-run" and left[1].startswith(".partial-") and len(left) == 2
    with locks.sole_writer(path):
        assert [each.name for each in tmp_path.iterdir()] == [".lock-run"]
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_short_writer(tmp_path):
    with holder(tmp_path / "a") as process:
        process.stdin.close()
        with locks.sole_writer(tmp_path / "a", wait=60):
            pass


def test_only_the_first_of_several_processes_holds(tmp_path, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "1"),
                        ("LOCAL_RANK", "1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    with locks.sole_writer(tmp_path / "a"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_files_saved_at_once_are_whole(tmp_path, suffix):
    """A fixed temporary name left a corrupt file three times of three."""
    path = tmp_path / f"f{suffix}"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE, path, str(number)], env=ENVIRONMENT, stdin=subprocess.PIPE
        )
        for number in (1, 2, 3)
    ]
    for writer in writers:
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.wait(timeout=60) == 0
        writer.stdin.close()
    for side in load_features(path):
        number = side.labels[0]
        assert (side.labels == number).all() and (side.features == number / 8).all()
        assert set(side.paths) == {f"{number}.jpg"}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_names_of_any_length_are_written(tmp_path):
    for name in ("a" * 251 + ".mat", "\N{HOUSE BUILDING}" * 62 + ".npz"):
        side = Features(np.eye(2, dtype=np.float32), np.arange(2), ["", ""])
        save_features(tmp_path / name, side, side)
        assert (tmp_path / name).is_file()


def test_partial_files_of_others_stay(tmp_path):
    """Of `my-a[1].mat` too, which another process may be writing."""
    name, others = "a[1].mat", {"b.mat", "my-a[1].mat", "a1.mat"}
    partials = {each: files.temporary_beside(tmp_path / each) for each in (name, *others)}
    for path in partials.values():
        path.touch()
    with locks.sole_writer(tmp_path / name):
        assert not partials.pop(name).exists()
    assert set(tmp_path.iterdir()) == set(partials.values())
