"""The feature file: query and gallery features with their labels and paths, as .mat or .npz.

$ python test.py --name two_view          # writes pytorch_result.mat
$ python evaluate_gpu.py pytorch_result.mat   # reads it
"""

import glob
import math
import struct
import sys
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.matfile import map_arrays
from runtime.files import kind_of, replacing

FEATURE_FILE = "pytorch_result.mat"  # where no other is named
JUNK = -1  # label of gallery images that are neither right nor wrong
NEEDED = ("query_f", "query_label", "gallery_f", "gallery_label")
CAMERAS = ("query_cam", "gallery_cam")
PATHS = ("query_path", "gallery_path")
VARIABLES = NEEDED + CAMERAS + PATHS  # features first
MAT_LIMIT = 2**32  # bytes of one array that the MATLAB 5 format can count
ALWAYS_READ = 2**26  # bytes that a packed variable may always have
PACKING_LIMIT = 200  # times that features may be packed; noise is hardly, zeros are a thousand
LONGEST_PATH = 4096  # letters
ALIGNMENT = 64  # bytes; the header of a .npy is a multiple of it too


class Features(NamedTuple):
    """Features of one set of images, query or gallery."""

    features: np.ndarray  # (N, D) float32, rows of norm 1
    labels: np.ndarray  # (N,) int64, JUNK = -1
    paths: list[str]  # N image files, "" where unknown
    cameras: np.ndarray | None = None  # (N,) int64, only for data with a same-camera rule


def save_features(path, query, gallery):
    """Write two `Features` to `path`, whose suffix (.mat or .npz) chooses the format.

    The variables are those of University1652-Baseline's test.py: query_f (Nq, D), query_label
    (1, Nq), query_path, and the same for gallery_; query_cam and gallery_cam (1, N) only where
    `cameras` is given. Raises ValueError where the two sets do not fit (see `check_features`).
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".mat", ".npz"}:
        raise ValueError(f"{path} cannot be a feature file: its name must end in .mat or .npz")
    largest = max(query.features.nbytes, gallery.features.nbytes)
    if suffix == ".mat" and largest >= MAT_LIMIT:
        raise ValueError(
            f"{path}: {largest / 2**30:.1f} GiB of features, a .mat holds less than "
            f"{MAT_LIMIT / 2**30:.0f} GiB an array: save as .npz"
        )
    if suffix == ".mat":
        _check_text([*query.paths, *gallery.paths], path)
    check_features(query, gallery, path)
    arrays = {**_arrays("query", query), **_arrays("gallery", gallery)}
    with replacing(path, lambda: sum(array.nbytes for array in arrays.values())) as temporary:
        if suffix == ".npz":
            _write_npz(temporary, arrays)
        else:
            from scipy.io import savemat

            savemat(temporary, arrays, appendmat=False)


def _check_text(names, path):
    """ValueError for a name whose bytes are no UTF-8: Python can keep them, a .mat cannot."""
    try:
        "".join(map(str, names)).encode()
    except UnicodeEncodeError as error:
        name = next(each for each in map(str, names) if error.object[error.start] in each)
        raise ValueError(
            f"{path}: {name} is not UTF-8, which a .mat cannot hold: save as .npz, or rename it"
        ) from None


def _arrays(name, side):
    arrays = {
        f"{name}_f": np.asarray(side.features, dtype=np.float32),
        f"{name}_label": np.asarray(side.labels, dtype=np.int64)[np.newaxis],  # (1, N)
        f"{name}_path": np.array([str(path) for path in side.paths]),
    }
    if side.cameras is not None:
        arrays[f"{name}_cam"] = np.asarray(side.cameras, dtype=np.int64)[np.newaxis]
    return arrays


def _write_npz(path, arrays):
    """Write {name: array} as `np.savez` does, but each array where it can be used by a map."""
    with open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with npz_member(file, archive, name) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


@contextmanager
def npz_member(file, archive, name):
    """Yield a stream that writes the array `name` of an .npz: a .npy header, then its bytes.

    `archive` is a ZipFile that writes to the open `file`. The member is stored uncompressed, from
    a multiple of 64 bytes on: `np.savez` leaves numbers at odd addresses, and the matrix product
    of a memory map would first copy all of it. The gap is the extra field 0xD935, zipalign's.
    """
    info = zipfile.ZipInfo(f"{name}.npy")
    fixed = 30 + len(info.filename) + 6 + 20  # zip header, name, head of the field, 64-bit sizes
    gap = -(file.tell() + fixed) % ALIGNMENT
    info.extra = struct.pack("<HHH", 0xD935, 2 + gap, ALIGNMENT) + bytes(gap)
    with archive.open(info, "w", force_zip64=True) as member:
        yield member


def variants_of(path):
    """Feature files beside `path` under a longer name, as of `test.py --all`, the newest first."""
    path = Path(path)
    found = path.parent.glob(f"{glob.escape(path.stem)}_*{path.suffix}")
    return sorted(found, key=lambda each: each.stat().st_mtime_ns, reverse=True)


def warn_of_newer(path):
    """Print a warning where `path`, which nobody named, is older than the newest test's files."""
    newest = next(iter(variants_of(path)), None)
    if newest and Path(path).is_file() and newest.stat().st_mtime > Path(path).stat().st_mtime:
        text = f"{path} is older than {newest}, which a later test wrote: is it the one you mean?"
        print(f"warning: {text}", file=sys.stderr)


