"""Made from University-1652: University-160k, fewer drone images, test images under weather."""

import functools
from pathlib import Path

from imaging.files import TEST_FOLDERS, TRAIN_FOLDERS, is_image_name, list_classes, list_images
from imaging.perturb import frame_number
from imaging.weather import CONDITIONS, SPEC_VERSION, draw_weather, parse_conditions
from sources.command import SKIP_MISSING, converter, option
from sources.plan import Entry, Plan
from sources.reading import keep_complete, need_folder, read_lines, read_text, repetitions

UNKNOWN = "unknown"  # the class of queries whose building is not published
DISTRACTORS_160K = 167486
FRAMES = 54  # drone images of a building
LIMITS = (1, 3, 9, 18, 27)  # drone images to keep of them


# ---------------------------------------------------------------- University-160k
def plan_university160k(source, *, names=None, train=None, skip_missing=False):
    """University-160k: University-1652's task with 167,486 more satellite images in the gallery.

    Reads query_drone_160k/, flat, in the order of query_drone_name.txt (a file name a line;
    `names` says where it is), and gallery_satellite_160k/, at any depth, of `source` or
    `source`/test. The queries' names are masked, so they form one class `unknown`, which is empty
    in the gallery: recall is 0 by construction, and the ranking is what counts. A gallery image's
    class is its file stem, as in the answers of the challenge. query_drone_name.txt is kept beside
    test/. Training folders are those of `train`, a University-1652 folder, or of `source`.
    """
    source = need_folder(source, "the folder of University-160k, with test/query_drone_160k/")
    test = source / "test" if (source / "test" / "query_drone_160k").is_dir() else source
    queries = need_folder(test / "query_drone_160k", "the queries of University-160k")
    gallery = need_folder(test / "gallery_satellite_160k", "the gallery of University-160k")
    plan = Plan("University-160k")
    if names is None:
        beside = [folder / "query_drone_name.txt" for folder in (source, test)]
        names = next(filter(Path.is_file, beside), None)
    if names is None:
        listed = list_images(queries)
        plan.notes.append("no query_drone_name.txt: the queries are in the order of their names")
    else:
        listed = _listed_queries(Path(names), queries, plan, skip_missing)
    plan.add_classes("test/query_drone", {UNKNOWN: listed})
    plan.sidecars["query_drone_name.txt"] = "".join(f"{query.name}\n" for query in listed)
    plan.empty_classes.append(f"test/gallery_satellite/{UNKNOWN}")
    _add_gallery(plan, gallery, {UNKNOWN: queries})
    images = DISTRACTORS_160K, DISTRACTORS_160K + 951  # without the known buildings or with them
    plan.official = {"test/query_drone": (None, None), "test/gallery_satellite": (None, images)}
    train_folder = Path(train or source)
    if not any((train_folder / folder).is_dir() for folder in TRAIN_FOLDERS):
        if train:
            raise FileNotFoundError(f"{train} has no train/: give University-1652's folder")
        plan.notes.append("no train/: add --train with the folder of University-1652 to train")
    plan.add_layout(train_folder, TRAIN_FOLDERS)
    return plan


def _listed_queries(names, queries, plan, skip_missing):
    """The images of the folder `queries` that the file `names` lists, in its order."""
    lines = read_lines(names, "a query's file name a line")
    listed, what = [queries / line.strip() for line in lines.values()], f"queries of {names}"
    if repeated := repetitions(query.name for query in listed):
        raise ValueError(f"{names} names {repeated[0]} more than once: remove the repeated lines")
    return keep_complete(listed, lambda query: (query,), what, plan, skip_missing, lines)


def _add_gallery(plan, gallery, answers):
    """Each image below `gallery` becomes a class. `answers` are the file stems that are taken."""
    for found in sorted(filter(is_image_name, gallery.rglob("*"))):
        if found.stem in answers:
            raise ValueError(
                f"{found} and {answers[found.stem]} are one answer, {found.stem}: rename one"
            )
        answers[found.stem] = found
        plan.add("test/gallery_satellite", found.stem, found)


