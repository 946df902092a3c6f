"""Recall@K and AP of a feature file as published; with --protocol as other data sets are scored.

$ python evaluate_gpu.py                              # scores pytorch_result.mat
$ python evaluate_gpu.py result.npz --json result.json
$ python evaluate_gpu.py --rerank k_reciprocal        # re-ranked by shared neighbours
$ python evaluate_gpu.py result.npz --protocol vigor --semi_positives data/vigor/semi_positives.csv

As a library: `evaluate(query, gallery)` of two `Features`; what it computes stands in
`evaluation.metrics`, the rankings under it in `evaluation.ranking`.
"""

import json
import math
import sys

import numpy as np

from evaluation import geotext, protocols
from evaluation.feature_file import FEATURE_FILE, load_features, warn_of_newer
from evaluation.metrics import evaluate, published_line, tie_line
from evaluation.ranking_options import Ranking, add_ranking_options, apply_ranking, ranking_of
from runtime.cli import Parser, example_in, is_out_of_memory, script
from runtime.files import write_text
from runtime.printing import printable


# ---------------------------------------------------------------- what a reader should know
def warnings_about(metrics, query, gallery, changed=False):
    """Sentences about results that are numbers but mean nothing; [] where all looks well.

    `changed`: images were tested under weather or a perturbation, which may well blind a network,
    or by one that was not trained.
    """
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
        guess = (
            ": do the features come from the trained network, with the right --name and the right "
            "view of each folder?"
        )
        found.append(
            f"recall@1 {metrics['recall@1']:.2f} is what random ranking gives "
            f"({metrics['recall@1_chance']:.2f}){'' if changed else guess}"
        )
    for name, side in (("query", query), ("gallery", gallery)):
        found.extend(_warnings_about_features(name, side.features))
    return found


def _at_chance(metrics, query):
    """Could a random ranking have found as much? A binomial test at one in a thousand.

    Of the queries that find a match among their first 1, 5 and 10 images. K times the chance of one
    image is the most that K images have. Under ten buildings nothing can be told.
    """
    total, chance = metrics["num_queries"], metrics["recall@1_chance"] / 100
    above = [
        _binomial_tail(round(metrics[f"recall@{k}"] / 100 * total), total, k * chance) < 1e-3
        for k in (1, 5, 10)
    ]
    return len(np.unique(query.labels)) >= 10 and chance < 1 and not any(above)


