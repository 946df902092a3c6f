"""How data sets are scored, as their authors publish it, from features and side files.

$ python evaluate_gpu.py result.npz --protocol cvusa
$ python evaluate_gpu.py result.npz --protocol vigor --semi_positives data/vigor/semi_positives.csv
$ python evaluate_gpu.py 150.npz 200.npz 250.npz 300.npz --protocol sues200
$ python evaluate_gpu.py drone.npz satellite.npz street.npz --protocol geotext

The formats of side files stand in `evaluation.places` (coordinates) and `evaluation.side_files`.
"""

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from evaluation import metrics as plain
from evaluation import places, side_files
from evaluation.feature_file import JUNK, check_features
from evaluation.geotext import describe_geotext, evaluate_geotext
from evaluation.metrics import evaluate, published_line, recall, tie_line
from evaluation.pairs import describe_pairs, evaluate_pairs
from evaluation.ranking import find_matches, rank_positives, top_images
from runtime.files import read_yaml, replacing, write_text
from runtime.locks import sole_writer
from runtime.printing import printable

ANSWER_LENGTH = 10  # names a line of University-160k's answer.txt
ANSWER_NAME = "answer.txt"  # of the member of the zip, which the challenge's server reads
SUES_HEIGHTS = ("150", "200", "250", "300")  # metres
CVACT_RADIUS = 5.0  # metres
DENSEUAV_K = (1, 3, 5, 10)
DENSEUAV_METRES = (3, 5, 10, 20, 50, 100)
GTA_K = (1, 3, 5)
DEGREE_SCALE = 5000.0  # SDM's decay per degree, DenseUAV
# The same along a meridian.
DEGREE_SCALE_IN_METRES = DEGREE_SCALE / (np.pi / 180 * places.EARTH_RADIUS)
METRE_SCALE = 0.001  # SDM's decay per metre, GTA-UAV


# ---------------------------------------------------------------- University-160k
def answer_lines(query, gallery, names, block_size=None, scores=None):
    """The lines of University-160k's answer: ten gallery names a query, best first, tab-separated.

    `names` are the query images' names in the order of the lines; other queries are left out. A
    gallery image's name is its file name without the suffix. Labels play no part. Source:
    University1652-Baseline, test_160k.py. Raises ValueError for an unknown query, a gallery of
    fewer than ten images, or two of the same name.
    """
    rows = side_files.find_images(names, query.paths, "the query list", by_folder=False)
    stems = [PurePosixPath(path).stem for path in side_files.with_slashes(gallery.paths)]
    if len(set(stems)) < len(stems):
        twice, count = Counter(stems).most_common(1)[0]
        raise ValueError(
            f"{count} gallery images are called {twice}: an answer names them by "
            "their file names, which must differ"
        )
    broken = next((stem for stem in stems if printable(stem) != stem), None)
    if broken is not None:
        raise ValueError(
            f"a gallery image is called {printable(broken)}, and a line break or tab in a name "
            "breaks the lines of an answer: rename it"
        )
    if len(stems) < ANSWER_LENGTH:
        raise ValueError(
            f"a gallery of {len(stems)} images, but an answer names the first {ANSWER_LENGTH} of "
            "every query: use University-160k's whole gallery"
        )
    top = top_images(query, gallery, ANSWER_LENGTH, None, block_size, scores)
    return ["\t".join(stems[image] for image in top[rows[name][0]]) for name in names]


def write_answer(path, lines):
    """Write answer lines as text to `path`, a .txt, and zipped beside it; returns both paths.

    The zip holds `answer.txt`, and equal lines give equal bytes. Raises ValueError for another
    suffix, no lines, or a line that is not ten names.
    """
    path = Path(path)
    if path.suffix.lower() != ".txt":
        raise ValueError(f"{path} cannot be an answer: its name must end in .txt")
    wrong = [n for n, line in enumerate(lines, start=1) if line.count("\t") != ANSWER_LENGTH - 1]
    if wrong or not lines:
        raise ValueError(
            f"an answer of {len(lines)} lines, {len(wrong)} of them without {ANSWER_LENGTH} "
            f"names{f' (first line {wrong[0]})' if wrong else ''}: make them by answer_lines"
        )
    text = "".join(f"{line}\n" for line in lines)
    member = zipfile.ZipInfo(ANSWER_NAME)  # its date stays 1980
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16  # readable where it is unpacked
    packed = path.with_suffix(".zip")
    with sole_writer(path, "choose another --answer"):  # or the zip might hold others' lines
        write_text(path, text)
        with replacing(packed) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(member, text)
    return path, packed


