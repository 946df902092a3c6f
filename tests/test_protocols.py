"""Each data set's metrics against cases worked by hand and plain loops; side files; the command."""

import json
import math
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import fails

import protocols
from evaluate_gpu import evaluate, find_matches, published_order, rank_positives
from evaluation.feature_file import Features, save_features
from protocols import (
    Coordinates,
    Matches,
    answer_lines,
    best_images,
    count_above,
    degree_distance,
    evaluate_pairs,
    evaluate_protocol,
    format_protocol,
    haversine,
    main,
    matches_of,
    mean_distance,
    mean_over_heights,
    metre_accuracy,
    one_percent,
    places_of,
    planar_distance,
    ranks_of,
    read_coordinates,
    read_matches,
    read_query_list,
    recall_within,
    sdm,
    top_images,
    write_answer,
)

ROOT = Path(protocols.__file__).parent


# ---------------------------------------------------------------- material
def task(scores, query_labels=None, gallery_labels=None):
    """Features whose scores are the given (Nq, Ng) exactly; the label of image i is i by default.

    Images are query_drone/<label>/q<i>.jpg and gallery_satellite/<label>/g<j>.jpg.
    """
    scores = np.asarray(scores, dtype=np.float32)
    num_query, num_gallery = scores.shape
    query_labels = np.arange(num_query) if query_labels is None else np.asarray(query_labels)
    gallery_labels = np.arange(num_gallery) if gallery_labels is None else gallery_labels

    def side(array, labels, folder, letter):
        paths = [f"{folder}/{label:04d}/{letter}{i}.jpg" for i, label in enumerate(labels)]
        return Features(array, np.asarray(labels, dtype=np.int64), paths)

    return (
        side(np.eye(num_query, dtype=np.float32), query_labels, "test/query_drone", "q"),
        side(scores.T.copy(), gallery_labels, "test/gallery_satellite", "g"),
    )


def random_task(num_query=40, num_gallery=90, levels=12, seed=0, labels=30):
    """Scores of few levels, so that many tie; labels repeat or have no image, and some is junk."""
    generator = np.random.default_rng(seed)
    gallery_labels = generator.permutation(num_gallery)
    gallery_labels[gallery_labels >= num_gallery - 6] = -1
    query_labels = generator.integers(0, labels, num_query) + num_gallery - labels
    scores = generator.integers(0, levels, (num_query, num_gallery))
    scores[query_labels[:, None] == gallery_labels] += levels // 2  # better than by chance
    return task(scores, query_labels, gallery_labels)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- rankings
@pytest.mark.parametrize("junk", [[], [3, 700, 4999]], ids=["no junk", "junk"])
@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("length", [101, 5000, 30001])
def test_best_images_are_the_head_of_the_published_order(length, k, junk):
    junk = [image for image in junk if image < length]
    generator = np.random.default_rng(length + k)
    for scores in (
        generator.standard_normal(length).astype(np.float32),
        generator.integers(0, 40, length).astype(np.float32),  # ties everywhere
        np.where(np.arange(length) < k - 1, 9, generator.random(length)).astype(np.float32),
        -np.arange(length, dtype=np.float32),
    ):
        expected = published_order(scores, junk)[:k]
        assert best_images(scores, k, junk).tolist() == expected.tolist()


def test_top_images_without_junk_in_blocks_of_any_size():
    query, gallery = random_task()
    junk = find_matches(query, gallery)[1]
    scores = query.features @ gallery.features.T
    expected = [published_order(row, junk[0])[:7].tolist() for row in scores]
    for size in (1, 7, 100):
        assert top_images(query, gallery, 7, junk, size).tolist() == expected
    expected = [published_order(row, [])[:7].tolist() for row in scores]
    assert top_images(query, gallery, 7).tolist() == expected
    assert len(top_images(query, gallery, 84, junk)[0]) == 84
    with pytest.raises(ValueError, match="first 85 .* only 84 can be ranked"):
        top_images(query, gallery, 85, junk)


