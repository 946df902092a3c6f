"""What training under weather is worth: recall under the ten conditions, with and without it.

python benchmarks/weather_training.py data/toy

Trains a recipe in clear weather; from the weights of that run (`--init`) the same recipe with
`--weather all`, and MuSe-Net, for as many passes again, as `benchmarks/recipes.py` does. Each is
tested on drone queries under every condition (`test.py --weather all`).
"""

import json
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure  # noqa: E402

import recipes  # noqa: E402
from runtime.cli import read_config, script  # noqa: E402


def networks(names):
    """{name: options}: recipes for clear weather, then those under weather, which start from them.

    A recipe that has no weather comes under weather too; one that has it, as MuSe-Net's, starts
    from the first that has none.
    """
    from imaging.weather import CONDITIONS

    options = {path.stem: read_config(path) for path in recipes.find_recipes(names)}
    clear = {name: each for name, each in options.items() if not each.get("weather")}
    weather = {
        f"{name} + weather": {**each, "weather": list(CONDITIONS), "init": name}
        for name, each in clear.items()
    }
    start = {"init": next(iter(clear))} if clear else {}
    others = {name: {**each, **start} for name, each in options.items() if name not in clear}
    return {**clear, **weather, **others}


def run_network(path, opts, seed):
    """Train and test a network: {"conditions": {condition: metrics}, "waiting", "seconds"}.

    `waiting` is the share of the training's time in which no image was ready.
    """
    import test
    import train

    with recipes.quietly():
        last = train.main(recipes.run_options(path, opts, seed))
        lines = (Path(last["run_dir"]) / "log.jsonl").read_text(encoding="utf-8").splitlines()
        conditions = test.main(["--name", path.stem, "--test_dir", opts.data, "--weather", "all",
                                "--device", opts.device, "--output", "features.npz"])  # fmt: skip
    log = [json.loads(line) for line in lines]
    seconds = sum(entry["seconds"] for entry in log)
    waiting = sum(entry["seconds_waiting"] for entry in log) / seconds
    return {"conditions": conditions, "waiting": waiting, "seconds": seconds}


def start_of(found):
    """Which networks start from which instead of random weights, in words."""
    starts = [f"{name} from {each['init']}, " for name, each in found.items() if "init" in each]
    return "".join(starts)


def table_rows(results):
    """A row a condition, then the mean: Recall@1 of every network, mean and deviation of seeds."""
    from imaging.weather import condition_label

    def row(label, condition):
        columns = [
            [run["conditions"][condition]["recall@1"] for run in runs] for runs in results.values()
        ]
        return [label, *map(recipes.spread, columns)]

    conditions = next(iter(results.values()))[0]["conditions"]
    labels = {name: name if name == "mean" else condition_label(name) for name in conditions}
    return [row(label, name) for name, label in labels.items()]


def parse_args(argv=None):
    """Options of the comparison."""
    parser = recipes.build_parser(__doc__)
    recipes.add_choice(parser)
    parser.set_defaults(recipes=["strong", "musenet"], passes=80)
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Train and test all networks with all seeds, print the table; returns what --json writes."""
    opts = parse_args(argv)
    found = networks(opts.recipes)
    opts.data = str(Path(opts.data).resolve())
    target = opts.json and Path(opts.json).resolve()
    results = {name: [] for name in found}
    with measure.working_folder():
        for seed in range(opts.seeds):
            for path in recipes.write_steps(found):
                run = run_network(path, opts, seed)
                results[path.stem].append(run)
                recall = run["conditions"]["mean"]["recall@1"]
                print(f"seed {seed}, {path.stem}: mean {recall:.1f}, {run['seconds']:.0f} s, "
                      f"{run['waiting']:.0%} waiting", file=sys.stderr, flush=True)  # fmt: skip
    print(f"{opts.passes} passes, {opts.seeds} seed(s), {opts.backbone} from random weights, "
          f"{start_of(found)}{opts.size} pixels; drone -> satellite Recall@1, percent, "
          "mean ± standard deviation\n")  # fmt: skip
    measure.print_table(table_rows(results), ["condition", *results])
    shares = [
        f"{name} {mean(run['waiting'] for run in runs):.0%}" for name, runs in results.items()
    ]
    print("\nof the training spent waiting for images:", ", ".join(shares))
    outcome = {"options": vars(opts), "results": results}
    measure.write_json(target, outcome)
    return outcome


if __name__ == "__main__":
    main()
