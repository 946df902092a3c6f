"""The cache of resized images: exact, found again, safe against kills, two runs and full disks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import fails
from PIL import Image

import train
from imaging import cache

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def paths(workdir):
    """Twelve images of noise in two class folders of a view, 20 x 30 pixels."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(12):
        path = workdir / "drone" / f"{number % 2:04d}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
        made.append(path)
    return made


def test_resize_matches_pillow_bicubic():
    """The published resize is Pillow's; ours runs on tensors and differs by one level at most."""
    pixels = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize((32, 24), Image.Resampling.BICUBIC)
    ours = cache.resize_bicubic(pixels, 24, 32)
    assert ours.shape == (24, 32, 3) and ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - np.asarray(expected, int)).max() <= 1


def cached_files():
    return sorted(path.name for path in Path("cache").glob("*"))


def forbid_decoding(monkeypatch):
    monkeypatch.setattr(cache, "_decode_all", lambda *_: pytest.fail("decoded again"))


def test_a_file_system_that_reserves_no_room_has_a_cache(paths, monkeypatch):
    def fallocate(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(cache.os, "posix_fallocate", fallocate, raising=False)
    kept = cache.open_view(paths, 16, 24, "disk")
    assert np.array_equal(kept[paths[0]], cache.load_resized(paths[0], 16, 24))


@pytest.mark.parametrize("place", ["ram", "disk"])
@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_it_holds_the_same_pixels(paths, place, num_threads):
    plain = cache.open_view(paths, 16, 24)
    kept = cache.open_view(paths, 16, 24, place, num_threads)
    for path in reversed(paths):
        assert kept[path].shape == (16, 24, 3) and kept[path].dtype == np.uint8
        assert np.array_equal(kept[path], plain[path])


def test_the_disk_is_found_again_until_something_changes(paths, monkeypatch):
    cache.open_view(paths, 16, 24, "disk")
    (first,) = cached_files()
    assert first.startswith("drone-") and "16x24" in first
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        cache.open_view(paths, 16, 24, "disk")
    cache.open_view(paths, 16, 16, "disk")  # another size: a second file
    assert len(cached_files()) == 2

    Image.new("RGB", (30, 20), (9, 9, 9)).save(paths[3])  # another image: in place of the first
    kept = cache.open_view(paths, 16, 24, "disk")
    assert (kept[paths[3]] == 9).all()
    assert len(cached_files()) == 2 and first not in cached_files()

    os.utime(paths[5], ns=(1, 1))  # a touched file might hold something else
    before = cached_files()
    cache.open_view(paths, 16, 24, "disk")
    assert cached_files() != before and len(cached_files()) == 2


def test_an_equal_folder_elsewhere_has_its_own(paths, workdir):
    cache.open_view(paths, 16, 24, "disk")
    (workdir / "drone").rename(workdir / "other")
    moved = [workdir / "other" / path.relative_to(workdir / "drone") for path in paths]
    cache.open_view(moved, 16, 24, "disk")
    assert len(cached_files()) == 2


def test_a_damaged_file_is_made_again(paths):
    cache.open_view(paths, 16, 24, "disk")
    (name,) = cached_files()
    for content in (b"", Path("cache", name).read_bytes()[:-100]):
        Path("cache", name).write_bytes(content)
        kept = cache.open_view(paths, 16, 24, "disk")
        assert np.array_equal(kept[paths[-1]], cache.load_resized(paths[-1], 16, 24))


SLOW_BUILD = """
import sys, time
from pathlib import Path
from imaging import cache
paths = sorted(Path("drone").glob("*/*.png"))
def slow(path):
    time.sleep(0.5)
    return cache.load_resized(path, 16, 24)
print("building", flush=True)
cache.open_images([p.resolve() for p in paths], slow, (16, 24), "disk", 2)
"""


def test_killed_half_way_and_built_by_two_at_once(paths):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SLOW_BUILD]
    builds = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    deadline = time.monotonic() + 60
    while len(cached_files()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(cached_files()) == 3 and all(n.startswith(".partial-") for n in cached_files())
    builds[0].send_signal(signal.SIGKILL)  # one dies, the other two finish at about the same time
    for build in builds:
        build.communicate(timeout=60)
    assert [build.returncode for build in builds] == [-signal.SIGKILL, 0, 0]
    whole = [name for name in cached_files() if not name.startswith(".partial-")]
    (partial,) = [name for name in cached_files() if name.startswith(".partial-")]
    assert len(whole) == 1
    ordered = sorted(paths)
    kept = cache.open_view(ordered, 16, 24, "disk")
    for path in paths:
        assert np.array_equal(kept[path], cache.load_resized(path, 16, 24))

    # What the killed run left goes once nobody can be writing to it.
    os.utime(Path("cache", partial), (0, 0))
    cache.open_view(ordered, 16, 16, "disk")
    assert partial not in cached_files()


def test_an_unreadable_image_leaves_no_cache(paths):
    paths[7].write_bytes(b"no image")
    for place in ("ram", "disk"):
        with pytest.raises(OSError, match=r"7.png cannot be read as an image"):
            cache.open_view(paths, 16, 24, place, 2)
    assert cached_files() == []


def test_too_little_room_is_said_beforehand(paths, monkeypatch):
    monkeypatch.setattr(cache, "_free_memory", lambda: 1000)
    with pytest.raises(OSError, match="12 images of 16 x 24 pixels need .* GiB of memory.*disk"):
        cache.open_view(paths, 16, 24, "ram")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="GiB of disk space for cache/.*--cache ram"):
        cache.open_view(paths, 16, 24, "disk")
    assert cached_files() == []


def test_training_with_a_cache_is_the_same_training(toy, workdir, capsys):
    """Crop, flip, turn and erasing come after the resize, so the cache changes no number."""
    options = ["--data_dir", toy, "--epochs", "2", "--erasing_p", "0.5", "--seed", "4"]
    small = ["--backbone", "resnet18", "--no_pretrained", "--h", "32", "--w", "32", "--pad", "2",
             "--num_workers", "0", "--batchsize", "4", "--device", "cpu"]  # fmt: skip
    losses = {}
    for place in ("none", "ram", "disk"):
        argv = [*map(str, options), *small, "--name", place, "--cache", place]
        losses[place] = train.main(argv)["loss"]
    assert losses["ram"] == losses["disk"] == losses["none"]
    assert len(cached_files()) == 2
    capsys.readouterr()
    for flag in ("--color_jitter", "--DA"):
        fails(train.main, [*options, *small, "--cache", "disk", flag], capsys,
              "--cache keeps resized images", "change an image before")  # fmt: skip


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_a_folder_whose_name_is_no_utf8_has_a_cache(tmp_path):
    image = tmp_path / os.fsdecode(b"\xff") / "a.png"
    image.parent.mkdir()
    image.touch()
    assert cache.cache_path([image], (4, 4)) == cache.cache_path([image], (4, 4))
