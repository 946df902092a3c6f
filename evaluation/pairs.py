"""Tasks of one true gallery image a query, as CVUSA, CVACT and VIGOR are scored."""

from typing import NamedTuple

import numpy as np

from evaluation.metrics import one_percent, recall, recall_line
from evaluation.ranking import LEVEL, find_matches, score_blocks

PLACES = (1, 5, 10)  # of the recalls that are published


class PairCounts(NamedTuple):
    """How many images lie above or level with each query's one true image, (Nq,) float64 each.

    Infinity stands where the gallery has no true image.
    """

    above: np.ndarray  # images of a higher score
    wrong: np.ndarray  # of these, those that are no semi-positives of the query
    tied: np.ndarray  # other images of the same score, up to ranking.LEVEL
    against: np.ndarray  # above, if those were above


def count_above(query, gallery, semi_positives=None, block_size=None, scores=None):
    """`PairCounts` of a task with one true gallery image a query (CVUSA, CVACT, VIGOR).

    The rank is 1 + above: a tie counts in favour of the true image, as published (Sample4Geo,
    evaluate/cvusa_and_cvact.py and vigor.py; CVM-Net and VIGOR count smaller distances alike).
    Junk, labelled -1, is left out. `semi_positives`: Nq arrays of gallery indices, or None.
    `block_size` and `scores`: see `ranking.score_blocks`. Raises ValueError where a query has
    several true images.
    """
    positives, junk = find_matches(query, gallery)
    several = [row for row, images in enumerate(positives) if len(images) > 1]
    if several:
        raise ValueError(
            f"{len(several)} queries have more than one true gallery image, first label "
            f"{query.labels[several[0]]}: this protocol is for pairs, score with evaluate_gpu.py"
        )
    counts = PairCounts(*np.full((4, len(positives)), np.inf))
    sides = query.features, gallery.features
    for rows, block in score_blocks(*sides, scores, block_size, "ranking"):
        for row, values in enumerate(block, start=rows.start):
            if len(positives[row]) == 0:
                continue
            true_score, hidden = values[positives[row][0]], values[junk[row]]
            above, first, against = (
                np.count_nonzero(compare(values, limit)) - np.count_nonzero(compare(hidden, limit))
                for compare, limit in (
                    (np.greater, true_score),
                    (np.greater, true_score + LEVEL),
                    (np.greater_equal, true_score - LEVEL),
                )
            )
            against -= 1  # the true image
            counts.above[row], counts.wrong[row] = above, above
            counts.tied[row], counts.against[row] = against - first, against
            if semi_positives is not None:
                near = np.asarray(semi_positives[row], dtype=np.int64)
                near = np.setdiff1d(near, junk[row])  # of repeated ones, one
                counts.wrong[row] -= np.count_nonzero(values[near] > true_score)
    return counts


def evaluate_pairs(query, gallery, semi_positives=None, block_size=None, scores=None):
    """Metrics of CVUSA, CVACT and VIGOR; rates in percent.

    `recall@1`, `@5`, `@10` and the four of `one_percent`, by the ranks of `count_above`;
    `num_tied`, queries with another image of the true one's score, and if there are any
    `recall@1_tied_last`, `@5`, `@10`, with those before it; `recall@1_chance`, of a random ranking;
    `num_queries`, `num_gallery` (junk included, the N of 1 %) and `num_unmatched`, queries
    without a true image: they count as missed. Where `semi_positives` are given,
    `num_without_semi_positives` and `hit_rate`: queries whose true image is beaten by none but its
    semi-positives. It is no hit where a wrong image comes between, even if the first image covers
    the place (VIGOR, Zhu et al., CVPR 2021, train_SAFA.py; Sample4Geo, evaluate/vigor.py).
    """
    counts = count_above(query, gallery, semi_positives, block_size, scores)
    num_gallery = len(gallery.labels)
    ranks = {f"recall@{k}": k for k in PLACES} | one_percent(num_gallery)
    metrics = {name: recall(counts.above + 1, k) for name, k in ranks.items()}
    unmatched = np.isinf(counts.above)
    num_tied = int(np.count_nonzero((counts.tied > 0) & ~unmatched))
    if num_tied:
        for k in PLACES:
            metrics[f"recall@{k}_tied_last"] = recall(counts.against + 1, k)
    if semi_positives is not None:
        metrics["hit_rate"] = float(100 * np.mean(counts.wrong == 0))
        metrics["num_without_semi_positives"] = sum(len(images) == 0 for images in semi_positives)
    return metrics | {
        "recall@1_chance": float(100 * np.mean(~unmatched) / num_gallery),
        "num_queries": len(query.labels),
        "num_gallery": num_gallery,
        "num_unmatched": int(unmatched.sum()),
        "num_tied": num_tied,
    }


def describe_pairs(metrics):
    """Lines of text for what `evaluate_pairs` returned, and CVACT's recall within 5 metres."""
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
        recall_line(metrics, places=PLACES),
        f"Recall@1% of {metrics['num_gallery']}: " + ", ".join(shares),
    ]
    near = [name for name in metrics if name.endswith("_5m")]
    lines.append(" ".join(f"{name.capitalize()}:{metrics[name]:.2f}" for name in near))
    of_all = f"of {metrics['num_queries']} queries"
    if "hit_rate" in metrics:
        lines.append(f"Hit rate:{metrics['hit_rate']:.2f}")
        if metrics["num_without_semi_positives"]:
            lines.append(f"{metrics['num_without_semi_positives']} {of_all} have no semi-positives")
    if metrics["num_tied"]:
        lines.append(
            f"{metrics['num_tied']} {of_all} score another image like the true one, which counts "
            f"in favour, as published; against: {recall_line(metrics, '_tied_last', PLACES)}"
        )
    return lines
