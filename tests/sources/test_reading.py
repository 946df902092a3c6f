"""Partial and broken releases: what is missing or no number is named, with file and line."""

import shutil

import published_layouts
from conftest import fails
from conversion import prepare_data

import prepare


def test_missing_files_of_a_split_list(source, workdir, capsys):
    published_layouts.cvusa(source)
    lost = source / "streetview/panos/0000004.jpg"
    lost.unlink()
    (source / "bingmap/19/0000007.jpg").unlink()
    argv = ["cvusa", source, "--out", "out"]
    fails(prepare.main, argv, capsys, "2 of 4 pairs of", "train-19zl.csv", lost, "--skip_missing")
    assert not (workdir / "out").exists()
    result = prepare_data(*argv, "--skip_missing")
    assert result["counts"]["train/satellite"] == result["counts"]["train/street"] == (2, 2)
    assert f"first {lost} (line 3): left out" in result["notes"][0]
    published_layouts.picture(lost)  # the copy is completed in part
    result = prepare_data(*argv, "--skip_missing")
    assert result["counts"]["train/street"] == (3, 3) and result["made"]["hard links"] == 2


def test_nothing_left(source, capsys):
    published_layouts.cvusa(source)
    shutil.rmtree(source / "streetview")
    argv = ["cvusa", source, "--skip_missing"]
    line = fails(prepare.main, argv, capsys, "4 of 4 pairs of", "add what is missing")
    assert "--skip_missing" not in line
    (source / "splits/train-19zl.csv").write_text("\n")
    fails(prepare.main, argv, capsys, "train-19zl.csv is empty: expected CVUSA's list")


def test_broken_releases(source, capsys):
    fails(prepare.main, ["cvusa", source / "absent"], capsys, "absent not found", "bingmap/")
    fails(prepare.main, ["cvusa", source], capsys, "train-19zl.csv not found")
    published_layouts.text(source / "splits/train-19zl.csv", ["bingmap/19/0000001.jpg"])
    fails(prepare.main, ["cvusa", source], capsys, "expected satellite,street")
    fails(prepare.main, ["cvact", source], capsys, "ACT_data.mat not found")
    for content in (b"", b"no mat file, though it is named like one" * 9, b"hello"):
        (source / "ACT_data.mat").write_bytes(content)
        fails(prepare.main, ["cvact", source], capsys, "ACT_data.mat cannot be read")
    fails(prepare.main, ["vigor", source], capsys, "splits/Chicago not found", "train-19zl.csv")
    fails(prepare.main, ["sues200", source], capsys, "neither satellite-view/ nor")
    (source / "satellite-view").mkdir()
    fails(prepare.main, ["sues200", source], capsys, "no drone images of 150 m")
    fails(prepare.main, ["denseuav", source], capsys, "no image for train/drone/")
    fails(prepare.main, ["university160k", source], capsys, "query_drone_160k not found")
    fails(prepare.main, ["limit-views", source, "--views", "3"], capsys, "drone not found")
    fails(prepare.main, ["limit-views", source, "--views", "4"], capsys, "--views")
    fails(prepare.main, ["cvusa", source, "--crop", "0.8,0.2"], capsys, "0.8,0.2")
    fails(prepare.main, ["cvusa", source, "--roll", "east"], capsys, "east")
    fails(prepare.main, ["cvusa", source, "--polar", "112"], capsys, "112")


def test_lists_that_name_what_is_absent(source, capsys):
    """The file and the line: empty lines count."""
    published_layouts.cvusa(source)
    path = source / "splits/train-19zl.csv"
    lines = path.read_text().splitlines()
    published_layouts.text(path, [lines[0], "", lines[1].split(",")[0]])
    fails(prepare.main, ["cvusa", source], capsys, f"{path} line 3 is", "expected satellite,street")
    published_layouts.text(path, [lines[0], "", lines[1].replace("streetview/panos", "streetview")])
    fails(prepare.main, ["cvusa", source], capsys, f"1 of 2 pairs of {path} lack a file",
          "(line 3): add what is missing")  # fmt: skip
    published_layouts.vigor(source)
    path = source / "splits/Chicago/satellite_list.txt"
    lines = path.read_text().splitlines()
    published_layouts.text(path, [*lines, "", "satellite_1_2.png"])
    fails(prepare.main, ["vigor", source], capsys, f"satellite images of {path} lack a file",
          f"satellite_1_2.png (line {len(lines) + 2})")  # fmt: skip
    assert not (source / "data").exists()


