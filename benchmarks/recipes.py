"""Train every recipe on the same data with the same small network, and compare what it retrieves.

python benchmarks/recipes.py data/toy
python benchmarks/recipes.py data/toy --towards strong    # from the baseline, one change at a time

All recipes see the same number of images: as many passes over the buildings, a pass showing each
once in either view. From a recipe come its losses, heads, sampling, augmentation and optimizer; the
backbone, the size of the images and the length of the run are the benchmark's, the weights start at
random, and SGD's learning rate and the batch size are what suits that (`run_options`). So the table
says what an idea adds in this small setting, not which published number is the highest.
"""

import io
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean, stdev

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import measure  # noqa: E402

from runtime.cli import Parser, example_in, positive_int, read_config, script  # noqa: E402

BATCHES = (16, 32)  # smallest and largest, pairs; others leave too few or too slow steps here
# Of SGD, from random weights: those of `make demo`. Published ones belong to ImageNet weights, and
# with them the baseline learns next to nothing in so short a run.
SGD_RATES = ("--lr", 0.003, "--backbone_lr", 10)
TOGETHER = (  # options that only make sense with each other: one step of `--towards`
    ("LPN", "block"),
    ("musenet", "weather", "loss_weights"),  # MuSe-Net has a loss of its own
    ("optimizer", "lr", "backbone_lr", "schedule", "warm_epoch", "warm_from", "step_size",
     "weight_decay", "clip_norm", "clip_value", "epochs"),
)  # fmt: skip
TASKS = {"drone_satellite": "D>S", "satellite_drone": "S>D"}
PROTOCOLS = {
    "plain": {},
    "query expansion": {"query_expansion": 3},
    "k-reciprocal": {"rerank": "k_reciprocal", "k1": 20, "k2": 6, "weight": 0.3},
    "GNN": {"rerank": "gnn", "k1": 26, "k2": 7},
    "several images a query": {"multi": True},
    "without distractors": {"ignore_distractors": True},
}


# ---------------------------------------------------------------- one run
def common_options(recipe, opts, seed, data):
    """The part of train.py's command line in which a benchmark's runs are alike: two views."""
    argv = ["--config", recipe, "--name", recipe.stem, "--data_dir", data, "--overwrite"]
    argv += ["--views", "2", "--no-extra_Google", "--train_all", "--epoch_over", "satellite"]
    argv += ["--backbone", opts.backbone, "--no-grad_checkpoint"]
    return [*argv, "--seed", seed, "--device", opts.device, *["--bf16"] * opts.bf16]


def as_long_as(passes, own):
    """The options of a recipe's schedule, made as long as some passes over the buildings."""
    options = {"epochs": passes}
    options["warm_epoch"] = own.get("warm_epoch", 0) / own.get("epochs", 120) * passes
    if own.get("schedule", "step") == "step":
        options["step_size"] = max(1, round(passes * 2 / 3))
    return options


