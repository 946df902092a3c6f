"""prepare.py check: what is missing, misnamed or unreadable in a data folder."""

import shutil

import pytest
from conftest import fails

import prepare


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
    for view in ("drone", "street", "google"):
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