def test_ranks_of_given_positives():
    query, gallery = random_task(seed=1)
    generator = np.random.default_rng(2)
    positives = [generator.choice(90, generator.integers(0, 5), replace=False) for _ in range(40)]
    junk = set(np.flatnonzero(gallery.labels == -1))
    expected = []
    for row, own in enumerate(positives):
        order = np.argsort(gallery.features @ query.features[row])[::-1]
        order = [image for image in order if image not in junk or image in own]
        expected.append([rank for rank, image in enumerate(order, 1) if image in own])
    for size in (None, 3):
        assert [each.tolist() for each in ranks_of(query, gallery, positives, size)] == expected
    by_label = ranks_of(query, gallery, find_matches(query, gallery)[0])
    for mine, theirs in zip(by_label, rank_positives(query, gallery)[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_memory_is_bounded_by_a_block():
    """The 3000 x 4000 scores would be 48 MB; a block of 16 queries is 0.26 MB."""
    generator = np.random.default_rng(0)
    query, gallery = (
        Features(generator.random((n, 8), dtype=np.float32), np.arange(n), ["x"] * n)
        for n in (3000, 4000)
    )
    for run in (
        lambda: count_above(query, gallery, block_size=16),
        lambda: top_images(query, gallery, 10, None, 16),
        lambda: ranks_of(query, gallery, [np.array([1])] * 3000, 16),
    ):
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4e6


# ---------------------------------------------------------------- pairs
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


# ---------------------------------------------------------------- distances
def test_haversine_by_hand():
    """A degree of a meridian, a quarter of the equator, the poles, and a parallel at 60 degrees."""
    degree = math.pi / 180 * 6378137
    assert degree == pytest.approx(111319.4908)
    assert haversine(10, 20, 11, 20) == pytest.approx(degree)
    assert haversine(0, 0, 0, 90) == pytest.approx(90 * degree)
    assert haversine(90, 0, -90, 55) == pytest.approx(180 * degree)
    assert haversine(0, 179.5, 0, -179.5) == pytest.approx(degree)
    assert haversine(60, 5, 60, 5.001) == pytest.approx(degree / 2 / 1000, rel=1e-6)
    assert haversine(1, 2, 1, 2) == 0
    # Paris to London on a sphere of radius 6371 km: 343.6 km by common tables.
    assert haversine(48.8566, 2.3522, 51.5074, -0.1278, radius=6371) == pytest.approx(
        343.6, abs=0.1
    )


def test_haversine_equals_the_angle_between_vectors():
    generator = np.random.default_rng(0)
    lat, lon = generator.uniform(-90, 90, (2, 50)), generator.uniform(-180, 180, (2, 50))
    vectors = np.stack(
        [
            np.cos(np.radians(lat)) * np.cos(np.radians(lon)),
            np.cos(np.radians(lat)) * np.sin(np.radians(lon)),
            np.sin(np.radians(lat)),
        ],
        axis=-1,
    )  # (2, 50, 3)
    sine = np.linalg.norm(np.cross(vectors[0][:, None], vectors[1][None]), axis=-1)
    angles = np.arctan2(sine, vectors[0] @ vectors[1].T)
    found = haversine(lat[0][:, None], lon[0][:, None], lat[1], lon[1], radius=1)
    assert found.shape == (50, 50)
    np.testing.assert_allclose(found, angles, atol=1e-7)
    lat, lon = np.mgrid[-90:91:1.7, -180:181:1.7]  # for some, rounding makes the sine exceed 1
    np.testing.assert_allclose(haversine(lat, lon, -lat, lon + 180, radius=1), math.pi, atol=1e-7)


def test_degrees_are_planar_and_rounded_as_published():
    a, b = np.array([30.0, 120.0]), np.array([30.25, 120.5])
    assert planar_distance(np.zeros(2), np.array([3.0, 4.0])) == 5
    assert degree_distance(a, b) == pytest.approx(math.hypot(0.25, 0.5))
    # float32 has steps of 7.6e-6 degrees at 120: a shift by less is lost, 3 of them are kept.
    assert degree_distance(a, a + [0, 3e-6]) == 0
    assert degree_distance(a, a + [0, 3 * 2.0**-17]) == 3 * 2.0**-17


def test_sdm_by_hand():
    """Weights 1, 2/3, 1/3 and decays 1, 1/2, 1/4: (1 + 1/3 + 1/12) / 2 = 17/24."""
    distances = np.log([[1, 2, 4], [4, 2, 1]]) / 0.001
    assert sdm(distances, 3, 0.001) == pytest.approx([17 / 24, (1 / 4 + 1 / 3 + 1 / 3) / 2])
    assert sdm(distances, 1, 0.001) == pytest.approx([1, 1 / 4])
    assert sdm(np.zeros((1, 4)), 4, 5000) == pytest.approx([1])


def test_sdm_equals_the_published_loops():
    generator = np.random.default_rng(0)
    distances = generator.exponential(800, (6, 12))
    for k in (1, 3, 5, 12):
        expected = []
        for row in distances:
            upper = sum((k - i) / math.exp(0.001 * row[i]) for i in range(k))
            expected.append(upper / sum(k - i for i in range(k)))
        np.testing.assert_allclose(sdm(distances, k, 0.001), expected)
        np.testing.assert_allclose(mean_distance(distances, k), [sum(r[:k]) / k for r in distances])
    with pytest.raises(ValueError, match=r"shape \(6, 12\), .* K = 13"):
        sdm(distances, 13, 0.001)
    with pytest.raises(ValueError, match="K = 0"):
        mean_distance(distances, 0)


def test_metre_accuracy_is_strict_and_recall_within_is_not():
    distances = np.array([[5.0, 1.0], [4.9, 9.0], [100.0, 5.0], [0.0, 0.0]])
    assert metre_accuracy(distances, 5) == 50
    assert metre_accuracy(distances, [0, 1, 5, 5.1, 100, 101]).tolist() == [0, 25, 50, 75, 75, 100]
    assert recall_within(distances, 1, 5.0) == 75
    assert recall_within(distances, 2, 5.0) == 100
    assert recall_within(distances, 2, 0.5) == 25


# ---------------------------------------------------------------- DenseUAV, GTA, CVACT
def test_denseuav_by_hand():
    """Two queries, three images: the first right, the second 0.0002 degrees north of its own."""
    query, gallery = task([[3, 2, 1], [2, 1, 3]], [0, 1])
    south, north = 30.0, 30.0 + 2.0**-12  # exact in float32
    places = {"0000": (south, 120.0), "0001": (south, 120.0), "0002": (north, 120.0)}
    metrics = evaluate_protocol(
        "denseuav", query, gallery, coordinates=Coordinates(places, False, "t")
    )
    far = math.exp(-5000 * 2.0**-12)  # also of the metres: along a meridian both scales agree
    sdm_3 = [(1 + 2 / 3 + far / 3) / 2, (far + 2 / 3 + 1 / 3) / 2]
    for name in ("SDM", "SDM_metres"):
        assert metrics[f"{name}@1"] == pytest.approx(100 * (1 + far) / 2)
        assert metrics[f"{name}@3"] == pytest.approx(100 * sum(sdm_3) / 2)
        assert f"{name}@5" not in metrics  # a gallery of three
    metres = 2.0**-12 * 111319.4908
    assert 20 < metres < 50
    shares = {m: metrics[f"MA@{m}"] for m in (3, 5, 10, 20, 50, 100)}
    assert shares == {3: 50, 5: 50, 10: 50, 20: 50, 50: 100, 100: 100}
    assert metrics["recall@1"] == 50 and metrics["AP"] == evaluate(query, gallery)["AP"]
    text = format_protocol(metrics).splitlines()
    assert text[1].startswith("Recall@1:50.00 Recall@5:100.00")
    assert text[2] == f"SDM@1:{50 * (1 + far):.2f} SDM@3:{50 * sum(sdm_3):.2f}"
    assert text[4].startswith("MA@3:50.00 MA@5:50.00")


def random_places(query, gallery, planar, seed=0):
    """An own place of every image within some hundred metres."""
    generator = np.random.default_rng(seed)
    scale, origin = (500.0, (0, 0)) if planar else (0.004, (30.3, 120.4))
    names = [Path(path).name for path in (*query.paths, *gallery.paths)]
    places = {name: tuple(origin + scale * generator.random(2)) for name in names}
    return Coordinates(places, planar, "t")


def first_images(query, gallery):
    for row in range(len(query.labels)):
        order = np.argsort(gallery.features @ query.features[row])[::-1]
        yield row, [image for image in order if gallery.labels[image] != -1]


def test_denseuav_equals_the_published_loops():
    query, gallery = random_task(seed=3, levels=1000)
    table = random_places(query, gallery, planar=False)
    metrics = evaluate_protocol("denseuav", query, gallery, coordinates=table)
    sums = dict.fromkeys(("SDM@1", "SDM@10", "SDM_metres@10", "MA@100"), 0.0)
    for row, order in first_images(query, gallery):
        here = table.places[f"q{row}.jpg"]
        there = [table.places[f"g{image}.jpg"] for image in order]
        degrees = [
            math.hypot(
                *(float(np.float32(a)) - float(np.float32(b)) for a, b in zip(p, here, strict=True))
            )
            for p in there
        ]
        metres = [float(haversine(*here, *place)) for place in there]
        for name, distances, scale in (
            ("SDM@1", degrees, 5000),
            ("SDM@10", degrees, 5000),
            ("SDM_metres@10", metres, 5000 / 111319.490793),
        ):
            k = int(name.split("@")[1])
            weights = [1 - i / k for i in range(k)]
            terms = [w / math.exp(d * scale) for w, d in zip(weights, distances[:k], strict=True)]
            sums[name] += sum(terms) / sum(weights) / 40
        sums["MA@100"] += (metres[0] < 100) / 40
    assert 0 < sums["MA@100"] < 1
    for name, value in sums.items():
        assert metrics[name] == pytest.approx(100 * value, rel=1e-6)


def test_gta_by_hand():
    """Places on a line; by labels one positive each, by the table two, one and none."""
    query, gallery = task([[4, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]], [0, 1, 9])
    places = {"query_drone": (0, 0), **{f"g{j}.jpg": (100 * j, 0) for j in range(4)}}
    query = query._replace(paths=[f"query_drone/q{i}.jpg" for i in range(3)])
    table = Coordinates(places, True, "t")
    metrics = evaluate_protocol("gta", query, gallery, coordinates=table)
    assert metrics["recall@1"] == pytest.approx(100 / 3)
    assert metrics["recall@5"] == pytest.approx(200 / 3)
    assert metrics["AP_standard_matched"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert metrics["Dis@1"] == pytest.approx((0 + 0 + 300) / 3)
    assert metrics["Dis@3"] == pytest.approx((100 + 100 + 200) / 3)
    e = [math.exp(-0.1 * j) for j in range(4)]
    upper = (3 * e[0] + 2 * e[1] + e[2]) * 2 + 3 * e[3] + 2 * e[2] + e[1]
    assert metrics["SDM@3"] == pytest.approx(100 * upper / 6 / 3)
    assert "Dis@5" not in metrics and metrics["num_unmatched"] == 1
    positives = Matches({"q0.jpg": ["g1.jpg", "g3.jpg"], "q1.jpg": ["g0.jpg"]}, "t")
    given = evaluate_protocol("gta", query, gallery, coordinates=table, positives=positives)
    assert given["recall@1"] == pytest.approx(100 / 3)
    assert given["AP_standard_matched"] == pytest.approx(100 * ((1 / 2 + 2 / 4) / 2 + 1) / 2)
    assert given["recall@1_chance"] == pytest.approx(100 * 3 / 3 / 4)
    assert given["Dis@3"] == metrics["Dis@3"]
    strangers = query._replace(labels=query.labels + 50)
    nobody = evaluate_protocol("gta", strangers, gallery, coordinates=table)
    assert (nobody["AP_standard_matched"], nobody["num_unmatched"]) == (0, 3)
    lines = format_protocol(metrics).splitlines()
    assert lines[1].startswith("Recall@1:33.33 Recall@5:66.67 ") and "chance" not in lines[1]
    assert lines[-1] == "Dis@1:100.00 m Dis@3:133.33 m"


@pytest.mark.parametrize("planar", [True, False])
def test_gta_equals_the_plain_loop(planar):
    query, gallery = random_task(seed=4, levels=1000)
    table = random_places(query, gallery, planar)
    metrics = evaluate_protocol("gta", query, gallery, coordinates=table)
    dis, decay, precision, found = [], [], [], 0
    for row, order in first_images(query, gallery):
        here = table.places[f"q{row}.jpg"]
        there = [table.places[f"g{image}.jpg"] for image in order[:5]]
        metres = [math.dist(here, p) if planar else float(haversine(*here, *p)) for p in there]
        dis.append(sum(metres) / 5)
        decay.append(sum((5 - i) / math.exp(0.001 * d) for i, d in enumerate(metres)) / 15)
        ranks = [n for n, j in enumerate(order, 1) if gallery.labels[j] == query.labels[row]]
        precision += [1 / rank for rank in ranks]
        found += any(rank <= 10 for rank in ranks)
    assert metrics["Dis@5"] == pytest.approx(np.mean(dis))
    assert metrics["SDM@5"] == pytest.approx(100 * np.mean(decay))
    assert metrics["AP_standard_matched"] == pytest.approx(100 * np.mean(precision))
    assert len(precision) < 40 and metrics["recall@10"] == pytest.approx(100 * found / 40)


def test_cvact_within_five_metres():
    """The true image is second, the first lies 5 metres away: found within 5 m, not by name."""
    query, gallery = task([[1, 2, 0], [0, 1, 2]], [0, 1])
    places = {"0000": (0, 0), "0001": (3, 4), "0002": (3, 9.5)}
    metrics = evaluate_protocol("cvact", query, gallery, coordinates=Coordinates(places, True, "t"))
    assert (metrics["recall@1"], metrics["recall@1_5m"]) == (0, 50)
    assert "recall@5_5m" not in metrics  # a gallery of three
    assert "Recall@1_5m:50.00" in format_protocol(metrics)
    assert "recall@1_5m" not in evaluate_protocol("cvact", query, gallery)


# ---------------------------------------------------------------- SUES-200
def test_sues200_by_height():
    tasks = {height: random_task(seed=height, levels=500) for height in (150, 200)}
    heights = {height: evaluate(*sides) for height, sides in tasks.items()}
    for height, sides in tasks.items():
        assert evaluate_protocol("sues200", *sides) == {"dataset": "sues200", **heights[height]}
    table = mean_over_heights(heights)
    assert table["heights"] == heights
    assert heights[150]["AP"] != heights[200]["AP"]
    for name in ("recall@1", "recall@top1", "AP", "AP_standard"):
        assert table["mean"][name] == pytest.approx((heights[150][name] + heights[200][name]) / 2)
    assert "num_queries" not in table["mean"]
    lines = format_protocol(table).splitlines()
    assert lines[1].startswith(f"150 m: Recall@1:{heights[150]['recall@1']:.2f} ")
    assert lines[3].startswith("mean: Recall@1:")
    with pytest.raises(ValueError, match="no heights"):
        mean_over_heights({})


# ---------------------------------------------------------------- University-160k
def test_answer_by_hand():
    """Image j scores j for query 0 and -j for query 1; the list turns the queries round."""
    query, gallery = task([np.arange(12), -np.arange(12)])
    lines = answer_lines(query, gallery, ["q1.jpg", "q0.jpg"])
    assert lines == [
        "g0\tg1\tg2\tg3\tg4\tg5\tg6\tg7\tg8\tg9",
        "g11\tg10\tg9\tg8\tg7\tg6\tg5\tg4\tg3\tg2",
    ]
    assert answer_lines(query, gallery, ["q0.jpg"]) == lines[1:]
    gallery.labels[:] = -1  # labels play no part
    assert answer_lines(query, gallery, ["q1.jpg"]) == lines[:1]
    metrics = evaluate_protocol("university160k", query, gallery, query_list=["q1.jpg"])
    assert metrics["answer"] == lines[:1] and metrics["num_queries"] == 1
    assert "1 queries, 12 gallery images" in format_protocol(metrics)


def test_answer_follows_the_published_order_of_ties():
    query, gallery = task(np.random.default_rng(0).integers(0, 5, (3, 4000)))
    lines = answer_lines(query, gallery, ["q2.jpg", "q0.jpg"])
    for line, row in zip(lines, (2, 0), strict=True):
        order = np.argsort(gallery.features @ query.features[row])[::-1][:10]
        assert line == "\t".join(f"g{image}" for image in order)


def test_answer_is_written_as_text_and_zipped(tmp_path):
    lines = ["\t".join(f"{row}_{place}" for place in range(10)) for row in range(3)]
    text, packed = write_answer(tmp_path / "new" / "mine.txt", lines)
    assert (text, packed) == (tmp_path / "new/mine.txt", tmp_path / "new/mine.zip")
    assert text.read_text() == "\n".join(lines) + "\n"
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["answer.txt"]
        assert archive.read("answer.txt").decode() == text.read_text()
        assert archive.infolist()[0].external_attr >> 16 == 0o644
    before = packed.read_bytes()
    write_answer(text, lines)
    assert packed.read_bytes() == before
    assert sorted(path.name for path in text.parent.iterdir()) == ["mine.txt", "mine.zip"]


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda q, g: (q, g, ["q0.jpg", "q7.jpg"]), "names 1 images .* first q7.jpg"),
        (lambda q, g: (q, g, ["0001"]), "not among the 2 .* first 0001"),
        (
            lambda q, g: (q, g._replace(paths=["a/x.jpg"] * 12), ["q0.jpg"]),
            "12 gallery .* called x",
        ),
        (lambda q, g: (q, g._replace(paths=[""] * 12), ["q0.jpg"]), "holds no image paths"),
        (lambda q, g: (*task(np.ones((2, 9))), ["q0.jpg"]), "gallery of 9 images"),
    ],
)
def test_answers_that_cannot_be(change, expected):
    with pytest.raises(ValueError, match=expected):
        answer_lines(*change(*task(np.ones((2, 12)))))


