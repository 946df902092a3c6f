"""Photos against a map: the first tiles of each, and the place that they tell together."""

from typing import NamedTuple

import numpy as np

from evaluation import mercator
from evaluation.index import candidates, open_index
from evaluation.places import RADII, metre_distance, share_within
from evaluation.ranking import k_largest, score_blocks
from runtime.progress import progress_bar

BLOCK = 2**15  # tiles at a time: 64 MiB of features of 512 numbers
PHOTOS = 256  # photos at a time against these: 32 MiB of scores
CANDIDATES = 4  # tiles that an index is asked for, for each that is wanted
SPARE = 2  # tiles that exact search keeps, for each that is wanted, see `find_tiles`
SCORED_AGAIN = 2**24  # numbers at a time of candidates that are scored again: 64 MiB
SAMPLE = 2**12  # tiles over which a photo's scores are spread
# How fast a tile's weight falls with its score, in `estimate`: one that is so many standard
# deviations of the photo's scores below the best counts 1 / e. By benchmarks/locate.py.
SHARPNESS = 1.0


class Candidates(NamedTuple):
    """The first K tiles of N photos, best first."""

    tiles: np.ndarray  # (N, K) int64, rows of the map
    scores: np.ndarray  # (N, K) float32, cosines
    turns: np.ndarray  # (N, K) int64, quarter turns of the photo that matched


# ---------------------------------------------------------------- search
def first_tiles(photos, tiles, top, *, chosen=None, factory=None, kept=None):
    """`find_tiles`, or with the `factory` of an index `find_by_index`.

    The index is kept beside the file `kept` of the tiles' features.
    """
    if factory is None:
        return find_tiles(photos, tiles, top, chosen)
    return find_by_index(photos, tiles, top, open_index(tiles, factory, kept))


def find_tiles(photos, tiles, top, chosen=None):
    """The `Candidates` of photos (T, N, D), each turned in T ways, among tiles (M, D).

    A tile's score is that of the turn that suits it best; of equal ones the first tiles count.
    `chosen` (C,): only these rows of the map. `tiles` may be a mapped file, which is read once, a
    block at a time: memory does not grow with the map.

    A matrix product rounds equal tiles differently by where they stand in a block, so that more
    tiles are kept than are wanted until `score_again` scores each in the same way.
    """
    kept = SPARE * top
    count = len(tiles) if chosen is None else len(chosen)
    rows = np.empty((photos.shape[1], 0), np.int64)
    scores = np.empty((photos.shape[1], 0), np.float32)
    for start in progress_bar(range(0, count, BLOCK), "search"):
        part = slice(start, min(start + BLOCK, count))
        block = tiles[part] if chosen is None else tiles[chosen[part]]
        found = _first_of_block(photos, block, kept)
        rows = np.concatenate([rows, found[0] + start], axis=1)
        scores = np.concatenate([scores, found[1]], axis=1)
        best = k_largest(scores, min(kept, scores.shape[1]))
        rows, scores = (np.take_along_axis(each, best, axis=1) for each in (rows, scores))
    return score_again(photos, tiles, rows if chosen is None else chosen[rows], top)


def _first_of_block(photos, block, top):
    """Columns (N, K) and scores (N, K) of the first tiles of a block (B, D)."""
    columns, scores = [], []

    def best_turn(rows):  # `scores` of `score_blocks`
        best = photos[0, rows] @ block.T  # (N, B)
        for turned in photos[1:]:
            np.maximum(best, turned[rows] @ block.T, out=best)
        return best

    for _, of_photos in score_blocks(photos[0], block, best_turn, PHOTOS):
        columns.append(k_largest(of_photos, min(top, len(block))))
        scores.append(np.take_along_axis(of_photos, columns[-1], axis=1))
    return np.concatenate(columns), np.concatenate(scores)


