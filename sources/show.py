"""prepare.py show: a picture of some buildings in every view, or of drone images in the weather."""

import random

from PIL import Image, ImageDraw

from imaging.files import TRAIN_FOLDERS, scan_classes, split_folder, split_sample
from imaging.pixels import read_image
from imaging.texts import picture_of, read_texts
from imaging.weather import condition_label, draw_weather, parse_conditions
from runtime.cli import natural_int, positive_int
from runtime.files import replacing
from sources.command import Command, option

TILE = 224  # pixels


def show_data(opts):
    """Draw random training buildings in every view, a row each."""
    folder = split_folder(opts.folder, "train")
    views = [name.removeprefix("train/") for name in TRAIN_FOLDERS]
    scanned = {view: scan_classes(folder / view) for view in views if (folder / view).is_dir()}
    names = sorted(set.intersection(*(set(classes) for classes in scanned.values())))
    if not names:
        raise ValueError(f"no building is in all of {', '.join(scanned)} in {folder}")
    chosen = sorted(random.Random(opts.seed).sample(names, min(opts.buildings, len(names))))
    if opts.weather:
        rows = _weather_tiles(scanned, chosen, opts.weather)
    else:
        rows = [_view_tiles(scanned, name) for name in chosen]
    write_sheet(opts.output, rows)
    print(f"picture: {opts.output}, buildings {', '.join(chosen)}")
    return {"output": opts.output, "buildings": chosen}


def write_sheet(path, rows):
    """Write one picture of rows of (tile or None, label)."""
    sheet = Image.new("RGB", (TILE * max(map(len, rows)), TILE * len(rows)), "white")
    for row, tiles in enumerate(rows):
        for column, (tile, label) in enumerate(tiles):
            if tile is not None:
                ImageDraw.Draw(tile).text(
                    (6, 4), label, "white", stroke_width=2, stroke_fill="black", font_size=14
                )
                sheet.paste(tile, (TILE * column, TILE * row))
    with replacing(path) as temporary:
        sheet.save(temporary, quality=88)


def _view_tiles(scanned, name):
    """(tile or None, label) of a building in every view: of many images first, middle and last."""
    tiles = []
    for view, classes in scanned.items():
        paths, many = classes[name], max(map(len, classes.values())) > 2
        for share in (0.0, 0.5, 1.0) if many else (0.0,):
            tile = _read_tile(paths[round(share * (len(paths) - 1))]) if paths else None
            tiles.append((tile, f"{view} {name}"))
    return tiles


def _weather_tiles(scanned, names, conditions):
    """Rows of five (tile, label): a drone image of each building under the conditions."""
    if not scanned.get("drone"):
        raise ValueError("--weather is drawn on drone images, and there is no train/drone")
    rows = []
    for name in names:
        paths = scanned["drone"][name]
        if not paths:
            continue
        path = paths[len(paths) // 2]
        tiles = [(_read_tile(path, each), condition_label(each)) for each in conditions]
        rows += [tiles[start : start + 5] for start in range(0, len(tiles), 5)]
    return rows


def _read_tile(path, condition="normal"):
    if split_sample(path)[1]:
        tile = Image.new("RGB", (TILE, TILE), "white")
        tile.paste(Image.fromarray(picture_of(*read_texts([path]), TILE - 24)), (12, 24))
        return tile
    image = draw_weather(read_image(path), path, condition)
    return Image.fromarray(image).resize((TILE, TILE))


COMMANDS = (
    Command("show", "draw some buildings in every view", show_data, (
        option("folder", help="data folder"),
        option("--buildings", type=positive_int, default=4, help="rows of the picture"),
        option("--seed", type=natural_int, default=0, help="which buildings"),
        option("--weather", type=parse_conditions, default=(), metavar="NAME,...",
               help="draw a drone image of each building under all conditions, or some (fog,rain)"),
        option("--output", default="views.jpg", help="the picture"),
    ), "data/toy"),
)  # fmt: skip
