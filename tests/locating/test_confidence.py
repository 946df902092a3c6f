"""Confidence: the margin by hand, calibrations on simulated photos and on tiles of a map."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from evaluation import mercator
from evaluation.map_folder import MapFolder
from locating.confidence import (
    RIVALS,
    Gallery,
    by_tiles,
    cross_fitted,
    fit,
    judge,
    margins_of,
    squares_of,
)
from locating.search import find_tiles, spread_of


def map_of(columns, rows, *, side=100.0, overlap=0.5, latitude=48.1, longitude=11.5):
    """A map of so many tiles of one size, without images."""
    x, y = mercator.project(latitude, longitude)
    step = side * (1 - overlap) * mercator.per_ground_metre(y)
    x, y = (each.ravel() for each in np.meshgrid(x + np.arange(columns) * step,
                                                 y - np.arange(rows) * step))  # fmt: skip
    places = np.stack(mercator.unproject(x, y), axis=1)
    return MapFolder(Path("map"), [Path(f"{i}.jpg") for i in range(len(places))], places, None,
                     np.full(len(places), side))  # fmt: skip


def features_of(table, generator, width=64, reach=60.0):
    """Unit features (M, width) that change smoothly over the map, as those of its tiles do."""
    x, y = mercator.project(table.places[:, 0], table.places[:, 1])
    points = np.stack([x - x.min(), y - y.min()], axis=1) / mercator.per_ground_metre(y.mean())
    waves = generator.standard_normal((2, width)) / reach
    found = np.cos(points @ waves + generator.uniform(0, 2 * np.pi, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def reliability(values, right, bins=5):
    """The largest distance of mean probability and share of right ones among equal bins."""
    order = np.array_split(np.argsort(values), bins)
    return max(abs(values[part].mean() - right[part].mean()) for part in order)


# ---------------------------------------------------------------- the margin
def test_margin_by_hand():
    """Four tiles in a row, half a tile apart: the first overlaps the second, not the third."""
    table = map_of(4, 1)
    tiles = np.eye(4, dtype=np.float32)
    photo = np.array([[[0.9, 0.8, 0.5, 0.2]]], dtype=np.float32)
    gallery = Gallery(tiles, squares_of(table), None)
    found = margins_of(find_tiles(photo, tiles, RIVALS), gallery, spread_of(photo, tiles))
    assert found == pytest.approx([0.4 / np.std([0.9, 0.8, 0.5, 0.2])], rel=1e-5)
    turned = np.concatenate([photo[..., [2, 1, 0, 3]], photo])  # its scores: 0.9, 0.8, 0.9, 0.2
    found = margins_of(find_tiles(turned, tiles, RIVALS), gallery, spread_of(turned, tiles))
    assert found == pytest.approx([0], abs=1e-6)
    # Of two candidates, both overlapping, the worse stands for the others.
    found = margins_of(find_tiles(photo, tiles, 2), gallery, spread_of(photo, tiles))
    assert found == pytest.approx([0.1 / np.std([0.9, 0.8, 0.5, 0.2])], rel=1e-5)
    alone = Gallery(tiles, squares_of(table), np.array([0, 1]))  # all there are
    rows = np.array([0, 1])
    spread = spread_of(photo, tiles, rows)
    assert np.isnan(margins_of(find_tiles(photo, tiles, 2, rows), alone, spread)).all()


def test_which_tiles_overlap():
    squares = squares_of(map_of(4, 2, longitude=179.9995))
    row = np.zeros(8, dtype=int)
    expected = [True, True, False, False] * 2  # on both sides of the 180th meridian
    assert squares.overlap(row, np.arange(8)).tolist() == expected
    assert squares.same(row, np.arange(8)).tolist() == [True] + [False] * 7
    table = map_of(2, 1, overlap=0)
    assert not squares_of(table).overlap(0, 1)
    large = table._replace(metres=np.array([100.0, 210.0]))  # their sizes may differ
    assert squares_of(large).overlap(0, 1)


# ---------------------------------------------------------------- photos with known places
def test_simulated_photos_are_calibrated():
    generator = np.random.default_rng(0)
    margins = generator.exponential(0.8, 2000)
    right = generator.random(2000) < expit(-2 + 3 * margins)
    calibration = fit(margins, right)
    assert calibration[:2] == pytest.approx((-2, 3), abs=0.35)
    later = generator.exponential(0.8, 5000)
    found = calibration.probabilities(later)
    assert reliability(found, generator.random(5000) < expit(-2 + 3 * later)) < 0.05
    assert (np.diff(calibration.probabilities(np.sort(later))) >= 0).all()
    assert reliability(cross_fitted(margins, right), right) < 0.06
    few = cross_fitted(margins[:40], right[:40])  # one left out at a time
    others = fit(np.delete(margins[:40], 7), np.delete(right[:40], 7))
    assert few[7] == pytest.approx(others.probabilities(margins[7]))


@pytest.mark.parametrize("right, expected", [
    (np.ones(30, bool), 31 / 32), (np.zeros(30, bool), 1 / 32),  # Platt's targets
    (np.arange(30) % 2 == 0, 0.5),  # the margin tells nothing
])  # fmt: skip
def test_margins_that_tell_nothing(right, expected):
    margins = np.repeat(np.linspace(0, 2, 15), 2)
    found = fit(margins, right).probabilities(margins)
    assert found == pytest.approx(np.full(30, expected), abs=0.02)


def test_a_smaller_margin_is_never_surer():
    margins = np.linspace(0, 2, 40)
    against = fit(margins, margins < 1)
    assert against.slope == 0 and against.probabilities(margins) == pytest.approx(0.5, abs=0.02)
    apart = fit(margins, margins > 1).probabilities(margins)  # without an overlap: still finite
    assert (np.diff(apart) > 0).all() and 0 < apart[0] < 0.05 and 0.95 < apart[-1] < 1


# ---------------------------------------------------------------- on a map
@pytest.fixture(scope="module")
def world():
    """A map, its features, and 400 photos in it: (table, tiles, photos (1, N, D), places)."""
    generator = np.random.default_rng(1)
    table = map_of(25, 25)
    tiles = features_of(table, generator)
    shown = generator.integers(0, len(tiles), 400)
    noise = generator.uniform(0.1, 3.5, (400, 1)) / 8 * generator.standard_normal((400, 64))
    photos = (tiles[shown] + noise)[np.newaxis]
    photos /= np.linalg.norm(photos, axis=-1, keepdims=True)
    places = table.places[shown] + (2e-5, 3e-5)  # not on the edge of a neighbour
    return table, tiles, photos.astype(np.float32), [tuple(each) for each in places]


def test_photos_with_places_calibrate_the_others(world, tmp_path):
    table, tiles, photos, places = world
    candidates, spread = find_tiles(photos, tiles, RIVALS), spread_of(photos, tiles)
    kept = tmp_path / "key.npy"
    known = [place if i % 2 else None for i, place in enumerate(places)]
    found = judge(
        tiles, table, candidates, spread_of(photos, tiles), known, kept=kept, name="drone-1"
    )
    assert found.line.endswith("calibrated on 200 photos with a known place")
    x, y = (squares_of(table).x, squares_of(table).y)
    true_x, true_y = mercator.project(*np.transpose(places))
    half = squares_of(table).side[candidates.tiles[:, 0]] / 2
    right = np.abs(x[candidates.tiles[:, 0]] - true_x) <= half
    right &= np.abs(y[candidates.tiles[:, 0]] - true_y) <= half
    assert 0.3 < right.mean() < 0.8
    for side in (slice(0, None, 2), slice(1, None, 2)):  # without a place, and with one
        assert reliability(found.values[side], right[side], bins=4) < 0.15
    # Later photos without places profit, those of other turns do not.
    later = judge(
        tiles, table, candidates, spread_of(photos, tiles), [None] * 400, kept=kept, name="drone-1"
    )
    assert "on 200 photos with a known place of an earlier call" in later.line
    assert later.values[::2] == pytest.approx(found.values[::2], abs=1e-6)
    other = judge(
        tiles, table, candidates, spread_of(photos, tiles), [None] * 400, kept=kept, name="drone-4"
    )
    assert "tiles searched for among the others: a guide only" in other.line
    few = [place if i < 30 else None for i, place in enumerate(places)]
    judge(tiles, table, candidates, spread, few, kept=kept, name="drone-1")
    again = judge(
        tiles, table, candidates, spread_of(photos, tiles), [None] * 400, kept=kept, name="drone-1"
    )
    assert np.array_equal(again.values, later.values)  # fewer photos do not replace it
    more = find_tiles(photos, tiles, 3 * RIVALS)  # of --top 300
    again = judge(
        tiles, table, more, spread_of(photos, tiles), [None] * 400, kept=kept, name="drone-1"
    )
    assert np.array_equal(again.values, later.values)
    elsewhere = table._replace(places=table.places + 0.01)
    moved = judge(
        tiles,
        elsewhere,
        candidates,
        spread_of(photos, tiles),
        [None] * 400,
        kept=kept,
        name="drone-1",
    )
    assert "a guide only" in moved.line
    (file,) = tmp_path.glob("key-confidence-*-photos-drone-1.yaml")
    assert len(list(tmp_path.glob("key-confidence-*-tiles.yaml"))) == 2
    file.write_text("intercept: 1\n")
    with pytest.raises(ValueError, match="holds no calibration: remove it"):
        judge(
            tiles,
            table,
            candidates,
            spread_of(photos, tiles),
            [None] * 400,
            kept=kept,
            name="drone-1",
        )


def test_a_map_calibrates_by_its_own_tiles(world):
    table, tiles, photos, places = world
    candidates, spread = find_tiles(photos, tiles, RIVALS), spread_of(photos, tiles)
    few = [*places[:19], *[None] * 381]  # one too few
    found = judge(tiles, table, candidates, spread, few)
    assert "calibrated on 500 tiles searched for among the others" in found.line
    assert np.isfinite(found.values).all() and (found.values >= 0).all()
    margins = margins_of(
        candidates, Gallery(tiles, squares_of(table), None), spread_of(photos, tiles)
    )
    assert (np.diff(found.values[np.argsort(margins)]) >= 0).all()
    # Of noise no neighbour is alike: nothing is sure.
    noise = np.random.default_rng(2).standard_normal(tiles.shape).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert by_tiles(Gallery(noise, squares_of(table), None)).probabilities(0.2) < 0.1
    # Of twins (the same tile twice) each is searched for without the other.
    twice = MapFolder(table.folder, [], *(np.concatenate([each, each]) for each in
                      (table.places, np.zeros((625, 4)), table.metres)))  # fmt: skip
    gallery = Gallery(np.concatenate([noise, noise]), squares_of(twice), None)
    assert by_tiles(gallery).probabilities(0.2) < 0.1


def test_a_map_that_cannot_say(world):
    """One tile, tiles that do not overlap, and a part with too few tiles."""
    table, tiles, photos, _ = world
    one = MapFolder(table.folder, [], table.places[:1], None, table.metres[:1])
    apart = table._replace(metres=table.metres / 4)
    chosen = np.arange(10)
    for part, rows in ((one, None), (apart, None), (table, chosen)):
        some = tiles[: len(part.places)]
        candidates = find_tiles(photos, some, RIVALS, rows)
        found = judge(
            some, part, candidates, spread_of(photos, some, rows), [None] * 400, chosen=rows
        )
        assert found.line.startswith("confidence: none") and np.isnan(found.values).all()
