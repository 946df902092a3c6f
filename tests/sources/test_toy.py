"""prepare.py toy: the toy campus on disk."""

import pytest
from conftest import fails

import prepare
from sources.campus import render

TOY = ["toy", "--num_train", "4", "--num_test", "2", "--num_distractors", "1",
       "--drone_frames", "1", "--image_size", "32", "--num_workers", "0"]  # fmt: skip


def test_toy_is_made_once_and_in_one_step(workdir, capsys, monkeypatch):
    """Published defect 33: a converter failed where the parents of its output were missing."""
    result = prepare.main([*TOY, "--out", "new/deep/toy"])
    assert result["rendered"] and result["train/satellite"] == 4
    assert len(list((workdir / "new/deep/toy/test/gallery_satellite").iterdir())) == 3
    assert [path.name for path in (workdir / "new/deep").iterdir()] == ["toy"]
    assert not prepare.main([*TOY, "--out", "new/deep/toy"])["rendered"]
    assert "is there already" in capsys.readouterr().out
    fails(prepare.main, [*TOY, "--out", "new/deep/toy", "--seed", "5"], capsys,
          "exists and is not this toy campus")  # fmt: skip

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(render, "render_building", stop)
    with pytest.raises(SystemExit):
        prepare.main([*TOY, "--out", "other"])
    assert not (workdir / "other").exists() and not list(workdir.glob(".partial*"))


def test_toy_refuses_bad_numbers(workdir, capsys):
    for option, value in (("--num_train", "0"), ("--image_size", "-3"), ("--drone_frames", "x")):
        fails(prepare.main, ["toy", option, value], capsys, option)
    fails(prepare.main, ["toy", "--drone_frames", "55"], capsys, "55")
    assert not (workdir / "data" / "toy").exists()
