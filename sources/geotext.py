"""GeoText-1652: the images of University-1652, each described in words."""

import functools
import json
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from evaluation.geotext import platform_of
from runtime.files import kind_of
from runtime.printing import is_utf8
from sources.command import converter, option
from sources.plan import Plan
from sources.reading import file_names, need_folder, read_text

KEYS = ("image_id", "image", "caption")  # what is read of an entry
TESTS = {"951": "test_951_version.json", "24G": "test_24G_version.json"}
VIEWS = ("satellite", "drone", "street")
COUNTS = {  # {split: {view: (classes, images, or texts)}}
    "train": {"satellite": (701, 701), "drone": (701, 37854), "street": (701, 11663),
              "text": (701, 150654)},
    "test": {"satellite": (951, 951), "drone": (951, 51355), "street": (793, 2921),
             "text": (951, 165681)},
}  # fmt: skip
ORDER = "image_order.txt"  # the test images in the order of the released file
TOLD = 3  # faults of a file that are told one by one


class Described(NamedTuple):
    """An image and its descriptions."""

    building: str
    path: Path
    captions: list


def plan_geotext(source, *, test="951", skip_missing=False):
    """GeoText-1652 (Chu et al., ECCV 2024) of `source`: train.json, a test file, and the images.

    A file is a list of entries with image_id (<ID>/<file name>), image (its path in `source` or
    `source`/images) and caption: a string, or a list of strings. An image's descriptions become
    text/<ID>/<stem of its name>.txt, one a line; its platform follows from its name (see
    `evaluation.geotext.platform_of`). Every image and text of the test file is in query and
    gallery, as GeoText-1652 scores. image_order.txt lists the test images in the file's order.
    Entries that cannot be used are a ValueError that names them or, with `skip_missing`, a note.
    """
    source = need_folder(source, "the folder of GeoText-1652, with train.json and images/")
    images = source / "images" if (source / "images").is_dir() else source
    plan = Plan("GeoText-1652")
    faults = []
    for split, file in (("train", "train.json"), ("test", TESTS[test])):
        described, faults_of_file = read_descriptions(source / file, images)
        faults += faults_of_file
        for folder in ("train/",) if split == "train" else ("test/query_", "test/gallery_"):
            _add_all(plan, folder, described)
            if split == "train" or test == "951":
                _expect(plan, folder, COUNTS[split])
    plan.sidecars[ORDER] = "".join(f"{each.building}/{each.path.name}\n" for each in described)
    if faults and not skip_missing:
        mend = _how_to_mend(source, images)
        raise ValueError(f"{'; '.join(faults)}: {mend}, or leave them out with --skip_missing")
    plan.notes += [f"{fault}: left out" for fault in faults]
    return plan


def _add_all(plan, folder, described):
    """Put images and texts into the views of `folder`, train/ or test/query_ or test/gallery_."""
    strange = []
    for building, path, captions in described:
        view = platform_of(f"{building}/{path.name}")
        if view == "other":
            strange.append(path)
            view = "street"
        plan.add(f"{folder}{view}", building, path)
        if captions:
            plan.texts[f"{folder}text/{building}/{path.stem}.txt"] = captions
    if strange and folder != "test/gallery_":  # the same as test/query_
        plan.notes.append(
            f"{len(strange)} images are named neither image-NN, nor by their building, nor by a "
            f"number, first {strange[0]}: taken as images from the street"
        )


def _expect(plan, folder, counts):
    """The published counts of the views there are, and a note of those there are not."""
    targets = [*(entry.target for entry in plan.entries), *plan.texts]
    found = {target.rsplit("/", 2)[0] for target in targets}
    for view, published in counts.items():
        if f"{folder}{view}" in found:
            plan.official[f"{folder}{view}"] = published
        else:
            plan.notes.append(f"nothing for {folder}{view}/")


