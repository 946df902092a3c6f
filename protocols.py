"""Evaluation as the authors of each data set publish it, from a feature file and its side files.

$ python protocols.py cvusa result.npz
$ python protocols.py vigor result.npz --semi_positives data/vigor/semi_positives.csv
$ python protocols.py sues200 150.npz 200.npz 250.npz 300.npz
$ python protocols.py denseuav result.npz --coordinates data/denseuav/coordinates.csv
$ python protocols.py university160k result.npz --query_list data/160k/query_drone_name.txt

Side files are UTF-8 text. They name an image by its file name, or by as many of the folders before
it as it takes (0001/image-01.jpeg), or all images of a folder by the folder's name, a building's.

- Coordinates: a comma-separated table with the columns `name` (or building, image, path) and
  `latitude` and `longitude` in degrees, or `x` and `y` (or easting, northing) in metres.
- Semi-positives and positives: a comma-separated table; its first column, `query` (or panorama),
  names a query image, its columns `semi_1`, `semi_2`, ... gallery images. Where none is called so,
  all columns after the first do. Lines of the same query add up.
- The query list of University-160k: no header, the name of an image a line.
"""

import argparse
import csv
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from evaluate_gpu import (
    BLOCK_SCORES,
    MAX_ROWS,
    MIN_ROWS,
    average_precision_standard,
    evaluate,
    find_matches,
    mean_over_queries,
    positive_ranks,
    published_line,
    published_order,
    rank_positives,
    warnings_about,
)
from evaluation.feature_file import JUNK, check_features, load_features
from runtime.cli import Parser, script
from runtime.files import replacing, write_text
from runtime.progress import progress_bar

EARTH_RADIUS = 6_378_137.0  # metres: the equator's, as DenseUAV; the Earth's mean is 6 371 009
CHUNK = 256  # scores of which only the best is looked at first
ANSWER_LENGTH = 10  # names a line of University-160k's answer.txt
ANSWER_NAME = "answer.txt"  # of the member of the zip, which the challenge's server reads
SUES_HEIGHTS = (150, 200, 250, 300)  # metres
CVACT_RADIUS = 5.0  # metres
NAME_COLUMNS = ("name", "building", "image", "path")
QUERY_COLUMNS = ("query", "panorama")
AXES = (("latitude", "longitude"), ("x", "y"), ("easting", "northing"))
DENSEUAV_K = (1, 3, 5, 10)
DENSEUAV_METRES = (3, 5, 10, 20, 50, 100)
GTA_K = (1, 3, 5)
DEGREE_SCALE = 5000.0  # SDM's decay per degree, DenseUAV
DEGREE_SCALE_IN_METRES = DEGREE_SCALE / (np.pi / 180 * EARTH_RADIUS)  # the same along a meridian
METRE_SCALE = 0.001  # SDM's decay per metre, GTA-UAV