def load_features(path, paths=True):
    """Read a feature file: (query, gallery), two `Features`; without `paths`, those are all "".

    Takes what `save_features` and the published test.py write: labels (1, N) or (N, 1) of any
    whole-number dtype, paths padded with spaces or absent, cameras optional. Rows are returned as
    stored, whatever their norm. Features of an uncompressed .npz, and of an uncompressed .mat where
    no paths are asked for, are a read-only map of the file, which may be replaced meanwhile but not
    rewritten in place. Raises FileNotFoundError or ValueError, in one line, for a file that is
    missing, damaged, incomplete or inconsistent.
    """
    path = Path(path)
    if not path.is_file():
        others = ", ".join(map(str, variants_of(path)))
        raise FileNotFoundError(
            f"{path} not found: run `python test.py` first, which writes the feature file, "
            f"or name another one{others and f' ({others})'}"
        )
    arrays = _read_arrays(path, () if paths else PATHS)
    missing = [key for key in NEEDED if key not in arrays]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}: found {', '.join(sorted(arrays)) or 'nothing'}, "
            f"expected {', '.join(NEEDED)}; write it again with `python test.py`"
        )
    query, gallery = _side(arrays, "query", path), _side(arrays, "gallery", path)
    check_features(query, gallery, path)
    return query, gallery


def _read_arrays(path, unread):
    """All variables of a file as {name: array}, with None for the names that need not be read."""
    read = _read_npz if path.suffix.lower() == ".npz" else _read_mat
    try:
        return read(path, unread)
    except ImportError:
        raise
    except Exception as error:  # damaged bytes lead the two readers into errors of any type
        reason = " ".join(str(error).split()) or type(error).__name__
        kind, fitting = kind_of(path), "a zip" if read is _read_npz else "a .mat file"
        if kind and not kind.startswith(fitting):
            reason = f"it is {kind}"
        raise ValueError(
            f"{path} cannot be read as a feature file ({reason}): expected a .mat or .npz "
            f"written by `python test.py`"
        ) from error


def _read_npz(path, unread):
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = {name: members[name] for name in VARIABLES if name in members}
        _check_sizes(archive, wanted)
        arrays = dict.fromkeys(members)
        for name in wanted.keys() - set(unread):
            arrays[name] = _read_member(path, archive, wanted[name])
        return arrays


def _check_sizes(archive, members):
    """ValueError where a member holds less than its header claims, or unpacks beyond its share.

    Of features that is PACKING_LIMIT times their packed bytes, of what else there is a value, or a
    path of LONGEST_PATH letters, for each row.
    """
    rows = {}
    for name, info in members.items():
        side, what = name.split("_")
        shape, dtype = _read_head(archive, info)
        if what == "f":
            rows[side] = shape[0] if shape else 0
        share = rows.get(side, 0) * (4 * LONGEST_PATH if what == "path" else 16)
        if what == "f":
            share = PACKING_LIMIT * info.compress_size
        if info.file_size > max(share, ALWAYS_READ):
            raise ValueError(f"{name} would unpack to {info.file_size:,} bytes, which is no {what}")
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"{name} claims to be {shape}, and has {info.file_size:,} bytes")


def _read_head(archive, info):
    """Shape and dtype that the head of an .npz's member gives."""
    with archive.open(info) as member:
        version, _ = np.lib.format.read_magic(member)
        # The heads of version 3 are those of 2 with other text, of structures' names.
        name = f"read_array_header_{min(version, 2)}_0"
        shape, _, dtype = getattr(np.lib.format, name)(member)
    return shape, dtype


