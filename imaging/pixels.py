"""The pixels of image files as a viewer shows them: upright, on white where they are transparent.

Images have 8 bits a colour. Deeper ones are refused: which values mean black and white, only
their owner knows, and scaling each image by its own would make neighbours differ.
"""

import io
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from imaging.files import Unreadable, need_file

try:
    import simplejpeg
except ModuleNotFoundError:  # no wheel for this platform: Pillow decodes
    simplejpeg = None

MAX_PIXELS = 2**30  # of an image: 32,768 x 32,768, 3 GiB
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit, and its warning, are below a common orthophoto
JPEG, TIFF = b"\xff\xd8", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how such files begin
# Pictures that Pillow does not read, or not in all its builds, by what stands in their first bytes.
OTHER_KINDS = {
    b"ftyphe": "a HEIC photo", b"ftypmif1": "a HEIC photo", b"ftypavi": "an AVIF image",
    b"JXL \r\n": "a JPEG XL image", b"\xff\x0a": "a JPEG XL image",
    b"jP  \r\n": "a JPEG 2000 image", b"\xff\x4f\xff\x51": "a JPEG 2000 image",
}  # fmt: skip
LFS = b"version https://git-lfs"
APP1, FILL, SCAN = 0xE1, 0xFF, 0xDA  # markers of a JPEG
CONVERT = (
    "convert it, and all images of its kind with one range, to 8 bits a colour: "
    "gdal_translate -ot Byte -scale MIN MAX 0 255 IN OUT"
)


def read_image(path, near=0):
    """Decode an image file to uint8 (H, W, 3); an OSError names a file that cannot be read.

    With `near` a JPEG may be decoded to fewer pixels, at least `near` either way.
    """
    try:
        return decode_file(path, near)[0]
    except Unreadable as fault:
        raise fault.error(path) from None


def read_thumbnail(path, side):
    """Read an image as uint8 (side, side, 3), whole, on light grey where it is not square.

    A JPEG is decoded near this size. Raises as `read_image`.
    """
    whole = Image.fromarray(read_image(path, near=side))
    return np.asarray(ImageOps.pad(whole, (side, side), color="#e8e8e8"))