def find_by_index(photos, tiles, top, index):
    """As `find_tiles`, of the candidates of an index (evaluation.index), scored exactly.

    Of each turn it is asked for CANDIDATES times as many tiles as are wanted. Photos for which it
    finds fewer than that are searched without it.
    """
    top = min(top, len(tiles))
    rows = np.concatenate([candidates(index, each, CANDIDATES * top) for each in photos], axis=1)
    ordered = np.sort(rows, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1  # found in several turns
    few = np.flatnonzero(np.count_nonzero(ordered >= 0, axis=1) < top)
    found = score_again(photos, tiles, ordered, top)
    if len(few):
        for ours, exact in zip(found, find_tiles(photos[:, few], tiles, top), strict=True):
            ours[few] = exact
    return found


def score_again(photos, tiles, rows, top):
    """The first `top` of tiles (N, C) that may suit photos (T, N, D), as `Candidates`.

    A row of -1 stands for no tile.
    """
    found = []
    count = max(1, SCORED_AGAIN // (rows.shape[1] * tiles.shape[1]))  # photos
    for start in range(0, len(rows), count):
        some, part = rows[start : start + count], slice(start, start + count)
        by_turn = np.einsum("tbd,bcd->tbc", photos[:, part], tiles[some])
        scores = np.where(some < 0, -np.inf, by_turn.max(axis=0))
        order = np.lexsort((some, -scores))[:, :top]
        turns = by_turn.argmax(axis=0)
        found.append([np.take_along_axis(each, order, axis=1) for each in (some, scores, turns)])
    return Candidates(*(np.concatenate(each) for each in zip(*found, strict=True)))


def tiles_near(places, centre, metres):
    """Rows of the tiles (M, 2) whose centre is within `metres` of a place; ValueError for none."""
    distances = metre_distance(np.array(centre), places)
    near = np.flatnonzero(distances <= metres)
    if not len(near):
        raise ValueError(
            f"--near {centre[0]:g},{centre[1]:g} --within {metres:g}: no tile of the map is there, "
            f"the nearest is {distances.min():.0f} m away"
        )
    return near


def spread_of(photos, tiles, chosen=None):
    """Standard deviations (N,) of the scores of photos (T, N, D) over tiles (M, D), of a sample.

    It is never 0: equal scores have a tiny one.
    """
    count = len(tiles) if chosen is None else len(chosen)
    rows = np.linspace(0, count - 1, min(SAMPLE, count)).astype(int)
    sample = tiles[rows if chosen is None else chosen[rows]]
    starts = range(0, photos.shape[1], PHOTOS)
    parts = [(photos[:, i : i + PHOTOS] @ sample.T).max(axis=0).std(axis=1) for i in starts]
    return np.maximum(np.concatenate(parts), 1e-6)


# ---------------------------------------------------------------- places
def estimate(places, metres, scores, spread):
    """Where photos were taken, by the tiles that overlap the best one: (N, 2) degrees.

    places (N, K, 2) of the tiles' centres in degrees, metres (N, K) their sides and scores (N, K),
    best first; `spread` (N,) or one for all, of `spread_of`. Each tile whose centre is within a
    side of the best one's counts with the weight exp((score - best score) / (SHARPNESS spread)).
    """
    scale = SHARPNESS * np.reshape(spread, (-1, 1))
    x, y = mercator.project(places[..., 0], places[..., 1])  # (N, K)
    x = x[:, :1] + mercator.eastwards(x, x[:, :1])  # beyond the 180th meridian, not around
    reach = metres[:, :1] * mercator.per_ground_metre(y[:, :1])
    near = np.maximum(np.abs(x - x[:, :1]), np.abs(y - y[:, :1])) < reach
    weights = np.where(near, np.exp((scores - scores[:, :1]) / scale), 0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.stack(
        mercator.unproject((weights * x).sum(axis=1), (weights * y).sum(axis=1)), axis=1
    )


class Errors(NamedTuple):
    """How far estimates are from the truth, of the photos that carry a place."""

    metres: np.ndarray  # (P,) of the estimates
    first: np.ndarray  # (P,) of the first tiles' centres
    guessing: float  # the median of the distances to all tiles' centres: what guessing gives
    within_tile: float  # percent of photos whose place lies in their first tile
    outside: int  # photos whose place lies in no tile that was searched

    def lines(self):
        """What is printed at the end."""
        shares = [f"{share_within(self.metres, m):.1f} % within {m} m" for m in RADII]
        shares.append(f"{self.within_tile:.1f} % within the tile")
        lines = [
            f"{len(self.metres)} photos with a known place: median error "
            f"{np.median(self.metres):.1f} m (guessing: {self.guessing:.0f} m), "
            + ", ".join(shares),
            f"the first tile's centre alone: median error {np.median(self.first):.1f} m",
        ]
        if self.outside:
            lines.append(
                f"{self.outside} of {len(self.metres)} known places lie outside the tiles that "
                "were searched: no search can find them"
            )
        return lines


def errors_of(metres, first, truth, first_tiles, searched):
    """`Errors` of P photos: metres (P,) of estimates, `first` (P,) of the first tiles' centres.

    truth (P, 2) in degrees, `first_tiles` the places (P, 2) and sides (P,) of the first tiles,
    `searched` the places (M, 2) and sides (M,) of the tiles among which was searched.
    """
    guesses = [np.median(metre_distance(place, searched[0])) for place in truth]
    inside = lies_within(truth, *first_tiles)
    squares = mercator.square(*searched[0].T, searched[1])
    outside = sum(not _in_squares(*_project(place), squares).any() for place in truth)
    share = 100 * float(inside.mean())
    return Errors(metres, first, float(np.median(guesses)), share, outside)


def lies_within(places, tile_places, sides):
    """Whether places (..., 2) lie in tiles of centres (..., 2) and `sides` (...) in metres."""
    squares = mercator.square(tile_places[..., 0], tile_places[..., 1], sides)
    return _in_squares(*_project(places), squares)


def _project(places):
    limit = mercator.LARGEST_LATITUDE  # a place near a pole, where no tile is, is far from all
    return mercator.project(np.clip(places[..., 0], -limit, limit), places[..., 1])


def _in_squares(x, y, squares):
    tile_x, tile_y, side = squares
    return np.maximum(np.abs(mercator.eastwards(x, tile_x)), np.abs(y - tile_y)) <= side / 2