def _read_member(path, archive, info):
    """One array of an .npz: a map of the file where it can be used in place, else read."""
    with archive.open(info) as member:
        version, _ = np.lib.format.read_magic(member)
        read_header = getattr(np.lib.format, f"read_array_header_{version}_0", None)
        if read_header and info.compress_type == zipfile.ZIP_STORED:
            shape, fortran_order, dtype = read_header(member)
            start = _member_start(path, info) + member.tell()
            # Text and labels are copied anyway, and unaligned numbers by every matrix product.
            if dtype.kind == "f" and start % dtype.alignment == 0 and 0 not in shape:
                order = "F" if fortran_order else "C"
                return np.asarray(np.memmap(path, dtype, "r", start, shape, order))
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _member_start(path, info):
    """Offset in the file of a zip member's first byte, which only its local header tells."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        name_length, extra_length = struct.unpack("<26xHH", file.read(30))
    return info.header_offset + 30 + name_length + extra_length


def _read_mat(path, unread):
    if set(PATHS) <= set(unread):  # text is left to SciPy
        with suppress(ValueError, OSError):
            arrays = map_arrays(path, NEEDED + CAMERAS)
            if set(NEEDED) <= set(arrays):
                return arrays
    from scipy.io import loadmat, whosmat

    arrays = dict.fromkeys(name for name, *_ in whosmat(path, appendmat=False))
    wanted = [name for name in VARIABLES if name in arrays]
    loaded = loadmat(path, appendmat=False, variable_names=wanted)
    for name in wanted:
        if not isinstance(loaded[name], np.ndarray):
            raise ValueError(f"{name} is a {type(loaded[name]).__name__}, expected a full matrix")
        arrays[name] = None if name in unread else loaded[name]
    return arrays


def _side(arrays, name, path):
    """The `Features` called `name` (query or gallery) among the variables of a file."""
    features = arrays[f"{name}_f"]
    if features.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {name}_f is of type {features.dtype}, expected real numbers")
    paths = arrays.get(f"{name}_path")
    if paths is None or paths.size == 0:  # a .mat keeps no array of empty strings
        paths = [""] * (features.shape[0] if features.ndim else 0)
    elif paths.dtype.kind != "U":
        raise ValueError(f"{path}: {name}_path is of type {paths.dtype}, expected text")
    else:
        paths = [text.rstrip(" ") for text in paths.reshape(-1).tolist()]
    with np.errstate(over="ignore"):  # infinity is refused later
        features = np.asarray(features, dtype=np.float32)
    return Features(
        features=features,
        labels=_whole_numbers(arrays[f"{name}_label"], f"{name}_label", path),
        paths=paths,
        cameras=_whole_numbers(arrays.get(f"{name}_cam"), f"{name}_cam", path),
    )


def _whole_numbers(values, name, path):
    """A (1, N), (N, 1) or (N,) array of any real dtype as (N,) int64; None stays None."""
    if values is None:
        return None
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{path}: {name} is of type {values.dtype}, expected whole numbers")
    values = values.reshape(-1)
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.rint(values))).all():
        raise ValueError(f"{path}: {name} holds numbers that are not whole, expected labels")
    # Beyond this, neighbours are one number in floating point, and others turn negative.
    largest = 2**63 - 1
    if values.dtype.kind == "f":
        largest = min(largest, 2 ** (np.finfo(values.dtype).nmant + 1))
    if values.size and max(abs(values.min().item()), abs(values.max().item())) > largest:
        raise ValueError(f"{path}: {name} holds numbers beyond {largest:,}: number labels from 0")
    return values.astype(np.int64)


def check_features(query, gallery, source="features"):
    """Raise ValueError, naming `source`, where two `Features` cannot be compared or hold NaN."""
    for name, side in (("query", query), ("gallery", gallery)):
        shape = side.features.shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"{source}: the {name} features have shape {shape}, expected (N, D) with N >= 1 "
                f"images: was a folder of images empty?"
            )
        for what in ("labels", "paths", "cameras"):
            values = getattr(side, what)
            if values is not None and len(values) != shape[0]:
                raise ValueError(
                    f"{source}: {len(values)} {name} {what} for {shape[0]} {name} features, "
                    f"expected one each"
                )
        if not is_finite(side.features):
            count = shape[0] - np.count_nonzero(np.isfinite(side.features).all(axis=1))
            raise ValueError(
                f"{source}: {count} of {shape[0]} {name} features hold NaN or infinity: "
                f"did training diverge? Extract again with an earlier --which_epoch or in fp32"
            )
    if query.features.shape[1] != gallery.features.shape[1]:
        raise ValueError(
            f"{source}: query features are {query.features.shape[1]}-d and gallery features "
            f"{gallery.features.shape[1]}-d: extract both with the same network and --pool"
        )


def is_finite(features):
    """Whether features (N, D) hold neither NaN nor infinity."""
    # The extremes pass NaN on: two readings, where isfinite of all would need a copy of bools.
    return np.isfinite([features.min(), features.max()]).all()


def need_finite(features, description):
    """Raise ValueError where features (N, D) that a network has just given are not finite."""
    if not is_finite(features):
        raise ValueError(
            f"{description}: features hold NaN or infinity: the weights are damaged, their "
            "training diverged, or 16 bits are too few for them"
        )


def of_norm_1(features):
    """Rows (N, D) divided by their norms; a row of zeros stays."""
    norms = np.sqrt(np.einsum("nd,nd->n", features, features))[:, np.newaxis]
    return features / np.maximum(norms, np.finfo(features.dtype).tiny)
