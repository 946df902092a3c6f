"""The path of a flight."""

import itertools
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from evaluation import mercator
from evaluation.places import haversine
from locating import flight
from locating.flight import FAR, LOST, find_path, in_order, likeliest, smooth
from locating.photos import PhotoPlace
from locating.search import Candidates, estimate, find_tiles


# ---------------------------------------------------------------- order
def places(times=(), seconds=()):
    times = times or [None] * len(seconds)
    seconds = seconds or [None] * len(times)
    return [PhotoPlace(None, "", *both) for both in zip(times, seconds, strict=True)]


def at(second, zone=None):
    return datetime(2024, 5, 17, 10, 0, tzinfo=zone) + timedelta(seconds=second)


def test_order_of_times():
    photos = [Path(name) for name in ("b", "c", "a")]
    found, known, seconds = in_order(photos, places([at(7), at(0.25), at(2)]))
    assert [path.name for path in found] == ["c", "a", "b"]
    assert seconds == pytest.approx([0, 1.75, 6.75]) and known[0].time == at(0.25)


def test_several_photos_in_a_second_are_spread_over_it():
    photos = [Path(str(i)) for i in range(6)]
    seconds = in_order(photos, places([at(s) for s in (0, 0, 1, 1.5, 1.5, 9)]))[2]
    assert seconds == pytest.approx([0, 0.5, 1, 1.5, 2, 9])


def test_order_of_names(capsys):
    photos = [Path(name) for name in ("IMG_10.jpg", "img_9.jpg", "IMG_1.jpg")]
    found, _, seconds = in_order(photos, places([at(0), None, at(5)]))
    assert [path.name for path in found] == ["IMG_1.jpg", "img_9.jpg", "IMG_10.jpg"]
    assert seconds.tolist() == [0, 1, 2]
    assert "1 of 3 photos carry no time: the order of the flight is" in capsys.readouterr().out
    found, _, seconds = in_order(photos, places([at(0)] * 3))
    assert [path.name for path in found] == ["IMG_1.jpg", "img_9.jpg", "IMG_10.jpg"]
    assert "all photos carry the same time" in capsys.readouterr().out


def test_order_within_videos_without_a_clock(capsys):
    photos = [Path(name) for name in ("b_0.jpg", "a_0.jpg", "a_5.jpg", "b_7.jpg")]
    found, _, seconds = in_order(photos, places(seconds=[0.0, 0.0, 5.0, 7.5]))
    assert [path.name for path in found] == ["a_0.jpg", "a_5.jpg", "b_0.jpg", "b_7.jpg"]
    assert seconds.tolist() == [0, 5, 6, 13.5] and capsys.readouterr().out == ""


def test_videos_that_ran_at_once_follow_one_another(capsys):
    """Chapters of one recording may all carry the time at which it began."""
    photos = [Path(name) for name in ("a_0.jpg", "a_1.jpg", "b_0.jpg", "b_1.jpg")]
    known = [each._replace(time=at(each.seconds)) for each in places(seconds=[0.0, 1.0] * 2)]
    found, _, seconds = in_order(photos, known)
    assert found == photos and seconds.tolist() == [0, 1, 2, 3]
    assert "the times of the videos overlap" in capsys.readouterr().out
    later = [*known[:2], *(each._replace(time=at(60 + each.seconds)) for each in known[2:])]
    assert in_order(photos[::-1], later[::-1])[2].tolist() == [0, 1, 60, 61]
    assert capsys.readouterr().out == ""


def test_what_is_no_flight():
    with pytest.raises(ValueError, match="--flight needs frames of a flight, and a.jpg is but one"):
        in_order([Path("a.jpg")], places([at(0)]))
    with pytest.raises(ValueError, match="cannot order photos by their cameras' clock and videos"):
        in_order([Path("a"), Path("b")], places([at(0), at(1, timezone.utc)]))


# ---------------------------------------------------------------- likeliest path
def cost_of(columns, x, y, sides, costs, seconds, speed):
    """The cost of a path, as the docstring of `likeliest` says it."""
    total, last = 0.0, None
    for frame, column in enumerate(columns):
        if column < 0:
            total += LOST
            continue
        if costs[frame, column] >= LOST:
            return np.inf
        total += costs[frame, column]
        if last is not None:
            before = last, columns[last]
            metres = np.hypot(x[before] - x[frame, column], y[before] - y[frame, column])
            reach = speed * (seconds[frame] - seconds[last])
            reach += (sides[before] + sides[frame, column]) / 2
            step = FAR * (metres / reach) ** 2 if metres <= reach else np.inf
            total += min(step, flight.BREAK)
        last = frame
    return total


