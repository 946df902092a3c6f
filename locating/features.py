"""Features of photos and of a map's tiles by a run; a map's are computed once and kept beside it.

<map>/features/<run>-<tiles>.npy, float32 (M, D). <run> is a digest of the run's weights and options
and of how features are computed, <tiles> one of the tiles' names, sizes and times: features of
other weights, or of a map that has changed, are not found by it. Once there are new ones of a
changed map, those of the old tiles are removed, with what was made of them (index, calibration).
Features of --zero_shot are centred in the file, which has the mean as its last row, (M + 1, D).
"""

import hashlib
import os
import threading
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from deploy import onnx_network
from evaluation.map_folder import TABLE
from imaging.files import Unreadable
from imaging.pixels import decode_file, resize_pillow
from locating.photos import Damaged
from runtime import startup
from runtime.files import A_DAY, remove_partials, replacing

VERSION = 1  # of the features: raised when the same weights and tiles give others
BLOCK = 2**16  # tiles whose features are held in memory until they are written


class Source(NamedTuple):
    """What gives features of images: a run, a pretrained network, or exported files."""

    size: tuple  # (height, width) of the images in pixels
    resize: Any  # (uint8 (H, W, 3), height, width) -> uint8 (height, width, 3)
    features: Any  # (view, keys, images, description) -> float32 (N, D), see `TurnedImages`
    centring: Any  # as `zero_shot.ViewMeans`
    identity: tuple  # (bytes of the weights, settings) on which features depend, for `kept_file`
    read_words: Any = None  # (keys, texts) -> imaging.texts.TokenizedTexts


class Uncentred:
    """As `zero_shot.ViewMeans`, where features stay as they are."""

    def gallery(self, features, view):
        return None

    def queries(self, features, *about):
        return features


def open_exported(opts):
    """The `Source` of the exported files that --name lists: neither torch nor torchvision."""
    network = onnx_network.open_files(opts.name, opts.device, opts.view, opts.map_view)
    batches = {"batch_size": opts.batchsize, "num_workers": opts.num_workers}

    def features(view, keys, images, description):
        return network.extract(view, keys, images, **batches, description=description)

    identity = network.digest(), (VERSION, opts.map_view)
    return Source(network.size, resize_pillow, features, Uncentred(), identity)


def open_source(opts):
    """The `Source` that the options of locate.py name."""
    if onnx_network.onnx_files(opts.name):
        return open_exported(opts)
    startup.import_torch()
    from locating.run_features import open_run

    return open_run(opts)


