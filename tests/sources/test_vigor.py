"""VIGOR into our layout: both areas, rearranged folders, missing images."""

import published_layouts
from conftest import fails
from conversion import made, prepare_data, read_table, train_and_test

import prepare


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