def run_options(recipe, opts, seed):
    """The command line of train.py for a recipe in this benchmark's setting."""
    own = read_config(recipe)
    argv = common_options(recipe, opts, seed, opts.data)
    for name, value in as_long_as(opts.passes, own).items():
        argv += [f"--{name}", value]
    # From another run the backbone goes on at the rate at which it learnt from random weights.
    argv += ["--backbone_lr", own.get("backbone_lr", 1)] if own.get("init") else ["--no_pretrained"]
    argv += ["--h", opts.size, "--w", opts.size, "--pad", opts.size // 10]
    smallest, largest = BATCHES
    batch = min(max(own.get("batchsize", 8), smallest), largest)
    argv += ["--batchsize", batch]
    if own.get("optimizer", "sgd") == "sgd":
        argv += SGD_RATES
    if not any(own.get(name) for name in ("weather", "color_jitter", "DA")):
        argv += ["--cache", "ram"]  # these change images before a cache could hold them
    return [str(each) for each in argv]


@contextmanager
def quietly():
    """Within, nothing is printed; what stops a run is."""
    out, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            yield
    except BaseException:
        sys.stderr.write(errors.getvalue())
        raise


def run_recipe(recipe, opts, seed):
    """Train and test a recipe: {task: {protocol: metrics}}, with the seconds of the training."""
    import test
    import train
    from evaluate_gpu import evaluate
    from evaluation.feature_file import load_features
    from evaluation.ranking_options import Ranking, apply_ranking

    start = time.perf_counter()
    with quietly():
        train.main(run_options(recipe, opts, seed))
        seconds = time.perf_counter() - start
        test.main(["--name", recipe.stem, "--test_dir", opts.data, "--all",
                   "--device", opts.device, "--output", "features.npz"])  # fmt: skip
    results = {"seconds": seconds}
    for task in TASKS:
        pair = load_features(f"features_{task}.npz")
        results[task] = {}
        images = sum(len(side.labels) for side in pair)
        for name, options in PROTOCOLS.items():
            if options.get("k1", 0) >= images:  # a tiny test set has no such neighbourhoods
                continue
            query, gallery, scores, _ = apply_ranking(Ranking(**options), *pair)
            results[task][name] = evaluate(query, gallery, scores=scores)
    return results


# ---------------------------------------------------------------- tables
def spread(values):
    """`mean +- deviation` of some numbers; of one alone the number."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{deviation}"


def column(runs, task, metric, protocol="plain"):
    """A metric of every seed's run."""
    return [run[task][protocol][metric] for run in runs]


def recipe_rows(results):
    """A row a recipe: recall and AP in both directions, then recall without distractors."""
    return [
        [
            name,
            *(spread(column(runs, t, metric)) for t in TASKS for metric in ("recall@1", "AP")),
            *(spread(column(runs, task, "recall@1", "without distractors")) for task in TASKS),
        ]
        for name, runs in results.items()
    ]


def protocol_rows(runs):
    """A row a protocol: recall and AP in both directions of a recipe's runs."""
    return [
        [name, *(spread(column(runs, t, m, name)) for t in TASKS for m in ("recall@1", "AP"))]
        for name in PROTOCOLS
        if all(name in run[task] for run in runs for task in TASKS)
    ]


def build_parser(docstring):
    """The parser of a benchmark that trains, with what all of them share."""
    parser = Parser(description=docstring.splitlines()[0], epilog=example_in(docstring))
    parser.add_argument("data", help="data folder in the University-1652 layout")
    parser.add_argument("--seeds", type=positive_int, default=3, help="runs of a recipe")
    parser.add_argument("--passes", type=positive_int, default=24, help="over the buildings")
    parser.add_argument("--backbone", default="resnet18", help="network of all recipes")
    parser.add_argument("--size", type=positive_int, default=64, help="of the images, pixels")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to run")
    parser.add_argument("--json", metavar="FILE", help="write all metrics to this file")
    return parser


def add_choice(parser):
    """Add the option of which recipes to train, to a group that is returned."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--recipes", nargs="+", metavar="NAME", help="these alone")
    return which


def parse_args(argv=None):
    """Options of the comparison."""
    parser = build_parser(__doc__)
    which = add_choice(parser)
    which.add_argument("--towards", metavar="NAME", help="from baseline to this, step by step")
    return parser.parse_args(argv)


def find_recipes(names):
    """The files of the recipes named, or of all that begin at random weights, baseline first.

    Those for weather, panoramas, texts and pretrained features must be named. ValueError for an
    unknown name.
    """
    files = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
    unknown = [name for name in names or () if name not in files]
    if unknown:
        raise ValueError(f"there is no recipe {unknown[0]}: choose among {', '.join(files)}")
    special = ("weather", "joint_turns", "head", "text_backbone")
    usual = [n for n, path in files.items() if not any(map(read_config(path).get, special))]
    return [files[name] for name in names or sorted(usual, key=lambda name: name != "baseline")]


def steps_towards(name):
    """{what was added: options}: the baseline, then with the options of a recipe added in turn.

    The last is the recipe itself, but for what `run_options` overrides in all of them.
    """
    baseline, goal = (read_config(path) for path in find_recipes(["baseline", name]))
    options = {**baseline, "views": goal["views"]}  # of all recipes here the same two
    changed = [key for key in {**goal, **options} if goal.get(key) != options.get(key)]
    steps = {"baseline": options}
    for key in changed:
        group = next((group for group in TOGETHER if key in group), (key,))
        first = next(each for each in changed if each in group)
        if key == first:  # what the recipe leaves out is as train.py has it
            options = {k: v for k, v in options.items() if k not in group}
            options.update((k, goal[k]) for k in group if k in goal)
            steps[f"+ {first}"] = options
    return steps


def different(paths, opts):
    """The recipes that `run_options` leaves different from the one before."""
    import train

    kept, before = [], None
    for path in paths:
        options = vars(train.parse_args(run_options(path, opts, seed=0)))
        options = {**options, "name": "", "config": ""}
        if options != before:
            kept.append(path)
        before = options
    return kept


def write_steps(steps):
    """Write steps as recipes into the current folder; their paths."""
    paths = [Path(f"{name}.yaml").resolve() for name in steps]
    for path, options in zip(paths, steps.values(), strict=True):
        path.write_text(yaml.safe_dump({"options": options}), encoding="utf-8")
    return paths


@script
def main(argv=None):
    """Train and test all recipes with all seeds, print the tables; returns what --json writes."""
    opts = parse_args(argv)
    recipes = find_recipes(opts.recipes)
    steps = steps_towards(opts.towards) if opts.towards else None
    opts.data = str(Path(opts.data).resolve())
    target = opts.json and Path(opts.json).resolve()
    with measure.working_folder():
        if steps:
            recipes = different(write_steps(steps), opts)
        results = {recipe.stem: [] for recipe in recipes}
        for seed in range(opts.seeds):  # a seed of all first: an early look is at all recipes
            for recipe in recipes:
                run = run_recipe(recipe, opts, seed)
                results[recipe.stem].append(run)
                recall = run["drone_satellite"]["plain"]["recall@1"]
                print(f"seed {seed}, {recipe.stem}: {recall:.1f}, {run['seconds']:.0f} s",
                      file=sys.stderr, flush=True)  # fmt: skip
    print(f"{opts.passes} passes, {opts.seeds} seed(s), {opts.backbone} from random weights, "
          f"{opts.size} pixels; percent, mean ± standard deviation\n")  # fmt: skip
    metrics = [f"{short} {metric}" for short in TASKS.values() for metric in ("R@1", "AP")]
    without = [f"{short} R@1 w/o distr." for short in TASKS.values()]
    measure.print_table(recipe_rows(results), ["recipe", *metrics, *without])
    for name in dict.fromkeys((recipes[0].stem, recipes[-1].stem)):
        print(f"\nRanking the features of {name} in other ways:\n")
        measure.print_table(protocol_rows(results[name]), ["protocol", *metrics])
    outcome = {"options": vars(opts), "results": results}
    measure.write_json(target, outcome)
    return outcome


if __name__ == "__main__":
    main()
