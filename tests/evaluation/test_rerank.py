"""Re-ranking against dense references written from the definitions; rankings worked by hand."""

import tracemalloc

import numpy as np
import pytest

from evaluate_gpu import evaluate
from evaluation import rerank
from evaluation.feature_file import Features
from evaluation.ranking import rank_positives
from evaluation.ranking_options import (
    RERANKERS,
    Ranking,
    add_ranking_options,
    apply_ranking,
    distractors_as_junk,
    merge_queries,
    ranking_of,
)
from evaluation.rerank import METHODS, expand_queries, gnn, nearest
from runtime.cli import Parser


# ---------------------------------------------------------------- material
def features_of(array, labels, cameras=None):
    labels = np.asarray(labels, dtype=np.int64)
    paths = [f"view/{label:04d}/{place}.jpg" for place, label in enumerate(labels)]
    return Features(np.asarray(array, dtype=np.float32), labels, paths, cameras)


def clustered(num_buildings, images, width=32, noise=1.0, seed=0):
    """(N, width) float32 of norm 1 and labels: `images` of each building about a centre."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_buildings), images)
    centres = generator.standard_normal((num_buildings, width))
    array = centres[labels] + noise * generator.standard_normal((len(labels), width))
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    order = generator.permutation(len(labels))
    return array[order].astype(np.float32), labels[order]


def signs(num_buildings=25, images=8, width=64, flips=0.15, seed=0):
    """(N, 64) features of +-1/8: norms are 1 and products exact in float32, and often equal."""
    generator = np.random.default_rng(seed)
    centres = generator.choice([-1, 1], (num_buildings, width))
    array = np.repeat(centres, images, axis=0)
    array = np.where(generator.random(array.shape) < flips, -array, array)
    return (generator.permutation(array) / 8).astype(np.float32)


# ---------------------------------------------------------------- dense references
def ordered(cosines):
    """All columns of each row, best first, equal ones in column order."""
    return np.argsort(-cosines, axis=1, kind="stable")


def dense_k_reciprocal(features, num_query, k1, k2, weight):
    """1 - weight less the final distance, (Nq, Ng), with all N x N matrices written out."""
    cosines = features.astype(np.float64) @ features.T.astype(np.float64)
    number = len(cosines)
    distance = np.maximum(2 - 2 * cosines, 0) ** 2
    distance /= distance.max(axis=1, keepdims=True)
    order = ordered(cosines).tolist()

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    near = [reciprocal(i, k1) for i in range(number)]
    core = [reciprocal(i, round(k1 / 2)) for i in range(number)]
    encoding = np.zeros((number, number))
    for i in range(number):
        members = set(near[i])
        for j in near[i]:
            if len(core[j] & near[i]) > 2 / 3 * len(core[j]):
                members |= core[j]
        members = sorted(members)
        weights = np.exp(-distance[i, members])
        encoding[i, members] = weights / weights.sum()
    if k2 > 1:
        encoding = np.stack([encoding[order[i][:k2]].mean(axis=0) for i in range(number)])
    shared = np.array(
        [np.minimum(row, encoding[num_query:]).sum(axis=1) for row in encoding[:num_query]]
    )
    final = (1 - weight) * (1 - shared / (2 - shared)) + weight * distance[:num_query, num_query:]
    return 1 - weight - final


def dense_gnn(features, num_query, k1, k2, weight):
    """Scores (Nq, Ng) with all N x N matrices written out; what shares nothing has cos - 2."""
    cosines = features.astype(np.float64) @ features.T.astype(np.float64)
    order = ordered(cosines)
    graph = np.zeros(cosines.shape)
    np.put_along_axis(graph, order[:, :k1], 1, axis=1)
    for _ in range(2 if k2 > 1 else 0):
        both = graph + graph.T
        graph = np.stack(
            [sum(cosines[i, j] ** 2 * both[j] for j in order[i, :k2]) for i in range(len(order))]
        )
        graph /= np.linalg.norm(graph, axis=1, keepdims=True)
    scores = graph[:num_query] @ graph[num_query:].T
    plain = cosines[:num_query, num_query:]
    if weight:
        return (1 - weight) * scores + weight * plain
    return np.where(scores > 0, scores, plain - 2)


DENSE = {"k_reciprocal": dense_k_reciprocal, "gnn": dense_gnn}


def all_scores(method, features, num_query, numbers, block=64):
    """The scores of a re-ranker, put together from slices of queries."""
    scores = METHODS[method](features[:num_query], features[num_query:], *numbers)
    starts = range(0, num_query, block)
    return np.concatenate([scores(slice(start, start + block)) for start in starts])


# ---------------------------------------------------------------- against the references
@pytest.mark.parametrize("num_query", [40, 460])
@pytest.mark.parametrize(
    ("method", "numbers"), [("k_reciprocal", (20, 6, 0.3)), ("gnn", (26, 7, 0.0))]
)
def test_scores_equal_the_dense_reference_on_500_images(method, numbers, num_query):
    features, _ = clustered(25, 20, noise=1.2)
    cosines = np.sort(features.astype(np.float64) @ features.T.astype(np.float64))[:, ::-1]
    for k in (6, 7, 11, 21, 26):  # no image is near two neighbours' boundary: rounding is harmless
        assert (cosines[:, k - 1] - cosines[:, k]).min() > 5e-6
    expected = DENSE[method](features, num_query, *numbers)
    found = all_scores(method, features, num_query, numbers)
    assert found.shape == (num_query, 500 - num_query) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.ptp(expected) > 0.5


@pytest.mark.parametrize(
    ("method", "numbers"),
    [
        ("k_reciprocal", (20, 6, 0.3)),
        ("k_reciprocal", (7, 1, 0.0)),
        ("k_reciprocal", (5, 5, 1.0)),
        ("k_reciprocal", (199, 3, 0.5)),
        ("gnn", (26, 7, 0.0)),
        ("gnn", (5, 1, 0.0)),
        ("gnn", (9, 4, 0.3)),
        ("gnn", (200, 2, 0.0)),
    ],
)
def test_scores_equal_the_dense_reference_under_ties(method, numbers):
    features = signs()
    cosines = np.sort(features @ features.T)[:, ::-1]
    assert (cosines[:, :30] == cosines[:, 1:31]).any(axis=1).all()  # ties in every row
    expected = DENSE[method](features, 60, *numbers)
    np.testing.assert_allclose(
        all_scores(method, features, 60, numbers), expected, rtol=0, atol=1e-6
    )


def test_what_shares_nothing_is_ranked_by_its_cosine():
    features = signs()
    expected = dense_gnn(features, 60, 6, 2, 0.0)
    assert 0.2 < (expected < 0).mean() < 1
    found = all_scores("gnn", features, 60, (6, 2, 0.0))
    plain = features[:60] @ features[60:].T
    np.testing.assert_array_equal(found[expected < 0], plain[expected < 0] - 2)
    assert found[expected < 0].max() < found[expected > 0].min()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["BLOCK_SCORES", "BLOCK_PAIRS", "BLOCK_MINIMA"])
def test_sizes_of_blocks_change_nothing(method, name, monkeypatch):
    features = signs()
    numbers = RERANKERS[method]
    expected = all_scores(method, features, 60, numbers)
    monkeypatch.setattr(rerank, name, 300)
    np.testing.assert_allclose(all_scores(method, features, 60, numbers, 7), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("num_gallery", "k"), [(1, 1), (5, 5), (40, 7), (40, 40), (1000, 3), (1003, 20)]
)
def test_nearest_is_the_head_of_a_stable_sort(num_gallery, k, monkeypatch):
    generator = np.random.default_rng(0)
    gallery = generator.integers(-2, 3, (num_gallery, 4)).astype(np.float32)
    queries = generator.integers(-2, 3, (50, 4)).astype(np.float32)
    scores = queries @ gallery.T
    monkeypatch.setattr(rerank, "BLOCK_SCORES", 7000)
    indices, products, lowest = nearest(queries, gallery, k)
    np.testing.assert_array_equal(indices, ordered(scores)[:, :k])
    np.testing.assert_array_equal(products, np.take_along_axis(scores, indices, axis=1))
    np.testing.assert_array_equal(lowest, scores.min(axis=1))


# ---------------------------------------------------------------- behaviour
@pytest.mark.parametrize("method", METHODS)
def test_re_ranking_raises_average_precision(method):
    """Many images of a building, each far from its centre: its neighbours know it better."""
    array, labels = clustered(40, 15, noise=1.2)
    query, gallery = features_of(array[:150], labels[:150]), features_of(array[150:], labels[150:])
    k1, k2, weight = RERANKERS[method]
    ranking = Ranking(rerank=method, k1=k1, k2=k2, weight=weight)
    *task, scores, notes = apply_ranking(ranking, query, gallery)
    before, after = evaluate(query, gallery), evaluate(*task, scores=scores)
    assert before["AP"] + 10 < after["AP"]
    assert before["recall@1"] + 2 < after["recall@1"]
    assert after["num_queries"] == 150 and len(notes) == 1


@pytest.mark.parametrize("method", METHODS)
def test_ranks_are_those_of_the_dense_scores(method):
    array, labels = clustered(20, 15, noise=1.5, seed=1)
    query, gallery = features_of(array[:100], labels[:100]), features_of(array[100:], labels[100:])
    numbers = RERANKERS[method]
    scores = METHODS[method](query.features, gallery.features, *numbers)
    ranks, *_ = rank_positives(query, gallery, block_size=33, scores=scores)
    for row, expected in enumerate(DENSE[method](array, 100, *numbers)):
        right = gallery.labels == query.labels[row]
        wrong = np.sort(expected[~right])
        place = len(wrong) - np.searchsorted(wrong, np.sort(expected[right])[::-1])
        assert ranks[row].tolist() == (place + 1 + np.arange(right.sum())).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_far_below_the_matrix_of_all_images(method, monkeypatch):
    array, labels = clustered(75, 40, noise=0.8)
    query = features_of(array[:1000], labels[:1000])
    gallery = features_of(array[1000:], labels[1000:])
    monkeypatch.setattr(rerank, "BLOCK_SCORES", 2**17)
    monkeypatch.setattr(rerank, "BLOCK_PAIRS", 2**10)
    monkeypatch.setattr(rerank, "BLOCK_MINIMA", 2**14)
    numbers = RERANKERS[method]
    METHODS[method](query.features[:9], gallery.features[:90], *numbers)  # imports
    tracemalloc.start()
    scores = METHODS[method](query.features, gallery.features, *numbers)
    evaluate(query, gallery, block_size=32, scores=scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000 * 4 / 3


@pytest.mark.parametrize("method", METHODS)
def test_equal_features_give_finite_scores(method):
    same = np.tile(np.float32([0.6, 0.8]), (50, 1))
    assert np.isfinite(all_scores(method, same, 10, (20, 6, 0.3))).all()


def test_graph_that_is_not_sparse_is_refused(monkeypatch):
    same = np.tile(np.float32([0.6, 0.8]), (50, 1))
    monkeypatch.setattr(rerank, "MOST_ENTRIES", 50 * 50)
    with pytest.raises(ValueError, match="--rerank gnn: the graph of 50 images .* collapsed"):
        gnn(same[:9], same[9:])


@pytest.mark.parametrize(("method", "most"), [("k_reciprocal", 11), ("gnn", 12)])
def test_too_few_images_are_refused(method, most):
    features = signs()[:12]
    assert METHODS[method](features[:3], features[3:], most, 2)(slice(0, 3)).shape == (3, 9)
    with pytest.raises(ValueError, match=f"--rerank_k1 {most + 1}: .* at most {most}$"):
        METHODS[method](features[:3], features[3:], most + 1, 2)
    with pytest.raises(ValueError, match="k2 is 3 and k1 2"):
        METHODS[method](features[:3], features[3:], 2, 3)


# ---------------------------------------------------------------- query expansion
def test_query_expansion_by_hand():
    queries = np.float32([[1, 0], [0, 1]])
    gallery = np.float32([[0.6, 0.8], [0.8, 0.6], [-1, 0]])
    first = [1.8, 0.6], [0.6, 1.8]
    np.testing.assert_allclose(expand_queries(queries, gallery, 1), unit(first), atol=1e-6)
    both = [2.4, 1.4], [1.4, 2.4]
    np.testing.assert_allclose(expand_queries(queries, gallery, 2), unit(both), atol=1e-6)
    weighted = (
        [1 + 0.64 * 0.8 + 0.36 * 0.6, 0.64 * 0.6 + 0.36 * 0.8],
        [0.64 * 0.6 + 0.36 * 0.8, 1 + 0.64 * 0.8 + 0.36 * 0.6],
    )
    for k in (2, 3):  # the third has no positive cosine, so no weight
        found = expand_queries(queries, gallery, k, alpha=2.0)
        np.testing.assert_allclose(found, unit(weighted), atol=1e-6)
    with pytest.raises(ValueError, match="--query_expansion 4: the gallery holds 3 images"):
        expand_queries(queries, gallery, 4)


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_query_expansion_raises_average_precision():
    array, labels = clustered(40, 15, noise=1.2)
    query, gallery = features_of(array[:150], labels[:150]), features_of(array[150:], labels[150:])
    expanded, same, scores, _ = apply_ranking(Ranking(query_expansion=5, alpha=3.0), query, gallery)
    assert same is gallery and scores is None
    assert evaluate(query, gallery)["AP"] + 5 < evaluate(expanded, gallery)["AP"]
    np.testing.assert_allclose(np.linalg.norm(expanded.features, axis=1), 1, atol=1e-6)


# ---------------------------------------------------------------- several images, distractors
def test_query_of_several_images_by_hand():
    query = features_of([[0, 1], [0, 2], [1, 0], [0.6, 0.8]], [7, 3, 3, 7])
    merged = merge_queries(query)
    assert merged.labels.tolist() == [3, 7]
    assert merged.paths == ["view/0003/1.jpg", "view/0007/0.jpg"] and merged.cameras is None
    # The longer feature counts no more than the other one: 45 degrees.
    expected = [[0.5**0.5, 0.5**0.5], [0.3 / 0.9**0.5, 0.9 / 0.9**0.5]]
    np.testing.assert_allclose(merged.features, expected, atol=1e-6)
    assert merged.features.dtype == np.float32 and query.labels.tolist() == [7, 3, 3, 7]


def test_queries_of_several_images_are_apart_by_camera():
    query = features_of([[1, 0], [0, 1], [1, 0]], [3, 3, 3], cameras=np.array([2, 1, 2]))
    merged = merge_queries(query)
    assert merged.labels.tolist() == [3, 3] and merged.cameras.tolist() == [1, 2]
    np.testing.assert_array_equal(merged.features, [[0, 1], [1, 0]])


def test_queries_that_cancel_each_other_stay_finite():
    merged = merge_queries(features_of([[1, 0], [-1, 0]], [3, 3]))
    np.testing.assert_array_equal(merged.features, [[0, 0]])


def test_distractors_by_hand():
    """Gallery best first: distractor, right, junk, other query's building, distractor."""
    angles = np.linspace(0.1, 0.5, 5)
    gallery = features_of(np.stack([np.cos(angles), np.sin(angles)], 1), [9, 1, -1, 2, 9])
    query = features_of([[1, 0], [1, 0]], [1, 2])
    before = evaluate(query, gallery)
    assert before["recall@1"] == 0 and before["num_distractors"] == 2 and before["num_junk"] == 1
    assert before["AP"] == pytest.approx(100 * (1 / 4 + 1 / 6) / 2)  # ranks 2 and 3
    assert before["AP_standard"] == pytest.approx(100 * (1 / 2 + 1 / 3) / 2)
    without, count = distractors_as_junk(query, gallery)
    assert count == 2 and without.labels.tolist() == [-1, 1, -1, 2, -1]
    assert gallery.labels.tolist() == [9, 1, -1, 2, 9]
    after = evaluate(query, without)  # ranks 1 and 2
    assert after["recall@1"] == 50 and after["AP_standard"] == pytest.approx(75)
    assert after["num_gallery"] == 5 and after["num_distractors"] == 0 and after["num_junk"] == 3


