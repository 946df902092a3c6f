"""Data folders, class folders, and what is no file."""

import os

import pytest

from imaging import files


def test_data_folder_or_its_split(tmp_path):
    folder = tmp_path
    (folder / "train" / "drone").mkdir(parents=True)
    assert files.split_folder(folder, "train") == folder / "train"
    assert files.split_folder(folder / "train", "train") == folder / "train"
    with pytest.raises(FileNotFoundError, match="neither test/.*query_satellite.*found train"):
        files.split_folder(folder, "test")
    with pytest.raises(FileNotFoundError, match="prepare.py toy"):
        files.split_folder(folder / "absent", "train")


def test_empty_view_is_an_error(tmp_path):
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001" / "a.txt").touch()
    with pytest.raises(ValueError, match="holds no images"):
        files.scan_classes(tmp_path)


@pytest.fixture
def view(tmp_path):
    """A view with two buildings, an image each."""
    for name in ("0001", "0002"):
        (tmp_path / "drone" / name).mkdir(parents=True)
        (tmp_path / "drone" / name / "a.jpg").touch()
    return tmp_path / "drone"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.symlink_to("nowhere.jpg"), "a link to nowhere.jpg, which is not there"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: os.mkfifo(path), "a pipe or a device, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device, not a file"),
    ],
    ids=["dangling", "circle", "folder", "pipe", "device"],
)
def test_what_is_named_like_an_image_is_a_file(view, make, reason):
    """Training stopped at a dangling link in its first epoch, and waited for a pipe for ever."""
    path = view / "0002" / "b.jpg"
    make(path)
    with pytest.raises(OSError, match="b.jpg cannot be read as an image") as caught:
        files.scan_classes(view)
    assert f"({reason}): " in str(caught.value)


def test_a_link_to_a_missing_class_folder_is_no_missing_class(view):
    (view / "0003").symlink_to("elsewhere")
    (view / ".hidden").symlink_to("elsewhere")
    with pytest.raises(OSError, match="drone/0003 .*a link to elsewhere, which is not there"):
        files.scan_classes(view)


def test_retrieval_labels_are_the_folder_numbers():
    assert files.retrieval_labels(["0007", "0003"], ["-1"]) == {"-1": -1, "0003": 3, "0007": 7}
    assert files.retrieval_labels(["0001", "1"], ["--5"]) == {"--5": 0, "0001": 1, "1": 2}
    assert files.retrieval_labels(["1" * 30]) == {"1" * 30: 0}
    assert files.retrieval_labels(["b"], ["a", "0003"]) == {"0003": 0, "a": 1, "b": 2}
