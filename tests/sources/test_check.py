"""prepare.py check: what is missing, misnamed or unreadable in a data folder."""

import contextlib
import os
import shutil
import subprocess

import numpy as np
import pytest
from conftest import SMALL, fails
from odd_images import damaged_jpeg, write_deep_png
from PIL import Image

import prepare
import train
from imaging import files, pixels


@pytest.fixture
def data(toy, tmp_path):
    """A copy of the toy campus to spoil."""
    return shutil.copytree(toy, tmp_path / "data")


def notes_of(data):
    return "\n".join(prepare.main(["check", str(data)])["notes"])


def test_a_good_folder(data, capsys):
    result = prepare.main(["check", str(data)])
    assert result["folders"]["train/drone"] == (8, 16)
    assert result["folders"]["test/gallery_drone"] == (7, 14)
    out = capsys.readouterr().out
    assert "can be trained and tested" in out and "problem" not in out


def test_empty_classes_and_lone_ids_are_noted(data):
    building = sorted((data / "train" / "satellite").iterdir())[0]
    for path in (data / "train" / "google" / building.name).iterdir():
        path.unlink()
    shutil.copytree(building, data / "train" / "satellite" / "7777")
    shutil.rmtree(data / "test" / "gallery_street" / sorted(
        path.name for path in (data / "test" / "query_drone").iterdir())[0])  # fmt: skip
    notes = notes_of(data)
    assert "train/google/ has" in notes and building.name in notes
    assert "1 ID(s) only in train/satellite/: 7777" in notes
    assert "1 ID(s) of test/query_drone/ have no image in test/gallery_street/" in notes


def test_wrong_names_and_suffixes_are_noted(data, capsys):
    (data / "train" / "street").rename(data / "train" / "steret")
    (data / "train" / "drone" / "readme.txt").write_text("x")
    image = sorted((data / "train" / "drone").glob("*/*.jpeg"))[0]
    image.rename(image.with_suffix(".heic"))
    notes = notes_of(data)
    assert "train/steret/ is not part of the layout" in notes
    assert "train/drone/ has 2 file(s) that are not read" in notes
    assert f"mv {data}/train/steret {data}/train/street" in capsys.readouterr().out


def test_unreadable_images_are_problems(data, capsys):
    first, second = sorted((data / "test" / "query_drone").glob("*/*.jpeg"))[:2]
    first.write_bytes(b"a text file named .jpeg")
    second.write_bytes(second.read_bytes()[:-200])
    fails(prepare.main, ["check", data], capsys, "2 problem(s)", first)


def test_problems_name_the_command_that_mends_them(data, capsys):
    image = sorted((data / "test" / "query_drone").glob("*/*.jpeg"))[0]
    image.write_bytes(b"")
    with pytest.raises(SystemExit):
        prepare.main(["check", str(data)])
    assert f"mend it with: rm {image}" in capsys.readouterr().out


def test_query_class_that_no_gallery_holds(data, capsys):
    source = sorted((data / "test" / "query_drone").iterdir())[0]
    shutil.copytree(source, data / "test" / "query_drone" / "9998")
    fails(prepare.main, ["check", data], capsys, "no gallery folder holds: 9998")


def test_views_without_common_buildings(data, capsys):
    for view in ("drone", "street", "google", "text"):
        folder = data / "train" / view
        for path in list(folder.iterdir()):
            path.rename(folder / f"{view}-{path.name}")
    fails(prepare.main, ["check", data], capsys, "no two training views share two buildings")


def test_missing_parts(data, capsys):
    fails(prepare.main, ["check", data / "absent"], capsys, "not found")
    (data / "empty").mkdir()
    fails(prepare.main, ["check", data / "empty"], capsys, "holds none of train/drone")
    for path in (data / "train").iterdir():
        if path.name != "satellite":
            shutil.rmtree(path)
    fails(prepare.main, ["check", data], capsys, "training needs two views")
    shutil.rmtree(data / "test")
    with pytest.raises(SystemExit):
        prepare.main(["check", str(data)])
    assert "testing needs test/query_<view>" in capsys.readouterr().out


def test_official_counts_where_the_folder_claims_to_be_university1652(data, tmp_path):
    assert "University-1652" not in notes_of(data)
    renamed = data.rename(tmp_path / "University-1652")
    notes = notes_of(renamed)
    assert "train/drone/ has 8 classes, University-1652 has 701" in notes
    assert "train/drone/ has 16 images, University-1652 has 37854" in notes
    assert "test/gallery_street/ has 7 classes, University-1652 has 793" in notes


