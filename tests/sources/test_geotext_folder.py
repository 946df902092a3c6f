"""GeoText-1652: where its images and descriptions go, and entries that cannot be used."""

import json
import shutil

import published_layouts
import pytest
from conftest import fails
from conversion import expand, made, prepare_data

import prepare
from evaluation.geotext import official_numbers
from evaluation.side_files import read_query_list


def entries_of(source, file, change=None):
    """The entries of a released file; written again after `change`, if given."""
    path = source / f"{file}.json"
    entries = json.loads(path.read_text())
    if change:
        change(entries)
        path.write_text(json.dumps(entries))
    return entries


def test_images_and_texts(source, workdir):
    published_layouts.geotext(source)
    result = prepare_data("geotext", source, "--out", "out")
    train = expand(
        "train/satellite/{0839/0839,0842/0842}.jpg",
        "train/drone/{0839/image-01,0839/image-02,0842/image-54}.jpeg",
        "train/street/0839/1.jpg",
        "train/text/{0839/image-01,0839/image-02,0839/0839,0839/1,0842/0842,0842/image-54}.txt",
    )
    test = expand(
        "test/{query,gallery}_satellite/{0003/0003,0001/0001}.jpg",
        "test/{query,gallery}_drone/{0003/image-01,0001/image-07}.jpeg",
        "test/{query,gallery}_street/0003/3.jpg",
        "test/{query,gallery}_text/{0003/3,0003/image-01,0003/0003,0001/image-07,0001/0001}.txt",
    )
    out = workdir / "out"
    assert made(out, "image_order.txt") == train | {t for each in test for t in expand(each)}
    assert (out / "test/query_drone/0001/image-07.jpeg").samefile(
        source / "images/test/gallery_no_train(250)/0001/image-07.jpeg"
    )
    assert (out / "train/text/0839/1.txt").read_bytes().decode() == "".join(
        f"Train 0839/1.jpg: a café, number {number}.\n" for number in range(3)
    )
    for folder in ("query", "gallery"):
        text = (out / f"test/{folder}_text/0001/0001.txt").read_text()
        assert text.splitlines() == [
            f"Test gallery_no_train(250)/0001/0001.jpg, number {number}." for number in range(3)
        ]
    counts = result["counts"]
    assert counts["train/text"] == (2, 18) and counts["test/query_text"] == (2, 15)
    assert counts["train/drone"] == (2, 3) and counts["test/gallery_street"] == (1, 1)
    assert result["made"] == {"hard links": 16, "text files": 16}


def test_counts_are_compared_and_nothing_is_refused(source, workdir, capsys):
    published_layouts.geotext(source)
    result = prepare_data("geotext", source, "--out", "out", "--dry_run")
    notes = result["notes"]
    assert (
        "train/text/ has 2 classes, 18 texts; GeoText-1652 has 701 classes, 150654 texts" in notes
    )
    street = "test/query_street/ has 1 classes, 1 images; GeoText-1652 has 793 classes, 2921 images"
    assert street in notes and len(notes) == 12
    assert "text" in capsys.readouterr().out and not (workdir / "out").exists()
    smaller = prepare_data("geotext", source, "--out", "out", "--test", "24G")
    assert smaller["counts"]["test/gallery_text"] == (1, 9)
    assert len(smaller["notes"]) == 4  # of its test the counts are not published
    fails(prepare.main, ["geotext", source, "--out", "out"], capsys, "was made with test 24G")


def test_the_order_of_the_released_file_is_kept(source, workdir):
    """As the published code needs it: here image-07 of 0001 would count as 0003."""
    published_layouts.geotext(source)
    prepare_data("geotext", source, "--out", "out")
    order = read_query_list(workdir / "out/image_order.txt")
    assert order == ["0003/3.jpg", "0003/image-01.jpeg", "0003/0003.jpg", "0001/image-07.jpeg",
                     "0001/0001.jpg"]  # fmt: skip
    assert official_numbers(order)[1] == {"0001/image-07"}


def test_a_second_run_and_a_stray_text(source, workdir, capsys):
    published_layouts.geotext(source)
    argv = ["geotext", source, "--out", "out"]
    prepare_data(*argv)
    path = workdir / "out/train/text/0839/1.txt"
    before = path.stat().st_mtime_ns
    damaged = workdir / "out/test/query_text/0003/3.txt"
    damaged.write_text("half")
    (path.parent / ".partial-0123abcd-1.txt").write_text("of a killed run")
    assert prepare_data(*argv)["made"] == {"there already": 16, "text files": 16}
    assert path.stat().st_mtime_ns == before
    assert damaged.read_text().startswith("Test query(701)/0003/3.jpg, number 0.\n")
    assert len(list(path.parent.iterdir())) == 4  # the partial file is gone
    (path.parent / "2.txt").write_text("of an image that is gone")
    fails(
        prepare.main, argv, capsys, "1 images or texts that are no longer", "train/text/0839/2.txt"
    )


def test_images_beside_the_files(source, workdir):
    """As another download lays them out: no images/; and with other views missing."""
    published_layouts.geotext(source)
    for split in ("train", "test"):
        (source / "images" / split).rename(source / split)
    (source / "images").rmdir()
    entries_of(source, "train", lambda e: e.__setitem__(slice(None), e[:6]))  # drones alone
    result = prepare_data("geotext", source, "--out", "out")
    assert result["counts"]["train/text"] == (1, 6) and "train/street" not in result["counts"]
    assert {"nothing for train/satellite/", "nothing for train/street/"} <= set(result["notes"])