# ---------------------------------------------------------------- the data sets
# Each takes (query, gallery, side files, scores) with `scores` as in `ranking.score_blocks`.
def evaluate_cvact(query, gallery, coordinates=None, scores=None):
    """CVACT: `evaluate_pairs`; with coordinates also CVACT_test's recall within 5 metres.

    The latter are `recall@K_5m` for K = 1, 5, 10 (see `recall_within`).
    """
    metrics = evaluate_pairs(query, gallery, scores=scores)
    if coordinates is not None:
        ks, *sides = first_places(query, gallery, coordinates, (1, 5, 10), scores)
        distances = places.metre_distance(*sides, coordinates.planar)
        for k in ks:
            metrics[f"recall@{k}_5m"] = places.recall_within(distances, k, CVACT_RADIUS)
    return metrics


def evaluate_vigor(query, gallery, semi_positives, scores=None):
    """VIGOR: `evaluate_pairs` with the hit rate; `semi_positives`: `Matches`."""
    near = side_files.matches_of(query, gallery, semi_positives)
    return evaluate_pairs(query, gallery, near, scores=scores)


def mean_over_heights(heights):
    """SUES-200: {height: metrics of `evaluate`} with their mean, as `format_protocol` takes it.

    Returns {"dataset", "heights": as given, "mean": of every recall and AP}. SUES-200's
    test_and_evaluate.py computes at each height what `evaluate` does; a mean is not published.
    Raises ValueError for no heights.
    """
    if not heights:
        raise ValueError("no heights to average: give the feature file of at least one")
    metrics = list(heights.values())
    mean = {
        name: float(np.mean([each[name] for each in metrics]))
        for name in metrics[0]
        if name.startswith(("recall", "AP")) and all(name in each for each in metrics)
    }
    return {"dataset": "sues200", "heights": heights, "mean": mean}


def first_places(query, gallery, coordinates, ks, scores=None):
    """Places (Nq, 1, 2) of the queries and (Nq, K, 2) of their first K images, junk left out.

    Returns (ks, the two), with those of `ks`, but at least the first, for which the gallery has
    images; K is the largest.
    """
    ks = [k for k in ks if k <= np.count_nonzero(gallery.labels != JUNK)] or [ks[0]]
    here, there = (places.places_of(side.paths, coordinates) for side in (query, gallery))
    top = top_images(query, gallery, max(ks), find_matches(query, gallery)[1], scores=scores)
    return ks, here[:, np.newaxis], there[top]


def evaluate_denseuav(query, gallery, coordinates, scores=None):
    """DenseUAV: `evaluate`, and by the distances of the first images, in percent:

    - `SDM@K` for K = 1, 3, 5, 10 as published: `degree_distance` and a scale of 5000;
    - `SDM_metres@K`, not published: distances by `haversine`, with the same decay in metres;
    - `MA@m` for m = 3, 5, 10, 20, 50, 100 metres (`metre_accuracy`).

    A K beyond the gallery's size has no entry. Raises ValueError for planar coordinates.
    """
    if coordinates.planar:
        raise ValueError(
            f"{coordinates.source} has the columns x,y: DenseUAV's metrics are defined by "
            "latitude,longitude"
        )
    metrics = evaluate(query, gallery, scores=scores)
    ks, *sides = first_places(query, gallery, coordinates, DENSEUAV_K, scores)
    degrees, metres = places.degree_distance(*sides), places.metre_distance(*sides)
    for k in ks:
        metrics[f"SDM@{k}"] = float(100 * places.sdm(degrees, k, DEGREE_SCALE).mean())
    for k in ks:
        decay = places.sdm(metres, k, DEGREE_SCALE_IN_METRES)
        metrics[f"SDM_metres@{k}"] = float(100 * decay.mean())
    for limit in DENSEUAV_METRES:
        metrics[f"MA@{limit}"] = float(places.metre_accuracy(metres, limit))
    return metrics


