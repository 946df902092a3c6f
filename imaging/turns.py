"""How many right-angle turns of an image there are, view by view (`--turns`)."""

import argparse

from imaging.files import VIEWS


def turns_by_view(text):
    """`4` as an int, `satellite=4,drone=1` as a dict: 1, 2 or 4 turns of all views, or by view."""
    pairs = [part.strip().rpartition("=") for part in text.split(",")]
    views = [view for view, _, _ in pairs]
    fits = all(number in ("1", "2", "4") for _, _, number in pairs)
    if fits and views == [""]:
        return int(text)
    if not fits or not set(VIEWS).issuperset(views) or len(set(views)) < len(views):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 1, 2 or 4, nor a list by view such as satellite=4,drone=1"
        )
    return {view: int(number) for view, _, number in pairs}


def turns_of(turns, view):
    """The turns of a view: None where `turns` is; 1 where it is by view and has another alone."""
    return turns.get(view, 1) if isinstance(turns, dict) else turns


def need_square(turns, views, height, width):
    """ValueError where images that are not square would be turned by 90 degrees."""
    if height != width and any(turns_of(turns, view) == 4 for view in views):
        raise ValueError(
            f"--turns 4 turns images by 90 degrees, and {height} x {width} pixels are not square: "
            "give 1 or 2, or train with --h and --w alike"
        )