# ---------------------------------------------------------------- rankings
def score_blocks(query, gallery, block_size=None, scores=None):
    """Yield (rows, scores): a slice of the queries and their scores (B, Ng), higher is better.

    Dot products, or what a function `scores` makes of the slice; `block_size` and `scores` are as
    in `evaluate_gpu.rank_positives`. The next block may overwrite the one before.
    """
    num_query, num_gallery = len(query.features), len(gallery.features)
    size = block_size or min(max(BLOCK_SCORES // num_gallery, MIN_ROWS), MAX_ROWS)
    blocks = [slice(first, min(first + size, num_query)) for first in range(0, num_query, size)]
    if scores is not None:
        yield from ((rows, scores(rows)) for rows in progress_bar(blocks, "ranking"))
        return
    dtype = np.result_type(query.features, gallery.features)
    buffer = np.empty((blocks[0].stop, num_gallery), dtype=dtype)
    for rows in progress_bar(blocks, "ranking"):
        block = query.features[rows]
        yield rows, np.matmul(block, gallery.features.T, out=buffer[: len(block)])  # (B, Ng)


def best_images(scores, k, junk=()):
    """Indices (k,) of the best of one query's scores (N,): the head of `published_order`."""
    if len(scores) < CHUNK * k:
        return published_order(scores, junk)[:k]
    values = scores
    if len(junk):
        values = scores.copy()
        values[junk] = -np.inf
    # The maxima of k chunks, so k images, are no worse than `floor`, and few others are: a tenth
    # of the time of np.argpartition.
    maxima = values[: len(values) // CHUNK * CHUNK].reshape(-1, CHUNK).max(axis=1)
    floor = np.partition(maxima, -k)[-k]
    found = np.flatnonzero(values >= floor)
    found = found[np.argsort(values[found])[::-1]][: k + 1]
    best = values[found]
    if (best[1:] == best[:-1]).any():  # only the sort of all scores tells which comes first
        return published_order(scores, junk)[:k]
    return found[:k]


def top_images(query, gallery, k, junk=None, block_size=None, scores=None):
    """Indices (Nq, k) of the first k gallery images of every query, in the published order.

    `junk`: Nq arrays of gallery indices to leave out, such as `find_matches(...)[1]`, or None.
    Raises ValueError where a query has fewer than k images to rank.
    """
    shortest = len(gallery.features) - max(map(len, junk or [()]))
    if shortest < k:
        raise ValueError(
            f"the first {k} images of every query are asked for, but only {shortest} can be "
            "ranked: use a larger gallery"
        )
    top = np.empty((len(query.features), k), dtype=np.int64)
    for rows, block in score_blocks(query, gallery, block_size, scores):
        for row, values in enumerate(block, start=rows.start):
            top[row] = best_images(values, k, () if junk is None else junk[row])
    return top


def ranks_of(query, gallery, positives, block_size=None, scores=None):
    """Ranks of given positives: as `evaluate_gpu.rank_positives`, whatever the labels.

    `positives`: Nq arrays of gallery indices. Junk (label -1) is left out of the ranking, a
    positive never. Returns a list of Nq ascending int64 arrays of 1-based ranks.
    """
    junk = find_matches(query, gallery)[1]
    ranks = []
    for rows, block in score_blocks(query, gallery, block_size, scores):
        for values, images, unseen in zip(block, positives[rows], junk[rows], strict=True):
            ranks.append(positive_ranks(values, images, np.setdiff1d(unseen, images)))
    return ranks


# ---------------------------------------------------------------- one true image a query
class PairCounts(NamedTuple):
    """What lies above or level with the one true image of every query, (Nq,) float64 each.

    Infinity stands where the gallery has no true image.
    """

    above: np.ndarray  # images of a higher score
    wrong: np.ndarray  # of these, those that are no semi-positives of the query
    tied: np.ndarray  # other images of the same score


def count_above(query, gallery, semi_positives=None, block_size=None, scores=None):
    """`PairCounts` of a task with one true gallery image a query (CVUSA, CVACT, VIGOR).

    The rank is 1 + above: a tie counts in favour of the true image, as published (Sample4Geo,
    evaluate/cvusa_and_cvact.py and vigor.py; CVM-Net and VIGOR count smaller distances alike).
    Junk, labelled -1, is left out. `semi_positives`: Nq arrays of gallery indices, or None.
    Raises ValueError where a query has several true images.
    """
    positives, junk = find_matches(query, gallery)
    several = [row for row, images in enumerate(positives) if len(images) > 1]
    if several:
        raise ValueError(
            f"{len(several)} queries have more than one true gallery image, first label "
            f"{query.labels[several[0]]}: this protocol is for pairs, score with evaluate_gpu.py"
        )
    counts = PairCounts(*np.full((3, len(positives)), np.inf))
    for rows, block in score_blocks(query, gallery, block_size, scores):
        for row, values in enumerate(block, start=rows.start):
            if len(positives[row]) == 0:
                continue
            own, unseen = values[positives[row][0]], values[junk[row]]
            counts.above[row] = np.count_nonzero(values > own) - np.count_nonzero(unseen > own)
            level = np.count_nonzero(values == own) - np.count_nonzero(unseen == own)
            counts.tied[row] = level - 1
            counts.wrong[row] = counts.above[row]
            if semi_positives is not None:
                near = np.asarray(semi_positives[row], dtype=np.int64)
                near = np.setdiff1d(near, junk[row])  # of repeated ones, one
                counts.wrong[row] -= np.count_nonzero(values[near] > own)
    return counts


def one_percent(num_gallery):
    """{metric: K} of the four readings of "1 %" of a gallery of N images.

    - `recall@1%_floor`: K = floor(N / 100). SAFA and its successors, Sample4Geo. 88 of CVUSA's
      8884; 0, so a recall of 0, in a gallery of less than 100.
    - `recall@1%_floor+1`: one more, 89. CVM-Net (Hu et al., CVPR 2018), VIGOR's own code.
    - `recall@top1`: K = round(N / 100) + 1, 90. University1652-Baseline, SUES-200, GTA-UAV.
    - `recall@1%`: K = max(1, round(N / 100)), 89. As `evaluate_gpu.evaluate`.
    """
    return {
        "recall@1%_floor": num_gallery // 100,
        "recall@1%_floor+1": num_gallery // 100 + 1,
        "recall@top1": round(0.01 * num_gallery) + 1,
        "recall@1%": max(1, round(0.01 * num_gallery)),
    }


def recall(first, k):
    """Percent of queries whose first true image has a rank of at most k; first (Nq,), 1-based."""
    return float(100 * np.mean(np.asarray(first) <= k))


def hit_rate(counts):
    """Percent of queries whose true image is beaten by none but its semi-positives.

    counts: `PairCounts`. Source: VIGOR (Zhu et al., CVPR 2021), train_SAFA.py of its code, and
    Sample4Geo, evaluate/vigor.py. A query is no hit where a wrong image comes between a
    semi-positive and the true image, even though its first image covers the place.
    """
    return float(100 * np.mean(counts.wrong == 0))


def evaluate_pairs(query, gallery, semi_positives=None, block_size=None, scores=None):
    """Metrics of CVUSA, CVACT and VIGOR; rates in percent.

    `recall@1`, `@5`, `@10` and the four of `one_percent`, by the ranks of `count_above`;
    `hit_rate` and `num_without_semi_positives` where `semi_positives` are given; `num_tied`,
    queries with another image of the true one's score; `recall@1_chance`, of a random ranking;
    `num_queries`, `num_gallery` (junk included, the N of 1 %) and `num_unmatched`, queries
    without a true image: they count as missed.
    """
    counts = count_above(query, gallery, semi_positives, block_size, scores)
    num_gallery = len(gallery.labels)
    ranks = {f"recall@{k}": k for k in (1, 5, 10)} | one_percent(num_gallery)
    metrics = {name: recall(counts.above + 1, k) for name, k in ranks.items()}
    unmatched = np.isinf(counts.above)
    if semi_positives is not None:
        metrics["hit_rate"] = hit_rate(counts)
        metrics["num_without_semi_positives"] = sum(len(images) == 0 for images in semi_positives)
    return metrics | {
        "recall@1_chance": float(100 * np.mean(~unmatched) / num_gallery),
        "num_queries": len(query.labels),
        "num_gallery": num_gallery,
        "num_unmatched": int(unmatched.sum()),
        "num_tied": int(np.count_nonzero((counts.tied > 0) & ~unmatched)),
    }


# ---------------------------------------------------------------- distances
def haversine(lat1, lon1, lat2, lon2, radius=EARTH_RADIUS):
    """Great-circle distance in the unit of `radius`, metres by default; degrees in, broadcast.

    2 R asin(sqrt(sin^2(dlat / 2) + cos(lat1) cos(lat2) sin^2(dlon / 2))), on a sphere: the
    ellipsoid of the Earth differs by at most 0.6 %. Source: Sinnott, Virtues of the haversine,
    Sky and Telescope 68, 1984; the radius is that of DenseUAV, evaluateDistance.py.
    """
    lat1, lon1, lat2, lon2 = (np.radians(angle) for angle in (lat1, lon1, lat2, lon2))
    half_lat, half_lon = np.sin((lat2 - lat1) / 2), np.sin((lon2 - lon1) / 2)
    chord = half_lat**2 + np.cos(lat1) * np.cos(lat2) * half_lon**2
    return 2 * radius * np.arcsin(np.sqrt(np.minimum(chord, 1)))


def metre_distance(a, b):
    """Distances in metres, by `haversine`, of places (..., 2) in (latitude, longitude) degrees."""
    return haversine(a[..., 0], a[..., 1], b[..., 0], b[..., 1])


def planar_distance(a, b):
    """Euclidean distances of places (..., 2), in their unit."""
    return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])


def degree_distance(a, b):
    """Euclidean distances in degrees of places (..., 2), first rounded to float32.

    As published (DenseUAV, evaluateDistance.py). A degree of longitude counts as much as one of
    latitude, though it is shorter, and the rounding moves a place by up to 0.4 m at 120 degrees.
    """
    a, b = (np.asarray(side).astype(np.float32).astype(np.float64) for side in (a, b))
    return planar_distance(a, b)


def sdm(distances, k, scale):
    """Spatial distance metric SDM@K of every query: distances (Nq, >= K) of its first images.

    sum_i w_i exp(-scale d_i) / sum_i w_i with w_i = 1 - (i - 1) / K for i = 1..K, from 0 to 1;
    (Nq,). Sources: Dai et al., Vision-based UAV self-positioning in low-altitude urban
    environments (DenseUAV), TIP 2024, and evaluateDistance.py of its code, with `scale` 5000 and
    `degree_distance`; GTA-UAV, evaluate/gta.py, with `scale` 0.001 and metres. Raises ValueError
    for fewer than K distances.
    """
    weights = 1 - np.arange(k) / k
    return np.exp(-scale * _first(distances, k)) @ weights / weights.sum()


def mean_distance(distances, k):
    """Dis@K of every query: the mean distance of its first K images; (Nq, >= K) -> (Nq,).

    Source: GTA-UAV (Ji et al., AAAI 2025), evaluate/gta.py.
    """
    return _first(distances, k).mean(axis=1)


def metre_accuracy(distances, metres):
    """MA@m: percent of queries whose first image is nearer than m metres.

    distances (Nq, >= 1) in metres; metres a number, or (M,) for an (M,) curve. Source: DenseUAV,
    evaluateDistance.py, which draws it for m = 1..100.
    """
    nearest_first = np.sort(_first(distances, 1)[:, 0])
    return 100 * np.searchsorted(nearest_first, metres, side="left") / len(nearest_first)


def recall_within(distances, k, radius):
    """Percent of queries with an image at most `radius` away among their first K.

    distances (Nq, >= K) in the unit of `radius`. Source: Liu and Li, CVPR 2019 (CVACT_test,
    5 metres), RecallGeo.m of their code.
    """
    return float(100 * np.mean((_first(distances, k) <= radius).any(axis=1)))


def _first(distances, k):
    distances = np.asarray(distances, dtype=np.float64)
    if distances.ndim != 2 or not 1 <= k <= distances.shape[1]:
        raise ValueError(
            f"distances of shape {distances.shape}, expected (queries, images) with at least "
            f"K = {k} >= 1 images: use a smaller K or rank more images"
        )
    return distances[:, :k]


# ---------------------------------------------------------------- side files
class Coordinates(NamedTuple):
    """A table of places, as `read_coordinates` gives it."""

    places: dict[str, tuple[float, float]]  # (latitude, longitude) in degrees, or (x, y) in metres
    planar: bool  # whether they are (x, y)
    source: str  # the file's name, for messages


class Matches(NamedTuple):
    """A table of gallery images by query image, as `read_matches` gives it."""

    names: dict[str, list[str]]
    source: str


def read_coordinates(path):
    """Read `Coordinates` from a table, see the top of this file; other columns are passed over.

    Raises FileNotFoundError or ValueError.
    """
    rows = _read_table(path)
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    name = next((header.index(column) for column in NAME_COLUMNS if column in header), None)
    axes = next((axes for axes in AXES if set(axes) <= set(header)), None)
    if name is None or axes is None:
        raise ValueError(
            f"{path} has the columns {', '.join(header) or 'none'}, expected "
            "name,latitude,longitude (degrees) or name,x,y (metres)"
        )
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has the columns {', '.join(header)}: name each once")
    columns = [header.index(axis) for axis in axes]
    places = {}
    for line, cells in rows[1:]:
        _check_width(cells, header, f"{path}, line {line}")
        place = tuple(_coordinate(cells[i], header[i], f"{path}, line {line}") for i in columns)
        if places.setdefault(_clean(cells[name]), place) != place:
            raise ValueError(
                f"{path}, line {line}: {cells[name]} has another place than before: name the "
                "image with its folder, or remove a line"
            )
    return Coordinates(places, axes != AXES[0], str(path))


def _check_width(cells, header, where):
    """ValueError where a line has more or fewer cells than there are columns."""
    if len(cells) != len(header):
        raise ValueError(f"{where}: {len(cells)} columns, expected {len(header)}")


def _coordinate(text, axis, where):
    limit = {"latitude": 90, "longitude": 180}.get(axis)  # degrees
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value) or (limit and abs(value) > limit):
        degrees = f" from -{limit} to {limit} degrees" if limit else ""
        raise ValueError(f"{where}: {axis} is {text!r}, expected a number{degrees}")
    return value


