"""Metrics of a ranking task: Recall@K and AP as published, and better definitions beside them."""

import numpy as np

from evaluation.feature_file import JUNK, check_features
from evaluation.ranking import rank_positives


def average_precision_published(ranks):
    """Average precision of the published line, by the trapezoid rule; ranks (..., P) -> (...).

    With ascending 1-based ranks r_1..r_P: the mean of ((i-1)/(r_i-1) + i/r_i) / 2, the first
    fraction being 1 where r_i = 1. One positive at rank 2 gives 0.25. Source: compute_ap.cpp of
    the Oxford Buildings benchmark (Philbin et al., CVPR 2007), as in University1652-Baseline.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    hits = np.arange(1, ranks.shape[-1] + 1)
    before = np.where(ranks == 1, 1.0, (hits - 1) / np.maximum(ranks - 1, 1))
    return ((before + hits / ranks) / 2).mean(axis=-1)


def average_precision_standard(ranks):
    """Average precision as the mean precision at the positives; ranks (..., P) -> (...).

    With ascending 1-based ranks r_1..r_P: the mean of i/r_i. One positive at rank 2 gives 0.5.
    Source: Manning et al., Introduction to Information Retrieval, 2008, section 8.4.
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    return (np.arange(1, ranks.shape[-1] + 1) / ranks).mean(axis=-1)


def mean_over_queries(average_precision, ranks):
    """Mean of an average precision over Nq arrays of ranks; a query without a match counts 0."""
    count = np.fromiter(map(len, ranks), np.int64, len(ranks))
    flat, starts = np.concatenate(ranks), np.cumsum(count) - count
    total = 0.0
    for size in np.unique(count[count > 0]):  # queries of as many positives at once
        places = starts[count == size][:, np.newaxis] + np.arange(size)
        total += average_precision(flat[places]).sum()
    return float(total / len(ranks))


def first_ranks(ranks):
    """Rank (Nq,) of the first positive of every query; infinity where it has none."""
    return np.array([each[0] if len(each) else np.inf for each in ranks])


def recall(first, k):
    """Percent of queries whose first positive has a rank of at most k; first (Nq,), 1-based."""
    return float(100 * np.mean(np.asarray(first) <= k))


def tie_metrics(bounds, num_gallery):
    """{} without ties, else their number and the recall with all of them against the queries.

    bounds: (Nq, 2) of `ranking.rank_positives`. `num_tied`: queries whose first positive scores
    like a wrong image, as in a network that has collapsed; the published order decides then, by
    the order of the gallery. `recall@K_tied_last`, for K = 1, 5, 10 and top1: of the ranks that
    these queries have where every such wrong image comes first.
    """
    num_tied = int(np.count_nonzero(bounds[:, 0] < bounds[:, 1]))
    last = np.where(bounds[:, 1] > 0, bounds[:, 1], np.inf)
    places = {"1": 1, "5": 5, "10": 10, "top1": one_percent(num_gallery)["recall@top1"]}
    recalls = {f"recall@{name}_tied_last": recall(last, k) for name, k in places.items()}
    return {"num_tied": num_tied} | recalls if num_tied else {}


def one_percent(num_gallery):
    """{metric: K} of the four readings of "1 %" of a gallery of N images.

    - `recall@1%_floor`: K = floor(N / 100). SAFA and its successors, Sample4Geo. 88 of CVUSA's
      8884; 0, so a recall of 0, in a gallery of less than 100.
    - `recall@1%_floor+1`: one more, 89. CVM-Net (Hu et al., CVPR 2018), VIGOR's own code.
    - `recall@top1`: K = round(N / 100) + 1, 90. University1652-Baseline, SUES-200, GTA-UAV.
    - `recall@1%`: K = max(1, round(N / 100)), 89. As `evaluate`.
    """
    return {
        "recall@1%_floor": num_gallery // 100,
        "recall@1%_floor+1": num_gallery // 100 + 1,
        "recall@top1": round(0.01 * num_gallery) + 1,
        "recall@1%": max(1, round(0.01 * num_gallery)),
    }


def evaluate(query, gallery, block_size=None, device="cpu", scores=None):
    """Metrics of a ranking task, as plain Python numbers; rates in percent, 0..100.

    query, gallery: `Features`; block_size, device, scores: see `ranking.rank_positives`. Raises
    ValueError for features that cannot be compared.

    As published (University1652-Baseline): `recall@K`, queries with a positive among their first K
    images, junk left out (in a gallery of fewer images the published code fails); `recall@top1`,
    one image more than 1 %, see `one_percent`; `AP`, the mean of `average_precision_published`.
    Queries without a positive count 0 in all of these. The numbers equal the published loop's for
    the same scores; float rounding of scores may move the sixth digit.

    Beside them: `recall@1%`; `AP_standard`, the mean of `average_precision_standard`;
    `recall@1_chance`, the expected recall@1 of a random ranking; `num_queries`; `num_gallery`, junk
    included; `num_junk`, labelled -1; `num_distractors`, gallery images of a label that no query
    has, junk excluded; `num_unmatched`, queries without a positive; where scores tie, the
    numbers of `tie_metrics`.
    """
    check_features(query, gallery)
    ranks, lengths, bounds = rank_positives(query, gallery, block_size, device, scores)
    first = first_ranks(ranks)
    count = np.fromiter(map(len, ranks), np.int64, len(ranks))
    num_gallery = len(gallery.labels)
    percent = one_percent(num_gallery)
    known = np.isin(gallery.labels, query.labels) | (gallery.labels == JUNK)
    return {
        "recall@1": recall(first, 1),
        "recall@5": recall(first, 5),
        "recall@10": recall(first, 10),
        "recall@top1": recall(first, percent["recall@top1"]),
        "AP": 100 * mean_over_queries(average_precision_published, ranks),
        "AP_standard": 100 * mean_over_queries(average_precision_standard, ranks),
        "recall@1%": recall(first, percent["recall@1%"]),
        "recall@1_chance": float(100 * np.mean(count / np.maximum(lengths, 1))),
        "num_queries": len(ranks),
        "num_gallery": num_gallery,
        "num_distractors": int(np.count_nonzero(~known)),
        "num_junk": int(np.count_nonzero(gallery.labels == JUNK)),
        "num_unmatched": int(np.count_nonzero(count == 0)),
        **tie_metrics(bounds, num_gallery),
    }


def published_line(metrics):
    """The line that University1652-Baseline prints and papers quote."""
    return f"{recall_line(metrics)} AP:{metrics['AP']:.2f}"


def tie_line(metrics):
    """The line about the numbers of `tie_metrics`; "" without ties."""
    if "num_tied" not in metrics:
        return ""
    return (
        f"{metrics['num_tied']} of {metrics['num_queries']} queries score a wrong item like their "
        f"first match; with the wrong one first: {recall_line(metrics, '_tied_last')}"
    )


def recall_line(metrics, suffix="", places=(1, 5, 10, "top1")):
    """ "Recall@1:81.25 Recall@5:..." of the metrics `recall@<place><suffix>`."""
    return " ".join(f"Recall@{k}:{metrics[f'recall@{k}{suffix}']:.2f}" for k in places)
