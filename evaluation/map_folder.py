"""A map folder, as `prepare.py tiles` makes it: tiles/*, tiles.csv, prepare.yaml.

tiles.csv has a line a tile: `path` within the folder, `latitude` and `longitude` of its centre,
`north`, `south`, `west` and `east` of its edges (degrees of WGS 84; a tile is a square of Web
Mercator, so its corners are these), its side in `metres` on the ground, `metres_per_pixel`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.side_files import check_width, read_table
from runtime.files import table_text, write_text
from runtime.printing import quoted

TABLE = "tiles.csv"
COLUMNS = ("path", "latitude", "longitude", "north", "south", "west", "east", "metres",
           "metres_per_pixel")  # fmt: skip


class MapFolder(NamedTuple):
    """The tiles of a map; N of them. Plain pictures have no `places`, `edges` and `metres`."""

    folder: Path
    paths: list[Path]  # as they are opened
    places: np.ndarray | None = None  # (N, 2) float64: latitude, longitude of the centres, degrees
    edges: np.ndarray | None = None  # (N, 4) float64: north, south, west, east, degrees
    metres: np.ndarray | None = None  # (N,) float64: side of the square on the ground


def write_tiles(folder, rows):
    """Write tiles.csv in one step; `rows` are tuples of COLUMNS."""
    table = [COLUMNS]
    for path, latitude, longitude, *edges, metres, resolution in rows:
        degrees = (f"{angle:.8f}" for angle in (latitude, longitude, *edges))  # a millimetre
        table.append([path, *degrees, f"{metres:g}", f"{resolution:.6g}"])
    write_text(Path(folder, TABLE), table_text(table))


def read_map(folder):
    """Read a `MapFolder`. FileNotFoundError or ValueError says what is wrong with its table."""
    folder = Path(folder)
    if not (folder / TABLE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {TABLE}: make a map folder with "
            f"`python prepare.py tiles MAP --out {quoted(folder)}`"
        )
    header, rows = read_table(folder / TABLE)
    if missing := [name for name in COLUMNS if name not in header]:
        raise ValueError(f"{folder / TABLE} lacks the column {missing[0]}: cut the map again")
    if not rows:
        raise ValueError(f"{folder / TABLE} lists no tile: cut the map again")
    order = [header.index(name) for name in COLUMNS]
    paths, numbers = [], []
    for line, cells in rows:
        where = f"{folder / TABLE}, line {line}"
        check_width(cells, header, where)
        path, *values = (cells[i] for i in order)
        paths.append(folder / path)
        try:
            numbers.append([float(value) for value in values])
        except ValueError as error:
            raise ValueError(f"{where}: {error}: cut the map again") from None
    table = np.array(numbers)  # (N, 8)
    _, _, north, south, west, east, metres, _ = table.T
    flat = (north <= south) | (west == east) | (metres <= 0)
    if not np.isfinite(table).all() or (np.abs(table[:, 0]) > 90).any() or flat.any():
        raise ValueError(f"{folder / TABLE} holds what is no place on Earth: cut the map again")
    return MapFolder(folder, paths, table[:, :2], table[:, 2:6], table[:, 6])