@pytest.mark.parametrize(
    "name, lines, expected",
    [
        ("a.zip", ["\t" * 9], "must end in .txt"),
        ("a.txt", [], "0 lines"),
        ("a.txt", ["\t" * 9, "a\tb"], r"1 of them without 10 names \(first line 2\)"),
    ],
)
def test_answers_that_are_not_written(tmp_path, name, lines, expected):
    with pytest.raises(ValueError, match=expected):
        write_answer(tmp_path / name, lines)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- side files
def test_coordinates_of_the_toy_campus(toy):
    table = read_coordinates(toy / "coordinates.csv")
    assert not table.planar
    paths = sorted(map(str, (toy / "test" / "query_drone").glob("*/*")))
    places = places_of(paths, table)
    assert places.shape == (10, 2) and places.dtype == np.float64
    lines = (toy / "coordinates.csv").read_text().splitlines()[1:]
    expected = {line.split(",")[0]: tuple(map(float, line.split(",")[1:])) for line in lines}
    for path, place in zip(paths, places, strict=True):
        assert tuple(place) == expected[Path(path).parent.name]


def test_coordinates_by_image_and_by_folder(tmp_path):
    path = write(
        tmp_path / "c.csv",
        "\ufeffheight,Longitude,name,latitude\r\n"
        '90,-1.5,0001,50\n80,2,"a,b.jpg",51\n70,3,0002/x.jpg,52\n\n60,4,./query/0002/x.jpg,53\n'
        "50,5,x.jpg,54\n40,6,gallery/0003,55\n",
    )
    table = read_coordinates(path)
    assert table.places["0001"] == (50, -1.5)
    cases = {
        "test/query/0001/y.jpg": (50, -1.5),
        "test/query/0001/a,b.jpg": (51, 2),  # the image before its folder
        "test\\query\\0002\\x.jpg": (53, 4),  # the longer name before the shorter
        "test/other/0002/x.jpg": (52, 3),
        "test/other/0004/x.jpg": (54, 5),
        "gallery/0003/z.jpg": (55, 6),
    }
    assert [tuple(place) for place in places_of(list(cases), table)] == list(cases.values())
    with pytest.raises(ValueError, match=r"c.csv has no place for 2 of 3 images, first b/y.jpg"):
        places_of(["0001/y.jpg", "b/y.jpg", "query/0003/y.jpg"], table)


