"""Public data sets, as they were published, into the layout of University-1652.

    plan = plan_cvusa("downloads/CVUSA")
    carry_out(plan, "data/cvusa", mark={"command": "cvusa"})

A planner reads the folders and split files of one data set and says which image goes where; it
opens no image. `carry_out` makes hard links, else symbolic links, or copies; only where pixels
change (polar transform, crop, roll) new images are written. Counts called official are those of
the data sets' papers and pages: published, not re-counted here.
"""

import csv
import functools
import hashlib
import io
import itertools
import math
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from imaging import weather
from imaging.perturb import frame_number
from runtime import files, progress

MARKER = "prepare.yaml"  # in the output folder: how it was made
UNKNOWN = "unknown"  # the class of queries whose building is not published
TESTABLE_VIEWS = ("satellite", "street", "drone")
JPEG = {"quality": 95, "subsampling": 0}  # of images whose pixels change, if .jpg
COORDINATES = ["building", "latitude", "longitude"]
DEGREES = (90, 180)  # the limits of latitude and longitude
COLUMN_ALIASES = {"building": "id", "lat": "latitude", "lon": "longitude", "lng": "longitude"}

CVUSA_SPLITS = {"train": ("train-19zl.csv", 35532), "test": ("val-19zl.csv", 8884)}
CVACT_COUNTS = {"train": 35532, "val": 8884, "test": 92802}
VIGOR_CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")
VIGOR_LIST = "satellite_list.txt"
VIGOR_TRAIN = {"same": VIGOR_CITIES, "cross": ("NewYork", "Seattle")}
VIGOR_TEST = {"same": VIGOR_CITIES, "cross": ("SanFrancisco", "Chicago")}
# Panoramas to train on, panoramas to test on, satellite images in the gallery.
VIGOR_COUNTS = {"same": (52609, 52605, 90618), "cross": (51520, 53694, 46563)}
SUES200_HEIGHTS = (150, 200, 250, 300)  # metres
# The 120 places to train on: script/indexs.yaml of SUES-200-Benchmark.
SUES200_TRAIN = (
    "1-7 9-11 13 15-16 20-21 24-34 36-37 39 43-45 51 55-58 60 64 66-67 69-70 73-74 76-77 80-82 "
    "84-91 94 96-97 100-106 113 116 118-120 123 125-127 129 132 134 137 139 141-142 145-149 "
    "151-152 155-160 163 166-169 171 174 179-180 182-187 191-193 196-200"
)
DENSEUAV_HEIGHTS = (80, 90, 100)  # metres
# {folder: (classes, images of a class)}
DENSEUAV = {
    "train/drone": (2256, 3),
    "train/satellite": (2256, 6),
    "test/query_drone": (777, 3),
    "test/query_satellite": (777, 6),
    "test/gallery_drone": (3033, 3),
    "test/gallery_satellite": (3033, 6),
}
DISTRACTORS_160K = 167486
LIMIT_STEPS = {1: 54, 3: 18, 9: 6, 18: 3, 27: 2}  # {views: every how manieth of 54 frames}


class Entry(NamedTuple):
    """One image of the layout: where it comes from, where it goes, and what changes its pixels."""

    source: Path
    target: str  # such as train/drone/0839/image-01.jpeg
    change: Callable | None = None  # uint8 (H, W, 3) -> uint8 (H', W', 3)


@dataclass
class Plan:
    """What a data set becomes. `official` is {folder: (classes, images)}.

    An official number is None where none was published, or a tuple where several are right.
    """

    name: str
    entries: list = field(default_factory=list)
    empty_classes: list = field(default_factory=list)  # such as train/google/1057
    sidecars: dict = field(default_factory=dict)  # {file name: text}
    official: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)

    def add(self, folder, name, source, change=None):
        """Put an image into class `name` of a folder such as train/drone."""
        file_name = f"{source.stem}.jpg" if change else source.name
        self.entries.append(Entry(source, f"{folder}/{name}/{file_name}", change))

    def add_classes(self, folder, classes):
        """Put {ID: image paths} into a folder; a class without images stays as an empty one."""
        for name, paths in classes.items():
            for path in paths:
                self.add(folder, name, path)
            if not paths:
                self.empty_classes.append(f"{folder}/{name}")


# ---------------------------------------------------------------- pixels
class PanoramaChange(NamedTuple):
    """Crop a panorama's rows and roll it: uint8 (H, W, 3) -> uint8 (H', W, 3).

    The rows from `top` to `bottom` are kept, as shares of the height (0.25 to 0.75 is what the
    published CVACT code keeps of 832 rows); what was at column 0 comes `roll` degrees further to
    the right.
    """

    top: float = 0.0
    bottom: float = 1.0
    roll: float = 0.0  # degrees; 360 is the width

    def __call__(self, image):
        """Apply the change to one image."""
        height, width, _ = image.shape
        first = min(round(self.top * height), height - 1)  # of a low image one row stays
        rows = image[first : max(first + 1, round(self.bottom * height))]
        return np.roll(rows, round(self.roll / 360 * width), axis=1)


def panorama_change(crop, roll, seed, name):
    """The PanoramaChange of one image, or None where nothing changes.

    `crop` is (top, bottom); `roll` degrees, or "random": any angle, by the seed and the name.
    """
    if roll == "random":
        roll = random.Random(f"{seed} {name}").uniform(0, 360)
    return None if tuple(crop) == (0, 1) and roll == 0 else PanoramaChange(*crop, roll)


@functools.lru_cache(maxsize=4)
def _polar_grid(size, height, width):
    """Flat indices (4, height*width) of the four neighbours in an image, and their weights."""
    rows, columns = size
    i, j = np.mgrid[:height, :width].astype(float)
    radius = (height - 1 - i) / height
    angle = 2 * np.pi * j / width
    row = rows / 2 + rows / 2 * radius * np.cos(angle)
    column = columns / 2 - columns / 2 * radius * np.sin(angle)
    row, column = row.ravel(), column.ravel()
    top, left = row.astype(int), column.astype(int)
    down, right = row - top, column - left  # from 0 to 1
    # Only where a side is shorter than twice the height is there no pixel below or beside.
    below, beside = np.minimum(top + 1, rows - 1), np.minimum(left + 1, columns - 1)
    indices = [y * columns + x for y in (top, below) for x in (left, beside)]
    weights = [v * h for v in (1 - down, down) for h in (1 - right, right)]
    return np.stack(indices), np.stack(weights).astype(np.float32)[..., None]