# ---------------------------------------------------------------- entries that cannot be used
def put(key, value):
    return lambda entry: entry.__setitem__(key, value)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda entry: entry.pop("caption"), "lacks caption"),
        (put("image_id", None), "lacks image_id"),
        (put("image_id", 839), "has the image_id 839, expected <four digits>/<file name>"),
        (put("image_id", "839/image-1.jpeg"), 'has the image_id "839/image-1.jpeg", expected'),
        (put("image_id", "0839/../x.jpg"), "expected <four digits>/<file name>"),
        (put("image", ["a"]), 'has the image ["a"], expected a path below'),
        (put("image", "../train.json"), 'has the image "../train.json", expected a path below'),
        (put("image", "/etc/passwd"), 'has the image "/etc/passwd", expected a path below'),
        (put("image", "train/0839/image-99.jpeg"), "which is not its image_id"),
        (put("image", "train/0842/0842.jpg"), 'which is not its image_id, "0839/image-02.jpeg"'),
        (put("caption", ""), "has an empty caption"),
        (put("caption", " \n\u2028"), "has an empty caption"),
        (put("caption", []), "has an empty caption"),
        (put("caption", ["fine", "\t"]), "has an empty caption"),
        (put("caption", 7), "has the caption 7, expected text or a list of texts"),
        (put("caption", ["a", 7]), 'has the caption ["a", 7], expected text'),
        (put("caption", "half \ud83d"), "has a caption with half a character"),
    ],
)
def test_faulty_entries(source, workdir, capsys, change, reason):
    published_layouts.geotext(source)
    entries_of(source, "train", lambda entries: change(entries[4]))
    argv = ["geotext", source, "--out", "out"]
    fails(prepare.main, argv, capsys, f"{source}/train.json: entry 5 ", reason, "--skip_missing")
    assert not (workdir / "out").exists()
    result = prepare_data(*argv, "--skip_missing")
    assert result["counts"]["train/text"] == (2, 17)
    [note] = [note for note in result["notes"] if note.endswith(": left out")]
    assert reason in note


def test_faults_of_all_files_are_gathered(source, workdir, capsys):
    published_layouts.geotext(source)
    gone = source / "images/test/query(701)/0003/3.jpg"
    gone.unlink()

    def break_several(entries):
        entries[1] = "no object"
        for entry in entries[5:9]:
            entry["caption"] = ""

    entries_of(source, "train", break_several)
    argv = ["geotext", source, "--out", "out"]
    line = fails(prepare.main, argv, capsys, "entry 2 is \"no object\", expected an object with",
                 "entry 6 has an empty caption, entry 7 has an empty caption, and 2 more",
                 f"test_951_version.json: entry 1 names {gone}, which is not there")  # fmt: skip
    assert "unpack" not in line
    (source / "images/test/part.tar.gz").write_bytes(b"")
    fails(prepare.main, argv, capsys, "part.tar.gz into ")
    result = prepare_data(*argv, "--skip_missing")
    assert result["counts"]["test/query_text"] == (2, 12)
    assert result["counts"]["train/text"] == (2, 13)
    assert result["counts"]["train/satellite"] == (2, 2)  # an image stays without its text
    assert (workdir / "out/image_order.txt").read_text().startswith("0003/image-01.jpeg\n")


def test_names_that_texts_cannot_tell_apart(source, workdir, capsys):
    """1.jpg and 1.png would share 1.txt; a name of another kind is taken as from the street."""
    published_layouts.geotext(source)
    for name in ("1.png", "IMG.jpg"):
        path = published_layouts.picture(source / "images/train/0839" / name)
        new = {"image_id": f"0839/{name}", "image": f"train/0839/{name}", "caption": "A door."}
        entries_of(source, "train", lambda entries, new=new: entries.append(new))
    argv = ["geotext", source, "--out", "out"]
    fails(
        prepare.main, argv, capsys, "entry 19 names", "1.png, whose texts would mix with those of"
    )
    result = prepare_data(*argv, "--skip_missing")
    assert result["counts"]["train/street"] == (1, 2)
    [note] = [note for note in result["notes"] if "named neither" in note]
    assert note.startswith("1 images are named neither image-NN, nor by their building, nor by a")
    assert note.endswith(f"first {path}: taken as images from the street")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[{", "is not JSON: Expecting property name"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("<html>", "a web page or XML: download the file again"),
        ("", "is not JSON: empty"),
        ("[" * 10**5, "is not JSON: "),
        ('{"image_id": 1}', "holds no list of entries"),
        ("[]", "holds no list of entries"),
        ("[1, 2]", "no entry can be used of "),
    ],
)
def test_broken_files(source, workdir, capsys, text, reason):
    published_layouts.geotext(source)
    (source / "test_951_version.json").write_text(text)
    fails(prepare.main, ["geotext", source, "--out", "out", "--skip_missing"], capsys,
          "test_951_version.json", reason)  # fmt: skip
    assert not (workdir / "out").exists()


def test_archives_that_are_still_packed(source, workdir, capsys):
    """The first mistake: nothing is there, and what must be done is said."""
    published_layouts.geotext(source)
    shutil.rmtree(source / "images/train")
    archive = source / "images/train.tar.gz"
    archive.write_bytes(b"")
    fails(prepare.main, ["geotext", source, "--out", "out"], capsys, "no entry can be used of ",
          f"unpack {archive} into {source / 'images'}")  # fmt: skip


def test_missing_files(source, workdir, capsys):
    fails(prepare.main, ["geotext", source / "none"], capsys, "with train.json and images/")
    published_layouts.geotext(source)
    (source / "test_24G_version.json").unlink()
    fails(prepare.main, ["geotext", source, "--test", "24G"], capsys, "24G_version.json not found")
    (source / "train.json").write_bytes(b"\xff\xfe")
    fails(prepare.main, ["geotext", source], capsys, "train.json is not UTF-8")
