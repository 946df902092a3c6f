"""Variants of a test: the same images under weather conditions, or with changed queries.

`plan_test` says which images are extracted, how they are changed, and which tasks are scored then.
Without --weather and --perturb a plan has one step, with all images as they are.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from imaging.files import TEXT, task_folders
from imaging.perturb import KINDS, parse_perturbations
from imaging.weather import condition_label, draw_weather, parse_conditions


class Variant(NamedTuple):
    """One way in which images are tested; by default as they are."""

    name: str = ""  # added to the name of its feature file
    label: str = ""  # of its row in the table
    change: Callable | None = None  # see cache.load_resized
    choose: Callable = list  # image files of a class -> those to be used


class Step(NamedTuple):
    """A part of a test: images to extract, and the tasks that can be scored then."""

    folders: dict  # {folder: {ID: paths}}
    variant: Variant  # of the images of these folders
    tasks: dict  # {(query, gallery): the Variant of its images}


class Plan(NamedTuple):
    """The steps of a test, and what is shown of all variants together at the end."""

    steps: list
    labels: dict  # {name of a variant: label}
    mean_of: str = ""  # what the mean is taken over, where it is of interest
    curve: str = ""  # name of a picture of the metrics over the amounts
    axis: str = ""  # what the amounts are
    amounts: tuple = ()  # numbers, or names in their order


def add_variant_options(parser):
    """Add --weather and --perturb, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--weather",
        type=parse_conditions,
        metavar="NAME,...",
        help="test on drone images under weather: all ten conditions, or some (fog,rain), each by "
        "itself, and their mean",
    )
    group.add_argument(
        "--perturb",
        type=parse_perturbations,
        metavar="KIND=AMOUNT",
        help="test with changed queries: rotate=30, a list shift=0,20,40 or a range "
        "scale=0.5:1.5:0.25 of degrees, pixels of the input, times; pad=PIXELS; "
        "distance=long,middle,short of the drone; images=1,3 of a building",
    )


def check_variant_options(opts, parser):
    """End the program where --cache would keep images that --weather or --perturb changes."""
    if opts.cache != "none" and (opts.weather or opts.perturb):
        option = "--weather" if opts.weather else "--perturb"
        parser.error(f"{option} changes images before they are resized: leave --cache out")


def plan_test(opts, tasks, scanned, test_dir, input_width):
    """The `Plan` of a test of the images `scanned`, {folder: {ID: paths}} in `test_dir`.

    Images that are the same in all variants are extracted with the first one, and tasks of such
    images alone are scored once. Raises ValueError where a variant has no images.
    """
    changed, variants, shown = "", [Variant()], {}
    if opts.weather:
        changed, variants, shown = _under_weather(opts.weather, tasks)
    elif opts.perturb:
        changed, variants, shown = _perturbed(opts.perturb, tasks, input_width)
    varying = {folder: classes for folder, classes in scanned.items() if changed in folder}
    shared = {folder: classes for folder, classes in scanned.items() if folder not in varying}
    chosen = [_choose_images(variant, varying, test_dir) for variant in variants]
    steps = [Step(shared, Variant(), {})] if shared else []
    unchanged = [task for task in tasks if varying.keys().isdisjoint(task_folders(task))]
    for folders, variant in zip(chosen, variants, strict=True):
        by_task = {task: Variant() if task in unchanged else variant for task in tasks}
        steps.append(Step(folders, variant, by_task))
        tasks = [task for task in tasks if task not in unchanged]
    return Plan(steps, {each.name: each.label for each in variants}, **shown)


def _under_weather(conditions, tasks):
    """What the names of folders with changed images contain, the variants, fields of the Plan."""
    if not any("drone" in task for task in tasks):
        raise ValueError("--weather is drawn on drone images, and the task has none: leave it out")
    variants = [
        Variant(name, condition_label(name), partial(draw_weather, condition=name))
        for name in conditions
    ]
    return "drone", variants, {"mean_of": "weather conditions"}


def _perturbed(perturbations, tasks, input_width):
    """As `_under_weather`, of changed queries."""
    kind = perturbations[0].kind
    views = {query for query, _ in tasks}
    if TEXT in views:
        raise ValueError(
            "--perturb changes the images of queries, and texts are none: leave it out"
        )
    if kind == "distance" and views != {"drone"}:
        raise ValueError(
            f"--perturb distance needs drone queries, not {', '.join(sorted(views))}: "
            "choose --query drone, without --all"
        )
    variants = []
    for each in perturbations:
        each.check(input_width)
        change = partial(_change, perturbation=each, input_width=input_width)
        variants.append(Variant(each.label.replace("=", "_"), each.label, change, each.choose))
    amounts = tuple(each.amount for each in perturbations)
    axis = f"{kind}: {KINDS[kind]}"
    return "query_", variants, {"curve": f"perturb_{kind}", "axis": axis, "amounts": amounts}


def _change(image, path, perturbation, input_width):
    return perturbation.change(image, input_width)


def _choose_images(variant, folders, test_dir):
    """{folder: {ID: paths}} that a variant uses; ValueError where a folder has none."""
    chosen = {
        folder: {name: variant.choose(paths) for name, paths in classes.items()}
        for folder, classes in folders.items()
    }
    for folder, classes in chosen.items():
        if not any(classes.values()):
            raise ValueError(
                f"{test_dir / folder} has no image for {variant.label}; the distance follows from "
                "the frame, 1 to 54, at the end of a file's name"
            )
    return chosen
