"""Texts of a data folder: one description a line of a .txt file, each a sample of its own.

A sample is named as editors name a line, `train/text/0001/a.txt:2`, lines counted from 1.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imaging.files import TEXT, read_lines, split_sample
from runtime.optional import require
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
    for size in range(side // 6, 6, -1):
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


def read_tokenizer(folder):
    """The tokenizer in the folder `text` of a run; ValueError or OSError where there is none."""
    library = require("tokenizers", "a view of texts", "-r requirements-text.txt")
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: a run with texts keeps it: restore the folder")
    try:
        return library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no class of errors
        raise ValueError(f"{path} is no tokenizer ({error})") from None


class TokenizedTexts:
    """The token ids of texts, (L,) int64, asked for by sample; the longest have `limit` tokens."""

    def __init__(self, samples, texts, tokenizer, limit):
        tokenizer.no_padding()
        tokenizer.enable_truncation(limit)
        encoded = tokenizer.encode_batch(list(texts))
        self.ids = dict(zip(samples, (np.array(each.ids) for each in encoded), strict=True))
        self.cut = [s for s, each in zip(self.ids, encoded, strict=True) if each.overflowing]

    def __getitem__(self, sample):
        return self.ids[sample]


def open_texts(samples, tokenizer, limit):
    """`TokenizedTexts` of samples; a warning says how many were cut at `limit` tokens."""
    samples = list(samples)
    texts = TokenizedTexts(samples, read_texts(samples), tokenizer, limit)
    if texts.cut:
        print(
            f"warning: {len(texts.cut)} of {len(samples)} texts have more than {limit} tokens and "
            f"were cut, such as {printable(str(texts.cut[0]))}: raise --text_tokens",
            file=sys.stderr,
        )
    return texts


def texts_of_run(samples, run_dir, run_opts):
    """`TokenizedTexts` of samples for a run, by the tokenizer and the limit it was trained with."""
    return open_texts(samples, read_tokenizer(Path(run_dir) / TEXT), run_opts["text_tokens"])
