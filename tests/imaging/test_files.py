"""Data folders, class folders, and the pixels of image files."""

import numpy as np
import pytest
from PIL import Image

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


def test_unreadable_images_are_named(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 80).convert("RGB").save(whole)
    for name, content in (
        ("text.jpg", b"no image at all"),
        ("cut.jpg", whole.read_bytes()[:-400]),
        ("empty.png", b""),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(OSError, match=f"{name} cannot be read as an image .*replace or remove"):
            files.read_image(path)
    assert files.read_image(whole).shape == (64, 64, 3)


def test_sixteen_bits_are_refused(tmp_path):
    """Pillow would cut them off at 255."""
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(path)
    with pytest.raises(OSError, match="deep.png cannot be read as an image .*expected 8 bits"):
        files.read_image(path)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4)).save(path)
        image = files.read_image(path)
        assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and image.flags.writeable


@pytest.mark.parametrize("decoder", ["simplejpeg", "Pillow"])
def test_jpegs_are_decoded_as_by_pillow(tmp_path, monkeypatch, decoder):
    """Sampling of colours, progressive, grey, CMYK, cut, turned by EXIF, larger than allowed."""
    if decoder == "Pillow":
        monkeypatch.setattr(files, "simplejpeg", None)
    noise = Image.effect_noise((70, 50), 90)
    noise = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    turned = Image.Exif()
    turned[0x0112] = 6
    saved = {
        "444.jpg": (noise, {"subsampling": 0}),
        "420.jpg": (noise, {"subsampling": 2, "quality": 60}),
        "progressive.jpg": (noise, {"progressive": True}),
        "exif.jpg": (noise, {"exif": turned}),
        "grey.jpg": (noise.convert("L"), {}),
        "cmyk.jpg": (noise.convert("CMYK"), {}),
    }
    for name, (image, options) in saved.items():
        image.save(tmp_path / name, **options)
        ours = files.read_image(tmp_path / name)
        assert ours.flags.writeable and ours.flags.c_contiguous
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(ours, np.asarray(image.convert("RGB"))), name
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(OSError, match=r"444.jpg cannot be read as an image \(.*bomb"):
        files.read_image(tmp_path / "444.jpg")