def polar_transform(image, height=112, width=616):
    """Resample a satellite image about its middle, so that it lines up with a panorama.

    uint8 (S, S', 3) -> uint8 (height, width, 3). Target pixel (i, j) shows, with bilinear
    interpolation, source row S/2 + S/2 r cos(a) and column S'/2 - S'/2 r sin(a), where
    r = (height - 1 - i) / height and a = 2 pi j / width: the ground below the camera is the last
    row, south the first column, north the middle. That is the transform of Shi et al.,
    Spatial-Aware Feature Aggregation (NeurIPS 2019), section 3.1, in the orientation of its
    published code, which CVUSA's polar images have. Values are rounded; the published script
    stretches each image to the full range instead.
    """
    indices, weights = _polar_grid(image.shape[:2], height, width)
    pixels = image.reshape(-1, 3)
    out = sum(weight * pixels[index] for index, weight in zip(indices, weights, strict=True))
    return (out + 0.5).astype(np.uint8).reshape(height, width, 3)


# ---------------------------------------------------------------- reading published folders
def _is_image(path):
    from imaging.files import is_image_name

    return is_image_name(path)


def _file_names(folder):
    """The names of the files in a folder, links to files included, dangling ones not."""
    with os.scandir(folder) as found:
        return {entry.name for entry in found if entry.is_file()}


def _images(folder):
    return sorted(path for path in map(folder.joinpath, _file_names(folder)) if _is_image(path))


def _class_images(folder):
    """{ID: sorted image paths} of a folder of class folders, empty ones included."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return {path.name: _images(path) for path in classes if not path.name.startswith(".")}


def _need_folder(path, what):
    """The path as it is; FileNotFoundError says what it should hold where it is no folder."""
    path = Path(path)
    if not path.is_dir():
        beside = path.parent
        found = sorted(p.name for p in beside.iterdir())[:6] if beside.is_dir() else []
        raise FileNotFoundError(
            f"{path} not found: expected {what}; {beside} holds {', '.join(found) or 'nothing'}"
        )
    return path


def _read_text(path, what):
    """The text of a split file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected {what}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text (byte {error.start}): expected {what}; save it as UTF-8"
        ) from None


def _read_lines(path, what):
    """{number from 1: line} of the lines of a split file that are not empty; one at least."""
    lines = _read_text(path, what).split("\n")  # splitlines() would split at U+0085 too
    found = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    if not found:
        raise ValueError(f"{path} is empty: expected {what}")
    return found


def _numbers(texts, where, limits=()):
    """Check that texts are finite numbers, the first ones within +-limits; ValueError if not."""
    for text, limit in itertools.zip_longest(texts, limits, fillvalue=math.inf):
        try:
            valid = "_" not in text and math.isfinite(float(text)) and abs(float(text)) <= limit
        except ValueError:
            valid = False
        if not valid:
            span = f" from -{limit} to {limit}" if math.isfinite(limit) else ""
            raise ValueError(f"{where} has {text!r}, expected a number{span}")


def _table(header, rows):
    """CSV text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


class _Listing:
    """Which files exist, from one listing of each folder: far quicker than asking for each."""

    def __init__(self):
        self._names = {}

    def __contains__(self, path):
        folder = path.parent
        if folder not in self._names:
            self._names[folder] = _file_names(folder) if folder.is_dir() else set()
        return path.name in self._names[folder]


def _complete(records, paths_of, what, plan, skip_missing, lines=()):
    """The records whose files all exist.

    Others raise FileNotFoundError, which names their number and the first file, or with
    `skip_missing` are left out with a note. `lines` are the records' line numbers in `what`.
    """
    listing = _Listing()
    lost, complete = [], []
    numbers = itertools.chain(lines, itertools.repeat(None))
    for record, line in zip(records, numbers, strict=False):
        absent = [path for path in paths_of(record) if path not in listing]
        lost += [f"{path} (line {line})" if line else path for path in absent[:1]]
        if not absent:
            complete.append(record)
    if lost:
        sentence = f"{len(lost)} of {len(records)} {what} lack a file, first {lost[0]}"
        if not skip_missing or not complete:
            raise FileNotFoundError(
                f"{sentence}: add what is missing"
                + ", or leave it out with --skip_missing" * bool(complete)
            )
        plan.notes.append(f"{sentence}: left out")
    return complete


def _repeated(names):
    """The names that come more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def _note_repeated(plan, names, what):
    """Note what is listed more than once: in train and test, it would be tested on by heart."""
    repeated = _repeated(names)
    if repeated:
        plan.notes.append(
            f"{len(repeated)} {what} are listed more than once, perhaps in train and test, "
            f"first {repeated[0]}"
        )


# ---------------------------------------------------------------- pairs of satellite and street
class Pair(NamedTuple):
    """One satellite image and the panorama taken in its middle."""

    name: str
    satellite: Path
    street: Path


def _add_pairs(plan, split, pairs, polar, crop, roll, seed):
    """Put pairs into train/, or into test/ as queries and gallery of both directions."""
    turn = functools.partial(polar_transform, height=polar[0], width=polar[1]) if polar else None
    prefixes = ("train/",) if split == "train" else ("test/query_", "test/gallery_")
    for prefix in prefixes:
        for pair in pairs:
            change = panorama_change(crop, roll, seed, pair.name)
            plan.add(f"{prefix}satellite", pair.name, pair.satellite, turn)
            plan.add(f"{prefix}street", pair.name, pair.street, change)


def _paired_counts(train, test):
    """Official counts of a data set of pairs."""
    folders = {f"train/{view}": (train, train) for view in ("satellite", "street")}
    for role in ("query", "gallery"):
        folders |= {f"test/{role}_{view}": (test, test) for view in ("satellite", "street")}
    return folders


def plan_cvusa(source, *, polar=None, crop=(0, 1), roll=0, seed=0, skip_missing=False):
    """CVUSA (Workman et al., ICCV 2015; the pairs of Zhai et al., CVPR 2017).

    Reads splits/{train,val}-19zl.csv, lines `satellite path,street path,...` without a header; val
    becomes test. The ID is the satellite file's stem. split_locations/all.csv, where it is there,
    gives coordinates.csv: its line n belongs to image n. `polar` is None or (height, width) of
    `polar_transform`; `crop`, `roll`, `seed` are those of `panorama_change`.
    """
    source = _need_folder(source, "the folder of CVUSA, with splits/, bingmap/, streetview/")
    plan = Plan("CVUSA", official=_paired_counts(*(count for _, count in CVUSA_SPLITS.values())))
    names = []
    for split, (file_name, _) in CVUSA_SPLITS.items():
        path = source / "splits" / file_name
        lines, pairs = _read_lines(path, "CVUSA's list of satellite and street images"), []
        for number, line in lines.items():
            parts = [part.strip() for part in line.split(",")]
            if len(parts) < 2 or not all(parts[:2]):
                raise ValueError(
                    f"{path} line {number} is {line!r}: expected satellite,street,... paths"
                )
            pairs.append(Pair(Path(parts[0]).stem, source / parts[0], source / parts[1]))
        what = f"pairs of {path}"
        pairs = _complete(pairs, lambda pair: pair[1:], what, plan, skip_missing, lines)
        _add_pairs(plan, split, pairs, polar, crop, roll, seed)
        names += [pair.name for pair in pairs]
    _note_repeated(plan, names, "pairs")
    locations = source / "split_locations" / "all.csv"
    if locations.is_file():
        plan.sidecars["coordinates.csv"] = _cvusa_coordinates(locations, names)
    return plan


