"""How sure a place is: the probability that the first tile shows it.

A photo tells it by its margin: how far its first tile is ahead of the best tile that does not
overlap it, in standard deviations of the photo's scores, so that photos of one camera compare with
those of another. From a margin to a probability leads a logistic curve that never falls, fitted

- to photos with known places: of this call, or kept from an earlier one beside the features;
- else to tiles of the map, each searched for among the others: a guide only, because a tile looks
  like its neighbours more than a photo does.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from evaluation import mercator
from locating.search import Candidates, find_tiles, lies_within, spread_of
from runtime.files import read_yaml, write_yaml

RIVALS = 100  # first tiles among which one is looked for that does not overlap the best
LEAST = 20  # photos with known places, or tiles, that make a calibration
SEARCHED = 500  # tiles that are searched for among the others
# Why a kept calibration does not count in a part of the map. The best tile that does not overlap
# the first one is further behind the fewer tiles there are: a margin means less.
NOT_OF_A_PART = (
    "; that by photos of an earlier call is of the whole map and is not used: among fewer tiles a "
    "lead over the others says less"
)
FOLDS = 50  # parts of the photos with known places: each is judged by the others


class Calibration(NamedTuple):
    """From margins to probabilities: 1 / (1 + exp(-(intercept + slope * margin)))."""

    intercept: float
    slope: float  # never below 0
    count: int  # photos or tiles to which it was fitted

    def probabilities(self, margins):
        """Probabilities of margins (N,); nan where a margin is."""
        return expit(self.intercept + self.slope * margins)


class Confidence(NamedTuple):
    """How sure the places of N photos are."""

    values: np.ndarray  # (N,) probabilities, nan where there is none
    line: str  # by what they are calibrated, to be printed


def judge(tiles, table, candidates, spread, known, *, chosen=None, kept=None, name=""):
    """The `Confidence` of N photos on a map.

    tiles (M, D) are the features of the `MapFolder` table, of which rows `chosen` were searched;
    `candidates` hold RIVALS tiles at least, or all; `spread` (N,) is that of the photos' scores, of
    `search.spread_of`. `known` lists (latitude, longitude), or None,
    of each photo. Calibrations on a whole map are kept beside the file of its features, `kept`,
    those by photos under a `name` for what else they depend on, and not replaced by fewer photos.
    """
    gallery = Gallery(tiles, squares_of(table), chosen)
    candidates = Candidates(*(each[:, :RIVALS] for each in candidates))  # as of `by_tiles`
    margins = margins_of(candidates, gallery, spread)
    files, earlier = [None, None], ""
    if kept:
        places = hashlib.sha256(np.column_stack([table.places, table.metres]).tobytes())
        files = [kept.with_name(f"{kept.stem}-confidence-{places.hexdigest()[:8]}-{each}.yaml")
                 for each in (f"photos-{name}", "tiles")]  # fmt: skip
    if chosen is not None:
        if _read(files[0]):
            earlier = NOT_OF_A_PART
        files = [None, None]
    with_place = np.array([i for i, place in enumerate(known) if place is not None], dtype=int)
    with_place = with_place[np.isfinite(margins[with_place])]
    if len(with_place) >= LEAST:
        first = candidates.tiles[with_place, 0]
        truth = np.array([known[i] for i in with_place])
        right = lies_within(truth, table.places[first], table.metres[first])
        calibration = fit(margins[with_place], right)
        kept_one = _read(files[0])
        if kept_one is None or kept_one.count <= calibration.count:
            _write(files[0], calibration)
        values = calibration.probabilities(margins)
        values[with_place] = cross_fitted(margins[with_place], right)
        return Confidence(values, _line(f"{len(right)} photos with a known place"))
    if calibration := _read(files[0]):
        words = f"{calibration.count} photos with a known place of an earlier call"
        return Confidence(calibration.probabilities(margins), _line(words))
    calibration = _read(files[1]) or by_tiles(gallery)
    if calibration is None or not np.isfinite(margins).any():
        line = f"confidence: none, the map has too few tiles that overlap, or that do not{earlier}"
        return Confidence(np.full(len(margins), np.nan), line)
    _write(files[1], calibration)
    words = (
        f"{calibration.count} tiles searched for among the others: a guide only, {LEAST} photos "
        f"with known places make it right{earlier}"
    )
    return Confidence(calibration.probabilities(margins), _line(words))


def _line(words):
    return f"confidence: that the first tile shows the place; calibrated on {words}"


# ---------------------------------------------------------------- the margin
class Squares(NamedTuple):
    """The tiles (M,) on the plane of Web Mercator, in metres of the projection."""

    x: np.ndarray  # of the centres
    y: np.ndarray
    side: np.ndarray

    def overlap(self, rows, others):
        """Whether tiles overlap, by their rows (broadcast); an edge in common is no overlap."""
        reach = (self.side[rows] + self.side[others]) / 2 * (1 - 1e-6)
        east = np.abs(mercator.eastwards(self.x[others], self.x[rows]))
        return np.maximum(east, np.abs(self.y[others] - self.y[rows])) < reach

    def same(self, rows, others):
        """Whether tiles have the same place and size."""
        return np.all([each[rows] == each[others] for each in self], axis=0)


def squares_of(table):
    """The `Squares` of a `MapFolder`."""
    return Squares(*mercator.square(*table.places.T, table.metres))


class Gallery(NamedTuple):
    """The tiles among which is searched."""

    tiles: np.ndarray  # (M, D) features of the map
    squares: Squares
    chosen: np.ndarray | None  # (C,) rows that are searched; None for all

    @property
    def rows(self):
        """The rows that are searched."""
        return np.arange(len(self.tiles)) if self.chosen is None else self.chosen

    def some(self, count):
        """So many of these rows, evenly over the map."""
        rows = self.rows
        return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def margins_of(candidates, gallery, spread):
    """The margins (N,) of photos, `spread` (N,) of whose scores they are measured in.

    Where all `candidates` overlap the first, the last of them stands for the best that does not;
    nan where there is no other.
    """
    scores = candidates.scores  # (N, K), -inf for none
    apart = ~gallery.squares.overlap(candidates.tiles[:, :1], candidates.tiles)  # (N, K)
    rivals = np.where(apart, scores, -np.inf).max(axis=1)
    last = np.where(np.isfinite(scores), scores, np.inf).min(axis=1)
    more = scores.shape[1] < len(gallery.rows)
    rivals = np.where(np.isfinite(rivals), rivals, last if more else np.nan)
    return (scores[:, 0] - rivals) / spread


# ---------------------------------------------------------------- calibration
def fit(margins, right):
    """The `Calibration` of margins (P,) of which `right` (P,) bool are right.

    Its targets are those of Platt, (P+ + 1) / (P+ + 2) and 1 / (P- + 2), which keep it from being
    certain of anything. Source: Platt, Probabilistic outputs for support vector machines, 1999.
    """
    positives = np.count_nonzero(right)
    high, low = (positives + 1) / (positives + 2), 1 / (len(right) - positives + 2)
    targets = np.where(right, high, low)

    def loss(values):
        logits = values[0] + values[1] * margins
        errors = expit(logits) - targets
        gradient = errors.mean(), (errors * margins).mean()
        return (np.logaddexp(0, logits) - targets * logits).mean(), np.array(gradient)

    start = np.array([np.log(targets.mean() / (1 - targets.mean())), 0.0])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(None, None), (0, None)])
    return Calibration(float(found.x[0]), float(found.x[1]), len(right))


def cross_fitted(margins, right):
    """Probabilities (P,) of photos with known places, each by a fit to the others.

    One is left out at a time, of more than FOLDS photos one part at a time: neighbours of a flight
    are so left out together.
    """
    values = np.empty(len(margins))
    for part in np.array_split(np.arange(len(margins)), min(FOLDS, len(margins))):
        others = np.delete(np.arange(len(margins)), part)
        values[part] = fit(margins[others], right[others]).probabilities(margins[part])
    return values


def by_tiles(gallery):
    """The `Calibration` of tiles searched for among the others; None where they are too few.

    A tile is found if the first of the others overlaps it; those that none overlaps are not
    searched for.
    """
    squares, rows = gallery.squares, gallery.rows
    asked = [row for row in gallery.some(SEARCHED)
             if (squares.overlap(row, rows) & ~squares.same(row, rows)).any()]  # fmt: skip
    if len(asked) < LEAST:
        return None
    queries = np.array(gallery.tiles[asked])[np.newaxis]  # (1, Q, D)
    found = find_tiles(queries, gallery.tiles, RIVALS, gallery.chosen)
    same = squares.same(np.array(asked)[:, np.newaxis], found.tiles)
    scores = np.where(same, -np.inf, found.scores)
    order = np.argsort(-scores, axis=1, kind="stable")
    others = Candidates(*(np.take_along_axis(each, order, axis=1) for each in
                          (found.tiles, scores, found.turns)))  # fmt: skip
    margins = margins_of(others, gallery, spread_of(queries, gallery.tiles, gallery.chosen))
    usable = np.isfinite(margins)
    if np.count_nonzero(usable) < LEAST:
        return None
    right = squares.overlap(np.array(asked), others.tiles[:, 0])
    return fit(margins[usable], right[usable])


# ---------------------------------------------------------------- kept calibrations
def _write(path, calibration):
    if path:
        write_yaml(path, calibration._asdict())


def _read(path):
    """The calibration in a file; None where there is none."""
    if path is None or not path.is_file():
        return None
    values = read_yaml(path)
    try:
        calibration = Calibration(**values)
        usable = all(np.isfinite(calibration))
    except TypeError:
        usable = False
    if not usable:
        raise ValueError(f"{path} holds no calibration: remove it")
    return calibration