def test_a_folder_that_was_made_of_another_data_set_is_judged_by_itself(data, tmp_path):
    """Its name may be that of University-160k, and a folder for tests alone has no train/."""
    renamed = data.rename(tmp_path / "university160k")
    (renamed / "prepare.yaml").write_text("command: university160k\n")
    assert "University-1652" not in notes_of(renamed)
    shutil.rmtree(renamed / "train")
    assert "train/ is missing: this folder is for testing only" in notes_of(renamed)


# ---------------------------------------------------------------- what is no image, or not whole
def mended_by_shell(data, capsys):
    """Run what check offers for its problems, and check again."""
    with pytest.raises(SystemExit):
        prepare.main(["check", str(data)])
    found = capsys.readouterr().out
    for line in found.splitlines():
        if line.startswith("    mend it with: "):
            command = line.removeprefix("    mend it with: ")
            subprocess.run(["bash", "-c", command], check=False)
    return found


def offers(data, capsys):
    """The commands that check offers."""
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        prepare.main(["check", str(data)])
    start = "    mend it with: "
    lines = capsys.readouterr().out.splitlines()
    return [line.removeprefix(start) for line in lines if line.startswith(start)]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "deep", "large", "locked",
                                  "heic", "jxl", "lfs"])  # fmt: skip
def test_what_is_no_image_is_a_problem_and_nothing_is_deleted(data, capsys, kind, monkeypatch):
    path = data / "train" / "drone" / sorted(os.listdir(data / "train" / "drone"))[0] / "b.png"
    expected = "a folder, not a file"
    if kind == "link":
        path.symlink_to("nowhere.png")
        expected = "a link to nowhere.png, which is not there"
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
        expected = "a pipe or a device, not a file"
    elif kind == "heic":  # a telephone's photo, renamed
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
        expected = "a HEIC photo, which Pillow does not read"
    elif kind == "jxl":
        path.write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl " + bytes(99))
        expected = "a JPEG XL image, which Pillow does not read"
    elif kind == "lfs":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
        expected = "a pointer of Git LFS"
    elif kind == "deep":
        write_deep_png(path, np.full((4, 4, 3), 3000, np.uint16))
        expected = "more than 8 bits a colour"
    elif kind == "large":
        Image.new("L", (60, 50)).save(path)
        monkeypatch.setattr(pixels, "MAX_PIXELS", 48 * 48)
        expected = "60 x 50 pixels are more than 2,304"
    else:
        path.touch()
        read = pixels.Path.read_bytes

        def refuse(self):
            if self == path:
                raise PermissionError(13, "Permission denied")
            return read(self)

        monkeypatch.setattr(pixels.Path, "read_bytes", refuse)
        expected = "Permission denied"
    with pytest.raises(SystemExit):
        prepare.main(["check", str(data)])
    out, err = capsys.readouterr()
    assert f"problem: {path} cannot be read as an image ({expected})" in out
    assert "1 problem(s)" in err and "mend it with" not in out


def test_a_link_to_a_missing_class_folder(data, capsys):
    (data / "train" / "drone" / "9999").symlink_to("unmounted")
    fails(prepare.main, ["check", data], capsys, "drone/9999 cannot", "a link to unmounted")


def test_jpegs_that_lost_a_part_are_noted(data):
    pytest.importorskip("simplejpeg")
    first, second = sorted((data / "train" / "drone").glob("*/*.jpeg"))[:2]
    damaged_jpeg(first)
    damaged_jpeg(second)
    assert f"train/drone/ has 2 JPEG(s) of which a part is lost, such as {first} (" in notes_of(
        data
    )


def test_pictures_without_class_folders_get_some(data, capsys):
    """The commonest mistake; the advice was to move the whole view away."""
    view = data / "train" / "drone"
    for folder in list(view.iterdir()):
        image = sorted(folder.iterdir())[0]
        image.rename(view / f"{folder.name}{'.png' if folder.name < '4' else image.suffix}")
        shutil.rmtree(folder)
    (view / sorted(os.listdir(view))[0]).rename(view / "-a b.jpeg")
    found = mended_by_shell(data, capsys)
    assert "problem: train/drone/ has 8 image(s) outside class folders, such as" in found
    assert (view / "-a b" / "-a b.jpeg").is_file()
    result = prepare.main(["check", str(data)])
    assert result["folders"]["train/drone"] == (8, 8)