def evaluate_gta(query, gallery, coordinates, positives=None, scores=None):
    """GTA-UAV and UAV-VisLoc: recall, AP and the distances of the first images.

    - `recall@1`, `@5`, `@10`, `@top1`, as `evaluate`; rates in percent;
    - `AP_standard_matched`: `average_precision_standard` over the queries that have a positive;
    - `SDM@K` in percent (the published code prints the fraction) with a scale of 0.001 per metre,
      and `Dis@K` in metres, for K = 1, 3, 5; a K beyond the gallery's size has no entry.

    Metres are Euclidean of planar coordinates, as GTA-UAV; else by `haversine`, where UAV-VisLoc's
    code takes the ellipsoid. `positives`: `Matches` that replace the labels, for queries with
    several true images, or None. Source: GTA-UAV, evaluate/gta.py and visloc.py.
    """
    given = None if positives is None else side_files.matches_of(query, gallery, positives)
    ranks, _, bounds = rank_positives(
        query, gallery, scores=scores, positives=given, description="ranking"
    )
    first = plain.first_ranks(ranks)
    matched = [each for each in ranks if len(each)]
    num_gallery = len(gallery.labels)
    metrics = {f"recall@{k}": recall(first, k) for k in (1, 5, 10)}
    metrics["recall@top1"] = recall(first, plain.one_percent(num_gallery)["recall@top1"])
    average = plain.mean_over_queries(plain.average_precision_standard, matched) if matched else 0.0
    metrics["AP_standard_matched"] = 100 * average
    ks, *sides = first_places(query, gallery, coordinates, GTA_K, scores)
    distances = places.metre_distance(*sides, coordinates.planar)
    for k in ks:
        metrics[f"SDM@{k}"] = float(100 * places.sdm(distances, k, METRE_SCALE).mean())
    for k in ks:
        metrics[f"Dis@{k}"] = float(places.mean_distance(distances, k).mean())
    return metrics | {
        "recall@1_chance": float(100 * np.mean([len(each) for each in ranks]) / num_gallery),
        "num_queries": len(ranks),
        "num_gallery": num_gallery,
        "num_unmatched": len(ranks) - len(matched),
        **plain.tie_metrics(bounds, num_gallery),
    }


def evaluate_places(query, gallery, coordinates, scores=None):
    """Photos of one's area: `evaluate`, and by the distance to each query's first image:

    `median_error` in metres, and `within@r`, percent at most r = 25, 50, 100 metres away.
    """
    metrics = evaluate(query, gallery, scores=scores)
    _, *sides = first_places(query, gallery, coordinates, (1,), scores)
    distances = places.metre_distance(*sides, coordinates.planar)  # (Nq, 1)
    within = {f"within@{r}": places.recall_within(distances, 1, r) for r in places.RADII}
    return {**metrics, "median_error": float(np.median(distances)), **within}


def evaluate_university160k(query, gallery, query_list, scores=None):
    """University-160k: the lines of the answer; their truth is known to the challenge's server."""
    lines = answer_lines(query, gallery, query_list, scores=scores)
    return {"answer": lines, "num_queries": len(lines), "num_gallery": len(gallery.labels)}


class Protocol(NamedTuple):
    """How a data set is scored."""

    evaluate: Callable  # (query, gallery, side files, scores) -> metrics
    needs: tuple[str, ...] = ()  # options that name side files
    takes: tuple[str, ...] = ()  # options that may be left out


