"""The .SRT beside a drone's video: subtitles that tell where it was.

Two spellings are read: `[latitude: 22.5] [longitude: 113.9]` (also `longtitude`), and the older
`GPS(113.9,22.5,19)`, longitude first. A block counts from its start to its end. It may have the
drone's clock too.
"""

import bisect
import re
from datetime import datetime, timedelta
from typing import NamedTuple

from imaging.files import composed
from locating.photos import usable_place

MOMENT = r"(\d+):(\d\d):(\d\d)[,.](\d{1,3})"  # hours, minutes, seconds, thousandths
TIMING = re.compile(rf"{MOMENT}\s*-->\s*{MOMENT}")
NUMBER = r"\s*([-+]?\d+(?:\.\d+)?)\s*"
LATITUDE = re.compile(rf"\blatitude\s*:{NUMBER}", re.IGNORECASE)
LONGITUDE = re.compile(rf"\blongt?itude\s*:{NUMBER}", re.IGNORECASE)
LONGITUDE_FIRST = re.compile(rf"\bGPS\s*\({NUMBER},{NUMBER}[,)]", re.IGNORECASE)
# 2024-05-17 10:11:12.000, 2024-05-17 10:11:12,000,000 or 2017.08.05 14:11:51: the drone's clock.
CLOCK = re.compile(r"\b(\d{4})[-.](\d\d)[-.](\d\d) +(\d\d):(\d\d):(\d\d)(?:[.,:](\d{1,3}))?\b")
BETWEEN = 0.1  # seconds from a block within which it still counts: times are rounded


class Subtitles(NamedTuple):
    """The blocks of a file in the order of their starts."""

    name: str  # the file's, for notes
    starts: list[float]  # seconds since the start of the video
    ends: list[float]
    texts: list[str]

    def place_at(self, seconds):
        """((latitude, longitude), note) at a moment of the video; (None, why) where there is none.

        A place of zeros, as written before the receiver has one, counts as none.
        """
        after = bisect.bisect_right(self.starts, seconds + 0.0005)
        near = range(max(0, after - 1), min(after + 1, len(self.starts)))
        gaps = {i: max(self.starts[i] - seconds, seconds - self.ends[i], 0) for i in near}
        block = min(gaps, key=gaps.get, default=None)
        if block is None or gaps[block] > BETWEEN:
            return None, f"{self.name} has no block for the frame"
        text = self.texts[block]
        latitude, longitude = LATITUDE.search(text), LONGITUDE.search(text)
        if latitude and longitude:
            values = float(latitude[1]), float(longitude[1])
        elif pair := LONGITUDE_FIRST.search(text):
            values = float(pair[2]), float(pair[1])
        else:
            return None, f"{self.name} tells no place for the frame"
        return usable_place(*values, self.name)

    def began(self):
        """When the video began, by the first clock in a block; None where there is none.

        A datetime without a zone, as cameras write it. The one clock serves all frames: many tell
        whole seconds, which several blocks share.
        """
        for start, text in zip(self.starts, self.texts, strict=True):
            if found := CLOCK.search(text):
                *parts, thousandths = found.groups(default="0")
                try:
                    clock = datetime(*map(int, parts))
                except ValueError:
                    continue
                if clock.year > 1970:  # else it was never set
                    return clock + timedelta(
                        milliseconds=int(thousandths.ljust(3, "0")) - 1000 * start
                    )
        return None


def find_subtitles(video):
    """The `Subtitles` in the .SRT of a video's name, in whatever case of its suffix; or None."""
    beside = (path for path in sorted(video.parent.iterdir()) if path.suffix.lower() == ".srt")
    stem = composed(video.stem)  # copied from another system the one may differ in Unicode form
    path = next((p for p in beside if composed(p.stem) == stem and p.is_file()), None)
    return None if path is None else read_subtitles(path)


def read_subtitles(path):
    """Read `Subtitles`; what is no block is passed over, so that a cut file gives what it has."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    timings = list(TIMING.finditer(text))
    ends = [*(timing.start() for timing in timings), len(text)][1:]  # each block's text to the next
    blocks = sorted(
        (_seconds(*timing.groups()[:4]), _seconds(*timing.groups()[4:]), text[timing.end() : end])
        for timing, end in zip(timings, ends, strict=False)
    )
    starts, until, texts = ([block[i] for block in blocks] for i in range(3))
    return Subtitles(path.name, starts, until, texts)


def _seconds(hours, minutes, seconds, thousandths):
    whole = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
    return whole + int(thousandths.ljust(3, "0")) / 1000
