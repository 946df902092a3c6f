"""locations.html: one file that works offline, with the map, the photos and their first tiles.

FILES beside this file are the page; what locate.py found goes in as one JSON block. Whatever the
photos, the tiles and the map, it shows at most PHOTOS photos and TILES tiles of each; their
pictures take at most PIXELS * BYTES_PER_PIXEL * 4 / 3 bytes (27 MB), the map 3.4 MB. What is usual
is less: 8 MB for 60 photos.
"""

import base64
import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from evaluation import mercator
from evaluation.places import RADII, share_within
from imaging.pixels import read_image
from imaging.texts import picture_of
from locating.overview import draw_overview
from runtime.files import write_text
from runtime.printing import printable
from runtime.progress import progress_bar

FILES = ("page.html", "page.css", "page_map.js", "page.js")
PHOTOS = 1000  # shown at most
TILES = 10  # of a photo, at most
PIXELS = 32 * 2**20  # of all small pictures together, at most
LARGEST, SMALLEST = 256, 96  # side of a tile's picture
PHOTO_SIDE = 1.5  # longer side of a photo's picture, in sides of a tile's
BYTES_PER_PIXEL = 0.6  # of a JPEG, at most
QUALITIES = (80, 70, 55, 40, 25, 10)


def write_page(path, rows, tile_rows, table, guessing=None, words=False):
    """Write what was found as a web page.

    `rows` and `tile_rows` are those of locations.csv and locations_tiles.csv, `table` the
    `MapFolder` that was searched, `guessing` the median error in metres of a random tile; with
    `words` a row's `photo` is a description instead of a path. Without coordinates the page shows
    each photo beside its first tiles. Prints a line where not everything is shown.
    """
    spread = np.linspace(0, len(rows) - 1, min(len(rows), PHOTOS)).round().astype(int)
    rows_shown = [rows[i] for i in spread]  # along a flight too
    photos = {row["photo"] for row in rows_shown}
    tile_rows = [row for row in tile_rows if row["photo"] in photos and row["rank"] <= TILES]
    index, images, left_out = _pictures(rows_shown, tile_rows, words)
    overview = draw_overview(table) if table.places is not None else None
    content = {
        "map": overview and _about_map(overview),
        "name": _text(os.path.basename(os.path.abspath(table.folder))),
        "tiles": len(table.paths),
        "all": len(rows),
        "photos": _photos(rows_shown, tile_rows, index, overview, table.folder, words),
        "summary": _summary(rows, guessing),
        "images": images,
    }
    write_text(path, _fill(content))
    path = printable(path)
    if len(rows_shown) < len(rows):
        print(f"{path} shows {len(rows_shown)} of {len(rows)} photos, evenly chosen, to stay small")
    if left_out:
        print(f"{path} has no picture of {left_out} tiles of later ranks, to stay small")


# ---------------------------------------------------------------- what the page is told
def _photos(rows, tile_rows, index, overview, map_folder, words):
    """The photos as the page takes them; positions in pixels of the overview."""
    names = [row["photo"] for row in rows]
    names = names if words else _short_names(names)
    photos = []
    for row, name in zip(rows, names, strict=True):
        photo = {
            "name": _text(name), "path": _text(row["photo"]), "image": index[row["photo"]],
            **_numbers(row, "score", "confidence", error="error_metres"), "tiles": [],
            **{key: _text(row[key]) for key in ("time", "note") if row.get(key)},
        }  # fmt: skip
        if overview:
            photo["estimate"] = _place(row, "", overview)
            photo["truth"] = _place(row, "true_", overview)
            photo["path_place"] = _place(row, "path_", overview)
            photo |= _numbers(row, path_error="path_error_metres")
        photos.append(photo)
    by_name = {row["photo"]: photo for row, photo in zip(rows, photos, strict=True)}
    for row in tile_rows:
        tile = {
            "name": _text(_tile_name(row["tile"], map_folder)),
            "image": index.get(row["tile"]),
            **_numbers(row, "rank", "score", "turned", metres="tile_metres", error="error_metres"),
        }  # fmt: skip
        if overview:
            tile |= _place(row, "", overview)
            *_, side = mercator.square(row["latitude"], row["longitude"], row["tile_metres"])
            tile["side"] = round(float(side / overview.per_pixel), 3)
        by_name[row["photo"]]["tiles"].append(tile)
    return photos


