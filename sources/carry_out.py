"""Carrying a plan out: links, copies, changed images, and the summary of what was made.

    carry_out(plan_cvusa("downloads/CVUSA"), "data/cvusa", mark={"command": "cvusa"})

Images are linked (hard, else symbolic) or copied; only where pixels change (polar transform, crop,
roll, weather) new images are written.
"""

import itertools
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

from PIL import Image

from evaluation.side_files import MARKER
from imaging.files import is_image_name, is_text_name, need_files, need_utf8
from imaging.pixels import read_image
from runtime.files import read_yaml, remove_partials, replacing, write_text, write_yaml
from runtime.locks import sole_writer
from runtime.printing import printable
from runtime.progress import progress_bar

JPEG = {"quality": 95, "subsampling": 0}  # of images whose pixels change, if .jpg


def carry_out(plan, out, mark, *, copy=False, dry_run=False, num_workers=1):
    """Make what a plan says in the folder `out`, and print a summary.

    What is there already is left alone, so a run that was killed goes on where it was. `mark` is a
    dict of plain values that says how `out` was made; a folder made in another way, or holding
    other images, is a ValueError. `copy` copies instead of linking. `dry_run` writes nothing.
    `num_workers` threads write the images whose pixels change. Returns {"out", "counts": {folder:
    (classes, images)}, "made": {"hard links": n, ...}, "notes": [...]}.
    """
    with nullcontext() if dry_run else sole_writer(out, "give another --out"):
        return _carry_out(plan, Path(out), mark, copy, dry_run, num_workers)


def _carry_out(plan, out, mark, copy, dry_run, num_workers):
    _check_output(out, mark, plan)
    _check_sources(plan.entries)
    plan.entries = entries = _distinct(plan.entries)
    counts = count_plan(plan)
    notes = plan.notes + compare_counts(plan.name, counts, plan.official)
    made = {}
    if not dry_run:
        write_yaml(out / MARKER, mark)
        for target in plan.empty_classes:
            (out / target).mkdir(parents=True, exist_ok=True)
        try:
            made = _place_all(entries, out, copy, num_workers)
            made |= _write_texts(plan.texts, out)
        except OSError as error:
            raise OSError(f"{error}; {out} is not complete: mend that and run this again") from None
        for name, text in plan.sidecars.items():
            _write_if_new(out / name, text)
    _print_summary(out, plan, counts, made, notes, dry_run)
    return {"out": str(out), "counts": counts, "made": made, "notes": notes}


# ---------------------------------------------------------------- counts
def count_plan(plan):
    """{folder: (classes, images or texts)} of what a plan makes, empty classes included."""
    images = Counter(entry.target.rsplit("/", 1)[0] for entry in plan.entries)  # of each class
    for target, lines in plan.texts.items():
        images[target.rsplit("/", 1)[0]] += len(lines)
    counts = {}
    for target in sorted({*plan.empty_classes, *images}):
        folder = target.rsplit("/", 1)[0]
        found = counts.get(folder, (0, 0))
        counts[folder] = found[0] + 1, found[1] + images[target]
    return counts


def compare_counts(name, counts, official):
    """Sentences on where counts differ from the official ones; ValueError where there is nothing.

    People have partial copies, so a difference is not an error.
    """
    sentences = []
    for folder, published in official.items():
        found = counts.get(folder, (0, 0))
        if not found[1]:
            raise ValueError(f"no image for {folder}/ was found: it is part of {name}")
        known = [(n, _alternatives(count)) for n, count in zip(found, published, strict=True)]
        if any(counted not in accepted for counted, accepted in known if accepted):
            here, there = _in_words(folder, found), _in_words(folder, published)
            sentences.append(f"{folder}/ has {here}; {name} has {there}")
    return sentences


def _alternatives(count):
    """The numbers that an official count allows, () where none was published."""
    return count if isinstance(count, tuple) else () if count is None else (count,)


def _in_words(folder, counts):
    """(3, (5, 6)) -> "3 classes, 5 or 6 images", or texts; a None is passed over."""
    units = "classes", "texts" if folder.endswith("text") else "images"
    numbers = zip(map(_alternatives, counts), units, strict=True)
    return ", ".join(f"{' or '.join(map(str, each))} {what}" for each, what in numbers if each)


def _print_summary(out, plan, counts, made, notes, dry_run):
    print(f"{'folder':<32}{'classes':>8}{'images':>8}  {plan.name}")
    for folder, (classes, images) in sorted(counts.items()):
        official = _in_words(folder, plan.official.get(folder, (None, None)))
        print(f"{folder:<32}{classes:>8}{images:>8}  {official}".rstrip())
    for note in notes:
        print(f"note: {note}")
    if dry_run:
        print(f"{out}: nothing written (--dry_run)")
        return
    print(f"{out}: " + ", ".join(f"{count} {way}" for way, count in made.items()))


