"""Frames of videos that the tests write themselves."""

import csv
import os
import re
import sys
from datetime import datetime, timezone
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import locate
import prepare
from locating.photos import Damaged, read_place
from locating.video import photos_and_frames, write_frames

SIZE = (64, 48)
LEVELS = 8  # the grey of frame i is LEVELS * i


@pytest.fixture
def video(workdir):
    """A function that writes a video: upper left corner red, the rest a grey that tells frames."""
    av = pytest.importorskip("av", reason="needs the package av")

    def write(name, times, movflags="", began=None, prepare=lambda stream: None):
        with av.open(name, "w", options={"movflags": movflags} if movflags else {}) as container:
            if began:
                container.metadata["creation_time"] = began
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height = SIZE
            stream.pix_fmt, stream.gop_size, stream.bit_rate = "yuv420p", 5, 2_000_000
            stream.codec_context.time_base = Fraction(1, 1000)
            prepare(stream)
            for index, time in enumerate(times):
                pixels = np.full((*SIZE[::-1], 3), LEVELS * index % 256, np.uint8)
                pixels[:16, :16] = 255, 0, 0
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return workdir / name

    return write


def numbers(frames):
    """Which frames of the video the files show, by their grey."""
    middles = [np.asarray(Image.open(file))[24:, 24:].mean() for file, _ in frames]
    return [round(middle / LEVELS) for middle in middles]


def test_a_constant_rate(video, workdir):
    path = video("a.mp4", np.arange(25) / 10, began="2024-05-17T10:11:12.000000Z")
    frames = write_frames(path, 0.5, workdir / "frames", "a")
    assert [file.name for file, _ in frames] == [
        f"a_0000{s}.jpg" for s in ("0.000", "0.500", "1.000", "1.500", "2.000")
    ]
    assert numbers(frames) == [0, 5, 10, 15, 20]
    assert [place.seconds for _, place in frames] == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert frames[3][1].time == datetime(2024, 5, 17, 10, 11, 13, 500000, timezone.utc)
    assert frames[0][1][:2] == (None, "no .SRT beside a.mp4")
    # Those of an earlier run go, the frames of others stay.
    (workdir / "frames" / "ab_00001.000.jpg").write_text("")
    assert numbers(write_frames(path, 2, workdir / "frames", "a")) == [0, 20]
    names = sorted(file.name for file in (workdir / "frames").iterdir())
    assert names == ["a_00000.000.jpg", "a_00002.000.jpg", "ab_00001.000.jpg"]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_rate_that_is_not_whole(video, workdir, suffix):
    frames = write_frames(video(f"a.{suffix}", np.arange(40) / 29.97), 0.5, workdir / "f", "a")
    if suffix == "avi":  # has no times, but the rate of its header
        return
    assert numbers(frames) == [0, 15, 30]
    assert [place.seconds for _, place in frames] == pytest.approx([0, 0.5, 1], abs=0.002)


def test_a_variable_rate(video, workdir):
    """Times are those of presentation; after a pause the beat goes on, nothing comes twice."""
    path = video("a.mp4", [0, 0.1, 0.2, 0.9, 1.1, 1.2, 4.5, 4.6, 5.2])
    frames = write_frames(path, 1, workdir / "f", "a")
    assert [place.seconds for _, place in frames] == pytest.approx([0, 1.1, 4.5, 5.2])
    assert numbers(frames) == [0, 4, 6, 8]
    assert frames[0][1].time is None


# Where the red corner is once a player has turned the picture by the matrix (a b; c d), and the
# same for one that is mirrored too.
@pytest.mark.parametrize("matrix, corner", [
    ((1, 0, 0, 1), "upper left"), ((0, 1, -1, 0), "upper right"),
    ((-1, 0, 0, -1), "lower right"), ((0, -1, 1, 0), "lower left"),
    ((-1, 0, 0, 1), "upper right"), ((0, 1, 1, 0), "upper left"),
])  # fmt: skip
def test_a_turned_video(video, workdir, matrix, corner):
    a, b, c, d = (65536 * value for value in matrix)

    def turn(stream):
        if not hasattr(stream, "set_display_matrix"):
            pytest.skip("this av cannot write a turned video")
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])

    ((file, _),) = write_frames(video("a.mp4", [0], prepare=turn), 1, workdir / "f", "a")
    image = Image.open(file)
    assert image.size == (SIZE if matrix[0] else SIZE[::-1])
    row, column = (-4 if word in corner else 4 for word in ("lower", "right"))
    red, green, blue = np.asarray(image)[row, column].astype(int)
    assert red > 180 and green < 70 and blue < 70


