"""Pixels of image files: as a viewer shows them, or refused in one line."""

import struct

import numpy as np
import pytest
from odd_images import damaged_jpeg, exif, noise, write_deep_png, write_deep_tiff
from PIL import Image, ImageOps

from imaging import pixels
from imaging.cache import load_resized, open_view

DECODERS = pytest.mark.parametrize("decoder", ["simplejpeg", "Pillow"])


@pytest.fixture
def decode_with(monkeypatch):
    def choose(decoder):
        if decoder == "Pillow":
            monkeypatch.setattr(pixels, "simplejpeg", None)
        elif pixels.simplejpeg is None:
            pytest.skip("simplejpeg is not installed")

    return choose


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
            pixels.read_image(path)
    assert pixels.read_image(whole).shape == (64, 64, 3)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4)).save(path)
        image = pixels.read_image(path)
        assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and image.flags.writeable


@DECODERS
def test_jpegs_are_decoded_as_by_pillow(tmp_path, decode_with, decoder):
    """Sampling of colours, progressive, grey, CMYK, turned by EXIF."""
    decode_with(decoder)
    grain = Image.effect_noise((70, 50), 90)
    grain = Image.merge("RGB", [grain, grain.rotate(90), grain.rotate(180)])
    saved = {
        "444.jpg": (grain, {"subsampling": 0}),
        "420.jpg": (grain, {"subsampling": 2, "quality": 60}),
        "progressive.jpg": (grain, {"progressive": True}),
        "exif.jpg": (grain, {"exif": exif(6)}),
        "grey.jpg": (grain.convert("L"), {}),
        "cmyk.jpg": (grain.convert("CMYK"), {}),
    }
    for name, (image, options) in saved.items():
        image.save(tmp_path / name, **options)
        ours = pixels.read_image(tmp_path / name)
        assert ours.flags.writeable and ours.flags.c_contiguous
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(
                ours, np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            ), name


# ---------------------------------------------------------------- orientation
@DECODERS
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_seen_upright(tmp_path, decode_with, decoder, suffix, orientation):
    """Stored so that its tag turns it back, an image is the same for every reader of ours."""
    decode_with(decoder)
    seen = Image.fromarray(noise(48, 80))
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    stored = seen
    if orientation > 1:
        stored = seen.transpose(Image.Transpose[undo[orientation]])
    path = tmp_path / f"a.{suffix}"
    options = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}
    stored.save(path, exif=exif(orientation), **options.get(suffix, {}))
    ours = pixels.read_image(path)
    assert ours.shape == (48, 80, 3) and ours.flags.writeable and ours.flags.c_contiguous
    tolerance = 12 if suffix == "jpg" else 0
    assert np.abs(ours.astype(int) - np.asarray(seen, int)).max() <= tolerance
    assert load_resized(path, 12, 20).shape == (12, 20, 3)
    kept = open_view([path], 12, 20, "ram")[path]
    assert np.array_equal(kept, load_resized(path, 12, 20))
    thumbnail = pixels.read_thumbnail(path, 40)  # 24 x 40 pixels between two grey bars
    assert (thumbnail[:7] == 0xE8).all() and (thumbnail[-7:] == 0xE8).all()
    expected = np.asarray(seen.resize((40, 24), Image.Resampling.BICUBIC), int)
    assert np.abs(thumbnail[8:32] - expected).mean() < 6


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, value):
    data = Image.Exif()
    data[0x0112] = value
    Image.fromarray(noise(8, 16)).save(tmp_path / "a.jpg", exif=data)
    assert pixels.read_image(tmp_path / "a.jpg").shape == (8, 16, 3)


@DECODERS
def test_damaged_exif_data_is_passed_over(tmp_path, decode_with, decoder):
    decode_with(decoder)
    path = tmp_path / "a.jpg"
    for data in (b"", b"II", b"garbage here", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"):
        Image.fromarray(noise(8, 16)).save(path, exif=b"Exif\0\0" + data)
        assert pixels.read_image(path).shape == (8, 16, 3), data


def test_the_tag_is_found_behind_other_segments_and_filling(tmp_path):
    """Cameras put other APP segments first; a marker may be preceded by any number of 0xFF."""
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(8, 16)).save(path, exif=exif(6))
    content = path.read_bytes()
    other = b"\xff\xe2" + struct.pack(">H", 1002) + bytes(1000)
    path.write_bytes(content[:2] + other + b"\xff\xff" + other + content[2:])
    assert pixels.read_image(path).shape == (16, 8, 3)