def _cvusa_coordinates(path, names):
    """coordinates.csv of the satellite images; line n of `path` is image n."""
    lines = _read_lines(path, "CVUSA's coordinates, a line for each image")
    rows = []
    for name in names:
        if not name.isdigit() or int(name) not in lines:
            raise ValueError(f"{path} has {len(lines)} lines and none for image {name}")
        place = [part.strip() for part in lines[int(name)].split(",")[:2]]
        if len(place) != 2:
            raise ValueError(f"{path} line {int(name)} is no latitude,longitude,...: mend it")
        _numbers(place, f"{path} line {int(name)}", DEGREES)
        rows.append([name, *place])
    return _table(COORDINATES, rows)


def plan_cvact(source, *, test_set="val", polar=None, crop=(0, 1), roll=0, seed=0):
    """CVACT (Liu and Li, CVPR 2019).

    Reads ACT_data.mat (`panoIds`, `utm`, 1-based `trainSet.trainInd` and `valSet.valInd`) and the
    images of ANU_data_small/; the ID is the panorama's. Its val set is what is usually tested on;
    `test_set="test"` takes all pairs of ANU_data_test/ instead. Pairs that lack a file are left
    out with a note: the release lacks some. utm.csv has the metres of `utm` as they are.
    """
    source = _need_folder(source, "the folder of CVACT, with ACT_data.mat and ANU_data_small/")
    counts = CVACT_COUNTS["train"], CVACT_COUNTS[test_set]
    plan = Plan("CVACT", official=_paired_counts(*counts))
    pano_ids, utm, indices = _read_act_data(source / "ACT_data.mat")
    small = _need_folder(source / "ANU_data_small", "CVACT's images")
    chosen = {"train": [_cvact_pair(small, pano_ids[index]) for index in indices["train"]]}
    if test_set == "val":
        chosen["test"] = [_cvact_pair(small, pano_ids[index]) for index in indices["val"]]
    else:
        chosen["test"] = _cvact_test_pairs(source / "ANU_data_test")
    kept = set()
    for split, pairs in chosen.items():
        what = f"{split} pairs of CVACT"
        pairs = _complete(pairs, lambda pair: pair[1:], what, plan, skip_missing=True)
        _add_pairs(plan, split, pairs, polar, crop, roll, seed)
        kept.update(pair.name for pair in pairs)
    if utm is not None:
        rows = [[n, *map(float, metres)] for n, metres in zip(pano_ids, utm, strict=True)]
        known = [row for row in rows if row[0] in kept]
        plan.sidecars["utm.csv"] = _table(["building", "easting", "northing"], known)
    return plan


def _cvact_pair(folder, name):
    satellite = folder / "satview_polish" / f"{name}_satView_polish.jpg"
    return Pair(name, satellite, folder / "streetview" / f"{name}_grdView.jpg")


def _cvact_test_pairs(folder):
    """All pairs of ANU_data_test/, found by the names of the panoramas."""
    streets = _images(_need_folder(folder / "streetview", "the panoramas of CVACT's test set"))
    return [_cvact_pair(folder, path.name.removesuffix("_grdView.jpg")) for path in streets]


def _read_act_data(path):
    """(panorama IDs, utm (N, 2) or None, {"train", "val": 0-based indices}) of ACT_data.mat."""
    from scipy.io import loadmat

    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected CVACT's list of panoramas and splits")
    try:
        data = loadmat(path)
        pano_ids = [str(np.squeeze(name)).strip() for name in data["panoIds"].ravel()]
        indices = {
            split: data[f"{split}Set"][f"{split}Ind"][0, 0].ravel().astype(int) - 1
            for split in ("train", "val")
        }
    except Exception as error:  # damaged bytes lead the reader into errors of any type
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"{path} cannot be read ({reason}): expected panoIds, trainSet.trainInd, valSet.valInd"
        ) from None
    for split, numbers in indices.items():
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(pano_ids):
            raise ValueError(
                f"{path}: {split}Ind goes from {numbers.min() + 1} to {numbers.max() + 1}, "
                f"there are {len(pano_ids)} panoIds"
            )
    utm = data.get("utm")
    return pano_ids, utm if utm is not None and utm.shape == (len(pano_ids), 2) else None, indices


# ---------------------------------------------------------------- VIGOR
class Panorama(NamedTuple):
    """A line of VIGOR's labels: the panorama, and four satellite images with their offsets."""

    path: Path
    names: list  # the IDs of the positive and three semi-positives
    offsets: list  # (delta_1, delta_2) of each, pixels as published
    satellite: Path  # of the positive
    line: int


