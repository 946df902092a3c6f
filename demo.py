"""Show queries and what was retrieved for them, best first, in one picture.

$ python demo.py --query_index 233
$ python demo.py --random 5 --seed 1
$ python demo.py --mistakes 8 --output mistakes.png
"""

import os
import sys
from pathlib import Path, PureWindowsPath

import numpy as np

from evaluation.feature_file import FEATURE_FILE, load_features, warn_of_newer
from evaluation.ranking import rank_gallery, rank_positives
from imaging.files import split_sample
from runtime.cli import Parser, example_in, natural_int, positive_int, script
from runtime.files import replacing
from runtime.printing import printable

COLUMNS = 10  # retrieved images side by side; a longer ranking goes on below
MAX_LINES = 200  # lines of images in a picture: about 50,000 pixels, below matplotlib's limit
THUMBNAIL = 256  # pixels

# The picture's measures, in inches.
DPI = 120
CELL, GAP, QUERY_GAP, MARGIN, CAPTION = 1.4, 0.12, 0.3, 0.15, 0.62

QUERY_COLOUR, CORRECT_COLOUR, WRONG_COLOUR = "#1f3b73", "#1a9641", "#d7191c"


# ---------------------------------------------------------------- what to show
def choose_queries(opts, query, gallery):
    """Indices of the queries that the options ask for; ValueError where there are none such."""
    total = len(query.labels)
    if opts.random:
        generator = np.random.default_rng(opts.seed)
        return generator.choice(total, size=min(opts.random, total), replace=False).tolist()
    if opts.mistakes:
        return worst_queries(query, gallery, opts.mistakes)
    for index in opts.query_index:
        if index >= total:
            raise ValueError(
                f"--query_index {index} is out of range: {opts.features} holds {total} queries, "
                f"0 to {total - 1}"
            )
    return opts.query_index


def worst_queries(query, gallery, count):
    """Of `count` buildings, the query whose first true match is ranked lowest, worst first."""
    ranks, *_ = rank_positives(query, gallery)
    matched = [index for index, each in enumerate(ranks) if len(each)]
    if not matched:
        raise ValueError("no query has a true match in the gallery: use --query_index or --random")
    worst = sorted(matched, key=lambda index: -ranks[index][0])
    _, first = np.unique(query.labels[worst], return_index=True)  # of each building
    return [worst[place] for place in sorted(first)[:count]]


def retrieve(query, gallery, index, top):
    """What was retrieved for one query, as a dict of plain Python values.

    index, path, label; first_match, the rank of the first true match or None; retrieved, up to
    `top` dicts of path, label, score and correct (the query's building?), best first.
    """
    order, scores = rank_gallery(query, gallery, index)
    label = int(query.labels[index])
    correct = gallery.labels[order] == label  # (M,)
    return {
        "index": int(index),
        "path": query.paths[index],
        "label": label,
        "first_match": int(correct.argmax()) + 1 if correct.any() else None,
        "retrieved": [
            {
                "path": gallery.paths[image],
                "label": int(gallery.labels[image]),
                "score": float(scores[place]),
                "correct": bool(correct[place]),
            }
            for place, image in enumerate(order[:top])
        ],
    }


def describe(result):
    """The text printed about one query: its path and label, then the ranked paths."""
    head = f"query {result['index']}: {printable(result['path'])}"
    lines = [f"{head}  label {result['label']}, {_verdict(result)}"]
    for rank, image in enumerate(result["retrieved"], start=1):
        mark = "right" if image["correct"] else "wrong"
        found = (
            f"label {image['label']:<6d} score {image['score']:7.4f}  {printable(image['path'])}"
        )
        lines.append(f"{rank:4d}  {mark}  {found}")
    return "\n".join(lines)


def _verdict(result):
    rank = result["first_match"]
    return "no true match" if rank is None else f"first match: rank {rank}"


# ---------------------------------------------------------------- images
def find_image(path, test_dir=None):
    """The image, or the text sample, that a stored path means: as stored, else below `test_dir`.

    Of a stored path that is gone, <view>/<ID>/<file> is looked for in `test_dir` and in
    `test_dir`/test. Raises FileNotFoundError that names the file and --test_dir.
    """
    if not path:
        raise FileNotFoundError(
            "the feature file holds no image paths: write it again with `python test.py`"
        )
    candidates = [Path(path)]
    if test_dir is not None:
        tail = PureWindowsPath(path).parts[-3:]  # splits at / and at \
        candidates += [Path(test_dir, *tail), Path(test_dir, "test", *tail)]
    for candidate in candidates:
        if split_sample(candidate)[0].is_file():
            return candidate
    where = "also not below" if test_dir else "name the folder that holds the views with"
    raise FileNotFoundError(f"{path} not found: {where} --test_dir {test_dir or 'DIR'}")


