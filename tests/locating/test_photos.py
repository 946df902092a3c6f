"""Photos to locate, and the places that they carry."""

import os
import sys
from datetime import datetime, timezone

import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from locating.photos import Damaged, PhotoPlace, exif_of, list_photos, read_each, read_place

GPS = ExifTags.GPS
GRETZ = {
    GPS.GPSLatitudeRef: "N",
    GPS.GPSLatitude: (IFDRational(48), IFDRational(8), IFDRational(249, 10)),
    GPS.GPSLongitudeRef: "E",
    GPS.GPSLongitude: (11.0, 33.0, 36.0),
}
PLACE = (48 + 8 / 60 + 24.9 / 3600, 11 + 33 / 60 + 36 / 3600)


def photo(path, gps=None, xmp=None, moment=None, part=None):
    exif = Image.Exif()
    if gps:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    if moment:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = moment
    if part:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.SubsecTimeOriginal] = part
    settings = {"xmp": xmp} if xmp else {}
    Image.new("RGB", (8, 8)).save(path, exif=exif, **settings)
    return path


@pytest.mark.parametrize("ns, ew, signs", [
    ("N", "E", (1, 1)), ("S", "E", (-1, 1)), ("N", "W", (1, -1)), ("S", "W", (-1, -1)),
])  # fmt: skip
def test_hemispheres(tmp_path, ns, ew, signs):
    gps = GRETZ | {GPS.GPSLatitudeRef: ns, GPS.GPSLongitudeRef: ew}
    found = read_place(photo(tmp_path / "a.jpg", gps))
    assert found.place == pytest.approx([s * p for s, p in zip(signs, PLACE, strict=True)])
    assert found.note == "EXIF"


@pytest.mark.parametrize("changes, note", [
    ({GPS.GPSLatitudeRef: ""}, "the latitude in EXIF has no hemisphere (N or S)"),
    ({GPS.GPSStatus: "V"}, "the place in EXIF is marked as void"),
    ({GPS.GPSLatitude: (0, 0, 0), GPS.GPSLongitude: (0, 0, 0)}, "the place in EXIF is zero"),
    ({GPS.GPSLatitude: (IFDRational(48, 0), 8, 0)}, "the latitude in EXIF is undefined"),
    ({GPS.GPSLatitude: (95, 0, 0)}, "the latitude in EXIF is undefined"),
])  # fmt: skip
def test_no_place_is_said(tmp_path, changes, note):
    found = read_place(photo(tmp_path / "a.jpg", GRETZ | changes))
    assert (found.place, found.note) == (None, note)


def test_a_photo_without_any(tmp_path):
    found = read_place(photo(tmp_path / "a.jpg"))
    assert found == PhotoPlace(None, "no place in EXIF or XMP", None)


@pytest.mark.parametrize("text", [
    '<x><rdf:x drone-dji:GpsLatitude="-33.8568" drone-dji:GpsLongitude="+151.2153"/></x>',
    '<x><rdf:x drone-dji:GpsLatitude="-33.8568" drone-dji:GpsLongtitude="151.2153"/></x>',
    "<x><drone-parrot:GPSLatitude>-33.8568</drone-parrot:GPSLatitude>"
    "<drone-parrot:GPSLongitude>151.2153</drone-parrot:GPSLongitude></x>",
    '<x exif:GPSLatitude="33,51.408S" exif:GPSLongitude="151,12,55.08E"/>',
])  # fmt: skip
def test_place_of_the_drones_maker(tmp_path, text):
    void = GRETZ | {GPS.GPSStatus: "V"}
    for gps in (None, void):
        found = read_place(photo(tmp_path / "a.jpg", gps, xmp=text.encode()))
        assert found.place == pytest.approx((-33.8568, 151.2153))
        assert found.note == "XMP"


@pytest.mark.parametrize("latitude", ["33,51.4", "33.8S", "", "1.2.3"])
def test_no_place_in_xmp_is_guessed(tmp_path, latitude):
    text = f'<x exif:GPSLatitude="{latitude}" exif:GPSLongitude="151,12,55.08E"/>'
    assert read_place(photo(tmp_path / "a.jpg", xmp=text.encode())).place is None


