"""Extract the features of a trained network on query and gallery images, save and score them.

python test.py --name two_view --test_dir data/toy                      # drone -> satellite
python test.py --name two_view --query satellite --gallery drone
python test.py --name two_view --all                                    # every possible task
python test.py --name two_view --rerank gnn                             # see evaluation/rerank.py
python test.py --name two_view --weather all                            # see imaging/variants.py
python test.py --name two_view --perturb rotate=0:180:15
python test.py --name drone.onnx,satellite.onnx         # exported files: see export.py
torchrun --nproc_per_node 4 test.py --name two_view                     # on four GPUs
python test.py --zero_shot --backbone resnet50 --test_dir data/toy      # no run: zero_shot.py
"""

import argparse
import sys
from pathlib import Path

import utils
from deploy.onnx_network import check_onnx, onnx_files
from evaluate_gpu import report, warnings_about
from evaluation.feature_file import FEATURE_FILE, save_features
from evaluation.metrics import evaluate, published_line
from evaluation.protocols import own_metrics
from evaluation.ranking_options import add_ranking_options, apply_ranking, ranking_of
from evaluation.variant_report import report_variants
from imaging.files import (
    TEST_VIEWS,
    TEXT,
    retrieval_labels,
    scan_test_folders,
    split_folder,
    task_folders,
)
from imaging.texts import read_texts
from imaging.turns import turns_by_view, turns_in_test
from imaging.variants import add_variant_options, check_variant_options, plan_test
from networks.options import add_zero_shot_options, check_zero_shot
from networks.run_options import input_size_from_opts
from runtime import cli, files, locks, processes, startup
from runtime.cli import positive_int, script
from runtime.printing import printable

AGREEING = ("h", "w", "pool")  # of a network: with a run they must agree with it
REFUSED = {
    "use_dense": "it never had an effect in the published code; a run knows its own network",
    "PCB": "the published code names this network but has none",
}


@script
def main(argv=None):
    """Run the tasks; returns {"<query>_<gallery>": metrics}, or for a single task its metrics."""
    opts = parse_args(argv)
    with locks.sole_writer(opts.output, "choose another --output"):
        return test(opts)


def test(opts):
    """Run the tasks, while no other process writes the output; returns as `main` does."""
    startup.import_torch()
    import zero_shot
    from extract import extract_features, labelled
    from imaging.cache import open_view

    device = utils.select_device(opts.device, opts.gpu_ids)
    processes.join_processes(device)
    startup.keep_freed_memory()
    network, branches, run_opts = zero_shot.load_network(opts, device)
    check_agreement(opts, run_opts)
    height, width = input_size_from_opts(run_opts)
    turns = run_opts.get("turns") if opts.turns is None else opts.turns
    turns = turns_in_test(turns, branches, height, width)
    test_dir = split_folder(opts.test_dir, "test")
    tasks = choose_tasks(opts, branches, test_dir)
    scanned = scan_test_folders(test_dir, tasks)
    label_of = retrieval_labels(*scanned.values())
    plan = plan_test(opts, tasks, scanned, test_dir, width)

    def extract(view, paths, description, change=None):
        settings = height, width, opts.cache, opts.num_workers, change
        texts = view == TEXT and network.read_words(paths, read_texts(paths))
        images = texts or open_view(paths, *settings)
        how = {"batch_size": opts.batchsize, "num_workers": opts.num_workers}
        how["description"] = description
        if onnx_files(opts.name):  # scales, turns and mirror images are inside
            return network.extract(view, paths, images, **how)
        how |= {"device": device, "scales": opts.ms, "turns": turns[view]}
        how["flip"] = not run_opts.get("no_flip")
        return extract_features(network, branches[view], paths, images, **how)

    centring = zero_shot.ViewMeans(opts, {view for task in tasks for view in task}, extract)
    features, results = {}, {}
    no_folder = opts.zero_shot or onnx_files(opts.name)
    run_dir = None if no_folder else utils.results_folder(opts.name)
    for step in plan.steps:  # only one, where images are tested as they are
        for folder, classes in step.folders.items():
            paths = [path for images in classes.values() for path in images]
            description = ", ".join(filter(None, [folder, step.variant.label]))
            found = extract(folder.split("_")[1], paths, description, step.variant.change)
            features[folder] = labelled(found, classes, label_of)
        if not processes.is_main():  # the first process saves and scores
            continue
        for task, variant in step.tasks.items():
            sides = centring.task(task, *(features[folder] for folder in task_folders(task)))
            path = output_path(opts, task, variant.name)
            metrics = score_task(task, *sides, path, run_dir, opts, variant.label)
            results.setdefault(task, {})[variant.name] = metrics
    for task, by_variant in results.items():
        for line in report_variants(task, by_variant, plan, run_dir, task if opts.all else ()):
            add_result(run_dir, line)
    found = {task: each.get("", each) for task, each in results.items()}
    return {"_".join(task): found[task] for task in found} if opts.all else found.get(tasks[0], {})


