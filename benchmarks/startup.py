"""What the tricks of runtime/startup.py save: whole commands with each of them and without.

python benchmarks/startup.py --rounds 7

`collector`: train.py and test.py import torch with Python's garbage collector at rest. `memory`:
on Linux freed memory stays with the process (GEO_KEEP_MEMORY=0 switches it off). A trick that saves
less than a twentieth of both commands is not worth its lines.
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure  # noqa: E402

from runtime.cli import Parser, example_in, script  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# A command in a process of its own, as from the shell, with or without the import's trick.
RUN = """
import sys
sys.path.insert(0, {root!r})
from runtime import startup
if {plain}:
    startup.import_torch = lambda: None
import {door}
{door}.main(sys.argv[1:])
"""
NETWORK = ["--backbone", "resnet18", "--no_pretrained", "--share", "--h", "64", "--w", "64"]
TRICKS = {
    "all": (False, {}),
    "no collector": (True, {}),
    "no memory": (False, {"GEO_KEEP_MEMORY": "0"}),
}


def commands(data, quick):
    """{name: argv} of a short run and its test; the run comes first."""
    epochs = "1" if quick else "2"
    train = ["train", "--name", "startup", "--overwrite", "--data_dir", data, "--train_all"]
    train += [*NETWORK, "--pad", "6", "--batchsize", "16", "--epochs", epochs]
    return {"train.py": train, "test.py": ["test", "--name", "startup", "--test_dir", data]}


def compare(argv, rounds):
    """{trick: seconds of each round} of a command."""
    door, *options = argv

    def runner(plain, environment):
        code = RUN.format(root=str(ROOT), plain=plain, door=door)
        return lambda: measure.run_process([sys.executable, "-c", code, *options], environment)

    return measure.interleave({name: runner(*how) for name, how in TRICKS.items()}, rounds)


def parse_args(argv=None):
    """Options of the comparison."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    measure.add_options(parser, rounds=5)
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print a table; returns {command: {trick: {"seconds", "without"}}}."""
    import prepare

    opts = parse_args(argv)
    results, rows = {}, []
    with measure.working_folder():
        small = "--num_train 8 --num_test 4 --num_distractors 0 --drone_frames 2 --image_size 64"
        prepare.main(
            ["toy", "--out", "toy", "--map_plots", "0", *(small.split() if opts.quick else [])]
        )
        for name, command in commands("toy", opts.quick).items():
            seconds = compare(command, opts.rounds)
            results[name] = {
                trick: {
                    "seconds": median(values),
                    "without": measure.ratio(values, seconds["all"]),
                }
                for trick, values in seconds.items()
            }
            rows += [[name, trick, *found.values()] for trick, found in results[name].items()]
    measure.print_table(rows, ["command", "tricks", "seconds", "times as long as with all"])
    measure.write_json(opts.json, results)
    return results


if __name__ == "__main__":
    main()