def plan_vigor(
    source, *, area="same", splits="splits", crop=(0, 1), roll=0, seed=0, skip_missing=False
):
    """VIGOR (Zhu et al., CVPR 2021), the "same" or the "cross" area protocol.

    Reads <splits>/<City>/satellite_list.txt and same_area_balanced_{train,test}.txt or, across
    areas, pano_label_balanced.txt (also as *__corrected.txt, the labels of SliceMatch); lines are
    a panorama and four times a satellite image with two offsets. A class is a satellite image, its
    ID <City>_<file stem>; the panoramas it is the positive of are its street views. The test
    gallery holds every listed satellite image of the test cities. coordinates.csv has those of the
    satellite file names; semi_positives.csv a line for every panorama, with IDs.
    """
    source = _need_folder(source, "the folder of VIGOR, with splits/ and a folder for each city")
    train, test, gallery = VIGOR_COUNTS[area]
    plan = Plan("VIGOR")
    plan.official = {
        "train/satellite": (None, None),
        "train/street": (None, train),
        "test/query_street": (None, test),
        "test/gallery_satellite": (gallery, gallery),
    }
    satellites, semi_positives = {}, []
    for split, cities in (("train", VIGOR_TRAIN[area]), ("test", VIGOR_TEST[area])):
        label = f"same_area_balanced_{split}" if area == "same" else "pano_label_balanced"
        street = "train/street" if split == "train" else "test/query_street"
        used = {}
        for city in cities:
            labels = _need_folder(source / splits / city, f"VIGOR's labels of {city}")
            listed, lines = _vigor_satellites(source, labels, city)
            if split == "test":  # the whole gallery
                what, its = f"satellite images of {labels / VIGOR_LIST}", list(listed.items())
                used |= _complete(its, lambda s: s[1:], what, plan, skip_missing, lines)
            panoramas = _vigor_panoramas(source, labels, city, label, listed)
            what = f"panoramas of {_label_file(labels, label)}"
            paths_of, lines = lambda p: (p.path, p.satellite), [p.line for p in panoramas]
            for panorama in _complete(panoramas, paths_of, what, plan, skip_missing, lines):
                change = panorama_change(crop, roll, seed, panorama.path.name)
                plan.add(street, panorama.names[0], panorama.path, change)
                known = used if split == "test" else listed
                semi_positives.append(_semi_positives(plan.entries[-1].target, panorama, known))
                used[panorama.names[0]] = panorama.satellite
        folder = "train/satellite" if split == "train" else "test/gallery_satellite"
        plan.add_classes(folder, {name: [path] for name, path in used.items()})
        satellites |= used
    _note_repeated(plan, (Path(target).name for target, *_ in semi_positives), "panoramas")
    plan.sidecars["coordinates.csv"] = _vigor_coordinates(satellites)
    four = ("positive", "semi_1", "semi_2", "semi_3")
    header = [f"{which}{part}" for which in four for part in ("", "_delta_1", "_delta_2")]
    header = ["panorama", "latitude", "longitude", *header]
    plan.sidecars["semi_positives.csv"] = _table(header, semi_positives)
    return plan


def _vigor_folder(source, city, view):
    """A city's images: <City>/panorama as released, or ground/<City> as others rearranged it."""
    moved = source / {"panorama": "ground", "satellite": "satellite"}[view] / city
    return moved if moved.is_dir() else source / city / view


def _label_file(labels, stem):
    corrected = labels / f"{stem}__corrected.txt"
    return corrected if corrected.is_file() else labels / f"{stem}.txt"


def _vigor_satellites(source, labels, city):
    """{ID: path} of a city's listed satellite images, and their line numbers."""
    folder = _vigor_folder(source, city, "satellite")
    listed, numbers = {}, []
    lines = _read_lines(labels / VIGOR_LIST, f"VIGOR's satellite images of {city}")
    for number, line in lines.items():
        name = f"{city}_{Path(line.strip()).stem}"
        if name not in listed:
            listed[name] = folder / line.strip()
            numbers.append(number)
    return listed, numbers


def _vigor_panoramas(source, labels, city, label, listed):
    path = _label_file(labels, label)
    folder = _vigor_folder(source, city, "panorama")
    panoramas = []
    for number, line in _read_lines(path, f"VIGOR's labels of {city}").items():
        parts = line.split()
        if len(parts) != 13:
            raise ValueError(
                f"{path} line {number} has {len(parts)} parts: expected a panorama and four times "
                "a satellite image with two offsets, 13 in all"
            )
        names = [f"{city}_{Path(name).stem}" for name in parts[1::3]]
        for name, own in zip(names, parts[1::3], strict=True):
            if name not in listed:
                raise ValueError(
                    f"{path} line {number} names {own}, which {VIGOR_LIST} does not hold"
                )
        offsets = list(zip(parts[2::3], parts[3::3], strict=True))
        _numbers(itertools.chain.from_iterable(offsets), f"{path} line {number}")
        satellite = listed[names[0]]
        panoramas.append(Panorama(folder / parts[0], names, offsets, satellite, number))
    return panoramas


def _semi_positives(target, panorama, known):
    """A row of semi_positives.csv; a satellite image that is not `known` leaves its cells empty.

    The panorama's file name is <id>,<latitude>,<longitude>,.jpg.
    """
    place = (panorama.path.name.split(",") + ["", ""])[1:3]
    labels = zip(panorama.names, panorama.offsets, strict=True)
    cells = ((name, *offset) if name in known else ("", "", "") for name, offset in labels)
    return [target, *place, *itertools.chain.from_iterable(cells)]


def _vigor_coordinates(satellites):
    """coordinates.csv from file names satellite_<latitude>_<longitude>.png."""
    found = {n: re.fullmatch(r".*_(-?[\d.]+)_(-?[\d.]+)", p.stem) for n, p in satellites.items()}
    rows = [[name, *match.groups()] for name, match in sorted(found.items()) if match]
    return _table(COORDINATES, rows)


# ---------------------------------------------------------------- SUES-200
def plan_sues200(source, *, heights=SUES200_HEIGHTS, mixed=False):
    """SUES-200 (Zhu et al., TCSVT 2023): a data folder <height>/ for each flight height in metres.

    Reads the release (satellite-view/<ID>/ and drone*/<ID>/<height>/, or <height>/<ID>/), divided
    by the published list of 120 training places, or what its script made of it
    (Training/<height>/..., Testing/<height>/..., also in lower case), divided as found there. The
    gallery holds all 200 places. `mixed` puts all heights into one data folder, mixed/, whose drone
    images have the height before their names.
    """
    source = _need_folder(source, "the folder of SUES-200, with satellite-view/ and drone images")
    plan = Plan("SUES-200")
    for height in heights:
        top = "mixed" if mixed else str(height)
        drone, satellite, train_names = _sues200_height(source, height)
        if mixed and height != heights[0]:
            satellite = {}
        for view, classes in (("drone", drone), ("satellite", satellite)):
            train = {n: paths for n, paths in classes.items() if n in train_names}
            query = {n: paths for n, paths in classes.items() if n not in train_names}
            folders = {f"{top}/train/{view}": train, f"{top}/test/query_{view}": query}
            for folder, its in {**folders, f"{top}/test/gallery_{view}": classes}.items():
                for name, path in ((name, path) for name, paths in its.items() for path in paths):
                    prefix = f"{height}_" if mixed and view == "drone" else ""
                    target = f"{folder}/{name}/{prefix}{path.name}"
                    plan.entries.append(Entry(path, target))
        images = 50 * (len(heights) if mixed else 1)
        for folder, count in (("train/", 120), ("test/query_", 80), ("test/gallery_", 200)):
            plan.official[f"{top}/{folder}drone"] = (count, count * images)
            plan.official[f"{top}/{folder}satellite"] = (count, count)
    return plan


