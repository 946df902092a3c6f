"""The toy campus: exact layout and bytes, and a ray caster that agrees with hand-worked numbers."""

import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from imaging.files import VIEWS
from sources.campus.buildings import FAMILIES, barred, draw_style
from sources.campus.camera import FAR, drone_position, look_at, spiral_frames
from sources.campus.render import Job, has_google_photo, render_building, render_campus
from sources.campus.site import make_site
from sources.campus.solids import CAP, FACES, ROUND, Shape, Solid, SolidTable, cast
from sources.campus.views import render_view

TINY = {"num_train": 2, "num_test": 2, "num_distractors": 1, "drone_frames": 2, "image_size": 32}


def _digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    root = tmp_path_factory.mktemp("campus")
    finished = []
    counts = render_campus(root, seed=3, num_workers=0, progress=finished.append, **TINY)
    return root, counts, finished


def _straight_down(size=100, span=100.0):
    return look_at((0, 0, 100), (0, 0, 0), span, size, up=(0, 1, 0))


def _cast(solids, camera):
    table = SolidTable(solids)
    grain = np.zeros((camera.size, camera.size), np.float32)
    return table, *cast(table, camera, grain)


# ------------------------------------------------------------------------------------- ray casting


def test_box_from_above_by_hand():
    box = Solid(0, 0, 10, 5, 0, 20)
    table, inverse, face = _cast([box], _straight_down())
    # The roof is 80 m below the eye: half widths 12.5 and 6.25 m on the ground's scale.
    assert 1 / inverse[50, 50] == pytest.approx(80.0, rel=1e-5)
    assert face[50, 50] == CAP
    assert face[50, 38] == CAP and face[50, 36] == table.ground
    assert face[44, 50] == CAP and face[42, 50] == table.ground
    assert 1 / inverse[5, 5] == pytest.approx(100.0, rel=1e-5)


def test_box_from_the_side_by_hand():
    # Eye 50 m east at a height of 4 m looking west: the east wall at x = 10 is 40 m away.
    camera = look_at((50, 0, 4), (0, 0, 4), 50.0, 101)
    table, inverse, face = _cast([Solid(0, 0, 10, 5, 0, 20)], camera)
    assert face[50, 50] == 0
    assert 1 / inverse[50, 50] == pytest.approx(40.0, rel=1e-5)
    assert face[0, 0] == table.sky and inverse[0, 0] == 0
    # A ground ray that drops 0.2 per metre lands 20 m away.
    row = int(50 + 0.2 * camera.focal)
    fall = (row + 0.5 - 50.5) / camera.focal
    assert 1 / inverse[row, 50] == pytest.approx(4 / fall, rel=1e-4)


def test_sloping_side_leans_in():
    # A pyramid 20 m wide and 10 m high: halfway out, its surface is 5 m above the ground.
    pyramid = Solid(0, 0, 10, 10, 0, 10, insets=(10, 10, 10, 10))
    camera = look_at((5, 0, 5000), (5, 0, 0), 20.0, 101, up=(0, 1, 0))
    _, inverse, face = _cast([pyramid], camera)
    assert face[50, 50] == 0
    assert 1 / inverse[50, 50] == pytest.approx(4995.0, abs=0.02)


def test_ellipsoid_by_hand():
    crown = Solid(0, 0, 6, 3, 2, 10, shape=Shape.ELLIPSOID)
    camera = look_at((40, 0, 6), (0, 0, 6), 40.0, 101)
    table, inverse, face = _cast([crown], camera)
    assert face[50, 50] == ROUND
    assert 1 / inverse[50, 50] == pytest.approx(34.0, rel=1e-4)
    # Its outline is 3 m wide to each side, seen tangentially a little before the centre.
    reach = 3 / np.sqrt(40**2 - 6**2) * camera.focal
    assert face[50, 50 + int(reach) - 1] == ROUND
    assert face[50, 50 + int(reach) + 2] != ROUND


def test_cylinder_has_a_flat_cap_and_bounded_sides():
    drum = Solid(0, 0, 10, 10, 0, 20, shape=Shape.CYLINDER)
    table, inverse, face = _cast([drum], _straight_down())
    assert face[50, 50] == CAP and 1 / inverse[50, 50] == pytest.approx(80.0, rel=1e-5)
    assert face[50 - 11, 50 - 11] == table.ground  # a square's corner would be here
    side = look_at((50, 0, 4), (0, 0, 4), 50.0, 101)
    _, inverse, face = _cast([drum], side)
    assert face[50, 50] == ROUND and 1 / inverse[50, 50] == pytest.approx(40.0, rel=1e-4)