def test_a_cut_video(video, workdir, capsys):
    whole = video("a.mp4", np.arange(100) / 10, movflags="faststart").read_bytes()
    cut = workdir / "cut.mp4"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    frames = write_frames(cut, 1, workdir / "f", "cut")
    count = len(frames)
    assert 3 <= count <= 7 and [round(f.seconds) for _, f in frames] == list(range(count))
    said = re.search(r"cut.mp4 ends early: (\S+) of 9.9 seconds could be read",
                     capsys.readouterr().out)  # fmt: skip
    assert count - 1 <= float(said[1]) <= count + 0.1
    broken = video("b.mp4", np.arange(100) / 10).read_bytes()  # whose index would be at the end
    cut.write_bytes(broken[: len(broken) * 6 // 10])
    with pytest.raises(OSError, match="cut.mp4 cannot be read as a video .*: copy it again"):
        write_frames(cut, 1, workdir / "f", "cut")


def test_damaged_parts_are_passed_over(video, workdir, capsys):
    path = video("a.mp4", np.arange(60) / 10, movflags="faststart")
    damaged = bytearray(path.read_bytes())
    start = damaged.index(b"mdat") + (len(damaged) - damaged.index(b"mdat")) // 2
    damaged[start : start + 800] = bytes(800)
    path.write_bytes(damaged)
    seconds = [frame.seconds for _, frame in write_frames(path, 1, workdir / "f", "a")]
    assert seconds[0] == 0 and seconds[-1] == pytest.approx(5) and len(seconds) >= 5


def test_subtitles_give_the_places(video, workdir):
    path = video("a.mp4", np.arange(22) / 10)
    (workdir / "a.SRT").write_text(
        "1\n00:00:00,000 --> 00:00:01,000\n[latitude: 22.5] [longitude: 113.9]\n\n"
        "2\n00:00:01,000 --> 00:00:02,000\n[latitude: 0.0] [longitude: 0.0]\n\n"
    )
    frames = write_frames(path, 1, workdir / "f", "a")
    assert [read_place(file).place for file, _ in frames] == [(22.5, 113.9), None, None]
    assert [place[:2] for _, place in frames] == [
        ((22.5, 113.9), "a.SRT"), (None, "the place in a.SRT is zero"),
        (None, "the place in a.SRT is zero"),
    ]  # fmt: skip


def test_the_clock_in_subtitles_is_that_of_the_photos(video, workdir):
    path = video("a.mp4", np.arange(15) / 10, began="2024-05-17T10:11:12.000000Z")
    (workdir / "a.SRT").write_text("00:00:00,000 --> 00:00:01,000\n2024-05-17 12:11:13.250\n")
    frames = write_frames(path, 1, workdir / "f", "a")
    times = [datetime(2024, 5, 17, 12, 11, second, 250000) for second in (13, 14)]
    assert [place.time for _, place in frames] == times
    assert [read_place(file).time for file, _ in frames] == times


def test_photos_and_videos_together(video, workdir, capsys):
    """Named by itself a video gives a frame a second; one in a folder waits for --every."""
    for folder in ("one", "two"):
        (workdir / folder).mkdir()
        Image.new("RGB", SIZE).save(f"{folder}/photo.jpg")
        video(f"{folder}/a.mp4", np.arange(15) / 10)
    photos, known, _ = photos_and_frames(["one", "two"], None, workdir / "f")
    assert [str(photo) for photo in photos] == ["one/photo.jpg", "two/photo.jpg"]
    assert "2 video(s) in the folders are passed over, first one/a.mp4" in capsys.readouterr().out
    photos, known, _ = photos_and_frames(["one/photo.jpg", "one/a.mp4"], None, workdir / "f")
    assert [photo.name for photo in photos] == ["photo.jpg", "a_00000.000.jpg", "a_00001.000.jpg"]
    assert [place.seconds for place in known] == [None, 0, 1]
    photos, known, _ = photos_and_frames(["one", "two"], 1, workdir / "f")
    assert [photo.name for photo in photos] == [
        "a_00000.000.jpg", "a_00001.000.jpg", "photo.jpg",
        "a-2_00000.000.jpg", "a-2_00001.000.jpg", "photo.jpg",
    ]  # fmt: skip
    assert all(photo.is_file() for photo in photos) and capsys.readouterr().out == ""
    again, _, _ = photos_and_frames([workdir], 0.5, workdir / "f")  # frames are no photos of it
    assert sum(photo.name == "photo.jpg" for photo in again) == 2 and len(again) == 2 + 2 * 3
    with pytest.raises(ValueError, match="--every 2 takes frames of videos, and there is none in"):
        photos_and_frames(["one/photo.jpg"], 2, workdir / "f")


def test_a_video_is_located_as_a_flight(video, small_run, workdir, capsys):
    """The whole command: frames, places by the .SRT, the path, columns of the table."""
    video("a.mp4", np.arange(31) / 10, began="2024-05-17T10:11:12.000000Z")
    blocks = [f"00:00:0{i},000 --> 00:00:0{i + 1},000\n[latitude: -33.855] [longitude: "
              f"{151.202 + i / 2000}]\n" for i in range(4)]  # fmt: skip
    (workdir / "a.srt").write_text("\n".join(blocks))
    Image.effect_noise((300, 300), 90).convert("RGB").save("map.png")
    corners = "-33.85,151.2;-33.85,151.21;-33.86,151.21;-33.86,151.2"
    prepare.main(["tiles", "map.png", "--corners", corners, "--metres", "400", "--pixels", "32",
                  "--out", "map"])  # fmt: skip
    options = "--every 1 --flight --name small --map map --device cpu --num_workers 0"
    found = locate.main(["a.mp4", *options.split(), "--output", "out/a"])["photos"]
    names = [f"out/a_frames/a_0000{i}.000.jpg" for i in range(4)]
    assert [row["photo"] for row in found] == names and all(map(os.path.isfile, names))
    assert [row["time"] for row in found] == [f"2024-05-17T10:11:{12 + i}+00:00" for i in range(4)]
    assert [row["true_longitude"] for row in found] == [151.202, 151.2025, 151.203, 151.2035]
    with open("out/a.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["time"] for row in table] == [row["time"] for row in found]
    assert all(row["path_error_metres"] and row["note"].startswith("a.srt") for row in table)
    assert "path: 4 frames in 3 s" in capsys.readouterr().out


def test_what_is_no_video(video, workdir, monkeypatch):
    av = sys.modules["av"]
    with av.open("sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(Damaged, match="sound.mp4 holds no video stream"):
        write_frames(workdir / "sound.mp4", 1, workdir / "f", "sound")
    path = video("a.mp4", np.arange(20) / 10, movflags="faststart")
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"mdat") + 4])
    with pytest.raises(Damaged, match="a.mp4 holds no frame that can be read"):
        write_frames(path, 1, workdir / "f", "a")
    (workdir / "text.mp4").write_text("no video")
    with pytest.raises(Damaged, match="text.mp4 cannot be read as a video"):
        write_frames(workdir / "text.mp4", 1, workdir / "f", "text")
    # None of them stops the others.
    path.write_bytes(whole)
    photos, _, damaged = photos_and_frames([workdir], 10, workdir / "f")
    assert [each.path.name for each in damaged] == ["sound.mp4", "text.mp4"]
    assert [photo.name for photo in photos] == ["a_00000.000.jpg"]
    with pytest.raises(Damaged, match="sound.mp4 holds no video stream: .* is the first of 2"):
        photos_and_frames(["sound.mp4", "text.mp4"], 1, workdir / "f")


def test_without_the_package(workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (workdir / "a.mp4").write_text("")
    with pytest.raises(ValueError, match=r"a video \(a.mp4\) needs the av package: pip install -r "
                       "requirements-video.txt"):  # fmt: skip
        photos_and_frames(["a.mp4"], None, workdir / "f")
