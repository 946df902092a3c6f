"""prepare.py pairs PHOTOS --map MAP: what a cut shows, where it is, and what is tested on."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, fails
from conversion import tree
from PIL import ExifTags, Image
from test_tiles import EAST, NORTH, SOUTH, WEST, picture

import locate
import prepare
import test as test_script
import train
from evaluation import mercator
from locating.photos import exif_of, read_place
from sources.map_pairs import Photos, choose_side, group_places, sides_off

CORNERS = f"{NORTH},{WEST};{NORTH},{EAST};{SOUTH},{EAST};{SOUTH},{WEST}"
METRES, PIXELS = 100, 32
ON_MAP, OUTSIDE, WITHOUT = 70, 3, 2  # photos


def save_photo(path, place=None):
    """A small photo, with a place (latitude, longitude) north of the equator and east."""
    exif = Image.Exif()
    if place is not None:
        latitude, longitude = map(float, place)
        exif.get_ifd(ExifTags.IFD.GPSInfo).update({
            ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (latitude, 0.0, 0.0),
            ExifTags.GPS.GPSLongitudeRef: "E", ExifTags.GPS.GPSLongitude: (longitude, 0.0, 0.0),
        })  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((32, 32)).save(path, exif=exif)


def save_photos(folder, places, first=0):
    for number, place in enumerate(places, first):
        save_photo(folder / f"{number:03d}.jpg", place)


@pytest.fixture(scope="module")
def area(tmp_path_factory):
    """A folder with map.png, whose colours tell the place, and photos/ all over it."""
    folder = tmp_path_factory.mktemp("area")
    Image.fromarray(picture()).save(folder / "map.png")
    draw = np.random.default_rng(1)
    inside = draw.uniform((SOUTH + 0.0012, WEST + 0.0018), (NORTH - 0.0012, EAST - 0.0018),
                          (ON_MAP, 2))  # fmt: skip
    outside = [(SOUTH + 0.0002, 11.51), (48.2, 11.51), (SOUTH + 0.005, EAST + 0.001)]
    save_photos(folder / "photos", [*inside, *outside, *[None] * WITHOUT])
    return folder


def pairs(area, out, *options):
    return prepare.main(["pairs", str(area / "photos"), "--map", str(area / "map.png"),
                         "--corners", CORNERS, "--out", str(out), "--pixels", str(PIXELS),
                         *map(str, options)])  # fmt: skip


@pytest.fixture(scope="module")
def data(area):
    return area, area / "data", pairs(area, area / "data")


def read_places(folder):
    """{name: (latitude, longitude)} of coordinates.csv, all of which have tiles of 100 m."""
    with open(folder / "coordinates.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["metres"] for row in rows} == {str(METRES)}
    return {row["name"]: (float(row["latitude"]), float(row["longitude"])) for row in rows}


def in_metres(places):
    """Places (N, 2) as x, y on the ground in metres, which here is flat enough."""
    latitudes, longitudes = np.transpose(places)
    x, y = mercator.project(latitudes, longitudes)
    return np.stack([x, y], axis=1) * np.cos(np.radians((NORTH + SOUTH) / 2))


def shown(path):
    """The place in the middle of a tile, by its colours."""
    red, green, _ = np.asarray(Image.open(path), np.float64).mean(axis=(0, 1))
    return SOUTH + (green - 40) / 160 * (NORTH - SOUTH), WEST + (red - 40) / 160 * (EAST - WEST)


def test_a_damaged_photo_is_left_out(area, tmp_path):
    shutil.copytree(area / "photos", tmp_path / "photos")
    (tmp_path / "photos/a.jpg").write_text("no image")
    (tmp_path / "map.png").hardlink_to(area / "map.png")
    notes = pairs(tmp_path, tmp_path / "data", "--dry_run")["notes"]
    assert notes[0].endswith(
        "a.jpg cannot be read as an image (not an image of a known kind): replace or remove it; "
        "left out"
    ) and notes[1].startswith("2 of 75 photos: no place")


def test_sides_of_the_map():
    boxes = np.array([(-9, 2, 1, 3), (2, -1, 3, 1), (9, 9, 12, 11), (2, 2, 3, 3)], float)
    assert sides_off(boxes, (0, 0, 10, 10)) == (
        "1 over the west edge, 1 over the south edge, 1 over the east edge, 1 where it has no data"
    )


# ---------------------------------------------------------------- what is made
def test_a_cut_shows_the_place_that_the_table_says(data):
    _, folder, _ = data
    places = read_places(folder)
    cuts = [path for path in folder.rglob("*.jpg") if "satellite" in path.as_posix()]
    told = [places.get("/".join(path.parts[-3:]), places[path.parent.name]) for path in cuts]
    apart = in_metres([shown(path) for path in cuts]) - in_metres(told)
    assert len(cuts) > 200 and np.abs(apart).max() < 4.7  # half a level of a colour
    assert {Image.open(path).size for path in cuts} == {(PIXELS, PIXELS)}


def test_training_tiles_are_off_centre_evenly(data):
    _, folder, _ = data
    places = read_places(folder)
    cuts = [name for name in places if name.startswith("satellite/")]
    photos = in_metres([places[name.split("/")[1]] for name in cuts])
    offsets = (in_metres([places[name] for name in cuts]) - photos) / METRES
    assert np.abs(offsets).max() <= 0.2505 and np.abs(offsets).max() > 0.24
    for axis in offsets.T:  # Kolmogorov and Smirnov's distance to the even distribution
        expected = (np.arange(len(axis)) + 0.5) / len(axis)
        assert np.abs(np.sort(axis) * 2 + 0.5 - expected).max() < 0.1
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.15


def test_no_training_tile_overlaps_a_test_tile(data):
    """Not even the ground that other tiles of a training place might have reached."""
    _, folder, _ = data
    places = read_places(folder)
    train = [path.name for path in (folder / "train/drone").iterdir()]
    test = [path.name for path in (folder / "test/gallery_satellite").iterdir()]
    assert len(train) > 20 and len(test) > 30
    apart = np.abs(in_metres([places[n] for n in train])[:, None] - in_metres(
        [places[n] for n in test]))  # fmt: skip
    assert (apart.max(axis=2) > (1 + 2 * 0.25 + 1) / 2 * METRES - 0.1).all()
    # The photos' own ground too, as far as a tile around them reaches.
    queries = in_metres([places[n] for n in places if n.startswith("query_drone/")])
    apart = np.abs(in_metres([places[n] for n in train])[:, None] - queries)
    assert (apart.max(axis=2) > 1.25 * METRES - 0.1).all()


def test_every_photo_is_somewhere_or_counted(data, capsys):
    _, folder, found = data
    train = len(list((folder / "train/drone").rglob("*.jpg")))
    test = len(list((folder / "test/query_drone").rglob("*.jpg")))
    assert test == round(0.2 * ON_MAP)
    notes = found["notes"]
    assert notes[0] == "2 of 75 photos: no place in EXIF or XMP; left out"
    assert notes[1] == (
        "3 of 73 photos with a place left out: the map does not cover all 150 m of ground around "
        "them, as their tiles may need (1 over the south edge, 1 over the east edge, 1 over the "
        "north edge)"
    )
    assert notes[2] == (
        f"{train} photos to train on, {test} to test on, furthest to the east, "
        f"{ON_MAP - train - test} between them left out: no tile of the first overlaps one of the "
        "second"
    )


def test_a_photo_is_filed_under_the_nearest_tile_of_the_grid(data):
    _, folder, _ = data
    places = read_places(folder)
    names = sorted(path.name for path in (folder / "test/gallery_satellite").iterdir())
    centres = in_metres([places[name] for name in names])
    for name in (n for n in places if n.startswith("query_drone/")):
        apart = centres - in_metres([places[name]])
        nearest = np.hypot(*apart.T).argmin()
        assert names[nearest] == name.split("/")[1]
        assert np.abs(apart[nearest]).max() <= METRES / 4 + 0.1
    steps = np.diff(np.unique(centres[:, 0].round()))
    assert steps.max() == pytest.approx(METRES / 2, abs=1)


def test_the_seed_chooses_the_side(area, workdir):
    """East, north, west and south are 0 to 3; the longer way through the area comes first."""
    wide, tall = np.array([(0, 0), (9, 1)]), np.array([(0, 0), (1, 9)])
    assert [choose_side(wide, seed) for seed in range(5)] == [0, 2, 1, 3, 0]
    assert [choose_side(tall, seed) for seed in range(5)] == [1, 3, 0, 2, 1]
    found = pairs(area, "dry", "--seed", 3, "--dry_run")
    assert "furthest to the south" in found["notes"][2] and not Path("dry").exists()


def test_shares_of_nothing_and_of_all(area, workdir):
    assert set(pairs(area, "a", "--test_share", 0, "--dry_run")["counts"]) == {
        "train/drone", "train/satellite"
    }  # fmt: skip
    assert set(pairs(area, "a", "--test_share", 1, "--dry_run")["counts"]) == {
        "test/query_drone", "test/gallery_satellite"
    }  # fmt: skip


def test_other_views_and_sizes(area, workdir):
    pairs(area, "data", "--views", "street,satellite", "--metres", 150, "--off_centre", 0)
    names = [path for path in tree(Path("data")) if path.startswith("train/satellite/00001/")]
    assert len(names) == 4 and Path("data/train/street/00001").is_dir()
    with open("data/coordinates.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    first, cut = rows["00001"], rows["satellite/00001/cut_1.jpg"]
    assert cut["metres"] == "150" and (cut["latitude"], cut["longitude"]) == (
        first["latitude"], first["longitude"]
    )  # fmt: skip


def test_photos_of_one_place():
    centres = np.array([(0, 0), (9, -9), (11, 0), (20, 0), (1, 1)], float)
    photos = Photos([Path(f"{n}") for n in range(5)], centres, centres, np.full(5, 100.0))
    assert group_places(photos) == [[0, 1, 4], [2, 3]]


# ---------------------------------------------------------------- again
def test_again_and_after_a_stop(data, workdir, capsys):
    area, folder, _ = data
    before = {p: (folder / p).read_bytes() for p in tree(folder)}
    times = {p: (folder / p).stat().st_mtime_ns for p in before}
    removed = sorted(p for p in before if "/cut_" in p)[::3] + ["coordinates.csv"]
    for name in removed:
        (folder / name).unlink()
    made = pairs(area, folder)["made"]
    assert made["cut"] == len(removed) - 1
    assert {p: (folder / p).read_bytes() for p in tree(folder)} == before
    assert all((folder / p).stat().st_mtime_ns == times[p] for p in before if "/cut_" in p)
    assert set(pairs(area, folder)["made"]) == {"there already"}
    argv = ["pairs", area / "photos", "--map", area / "map.png", "--corners", CORNERS, "--out"]
    fails(
        prepare.main, [*argv, folder, "--pixels", "64"], capsys, "was made with pixels 32, not 64"
    )
    # Photos of the same names elsewhere: their tiles are others, though the map is the same.
    photos = shutil.copytree(area / "photos", workdir / "moved")
    first = sorted(photos.iterdir())[0]
    image, (latitude, longitude) = Image.open(first), read_place(first).place
    image.save(first, exif=exif_of((latitude + 1e-4, longitude), None))
    fails(prepare.main, ["pairs", photos, *argv[2:], folder, "--pixels", "32"], capsys,
          "was made with places")  # fmt: skip


# ---------------------------------------------------------------- from photos to coordinates
def test_train_test_and_locate(area, workdir, capsys):
    some = sorted((area / "photos").iterdir())[:24]
    map_options = [str(area / "map.png"), "--corners", CORNERS, "--pixels", "32"]
    prepare.main(["pairs", *map(str, some), "--map", *map_options, "--out", "data"])
    prepare.main(["check", "data"])
    losses = ["--loss_weights", "instance=0,overlap=1", "--data_dir", "data", "--train_all"]
    last = train.main([*SMALL, *losses, "--name", "run", "--epochs", "1", "--batchsize", "16"])
    # The softmax of 8 or 16 unrelated images, of which hardly any share ground, is near log 8.
    assert last["loss"] == last["overlap"] and 1 < last["overlap"] < 4
    run = ["--name", "run", "--device", "cpu", "--num_workers", "0"]
    metrics = test_script.main([*run, "--test_dir", "data"])
    assert metrics["num_queries"] == 5 and metrics["num_unmatched"] == 0
    assert re.search(
        r"first image: median error \d+\.\d m, .* within 25 m,", capsys.readouterr().out
    )
    prepare.main(["tiles", *map_options, "--metres", "300", "--out", "map"])
    found = locate.main([str(some[0]), "--map", "map", *run])
    assert 0 < found["photos"][0]["error_metres"] < 2000
    Path("data/coordinates.csv").unlink()
    capsys.readouterr()
    fails(train.main, [*SMALL, *losses, "--name", "b"], capsys, "the overlap loss needs the places")


# ---------------------------------------------------------------- mistakes
def test_mistakes_are_one_line(area, workdir, capsys):
    photos = workdir / "photos"
    argv = ["pairs", photos, "--map", area / "map.png", "--corners", CORNERS, "--pixels", "32"]
    fails(prepare.main, argv, capsys, "photo", "not found")
    save_photos(photos, [None, None])
    fails(prepare.main, argv, capsys, "no photo has a place", "2 of 2 photos: no place in EXIF")
    save_photos(photos, [(11.51, 48.106)] * 2)  # the wrong way round
    fails(prepare.main, argv, capsys, "has no data around any of 2 photos", "latitude 11.51",
          "W,S,E,N = 11.500000,48.100000")  # fmt: skip
    save_photos(photos, [(48.106, 11.51), (48.1062, 11.5102)])
    fails(prepare.main, argv, capsys, "too few places to split", "0 photos to train on, 1 to test")
    fails(prepare.main, [*argv, "--map", "nothing.tif"], capsys, "map nothing.tif not found")
    fails(prepare.main, ["pairs", photos, "--metres", "50"], capsys, "--metres goes with --map")
    fails(prepare.main, [*argv, "--skip_missing"], capsys, "--skip_missing goes with a CSV file")
    save_photos(photos, [(88.0, 11.51), (48.106, 11.51)])
    fails(prepare.main, argv, capsys, "too few places to split")  # the pole is only off the map
    fails(prepare.main, [*argv, "--off_centre", "0.6"], capsys, "not a number from 0 to 0.5")
    assert not (workdir / "data").exists()