@pytest.mark.parametrize("columns", ["name,x,y", "building,easting,northing"])
def test_planar_coordinates(tmp_path, columns):
    table = read_coordinates(write(tmp_path / "c.csv", f"{columns}\na.png,500000,-12.5\n"))
    assert table.planar and places_of(["t/a.png"], table).tolist() == [[500000, -12.5]]
    with pytest.raises(ValueError, match="DenseUAV's metrics are defined by"):
        evaluate_protocol("denseuav", *task(np.ones((1, 1))), coordinates=table)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "has the columns none, expected name,latitude,longitude"),
        ("name,lat,lon\na,1,2\n", "has the columns name, lat, lon"),
        ("latitude,longitude\n1,2\n", "expected name,latitude"),
        ("name,latitude,longitude\na,1\n", "line 2: 2 columns, expected 3"),
        ("name,latitude,longitude\na,30,001,90,001\n", "line 2: 5 columns, expected 3"),
        ("name,latitude,longitude,latitude\na,1,2,3\n", "name each once"),
        ("name,latitude,longitude\na,1,2\nb,1,east\n", "line 3: longitude is 'east'"),
        ("name,latitude,longitude\na,120.5,30.2\n", "'120.5', expected a number from -90 to 90"),
        ("name,x,y\na,nan,2\n", "x is 'nan', expected a number$"),
        ("name,x,y\na,1,2\na,1,2\na,1,3\n", "line 4: a has another place than before"),
    ],
)
def test_coordinates_that_cannot_be(tmp_path, text, expected):
    with pytest.raises(ValueError, match=expected) as info:
        read_coordinates(write(tmp_path / "c.csv", text))
    assert str(info.value).startswith(str(tmp_path / "c.csv"))
    assert "\n" not in str(info.value)


