"""VIGOR: panoramas taken anywhere in a satellite image, of four cities."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from sources.command import SKIP_MISSING, converter, option
from sources.panoramas import PANORAMA_OPTIONS, panorama_change
from sources.plan import Plan
from sources.reading import check_numbers, keep_complete, need_folder, read_lines

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")
SATELLITE_LIST = "satellite_list.txt"
TRAIN_CITIES = {"same": CITIES, "cross": ("NewYork", "Seattle")}
TEST_CITIES = {"same": CITIES, "cross": ("SanFrancisco", "Chicago")}
OFFICIAL = {  # {area: {folder: (classes, images)}}
    "same": {"train/satellite": (None, None), "train/street": (None, 52609),
             "test/query_street": (None, 52605), "test/gallery_satellite": (90618, 90618)},
    "cross": {"train/satellite": (None, None), "train/street": (None, 51520),
              "test/query_street": (None, 53694), "test/gallery_satellite": (46563, 46563)},
}  # fmt: skip
SEMI_POSITIVES = ["panorama", "latitude", "longitude"] + [
    f"{which}{part}"
    for which in ("positive", "semi_1", "semi_2", "semi_3")
    for part in ("", "_delta_1", "_delta_2")
]


class Panorama(NamedTuple):
    """A line of VIGOR's labels: the panorama, and four satellite images with their offsets."""

    path: Path
    names: list  # the IDs of the positive and three semi-positives
    offsets: list  # (delta_1, delta_2) of each, pixels as published
    satellite: Path  # of the positive


def plan_vigor(
    source, *, area="same", splits="splits", crop=(0, 1), roll=0, seed=0, skip_missing=False
):
    """VIGOR (Zhu et al., CVPR 2021), the "same" or the "cross" area protocol.

    Reads <splits>/<City>/satellite_list.txt and same_area_balanced_{train,test}.txt or, across
    areas, pano_label_balanced.txt (also as *__corrected.txt, the labels of SliceMatch); lines are
    a panorama and four times a satellite image with two offsets. A class is a satellite image, its
    ID <City>_<file stem>; the panoramas it is the positive of are its street views. The test
    gallery holds every listed satellite image of the test cities. coordinates.csv comes from the
    satellite images' file names; semi_positives.csv has a line for every panorama, with IDs.
    """
    source = need_folder(source, "the folder of VIGOR, with splits/ and a folder for each city")
    plan = Plan("VIGOR", official=OFFICIAL[area])
    satellites, rows = {}, []
    for split, cities in (("train", TRAIN_CITIES[area]), ("test", TEST_CITIES[area])):
        label = f"same_area_balanced_{split}" if area == "same" else "pano_label_balanced"
        street, used = "train/street" if split == "train" else "test/query_street", {}
        for city in cities:
            labels = need_folder(source / splits / city, f"VIGOR's labels of {city}")
            listed, lines = _read_satellites(labels, city, _image_folder(source, city, "satellite"))
            if split == "test":  # the whole gallery
                what, images = f"satellite images of {labels / SATELLITE_LIST}", listed.items()
                used |= keep_complete(images, lambda s: s[1:], what, plan, skip_missing, lines)
            known = used if split == "test" else listed
            path = _label_file(labels, label)
            panoramas, lines = _read_panoramas(
                path, _image_folder(source, city, "panorama"), listed
            )
            what, paths_of = f"panoramas of {path}", lambda p: (p.path, p.satellite)
            for each in keep_complete(panoramas, paths_of, what, plan, skip_missing, lines):
                change = panorama_change(crop, roll, seed, each.path.name)
                plan.add(street, each.names[0], each.path, change)
                rows.append(_semi_positives(plan.entries[-1].target, each, known))
                used[each.names[0]] = each.satellite
        folder = "train/satellite" if split == "train" else "test/gallery_satellite"
        plan.add_classes(folder, {name: [path] for name, path in used.items()})
        satellites |= used
    plan.note_repeated((Path(target).name for target, *_ in rows), "panoramas")
    plan.add_coordinates(_coordinates(satellites))
    plan.add_table("semi_positives.csv", SEMI_POSITIVES, rows)
    return plan


def _image_folder(source, city, view):
    """A city's images: <City>/panorama as released, or ground/<City> as others rearranged it."""
    moved = source / {"panorama": "ground", "satellite": "satellite"}[view] / city
    return moved if moved.is_dir() else source / city / view


def _label_file(labels, stem):
    corrected = labels / f"{stem}__corrected.txt"
    return corrected if corrected.is_file() else labels / f"{stem}.txt"


def _read_satellites(labels, city, folder):
    """{ID: path} of a city's listed satellite images, and their line numbers."""
    listed, numbers = {}, []
    lines = read_lines(labels / SATELLITE_LIST, f"VIGOR's satellite images of {city}")
    for number, line in lines.items():
        name = f"{city}_{Path(line.strip()).stem}"
        if name not in listed:
            listed[name] = folder / line.strip()
            numbers.append(number)
    return listed, numbers


def _read_panoramas(path, folder, listed):
    """The labelled panoramas of a city, and their line numbers."""
    city, panoramas = path.parent.name, []
    lines = read_lines(path, f"VIGOR's labels of {city}")
    for number, line in lines.items():
        parts = line.split()
        if len(parts) != 13:
            raise ValueError(
                f"{path} line {number} has {len(parts)} parts: expected a panorama and four times "
                "a satellite image with two offsets, 13 in all"
            )
        names = [f"{city}_{Path(file_name).stem}" for file_name in parts[1::3]]
        for name, file_name in zip(names, parts[1::3], strict=True):
            if name not in listed:
                raise ValueError(
                    f"{path} line {number} names {file_name}, which {SATELLITE_LIST} does not hold"
                )
        offsets = list(zip(parts[2::3], parts[3::3], strict=True))
        check_numbers(itertools.chain.from_iterable(offsets), f"{path} line {number}")
        panoramas.append(Panorama(folder / parts[0], names, offsets, listed[names[0]]))
    return panoramas, lines


def _semi_positives(target, panorama, known):
    """A row of semi_positives.csv; a satellite image that is not `known` leaves its cells empty.

    The panorama's file name is <id>,<latitude>,<longitude>,.jpg.
    """
    place = (panorama.path.name.split(",") + ["", ""])[1:3]
    labels = zip(panorama.names, panorama.offsets, strict=True)
    cells = ((name, *offset) if name in known else ("", "", "") for name, offset in labels)
    return [target, *place, *itertools.chain.from_iterable(cells)]


def _coordinates(satellites):
    """[ID, latitude, longitude], from file names satellite_<latitude>_<longitude>.png."""
    found = {n: re.fullmatch(r".*_(-?[\d.]+)_(-?[\d.]+)", p.stem) for n, p in satellites.items()}
    return [[name, *match.groups()] for name, match in sorted(found.items()) if match]


COMMANDS = (
    converter("vigor", plan_vigor, "VIGOR: panoramas anywhere in a satellite image",
              "folder with splits/ and a folder for each city",
              option("--area", choices=("same", "cross"), default="same",
                     help="train and test in the same four cities, or two each"),
              option("--splits", default="splits",
                     help="folder of the labels in the source, e.g. splits__corrected"),
              *PANORAMA_OPTIONS, SKIP_MISSING),
)  # fmt: skip
