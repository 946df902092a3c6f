"""CVUSA and CVACT into our layout, and what changes the pixels of panoramas."""

import math
import os

import numpy as np
import published_layouts
from conversion import braces, made, prepare_data, read_table, train_and_test
from PIL import Image

from sources.panoramas import PanoramaChange, panorama_change, polar_transform


def test_cvusa(source, workdir, capsys):
    published_layouts.cvusa(source)
    result = prepare_data("cvusa", source, "--out", "out")
    train_names, test_names = "{0000001,0000003,0000004,0000007}", "{0000002,0000006,0000009}"
    expected = {f"train/{view}/{name}/{name}.jpg" for view in ("satellite", "street")
                for name in braces(train_names)}  # fmt: skip
    expected |= {f"{folder}/{name}/{name}.jpg" for name in braces(test_names)
                 for folder in braces("test/{query,gallery}_{satellite,street}")}  # fmt: skip
    assert made(workdir / "out", "coordinates.csv") == expected
    assert result["counts"]["train/street"] == (4, 4)
    assert result["counts"]["test/query_street"] == (3, 3)
    same = (source / "bingmap/19/0000006.jpg", workdir / "out/test/gallery_satellite/0000006")
    assert os.path.samefile(same[0], same[1] / "0000006.jpg")
    assert os.path.samefile(source / "streetview/panos/0000001.jpg",
                            workdir / "out/train/street/0000001/0000001.jpg")  # fmt: skip
    rows = {row["building"]: row for row in read_table(workdir / "out/coordinates.csv")}
    assert rows.keys() == braces(train_names) | braces(test_names)
    assert (rows["0000006"]["latitude"], rows["0000006"]["longitude"]) == ("36.5", "-86.25")
    note = "train/satellite/ has 4 classes, 4 images; CVUSA has 35532 classes, 35532 images"
    assert result["notes"][0] == note and len(result["notes"]) == 6
    note = "test/query_street/ has 3 classes, 3 images; CVUSA has 8884 classes, 8884 images"
    assert note in result["notes"] and f"note: {note}\n" in capsys.readouterr().out
    metrics = train_and_test("out", "satellite,street", "street", "satellite")
    assert (metrics["num_queries"], metrics["num_gallery"], metrics["num_unmatched"]) == (3, 3, 0)


def test_cvact(source, workdir):
    published_layouts.cvact(source)
    ids = published_layouts.CVACT_IDS
    result = prepare_data("cvact", source, "--out", "out")
    files = {"satellite": "{0}/{0}_satView_polish.jpg", "street": "{0}/{0}_grdView.jpg"}
    expected = {f"train/{view}/{files[view].format(name)}" for view in files for name in ids[:4]}
    expected |= {f"test/{role}_{view}/{files[view].format(name)}" for view in files
                 for name in ids[5:8] for role in ("query", "gallery")}  # fmt: skip
    assert made(workdir / "out", "utm.csv") == expected
    assert any(note.startswith("1 of 5 train pairs of CVACT lack a file, first") and ids[4] in note
               for note in result["notes"])  # fmt: skip
    rows = {row["building"]: row for row in read_table(workdir / "out/utm.csv")}
    assert rows.keys() == {*ids[:4], *ids[5:8]}
    assert float(rows[ids[6]]["easting"]) == 690006.5 and rows[ids[6]]["northing"] == "6090006.0"
    metrics = train_and_test("out", "satellite,street", "street", "satellite")
    assert (metrics["num_queries"], metrics["num_gallery"], metrics["num_unmatched"]) == (3, 3, 0)

    result = prepare_data("cvact", source, "--out", "large", "--test_set", "test", "--dry_run")
    assert result["counts"]["test/gallery_satellite"] == (2, 2)  # two pairs in ANU_data_test
    assert any("2 images; CVACT has 92802 classes" in note for note in result["notes"])


def test_a_place_that_is_in_train_and_test_is_noted(source, workdir):
    published_layouts.cvusa(source)
    train, test = (source / f"splits/{split}-19zl.csv" for split in ("train", "val"))
    lines = [*train.read_text().splitlines()[:1], *test.read_text().splitlines()]
    published_layouts.text(test, lines)
    notes = prepare_data("cvusa", source, "--out", "out")["notes"]
    assert any("1 pairs are listed more than once" in note for note in notes)


