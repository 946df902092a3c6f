"""Metrics against a plain loop and cases worked by hand; the command over a feature file."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fails

import evaluate_gpu
from evaluate_gpu import evaluate, main, published_line, warnings_about
from evaluation import metrics as evaluation_metrics
from evaluation import ranking
from evaluation.feature_file import Features, load_features, save_features
from evaluation.metrics import average_precision_published, average_precision_standard
from evaluation.ranking import choose_device, rank_gallery, rank_positives

ROOT = Path(evaluate_gpu.__file__).parent


# ---------------------------------------------------------------- material
def features_of(array, labels, cameras=None):
    labels = np.asarray(labels, dtype=np.int64)
    paths = [f"view/{label:04d}/{place}.jpg" for place, label in enumerate(labels)]
    return Features(np.asarray(array, dtype=np.float32), labels, paths, cameras)


def retrieval_task(query_labels, gallery_labels, noise=1.5, seed=0, exact=False):
    """Unit features scattered about one centre a building.

    `exact` rounds them to 64ths, so that scores are the same in whatever order they are summed.
    """
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((2000, 32))

    def side(labels):
        array = centres[labels] + noise * generator.standard_normal((len(labels), 32))
        array /= np.linalg.norm(array, axis=1, keepdims=True)
        return features_of(np.round(64 * array) / 64 if exact else array, labels)

    return side(np.asarray(query_labels)), side(np.asarray(gallery_labels))


def tied_task(num_query=60, num_gallery=300, num_labels=20, seed=0):
    """Small whole-number features: scores are exact however they are summed, and often equal."""
    generator = np.random.default_rng(seed)

    def side(count):
        array = generator.integers(-2, 3, (count, 5))
        return features_of(array, generator.integers(0, num_labels, count))

    return side(num_query), side(num_gallery)


def in_order(*hits):
    """One query and a gallery ranked as `hits` say: 1 right, 0 wrong, -1 junk, best first."""
    labels = [{1: 1, 0: 7, -1: -1}[hit] for hit in hits]
    scores = np.linspace(1, 0.5, len(hits))
    gallery = np.stack([scores, np.sqrt(1 - scores**2)], axis=1)
    return features_of([[1, 0]], [1]), features_of(gallery, labels)


def plain_ranks(query, gallery, row):
    """Ranks of one query's positives: sort everything, drop the junk, look the positives up."""
    label = query.labels[row]
    wanted, junk = gallery.labels == label, gallery.labels == -1
    if query.cameras is not None and gallery.cameras is not None:
        junk = junk | (wanted & (gallery.cameras == query.cameras[row]))
    order = np.argsort(gallery.features @ query.features[row])[::-1]
    order = [item for item in order if not junk[item]]
    return [rank for rank, item in enumerate(order, start=1) if wanted[item] and label != -1]


def plain_line(query, gallery):
    """The published loop over queries, written out; places beyond a short gallery are its last."""
    num_gallery = len(gallery.labels)
    curve, total = np.zeros(num_gallery), 0.0
    for row in range(len(query.labels)):
        ranks = plain_ranks(query, gallery, row)
        if not ranks:
            continue
        curve[ranks[0] - 1 :] += 1
        for hits, rank in enumerate(ranks, start=1):
            before = (hits - 1) / (rank - 1) if rank > 1 else 1.0
            total += (before + hits / rank) / 2 / len(ranks)
    curve = 100 * curve / len(query.labels)
    places = [min(place, num_gallery - 1) for place in (0, 4, 9, round(0.01 * num_gallery))]
    template = "Recall@1:{:.2f} Recall@5:{:.2f} Recall@10:{:.2f} Recall@top1:{:.2f} AP:{:.2f}"
    return template.format(*curve[places], 100 * total / len(query.labels))


# ---------------------------------------------------------------- against the plain loop
# The structure of University-1652's test set at a tenth of its size: 95 buildings, 70 queried.
QUERIED, BUILDINGS = np.arange(70), np.arange(95)


