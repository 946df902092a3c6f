"""Frames of videos as photos: one every so many seconds, with its time and place.

A frame is turned upright and written as a JPEG into a folder, so that all that follows works on
files; its EXIF tells time and place, as `prepare.py pairs` needs them. The place is that of the
.SRT beside the video (see `locating.subtitles`), the time the one at which the recording began, by
the drone's clock in the .SRT as in its photos, else by the container, plus the frame's presentation
time.
"""

import itertools
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from PIL import Image

from imaging.files import Unreadable, is_image_name, need_file
from locating.photos import Damaged, PhotoPlace, exif_of, list_photos, read_each, read_place
from locating.subtitles import find_subtitles
from runtime.files import replacing
from runtime.optional import require
from runtime.printing import printable
from runtime.progress import progress_bar

PACKAGES = "-r requirements-video.txt"
SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".mpg",
                      ".mpeg", ".wmv", ".3gp"})  # fmt: skip
EVERY = 1.0  # seconds between the frames of a video that is named without --every
LATE = 0.002  # seconds by which a frame may be early: times are rounded in some containers
LOST = 0.5  # seconds by which a video must be shorter than it says to be called cut


def is_video_name(path):
    """Whether a path has the suffix of a video and is not a hidden file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def photos_and_frames(names, every, folder):
    """(paths, `PhotoPlace`s, [`Damaged`]) of the photos that names stand for and frames of videos.

    A video named by itself gives a frame every `every` seconds, 1 where that is None; those in
    folders do so only where it is not None, and else it is said that they are passed over. Frames
    are written into `folder`. The third are the files that cannot be read. Raises ValueError for
    `every` without a video, and what `list_photos` and `read_each` raise.
    """
    videos = _videos_in(names)
    if videos and every is None:
        print(
            f"{len(videos)} video(s) in the folders are passed over, first {printable(videos[0])}: "
            "--every 1 takes a frame a second"
        )
    made = folder.resolve()  # of an earlier run: these frames are made again

    def wanted(path):
        return _is_either(path) and made not in path.resolve().parents

    files = list_photos(names, is_image_name if every is None else wanted)
    if every is not None and not any(map(is_video_name, files)):
        raise ValueError(
            f"--every {every:g} takes frames of videos, and there is none in "
            f"{', '.join(map(str, names))}: name a video, or leave it out"
        )
    stems = set()

    def read(path):
        if not is_video_name(path):
            return [(path, read_place(path))]
        stem, number = path.stem, 1
        while stem in stems:  # videos of one name in several folders
            number += 1
            stem = f"{path.stem}-{number}"
        stems.add(stem)
        return write_frames(path, every or EVERY, folder, stem)

    found, damaged = read_each(files, read)
    photos, known = zip(*itertools.chain.from_iterable(found.values()), strict=True)
    return list(photos), list(known), damaged


def _is_either(path):
    return is_image_name(path) or is_video_name(path)


def _videos_in(names):
    """The videos in those of the names that are folders."""
    folders = [folder for folder in map(Path, names) if folder.is_dir()]
    return [path for folder in folders for path in sorted(folder.rglob("*")) if is_video_name(path)]


def write_frames(path, every, folder, stem):
    """[(file, `PhotoPlace`)] of a video's frames: the first, then one every `every` seconds.

    The files are `folder`/`stem`_<seconds>.jpg; those of an earlier run are removed. Raises
    ValueError where the package `av` is missing, `photos.Damaged` where there is no frame.
    """
    subtitles = find_subtitles(path)
    by_subtitles = subtitles and subtitles.began()
    frames = []
    for seconds, began, image in _frames(path, every):
        if not frames:
            _remove_frames(folder, stem)
        place, note = (None, f"no .SRT beside {path.name}")
        if subtitles:
            place, note = subtitles.place_at(seconds)
        began = by_subtitles or began
        time = began and began + timedelta(milliseconds=round(1000 * seconds))
        file = folder / f"{stem}_{seconds:09.3f}.jpg"
        with replacing(file) as temporary:
            image.save(temporary, quality=95, exif=exif_of(place, time))
        frames.append((file, PhotoPlace(place, note, time, seconds)))
    return frames


def _remove_frames(folder, stem):
    name = re.compile(re.escape(stem) + r"_\d{5,}\.\d{3}\.jpg")
    for file in folder.iterdir() if folder.is_dir() else ():
        if name.fullmatch(file.name):
            file.unlink()


# ---------------------------------------------------------------- decoding
def _frames(path, every):
    """Yield (seconds since the first frame, when the recording began, upright image)."""
    av = require("av", f"a video ({path})", PACKAGES)
    try:
        need_file(path)
        container = av.open(str(path))
    except Unreadable as fault:
        raise Damaged.by(fault, path, "a video") from None
    except av.error.FFmpegError as error:
        raise Damaged(
            path,
            f"cannot be read as a video ({error.strerror}): copy it again; a recording that broke "
            "off has no index, which a tool such as untrunc rebuilds",
        ) from None
    with container:
        if not container.streams.video:
            raise Damaged(path, "holds no video stream: name a video, or copy it again")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        began = _began(container, stream)
        first, due, end, damaged = None, 0, 0, []
        total = _length(container, stream)
        frames = _decoded(av, container, stream, damaged)
        for frame in progress_bar(frames, f"frames of {path.name}", stream.frames or None):
            if frame.time is None:
                continue
            first = frame.time if first is None else first
            seconds = frame.time - first
            end = max(end, seconds + float((frame.duration or 0) * frame.time_base))
            if seconds > due - LATE:
                due = (int((seconds + LATE) / every) + 1) * every
                yield seconds, began, _upright(frame)
    if first is None:
        raise Damaged(path, "holds no frame that can be read: copy it again")
    if total - end > LOST:
        print(f"{printable(path)} ends early: {end:.1f} of {total:.1f} seconds could be read")
    if damaged:
        print(
            f"{printable(path)}: {len(damaged)} damaged parts are passed over, first: {damaged[0]}"
        )


def _decoded(av, container, stream, damaged):
    """Yield the frames in the order in which they are shown; what is damaged is passed over."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None else None
        except av.error.FFmpegError as error:
            damaged.append(error.strerror)
            continue
        if frames is None:
            return
        yield from (frame for frame in frames if not frame.is_corrupt)


def _length(container, stream):
    """How many seconds of video the container promises; 0 where it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6  # microseconds


def _began(container, stream):
    """When the recording began, in UTC as containers tell it; None where they do not."""
    text = container.metadata.get("creation_time") or stream.metadata.get("creation_time") or ""
    try:
        began = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    began = began if began.tzinfo else began.replace(tzinfo=timezone.utc)
    return began if began.year > 1970 else None  # a clock that was never set


def _upright(frame):
    """A frame as it is to be shown: an RGB image turned by the display matrix of its stream.

    The matrix (a, b, u, c, d, v, x, y, w) takes a pixel at (p, q) to (a p + c q, b p + d q).
    Source: ISO 14496-12, 6.2.2, and FFmpeg's libavutil/display.h, which turn by it.
    """
    pixels = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    sides = [side for side in frame.side_data if side.type.name == "DISPLAYMATRIX"]
    if sides:
        a, b, _, c, d = np.frombuffer(bytes(sides[0]), np.int32)[:5]
        if abs(b) > abs(a):
            pixels, a, d = pixels.swapaxes(0, 1), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return Image.fromarray(np.ascontiguousarray(pixels))
