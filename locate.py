"""Where was this photo taken? The first places of photos on a map, by a trained run.

python locate.py photos/ --name two_view --map data/map        # coordinates, tables
python locate.py photo.jpg --name two_view --map tiles/        # plain pictures: names and scores

The map is a folder that `prepare.py tiles` made, or any folder of pictures. Written are
locations.csv, .geojson and .kml (a line a photo) and locations_tiles.csv (the first tiles of each).
"""

import argparse
from pathlib import Path

import numpy as np

from evaluation.map_folder import TABLE, MapFolder, read_map
from evaluation.places import haversine
from imaging.files import TEST_VIEWS
from locating import outputs
from locating.photos import list_photos, read_place
from locating.search import errors_of, estimate, find_tiles, tiles_near
from runtime import cli, startup
from runtime.cli import number_within, positive_int, script

FOR_ESTIMATE = 25  # tiles from which a place is estimated: the neighbours of the best one


@script
def main(argv=None):
    """Locate the photos; returns {"photos": rows of locations.csv, "tiles": of the first tiles}."""
    opts = parse_args(argv)
    photos, table = list_photos(opts.photos), open_map(opts.map)
    known = [read_place(photo) for photo in photos]
    chosen = None
    if opts.near:
        chosen = tiles_near(need_places(table, "--near").places, opts.near, opts.within)
    startup.import_torch()
    from locating.features import extract

    tiles, turned = extract(opts, photos, table, keep=has_places(table))
    candidates = find_tiles(turned, tiles, max(opts.top, FOR_ESTIMATE), chosen)
    rows, tile_rows = tabulate(opts, photos, known, table, candidates)
    for row in tile_rows:
        print(describe(row))
    write_all(Path(opts.output), rows, tile_rows, table)
    print_errors(known, rows, table, candidates, chosen)
    return {"photos": rows, "tiles": tile_rows}


# ---------------------------------------------------------------- map and features
def open_map(folder):
    """The `MapFolder`; of a folder of plain pictures one without places (NaN)."""
    if Path(folder, TABLE).is_file():
        return read_map(folder)
    paths = list_photos([folder])
    nowhere = np.full((len(paths), 4), np.nan)
    return MapFolder(Path(folder), paths, nowhere[:, :2], nowhere, nowhere[:, 0])


def has_places(table):
    """Whether the tiles have coordinates."""
    return not np.isnan(table.places).any()


def need_places(table, option):
    """The table; ValueError where its tiles have no coordinates."""
    if not has_places(table):
        raise ValueError(
            f"{option} needs a map with coordinates, and {table.folder} is a folder of pictures: "
            f"make one with `python prepare.py tiles`"
        )
    return table


# ---------------------------------------------------------------- results
def tabulate(opts, photos, known, table, candidates):
    """The rows of locations.csv and of locations_tiles.csv, as dicts."""
    tiles, scores, turns = candidates
    estimates = np.full((len(photos), 2), np.nan)
    if has_places(table):
        estimates = estimate(table.places[tiles], table.metres[tiles], scores)
    rows, tile_rows = [], []
    for index, (photo, carried) in enumerate(zip(photos, known, strict=True)):
        first = tiles[index, 0]
        row = {
            "photo": str(photo), "score": float(scores[index, 0]),
            "tile": str(table.paths[first]), "note": carried.note,
        }  # fmt: skip
        if has_places(table):
            row |= {"latitude": float(estimates[index, 0]), "longitude": float(estimates[index, 1]),
                    "tile_metres": float(table.metres[first])}  # fmt: skip
        if carried.place:
            row |= dict(zip(("true_latitude", "true_longitude"), carried.place, strict=True))
            row |= _error(carried.place, row)
        rows.append(row)
        for rank in range(min(opts.top, tiles.shape[1])):
            tile = tiles[index, rank]
            line = {
                "photo": str(photo), "rank": rank + 1, "tile": str(table.paths[tile]),
                "score": float(scores[index, rank]),
                "turned": int(turns[index, rank]) * 360 // opts.turns,
            }  # fmt: skip
            if has_places(table):
                place = map(float, table.places[tile])
                line |= dict(zip(("latitude", "longitude"), place, strict=True))
                line["tile_metres"] = float(table.metres[tile])
                line |= _error(carried.place, line) if carried.place else {}
            tile_rows.append(line)
    return rows, tile_rows


