"""Where was this photo taken? The first places of photos on a map, by a trained run.

python locate.py photos/ --name two_view --map data/map        # coordinates, tables
python locate.py photo.jpg --name two_view --map tiles/        # plain pictures: names and scores
python locate.py photos/ --zero_shot --map data/map            # no run: see zero_shot.py
python locate.py --text "a long red building by a pond" --name spoken --map data/map
python locate.py photos/ --name drone.onnx,satellite.onnx --map data/map   # see export.py
python locate.py flight.mp4 --every 1 --name two_view --map data/map   # a frame a second

The map is a folder that `prepare.py tiles` made, or any folder of pictures. Written are
locations.csv, .geojson and .kml (a line a photo), locations_tiles.csv (the first tiles of each) and
locations.html (photos, tiles and map on one page, which works offline).
"""

import glob
import os
import sys
from pathlib import Path

import numpy as np

from deploy.onnx_network import check_onnx
from evaluation.map_folder import TABLE, MapFolder, read_map
from evaluation.places import geodesic
from evaluation.side_files import MARKER
from imaging.files import TEST_VIEWS, TEXT, is_image_name
from locating import confidence, flight, outputs
from locating.features import extract
from locating.page import write_page
from locating.photos import PhotoPlace, list_photos, need_some
from locating.search import errors_of, estimate, first_tiles, spread_of, tiles_near
from locating.video import photos_and_frames
from networks.options import FEWEST, add_zero_shot_options, check_zero_shot
from runtime import cli, files, locks
from runtime.cli import number_within, positive_int, script
from runtime.printing import is_utf8, printable, quoted
from sources.maps import is_map

FOR_ESTIMATE = 25  # tiles from which a place is estimated: the neighbours of the best one
PRINTED = 20  # photos at most
HARDLY_BETTER = 0.8  # of the error of guessing
WRITTEN = (".csv", "_tiles.csv", ".geojson", ".kml", ".html")  # after --output
LISTED = max(confidence.RIVALS, flight.CANDIDATES)  # tiles that are found for a photo, at least


@script
def main(argv=None):
    """Locate the photos; returns {"photos": rows of locations.csv, "tiles": of the first tiles}."""
    opts = parse_args(argv)
    with locks.sole_writer(opts.output, "choose another --output"):
        folder, name = os.path.split(opts.output)
        files.remove_partials(folder, *(glob.escape(name) + suffix for suffix in WRITTEN))
        return locate(opts)


def locate(opts):
    """Locate the photos, while no other process writes the output; returns as `main` does."""
    table = open_tiles(opts.map)
    for option in ("near", "flight"):
        if getattr(opts, option) and table.places is None:
            raise ValueError(
                f"--{option} needs a map with coordinates, and {opts.map} is a folder of pictures: "
                "make one with `python prepare.py tiles`"
            )
    frames = Path(f"{opts.output}_frames")
    photos, known, damaged = opts.text, [PhotoPlace(None, "words", None)] * len(opts.text), []
    if not opts.text:
        photos, known, damaged = photos_and_frames(opts.photos, opts.every, frames)
    seconds = None
    if opts.flight:
        photos, known, seconds = flight.in_order(photos, known)
    chosen = tiles_near(table.places, opts.near, opts.within) if opts.near else None
    tiles, turned, kept, damage = extract(opts, photos, table, keep=table.places is not None)
    damaged += [damage[photo] for photo in photos if photo in damage]
    photos, known, turned, seconds = leave_out(damaged, photos, known, turned, seconds)
    top = max(opts.top, LISTED)
    candidates = first_tiles(turned, tiles, top, chosen=chosen, factory=opts.index, kept=kept)
    spread = spread_of(turned, tiles, chosen)
    rows, tile_rows = tabulate(opts, photos, known, table, candidates, spread)
    if table.places is not None and not opts.text:
        add_confidence(opts, rows, (tiles, table, candidates, spread), known, chosen, kept)
    if opts.flight:
        path = flight.find_path(candidates, table.places, table.metres, seconds, opts.speed)
        flight.add_path(rows, known, path)
    print_tiles(rows, tile_rows)
    errors = errors_of_known(known, rows, tile_rows, table, candidates, chosen)
    not_located = [{"photo": str(each.path), "note": each.note} for each in damaged]
    write_all(opts, rows, not_located, tile_rows, table, errors)
    if not opts.text:
        print_errors(known, errors, rows)
    if opts.flight:
        print("\n".join(flight.describe(rows, path, seconds, opts.speed)))
    for each in damaged:
        print(f"warning: not located: {printable(each)}", file=sys.stderr)
    return {"photos": rows + not_located, "tiles": tile_rows}


