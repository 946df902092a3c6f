"""Extract the features of a trained network on query and gallery images, save and score them.

python test.py --name two_view --test_dir data/toy                      # drone -> satellite
python test.py --name two_view --query satellite --gallery drone
python test.py --name two_view --all                                    # every possible task
python test.py --name two_view --rerank gnn                             # see rerank.py
python test.py --name two_view --weather all                            # see weather.py
python test.py --name two_view --perturb rotate=0:180:15                # see perturb.py
torchrun --nproc_per_node 4 test.py --name two_view                     # on four GPUs
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import utils
from runtime import cli, files, processes, startup
from runtime.cli import positive_int, script

FEATURE_FILE = "pytorch_result.mat"
REFUSED = {
    "use_dense": "it never had an effect in the published code; a run knows its own network",
    "PCB": "the published code names this network but has none",
}


def build_parser():
    """The parser; what describes the network comes from the run folder, not from here."""
    from evaluation.rerank import add_protocol_options

    parser = cli.Parser(
        description="Extract features, save them as .mat and print the recall.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--name", default="two_view", help="name of the run folder in model/")
    parser.add_argument("--which_epoch", default="last", help="weights to test: 59, or last")
    parser.add_argument("--test_dir", default="./data/test", help="data folder or its test/")
    parser.add_argument(
        "--query",
        default="drone",
        choices=("satellite", "street", "drone"),
        help="view of the queries",
    )
    parser.add_argument(
        "--gallery",
        default="satellite",
        choices=("satellite", "street", "drone"),
        help="view of the gallery",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every task that the run's views and the test folders allow",
    )
    parser.add_argument(
        "--output",
        default=FEATURE_FILE,
        help="feature file, .mat or .npz; with --all, --weather or --perturb the task and what was "
        "changed are added to its name",
    )
    parser.add_argument("--batchsize", type=positive_int, default=128, help="images at once")
    parser.add_argument(
        "--ms", type=_scales, default="1", help="scales of the input to sum over, e.g. 1,1.1,1.2"
    )
    variants = parser.add_mutually_exclusive_group()
    variants.add_argument(
        "--weather",
        type=_conditions,
        metavar="NAME,...",
        help="test on drone images under weather: all ten conditions, or some (fog,rain), each by "
        "itself, and their mean",
    )
    variants.add_argument(
        "--perturb",
        type=_perturbations,
        metavar="KIND=AMOUNT",
        help="test with changed queries: rotate=30, a list shift=0,20,40 or a range "
        "scale=0.5:1.5:0.25 of degrees, pixels of the input, times; pad=PIXELS; "
        "distance=long,middle,short of the drone; images=1,3 of a building",
    )
    cli.add_precision_options(parser)
    cli.add_cache_option(parser)
    cli.add_machine_options(parser)
    parser.add_argument("--h", type=positive_int, default=None, help="must agree with the run")
    parser.add_argument("--w", type=positive_int, default=None, help="must agree with the run")
    parser.add_argument("--views", type=positive_int, default=None, help="must agree with the run")
    parser.add_argument("--pool", default=None, help="must agree with the run")
    add_protocol_options(parser)
    cli.add_refused(parser, REFUSED)
    return parser


def _conditions(text):
    from imaging.weather import parse_conditions

    return parse_conditions(text)


def _perturbations(text):
    from imaging.perturb import parse_perturbations

    return parse_perturbations(text)


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
    from evaluation.rerank import protocol_of

    parser = build_parser()
    opts = parser.parse_args(argv)
    if not opts.all and opts.query == opts.gallery:
        parser.error(f"--query and --gallery are both {opts.query}: name two views")
    if Path(opts.output).suffix not in (".mat", ".npz"):
        parser.error(f"--output {opts.output}: expected a name ending in .mat or .npz")
    if opts.cache != "none" and (opts.weather or opts.perturb):
        which = "--weather" if opts.weather else "--perturb"
        parser.error(f"{which} changes images before they are resized: leave --cache out")
    opts.protocol = protocol_of(opts, parser)
    return opts


def check_agreement(opts, run_opts):
    """Raise ValueError where --h, --w, --views or --pool contradict the run's opts.yaml."""
    for key in ("h", "w", "views", "pool"):
        given, own = getattr(opts, key), run_opts.get(key)
        if given is not None and own is not None and given != own:
            raise ValueError(
                f"--{key} {given} contradicts opts.yaml of the run {opts.name}, which says "
                f"{own}: leave the option out"
            )


