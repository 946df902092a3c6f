"""How a task is ranked where not in the plain way: the options, and what they do to its features.

$ python evaluate_gpu.py --rerank gnn
$ python test.py --name two_view --multi --ignore_distractors
"""

from typing import NamedTuple

import numpy as np

from evaluation.feature_file import JUNK, of_norm_1
from runtime.cli import number_within, positive_int


class Ranking(NamedTuple):
    """How a task is ranked; the defaults are the plain way."""

    multi: bool = False  # see `merge_queries`
    ignore_distractors: bool = False  # see `distractors_as_junk`
    query_expansion: int = 0  # see `rerank.expand_queries`; 0 is none
    alpha: float = 0.0
    rerank: str = "none"  # else `k_reciprocal` or `gnn`, see `rerank`, which explains the numbers
    k1: int = 0
    k2: int = 0
    weight: float = 0.0


# k1, k2 and the weight of the plain distance or score, as published.
RERANKERS = {"k_reciprocal": (20, 6, 0.3), "gnn": (26, 7, 0.0)}


# ---------------------------------------------------------------- options
def add_ranking_options(parser):
    """Add the options of which `ranking_of` makes a `Ranking`, the same in every script."""
    group = parser.add_argument_group("ranking, if not the plain one of the whole gallery")
    text = "all query images of a building are one query: the mean of their features"
    group.add_argument("--multi", action="store_true", help=text)
    group.add_argument(
        "--ignore_distractors",
        action="store_true",
        help="gallery images of buildings that no query shows take no place in the ranking, as in "
        "the code of Sample4Geo and its descendants; not comparable with the full gallery",
    )
    text = "re-rank by the neighbours that images have in common, on the CPU"
    group.add_argument("--rerank", default="none", choices=("none", *RERANKERS), help=text)
    k1, k2, weight = (
        ", ".join(f"{name} {value}" for name, value in zip(RERANKERS, values, strict=True))
        for values in zip(*RERANKERS.values(), strict=True)
    )
    for option, kind, text in (
        ("query_expansion K", positive_int, "add the first K images to a query and search again"),
        ("query_expansion_alpha A", number_within(0), "weight them by cosine ** A, else all equal"),
        ("rerank_k1 K", positive_int, f"neighbours of an image; if left out: {k1}"),
        ("rerank_k2 K", positive_int, f"neighbours averaged over, 1: none; if left out: {k2}"),
        ("rerank_lambda L", number_within(0, 1), f"share of plain scores; if left out: {weight}"),
    ):
        name, metavar = option.split()
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)


def ranking_of(opts, parser):
    """The `Ranking` that the options of `add_ranking_options` ask for; else parser.error."""
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
        pairs = zip(numbers, RERANKERS[opts.rerank], strict=True)
        numbers = [published if given is None else given for given, published in pairs]
        if numbers[1] > numbers[0]:
            parser.error(
                f"--rerank_k2 {numbers[1]} exceeds --rerank_k1 {numbers[0]}: it counts the nearest "
                "of these, so give at most as many"
            )
    if opts.query_expansion_alpha is not None and opts.query_expansion is None:
        parser.error("--query_expansion_alpha has no effect without --query_expansion K")
    expansion = opts.query_expansion or 0, opts.query_expansion_alpha or 0.0
    return Ranking(opts.multi, opts.ignore_distractors, *expansion, opts.rerank, *numbers)


# ---------------------------------------------------------------- what they do
def apply_ranking(ranking, query, gallery):
    """A task as a `Ranking` has it: (query, gallery, scores, notes).

    query, gallery: `Features`, as read from the feature file, and as given to `evaluate`; scores:
    its argument of that name, None for dot products; notes: a phrase for each deviation from the
    plain way, [] for none. Raises ValueError where there are too few images for a number asked for.
    """
    notes = []
    scores = None
    if ranking.multi:
        total = len(query.labels)
        query = merge_queries(query)
        notes.append(f"{len(query.labels)} queries of several images, {total} in all")
    if ranking.ignore_distractors:
        gallery, count = distractors_as_junk(query, gallery)
        notes.append(f"without distractors: {count} of {len(gallery.labels)} gallery images")
    if not ranking.query_expansion and ranking.rerank == "none":
        return query, gallery, scores, notes
    from evaluation import rerank

    if ranking.query_expansion:
        count, alpha = ranking.query_expansion, ranking.alpha
        features = rerank.expand_queries(query.features, gallery.features, count, alpha)
        query = query._replace(features=features)
        notes.append(f"queries expanded by their first {count} images, alpha {alpha:g}")
    if ranking.rerank != "none":
        numbers = ranking.k1, ranking.k2, ranking.weight
        scores = rerank.METHODS[ranking.rerank](query.features, gallery.features, *numbers)
        text = "k1 {}, k2 {}, lambda {:g}".format(*numbers)
        notes.append(f"re-ranked by {ranking.rerank}, {text}")
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
    sums = np.add.reduceat(of_norm_1(query.features)[order], starts)
    return query._replace(
        features=of_norm_1(sums),
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
