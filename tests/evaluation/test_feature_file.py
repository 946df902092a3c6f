"""The feature file: round trips, the published layout, and one clear line for each bad file."""

import math
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from scipy import sparse
from scipy.io import loadmat, savemat

from evaluation.feature_file import (
    MAT_LIMIT,
    Features,
    check_features,
    load_features,
    save_features,
)


def make(labels, dim=4, seed=0, cameras=None):
    """Features of unit norm with paths of unequal length."""
    features = np.random.default_rng(seed).standard_normal((len(labels), dim)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    paths = [f"test/view/{label}/{'x' * place}.jpg" for place, label in enumerate(labels)]
    return Features(features, np.array(labels, dtype=np.int64), paths, cameras)


def variables(**changes):
    """What the published test.py hands to savemat, with some variables changed or None'd out."""
    query, gallery = make([5, 9]), make([9, 5, 5], seed=1)
    published = {
        "gallery_f": gallery.features,
        "gallery_label": [9, 5, 5],
        "gallery_path": gallery.paths,
        "query_f": query.features,
        "query_label": [5, 9],
        "query_path": query.paths,
    }
    return {key: value for key, value in {**published, **changes}.items() if value is not None}


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_round_trip(tmp_path, suffix):
    query = make([3, 1651, 7], cameras=np.array([0, 4, 2]))
    query = query._replace(paths=["a b.jpg", "żółw/建物/é.jpg", "view/0007/\N{HOUSE BUILDING}.png"])
    gallery = make([7, -1], seed=1, cameras=np.array([1, 1]))
    save_features(tmp_path / f"new/result{suffix}", query, gallery)
    for saved, loaded in zip(
        (query, gallery), load_features(tmp_path / f"new/result{suffix}"), strict=True
    ):
        assert loaded.paths == saved.paths
        assert loaded.features.dtype == np.float32 and loaded.labels.dtype == np.int64
        np.testing.assert_array_equal(loaded.features, saved.features)
        np.testing.assert_array_equal(loaded.labels, saved.labels)
        np.testing.assert_array_equal(loaded.cameras, saved.cameras)
    assert [file.name for file in (tmp_path / "new").iterdir()] == [f"result{suffix}"]


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
@pytest.mark.parametrize("path", ["één.jpg", ""])
def test_one_image_a_side(tmp_path, suffix, path):
    one = make([8])._replace(paths=[path])
    save_features(tmp_path / f"one{suffix}", one, one)
    query, gallery = load_features(tmp_path / f"one{suffix}")
    assert query.paths == gallery.paths == [path]
    assert query.labels.tolist() == [8] and query.features.shape == (1, 4)
    assert query.cameras is None


def test_written_layout_is_the_published_one(tmp_path):
    save_features(tmp_path / "result.mat", make([5, 9]), make([9, 5, 5], seed=1))
    written = {k: v for k, v in loadmat(tmp_path / "result.mat").items() if k[0] != "_"}
    assert set(written) == set(variables())
    assert written["query_f"].dtype == np.float32 and written["query_f"].shape == (2, 4)
    assert written["gallery_label"].shape == (1, 3)
    assert written["gallery_label"][0].tolist() == [9, 5, 5]
    # A char array: one string an image, padded to the longest.
    assert written["query_path"].tolist() == ["test/view/5/.jpg ", "test/view/9/x.jpg"]


def test_reads_published_file(tmp_path):
    savemat(tmp_path / "published.mat", variables())
    query, gallery = load_features(tmp_path / "published.mat")
    assert query.labels.tolist() == [5, 9] and gallery.labels.tolist() == [9, 5, 5]
    assert query.paths == ["test/view/5/.jpg", "test/view/9/x.jpg"]
    assert query.cameras is None and gallery.cameras is None
    np.testing.assert_array_equal(gallery.features, make([9, 5, 5], seed=1).features)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
@pytest.mark.parametrize("shape", [(1, 3), (3, 1)])
def test_reads_labels_of_any_type_and_orientation(tmp_path, dtype, shape):
    labels = np.array([9, 5, 5], dtype=dtype).reshape(shape)
    savemat(tmp_path / "r.mat", variables(gallery_label=labels, gallery_cam=labels))
    gallery = load_features(tmp_path / "r.mat")[1]
    assert gallery.labels.tolist() == gallery.cameras.tolist() == [9, 5, 5]
    assert gallery.labels.dtype == np.int64


def test_absent_paths_are_empty_and_double_features_become_single(tmp_path):
    doubles = make([9, 5, 5]).features.astype(np.float64)
    savemat(tmp_path / "r.mat", variables(gallery_path=None, query_path=None, gallery_f=doubles))
    query, gallery = load_features(tmp_path / "r.mat")
    assert gallery.features.dtype == np.float32
    save_features(tmp_path / "again.mat", query, gallery)
    for sides in ((query, gallery), load_features(tmp_path / "again.mat")):
        assert [side.paths for side in sides] == [["", ""], ["", "", ""]]


def test_rows_not_of_norm_one_are_kept_as_they_are(tmp_path):
    doubled = make([5, 9])._replace(features=2 * make([5, 9]).features)
    save_features(tmp_path / "r.mat", doubled, make([5]))
    loaded = load_features(tmp_path / "r.mat")[0].features
    np.testing.assert_array_equal(loaded, doubled.features)


NAN_ROWS = np.array([[np.nan, 0, 0, 0], [1, 0, 0, 0], [0, np.inf, np.nan, 0]], dtype=np.float32)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"query_f": None}, ["lacks query_f", "found gallery_f, gallery_label", "test.py"]),
        ({"gallery_label": None, "query_label": None}, ["lacks query_label, gallery_label"]),
        ({"gallery_label": [9, 5]}, ["2 gallery labels for 3 gallery features"]),
        ({"query_path": ["a", "b", "c"]}, ["3 query paths for 2 query features"]),
        ({"query_cam": [[1, 2, 3]]}, ["3 query cameras for 2 query features"]),
        ({"query_f": make([5, 9], dim=6).features}, ["query features are 6-d", "features 4-d"]),
        ({"gallery_f": np.zeros((0, 4)), "gallery_label": [], "gallery_path": None}, ["(0, 4)"]),
        ({"gallery_f": NAN_ROWS}, ["2 of 3 gallery features hold NaN or infinity"]),
        ({"query_label": [5.0, 9.5]}, ["query_label", "not whole"]),
        ({"query_label": [5.0, 1e300]}, ["query_label", "beyond 9,007,199,254,740,992"]),
        ({"gallery_label": np.array([5, 9, 2**64 - 1], np.uint64)}, ["gallery_label", "beyond"]),
        ({"query_cam": np.float32([1, 2**25]), "gallery_cam": [1, 1, 1]}, ["query_cam", "beyond"]),
        ({"query_f": np.full((2, 8), 1e300)}, ["2 of 2 query features hold NaN or infinity"]),
        ({"query_label": ["5", "9"]}, ["query_label", "expected whole numbers"]),
        ({"query_f": make([5, 9]).features * 1j}, ["query_f is of type complex"]),
        ({"query_path": [[1, 2]]}, ["query_path", "expected text"]),
    ],
)
def test_bad_content_is_one_clear_line(tmp_path, changes, words):
    savemat(tmp_path / "bad.mat", variables(**changes))
    with pytest.raises(ValueError) as caught:
        load_features(tmp_path / "bad.mat")
    message = str(caught.value)
    assert "bad.mat" in message and "\n" not in message
    assert [word for word in words if word not in message] == []