# ---------------------------------------------------------------- fewer drone images
def plan_limit_views(source, *, views):
    """University-1652 with fewer drone images of a training building: 1, 3, 9, 18 or 27 of 54.

    Frame n is kept where n mod (54 / views) is 1, as published (prepare_limit_view.py of
    University1652-Baseline); n is the number at the end of the file's stem. All other folders of
    the layout are linked as they are.
    """
    source = need_folder(source, "a data folder with train/drone/")
    need_folder(source / "train" / "drone", "the drone images to choose from")
    plan = Plan("University-1652")
    drone = {}
    for name, paths in list_classes(source / "train" / "drone").items():
        drone[name] = [path for path in paths if _frame_number(path) % (FRAMES // views) == 1]
        if paths and not drone[name]:
            plan.notes.append(f"train/drone/{name} has no frame left of {len(paths)}")
    plan.add_classes("train/drone", drone)
    others = [folder for folder in (*TRAIN_FOLDERS, *TEST_FOLDERS) if folder != "train/drone"]
    plan.add_layout(source, others)
    if (source / "coordinates.csv").is_file():
        text = read_text(source / "coordinates.csv", "the buildings' coordinates")
        plan.sidecars["coordinates.csv"] = text
    if len(drone) == 701 or "university" in source.resolve().name.lower():
        plan.official["train/drone"] = (701, 701 * views)
    return plan


def _frame_number(path):
    number = frame_number(path)
    if number is None:
        raise ValueError(f"{path} has no frame number: expected a name like image-01.jpeg")
    return number


# ---------------------------------------------------------------- weather
def plan_wx(source, *, conditions):
    """The test folders of a data folder once under each condition: <condition>/test/...

    Drone images become PNGs, whose pixels are those that `test.py --weather` draws; the other views
    are linked.
    """
    source = need_folder(source, "a data folder with test/query_drone/")
    plan = Plan(f"weather, version {SPEC_VERSION}", mark={"version": SPEC_VERSION})
    folders = [folder for folder in TEST_FOLDERS if (source / folder).is_dir()]
    if not any("drone" in folder for folder in folders):
        raise FileNotFoundError(
            f"{source} has neither test/query_drone nor test/gallery_drone: weather is drawn on "
            "drone images"
        )
    for condition in conditions:
        for folder in folders:
            place = f"{condition}/{folder}"
            classes = list_classes(source / folder)
            if "drone" not in folder or condition == "normal":
                plan.add_classes(place, classes)
                continue
            for name, paths in classes.items():
                for path in paths:
                    change = functools.partial(draw_weather, path=path, condition=condition)
                    plan.entries.append(Entry(path, f"{place}/{name}/{path.stem}.png", change))
    return plan


COMMANDS = (
    converter("university160k", plan_university160k,
              "University-160k: masked drone queries, 167,486 more satellite images",
              "folder with test/query_drone_160k/ and test/gallery_satellite_160k/",
              option("--names", type=Path,
                     help="query_drone_name.txt, where it is not in the source"),
              option("--train", type=Path,
                     help="folder of University-1652, where train/ is not in the source"),
              SKIP_MISSING),
    converter("limit-views", plan_limit_views,
              "University-1652 with fewer drone images to train on",
              "data folder with train/drone/",
              option("--views", type=int, choices=LIMITS, required=True,
                     help=f"how many of a building's {FRAMES} drone images to keep"),
              example="DIR --views 9 --out data/views9"),
    converter("wx", plan_wx,
              "the test images under weather, for other programs: a data folder for each condition",
              "data folder with test/query_drone/",
              option("--conditions", type=parse_conditions, default=CONDITIONS,
                     metavar="NAME,...", help="all, or some of fog, rain, ...")),
)  # fmt: skip