def _sues200_height(source, height):
    """({ID: drone images}, {ID: satellite images}, the training IDs) of one height."""
    for training, testing in (("Training", "Testing"), ("train", "test")):
        gallery = source / testing / str(height)
        if (gallery / "gallery_drone").is_dir():
            train = _need_folder(source / training / str(height) / "drone", "training images")
            satellite = _need_folder(gallery / "gallery_satellite", "satellite images")
            return (
                _class_images(gallery / "gallery_drone"),
                _class_images(satellite),
                {path.name for path in train.iterdir()},
            )
    satellites = sorted(path for path in source.glob("satellite*") if path.is_dir())
    if not satellites:
        raise FileNotFoundError(f"{source} holds neither satellite-view/ nor Testing/{height}/")
    drone = {}
    for folder in (source, *sorted(filter(Path.is_dir, source.glob("drone*")))):
        if (folder / str(height)).is_dir():
            drone = _class_images(folder / str(height))
        elif folder != source:
            places = [path for path in sorted(folder.iterdir()) if (path / str(height)).is_dir()]
            drone |= {path.name: _images(path / str(height)) for path in places}
    if not drone:
        raise FileNotFoundError(
            f"{source} has no drone images of {height} m: expected drone*/<ID>/{height}/ or "
            f"{height}/<ID>/; name the heights there are with --height"
        )
    satellite = {n: p for n, p in _class_images(satellites[0]).items() if n in drone}
    return drone, satellite, _numbered(SUES200_TRAIN)


def _numbered(ranges):
    """The four-digit IDs that a text such as "1-7 9" stands for."""
    bounds = [part.partition("-") for part in ranges.split()]
    return {f"{n:04d}" for a, _, b in bounds for n in range(int(a), int(b or a) + 1)}


# ---------------------------------------------------------------- DenseUAV
def plan_denseuav(source, *, heights=DENSEUAV_HEIGHTS, old=True):
    """DenseUAV (Dai et al., TIP 2024): its layout is this one, so folders are taken as they are.

    Images are H<height>.JPG, H<height>.tif and, of an older satellite, H<height>_old.tif; those of
    other `heights` (metres) are left out, and the older ones without `old`. Where the release has
    no test/gallery_*, it is train and query together, as documented. coordinates.csv comes from
    Dense_GPS_*.txt, lines `path E<longitude> N<latitude> <height>`; its IDs are class folders.
    """
    source = _need_folder(source, "the folder of DenseUAV, with train/, test/, Dense_GPS_ALL.txt")
    plan = Plan("DenseUAV")
    chosen = functools.partial(_denseuav_images, heights=heights, old=old)
    found = {f: chosen(source / f) for f in DENSEUAV if (source / f).is_dir()}
    for view in ("drone", "satellite"):
        parts = [found.get(f"train/{view}"), found.get(f"test/query_{view}")]
        if f"test/gallery_{view}" not in found and all(parts):
            found[f"test/gallery_{view}"] = {**parts[0], **parts[1]}
    for folder, classes in found.items():
        plan.add_classes(folder, classes)
    for folder, (classes, images) in DENSEUAV.items():
        if folder in found or folder != "test/query_satellite":  # only satellite -> drone needs it
            images = images // 3 * len(heights) // (2 if images == 6 and not old else 1)
            plan.official[folder] = (classes, classes * images)
    coordinates = _denseuav_coordinates(source)
    names = sorted({name for classes in found.values() for name in classes})
    if coordinates:
        rows = [[name, *coordinates[name]] for name in names if name in coordinates]
        plan.sidecars["coordinates.csv"] = _table(COORDINATES, rows)
        if len(rows) < len(names):
            plan.notes.append(f"Dense_GPS has no line for {len(names) - len(rows)} classes")
    else:
        plan.notes.append("no Dense_GPS_*.txt, so no coordinates.csv")
    return plan


def _denseuav_images(folder, heights, old):
    """{ID: images} of the heights asked for."""
    stems = {f"H{height}{suffix}" for height in heights for suffix in ("", "_old")[: 1 + old]}
    classes = _class_images(folder)
    return {name: [p for p in paths if p.stem in stems] for name, paths in classes.items()}


def _denseuav_coordinates(source):
    """{class folder: (latitude, longitude)} as texts."""
    files = [source / "Dense_GPS_ALL.txt"]
    if not files[0].is_file():
        files = [source / f"Dense_GPS_{split}.txt" for split in ("train", "test")]
    coordinates = {}
    for path in filter(Path.is_file, files):
        for number, line in _read_lines(path, "coordinates").items():
            parts = line.replace("\\", "/").split()
            marked = {part[0]: part[1:] for part in parts[1:]}  # E and N, in either order
            if len(parts) < 3 or "/" not in parts[0] or not {"E", "N"} <= marked.keys():
                raise ValueError(
                    f"{path} line {number} is {line!r}: expected `path E<lon> N<lat> <height>`"
                )
            place = marked["N"], marked["E"]
            _numbers(place, f"{path} line {number}", DEGREES)
            coordinates[parts[0].split("/")[-2]] = place  # the last height's, as published
    return coordinates


# ---------------------------------------------------------------- University-1652 and 160k
def plan_university160k(source, *, names=None, train=None, skip_missing=False):
    """University-160k: University-1652's task with 167,486 more satellite images in the gallery.

    Reads query_drone_160k/, flat, in the order of query_drone_name.txt (a file name a line;
    `names` says where it is), and gallery_satellite_160k/, at any depth, of `source` or
    `source`/test. The queries' names are masked, so they form one class `unknown`, which is empty
    in the gallery: recall is 0 by construction, and the ranking is what counts. A gallery image's
    class is its file stem, as in the answers of the challenge. query_drone_name.txt is kept beside
    test/. Training folders are those of `train`, a University-1652 folder, or of `source`.
    """
    source = _need_folder(source, "the folder of University-160k, with test/query_drone_160k/")
    test = source / "test" if (source / "test" / "query_drone_160k").is_dir() else source
    queries = _need_folder(test / "query_drone_160k", "the queries of University-160k")
    gallery = _need_folder(test / "gallery_satellite_160k", "the gallery of University-160k")
    plan = Plan("University-160k")
    if names is None:
        beside = [folder / "query_drone_name.txt" for folder in (source, test)]
        names = next(filter(Path.is_file, beside), None)
    if names is None:
        listed = _images(queries)
        plan.notes.append("no query_drone_name.txt: the queries are in the order of their names")
    else:
        lines = _read_lines(Path(names), "a query's file name a line")
        listed, what = [queries / line.strip() for line in lines.values()], f"queries of {names}"
        if twice := _repeated(query.name for query in listed):
            raise ValueError(f"{names} names {twice[0]} more than once: remove the repeated lines")
        listed = _complete(listed, lambda query: (query,), what, plan, skip_missing, lines)
    plan.add_classes("test/query_drone", {UNKNOWN: listed})
    plan.sidecars["query_drone_name.txt"] = "".join(f"{query.name}\n" for query in listed)
    plan.empty_classes.append(f"test/gallery_satellite/{UNKNOWN}")
    answers = {UNKNOWN: queries}  # by file stem
    for found in sorted(path for path in gallery.rglob("*") if _is_image(path) and path.is_file()):
        if found.stem in answers:
            raise ValueError(
                f"{found} and {answers[found.stem]} are one answer, {found.stem}: rename one"
            )
        answers[found.stem] = found
        plan.add("test/gallery_satellite", found.stem, found)
    images = DISTRACTORS_160K, DISTRACTORS_160K + 951  # with the buildings' own or without
    plan.official = {"test/query_drone": (None, None), "test/gallery_satellite": (None, images)}
    train_folder = Path(train or source)
    folders = [f"train/{view}" for view in ("satellite", "drone", "street", "google")]
    if not any((train_folder / folder).is_dir() for folder in folders):
        if train:
            raise FileNotFoundError(f"{train} has no train/: give University-1652's folder")
        plan.notes.append("no train/: add --train with the folder of University-1652 to train")
    _add_layout(plan, train_folder, folders)
    return plan