def extract(opts, photos, table, keep):
    """(features (M, D) of the tiles of a `MapFolder`, (T, N, D) of photos, the kept file, damage).

    `opts` are those of locate.py; the photos are turned in `opts.turns` ways. With `keep` the map's
    features are kept, found again, and mapped; else the third is None. The fourth is {photo:
    `Damaged`} of photos that cannot be decoded, whose features mean nothing. Raises ValueError
    where the run does not know a view, `Damaged` for a tile.
    """
    source = open_source(opts)

    def of_tiles(paths):
        keys, images = [(path, 0) for path in paths], TurnedImages(source.size, source.resize)
        return source.features(opts.map_view, keys, images, "map")

    path, centre = None, partial(source.centring.gallery, view=opts.map_view)
    if keep:
        path = kept_file(table, *source.identity)
        tiles, mean = _kept(path, table.paths, of_tiles, centre if opts.zero_shot else None)
    else:
        tiles = of_tiles(table.paths)
        mean = centre(tiles)
    damage = {}
    keys = [(photo, 4 // opts.turns * i) for photo in photos for i in range(opts.turns)]
    images = TurnedImages(source.size, source.resize, damage)
    if opts.text:
        images = source.read_words(keys, photos)
    found = source.features(opts.view, keys, images, "photos")  # (N T, D)
    whole = np.array([photo not in damage for photo, _ in keys])
    counts = whole.sum() // opts.turns, len(tiles)
    names = "photos", "tiles"
    found[whole] = source.centring.queries(found[whole], opts.view, mean, names, counts)
    found = found.reshape(len(photos), opts.turns, -1).swapaxes(0, 1)
    return tiles, np.ascontiguousarray(found), path, damage


class TurnedImages:
    """uint8 (height, width, 3) of (path, quarters of a circle to the left), decoded when asked for.

    `size` is (height, width), `resize` as in `Source`. A thread decodes a file once for all turns
    that follow one another. What cannot be decoded is black and gets into the dict `damage`, {path:
    `Damaged`}; without one it is raised.
    """

    def __init__(self, size, resize, damage=None):
        self.size, self.resize, self.damage = size, resize, damage
        self.last = threading.local()

    def __getitem__(self, key):
        path, quarters = key
        if getattr(self.last, "path", None) != path:
            self.last.path, self.last.image = None, self._decode(path)
            self.last.path = path
        return self.resize(np.ascontiguousarray(np.rot90(self.last.image, quarters)), *self.size)

    def _decode(self, path):
        try:
            return decode_file(path)[0]
        except Unreadable as fault:
            found = Damaged.by(fault, path)
            if self.damage is None:
                raise found from None
            self.damage[path] = found
            return np.zeros((*self.size, 3), np.uint8)


# ---------------------------------------------------------------- kept features
def kept_file(table, weights, settings):
    """Where the features of a `MapFolder` are kept, by the bytes of the weights and settings."""
    run, tiles = hashlib.sha256(weights), hashlib.sha256()
    run.update(repr(settings).encode())
    for path in table.paths:
        try:
            about = path.stat()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{table.folder / TABLE} lists {path}, which is not there: remove that table and "
                "run `prepare.py tiles` again, which cuts what is missing"
            ) from None
        name = os.path.relpath(path, table.folder)
        tiles.update(f"{name!r} {about.st_size} {about.st_mtime_ns}\n".encode())
    name = f"{run.hexdigest()[:16]}-{tiles.hexdigest()[:16]}.npy"
    return table.folder / "features" / name


def _kept(path, paths, features, centre):
    """The features of tiles in the file `path`, mapped, and the mean that was taken from them.

    They are made where there are none. With `centre` the file has the mean as one more row.
    """
    rows = len(paths) + (centre is not None)
    found = _find(path, rows)
    if found is None:
        remove_partials(path.parent, "*", unused=A_DAY)
        _write(path, paths, features, centre)
        found = _find(path, rows)  # before another search, of the map as it was, may remove it
        _remove_old(path)
    if centre is None:
        return found, None
    return found[:-1], np.array(found[-1]) if found[-1].any() else None


def _write(path, paths, features, centre):
    """Write the features of tiles as .npy, a block at a time; with `centre` then a row for it."""
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            for start in range(0, len(paths), BLOCK):
                block = features(paths[start : start + BLOCK])
                if start == 0:
                    header = {"descr": "<f4", "fortran_order": False}
                    header["shape"] = (len(paths) + (centre is not None), block.shape[1])
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(block, "<f4"))
            if centre:
                file.write(np.zeros_like(block[0], "<f4"))
        if centre:
            written = np.load(temporary, mmap_mode="r+")
            mean = centre(written[:-1])
            if mean is not None:
                written[-1] = mean
            written.flush()


def _find(path, count):
    """The array of so many rows in a file, mapped; None where there is none."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise OSError(f"{path} cannot be read ({error}): remove it") from None
    if found.ndim != 2 or len(found) != count:
        raise OSError(f"{path} holds an array {found.shape}, expected {count} rows: remove it")
    return found


def _remove_old(path):
    """Remove what is left of the map as it was before, of any run: no search finds it again."""
    tiles = path.stem.partition("-")[2]
    for other in path.parent.glob(f"{'[0-9a-f]' * 16}-{'[0-9a-f]' * 16}*"):
        if other.name[17:33] != tiles:
            with suppress(OSError):  # another search has it open, on Windows
                other.unlink()
