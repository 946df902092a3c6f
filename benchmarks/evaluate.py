"""Evaluation as published against ours: whole commands from a feature file, and ranking alone.

python benchmarks/evaluate.py --json evaluate.json
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import add_options, interleave, print_table, ratio, run_process, write_json  # noqa: E402

from evaluate_gpu import evaluate, published_line  # noqa: E402
from evaluation.feature_file import Features, load_features, save_features  # noqa: E402
from evaluation.ranking import choose_device  # noqa: E402
from runtime.cli import Parser, example_in, script  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# Buildings queried, distractors, drone images a building: the test set of University-1652, where
# one building of each side has one image more (37,855 drone queries, 51,355 in the gallery).
FULL, QUICK = (701, 250, 54), (30, 10, 5)
WIDTH = 512
# Features whose recall is that of a trained network, not of one that is perfect or at chance.
DECAY, DRONE_NOISE, SATELLITE_NOISE = 1.0, 0.17, 0.44


# ---------------------------------------------------------------- the published way
def published_loop(query_features, query_labels, gallery_features, gallery_labels):
    """The printed line, by the loop of University1652-Baseline's evaluate_gpu.py on the CPU.

    For each query: all scores, a full argsort, two searches of all indices for those of the
    positives and the junk, a curve over the whole gallery, a Python loop over the positives.
    """
    import torch

    queries, gallery = torch.FloatTensor(query_features), torch.FloatTensor(gallery_features)
    curve, total = torch.IntTensor(len(gallery_labels)).zero_(), 0.0
    for query, label in zip(queries, query_labels, strict=True):
        scores = torch.mm(gallery, query.view(-1, 1)).squeeze(1).numpy()
        index = np.argsort(scores)[::-1]
        good, junk = np.argwhere(gallery_labels == label), np.argwhere(gallery_labels == -1)
        if good.size == 0:
            continue
        index = index[np.isin(index, junk, invert=True)]
        rows = np.argwhere(np.isin(index, good)).flatten()
        own_curve = torch.IntTensor(len(gallery_labels)).zero_()
        own_curve[rows[0] :] = 1
        curve = curve + own_curve
        for hit, row in enumerate(rows):
            before = hit / row if row != 0 else 1.0
            total += (before + (hit + 1) / (row + 1)) / 2 / len(good)
    recall = 100 * curve.float() / len(query_labels)
    places = {1: 0, 5: 4, 10: 9, "top1": round(0.01 * len(gallery_labels))}
    text = " ".join(f"Recall@{name}:{recall[place]:.2f}" for name, place in places.items())
    return f"{text} AP:{100 * total / len(query_labels):.2f}"


def score_as_published(path):
    """Print the published line of a .mat, with all imports and loading of the published script."""
    from scipy.io import loadmat

    file = loadmat(path)
    names = ("query_f", "query_label", "gallery_f", "gallery_label")
    arrays = [file[name] if name.endswith("_f") else file[name][0] for name in names]
    print(published_loop(*arrays))


# ---------------------------------------------------------------- the features
def make_tasks(size, seed=0):
    """{task: (query, gallery)} of synthetic `Features` in the structure of University-1652.

    Each image is its building's centre and noise of the same falling spectrum, as images of
    trained networks vary along few directions.
    """
    queried, distractors, frames = size
    buildings = queried + distractors
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, WIDTH + 1, dtype=np.float32) ** -DECAY
    centres = generator.standard_normal((buildings, WIDTH), dtype=np.float32) * spectrum

    def images(labels, noise, view):
        features = generator.standard_normal((len(labels), WIDTH), dtype=np.float32)
        features = centres[labels] + noise * spectrum * features
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        paths = [
            f"data/University-Release/test/{view}/{label:04d}/image-{place % frames:02d}.jpeg"
            for place, label in enumerate(labels)
        ]
        return Features(features, labels, paths)

    def drone(number, view):
        labels = np.sort(np.append(np.repeat(np.arange(number), frames), 0))
        return images(labels, DRONE_NOISE, view)

    def satellite(number, view):
        return images(np.arange(number), SATELLITE_NOISE, view)

    return {
        "satellite->drone": (
            satellite(queried, "query_satellite"),
            drone(buildings, "gallery_drone"),
        ),
        "drone->satellite": (
            drone(queried, "query_drone"),
            satellite(buildings, "gallery_satellite"),
        ),
    }


# ---------------------------------------------------------------- the comparisons
def compare_commands(query, gallery, rounds):
    """Whole commands on the same features, start of Python to printed line: {way: figures}."""
    python, command = sys.executable, ROOT / "evaluate_gpu.py"
    with tempfile.TemporaryDirectory() as folder:
        mat, npz = Path(folder, "features.mat"), Path(folder, "features.npz")
        save_features(mat, query, gallery)
        save_features(npz, query, gallery)
        commands = {
            "published loop, .mat": [python, Path(__file__).resolve(), "--plain", mat],
            "evaluate_gpu.py, .mat": [python, command, mat, "--device", "cpu"],
            "evaluate_gpu.py, .npz": [python, command, npz, "--device", "cpu"],
        }
        runs = {name: [] for name in commands}

        def running(name, argv):
            return lambda: runs[name].append(run_process(argv))

        interleave({name: running(name, argv) for name, argv in commands.items()}, rounds)
    lines = {name: _line_in(found[0][2]) for name, found in runs.items()}
    _check_equal(lines)
    seconds = {name: [run[0] for run in found] for name, found in runs.items()}
    figures = _figures(seconds)
    for name, found in runs.items():
        figures[name]["peak_mib"] = max(run[1] for run in found)
    return figures, lines["evaluate_gpu.py, .mat"]


def compare_ranking(query, gallery, rounds, device):
    """Features in memory to metrics, beside the bare matrix product: {way: figures}."""
    import torch  # noqa: F401  before the clock runs

    lines = {}

    def published():
        arrays = query.features, query.labels, gallery.features, gallery.labels
        lines["published loop"] = published_loop(*arrays)

    def ours(name, where):
        lines[name] = published_line(evaluate(query, gallery, device=where))

    ways = {
        "published loop": published,
        "evaluate": lambda: ours("evaluate", "cpu"),
        "matrix product alone": lambda: query.features @ gallery.features.T,
    }
    if device != "cpu":
        evaluate(query, gallery, device=device)  # a GPU's first use is not what is compared
        ways[f"evaluate on {device}"] = lambda: ours(f"evaluate on {device}", device)
    seconds = interleave(ways, rounds)
    _check_equal(lines)
    figures = _figures(seconds)
    for name, values in seconds.items():
        figures[name]["of_product"] = ratio(values, seconds["matrix product alone"])
    return figures


def _figures(seconds):
    """{way: seconds and the first way's multiple of them}."""
    first = next(iter(seconds.values()))
    return {
        name: {"seconds": float(np.median(values)), "speedup": ratio(first, values)}
        for name, values in seconds.items()
    }


def _line_in(text):
    return next(line for line in text.splitlines() if line.startswith("Recall@1:"))


def _check_equal(lines):
    if len(set(lines.values())) != 1:
        raise AssertionError(f"the printed lines differ: {lines}")


# ---------------------------------------------------------------- the command
def parse_args(argv=None):
    """Options of the comparison."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    add_options(parser, rounds=3)
    parser.add_argument(
        "--plain", metavar="FILE", help="only score this .mat by the published loop, and end"
    )
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print a table for each task and comparison; returns {task: {line, command, ranking}}."""
    opts = parse_args(argv)
    if opts.plain:
        score_as_published(opts.plain)
        return {}
    results = {}
    for task, (query, gallery) in make_tasks(QUICK if opts.quick else FULL).items():
        commands, line = compare_commands(query, gallery, opts.rounds)
        with tempfile.TemporaryDirectory() as folder:  # as the commands have them, read from a file
            save_features(Path(folder, "features.mat"), query, gallery)
            query, gallery = load_features(Path(folder, "features.mat"))
        device = choose_device(opts.device, query, gallery)
        ranking = compare_ranking(query, gallery, opts.rounds, device)
        results[task] = {"line": line, "command": commands, "ranking": ranking}
        print(f"\n{task}: {len(query.labels)} queries, {len(gallery.labels)} images\n{line}\n")
        print_table(
            [[name, *row.values()] for name, row in commands.items()],
            ["whole command", "seconds", "times as fast", "peak MiB"],
        )
        print()
        print_table(
            [[name, *row.values()] for name, row in ranking.items()],
            ["features in memory", "seconds", "times as fast", "of the product"],
        )
    write_json(opts.json, results)
    return results


if __name__ == "__main__":
    main()
