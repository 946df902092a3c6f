"""Published layouts into ours: which file goes where, links, resuming, pixels, and a whole run."""

import csv
import math
import os
import shutil
from functools import partial

import numpy as np
import published_layouts
import pytest
from conftest import SMALL, fails
from PIL import Image

import convert
import prepare
import test as test_script
import train


def braces(text):
    """{"a/1/x", "a/2/x"} of "a/{1,2}/x", as a shell expands it."""
    head, brace, rest = text.partition("{")
    if not brace:
        return {text}
    inner, _, tail = rest.partition("}")
    return {head + part + end for part in inner.split(",") for end in braces(tail)}


def expand(*texts):
    return set().union(*map(braces, texts))


def tree(root):
    """Relative paths of all files."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def made(root, *sidecars):
    """The images of a prepared folder; asserts which other files there are."""
    files = tree(root)
    assert {"prepare.yaml", *sidecars} <= files
    return files - {"prepare.yaml", *sidecars}


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def source(workdir):
    """An empty folder for a published tree."""
    folder = workdir / "downloads"
    folder.mkdir()
    return folder


def prepare_data(*argv):
    return prepare.main([str(part) for part in argv])


def train_and_test(data, views, query, gallery):
    """Check, train an epoch on two views, test on one task; returns the metrics."""
    prepare.main(["check", str(data)])
    run = ["--name", "run", "--data_dir", str(data), "--views", views, "--train_all"]
    train.main([*SMALL, *run, "--epochs", "1", "--overwrite"])
    task = ["--query", query, "--gallery", gallery, "--num_workers", "0", "--device", "cpu"]
    return test_script.main(["--name", "run", "--test_dir", str(data), *task])


# ---------------------------------------------------------------- where files go
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


def test_vigor_same_area(source, workdir):
    published_layouts.vigor(source)
    result = prepare_data("vigor", source, "--out", "out")
    expected = set()
    for index, city in enumerate(published_layouts.VIGOR_CITIES):
        tile = [f"satellite_{41 + index}.{n}_-87.{n}" for n in range(4)]
        pano = [f"p{n}Id_-x,{41 + index}.00{n},-87.00{n},.jpg" for n in range(4)]
        for n, positive in ((0, 0), (2, 1)):
            expected.add(f"train/street/{city}_{tile[positive]}/{pano[n]}")
            expected.add(f"train/satellite/{city}_{tile[positive]}/{tile[positive]}.png")
        for n, positive in ((1, 0), (3, 2)):
            expected.add(f"test/query_street/{city}_{tile[positive]}/{pano[n]}")
        expected |= {f"test/gallery_satellite/{city}_{name}/{name}.png" for name in tile}
    assert made(workdir / "out", "coordinates.csv", "semi_positives.csv") == expected
    rows = read_table(workdir / "out/semi_positives.csv")
    assert len(rows) == 16 and {row["panorama"] for row in rows} == {
        path for path in expected if "street" in path
    }
    name = "test/query_street/NewYork_satellite_42.2_-87.2/p3Id_-x,42.003,-87.003,.jpg"
    row = next(row for row in rows if row["panorama"] == name)
    assert list(row.items()) == [
        ("panorama", name),
        ("latitude", "42.003"),
        ("longitude", "-87.003"),
        ("positive", "NewYork_satellite_42.2_-87.2"),
        ("positive_delta_1", "3.5"),
        ("positive_delta_2", "-0.25"),
        ("semi_1", "NewYork_satellite_42.3_-87.3"),
        ("semi_1_delta_1", "4.5"),
        ("semi_1_delta_2", "-1.25"),
        ("semi_2", "NewYork_satellite_42.0_-87.0"),
        ("semi_2_delta_1", "5.5"),
        ("semi_2_delta_2", "-2.25"),
        ("semi_3", "NewYork_satellite_42.1_-87.1"),
        ("semi_3_delta_1", "6.5"),
        ("semi_3_delta_2", "-3.25"),
    ]
    places = {row["building"]: row for row in read_table(workdir / "out/coordinates.csv")}
    assert len(places) == 16
    assert places["Seattle_satellite_44.3_-87.3"]["latitude"] == "44.3"
    assert places["Seattle_satellite_44.3_-87.3"]["longitude"] == "-87.3"
    assert "test/query_street/ has 8 classes, 8 images; VIGOR has 52605 images" in result["notes"]
    assert sum("; VIGOR has 90618 classes, 90618 images" in note for note in result["notes"]) == 1
    metrics = train_and_test("out", "satellite,street", "street", "satellite")
    assert (metrics["num_queries"], metrics["num_gallery"]) == (8, 16)
    assert (metrics["num_distractors"], metrics["num_unmatched"]) == (8, 0)


def test_vigor_cross_area_and_other_arrangements(source, workdir):
    published_layouts.vigor(source, "__corrected")
    for city in published_layouts.VIGOR_CITIES:  # as Sample4Geo expects it
        (source / "ground").mkdir(exist_ok=True)
        (source / "satellite").mkdir(exist_ok=True)
        (source / city / "panorama").rename(source / "ground" / city)
        (source / city / "satellite").rename(source / "satellite" / city)
    result = prepare_data("vigor", source, "--out", "out", "--area", "cross",
                          "--splits", "splits__corrected")  # fmt: skip
    counts = {"train/street": (6, 8), "train/satellite": (6, 6), "test/query_street": (6, 8),
              "test/gallery_satellite": (8, 8)}  # fmt: skip
    assert result["counts"] == counts
    cities = {f: {p.name.split("_")[0] for p in (workdir / "out" / f).iterdir()} for f in counts}
    assert cities["train/street"] == cities["train/satellite"] == {"NewYork", "Seattle"}
    assert cities["test/query_street"] == cities["test/gallery_satellite"] == {
        "SanFrancisco", "Chicago"}  # fmt: skip
    note = "test/gallery_satellite/ has 8 classes, 8 images; VIGOR has 46563 classes, 46563 images"
    assert note in result["notes"]


def test_vigor_with_missing_satellite_images(source, workdir, capsys):
    published_layouts.vigor(source)
    lost = source / "Chicago/satellite/satellite_41.1_-87.1.png"  # positive of panorama 2
    lost.unlink()
    fails(prepare.main, ["vigor", source, "--out", "out"], capsys, "1 of 2 panoramas of", lost)
    result = prepare_data("vigor", source, "--out", "out", "--skip_missing")
    assert result["counts"]["train/street"] == (7, 7)
    assert result["counts"]["test/query_street"] == (8, 8)
    assert result["counts"]["test/gallery_satellite"] == (15, 15)
    rows = {row["panorama"]: row for row in read_table(workdir / "out/semi_positives.csv")}
    # Of a query, what is not in the gallery is left empty; panorama 1 has 0, 1, 2, 3.
    row = rows["test/query_street/Chicago_satellite_41.0_-87.0/p1Id_-x,41.001,-87.001,.jpg"]
    assert [row["positive"], row["semi_1"], row["semi_1_delta_1"], row["semi_2"]] == [
        "Chicago_satellite_41.0_-87.0", "", "", "Chicago_satellite_41.2_-87.2"]  # fmt: skip


def sues200_targets(height, train_places, test_places, drone_files):
    files = {"drone": drone_files, "satellite": ["0.png"]}
    folders = {"train/": train_places, "test/query_": test_places,
               "test/gallery_": [*train_places, *test_places]}  # fmt: skip
    return {f"{height}/{folder}{view}/{place}/{name}" for folder, places in folders.items()
            for place in places for view in files for name in files[view]}  # fmt: skip


def test_sues200(source, workdir):
    published_layouts.sues200(source)
    result = prepare_data("sues200", source, "--out", "out")
    expected = set().union(*(
        sues200_targets(height, ["0001", "0002"], ["0008", "0012"], ["0.jpg", "1.jpg"])
        for height in (150, 200, 250, 300)))  # fmt: skip
    assert made(workdir / "out") == expected
    assert os.path.samefile(source / "drone_view_512/0008/250/1.jpg",
                            workdir / "out/250/test/query_drone/0008/1.jpg")  # fmt: skip
    assert len(result["notes"]) == 24  # six folders for each height
    note = "300/test/gallery_drone/ has 4 classes, 8 images; SUES-200 has 200 classes, 10000 images"
    assert note in result["notes"]
    metrics = train_and_test("out/200", "satellite,drone", "drone", "satellite")
    assert (metrics["num_queries"], metrics["num_gallery"]) == (4, 4)
    assert (metrics["num_distractors"], metrics["num_unmatched"]) == (2, 0)

    prepare_data("sues200", source, "--out", "all", "--height", "150", "300", "--mixed")
    names = ["150_0.jpg", "150_1.jpg", "300_0.jpg", "300_1.jpg"]
    expected = sues200_targets("mixed", ["0001", "0002"], ["0008", "0012"], names)
    assert made(workdir / "all") == expected


def test_sues200_as_its_script_divided_it(source, workdir, capsys):
    """Published defect: the script's path to its list is wrong, so people have their own splits."""
    published_layouts.sues200_divided(source)
    prepare_data("sues200", source, "--out", "out", "--height", "150")
    expected = sues200_targets(150, ["0001", "0012"], ["0002", "0008"], ["0.jpg"])
    assert made(workdir / "out") == expected
    fails(prepare.main, ["sues200", source, "--out", "other"], capsys, "200", "Testing")


