"""How the cost of evaluation grows: with the gallery up to a million, the queries, the width.

python benchmarks/scaling.py --json scaling.json
"""

import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import add_options, interleave, print_table, ratio, run_process, write_json  # noqa: E402

from evaluate_gpu import evaluate  # noqa: E402
from evaluation.feature_file import load_features, npz_member  # noqa: E402
from evaluation.ranking import choose_device, rank_positives  # noqa: E402
from runtime.cli import Parser, example_in, script  # noqa: E402

# (queries, gallery, width) of each point; the first of a series is what the others grow from.
FULL = {
    "gallery": [(1000, gallery, 512) for gallery in (1000, 10_000, 100_000, 1_000_000)],
    "queries": [(queries, 20_000, 512) for queries in (100, 1000, 10_000)],
    "width": [(1000, 50_000, width) for width in (128, 512, 2048)],
}
QUICK = {
    "gallery": [(20, 500, 16), (20, 2000, 16)],
    "queries": [(20, 500, 16), (80, 500, 16)],
    "width": [(20, 500, 8), (20, 500, 32)],
}
IMAGES = 50  # gallery images a building
NOISE = 1.5  # of an image about its building's centre
TILE = 2**15  # gallery rows made, multiplied or counted at a time
SAMPLE = 20  # queries whose ranks are counted again


# ---------------------------------------------------------------- material
def write_features(path, num_query, num_gallery, width, seed=0):
    """Write an .npz of unit features about building centres, a block of the gallery at a time."""
    generator = np.random.default_rng(seed)
    gallery_labels = np.arange(num_gallery) // IMAGES
    query_labels = np.arange(num_query) % (gallery_labels[-1] + 1)
    centres = generator.standard_normal((gallery_labels[-1] + 1, width), dtype=np.float32)

    def images(labels):
        block = generator.standard_normal((len(labels), width), dtype=np.float32)
        block *= NOISE
        block += centres[labels]
        block /= np.sqrt(np.einsum("nd,nd->n", block, block))[:, np.newaxis]
        return block

    with open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, labels in (("query", query_labels), ("gallery", gallery_labels)):
            with npz_member(file, archive, f"{name}_label") as member:
                np.lib.format.write_array(member, labels[np.newaxis])
            with npz_member(file, archive, f"{name}_f") as member:
                shape = (len(labels), width)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for start in range(0, len(labels), TILE):
                    member.write(images(labels[start : start + TILE]))


# ---------------------------------------------------------------- one point, in its own process
def measure_point(path, rounds, device):
    """Time one file: {"seconds": [...], "product": [...], "checked", "certain"} as plain values."""
    query, gallery = load_features(path)
    tiles = [slice(start, start + TILE) for start in range(0, len(gallery.labels), TILE)]
    blocks = [slice(start, start + 1000) for start in range(0, len(query.labels), 1000)]

    def product():
        for tile in tiles:
            for block in blocks:  # (1000, TILE) at most: bounded, and near full speed
                query.features[block] @ gallery.features[tile].T

    device = choose_device(device, query, gallery)
    ways = {"seconds": lambda: evaluate(query, gallery, device=device), "product": product}
    seconds = interleave(ways, rounds)
    return {**seconds, **check_ranks(query, gallery, tiles, device)}


def check_ranks(query, gallery, tiles, device):
    """Count the ranks of a sample of queries by brute force and compare; AssertionError if wrong.

    Scores are summed anew in float64. A rank is certain where no other image scores within 1e-6,
    the rounding of float32, of the positive; elsewhere it lies between two counts.
    Returns {"checked", "certain"}: numbers of ranks.
    """
    rows = np.unique(np.linspace(0, len(query.labels) - 1, SAMPLE).astype(int))
    sample = query._replace(
        features=np.ascontiguousarray(query.features[rows]),
        labels=query.labels[rows],
        paths=[""] * len(rows),
    )
    found, *_ = rank_positives(sample, gallery, device=device)
    wide = sample.features.astype(np.float64)
    right = [np.flatnonzero(gallery.labels == label) for label in sample.labels]
    own = [
        np.sort(gallery.features[each].astype(np.float64) @ vector)[::-1]  # (P,) best first
        for each, vector in zip(right, wide, strict=True)
    ]
    fewest, most = ([np.ones(len(each), dtype=np.int64) for each in own] for _ in range(2))
    for tile in tiles:
        scores = np.sort(wide @ gallery.features[tile].T.astype(np.float64), axis=1)
        for row, values in enumerate(scores):
            fewest[row] += len(values) - np.searchsorted(values, own[row] + 1e-6, "right")
            most[row] += len(values) - np.searchsorted(values, own[row] - 1e-6, "left")
    fewest, most, ranks = map(np.concatenate, (fewest, most, found))
    most -= 1  # the positive itself
    if not ((fewest <= ranks) & (ranks <= most)).all():
        raise AssertionError("ranks differ from those counted by brute force")
    return {"checked": len(ranks), "certain": int(np.count_nonzero(fewest == most))}


# ---------------------------------------------------------------- the series
def run_point(size, opts):
    """Make one point's file, measure it in a process of its own, and remove it: its figures."""
    num_query, num_gallery, width = size
    needed = 4 * width * (num_query + num_gallery) + 2**27
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ValueError(
                f"{folder} has {free / 2**30:.1f} GiB free and {num_gallery} images need "
                f"{needed / 2**30:.1f}: set TMPDIR to a larger disk"
            )
        path = Path(folder, "features.npz")
        write_features(path, *size)
        argv = [sys.executable, Path(__file__).resolve(), "--point", path]
        argv += ["--rounds", opts.rounds, "--device", opts.device]
        _, peak, out = run_process(argv)
    point = json.loads(out.splitlines()[-1])
    return {
        "queries": num_query,
        "gallery": num_gallery,
        "width": width,
        "seconds": float(np.median(point["seconds"])),
        "of_product": ratio(point["seconds"], point["product"]),
        "peak_mib": peak,
        "checked": point["checked"],
        "certain": point["certain"],
    }


def add_growth(points, name):
    """Set each point's "growth": cost per unit of `name`, of that of the point before it."""
    unit = [point["seconds"] / point[name] for point in points]
    for place, point in enumerate(points):
        point["growth"] = unit[place] / unit[max(place - 1, 0)]


def parse_args(argv=None):
    """Options of the measurement."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    add_options(parser, rounds=2)
    parser.add_argument(
        "--point", metavar="FILE", help="only measure this .npz, print one line of JSON, and end"
    )
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print a table of each series; returns {series: [figures of each point]}."""
    opts = parse_args(argv)
    if opts.point:
        point = measure_point(opts.point, opts.rounds, opts.device)
        print(json.dumps(point))
        return point
    results = {}
    for series, sizes in (QUICK if opts.quick else FULL).items():
        results[series] = [run_point(size, opts) for size in sizes]
        add_growth(results[series], series)
        print(f"\ncost with {series}; growth is the cost of one unit of it, of the row before\n")
        headers = ["queries", "gallery", "width", "seconds", "of the product", "peak MiB"]
        headers += ["ranks checked", "certain", "growth"]
        print_table([list(point.values()) for point in results[series]], headers)
    write_json(opts.json, results)
    return results


if __name__ == "__main__":
    main()
