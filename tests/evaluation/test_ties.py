"""Ties with wrong images: counted and shown beside the published line, in every way of ranking."""

import json

import numpy as np
import pytest
from ranking_tasks import random_task, task

import evaluate_gpu
from evaluation.feature_file import Features, save_features
from evaluation.metrics import evaluate, published_line, tie_line
from evaluation.places import Coordinates
from evaluation.protocols import evaluate_protocol, format_protocol, mean_over_heights
from evaluation.ranking import rank_positives
from evaluation.variant_report import mean_metrics

COUNTS = ("1", "5", "10", "top1")


def side(features, labels):
    features = np.asarray(features, dtype=np.float32)
    return Features(features, np.asarray(labels), [f"a/{label}/x.jpg" for label in labels])


def plain_bounds(query, gallery):
    """Ranks of the first positive with its ties after it and before it, by a loop."""
    found = []
    for feature, label in zip(query.features, query.labels, strict=True):
        scores = gallery.features @ feature
        right = scores[(gallery.labels == label) & (label != -1)]
        wrong = scores[(gallery.labels != label) & (gallery.labels != -1)]
        best = right.max(initial=-np.inf)
        found.append(
            [1 + sum(wrong > best), 1 + sum(wrong >= best)] if len(right) else [0, 0],
        )
    return found


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
@pytest.mark.parametrize("several", [False, True], ids=["one positive", "several positives"])
def test_bounds_equal_the_plain_loop(several, device):
    query, gallery = random_task()
    if several:
        gallery.labels[gallery.labels >= 0] //= 3
        query.labels[:] //= 3
        query.labels[:3] = 999, -1, 998
    else:
        gallery.labels[gallery.labels < 0] = 1000 + np.arange(6)
        gallery.labels[:2] = -1
        query = query._replace(labels=gallery.labels[2:42])
    expected = plain_bounds(query, gallery)
    for block_size in (None, 7):
        _, _, bounds = rank_positives(query, gallery, block_size, device)
        assert bounds.tolist() == expected
        scores = (query.features @ gallery.features.T).__getitem__
        _, _, bounds = rank_positives(query, gallery, block_size, device, scores)
        assert bounds.tolist() == expected
    metrics = evaluate(query, gallery, device=device)
    last = [each[1] if each[1] else np.inf for each in expected]
    assert metrics["num_tied"] == sum(a < b for a, b in expected) > 5
    for name, k in zip(COUNTS, (1, 5, 10, 2), strict=True):
        assert metrics[f"recall@{name}_tied_last"] == pytest.approx(
            100 * np.mean(np.array(last) <= k)
        )
        assert metrics[f"recall@{name}_tied_last"] <= metrics[f"recall@{name}"]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
@pytest.mark.parametrize("dimensions", [4, 64, 512])
@pytest.mark.parametrize("count", [10, 37])
def test_equal_gallery_rows_are_told_in_any_order(dimensions, count, device):
    """Recall@1 is 0 or 100 by the order of the rows, and float32 may round equal rows apart."""
    generator = np.random.default_rng(count)
    rows = generator.standard_normal((4, dimensions))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    seen = set()
    for label in range(count):
        for row in rows[1:]:
            gallery = side(np.repeat(rows[:1], count, axis=0), np.arange(count))
            metrics = evaluate(side(row[None], [label]), gallery, device=device)
            seen.add(metrics["recall@1"])
            assert metrics["num_tied"] == 1
            assert metrics["recall@1_tied_last"] == metrics["recall@5_tied_last"] == 0
            assert metrics["recall@10_tied_last"] == (100 if count == 10 else 0)
    assert seen == {0, 100}