# ---------------------------------------------------------------- run and tasks
def check_agreement(opts, run_opts):
    """Raise ValueError where --h, --w, --views or --pool contradict the run's opts.yaml."""
    for key in (*AGREEING, "views"):
        given, recorded = getattr(opts, key), run_opts.get(key)
        if given is not None and recorded is not None and given != recorded:
            raise ValueError(
                f"--{key} {given} contradicts opts.yaml of the run {opts.name}, which says "
                f"{recorded}: leave the option out"
            )


def choose_tasks(opts, branches, test_dir):
    """The (query, gallery) view pairs to run: the one asked for, or all there are folders for."""
    if not opts.all:
        cli.need_views(opts, branches, "query", "gallery")
        return [(opts.query, opts.gallery)]
    pairs = [(query, gallery) for query in branches for gallery in branches if query != gallery]
    tasks = [
        task for task in pairs if all((test_dir / folder).is_dir() for folder in task_folders(task))
    ]
    if not tasks:
        raise FileNotFoundError(
            f"{test_dir} has no query_ and gallery_ folders for the run's views "
            f"{', '.join(branches)}"
        )
    return tasks


# ---------------------------------------------------------------- scores
def output_path(opts, task, variant_name):
    """The feature file of one of several tasks, or of several variants of its images."""
    path = Path(opts.output)
    names = [*(task if opts.all else ()), variant_name]
    return path.with_stem("_".join(filter(None, [path.stem, *names])))


def score_task(task, query, gallery, path, run_dir, opts, label=""):
    """Save a task's features, score them, print the line and add it to the run's result.txt.

    The file holds the features as the network gave them, whatever the ranking. In the plain ranking
    of a folder that was made from a data set, that data set's own metrics are printed too.
    """
    save_features(path, query, gallery)
    query, gallery, scores, notes = apply_ranking(opts.ranking, query, gallery)
    metrics = evaluate(query, gallery, scores=scores)
    if notes:
        metrics["protocol"] = notes
    name = " -> ".join(task) + (f" under {label}" if label else "")
    print(f"{name}, features in {path}")
    print(report(metrics, query, gallery, notes))
    add_result(run_dir, f"{'; '.join([name, *notes])}: {published_line(metrics)}")
    _, text, warnings = ({}, "", []) if notes else own_metrics(opts.test_dir, task, query, gallery)
    if text:
        print(text)
    for warning in [
        *warnings_about(metrics, query, gallery, bool(label or opts.zero_shot)),
        *warnings,
    ]:
        print(f"warning: {printable(warning)}", file=sys.stderr)
    return metrics


def add_result(run_dir, line):
    """Add a line to the run's result.txt; without a run (--zero_shot) there is none."""
    if run_dir is None:
        return
    result = run_dir / "result.txt"
    with locks.sole_writer(result, wait=60):  # another test may add its line
        earlier = result.read_text(encoding="utf-8") if result.is_file() else ""
        files.write_text(result, f"{earlier}{line}\n")


# ---------------------------------------------------------------- options
def build_parser():
    """The parser; what describes the network of a run comes from the run folder, not from here."""
    parser = cli.Parser(
        description="Extract features, save them as .mat and print the recall.",
        epilog=cli.example_in(__doc__),
    )
    add = parser.add_argument
    cli.add_run_options(parser)
    add("--test_dir", default="./data/test", help="data folder or its test/")
    add("--query", default="drone", choices=(*TEST_VIEWS, TEXT), help="view of the queries")
    add("--gallery", default="satellite", choices=(*TEST_VIEWS, TEXT), help="view of the gallery")
    add("--all", action="store_true", help="every task the run's views and test folders allow")
    add("--output", default=FEATURE_FILE, help="feature file, .mat or .npz; with --all, --weather "
        "or --perturb a whole one each, task and change added to its name")  # fmt: skip
    add("--batchsize", type=positive_int, default=128, help="images at once")
    add("--ms", type=_scales, default="1", help="scales of the input to sum over, e.g. 1,1.1,1.2")
    add("--turns", type=turns_by_view, default=None, metavar="N|VIEW=N,...", help="average over 1, "
        "2 or 4 right-angle turns of the images: of all views, or by view, satellite=4,drone=1 "
        "(if left out: as the run was trained)")  # fmt: skip
    add_variant_options(parser)
    cli.add_precision_options(parser.add_mutually_exclusive_group())
    cli.add_cache_option(parser)
    cli.add_machine_options(parser)
    add("--views", type=positive_int, default=None, help="must agree with the run")
    add_zero_shot_options(parser)
    add_ranking_options(parser)
    cli.add_refused(parser, REFUSED)
    return parser


def _scales(text):
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 10 for scale in scales):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of scales such as 1,1.1,1.2")
    return scales


def parse_args(argv=None):
    """Options of a test; refused ones end the program."""
    parser = build_parser()
    opts = parser.parse_args(argv)
    if not opts.all and opts.query == opts.gallery:
        parser.error(f"--query and --gallery are both {opts.query}: name two views")
    if Path(opts.output).suffix not in (".mat", ".npz"):
        parser.error(f"--output {opts.output}: expected a name ending in .mat or .npz")
    check_zero_shot(parser, opts, compared=AGREEING)
    check_onnx(parser, opts, ms=(1.0,), turns=None)
    check_variant_options(opts, parser)
    opts.ranking = ranking_of(opts, parser)
    return opts


if __name__ == "__main__":
    main()