@pytest.mark.parametrize("noise", [0.6, 1.5, 3.0])
@pytest.mark.parametrize(
    "query_labels, gallery_labels",
    [(QUERIED, np.repeat(BUILDINGS, 54)), (np.repeat(QUERIED, 54), BUILDINGS)],
    ids=["satellite to drone", "drone to satellite"],
)
def test_line_equals_plain_loop(query_labels, gallery_labels, noise):
    query, gallery = retrieval_task(query_labels, gallery_labels, noise, exact=True)
    metrics = evaluate(query, gallery)
    assert published_line(metrics) == plain_line(query, gallery)
    assert metrics["num_distractors"] == 25 * (54 if len(query_labels) == 70 else 1)
    assert metrics["num_queries"] == len(query_labels)
    assert metrics["num_gallery"] == len(gallery_labels)


def variant(name):
    """A task of many equal scores with one peculiarity."""
    query, gallery = tied_task()
    if name in {"junk", "all"}:
        gallery.labels[::7] = -1
    if name in {"cameras", "all"}:
        query = query._replace(cameras=np.arange(60) % 3)
        gallery = gallery._replace(cameras=np.arange(300) % 4)
    if name in {"unmatched", "all"}:
        query.labels[::5] = 900
    if name == "junk queries":
        query.labels[::5] = -1
        gallery.labels[::7] = -1
    if name == "one positive":
        gallery.labels[:] = np.arange(300)
    if name == "one positive, junk":
        gallery.labels[:] = np.arange(300)
        gallery.labels[100::3] = -1
    return query, gallery


VARIANTS = ["ties", "junk", "cameras", "unmatched", "all", "junk queries"]
VARIANTS += ["one positive", "one positive, junk"]


@pytest.mark.parametrize("name", VARIANTS)
def test_ranks_equal_plain_loop_under_ties(name):
    query, gallery = variant(name)
    expected = [plain_ranks(query, gallery, row) for row in range(60)]
    ranks, *_ = rank_positives(query, gallery)
    assert [each.tolist() for each in ranks] == expected
    assert published_line(evaluate(query, gallery)) == plain_line(query, gallery)


@pytest.mark.parametrize("block_size", [7, None])
@pytest.mark.parametrize("name", VARIANTS)
def test_torch_ranks_equal_numpy_ranks_under_ties(name, block_size):
    """The kernel for GPUs, here on torch's CPU; whole-number scores are the same in both."""
    query, gallery = variant(name)
    expected, lengths, _ = rank_positives(query, gallery)
    ranks, same_lengths, _ = rank_positives(query, gallery, block_size, device="cpu:0")
    assert [each.tolist() for each in ranks] == [each.tolist() for each in expected]
    assert {each.dtype for each in ranks} == {np.dtype(np.int64)}
    assert same_lengths.tolist() == lengths.tolist()