def load_run(name, which_epoch, device):
    """The trained network of a run folder on a device, its branch numbers, and its options."""
    import model
    from networks.musenet import from_published

    run_dir = utils.run_folder(name)
    checkpoint = utils.find_checkpoint(run_dir, which_epoch)
    run_opts = utils.read_opts(run_dir)
    weights = from_published(utils.load_tensors(checkpoint))
    network = model.model_from_opts(run_opts, weights)
    utils.load_weights(network, checkpoint, weights)
    print(f"weights: {checkpoint}")
    branches = model.branch_numbers(*model.views_from_opts(run_opts))
    return network.to(device).eval(), branches, run_opts


def choose_tasks(opts, branches, test_dir):
    """The (query, gallery) view pairs to run: the one asked for, or all there are folders for."""
    if not opts.all:
        for view in (opts.query, opts.gallery):
            if view not in branches:
                raise ValueError(
                    f"the run {opts.name} was trained on {', '.join(branches)}, not on {view}: "
                    "choose --query and --gallery among these"
                )
        return [(opts.query, opts.gallery)]
    tasks = [
        (query, gallery)
        for query in branches
        for gallery in branches
        if query != gallery
        and (test_dir / f"query_{query}").is_dir()
        and (test_dir / f"gallery_{gallery}").is_dir()
    ]
    if not tasks:
        raise FileNotFoundError(
            f"{test_dir} has no query_ and gallery_ folders for the run's views "
            f"{', '.join(branches)}"
        )
    return tasks


def check_known(classes, test_dir, folder):
    """Raise ValueError for a query class that no gallery folder holds: a misplaced folder."""
    galleries = [path for path in test_dir.glob("gallery_*") if path.is_dir()]
    known = {path.name for gallery in galleries for path in gallery.iterdir()}
    strangers = [name for name, paths in classes.items() if paths and name not in known]
    if strangers:
        raise ValueError(
            f"{folder} has {len(strangers)} class folder(s) that no gallery folder holds, first "
            f"{strangers[0]}: add its gallery images or remove it"
        )


def open_views(test_dir, tasks):
    """{"query_drone": {ID: paths}, ...} of the folders the tasks need, and the IDs' labels."""
    from dataset import retrieval_labels
    from imaging.files import scan_classes

    folders = sorted({f"query_{q}" for q, _ in tasks} | {f"gallery_{g}" for _, g in tasks})
    scanned = {folder: scan_classes(test_dir / folder) for folder in folders}
    for folder in folders:
        if folder.startswith("query_"):
            check_known(scanned[folder], test_dir, test_dir / folder)
    return scanned, retrieval_labels(*scanned.values())


# ---------------------------------------------------------------- variants
class Variant(NamedTuple):
    """One of the ways in which images are tested: under a weather condition, or perturbed."""

    name: str  # added to the name of its feature file
    label: str  # of its row
    touches: str  # the folders of images that differ have this in their names
    change: Callable | None = None  # see cache.load_resized
    choose: Callable = list  # image files of a class -> those to be used


def variants_of(opts, input_width):
    """The `Variant`s that --weather or --perturb asks for; else a single one, of nothing."""
    from imaging.weather import condition_label, draw_weather

    if opts.weather:
        return [
            Variant(name, condition_label(name), "drone", partial(draw_weather, condition=name))
            for name in opts.weather
        ]
    if opts.perturb:
        for each in opts.perturb:
            each.check(input_width)
        return [
            Variant(
                each.label.replace("=", "_"),
                each.label,
                "query_",
                lambda image, path, each=each: each.change(image, input_width),
                each.choose,
            )
            for each in opts.perturb
        ]
    return [Variant("", "", "no folder")]


