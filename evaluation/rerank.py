"""Protocols of a ranking at test time: re-ranking, query expansion, several query images at once.

$ python evaluate_gpu.py --rerank gnn
$ python test.py --name two_view --multi --ignore_distractors

Re-ranking reads the features of queries and gallery together, never a label. It holds no matrix
of all images by all images, nor of all queries by the gallery: neighbours are searched block by
block, graphs are sparse, and scores are made for a slice of queries at a time.
"""

from typing import NamedTuple

import numpy as np

from evaluation.feature_file import JUNK
from runtime.cli import number_within, positive_int
from runtime.progress import progress_bar

BLOCK_SCORES = 2**24  # scores held at a time (64 MiB of float32)
BLOCK_PAIRS = 2**13  # pairs of features gathered at a time (32 MiB of 512 numbers each)
BLOCK_MINIMA = 2**21  # minima of two encodings at a time (about 100 MiB), where a row allows
MOST_ENTRIES = 2**29  # of a propagated graph (4 GiB); several times those of unrelated images
LANES = 16  # see `k_largest`


# ---------------------------------------------------------------- protocols
class Protocol(NamedTuple):
    """How a task is ranked, where it is not the plain way; the defaults are the plain way."""

    multi: bool = False  # see `merge_queries`
    ignore_distractors: bool = False  # see `distractors_as_junk`
    query_expansion: int = 0  # see `expand_queries`; 0 is none
    alpha: float = 0.0
    rerank: str = "none"  # else `k_reciprocal` or `gnn`, which explain the three numbers
    k1: int = 0
    k2: int = 0
    weight: float = 0.0


# k1, k2 and the weight of the plain distance or score, as published.
RERANKERS = {"k_reciprocal": (20, 6, 0.3), "gnn": (26, 7, 0.0)}


def add_protocol_options(parser):
    """Add the options of which `protocol_of` makes a Protocol, the same in every script."""
    group = parser.add_argument_group("protocol, if not the plain ranking of the whole gallery")
    group.add_argument(
        "--multi",
        action="store_true",
        help="all query images of a building are one query: the mean of their features",
    )
    group.add_argument(
        "--ignore_distractors",
        action="store_true",
        help="gallery images of buildings that no query shows take no place in the ranking, as in "
        "the code of Sample4Geo and its descendants; not comparable with the full gallery",
    )
    group.add_argument(
        "--query_expansion",
        type=positive_int,
        metavar="K",
        help="add the first K gallery images of a query to it and search again",
    )
    group.add_argument(
        "--query_expansion_alpha",
        type=number_within(0),
        metavar="A",
        help="weight of an added image: its cosine to the power A; if left out 0: all the same",
    )
    group.add_argument(
        "--rerank",
        default="none",
        choices=("none", *RERANKERS),
        help="re-rank by the neighbours that images have in common, on the CPU",
    )
    published = ", ".join(f"{name} {{}}" for name in RERANKERS)
    k1, k2, weight = (
        published.format(*numbers) for numbers in zip(*RERANKERS.values(), strict=True)
    )
    group.add_argument(
        "--rerank_k1",
        type=positive_int,
        metavar="K",
        help=f"neighbours of an image; if left out: {k1}",
    )
    group.add_argument(
        "--rerank_k2",
        type=positive_int,
        metavar="K",
        help=f"neighbours over which an image is averaged, 1: none; if left out: {k2}",
    )
    group.add_argument(
        "--rerank_lambda",
        type=number_within(0, 1),
        metavar="L",
        help=f"share of the plain distance or score in the new one, 0 to 1; if left out: {weight}",
    )


def protocol_of(opts, parser):
    """The Protocol that the options of `add_protocol_options` ask for; parser.error where none."""
    numbers = opts.rerank_k1, opts.rerank_k2, opts.rerank_lambda
    if opts.rerank == "none":
        for name, number in zip(("k1", "k2", "lambda"), numbers, strict=True):
            if number is not None:
                parser.error(
                    f"--rerank_{name} {number} has no effect without --rerank: choose one of "
                    f"{', '.join(RERANKERS)}"
                )
        numbers = (0, 0, 0.0)
    else:
        published = RERANKERS[opts.rerank]
        numbers = [
            usual if own is None else own for own, usual in zip(numbers, published, strict=True)
        ]
        if numbers[1] > numbers[0]:
            parser.error(
                f"--rerank_k2 {numbers[1]} exceeds --rerank_k1 {numbers[0]}: it counts the nearest "
                "of these, so give at most as many"
            )
    if opts.query_expansion_alpha is not None and opts.query_expansion is None:
        parser.error("--query_expansion_alpha has no effect without --query_expansion K")
    return Protocol(
        opts.multi,
        opts.ignore_distractors,
        opts.query_expansion or 0,
        opts.query_expansion_alpha or 0.0,
        opts.rerank,
        *numbers,
    )