@pytest.mark.parametrize("seed", range(12))
def test_no_path_of_all_is_cheaper(seed, monkeypatch):
    monkeypatch.setattr(flight, "BREAK", 4.0 if seed % 2 else 30.0)
    generator = np.random.default_rng(seed)
    frames, count = 5, 4
    x, y = generator.uniform(0, 400, (2, frames, count))  # at the equator: metres
    sides = generator.choice([50.0, 100.0], (frames, count))
    costs = np.sort(generator.uniform(0, 6, (frames, count)), axis=1)
    costs[:, 0] = 0
    seconds = np.cumsum(generator.choice([0.0, 1.0, 5.0], frames))
    speed = 15
    choices = list(itertools.product(range(-1, count), repeat=frames))
    every = [cost_of(path, x, y, sides, costs, seconds, speed) for path in choices]
    chosen, breaks = likeliest(x, y, sides, costs, seconds, speed)
    cost = cost_of(chosen, x, y, sides, costs, seconds, speed)
    assert cost == pytest.approx(min(every)) and np.isfinite(cost)
    assert set(breaks) <= set(np.flatnonzero(chosen >= 0))


def row_of(*metres):
    """x of one candidate a frame, and the rest of the arguments of `likeliest`."""
    x = np.array(metres, dtype=float)[:, None]
    return x, np.zeros_like(x), np.full_like(x, 20), np.zeros_like(x), np.arange(len(x)) * 1.0


def test_a_lying_frame_is_lost_and_a_leap_breaks_the_path():
    chosen, breaks = likeliest(*row_of(0, 10, 20, 900, 40, 50), 10)
    assert chosen.tolist() == [0, 0, 0, -1, 0, 0] and not len(breaks)
    leap = row_of(*range(0, 150, 10), *range(900, 1050, 10))
    chosen, breaks = likeliest(*leap, 10)
    assert (chosen == 0).all() and breaks.tolist() == [15]
    after_a_pause = leap[4] + np.where(np.arange(30) < 15, 0, 100)
    chosen, breaks = likeliest(*leap[:4], after_a_pause, 10)
    assert (chosen == 0).all() and not len(breaks)


def test_nothing_within_reach_is_no_error():
    apart = np.arange(6)[:, None] * 1e5
    scores = np.ones((6, 1), np.float32)
    places = np.stack(mercator.unproject(apart[:, 0], 0 * apart[:, 0]), axis=1)
    tiles = np.arange(6)[:, None]
    candidates = Candidates(tiles, scores, np.zeros_like(tiles))
    path = find_path(candidates, places, np.full(6, 50.0), np.arange(6.0), 10)
    assert path.places.shape == (6, 2) and np.isfinite(path.places).all() and path.seen.any()


# ---------------------------------------------------------------- places
def test_smooth_is_the_least_squares_motion():
    """Against all rows of the system written out, and their weights."""
    generator = np.random.default_rng(1)
    seconds = np.cumsum(generator.uniform(0, 3, 9))
    frames = np.array([0, 1, 3, 4, 5, 8])
    observed, sigmas = generator.uniform(0, 60, (6, 2)), generator.uniform(5, 20, 6)
    cruise = flight.CRUISE * 12
    rows, right = [], []

    def add(entries, value, sigma):
        row = np.zeros(18)
        for index, factor in entries:
            row[index] = factor
        rows.append(row / sigma)
        right.append(np.broadcast_to(value, 2) / sigma)

    for i, gap in enumerate(np.diff(seconds)):
        kept = np.exp(-gap / flight.STEADY)
        change = max(cruise * np.sqrt(1 - kept**2), 0.05)
        drift = max(0.25 * change * gap, 0.5)
        add([(2 * i, -1), (2 * i + 1, -gap / 2), (2 * i + 2, 1), (2 * i + 3, -gap / 2)], 0, drift)
        add([(2 * i + 1, -kept), (2 * i + 3, 1)], 0, change)
    add([(1, 1)], 0, cruise)
    for frame, place, sigma in zip(frames, observed, sigmas, strict=True):
        add([(2 * frame, 1)], place, sigma)
    expected = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0][::2]
    assert smooth(observed, sigmas, frames, seconds, 12, rounds=1) == pytest.approx(expected)


def test_a_steady_flight_is_followed_and_a_stray_place_is_not():
    seconds = np.arange(30.0)
    truth = np.stack([5 * seconds, 2 * seconds], axis=1)
    observed = truth + np.random.default_rng(0).normal(0, 10, truth.shape)
    observed[12] += 200
    found = smooth(observed, np.full(30, 12.0), np.arange(30), seconds, 20)
    errors = np.linalg.norm(found - truth, axis=1)
    assert np.median(errors) < 6.5 and errors.max() < 15


