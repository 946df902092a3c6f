"""Reading what was published: folders, split files, and which of the files they list exist."""

import functools
import itertools
import math
import os
from collections import Counter
from pathlib import Path

DEGREES = (90, 180)  # the limits of latitude and longitude


def need_folder(path, what):
    """`path` as a Path; FileNotFoundError says what it should hold where it is not a folder."""
    path = Path(path)
    if not path.is_dir():
        beside = path.parent
        found = sorted(p.name for p in beside.iterdir())[:6] if beside.is_dir() else []
        raise FileNotFoundError(
            f"{path} not found: expected {what}; {beside} holds {', '.join(found) or 'nothing'}"
        )
    return path


def read_text(path, what):
    """The text of a split file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected {what}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}): expected {what}; save it as UTF-8"
        ) from None


def read_lines(path, what):
    """{number from 1: line} of the lines of a split file that are not empty; at least one."""
    lines = read_text(path, what).split("\n")  # splitlines() would split at U+0085 too
    found = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    if not found:
        raise ValueError(f"{path} is empty: expected {what}")
    return found


def check_numbers(texts, where, limits=()):
    """Raise ValueError unless all texts are finite numbers, the first ones within +-limits."""
    for text, limit in itertools.zip_longest(texts, limits, fillvalue=math.inf):
        try:
            valid = "_" not in text and math.isfinite(float(text)) and abs(float(text)) <= limit
        except ValueError:
            valid = False
        if not valid:
            span = f" from -{limit} to {limit}" if math.isfinite(limit) else ""
            raise ValueError(f"{where} has {text!r}, expected a number{span}")


def keep_complete(records, paths_of, what, plan, skip_missing, lines=()):
    """The records whose files all exist.

    Others raise FileNotFoundError, which names their number and the first file, or with
    `skip_missing` are left out with a note. `lines` are the records' line numbers in `what`.
    """
    names_in = functools.cache(file_names)  # far quicker than asking for each file
    lost, complete = [], []
    for record, line in itertools.zip_longest(records, lines):
        absent = [path for path in paths_of(record) if path.name not in names_in(path.parent)]
        lost += [f"{path} (line {line})" if line else path for path in absent[:1]]
        if not absent:
            complete.append(record)
    if lost:
        sentence = f"{len(lost)} of {len(records)} {what} lack a file, first {lost[0]}"
        if not skip_missing or not complete:
            raise FileNotFoundError(
                f"{sentence}: add what is missing"
                + ", or leave it out with --skip_missing" * bool(complete)
            )
        plan.notes.append(f"{sentence}: left out")
    return complete


def file_names(folder):
    """The names of the files in a folder, links to files included, dangling ones not."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}


def repetitions(names):
    """The names that come more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
