"""Rankings: who matches whom, scores block by block, ranks of the positives, the first images.

Nothing here holds the scores of all queries and the whole gallery: `score_blocks` makes them for
some queries at a time, and metrics, protocols, re-ranking and hard negatives read them there.
"""

from functools import partial

import numpy as np

from evaluation.feature_file import JUNK
from runtime.progress import progress_bar

BLOCK_SCORES = 2**24  # scores held at a time (64 MiB of float32), where MIN_ROWS allows
MAX_ROWS = 2**12  # queries at a time: more save no time, and cost memory in a short gallery
MIN_ROWS = 128  # a long gallery, perhaps a map of a file, is read once for so many queries
# Pairs of images from which `auto` looks for a GPU: some 20 seconds of two CPU cores, against
# about 3 to import torch and start one.
GPU_PAIRS = 10**9
# Scores of features of norm 1 that differ by no more are told as ties: float32 rounds the scores
# of equal features in a few ways, by their place in the gallery. Ranks are as published.
LEVEL = np.float32(2**-21)
LANES = 16  # see `k_largest`


# ---------------------------------------------------------------- who matches whom
def find_matches(query, gallery):
    """Gallery indices of the positives and of the junk of every query.

    Positives carry the query's label; junk carries the label -1. Where both sides have cameras,
    images of the query's own label and camera are junk too, not positives (the rule of person
    re-identification, Zheng et al., ICCV 2015). A query labelled -1 has no positives.

    Returns (positives, junk): two lists of Nq int64 arrays.
    """
    junk = np.flatnonzero(gallery.labels == JUNK)
    order = np.argsort(gallery.labels, kind="stable")
    ordered = gallery.labels[order]
    starts = np.searchsorted(ordered, query.labels, side="left")
    stops = np.searchsorted(ordered, query.labels, side="right")
    stops[query.labels == JUNK] = starts[query.labels == JUNK]
    positives = [order[start:stop] for start, stop in zip(starts, stops, strict=True)]
    if query.cameras is None or gallery.cameras is None:
        return positives, [junk] * len(positives)
    pairs = [
        (images, gallery.cameras[images] == camera)
        for images, camera in zip(positives, query.cameras, strict=True)
    ]
    junk_of_each = [np.concatenate([junk, images[same]]) for images, same in pairs]
    return [images[~same] for images, same in pairs], junk_of_each


