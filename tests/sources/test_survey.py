"""The toy's map and flight: one place has the same coordinates in all of them."""

from datetime import timedelta

import numpy as np
import pytest
from PIL import Image

from evaluation import mercator
from evaluation.places import metre_distance
from locating.photos import read_place
from sources.campus import area, survey
from sources.campus.camera import SPIRAL_BOTTOM, SPIRAL_TOP, TILT_BOTTOM, TILT_TOP
from sources.campus.grounds import TEXEL
from sources.campus.palette import Land, Material
from sources.campus.render import LAST_ID
from sources.campus.scene import SEASONS, stage
from sources.campus.site import Site, Stream
from sources.campus.solids import Solid, SolidTable
from sources.maps import open_map

PHOTOS = 2


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder, steps = tmp_path_factory.mktemp("survey"), []
    counts = survey.render_survey(
        folder, seed=3, map_plots=1, flight_photos=PHOTOS, progress=lambda: steps.append(1)
    )
    return folder, counts, len(steps)


def _site(solids):
    """A lawn with nothing but these solids on it."""
    return Site(
        seed=0, building=1, solids=solids, table=SolidTable(solids),
        land=np.full((1024, 1024), Land.LAWN, np.uint8), stalls=np.zeros((0, 3)),
        noise=np.zeros((256, 256), np.float32), grain=np.zeros((512, 512), np.float32), reach=100.0,
    )  # fmt: skip


def _middle_of_red(picture):
    """Column and row of the middle of what is red, in pixels from the upper left corner."""
    red, green, blue = np.moveaxis(np.asarray(picture, int), -1, 0)
    rows, columns = np.nonzero((red > 2 * green) & (red > 2 * blue))
    assert len(rows) > 20
    return columns.mean() + 0.5, rows.mean() + 0.5


# ---------------------------------------------------------------- coordinates
def test_a_slab_has_one_place_in_web_tiles_geotiff_and_photos(tmp_path):
    east, north = 31.0, -22.0
    paint = {"side": Material.PLAIN, "cap": Material.PLAIN,
             "side_colour": (0.8, 0.02, 0.02), "cap_colour": (0.8, 0.02, 0.02)}  # fmt: skip
    slab = _site([Solid(east, north, 4, 4, 0, 0.5, **paint)])
    frame = survey.lay_out(1)
    picture = survey.look_down(stage(slab, Stream.SATELLITE), frame)
    latitude, longitude = frame.degrees(east, north)
    picture = (np.sqrt(picture.clip(0, 1)) * 255).astype(np.uint8).transpose(1, 2, 0)
    picture = np.asarray(Image.fromarray(picture).resize((256, 256)))
    survey.write_map(tmp_path, picture, frame)

    # By the numbers of the web tile alone.
    (path,) = (tmp_path / "map").glob("*/*/*.jpg")
    zoom, x, y = int(path.parts[-3]), int(path.parts[-2]), int(path.stem)
    column, row = _middle_of_red(Image.open(path))
    found = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (y + row / 256) / 2**zoom))))
    there = np.array([found, (x + column / 256) / 2**zoom * 360 - 180])
    assert metre_distance(there, np.array([latitude, longitude])) < 0.3

    with Image.open(tmp_path / "map.tif") as tif:
        column, row = _middle_of_red(tif)
        pixel, tie = tif.tag_v2[33550], tif.tag_v2[33922]
    there = np.array(mercator.unproject(tie[3] + column * pixel[0], tie[4] - row * pixel[1]))
    assert metre_distance(there, np.array([latitude, longitude])) < 0.3

    # A drone 150 m above a point to the south of it looks north and down.
    shot = survey.Shot(np.array([east, north - 20, 150.0]), 0.0, 80.0, 0.0)
    photo = survey.take_photo(stage(slab, Stream.DRONE), shot, 0)
    column, row, _ = survey.aim(shot, survey.PHOTO_SIZE).project(np.array([east, north, 0.5]))
    assert _middle_of_red(photo) == pytest.approx((column, row), abs=1)
    assert column == pytest.approx(survey.PHOTO_SIZE / 2) and row > survey.PHOTO_SIZE / 2


@pytest.mark.parametrize(("east", "north"), [(500.0, -300.0), (-20.0, 4.0)])
@pytest.mark.parametrize("sides", [(1, 1), (-1, -1)])
def test_the_place_in_exif_is_the_drones(tmp_path, sides, east, north):
    place = np.array(survey.lay_out(6).degrees(east, north)) * sides  # south and west too
    survey.write_photo(tmp_path / "photo.jpg", np.zeros((8, 8, 3), np.uint8), place, 63)
    carried = read_place(tmp_path / "photo.jpg")
    assert metre_distance(np.array(carried.place), place) < 0.03
    assert carried.note == "EXIF"
    assert carried.time == survey.TAKE_OFF + timedelta(seconds=63)


