"""Train on a few hundred pairs of photographs, from pretrained weights, and compare the networks.

python benchmarks/real_pairs.py your_data_path --weights tf_efficientnet_lite0.pth
python benchmarks/real_pairs.py your_data_path --weights FILE --only few_pairs,GeM --folds 3

Each row is trained on train/ and tested on test/. With `--folds`, the pairs of both together are
split by ID into so many parts, and each is tested by a network trained on the others: options are
better chosen on all pairs so than on test/ alone. `baseline`, `strong` and `frozen` see `--passes`
passes at `--size` pixels; `few_pairs` is as its recipe says, and the rows of the ablation are each
one change away from it. Where a backbone trains, it sees the pairs fewer times (`TUNED`).
"""

import functools
import os
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure  # noqa: E402

import recipes  # noqa: E402
from imaging.files import DRONE, SATELLITE, scan_classes, split_folder  # noqa: E402
from runtime.cli import at_least, read_config, script  # noqa: E402

CAMPUS, CAMPUS_FIRST = "campus", "campus first"
# Of a backbone that trains every image is drawn anew, so it sees fewer, in batches that fit.
TUNED = {"epochs": 30, "epoch_passes": 1, "batchsize": 32}
ABLATION = {  # what few_pairs would be with one change
    "no whitening": {"whiten": None},
    "no centring": {"center": False, "whiten": None},  # there is no whitening without it
    "no turns": {"turns": 1},
    "no mirrors": {"no_flip": True},
    "satellite turned": {"turns": {SATELLITE: 4, DRONE: 1}},
    "average": {"pool": "avg", "block": None},
    "GeM": {"pool": "gem", "block": None},
    "three rings": {"block": 3},
    "last map": {"maps": ["last"]},
    "head block": {"head": "block"},
    "dropout": {"droprate": 0.5},
    "256 numbers": {"embedding_dim": 256},
    "512 numbers": {"embedding_dim": 512},
    "temperature 0.03": {"temperature": 0.03},
    "temperature 0.15": {"temperature": 0.15},
    "not frozen": {"freeze": False, **TUNED},
    CAMPUS_FIRST: {"init": CAMPUS},
}
TASKS = tuple(recipes.TASKS)


