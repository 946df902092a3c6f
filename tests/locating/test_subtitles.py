"""Places in the .SRT of a drone's video."""

from datetime import datetime

import pytest

from locating.subtitles import find_subtitles, read_subtitles

NEWER = """1
00:00:00,000 --> 00:00:00,033
<font size="28">FrameCnt: 1, DiffTime: 33ms
2024-05-17 10:11:12.000
[iso: 100] [latitude: -33.85] [longitude: 151.21] [rel_alt: 98.1 abs_alt: 130.2] </font>

2
00:00:00,033 --> 00:00:00,066
[iso : 100] [latitude : -33.86] [longtitude : 151.22] [altitude: 20.0]

3
00:00:01,000 --> 00:00:02,000
[latitude: 95.0] [longitude: 151.22]

4
00:00:02,000 --> 00:00:03,000
[latitude: 0.000000] [longitude: 0.000000]

5
00:00:03,000 --> 00:00:04,000
no receiver
"""
OLDER = """1
00:00:01,000 --> 00:00:02,000
HOME(149.02,-20.25) 2017.08.05 14:11:51
GPS(149.0251,-20.2533,16) BAROMETER:1.9

2
00:00:02,000 --> 00:00:03,000
F/2.8, SS 206.14, ISO 100, GPS (149.0252, -20.2534, 15), D 24.76m

3
00:00:03,000 --> 00:00:04,000
GPS(0.0000,0.0000,0) BAROMETER:1.9
"""
FIRST, SECOND = ((-33.85, 151.21), "a.SRT"), ((-33.86, 151.22), "a.SRT")


@pytest.fixture
def subtitles(tmp_path):
    def read(text):
        (tmp_path / "a.SRT").write_text(text, encoding="utf-8")
        return read_subtitles(tmp_path / "a.SRT")

    return read


@pytest.mark.parametrize("seconds, expected", [
    (0, FIRST), (0.032, FIRST), (0.0334, SECOND), (0.1, SECOND),
    (0.5, (None, "a.SRT has no block for the frame")), (0.95, (None, "the latitude in a.SRT is no "
     "number of degrees")), (1.5, (None, "the latitude in a.SRT is no number of degrees")),
    (2, (None, "the place in a.SRT is zero")), (3, (None, "a.SRT tells no place for the frame")),
    (9, (None, "a.SRT has no block for the frame")),
])  # fmt: skip
def test_named_values(subtitles, seconds, expected):
    assert subtitles(NEWER).place_at(seconds) == expected
    assert subtitles("\ufeff" + NEWER.replace("\n", "\r\n")).place_at(seconds) == expected


def test_longitude_first(subtitles):
    found = subtitles(OLDER)
    assert found.place_at(0)[0] is None
    assert found.place_at(1) == found.place_at(1.9) == ((-20.2533, 149.0251), "a.SRT")
    assert found.place_at(2.5)[0] == (-20.2534, 149.0252)
    assert found.place_at(3.5) == (None, "the place in a.SRT is zero")


@pytest.mark.parametrize("clock, moment", [
    ("2024-05-17 10:11:12.5", datetime(2024, 5, 17, 10, 11, 11, 500000)),
    ("2024-05-17 10:11:12,042,123", datetime(2024, 5, 17, 10, 11, 11, 42000)),
    ("HOME(149.02,-20.25) 2017.08.05 14:11:51", datetime(2017, 8, 5, 14, 11, 50)),
    ("2024-13-17 10:11:12", None), ("1970-01-01 00:00:12", None), ("10:11:12", None),
])  # fmt: skip
def test_the_clock_of_the_drone(subtitles, clock, moment):
    """The block with it begins after a second."""
    block = "00:00:00,000 --> 00:00:01,000\nno clock\n\n00:00:01,000 --> 00:00:02,000\n"
    assert subtitles(f"{block}{clock}\nGPS(1,2,3)\n").began() == moment
    assert subtitles("").began() is None


def test_a_cut_and_an_empty_file(subtitles):
    cut = subtitles(NEWER[: NEWER.index("3\n00")] + "3\n00:00:01,0")
    assert cut.place_at(0.05) == SECOND and len(cut.starts) == 2
    assert subtitles("").place_at(0) == (None, "a.SRT has no block for the frame")


def test_the_file_beside_the_video(tmp_path):
    (tmp_path / "b.SRT").write_text(NEWER)
    assert find_subtitles(tmp_path / "a.mp4") is None
    (tmp_path / "a.srt").write_text(OLDER)
    assert find_subtitles(tmp_path / "a.MP4").name == "a.srt"


def test_the_same_name_in_another_unicode_form(tmp_path):
    """Of a video on one system and an .SRT that was copied from another."""
    (tmp_path / "caf\xe9.SRT").write_text(NEWER)
    assert find_subtitles(tmp_path / "cafe\u0301.mp4").name == "caf\xe9.SRT"