def resize_pillow(image, height, width):
    """`imaging.cache.resize_bicubic` without torch, in twice the time.

    uint8 (H, W, 3) -> uint8 (height, width, 3), bicubic with antialiasing. Within one level; where
    one side grows and the other shrinks a few pixels at sharp edges differ more.
    """
    size = (width, height)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def decode_file(path, near=0):
    """Decode an image file: uint8 (H, W, 3), and what is damaged in a JPEG that can be decoded.

    Pillow decides what an image is. An intact JPEG is decoded by simplejpeg where it is installed:
    the same pixels (both are libjpeg-turbo) in half the time. Only simplejpeg notices damage that
    leaves a part of the pixels; without it, and for an intact file, the second value is "".
    With `near` a JPEG may be decoded to fewer pixels, at least `near` either way. Raises
    `files.Unreadable`.
    """
    need_file(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise Unreadable(error.strerror or str(error), "make it readable") from None
    with _faults_of(content):
        pixels, damage = _decode_jpeg(content, near)
        return (_decode_any(content, near) if pixels is None else pixels), damage


def decode_with_alpha(content, upright=False):
    """An image file's bytes as a Pillow image in RGBA, as it is stored, or `upright` as it is seen.

    For maps, which show through where they have no data. Coordinates in a file belong to the stored
    pixels, places that a person names to what a viewer shows. Raises `files.Unreadable`.
    """
    with _faults_of(content), _opened(content) as image:
        found = image.convert("RGBA")  # a TIFF turns itself, and forgets its orientation
        orientation = _orientation(content, image) if upright else 1
        if orientation == 1:
            return found
        return Image.fromarray(_upright(np.array(found), orientation))


@contextmanager
def _faults_of(content):
    """Whatever a decoder raises within the block becomes `files.Unreadable`."""
    try:
        yield
    except Unreadable:
        raise
    except MemoryError:
        raise Unreadable("there is no memory for it", "make it smaller, or cut it") from None
    except Exception as error:  # damaged bytes lead decoders into errors of any type
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            kind = _other_kind(content)
            if kind:
                raise Unreadable(*kind) from None
            reason = "not an image of a known kind"
        if content.startswith(TIFF):  # perhaps whole, of more bands or another compression
            raise Unreadable(reason, f"replace it, or {CONVERT}") from None
        raise Unreadable(reason, "replace or remove it", damaged=True) from None


def _other_kind(content):
    """What a file that Pillow does not know is, and what mends it, if it may be whole; else None.

    It holds a picture, or stands for one: it is no case for deletion.
    """
    if content.startswith(LFS):
        return "a pointer of Git LFS", "fetch the picture by `git lfs pull`"
    name = next((name for mark, name in OTHER_KINDS.items() if mark in content[:12]), None)
    return name and (f"{name}, which Pillow does not read", "convert it to JPEG or PNG")


@contextmanager
def _opened(content):
    """The Pillow image in a file's bytes; `files.Unreadable` for one that is too large or deep."""
    # From memory: a TIFF that Pillow maps from a file loses its turn if it has four channels.
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Unreadable(
                f"{width:,} x {height:,} pixels are more than {MAX_PIXELS:,}",
                "make it smaller, or cut it into tiles",
            )
        if _is_deep(image, content):
            raise Unreadable("more than 8 bits a colour", CONVERT)
        yield image


def _decode_any(content, near):
    with _opened(content) as image:
        if near:
            image.draft("RGB", (near, near))
        image.load()  # a TIFF turns itself, and forgets its orientation
        return _upright(np.array(_on_white(image)), _orientation(content, image))


def _is_deep(image, content):
    """Whether an image has more than 8 bits a colour; of some, Pillow silently takes the upper."""
    if image.format == "PNG":
        return content[24] == 16  # in the header, behind width and height
    if image.format == "TIFF":
        return np.max(image.tag_v2.get(258, 1)) > 8  # BitsPerSample
    return image.mode.startswith(("I", "F"))


def _on_white(image):
    """A Pillow image as RGB, where it is transparent on white: its hidden colours are arbitrary."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


# ---------------------------------------------------------------- JPEG
def _decode_jpeg(content, near):
    """An intact JPEG as uint8 (H, W, 3), None where Pillow has to decode or refuse it; damage."""
    if simplejpeg is None or not content.startswith(JPEG):
        return None, ""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
            return None, ""
        pixels = simplejpeg.decode_jpeg(content, min_height=near, min_width=near)
    except ValueError as error:
        return None, " ".join(str(error).split())
    return _upright(pixels, _orientation(content)), ""


def _exif_segment(content):
    """The EXIF data of a JPEG's header, "" where it has none: a walk over some five segments."""
    place = len(JPEG)
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != SCAN:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == APP1 and content.startswith(b"Exif\0\0", place + 4):
            return content[place + 4 : place + 2 + length]
        place += 1 if marker == FILL else 2 + length
    return b""


# ---------------------------------------------------------------- orientation
def _orientation(content, image=None):
    """The EXIF orientation of a JPEG, or of another Pillow image; 1, upright, if there is none."""
    try:
        if not content.startswith(JPEG):
            exif = image.getexif()
        elif segment := _exif_segment(content):
            exif = Image.Exif()
            exif.load(segment)
        else:
            return 1
        return exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged bytes, as above; a viewer shows such an image as it is stored
        return 1


def _upright(pixels, orientation):
    """Stored pixels (H, W, C) of an EXIF orientation, 1 to 8, as they are to be seen."""
    if orientation not in range(2, 9):
        return pixels
    colours = pixels.shape[2]
    turned = pixels.view(f"V{colours}")[..., 0]  # whole pixels are moved in half the time of bytes
    if orientation in (5, 6, 7, 8):
        turned = turned.T
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return np.ascontiguousarray(turned).view(np.uint8).reshape(*turned.shape, colours)
