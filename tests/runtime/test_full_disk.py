"""No room, no permission: every writer says so in one line, and the file of before stays whole."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import writers
from PIL import Image

from deploy import quantise
from runtime import files
from training import tensorboard

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path):
    """An image to copy, larger than the room that is left."""
    Image.fromarray(writers.PIXELS).save(tmp_path / "source.png")
    return tmp_path / "source.png"


@contextmanager
def mounted(folder, size):
    """A small file system in memory; skips the test where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
    try:
        done = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("no permission to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def check_full(folder, found, reason):
    """Each writer named its file, the bytes it needs and the free ones; nothing changed."""
    for name, message in found.items():
        assert f"{name} cannot be written ({reason}): it needs " in message, (name, message)
        assert " bytes, " in message and " are free" in message and "\n" not in message
        assert "the file of before is unchanged; " in message
    check_unchanged(folder)


def check_unchanged(folder):
    assert {path.name for path in folder.iterdir()} - {"answer.zip"} == set(writers.WRITERS)
    assert {(folder / name).read_text() for name in writers.WRITERS} == {"before"}


def fill(folder):
    """Put a small file in the place of each that the writers write."""
    for name in writers.WRITERS:
        (folder / name).write_text("before")
        os.utime(folder / name, (0, 0))  # an equal time would say that the copy is made


@pytest.mark.skipif(sys.platform == "win32", reason="has no ulimit")
def test_files_that_may_not_grow(tmp_path, source):
    folder = tmp_path / "run"
    folder.mkdir()
    fill(folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, writers.__file__, folder, source, "4096"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    check_full(folder, found, "File too large")
    assert "needs 81," in found["net.pth"] and "`ulimit -f`" in found["net.pth"]
    assert "needs 50,004 bytes" in found["opts.yaml"]


def test_a_full_disk(tmp_path, source):
    with mounted(tmp_path / "disk", "200k") as folder:
        fill(folder)
        room = (200 - 4 * len(writers.WRITERS) - 32) * 1024
        (folder / "filler").write_bytes(bytes(room))
        found = writers.write_all(folder, source)
        (folder / "filler").unlink()
        assert f"needs {source.stat().st_size:,} bytes" in found["copy.png"]
        assert "disk space" in found.pop("c.npy")  # counted beforehand
        check_full(folder, found, "No space left on device")
        assert "32,768 are free" in found["net.pth"]


def test_a_disk_that_cannot_be_written(tmp_path, source):
    with mounted(tmp_path / "disk", "4m") as folder:
        fill(folder)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        for name, message in writers.write_all(folder, source).items():
            expected = f"{folder / name} cannot be written (Read-only file system); the file of "
            assert message.startswith(expected) and "\n" not in message, message
        check_unchanged(folder)


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/a\.txt cannot be written \(File exists\): give"):
        files.write_text(tmp_path / "file" / "a.txt", "a")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder cannot be written \(Is a directory\)"):
        files.write_text(tmp_path / "folder", "a")


def test_no_room_for_a_folder(tmp_path):
    missing, full = tmp_path / "a" / "b" / "c.txt", OSError(28, "No space left on device")
    words = str(files.not_written(missing, full))
    assert words.startswith(f"{missing} cannot be written (No space left on device): it needs more")


def test_errors_of_reading_keep_their_words(tmp_path):
    for error in (FileNotFoundError(2, "gone", "source.jpg"), OSError("a.jpg cannot be read")):
        with pytest.raises(type(error)) as caught, files.replacing(tmp_path / "a"):
            raise error
        assert caught.value is error


def test_no_room_for_curves(tmp_path, capfd):
    """TensorBoard writes in a thread, whose error is told once, in one line."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    line = "tensorboard cannot be written .No space left"
    with mounted(tmp_path / "disk", "32k") as folder:
        (folder / "filler").write_bytes(bytes(20 * 1024))
        with (
            pytest.raises(OSError, match=line) as told,
            tensorboard.curves(folder, [], True) as add,
        ):
            for epoch in range(500):
                add({"epoch": epoch, "loss": 1.0, "lr": 0.1})
        assert epoch > 0 and "\n" not in str(told.value) and capfd.readouterr().err == ""


def test_no_room_for_what_quantising_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(quantise.tempfile, "tempdir", str(tmp_path))
    line = f"{tmp_path} has no room for .*TMPDIR"
    with pytest.raises(OSError, match=line), quantise._temporary_folder():
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="gone"), quantise._temporary_folder():
        raise FileNotFoundError(2, "gone")