def polar_pixel(image, i, j, height, width):
    """The published formula for one pixel, with bilinear interpolation in float64."""
    size = image.shape[0]
    radius, angle = size / 2 / height * (height - 1 - i), 2 * math.pi * j / width
    y, x = size / 2 + radius * math.cos(angle), size / 2 - radius * math.sin(angle)
    top, left = int(y), int(x)
    value = np.zeros(3)
    for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight in ((left, left + 1 - x), (left + 1, x - left)):
            if row < size and column < size:
                value += row_weight * weight * image[row, column]
    return value


def test_polar_transform_equals_the_published_formula():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (75, 75, 3), dtype=np.uint8)
    height, width = 11, 28  # the side is longer than twice the height, as published
    ours = polar_transform(image, height, width)
    assert ours.shape == (height, width, 3) and ours.dtype == np.uint8
    for i in range(height):
        for j in range(width):
            assert np.abs(ours[i, j] - polar_pixel(image, i, j, height, width)).max() <= 0.501


def test_polar_transform_by_hand():
    """Last row: the middle. First column: straight down (south); a quarter on: to the left."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[4, 4] = 10
    image[6, 4], image[2, 4], image[4, 2], image[4, 6] = 60, 20, 42, 46
    out = polar_transform(image, height=2, width=4)[..., 0]
    assert out.tolist() == [[60, 42, 20, 46], [10, 10, 10, 10]]
    assert polar_transform(np.full((750, 750, 3), 7, np.uint8)).shape == (112, 616, 3)
    # Where the side is short, the edge is repeated: no black seam.
    assert (polar_transform(np.full((9, 9, 3), 200, np.uint8)) == 200).all()


def test_crop_and_roll_by_hand():
    image = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    out = PanoramaChange(0.25, 0.75, roll=90)(image)
    assert out.shape == (2, 8, 3)
    assert (out[:, 2:] == image[1:3, :6]).all() and (out[:, :2] == image[1:3, 6:]).all()
    assert PanoramaChange(0.0, 0.01)(image).shape == (1, 8, 3)
    assert panorama_change((0, 1), 0.0, 0, "a") is None
    rolls = {panorama_change((0, 1), "random", seed, name).roll
             for seed in (0, 1) for name in "abc"}  # fmt: skip
    assert len(rolls) == 6 and all(0 <= roll <= 360 for roll in rolls)


def test_converted_images(source, workdir):
    published_layouts.cvact(source)
    name, polar = published_layouts.CVACT_IDS[0], polar_transform
    result = prepare_data("cvact", source, "--out", "out", "--polar", "16x48",
                          "--crop", "0.25,0.75", "--roll", "-90", "--num_workers", "2")  # fmt: skip
    assert result["made"] == {"converted": 20}
    for view, file_name, change in (
        ("satellite", "satview_polish/{}_satView_polish", lambda a: polar(a, 16, 48)),
        ("street", "streetview/{}_grdView", lambda a: np.roll(a[8:24], -16, axis=1)),
    ):
        image = source / f"ANU_data_small/{file_name.format(name)}.jpg"
        path = workdir / f"out/train/{view}/{name}/{image.name}"
        expected = change(np.array(Image.open(image)))
        found = np.array(Image.open(path))
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 2  # JPEG of quality 95
        assert not path.samefile(image)
    metrics = train_and_test("out", "satellite,street", "satellite", "street")
    assert metrics["num_queries"] == 3
    image = source / f"ANU_data_small/streetview/{name}_grdView.jpg"
    os.utime(image, (1, 1))
    argv = ["--polar", "16x48", "--crop", "0.25,0.75", "--roll", "-90"]
    again = prepare_data("cvact", source, "--out", "out", *argv)
    assert again["made"] == {"there already": 19, "converted": 1}
    again = prepare_data("cvact", source, "--out", "out", *argv)
    assert again["made"] == {"there already": 20}  # the new one is as old as its source