def read_matches(path):
    """Read `Matches` from a table, see the top of this file; empty cells are passed over.

    Raises FileNotFoundError or ValueError.
    """
    rows = _read_table(path)
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    if not header or header[0] not in QUERY_COLUMNS:
        raise ValueError(
            f"{path} begins with {','.join(header) or 'nothing'!r}, expected the header "
            "query,gallery,... above lines of a query image and its gallery images"
        )
    chosen = [i for i, column in enumerate(header) if re.fullmatch(r"semi_\d+", column)]
    names = {}
    for line, cells in rows[1:]:
        if chosen:  # else a line has as many images as it has
            _check_width(cells, header, f"{path}, line {line}")
        found = [cells[i] for i in chosen] if chosen else cells[1:]
        names.setdefault(_clean(cells[0]), []).extend(_clean(cell) for cell in found if cell)
    return Matches(names, str(path))


def read_query_list(path):
    """Read image names, one a line, in their order. FileNotFoundError or ValueError."""
    names = [_clean(line.strip()) for line in _read_lines(path) if line.strip()]
    if not names:
        raise ValueError(f"{path} is empty, expected the name of a query image a line")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"{path} names {twice} more than once: remove the repeated lines")
    return names


def _read_lines(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} not found: name the side file that prepare.py wrote")
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}): save it as such") from None