# ---------------------------------------------------------------- checks before anything is written
def _distinct(entries):
    """Entries without repetition; ValueError where two images want one place."""
    by_target = {}
    for entry in entries:
        first = by_target.setdefault(entry.target, entry)
        if first.source != entry.source:
            raise ValueError(
                f"{first.source} and {entry.source} would both become {entry.target}: rename one"
            )
    return list(by_target.values())


def _check_sources(entries):
    """ValueError for a source that the layout cannot hold, OSError for one that is no file."""
    need_files(entry.source for entry in entries if not entry.draw)
    for source, target, _, draw in entries:
        if not draw and not is_image_name(source):
            raise ValueError(
                f"{source} is not read as an image by its name: name a file ending in .jpg, .png, "
                "..., without a dot at the beginning"
            )
        if printable(target) != target:
            raise ValueError(
                f"{printable(source)} has a line break or another control character in its name, "
                "which breaks the lines of tables: rename it"
            )
        need_utf8(target, shown=source)


def _check_output(out, mark, plan):
    """ValueError where `out` was made in another way or holds images or texts of no plan."""
    if not (out / MARKER).is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(
                f"{out} exists and holds something else: give another --out, or remove it"
            )
        return
    earlier = read_yaml(out / MARKER)
    differing = sorted(k for k in {*earlier, *mark} if earlier.get(k) != mark.get(k))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{out} was made with {key} {earlier.get(key)}, not {mark.get(key)}: give another "
            "--out, or remove it"
        )
    targets = {entry.target for entry in plan.entries} | plan.texts.keys()
    tops = sorted({target.split("/")[0] for target in targets})
    present = (path.relative_to(out) for top in tops for path in (out / top).rglob("*"))
    meant = (path for path in present if is_image_name(path) or plan.texts and is_text_name(path))
    strays = sorted(path.as_posix() for path in meant if path.as_posix() not in targets)
    if strays:
        what = "images or texts" if plan.texts else "images"
        raise ValueError(
            f"{out} holds {len(strays)} {what} that are no longer part of this, first "
            f"{strays[0]}: remove {out} and prepare it again"
        )


# ---------------------------------------------------------------- files
def _place_all(entries, out, copy, num_workers):
    """Put every entry in its place; returns how many were made in which way."""
    for folder in sorted({os.path.dirname(entry.target) for entry in entries}):
        (out / folder).mkdir(parents=True, exist_ok=True)
        remove_partials(out / folder, "*")
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        new = [entry for entry in entries if entry.change or entry.draw]
        waiting = [pool.submit(_write_new, entry, out / entry.target) for entry in new]
        try:
            linked = (
                _place(entry.source, out / entry.target, copy)
                for entry in entries
                if not (entry.change or entry.draw)
            )
            ways = itertools.chain(linked, (future.result() for future in waiting))
            return dict(Counter(progress_bar(ways, "images", total=len(entries))))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _write_texts(texts, out):
    """Write the files of texts; returns {"text files": n}, or {} where there are none."""
    for folder in {os.path.dirname(target) for target in texts}:
        remove_partials(out / folder, "*")
    for target, lines in progress_bar(texts.items(), "texts"):
        _write_if_new(out / target, "".join(f"{line}\n" for line in lines))
    return {"text files": len(texts)} if texts else {}


def _write_if_new(path, text):
    """Write a text file, unless it holds that already."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def _place(source, target, copy):
    """Link or copy one file; returns the way it was done."""
    if _is_made(source, target, copy=copy):
        return "there already"
    if copy:
        with replacing(target, lambda: os.stat(source).st_size) as temporary:
            shutil.copy2(source, temporary)
        return "copies"
    if os.path.lexists(target):
        target.unlink()
    real = os.path.realpath(source)  # a hard link to a symbolic one would be a symbolic one
    if not os.path.isfile(real):
        raise FileNotFoundError(f"{source} is gone, or is not a file")
    with suppress(OSError):  # another disk, or a file system without hard links
        os.link(real, target)
        return "hard links"
    try:
        os.symlink(real, target)
        return "symbolic links"
    except OSError as error:
        raise OSError(
            f"neither a hard nor a symbolic link can be made at {target} ({error.strerror}): "
            "add --copy"
        ) from None


def _write_new(entry, target):
    """Write a changed or drawn image, with the time of its source; returns how it was done."""
    if _is_made(entry.source, target, copy=True):
        return "there already"
    pixels = entry.draw() if entry.draw else entry.change(read_image(entry.source))
    image = Image.fromarray(pixels)
    with replacing(target) as temporary:
        image.save(temporary, **(JPEG if entry.target.endswith(".jpg") else {}))
        times = os.stat(entry.source)
        os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))
    return "cut" if entry.draw else "converted"


def _is_made(source, target, copy):
    """Whether `target` is a link to `source` or, for a copy, a separate file of the same time."""
    try:
        wanted, there = os.stat(source), os.stat(target)
    except OSError:
        return False
    same = os.path.samestat(wanted, there)
    if not copy:
        return same
    return not same and abs(wanted.st_mtime_ns - there.st_mtime_ns) < 2e9  # FAT keeps two seconds
