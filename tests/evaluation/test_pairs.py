"""Tasks of one true image a query: cases worked by hand, and the published loop."""

import math

import numpy as np
import pytest
from ranking_tasks import random_task, task

from evaluation.metrics import one_percent
from evaluation.pairs import count_above, evaluate_pairs
from evaluation.places import Coordinates
from evaluation.protocols import evaluate_protocol, format_protocol
from evaluation.ranking import published_order


def test_one_percent_of_cvusa_and_of_small_galleries():
    """The four readings of the published codes for CVUSA's 8884, and where they part."""
    assert list(one_percent(8884).values()) == [88, 89, 90, 89]
    assert list(one_percent(951).values()) == [9, 10, 11, 10]
    assert list(one_percent(100).values()) == [1, 2, 2, 1]
    assert list(one_percent(99).values()) == [0, 1, 2, 1]
    assert list(one_percent(20).values()) == [0, 1, 1, 1]


def test_pairs_by_hand():
    """Six images; ties count in favour of the true image, junk not at all."""
    scores = [
        [9, 1, 2, 3, 4, 5],  # the true image first
        [5, 5, 5, 4, 3, 2],  # level with two others: first too
        [9, 8, 7, 6, 5, 4],  # behind two
        [9, 8, 7, 1, 6, 5],  # behind all five
    ]
    query, gallery = task(scores)
    counts = count_above(query, gallery)
    assert counts.above.tolist() == [0, 0, 2, 5]
    assert counts.tied.tolist() == [0, 2, 0, 0]
    gallery.labels[:] = [-1, 1, 2, 3, 4, 5]
    counts = count_above(query, gallery)
    assert counts.above.tolist() == [math.inf, 0, 1, 4]
    assert counts.tied.tolist() == [math.inf, 1, 0, 0]
    metrics = evaluate_pairs(query, gallery)
    assert metrics == {
        "recall@1": 25.0,
        "recall@5": 75.0,
        "recall@10": 75.0,
        "recall@1%_floor": 0.0,
        "recall@1%_floor+1": 25.0,
        "recall@top1": 25.0,
        "recall@1%": 25.0,
        "recall@1_chance": pytest.approx(100 * 3 / 4 / 6),
        "num_queries": 4,
        "num_gallery": 6,
        "num_unmatched": 1,
        "num_tied": 1,
        "recall@1_tied_last": 0.0,
        "recall@5_tied_last": 75.0,
        "recall@10_tied_last": 75.0,
    }


def test_readings_of_one_percent_part_at_the_edge():
    """Of 250 images 1 % is the first 2 (floor, round), 3 (floor + 1, round + 1)."""
    scores = np.zeros((3, 250))
    for row, better in enumerate((1, 2, 3)):  # ranks 2, 3, 4
        scores[row, 10 : 10 + better] = 2
        scores[row, row] = 1
    metrics = evaluate_pairs(*task(scores))
    shares = [metrics[name] for name in one_percent(250)]
    assert shares == pytest.approx([100 / 3, 200 / 3, 200 / 3, 100 / 3])


def plain_pairs(query, gallery, semi_positives=None):
    """The loop of the published codes: ranks (0 the best), hits and ties of every query."""
    ranks, hits, tied = [], [], []
    for row, label in enumerate(query.labels):
        scores = gallery.features @ query.features[row]
        (true,) = [j for j, other in enumerate(gallery.labels) if other == label] or [None]
        rank, wrong, level = 0, 0, 0
        for j, score in enumerate(scores):
            if true is None or gallery.labels[j] == -1 or j == true:
                continue
            level += score == scores[true]
            if score > scores[true]:
                rank += 1
                wrong += semi_positives is not None and j not in semi_positives[row]
        ranks.append(math.inf if true is None else rank)
        hits.append(true is not None and wrong == 0)
        tied.append(level > 0)
    return ranks, hits, tied


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_size", [None, 1, 7])
def test_pairs_equal_the_plain_loop(seed, block_size):
    query, gallery = random_task(seed=seed, levels=60)
    generator = np.random.default_rng(seed)
    near = [np.flatnonzero(generator.random(90) < 0.9).tolist() * 2 for _ in range(40)]
    near[0] = []
    metrics = evaluate_pairs(query, gallery, near, block_size)
    ranks, hits, tied = plain_pairs(query, gallery, near)
    for k in (1, 5, 10):
        assert metrics[f"recall@{k}"] == pytest.approx(100 * sum(r < k for r in ranks) / 40)
    assert metrics["hit_rate"] == pytest.approx(100 * sum(hits) / 40)
    assert metrics["num_tied"] == sum(tied) > 0
    assert metrics["num_unmatched"] == ranks.count(math.inf) > 0
    assert metrics["num_without_semi_positives"] == sum(len(each) == 0 for each in near)
    assert metrics["recall@1"] < metrics["hit_rate"] < 100


def test_hit_rate_by_hand():
    """Image i is true, the next two are semi-positives."""
    scores = [
        [5, 4, 3, 2, 1, 0],  # true first: hit
        [0, 5, 9, 8, 4, 3],  # semi, semi, true: hit
        [0, 1, 5, 9, 2, 7],  # semi, wrong, true: no hit, though the first image is a semi-positive
        [6, 1, 2, 5, 3, 4],  # wrong, true: no hit
    ]
    query, gallery = task(scores)
    near = [[1, 2], [2, 3], [3, 4, 3, 3], [4, 5]]
    metrics = evaluate_pairs(query, gallery, near)
    assert (metrics["hit_rate"], metrics["recall@1"], metrics["recall@5"]) == (50, 25, 100)
    assert evaluate_pairs(query, gallery, [[]] * 4)["hit_rate"] == metrics["recall@1"]
    assert "hit_rate" not in evaluate_pairs(query, gallery)


def test_collapsed_features_are_told_by_their_ties():
    """All scores level: as published every query is a success, which the ties give away."""
    metrics = evaluate_protocol("cvusa", *task(np.ones((5, 200))))
    assert (metrics["recall@1"], metrics["num_tied"]) == (100, 5)
    assert "5 of 5 queries score another image like the true one" in format_protocol(metrics)


def test_pairs_refuse_several_true_images():
    query, gallery = task(np.ones((2, 4)), [1, 2], [1, 2, 2, 3])
    with pytest.raises(ValueError, match="1 queries have more than one true .* first label 2"):
        evaluate_protocol("cvact", query, gallery)


def test_scores_may_come_from_elsewhere():
    """As re-ranking gives them: a function of a slice of the queries."""
    query, gallery = random_task()
    turned = -(query.features @ gallery.features.T)
    other, _ = task(turned, query.labels, gallery.labels), None
    given = evaluate_protocol("cvusa", query, gallery, scores=lambda rows: turned[rows])
    assert given == evaluate_protocol("cvusa", *other) != evaluate_protocol("cvusa", query, gallery)
    places = Coordinates({"query_drone": (3, 4), "gallery_satellite": (3, 5)}, True, "t")
    places.places.update({f"g{j}.jpg": (3, 5 + j) for j in range(90)})
    for query_side, gallery_side, scores in ((query, gallery, turned.__getitem__), (*other, None)):
        query_side = query_side._replace(paths=["query_drone/q.jpg"] * 40)
        metrics = evaluate_protocol(
            "gta", query_side, gallery_side, scores=scores, coordinates=places
        )
        order = [published_order(row, np.flatnonzero(gallery.labels == -1)) for row in turned]
        assert metrics["Dis@1"] == pytest.approx(np.mean([1 + each[0] for each in order]))