def test_sues200_places_to_train_on():
    places = convert._numbered(convert.SUES200_TRAIN)
    assert len(places) == 120 and {"0001", "0011", "0100", "0200"} <= places
    assert not places & {"0008", "0012", "0014", "0107", "0201"} and max(places) == "0200"


def test_denseuav(source, workdir):
    published_layouts.denseuav(source)
    result = prepare_data("denseuav", source, "--out", "out")
    places = {"train/": "{000000,000001,000002}", "test/query_": "{002256,002257}",
              "test/gallery_": "{000000,000001,000002,002256,002257}"}  # fmt: skip
    heights = "H{80,90,100}"
    expected = expand(*(f"{folder}drone/{names}/{heights}.JPG" for folder, names in places.items()),
                      *(f"{folder}satellite/{names}/{heights}{{,_old}}.tif"
                        for folder, names in places.items()))  # fmt: skip
    assert made(workdir / "out", "coordinates.csv") == expected
    rows = {row["building"]: row for row in read_table(workdir / "out/coordinates.csv")}
    assert len(rows) == 5
    assert (rows["002257"]["latitude"], rows["002257"]["longitude"]) == ("30.12", "120.11")
    note = "gallery_satellite/ has 5 classes, 30 images; DenseUAV has 3033 classes, 18198 images"
    assert f"test/{note}" in result["notes"]
    metrics = train_and_test("out", "satellite,drone", "drone", "satellite")
    assert (metrics["num_queries"], metrics["num_gallery"], metrics["num_distractors"]) == (
        6, 30, 18)  # fmt: skip


