"""Photos against the tiles of a map."""

import numpy as np
import pytest

from evaluation import mercator
from evaluation.index import open_index
from evaluation.places import geodesic, haversine
from locating import search
from locating.search import errors_of, estimate, find_by_index, find_tiles, tiles_near


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def features():
    generator = np.random.default_rng(0)
    photos = unit(generator.standard_normal((4, 70, 16))).astype(np.float32)
    return photos, unit(generator.standard_normal((500, 16))).astype(np.float32)


@pytest.mark.parametrize("turns", [1, 4])
def test_first_tiles_are_those_of_brute_force(features, turns):
    photos, tiles = features
    photos = photos[:turns]
    scores = np.einsum("tnd,md->tnm", photos, tiles)
    best = scores.max(axis=0)
    order = np.argsort(-best, axis=1, kind="stable")[:, :7]
    found = find_tiles(photos, tiles, 7)
    assert (found.tiles == order).all()
    assert found.scores == pytest.approx(np.take_along_axis(best, order, axis=1), abs=1e-6)
    assert (found.turns == np.take_along_axis(scores.argmax(axis=0), order, axis=1)).all()


def test_only_chosen_tiles_and_a_mapped_file(features, tmp_path):
    photos, tiles = features
    np.save(tmp_path / "tiles.npy", tiles)
    mapped = np.load(tmp_path / "tiles.npy", mmap_mode="r")
    chosen = np.arange(100, 150)
    found = find_tiles(photos[:1], mapped, 60, chosen)
    assert found.tiles.shape == (70, 50)  # there are no more
    assert set(found.tiles[0]) == set(chosen)
    assert (
        found.tiles[:, 0].tolist() == (100 + (photos[0] @ tiles[chosen].T).argmax(axis=1)).tolist()
    )


@pytest.mark.parametrize("turns", [1, 4])
def test_blocks_of_tiles_and_of_photos_change_nothing(features, monkeypatch, turns):
    """Of equal tiles the first counts, wherever a block ends."""
    photos, tiles = features
    tiles = np.concatenate([tiles, tiles[:100], tiles[40:41]])
    chosen = np.arange(3, 560)
    whole = [find_tiles(photos[:turns], tiles, 9, rows) for rows in (None, chosen)]
    monkeypatch.setattr(search, "BLOCK", 37)
    monkeypatch.setattr(search, "PHOTOS", 8)
    monkeypatch.setattr(search, "SCORED_AGAIN", 3000)
    for expected, rows in zip(whole, (None, chosen), strict=True):
        found = find_tiles(photos[:turns], tiles, 9, rows)
        assert (found.tiles == expected.tiles).all() and (found.turns == expected.turns).all()
        assert found.scores == pytest.approx(expected.scores, abs=1e-6)
    assert (np.diff(whole[0].scores, axis=1) <= 0).all()
    equal = whole[0].scores[:, 1:] == whole[0].scores[:, :-1]
    assert equal.any() and (np.diff(whole[0].tiles, axis=1)[equal] > 0).all()


@pytest.mark.parametrize("turns", [1, 4])
def test_an_index_gives_what_exact_search_gives(features, turns):
    pytest.importorskip("faiss", reason="faiss is not installed")
    photos, tiles = features
    exact = find_tiles(photos[:turns], tiles, 5)
    for factory in ("Flat", "SQ4"):  # of rough scores, 4 x 5 candidates hold most of the first
        found = find_by_index(photos[:turns], tiles, 5, open_index(tiles, factory))
        assert (found.tiles == exact.tiles).mean() > (0.5 if factory == "SQ4" else 0.999)
        same = found.tiles == exact.tiles
        assert found.scores[same] == pytest.approx(exact.scores[same], abs=1e-6)
        assert (np.diff(found.scores, axis=1) <= 0).all()
    # Of 16 lists 8 are searched, some 250 tiles: more are searched for exactly.
    found = find_by_index(photos[:1, :3], tiles, 400, open_index(tiles, "IVF16,Flat"))
    assert (found.tiles == find_tiles(photos[:1, :3], tiles, 400).tiles).all()


