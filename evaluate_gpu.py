"""Ranking metrics of cross-view retrieval, as pure functions and over a saved feature file.

$ python evaluate_gpu.py                              # scores pytorch_result.mat
$ python evaluate_gpu.py result.npz --json result.json
$ python evaluate_gpu.py result.npz --device cuda     # auto takes a GPU only for a large task
$ python evaluate_gpu.py --rerank k_reciprocal        # by neighbours in common
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from evaluation.feature_file import JUNK, check_features, load_features
from runtime.cli import Parser, is_out_of_memory, script
from runtime.files import write_text

BLOCK_SCORES = 2**24  # scores held at a time (64 MiB of float32), where MIN_ROWS allows
MAX_ROWS = 2**12  # queries at a time: more save no time, and cost memory in a short gallery
MIN_ROWS = 128  # a long gallery, perhaps a map of a file, is read once for so many queries
# Multiply-adds from which `auto` imports torch and starts a GPU: some 5 seconds of two CPU cores
# against about 3 to start. An estimate: no GPU was at hand to measure it.
GPU_WORK = 2**38


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
    same_camera = [
        gallery.cameras[rows] == camera
        for rows, camera in zip(positives, query.cameras, strict=True)
    ]
    pairs = list(zip(positives, same_camera, strict=True))
    return (
        [rows[~same] for rows, same in pairs],
        [np.concatenate([junk, rows[same]]) for rows, same in pairs],
    )


# ---------------------------------------------------------------- ranks
def published_order(scores, junk):
    """Gallery indices of one query's scores (N,), best first and without `junk` (J,).

    The order of University1652-Baseline's evaluate_gpu.py: `argsort` reversed, ties included.
    """
    order = np.argsort(scores)[::-1]
    return order[~np.isin(order, junk)] if len(junk) else order


def positive_ranks(scores, positives, junk):
    """Ascending 1-based ranks (P,) of the positives of one query among the non-junk gallery.

    scores (N,), positives (P,) and junk (J,) indices. Equal to the places of `positives` in
    `published_order`, but only what scores at least as high as the worst positive is sorted.
    """
    if len(positives) == 0:
        return np.empty(0, dtype=np.int64)
    own = np.sort(scores[positives])[::-1]  # (P,) best first
    contenders = np.compress(scores >= own[-1], scores)  # 3x the speed of a mask
    above, level = _count_above(contenders, own)
    if len(junk) == 0 and (level - above == 1).all():  # no tie at all, as nearly always
        return above + 1
    counts = (above, level), _count_above(own, own), _count_above(scores[junk], own)
    above, level = (all_ - right - void for all_, right, void in zip(*counts, strict=True))
    if (above != level).any():  # a positive ties with a wrong image: argsort decides
        return np.flatnonzero(np.isin(published_order(scores, junk), positives)) + 1
    return above + np.arange(1, len(own) + 1)


def _count_above(values, own):
    """How many `values` are greater than each of `own` (P,), and how many at least equal."""
    values = np.sort(values)
    return tuple(len(values) - np.searchsorted(values, own, side) for side in ("right", "left"))


def single_positive_ranks(scores, positives, junk):
    """Ranks (B, 1) as `positive_ranks` for B queries of one positive each and the same junk.

    scores (B, N), positives (B,) and junk (J,) indices: two comparisons of the whole block.
    """
    own = scores[np.arange(len(scores)), positives][:, np.newaxis]  # (B, 1)
    others = scores[:, junk]  # (B, J)

    def count(mask):
        return mask.sum(axis=1, dtype=np.int32)  # twice the speed of the default int64

    ranks = count(scores > own) - count(others > own) + 1
    rivals = count(scores >= own) - count(others >= own)
    for row in np.flatnonzero(rivals > ranks):
        ranks[row] = positive_ranks(scores[row], positives[row : row + 1], junk)[0]
    return ranks[:, np.newaxis].astype(np.int64)


def rank_positives(query, gallery, block_size=None, device="cpu", scores=None):
    """Ranks of the positives of every query, and the length of each query's ranking.

    Scores are dot products, computed for `block_size` queries at a time (default: as many as make
    64 MiB of scores, but 128 to 4096), so memory is bounded by one block and never holds the
    Nq x Ng matrix. `device` is "cpu" for NumPy, else the name of a device of torch or "auto" (see
    `choose_device`). `scores`, instead of dot products: a function from a slice of B queries to
    their scores (B, Ng), higher is better, which NumPy ranks whatever `device` says.

    Returns (ranks, lengths): a list of Nq ascending int64 arrays of 1-based ranks, empty where a
    query has no positive, and (Nq,) int64, the non-junk gallery images of each query.
    """
    num_query, num_gallery = len(query.labels), len(gallery.labels)
    block_size = block_size or min(max(BLOCK_SCORES // num_gallery, MIN_ROWS), MAX_ROWS)
    blocks = [slice(start, start + block_size) for start in range(0, num_query, block_size)]
    positives, junk = find_matches(query, gallery)
    device = "cpu" if scores else choose_device(device, query, gallery)
    if device == "cpu":
        scores = scores or _dot_products(query.features, gallery.features, block_size)
        ranks = _rank_blocks(scores, positives, junk, blocks)
    else:
        features = query.features, gallery.features
        ranks = _rank_blocks_torch(*features, positives, junk, blocks, device)
    return ranks, num_gallery - np.fromiter(map(len, junk), np.int64, num_query)


def _dot_products(queries, gallery, block_size):
    """`scores` of `rank_positives`, each time in the same array."""
    # A fresh one a block costs page faults, and two are held at times.
    size = min(block_size, len(queries)), len(gallery)
    buffer = np.empty(size, dtype=np.result_type(queries, gallery))

    def scores(rows):
        block = queries[rows]
        return np.matmul(block, gallery.T, out=buffer[: len(block)])  # (B, Ng)

    return scores


def _rank_blocks(scores_of, positives, junk, blocks):
    """The ranks of `rank_positives` by NumPy, whose product has all cores already."""
    ranks = []
    for rows in blocks:
        scores = scores_of(rows)  # (B, Ng)
        shared = junk[rows.start]
        shared_junk = all(each is shared for each in junk[rows])
        if shared_junk and all(len(each) == 1 for each in positives[rows]):
            ranks.extend(single_positive_ranks(scores, np.concatenate(positives[rows]), shared))
        else:
            ranks.extend(map(positive_ranks, scores, positives[rows], junk[rows]))
    return ranks


def _rank_blocks_torch(queries, gallery, positives, junk, blocks, device):
    """The ranks of `rank_positives` by torch: each score is searched among the sorted positives.

    Rows where a positive ties with a wrong image are ranked by NumPy from the same scores.
    """
    import torch

    gallery = torch.tensor(gallery, device=device)  # (Ng, D)
    ranks = []
    for rows in blocks:
        right, right_rows, right_slots = _flat_index(positives[rows])
        void, void_rows, _ = _flat_index(junk[rows])
        scores = torch.tensor(queries[rows], device=device) @ gallery.T  # (B, Ng)
        width = right_slots.max(initial=0) + 1
        own = torch.full((len(scores), width), torch.inf, dtype=scores.dtype, device=device)
        own[right_rows, right_slots] = scores[right_rows, right]
        own = own.sort(dim=1).values  # (B, P) worst first, padded with infinity
        rivals = scores.clone()
        rivals[right_rows, right] = -torch.inf
        rivals[void_rows, void] = -torch.inf
        beaten = torch.searchsorted(own, rivals)  # (B, Ng) positives below each score
        counts = torch.zeros(len(own), width + 1, dtype=torch.int64, device=device)
        counts.scatter_add_(1, beaten, beaten.new_ones(1, 1).expand_as(beaten))
        above = counts.flip(1).cumsum(1).flip(1)[:, 1:].cpu().numpy()  # (B, P) rivals above each
        tied = (own.gather(1, beaten.clamp_(max=width - 1)) == rivals).any(dim=1).cpu().numpy()
        sizes = [len(each) for each in positives[rows]]
        above += np.array(sizes)[:, np.newaxis] - np.arange(width)  # now ranks, worst first
        found = [above[row, :size][::-1] for row, size in enumerate(sizes)]
        for row in np.flatnonzero(tied):
            images, unseen = positives[rows][row], junk[rows][row]
            found[row] = positive_ranks(scores[row].cpu().numpy(), images, unseen)
        ranks.extend(found)
    return ranks


def _flat_index(groups):
    """All members of B arrays in one, and of each its group's number and its place in the group."""
    counts = np.array([len(group) for group in groups])
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.concatenate(groups), np.repeat(np.arange(len(groups)), counts), places