def test_denseuav_heights_and_a_release_without_galleries(source, workdir):
    published_layouts.denseuav(source, gallery=False)
    result = prepare_data("denseuav", source, "--out", "out", "--height", "80", "100", "--no_old")
    places = {"train/": "{000000,000001,000002}", "test/query_": "{002256,002257}",
              "test/gallery_": "{000000,000001,000002,002256,002257}"}  # fmt: skip
    expected = expand(*(f"{folder}{view}/{names}/H{{80,100}}.{end}"
                        for view, end in (("drone", "JPG"), ("satellite", "tif"))
                        for folder, names in places.items()))  # fmt: skip
    assert made(workdir / "out", "coordinates.csv") == expected
    # 777 places at two of three heights, without the older of two satellite images
    note = "query_satellite/ has 2 classes, 4 images; DenseUAV has 777 classes, 1554 images"
    assert f"test/{note}" in result["notes"]


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
    own = tree(source)
    assert files - drone == {
        path for path in own if not path.startswith(("train/drone", "test/4K_drone"))
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


# ---------------------------------------------------------------- the user's own pairs
def test_pairs_of_folders(source, workdir):
    published_layouts.pair_folders(source)
    result = prepare_data("pairs", source / "photos", source / "tiles", "--views",
                          "drone,satellite", "--out", "out", "--test_share", "0.4")  # fmt: skip
    files = made(workdir / "out")
    test_names = {path.split("/")[2] for path in files if path.startswith("test/")}
    assert len(test_names) == 2  # 0.4 of six
    ends = {"drone": "jpg", "satellite": "png"}
    assert files == {
        f"{folder}{view}/{name}/{name}.{ends[view]}"
        for view in ends
        for name in (f"place {n}" for n in range(6))
        for folder in (("test/query_", "test/gallery_") if name in test_names else ("train/",))
    }
    assert result["notes"] == [
        f"1 stems of {source / 'photos'} have no partner and are left out, first alone"
    ]
    again = prepare_data("pairs", source / "photos", source / "tiles", "--views",
                         "drone,satellite", "--out", "b", "--test_share", "0.4")  # fmt: skip
    assert made(workdir / "b") == files and again["counts"] == result["counts"]
    folders, views, splits = [source / "photos", source / "tiles"], ("drone", "satellite"), set()
    for seed in range(8):
        plan = convert.plan_pairs(folders, views=views, test_share=0.4, seed=seed)
        splits.add(frozenset(e.target.split("/")[2] for e in plan.entries if "test/" in e.target))
    assert len(splits) > 1


def test_pairs_of_a_table(source, workdir):
    published_layouts.pair_table(source)
    prepare_data("pairs", source / "pairs.csv", "--out", "out")
    files = made(workdir / "out", "coordinates.csv")
    # Rows 1 and 2 share a tile: one building, whose photos have one name.
    first = {path for path in files if "drone/0001/" in path}
    assert {path.split("/")[-1] for path in first} == {"view.jpg", "view_1.jpg"}
    assert not any("/0002/" in path for path in files)
    assert {path.split("/")[2] for path in files} == {"0001", "0003", "0004", "0005", "0006"}
    assert os.path.samefile(source / "photos/1/view.jpg", workdir / "out" / next(
        path for path in first if path.endswith("view_1.jpg")))  # fmt: skip
    rows = [(row["building"], row["latitude"], row["longitude"])
            for row in read_table(workdir / "out/coordinates.csv")]  # fmt: skip
    assert rows == [("0001", "48.0", "11.0"), ("0003", "48.2", "11.2"), ("0005", "48.4", "11.4"),
                    ("0006", "48.5", "11.5")]  # fmt: skip
    metrics = train_and_test("out", "satellite,drone", "drone", "satellite")
    assert metrics["num_gallery"] == 2 and metrics["num_unmatched"] == 0


def test_pairs_of_a_table_with_ids(source, workdir, capsys):
    published_layouts.pair_table(source)
    table = source / "named.csv"
    rows = ["hall;photos/0/view.jpg;tiles/0.png", "hall;photos/1/view.jpg;tiles/1.png",
            "mill;photos/2/view.jpg;tiles/2.png", "barn;photos/3/view.jpg;tiles/3.png",
            "pond;photos/4/view.jpg;tiles/4.png"]  # fmt: skip
    published_layouts.text(table, ["building;query;reference", *rows])
    fails(prepare.main, ["pairs", table], capsys, "image columns query, reference", "--views")
    prepare_data("pairs", table, "--views", "street,satellite", "--out", "out")
    files = made(workdir / "out")
    assert {path.split("/")[2] for path in files} == {"hall", "mill", "barn", "pond"}
    assert {p.split("/")[-1] for p in files if "satellite/hall" in p} == {"0.png", "1.png"}
    published_layouts.text(table, ["id;drone;satellite", *rows[:2], rows[2].replace("/2/", "/1/")])
    fails(prepare.main, ["pairs", table], capsys, "ids hall and mill share an image")
    published_layouts.text(table, ["id;drone;satellite", *rows[:4], rows[4].replace("pond", "a/b")])
    fails(prepare.main, ["pairs", table], capsys, "'a/b' cannot be a folder name")


def test_pairs_that_cannot_be_made(source, workdir, capsys):
    published_layouts.pair_folders(source)
    published_layouts.pair_table(source)
    photos, tiles, table = source / "photos", source / "tiles", source / "pairs.csv"
    fails(
        prepare.main, ["pairs", photos, tiles], capsys, "photos, tiles", "--views drone,satellite"
    )
    fails(prepare.main, ["pairs", photos, tiles, "--views", "drone,tank"], capsys, "drone,tank")
    fails(prepare.main, ["pairs", photos, tiles, photos], capsys, "3 sources given")
    fails(prepare.main, ["pairs", photos / "0", tiles, "--views", "drone,satellite"], capsys,
          "no file of", "view", "use a CSV")  # fmt: skip
    fails(prepare.main, ["pairs", source, tiles, "--views", "drone,satellite"], capsys,
          f"{source} holds no images itself")  # fmt: skip
    fails(prepare.main, ["pairs", photos, tiles, "--test_share", "1.5"], capsys, "1.5")
    fails(prepare.main, ["pairs", source / "absent.csv"], capsys, "absent.csv not found")
    for header, row, words in (
        ("drone,satellite,size", "a,b,c", "has the header 'drone,satellite,size' and 1 rows"),
        ("drone,satellite", "", "and 0 rows"),
        ("drone,satellite,latitude", "a,b,1", "one of latitude and longitude"),
        ("drone,satellite", "a", "line 2 is ['a']"),
        ("drone,satellite,latitude,longitude", "a,b,91,3", "line 2 has '91', expected a number"),
        ("drone,satellite,latitude,longitude", "a,b,1,", "has '', expected a number"),
    ):
        published_layouts.text(table, [header, row])
        fails(prepare.main, ["pairs", table], capsys, words)
    lines = ["drone,satellite,id", "", '"a.png",b.png,"of two', 'lines"', "c.png"]
    published_layouts.text(table, lines)
    fails(prepare.main, ["pairs", table], capsys, "line 5 is ['c.png']")
    rows = [f"photos/{n}/view.jpg,tiles/{n}.png" for n in range(3)]
    published_layouts.text(table, ["drone,satellite", *rows])
    fails(prepare.main, ["pairs", table], capsys, "found 3 buildings: four are needed")
    published_layouts.text(table, ["drone,satellite", *rows, "photos/9/view.jpg,tiles/4.png"])
    fails(prepare.main, ["pairs", table], capsys, "1 of 4 rows", "photos/9/view.jpg (line 5)",
          "--skip_missing")  # fmt: skip
    assert not (workdir / "data").exists()


# ---------------------------------------------------------------- links, copies, resuming
def snapshot(root):
    """What a second run would change: inode, time and kind of every file."""
    stats = {path: os.lstat(path) for path in root.rglob("*") if path.is_file()}
    return {path: (s.st_ino, s.st_mtime_ns, s.st_mode) for path, s in stats.items()}


def test_hard_links_and_a_second_run(source, workdir):
    published_layouts.cvusa(source)
    result = prepare_data("cvusa", source, "--out", "deep/out")
    assert result["made"] == {"hard links": 20}
    for path in (workdir / "deep/out").rglob("*.jpg"):
        view = "bingmap/19" if "satellite" in path.as_posix() else "streetview/panos"
        assert path.stat().st_ino == (source / view / path.name).stat().st_ino
        assert not path.is_symlink()
    before = snapshot(workdir / "deep/out")
    result = prepare_data("cvusa", source, "--out", "deep/out")
    assert result["made"] == {"there already": 20}
    after = snapshot(workdir / "deep/out")
    marker = workdir / "deep/out/prepare.yaml"
    assert {k: v for k, v in after.items() if k != marker} == {
        k: v for k, v in before.items() if k != marker
    }


def test_symbolic_links_where_no_hard_link_is_possible(source, workdir, monkeypatch, capsys):
    published_layouts.cvusa(source)

    def refuse(*args, **kwargs):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.chdir(source.parent)
    result = prepare_data("cvusa", source.name, "--out", "out")  # a relative source
    assert result["made"] == {"symbolic links": 20}
    link = workdir / "out/train/street/0000003/0000003.jpg"
    assert link.is_symlink() and os.path.isabs(os.readlink(link))
    assert link.resolve() == source / "streetview/panos/0000003.jpg"
    assert prepare_data("cvusa", source, "--out", "out")["made"] == {"there already": 20}
    monkeypatch.setattr(os, "symlink", refuse)
    fails(prepare.main, ["cvusa", source, "--out", "b"], capsys, "neither a hard nor a symbolic",
          "--copy")  # fmt: skip


def test_links_to_a_linked_release(source, workdir):
    """A hard link to a relative symbolic link would point nowhere."""
    published_layouts.cvusa(source)
    image = source / "bingmap/19/0000001.jpg"
    image.rename(source / "elsewhere.jpg")
    image.symlink_to("../../elsewhere.jpg")
    prepare_data("cvusa", source, "--out", "out")
    path = workdir / "out/train/satellite/0000001/0000001.jpg"
    assert not path.is_symlink() and path.samefile(source / "elsewhere.jpg")


def test_copies_and_back(source, workdir):
    published_layouts.cvusa(source)
    prepare_data("cvusa", source, "--out", "out")
    result = prepare_data("cvusa", source, "--out", "out", "--copy")
    assert result["made"] == {"copies": 20}
    own, copy = source / "bingmap/19/0000006.jpg", "out/test/query_satellite/0000006/0000006.jpg"
    assert not os.path.samefile(own, workdir / copy)
    assert own.read_bytes() == (workdir / copy).read_bytes()
    assert prepare_data("cvusa", source, "--out", "out", "--copy")["made"] == {"there already": 20}
    os.utime(own, (1, 1))  # another version of the file
    made_again = prepare_data("cvusa", source, "--out", "out", "--copy")["made"]
    assert made_again == {"there already": 18, "copies": 2}  # query and gallery
    assert prepare_data("cvusa", source, "--out", "out")["made"] == {"hard links": 20}


def test_a_killed_run_goes_on(source, workdir, monkeypatch):
    published_layouts.cvusa(source)
    place, done = convert._place, []

    def stop_after_seven(*args):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(place(*args))
        return done[-1]

    monkeypatch.setattr(convert, "_place", stop_after_seven)
    with pytest.raises(SystemExit) as exit_info:
        prepare_data("cvusa", source, "--out", "out")
    assert exit_info.value.code == 130
    assert len(list((workdir / "out").rglob("*.jpg"))) == 7
    assert not (workdir / "out/coordinates.csv").exists()
    monkeypatch.setattr(convert, "_place", place)
    result = prepare_data("cvusa", source, "--out", "out")
    assert result["made"] == {"there already": 7, "hard links": 13}
    prepare_data("cvusa", source, "--out", "unbroken")
    assert tree(workdir / "out") == tree(workdir / "unbroken")


def test_a_killed_conversion_leaves_no_half_image(source, workdir, monkeypatch):
    published_layouts.cvusa(source)
    save, done = Image.Image.save, []

    def break_off(self, path, *args, **options):
        if len(done) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        done.append(save(self, path, *args, **options))

    monkeypatch.setattr(Image.Image, "save", break_off)
    argv = ["cvusa", source, "--out", "out", "--roll", "90", "--num_workers", "1"]
    with pytest.raises(SystemExit) as exit_info:
        prepare_data(*argv)
    assert exit_info.value.code == 2
    monkeypatch.setattr(Image.Image, "save", save)
    result = prepare_data(*argv)
    assert result["made"]["converted"] == 7 and result["made"]["there already"] >= 3
    prepare_data("cvusa", source, "--out", "unbroken", "--roll", "90")
    assert tree(workdir / "out") == tree(workdir / "unbroken")
    assert prepare_data(*argv)["made"] == {"there already": 20}


def test_dry_run_writes_nothing(source, workdir, capsys):
    published_layouts.vigor(source)
    before = tree(workdir)
    result = prepare_data("vigor", source, "--dry_run")
    assert tree(workdir) == before and not (workdir / "data").exists()
    assert result["made"] == {} and result["counts"]["test/gallery_satellite"] == (16, 16)
    out = capsys.readouterr().out
    assert "data/vigor: nothing written (--dry_run)" in out
    assert "90618 classes, 90618 images" in out


def test_a_folder_that_was_made_otherwise(source, workdir, capsys):
    published_layouts.vigor(source)
    prepare_data("vigor", source, "--out", "out")
    before = tree(workdir)
    fails(prepare.main, ["vigor", source, "--out", "out", "--area", "cross"], capsys,
          "out was made with area same, not cross")  # fmt: skip
    fails(prepare.main, ["limit-views", source, "--out", source, "--views", "3"], capsys,
          "train/drone not found")  # fmt: skip
    fails(prepare.main, ["vigor", source, "--out", source], capsys, "holds something else")
    assert tree(workdir) == before
    path = source / "splits/Chicago/same_area_balanced_test.txt"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    fails(prepare.main, ["vigor", source, "--out", "out"], capsys, "out holds 1 images that are no "
          "part of this any more, first test/query_street/Chicago_satellite_41.2")  # fmt: skip


# ---------------------------------------------------------------- partial and broken releases
def test_official_counts_by_hand():
    official = {"a": (2, (5, 6)), "b": (None, 7), "c": (None, None)}
    assert convert.compare_counts("X", {"a": (2, 6), "b": (9, 7), "c": (1, 1)}, official) == []
    counts = {"a": (2, 7), "b": (7, 8), "c": (1, 1), "d": (0, 0)}
    assert convert.compare_counts("X", counts, official) == [
        "a/ has 2 classes, 7 images; X has 2 classes, 5 or 6 images",
        "b/ has 7 classes, 8 images; X has 7 images",
    ]
    with pytest.raises(ValueError, match="no image for c/ was found"):
        convert.compare_counts("X", {"a": (2, 5), "b": (1, 7), "c": (1, 0)}, official)


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
        ("hello", "is no latitude,longitude"),
        ("north,3", "line 3 has 'north'"),
        ("91,3", "line 3 has '91', expected a number from -90 to 90"),
    ):
        published_layouts.text(path, [*lines[:2], third, *lines[3:]])
        fails(prepare.main, argv, capsys, path, expected)
    path.write_bytes(b"\xe9,1\n")
    fails(prepare.main, argv, capsys, f"{path} is no UTF-8 text")
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
    (source / "drone").mkdir()
    published_layouts.picture(source / "satellite/a.jpg")
    (source / "drone/a.jpg").mkdir()
    fails(prepare.main, ["pairs", source / "drone", source / "satellite"], capsys, "no images")
    assert not (workdir / "out").exists()


