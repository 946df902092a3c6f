"""A map as one picture, put together from its tiles: north is up, the plane is Web Mercator."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from evaluation import mercator
from imaging.pixels import read_image
from runtime.progress import progress_bar

PIXELS = 2048 * 2048  # of the picture, at most
LONGEST = 8192  # pixels of a side, at most: what browsers draw
MOST_TILES = 8192  # looked at in one pass: of a larger map only a part is read
PASSES = 4
GROUND = (125, 134, 142)  # colour where no tile is, as around the map


class Overview(NamedTuple):
    """A picture of a map, and where it lies."""

    picture: Image.Image  # RGB
    left: float  # edges in metres of the projection; left may be beyond the 180th meridian
    top: float
    per_pixel: float  # metres of the projection
    finest: float  # the same, of the finest tile

    def position(self, latitude, longitude):
        """(x, y) of a place in pixels from the upper left corner, perhaps outside the picture.

        The way round the Earth is chosen that is nearest to the middle of the map; a place near a
        pole is drawn where the projection ends.
        """
        end = mercator.LARGEST_LATITUDE
        x, y = mercator.project(np.clip(latitude, -end, end), longitude)
        middle = self.left + self.picture.width / 2 * self.per_pixel
        x = middle + mercator.eastwards(x, middle)
        return float(x - self.left) / self.per_pixel, float(self.top - y) / self.per_pixel


def draw_overview(table):
    """The `Overview` of a `MapFolder` with places; bounded however many tiles it has."""
    left, bottom, right, top = edges = _project_edges(table.edges)  # (N,) each
    west, north = left.min(), top.max()
    width, height = right.max() - west, north - bottom.min()
    finest = float((right - left).min()) / read_image(table.paths[0]).shape[1]
    per_pixel = max(finest, (width * height / PIXELS) ** 0.5, max(width, height) / LONGEST)
    corners = ((edges - [[west], [north], [west], [north]]) / per_pixel).T  # (N, 4)
    boxes = np.rint(corners * [1, -1, 1, -1])[:, [0, 3, 2, 1]].astype(int)  # left, top, ...
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    size = boxes[:, 2:].max(axis=0).tolist()
    # The largest tiles that are as sharp as the picture come first: they are the fewest.
    doubled = np.rint(np.log2(table.metres / table.metres.min()))  # (N,) how often: about one size
    sizes = np.unique(doubled)
    sharp = 2**sizes * finest <= per_pixel * (1 + 1e-6)
    preferred = [*sizes[sharp][::-1], *sizes[~sharp]]
    chosen = _needed(boxes, size, [doubled == each for each in preferred])

    def read(row, cell):
        pair = [boxes[row]] if cell is None else [boxes[row], cell]
        longest = max(max(x2 - x, y2 - y) for x, y, x2, y2 in pair)
        tile = Image.fromarray(read_image(table.paths[row], near=longest))
        return [(_resized(tile, x2 - x, y2 - y), (x, y)) for x, y, x2, y2 in pair]

    picture = Image.new("RGB", size, GROUND)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda job: read(*job), chosen[::-1])  # the first chosen is on top
        drawn = list(progress_bar(found, "overview", total=len(chosen)))
    for tile, place in [*(each[-1] for each in drawn), *(each[0] for each in drawn)]:
        picture.paste(tile, tuple(map(int, place)))
    return Overview(picture, float(west), float(north), float(per_pixel), finest)


def _resized(image, width, height):
    return image.resize((width, height), Image.Resampling.BOX, reducing_gap=2)


def _project_edges(edges):
    """Edges (N, 4), degrees, as (4, N) left, bottom, right, top in metres of the projection.

    They grow from one side of the map to the other, also across the 180th meridian: a map begins
    after the widest gap in the longitudes.
    """
    north, south, west, east = edges.T
    order = np.unique(west)
    start = order[(np.diff(order, append=order[0] + 360).argmax() + 1) % len(order)]
    begin = start + (west - start) % 360
    left, bottom = mercator.project(south, begin)
    right, top = mercator.project(north, begin + (east - west) % 360)
    return np.stack([left, bottom, right, top])


def _needed(boxes, size, groups):
    """[(row, cell)] of tiles that together show all that the tiles show, most important first.

    boxes (N, 4) int: left, top, right, bottom in pixels of a picture of `size`; `groups` are masks
    of tiles of about one size, those to prefer first. Where so many would have to be read that it
    takes minutes, one stands for all in a cell, a box like the others'; else `cell` is None.
    """
    shown, chosen = np.zeros(size[::-1], bool), []
    for group in groups:
        rows = np.flatnonzero(group)
        side = float(np.median(boxes[rows, 2] - boxes[rows, 0]))
        fewest = (size[0] * size[1] / MOST_TILES) ** 0.5
        counts = np.maximum(1, np.array(size) // max(side, fewest))  # cells, columns and rows
        for _ in range(1 if fewest > side else PASSES):
            new = _hidden(boxes[rows], shown)
            rows, new = rows[new > 0], new[new > 0]
            if not len(rows):
                break
            best, cells = _best_of_cells(boxes[rows], new, np.array(size) / counts)
            for row, cell in zip(rows[best].tolist(), cells, strict=True):
                chosen.append((row, cell if fewest > side else None))
                x, y, x2, y2 = boxes[row] if fewest <= side else cell
                shown[y:y2, x:x2] = True
    return chosen


def _hidden(boxes, shown):
    """How many pixels of each box are not shown yet, (N,), by a summed-area table."""
    sums = np.zeros(np.add(shown.shape, 1), np.int32)
    sums[1:, 1:] = (~shown).cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    x, y, x2, y2 = np.clip(boxes, 0, np.tile(shown.shape[::-1], 2)).T
    return sums[y2, x2] - sums[y, x2] - sums[y2, x] + sums[y, x]


def _best_of_cells(boxes, new, cell):
    """Indices of one box in each cell of a grid, and the cells (B, 4).

    The one that shows most that is new, of these the one in the middle.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / cell  # (N, 2)
    cells = np.floor(centres)
    off = np.abs(centres - cells - 0.5).max(axis=1)
    eighths = new * 8 // (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    order = np.lexsort((off, -eighths, cells[:, 0], cells[:, 1]))
    found, first = np.unique(cells[order], axis=0, return_index=True)
    edges = np.concatenate([np.floor(found * cell), np.ceil((found + 1) * cell)], axis=1)
    return order[first], edges.astype(int)