def plan_limit_views(source, *, views):
    """University-1652 with fewer drone images of a training building: 1, 3, 9, 18 or 27 of 54.

    Frame n is kept where n mod (54 / views) is 1, as published (prepare_limit_view.py of
    University1652-Baseline); n is the number at the end of the file's stem. All other folders of
    the layout are linked as they are.
    """
    source = _need_folder(source, "a data folder with train/drone/")
    _need_folder(source / "train" / "drone", "the drone images to choose from")
    plan = Plan("University-1652")
    step = LIMIT_STEPS[views]
    drone = {}
    for name, paths in _class_images(source / "train" / "drone").items():
        drone[name] = [path for path in paths if _frame_number(path) % step == 1]
        if paths and not drone[name]:
            plan.notes.append(f"train/drone/{name} has no frame left of {len(paths)}")
    plan.add_classes("train/drone", drone)
    folders = [f"train/{view}" for view in ("satellite", "street", "google")]
    for role in ("query", "gallery"):
        folders += [f"test/{role}_{view}" for view in TESTABLE_VIEWS]
    _add_layout(plan, source, folders)
    if (source / "coordinates.csv").is_file():
        text = _read_text(source / "coordinates.csv", "the buildings' coordinates")
        plan.sidecars["coordinates.csv"] = text
    if len(drone) == 701 or "university" in source.resolve().name.lower():
        plan.official["train/drone"] = (701, 701 * views)
    return plan


def plan_wx(source, *, conditions):
    """The test folders of a data folder once under each condition: <condition>/test/...

    Drone images become PNGs, whose pixels are those that `test.py --weather` draws; the other views
    are linked.
    """
    source = _need_folder(source, "a data folder with test/query_drone/")
    plan = Plan(f"weather, version {weather.SPEC_VERSION}")
    views = [f"{role}_{view}" for role in ("query", "gallery") for view in TESTABLE_VIEWS]
    folders = [folder for folder in views if (source / "test" / folder).is_dir()]
    if not any("drone" in folder for folder in folders):
        raise FileNotFoundError(
            f"{source} has neither test/query_drone nor test/gallery_drone: weather is drawn on "
            "drone images"
        )
    for condition in conditions:
        for folder in folders:
            place = f"{condition}/test/{folder}"
            classes = _class_images(source / "test" / folder)
            if "drone" not in folder or condition == "normal":
                plan.add_classes(place, classes)
                continue
            for name, paths in classes.items():
                for path in paths:
                    change = functools.partial(weather.draw_weather, path=path, condition=condition)
                    plan.entries.append(Entry(path, f"{place}/{name}/{path.stem}.png", change))
    return plan


def _add_layout(plan, source, folders):
    """Take over those folders of a data folder in our layout that there are."""
    for folder in folders:
        if (source / folder).is_dir():
            plan.add_classes(folder, _class_images(source / folder))


def _frame_number(path):
    number = frame_number(path)
    if number is None:
        raise ValueError(f"{path} has no frame number: expected a name like image-01.jpeg")
    return number


# ---------------------------------------------------------------- the user's own pairs
class Row(NamedTuple):
    """One row of the user's pairs: an image of each view, the building, its coordinates."""

    first: Path
    second: Path
    name: str | None = None
    place: tuple | None = None  # latitude, longitude in degrees


def plan_pairs(sources, *, views=None, test_share=0.2, seed=0, skip_missing=False):
    """The user's own pairs of images: two folders of files with equal stems, or a CSV file.

    `views` names the views of the first and the second; None where the folders or the columns of
    the CSV have the names of views. The CSV has a header, two columns of image paths (relative to
    it), and may have `id`, `latitude`, `longitude`, which give coordinates.csv. Rows of one ID, or
    that share an image, are one building. A share of the buildings, by seed, becomes test/, for
    queries in both directions; the others train/.
    """
    plan = Plan("pairs")
    sources = [Path(path) for path in sources]
    if len(sources) > 2:
        raise ValueError(f"{len(sources)} sources given: expected two folders, or one CSV file")
    if len(sources) == 2:
        for path in sources:
            _need_folder(path, "a folder of images")
        views = views or _view_names([path.name for path in sources], "the folders are named")
        rows = present = _rows_of_folders(*sources, plan)
    elif sources[0].is_dir():
        raise ValueError(f"{sources[0]} is one folder: give a second one, or a CSV file of pairs")
    else:
        own, rows, lines = _rows_of_csv(sources[0])
        views = views or _view_names(own, f"{sources[0]} has image columns")
        what = f"rows of {sources[0]}"
        present = _complete(rows, lambda row: row[:2], what, plan, skip_missing, lines)
    # Of all rows: a copy that is completed later keeps the names and the halves.
    buildings, present = _name_buildings(rows), set(present)
    test = _choose_test(sorted(buildings), test_share, seed)
    buildings = {name: [row for row in its if row in present] for name, its in buildings.items()}
    buildings = {name: its for name, its in sorted(buildings.items()) if its}
    for name, its in buildings.items():
        prefixes = ("test/query_", "test/gallery_") if name in test else ("train/",)
        for view, paths in zip(views, zip(*(row[:2] for row in its), strict=True), strict=True):
            for prefix in prefixes:
                _add_distinct(plan, f"{prefix}{view}/{name}", dict.fromkeys(paths))
    places = {name: [row.place for row in its if row.place] for name, its in buildings.items()}
    known = [[name, *found[0]] for name, found in places.items() if found]
    if known:
        plan.sidecars["coordinates.csv"] = _table(COORDINATES, known)
    return plan