def _read_table(path):
    """[(line number, cells)] of a comma-separated file, without lines that are empty."""
    reader = csv.reader(_read_lines(path))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: not comma-separated text ({error}): save it as such"
        ) from None
    return [(line, cells) for line, cells in rows if any(cells)]


def _clean(name):
    return name.replace("\\", "/").removeprefix("./").strip("/")


def _tails(path, longest):
    """The last `longest` parts of a path as one name, then fewer, down to the last alone."""
    parts = path.split("/")
    for count in range(min(longest, len(parts)), 0, -1):
        yield "/".join(parts[-count:])


def _folder(path):
    return path.rpartition("/")[0]


def _depth(names):
    return max((name.count("/") + 1 for name in names), default=0)


def places_of(paths, coordinates):
    """Places (N, 2) float64 of image files by a table of `Coordinates`.

    An image's own entry counts before its folder's, and a longer name before a shorter. Raises
    ValueError where an image has no entry.
    """
    table, depth = coordinates.places, _depth(coordinates.places)
    found = []
    for path in _with_slashes(paths):
        keys = (*_tails(path, depth), *_tails(_folder(path), depth))
        found.append(next((table[key] for key in keys if key in table), None))
    missing = [path for path, place in zip(paths, found, strict=True) if place is None]
    if missing:
        raise ValueError(
            f"{coordinates.source} has no place for {len(missing)} of {len(paths)} images, first "
            f"{missing[0]}: add the name of the image or of its folder"
        )
    return np.array(found, dtype=np.float64)