# ---------------------------------------------------------------- the released files
def read_descriptions(path, images):
    """([`Described` of each image], [a sentence on the entries of a file that cannot be used]).

    `images` is the folder of the images' paths. Entries of the same image add up.
    """
    described, reasons = {}, {}
    names_in = functools.cache(file_names)  # far quicker than asking for each file
    for number, entry in enumerate(_read_entries(path), start=1):
        try:
            building, image = _image_of(entry, images, names_in)
            key = building, image.stem  # of the file of texts
            first = described.setdefault(key, Described(building, image, []))
            if first.path != image:
                raise ValueError(f"names {image}, whose texts would mix with those of {first.path}")
            first.captions.extend(_captions_of(entry))
        except ValueError as fault:
            reasons[number] = fault
    told = [f"entry {number} {reason}" for number, reason in list(reasons.items())[:TOLD]]
    more = f", and {len(reasons) - TOLD} more" if len(reasons) > TOLD else ""
    faults = [f"{path}: {', '.join(told)}{more}"] if told else []
    if not described:
        raise ValueError(
            f"no entry can be used of {faults[0]}: {_how_to_mend(path.parent, images)}"
        )
    return list(described.values()), faults


def _how_to_mend(source, images):
    """What is to be done about entries that cannot be used, most often for want of their images."""
    packed = min(source.rglob("*.tar.gz"), default=None)
    return f"unpack {packed} into {images}" if packed else "mend them, or their images"


def _read_entries(path):
    """The list of entries of a released file; boxes and sentences, most of its bytes, are left."""
    text = read_text(path, "GeoText-1652's descriptions")
    try:
        entries = json.loads(text, object_hook=lambda entry: {k: entry.get(k) for k in KEYS})
    except (ValueError, RecursionError) as error:
        reason = kind_of(path) or f"{error}; download it again"
        raise ValueError(f"{path} is not JSON: {reason}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds no list of entries: download it again")
    return entries


def _image_of(entry, images, names_in):
    """(building, image file) of an entry; ValueError says what is wrong with it."""
    if not isinstance(entry, dict):
        raise ValueError(f"is {_short(entry)}, expected an object with {', '.join(KEYS)}")
    for key in KEYS:
        if entry[key] is None:
            raise ValueError(f"lacks {key}")
    name, image = entry["image_id"], entry["image"]
    if not isinstance(name, str) or not re.fullmatch(r"[0-9]{4}/[^/]+", name):
        raise ValueError(f"has the image_id {_short(name)}, expected <four digits>/<file name>")
    parts = PurePosixPath(image).parts if isinstance(image, str) else ()
    if not parts or ".." in parts or PurePosixPath(image).is_absolute():
        raise ValueError(f"has the image {_short(image)}, expected a path below {images}")
    if not image.endswith(f"/{name}"):
        raise ValueError(
            f"has the image {_short(image)}, which is not its image_id, {_short(name)}"
        )
    path = images.joinpath(*parts)
    if path.name not in names_in(path.parent):
        raise ValueError(f"names {path}, which is not there")
    return name[:4], path


def _captions_of(entry):
    """An entry's captions, each one line; ValueError where one is none."""
    captions = entry["caption"]
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(each, str) for each in captions):
        raise ValueError(f"has the caption {_short(captions)}, expected text or a list of texts")
    # Line breaks become spaces, and so does a byte order mark, which is no word.
    lines = [" ".join(caption.replace("\ufeff", " ").split()) for caption in captions]
    if not lines or not all(lines):
        raise ValueError("has an empty caption")
    if not is_utf8("".join(lines)):
        raise ValueError("has a caption with half a character, which is no UTF-8")
    return lines


def _short(value):
    """A value as JSON, cut to what fits into a sentence."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


COMMANDS = (
    converter("geotext", plan_geotext,
              "GeoText-1652: University-1652's images with descriptions, as a view called text",
              "folder with train.json, test_951_version.json and images/",
              option("--test", choices=tuple(TESTS), default="951",
                     help="test file: 951 buildings, or about 190 for smaller machines"),
              option("--skip_missing", action="store_true",
                     help="leave out images that are missing, and an entry's captions where one "
                          "is empty")),
)  # fmt: skip