def test_steps_of_a_ranking_together():
    array, labels = clustered(30, 10, noise=1.0)
    query, gallery = features_of(array[:100], labels[:100]), features_of(array[100:], labels[100:])
    query = query._replace(labels=np.minimum(query.labels, 20))
    ranking = Ranking(True, True, 3, 2.0, "gnn", 15, 5, 0.25)
    merged, rest, scores, notes = apply_ranking(ranking, query, gallery)
    num_distractors = sum(label not in query.labels for label in gallery.labels)
    assert notes == [
        f"{len(set(query.labels))} queries of several images, 100 in all",
        f"without distractors: {num_distractors} of 200 gallery images",
        "queries expanded by their first 3 images, alpha 2",
        "re-ranked by gnn, k1 15, k2 5, lambda 0.25",
    ]
    assert (rest.labels == -1).sum() == num_distractors > 20
    expanded = expand_queries(merge_queries(query).features, gallery.features, 3, 2.0)
    np.testing.assert_array_equal(merged.features, expanded)
    direct = gnn(expanded, gallery.features, 15, 5, 0.25)
    np.testing.assert_array_equal(scores(slice(0, 99)), direct(slice(0, 99)))
    plain = apply_ranking(Ranking(), query, gallery)
    assert plain[0] is query and plain[1] is gallery and plain[2:] == (None, [])


