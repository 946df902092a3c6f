"""locate.py: photos on a map."""

import csv
import json
import shutil
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import fails
from PIL import ExifTags, Image

import locate
import prepare
import utils
from evaluation.map_folder import read_map
from evaluation.places import geodesic
from imaging.cache import resize_bicubic
from locating import features
from locating.photos import PhotoPlace
from locating.search import Errors
from runtime import locks

NORTH, WEST, SOUTH, EAST = -33.85, 151.20, -33.859, 151.212
FAST = ["--name", "small", "--device", "cpu", "--num_workers", "0"]


@pytest.fixture
def area(small_run, workdir):
    """A map folder `map` of noise, and its tiles as photos with their places: `photos`."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 800), Image.Resampling.BICUBIC).save("map.png")
    corners = f"{NORTH},{WEST};{NORTH},{EAST};{SOUTH},{EAST};{SOUTH},{WEST}"
    prepare.main(["tiles", "map.png", "--corners", corners, "--metres", "300", "--pixels", "64",
                  "--out", "map"])  # fmt: skip
    table = read_map("map")
    (workdir / "photos").mkdir()
    for index in (3, 11):
        save_photo(table, index, f"photos/{index}.png")
    shutil.copy(table.paths[5], "photos/nowhere.jpg")
    return table


def save_photo(table, index, name):
    """A tile as a photo that carries its place in EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a drone"
    latitude, longitude = table.places[index]
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({
        ExifTags.GPS.GPSLatitudeRef: "S", ExifTags.GPS.GPSLatitude: (-latitude, 0.0, 0.0),
        ExifTags.GPS.GPSLongitudeRef: "E", ExifTags.GPS.GPSLongitude: (longitude, 0.0, 0.0),
    })  # fmt: skip
    Image.open(table.paths[index]).save(name, exif=exif)


def run(*options):
    """Photos and map go through one branch: a photo of a tile has the tile's features."""
    return locate.main([*map(str, options), *FAST, "--view", "satellite"])


