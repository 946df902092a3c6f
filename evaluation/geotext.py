"""GeoText-1652: texts and images search each other, and a hit is any item of the same building.

Texts are known by their paths, `.../0839/image-43.txt:2`: the second line of the file of texts that
belongs to image-43 of building 0839. Source: Chu et al., Towards natural language-guided drones,
ECCV 2024, and its public code: re_bbox.py for the metrics, dataset/re_bbox_dataset.py for the
buildings' numbers.
"""

import re
from pathlib import PurePosixPath

import numpy as np

from evaluation.feature_file import load_features
from evaluation.metrics import first_ranks, recall, recall_line, tie_line, tie_metrics
from evaluation.ranking import find_matches, rank_positives
from evaluation.side_files import with_slashes

TEXT_LINE = re.compile(r"\.txt:[0-9]+$", re.IGNORECASE)
VIEW_FOLDER = re.compile(r"(?:query|gallery)_(drone|satellite|street)")
PLACES = (1, 5, 10)  # of the recalls that are published
SAMPLE = 1000  # texts by whose features files are compared


# ---------------------------------------------------------------- names
def image_name(path):
    """`<ID>/<stem>`, the name of an image or of the image that a text describes."""
    file = PurePosixPath(TEXT_LINE.sub("", path))
    return f"{file.parent.name}/{file.stem}"


def platform_of(path):
    """What took an image, or the image that a text describes: drone, satellite, street or other.

    By a view's folder, else as University-1652 names its files: image-43.jpeg from a drone,
    0839.jpg the satellite image of building 0839, 1.jpg from the street.
    """
    for part in path.split("/")[:-1]:
        if found := VIEW_FOLDER.fullmatch(part):
            return found[1]
    building, stem = image_name(path).split("/")
    if re.fullmatch("image-[0-9]+", stem):
        return "drone"
    if stem == building:
        return "satellite"
    return "street" if re.fullmatch("[0-9]+", stem) else "other"


# ---------------------------------------------------------------- the two sides
def texts_and_images(query, gallery, source="features"):
    """The two `Features` as (texts, images), whichever is the query.

    Raises ValueError where there are no paths, or where not exactly one side is texts.
    """
    texts = [
        np.mean([bool(TEXT_LINE.search(path)) for path in with_slashes(side.paths)])
        for side in (query, gallery)
    ]
    if sorted(texts) != [0, 1]:
        query_share, gallery_share = (f"{100 * share:.0f} %" for share in texts)
        raise ValueError(
            f"{source}: {query_share} of the queries and {gallery_share} of the gallery are texts "
            "(paths ending in .txt:LINE), expected all of one and none of the other: test with "
            "--query text or --gallery text"
        )
    return (query, gallery) if texts[0] else (gallery, query)


def join_files(paths):
    """(texts, images) of feature files of the same texts and different images, as of each platform.

    Raises ValueError where the texts differ or an image comes twice.
    """
    texts, *others = [texts_and_images(*load_features(path), path) for path in paths]
    texts, images = texts[0], [texts[1]]
    for path, (same, more) in zip(paths[1:], others, strict=True):
        if not _equal(texts, same):
            raise ValueError(
                f"{path} has other texts than {paths[0]}, or other features of them: write both "
                "by the same run of test.py, with --query text"
            )
        images.append(more)
    joined = images[0]._replace(
        features=np.concatenate([each.features for each in images]),
        labels=np.concatenate([each.labels for each in images]),
        paths=[path for each in images for path in each.paths],
    )
    if len(set(joined.paths)) < len(joined.paths):
        raise ValueError("the feature files hold the same images: name one file of each platform")
    return texts, joined


def _equal(texts, others):
    """Whether two files hold the same texts; of the features, their beginning tells."""
    if texts.paths != others.paths or not np.array_equal(texts.labels, others.labels):
        return False
    first, second = texts.features[:SAMPLE], others.features[:SAMPLE]
    return first.shape == second.shape and np.allclose(first, second, atol=1e-3)


# ---------------------------------------------------------------- the buildings' numbers
def official_numbers(names):
    """Buildings numbered as the published code does: ({image: number}, the moved images).

    `names`: `<ID>/<file name>` in the order of the released file. A number belongs to a run of one
    building, and is counted up after the first image of the next run was numbered; so that image,
    and each text of it, carries the number of the building before. Source:
    GeoText-1652, Method/dataset/re_bbox_dataset.py, `re_eval_dataset`.
    """
    numbers, moved = {}, set()
    number, previous = 0, None
    for name in names:
        image = image_name(name)
        building = image.split("/")[0]
        numbers[image] = number
        if previous not in (None, building):
            number += 1
            moved.add(image)
        previous = building
    return numbers, moved