def test_matches_of_vigor(tmp_path):
    """Names with commas, as VIGOR's panoramas have, and satellite images by their folder's name."""
    path = write(
        tmp_path / "semi_positives.csv",
        "panorama,latitude,positive,positive_delta_1,semi_1,semi_1_delta_1,semi_2\n"
        '"test/query_street/S0/p,37.7,-122.4,.jpg",37.7,S0,1,S1,5,S2\n'
        "train/street/S1/q.jpg,37.7,S1,1,nowhere,5,\n"
        "test/query_street/S1/q.jpg,37.7,S1,1,S2,5,\n",
    )
    query, gallery = task(np.ones((3, 4)))
    streets = ["S0/p,37.7,-122.4,.jpg", "S1/q.jpg", "S2/r.jpg"]
    query = query._replace(paths=[f"data/test/query_street/{name}" for name in streets])
    gallery = gallery._replace(
        paths=[f"data/test/gallery_satellite/S{j}/{j}.png" for j in range(4)]
    )
    matches = read_matches(path)
    assert matches.names["test/query_street/S0/p,37.7,-122.4,.jpg"] == ["S1", "S2"]
    found = matches_of(query, gallery, matches)
    assert [each.tolist() for each in found] == [[1, 2], [2], []]
    assert all(each.dtype == np.int64 for each in found)
    assert evaluate_protocol("vigor", query, gallery, semi_positives=path) == evaluate_protocol(
        "vigor", query, gallery, semi_positives=matches
    )


