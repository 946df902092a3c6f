"""Photos to locate, and the places that they carry themselves.

A place comes from the GPS block of EXIF (with its hemispheres), else from the drone maker's XMP
(drone-dji:GpsLatitude and the like). Zero, void and undefined values count as no place.
"""

import math
import re
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from imaging.files import is_image_name, need_files, need_utf8

LIMITS = {"latitude": 90, "longitude": 180}  # degrees
# <tag>="1.5" or <tag>1.5</tag>; DJI's older cameras spell it Longtitude.
XMP_VALUE = r"[\w-]+:G[pP][sS]{name}(?:=\"|>)([^\"<]*)"
# 33,51.5S or 33,51,30S. Source: XMP Specification, part 2, GPSCoordinate.
XMP_COORDINATE = re.compile(r"(\d+),(\d+(?:\.\d*)?)(?:,(\d+(?:\.\d*)?))?([NSEW])")
XMP_NAMES = {"latitude": "Latitude", "longitude": "Longt?itude"}


class PhotoPlace(NamedTuple):
    """What a photo says of itself."""

    place: tuple[float, float] | None  # latitude and longitude, degrees of WGS 84
    note: str  # where the place is from, or why there is none
    time: datetime | None  # when it was taken, by its own clock
    seconds: float | None = None  # of a video's frame: since the first frame


def list_photos(names, wanted=is_image_name):
    """The image files that names stand for: files, and folders with all images below them.

    `wanted` says which paths in a folder count. Raises FileNotFoundError for a name of nothing,
    ValueError for a folder without images, OSError for what has the name of an image and is no
    file.
    """
    photos = []
    for name in map(Path, names):
        if name.is_dir():
            found = sorted(filter(wanted, name.rglob("*")))
            if not found:
                raise ValueError(f"{name} holds no images: name a folder of photos")
            photos += found
        elif name.exists():
            photos.append(name)
        else:
            raise FileNotFoundError(f"photo {name} not found: name a file, or a folder of photos")
    need_files(photos)
    for photo in photos:
        need_utf8(photo)
    return list(dict.fromkeys(photos))


def read_place(path):
    """The `PhotoPlace` of a photo. OSError where it cannot be read as an image."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
            taken = exif.get_ifd(ExifTags.IFD.Exif)
            moment = taken.get(ExifTags.Base.DateTimeOriginal)
            part = taken.get(ExifTags.Base.SubsecTimeOriginal)
            offset = taken.get(ExifTags.Base.OffsetTimeOriginal)
            if not moment:
                moment, part = exif.get(ExifTags.Base.DateTime), taken.get(ExifTags.Base.SubsecTime)
                offset = taken.get(ExifTags.Base.OffsetTime)
            xmp = image.info.get("xmp") or b""
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{path} cannot be read as an image ({reason})") from None
    place, note = _from_exif(gps)
    if place is None:
        place, found = _from_xmp(xmp)
        note = found or note
    return PhotoPlace(place, note, _time(moment, part, offset))


def exif_of(place, time):
    """The `Image.Exif` that tells a place in degrees and a time, either of them or None."""
    exif = Image.Exif()
    if time:
        exif.get_ifd(ExifTags.IFD.Exif).update({
            ExifTags.Base.DateTimeOriginal: time.strftime("%Y:%m:%d %H:%M:%S"),
            ExifTags.Base.SubsecTimeOriginal: f"{time.microsecond:06d}",
        })  # fmt: skip
        if time.tzinfo:
            offset = time.isoformat()[-6:]  # +00:00
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.OffsetTimeOriginal] = offset
    if place:
        latitude, longitude = place
        exif.get_ifd(ExifTags.IFD.GPSInfo).update({
            ExifTags.GPS.GPSLatitudeRef: "S" if latitude < 0 else "N",
            ExifTags.GPS.GPSLatitude: (abs(latitude), 0.0, 0.0),
            ExifTags.GPS.GPSLongitudeRef: "W" if longitude < 0 else "E",
            ExifTags.GPS.GPSLongitude: (abs(longitude), 0.0, 0.0),
        })  # fmt: skip
    return exif


def _from_exif(gps):
    if not gps:
        return None, "no place in EXIF or XMP"
    if gps.get(ExifTags.GPS.GPSStatus) in ("V", b"V"):
        return None, "the place in EXIF is marked as void"
    values = {}
    for axis, tag, reference, letters in (
        ("latitude", ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "NS"),
        ("longitude", ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "EW"),
    ):
        letter = gps.get(reference, "")
        letter = letter.decode("ascii", "replace") if isinstance(letter, bytes) else str(letter)
        letter = letter.strip("\0 ").upper()
        if letter not in tuple(letters):
            return None, f"the {axis} in EXIF has no hemisphere ({' or '.join(letters)})"
        degrees = _degrees(gps.get(tag))
        if not abs(degrees) <= LIMITS[axis]:  # nan too
            return None, f"the {axis} in EXIF is undefined"
        values[axis] = degrees if letter in "NE" else -degrees
    return usable_place(**values, source="EXIF")


def _degrees(parts):
    """Degrees of (degrees, minutes, seconds), three rationals; nan where they are not that."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
    return degrees + minutes / 60 + seconds / 3600


def _from_xmp(xmp):
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp)
    values = {}
    for axis, name in XMP_NAMES.items():
        found = re.search(XMP_VALUE.replace("{name}", name), text)
        try:
            values[axis] = _xmp_degrees(found[1].strip())
        except (TypeError, ValueError):
            return None, ""
    return usable_place(**values, source="XMP")


def _xmp_degrees(text):
    """Degrees as drone makers write them, +33.85, or as XMP does; ValueError for others."""
    found = XMP_COORDINATE.fullmatch(text)
    if not found:
        return float(text)
    degrees = float(found[1]) + float(found[2]) / 60 + float(found[3] or 0) / 3600
    return -degrees if found[4] in "SW" else degrees


def usable_place(latitude, longitude, source):
    """((latitude, longitude), source), or (None, why it is no place) for zeros and no degrees."""
    for axis, value in (("latitude", latitude), ("longitude", longitude)):
        if not abs(value) <= LIMITS[axis]:
            return None, f"the {axis} in {source} is no number of degrees"
    if not (latitude or longitude):
        return None, f"the place in {source} is zero"
    return (latitude, longitude), source


def _time(text, part=None, offset=None):
    """The datetime of EXIF's text, of its fraction of a second, and of its offset from UTC."""
    try:
        moment = datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    digits = str(part or "").strip("\0 ")
    fraction = float(f"0.{digits}") if digits.isascii() and digits.isdigit() else 0
    with suppress(ValueError):
        moment = moment.replace(tzinfo=datetime.strptime(str(offset).strip("\0 "), "%z").tzinfo)
    return moment + timedelta(seconds=fraction)