# ---------------------------------------------------------------- results
def open_tiles(folder):
    """The `MapFolder` of a map folder, or of a folder of plain pictures."""
    folder = Path(folder)
    if (folder / TABLE).is_file():
        return read_map(folder)
    if (folder / MARKER).is_file():
        raise FileNotFoundError(
            f"{folder} was begun by prepare.py and holds no {TABLE}: run `prepare.py tiles` again"
        )
    if is_map(folder):
        raise ValueError(
            f"{folder} is a map: cut it first, with "
            f"`python prepare.py tiles {quoted(folder)} --out data/map`"
        )
    if not folder.exists():
        raise FileNotFoundError(
            f"map {folder} not found: name a map folder, as `prepare.py tiles` makes it, or a "
            "folder of pictures"
        )
    if folder.is_dir() and not any(map(is_image_name, folder.rglob("*"))):
        raise ValueError(
            f"map {folder} holds neither {TABLE} nor pictures: make a map folder with "
            f"`python prepare.py tiles`, or name a folder of pictures"
        )
    return MapFolder(folder, list_photos([folder]))


def leave_out(damaged, photos, known, turned, seconds):
    """The photos that are not `damaged`, [`Damaged`], with what belongs to them.

    turned (T, N, D) are their features, seconds (N,) their times in a flight, or None. Raises
    `Damaged` where none is left.
    """
    lost = {each.path for each in damaged}
    whole = [row for row, photo in enumerate(photos) if photo not in lost]
    need_some(whole, damaged)
    photos, known = ([each[row] for row in whole] for each in (photos, known))
    if seconds is not None:
        seconds = seconds[whole] - seconds[whole[0]]
    return photos, known, turned[:, whole], seconds


def tabulate(opts, photos, known, table, candidates, spread):
    """The rows of locations.csv and of locations_tiles.csv, as dicts."""
    tiles, scores, turns = candidates
    located = table.places is not None
    if located:
        near = tiles[:, :FOR_ESTIMATE]
        best = scores[:, :FOR_ESTIMATE]
        estimates = estimate(table.places[near], table.metres[near], best, spread)
    rows, tile_rows = [], []
    for index, (photo, carried) in enumerate(zip(photos, known, strict=True)):
        for rank, tile in enumerate(tiles[index, : opts.top]):
            tile_rows.append({
                "photo": str(photo), "rank": rank + 1, "tile": str(table.paths[tile]),
                "score": float(scores[index, rank]),
                "turned": int(turns[index, rank]) * 360 // opts.turns,
                **(_about(table.places[tile], table.metres[tile], carried) if located else {}),
            })  # fmt: skip
        first = tiles[index, 0]
        row = {
            "photo": str(photo), "score": float(scores[index, 0]),
            "tile": str(table.paths[first]), "note": carried.note, **time_of(carried),
            **(_about(estimates[index], table.metres[first], carried) if located else {}),
        }  # fmt: skip
        if carried.place:
            row |= dict(zip(("true_latitude", "true_longitude"), carried.place, strict=True))
        rows.append(row)
    return rows, tile_rows


def add_confidence(opts, rows, searched, known, chosen, kept):
    """Put a confidence into the rows of locations.csv; says by what it is calibrated."""
    name = f"{opts.view}-{opts.turns}"
    if opts.zero_shot and not opts.center_on and len(rows) < FEWEST:
        name += "-few"  # centred in another way, their margins mean something else
    places = [carried.place for carried in known]
    found = confidence.judge(*searched, places, chosen=chosen, kept=kept, name=name)
    print(found.line)
    for row, value in zip(rows, found.values, strict=True):
        if np.isfinite(value):
            row["confidence"] = float(value)