# ---------------------------------------------------------------- options
def ranking(*words):
    parser = Parser(prog="script")
    add_ranking_options(parser)
    return ranking_of(parser.parse_args(list(words)), parser)


def test_options_make_the_ranking():
    assert ranking() == Ranking()
    assert ranking("--rerank", "gnn") == Ranking(rerank="gnn", k1=26, k2=7, weight=0.0)
    words = "--rerank k_reciprocal --rerank_k1 9 --rerank_lambda 0 --multi --ignore_distractors"
    assert ranking(*words.split()) == Ranking(True, True, 0, 0.0, "k_reciprocal", 9, 6, 0.0)
    words = "--query_expansion 5 --query_expansion_alpha 3"
    assert ranking(*words.split()) == Ranking(query_expansion=5, alpha=3.0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--rerank_k1 9", "--rerank_k1 9 has no effect without --rerank: choose one of k_rec"),
        ("--rerank_lambda 0", "--rerank_lambda 0.0 has no effect without --rerank"),
        ("--rerank gnn --rerank_k1 5", "--rerank_k2 7 exceeds --rerank_k1 5"),
        ("--rerank gnn --rerank_lambda 1.5", "--rerank_lambda: '1.5' is not a number from 0 to 1"),
        ("--rerank gnn --rerank_lambda nan", "'nan' is not a number from 0 to 1"),
        ("--rerank gnn --rerank_k2 0", "--rerank_k2: 0 is too small"),
        ("--rerank both", "invalid choice: 'both'"),
        ("--query_expansion_alpha 3", "has no effect without --query_expansion K"),
        ("--query_expansion 2 --query_expansion_alpha -1", "'-1' is not a number from 0 up"),
        ("--query_expansion 0", "--query_expansion: 0 is too small"),
    ],
)
def test_bad_options_are_one_line(words, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        ranking(*words.split())
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
