"""University-160k, fewer drone images to train on, and test images under weather."""

from functools import partial

import numpy as np
import published_layouts
import pytest
from conftest import fails
from conversion import expand, made, prepare_data, train_and_test, tree

import prepare


def test_university160k(source, workdir):
    published_layouts.university160k(source)
    result = prepare_data("university160k", source, "--out", "out")
    expected = expand("test/query_drone/unknown/{zQ1x,aB2y,mC3z}.jpeg",
                      "test/gallery_satellite/{s1Ab/s1Ab.jpg,s2Cd/s2Cd.webp,s3Ef/s3Ef.jpg}",
                      "train/google/{0839,0842}/0.jpg",
                      "train/street/{0839,0842,1057}/1.jpg")  # fmt: skip
    expected |= {f"train/satellite/{n}/{n}.jpg" for n in ("0839", "0842", "1057")}
    expected |= {f"train/drone/{n}/image-{f:02d}.jpeg" for n in ("0839", "0842", "1057")
                 for f in range(1, 55)}  # fmt: skip
    assert made(workdir / "out", "query_drone_name.txt") == expected
    order = (workdir / "out/query_drone_name.txt").read_text()
    assert order == "zQ1x.jpeg\naB2y.jpeg\nmC3z.jpeg\n"  # as published, not sorted
    assert (workdir / "out/train/google/1057").is_dir()  # an empty class stays one
    assert result["counts"]["train/google"] == (3, 2)
    note = "4 classes, 3 images; University-160k has 167486 or 168437 images"
    assert result["notes"] == [f"test/gallery_satellite/ has {note}"]
    metrics = train_and_test("out", "satellite,drone", "drone", "satellite")
    assert (metrics["num_queries"], metrics["num_gallery"], metrics["num_unmatched"]) == (3, 3, 3)


def test_university160k_with_the_training_folder_elsewhere(source, workdir, capsys):
    published_layouts.university160k(source)
    (source / "train").rename(workdir / "train")
    result = prepare_data("university160k", source / "test", "--out", "out", "--dry_run")
    assert not any(folder.startswith("train") for folder in result["counts"])
    assert any("add --train" in note for note in result["notes"])
    result = prepare_data("university160k", source / "test", "--out", "out", "--train", workdir)
    assert result["counts"]["train/drone"] == (3, 162)
    fails(prepare.main, ["university160k", source, "--train", source / "test"], capsys, "no train/")


def test_answers_of_university160k_are_distinct(source, workdir, capsys):
    """An answer is a file stem, so that two images of one stem would be one answer."""
    published_layouts.university160k(source)
    gallery = source / "test/gallery_satellite_160k"
    argv = ["university160k", source, "--out", "out"]
    for name in (f"{min(gallery.rglob('*.jpg')).stem}.png", "unknown.png"):
        other = published_layouts.picture(gallery / "more" / name)
        fails(prepare.main, argv, capsys, "are one answer", other.stem)
        other.unlink()
    names = next(source.rglob("query_drone_name.txt"))
    lines = names.read_text().splitlines()
    published_layouts.text(names, [*lines, lines[0]])
    fails(prepare.main, argv, capsys, f"{names} names {lines[0]} more than once")
    assert not (workdir / "out").exists()


@pytest.mark.parametrize("views, frames", [
    (1, [1]), (3, [1, 19, 37]), (9, [1, 7, 13, 19, 25, 31, 37, 43, 49]),
    (18, list(range(1, 55, 3))), (27, list(range(1, 55, 2)))])  # fmt: skip
def test_limit_views(source, workdir, views, frames):
    published_layouts.university(source)
    result = prepare_data("limit-views", source, "--views", str(views), "--out", "out")
    files = made(workdir / "out")
    drone = {path for path in files if path.startswith("train/drone")}
    assert drone == {f"train/drone/{name}/image-{frame:02d}.jpeg" for frame in frames
                     for name in ("0839", "0842", "1057")}  # fmt: skip
    published = tree(source)
    assert files - drone == {
        path for path in published if not path.startswith(("train/drone", "test/4K_drone"))
    }
    assert result["notes"] == [] and result["counts"]["train/google"] == (3, 2)
    if views == 3:
        metrics = train_and_test("out", "satellite,drone", "satellite", "drone")
        assert (metrics["num_queries"], metrics["num_gallery"]) == (2, 4)
        renamed = source.rename(workdir / "University-Release")
        notes = prepare_data("limit-views", renamed, "--views", "3", "--out", "o", "--dry_run")
        assert notes["notes"] == [
            "train/drone/ has 3 classes, 9 images; University-1652 has 701 classes, 2103 images"
        ]


def test_wx_has_the_pixels_that_test_draws(toy, tmp_path):
    """prepare.py wx and test.py --weather: the same images, PNG against drawn when loaded."""
    from imaging import cache, weather

    out = tmp_path / "wx"
    prepare.main(["wx", str(toy), "--out", str(out), "--conditions", "rain,normal"])
    assert sorted(path.name for path in out.iterdir()) == ["normal", "prepare.yaml", "rain"]
    originals = sorted((toy / "test" / "query_drone").rglob("*.jpeg"))
    assert originals
    for path in originals:
        name = path.relative_to(toy)
        rain = partial(weather.draw_weather, condition="rain")
        drawn = cache.load_resized(path, 40, 40, rain)
        written = out / "rain" / name.with_suffix(".png")
        assert np.array_equal(cache.load_resized(written, 40, 40), drawn)
        assert not np.array_equal(cache.load_resized(path, 40, 40), drawn)
        assert (out / "normal" / name).samefile(path)
    satellite = next((toy / "test" / "gallery_satellite").rglob("*.jpg"))
    assert (out / "rain" / satellite.relative_to(toy)).samefile(satellite)