# ---------------------------------------------------------------- scores
def score_blocks(queries, gallery, scores=None, block_size=None, description=None):
    """Yield (rows, scores): a slice of the queries and their scores (B, Ng), higher is better.

    queries (Nq, D) and gallery (Ng, D); scores are their dot products, or what a function `scores`
    makes of the slice. `block_size` queries at a time; by default as many as make 64 MiB of
    scores, but 128 to 4096. The next block may overwrite the one before, and the last slice may
    reach beyond the queries. `description` names a progress bar.
    """
    size = block_size or min(max(BLOCK_SCORES // len(gallery), MIN_ROWS), MAX_ROWS)
    scores = scores or _dot_products(queries, gallery, size)
    starts = range(0, len(queries), size)
    for start in progress_bar(starts, description) if description else starts:
        rows = slice(start, start + size)
        yield rows, scores(rows)


def _dot_products(queries, gallery, block_size):
    """`scores` of `score_blocks`, each time in the same array."""
    # A fresh one a block costs page faults, and two are held at times.
    size = min(block_size, len(queries)), len(gallery)
    buffer = np.empty(size, dtype=np.result_type(queries, gallery))

    def scores(rows):
        block = queries[rows]
        return np.matmul(block, gallery.T, out=buffer[: len(block)])  # (B, Ng)

    return scores


# ---------------------------------------------------------------- ranks
def published_order(scores, junk):
    """Gallery indices of one query's scores (N,), best first and without `junk` (J,).

    The order of University1652-Baseline's evaluate_gpu.py: `argsort` reversed, ties included.
    """
    order = np.argsort(scores)[::-1]
    return order[~np.isin(order, junk)] if len(junk) else order


def positive_ranks(scores, positives, junk):
    """Ranks of the positives of one query among the non-junk gallery, and those without ties.

    scores (N,), positives (P,) and junk (J,) indices. Returns (ranks, bounds): the places (P,) of
    `positives` in `published_order`, ascending and 1-based, and the rank (2,) of the first of them
    if every wrong image level with it came after it, and before it; 0 where there are none. Only
    what scores at least as high as the worst positive is sorted.
    """
    if len(positives) == 0:
        return np.empty(0, dtype=np.int64), np.zeros(2, dtype=np.int64)
    matching = np.sort(scores[positives])[::-1]  # (P,) best first
    # The best positive with all ties against the wrong images, and for them; then each as it is.
    limits = np.concatenate([matching[:1] + LEVEL, matching[:1] - LEVEL, matching])
    contenders = np.compress(scores >= limits.min(), scores)  # 3x the speed of a mask
    above, level = _count_above(contenders, limits)
    for images in (matching, scores[junk]) if len(junk) else (matching,):
        more, at_least = _count_above(images, limits)
        above, level = above - more, level - at_least
    bounds = np.array([above[0], level[1]]) + 1
    above, level = above[2:], level[2:]
    if (above != level).any():  # a positive ties with a wrong image: argsort decides
        return np.flatnonzero(np.isin(published_order(scores, junk), positives)) + 1, bounds
    return above + np.arange(1, len(matching) + 1), bounds


def _count_above(values, limits):
    """How many `values` are greater than each of `limits` (P,), and how many at least equal."""
    values = np.sort(values)
    return tuple(len(values) - np.searchsorted(values, limits, side) for side in ("right", "left"))


def best_positive_ranks(scores, positives, junk):
    """(ranks, bounds) as `positive_ranks`, of each query's best positive alone and the same junk.

    scores (B, N), positives: B arrays of indices, junk (J,) indices. Two comparisons of the whole
    block. Returns B arrays of one rank, or of none where there is no positive, and bounds (B, 2).
    """
    counts = np.fromiter(map(len, positives), np.int64, len(scores))
    some = np.flatnonzero(counts)
    rows = np.repeat(np.arange(len(scores)), counts)
    matching = scores[rows, np.concatenate(positives)]  # (P,) of all queries
    best = np.full((len(scores), 1), np.inf, dtype=scores.dtype)
    if len(some):
        best[some, 0] = np.maximum.reduceat(matching, (np.cumsum(counts) - counts)[some])
    hidden = scores[:, junk]  # (B, J)

    def count_wrong(compare, limits):
        values, left_out = compare(scores, limits), compare(hidden, limits)
        right = np.bincount(rows[compare(matching, limits[rows, 0])], minlength=len(scores))
        # int32: twice the speed of the default int64
        return values.sum(axis=1, dtype=np.int32) - left_out.sum(axis=1, dtype=np.int32) - right

    first = count_wrong(np.greater, best + LEVEL) + 1
    last = count_wrong(np.greater_equal, best - LEVEL) + 1
    ranks = first.astype(np.int64)
    for row in np.flatnonzero(last > first):
        top = positives[row][scores[row, positives[row]] == best[row]]
        ranks[row] = positive_ranks(scores[row], top, junk)[0][0]
    bounds = np.stack([first, last], axis=1)
    bounds[counts == 0] = 0
    return [ranks[row : row + (count > 0)] for row, count in enumerate(counts)], bounds


def _rank_block(scores, positives, junk, only_first=False):
    """`positive_ranks` of every row of a block; NumPy's product has all cores already."""
    shared_junk = all(each is junk[0] for each in junk)
    if shared_junk and (only_first or all(len(each) == 1 for each in positives)):
        return best_positive_ranks(scores, positives, junk[0])
    return zip(*map(positive_ranks, scores, positives, junk), strict=True)


def rank_positives(
    query,
    gallery,
    block_size=None,
    device="cpu",
    scores=None,
    positives=None,
    description=None,
    only_first=False,
):
    """Ranks of the positives of every query, and the length of each query's ranking.

    block_size, scores, description: see `score_blocks`. `device` is "cpu" for NumPy, a device of
    torch, or "auto" (see `choose_device`); given scores NumPy ranks in any case. `positives`,
    instead of the images of the query's label: Nq arrays of gallery indices, never junk.
    `only_first`: ranks after a query's first may be left out, which is far quicker where positives
    are many.

    Returns (ranks, lengths, bounds): a list of Nq ascending int64 arrays of 1-based ranks, empty
    where a query has no positive; (Nq,) int64, the non-junk gallery images of each query; and
    (Nq, 2) int64, the rank of each first positive with ties for it and against it (see
    `positive_ranks`).
    """
    matches, junk = find_matches(query, gallery)
    if positives is None:
        positives = matches
    else:
        junk = [np.setdiff1d(*pair) for pair in zip(junk, positives, strict=True)]
    rank_block = partial(_rank_block, only_first=only_first)
    device = "cpu" if scores else choose_device(device, query, gallery)
    if device != "cpu":
        from evaluation import ranking_torch

        scores = ranking_torch.dot_products(query.features, gallery.features, device)
        rank_block = partial(ranking_torch.rank_block, level=float(LEVEL), rank_tied=positive_ranks)
    sides = query.features, gallery.features
    ranks, bounds = [], []
    for rows, block in score_blocks(*sides, scores, block_size, description):
        of_block = rank_block(block, positives[rows], junk[rows])
        for found, each in zip((ranks, bounds), of_block, strict=True):
            found.extend(each)
    lengths = len(gallery.labels) - np.fromiter(map(len, junk), np.int64, len(junk))
    return ranks, lengths, np.array(bounds, dtype=np.int64)


def choose_device(device, query, gallery):
    """ "cpu" (NumPy) or the torch device that computes the ranks, for "auto", "cpu" or "cuda".

    "auto" is a GPU if there is one and there are over 10^9 pairs of a query and a gallery image,
    else the CPU. Raises ValueError for "cuda" without a GPU.
    """
    if device == "auto" and len(query.labels) * len(gallery.labels) <= GPU_PAIRS:
        return "cpu"
    if device not in ("auto", "cuda"):
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ValueError("--device cuda: torch sees no GPU on this machine, use --device cpu")
    return "cpu"


def rank_gallery(query, gallery, index):
    """Full ranking of query number `index` in the published order.

    Returns (order, scores), both (M,), best first: the indices of the M gallery images that are
    not junk for this query, and their scores.
    """
    cameras = None if query.cameras is None else query.cameras[[index]]
    one = query._replace(labels=query.labels[[index]], cameras=cameras)
    scores = gallery.features @ query.features[index]  # (Ng,)
    order = published_order(scores, find_matches(one, gallery)[1][0])
    return order, scores[order]


# ---------------------------------------------------------------- the first images
def k_largest(scores, k):
    """Columns (B, k) of each row's k largest scores (B, N), descending; ties in column order.

    The k-th largest of the maxima of disjoint sets of columns is exceeded or met by k scores, so
    all others can be left unsorted. A twentieth of the time of argpartition, and defined for ties.
    """
    num_rows, num_columns = scores.shape
    lanes = min(LANES, max(num_columns // (4 * k), 1))
    width = num_columns // lanes
    maxima = scores[:, : lanes * width].reshape(num_rows, lanes, width).max(axis=1)
    bound = np.partition(maxima, width - k, axis=1)[:, width - k]
    flat = np.flatnonzero(scores >= bound[:, np.newaxis])
    rows, columns = np.divmod(flat, num_columns)
    order = np.lexsort((-scores.reshape(-1)[flat], rows))  # stable
    first = np.searchsorted(rows, np.arange(num_rows))
    return columns[order][first[:, np.newaxis] + np.arange(k)]


def first_images(scores, k, junk=None):
    """Indices (B, k) of each row's first k images by scores (B, N): heads of `published_order`.

    junk: B arrays of indices to leave out, at most N - k in a row, or None.
    """
    visible = scores
    if junk is not None and any(map(len, junk)):
        visible = scores.copy()
        for values, images in zip(visible, junk, strict=True):
            values[images] = -np.inf
    found = k_largest(visible, min(k + 1, scores.shape[1]))
    best = np.take_along_axis(visible, found, axis=1)
    for row in np.flatnonzero((best[:, 1:] == best[:, :-1]).any(axis=1)):
        # Only the sort of all scores tells which of tied images comes first.
        found[row, :k] = published_order(scores[row], () if junk is None else junk[row])[:k]
    return found[:, :k]


def top_images(query, gallery, k, junk=None, block_size=None, scores=None):
    """Indices (Nq, k) of the first k gallery images of every query, in the published order.

    `junk`: Nq arrays of gallery indices to leave out, such as `find_matches(...)[1]`, or None;
    `block_size` and `scores`: see `score_blocks`. Raises ValueError where a query has fewer than k
    images to rank.
    """
    shortest = len(gallery.features) - max(map(len, junk or [()]))
    if shortest < k:
        raise ValueError(
            f"the first {k} images of every query are asked for, but only {shortest} can be "
            "ranked: use a larger gallery"
        )
    sides = query.features, gallery.features
    blocks = score_blocks(*sides, scores, block_size, "ranking")
    found = [first_images(block, k, junk and junk[rows]) for rows, block in blocks]
    return np.concatenate(found)