def apply_protocol(protocol, query, gallery):
    """A task as a protocol ranks it: (query, gallery, scores, notes).

    query, gallery: `Features`, as read from the feature file, and as given to `evaluate`; scores:
    its argument of that name, None for dot products; notes: a phrase for each deviation from the
    plain way, [] for none. Raises ValueError where there are too few images for a number asked for.
    """
    notes = []
    scores = None
    if protocol.multi:
        total = len(query.labels)
        query = merge_queries(query)
        notes.append(f"{len(query.labels)} queries of several images, {total} in all")
    if protocol.ignore_distractors:
        gallery, count = distractors_as_junk(query, gallery)
        notes.append(f"without distractors: {count} of {len(gallery.labels)} gallery images")
    if protocol.query_expansion:
        count, alpha = protocol.query_expansion, protocol.alpha
        features = expand_queries(query.features, gallery.features, count, alpha)
        query = query._replace(features=features)
        notes.append(f"queries expanded by their first {count} images, alpha {alpha:g}")
    if protocol.rerank != "none":
        numbers = protocol.k1, protocol.k2, protocol.weight
        rerank = {"k_reciprocal": k_reciprocal, "gnn": gnn}[protocol.rerank]
        scores = rerank(query.features, gallery.features, *numbers)
        text = "k1 {}, k2 {}, lambda {:g}".format(*numbers)
        notes.append(f"re-ranked by {protocol.rerank}, {text}")
    return query, gallery, scores, notes


def merge_queries(query):
    """`Features` of one query for each label, and camera where there are cameras, in their order.

    The feature is the mean of the images' features, each of norm 1 before, and again of norm 1;
    the path is that of the first image.
    """
    keys = [query.labels] if query.cameras is None else [query.labels, query.cameras]
    _, first, group = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(group.reshape(-1), kind="stable")
    starts = np.searchsorted(group.reshape(-1)[order], np.arange(len(first)))
    sums = np.add.reduceat(_of_norm_1(query.features)[order], starts)
    return query._replace(
        features=_of_norm_1(sums),
        labels=query.labels[first],
        paths=[query.paths[index] for index in first],
        cameras=None if query.cameras is None else query.cameras[first],
    )


def distractors_as_junk(query, gallery):
    """The gallery with distractors, images of a label that no query has, as junk; their number.

    As in Sample4Geo (Deuser et al., ICCV 2023), whose data loader gives them the label -1: they
    take no place in a ranking, but count in the N of Recall@top1, and re-ranking and query
    expansion, which see no labels, meet them in the gallery.
    """
    distractor = ~np.isin(gallery.labels, query.labels) & (gallery.labels != JUNK)
    labels = np.where(distractor, JUNK, gallery.labels)
    return gallery._replace(labels=labels), int(np.count_nonzero(distractor))


def _of_norm_1(features):
    """Rows (N, D) divided by their norms; a row of zeros stays."""
    norms = np.sqrt(np.einsum("nd,nd->n", features, features))[:, np.newaxis]
    return features / np.maximum(norms, np.finfo(features.dtype).tiny)


# ---------------------------------------------------------------- query expansion
def expand_queries(queries, gallery, k, alpha=0.0):
    """Each query plus its first k gallery images, each times max(0, cos)^alpha, again of norm 1.

    alpha 0 is average query expansion (Chum et al., Total Recall, ICCV 2007), larger ones are
    alpha query expansion (Radenovic et al., Fine-tuning CNN Image Retrieval with No Human
    Annotation, TPAMI 2018). queries (Nq, D), gallery (Ng, D), rows of norm 1; returns (Nq, D).
    Raises ValueError where k exceeds the gallery.
    """
    if k > len(gallery):
        raise ValueError(
            f"--query_expansion {k}: the gallery holds {len(gallery)} images, give at most as many"
        )
    indices, cosines, _ = nearest(queries, gallery, k, "query expansion")
    weights = np.maximum(cosines, 0) ** alpha  # 0 ** 0 is 1
    return _of_norm_1(queries + _sparse_rows(indices, weights, len(gallery)) @ gallery)


