"""Photos to locate, and the places that they carry themselves.

A place comes from the GPS block of EXIF (with its hemispheres), else from the drone maker's XMP
(drone-dji:GpsLatitude and the like). Zero, void and undefined values count as no place.
"""

import math
import re
import sys
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from imaging.files import Unreadable, is_image_name, need_file, need_utf8
from imaging.pixels import decode_file
from runtime.printing import printable

LIMITS = {"latitude": 90, "longitude": 180}  # degrees
# <tag>="1.5" or <tag>1.5</tag>; DJI's older cameras spell it Longtitude.
XMP_VALUE = r"[\w-]+:G[pP][sS]{name}(?:=\"|>)([^\"<]*)"
# 33,51.5S or 33,51,30S. Source: XMP Specification, part 2, GPSCoordinate.
XMP_COORDINATE = re.compile(r"(\d+),(\d+(?:\.\d*)?)(?:,(\d+(?:\.\d*)?))?([NSEW])")
XMP_NAMES = {"latitude": "Latitude", "longitude": "Longt?itude"}
# Pictures that are not read, by their suffix: of telephones, and the raw files of cameras.
OTHER_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".dng", ".arw",
                            ".cr2", ".cr3", ".gpr", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2",
                            ".srw"})  # fmt: skip


class PhotoPlace(NamedTuple):
    """What a photo says of itself."""

    place: tuple[float, float] | None  # latitude and longitude, degrees of WGS 84
    note: str  # where the place is from, or why there is none
    time: datetime | None  # when it was taken, by its own clock
    seconds: float | None = None  # of a video's frame: since the first frame


class Damaged(OSError):
    """A photo or video that cannot be read, and why: no reason to give up the others."""

    def __init__(self, path, note):
        super().__init__(f"{path} {note}")
        self.path, self.note = path, note

    @classmethod
    def by(cls, fault, path, kind="an image"):
        """As an `imaging.files.Unreadable` says."""
        return cls(path, f"cannot be read as {kind} ({fault.reason}): {fault.advice}")


def list_photos(names, wanted=is_image_name):
    """The image files that names stand for: files, and folders with all images below them.

    `wanted` says which paths in a folder count; how many other pictures there are is printed.
    Raises FileNotFoundError for a name of nothing, ValueError for a folder without images.
    """
    photos = []
    for name in map(Path, names):
        if name.is_dir():
            below = sorted(name.rglob("*"))
            found = list(filter(wanted, below))
            others = _other_pictures(below, found)
            if others and not found:
                raise ValueError(f"{name} holds no images but {others}: convert them to JPEG")
            if others:
                print(f"warning: {printable(name)}: {others} are passed over: convert them to JPEG",
                      file=sys.stderr)  # fmt: skip
            if not found:
                raise ValueError(f"{name} holds no images: name a folder of photos")
            photos += found
        elif name.exists() or name.is_symlink():
            photos.append(name)
        else:
            raise FileNotFoundError(f"photo {name} not found: name a file, or a folder of photos")
    for photo in photos:
        need_utf8(photo)
    return list(dict.fromkeys(photos))


def _other_pictures(paths, found):
    """How many of paths are pictures that are not read, and of which kinds; "" for none.

    A raw file beside a JPEG of the same name does not count: that one is `found`.
    """
    stems = {path.with_suffix("") for path in found}
    kinds = Counter(path.suffix.lower() for path in paths
                    if path.suffix.lower() in OTHER_SUFFIXES and not path.name.startswith(".")
                    and path.with_suffix("") not in stems)  # fmt: skip
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def read_each(paths, read):
    """({path: what `read` gives of it}, [`Damaged`] of the others).

    Raises `Damaged` where none can be read.
    """
    found, damaged = {}, []
    for path in paths:
        try:
            found[path] = read(path)
        except Damaged as damage:
            damaged.append(damage)
    need_some(found, damaged)
    return found, damaged


def need_some(found, damaged):
    """Raise the first `Damaged`, if there are any, where nothing else was found."""
    if damaged and not len(found):
        of = f"; it is the first of {len(damaged)} such files" if len(damaged) > 1 else ""
        raise Damaged(damaged[0].path, damaged[0].note + of)


def read_place(path):
    """The `PhotoPlace` of a photo. Raises `Damaged` where it cannot be read as an image."""
    try:
        need_file(path)
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
    except Unreadable as fault:
        raise Damaged.by(fault, path) from None
    except Exception as error:  # damaged bytes lead decoders into errors of any type
        return _without_header(path, error)
    place, note = _from_exif(gps)
    if place is None:
        place, found = _from_xmp(xmp)
        note = found or note
    return PhotoPlace(place, note, _time(moment, part, offset))


def _without_header(path, error):
    """The `PhotoPlace` of a photo whose header cannot be read, if the picture can be."""
    try:
        decode_file(path)
    except Unreadable as fault:
        raise Damaged.by(fault, path) from None
    return PhotoPlace(None, f"the header cannot be read ({' '.join(str(error).split())})", None)


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