def test_metres_of_the_area_are_metres_on_the_ground():
    frame = survey.lay_out(6)
    middle, away = (np.array(frame.degrees(*spot)) for spot in ((0, 0), (300.0, 400.0)))
    assert metre_distance(middle, away) == pytest.approx(500, abs=0.05)
    assert frame.tiles == 9 and 9 * frame.tile_metres <= 6 * area.PLOT


# ---------------------------------------------------------------- files
def test_web_tiles_and_geotiff_are_the_same(rendered):
    folder, counts, steps = rendered
    assert counts == {"web tiles": 1, "photos": PHOTOS} and steps == 1 + PHOTOS
    tiles = open_map(folder / "map")
    with Image.open(folder / "map.tif") as tif:
        whole = np.asarray(tif)
        pixel, tie = tif.tag_v2[33550], tif.tag_v2[33922]
    left, bottom, right, top = tiles.bounds
    assert (tie[3], tie[4]) == pytest.approx((left, top), abs=1e-6)
    assert pixel[:2] == pytest.approx(((right - left) / 256, (top - bottom) / 256))
    assert np.array_equal(tiles.read(tiles.bounds, 256)[..., :3], whole)


def test_rasterio_reads_the_geotiff_as_the_web_tiles(rendered):
    rasterio = pytest.importorskip("rasterio")
    tiles, raster = (open_map(rendered[0] / name) for name in ("map", "map.tif"))
    assert raster.bounds == pytest.approx(tiles.bounds, abs=1e-3)
    with rasterio.open(rendered[0] / "map.tif") as dataset:
        assert dataset.crs.to_epsg() == 3857
        assert np.array_equal(
            dataset.read().transpose(1, 2, 0), tiles.read(tiles.bounds, 256)[..., :3]
        )


def test_the_bytes_depend_on_the_numbers_alone(rendered, tmp_path):
    def digests(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    for name, seed in (("again", 3), ("other", 4)):
        survey.render_survey(tmp_path / name, seed=seed, map_plots=1, flight_photos=PHOTOS)
    first, again, other = map(digests, (rendered[0], tmp_path / "again", tmp_path / "other"))
    assert len(first) == 2 + PHOTOS and first == again
    assert other.keys() == first.keys() and all(first[name] != other[name] for name in first)


# ---------------------------------------------------------------- area and flight
def test_the_buildings_of_the_map_are_in_no_folder(monkeypatch):
    made, make_site = [], area.make_site

    def noted(seed, building, room):
        made.append(building)
        return make_site(seed, building, room)

    monkeypatch.setattr(area, "make_site", noted)
    site = area.make_area(0, 2)
    # Folders go up to LAST_ID, and wrong web photographs show buildings up to twice that.
    assert len(set(made)) == 4 and min(made) > 2 * LAST_ID
    assert len(site.land) == pytest.approx(2 * area.PLOT / TEXEL, abs=1)
    # Nothing that stands on the ground reaches into another plot but crowns over a road.
    feet = np.array([(s.x, s.y) for s in site.solids])
    assert np.abs(feet).max() < area.PLOT
    assert {np.sign(x) * 2 + np.sign(y) for x, y in feet} == {-3, -1, 1, 3}


def test_map_and_flight_are_of_other_days():
    assert not set(SEASONS[Stream.SATELLITE]) & set(SEASONS[Stream.DRONE])
    site = _site([Solid(0, 0, 5, 5, 0, 5)])
    above, below = stage(site, Stream.SATELLITE), stage(site, Stream.DRONE)
    assert np.degrees(np.arccos(above.sun @ below.sun)) > 5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_flight_is_one_that_a_drone_can_fly(seed):
    frame = survey.lay_out(6)
    shots = survey.plan_flight(seed, frame, 60)
    eyes = np.array([shot.eye for shot in shots])
    steps = np.hypot(*np.diff(eyes[:, :2], axis=0).T)
    speed = steps / survey.INTERVAL  # metres a second
    assert speed.max() <= survey.SPEED + 1e-6 and speed.min() > 0.9 * survey.SPEED
    turns = np.diff(np.unwrap([shot.heading for shot in shots]))
    assert np.degrees(np.abs(turns)).max() < 45
    assert eyes[:, 2].min() > SPIRAL_BOTTOM and eyes[:, 2].max() < SPIRAL_TOP
    assert min(shot.tilt for shot in shots) > TILT_BOTTOM
    assert abs(np.mean([shot.tilt for shot in shots]) - TILT_TOP) < 1
    # Every photo sees the area and no horizon.
    half = frame.tiles * frame.tile_metres / 2
    for shot in shots:
        camera = survey.aim(shot, 32)
        ground = camera.unproject(_ground_depths(camera))
        assert np.abs(ground[:2]).max() < half


def _ground_depths(camera):
    across, upward = camera.grid()
    right, up, forward = -camera.axes[:, 2] / camera.eye[2]
    inverse = np.add.outer(up * upward + forward, right * across)
    assert inverse.min() > 0
    return inverse.astype(np.float32)