# ---------------------------------------------------------------- neighbours
def nearest(queries, gallery, k, description=None):
    """The k gallery rows of the highest dot product with each query, best first.

    queries (Nq, D), gallery (Ng, D), k <= Ng. Of equal products the lower index comes first.
    Returns (indices (Nq, k) int64, products (Nq, k), lowest (Nq,)), the last the lowest product
    of each query with any of the gallery. `description` names a progress bar.
    """
    size = max(BLOCK_SCORES // len(gallery), 1)
    starts = range(0, len(queries), size)
    indices, products, lowest = [], [], []
    for start in progress_bar(starts, description) if description else starts:
        scores = queries[start : start + size] @ gallery.T  # (B, Ng)
        indices.append(k_largest(scores, k))
        products.append(np.take_along_axis(scores, indices[-1], axis=1))
        lowest.append(scores.min(axis=1))
    return np.concatenate(indices), np.concatenate(products), np.concatenate(lowest)


def k_largest(scores, k):
    """Columns (B, k) of each row's k largest scores (B, N), descending; ties in column order.

    The k-th largest of the maxima of disjoint sets of columns is exceeded or met by k scores, so
    all others can be left unsorted. A twentieth of the time of argpartition, whose ties are open.
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


def _sparse_rows(indices, values, num_columns):
    """CSR (N, num_columns) that holds `values` (N, k) in the columns `indices` (N, k)."""
    from scipy.sparse import csr_array

    ends = np.arange(len(indices) + 1, dtype=np.int32) * indices.shape[1]
    parts = np.ravel(values), np.ravel(indices).astype(np.int32), ends
    matrix = csr_array(parts, shape=(len(indices), num_columns))
    matrix.sort_indices()
    return matrix


def _check_numbers(k1, k2, most):
    """Raise ValueError for k1 above `most`, which the images allow, or k2 above k1."""
    if k1 > most:
        raise ValueError(
            f"--rerank_k1 {k1}: the images of queries and gallery together allow at most {most}"
        )
    if not 1 <= k2 <= k1:
        raise ValueError(f"k2 is {k2} and k1 {k1}: expected 1 <= k2 <= k1")


def _row_of_each(matrix):
    """The row of every stored entry of a CSR matrix."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


# ---------------------------------------------------------------- k-reciprocal encoding
def k_reciprocal(queries, gallery, k1=20, k2=6, weight=0.3):
    """Re-ranking by k-reciprocal encoding: returns `scores(rows)`, see `evaluate`.

    Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, with
    the distance of the code of Person_reID_baseline_pytorch: d(i, j) = (2 - 2 cos)^2, which is
    the squared distance squared again, divided by the largest d of i to any image. With R(i, k)
    the images that are among the first k + 1 of i and have i among their first k + 1:
    R*(i) is R(i, k1) and every R(j, k1/2), j in R(i, k1), that shares over 2/3 of its members
    with it; V(i) is exp(-d(i, j)) over R*(i), of sum 1; V(i) becomes its mean over the first k2
    of i; J(i, j) = 1 - S / (2 - S), S the sum of min(V(i), V(j)).

    queries (Nq, D), gallery (Ng, D), rows of norm 1. Scores are (1 - weight) (1 - J) - weight d,
    which is 1 - weight less the published final distance, exact to more digits. Dot products
    above 1 count as distance 0. Raises ValueError where k1 + 1 exceeds the images.
    """
    features = np.concatenate([queries, gallery])  # (N, D)
    _check_numbers(k1, k2, len(features) - 1)
    ranked, _, lowest = nearest(features, features, k1 + 1, "neighbours")
    furthest = np.maximum(_distance(lowest), np.finfo(lowest.dtype).tiny)  # (N,)
    encoding = _encode(features, _expanded_neighbours(ranked, k1), furthest)
    if k2 > 1:
        mean = np.full((len(ranked), k2), 1 / k2, dtype=np.float32)
        encoding = _sparse_rows(ranked[:, :k2], mean, len(features)) @ encoding
    own, others = encoding[: len(queries)], encoding[len(queries) :].tocsc()

    def scores(rows):
        block = _distance(queries[rows] @ gallery.T)  # (B, Ng)
        block *= -weight / furthest[: len(queries)][rows, np.newaxis]
        shared = _sum_of_minima(own[rows], others)
        block[_row_of_each(shared), shared.indices] += (
            (1 - weight) * shared.data / (2 - shared.data)
        )
        return block

    return scores


def _distance(cosines):
    """(2 - 2 cos)^2 in the place of the cosines."""
    np.multiply(cosines, -2, out=cosines)
    cosines += 2
    np.maximum(cosines, 0, out=cosines)
    return np.multiply(cosines, cosines, out=cosines)


def _reciprocal(ranked, k):
    """CSR (N, N), 1 where both images are among the first k of the other; symmetric."""
    forward = _sparse_rows(ranked[:, :k], np.ones((len(ranked), k), np.float32), len(ranked))
    return forward.multiply(forward.T.tocsr())


def _expanded_neighbours(ranked, k1):
    """CSR (N, N) with an entry for each member of R*(i), from the neighbours (N, k1 + 1)."""
    near = _reciprocal(ranked, k1 + 1)
    core = _reciprocal(ranked, round(k1 / 2) + 1)
    common = near.multiply(near @ core).tocsr()  # members of R(j, k1/2) that R(i, k1) has too
    sizes = np.diff(core.indptr)
    common.data = (3 * common.data > 2 * sizes[common.indices]).astype(np.float32)
    common.eliminate_zeros()
    return near + common @ core


def _encode(features, members, furthest):
    """CSR (N, N) of V: exp(-d) over the entries of `members`, rows of sum 1."""
    from scipy.sparse import csr_array

    rows = _row_of_each(members)
    cosines = np.empty(len(rows), dtype=features.dtype)
    for start in range(0, len(rows), BLOCK_PAIRS):
        part = slice(start, start + BLOCK_PAIRS)
        pair = features[rows[part]], features[members.indices[part]]
        cosines[part] = np.einsum("nd,nd->n", *pair)
    values = np.exp(-_distance(cosines) / furthest[rows])
    values /= np.bincount(rows, values, minlength=len(furthest))[rows]
    return csr_array((values, members.indices, members.indptr), shape=members.shape)


def _sum_of_minima(own, others):
    """CSR (B, Ng) of the sums over m of min(own[i, m], others[j, m]); own CSR, others CSC."""
    from scipy.sparse import csr_array, vstack

    starts = others.indptr[own.indices]
    counts = others.indptr[own.indices + 1] - starts
    num_rows = own.shape[0]
    if num_rows > 1 and counts.sum() > BLOCK_MINIMA:  # some images are near to very many
        halves = own[: num_rows // 2], own[num_rows // 2 :]
        return vstack([_sum_of_minima(half, others) for half in halves], format="csr")
    places = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    minima = np.minimum(others.data[places], np.repeat(own.data, counts))
    entries = np.repeat(_row_of_each(own), counts), others.indices[places]
    return csr_array((minima, entries), shape=(num_rows, others.shape[0]))  # adds up equals


# ---------------------------------------------------------------- graph propagation
def gnn(queries, gallery, k1=26, k2=7, weight=0.0):
    """Re-ranking by two rounds of a graph network: returns `scores(rows)`, see `evaluate`.

    Zhang et al., Understanding Image Retrieval Re-Ranking: A Graph Neural Network Perspective,
    arXiv 2012.07620. A (N, N) is 1 at the first k1 of each image (itself among them), else 0.
    Twice: A becomes A + A^T; row i becomes the sum over the first k2 images j of i of
    cos(i, j)^2 A_j; rows are divided by their norm. The score is A_q . A_g, and with a weight, as
    in the code of Person_reID_baseline_pytorch, (1 - weight) A_q . A_g + weight cos.

    Without a weight the definition leaves images open that share nothing with the query, all of
    score 0: here they follow in the order of their cosines, with score cos - 2. k2 = 1 leaves out
    both rounds, as published. queries (Nq, D), gallery (Ng, D), rows of norm 1. Raises ValueError
    where k1 exceeds the images.
    """
    features = np.concatenate([queries, gallery])  # (N, D)
    _check_numbers(k1, k2, len(features))
    ranked, cosines, _ = nearest(features, features, k1, "neighbours")
    graph = _sparse_rows(ranked, np.ones(ranked.shape, np.float32), len(features))
    spread = _sparse_rows(ranked[:, :k2], cosines[:, :k2] ** 2, len(features))
    for _ in range(2 if k2 > 1 else 0):
        graph = _propagate(graph + graph.T.tocsr(), spread)
    own, others = graph[: len(queries)], graph[len(queries) :].T.tocsr()

    def scores(rows):
        block = queries[rows] @ gallery.T  # (B, Ng)
        shared = own[rows] @ others
        places = _row_of_each(shared), shared.indices
        values = (1 - weight) * shared.data + weight * block[places]
        if weight:
            block *= weight
        else:
            block -= 2
        block[places] = values
        return block

    return scores


def _propagate(graph, spread):
    """Rows of spread @ graph (N, N) divided by their norms; ValueError where it is not sparse."""
    most = int(np.diff(graph.indptr)[spread.indices].sum(dtype=np.int64))
    if most > MOST_ENTRIES:
        raise ValueError(
            f"--rerank gnn: the graph of {graph.shape[0]} images has up to {most} entries, because "
            "a few images are among the first of most others: has the network collapsed? Use "
            "--rerank k_reciprocal, or none"
        )
    graph = spread @ graph
    rows = _row_of_each(graph)
    norms = np.sqrt(np.bincount(rows, graph.data**2, graph.shape[0]))
    graph.data /= np.maximum(norms, np.finfo(graph.dtype).tiny)[rows]
    return graph
