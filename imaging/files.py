"""Image files in the University-1652 layout: names of views, folders of classes, pixels.

<data>/train/{satellite,street,drone,google}/<ID>/*
<data>/test/{query,gallery}_{satellite,street,drone}/<ID>/*
"""

import io
import math
import re
from pathlib import Path

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ModuleNotFoundError:  # no wheel for this platform: Pillow decodes
    simplejpeg = None

VIEWS = SATELLITE, STREET, DRONE, GOOGLE = ("satellite", "street", "drone", "google")
TEST_VIEWS = VIEWS[:3]  # web photographs are for training alone
# The folders of the layout, in the order in which they are listed.
TRAIN_FOLDERS = tuple(f"train/{view}" for view in (SATELLITE, DRONE, STREET, GOOGLE))
TEST_FOLDERS = tuple(
    f"test/{role}_{view}" for role in ("query", "gallery") for view in (SATELLITE, DRONE, STREET)
)
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def split_folder(data_dir, split):
    """The `train` or `test` folder of a data folder given by itself or by its parent.

    Raises FileNotFoundError where there is neither.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"data folder {data_dir} not found: expected a folder holding {split}/; "
            "`python prepare.py toy --out data/toy` makes one to try with"
        )
    if (data_dir / split).is_dir():
        return data_dir / split
    prefixes = ("",) if split == "train" else ("query_", "gallery_")
    if any((data_dir / f"{prefix}{view}").is_dir() for prefix in prefixes for view in VIEWS):
        return data_dir
    found = sorted(path.name for path in data_dir.iterdir())[:6]
    raise FileNotFoundError(
        f"{data_dir} holds neither {split}/ nor folders named {prefixes[0]}{VIEWS[0]}, "
        f"{prefixes[0]}{VIEWS[2]}, ...; found {', '.join(found) or 'nothing'}: "
        f"`python prepare.py check {data_dir}` says what is missing"
    )


def scan_classes(folder):
    """{ID: sorted image paths} of a view's folder; a class folder without images gives [].

    Images are known by their names: one that is gone is an error when it is read. Raises
    FileNotFoundError where the folder is missing, ValueError where it holds no image at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        present = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        raise FileNotFoundError(
            f"{folder} not found: there are {', '.join(present) or 'no folders'} beside it; "
            "name other views, or check the layout with `python prepare.py check`"
        )
    classes = list_classes(folder, is_image_name)
    if not any(classes.values()):
        raise ValueError(
            f"{folder} holds no images: expected <ID>/<image> with a suffix of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return classes


def task_folders(task):
    """The two folders of a test task, (view of the queries, view of the gallery), in test/."""
    query, gallery = task
    return f"query_{query}", f"gallery_{gallery}"


def scan_test_folders(test_dir, tasks):
    """{"query_drone": {ID: paths}, ...} of the folders that the tasks need."""
    folders = sorted({folder for task in tasks for folder in task_folders(task)})
    scanned = {folder: scan_classes(test_dir / folder) for folder in folders}
    for folder in folders:
        if folder.startswith("query_"):
            _check_known(scanned[folder], test_dir, test_dir / folder)
    return scanned


def _check_known(classes, test_dir, folder):
    """Raise ValueError for a query class that no gallery folder holds: a misplaced folder."""
    galleries = [path for path in test_dir.glob("gallery_*") if path.is_dir()]
    known = {path.name for gallery in galleries for path in gallery.iterdir()}
    strangers = [name for name, paths in classes.items() if paths and name not in known]
    if strangers:
        raise ValueError(
            f"{folder} has {len(strangers)} class folder(s) that no gallery folder holds, first "
            f"{strangers[0]}: add its gallery images or remove it"
        )


def is_image_name(path):
    """Whether a path has the suffix of an image and is not a hidden file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def is_image_file(path):
    """Whether a path with an image's name is a file, or a link to one."""
    return is_image_name(path) and path.is_file()


def list_classes(folder, is_image=is_image_file):
    """{ID: sorted paths} of a folder of class folders, empty ones included, hidden ones not.

    `is_image` says which paths count.
    """
    folders = (p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith("."))
    return {path.name: list_images(path, is_image) for path in folders}


def list_images(folder, is_image=is_image_file):
    """The sorted paths in a folder for which `is_image` holds."""
    return sorted(filter(is_image, folder.iterdir()))


def read_image(path):
    """Decode an image file to uint8 (H, W, 3); an OSError names a file that cannot be read.

    Pillow decides what an image is. An intact JPEG is decoded by simplejpeg where it is installed:
    the same pixels (both are libjpeg-turbo) in half the time.
    """
    try:
        content = Path(path).read_bytes()
        decoded = _decode_jpeg(content)
        if decoded is not None:
            return decoded
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):  # cut off at 255 they would be white
                raise ValueError(f"its pixels are of mode {image.mode}, expected 8 bits a colour")
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = re.sub("<_io.BytesIO[^>]*>", "the file", " ".join(str(error).split()))
        raise OSError(
            f"{path} cannot be read as an image ({reason.replace(str(path), 'the file')}): replace "
            "or remove it; `python prepare.py check DIR` lists all such files"
        ) from None


def _decode_jpeg(content):
    """A JPEG as uint8 (H, W, 3), or None where Pillow has to decode or refuse it."""
    if simplejpeg is None or not content.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours in ("YCbCr", "Gray") and height * width <= (Image.MAX_IMAGE_PIXELS or math.inf):
            return simplejpeg.decode_jpeg(content)
    except ValueError:  # truncated or damaged
        pass
    return None