# ---------------------------------------------------------------- transparency and depth
def test_hidden_colours_stay_hidden(tmp_path):
    """Transparent pixels are white, whatever colour stands under them; half of them half white."""
    red = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    red.putpixel((1, 0), (200, 0, 0, 0))
    red.putpixel((2, 0), (200, 0, 0, 127))
    red.save(tmp_path / "rgba.png")
    red.save(tmp_path / "rgba.tif")
    red.save(tmp_path / "rgba.webp", lossless=True, exact=True)
    red.convert("LA").save(tmp_path / "la.png")
    palette = Image.new("P", (3, 1))
    palette.putpalette([200, 0, 0, 0, 200, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "index.png", transparency=1)
    palette.save(tmp_path / "table.png", transparency=bytes([255, 0, 127]))
    Image.fromarray(np.array([[[200, 0, 0], [0, 200, 0], [1, 2, 3]]], np.uint8)).save(
        tmp_path / "key.png", transparency=(0, 200, 0)
    )
    for path in sorted(tmp_path.iterdir()):
        first, hidden, _ = pixels.read_image(path)[0].tolist()
        assert hidden == [255, 255, 255], path.name
        assert first == ([60] * 3 if path.name == "la.png" else [200, 0, 0]), path.name
        assert (pixels.read_thumbnail(path, 9)[4, 4] == 255).all(), path.name
    assert pixels.read_image(tmp_path / "rgba.png")[0, 2].tolist() == [228, 128, 128]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("top", [4095, 65535])
def test_deep_images_are_refused_whatever_their_channels(tmp_path, channels, top):
    """Pillow takes the upper byte of 16-bit colours, so that 12 bits of values became black."""
    values = np.linspace(0, top, 12 * channels, dtype=np.uint16)
    write_deep_png(tmp_path / "deep.png", values.reshape(3, 4, channels).squeeze())
    with pytest.raises(OSError, match=r"deep.png .*\(more than 8 bits a colour\).*-scale MIN MAX"):
        pixels.read_image(tmp_path / "deep.png")
    with pytest.raises(OSError, match="more than 8 bits"):
        pixels.read_thumbnail(tmp_path / "deep.png", 16)


def test_deep_tiffs_are_refused(tmp_path):
    values = np.arange(36, dtype=np.uint16).reshape(3, 4, 3)
    write_deep_tiff(tmp_path / "colour.tif", values)
    for name, grey in (("grey", values[..., 0]), ("float", np.float32(values[..., 0])),
                       ("integer", np.int32(values[..., 0]))):  # fmt: skip
        Image.fromarray(grey).save(tmp_path / f"{name}.tif")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(OSError, match="more than 8 bits a colour"):
            pixels.read_image(path)


def test_shallow_images_are_read(tmp_path):
    seen = Image.fromarray(noise(5, 7))
    for mode, suffix in (("1", "png"), ("1", "tif"), ("L", "bmp"), ("P", "bmp"), ("P", "tif"),
                         ("CMYK", "tif"), ("YCbCr", "tif"), ("RGB", "tif")):  # fmt: skip
        path = tmp_path / f"{mode}.{suffix}"
        # Up to Pillow 12 one of YCbCr that is not compressed is not written whole.
        how = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}
        seen.convert(mode).save(path, **how)
        expected = np.asarray(Image.open(path).convert("RGB"))
        assert np.array_equal(pixels.read_image(path), expected)


# ---------------------------------------------------------------- size, memory, damage
def test_a_common_orthophoto_is_read_without_a_warning(tmp_path, recwarn):
    """14,000 x 14,000 pixels: beyond Pillow's limit, 178,956,970."""
    path = tmp_path / "map.png"
    Image.new("L", (14000, 14000), 90).save(path, compress_level=1)
    thumbnail = pixels.read_thumbnail(path, 8)
    assert (thumbnail == 90).all() and not recwarn.list


@DECODERS
def test_the_limit_is_said_and_nothing_is_to_be_deleted(
    tmp_path, decode_with, decoder, monkeypatch
):
    decode_with(decoder)
    monkeypatch.setattr(pixels, "MAX_PIXELS", 100)
    for name in ("a.jpg", "a.png"):
        Image.new("RGB", (20, 6)).save(tmp_path / name)
        with pytest.raises(OSError, match="20 x 6 pixels are more than 100.*cut it into") as caught:
            pixels.read_image(tmp_path / name)
        assert "remove" not in str(caught.value)


def test_no_memory_and_no_permission_are_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (20, 6)).save(path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(pixels.Path, "read_bytes", refuse)
        with pytest.raises(OSError, match=r"a.jpg .*\(Permission denied\): make it readable;"):
            pixels.read_image(path)

    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pixels, "_decode_jpeg", exhausted)
    with pytest.raises(OSError, match="a.jpg .*no memory for it.*make it smaller") as caught:
        pixels.read_image(path)
    assert "remove" not in str(caught.value)


def test_a_jpeg_that_lost_a_part_is_read_and_known(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(120, 160)).save(path)
    assert pixels.decode_file(path)[1] == ""
    damaged_jpeg(path)
    image, damage = pixels.decode_file(path)
    assert image.shape == (120, 160, 3)
    assert pixels.simplejpeg is None or "premature end of data" in damage


def test_a_tiff_of_a_kind_that_is_not_read_is_to_be_converted(tmp_path):
    """Five bands, as of a multispectral camera: whole, and not to be deleted."""
    path = tmp_path / "bands.tif"
    write_deep_tiff(path, np.zeros((3, 4, 5), np.uint16))
    with pytest.raises(OSError, match="bands.tif .*: replace it, or convert it") as caught:
        pixels.read_image(path)
    assert "remove" not in str(caught.value)
