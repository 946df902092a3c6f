"""The likeliest path of a flight over the tiles of a map: single photos lie, paths do not.

A path gives each frame one of its candidate tiles or none, where the frame is lost. Frames one
after another on the path must be within reach: the largest speed times the time between them, plus
the tiles' size, for a tile's centre is not the place. Found by dynamic programming (Viterbi, 1967).
The places of the path are smooth: what the tiles around the path tell of each frame is an
observation of a motion whose velocity changes slowly.

Scores count in units of the run's and map's scale, see `_unit`. The constants below were chosen on
simulated flights, a fifth of whose frames lie, and on the toy's; their optimum is flat.
"""

import re
from typing import NamedTuple

import numpy as np
from scipy.linalg import solveh_banded

from evaluation import mercator
from evaluation.places import RADII, geodesic, metre_distance, share_within
from locating.search import estimate

CANDIDATES = 100  # tiles of a frame that the path may take
TAIL = 20  # tiles whose scores give the unit
LOST = 4.0  # cost of a frame off the path, as of a tile so many units below the frame's best
BREAK = 40.0  # cost of going on out of reach: ten lost frames, for lies come in rows
FAR = 6.0  # cost of going as far as can be reached; half as far costs a quarter
BEAM = 400  # ends of paths that are followed at once
AROUND = 0.15  # `spread` of `search.estimate` around the path, in units
SIGMA = 0.25  # standard deviation of an observed place, in sides of its tile
CRUISE = 0.25  # standard deviation of a velocity, north and east, in largest speeds
STEADY = 20.0  # seconds after which a velocity is forgotten


class Path(NamedTuple):
    """The path of N frames, in the order of their times."""

    places: np.ndarray  # (N, 2) float64: latitude and longitude, degrees
    seen: np.ndarray  # (N,) bool: False where the frame is lost, its place from those beside it
    breaks: np.ndarray  # (B,) int64: frames that are out of reach of the last one before them


# ---------------------------------------------------------------- order
def in_order(photos, known):
    """(photos, their `PhotoPlace`s, seconds (N,) since the first) in the order of a flight.

    The order is that of their times; where these are not known, of the seconds within a video;
    else of their names, 1, 2, 10, a second apart, which is printed. Raises ValueError for a single
    photo, and for clocks of two kinds.
    """
    if len(photos) < 2:
        raise ValueError(f"--flight needs frames of a flight, and {photos[0]} is but one photo")
    names = [_natural(photo) for photo in photos]
    times = [place.time for place in known]
    if None not in times and len({time.tzinfo is None for time in times}) > 1:
        raise ValueError(
            "--flight cannot order photos by their cameras' clock and videos by theirs, which is "
            "UTC: locate the photos and the videos by themselves"
        )
    timed = None not in times and len(set(times)) > 1 and not _interleaved(known)
    order = sorted(range(len(photos)), key=lambda i: (times[i] if timed else 0, names[i]))
    photos, known = [photos[i] for i in order], [known[i] for i in order]
    if timed:
        seconds = np.array([(place.time - known[0].time).total_seconds() for place in known])
        return photos, known, _spread(seconds)
    if all(place.seconds is not None for place in known):  # of videos, one after another
        if None not in times and len(set(times)) > 1:
            print("the times of the videos overlap: one counts after another, by their names")
        steps = np.diff([place.seconds for place in known])
        return photos, known, np.concatenate([[0], np.cumsum(np.where(steps > 0, steps, 1))])
    why = f"{times.count(None)} of {len(photos)} photos carry no time"
    why = why if None in times else "all photos carry the same time"
    print(f"{why}: the order of the flight is that of their names, a second apart")
    return photos, known, np.arange(len(photos), dtype=np.float64)


def _interleaved(known):
    """Whether frames are of several videos which, by their times, ran at once."""
    if any(place.seconds is None for place in known):
        return False
    times, first = [place.time for place in known], [place.seconds == 0 for place in known]
    videos = np.split(np.arange(len(known)), np.flatnonzero(first)[1:])
    spans = sorted((times[rows[0]], times[rows[-1]]) for rows in videos)
    return any(begin <= end for (_, end), (begin, _) in zip(spans, spans[1:], strict=False))


def _natural(photo):
    """A key that sorts names as people count: 2 before 10."""
    parts = re.split("([0-9]+)", str(photo))
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], str(photo)


def _spread(seconds):
    """Times (N,) in order, those of one second (clocks often tell no parts) evenly within it."""
    moments, first, counts = np.unique(seconds, return_index=True, return_counts=True)
    room = np.minimum(np.diff(moments, append=np.inf), 1)
    within_moment = np.arange(len(seconds)) - np.repeat(first, counts)
    return seconds + within_moment * np.repeat(room / counts, counts)