def choose_device(device, query, gallery):
    """ "cpu" (NumPy) or the torch device that computes the ranks, for "auto", "cpu" or "cuda".

    "auto" takes a GPU where there is one and the task pays for importing torch, or torch is there
    already; a machine without an NVIDIA driver does not import it. Raises ValueError for "cuda"
    without a GPU.
    """
    work = len(query.labels) * gallery.features.size
    if device == "auto":
        driver = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
        if not driver or (work < GPU_WORK and "torch" not in sys.modules):
            return "cpu"
    elif device != "cuda":
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


# ---------------------------------------------------------------- metrics
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


def evaluate(query, gallery, block_size=None, device="cpu", scores=None):
    """Metrics of a ranking task, as plain Python numbers; rates in percent, 0..100.

    query, gallery: `Features`; block_size, device, scores: see `rank_positives`. Raises ValueError
    for features that cannot be compared.

    As published (University1652-Baseline), with N the gallery length, junk included:
    - `recall@K`: queries with a positive among their first K images, junk left out. In a gallery
      of fewer than K images that is a positive anywhere, where the published code fails.
    - `recall@top1`: recall at K = round(0.01 N) + 1. This is one image more than 1 %.
    - `AP`: mean of `average_precision_published`.
    Queries without a positive stay in the divisor of all of these and count 0. The numbers equal
    the published loop's for the same scores; float rounding of scores may move the sixth digit.

    Beside them: `recall@1%` with K = max(1, round(0.01 N)); `AP_standard`, the mean of
    `average_precision_standard`; `recall@1_chance`, the expected recall@1 of a random ranking;
    `num_queries`; `num_gallery` = N; `num_junk`, labelled -1; `num_distractors`, gallery images
    of a label that no query has, junk excluded; `num_unmatched`, queries without a positive.
    """
    check_features(query, gallery)
    ranks, lengths = rank_positives(query, gallery, block_size, device, scores)
    first = np.array([each[0] if len(each) else np.inf for each in ranks])
    count = np.fromiter(map(len, ranks), np.int64, len(ranks))
    num_gallery = len(gallery.labels)
    one_percent = round(0.01 * num_gallery)
    known = np.isin(gallery.labels, query.labels) | (gallery.labels == JUNK)

    def recall(rank):
        return float(100 * np.mean(first <= rank))

    return {
        "recall@1": recall(1),
        "recall@5": recall(5),
        "recall@10": recall(10),
        "recall@top1": recall(one_percent + 1),
        "AP": 100 * mean_over_queries(average_precision_published, ranks),
        "AP_standard": 100 * mean_over_queries(average_precision_standard, ranks),
        "recall@1%": recall(max(1, one_percent)),
        "recall@1_chance": float(100 * np.mean(count / np.maximum(lengths, 1))),
        "num_queries": len(ranks),
        "num_gallery": num_gallery,
        "num_distractors": int(np.count_nonzero(~known)),
        "num_junk": int(np.count_nonzero(gallery.labels == JUNK)),
        "num_unmatched": int(np.count_nonzero(count == 0)),
    }


