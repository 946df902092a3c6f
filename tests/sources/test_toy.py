"""prepare.py toy: the toy campus on disk."""

import shutil
from pathlib import Path

import pytest
from conftest import fails

import prepare
from runtime.files import read_yaml, write_yaml
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


def test_a_campus_of_before_gets_its_descriptions(workdir, capsys):
    """Killed before all are written, or of other words: they are written again, and no image is."""
    prepare.main([*TOY, "--out", "toy"])
    fresh = {path: path.read_bytes() for path in Path("toy").rglob("*") if path.is_file()}
    mark = read_yaml("toy/campus.yaml")
    assert mark["texts"] == 1 and len(list(Path("toy").rglob("*.txt"))) == 4 + 2 + 3
    for folder in ("train/text", "test/query_text", "test/gallery_text"):
        shutil.rmtree(Path("toy", folder))
    write_yaml("toy/campus.yaml", {name: mark[name] for name in mark if name != "texts"})
    times = {path: path.stat().st_mtime_ns for path in Path("toy").rglob("*.jp*g")}
    capsys.readouterr()
    result = prepare.main([*TOY, "--out", "toy"])
    assert not result["rendered"] and result["train/text"] == 12 and result["test/query_text"] == 6
    assert capsys.readouterr().out == (
        "toy is there already; added: 12 train/text, 6 test/query_text, 9 test/gallery_text\n"
    )
    assert {path: path.read_bytes() for path in Path("toy").rglob("*") if path.is_file()} == fresh
    assert {path: path.stat().st_mtime_ns for path in times} == times and times
    assert "train/text" not in prepare.main([*TOY, "--out", "toy"])
    assert prepare.main(["check", "toy"])["folders"]["test/gallery_text"] == (3, 9)


def test_toy_refuses_bad_numbers(workdir, capsys):
    for option, value in (("--num_train", "0"), ("--image_size", "-3"), ("--drone_frames", "x"),
                          ("--map_plots", "-1"), ("--flight_photos", "0")):  # fmt: skip
        fails(prepare.main, ["toy", option, value], capsys, option)
    fails(prepare.main, ["toy", "--drone_frames", "55"], capsys, "55")
    fails(prepare.main, ["toy", "--map_plots", "13"], capsys, "map_plots is 13, expected")
    assert not (workdir / "data" / "toy").exists()