def test_names_that_are_no_utf8_go_into_an_npz(tmp_path):
    side = make([1, 2])._replace(paths=["a.jpg", os.fsdecode(b"\xff.jpg")])
    with pytest.raises(ValueError, match=r"f\.mat: .*\.jpg is not UTF-8.*save as \.npz"):
        save_features(tmp_path / "f.mat", side, side)
    assert list(tmp_path.iterdir()) == []
    save_features(tmp_path / "f.npz", side, side)
    assert load_features(tmp_path / "f.npz")[0].paths == side.paths


def test_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.mat not found: run `python test\.py`"):
        load_features(tmp_path / "nothing.mat")


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
def test_damaged_file_is_one_clear_line(tmp_path, suffix, damage):
    path = tmp_path / f"damaged{suffix}"
    save_features(path, make(range(40)), make(range(40)))
    content = {"text": b"not a feature file", "empty": b"", "cut": path.read_bytes()[:700]}
    path.write_bytes(content[damage])
    with pytest.raises(ValueError, match="cannot be read as a feature file") as caught:
        load_features(path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- without paths
@pytest.mark.parametrize("save", [np.savez, savemat, lambda *a: savemat(*a, do_compression=True)])
def test_without_paths_all_else_is_the_same(tmp_path, save):
    path = tmp_path / ("f.npz" if save is np.savez else "f.mat")
    content = variables(query_cam=[[1, 2]], gallery_cam=[[3, 4, 5]])
    save(path, **content) if save is np.savez else save(path, content)
    for full, side in zip(load_features(path), load_features(path, paths=False), strict=True):
        assert side.paths == [""] * len(full.paths) and full.paths[0]
        for place in (0, 1, 3):
            assert side[place].dtype == full[place].dtype
            np.testing.assert_array_equal(side[place], full[place])


@pytest.mark.parametrize(
    "changes",
    [
        {"query_f": None},
        {"query_f": make([5, 9]).features * 1j},
        {"query_label": ["5", "9"]},
        {"query_cam": ["5", "9"]},
        {"gallery_label": [9, 5]},
    ],
)
def test_without_paths_the_error_is_the_same(tmp_path, changes):
    savemat(tmp_path / "bad.mat", variables(**changes))
    messages = []
    for paths in (True, False):
        with pytest.raises(ValueError) as caught:
            load_features(tmp_path / "bad.mat", paths=paths)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_a_file_cut_anywhere_is_one_clear_line(tmp_path, suffix):
    """Never fewer numbers than were written, nor a map that ends beyond its file."""
    path = tmp_path / f"cut{suffix}"
    save_features(path, make([1, 2]), make([2, 3, 4], seed=1))
    content = path.read_bytes()
    for size in range(0, len(content), 3):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="cannot be read|lacks") as caught:
            load_features(path, paths=False)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- memory map
