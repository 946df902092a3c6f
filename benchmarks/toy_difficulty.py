"""Is the toy campus too easy? Colour histograms beside the trained network, on the same images.

make demo                               # or: any test.py that left pytorch_result.mat
python benchmarks/toy_difficulty.py
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluate_gpu import evaluate, published_line  # noqa: E402
from evaluation.feature_file import load_features  # noqa: E402
from imaging.pixels import read_image  # noqa: E402
from runtime.cli import Parser, example_in, script  # noqa: E402
from runtime.progress import progress_bar  # noqa: E402

BINS = (4, 8, 16)  # per channel; the best of them counts


def colour_histogram(path, bins):
    """L2-normalised joint RGB histogram (bins**3,) float32 of an image file."""
    pixels = read_image(path).astype(np.int64).reshape(-1, 3)  # (H*W, 3)
    red, green, blue = (pixels * bins // 256).T
    counts = np.bincount((red * bins + green) * bins + blue, minlength=bins**3)
    return (counts / np.linalg.norm(counts)).astype(np.float32)


def histogram_metrics(query, gallery, bins):
    """Metrics of nearest neighbours by colour histogram on the images of two `Features`."""

    def described(side):
        paths = progress_bar(side.paths, f"histograms of {bins}^3")
        return side._replace(features=np.stack([colour_histogram(path, bins) for path in paths]))

    return evaluate(described(query), described(gallery))


def parse_args(argv=None):
    """Options of the comparison."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    parser.add_argument(
        "features", nargs="?", default="pytorch_result.mat", help="feature file of test.py"
    )
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print both; returns {"trained", "histogram", "ratio"}, Recall@1 in percent."""
    opts = parse_args(argv)
    query, gallery = load_features(opts.features)
    trained = evaluate(query, gallery)
    print(f"{trained['num_queries']} queries, {trained['num_gallery']} gallery images")
    print(f"{'trained network':<24}{published_line(trained)}")
    best = 0.0
    for bins in BINS:
        metrics = histogram_metrics(query, gallery, bins)
        best = max(best, metrics["recall@1"])
        print(f"{f'histogram {bins}^3':<24}{published_line(metrics)}")
    print(f"{'random ranking':<24}Recall@1:{trained['recall@1_chance']:.2f}")
    ratio = best / trained["recall@1"] if trained["recall@1"] else float("inf")
    print(f"the best histogram reaches {ratio:.2f} of the trained Recall@1")
    return {"trained": trained["recall@1"], "histogram": best, "ratio": ratio}


if __name__ == "__main__":
    main()
