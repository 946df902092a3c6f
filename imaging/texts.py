"""Texts of a data folder: one description a line of a .txt file, each a sample of its own.

A sample is named as editors name a line, `train/text/0001/a.txt:2`, lines counted from 1.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imaging.files import read_lines, split_sample
from imaging.pixels import read_thumbnail
from runtime.printing import printable


def read_texts(samples):
    """The words of samples, in their order; a file is read once for all its lines.

    ValueError where a line is not there.
    """
    lines, found = {}, []
    for sample in samples:
        path, number = split_sample(sample)
        if path not in lines:
            lines[path] = read_lines(path)
        words = lines[path][number - 1].strip() if number <= len(lines[path]) else ""
        if not words:
            raise ValueError(f"{path} has no words in line {number}: it has changed; start again")
        found.append(words)
    return found


def picture_of(words, side):
    """Words as a square picture: uint8 (side, side, 3), the letters as large as all of them fit."""
    image = Image.new("RGB", (side, side), "white")
    draw, edge = ImageDraw.Draw(image), side // 16
    for size in range(max(8, side // 6), 6, -1):
        font = ImageFont.load_default(size)
        text = _wrapped(words, font, side - 2 * edge)
        _, _, right, bottom = draw.multiline_textbbox((edge, edge), text, font)
        if max(right, bottom) <= side - edge:
            break
    draw.multiline_text((edge, edge), text, "black", font)
    return np.array(image)


def _wrapped(words, font, width):
    """Words in lines of at most `width` pixels, where no single one is longer."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def read_sample(sample, side):
    """A text sample or an image file as a picture: uint8 (side, side, 3)."""
    if split_sample(sample)[1]:
        return picture_of(*read_texts([sample]), side)
    return read_thumbnail(sample, side)


def _told(sample):
    """A sample as a warning names it: its file and line, or how its words begin."""
    if isinstance(sample, tuple):
        words = sample[0]
        return repr(words if len(words) <= 60 else f"{words[:60]}...")
    return printable(sample)


class TokenizedTexts:
    """The token ids of texts, (L,) int64, asked for by sample; the longest have `limit` tokens.

    `texts` are the words of `samples`, which are names, or tuples of words and a number. A warning
    says how many were cut.
    """

    def __init__(self, samples, texts, tokenizer, limit):
        tokenizer.no_padding()
        tokenizer.enable_truncation(limit)
        encoded = tokenizer.encode_batch(list(texts))
        self.ids = dict(zip(samples, (np.array(each.ids) for each in encoded), strict=True))
        cut = [s for s, each in zip(self.ids, encoded, strict=True) if each.overflowing]
        if cut:
            print(
                f"warning: {len(cut)} of {len(self.ids)} texts have more than {limit} tokens and "
                f"were cut, such as {_told(cut[0])}: a run with more --text_tokens reads all of "
                "them",
                file=sys.stderr,
            )

    def __getitem__(self, sample):
        return self.ids[sample]