def is_map(array):
    """Does the array lie in a file, be it through a view?"""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("length", range(1, 9))
def test_npz_features_are_mapped_at_aligned_addresses(tmp_path, length):
    """Whatever the sizes of what lies before them: a map at odd addresses would be copied."""
    query, gallery = make(range(length), dim=3), make(range(2 * length), dim=3, seed=1)
    query = query._replace(paths=["x" * length] * length)
    save_features(tmp_path / "f.npz", query, gallery)
    for saved, side in zip((query, gallery), load_features(tmp_path / "f.npz"), strict=True):
        assert is_map(side.features) and not side.features.flags.writeable
        assert side.features.ctypes.data % 64 == 0
        np.testing.assert_array_equal(side.features, saved.features)
    with np.load(tmp_path / "f.npz") as archive:  # an .npz like any other
        np.testing.assert_array_equal(archive["gallery_f"], gallery.features)
        assert archive["gallery_label"].shape == (1, 2 * length)


def test_mat_features_are_mapped_where_no_paths_are_asked_for(tmp_path):
    query, gallery = make(range(5)), make(range(9), seed=1)
    save_features(tmp_path / "f.mat", query, gallery)
    for saved, side in zip(
        (query, gallery), load_features(tmp_path / "f.mat", paths=False), strict=True
    ):
        assert is_map(side.features) and not side.features.flags.writeable
        np.testing.assert_array_equal(side.features, saved.features)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_npz_that_numpy_wrote(tmp_path, save):
    """Compressed members and those at odd addresses are read, with equal result."""
    arrays = {key: np.asarray(value) for key, value in variables().items()}
    arrays["gallery_f"] = np.asfortranarray(arrays["gallery_f"])
    save(tmp_path / "f.npz", **arrays)
    query, gallery = load_features(tmp_path / "f.npz")
    assert gallery.labels.tolist() == [9, 5, 5] and query.paths[1] == "test/view/9/x.jpg"
    assert gallery.features.flags.aligned
    np.testing.assert_array_equal(query.features, variables()["query_f"])
    np.testing.assert_array_equal(gallery.features, variables()["gallery_f"])