@pytest.mark.parametrize("num_query", [70, 3780])
def test_torch_line_equals_numpy_line(num_query):
    """Mostly without ties: the ranks come from the kernel itself, not from its way out."""
    sides = QUERIED.repeat(num_query // 70), BUILDINGS.repeat(3780 // num_query)
    query, gallery = retrieval_task(*sides, exact=True)
    gallery.labels[::11] = -1
    assert evaluate(query, gallery, device="cpu:0") == evaluate(query, gallery)


def test_torch_takes_features_that_are_a_map(tmp_path, recwarn):
    query, gallery = retrieval_task(QUERIED, BUILDINGS, exact=True)
    save_features(tmp_path / "f.npz", query, gallery)
    mapped = load_features(tmp_path / "f.npz")
    assert evaluate(*mapped, device="cpu:0") == evaluate(query, gallery)
    assert not recwarn.list


def test_torch_kernel_where_no_query_has_a_match():
    query, gallery = retrieval_task(range(5), range(5))
    strange = gallery._replace(labels=gallery.labels + 500)
    ranks, *_ = rank_positives(query, strange, device="cpu:0")
    assert [each.tolist() for each in ranks] == [[]] * 5


@pytest.mark.parametrize("name", VARIANTS)
def test_full_ranking_agrees_with_the_ranks(name):
    query, gallery = variant(name)
    ranks, lengths, _ = rank_positives(query, gallery)
    for row in range(0, 60, 7):
        order, scores = rank_gallery(query, gallery, row)
        assert len(order) == len(scores) == lengths[row]
        assert (np.diff(scores) <= 0).all() and (gallery.labels[order] != -1).all()
        found = 1 + np.flatnonzero(gallery.labels[order] == query.labels[row])
        assert found.tolist() == ranks[row].tolist()


def test_ties_are_real():
    """The task above has positives level with wrong images in most rows, so ties are tested."""
    query, gallery = tied_task()
    tied = 0
    for row in range(60):
        scores = gallery.features @ query.features[row]
        positive = gallery.labels == query.labels[row]
        tied += np.isin(scores[positive], scores[~positive]).any()
    assert tied == 60


@pytest.mark.parametrize("block_size", [1, 7, 59, 60, 1000])
def test_block_size_changes_nothing(block_size):
    query, gallery = variant("all")
    assert evaluate(query, gallery, block_size) == evaluate(query, gallery)


@pytest.mark.parametrize("size", [1, 3, 9, 10, 11, 50, 150])
def test_published_defect_12_short_galleries(size):
    """Published defect 12: CMC[9] fails under ten gallery images; K is at most N here."""
    query, gallery = retrieval_task(range(20), range(size), noise=2.0)
    metrics = evaluate(query, gallery)
    assert published_line(metrics) == plain_line(query, gallery)
    assert metrics["num_unmatched"] == max(0, 20 - size)
    if size <= 10:
        assert metrics["recall@10"] == 100 * size / 20  # whoever has a match has it in all of N


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "auto"])
@pytest.mark.parametrize("name", VARIANTS)
def test_scores_of_a_function_are_ranked_as_dot_products_are(name, device):
    query, gallery = variant(name)
    expected, lengths, _ = rank_positives(query, gallery)
    slices = []

    def scores(rows):
        slices.append((rows.start, rows.stop))
        return query.features[rows] @ gallery.features.T

    blank = query._replace(features=0 * query.features)
    ranks, same_lengths, _ = rank_positives(blank, gallery, 25, device, scores)
    assert [each.tolist() for each in ranks] == [each.tolist() for each in expected]
    assert same_lengths.tolist() == lengths.tolist()
    assert slices == [(0, 25), (25, 50), (50, 75)]
    assert evaluate(blank, gallery, scores=scores) == evaluate(query, gallery)


# ---------------------------------------------------------------- by hand
@pytest.mark.parametrize(
    "ranks, published, standard",
    [
        ([1], 1.0, 1.0),
        ([2], 0.25, 0.5),
        ([4], 0.125, 0.25),
        ([1, 2, 3], 1.0, 1.0),
        ([2, 3], (1 / 4 + (1 / 2 + 2 / 3) / 2) / 2, (1 / 2 + 2 / 3) / 2),
        (
            [1, 2, 4, 7],
            (1 + 1 + (2 / 3 + 3 / 4) / 2 + (3 / 6 + 4 / 7) / 2) / 4,
            (1 + 1 + 3 / 4 + 4 / 7) / 4,
        ),
    ],
)
def test_average_precisions_by_hand(ranks, published, standard):
    assert average_precision_published(ranks) == pytest.approx(published, abs=1e-12)
    assert average_precision_standard(ranks) == pytest.approx(standard, abs=1e-12)


def test_average_precision_of_several_queries_at_once():
    assert average_precision_published([[1, 2], [2, 3]]).tolist() == pytest.approx([1, 5 / 12])
    assert average_precision_standard([[1, 2], [2, 3]]).tolist() == pytest.approx([1, 7 / 12])


def test_metrics_by_hand():
    query, gallery = in_order(0, 1, -1, 0, 1)  # ranks 2 and 4: the junk takes no place
    metrics = evaluate(query, gallery)
    assert metrics == {
        "recall@1": 0.0,
        "recall@5": 100.0,
        "recall@10": 100.0,
        "recall@top1": 0.0,
        "AP": pytest.approx(100 * (1 / 4 + (1 / 3 + 2 / 4) / 2) / 2),
        "AP_standard": pytest.approx(50.0),
        "recall@1%": 0.0,
        "recall@1_chance": 50.0,
        "num_queries": 1,
        "num_gallery": 5,
        "num_distractors": 2,
        "num_junk": 1,
        "num_unmatched": 0,
    }
    assert json.loads(json.dumps(metrics)) == metrics


