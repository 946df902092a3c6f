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
    """The turns of a view; 1 where `turns` is None, or by view and without this one."""
    return turns.get(view, 1) if isinstance(turns, dict) else turns or 1


def turns_in_test(turns, views, height, width):
    """{view: 1, 2 or 4} for the views of a run; `turns` are those of opts.yaml or of --turns.

    ValueError where they are none, are of other views, or would turn images that are not square by
    90 degrees.
    """
    found = {view: turns_of(turns, view) for view in views}
    if not all(number in (1, 2, 4) for number in found.values()):
        raise ValueError(f"opts.yaml has turns: {turns!r}, which no run writes: restore the file")
    other = {*turns} - {*views} if isinstance(turns, dict) else ()
    if other:
        raise ValueError(f"--turns names {', '.join(other)}, and the run has {', '.join(views)}")
    if height != width and 4 in found.values():
        raise ValueError(
            f"--turns 4 turns images by 90 degrees, and {height} x {width} pixels are not square: "
            "give 1 or 2, or make --h and --w alike"
        )
    return found