def test_fortran_order_survives_the_map(tmp_path):
    side = make(range(5))
    side = side._replace(features=np.asfortranarray(side.features))
    save_features(tmp_path / "f.npz", side, side)
    loaded = load_features(tmp_path / "f.npz")[0].features
    assert is_map(loaded) and loaded.flags.f_contiguous
    np.testing.assert_array_equal(loaded, side.features)


def test_a_mapped_file_can_be_replaced(tmp_path):
    path = tmp_path / "f.npz"
    save_features(path, make([1, 2]), make([3]))
    before = load_features(path)[0].features
    save_features(path, make([1, 2], seed=5), make([3]))
    np.testing.assert_array_equal(before, make([1, 2]).features)
    np.testing.assert_array_equal(load_features(path)[0].features, make([1, 2], seed=5).features)


@pytest.mark.parametrize("start", [0, 40, 70])
def test_npz_with_wrong_bytes_is_one_clear_line(tmp_path, start):
    """In the zip's own header, in its extra field, and in the header of the array."""
    path = tmp_path / "f.npz"
    save_features(path, make(range(40)), make(range(40)))
    content = bytearray(path.read_bytes())
    content[start : start + 80] = b"\xff" * 80
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="cannot be read as a feature file") as caught:
        load_features(path)
    assert "\n" not in str(caught.value)


def test_check_of_finite_numbers_needs_no_copy():
    side = make(range(2000), dim=64)
    tracemalloc.start()
    check_features(side, side)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < side.features.nbytes / 8  # a boolean a number would be a quarter