def test_published_defect_12_top_one_percent():
    """Published defect 12: Recall@top1 looks one image too far; kept, with the right one beside."""
    query, gallery = in_order(0, 0, 1, *[0] * 197)  # 1 % of 200 is two images, the hit is third
    metrics = evaluate(query, gallery)
    assert metrics["recall@top1"] == 100.0
    assert metrics["recall@1%"] == 0.0
    query, gallery = in_order(0, 1, *[0] * 198)
    assert evaluate(query, gallery)["recall@1%"] == 100.0


def test_queries_without_match_count_as_zero():
    query, gallery = in_order(1, 0)
    both = features_of(np.repeat(query.features, 4, axis=0), [1, 500, 501, 502])
    metrics = evaluate(both, gallery)
    assert metrics["recall@1"] == metrics["AP"] == metrics["AP_standard"] == 25.0
    assert metrics["num_unmatched"] == 3
    assert metrics["recall@1_chance"] == pytest.approx(100 * (1 / 2) / 4)


def test_same_label_and_camera_is_junk():
    query, gallery = in_order(1, 1, 0, 1)
    seen = gallery._replace(cameras=np.array([3, 3, 3, 8]))
    asked = query._replace(cameras=np.array([3]))
    ranks, lengths, _ = rank_positives(asked, seen)
    assert ranks[0].tolist() == [2] and lengths.tolist() == [2]
    assert evaluate(asked, seen)["recall@1_chance"] == 50.0
    # The rule is for data that has cameras on both sides.
    assert rank_positives(query, seen)[0][0].tolist() == [1, 2, 4]


def test_query_labelled_junk_matches_nothing():
    query, gallery = in_order(-1, 0)
    query.labels[:] = -1
    assert [each.tolist() for each in rank_positives(query, gallery)[0]] == [[]]
    assert evaluate(query, gallery)["num_unmatched"] == 1


def test_gallery_of_junk_alone():
    query, gallery = in_order(-1, -1)
    metrics = evaluate(query, gallery)
    assert metrics["num_unmatched"] == 1 and metrics["num_junk"] == 2
    assert metrics["AP"] == metrics["recall@1"] == metrics["recall@1_chance"] == 0.0


# ---------------------------------------------------------------- behaviour
def test_published_defect_31_no_removed_numpy_names(monkeypatch):
    """Published defect 31: in1d and int are gone from NumPy; nothing here asks for them."""
    for name in ("in1d", "int", "float", "row_stack"):  # NumPy before 2.4 still has some
        monkeypatch.delattr(np, name, raising=False)
    query, gallery = variant("all")
    assert published_line(evaluate(query, gallery)) == plain_line(query, gallery)