READERS = {
    "coordinates": places.read_coordinates,
    "semi_positives": side_files.read_matches,
    "positives": side_files.read_matches,
    "query_list": side_files.read_query_list,
    "official": side_files.read_query_list,
}
PROTOCOLS = {
    "cvusa": Protocol(evaluate_pairs),
    "cvact": Protocol(evaluate_cvact, takes=("coordinates",)),
    "vigor": Protocol(evaluate_vigor, needs=("semi_positives",)),
    "sues200": Protocol(evaluate, takes=("heights",)),
    "denseuav": Protocol(evaluate_denseuav, needs=("coordinates",)),
    "gta": Protocol(evaluate_gta, needs=("coordinates",), takes=("positives",)),
    "places": Protocol(evaluate_places, needs=("coordinates",)),
    "university160k": Protocol(evaluate_university160k, needs=("query_list",), takes=("answer",)),
    "geotext": Protocol(evaluate_geotext, takes=("official",)),
}


def check_options(name, given):
    """Raise ValueError where a protocol (or None) is unknown, or its options do not suit it."""
    if name is None:
        for what in given:
            users = [name for name, each in PROTOCOLS.items() if what in each.needs + each.takes]
            raise ValueError(f"--{what} has no effect without --protocol {' or '.join(users)}")
        return
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}: there are {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    for what in protocol.needs:
        if what not in given:
            raise ValueError(f"the protocol {name} needs --{what} FILE, written by prepare.py")
    for what in given:
        if what not in protocol.needs + protocol.takes:
            raise ValueError(f"the protocol {name} does not use --{what}: leave it out")


def evaluate_protocol(name, query, gallery, scores=None, **files):
    """Metrics of two `Features` by the protocol of a data set, and {"dataset": name}.

    `scores`: None for dot products, else see `ranking.score_blocks`.
    `files`: coordinates, semi_positives, positives, query_list, official; each a file's path, or
    what its reader (`READERS`) gives; None is as if left out. `sues200` is one height here, see
    `mean_over_heights`. `university160k` returns the lines of the answer under "answer", for
    `write_answer`. Raises ValueError or FileNotFoundError.
    """
    given = {what: value for what, value in files.items() if value is not None}
    check_options(name, given)
    check_features(query, gallery)
    for what, value in given.items():
        if isinstance(value, (str, Path)):
            given[what] = READERS[what](value)
    return {"dataset": name, **PROTOCOLS[name].evaluate(query, gallery, scores=scores, **given)}


# ---------------------------------------------------------------- options
def add_protocol_options(parser):
    """Add --protocol, its side files, and what else some protocols take."""
    group = parser.add_argument_group("as the authors of other data sets score")
    group.add_argument("--protocol", choices=tuple(PROTOCOLS), help="data set")
    for name, text in (
        ("coordinates", "places of images or buildings: name,latitude,longitude or name,x,y"),
        ("semi_positives", "VIGOR's semi-positives: query,gallery,..."),
        ("positives", "GTA-UAV's positives, in place of the labels: query,gallery,..."),
        ("query_list", "University-160k's query images in order, one name a line"),
        (
            "official",
            "GeoText-1652's images in the released order (image_order.txt of the data folder): "
            "number the buildings with the fault of the published code",
        ),
        ("answer", f"University-160k's answer, and a .zip; if left out: {ANSWER_NAME}"),
    ):
        group.add_argument(f"--{name}", metavar="FILE", help=text)
    text = f"heights of sues200's files, in their order; if left out: {' '.join(SUES_HEIGHTS)}"
    group.add_argument("--heights", nargs="+", metavar="METRES", help=text)


def check_protocol_options(opts, parser):
    """Fill in --answer and --heights; parser.error where options and files do not go together."""
    given = {name: getattr(opts, name) for name in (*READERS, "answer", "heights")}
    try:
        check_options(opts.protocol, [name for name, value in given.items() if value is not None])
    except ValueError as error:
        parser.error(str(error))
    opts.answer, opts.heights = opts.answer or ANSWER_NAME, opts.heights or list(SUES_HEIGHTS)
    if opts.protocol == "sues200":
        heights = " ".join(opts.heights)
        if len(set(opts.heights)) < len(opts.heights):
            parser.error(f"--heights {heights}: name each height once")
        if len(opts.features) != len(opts.heights):
            parser.error(
                f"{len(opts.features)} file(s) for the heights {heights}: name one file a height, "
                "or the --heights there are"
            )
    elif len(opts.features) > 1 and opts.protocol != "geotext":
        what = f"the protocol {opts.protocol} takes one" if opts.protocol else "name one"
        parser.error(f"{len(opts.features)} files: {what}")
    if Path(opts.answer).suffix.lower() != ".txt":
        parser.error(f"--answer {opts.answer}: expected a name ending in .txt")


# ---------------------------------------------------------------- what a reader sees
def format_protocol(metrics):
    """Lines of text for what `evaluate_protocol` or `mean_over_heights` returned."""
    name = metrics["dataset"]
    if "heights" in metrics:
        heights = metrics["heights"].items()
        lines = [f"{height} m: {published_line(each)}" for height, each in heights]
        lines.append(f"mean: {published_line(metrics['mean'])}")
        lines += [f"{height} m: {tie_line(each)}" for height, each in heights if tie_line(each)]
    elif "answer" in metrics:
        counts = f"{metrics['num_queries']} queries, {metrics['num_gallery']} gallery images"
        lines = [f"{counts}: the first {ANSWER_LENGTH} of every query"]
    elif name in ("cvusa", "cvact", "vigor"):
        lines = describe_pairs(metrics)
    elif name == "geotext":
        lines = describe_geotext(metrics)
    elif name == "places":
        shares = ", ".join(
            f"{metrics[f'within@{radius}']:.2f} % within {radius} m" for radius in places.RADII
        )
        return f"first image: median error {metrics['median_error']:.1f} m, {shares}"
    else:
        families = ("SDM@", "SDM_metres@", "MA@", "Dis@")
        lines = [published_line(metrics) if "AP" in metrics else _named(metrics, ("recall", "AP_"))]
        lines += [tie_line(metrics), *(_named(metrics, (family,)) for family in families)]
    return "\n".join([f"as published for {name}:", *filter(None, lines)])


def _named(metrics, beginnings):
    """`name:value` of the metrics that begin so; distances in metres, the rest percent."""
    return " ".join(
        f"{name.replace('recall', 'Recall')}:{value:.2f}{' m' if name.startswith('Dis') else ''}"
        for name, value in metrics.items()
        if name.startswith(beginnings) and not name.endswith(("_chance", "_tied_last"))
    )


# ---------------------------------------------------------------- by the data folder alone
SEMI_POSITIVES = "semi_positives.csv"
# Data sets with metrics of their own: the published task, and the side files of prepare.py.
PREPARED = {
    "cvusa": (("street", "satellite"), {}),
    "cvact": (("street", "satellite"), {"coordinates": "utm.csv"}),
    "vigor": (("street", "satellite"), {"semi_positives": SEMI_POSITIVES}),
    "denseuav": (("drone", "satellite"), {"coordinates": "coordinates.csv"}),
    "places": (("drone", "satellite"), {"coordinates": "coordinates.csv"}),
    "geotext": (("text", "drone"), {}),
}


def own_metrics(data_dir, task, query, gallery):
    """Metrics by the protocol of the data set that a data folder was converted from.

    data_dir: the folder or its test/; task: the views of query and gallery. The data set is what
    prepare.yaml says, `places` where that tells of maps, or VIGOR where there is a
    semi_positives.csv. Returns (metrics of
    `evaluate_protocol`, text, warnings): all empty for other data, for tasks that are not the
    published one and where side files are missing; a warning alone where these do not fit.
    """
    try:
        marker = side_files.find_side_file(data_dir, side_files.MARKER)
        if marker:
            made = read_yaml(marker)
            name = "places" if made.get("maps") else str(made.get("command"))
        else:
            name = "vigor" if side_files.find_side_file(data_dir, SEMI_POSITIVES) else None
        published_task, names = PREPARED.get(name, (None, {}))
        found = {what: side_files.find_side_file(data_dir, file) for what, file in names.items()}
        if tuple(task) != published_task or not all(map(found.get, PROTOCOLS[name].needs)):
            return {}, "", []
        metrics = evaluate_protocol(name, query, gallery, **found)
    except (ValueError, OSError) as error:
        return {}, "", [f"no metrics as published for this data set: {error}"]
    return metrics, format_protocol(metrics), []