def test_matches_of_any_columns(tmp_path):
    path = write(
        tmp_path / "p.csv", "query,gallery\nq0.jpg,g1.jpg,,0002/g2.jpg,g1.jpg\nq0.jpg,g0.jpg\n"
    )
    query, gallery = task(np.ones((2, 4)))
    gallery.paths[3] = "test/g1.jpg/g3.jpg"  # a folder called like an image: the image is meant
    found = matches_of(query, gallery, read_matches(path))
    assert [each.tolist() for each in found] == [[0, 1, 2], []]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "begins with 'nothing', expected the header query,gallery"),
        ("q0.jpg,g1.jpg\n", "begins with 'q0.jpg,g1.jpg', expected the header"),
        ("query,gallery\nx.jpg,g1.jpg\n", "no line for any of the 2 queries, first test/query"),
        ("query,gallery\nq0.jpg,g9.jpg\n", "names 1 images that are not among the 4 .* g9.jpg"),
        ("query,gallery\nq0.jpg,same.jpg\n", "names same.jpg, as several images are called"),
        ("query,positive,semi_1\nq0.jpg,g1.jpg\n", "line 2: 2 columns, expected 3"),
    ],
)
def test_matches_that_cannot_be(tmp_path, text, expected):
    query, gallery = task(np.ones((2, 4)))
    gallery = gallery._replace(paths=[*gallery.paths[:2], "a/same.jpg", "b/same.jpg"])
    path = write(tmp_path / "m.csv", text)
    with pytest.raises(ValueError, match=expected) as info:
        matches_of(query, gallery, read_matches(path))
    assert str(info.value).startswith(str(path)) and "\n" not in str(info.value)