# ---------------------------------------------------------------- rows
def all_rows(opts):
    """{row: options of train.py}, in the form of a recipe; those of `init` name another row.

    `temperature` is no option but InfoNCE's first. What has no `epochs` is not trained: it is
    centred on what is tested, or on the training images.
    """
    baseline, strong, few = (
        read_config(path) for path in recipes.find_recipes(["baseline", "strong", "few_pairs"])
    )
    baseline, strong = (
        {**own, **recipes.as_long_as(opts.passes, own), "h": opts.size, "w": opts.size,
         "pad": opts.size // 10, "cache": "ram", "stride": 2}
        for own in (baseline, strong)
    )  # fmt: skip
    last_blocks = {**few, **TUNED, "train_blocks": 1}
    rows = {
        "zero_shot": {},
        "zero_shot + center_on": {"center_on": True},
        "baseline": baseline,
        "strong": strong,
        "frozen": {**strong, "freeze": True},
        "few_pairs": few,
        # A tenth of the learning rate: it begins where the head has learnt what there is.
        "few_pairs + last block": {**last_blocks, "init": "few_pairs", "lr": few["lr"] / 10},
        "last block at once": last_blocks,
        **{name: {**few, **change} for name, change in ABLATION.items()},
    }
    if not opts.campus:
        del rows[CAMPUS_FIRST]
        return rows
    return {CAMPUS: strong, **rows}


def chosen_rows(opts):
    """{row: options} of `--only`, or of all, with the rows that others start from before them.

    ValueError for an unknown name.
    """
    rows = all_rows(opts)
    names = opts.only or [name for name in rows if name != CAMPUS]
    for name in names:
        if name not in rows:
            missing = " (give --campus DIR)" if name in (CAMPUS, CAMPUS_FIRST) else ""
            raise ValueError(f"there is no row {name!r}{missing}: choose among {', '.join(rows)}")
    starts = [rows[name].get("init") for name in names]
    return {name: rows[name] for name in rows if name in names or name in starts}


# ---------------------------------------------------------------- folds
def fold_folders(data_dir, folds, target):
    """Data folders of links to the pairs of a data folder, one a fold; their paths.

    Fold number k is tested on every `folds`-th ID from number k on, in an order that is always the
    same. ValueError where an ID is in train/ and test/, or there are fewer than two in a fold.
    """
    places = {}  # {ID: {view: folder}}
    for split, prefix in (("train", ""), ("test", "gallery_")):
        folder = split_folder(data_dir, split)
        found = {view: folder / f"{prefix}{view}" for view in (SATELLITE, DRONE)}
        scanned = {view: scan_classes(path) for view, path in found.items()}
        for name in scanned[SATELLITE]:
            if not all(classes.get(name) for classes in scanned.values()):
                continue
            if name in places:
                raise ValueError(
                    f"{data_dir} has the ID {name} in train/ and in test/, where folds would mix "
                    "two places: give other names to those of test/"
                )
            places[name] = {view: (path / name).resolve() for view, path in found.items()}
    names = random.Random(0).sample(sorted(places), len(places))
    if len(names) < 2 * folds:
        raise ValueError(f"{data_dir} has {len(names)} pairs: too few for --folds {folds}")
    paths = [Path(target, f"fold {number}") for number in range(folds)]
    for number, path in enumerate(paths):
        for place, name in enumerate(names):
            for view, source in places[name].items():
                roles = [f"train/{view}"]
                if place % folds == number:
                    roles = [f"test/query_{view}", f"test/gallery_{view}"]
                for role in roles:
                    (path / role).mkdir(parents=True, exist_ok=True)
                    os.symlink(source, path / role / name, target_is_directory=True)
    return paths


# ---------------------------------------------------------------- one run
def train_command(path, opts, seed, data):
    """The command line of train.py for a row written to a recipe file."""
    start = [] if read_config(path).get("init") else ["--weights", opts.weights]
    return [str(each) for each in [*recipes.common_options(path, opts, seed, data), *start]]


def train_row(name, options, opts, seed, data):
    """Train a row into model/<name>: {"seconds", "pairs"}, the image pairs that it has seen."""
    import losses
    import train

    options = dict(options)
    change = nullcontext()
    if temperature := options.pop("temperature", None):
        build = functools.partial(losses.build_losses, temperature=temperature)
        change = mock.patch.object(losses, "build_losses", build)
    (path,) = recipes.write_steps({name: options})
    start = time.perf_counter()
    with change:
        train.main(train_command(path, opts, seed, data))
    seconds = time.perf_counter() - start
    satellites = scan_classes(split_folder(data, "train") / SATELLITE)
    passes = options["epochs"] * options.get("epoch_passes", 1)
    return {"seconds": seconds, "pairs": passes * sum(map(len, satellites.values()))}


def run_row(name, options, opts, seed, data, before):
    """Train and test a row: Recall@1 in both directions and their mean, seconds, pairs seen.

    `before` has the runs of the rows that others start from: their seconds and pairs count too.
    """
    import test

    with recipes.quietly():
        if "epochs" in options:
            run = train_row(name, options, opts, seed, opts.campus if name == CAMPUS else data)
            network = ["--name", name]
        else:
            run = {"seconds": 0, "pairs": 0}
            network = ["--zero_shot", "--backbone", opts.backbone, "--weights", opts.weights]
            network += ["--center_on", str(data)] if "center_on" in options else []
        found = test.main([*network, "--test_dir", str(data), "--all",
                           "--device", opts.device, "--output", "features.npz"])  # fmt: skip
    first = before.get(options.get("init"), {})
    run = {key: value + first.get(key, 0) for key, value in run.items()}
    recalls = {task: found[task]["recall@1"] for task in TASKS}
    return {"both": mean(recalls.values()), **recalls, **run}


# ---------------------------------------------------------------- table
def column(runs, key):
    """A number of every seed, each the mean over the folds: [float]."""
    return [mean(run[key] for run in folds) for folds in runs]


def table_rows(results):
    """A row a network: Recall@1 of both directions and of each, pairs seen, seconds."""
    return [
        [
            name,
            *(recipes.spread(column(runs, key)) for key in ("both", *TASKS)),
            f"{mean(column(runs, 'pairs')):,.0f}",
            float(mean(column(runs, "seconds"))),
        ]
        for name, runs in results.items()
        if runs
    ]


def print_results(opts, results):
    """Print what was measured, and the table."""
    tested = f"{opts.folds} folds of all pairs" if opts.folds else "train/ -> test/"
    print(f"{tested}, {opts.seeds} seed(s), {opts.backbone} from {Path(opts.weights).name}; "
          "Recall@1, percent, mean ± standard deviation of the seeds\n")  # fmt: skip
    headers = ["row", "both", *recipes.TASKS.values(), "pairs seen", "seconds"]
    measure.print_table(table_rows(results), headers)


def names_of(text):
    """`a,b` as a list of str."""
    return [name.strip() for name in text.split(",")]


def parse_args(argv=None):
    """Options of the comparison."""
    parser = recipes.build_parser(__doc__)
    parser.add_argument("--weights", metavar="FILE", required=True, help="pretrained backbone")
    parser.add_argument("--folds", type=at_least(2, "as one part trains"), help="cross-validate")
    parser.add_argument("--only", type=names_of, metavar="NAME,...", help="these rows alone")
    parser.add_argument("--campus", metavar="DIR", help=f"the toy campus, for {CAMPUS_FIRST!r}")
    parser.set_defaults(backbone="timm:tf_efficientnet_lite0", passes=30, size=128)
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Train and test all rows with all seeds, print the table; returns what --json writes."""
    opts = parse_args(argv)
    rows = chosen_rows(opts)
    for name in ("data", "weights", "campus", "json"):
        setattr(opts, name, getattr(opts, name) and str(Path(getattr(opts, name)).resolve()))
    results = {name: [] for name in rows}
    outcome = {"options": vars(opts), "results": results}
    with measure.working_folder():
        folders = fold_folders(opts.data, opts.folds, "folds") if opts.folds else [opts.data]
        for seed in range(opts.seeds):  # a seed of all first: an early look is at all rows
            for number, folder in enumerate(folders):
                before = {}
                for name, options in rows.items():
                    if seed and "epochs" not in options:  # nothing random
                        continue
                    run = before[name] = run_row(name, options, opts, seed, folder, before)
                    if number == 0:
                        results[name].append([])
                    results[name][-1].append(run)
                    print(f"seed {seed}, {name}: {run['both']:.1f}, {run['seconds']:.0f} s",
                          file=sys.stderr, flush=True)  # fmt: skip
                    measure.write_json(opts.json, outcome)
    print_results(opts, results)
    return outcome


if __name__ == "__main__":
    main()