def test_sources_that_the_layout_cannot_hold(source, workdir, capsys):
    """Files that nothing reads as images, and names that are no text."""
    for view in ("drone", "satellite"):
        for number in range(4):
            published_layouts.picture(source / view / f"{number}.png")
    (source / "drone/0.png").rename(source / "drone/0.heic")
    rows = [f"drone/{n}.{'png' if n else 'heic'},satellite/{n}.png" for n in range(4)]
    published_layouts.text(source / "pairs.csv", ["drone,satellite", *rows])
    argv = ["pairs", source / "pairs.csv", "--out", "out"]
    fails(prepare.main, argv, capsys, "0.heic is not read as an image")
    published_layouts.text(source / "pairs.csv", ["drone,satellite", *rows[1:], '"' + 140000 * "a"])
    fails(prepare.main, argv, capsys, "pairs.csv line 5 is no CSV", "field larger than")
    folders = ["pairs", source / "drone", source / "satellite", "--test_share", "1"]
    (source / "drone/0.heic").unlink()
    for view in ("drone", "satellite"):
        strange = os.fsencode(source / view) + b"/\xff.png"
        os.rename(source / view / "3.png", strange)
    fails(
        prepare.main, [*folders, "--out", "out"], capsys, "\\xff.png has a name that is not UTF-8"
    )
    assert not (workdir / "out").exists()


