"""Photos against a map: the first tiles of each, and the place that they tell together."""

from typing import NamedTuple

import numpy as np

from evaluation import mercator
from evaluation.places import metre_distance
from evaluation.ranking import k_largest, score_blocks

BLOCK = 64  # photos at a time: a map is read once for so many
# How fast a tile's weight falls with its score, in `estimate`: a tile whose cosine is this much
# below the best one's counts 1 / e.
SHARPNESS = 0.05


class Candidates(NamedTuple):
    """The first K tiles of N photos, best first."""

    tiles: np.ndarray  # (N, K) int64, rows of the map
    scores: np.ndarray  # (N, K) float32, cosines
    turns: np.ndarray  # (N, K) int64, quarter turns of the photo that matched


def find_tiles(photos, tiles, top, chosen=None):
    """The `Candidates` of photos (T, N, D), each turned in T ways, among tiles (M, D).

    A tile's score is that of the turn that suits it best. `chosen` (C,): only these rows of the
    map. `tiles` may be a mapped file: it is read in blocks, once for 64 photos.
    """
    gallery = tiles if chosen is None else tiles[chosen]
    top = min(top, len(gallery))
    found = []
    for rows, block in score_blocks(
        photos[0], gallery, _best_turn(photos, gallery), BLOCK, "search"
    ):
        columns = k_largest(block, top)  # (B, K)
        by_turn = np.einsum("tbd,bkd->tbk", photos[:, rows], gallery[columns])
        found.append((columns, by_turn.max(axis=0), by_turn.argmax(axis=0)))
    columns, scores, turns = (np.concatenate(each) for each in zip(*found, strict=True))
    return Candidates(columns if chosen is None else chosen[columns], scores, turns)


def _best_turn(photos, gallery):
    """`scores` of `ranking.score_blocks`."""

    def scores(rows):
        best = photos[0, rows] @ gallery.T  # (B, M)
        for turned in photos[1:]:
            np.maximum(best, turned[rows] @ gallery.T, out=best)
        return best

    return scores


def estimate(places, metres, scores, sharpness=SHARPNESS):
    """Where photos were taken, by the tiles that overlap the best one: (N, 2) degrees.

    places (N, K, 2) of the tiles' centres in degrees, metres (N, K) their sides and scores (N, K),
    best first. Each tile whose centre is within a side of the best one's counts with the weight
    exp((score - best score) / sharpness).
    """
    x, y = mercator.project(places[..., 0], places[..., 1])  # (N, K)
    x = x[:, :1] + (x - x[:, :1] + mercator.HALF_WORLD) % (2 * mercator.HALF_WORLD)
    x -= mercator.HALF_WORLD  # beyond the 180th meridian rather than around the Earth
    reach = metres[:, :1] * mercator.per_ground_metre(y[:, :1])
    near = np.maximum(np.abs(x - x[:, :1]), np.abs(y - y[:, :1])) < reach
    weights = np.where(near, np.exp((scores - scores[:, :1]) / sharpness), 0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return np.stack(
        mercator.unproject((weights * x).sum(axis=1), (weights * y).sum(axis=1)), axis=1
    )


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


class Errors(NamedTuple):
    """How far estimates are from the truth, of the photos that carry a place."""

    metres: np.ndarray  # (P,) of the estimates
    first: np.ndarray  # (P,) of the first tiles' centres
    guessing: float  # the median of the distances to all tiles' centres: what guessing gives
    within_tile: float  # percent of estimates nearer than half a tile's side, north and east

    def lines(self):
        """What is printed at the end."""
        shares = ", ".join(f"{within(self.metres, m):.1f} % within {m} m" for m in (25, 50, 100))
        return [
            f"{len(self.metres)} photos with a known place: median error "
            f"{np.median(self.metres):.1f} m (guessing: {self.guessing:.0f} m), {shares}, "
            f"{self.within_tile:.1f} % within the tile",
            f"the first tile's centre alone: median error {np.median(self.first):.1f} m",
        ]


def within(errors, metres):
    """Percent of errors (P,) that are at most so many metres."""
    return 100 * float(np.mean(np.asarray(errors) <= metres))


def errors_of(truth, estimates, first_places, sides, tile_places):
    """`Errors` of P photos: truth, estimates and first_places (P, 2) in degrees, sides (P,) metres.

    tile_places (M, 2) are the tiles among which was searched.
    """
    metres, first = metre_distance(truth, estimates), metre_distance(truth, first_places)
    guesses = [np.median(metre_distance(place, tile_places)) for place in truth]
    x, y = mercator.project(truth[:, 0], truth[:, 1])
    tile_x, tile_y = mercator.project(first_places[:, 0], first_places[:, 1])
    half = sides / 2 * mercator.per_ground_metre(tile_y)
    inside = (np.abs(x - tile_x) <= half) & (np.abs(y - tile_y) <= half)
    return Errors(metres, first, float(np.median(guesses)), 100 * float(inside.mean()))