def find_images(names, paths, source, by_folder=True):
    """Indices among `paths` of the images that names stand for: {name: int64 array}.

    A name is the end of one path or, `by_folder`, of the folder of any number of them. Raises
    ValueError, with `source`, for names of nothing, or of several images in different folders.
    """
    wanted, depth = set(names), _depth(names)
    images, folders = {}, {}
    for index, path in enumerate(_with_slashes(paths)):
        for tail in wanted.intersection(_tails(path, depth)):
            images.setdefault(tail, []).append(index)
        for tail in wanted.intersection(_tails(_folder(path), depth)) if by_folder else ():
            folders.setdefault(tail, []).append(index)
    missing = sorted(wanted - images.keys() - folders.keys())
    if missing:
        raise ValueError(
            f"{source} names {len(missing)} images that are not among the {len(paths)} of the "
            f"feature file, first {missing[0]}: is it of another data set?"
        )
    twice = sorted(name for name, rows in images.items() if len(rows) > 1)
    if twice:
        raise ValueError(f"{source} names {twice[0]}, as several images are called: add the folder")
    return {name: np.array(rows) for name, rows in (folders | images).items()}


def _with_slashes(paths):
    """Paths with / between their parts; ValueError where one is not known."""
    if not all(paths):
        raise ValueError(
            "the feature file holds no image paths, by which side files are read: write it again "
            "with `python test.py`"
        )
    return [str(path).replace("\\", "/") for path in paths]


def matches_of(query, gallery, matches):
    """Gallery indices of `Matches` for every query: a list of Nq int64 arrays, empty without line.

    Lines of queries that are not in the feature file are passed over. Raises ValueError where no
    query has a line, or a line names a gallery image that is not there.
    """
    depth = _depth(matches.names)
    own = [
        next((matches.names[tail] for tail in _tails(path, depth) if tail in matches.names), [])
        for path in _with_slashes(query.paths)
    ]
    if not any(own):
        raise ValueError(
            f"{matches.source} has no line for any of the {len(own)} queries, first "
            f"{query.paths[0]}: is it of another data set?"
        )
    found = find_images({name for names in own for name in names}, gallery.paths, matches.source)
    nothing = np.empty(0, dtype=np.int64)
    return [np.unique(np.concatenate([nothing, *(found[name] for name in names)])) for names in own]


# ---------------------------------------------------------------- University-160k
def answer_lines(query, gallery, names, block_size=None, scores=None):
    """The lines of University-160k's answer: ten gallery names a query, best first, tab-separated.

    `names` are the query images' names in the order of the lines; other queries are left out. A
    gallery image's name is its file name without the suffix. Labels play no part. Source:
    University1652-Baseline, test_160k.py. Raises ValueError for an unknown query, a gallery of
    fewer than ten images, or two of the same name.
    """
    rows = find_images(names, query.paths, "the query list", by_folder=False)
    stems = [PurePosixPath(path).stem for path in _with_slashes(gallery.paths)]
    if len(set(stems)) < len(stems):
        twice, count = Counter(stems).most_common(1)[0]
        raise ValueError(
            f"{count} gallery images are called {twice}: an answer names them by "
            "their file names, which must differ"
        )
    if len(stems) < ANSWER_LENGTH:
        raise ValueError(
            f"a gallery of {len(stems)} images, but an answer names the first {ANSWER_LENGTH} of "
            "every query: use University-160k's whole gallery"
        )
    top = top_images(query, gallery, ANSWER_LENGTH, None, block_size, scores)
    return ["\t".join(stems[image] for image in top[rows[name][0]]) for name in names]


def write_answer(path, lines):
    """Write answer lines as text to `path`, a .txt, and zipped beside it; returns both paths.

    The zip holds `answer.txt`, and equal lines give equal bytes. Raises ValueError for another
    suffix, no lines, or a line that is not ten names.
    """
    path = Path(path)
    if path.suffix.lower() != ".txt":
        raise ValueError(f"{path} cannot be an answer: its name must end in .txt")
    wrong = [n for n, line in enumerate(lines, start=1) if line.count("\t") != ANSWER_LENGTH - 1]
    if wrong or not lines:
        raise ValueError(
            f"an answer of {len(lines)} lines, {len(wrong)} of them without {ANSWER_LENGTH} "
            f"names{f' (first line {wrong[0]})' if wrong else ''}: make them by answer_lines"
        )
    text = "".join(f"{line}\n" for line in lines)
    member = zipfile.ZipInfo(ANSWER_NAME)  # its date stays 1980
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16  # readable where it is unpacked
    packed = path.with_suffix(".zip")
    write_text(path, text)
    with replacing(packed) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(member, text)
    return path, packed


# ---------------------------------------------------------------- the protocols
# Each takes (query, gallery, its side files, scores) with `scores` as in `score_blocks`.
def evaluate_cvusa(query, gallery, scores=None):
    """CVUSA: `evaluate_pairs`."""
    return evaluate_pairs(query, gallery, scores=scores)


