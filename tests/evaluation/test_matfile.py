"""Maps of MATLAB files against scipy.io.loadmat, and refusals of all it does not know."""

import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import coo_matrix

from evaluation.matfile import map_arrays


def assert_equal_to_loadmat(path, names):
    mapped, loaded = map_arrays(path, names), loadmat(path)
    assert set(mapped) == set(names) & set(loaded)
    for name, array in mapped.items():
        assert array.dtype == loaded[name].dtype and array.shape == loaded[name].shape
        assert array.flags.f_contiguous and not array.flags.writeable
        np.testing.assert_array_equal(array, loaded[name])
    return mapped


SHAPES = [(1, 1), (1, 3), (3, 1), (5, 7), (2, 3, 4), (0, 4), (1, 0)]


@pytest.mark.parametrize("dtype", [*np.typecodes["AllInteger"], "f", "d", "?"])
def test_equal_to_loadmat(tmp_path, dtype):
    """Up to four bytes lie in the tag itself, of a name as of numbers."""
    content = {
        f"{name}{'x' * place}": np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        for place, shape in enumerate(SHAPES)
        for name in "ab"
    }
    savemat(tmp_path / "f.mat", content)
    assert len(assert_equal_to_loadmat(tmp_path / "f.mat", set(content))) == 2 * len(SHAPES)
    assert list(map_arrays(tmp_path / "f.mat", ("bxx", "none"))) == ["bxx"]


OTHERS = {
    "text": "some text",
    "texts": ["one", "three"],
    "cell": np.array([1, "two"], dtype=object),
    "record": {"inner": np.eye(3)},
    "sparse": coo_matrix(np.eye(3)),
    "imaginary": np.eye(3) * 1j,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_real_array_is_passed_over_or_refused(tmp_path, name):
    path = tmp_path / "f.mat"
    savemat(path, {"first": np.eye(2), name: OTHERS[name], "last": np.eye(3)})
    assert len(assert_equal_to_loadmat(path, ("first", "last"))) == 2
    with pytest.raises(ValueError):
        map_arrays(path, ("first", name))


@pytest.mark.parametrize("options", [{"do_compression": True}, {"format": "4"}])
def test_other_kinds_of_file_are_refused(tmp_path, options):
    savemat(tmp_path / "f.mat", {"a": np.eye(9)}, **options)
    with pytest.raises(ValueError):
        map_arrays(tmp_path / "f.mat", ("a",))


def matlab_file(order="<", flags=6, stored=(2, b"\1\2\3\4\5\6"), shape=(2, 3)):
    """A file by the specification: `a`, by default doubles that MATLAB stores in bytes."""

    def element(kind, data):
        return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)

    parts = (6, struct.pack(f"{order}II", flags, 0)), (5, struct.pack(f"{order}2I", *shape))
    matrix = b"".join(element(*part) for part in (*parts, (1, b"a"), stored))
    version = struct.pack(f"{order}HH", 0x100, 0x4D49)  # "MI" in the writer's byte order
    return b"MATLAB 5.0 MAT-file".ljust(124) + version + element(14, matrix)


def test_doubles_stored_in_bytes_are_read_as_loadmat_does(tmp_path):
    (tmp_path / "f.mat").write_bytes(matlab_file())
    array = assert_equal_to_loadmat(tmp_path / "f.mat", ("a",))["a"]
    assert array.tolist() == [[1, 3, 5], [2, 4, 6]]


@pytest.mark.parametrize(
    "changes",
    [
        {"order": ">"},
        {"flags": 4},  # text
        {"stored": (16, b"\1\2\3\4\5\6")},  # UTF-8
        {"stored": (3, b"\1\2\3\4\5\6")},  # three numbers of two bytes
        {"stored": (9, b"\1\2\3\4\5\6")},  # no whole number of eight bytes
        {"shape": (2**32 - 1, 3)},  # -1, which NumPy would make fit
        {"shape": (2**31, 2**31)},
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes):
    (tmp_path / "f.mat").write_bytes(matlab_file(**changes))
    with pytest.raises(ValueError):
        map_arrays(tmp_path / "f.mat", ("a",))


@pytest.mark.parametrize("mask", [0x01, 0x10, 0x80, 0xFF])
def test_any_wrong_byte_is_refused_or_read_as_loadmat_does(tmp_path, mask):
    path = tmp_path / "f.mat"
    savemat(path, {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "longer": np.array([[7.0]])})
    content = path.read_bytes()
    names = {"a", "longer"}
    count = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :])
        try:
            found = set(map_arrays(path, names))
        except ValueError:
            continue
        if found == names:  # else a name is wrong
            assert_equal_to_loadmat(path, names)
            count += 1
    assert count > 100  # the text of the header, and the numbers