def test_pairs_that_are_not_said_clearly(source, workdir, capsys):
    """A table without a header would lose its first pair; one folder is no pair of folders."""
    published_layouts.text(source / "pairs.csv", ["a/0.png,b/0.png", "a/1.png,b/1.png"])
    argv = ["pairs", source / "pairs.csv", "--views", "drone,satellite"]
    fails(prepare.main, argv, capsys, "begins with 'a/0.png,b/0.png'", "such as drone,satellite")
    fails(prepare.main, ["pairs", source], capsys, f"{source} is one folder: give a second one")


def test_pairs_that_are_completed_later_keep_their_names_and_halves(source, workdir):
    for number in range(8):
        published_layouts.picture(source / f"a/{number}.png")
        published_layouts.picture(source / f"b/{number}.png")
    rows = [f"a/{number}.png,b/{number}.png" for number in range(8)]
    published_layouts.text(source / "pairs.csv", ["drone,satellite", *rows])
    argv = ["pairs", source / "pairs.csv", "--out", "out", "--skip_missing"]
    (source / "a/2.png").rename(source / "hidden.png")
    prepare_data(*argv)
    first = made(workdir / "out")
    (source / "hidden.png").rename(source / "a/2.png")
    prepare_data(*argv)
    added = made(workdir / "out") - first
    assert first < made(workdir / "out") and {name.split("/")[2] for name in added} == {"0003"}


