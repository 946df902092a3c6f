"""Files written in one step, and how long something takes to come."""

import os
import time

import pytest

from runtime import files, progress


def test_replacing_never_leaves_half_a_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("hal")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_what_killed_writers_left_goes_after_a_day(tmp_path):
    names = "old.npy", f"{'long' * 62}.npy", "old.zip", "new.npy"
    old, long, zipped, new = (files.temporary_beside(tmp_path / name) for name in names)
    for path in (old, long, zipped, new):
        path.touch()
    for path in (old, long, zipped):
        os.utime(path, (0, 0))
    files.remove_partials(tmp_path, "*.npy", unused=files.A_DAY)
    assert {*tmp_path.iterdir()} == {zipped, new}
    files.remove_partials(tmp_path, "new.npy", "old.zip")
    assert not any(tmp_path.iterdir())


def test_stopwatch_counts_what_its_items_take():
    """Not what is done with them in between."""

    def slow():
        for number in range(3):
            time.sleep(0.02)
            yield number

    watch, seen, began = progress.Stopwatch(slow()), [], time.perf_counter()
    for number in watch:
        time.sleep(0.05)
        seen.append(number)
    total = time.perf_counter() - began
    assert seen == [0, 1, 2] and 0.06 <= watch.seconds <= total - 0.15
