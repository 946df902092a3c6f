"""Panoramas: what changes their pixels, and CVUSA and CVACT, pairs of satellite and street."""

import argparse
import functools
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imaging.files import list_images
from runtime.cli import natural_int, number_within
from sources.command import SKIP_MISSING, converter, option
from sources.plan import Plan
from sources.reading import DEGREES, check_numbers, keep_complete, need_folder, read_lines

CVUSA_SPLITS = {"train": ("train-19zl.csv", 35532), "test": ("val-19zl.csv", 8884)}
CVACT_COUNTS = {"train": 35532, "val": 8884, "test": 92802}


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
        first = min(round(self.top * height), height - 1)  # at least one row stays
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
    down, across = row - top, column - left  # from 0 to 1
    # Only where a side is shorter than twice the height is there no pixel below or beside.
    below, beside = np.minimum(top + 1, rows - 1), np.minimum(left + 1, columns - 1)
    indices = [y * columns + x for y in (top, below) for x in (left, beside)]
    weights = [v * h for v in (1 - down, down) for h in (1 - across, across)]
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


# ---------------------------------------------------------------- options
def _shares(text):
    """argparse type: two shares, the first smaller."""
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        first, second = 1.0, 0.0
    if not 0 <= first < second <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TOP,BOTTOM, two shares such as 0.25,0.75"
        )
    return first, second


def _roll(text):
    """argparse type: degrees, or the word random."""
    return text if text == "random" else number_within(-360, 360)(text)


def _size(text):
    """argparse type: HEIGHTxWIDTH in pixels."""
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 112x616")
    return tuple(map(int, parts))


PANORAMA_OPTIONS = (  # the arguments of `panorama_change`
    option("--crop", type=_shares, default=(0.0, 1.0), metavar="TOP,BOTTOM",
           help="rows of the panoramas to keep, as shares of the height; 0.25,0.75 is usual for "
           "CVACT"),
    option("--roll", type=_roll, default=0.0, metavar="DEGREES",
           help="roll the panoramas to the right by degrees, or each by a random angle: random"),
    option("--seed", type=natural_int, default=0, help="seed of --roll random"),
)  # fmt: skip
POLAR = option(
    "--polar", type=_size, nargs="?", const=(112, 616), metavar="HEIGHTxWIDTH",
    help="polar transform of the satellite images; without a size 112x616, as published",
)  # fmt: skip


# ---------------------------------------------------------------- pairs of satellite and street
class Pair(NamedTuple):
    """One satellite image and the panorama taken in its middle."""

    name: str
    satellite: Path
    street: Path


def _add_pairs(plan, split, pairs, polar, change_of):
    """Put pairs into train/, or into test/ as queries and gallery of both directions."""
    polar = functools.partial(polar_transform, height=polar[0], width=polar[1]) if polar else None
    prefixes = ("train/",) if split == "train" else ("test/query_", "test/gallery_")
    for prefix in prefixes:
        for pair in pairs:
            plan.add(f"{prefix}satellite", pair.name, pair.satellite, polar)
            plan.add(f"{prefix}street", pair.name, pair.street, change_of(pair.name))


def _paired_counts(train, test):
    """Official counts of a data set of pairs."""
    counts = {"train/": train, "test/query_": test, "test/gallery_": test}
    views = ("satellite", "street")
    return {f"{prefix}{view}": (n, n) for prefix, n in counts.items() for view in views}


# ---------------------------------------------------------------- CVUSA
def plan_cvusa(source, *, polar=None, crop=(0, 1), roll=0, seed=0, skip_missing=False):
    """CVUSA (Workman et al., ICCV 2015; the pairs of Zhai et al., CVPR 2017).

    Reads splits/{train,val}-19zl.csv, lines `satellite path,street path,...` without a header; val
    becomes test. The ID is the satellite file's stem. split_locations/all.csv, where it is there,
    gives coordinates.csv: its line n belongs to image n. `polar` is None or (height, width) of
    `polar_transform`; `crop`, `roll`, `seed` are those of `panorama_change`.
    """
    source = need_folder(source, "the folder of CVUSA, with splits/, bingmap/, streetview/")
    plan = Plan("CVUSA", official=_paired_counts(*(count for _, count in CVUSA_SPLITS.values())))
    names = []
    for split, (file_name, _) in CVUSA_SPLITS.items():
        path = source / "splits" / file_name
        lines, pairs = read_lines(path, "CVUSA's list of satellite and street images"), []
        for number, line in lines.items():
            parts = [part.strip() for part in line.split(",")]
            if len(parts) < 2 or not all(parts[:2]):
                raise ValueError(
                    f"{path} line {number} is {line!r}: expected satellite,street,... paths"
                )
            pairs.append(Pair(Path(parts[0]).stem, source / parts[0], source / parts[1]))
        what = f"pairs of {path}"
        pairs = keep_complete(pairs, lambda pair: pair[1:], what, plan, skip_missing, lines)
        _add_pairs(plan, split, pairs, polar, functools.partial(panorama_change, crop, roll, seed))
        names += [pair.name for pair in pairs]
    plan.note_repeated(names, "pairs")
    locations = source / "split_locations" / "all.csv"
    if locations.is_file():
        plan.add_coordinates(_cvusa_coordinates(locations, names))
    return plan