def test_partial_ties_are_told_whatever_the_order():
    """Features of +-1/2 in four dimensions: shuffling the gallery moves the published recall."""
    generator = np.random.default_rng(0)
    query = side(generator.choice([-0.5, 0.5], (32, 4)), np.arange(32))
    features = generator.choice([-0.5, 0.5], (64, 4))
    published, beside = set(), set()
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(64)
        metrics = evaluate(query, side(features[order], order))
        published.add(metrics["recall@1"])
        beside.add(tie_line(metrics))
    assert len(published) > 1 and len(beside) == 1
    [line] = beside
    assert " of 32 queries score a wrong item like their first match; " in line


def test_without_a_tie_nothing_is_added():
    """Ties among right images, with junk, or lower down than the first match do no harm."""
    query, gallery = task([[9, 9, 1, 1, 9, 8]], [5], [5, 5, 3, 2, -1, 4])
    metrics = evaluate(query, gallery)
    assert "num_tied" not in metrics and tie_line(metrics) == ""
    assert not any(name.endswith("_tied_last") for name in metrics)
    query, gallery = task([[9, 1, 1, 2]], [5], [5, 5, 3, 2])  # the second match ties
    assert "num_tied" not in evaluate(query, gallery)


def test_the_command_prints_them_beside_the_published_line(tmp_path, capsys):
    query, gallery = task([[5, 5, 5, 1], [1, 9, 2, 3]], [0, 1])
    save_features(tmp_path / "f.npz", query, gallery)
    metrics = evaluate_gpu.main([str(tmp_path / "f.npz"), "--json", str(tmp_path / "m.json")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == published_line(metrics)
    assert lines[3] == (
        "1 of 2 queries score a wrong item like their first match; with the wrong one first: "
        "Recall@1:50.00 Recall@5:100.00 Recall@10:100.00 Recall@top1:50.00"
    )
    written = json.loads((tmp_path / "m.json").read_text())
    assert written == metrics
    assert (written["num_tied"], written["recall@1_tied_last"]) == (1, 50.0)


def test_re_ranked_scores_are_looked_at_too(tmp_path, capsys):
    """Gallery images that are there twice, once as another building, have equal neighbours."""
    generator = np.random.default_rng(3)
    features = generator.standard_normal((30, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    gallery = side(np.concatenate([features, features[:5]]), np.arange(35))
    save_features(tmp_path / "f.npz", side(features, np.arange(30)), gallery)
    for method in ("gnn", "k_reciprocal"):
        options = ["--rerank", method, "--rerank_k1", "6", "--rerank_k2", "1"]
        metrics = evaluate_gpu.main([str(tmp_path / "f.npz"), *options])
        assert metrics["num_tied"] > 0
        assert "score a wrong item like their first match" in capsys.readouterr().out


def test_protocols_say_it_too():
    query, gallery = task([[5, 5, 5, 1], [1, 9, 2, 3]], [0, 1])
    metrics = evaluate_protocol("cvusa", query, gallery)
    assert (metrics["recall@1"], metrics["recall@1_tied_last"], metrics["num_tied"]) == (100, 50, 1)
    assert "in favour, as published; against: Recall@1:50.00 Recall@5:100" in format_protocol(
        metrics
    )
    names = [*(f"q{n}.jpg" for n in range(2)), *(f"g{n}.jpg" for n in range(4))]
    places = Coordinates(dict.fromkeys(names, (3, 4)), True, "t")
    gta = evaluate_protocol("gta", query, gallery, coordinates=places)
    assert (gta["num_tied"], gta["recall@1_tied_last"]) == (1, 50)
    assert tie_line(gta) in format_protocol(gta).splitlines()
    assert "tied_last" not in format_protocol(gta)
    clear = evaluate(*task([[9, 1, 2, 3], [1, 9, 2, 3]], [0, 1]))
    tied = evaluate(query, gallery)
    heights = mean_over_heights({"150": tied, "200": clear})
    assert "recall@1_tied_last" not in heights["mean"] and "recall@1" in heights["mean"]
    assert format_protocol(heights).count("150 m: ") == 2
    assert "num_tied" not in mean_metrics([tied, clear]) | mean_metrics([clear, tied])
