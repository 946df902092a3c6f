"""Folders of odd images: check, train, test, show, demo and locate say the same of each."""

import io
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from conftest import SMALL, fails
from odd_images import damaged_jpeg, exif, noise, write_deep_png, write_deep_tiff
from PIL import Image, ImageOps

import demo
import locate
import prepare
import test
import train
from deploy.quantise import pixels_of
from evaluation.feature_file import Features, save_features
from imaging.cache import open_view, resize_bicubic
from imaging.files import is_image_name
from imaging.pixels import read_image, read_thumbnail
from locating import page
from locating.features import TurnedImages
from sources.show import TILE, _read_tile

FOLDERS = ("train/satellite", "train/drone", "test/query_drone", "test/gallery_satellite")
NAMES = ("a b", "it's", "-n", "Caf\u00e9", "\U0001f3e0", "$(x)", "semi;colon", "UPPER", "x.y")


# ---------------------------------------------------------------- what is drawn
def write_good(path, rng):
    """An image that is read: any format, mode and orientation, or a link to one."""
    image = Image.fromarray(noise(rng.randrange(20, 60), rng.randrange(20, 60), rng.random_seed()))
    turn = exif(rng.randrange(0, 10))
    kind = rng.choice(["jpeg", "grey", "cmyk", "png", "alpha", "palette", "key", "bilevel", "webp",
                       "tiff", "bmp", "link", "damaged"])  # fmt: skip
    if kind in ("jpeg", "grey", "cmyk", "damaged"):
        mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
        path = path.with_suffix(rng.choice([".jpg", ".JPEG", ".Jpg"]))
        image.convert(mode).save(path, "JPEG", quality=95, exif=turn)
        if kind == "damaged":
            damaged_jpeg(path)
        return path
    if kind == "link":
        (path.parent / ".elsewhere").mkdir(exist_ok=True)
        real = write_good(path.parent / ".elsewhere" / path.name, rng)
        linked = path.with_suffix(real.suffix)
        linked.symlink_to(os.path.relpath(real.resolve(), path.parent))
        return linked
    suffix = {"webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}.get(kind, ".png")
    path = path.with_suffix(suffix)
    if kind in ("alpha", "tiff"):
        alpha = Image.fromarray(noise(image.height, image.width, 7)[..., 0])
        image.putalpha(alpha)
    modes = {"palette": "P", "key": "L", "bilevel": "1"}
    image = image.convert(modes.get(kind, image.mode))
    options = {} if kind == "bmp" else {"exif": turn}
    if kind in ("palette", "key"):
        options["transparency"] = rng.randrange(256)
    image.save(path, **options)
    return path


def write_bad(path, rng):
    """What is named like an image and cannot be read as one."""
    kind = rng.choice(["text", "empty", "cut", "dangling", "circle", "folder", "pipe", "device",
                       "deep", "deep tiff", "float"])  # fmt: skip
    values = np.arange(72, dtype=np.uint16).reshape(6, 4, 3) * 50
    path = path.with_suffix(rng.choice([".jpg", ".png", ".tif"]))
    if kind in ("text", "empty"):
        path.write_bytes(b"no image" * (kind == "text"))
    elif kind == "cut":
        Image.fromarray(noise(40, 50)).save(path, rng.choice(["JPEG", "PNG"]))
        path.write_bytes(path.read_bytes()[: rng.randrange(2, 400)])
    elif kind in ("dangling", "circle", "device"):
        path.symlink_to({"dangling": "gone", "circle": path.name, "device": "/dev/zero"}[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "deep":
        write_deep_png(path, values if rng.random() < 0.5 else values[..., 0])
    elif kind == "deep tiff":
        write_deep_tiff(path, values)
    else:
        Image.fromarray(np.float32(values[..., 0])).save(path, "TIFF")
    return path


class Odds(random.Random):
    def random_seed(self):
        return self.randrange(1 << 30)


@pytest.fixture(params=range(6))
def odd(request, workdir):
    """(folder, odd images that are read, those that are not); each class has a plain one too."""
    rng = Odds(request.param)
    good, bad = [], []
    for folder in FOLDERS:
        for building in range(4):
            place = workdir / "data" / folder / f"{folder[:2]}{building}"
            place.mkdir(parents=True)
            Image.fromarray(noise(40, 40, building)).save(place / "plain.jpg")
            (place / ".hidden.jpg").write_bytes(b"not looked at")
        for name in rng.sample(NAMES, 3):
            place = workdir / "data" / folder / f"{folder[:2]}{rng.randrange(4)}"
            good.append(write_good(place / f"{name}.x", rng))
    for number in range(request.param % 4):
        place = workdir / "data" / rng.choice(FOLDERS)
        place = place / f"{place.parent.name[:2]}{rng.randrange(4)}"
        bad.append(write_bad(place / f"bad {number}.x", rng))
    return workdir / "data", good, bad


# ---------------------------------------------------------------- what is said
def outcome(main, argv, capsys):
    """(exit code, stdout, stderr) of a script, which leaves no traceback."""
    code = 0
    try:
        main([os.fspath(part) for part in argv])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code in (0, 2) and "Traceback" not in err, err
    return code, out, err


def verdicts(data, bad, capsys):
    """Run every door on the folder; assert that they agree on which images are bad."""
    code, out, _ = outcome(prepare.main, ["check", data], capsys)
    lines = [line for line in out.splitlines() if " cannot be read as an image (" in line]
    named = [line.removeprefix("problem: ").split(" cannot be read")[0] for line in lines]
    assert code == (2 if bad else 0) and sorted(named) == sorted(map(str, bad)), out

    reasons = {
        name: line.removeprefix("problem: ") for name, line in zip(named, lines, strict=True)
    }
    # With a cache all images are read; an epoch alone draws one of each building and view.
    argv = ["--name", "odd", "--overwrite", "--data_dir", data, "--train_all", "--epochs", "1",
            "--cache", "ram"]  # fmt: skip
    scripts = {"train": (train.main, [*argv, *SMALL]), "test": (test.main, test_options(data))}
    for split, (main, argv) in scripts.items():
        code, _, err = outcome(main, argv, capsys)
        here = [name for name in reasons if f"/{split}/" in name]
        assert code == (2 if here else 0), err
        # One of them is named, with the reason that check gives for it.
        assert not here or any(f"error: {reasons[name]}" in err for name in here), err

    shown = [path for path in (data / "test").glob("*/*/*") if is_image_name(path)]
    for path in shown:  # a link that leads nowhere is not found
        rows = Features(np.eye(1, 4, dtype=np.float32), np.zeros(1, np.int64), [str(path)])
        save_features("one.npz", rows, rows)
        if path in bad or path.stem not in ("plain",):
            code, _, err = outcome(demo.main, ["--features", "one.npz", "--top", "1"], capsys)
            assert code == (2 if path in bad else 0), err
            assert path not in bad or reasons[str(path)] in err or f"{path} not found" in err


def test_options(data):
    return ["--name", "small", "--which_epoch", "9", "--test_dir", data, "--num_workers", "0",
            "--device", "cpu", "--output", "odd.npz"]  # fmt: skip


test_options.__test__ = False


def test_all_doors_agree(odd, small_run, capsys):
    """And once what check names is gone, none of them complains."""
    data, good, bad = odd
    verdicts(data, bad, capsys)
    for path in bad:
        path.rmdir() if path.is_dir() else path.unlink()
    if bad:
        verdicts(data, [], capsys)


def test_locate_passes_over_the_same_images(odd, small_run, capsys):
    data, good, bad = odd
    plain = data / "train" / "satellite" / "tr0" / "plain.jpg"
    argv = [data, "--map", plain, "--name", "small", "--device", "cpu", "--num_workers", "0"]
    code, _, err = outcome(locate.main, argv, capsys)
    start, lines = "warning: not located: ", err.splitlines()
    told = [line.removeprefix(start) for line in lines if line.startswith(start)]
    _, out, _ = outcome(prepare.main, ["check", data], capsys)
    assert code == 0 and len(told) == len(bad), err
    assert all(f"problem: {line}\n" in f"{out}\n" for line in told), (told, out)


def test_all_readers_see_what_a_viewer_shows(odd, monkeypatch):
    """The tag turns, transparency is white: whatever reads an image starts from that."""
    monkeypatch.setattr(page, "_jpeg", lambda image: image)
    _, good, _ = odd
    for path in good:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            seen = ImageOps.exif_transpose(image).convert("RGBA")
        ground = Image.new("RGBA", seen.size, "white")
        expected = np.array(Image.alpha_composite(ground, seen).convert("RGB"))
        assert np.array_equal(read_image(path), expected), path
        small = resize_bicubic(expected, 24, 32)
        for place in ("none", "ram", "disk"):
            assert np.array_equal(open_view([path], 24, 32, place)[path], small), (path, place)
        tile = Image.fromarray(expected).resize((TILE, TILE))
        assert np.array_equal(_read_tile(path), tile)
        square = ImageOps.pad(Image.fromarray(expected), (64, 64), color="#e8e8e8")
        assert np.array_equal(read_thumbnail(path, 64), square)
        assert np.array_equal(TurnedImages((24, 32), resize_bicubic)[path, 0], small)
        assert np.array_equal(pixels_of([path], 24, 32)[0].transpose(1, 2, 0), small)
        assert np.array_equal(np.asarray(page._thumbnail(path, 64)), expected)


def test_a_pipe_named_like_an_image_is_not_waited_for(workdir):
    """In a process of its own, which a test can end."""
    lines = "import os", "import imaging.pixels", "os.mkfifo('a.jpg')"
    code = "; ".join([*lines, "imaging.pixels.read_image('a.jpg')"])
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(demo.__file__)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert "a pipe or a device, not a file" in done.stderr


def test_views_without_a_common_building_are_warned_of(workdir, capsys):
    """Nothing was said, and the recall was that of chance."""
    for view in ("satellite", "drone"):
        for building in range(4):
            path = workdir / "data" / "train" / view / f"{view}{building}" / "a.jpg"
            path.parent.mkdir(parents=True)
            Image.fromarray(noise(40, 40, building)).save(path)
    argv = ["--name", "apart", "--data_dir", "data", "--epochs", "1", *SMALL]
    train.main([*argv, "--train_all"])
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("warning: ")] == [
        "warning: no building has images in two of satellite, drone, so nothing ties the views "
        "together: the class folders of a building must have the same name in each; see "
        "`python prepare.py check data`"
    ]
    fails(train.main, [*argv, "--overwrite"], capsys, "0 buildings with images in both views")