def _renumbered(side, numbers, moved):
    """`Features` with the published code's numbers as labels, and how many of them are moved."""
    names = [image_name(path) for path in with_slashes(side.paths)]
    strange = next((name for name in names if name not in numbers), None)
    if strange is not None:
        raise ValueError(
            f"the list of --official has no image {strange}: give image_order.txt of the data "
            "folder that was tested"
        )
    labels = np.array([numbers[name] for name in names], dtype=np.int64)
    return side._replace(labels=labels), sum(name in moved for name in names)


# ---------------------------------------------------------------- scores
def evaluate_geotext(query, gallery, official=None, scores=None):
    """GeoText-1652's metrics, both ways round; rates in percent.

    query, gallery: `Features`, one of texts, whose paths end in .txt:LINE, and one of images.
    `official`: the images' names in the order of the released file, to number the buildings as the
    published code does (see `official_numbers`), or None. `scores` must be None: the plain ones
    are taken in both directions.

    Returns {"text_to_image": ..., "image_to_text": ..., "recall_mean": mean of the six recalls}.
    A direction has `recall@1`, `@5`, `@10`, queries with an item of their building among the first
    K; `recall@1_chance`, `num_queries`, `num_gallery`, `num_unmatched` (they count 0), where scores
    tie the numbers of `metrics.tie_metrics`, and "platforms": {platform of the query, the text's
    being that of its image: its recalls and `num_queries`}. With `official` also
    `num_moved_images` and `num_moved_texts`.
    """
    if scores is not None:
        raise ValueError("the protocol geotext ranks both ways round: leave re-ranking out")
    texts, images = texts_and_images(query, gallery)
    moved = {}
    if official is not None:
        numbering = official_numbers(official)
        texts, moved["num_moved_texts"] = _renumbered(texts, *numbering)
        images, moved["num_moved_images"] = _renumbered(images, *numbering)
    ways = {
        "text_to_image": _score(texts, images, "texts"),
        "image_to_text": _score(images, texts, "images"),
    }
    recalls = [metrics[f"recall@{k}"] for metrics in ways.values() for k in PLACES]
    return {**ways, "recall_mean": float(np.mean(recalls)), **moved}


def _score(query, gallery, what):
    """The metrics of one direction, see `evaluate_geotext`."""
    ranks, lengths, bounds = rank_positives(
        query, gallery, description=f"ranking for {what}", only_first=True
    )
    first, counts = first_ranks(ranks), [len(each) for each in find_matches(query, gallery)[0]]
    platforms = np.array([platform_of(path) for path in with_slashes(query.paths)])
    return {
        **_recalls(first),
        "recall@1_chance": float(100 * np.mean(counts / np.maximum(lengths, 1))),
        "num_queries": len(first),
        "num_gallery": len(gallery.labels),
        "num_unmatched": int(np.isinf(first).sum()),
        **tie_metrics(bounds, len(gallery.labels)),
        "platforms": {
            name: {**_recalls(first[platforms == name]), "num_queries": int(count)}
            for name, count in zip(*np.unique(platforms, return_counts=True), strict=True)
        },
    }


def _recalls(first):
    return {f"recall@{k}": recall(first, k) for k in PLACES}


# ---------------------------------------------------------------- what a reader sees
def describe_geotext(metrics):
    """Lines of text for what `evaluate_geotext` returned."""
    lines = []
    for way, of_platform in (
        ("text_to_image", "texts of {} images"),
        ("image_to_text", "{} images"),
    ):
        found = metrics[way]
        name = way.replace("_to_", " -> ")
        lines.append(f"{name}: {recall_line(found, places=PLACES)}")
        if len(found["platforms"]) > 1:
            for platform, each in found["platforms"].items():
                count = f"{each['num_queries']} {of_platform.format(platform)}"
                lines.append(f"  {count}: {recall_line(each, places=PLACES)}")
        if found["num_unmatched"]:
            lines.append(
                f"  {found['num_unmatched']} of {found['num_queries']} have no match in the "
                "gallery and count as missed"
            )
        if tie_line(found):
            lines.append(f"  {tie_line(found)}")
    lines.append(f"mean of the six: {metrics['recall_mean']:.2f}")
    if "num_moved_texts" in metrics:
        lines.append(
            "buildings numbered as in the published code: the first image of each building has the "
            f"number of the building before ({metrics['num_moved_images']} images and "
            f"{metrics['num_moved_texts']} texts here); text -> image is that code's img_r and the "
            "leaderboard's Text R, image -> text its txt_r and Image R"
        )
    return lines