def test_a_picture_in_a_view_overwrites_none_in_a_class_folder(data, capsys):
    view = data / "train" / "satellite"
    inside = sorted(view.glob("*/*.jpg"))[0]
    before = inside.read_bytes()
    flat = shutil.copy(sorted(view.glob("*/*.jpg"))[1], view / inside.name)
    command = next(line for line in offers(data, capsys) if "mkdir" in line)
    subprocess.run(["bash", "-c", command], check=False)
    assert inside.read_bytes() == before and flat.is_file()


def test_advice_once_followed_is_not_taken_back(data, capsys):
    """A view without images was to be renamed, and then to be renamed again."""
    view = data / "test" / "query_satellite"
    shutil.rmtree(view)
    view.mkdir()
    mended_by_shell(data, capsys)
    assert view.with_name("query_satellite.empty").is_dir() and offers(data, capsys) == []


def test_two_views_are_not_offered_one_name(data, capsys):
    """The second would have been moved into the first, as a class folder."""
    (data / "train" / "drone").rename(data / "train" / "drone_")
    shutil.copytree(data / "train" / "drone_", data / "train" / "drones")
    assert offers(data, capsys) == [f"mv {data}/train/drone_ {data}/train/drone"]


def test_a_query_without_gallery_images_gets_their_folder(data, capsys):
    """The advice was to delete the query."""
    source = sorted((data / "test" / "query_drone").iterdir())[0]
    query = shutil.copytree(source, data / "test" / "query_drone" / "it's new")
    found = mended_by_shell(data, capsys)
    assert "query_drone/ has 1 ID(s) that no gallery folder holds: it's new" in found
    assert query.is_dir() and (data / "test" / "gallery_satellite" / "it's new").is_dir()
    prepare.main(["check", str(data)])


def test_buildings_of_train_among_the_queries_are_noted(data):
    trained = sorted((data / "train" / "drone").iterdir())[0]
    for folder in ("query_drone", "gallery_satellite"):
        shutil.copytree(trained, data / "test" / folder / trained.name)
    assert f"1 ID(s) of the queries also stand in train/: {trained.name}" in notes_of(data)


@pytest.mark.parametrize("split", ["train", "test"])
def test_names_that_differ_only_in_unicode_form(data, capsys, workdir, split):
    """A file system of macOS composes no accents, most others' users do."""
    folders = ("drone", "satellite") if split == "train" else ("query_drone", "gallery_satellite")
    names = ("Caf\u0065\u0301 1", "Caf\u00e9 1")
    for folder, name in zip(folders, names, strict=True):
        source = sorted((data / split / folder).iterdir())[0]
        shutil.copytree(source, data / split / folder / name)
    if split == "train":
        fails(train.main, ["--data_dir", data, *SMALL], capsys, "differ only in Unicode form")
        shutil.copytree(data / split / "drone" / names[0], data / split / "drone" / names[1])
        images = sorted((data / split / "drone" / names[1]).iterdir())
        images[0].rename(images[0].with_name("other.jpeg"))
    else:
        with pytest.raises(ValueError, match="differ only in Unicode form"):
            files.scan_test_folders(data / "test", [("drone", "satellite")])
    found = mended_by_shell(data, capsys)
    assert f"class folders of {split}/ differ only in Unicode form: Caf" in found
    assert r"as 'Cafe\u0301 1' and 'Caf\xe9 1'" in found
    if split == "train":  # an image of one name in both is left for its owner
        left = sorted(path.name for path in (data / "train" / "drone" / names[0]).iterdir())
        assert len(left) == 1
        shutil.rmtree(data / "train" / "drone" / names[0])
    prepare.main(["check", str(data)])
    assert (data / split / folders[0] / names[1]).is_dir()


def test_two_folders_of_one_form_that_neither_has(data, capsys):
    """Vietnamese has letters of two accents: the second folder was moved into the first."""
    view = data / "train" / "satellite"
    first, second = sorted(view.iterdir())[:2]
    first.rename(view / "e\u0302\u0301")
    second.rename(view / "\u00ea\u0301")
    mended_by_shell(data, capsys)
    joined = view / "\u1ebf"
    assert sorted(p.name for p in joined.iterdir()) == [f"{first.name}.jpg", f"{second.name}.jpg"]
