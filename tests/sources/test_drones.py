"""SUES-200 and DenseUAV into our layout."""

import os

import published_layouts
from conftest import fails
from conversion import expand, made, prepare_data, read_table, train_and_test

import prepare
from sources.drones import SUES200_TRAIN, numbered


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
    places = numbered(SUES200_TRAIN)
    assert len(places) == 120 and {"0001", "0011", "0100", "0200"} <= places
    assert not places & {"0008", "0012", "0014", "0107", "0201"} and max(places) == "0200"


def test_sues200_beside_other_folders_of_drones(source, workdir):
    published_layouts.sues200(source)
    (source / "drone_zips").mkdir()
    (source / "drone_zips/readme.txt").write_text("zips")
    argv = ["sues200", source, "--out", "out", "--height", "200", "150", "150"]
    counts = prepare_data(*argv)["counts"]
    assert counts["150/test/gallery_drone"] == counts["200/test/gallery_drone"]
    assert counts["150/test/gallery_drone"][1] > 0


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