# ---------------------------------------------------------------- path
def find_path(candidates, places, metres, seconds, speed):
    """The `Path` of N frames: `search.Candidates` (N, K), of tiles with places (M, 2), metres (M,).

    seconds (N,) ascend, `speed` is the largest in metres a second. Memory is that of N x K values,
    whatever the size of the map.
    """
    tiles, scores = candidates.tiles[:, :CANDIDATES], candidates.scores[:, :CANDIDATES]
    places, sides = places[tiles], metres[tiles]  # (N, K, 2), (N, K)
    unit = _unit(scores)
    costs = (scores[:, :1] - scores) / unit
    x, y = mercator.project(places[..., 0], places[..., 1])
    chosen, breaks = likeliest(x, y, sides, costs, seconds, speed)
    seen = np.flatnonzero(chosen >= 0)
    # The path's tile first: `estimate` looks around it.
    first = np.argsort(np.arange(scores.shape[1]) != chosen[seen, None], axis=1, kind="stable")
    around = [np.take_along_axis(each[seen], first, 1) for each in (sides, scores)]
    observed = estimate(
        np.take_along_axis(places[seen], first[..., None], 1), *around, unit * AROUND
    )
    found = np.empty((len(seconds), 2))
    for begin, end in zip([0, *breaks], [*breaks, len(seconds)], strict=True):
        piece = (seen >= begin) & (seen < end)
        found[begin:end] = _smooth_places(
            observed[piece], around[0][piece, 0], seen[piece] - begin, seconds[begin:end], speed
        )
    return Path(found, chosen >= 0, breaks)


def _unit(scores):
    """The scale of scores (N, K), best first: so much lower, e times as many tiles score by chance.

    The best scores of unrelated tiles are spread like an exponential distribution, whose scale is
    the mean excess of the first `TAIL` over the next.
    """
    count = min(TAIL, scores.shape[1] - 1)
    if count < 1:
        return 1.0
    excess = (scores[:, :count] - scores[:, count, None]).mean(axis=1)
    return max(float(np.median(excess)), 1e-6)


class _Ends(NamedTuple):
    """The best paths that end at a frame each, E of them."""

    x: np.ndarray  # (E,) of the last tile
    y: np.ndarray
    sides: np.ndarray
    seconds: np.ndarray  # of the last frame that is not lost
    frames: np.ndarray  # that frame
    columns: np.ndarray  # the candidate that it takes
    costs: np.ndarray  # of the path


def likeliest(x, y, sides, costs, seconds, speed, beam=BEAM):
    """The cheapest path over candidates: columns (N,) int64, -1 for a lost frame, and its breaks.

    x, y (N, K) are centres in Web Mercator, sides (N, K) in metres, costs (N, K) >= 0, of which
    those of LOST and more are never taken. The cost of a path is the sum of its candidates' costs,
    LOST for each lost frame, FAR (distance / reach)^2 between frames one after another, or BREAK
    where that is cheaper or they are out of reach. Exact as long as `beam` holds all ends.
    """
    ends = _Ends(*(np.empty(0, kind) for kind in (float,) * 4 + (int,) * 2 + (float,)))
    before = np.full((*costs.shape, 2), -1)  # (N, K, 2): frame and candidate before, or -1
    broken = np.zeros(costs.shape, bool)
    for frame, moment in enumerate(seconds):
        taken = np.flatnonzero(costs[frame] < LOST)
        here = x[frame, taken], y[frame, taken], sides[frame, taken]
        total = np.full(len(taken), LOST * frame)  # a path that begins here
        if len(ends.costs):
            steps = ends.costs[:, None] + _step_costs(ends, *here, moment, speed)  # (E, C)
            best, anywhere = steps.argmin(axis=0), ends.costs.argmin()
            reached = steps[best, np.arange(len(taken))]
            breaks = reached > ends.costs[anywhere] + BREAK
            best = np.where(breaks, anywhere, best)
            reached = np.where(breaks, ends.costs[anywhere] + BREAK, reached)
            goes_on = reached <= total
            total = np.where(goes_on, reached, total)
            columns = taken[goes_on]
            before[frame, columns, 0] = ends.frames[best[goes_on]]
            before[frame, columns, 1] = ends.columns[best[goes_on]]
            broken[frame, columns] = breaks[goes_on]
        new = _Ends(*here, np.full(len(taken), moment), np.full(len(taken), frame), taken,
                    total + costs[frame, taken])  # fmt: skip
        ends = ends._replace(costs=ends.costs + LOST)
        ends = _Ends(*(np.concatenate(both) for both in zip(ends, new, strict=True)))
        if len(ends.costs) > beam:
            kept = np.argpartition(ends.costs, beam)[:beam]
            ends = _Ends(*(part[kept] for part in ends))
    chosen = np.full(len(seconds), -1)
    last = ends.costs.argmin()
    frame, column = ends.frames[last], ends.columns[last]
    cuts = []
    while frame >= 0:
        chosen[frame] = column
        if broken[frame, column]:
            cuts.append(frame)
        frame, column = before[frame, column]
    return chosen, np.array(cuts[::-1], dtype=np.int64)