def _place(row, prefix, overview):
    """A place of a row and where it is drawn; None where the row has none."""
    latitude, longitude = (row.get(prefix + axis) for axis in ("latitude", "longitude"))
    if latitude is None or longitude is None:
        return None
    x, y = overview.position(latitude, longitude)
    degrees = {"latitude": round(float(latitude), 7), "longitude": round(float(longitude), 7)}
    return degrees | {"x": round(x, 3), "y": round(y, 3)}


def _numbers(row, *same, **renamed):
    """Those of the named numbers that a row has, under the page's names."""
    columns = dict.fromkeys(same) | renamed
    found = {name: row.get(column or name) for name, column in columns.items()}
    return {name: round(float(value), 4) for name, value in found.items() if value is not None}


def _summary(rows, guessing):
    """Median errors and shares of the photos with a known place; None where there is none."""
    errors = [row["error_metres"] for row in rows if row.get("error_metres") is not None]
    if not errors:
        return None
    summary = {"known": len(errors), "of": len(rows), "median": float(np.median(errors))}
    summary["within"] = {metres: share_within(errors, metres) for metres in RADII}
    summary["guessing"] = guessing and float(guessing)
    paths = [row["path_error_metres"] for row in rows if row.get("path_error_metres") is not None]
    summary["path_median"] = float(np.median(paths)) if paths else None
    return summary


def _about_map(overview):
    picture = overview.picture
    return {
        "picture": _jpeg(picture), "width": picture.width, "height": picture.height,
        "left": overview.left, "top": overview.top, "per_pixel": overview.per_pixel,
        "finest": overview.finest, "radius": mercator.RADIUS,
    }  # fmt: skip


def _short_names(paths):
    """Names of photos without their folders, if they are different then."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else paths


def _tile_name(path, folder):
    """The name of a tile within the map's folder, or of the one picture that stands for a map."""
    name = Path(path).relative_to(folder).as_posix()
    return Path(path).name if name == "." else name


def _text(name):
    """A text from outside as it is shown in the terminal too: nothing in it turns or breaks it."""
    return printable(name).encode("utf-8", "backslashreplace").decode()


# ---------------------------------------------------------------- pictures
def _pictures(rows, tile_rows, words):
    """({file: index}, [base64 of JPEGs], number of tiles left out): photos, then tiles by rank."""
    photos = dict.fromkeys(row["photo"] for row in rows)
    ranked = sorted(tile_rows, key=lambda row: row["rank"])
    tiles = list(dict.fromkeys(row["tile"] for row in ranked if row["tile"] not in photos))
    area = PHOTO_SIDE**2 * len(photos)  # in tiles' pictures
    kept = tiles[: max(0, int(PIXELS / SMALLEST**2 - area))]
    side = min(LARGEST, (PIXELS / (len(kept) + area)) ** 0.5)
    jobs = [*((path, int(side * PHOTO_SIDE)) for path in photos), *((p, int(side)) for p in kept)]
    texts = photos if words else ()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda job: _thumbnail(*job, words=job[0] in texts), jobs)
        images = list(progress_bar(found, "page", total=len(jobs)))
    return {path: i for i, (path, _) in enumerate(jobs)}, images, len(tiles) - len(kept)


def _thumbnail(path, side, words=False):
    """The base64 text of an image as a JPEG whose longer side has at most `side` pixels."""
    if words:
        return _jpeg(Image.fromarray(picture_of(path, side)))
    image = Image.fromarray(read_image(path, near=side))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _jpeg(image)


def _jpeg(image):
    """The base64 text of a JPEG that takes at most BYTES_PER_PIXEL."""
    limit = max(2000, BYTES_PER_PIXEL * image.width * image.height)
    for quality in QUALITIES:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality, optimize=True)
        if content.tell() <= limit:
            break
    return base64.b64encode(content.getvalue()).decode()


# ---------------------------------------------------------------- the file
def _fill(content):
    """The page's text. Nothing but its styles and its script may run, or be fetched."""
    page, style, map_script, script = (
        Path(__file__).with_name(name).read_text(encoding="utf-8") for name in FILES
    )
    script = map_script + script
    data = json.dumps(content, allow_nan=False, separators=(",", ":"))  # in ASCII
    return Template(page).substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=data.replace("<", "\\u003c"),  # no text ends the block
    )


def _hash(text):
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