class Simulation:
    """A map of overlapping tiles and a flight over it, as features.

    The ground is a grid of 10-metre cells of random vectors. A tile's or photo's feature is their
    mean over a square, a photo's with noise; a part of the photos show another place.
    """

    def __init__(
        self, seed, lying=0.2, frames=60, noise=0.8, sides=(100,), longitude=11.0, cells=80
    ):
        generator = np.random.default_rng(seed)
        ground = generator.standard_normal((cells, cells, 32)).cumsum(0).cumsum(1)
        ground = np.pad(ground, ((1, 0), (1, 0), (0, 0)))

        def squares(metres, side):
            low = np.clip(np.rint((metres - side / 2) / 10).astype(int), 0, cells)
            high = np.clip(np.rint((metres + side / 2) / 10).astype(int), 0, cells)
            (a, c), (b, d) = low.T, high.T
            total = ground[b, d] - ground[a, d] - ground[b, c] + ground[a, c]
            return total / ((b - a) * (d - c))[:, None]

        extent = 10 * cells
        grids = [np.arange(s / 2, extent - s / 2 + 1, s / 2) for s in sides]
        centres = [np.stack(np.meshgrid(g, g), axis=-1).reshape(-1, 2) for g in grids]
        self.metres = np.concatenate([np.full(len(c), float(s))
                                      for c, s in zip(centres, sides, strict=True)])  # fmt: skip
        tiles = np.concatenate([squares(c, s) for c, s in zip(centres, sides, strict=True)])
        turn = np.linspace(0, 4, frames)
        track = extent / 2 + 0.32 * extent * np.stack([np.cos(turn), np.sin(1.5 * turn)], axis=1)
        photos = squares(track, 110)
        self.lying = generator.random(frames) < lying
        elsewhere = generator.uniform(60, extent - 60, (frames, 2))
        photos[self.lying] = squares(elsewhere[self.lying], 110)
        photos += noise * photos.std() * generator.standard_normal(photos.shape)
        self.features, self.photos = self.unit(tiles), self.unit(photos)
        self.places = self.on_earth(np.concatenate(centres), extent, longitude)
        self.truth = self.on_earth(track, extent, longitude)
        self.seconds = np.arange(frames) * 1.5

    @staticmethod
    def unit(rows):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    @staticmethod
    def on_earth(metres, extent, longitude):
        x, y = mercator.project(48.0, longitude)
        scale = mercator.per_ground_metre(y)
        east, north = (metres - extent / 2).T * scale
        return np.stack(mercator.unproject(x + east, y + north), axis=1)

    def run(self, speed=25):
        """(errors of the single frames, of the path, the path), metres."""
        found = find_tiles(self.photos[None], self.features, flight.CANDIDATES)
        near = found.tiles[:, :25]
        single = estimate(self.places[near], self.metres[near], found.scores[:, :25], 0.1)
        path = find_path(found, self.places, self.metres, self.seconds, speed)
        return *(haversine(*self.truth.T, *each.T) for each in (single, path.places)), path


@pytest.mark.parametrize("settings", [{}, {"sides": (100, 200)}, {"longitude": 180.0}])
def test_the_path_is_better_than_the_single_frames(settings):
    medians, lost = [], []
    for seed in range(3):
        simulation = Simulation(seed, **settings)
        single, along, path = simulation.run()
        medians.append((np.median(single), np.median(along), single.mean(), along.mean()))
        lost.append((~path.seen[simulation.lying]).mean() - (~path.seen[~simulation.lying]).mean())
        assert not len(path.breaks)
    single, along, single_mean, along_mean = np.mean(medians, axis=0)
    assert along < 10 and along < 0.5 * single and along_mean < 0.12 * single_mean
    assert np.mean(lost) > 0.4


def test_rows_and_what_is_printed():
    path = flight.Path(np.array([(0.0, 0.0), (0.0, 0.001), (0.0, 0.002)]),
                       np.array([True, False, True]), np.array([2]))  # fmt: skip
    rows = [{"photo": name, "note": "EXIF", "error_metres": 80.0} for name in "abc"]
    rows[2] = {"photo": "c", "note": "none"}
    truth = [(0.0, 0.0), (0.0, 0.0015), None]
    flight.add_path(rows, [PhotoPlace(place, "", None) for place in truth], path)
    assert [row["path_longitude"] for row in rows] == [0, 0.001, 0.002]
    off = 0.0005 * np.pi / 180 * 6378137
    assert [row.get("path_error_metres") for row in rows] == [0, pytest.approx(off), None]
    assert [row["note"] for row in rows] == ["EXIF", "EXIF; off the path", "none"]
    lines = flight.describe(rows, path, np.arange(3.0), 25)
    assert lines[0] == "path: 3 frames in 2 s, 223 m; frames off it, which those beside place: 1"
    assert lines[1] == "the path breaks before c: out of reach at --speed 25"
    title, single, along = (" ".join(line.split()) for line in lines[2:])
    assert title == "2 frames with a known place median within 25 m 50 m 100 m"
    assert single == "single frames 80.0 m 0.0 % 0.0 % 100.0 %"
    assert along == "path 27.8 m 50.0 % 50.0 % 100.0 %"