# ---------------------------------------------------------------- the picture
def cells_of(result):
    """Yield (line, inches from the left, path, caption, colour) of each image, the query first."""
    caption = f"query {result['index']}\nlabel {result['label']}\n{_verdict(result)}"
    yield 0, MARGIN, result["path"], caption, QUERY_COLOUR
    for place, image in enumerate(result["retrieved"]):
        line, column = divmod(place, COLUMNS)
        left = MARGIN + CELL + QUERY_GAP + column * (CELL + GAP)
        # A mark beside the colour, for those who cannot tell red from green.
        mark = "\N{CHECK MARK}" if image["correct"] else "\N{BALLOT X}"
        caption = f"{mark} rank {place + 1}\nlabel {image['label']}\nscore {image['score']:.3f}"
        colour = CORRECT_COLOUR if image["correct"] else WRONG_COLOUR
        yield line, left, image["path"], caption, colour


def draw(results, test_dir=None, make_figure=None):
    """Draw a row per query, the query first; returns a matplotlib figure.

    `make_figure(figsize=, dpi=)` makes the empty figure; by default one that needs no screen.
    """
    from matplotlib import figure, patches

    from imaging.texts import read_sample

    columns = min(max(len(result["retrieved"]) for result in results), COLUMNS)
    heights = [max(1, -(-len(result["retrieved"]) // COLUMNS)) for result in results]  # in lines
    if sum(heights) > MAX_LINES:
        raise ValueError(
            f"a picture of {sum(heights)} lines of images is too tall, at most {MAX_LINES}: "
            f"ask for fewer queries or a smaller --top"
        )
    width = 2 * MARGIN + CELL + (QUERY_GAP - GAP if columns else 0) + columns * (CELL + GAP)
    height = 2 * MARGIN + sum(heights) * (CELL + CAPTION)
    picture = (make_figure or figure.Figure)(figsize=(width, height), dpi=DPI)
    # One sheet in inches, y downwards: a tenth of the time that an axes per image takes.
    sheet = picture.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    sheet.set_axis_off()
    style = {"fontsize": 9, "linespacing": 1.15, "ha": "center", "va": "top"}
    for result, first in zip(results, np.cumsum([0, *heights]).tolist(), strict=False):
        for line, left, path, caption, colour in cells_of(result):
            top = MARGIN + (first + line) * (CELL + CAPTION)
            box = (left, left + CELL, top + CELL, top)
            thumbnail = read_sample(find_image(path, test_dir), THUMBNAIL)
            sheet.imshow(thumbnail, extent=box, aspect="auto")
            frame = {"fill": False, "color": colour, "linewidth": 4}
            sheet.add_patch(patches.Rectangle((left, top), CELL, CELL, **frame))
            sheet.text(left + CELL / 2, top + CELL + 0.07, caption, color=colour, **style)
    return picture


def wants_window(no_window):
    """Is someone sitting in front of a screen?"""
    has_screen = sys.platform in {"darwin", "win32"} or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return has_screen and sys.stdout.isatty() and not no_window


def save_and_show(results, opts):
    """Write the picture to `opts.output` in one step; show it where there is a screen."""
    make_figure = None
    window = wants_window(opts.no_window)
    if window:
        from matplotlib import pyplot

        make_figure = pyplot.figure
    figure = draw(results, opts.test_dir, make_figure)
    with replacing(opts.output) as temporary:
        figure.savefig(temporary, format=Path(opts.output).suffix[1:] or "png", dpi=DPI)
    # None for the backends that only write files, which matplotlib falls back to.
    if window and type(figure.canvas).required_interactive_framework:
        pyplot.show()


# ---------------------------------------------------------------- the command
def parse_args(argv=None):
    parser = Parser(
        description="Draw queries and the gallery images retrieved for them: green frame for the "
        "right building, red for a wrong one.",
        epilog=example_in(__doc__),
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--query_index",
        type=natural_int,
        nargs="+",
        default=[0],
        metavar="I",
        help="queries to show, by their place in the feature file, from 0",
    )
    which.add_argument("--random", type=positive_int, metavar="N", help="show N random queries")
    which.add_argument(
        "--mistakes",
        type=positive_int,
        nargs="?",
        const=5,
        metavar="N",
        help="show N queries, each of another building, whose first true match is ranked lowest; "
        "5 if N is left out",
    )
    add = parser.add_argument
    add("--seed", type=natural_int, default=0, help="seed of --random")
    add("--features", default=FEATURE_FILE, metavar="FILE", help="feature file of test.py")
    add("--test_dir", metavar="DIR", help="data folder, or its test/, in which to look for images "
        "that have moved since test.py ran")  # fmt: skip
    add("--top", type=positive_int, default=10, metavar="K", help="images to show for a query")
    add("--output", default="show.png", metavar="FILE", help="picture: .png, .jpg, .pdf or .svg")
    add("--no_window", action="store_true", help="only write the picture, do not open a window")
    return parser.parse_args(argv)


@script
def main(argv=None) -> dict:
    opts = parse_args(argv)
    if opts.features == FEATURE_FILE:
        warn_of_newer(opts.features)
    query, gallery = load_features(opts.features)
    indices = choose_queries(opts, query, gallery)
    results = [retrieve(query, gallery, index, opts.top) for index in indices]
    for result in results:
        print(describe(result))
    save_and_show(results, opts)
    print(f"picture: {opts.output}")
    return {"queries": results, "output": opts.output}


if __name__ == "__main__":
    main()