def test_memory_is_bounded_by_the_block():
    query, gallery = retrieval_task(np.arange(2000), np.arange(2000))
    tracemalloc.start()
    evaluate(query, gallery, block_size=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 2000 * 4 / 8  # an eighth of the whole matrix of scores


def test_blocks_of_a_long_gallery_hold_enough_queries(monkeypatch):
    """A mapped gallery is read once a block: 128 queries at least, whatever the memory bound."""
    query, gallery = retrieval_task(np.arange(200), np.arange(2000))
    monkeypatch.setattr(ranking, "BLOCK_SCORES", 2000)
    products = []
    matmul = np.matmul
    monkeypatch.setattr(
        np, "matmul", lambda a, b, out: products.append(len(a)) or matmul(a, b, out=out)
    )
    evaluate(query, gallery)
    assert products == [128, 72]


def test_auto_imports_torch_for_a_large_task_alone(tmp_path, monkeypatch):
    """Up to 10^9 pairs NumPy ranks, whatever there is; above that a GPU if torch sees one."""
    large = Features(np.broadcast_to(np.float32(0), (2**16, 2**9)), np.zeros(2**16), [])
    small = large._replace(features=large.features[:9], labels=large.labels[:9])
    (tmp_path / "torch.py").write_text("class cuda:\n    is_available = staticmethod(bool)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto", large, large) == ("cuda" if available else "cpu")
        assert choose_device("auto", small, large) == "cpu"
        assert choose_device("cpu", large, large) == "cpu"
    monkeypatch.delitem(sys.modules, "torch")
    assert choose_device("auto", small, small) == "cpu" and "torch" not in sys.modules
    assert choose_device("auto", large, large) == "cpu"  # the torch of the folder sees no GPU
    assert sys.modules["torch"].__file__ == str(tmp_path / "torch.py")


def test_features_that_do_not_fit_are_refused():
    query, gallery = in_order(1, 0)
    with pytest.raises(ValueError, match="2-d and gallery features 3-d"):
        evaluate(query, gallery._replace(features=np.ones((2, 3), dtype=np.float32)))
    with pytest.raises(ValueError, match="1 of 1 query features hold NaN"):
        evaluate(query._replace(features=query.features * np.nan), gallery)


def warnings_for(query, gallery):
    return warnings_about(evaluate(query, gallery), query, gallery)


def test_good_results_give_no_warning():
    query, gallery = retrieval_task(QUERIED, np.repeat(BUILDINGS, 5), noise=0.5)
    assert warnings_for(query, gallery) == []


def test_warnings_about_missing_matches():
    query, gallery = retrieval_task(range(20), range(20), noise=0.1)
    shifted = gallery._replace(labels=gallery.labels + 5)
    assert warnings_for(query, shifted)[0].startswith("5 of 20 queries have no true match")
    strange = gallery._replace(labels=gallery.labels + 500)
    [only] = warnings_for(query, strange)
    assert only.startswith("no query has a true match")


def test_warning_about_chance_level():
    query, gallery = retrieval_task(np.repeat(QUERIED, 3), BUILDINGS, noise=0.5)
    unrelated, _ = retrieval_task(np.repeat(QUERIED, 3), BUILDINGS, noise=0.5, seed=1)
    assert warnings_for(query, gallery) == []
    [only] = warnings_for(unrelated, gallery)
    assert "is what random ranking gives (1.05)" in only


def at_recall(hits, buildings=34, frames=7, distractors=8):
    """Drone queries of which `hits` find their building first, the others last."""
    labels = np.repeat(np.arange(buildings), frames)
    num_gallery = buildings + distractors
    scores = np.tile(np.linspace(0.5, 0.4, num_gallery), (len(labels), 1))
    scores[np.arange(len(labels)), labels] = np.where(np.arange(len(labels)) < hits, 1.0, 0.0)
    query = features_of(np.eye(len(labels)), labels)
    return query, features_of(scores.T, np.arange(num_gallery)), scores


def chance_warnings(hits, changed=False, **sizes):
    query, gallery, scores = at_recall(hits, **sizes)
    metrics = evaluate(query, gallery, scores=scores.__getitem__)
    found = warnings_about(metrics, query, gallery, changed)
    return [text for text in found if "random ranking" in text]


def test_chance_is_a_binomial_test_at_one_in_a_thousand():
    """238 queries, chance 1 in 42: 15 hits or more come once in 1486 random rankings, 14 in 523."""
    from scipy.stats import binom

    assert binom.sf(14, 238, 1 / 42) < 1e-3 < binom.sf(13, 238, 1 / 42)
    assert [bool(chance_warnings(hits)) for hits in (0, 6, 14, 15, 100)] == [
        *(True, True, True, False, False),
    ]
    for case in ((15, 238, 1 / 42), (9, 12, 0.2), (900, 37855, 0.02), (3, 3, 0.9)):
        expected = binom.sf(case[0] - 1, *case[1:])
        assert evaluate_gpu._binomial_tail(*case) == pytest.approx(expected, rel=1e-9)


def test_first_five_or_ten_well_above_chance_are_not_random():
    """A small set of 18 pairs: Recall@1 of 11 may be luck, Recall@5 of 89 is none."""
    labels = np.arange(18)
    scores = np.linspace(0.5, 0.4, 18)[None].repeat(18, axis=0)
    scores[labels, labels] = 0.495  # behind the first one or two
    scores[:2, :2] = np.eye(2)
    scores[16:, 16:] = 0
    query, gallery = features_of(np.eye(18), labels), features_of(scores.T, labels)
    metrics = evaluate(query, gallery)
    assert round(metrics["recall@1"]) == 11 and round(metrics["recall@5"]) == 89
    assert not [text for text in warnings_about(metrics, query, gallery) if "random" in text]


def test_under_weather_nothing_is_guessed_about_the_name():
    [plain], [changed] = chance_warnings(3), chance_warnings(3, changed=True)
    assert plain.startswith(changed) and "--name" in plain
    assert changed == "recall@1 1.26 is what random ranking gives (2.38)"
    assert chance_warnings(3, buildings=9) == []


def test_no_chance_warning_where_every_answer_is_right():
    same = features_of(np.eye(12), np.full(12, 4))
    assert evaluate(same, same)["recall@1_chance"] == 100.0
    assert warnings_for(same, same) == []


def test_warnings_about_features():
    query, gallery = retrieval_task(range(12), range(12), noise=0.1)
    longer = query.features.copy()
    longer[:3] *= 2
    [only] = warnings_for(query._replace(features=longer), gallery)
    assert only.startswith("3 of 12 query features are not of norm 1 (norms 1 to 2)")
    collapsed = gallery._replace(features=np.repeat(gallery.features[:1], 12, axis=0))
    assert any(
        text.startswith("all 12 gallery features are the same vector")
        for text in warnings_for(query, collapsed)
    )


# ---------------------------------------------------------------- the command
@pytest.fixture
def saved(tmp_path):
    query, gallery = retrieval_task(QUERIED, np.repeat(BUILDINGS, 3))
    save_features(tmp_path / "pytorch_result.mat", query, gallery)
    return tmp_path / "pytorch_result.mat", query, gallery


def test_command_prints_the_published_line_alone(saved, capsys):
    path, query, gallery = saved
    metrics = main([str(path)])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert metrics == evaluate(query, gallery)
    assert "(70, 32)" in lines[0] and "(285, 32)" in lines[0]
    assert lines[1].startswith("gallery of 285 images: 75 distractors, 0 junk; 0 of 70 queries")
    assert lines[2] == plain_line(query, gallery)
    values = metrics["AP_standard"], metrics["recall@1%"]
    assert lines[3] == "AP_standard:{:.2f} Recall@1%:{:.2f}".format(*values)
    assert len(lines) == 4 and err == ""


def test_published_defect_16_scored_by_a_function_from_any_folder(saved, tmp_path, monkeypatch):
    """Published defect 16: scoring needed a subprocess, the right folder and CUDA."""
    path, query, gallery = saved
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main([str(path)])["AP"] == evaluate(query, gallery)["AP"]
    assert list(elsewhere.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert main([])["AP"] == evaluate(query, gallery)["AP"]


def test_json_file_and_json_output(saved, tmp_path, capsys):
    path = saved[0]
    metrics = main([str(path), "--json", str(tmp_path / "out/result.json")])
    assert json.loads((tmp_path / "out/result.json").read_text()) == metrics
    assert "Recall@1:" in capsys.readouterr().out
    main([str(path), "--json", "-"])
    assert json.loads(capsys.readouterr().out) == metrics


def test_warnings_go_to_stderr(tmp_path, capsys):
    query, gallery = retrieval_task(range(20), range(15), noise=0.1)
    save_features(tmp_path / "some.npz", query, gallery)
    main([str(tmp_path / "some.npz")])
    out, err = capsys.readouterr()
    assert "warning" not in out
    assert err.startswith("warning: 5 of 20 queries have no true match")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["missing.mat"], "evaluate_gpu.py: error: missing.mat not found: run `python test.py`"),
        (["--js", "x.json"], "unrecognized arguments: --js"),
    ],
)
def test_mistakes_exit_with_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "options, notes",
    [
        ("--rerank gnn", ["re-ranked by gnn, k1 26, k2 7, lambda 0"]),
        (
            "--rerank k_reciprocal --rerank_k1 9",
            ["re-ranked by k_reciprocal, k1 9, k2 6, lambda 0.3"],
        ),
        ("--query_expansion 2", ["queries expanded by their first 2 images, alpha 0"]),
        (
            "--multi --ignore_distractors",
            [
                "70 queries of several images, 70 in all",
                "without distractors: 75 of 285 gallery images",
            ],
        ),
    ],
)
def test_the_ranking_stands_before_the_published_line(saved, tmp_path, capsys, options, notes):
    path, query, gallery = saved
    metrics = main([str(path), *options.split(), "--json", str(tmp_path / "m.json")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:-2] == notes and lines[-2] == published_line(metrics)
    assert metrics.pop("protocol") == notes
    assert json.loads((tmp_path / "m.json").read_text()) == {**metrics, "protocol": notes}
    plain = evaluate(query, gallery)
    assert metrics["AP"] != plain["AP"] and metrics["num_queries"] == 70


def test_distractors_are_left_out_by_the_command(saved, capsys):
    """The published loop over the 210 images of the buildings queried, but for Recall@top1."""
    path, query, gallery = saved
    metrics = main([str(path), "--ignore_distractors"])
    known = np.isin(gallery.labels, query.labels)
    rest = features_of(gallery.features[known], gallery.labels[known])
    first = np.array([plain_ranks(query, rest, row)[0] for row in range(70)])
    top = f"Recall@top1:{100 * np.mean(first <= round(2.85) + 1):.2f}"  # of 285, as before
    shorter = plain_line(query, rest).split()
    assert published_line(metrics).split() == [*shorter[:3], top, shorter[4]]
    assert metrics["num_junk"] == 75 and metrics["num_distractors"] == 0


def test_queries_of_several_images_by_the_command(tmp_path, capsys):
    """The mean of noisy images of a building is nearer to it than each."""
    query, gallery = retrieval_task(np.repeat(QUERIED, 6), BUILDINGS)
    save_features(tmp_path / "f.npz", query, gallery)
    metrics = main([str(tmp_path / "f.npz"), "--multi"])
    means = query.features.reshape(70, 6, 32).mean(axis=1)
    assert published_line(metrics) == plain_line(features_of(means, QUERIED), gallery)
    assert metrics["AP"] > evaluate(query, gallery)["AP"] + 10
    assert "70 queries of several images, 420 in all" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        ("--rerank gnn --rerank_k1 356", "--rerank_k1 356: the images of queries and gallery"),
        ("--rerank gnn --device cuda", "--device cuda: --rerank computes on the CPU"),
        ("--query_expansion 286", "--query_expansion 286: the gallery holds 285 images"),
        ("--rerank_k2 3", "--rerank_k2 3 has no effect without --rerank"),
    ],
)
def test_rankings_that_cannot_be_are_one_line(saved, capsys, options, words):
    fails(main, [saved[0], *options.split()], capsys, words)