# ---------------------------------------------------------------- what a reader should know
def published_line(metrics):
    """The line that University1652-Baseline prints and papers quote."""
    recalls = " ".join(f"Recall@{k}:{metrics[f'recall@{k}']:.2f}" for k in (1, 5, 10, "top1"))
    return f"{recalls} AP:{metrics['AP']:.2f}"


def warnings_about(metrics, query, gallery):
    """Sentences about results that are numbers but mean nothing; [] where all looks well."""
    found = []
    unmatched, total = metrics["num_unmatched"], metrics["num_queries"]
    if unmatched == total:
        found.append(
            "no query has a true match in the gallery: do both folders name the same buildings?"
        )
    elif unmatched:
        found.append(
            f"{unmatched} of {total} queries have no true match in the gallery and count as 0"
        )
    if unmatched < total and _at_chance(metrics, query):
        found.append(
            f"recall@1 {metrics['recall@1']:.2f} is what random ranking gives "
            f"({metrics['recall@1_chance']:.2f}): do the features come from the trained network, "
            f"with the right --name and the right view of each folder?"
        )
    for name, side in (("query", query), ("gallery", gallery)):
        found.extend(_warnings_about_features(name, side.features))
    return found


def _at_chance(metrics, query):
    """Is recall@1 within two standard deviations of chance, and not far above it?

    Images of one building fall together, so buildings are counted as the independent trials.
    """
    buildings = len(np.unique(query.labels))
    chance, recall = metrics["recall@1_chance"] / 100, metrics["recall@1"] / 100
    deviation = np.sqrt(chance * (1 - chance) / buildings)
    # Under ten buildings even a random ranking may look good, and a good one unlucky.
    return buildings >= 10 and recall <= min(chance + 2 * deviation, 3 * chance) < 1