def _error(place, row):
    if "latitude" not in row:
        return {}
    return {"error_metres": float(haversine(*place, row["latitude"], row["longitude"]))}


def describe(row):
    """The printed line of a tile."""
    head = f"{row['photo']}\n" if row["rank"] == 1 else ""
    text = f"{head}{row['rank']:4d}  score {row['score']:7.4f}"
    if "latitude" in row:
        text += f"  {row['latitude']:.6f}, {row['longitude']:.6f}"
    text += f"  {row['tile']}"
    return text + (f"  {row['error_metres']:.0f} m off" if "error_metres" in row else "")


def write_all(path, rows, tile_rows, table):
    """Write the tables; GeoJSON and KML where there are coordinates."""
    outputs.write_table(path.with_suffix(".csv"), outputs.COLUMNS, rows)
    tiles = path.with_name(f"{path.stem}_tiles.csv")
    outputs.write_table(tiles, outputs.TILE_COLUMNS, tile_rows)
    written = [path.with_suffix(".csv"), tiles]
    if has_places(table):
        for suffix, write in ((".geojson", outputs.write_geojson), (".kml", outputs.write_kml)):
            write(path.with_suffix(suffix), rows)
            written.append(path.with_suffix(suffix))
    print(f"written: {', '.join(map(str, written))}")


def print_errors(known, rows, table, candidates, chosen):
    """Print the errors of the photos that carry a place, and how many do not, and why."""
    absent = [each.note for each in known if each.place is None]
    for note in dict.fromkeys(absent):
        print(f"{absent.count(note)} of {len(known)} photos: {note}")
    found = [index for index, each in enumerate(known) if each.place]
    if not found or not has_places(table):
        return
    truth = np.array([known[index].place for index in found])
    estimates = np.array([(rows[i]["latitude"], rows[i]["longitude"]) for i in found])
    first = candidates.tiles[found, 0]
    searched = table.places if chosen is None else table.places[chosen]
    errors = errors_of(truth, estimates, table.places[first], table.metres[first], searched)
    print("\n".join(errors.lines()))


# ---------------------------------------------------------------- options
def place(text):
    """argparse type: latitude,longitude in degrees."""
    try:
        latitude, longitude = (float(part) for part in text.split(","))
        fits = abs(latitude) <= 90 and abs(longitude) <= 180
    except ValueError:
        fits = False
    if not fits:
        raise argparse.ArgumentTypeError(f"{text!r} is not latitude,longitude in degrees")
    return latitude, longitude


def parse_args(argv=None):
    """Options of a search."""
    parser = cli.Parser(
        description="Say where photos were taken, by the tiles of a map that they match.",
        epilog=cli.example_in(__doc__),
    )
    add = parser.add_argument
    add("photos", nargs="+", help="photos, or folders with photos anywhere below them")
    add("--name", default="two_view", help="name of the run folder in model/")
    add("--which_epoch", default="last", help="weights to use: 59, or last")
    add("--map", required=True, metavar="DIR", help="map folder of `prepare.py tiles`, where its "
        "features are kept for each run, or a folder of pictures without places")  # fmt: skip
    add("--view", default="drone", choices=TEST_VIEWS, help="view of the photos")
    add("--map_view", default="satellite", choices=TEST_VIEWS, help="view of the map")
    add("--top", type=positive_int, default=5, metavar="K", help="tiles to list for a photo")
    add(
        "--turns",
        type=int,
        choices=(1, 2, 4),
        default=1,
        help="match the photo turned so many ways, the best counts: where its heading is unknown",
    )
    add("--near", type=place, metavar="LAT,LON", help="search only around this place")
    add(
        "--within",
        type=number_within(0, above=True),
        default=1000.0,
        metavar="METRES",
        help="how far around --near",
    )
    add("--output", default="locations", metavar="NAME",
        help="name of the written files, without a suffix")  # fmt: skip
    add("--batchsize", type=positive_int, default=128, help="images at once")
    cli.add_precision_options(parser)
    cli.add_machine_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
