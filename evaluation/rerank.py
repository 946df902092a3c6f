"""Re-ranking by the neighbours that images have in common, and query expansion.

Both read the features of queries and gallery together, never a label. They hold no matrix of all
images by all images, nor of all queries by the gallery: neighbours are searched block by block,
graphs are sparse, and scores are made for a slice of queries at a time.
"""

import numpy as np
from scipy.sparse import csr_array, vstack

from evaluation.feature_file import of_norm_1
from evaluation.ranking import BLOCK_SCORES, k_largest, score_blocks

BLOCK_PAIRS = 2**13  # pairs of features gathered at a time (32 MiB of 512 numbers each)
BLOCK_MINIMA = 2**21  # minima of two encodings at a time (about 100 MiB), where a row allows
MOST_ENTRIES = 2**29  # of a propagated graph (4 GiB); several times those of unrelated images


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
    return of_norm_1(queries + _sparse_rows(indices, weights, len(gallery)) @ gallery)


# ---------------------------------------------------------------- neighbours
def nearest(queries, gallery, k, description=None):
    """The k gallery rows of the highest dot product with each query, best first.

    queries (Nq, D), gallery (Ng, D), k <= Ng. Of equal products the lower index comes first.
    Returns (indices (Nq, k) int64, products (Nq, k), lowest (Nq,)), the last the lowest product
    of each query with any of the gallery. `description` names a progress bar.
    """
    size = max(BLOCK_SCORES // len(gallery), 1)
    indices, products, lowest = [], [], []
    for _, scores in score_blocks(queries, gallery, block_size=size, description=description):
        indices.append(k_largest(scores, k))
        products.append(np.take_along_axis(scores, indices[-1], axis=1))
        lowest.append(scores.min(axis=1))
    return np.concatenate(indices), np.concatenate(products), np.concatenate(lowest)


def _sparse_rows(indices, values, num_columns):
    """CSR (N, num_columns) that holds `values` (N, k) in the columns `indices` (N, k)."""
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
    """Re-ranking by k-reciprocal encoding: returns `scores(rows)`, see `ranking.score_blocks`.

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
    of_queries, of_gallery = encoding[: len(queries)], encoding[len(queries) :].tocsc()

    def scores(rows):
        block = _distance(queries[rows] @ gallery.T)  # (B, Ng)
        block *= -weight / furthest[: len(queries)][rows, np.newaxis]
        shared = _sum_of_minima(of_queries[rows], of_gallery)
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
    rows = _row_of_each(members)
    cosines = np.empty(len(rows), dtype=features.dtype)
    for start in range(0, len(rows), BLOCK_PAIRS):
        part = slice(start, start + BLOCK_PAIRS)
        pair = features[rows[part]], features[members.indices[part]]
        cosines[part] = np.einsum("nd,nd->n", *pair)
    values = np.exp(-_distance(cosines) / furthest[rows])
    values /= np.bincount(rows, values, minlength=len(furthest))[rows]
    return csr_array((values, members.indices, members.indptr), shape=members.shape)


def _sum_of_minima(queries, gallery):
    """CSR (B, Ng) of the sums over m of min(q[i, m], g[j, m]); queries CSR, gallery CSC."""
    starts = gallery.indptr[queries.indices]
    counts = gallery.indptr[queries.indices + 1] - starts
    num_rows = queries.shape[0]
    if num_rows > 1 and counts.sum() > BLOCK_MINIMA:  # some images are near to very many
        halves = queries[: num_rows // 2], queries[num_rows // 2 :]
        return vstack([_sum_of_minima(half, gallery) for half in halves], format="csr")
    places = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    minima = np.minimum(gallery.data[places], np.repeat(queries.data, counts))
    entries = np.repeat(_row_of_each(queries), counts), gallery.indices[places]
    return csr_array((minima, entries), shape=(num_rows, gallery.shape[0]))  # adds up equals


# ---------------------------------------------------------------- graph propagation
def gnn(queries, gallery, k1=26, k2=7, weight=0.0):
    """Re-ranking by two rounds of a graph network; returns as `k_reciprocal`.

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
    of_queries, of_gallery = graph[: len(queries)], graph[len(queries) :].T.tocsr()

    def scores(rows):
        block = queries[rows] @ gallery.T  # (B, Ng)
        shared = of_queries[rows] @ of_gallery
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


METHODS = {"k_reciprocal": k_reciprocal, "gnn": gnn}