def places_around(latitude, longitude, metres):
    """Nine places, a grid of so many metres with the given one in the middle: the middle first."""
    x, y = mercator.project(latitude, longitude)
    step = metres * mercator.per_ground_metre(y)
    offsets = [(0, 0)] + [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    return np.stack(
        mercator.unproject(*np.transpose([(x + i * step, y + j * step) for i, j in offsets])), 1
    )


@pytest.mark.parametrize(
    "latitude, longitude", [(48.1, 11.5), (-33.9, 151.2), (10, 180), (60, -179.9999)]
)
def test_estimate_by_the_neighbours(latitude, longitude):
    places = places_around(latitude, longitude, 50)[None]
    sides = np.full((1, 9), 100.0)
    even = estimate(places, sides, np.zeros((1, 9)), 0.1)
    assert haversine(latitude, longitude, *even[0]) < 0.01
    sure = estimate(places, sides, np.array([[1.0] + [0.0] * 8]), 0.1)
    assert haversine(*places[0, 0], *sure[0]) < 1e-3
    # A tile as good, half a side to the east: the middle of both.
    scores = np.full((1, 9), -9.0)
    scores[0, 0] = scores[0, 7] = 0.5
    between = estimate(places, sides, scores, 0.1)
    half = haversine(*places[0, 0], *places[0, 7]) / 2
    assert haversine(*places[0, 0], *between[0]) == pytest.approx(half, rel=1e-3)


def test_tiles_elsewhere_do_not_count():
    places = np.array([[(48.1, 11.5), (48.2, 11.5)]])
    found = estimate(places, np.full((1, 2), 100.0), np.array([[0.5, 0.5]]), 0.1)
    assert found[0] == pytest.approx((48.1, 11.5))


def test_only_tiles_around_a_place():
    places = np.array([(48.1, 11.5), (48.1009, 11.5), (48.2, 11.5)])
    assert tiles_near(places, (48.1, 11.5), 120).tolist() == [0, 1]
    with pytest.raises(ValueError, match="no tile of the map is there, the nearest is"):
        tiles_near(places, (47, 11.5), 120)


def test_errors_by_hand():
    truth = np.array([(0.0, 0.0), (0.0, 0.001)])
    estimates = np.array([(0.0, 0.0001), (0.0, 0.002)])
    first = np.array([(0.0, 0.0), (0.0, 0.0011)])
    grid = np.array([(0.0, 0.0), (0.0, 0.001), (0.0, 0.002)])
    metres = [geodesic(*truth.T, *places.T) for places in (estimates, first)]
    found = errors_of(*metres, truth, (first, np.array([30.0, 30.0])), (grid, np.full(3, 30.0)))
    metre = np.pi / 180 * 6378137  # for a degree, on the equator
    assert found.metres == pytest.approx([0.0001 * metre, 0.001 * metre])
    assert found.first == pytest.approx([0, 0.0001 * metre], abs=1e-6)
    assert found.guessing == pytest.approx(0.001 * metre)
    assert found.within_tile == 100  # 11 m of 15 m
    assert "median error 61.2 m (guessing: 111 m), 50.0 % within 25 m" in found.lines()[0]
    assert found.outside == 0 and len(found.lines()) == 2
    searched = grid[2:], np.array([30.0])  # a part of the map: both places are 111 m and more off
    found = errors_of(*metres, truth, (first, np.array([30.0, 30.0])), searched)
    assert found.outside == 2
    assert found.lines()[2].startswith("2 of 2 known places lie outside the tiles that were searc")


def test_errors_are_on_the_ellipsoid():
    """A thousandth of a degree of a meridian at 60 degrees north: 111.412 m, 111.319 on a sphere.

    M = a (1 - e^2) / (1 - e^2 sin^2 phi)^1.5, the radius of curvature along a meridian.
    """
    squared = 0.00669437999014
    curvature = 6378137 * (1 - squared) / (1 - squared * 0.75) ** 1.5
    found = geodesic(60.0, 5.0, 60.001, 5.0)
    expected = curvature * np.pi / 180 / 1000
    assert expected == pytest.approx(111.412, abs=1e-3)
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_true_place_at_a_pole_is_far_from_all_tiles():
    place = np.array([(70.0, 5.0)])
    zero = np.zeros(1)
    tiles = place, np.array([100.0])
    found = errors_of(zero, zero, np.array([(90.0, 0.0)]), tiles, tiles)
    assert (
        found.outside == 1
        and found.within_tile == 0
        and found.guessing == pytest.approx(2232e3, rel=1e-2)
    )


def test_estimate_is_by_scores_in_their_spread():
    """A tile one spread below the best, 50 m to the east: it counts 1 / e."""
    places = places_around(48.1, 11.5, 50)[None, [0, 7]]
    side = haversine(*places[0, 0], *places[0, 1])
    for spread in (0.02, np.array([0.3])):
        found = estimate(places, np.full((1, 2), 100.0), np.array([[0.9, 0.9]]), spread)
        assert haversine(*places[0, 0], *found[0]) == pytest.approx(side / 2, rel=1e-3)
        scores = np.array([[0.9, 0.9 - float(np.squeeze(spread))]])
        found = estimate(places, np.full((1, 2), 100.0), scores, spread)
        share = np.exp(-1) / (1 + np.exp(-1))
        assert haversine(*places[0, 0], *found[0]) == pytest.approx(share * side, rel=1e-3)


def test_spread_by_hand():
    photos = np.array([[[1, 0], [0.6, 0.8]], [[0, 1], [0.8, 0.6]]], dtype=np.float32)
    tiles = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    best = [[1, 1, 0], [0.8, 0.8, -0.6]]  # of the two turns
    assert search.spread_of(photos, tiles) == pytest.approx(np.std(best, axis=1))
    assert search.spread_of(photos, tiles, np.array([0, 1])) == pytest.approx([1e-6, 1e-6])