def check_variants(opts, tasks):
    """Raise ValueError where a task has no images that --weather or --perturb could change."""
    views = {view for task in tasks for view in task}
    if opts.weather and "drone" not in views:
        raise ValueError("--weather is drawn on drone images, and the task has none: leave it out")
    queries = {query for query, _ in tasks}
    if opts.perturb and opts.perturb[0].kind == "distance" and queries != {"drone"}:
        raise ValueError(
            f"--perturb distance is of drone queries, not of {', '.join(queries)}: "
            "choose --query drone, without --all"
        )


def choose_images(variant, scanned, folders, test_dir):
    """{folder: {ID: paths}} of what a variant uses; ValueError where a folder has nothing."""
    chosen = {
        folder: {name: variant.choose(paths) for name, paths in scanned[folder].items()}
        for folder in folders
    }
    for folder, classes in chosen.items():
        if not any(classes.values()):
            raise ValueError(
                f"{test_dir / folder} has no image for {variant.label}; a distance is told by the "
                "frame, 1 to 54, at the end of a file's name"
            )
    return chosen


def variant_table(task, by_label):
    """Lines of Recall@1 and AP of a task, {label: metrics}."""
    lines = [f"{' -> '.join(task):<28}Recall@1     AP"]
    for label, metrics in by_label.items():
        lines.append(f"  {label:<26}{metrics['recall@1']:>8.2f} {metrics['AP']:>6.2f}")
    return "\n".join(lines)


def mean_metrics(metrics):
    """The mean of each number of several metrics."""
    first = metrics[0]
    return {
        key: sum(each[key] for each in metrics) / len(metrics)
        for key, value in first.items()
        if isinstance(value, (int, float))
    }


def draw_perturbation(path, perturbations, metrics, title):
    """Plot Recall@1 and AP against the amounts of a perturbation."""
    from imaging.perturb import KINDS

    kind = perturbations[0].kind
    points = list(zip(perturbations, metrics, strict=True))
    if kind != "distance":  # these have an order of their own
        points.sort(key=lambda point: point[0].amount)
    amounts = [each.amount for each, _ in points]
    with utils.chart(path, (6.4, 4)) as (axis,):
        for key, label in (("recall@1", "Recall@1"), ("AP", "AP")):
            axis.plot(amounts, [each[key] for _, each in points], marker="o", label=label)
        axis.set(title=title, xlabel=f"{kind}: {KINDS[kind]}", ylabel="percent", ylim=(0, 100))
        axis.legend(frameon=False)


def report_variants(opts, task, variants, by_name, run_dir):
    """Print the table of a task's {variant's name: metrics}; add the mean, draw the curve.

    The mean over the weather conditions is what MuSe-Net (Wang et al., Pattern Recognition 2024)
    reports; it is added to `by_name` and to the run's result.txt.
    """
    by_label = {each.label: by_name[each.name] for each in variants}
    all_notes = [by_name[each.name].get("protocol", []) for each in variants]
    notes = all_notes[0] if all(each == all_notes[0] for each in all_notes) else []
    if opts.weather:
        mean = by_label["mean"] = by_name["mean"] = mean_metrics(list(by_name.values()))
        title = f"{' -> '.join(task)}, mean of {len(variants)} weather conditions"
        line = f"Recall@1:{mean['recall@1']:.2f} AP:{mean['AP']:.2f}"
        add_result(run_dir, f"{'; '.join([title, *notes])}: {line}")
    print("\n".join([*notes, variant_table(task, by_label)]))
    if opts.perturb and len(variants) > 1:
        names = task if opts.all else ()
        picture = run_dir / ("_".join(["perturb", opts.perturb[0].kind, *names]) + ".png")
        title = f"{' -> '.join(task)} of the run {opts.name}"
        draw_perturbation(picture, opts.perturb, list(by_label.values()), title)
        print(f"curve: {picture}")


# ---------------------------------------------------------------- scores
def output_path(output, *names):
    """`output` with names added: the feature file of one of several tasks or conditions."""
    path = Path(output)
    return path.with_stem("_".join([path.stem, *names]))