def test_broken_lists(source, workdir, capsys):
    published_layouts.vigor(source)
    path = source / "splits/Chicago/same_area_balanced_train.txt"
    lines = path.read_text().splitlines()
    published_layouts.text(path, [lines[0], lines[1].rsplit(" ", 1)[0]])
    fails(prepare.main, ["vigor", source], capsys, f"{path} line 2 has 12 parts")
    published_layouts.text(path, [lines[0].replace("satellite_41.0_", "satellite_99_")])
    fails(prepare.main, ["vigor", source], capsys, "satellite_list.txt does not hold")
    published_layouts.denseuav(source)
    published_layouts.text(source / "Dense_GPS_ALL.txt", ["train/drone/000000/H80.JPG 120.1 30.2"])
    fails(prepare.main, ["denseuav", source], capsys, "Dense_GPS_ALL.txt line 1", "E<lon> N<lat>")
    published_layouts.university(workdir / "u")
    frame = workdir / "u/train/drone/0839/image-01.jpeg"
    frame.rename(frame.with_name("first.jpeg"))
    fails(prepare.main, ["limit-views", workdir / "u", "--views", "3"], capsys,
          "first.jpeg has no frame number")  # fmt: skip


def test_numbers_of_a_release_are_checked_where_they_are_read(source, workdir, capsys):
    """Not later, when a protocol reads the side file that was made of them."""
    published_layouts.cvusa(source / "c")
    path = source / "c/split_locations/all.csv"
    lines = path.read_text().splitlines()
    argv = ["cvusa", source / "c"]
    for third, expected in (
        ("hello", "is not latitude,longitude"),
        ("north,3", "line 3 has 'north'"),
        ("91,3", "line 3 has '91', expected a number from -90 to 90"),
    ):
        published_layouts.text(path, [*lines[:2], third, *lines[3:]])
        fails(prepare.main, argv, capsys, path, expected)
    path.write_bytes(b"\xe9,1\n")
    fails(prepare.main, argv, capsys, f"{path} is not UTF-8 text")
    published_layouts.vigor(source / "v")
    path = source / "v/splits/Chicago/same_area_balanced_train.txt"
    cells = path.read_text().split("\n")[0].split()
    for place, value, expected in (
        (5, "left", "line 1 has 'left', expected a number"),
        (4, "satellite_1_2.png", "line 1 names satellite_1_2.png"),
    ):
        published_layouts.text(path, [" ".join([*cells[:place], value, *cells[place + 1 :]])])
        fails(prepare.main, ["vigor", source / "v"], capsys, path, expected)
    published_layouts.denseuav(source / "d")
    path = source / "d/Dense_GPS_ALL.txt"
    published_layouts.text(path, ["train/drone/000000/H80.JPG E999 N30"])
    fails(prepare.main, ["denseuav", source / "d"], capsys, f"{path} line 1 has '999'")
    assert not (workdir / "data").exists()


def test_what_is_no_file_leaves_no_half_made_tree(source, workdir, capsys):
    """A folder or a dangling link of an image's name is as good as missing."""
    published_layouts.cvusa(source)
    image = source / "bingmap/19/0000003.jpg"
    argv = ["cvusa", source, "--out", "out"]
    for replace in (image.mkdir, lambda: image.symlink_to("nowhere.jpg")):
        image.unlink()
        replace()
        fails(prepare.main, argv, capsys, "train-19zl.csv lack a file", f"{image} (line 2)")
        if image.is_dir():
            image.rmdir()
            image.touch()
    image.unlink()
    published_layouts.picture(image)
    for line, expected in (
        (",,", "line 1 is ',,': expected satellite,street"),
        ("bingmap/19/0000003.jpg,streetview/panos,x", "panos (line 1)"),
    ):
        published_layouts.text(source / "splits/train-19zl.csv", [line])
        fails(prepare.main, argv, capsys, "train-19zl.csv", expected)
    for name in "abcd":
        published_layouts.picture(source / f"satellite/{name}.jpg")
        published_layouts.picture(source / f"drone/{name}.jpg")
    image = source / "drone/b.jpg"
    image.unlink()
    image.mkdir()
    argv = ["pairs", source / "drone", source / "satellite", "--out", "out"]
    fails(prepare.main, argv, capsys, f"{image} cannot be read as an image (a folder, not a file)")
    assert not (workdir / "out").exists()
