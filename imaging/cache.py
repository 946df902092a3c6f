"""Resized images of a list of files: decoded when asked for, or once into memory or onto the disk.

$ python train.py --cache disk      # writes cache/drone-....npy, and finds it again the next time
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as image_ops

from imaging.pixels import read_image
from runtime.files import A_DAY, NO_ROOM, remove_partials, replacing
from runtime.processes import main_process_first
from runtime.progress import progress_bar

CACHE_DIR = Path("cache")
VERSION = 2  # part of every key: raise it when the same file gives other pixels


class ResizedImages:
    """uint8 arrays (height, width, 3) of image files, asked for by path.

    Without a cache an image is decoded each time; with one it is a read-only part of `cache`, an
    array (N, height, width, 3) in memory or in a mapped file.
    """

    def __init__(self, paths, load, cache=None):
        self.load = load  # path -> uint8 (height, width, 3)
        self.cache = cache
        self.rows = {} if cache is None else {path: row for row, path in enumerate(paths)}

    def __getitem__(self, path):
        return self.load(path) if self.cache is None else self.cache[self.rows[path]]


def open_images(paths, load, size, place="none", num_threads=1):
    """`ResizedImages` of `paths`; with `place` "ram" or "disk" all are decoded at once.

    A cache on the disk is found again by the files' names, sizes and times, by the size in pixels
    and by the versions that decode and resize, so it is exact or it is made again. Of several
    processes, which must all come here, the first makes it.

    Args:
        load: function from a path to a uint8 array (height, width, 3), the same each time.
        size: (height, width) in pixels.
        num_threads: images decoded at a time.

    Raises OSError where an image cannot be read or there is no room for the cache.
    """
    paths = list(paths)
    if place == "none":
        return ResizedImages(paths, load)
    make = _cache_in_memory if place == "ram" else _cache_on_disk
    return ResizedImages(paths, load, make(paths, load, (len(paths), *size, 3), num_threads))


# ---------------------------------------------------------------- in memory
def _cache_in_memory(paths, load, shape, num_threads):
    _require_room("memory", _free_memory(), shape, "--cache disk")
    images = np.empty(shape, np.uint8)
    _decode_all(paths, load, images, num_threads)
    return images


def _free_memory():
    """Bytes that are free without swapping, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))


# ---------------------------------------------------------------- on the disk
def cache_path(paths, size):
    """The cache file of these image files in this size (height, width).

    Its name begins with what stays the same when an image file changes: the folder and the size.
    """
    folder = Path(os.path.commonpath([path.resolve().parent for path in paths]))
    place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    files = []
    for path in paths:
        stat = path.stat()
        relative = path.resolve().relative_to(folder).as_posix()
        files.append((relative, stat.st_size, stat.st_mtime_ns))
    key = json.dumps([VERSION, PIL.__version__, torch.__version__, "bicubic", *size, files])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return CACHE_DIR / f"{folder.name}-{place}-{size[0]}x{size[1]}-{digest}.npy"


def _cache_on_disk(paths, load, shape, num_threads):
    path = cache_path(paths, shape[1:3])
    with main_process_first():
        if not _is_whole(path, shape):
            _write_cache(path, paths, load, shape, num_threads)
    return np.load(path, mmap_mode="r")


def _is_whole(path, shape):
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):  # absent, or damaged by another program
        return False


def _write_cache(path, paths, load, shape, num_threads):
    """Decode into a partial file that only this process writes; move it into place when complete.

    A killed run leaves a partial file that is never read. Two runs at once write a file each with
    the same bytes, and the later one replaces the earlier one.
    """
    path.parent.mkdir(exist_ok=True)
    _remove_outdated(path)
    _require_room(
        f"disk space for {path.parent}/", shutil.disk_usage(path.parent).free, shape, "--cache ram"
    )
    with replacing(path, lambda: int(np.prod(shape, dtype=np.int64))) as partial:
        images = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        _reserve(partial)
        _decode_all(paths, load, images, num_threads)
        images.flush()
        del images  # Windows moves no file that is mapped


def _reserve(path):
    """Take the room on the disk of a file full of holes: to write where none is ends the process.

    OSError where there is no room. Some systems, and some file systems, cannot do it.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise


def _remove_outdated(path):
    """Remove earlier caches of the same folder and size, and abandoned half-built ones."""
    kept = path.name.rsplit("-", 1)[0]
    remove_partials(path.parent, "*.npy", unused=A_DAY)
    for old in [old for old in path.parent.glob(f"{kept}-*.npy") if old != path]:
        with contextlib.suppress(OSError):  # Windows keeps a file that another run has mapped
            old.unlink()


# ---------------------------------------------------------------- in memory and on the disk
def _require_room(what, free, shape, instead):
    need = int(np.prod(shape, dtype=np.int64))
    if free is not None and need > free:
        raise OSError(
            f"{shape[0]} images of {shape[1]} x {shape[2]} pixels need {need / 2**30:.1f} GiB of "
            f"{what}, {free / 2**30:.1f} GiB are free: use {instead}, a smaller --h and --w, or "
            "no cache"
        )


def _decode_all(paths, load, images, num_threads):
    """Fill images (N, height, width, 3) by threads: decoding and resizing run outside the lock."""

    def decode(row):
        images[row] = load(paths[row])

    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        try:
            for _ in progress_bar(pool.map(decode, range(len(paths))), "caching", len(paths)):
                pass
        except BaseException:  # do not decode the rest after an unreadable file or Ctrl-C
            pool.shutdown(cancel_futures=True)
            raise


# ---------------------------------------------------------------- resizing
def as_tensor(image):
    """uint8 (H, W, 3) array -> tensor (3, H, W) that shares its memory, channels last."""
    return torch.from_numpy(image).permute(2, 0, 1)


def resize_bicubic(image, height, width):
    """The published resize, straight to (height, width), bicubic with antialiasing.

    uint8 (H, W, 3) -> uint8 (height, width, 3). Within one level of Pillow, in half the time.
    """
    resized = image_ops.resize(
        as_tensor(image), [height, width], v2.InterpolationMode.BICUBIC, antialias=True
    )
    return resized.permute(1, 2, 0).contiguous().numpy()


def load_resized(path, height, width, change=None):
    """Decode and resize an image file: uint8 (height, width, 3).

    `change(image, path)` comes before the resize: uint8 (H, W, 3) -> the same shape and dtype.
    """
    image = read_image(path)
    if change is not None:
        image = change(image, path)
    return resize_bicubic(image, height, width)


def open_view(paths, height, width, cache="none", num_workers=1, change=None):
    """`cache.ResizedImages` of a view's files; `cache` is "none", "ram" or "disk".

    With a `change` (see `load_resized`) it must be "none": a cache does not know of changes.
    """
    load = functools.partial(load_resized, height=height, width=width, change=change)
    return open_images(paths, load, (height, width), cache, num_workers)
