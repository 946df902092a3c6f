"""An area: the plots of many sites between roads, joined into one site for a map and a flight."""

import numpy as np
from PIL import Image

from sources.campus.grounds import TEXEL, Grounds
from sources.campus.palette import Land
from sources.campus.site import NOISE_TEXELS, Site, Stream, draw_noise, make_site, random_stream
from sources.campus.solids import SolidTable

PLOT = 153.6  # metres from one road to the next, on average
JITTER = 8.0  # metres by which a road may lie off that
MARGIN = 9.0  # metres that things on a plot keep from the middle of the road
AREA_ID = 20_000  # of the area; its buildings follow: no ID of a data folder is as high


def make_area(seed: int, plots: int) -> Site:
    """An area of `plots` x `plots` buildings about the origin; the same for the same numbers."""
    rng = random_stream(seed, AREA_ID, Stream.SITE)
    grounds = Grounds(rng, 0.0, texels=round(plots * PLOT / TEXEL))
    columns, rows = (_borders(rng, plots, grounds.land.width) for _ in range(2))
    for number in range(plots**2):
        row, column = divmod(number, plots)
        edges = columns[column], rows[row], columns[column + 1], rows[row + 1]
        _settle(grounds, seed, AREA_ID + 1 + number, [int(edge) for edge in edges])
    _lay_roads(grounds, columns[1:-1], rows[1:-1])
    grounds.plant_trees(scenery=np.inf)
    texture = random_stream(seed, AREA_ID, Stream.NOISE)
    noise = draw_noise(texture, NOISE_TEXELS << (plots - 1).bit_length())  # hardly repeats
    return Site(
        seed=seed, building=AREA_ID, solids=grounds.solids, table=SolidTable(grounds.solids),
        land=np.asarray(grounds.land), stalls=np.array(grounds.stalls),
        noise=noise, grain=texture.random((512, 512), np.float32),
        reach=plots * PLOT / np.sqrt(2),
    )  # fmt: skip


def _borders(rng: np.random.Generator, plots: int, texels: int) -> np.ndarray:
    """Texels (plots + 1,) where plots begin and end, from the west or the north."""
    inner = np.arange(1, plots) / plots * texels + rng.uniform(-1, 1, plots - 1) * JITTER / TEXEL
    return np.array([0, *inner.round(), texels], int)


def _settle(grounds: Grounds, seed: int, building: int, edges: list[int]) -> None:
    """Copy a site, its ground and what stands on it, to a plot: left, top, right, bottom texel."""
    left, top, right, bottom = edges
    half = np.array([right - left, bottom - top]) // 2
    site = make_site(seed, building, room=half * TEXEL - MARGIN)
    corner = len(site.land) // 2 - half
    box = (*corner.tolist(), *(corner + (right - left, bottom - top)).tolist())
    grounds.land.paste(Image.fromarray(site.land).crop(box), (left, top))
    x, y = grounds.brush.metres(half + (left, top))
    grounds.solids += [solid._replace(x=solid.x + x, y=solid.y + y) for solid in site.solids]
    grounds.stalls += [(east + x, north + y, heading) for east, north, heading in site.stalls]


def _lay_roads(grounds: Grounds, columns: np.ndarray, rows: np.ndarray) -> None:
    """Roads on the borders of the plots, with cars and trees, and crossings."""
    half = grounds.land.width * TEXEL / 2
    lines, _ = grounds.brush.metres(np.stack([columns, columns], 1)).T
    _, across = grounds.brush.metres(np.stack([rows, rows], 1)).T
    along = {"cars": (0, 2 * half, int(half / 12)), "trees": (8, 2 * half - 8)}
    for x in lines:
        grounds.road((x, -half), (x, half), **along)
    for y in across:
        grounds.road((-half, y), (half, y), **along)
    for x in lines:
        for y in across:
            grounds.brush.rect(x, y, 5, 3.6, Land.ASPHALT)
            grounds.brush.rect(x, y, 3.6, 5, Land.ASPHALT)