def _view_names(names, where):
    """Two names as two views; ValueError where they are not."""
    if len(set(names)) != 2 or not set(names) <= set(TESTABLE_VIEWS):
        raise ValueError(
            f"{where} {', '.join(names)}: name the two views, e.g. --views drone,satellite "
            f"(of {', '.join(TESTABLE_VIEWS)})"
        )
    return tuple(names)


def _rows_of_folders(first, second, plan):
    by_stem = []
    for folder in (first, second):
        stems = {}
        for path in _images(folder):
            stems.setdefault(path.stem, []).append(path)
        if not stems:
            raise ValueError(f"{folder} holds no images itself: expected files, not sub-folders")
        by_stem.append(stems)
    common = by_stem[0].keys() & by_stem[1].keys()
    if not common:
        raise ValueError(
            f"no file of {first} has the stem of one of {second}: {min(by_stem[0])} and "
            f"{min(by_stem[1])} are the first; use a CSV of pairs for other names"
        )
    for folder, stems in zip((first, second), by_stem, strict=True):
        alone = sorted(stems.keys() - common)
        if alone:
            plan.notes.append(
                f"{len(alone)} stems of {folder} have no partner and are left out, first {alone[0]}"
            )
    pairs = [(stem, a, b) for stem in sorted(common) for a in by_stem[0][stem]
             for b in by_stem[1][stem]]  # fmt: skip
    return [Row(a, b, name=stem) for stem, a, b in pairs]


def _rows_of_csv(path):
    """The two image columns' names, the rows, and their line numbers."""
    text = _read_text(path, "a folder, or a CSV file of pairs")
    first = text.strip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    table = {}  # {number of a row's last line: cells}
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                table[reader.line_num] = cells
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num} is no CSV ({error}): mend it") from None
    names = [name.lower() for name in next(iter(table.values()), [])]
    header = [COLUMN_ALIASES.get(name, name) for name in names]
    columns = [name for name in header if name not in ("id", "latitude", "longitude")]
    if any(_is_image(Path(name)) for name in columns):
        raise ValueError(
            f"{path} begins with {','.join(header)!r}: expected a header above the rows, such as "
            "drone,satellite (id, latitude, longitude if known)"
        )
    if len(columns) != 2 or len(set(header)) != len(header) or len(table) < 2:
        raise ValueError(
            f"{path} has the header {','.join(header)!r} and {max(0, len(table) - 1)} rows: "
            "expected two columns of image paths, id, latitude, longitude if known, and rows"
        )
    if ("latitude" in header) != ("longitude" in header):
        raise ValueError(f"{path} has one of latitude and longitude: expected both, or neither")
    rows = []
    for number, cells in list(table.items())[1:]:
        if len(cells) != len(header) or not all(cells[header.index(c)] for c in columns):
            raise ValueError(f"{path} line {number} is {cells}: expected {', '.join(header)}")
        row = dict(zip(header, cells, strict=True))
        images = (path.parent / row[column] for column in columns)
        rows.append(Row(*images, row.get("id") or None, _degrees(row, path, number)))
    return columns, rows, list(table)[1:]


def _degrees(row, path, number):
    """(latitude, longitude) as texts, None where the row has none."""
    pair = row.get("latitude"), row.get("longitude")
    if not any(pair):
        return None
    _numbers(pair, f"{path} line {number}", DEGREES)
    return pair


def _name_buildings(rows):
    """{ID: rows}. Rows that share an image are one building: a satellite image seen by many drones.

    A building without an ID gets the number of its first row. ValueError where two IDs share an
    image, or where an ID is no folder name.
    """
    parent = list(range(len(rows)))

    def root(number):
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first_with = {}
    for number, row in enumerate(rows):
        keys = [*row[:2], *([f"id {row.name}"] if row.name else [])]
        for key in keys:
            roots = sorted((root(number), root(first_with.setdefault(key, number))))
            parent[roots[1]] = roots[0]
    groups = {}
    for number, row in enumerate(rows):
        groups.setdefault(root(number), []).append(row)
    width = max(4, len(str(len(rows))))
    buildings = {}
    for number, its in groups.items():
        names = sorted({row.name for row in its if row.name}) or [f"{number + 1:0{width}d}"]
        if len(names) > 1:
            raise ValueError(f"the ids {names[0]} and {names[1]} share an image: give them one id")
        if names[0].startswith(".") or set(names[0]) & set('/\\:*?"<>|'):
            raise ValueError(f"the id {names[0]!r} cannot be a folder name: use letters and digits")
        if names[0] in buildings:
            raise ValueError(f"row {number + 1} has no id and its number is one: give all rows ids")
        buildings[names[0]] = its
    return buildings


def _choose_test(names, share, seed):
    """The IDs to test on; each half that is asked for gets two at least."""
    count = round(share * len(names))
    if 0 < share < 1:
        if len(names) < 4:
            raise ValueError(
                f"found {len(names)} buildings: four are needed, two to train and two to test on; "
                "--test_share 0 or 1 makes one half alone"
            )
        count = min(max(2, count), len(names) - 2)

    # By a hash and not by a shuffle: a building added later moves no more others than it must.
    def draw(name):
        return hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest()

    return set(sorted(names, key=draw)[:count])


def _add_distinct(plan, folder, paths):
    """Put files into a class folder, renaming those whose name is taken."""
    taken = set()
    for path in paths:
        name = path.name
        while name.lower() in taken:
            name = f"{path.stem}_{len(taken)}{path.suffix}"
        taken.add(name.lower())
        plan.entries.append(Entry(path, f"{folder}/{name}"))


# ---------------------------------------------------------------- carrying a plan out
def count_plan(plan):
    """{folder: (classes, images)} of what a plan makes, empty classes included."""
    classes, images = {}, {}
    for target in plan.empty_classes:
        folder, name = target.rsplit("/", 1)
        classes.setdefault(folder, set()).add(name)
    for entry in plan.entries:
        folder, name, _ = entry.target.rsplit("/", 2)
        classes.setdefault(folder, set()).add(name)
        images[folder] = images.get(folder, 0) + 1
    return {folder: (len(names), images.get(folder, 0)) for folder, names in classes.items()}


def compare_counts(name, counts, official):
    """Sentences on where counts differ from the official ones; ValueError where there is nothing.

    People have partial copies, so a difference is no error.
    """
    sentences = []
    for folder, published in official.items():
        found = counts.get(folder, (0, 0))
        if not found[1]:
            raise ValueError(f"no image for {folder}/ was found: it is part of {name}")
        right = [own if isinstance(own, tuple) else (own,) for own in published]
        if any(n not in own and own != (None,) for n, own in zip(found, right, strict=True)):
            sentences.append(f"{folder}/ has {_in_words(found)}; {name} has {_in_words(published)}")
    return sentences