def _warnings_about_features(name, features):
    found = []
    norms = np.sqrt(np.einsum("nd,nd->n", features, features))  # no (N, D) temporary
    wrong = int(np.count_nonzero(np.abs(norms - 1) > 1e-3))
    if wrong:
        found.append(
            f"{wrong} of {len(norms)} {name} features are not of norm 1 (norms {norms.min():.3g} "
            f"to {norms.max():.3g}): their scores are not cosine similarities"
        )
    low, high = features.min(axis=0), features.max(axis=0)  # (D,); again no temporary
    if len(features) > 1 and (high - low).max() <= 1e-4 * max(high.max(), -low.min()):
        found.append(
            f"all {len(features)} {name} features are the same vector: the network has collapsed, "
            f"or was given the same image each time"
        )
    return found


def report(metrics, query, gallery, notes=()):
    """The text that the command prints, the published line alone on its own line.

    `notes` say how the ranking differs from the plain one (see `rerank.apply_protocol`).
    """
    return "\n".join(
        [
            f"query features {query.features.shape}, gallery features {gallery.features.shape}",
            f"gallery of {metrics['num_gallery']} images: {metrics['num_distractors']} "
            f"distractors, {metrics['num_junk']} junk; {metrics['num_unmatched']} of "
            f"{metrics['num_queries']} queries without a true match",
            *notes,
            published_line(metrics),
            f"AP_standard:{metrics['AP_standard']:.2f} Recall@1%:{metrics['recall@1%']:.2f}",
        ]
    )


# ---------------------------------------------------------------- the command
def parse_args(argv=None):
    from evaluation.rerank import add_protocol_options, protocol_of

    parser = Parser(
        description="Score a feature file: Recall@K and AP as published, and beside them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "features",
        nargs="?",
        default="pytorch_result.mat",
        metavar="FILE",
        help="feature file that test.py wrote, .mat or .npz",
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where to rank; auto: on a GPU if there is one and the task is large",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write all metrics to this file; - prints them instead of the text",
    )
    add_protocol_options(parser)
    opts = parser.parse_args(argv)
    opts.protocol = protocol_of(opts, parser)
    if opts.device == "cuda" and opts.rerank != "none":
        parser.error("--device cuda: --rerank computes on the CPU, leave one of them out")
    return opts


@script
def main(argv=None) -> dict:
    from evaluation.rerank import apply_protocol

    opts = parse_args(argv)
    query, gallery = load_features(opts.features, paths=False)
    query, gallery, scores, notes = apply_protocol(opts.protocol, query, gallery)
    try:
        metrics = evaluate(query, gallery, device=opts.device, scores=scores)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError("the gallery does not fit into this memory: use --device cpu") from None
    if notes:
        metrics["protocol"] = notes
    text = json.dumps(metrics, indent=2)
    print(text if opts.json == "-" else report(metrics, query, gallery, notes))
    if opts.json and opts.json != "-":
        write_text(opts.json, text + "\n")
    for warning in warnings_about(metrics, query, gallery):
        print(f"warning: {warning}", file=sys.stderr)
    return metrics


if __name__ == "__main__":
    main()