def _cvusa_coordinates(path, names):
    """[ID, latitude, longitude] of the satellite images; line n of `path` is image n."""
    lines = read_lines(path, "CVUSA's coordinates, a line for each image")
    rows = []
    for name in names:
        if not name.isdigit() or int(name) not in lines:
            raise ValueError(f"{path} has {len(lines)} lines and none for image {name}")
        place = [part.strip() for part in lines[int(name)].split(",")[:2]]
        if len(place) != 2:
            raise ValueError(f"{path} line {int(name)} is not latitude,longitude,...: mend it")
        check_numbers(place, f"{path} line {int(name)}", DEGREES)
        rows.append([name, *place])
    return rows


# ---------------------------------------------------------------- CVACT
def plan_cvact(source, *, test_set="val", polar=None, crop=(0, 1), roll=0, seed=0):
    """CVACT (Liu and Li, CVPR 2019).

    Reads ACT_data.mat (`panoIds`, `utm`, 1-based `trainSet.trainInd` and `valSet.valInd`) and the
    images of ANU_data_small/; the ID is the panorama's. Its val set is what is usually tested on;
    `test_set="test"` takes all pairs of ANU_data_test/ instead. Pairs that lack a file are left
    out with a note: the release lacks some. utm.csv has the metres of `utm` as they are.
    """
    source = need_folder(source, "the folder of CVACT, with ACT_data.mat and ANU_data_small/")
    counts = CVACT_COUNTS["train"], CVACT_COUNTS[test_set]
    plan = Plan("CVACT", official=_paired_counts(*counts))
    pano_ids, utm, indices = _read_act_data(source / "ACT_data.mat")
    small = need_folder(source / "ANU_data_small", "CVACT's images")
    chosen = {"train": [_cvact_pair(small, pano_ids[index]) for index in indices["train"]]}
    if test_set == "val":
        chosen["test"] = [_cvact_pair(small, pano_ids[index]) for index in indices["val"]]
    else:
        chosen["test"] = _cvact_test_pairs(source / "ANU_data_test")
    kept = set()
    for split, pairs in chosen.items():
        what = f"{split} pairs of CVACT"
        pairs = keep_complete(pairs, lambda pair: pair[1:], what, plan, skip_missing=True)
        _add_pairs(plan, split, pairs, polar, functools.partial(panorama_change, crop, roll, seed))
        kept.update(pair.name for pair in pairs)
    if utm is not None:
        rows = [[n, *map(float, metres)] for n, metres in zip(pano_ids, utm, strict=True)]
        known = [row for row in rows if row[0] in kept]
        plan.add_table("utm.csv", ["building", "easting", "northing"], known)
    return plan


def _cvact_pair(folder, name):
    satellite = folder / "satview_polish" / f"{name}_satView_polish.jpg"
    return Pair(name, satellite, folder / "streetview" / f"{name}_grdView.jpg")


def _cvact_test_pairs(folder):
    """All pairs of ANU_data_test/, found by the names of the panoramas."""
    streets = list_images(need_folder(folder / "streetview", "the panoramas of CVACT's test set"))
    return [_cvact_pair(folder, path.name.removesuffix("_grdView.jpg")) for path in streets]


def _read_act_data(path):
    """(panorama IDs, utm (N, 2) or None, {"train", "val": 0-based indices}) of ACT_data.mat."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected CVACT's list of panoramas and splits")
    from scipy.io import loadmat  # a third of the start of prepare.py, for CVACT alone

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


COMMANDS = (
    converter("cvusa", plan_cvusa, "CVUSA: satellite and street panoramas",
              "folder with splits/, bingmap/ and streetview/",
              POLAR, *PANORAMA_OPTIONS, SKIP_MISSING),
    converter("cvact", plan_cvact, "CVACT: satellite and street panoramas",
              "folder with ACT_data.mat and ANU_data_small/",
              option("--test_set", choices=("val", "test"), default="val",
                     help="pairs to test on: valSet, or all of ANU_data_test/"),
              POLAR, *PANORAMA_OPTIONS),
)  # fmt: skip