def _about(place, metres, carried):
    """The columns about a place, and about its distance to the one that the photo carries."""
    latitude, longitude = map(float, place)
    found = {"latitude": latitude, "longitude": longitude, "tile_metres": float(metres)}
    if carried.place:
        found["error_metres"] = float(geodesic(*carried.place, latitude, longitude))
    return found


def time_of(carried):
    """The column of the moment at which a photo was taken, in ISO 8601; none where unknown."""
    if not carried.time:
        return {}
    parts = "milliseconds" if carried.time.microsecond else "seconds"
    return {"time": carried.time.isoformat(timespec=parts)}


def print_tiles(rows, tile_rows):
    """Print the first tiles of the photos, of many photos the best tile of some."""
    step = -(-len(rows) // PRINTED)
    sure = {row["photo"]: row.get("confidence") for row in rows[::step]}
    for row in tile_rows:
        if row["photo"] in sure and (step == 1 or row["rank"] == 1):
            print(describe(row, sure[row["photo"]]))
    if step > 1:
        print(f"{len(sure)} of {len(rows)} photos are printed, all are in the files")


def describe(row, sure=None):
    """The printed line of a tile; before the first one of a photo, that and how `sure` it is."""
    head = "" if row["rank"] > 1 else printable(row["photo"])
    if head:
        head += "\n" if sure is None else f"  confidence {sure:.2f}\n"
    text = f"{head}{row['rank']:4d}  score {row['score']:7.4f}"
    if "latitude" in row:
        text += f"  {row['latitude']:.6f}, {row['longitude']:.6f}"
    text += f"  {printable(row['tile'])}"
    return text + (f"  {row['error_metres']:.0f} m off" if "error_metres" in row else "")


def write_all(opts, rows, not_located, tile_rows, table, errors):
    """Write the tables and the page; GeoJSON and KML where there are coordinates.

    Those `not_located` are in locations.csv alone, after the others.
    """
    name = opts.output
    outputs.write_table(f"{name}.csv", outputs.COLUMNS, rows + not_located)
    outputs.write_table(f"{name}_tiles.csv", outputs.TILE_COLUMNS, tile_rows)
    written = [f"{name}.csv", f"{name}_tiles.csv"]
    if table.places is not None:
        for suffix, write in ((".geojson", outputs.write_geojson), (".kml", outputs.write_kml)):
            write(f"{name}{suffix}", rows)
            written.append(f"{name}{suffix}")
    guessing = errors and errors.guessing
    write_page(f"{name}.html", rows, tile_rows, table, guessing, words=bool(opts.text))
    print(f"written: {printable(', '.join([*written, f'{name}.html']))}")


def errors_of_known(known, rows, tile_rows, table, candidates, chosen):
    """`Errors` of the photos that carry a place; None where none does, or the map has no places."""
    found = [index for index, each in enumerate(known) if each.place]
    if not found or table.places is None:
        return None
    first = candidates.tiles[found, 0]
    firsts = [row for row in tile_rows if row["rank"] == 1]
    rows_searched = slice(None) if chosen is None else chosen
    return errors_of(
        np.array([rows[index]["error_metres"] for index in found]),
        np.array([firsts[index]["error_metres"] for index in found]),
        np.array([known[index].place for index in found]),
        (table.places[first], table.metres[first]),
        (table.places[rows_searched], table.metres[rows_searched]),
    )


def print_errors(known, errors, rows):
    """Print the errors of the photos that carry a place, and how many do not, and why.

    Whether that is better than guessing is judged by the path, if `rows` of locations.csv have one.
    """
    absent = [each.note for each in known if each.place is None]
    for note in dict.fromkeys(absent):
        print(f"{absent.count(note)} of {len(known)} photos: {printable(note)}")
    if errors:
        print("\n".join(errors.lines()))
        mostly_outside = 2 * errors.outside > len(errors.metres)
        metres = [row.get("path_error_metres", row["error_metres"]) for row in rows
                  if "error_metres" in row]  # fmt: skip
        if np.median(metres) > HARDLY_BETTER * errors.guessing and not mostly_outside:
            print("warning: that is hardly better than guessing: a run that was trained on other "
                  "ground is a poor guide; train on photos of this area (`prepare.py pairs PHOTOS "
                  "--map MAP`)", file=sys.stderr)  # fmt: skip


# ---------------------------------------------------------------- options
def parse_args(argv=None):
    """Options of a search."""
    parser = cli.Parser(
        description="Say where photos were taken, by the tiles of a map that they match. "
        "`confidence` is the probability that the place lies in the first tile: of photos with "
        "0.8, some 80 of 100 do. It is calibrated on the photos of the call whose place is known, "
        f"where there are {confidence.LEAST}, and stays with the map's features for later calls; "
        "without these on tiles of the map, each searched for among the others, and is then only "
        "a guide: two tiles are of one camera, a photo and a tile are not.",
        epilog=cli.example_in(__doc__),
    )
    add = parser.add_argument
    add("photos", nargs="*", help="photos or videos, or folders with photos anywhere below them")
    add("--text", nargs="+", default=[], metavar="WORDS", help="descriptions of places in place of "
        "photos, each in quotes, for a run that was trained with the view text")  # fmt: skip
    add("--every", type=number_within(0, above=True), metavar="SECONDS", help="take a frame of a "
        "video every so many seconds (of one named by itself 1 without this), also of those in the "
        "folders; frames are kept in <output>_frames/, their places are from an .SRT of the "
        "video's name beside it; needs the package av")  # fmt: skip
    cli.add_run_options(parser)
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
    add("--near", type=cli.place, metavar="LAT,LON", help="search only around this place")
    add("--within", type=number_within(0, above=True), metavar="METRES",
        help="how far around --near (if left out: 1000)")  # fmt: skip
    add("--flight", **cli.SWITCH, help="the photos are frames of one flight, in the order of their "
        "times (else of their names, a second apart): find the likeliest path, its places are "
        "path_latitude and path_longitude")  # fmt: skip
    add("--speed", type=number_within(0, above=True), metavar="METRES_PER_SECOND",
        help="largest ground speed of --flight, if known (if left out: 25)")  # fmt: skip
    add("--index", metavar="FACTORY", help="search by an index of faiss, which is kept beside the "
        "map's features: Flat, HNSW32, IVF1024,SQ8 or another string of its factory; what it "
        "finds is scored exactly. Without it all tiles are compared")  # fmt: skip
    add("--output", default="locations", metavar="NAME",
        help="name of the written files, without a suffix")  # fmt: skip
    add("--batchsize", type=positive_int, default=128, help="images at once")
    add_zero_shot_options(parser)
    cli.add_precision_options(parser)
    cli.add_machine_options(parser)
    opts = parser.parse_args(argv)
    check_options(parser, opts)
    return opts


def check_options(parser, opts):
    """Refuse options that do not go together; fill in what is left out."""
    check_zero_shot(parser, opts)
    if opts.photos and opts.text:
        parser.error("photos and --text: give one or the other, each in a run of its own")
    if not opts.photos and not opts.text:
        parser.error("what is to be located? Give photos, or descriptions with --text")
    if opts.text:
        for option in ("every", "flight", "zero_shot", "view", "turns"):
            if getattr(opts, option) != parser.get_default(option):
                parser.error(f"--{option} is of photos: leave it out with --text")
        if not all(map(str.strip, opts.text)):
            parser.error("--text has a description without words")
        if not is_utf8("".join(opts.text)):
            parser.error("--text has bytes that are not UTF-8: write it in that encoding")
        opts.text, opts.view, opts.turns = [*dict.fromkeys(opts.text)], TEXT, 1
    check_onnx(parser, opts)
    if opts.index and opts.near:
        parser.error(
            "--near compares the tiles there one by one, without --index: give one of them"
        )
    for option, other, default in (("within", "near", 1000.0), ("speed", "flight", 25.0)):
        if getattr(opts, option) is None:
            setattr(opts, option, default)
        elif not getattr(opts, other):
            parser.error(f"--{option} goes with --{other}: add it, or leave --{option} out")
    name = os.path.basename(opts.output)
    if name == ".." or name != Path(opts.output).name:  # a folder: ., out/
        parser.error(f"--output {opts.output} is no name of a file: give one, such as locations")


if __name__ == "__main__":
    main()