def score_task(task, query, gallery, path, run_dir, protocol, label=""):
    """Save a task's features, score them, print the line and add it to the run's result.txt.

    The file holds the features as the network gave them, whatever the protocol of the ranking.
    """
    from evaluate_gpu import evaluate, published_line, report, warnings_about
    from evaluation.feature_file import save_features
    from evaluation.rerank import apply_protocol

    save_features(path, query, gallery)
    query, gallery, scores, notes = apply_protocol(protocol, query, gallery)
    metrics = evaluate(query, gallery, scores=scores)
    if notes:
        metrics["protocol"] = notes
    name = " -> ".join(task) + (f" under {label}" if label else "")
    print(f"{name}, features in {path}")
    print(report(metrics, query, gallery, notes))
    for warning in warnings_about(metrics, query, gallery):
        print(f"warning: {warning}", file=sys.stderr)
    add_result(run_dir, f"{'; '.join([name, *notes])}: {published_line(metrics)}")
    return metrics


def add_result(run_dir, line):
    """Add a line to the run's result.txt."""
    result = run_dir / "result.txt"
    earlier = result.read_text(encoding="utf-8") if result.is_file() else ""
    files.write_text(result, f"{earlier}{line}\n")


def score_tasks(opts, results, features, variant, touched):
    """Add to `results`, {task: metrics or {variant's name: metrics}}, those of a variant.

    `features`: {folder: Features}, in `touched` folders those of the variant. What no variant
    touches is scored once.
    """
    for task, its in results.items():
        pair = f"query_{task[0]}", f"gallery_{task[1]}"
        own = variant if set(touched).intersection(pair) else None
        if own is None and its:
            continue
        names = [*(task if opts.all else ()), *([own.name] if own else ())]
        path, sides = output_path(opts.output, *names), [features[folder] for folder in pair]
        label, run_dir = own.label if own else "", utils.run_folder(opts.name)
        metrics = score_task(task, *sides, path, run_dir, opts.protocol, label)
        its.update({own.name: metrics} if own else metrics)


@script
def main(argv=None):
    """Run the tasks; returns {"<query>_<gallery>": metrics}, of a single task its metrics."""
    opts = parse_args(argv)
    startup.import_torch()
    import model
    from extract import view_features
    from imaging.cache import open_view
    from imaging.files import split_folder
    from networks.inference import inference_copy

    device = utils.select_device(opts.device, opts.gpu_ids)
    processes.join_processes(device)
    startup.keep_freed_memory()
    network, branches, run_opts = load_run(opts.name, opts.which_epoch, device)
    check_agreement(opts, run_opts)
    test_dir = split_folder(opts.test_dir, "test")
    tasks = choose_tasks(opts, branches, test_dir)
    check_variants(opts, tasks)
    scanned, label_of = open_views(test_dir, tasks)
    height, width = model.input_size_from_opts(run_opts)
    network = inference_copy(network, cli.precision_of(opts))
    variants = variants_of(opts, width)
    touched = sorted(folder for folder in scanned if variants[0].touches in folder)
    chosen = {each: choose_images(each, scanned, touched, test_dir) for each in variants}

    def extract(folder, variant=None):
        classes = chosen[variant][folder] if variant else scanned[folder]
        paths = [path for images in classes.values() for path in images]
        change = variant.change if variant else None
        with processes.main_process_first() if opts.cache == "disk" else nullcontext():
            images = open_view(paths, height, width, opts.cache, opts.num_workers, change)
        return view_features(
            network,
            branches[folder.split("_")[1]],
            classes,
            label_of,
            images,
            device=device,
            batch_size=opts.batchsize,
            scales=opts.ms,
            num_workers=opts.num_workers,
            description=f"{folder}, {variant.label}" if variant else folder,
        )

    features = {folder: extract(folder) for folder in scanned if folder not in touched}
    results = {task: {} for task in tasks}
    for variant in variants:
        features.update({folder: extract(folder, variant) for folder in touched})
        if processes.is_main():  # the first process saves and scores
            score_tasks(opts, results, features, variant, touched)
    if not processes.is_main():
        return {}
    for task, its in results.items():
        if variants[0].name in its:
            report_variants(opts, task, variants, its, utils.run_folder(opts.name))
    results = {"_".join(task): its for task, its in results.items()}
    return results if opts.all else results["_".join(tasks[0])]


if __name__ == "__main__":
    main()