def test_a_place_that_is_in_train_and_test_is_noted(source, workdir):
    published_layouts.cvusa(source)
    train, test = (source / f"splits/{split}-19zl.csv" for split in ("train", "val"))
    lines = [*train.read_text().splitlines()[:1], *test.read_text().splitlines()]
    published_layouts.text(test, lines)
    notes = prepare_data("cvusa", source, "--out", "out")["notes"]
    assert any("1 pairs are listed more than once" in note for note in notes)


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


def test_sues200_beside_other_folders_of_drones(source, workdir):
    published_layouts.sues200(source)
    (source / "drone_zips").mkdir()
    (source / "drone_zips/readme.txt").write_text("zips")
    argv = ["sues200", source, "--out", "out", "--height", "200", "150", "150"]
    counts = prepare_data(*argv)["counts"]
    assert counts["150/test/gallery_drone"] == counts["200/test/gallery_drone"]
    assert counts["150/test/gallery_drone"][1] > 0


def test_an_unreadable_image_says_that_the_folder_is_incomplete(source, workdir, capsys):
    published_layouts.cvusa(source)
    image = source / "bingmap/19/0000003.jpg"
    image.write_text("hi")
    argv = ["cvusa", source, "--out", "out", "--polar"]
    fails(prepare.main, argv, capsys, image, "out is not complete", "run this again")
    image.unlink()
    published_layouts.picture(image)
    prepare_data(*argv)
    assert (workdir / "out/train/satellite/0000003/0000003.jpg").is_file()