def test_photos_of_tiles_are_found(area, capsys):
    found = run("photos", "--map", "map", "--top", 3)
    by_name = {row["photo"]: row for row in found["photos"]}
    for index in (3, 11):
        row = by_name[f"photos/{index}.png"]
        assert row["tile"] == str(area.paths[index]) and row["score"] == pytest.approx(1, abs=1e-5)
        assert (row["true_latitude"], row["true_longitude"]) == pytest.approx(
            area.places[index], abs=1e-5
        )
        error = geodesic(row["latitude"], row["longitude"], *area.places[index])
        assert row["error_metres"] == pytest.approx(error, abs=1) and error < 150
    assert by_name["photos/nowhere.jpg"].get("error_metres") is None
    out = capsys.readouterr().out
    for row in found["photos"]:
        assert f"{row['photo']}  confidence {row['confidence']:.2f}\n" in out
        assert 0 < row["confidence"] < 1
    assert "calibrated on 42 tiles searched for among the others: a guide only" in out
    assert "2 photos with a known place: median error" in out
    assert "1 of 3 photos: no place in EXIF or XMP" in out

    with open("locations.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["photo"] for row in rows] == [row["photo"] for row in found["photos"]]
    assert float(rows[0]["confidence"]) == pytest.approx(found["photos"][0]["confidence"], abs=1e-6)
    assert float(rows[0]["latitude"]) == pytest.approx(found["photos"][0]["latitude"], abs=1e-6)
    with open("locations_tiles.csv", newline="") as file:
        assert [row["rank"] for row in csv.DictReader(file)] == ["1", "2", "3"] * 3
    points = json.loads(Path("locations.geojson").read_text())["features"]
    assert points[0]["geometry"]["coordinates"] == [
        found["photos"][0]["longitude"], found["photos"][0]["latitude"]
    ]  # fmt: skip
    assert '"summary":{"known":2,"of":3,' in Path("locations.html").read_text()
    marks = (
        ElementTree.parse("locations.kml")
        .getroot()
        .iter("{http://www.opengis.net/kml/2.2}coordinates")
    )
    assert [float(x) for x in next(marks).text.split(",")] == pytest.approx(
        points[0]["geometry"]["coordinates"]
    )


def test_features_of_a_map_are_computed_once(area, small_run, capsys):
    first = run("photos", "--map", "map")
    folder = area.folder / "features"
    (kept,) = folder.glob("*.npy")
    times = kept.stat().st_mtime_ns
    assert run("photos", "--map", "map") == first
    assert kept.stat().st_mtime_ns == times
    # Other weights and other options have features of their own.
    path = small_run / "net_009.pth"
    weights = torch.load(path)
    utils.save_tensors(path, {name: value + 0.01 for name, value in weights.items()})
    assert run("photos", "--map", "map") != first
    run("photos", "--map", "map", "--map_view", "drone")
    assert len(list(folder.glob("*.npy"))) == 3 and kept.stat().st_mtime_ns == times
    # A tile of the same size in bytes at another time: the map has changed, all are of the past.
    others = set(folder.iterdir())
    content = bytearray(area.paths[3].read_bytes())
    content[-9] ^= 1
    area.paths[3].write_bytes(content)
    run("photos", "--map", "map")
    (new,) = folder.glob("*.npy")
    assert new not in others and not others & set(folder.iterdir())
    new.write_bytes(new.read_bytes()[:-9])
    fails(locate.main, ["photos", "--map", "map", *FAST], capsys, new.name, "remove it")
    area.paths[2].unlink()
    fails(locate.main, ["photos", "--map", "map", *FAST], capsys, area.paths[2].name,
          "remove that table and run `prepare.py tiles` again")  # fmt: skip


def test_damaged_weights(area, small_run, capsys):
    """What is no number has no place among the tiles: it ended in a traceback."""
    state = utils.load_tensors(small_run / "net_009.pth")
    state["classifier.add_block.0.weight"][0] = float("nan")
    utils.save_tensors(small_run / "net_009.pth", state)
    argv = ["photos", "--map", "map", *FAST]
    fails(locate.main, argv, capsys, "map: features hold NaN or infinity: the weights")
    assert not list(Path("map/features").glob("*")) and not Path("locations.html").exists()


def test_a_turned_photo(area):
    turned = Image.open(area.paths[7]).transpose(Image.Transpose.ROTATE_90)
    turned.save("turned.png")
    straight = run("turned.png", "--map", "map")["tiles"][0]
    found = run("turned.png", "--map", "map", "--turns", 4)["tiles"][0]
    assert found["tile"] == str(area.paths[7]) and found["turned"] == 270
    assert found["score"] > straight["score"]


def test_photos_with_places_calibrate_later_ones(area, capsys):
    for index in range(20):
        save_photo(area, 2 * index, f"photos/{2 * index}.png")
    found = run("photos", "--map", "map")["photos"]
    assert "calibrated on 22 photos with a known place\n" in capsys.readouterr().out
    # All are right: Platt's target for a photo without a place, of the 21 others for one with.
    sure = {row["photo"]: row["confidence"] for row in found}
    assert sure["photos/nowhere.jpg"] == pytest.approx(23 / 24, abs=0.01)
    assert sure["photos/4.png"] == pytest.approx(22 / 23, abs=0.01)
    later = run("photos/nowhere.jpg", "--map", "map")["photos"][0]
    assert "22 photos with a known place of an earlier call" in capsys.readouterr().out
    assert later["confidence"] == pytest.approx(sure["photos/nowhere.jpg"], abs=1e-4)
    near = f"{area.places[0][0]},{area.places[0][1]}"
    run("photos/nowhere.jpg", "--map", "map", "--near", near, "--within", "250")
    out = capsys.readouterr().out  # of four tiles
    assert "confidence: none" in out and "is of the whole map and is not used: among fewer" in out


def test_damaged_photos_do_not_stop_the_others(area, workdir, capsys):
    """One whose end is missing, one that is no image, a link to nothing: each in a line."""
    whole = area.paths[7].read_bytes()
    cut = workdir / "photos/10.jpg"
    cut.write_bytes(whole)  # at first whole: scores are alike to the last bit in batches of a size
    expected = run("photos", "--map", "map", "--turns", 4)["tiles"]
    expected = [row for row in expected if row["photo"] != "photos/10.jpg"]
    capsys.readouterr()
    cut.write_bytes(whole[: len(whole) // 2])
    (workdir / "photos/text.jpg").write_text("no image")
    (workdir / "photos/link.jpg").symlink_to("gone.jpg")
    for options in ([], ["--flight"]):
        found = run("photos", "--map", "map", "--turns", 4, *options)
        err = capsys.readouterr().err.splitlines()
        assert [line.split(" (")[0] for line in err] == [
            f"warning: not located: photos/{name} cannot be read as an image"
            for name in ("link.jpg", "text.jpg", "10.jpg")
        ]
        assert "truncated" in err[2] and "check" not in "".join(err)
        assert found["tiles"][:5] == (expected if not options else found["tiles"])[:5]
        with open("locations.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["photo"] for row in rows[3:]] == [
            "photos/link.jpg", "photos/text.jpg", "photos/10.jpg"
        ]  # fmt: skip
        assert all(row["note"].startswith("cannot be read as an image (") for row in rows[3:])
        assert not any(row["latitude"] or row["score"] for row in rows[3:])
        assert len(json.loads(Path("locations.geojson").read_text())["features"]) == 3 + bool(
            options
        )
    # In an order of times a photo without any would change all.
    found = run("photos/3.png", "photos/10.jpg", "--map", "map", "--flight")["photos"]
    assert [row["photo"] for row in found] == ["photos/3.png", "photos/10.jpg"]
    assert found[0]["path_error_metres"] < 150


def test_a_photo_is_decoded_once_for_all_turns(area, monkeypatch):
    read, calls = features.decode_file, []
    monkeypatch.setattr(features, "decode_file", lambda path: calls.append(path) or read(path))
    run("photos/3.png", "photos/11.png", "--map", "map", "--turns", 4)
    counts = [calls.count(path) for path in set(calls)]
    assert counts == [1] * (42 + 2)
    images = features.TurnedImages((32, 32), resize_bicubic)
    for quarters in range(4):
        turned = np.rot90(read(area.paths[3])[0], quarters)
        Image.fromarray(turned).save("turned.png")
        assert (images[area.paths[3], quarters] == images[Path("turned.png"), 0]).all()


def test_an_index_finds_the_same(area, capsys):
    pytest.importorskip("faiss", reason="faiss is not installed")
    exact = run("photos", "--map", "map", "--turns", 2)
    for _ in range(2):  # made, and found again
        assert run("photos", "--map", "map", "--turns", 2, "--index", "Flat") == exact
    (index,) = (area.folder / "features").glob("*.faiss")
    run("photos/3.png", "--map", "map/tiles", "--index", "Flat")  # nothing is kept there
    fails(lambda options: run(*options), ["photos", "--map", "map", "--index", "Flat32"], capsys,
          "--index 'Flat32' names no index that faiss makes")  # fmt: skip
    index.write_text("no index")
    fails(locate.main, ["photos", "--map", "map", *FAST, "--view", "satellite", "--index", "Flat"],
          capsys, index.name, "remove it")  # fmt: skip


def test_only_around_a_place(area, capsys):
    latitude, longitude = area.places[0]
    found = run("photos", "--map", "map", "--near", f"{latitude},{longitude}", "--within", 100)
    assert {row["tile"] for row in found["tiles"]} == {str(area.paths[0])}
    out, err = capsys.readouterr()  # the photos are of tiles 3 and 11
    assert "median error" in out and "2 of 2 known places lie outside the tiles" in out
    assert "train on photos of this area" not in err  # which would not help
    with pytest.raises(SystemExit):
        run("photos", "--map", "map", "--near", "50,8")
    assert "no tile of the map is there" in capsys.readouterr().err


def test_a_folder_of_pictures_without_places(area, capsys):
    found = run("photos/3.png", "--map", "map/tiles", "--top", 2)
    assert found["tiles"][0]["tile"] == str(area.paths[3])
    assert not {"latitude", "confidence"} & found["photos"][0].keys()
    assert "confidence" not in capsys.readouterr().out
    assert '"map":null,"name":"tiles",' in Path("locations.html").read_text()
    with pytest.raises(SystemExit):
        run("photos", "--map", "map/tiles", "--near", "50,8")
    assert "needs a map with coordinates" in capsys.readouterr().err


def test_a_flight(area, workdir, capsys):
    """Tiles from west to east as photos, named against the order of their times; one lies."""
    (workdir / "flight").mkdir()
    row = np.flatnonzero(area.places[:, 0] == area.places[0, 0])
    for number, tile in enumerate(row):
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = "a drone"
        moment = datetime(2024, 5, 17, 10, 0, 8 * number).strftime("%Y:%m:%d %H:%M:%S")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = moment
        for axis, value in zip(("Latitude", "Longitude"), np.abs(area.places[tile]), strict=True):
            exif.get_ifd(ExifTags.IFD.GPSInfo).update({
                ExifTags.GPS[f"GPS{axis}Ref"]: "S" if axis == "Latitude" else "E",
                ExifTags.GPS[f"GPS{axis}"]: (value, 0.0, 0.0),
            })  # fmt: skip
        image = Image.open(area.paths[-1 if number == 3 else tile])
        image.save(f"flight/{9 - number}.png", exif=exif)
    options = ["--flight", "--speed", 30, "--output", "out/f.1"]
    found = run("flight", "--map", "map", *options)["photos"]
    assert len(row) == 7 and [Path(r["photo"]).stem for r in found] == list("9876543")
    assert [r["time"] for r in found][:2] == ["2024-05-17T10:00:00", "2024-05-17T10:00:08"]
    assert found[3]["error_metres"] > 600
    assert all(r["path_error_metres"] < 80 for r in found)
    out = capsys.readouterr().out
    assert "path: 7 frames in 48 s" in out and "7 frames with a known place" in out
    with open("out/f.1.csv", newline="") as file:
        assert [float(r["path_error_metres"]) for r in csv.DictReader(file)] == pytest.approx(
            [r["path_error_metres"] for r in found]
        )
    line = json.loads(Path("out/f.1.geojson").read_text())["features"][-1]["geometry"]
    assert line["coordinates"] == [[r["path_longitude"], r["path_latitude"]] for r in found]


def test_mistakes_about_flights(area, workdir, capsys):
    """In one test, for they end before anything is read."""
    for options, message in (
        (["photos/3.png", "--map", "map", "--flight"], "3.png is but one photo"),
        (["photos", "--map", "map/tiles", "--flight"], "--flight needs a map with coordinates"),
        (["photos", "--map", "map", "--every", 2], "--every 2 takes frames of videos"),
        (["photos", "--map", "map", "--every", 0], "not a number above 0"),
        (["photos", "--map", "map", "--flight", "--speed", "-1"], "not a number above 0"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(*options)
        err = capsys.readouterr().err
        assert ended.value.code == 2 and message in err and err.count("\n") == 1


MISTAKES = [
    (["gone.jpg", "--map", "map"], "photo gone.jpg not found"),
    (["photos", "--map", "gone"], "map gone not found: name a map folder"),
    (["photos", "--map", "map", "--within", "50"], "--within goes with --near"),
    (["photos", "--map", "map", "--speed", "5"], "--speed goes with --flight"),
    (["photos", "--map", "map", "--output", "."], "--output . is no name of a file"),
    (["photos", "--map", "map", "--output", "out/"], "--output out/ is no name of a file"),
    (["photos", "--map", "map", "--map_view", "street"], "trained on satellite, drone, not on"),
    (["photos", "--map", "map", "--near", "95,8"], "is not latitude,longitude in degrees"),
    (["photos", "--map", "map", "--near", "nan,8"], "is not latitude,longitude in degrees"),
    (["photos", "--map", "map", "--near", "89,8"], "no tile of the map is there, the nearest is"),
    (["photos", "--map", "map", "--near", "-33.855,151.21", "--within", "0"], "not a number above"),
    (["photos", "--map", "map", "--near", "-33.855,151.21", "--index", "Flat"], "without --index"),
    (["photos", "--map", "half"], "was begun by prepare.py and holds no tiles.csv"),
    (["photos", "--map", "area.tif"], "area.tif is a map: cut it first"),
    (["photos", "--map", "web"], "web is a map: cut it first"),
    (["photos", "--map", "empty"], "map empty holds neither tiles.csv nor pictures"),
    (["empty", "--map", "map"], "empty holds no images"),
    (["text.jpg", "--map", "map"], "text.jpg cannot be read as an image"),
    (["text.jpg", "cut.png", "--map", "map"], "text.jpg cannot be read as an image"),
    (["text.jpg", "cut.png", "--map", "map"], "it is the first of 2 such files"),
    (["broken", "--map", "map"], "cut.png cannot be read as an image"),
    (["map.png", "--map", "broken"], "cut.png cannot be read as an image"),
]  # fmt: skip


def test_mistakes_are_one_line(area, workdir, capsys):
    (workdir / "text.jpg").write_text("no image")
    (workdir / "broken").mkdir()
    for name in ("cut.png", "broken/cut.png"):
        (workdir / name).write_bytes((workdir / "map.png").read_bytes()[:9000])
    for folder in ("empty", "half", "web/18/5"):
        (workdir / folder).mkdir(parents=True)
    for name in ("half/prepare.yaml", "web/18/5/7.jpg", "area.tif"):
        (workdir / name).touch()
    for options, message in MISTAKES:
        fails(lambda options: run(*options), options, capsys, message)


@pytest.mark.parametrize("row, outside, said", [
    ({"error_metres": 90.0}, 0, True),
    ({"error_metres": 90.0}, 2, False),  # another map is wanted, not another run
    ({"error_metres": 90.0, "path_error_metres": 10.0}, 0, False),  # the path is the answer
    ({"error_metres": 70.0}, 0, False),
])  # fmt: skip
def test_when_to_train_on_the_area_is_advised(row, outside, said, capsys):
    known = [PhotoPlace((1.0, 2.0), "EXIF", None)] * 2
    metres = np.full(2, row["error_metres"])
    locate.print_errors(known, Errors(metres, metres, 100.0, 0.0, outside), [row, row])
    assert ("train on photos of this area" in capsys.readouterr().err) == said


def test_of_many_photos_some_are_printed(capsys):
    rows = [{"photo": f"{i}.jpg", "confidence": 0.5} for i in range(50)]
    tiles = [{"photo": row["photo"], "rank": rank, "score": 0.1, "tile": "t.jpg"}
             for row in rows for rank in (1, 2)]  # fmt: skip
    locate.print_tiles(rows[:20], tiles[:40])
    assert capsys.readouterr().out.count("score") == 40
    locate.print_tiles(rows, tiles)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0.jpg  confidence 0.50" and lines[2] == "3.jpg  confidence 0.50"
    assert lines[-1] == "17 of 50 photos are printed, all are in the files" and len(lines) == 35


def test_a_name_with_a_line_break_is_one_line(area, capsys):
    shutil.copy("photos/3.png", "photos/a\nwarning: b\t.png")
    Path("photos/c\nd.heic").touch()
    run("photos", "--map", "map", "--output", "a\nb")
    out, err = capsys.readouterr()
    assert "photos/a\\nwarning: b\\t.png  confidence" in out
    assert "written: a\\nb.csv, " in out and "\nwarning" not in out and "\nb" not in out


def test_an_output_in_use_is_refused(area, capsys):
    """The tables of one search beside the page of another would be read as one."""
    partial = Path(".partial-01234567-locations.csv")
    partial.touch()
    with locks.sole_writer("locations"):
        fails(locate.main, ["photos", "--map", "map", *FAST], capsys,
              "locations is in use: process", "or choose another --output")  # fmt: skip
        assert partial.exists() and not Path("locations.csv").exists()
        run("photos", "--map", "map", "--output", "other")
    run("photos", "--map", "map")
    assert not partial.exists() and Path("locations.csv").exists()
    assert not list(Path().glob(".lock*"))