def test_exif_counts_before_xmp(tmp_path):
    text = b'<x drone-dji:GpsLatitude="1" drone-dji:GpsLongitude="2"/>'
    assert read_place(photo(tmp_path / "a.jpg", GRETZ, xmp=text)).place == pytest.approx(PLACE)


def test_zeros_in_xmp(tmp_path):
    text = b'<x drone-dji:GpsLatitude="0.0" drone-dji:GpsLongitude="0"/>'
    assert read_place(photo(tmp_path / "a.jpg", xmp=text))[:2] == (None, "the place in XMP is zero")


def test_time(tmp_path):
    found = read_place(photo(tmp_path / "a.jpg", moment="2024:05:17 10:11:12"))
    assert found.time == datetime(2024, 5, 17, 10, 11, 12)
    assert read_place(photo(tmp_path / "b.jpg", moment="no time")).time is None


@pytest.mark.parametrize("part, microsecond", [
    ("5", 500000), ("042", 42000), ("50 ", 500000), ("", 0), ("?", 0), ("1234567", 123457),
])  # fmt: skip
def test_parts_of_a_second(tmp_path, part, microsecond):
    path = photo(tmp_path / "a.jpg", moment="2024:05:17 10:11:12", part=part)
    assert read_place(path).time == datetime(2024, 5, 17, 10, 11, 12, microsecond)


@pytest.mark.parametrize("place", [(-33.8568123, 151.2153321), (48.1, -11.5), None])
@pytest.mark.parametrize("time", [
    datetime(2024, 5, 17, 10, 11, 12, 33000), datetime(2024, 5, 17, tzinfo=timezone.utc), None,
])  # fmt: skip
def test_what_is_written_is_read(tmp_path, place, time):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif_of(place, time))
    found = read_place(tmp_path / "a.jpg")
    assert repr(found.time) == repr(time) and found.place == (
        place and pytest.approx(place, abs=1e-8)
    )


def test_what_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(Damaged, match="cannot be read as an image"):
        read_place(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    with pytest.raises(
        Damaged, match="HEIC photo, which Pillow does not read.: convert it to JPEG"
    ):
        read_place(tmp_path / "b.jpg")


def test_a_damaged_header_leaves_the_picture(tmp_path, monkeypatch):
    def getexif(image):
        raise SyntaxError("not a\nTIFF file")

    path = photo(tmp_path / "a.jpg", GRETZ)
    monkeypatch.setattr(Image.Image, "getexif", getexif)
    assert read_place(path)[:2] == (None, "the header cannot be read (not a TIFF file)")


def test_pictures_that_are_not_read_are_counted(tmp_path, capsys):
    """Also those of telephones and raw files; a raw file beside a JPEG is no loss."""
    for name in ("b.HEIC", "c.heic", "d.dng", ".e.heic", "f.txt", "deep/a.DNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="holds no images but 2 .dng, 2 .heic: convert them to JP"):
        list_photos([tmp_path])
    found = [photo(tmp_path / "a.jpg"), photo(tmp_path / "d.JPG")]
    assert list_photos([tmp_path]) == found
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}: 1 .dng, 2 .heic are passed over: convert them to JPEG\n"
    )


def test_files_and_folders(tmp_path):
    a, b = photo(tmp_path / "b.jpg"), photo(tmp_path / "c.jpg")
    (tmp_path / "deep").mkdir()
    c = photo(tmp_path / "deep" / "a.JPG")
    (tmp_path / "notes.txt").write_text("")
    assert list_photos([tmp_path]) == sorted([a, b, c])
    assert list_photos([b, tmp_path]) == [b, a, c]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        list_photos([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg not found"):
        list_photos(["gone.jpg"])


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
def test_a_name_that_no_table_can_hold(tmp_path):
    path = photo(tmp_path / "a.jpg").rename(tmp_path / os.fsdecode(b"a\xff.jpg"))
    for names in ([path], [tmp_path]):
        with pytest.raises(ValueError, match="has a name that is not UTF-8: rename it"):
            list_photos(names)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for names in ([tmp_path], [tmp_path / "pipe.jpg"]):
        with pytest.raises(Damaged, match="a pipe or a device, not a file"):
            read_each(list_photos(names), read_place)