def test_save_refuses_other_suffixes(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.mat or \.npz"):
        save_features(tmp_path / "result.txt", make([1]), make([1]))
    assert list(tmp_path.iterdir()) == []


def test_save_of_bad_features_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.mat"
    save_features(path, make([1]), make([1]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="1 of 1 query features hold NaN"):
        save_features(path, make([1])._replace(features=NAN_ROWS[:1]), make([1]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_array_too_large_for_mat_names_the_other_format(tmp_path):
    # One number seen 2**30 times: 4 GiB to the format, nothing to this machine.
    vast = np.broadcast_to(np.float32(1), (2**20, MAT_LIMIT // 2**22))
    gallery = Features(vast, np.zeros(2**20, dtype=np.int64), [])
    with pytest.raises(ValueError, match=r"4\.0 GiB of features.*save as \.npz"):
        save_features(tmp_path / "vast.mat", make([1]), gallery)


def test_check_features_accepts_what_fits():
    assert check_features(make([1, 2]), make([2])) is None


# ---------------------------------------------------------------- files that are something else
def mat_of_version_73(path):
    """The first bytes of what MATLAB's `save -v7.3` writes: HDF5 behind a header of 512 bytes."""
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(384) + b"\x89HDF\r\n")


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"version 7\.3 \(HDF5\): in MATLAB write it again with `save -v7`"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        (b"\x80\x04\x95", "it is a pickle of Python objects, which is not opened"),
        (b"<!DOCTYPE html>", "it is a web page or XML: download the file again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x10\0\0\0\0\0\0\0{}              ", "it is a safetensors file"),
        (b"", "it is empty"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path, suffix, content, words):
    path = tmp_path / f"f{suffix}"
    mat_of_version_73(path) if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        load_features(path)
    assert "\n" not in str(caught.value) and f"f{suffix} cannot be read as" in str(caught.value)


def test_weights_and_feature_files_of_another_suffix_are_named(tmp_path):
    np.savez(tmp_path / "net.npz", a=np.zeros(3))
    (tmp_path / "net.npz").rename(tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"it is a zip file, such as \.npz or torch's"):
        load_features(tmp_path / "net.pth")
    savemat(tmp_path / "a.mat", {"a": np.zeros(3)})
    (tmp_path / "a.mat").rename(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"it is a \.mat file"):
        load_features(tmp_path / "a.npz")


STRUCT = np.array([(1, 2)], dtype=[("a", object), ("b", object)])
CELLS = np.array(["a", np.arange(3)], dtype=object)
ODD = {
    "cells": CELLS,
    "a struct": STRUCT,
    "a sparse matrix": sparse.csc_matrix(np.eye(2)),
    "text": "words",
    "nothing": np.zeros((0, 0)),
    "complex": np.eye(2) * 1j,
    "one number": 3.0,
    "four axes": np.zeros((2, 2, 2, 2)),
}


@pytest.mark.parametrize("paths", [True, False])
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["query_f", "query_label", "gallery_cam", "query_path", "other"])
def test_an_unexpected_variable_is_one_line(tmp_path, name, kind, paths):
    savemat(tmp_path / "f.mat", variables(**{name: ODD[kind]}))
    try:
        load_features(tmp_path / "f.mat", paths)
        assert name == "other" or (name == "query_path" and (not paths or kind == "nothing"))
    except ValueError as error:
        assert "f.mat" in str(error) and "\n" not in str(error)
        assert name != "other"


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["query_f", "query_label", "gallery_cam", "query_path", "other"])
def test_an_unexpected_member_is_one_line(tmp_path, name, kind):
    value = STRUCT if kind == "a sparse matrix" else ODD[kind]
    np.savez(tmp_path / "f.npz", **variables(**{name: value}), allow_pickle=True)
    try:
        load_features(tmp_path / "f.npz")
        assert name == "other" or (name == "query_path" and kind == "nothing")
    except ValueError as error:
        assert "f.npz" in str(error) and "\n" not in str(error)
        assert name != "other"


# ---------------------------------------------------------------- members larger than they look
def packed(path, shapes, claimed=None):
    """An .npz of the published variables, with zeros of other shapes, packed."""
    arrays = {key: np.asarray(value) for key, value in variables().items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {**arrays, **shapes}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if name in shapes:
                    head = {"descr": "<f4", "fortran_order": False, "shape": claimed or array}
                    np.lib.format.write_array_header_1_0(member, head)
                    for _ in range(4 * math.prod(array) >> 20):
                        member.write(bytes(2**20))
                else:
                    np.lib.format.write_array(member, array)


def test_a_member_that_is_not_needed_is_not_unpacked(tmp_path):
    packed(tmp_path / "f.npz", {"other": (2**26,)})
    tracemalloc.start()
    try:
        load_features(tmp_path / "f.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**22  # of 256 MiB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["query_f", "query_label", "gallery_cam", "query_path"])
def test_a_member_beyond_its_share_is_refused(tmp_path, name):
    packed(tmp_path / "f.npz", {name: (2**25, 1)})
    packed(tmp_path / "g.npz", {name: (1, 1)}, claimed=(2**40, 1))
    for file, words in (("f", f"{name} would unpack to 134,217,8"), ("g", f"{name} claims to be")):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=words):
                load_features(tmp_path / f"{file}.npz")
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()