# ---------------------------------------------------------------- pixels
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
    ours = convert.polar_transform(image, height, width)
    assert ours.shape == (height, width, 3) and ours.dtype == np.uint8
    for i in range(height):
        for j in range(width):
            assert np.abs(ours[i, j] - polar_pixel(image, i, j, height, width)).max() <= 0.501


def test_polar_transform_by_hand():
    """Last row: the middle. First column: straight down (south); a quarter on: to the left."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[4, 4] = 10
    image[6, 4], image[2, 4], image[4, 2], image[4, 6] = 60, 20, 42, 46
    out = convert.polar_transform(image, height=2, width=4)[..., 0]
    assert out.tolist() == [[60, 42, 20, 46], [10, 10, 10, 10]]
    assert convert.polar_transform(np.full((750, 750, 3), 7, np.uint8)).shape == (112, 616, 3)
    # Where the side is short, the edge is repeated: no black seam.
    assert (convert.polar_transform(np.full((9, 9, 3), 200, np.uint8)) == 200).all()


def test_crop_and_roll_by_hand():
    image = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    out = convert.PanoramaChange(0.25, 0.75, roll=90)(image)
    assert out.shape == (2, 8, 3)
    assert (out[:, 2:] == image[1:3, :6]).all() and (out[:, :2] == image[1:3, 6:]).all()
    assert convert.PanoramaChange(0.0, 0.01)(image).shape == (1, 8, 3)
    assert convert.panorama_change((0, 1), 0.0, 0, "a") is None
    rolls = {convert.panorama_change((0, 1), "random", seed, name).roll
             for seed in (0, 1) for name in "abc"}  # fmt: skip
    assert len(rolls) == 6 and all(0 <= roll <= 360 for roll in rolls)


def test_converted_images(source, workdir):
    published_layouts.cvact(source)
    name, polar = published_layouts.CVACT_IDS[0], convert.polar_transform
    result = prepare_data("cvact", source, "--out", "out", "--polar", "16x48",
                          "--crop", "0.25,0.75", "--roll", "-90", "--num_workers", "2")  # fmt: skip
    assert result["made"] == {"converted": 20}
    for view, own, change in (
        ("satellite", "satview_polish/{}_satView_polish", lambda a: polar(a, 16, 48)),
        ("street", "streetview/{}_grdView", lambda a: np.roll(a[8:24], -16, axis=1)),
    ):
        own = source / f"ANU_data_small/{own.format(name)}.jpg"
        path = workdir / f"out/train/{view}/{name}/{own.name}"
        expected = change(np.array(Image.open(own)))
        found = np.array(Image.open(path))
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 2  # JPEG of quality 95
        assert not path.samefile(own)
    metrics = train_and_test("out", "satellite,street", "satellite", "street")
    assert metrics["num_queries"] == 3
    own = source / f"ANU_data_small/streetview/{name}_grdView.jpg"
    os.utime(own, (1, 1))
    argv = ["--polar", "16x48", "--crop", "0.25,0.75", "--roll", "-90"]
    again = prepare_data("cvact", source, "--out", "out", *argv)
    assert again["made"] == {"there already": 19, "converted": 1}
    again = prepare_data("cvact", source, "--out", "out", *argv)
    assert again["made"] == {"there already": 20}  # the new one is as old as its source


# ---------------------------------------------------------------- weather
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