def _step_costs(ends, x, y, sides, moment, speed):
    """Costs (E, C) of going from the ends to candidates (C,), infinite out of reach."""
    east = mercator.eastwards(x, ends.x[:, None])
    metres = np.hypot(east, ends.y[:, None] - y) / mercator.per_ground_metre(y)
    reach = speed * (moment - ends.seconds[:, None]) + (ends.sides[:, None] + sides) / 2
    part = metres / reach
    return np.where(part <= 1, FAR * part**2, np.inf)


# ---------------------------------------------------------------- places
def _smooth_places(observed, sides, frames, seconds, speed):
    """Places (N, 2) of all frames by observed ones (P, 2) in degrees of some, `frames` (P,)."""
    x, y = mercator.project(observed[:, 0], observed[:, 1])
    east = mercator.eastwards(x, x[0])
    scale = mercator.per_ground_metre(y.mean())
    metres = np.stack([east, y - y[0]], axis=1) / scale
    found = smooth(metres, SIGMA * sides, frames, seconds, speed) * scale
    return np.stack(mercator.unproject(x[0] + found[:, 0], y[0] + found[:, 1]), axis=1)


def smooth(observed, sigmas, frames, seconds, speed, rounds=5):
    """Positions (N, 2) in metres of a motion at `seconds` (N,), by some observed positions (P, 2).

    Observed are `frames` (P,) with the standard deviations sigmas (P,). Velocities are those of an
    Ornstein-Uhlenbeck process with the deviation CRUISE x speed, forgotten after STEADY seconds.
    The most probable motion solves a banded system of equations (that of a Kalman smoother);
    observations far from it count less in the next of the rounds, with the weights of Cauchy's
    distribution.
    """
    gaps = np.diff(seconds)
    cruise = CRUISE * speed
    kept = np.exp(-gaps / STEADY)
    change = np.maximum(cruise * np.sqrt(1 - kept**2), 0.05)  # of a velocity, metres a second
    drift = np.maximum(0.25 * change * gaps, 0.5)  # of a place, beyond the mean velocity's, metres
    zero, one = np.zeros_like(gaps), np.ones_like(gaps)
    # Rows of the system over (place, velocity, next place, next velocity): (4, N - 1).
    rows = (
        np.stack([-one, -gaps / 2, one, -gaps / 2]) / drift,
        np.stack([zero, -kept, zero, one]) / change,
    )
    motion = np.zeros((4, 2 * len(seconds)))  # the upper diagonals of a symmetric matrix
    for row in rows:
        for i in range(4):
            for j in range(i, 4):
                motion[3 + i - j, j : j + 2 * len(gaps) : 2] += row[i] * row[j]
    motion[3, 1] += 1 / cruise**2
    weights = np.ones(len(frames))
    for _ in range(rounds):
        matrix, right = motion.copy(), np.zeros((motion.shape[1], 2))
        matrix[3, 2 * frames] += weights / sigmas**2
        right[2 * frames] = (weights / sigmas**2)[:, None] * observed
        found = solveh_banded(matrix, right)[::2]  # (N, 2)
        off = np.linalg.norm(found[frames] - observed, axis=1) / sigmas
        weights = 1 / (1 + (off / 2) ** 2)
    return found


# ---------------------------------------------------------------- rows of locate.py
def add_path(rows, photos_places, path):
    """Add the columns of a `Path` to rows of locations.csv; `photos_places` are `PhotoPlace`s."""
    for row, carried, place, seen in zip(rows, photos_places, path.places, path.seen, strict=True):
        row["path_latitude"], row["path_longitude"] = map(float, place)
        if carried.place:
            row["path_error_metres"] = float(geodesic(*carried.place, *place))
        if not seen:
            row["note"] += "; off the path"


def describe(rows, path, seconds, speed):
    """The lines printed of a path; errors of single frames and of the path side by side."""
    length = metre_distance(path.places[1:], path.places[:-1]).sum()
    lines = [
        f"path: {len(rows)} frames in {seconds[-1]:.0f} s, {length:.0f} m; frames off it, which "
        f"those beside place: {np.count_nonzero(~path.seen)}"
    ]
    for frame in path.breaks:
        lines.append(
            f"the path breaks before {rows[frame]['photo']}: out of reach at --speed {speed:g}"
        )
    pairs = [(row["error_metres"], row["path_error_metres"]) for row in rows
             if "path_error_metres" in row]  # fmt: skip
    if pairs:
        title = f"{len(pairs)} frames with a known place"
        lines.append(f"{title:32s}   median  within 25 m     50 m    100 m")
        for name, errors in zip(("single frames", "path"), np.transpose(pairs), strict=True):
            near = "  ".join(f"{share_within(errors, metres):5.1f} %" for metres in RADII)
            lines.append(f"{name:32s} {np.median(errors):6.1f} m      {near}")
    return lines
