"""prepare.py toy: the toy campus on disk."""

from pathlib import Path

import pytest
from conftest import fails

import prepare
from sources.campus import render, survey

TOY = ["toy", "--num_train", "4", "--num_test", "2", "--num_distractors", "1",
       "--drone_frames", "1", "--image_size", "32", "--num_workers", "0",
       "--map_plots", "0"]  # fmt: skip


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


def test_map_is_made_beside_what_is_there(workdir, capsys, monkeypatch):
    """A campus of before there were maps is as it was; killed half-way, no map is there."""
    prepare.main([*TOY, "--out", "old"])
    before = {path: path.read_bytes() for path in Path("old").rglob("*") if path.is_file()}
    with_map = [*TOY, "--out", "old", "--map_plots", "1", "--flight_photos", "2"]
    take_photo = survey.take_photo

    def stop(scene, shot, number):
        if number:
            raise KeyboardInterrupt
        return take_photo(scene, shot, number)

    monkeypatch.setattr(survey, "take_photo", stop)
    with pytest.raises(SystemExit):
        prepare.main(with_map)
    assert [path.name for path in workdir.iterdir()] == ["old"]
    assert capsys.readouterr().err == "interrupted\n"
    monkeypatch.setattr(survey, "take_photo", take_photo)
    result = prepare.main(with_map)
    assert not result["rendered"] and result["map"]["rendered"]
    assert len(list(Path("old_map/flight").iterdir())) == 2
    assert not prepare.main(with_map)["map"]["rendered"]
    assert {path: path.read_bytes() for path in Path("old").rglob("*") if path.is_file()} == before
    fails(prepare.main, [*with_map, "--flight_photos", "3"], capsys, "old_map exists and is not")


def test_toy_refuses_bad_numbers(workdir, capsys):
    for option, value in (("--num_train", "0"), ("--image_size", "-3"), ("--drone_frames", "x"),
                          ("--map_plots", "-1"), ("--flight_photos", "0")):  # fmt: skip
        fails(prepare.main, ["toy", option, value], capsys, option)
    fails(prepare.main, ["toy", "--drone_frames", "55"], capsys, "55")
    fails(prepare.main, ["toy", "--map_plots", "13"], capsys, "map_plots is 13, expected")
    assert not (workdir / "data" / "toy").exists()