def test_nearer_solid_wins_whatever_the_order():
    low, high = Solid(0, 0, 10, 10, 0, 5), Solid(3, 0, 4, 4, 0, 15)
    for solids in ([low, high], [high, low]):
        _, inverse, _ = _cast(solids, _straight_down())
        assert 1 / inverse[50, 53] == pytest.approx(85.0, rel=1e-5)
        assert 1 / inverse[50, 42] == pytest.approx(95.0, rel=1e-5)


def test_camera_projects_and_unprojects_alike():
    camera = look_at(drone_position(30), (0, 0, 5), 120.0, 64, roll=7)
    inverse = np.full((64, 64), 1 / 150, np.float32)
    points = camera.unproject(inverse).reshape(3, 64, 64)
    column, row, depth = camera.project(points[:, 20, 45])
    assert (column, row) == pytest.approx((45.5, 20.5), abs=1e-2)
    assert depth == pytest.approx(150, rel=1e-4)


@pytest.mark.parametrize("view, frame", [("satellite", 0), ("drone", 1), ("drone", 54)])
def test_views_agree_on_where_a_landmark_is(view, frame):
    """The top of a mast projects to a pixel where the mast is what the view's rays hit."""
    mast = Solid(12, -20, 3, 3, 0, 40, yaw=0.4)
    eye = (0, 0, FAR) if view == "satellite" else drone_position(frame)
    up = (0, 1, 0) if view == "satellite" else (0, 0, 1)
    camera = look_at(eye, (0, 0, 0), 140.0, 256, up=up)
    table, inverse, face = _cast([Solid(0, 0, 10, 8, 0, 12), mast], camera)
    column, row, depth = camera.project(np.array([12.0, -20.0, 40.0]))
    hit = int(row), int(column)
    assert face[hit] == FACES + CAP
    assert 1 / inverse[hit] == pytest.approx(depth, abs=0.6)


def test_satellite_is_north_up():
    column, row, _ = _straight_down().project(np.array([[10.0, 0, 0], [0, 10, 0]]))
    assert column[0] > 50 and row[0] == pytest.approx(50)
    assert column[1] == pytest.approx(50) and row[1] < 50


# --------------------------------------------------------------------------------- spiral and sites


def test_spiral_descends_in_three_turns():
    path = np.array([drone_position(frame) for frame in range(1, 55)])
    assert path[0, 2] == 256.0 and path[-1, 2] == 121.5
    assert np.all(np.diff(path[:, 2]) < 0)
    azimuth = np.unwrap(np.arctan2(path[:, 0], path[:, 1]))
    assert azimuth[-1] - azimuth[0] == pytest.approx(3 * 2 * np.pi)
    elevation = np.degrees(np.arctan2(path[:, 2], np.hypot(path[:, 0], path[:, 1])))
    assert elevation.min() == pytest.approx(66, abs=0.1)
    assert elevation.max() == pytest.approx(80, abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 10, 53, 54])
def test_spiral_frames_are_distinct_and_look_from_all_sides(count):
    frames = spiral_frames(count)
    assert len(set(frames)) == count and frames == sorted(frames)
    assert frames[0] == 1 and frames[-1] <= 54
    if 3 <= count <= 10:
        azimuth = np.sort([(frame - 1) / 53 * 3 % 1 for frame in frames])
        gaps = np.diff([*azimuth, azimuth[0] + 1])
        assert gaps.max() < 0.5  # no side of the building stays unseen


def test_site_depends_on_seed_and_building_alone():
    first, again = make_site(1, 2), make_site(1, 2)
    assert first.solids == again.solids and np.array_equal(first.land, again.land)
    assert first.solids != make_site(1, 3).solids
    assert first.solids != make_site(2, 2).solids


def test_every_family_builds_and_renders():
    rng = np.random.default_rng(0)
    for family in (barred, *FAMILIES):
        _, solids = family(rng, draw_style(rng))
        assert np.isfinite(SolidTable(solids).planes).all()
        assert all(solid.top > solid.base for solid in solids)


@pytest.mark.parametrize("view", VIEWS)
def test_render_view(view):
    site = make_site(0, 5)
    picture = render_view(site, view, frame=28, size=48)
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
    assert picture.std() > 10
    assert np.array_equal(picture, render_view(site, view, frame=28, size=48))


# ------------------------------------------------------------------------------------------ folders