def evaluate_cvact(query, gallery, coordinates=None, scores=None):
    """CVACT: `evaluate_pairs`; with coordinates also CVACT_test's recall within 5 metres.

    The latter are `recall@K_5m` for K = 1, 5, 10 (see `recall_within`).
    """
    metrics = evaluate_pairs(query, gallery, scores=scores)
    if coordinates is not None:
        ks = _possible((1, 5, 10), gallery)
        metres = planar_distance if coordinates.planar else metre_distance
        distances = metres(*first_places(query, gallery, coordinates, max(ks), scores))
        for k in ks:
            metrics[f"recall@{k}_5m"] = recall_within(distances, k, CVACT_RADIUS)
    return metrics


def evaluate_vigor(query, gallery, semi_positives, scores=None):
    """VIGOR: `evaluate_pairs` with the hit rate; `semi_positives`: `Matches`."""
    near = matches_of(query, gallery, semi_positives)
    return evaluate_pairs(query, gallery, near, scores=scores)


def mean_over_heights(heights):
    """SUES-200: {height: metrics of `evaluate`} with their mean, as `format_protocol` takes it.

    Returns {"dataset", "heights": as given, "mean": of every recall and AP}. Its own
    test_and_evaluate.py computes at each height what `evaluate` does; a mean is not published.
    Raises ValueError for no heights.
    """
    if not heights:
        raise ValueError("no heights to average: give the feature file of at least one")
    metrics = list(heights.values())
    mean = {
        name: float(np.mean([each[name] for each in metrics]))
        for name in metrics[0]
        if name.startswith(("recall", "AP"))
    }
    return {"dataset": "sues200", "heights": heights, "mean": mean}


def first_places(query, gallery, coordinates, k, scores=None):
    """Places (Nq, 1, 2) of the queries and (Nq, k, 2) of their first k images, junk left out."""
    here, there = (places_of(side.paths, coordinates) for side in (query, gallery))
    top = top_images(query, gallery, k, find_matches(query, gallery)[1], scores=scores)
    return here[:, np.newaxis], there[top]


def _possible(ks, gallery):
    """Those of `ks` for which a gallery, without its junk, has images; at least the first."""
    return [k for k in ks if k <= np.count_nonzero(gallery.labels != JUNK)] or [ks[0]]


def evaluate_denseuav(query, gallery, coordinates, scores=None):
    """DenseUAV: `evaluate`, and by the distances of the first images, in percent:

    - `SDM@K` for K = 1, 3, 5, 10 as published: `degree_distance` and a scale of 5000;
    - `SDM_metres@K`, not published: distances by `haversine`, with the same decay in metres;
    - `MA@m` for m = 3, 5, 10, 20, 50, 100 metres (`metre_accuracy`).

    A K beyond the gallery's size has no entry. Raises ValueError for planar coordinates.
    """
    if coordinates.planar:
        raise ValueError(
            f"{coordinates.source} has the columns x,y: DenseUAV's metrics are defined by "
            "latitude,longitude"
        )
    metrics = evaluate(query, gallery, scores=scores)
    ks = _possible(DENSEUAV_K, gallery)
    places = first_places(query, gallery, coordinates, max(ks), scores)
    degrees, metres = degree_distance(*places), metre_distance(*places)
    for k in ks:
        metrics[f"SDM@{k}"] = float(100 * sdm(degrees, k, DEGREE_SCALE).mean())
    for k in ks:
        metrics[f"SDM_metres@{k}"] = float(100 * sdm(metres, k, DEGREE_SCALE_IN_METRES).mean())
    for limit in DENSEUAV_METRES:
        metrics[f"MA@{limit}"] = float(metre_accuracy(metres, limit))
    return metrics


def evaluate_gta(query, gallery, coordinates, positives=None, scores=None):
    """GTA-UAV and UAV-VisLoc: recall, AP and the distances of the first images.

    - `recall@1`, `@5`, `@10`, `@top1`, as `evaluate`; rates in percent;
    - `AP_standard_matched`: `average_precision_standard` over the queries that have a positive;
    - `SDM@K` in percent (the published code prints the fraction) with a scale of 0.001 per metre,
      and `Dis@K` in metres, for K = 1, 3, 5; a K beyond the gallery's size has no entry.

    Metres are Euclidean of planar coordinates, as GTA-UAV; else by `haversine`, where UAV-VisLoc's
    code takes the ellipsoid. `positives`: `Matches` that replace the labels, for queries with
    several true images, or None. Source: GTA-UAV, evaluate/gta.py and visloc.py.
    """
    if positives is None:
        ranks = rank_positives(query, gallery, scores=scores)[0]
    else:
        given = matches_of(query, gallery, positives)
        ranks = ranks_of(query, gallery, given, scores=scores)
    first = np.array([each[0] if len(each) else np.inf for each in ranks])
    matched = [each for each in ranks if len(each)]
    num_gallery = len(gallery.labels)
    metrics = {f"recall@{k}": recall(first, k) for k in (1, 5, 10)}
    metrics["recall@top1"] = recall(first, one_percent(num_gallery)["recall@top1"])
    average = mean_over_queries(average_precision_standard, matched) if matched else 0.0
    metrics["AP_standard_matched"] = 100 * average
    ks = _possible(GTA_K, gallery)
    metres = planar_distance if coordinates.planar else metre_distance
    distances = metres(*first_places(query, gallery, coordinates, max(ks), scores))
    for k in ks:
        metrics[f"SDM@{k}"] = float(100 * sdm(distances, k, METRE_SCALE).mean())
    for k in ks:
        metrics[f"Dis@{k}"] = float(mean_distance(distances, k).mean())
    return metrics | {
        "recall@1_chance": float(100 * np.mean([len(each) for each in ranks]) / num_gallery),
        "num_queries": len(ranks),
        "num_gallery": num_gallery,
        "num_unmatched": len(ranks) - len(matched),
    }