def test_cuda_without_a_gpu_is_one_clear_line(saved, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = fails(main, [saved[0], "--device", "cuda"], capsys, "torch sees no GPU")
    assert message.endswith("use --device cpu")


def test_too_small_a_memory_is_one_clear_line(saved, monkeypatch, capsys):
    def full(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(evaluation_metrics, "rank_positives", full)
    fails(main, [saved[0]], capsys, "does not fit into this memory: use --device cpu")


HEAVY = "torch torchvision matplotlib"


def modules_after(code, forbidden):
    """Which of the forbidden modules a fresh Python holds after `code`."""
    code = (
        f"import sys, evaluate_gpu\n{code}\n"
        f"print(sorted(set({forbidden!r}.split()) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("suffix", ["npz", "mat"])
def test_scoring_imports_nothing_heavy(tmp_path, suffix):
    query, gallery = retrieval_task(QUERIED, BUILDINGS)
    path = tmp_path / f"result.{suffix}"
    save_features(path, query, gallery)
    assert modules_after(f"evaluate_gpu.main([{str(path)!r}])", f"{HEAVY} scipy") == "[]"


def test_help_imports_nothing_heavy():
    code = "try: evaluate_gpu.main(['--help'])\nexcept SystemExit: pass"
    assert modules_after(code, f"{HEAVY} scipy") == "[]"