def test_layout_and_counts(rendered):
    root, counts, finished = rendered
    train, test, distractors, frames = 2, 2, 1, 2
    assert counts["train/satellite"] == counts["train/street"] == train
    assert counts["train/drone"] == train * frames
    assert counts["test/query_drone"] == test * frames
    assert counts["test/gallery_drone"] == (test + distractors) * frames
    assert counts["test/gallery_satellite"] == counts["test/gallery_street"] == test + distractors
    for folder, count in counts.items():
        files = [path for path in (root / folder).rglob("*") if path.is_file()]
        texts = [line for path in files if "text" in folder for line in path.open()]
        assert len(texts or files) == count
    assert counts["train/text"] == 3 * train and counts["test/query_text"] == 3 * test
    assert finished == [1, 2, 3, 4, 5]
    names = sorted(path.name for path in (root / "train/drone/0001").iterdir())
    assert names == [f"image-{frame:02d}.jpeg" for frame in spiral_frames(2)]
    picture = Image.open(root / "train/satellite/0001/0001.jpg")
    assert picture.size == (32, 32) and picture.format == "JPEG"
    assert (root / "train/street/0001/1.jpg").is_file()


def test_distractors_are_in_the_gallery_only(rendered):
    root, _, _ = rendered
    for view in ("satellite", "drone", "street", "text"):
        queries = {path.name for path in (root / f"test/query_{view}").iterdir()}
        gallery = {path.name for path in (root / f"test/gallery_{view}").iterdir()}
        assert queries < gallery and len(gallery - queries) == 1
        assert not gallery & {path.name for path in (root / f"train/{view}").iterdir()}


def test_queries_are_the_gallery_pictures(rendered):
    digests = _digests(rendered[0])
    queries = {name: value for name, value in digests.items() if "query_" in name}
    assert queries
    for name, value in queries.items():
        assert digests[name.replace("query_", "gallery_")] == value


def test_some_google_folders_are_empty(tmp_path):
    empty = [b for b in range(1, 200) if not has_google_photo(0, b)]
    assert 2 <= len(empty) <= 24
    job = Job(str(tmp_path), 0, empty[0], "train", (1,), 32)
    assert render_building(job)["train/google"] == 0
    folder = tmp_path / "train/google" / f"{empty[0]:04d}"
    assert folder.is_dir() and not list(folder.iterdir())


def test_coordinates(rendered):
    root, _, _ = rendered
    with (root / "coordinates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["building", "latitude", "longitude"]
    assert [row["building"] for row in rows] == ["0001", "0002", "5001", "5002", "5003"]
    places = {(float(row["latitude"]), float(row["longitude"])) for row in rows}
    assert len(places) == 5 and all(47 < north < 49.5 for north, _ in places)


def test_workers_do_not_change_the_bytes(rendered, tmp_path):
    render_campus(tmp_path, seed=3, num_workers=2, **TINY)
    assert _digests(tmp_path) == _digests(rendered[0])


def test_seed_changes_every_picture_and_subset_none(rendered, tmp_path):
    base = _digests(rendered[0])
    (tmp_path / "other").mkdir()
    (tmp_path / "part").mkdir()
    render_campus(tmp_path / "other", seed=4, num_workers=0, **TINY)
    other = _digests(tmp_path / "other")
    shared = [name for name in base if name in other and name != "coordinates.csv"]
    assert shared and all(base[name] != other[name] for name in shared)
    fewer = {**TINY, "num_train": 1, "num_test": 1, "num_distractors": 0}
    render_campus(tmp_path / "part", seed=3, num_workers=0, **fewer)
    part = _digests(tmp_path / "part")
    del part["coordinates.csv"]
    assert part.items() <= base.items()


@pytest.mark.parametrize(
    "bad",
    [
        {"num_train": -1},
        {"num_test": 10_000},
        {"num_distractors": -2},
        {"drone_frames": 0},
        {"drone_frames": 55},
        {"image_size": 31},
        {"num_workers": -1},
        {"seed": -1},
        {"image_size": 64.0},
    ],
)
def test_bad_values_are_refused(bad, tmp_path):
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}, expected") as error:
        render_campus(tmp_path, **bad)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_bad_views_and_frames_are_refused():
    with pytest.raises(ValueError, match="view is 'balloon', expected"):
        render_view(make_site(0, 1), "balloon")
    with pytest.raises(ValueError, match="drone frame is 0, expected 1..54"):
        render_view(make_site(0, 1), "drone", frame=0)