def evaluate_university160k(query, gallery, query_list, scores=None):
    """University-160k: the lines of the answer; their truth is known to the challenge's server."""
    lines = answer_lines(query, gallery, query_list, scores=scores)
    return {"answer": lines, "num_queries": len(lines), "num_gallery": len(gallery.labels)}


class Protocol(NamedTuple):
    """How a data set is scored."""

    evaluate: Callable  # (query, gallery, side files, scores) -> metrics
    needs: tuple[str, ...] = ()  # side files
    takes: tuple[str, ...] = ()  # more of them, optional


READERS = {
    "coordinates": read_coordinates,
    "semi_positives": read_matches,
    "positives": read_matches,
    "query_list": read_query_list,
}
PROTOCOLS = {
    "cvusa": Protocol(evaluate_cvusa),
    "cvact": Protocol(evaluate_cvact, takes=("coordinates",)),
    "vigor": Protocol(evaluate_vigor, needs=("semi_positives",)),
    "sues200": Protocol(evaluate),
    "denseuav": Protocol(evaluate_denseuav, needs=("coordinates",)),
    "gta": Protocol(evaluate_gta, needs=("coordinates",), takes=("positives",)),
    "university160k": Protocol(evaluate_university160k, needs=("query_list",)),
}


def check_sidecars(name, given):
    """Raise ValueError where a protocol is unknown, or needs or does not take a side file."""
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}: there are {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    for what in protocol.needs:
        if what not in given:
            raise ValueError(f"the protocol {name} needs --{what} FILE, written by prepare.py")
    for what in given:
        if what not in protocol.needs + protocol.takes:
            raise ValueError(f"the protocol {name} does not use --{what}: leave it out")


def evaluate_protocol(name, query, gallery, scores=None, **sidecars):
    """Metrics of two `Features` by the protocol of a data set, and {"dataset": name}.

    `scores`: None for dot products, else see `score_blocks`.
    `sidecars`: coordinates, semi_positives, positives, query_list; each a file's path, or what
    its reader (`READERS`) gives; None is as if left out. `sues200` is one height here, see
    `mean_over_heights`. `university160k` returns the lines of the answer under "answer", for
    `write_answer`. Raises ValueError or FileNotFoundError.
    """
    given = {what: value for what, value in sidecars.items() if value is not None}
    check_sidecars(name, given)
    check_features(query, gallery)
    for what, value in given.items():
        if isinstance(value, (str, Path)):
            given[what] = READERS[what](value)
    return {"dataset": name, **PROTOCOLS[name].evaluate(query, gallery, scores=scores, **given)}


# ---------------------------------------------------------------- what a reader sees
def format_protocol(metrics):
    """Lines of text for what `evaluate_protocol` or `mean_over_heights` returned."""
    name = metrics["dataset"]
    if "heights" in metrics:
        heights = metrics["heights"].items()
        lines = [f"{height} m: {published_line(each)}" for height, each in heights]
        lines.append(f"mean: {published_line(metrics['mean'])}")
    elif "answer" in metrics:
        counts = f"{metrics['num_queries']} queries, {metrics['num_gallery']} gallery images"
        lines = [f"{counts}: the first {ANSWER_LENGTH} of every query"]
    elif name in ("cvusa", "cvact", "vigor"):
        lines = _pair_lines(metrics)
    else:
        families = ("SDM@", "SDM_metres@", "MA@", "Dis@")
        lines = [published_line(metrics) if "AP" in metrics else _named(metrics, ("recall", "AP_"))]
        lines += [_named(metrics, (family,)) for family in families]
    return "\n".join([f"as published for {name}:", *filter(None, lines)])


def _named(metrics, beginnings):
    """`name:value` of the metrics that begin so; distances in metres, the rest percent."""
    return " ".join(
        f"{name.replace('recall', 'Recall')}:{value:.2f}{' m' if name.startswith('Dis') else ''}"
        for name, value in metrics.items()
        if name.startswith(beginnings) and not name.endswith("_chance")
    )


def _pair_lines(metrics):
    users = {
        "recall@1%_floor": "SAFA, Sample4Geo",
        "recall@1%_floor+1": "CVM-Net, VIGOR",
        "recall@top1": "University1652-Baseline",
    }
    percent = one_percent(metrics["num_gallery"])
    shares = [
        f"first {percent[name]} ({name}; {who}):{metrics[name]:.2f}" for name, who in users.items()
    ]
    lines = [
        " ".join(f"Recall@{k}:{metrics[f'recall@{k}']:.2f}" for k in (1, 5, 10)),
        f"Recall@1% of {metrics['num_gallery']}: " + ", ".join(shares),
    ]
    near = {k: metrics.get(f"recall@{k}_5m") for k in (1, 5, 10)}
    lines.append(" ".join(f"Recall@{k}_5m:{v:.2f}" for k, v in near.items() if v is not None))
    if "hit_rate" in metrics:
        lines.append(f"Hit rate:{metrics['hit_rate']:.2f}")
        if metrics["num_without_semi_positives"]:
            lines.append(
                f"{metrics['num_without_semi_positives']} of {metrics['num_queries']} queries "
                "have no semi-positives"
            )
    if metrics["num_tied"]:
        lines.append(
            f"{metrics['num_tied']} of {metrics['num_queries']} queries score another image like "
            "the true one, which counts in favour, as published"
        )
    return lines


# ---------------------------------------------------------------- the command
def add_sidecar_options(parser):
    """Add the side files' options, the same wherever a protocol can be asked for."""
    for name, text in (
        ("coordinates", "places of images or buildings: name,latitude,longitude or name,x,y"),
        ("semi_positives", "VIGOR's semi-positives: query,gallery,..."),
        ("positives", "GTA-UAV's positives, in place of the labels: query,gallery,..."),
        ("query_list", "University-160k's query images in order, one name a line"),
    ):
        parser.add_argument(f"--{name}", metavar="FILE", help=text)
    parser.add_argument(
        "--answer", default=ANSWER_NAME, metavar="FILE", help="University-160k's answer, and a .zip"
    )


def sidecars_of(opts):
    """The side files among parsed options, for `evaluate_protocol`."""
    return {name: getattr(opts, name) for name in READERS if getattr(opts, name) is not None}


def parse_args(argv=None):
    """Options of the command; combinations that cannot be end the program."""
    parser = Parser(
        description="Score a feature file as a data set's authors do.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("protocol", choices=tuple(PROTOCOLS), help="data set")
    parser.add_argument(
        "features",
        nargs="*",
        default=["pytorch_result.mat"],
        metavar="FILE",
        help="feature file that test.py wrote, .mat or .npz; of sues200 one a height",
    )
    parser.add_argument(
        "--heights",
        nargs="+",
        default=list(map(str, SUES_HEIGHTS)),
        metavar="METRES",
        help="the heights of sues200's files, in their order",
    )
    add_sidecar_options(parser)
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write all metrics to this file; - prints them instead of the text",
    )
    opts = parser.parse_args(argv)
    if opts.protocol == "sues200":
        if len(set(opts.heights)) < len(opts.heights):
            parser.error(f"--heights {' '.join(opts.heights)}: name each height once")
        if len(opts.features) != len(opts.heights):
            parser.error(
                f"{len(opts.features)} file(s) for the heights {' '.join(opts.heights)}: name one "
                "file a height, or the --heights there are"
            )
    elif len(opts.features) > 1:
        parser.error(f"{len(opts.features)} files: the protocol {opts.protocol} takes one")
    try:
        check_sidecars(opts.protocol, sidecars_of(opts))
    except ValueError as error:
        parser.error(str(error))
    if opts.protocol == "university160k" and Path(opts.answer).suffix.lower() != ".txt":
        parser.error(f"--answer {opts.answer}: expected a name ending in .txt")
    return opts


def score_one(opts):
    """(metrics, warnings) of the one feature file of a protocol."""
    query, gallery = load_features(opts.features[0])
    metrics = evaluate_protocol(opts.protocol, query, gallery, **sidecars_of(opts))
    return metrics, warnings_about(metrics, query, gallery) if "recall@1" in metrics else []


def score_heights(opts):
    """(metrics, warnings) of SUES-200's feature files, one read at a time."""
    heights, warnings = {}, []
    for height, path in zip(opts.heights, opts.features, strict=True):
        query, gallery = load_features(path, paths=False)
        heights[height] = evaluate(query, gallery)
        found = warnings_about(heights[height], query, gallery)
        warnings += [f"{height} m: {warning}" for warning in found]
    return mean_over_heights(heights), warnings


@script
def main(argv=None) -> dict:
    """Score, print and write; returns the metrics."""
    opts = parse_args(argv)
    score = score_heights if opts.protocol == "sues200" else score_one
    metrics, warnings = score(opts)
    text = format_protocol(metrics)
    if "answer" in metrics:
        written = write_answer(opts.answer, metrics.pop("answer"))
        text += f"\nwritten: {' and '.join(map(str, written))}"
    numbers = json.dumps(metrics, indent=2)
    print(numbers if opts.json == "-" else text)
    if opts.json and opts.json != "-":
        write_text(opts.json, numbers + "\n")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return metrics


if __name__ == "__main__":
    main()