def _binomial_tail(hits, total, chance):
    """Probability of at least `hits` in `total` trials; 1 where `hits` are no surprise."""
    if hits <= total * chance:
        return 1.0
    ways = math.lgamma(total + 1) - math.lgamma(hits + 1) - math.lgamma(total - hits + 1)
    term = math.exp(ways + hits * math.log(chance) + (total - hits) * math.log1p(-chance))
    tail = 0.0
    for count in range(hits, total + 1):
        tail += term
        term *= (total - count) / (count + 1) * chance / (1 - chance)
    return tail


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

    `notes` say how the ranking differs from the plain one (see `ranking_options.apply_ranking`).
    """
    return "\n".join(
        [
            f"query features {query.features.shape}, gallery features {gallery.features.shape}",
            f"gallery of {metrics['num_gallery']} images: {metrics['num_distractors']} "
            f"distractors, {metrics['num_junk']} junk; {metrics['num_unmatched']} of "
            f"{metrics['num_queries']} queries without a true match",
            *notes,
            published_line(metrics),
            *filter(None, [tie_line(metrics)]),
            f"AP_standard:{metrics['AP_standard']:.2f} Recall@1%:{metrics['recall@1%']:.2f}",
        ]
    )


# ---------------------------------------------------------------- the command
def parse_args(argv=None):
    """Options of the command; combinations that cannot be end the program."""
    parser = Parser(
        description="Score a feature file: Recall@K and AP as published, and beside them.",
        epilog=example_in(__doc__),
    )
    parser.add_argument(
        "features",
        nargs="*",
        default=[FEATURE_FILE],
        metavar="FILE",
        help="feature file that test.py wrote, .mat or .npz; of --protocol sues200 one a height, "
        "of geotext one, or one for each platform",
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where to rank; auto: on a GPU if there is one and there are over 10^9 pairs of a "
        "query and a gallery image, else on the CPU",
    )
    text = "also write all metrics to this file; - prints them instead of the text"
    parser.add_argument("--json", metavar="FILE", help=text)
    add_ranking_options(parser)
    protocols.add_protocol_options(parser)
    opts = parser.parse_args(argv)
    opts.ranking = ranking_of(opts, parser)
    protocols.check_protocol_options(opts, parser)
    for name in ("rerank", "protocol"):
        if opts.device == "cuda" and getattr(opts, name) not in ("none", None, "sues200"):
            parser.error(f"--device cuda: --{name} computes on the CPU, leave one of them out")
    if opts.protocol == "geotext" and opts.ranking != Ranking():
        parser.error(
            "--protocol geotext ranks both ways round, in the plain way: leave out --multi, "
            "--ignore_distractors, --query_expansion and --rerank"
        )
    return opts


def score_file(path, opts):
    """(metrics, text, warnings) of a feature file without --protocol."""
    query, gallery = load_features(path, paths=False)
    query, gallery, scores, notes = apply_ranking(opts.ranking, query, gallery)
    try:
        metrics = evaluate(query, gallery, device=opts.device, scores=scores)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError("the gallery does not fit into this memory: use --device cpu") from None
    if notes:
        metrics["protocol"] = notes
    text = report(metrics, query, gallery, notes)
    return metrics, text, warnings_about(metrics, query, gallery)


def score_heights(opts):
    """(metrics, text, warnings) of SUES-200's feature files, one read at a time."""
    heights, warnings = {}, []
    for height, path in zip(opts.heights, opts.features, strict=True):
        heights[height], _, found = score_file(path, opts)
        warnings += [f"{height} m: {warning}" for warning in found]
    metrics = protocols.mean_over_heights(heights)
    notes = heights[opts.heights[0]].get("protocol", [])
    return metrics, "\n".join([*notes, protocols.format_protocol(metrics)]), warnings


def score_protocol(opts):
    """(metrics, text, warnings) of a feature file by --protocol."""
    if len(opts.features) > 1:
        query, gallery = geotext.join_files(opts.features)
    else:
        query, gallery = load_features(opts.features[0])
    query, gallery, scores, notes = apply_ranking(opts.ranking, query, gallery)
    files = {name: getattr(opts, name) for name in protocols.READERS}
    metrics = protocols.evaluate_protocol(opts.protocol, query, gallery, scores, **files)
    text = "\n".join([*notes, protocols.format_protocol(metrics)])
    if notes:
        metrics["protocol"] = notes
    if "answer" in metrics:
        written = protocols.write_answer(opts.answer, metrics.pop("answer"))
        text += f"\nwritten: {' and '.join(map(str, written))}"
    plain = metrics.get("text_to_image", metrics)
    return metrics, text, warnings_about(plain, query, gallery) if "recall@1" in plain else []


@script
def main(argv=None) -> dict:
    """Score, print and write; returns the metrics."""
    opts = parse_args(argv)
    if opts.features == [FEATURE_FILE]:
        warn_of_newer(FEATURE_FILE)
    if opts.protocol is None:
        metrics, text, warnings = score_file(opts.features[0], opts)
    elif opts.protocol == "sues200":
        metrics, text, warnings = score_heights(opts)
    else:
        metrics, text, warnings = score_protocol(opts)
    numbers = json.dumps(metrics, indent=2)
    print(numbers if opts.json == "-" else text)
    if opts.json and opts.json != "-":
        write_text(opts.json, numbers + "\n")
    for warning in warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    return metrics


if __name__ == "__main__":
    main()