def test_query_list(tmp_path):
    path = write(tmp_path / "n.txt", "\ufeffb.jpg\r\n\n a.jpg \n")
    assert read_query_list(path) == ["b.jpg", "a.jpg"]
    with pytest.raises(ValueError, match="names b.jpg more than once"):
        read_query_list(write(path, "a.jpg\nb.jpg\nb.jpg\n"))
    with pytest.raises(ValueError, match="is empty"):
        read_query_list(write(path, "\n"))


@pytest.mark.parametrize("reader", [read_coordinates, read_matches, read_query_list])
def test_files_that_are_missing_or_no_text(tmp_path, reader):
    with pytest.raises(FileNotFoundError, match="none.csv not found"):
        reader(tmp_path / "none.csv")
    path = tmp_path / "latin.csv"
    path.write_bytes("Bibliothèque,1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv is not UTF-8 text"):
        reader(path)


# ---------------------------------------------------------------- the door
def test_protocols_and_their_side_files():
    query, gallery = task(np.ones((2, 12)))
    with pytest.raises(ValueError, match="no protocol 'cvusb': there are cvusa, cvact, vigor"):
        evaluate_protocol("cvusb", query, gallery)
    with pytest.raises(ValueError, match="denseuav needs --coordinates FILE"):
        evaluate_protocol("denseuav", query, gallery, coordinates=None)
    with pytest.raises(ValueError, match="cvusa does not use --positives"):
        evaluate_protocol("cvusa", query, gallery, positives="x.csv")
    with pytest.raises(ValueError, match="query features hold NaN"):
        evaluate_protocol("cvusa", query._replace(features=query.features * np.nan), gallery)
    assert evaluate_protocol("cvact", query, gallery, coordinates=None)["dataset"] == "cvact"


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A folder with a feature file and its side files: query i finds image i first."""
    monkeypatch.chdir(tmp_path)
    query, gallery = task(np.eye(3, 12) - 0.01 * np.arange(12))
    save_features(tmp_path / "r.npz", query, gallery)
    table = [f"{label:04d},30,{120 + 0.001 * label}" for label in range(12)]
    write(tmp_path / "c.csv", "\n".join(["building,latitude,longitude", *table]))
    write(tmp_path / "s.csv", "query,gallery\nq0.jpg,0003\n")
    write(tmp_path / "n.txt", "q2.jpg\nq0.jpg\n")
    return tmp_path


@pytest.mark.parametrize(
    "argv, lines",
    [
        (["cvusa"], ["Recall@1:100.00", "Recall@1% of 12: first 0 (recall@1%_floor"]),
        (["cvact", "--coordinates", "c.csv"], ["Recall@1_5m:100.00 Recall@5_5m:100.00"]),
        (["vigor", "--semi_positives", "s.csv"], ["Hit rate:100.00", "2 of 3 queries have no"]),
        (["denseuav", "--coordinates", "c.csv"], ["SDM@1:100.00", "MA@3:100.00"]),
        (["gta", "--coordinates", "c.csv"], ["AP_standard_matched:100.00", "Dis@1:0.00 m"]),
        (["university160k", "--query_list", "n.txt"], ["written: answer.txt and answer.zip"]),
    ],
    ids=lambda value: value[0],
)
def test_command(scored, capsys, argv, lines):
    protocol, *options = argv
    metrics = main([protocol, "r.npz", *options, "--json", "out.json"])
    out = capsys.readouterr().out
    assert out.startswith(f"as published for {protocol}:\n")
    for line in lines:
        assert line in out
    assert json.loads((scored / "out.json").read_text()) == metrics
    assert metrics["dataset"] == protocol and metrics["num_gallery"] == 12
    if protocol == "university160k":
        assert "answer" not in metrics
        assert [line[:2] for line in (scored / "answer.txt").read_text().splitlines()] == [
            "g2",
            "g0",
        ]
    main([protocol, "r.npz", *options, "--json", "-"])
    assert json.loads(capsys.readouterr().out) == metrics


def test_command_of_several_heights(scored, capsys):
    other = task(np.ones((3, 12)) - np.eye(3, 12), gallery_labels=np.arange(12))
    save_features(scored / "low.npz", *other)
    metrics = main(["sues200", "low.npz", "r.npz", "--heights", "150", "300"])
    out = capsys.readouterr()
    assert list(metrics["heights"]) == ["150", "300"]
    assert metrics["heights"]["300"]["recall@1"] == 100
    assert metrics["mean"]["recall@1"] == (metrics["heights"]["150"]["recall@1"] + 100) / 2
    assert "300 m: Recall@1:100.00" in out.out and "mean: Recall@1:" in out.out
    assert "warning: 150 m: 12 of 12 gallery features are not of norm 1" in out.err


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["vigor", "r.npz"], "vigor needs --semi_positives"),
        (["cvusa", "r.npz", "--coordinates", "c.csv"], "cvusa does not use --coordinates"),
        (["cvusa", "r.npz", "r.npz"], "2 files: the protocol cvusa takes one"),
        (["sues200", "r.npz", "r.npz", "--heights", "150", "150"], "name each height once"),
        (["sues200", "r.npz"], "1 file(s) for the heights 150 200 250 300"),
        (["university160k", "r.npz", "--query_list", "n.txt", "--answer", "a.zip"], ".txt"),
        (["cvusa", "none.npz"], "none.npz not found"),
        (["gta", "r.npz", "--coordinates", "none.csv"], "none.csv not found"),
        (["nowhere", "r.npz"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line(scored, capsys, argv, expected):
    fails(main, argv, capsys, expected)
    assert not list(scored.glob("answer*"))


def test_command_imports_nothing_heavy():
    code = (
        "import sys, protocols\ntry: protocols.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'torchvision', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
