"""The ground that training images show: squares, which images of different IDs may share."""

from pathlib import Path

import numpy as np
import torch

from evaluation import mercator
from evaluation.places import COORDINATE_FILES, places_of, read_coordinates
from evaluation.side_files import find_side_file


def read_ground(data_dir, samples):
    """{view: (N, 3) float32} of {view: N (path, label)}: x, y of the middle, and the side.

    They come from the column `metres`, the side, of the data folder's coordinates.csv, in metres of
    Web Mercator or of the file's x and y. `data_dir` is the data folder or its train/. Raises
    FileNotFoundError or ValueError where the file, an image or a side is missing.
    """
    path = find_side_file(data_dir, *COORDINATE_FILES)
    if path is None:
        raise FileNotFoundError(
            f"{Path(data_dir) / COORDINATE_FILES[0]} not found: the overlap loss needs the places "
            "and sides of the images (name,latitude,longitude,metres), as `prepare.py pairs PHOTOS "
            "--map MAP` writes them"
        )
    table = read_coordinates(path, more=("metres",))
    ground = {view: places_of([p for p, _ in pairs], table) for view, pairs in samples.items()}
    middle = np.median(np.concatenate(list(ground.values())), axis=0)  # float32 is fine near 0
    return {view: _squares(rows, middle, table) for view, rows in ground.items()}


def _squares(rows, middle, table):
    if (rows[:, 2] <= 0).any():
        raise ValueError(f"{table.source} has metres of {rows[:, 2].min():g}: a side is above 0")
    if table.planar:
        return torch.from_numpy(rows - [*middle[:2], 0]).float()
    x, y, sides = mercator.square(*rows.T)
    x0, y0 = mercator.project(*middle[:2])
    return torch.from_numpy(np.stack([mercator.eastwards(x, x0), y - y0, sides], axis=1)).float()
