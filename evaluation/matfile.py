"""Numbers of a MATLAB 5 file as maps of the file: no copy, and no SciPy to import.

With scipy.io instead, which reads whatever this refuses, `python evaluate_gpu.py` on features of
University-1652 takes a quarter to a third longer: 0.17 s to import it, up to 0.07 s to read.
Source of the format: MathWorks, MAT-File Format (matfile_format.pdf), chapter 1, level 5.
"""

import struct

import numpy as np

HEADER, TAG = 128, 8  # bytes; every element begins at a multiple of 8 bytes from its parent's first
LITTLE_ENDIAN_5 = b"\x00\x01IM"  # version and byte order, the last four bytes of the header
INT8, INT32, UINT32, MATRIX = 1, 5, 6, 14
STORED = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", INT32: "<i4", UINT32: "<u4", 7: "<f4", 9: "<f8",
          12: "<i8", 13: "<u8"}  # fmt: skip
NUMERIC = range(6, 16)  # classes: double, single, int8 to uint64
COMPLEX = 0x800


def map_arrays(path, names):
    """{name: array} of those of `names` that the file holds, as read-only maps of it.

    For an uncompressed little-endian file, such as scipy.io.savemat writes. Arrays are real, in
    Fortran order, and of the shape and type that loadmat gives: the type they are stored in.
    Raises ValueError for a damaged file, another kind of file, or where one of `names` is no real
    numeric array: loadmat may be able to read it. Other variables are not looked into.
    """
    file = np.asarray(np.memmap(path, np.uint8, "r"))
    # A zero among the first four bytes means MATLAB 4, whatever follows.
    if 0 in file[:4] or file[HEADER - 4 : HEADER].tobytes() != LITTLE_ENDIAN_5:
        raise ValueError(f"{path} is no little-endian MATLAB 5 file")
    arrays, rest = {}, file[HEADER:]
    while len(rest):
        matrix, rest = _element(rest, {MATRIX})[1:]
        flags, body = _element(matrix, {UINT32})[1:]
        shape, body = _element(body, {INT32})[1:]
        name, body = _element(body, {INT8})[1:]
        name = name.tobytes().decode("latin-1")
        if name in names:
            kind, numbers, _ = _element(body, STORED)
            array = numbers.view(STORED[kind]).reshape(shape.view("<u4"), order="F")
            flags, _ = flags.view("<u4").tolist()
            if flags & 0xFF not in NUMERIC or flags & COMPLEX or not array.flags.aligned:
                raise ValueError(f"{path}: {name} is no real numeric array")
            arrays[name] = array
    return arrays


def _element(data, kinds):
    """The first element of `data` (bytes), one of `kinds`: its kind, its bytes, and what follows.

    A tag is two 32-bit numbers, kind and size; where the upper half of the first is not 0, that
    half is the size, and up to four bytes lie in the tag itself.
    """
    if len(data) < TAG:
        raise ValueError("an element ends before its tag does")
    kind, size = struct.unpack("<II", data[:TAG])
    start, limit = TAG, len(data) - TAG
    if kind >> 16:
        kind, size, start, limit = kind & 0xFFFF, kind >> 16, TAG // 2, TAG // 2
    if kind not in kinds or size > limit:
        raise ValueError(f"{size} bytes of kind {kind} where {limit} of {sorted(kinds)} can be")
    stop = start + size
    # Whole matrices count their padding; a compressed one would have none.
    return kind, data[start:stop], data[stop + -stop % TAG :]