def _in_words(counts):
    """(3, (5, 6)) -> "3 classes, 5 or 6 images"; a None is passed over."""
    parts = []
    for count, what in zip(counts, ("classes", "images"), strict=True):
        if count is not None:
            numbers = count if isinstance(count, tuple) else (count,)
            parts.append(f"{' or '.join(map(str, numbers))} {what}")
    return ", ".join(parts)


def carry_out(plan, out, mark, *, copy=False, dry_run=False, num_workers=1):
    """Make what a plan says in the folder `out`, and print a summary.

    What is right already is left alone, so a run that was killed goes on where it was. `mark` is a
    dict of plain values that says how `out` was made; a folder made in another way, or holding
    other images, is a ValueError. `copy` copies instead of linking. `dry_run` writes nothing.
    `num_workers` threads write the images whose pixels change. Returns {"out", "counts": {folder:
    (classes, images)}, "made": {"hard links": n, ...}, "notes": [...]}.
    """
    out = Path(out)
    _check_output(out, mark, {entry.target for entry in plan.entries})
    _check_sources(plan.entries)
    plan.entries = entries = _distinct(plan.entries)
    counts = count_plan(plan)
    notes = plan.notes + compare_counts(plan.name, counts, plan.official)
    made = {}
    if not dry_run:
        files.write_yaml(out / MARKER, mark)
        for target in plan.empty_classes:
            (out / target).mkdir(parents=True, exist_ok=True)
        try:
            made = _place_all(entries, out, copy, num_workers)
        except OSError as error:
            raise OSError(f"{error}; {out} is not complete: mend that and run this again") from None
        for name, text in plan.sidecars.items():
            path = out / name
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                files.write_text(path, text)
    _print_summary(out, plan, counts, made, notes, dry_run)
    return {"out": str(out), "counts": counts, "made": made, "notes": notes}


def _distinct(entries):
    """Entries without repetition; ValueError where two images want one place."""
    by_target = {}
    for entry in entries:
        first = by_target.setdefault(entry.target, entry)
        if first.source != entry.source:
            raise ValueError(
                f"{first.source} and {entry.source} would both become {entry.target}: rename one"
            )
    return list(by_target.values())


def _check_sources(entries):
    """ValueError for a source that the layout cannot hold, before anything is written."""
    for source, target, _ in entries:
        if not _is_image(source):
            raise ValueError(
                f"{source} is not read as an image by its name: name a file ending in .jpg, .png, "
                "..., without a dot at the beginning"
            )
        try:
            target.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(source).decode(errors="backslashreplace")
            raise ValueError(f"{shown} has a name that is not UTF-8: rename it") from None


def _check_output(out, mark, targets):
    """ValueError where `out` was made in another way or holds images that are not in `targets`."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file()):
        raise ValueError(f"{out} exists and holds something else: give another --out, or remove it")
    if not (out / MARKER).is_file():
        return
    earlier = files.read_yaml(out / MARKER)
    differing = sorted(k for k in {*earlier, *mark} if earlier.get(k) != mark.get(k))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{out} was made with {key} {earlier.get(key)}, not {mark.get(key)}: give another "
            "--out, or remove it"
        )
    tops = sorted({target.split("/")[0] for target in targets})
    present = (path.relative_to(out).as_posix() for top in tops for path in (out / top).rglob("*"))
    strays = sorted(path for path in present if path not in targets and _is_image(Path(path)))
    if strays:
        raise ValueError(
            f"{out} holds {len(strays)} images that are no part of this any more, first "
            f"{strays[0]}: remove {out} and prepare it again"
        )


def _place_all(entries, out, copy, num_workers):
    """Put every entry in its place; returns how many were made in which way."""
    for folder in sorted({os.path.dirname(entry.target) for entry in entries}):
        (out / folder).mkdir(parents=True, exist_ok=True)
    made = {}
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        waiting = [pool.submit(_convert, e, out / e.target) for e in entries if e.change]
        try:
            linked = (_place(e.source, out / e.target, copy) for e in entries if not e.change)
            ways = itertools.chain(linked, (future.result() for future in waiting))
            for way in progress.progress_bar(ways, "images", total=len(entries)):
                made[way] = made.get(way, 0) + 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return made


def _place(source, target, copy):
    """Link or copy one file; returns the way it was done."""
    if _is_right(source, target, copy=copy):
        return "there already"
    if os.path.lexists(target):
        target.unlink()
    if copy:
        with files.replacing(target) as temporary:
            shutil.copy2(source, temporary)
        return "copies"
    real = os.path.realpath(source)  # a hard link to a symbolic one would be a symbolic one
    if not os.path.isfile(real):
        raise FileNotFoundError(f"{source} is gone, or is no file")
    try:
        os.link(real, target)
        return "hard links"
    except OSError:  # another disk, or a file system without hard links
        pass
    try:
        os.symlink(real, target)
        return "symbolic links"
    except OSError as error:
        raise OSError(
            f"neither a hard nor a symbolic link can be made at {target} ({error.strerror}): "
            "add --copy"
        ) from None


def _convert(entry, target):
    """Write the changed image, with the time of its source; returns the way it was done."""
    from imaging.files import read_image

    if _is_right(entry.source, target, copy=True):
        return "there already"
    image = Image.fromarray(entry.change(read_image(entry.source)))
    with files.replacing(target) as temporary:
        image.save(temporary, **(JPEG if entry.target.endswith(".jpg") else {}))
        times = os.stat(entry.source)
        os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))
    return "converted"


def _is_right(source, target, copy):
    """Whether `target` is a link to `source` or, for a copy, a file of its own as old as it."""
    try:
        own, there = os.stat(source), os.stat(target)
    except OSError:
        return False
    same = os.path.samestat(own, there)
    if not copy:
        return same
    return not same and abs(own.st_mtime_ns - there.st_mtime_ns) < 2e9  # FAT keeps two seconds


def _print_summary(out, plan, counts, made, notes, dry_run):
    print(f"{'folder':<32}{'classes':>8}{'images':>8}  {plan.name}")
    for folder, (classes, images) in sorted(counts.items()):
        official = _in_words(plan.official.get(folder, (None, None)))
        print(f"{folder:<32}{classes:>8}{images:>8}  {official}".rstrip())
    for note in notes:
        print(f"note: {note}")
    if dry_run:
        print(f"{out}: nothing written (--dry_run)")
        return
    print(f"{out}: " + ", ".join(f"{count} {way}" for way, count in made.items()))
