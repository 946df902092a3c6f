"""Places of images: the one reader of coordinates.csv, distances, and metrics of distances.

Coordinates are a comma-separated table with the columns `name` (or building, image, path) and
`latitude` and `longitude` in degrees, or `x` and `y` (or easting, northing) in metres; names are
read as in `evaluation.side_files`.
"""

from typing import NamedTuple

import numpy as np
from geographiclib.geodesic import Geodesic

from evaluation.side_files import check_width, clean, depth, names_of, read_table, with_slashes

EARTH_RADIUS = 6_378_137.0  # metres: the equator's, as DenseUAV; the Earth's mean is 6 371 009
COORDINATE_FILES = ("coordinates.csv", "utm.csv")  # in a data folder: degrees, metres
RADII = (25, 50, 100)  # metres within which the shares of photos are told
NAME_COLUMNS = ("name", "building", "image", "path")
AXES = (("latitude", "longitude"), ("x", "y"), ("easting", "northing"))


class Coordinates(NamedTuple):
    """A table of places, as `read_coordinates` gives it."""

    places: dict[str, tuple[float, float]]  # (latitude, longitude) in degrees, or (x, y) in metres
    planar: bool  # whether they are (x, y)
    source: str  # the file's name, for messages


# ---------------------------------------------------------------- reading
def read_coordinates(path, more=()):
    """Read `Coordinates` from a table, see the top of this file; other columns are passed over.

    Places have the columns `more` too, if any, as further numbers. Raises FileNotFoundError or
    ValueError.
    """
    header, rows = read_table(path)
    name = next((header.index(column) for column in NAME_COLUMNS if column in header), None)
    axes = next(((*axes, *more) for axes in AXES if {*axes, *more} <= set(header)), None)
    if name is None or axes is None:
        further = "".join(f",{column}" for column in more)
        raise ValueError(
            f"{path} has the columns {', '.join(header) or 'none'}, expected "
            f"name,latitude,longitude{further} (degrees) or name,x,y{further} (metres)"
        )
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has the columns {', '.join(header)}: name each once")
    columns = [header.index(axis) for axis in axes]
    places = {}
    for line, cells in rows:
        check_width(cells, header, f"{path}, line {line}")
        place = tuple(_coordinate(cells[i], header[i], f"{path}, line {line}") for i in columns)
        if places.setdefault(clean(cells[name]), place) != place:
            raise ValueError(
                f"{path}, line {line}: {cells[name]} has another place than before: name the "
                "image with its folder, or remove a line"
            )
    return Coordinates(places, "latitude" not in axes, str(path))


def _coordinate(text, axis, where):
    limit = {"latitude": 90, "longitude": 180}.get(axis)  # degrees
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value) or (limit and abs(value) > limit):
        degrees = f" from -{limit} to {limit} degrees" if limit else ""
        raise ValueError(f"{where}: {axis} is {text!r}, expected a number{degrees}")
    return value


def places_of(paths, coordinates):
    """Places (N, 2 or more) float64 of image files by a table of `Coordinates`.

    An image's own entry counts before its folder's, and a longer name before a shorter. Raises
    ValueError where an image has no entry.
    """
    table, longest = coordinates.places, depth(coordinates.places)
    found = []
    for path in with_slashes(paths):
        names = (*names_of(path, longest), *names_of(path, longest, folder=True))
        found.append(next((table[name] for name in names if name in table), None))
    missing = [path for path, place in zip(paths, found, strict=True) if place is None]
    if missing:
        raise ValueError(
            f"{coordinates.source} has no place for {len(missing)} of {len(paths)} images, first "
            f"{missing[0]}: add the name of the image or of its folder"
        )
    return np.array(found, dtype=np.float64)


# ---------------------------------------------------------------- distances of places
def haversine(lat1, lon1, lat2, lon2, radius=EARTH_RADIUS):
    """Great-circle distance in the unit of `radius`, metres by default; degrees in, broadcast.

    2 R asin(sqrt(sin^2(dlat / 2) + cos(lat1) cos(lat2) sin^2(dlon / 2))), on a sphere: the
    ellipsoid of the Earth differs by at most 0.6 %. Source: Sinnott, Virtues of the haversine,
    Sky and Telescope 68, 1984; the radius is that of DenseUAV, evaluateDistance.py.
    """
    lat1, lon1, lat2, lon2 = (np.radians(angle) for angle in (lat1, lon1, lat2, lon2))
    half_lat, half_lon = np.sin((lat2 - lat1) / 2), np.sin((lon2 - lon1) / 2)
    chord = half_lat**2 + np.cos(lat1) * np.cos(lat2) * half_lon**2
    return 2 * radius * np.arcsin(np.sqrt(np.minimum(chord, 1)))


def geodesic(lat1, lon1, lat2, lon2):
    """Length in metres of the shortest way on the ellipsoid of WGS 84; degrees in, broadcast.

    Right to nanometres, but a thousand times as slow as `haversine`: for the errors of photos.
    Source: Karney, Algorithms for geodesics, Journal of Geodesy 87, 2013, and geographiclib.
    """
    return np.vectorize(_geodesic, otypes=[np.float64])(lat1, lon1, lat2, lon2)


def _geodesic(*degrees):
    return Geodesic.WGS84.Inverse(*degrees, Geodesic.DISTANCE)["s12"]


def planar_distance(a, b):
    """Euclidean distances of places (..., 2), in their unit."""
    return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])


def metre_distance(a, b, planar=False):
    """Distances in metres of places (..., 2): by `haversine` of degrees, Euclidean of (x, y)."""
    if planar:
        return planar_distance(a, b)
    return haversine(a[..., 0], a[..., 1], b[..., 0], b[..., 1])


def degree_distance(a, b):
    """Euclidean distances in degrees of places (..., 2), first rounded to float32.

    As published (DenseUAV, evaluateDistance.py). A degree of longitude counts as much as one of
    latitude, though it is shorter, and the rounding moves a place by up to 0.4 m at 120 degrees.
    """
    a, b = (np.asarray(side).astype(np.float32).astype(np.float64) for side in (a, b))
    return planar_distance(a, b)


# ---------------------------------------------------------------- distances of the first images
def sdm(distances, k, scale):
    """Spatial distance metric SDM@K of every query: distances (Nq, >= K) of its first images.

    sum_i w_i exp(-scale d_i) / sum_i w_i with w_i = 1 - (i - 1) / K for i = 1..K, from 0 to 1;
    (Nq,). Sources: Dai et al., Vision-based UAV self-positioning in low-altitude urban
    environments (DenseUAV), TIP 2024, and evaluateDistance.py of its code, with `scale` 5000 and
    `degree_distance`; GTA-UAV, evaluate/gta.py, with `scale` 0.001 and metres. Raises ValueError
    for fewer than K distances.
    """
    weights = 1 - np.arange(k) / k
    return np.exp(-scale * _first(distances, k)) @ weights / weights.sum()


def mean_distance(distances, k):
    """Dis@K of every query: the mean distance of its first K images; (Nq, >= K) -> (Nq,).

    Source: GTA-UAV (Ji et al., AAAI 2025), evaluate/gta.py.
    """
    return _first(distances, k).mean(axis=1)


def metre_accuracy(distances, metres):
    """MA@m: percent of queries whose first image is nearer than m metres.

    distances (Nq, >= 1) in metres; metres a number, or (M,) for an (M,) curve. Source: DenseUAV,
    evaluateDistance.py, which draws it for m = 1..100.
    """
    nearest_first = np.sort(_first(distances, 1)[:, 0])
    return 100 * np.searchsorted(nearest_first, metres, side="left") / len(nearest_first)


def recall_within(distances, k, radius):
    """Percent of queries with an image at most `radius` away among their first K.

    distances (Nq, >= K) in the unit of `radius`. Source: Liu and Li, CVPR 2019 (CVACT_test,
    5 metres), RecallGeo.m of their code.
    """
    return float(100 * np.mean((_first(distances, k) <= radius).any(axis=1)))


def share_within(errors, radius):
    """Percent of errors (N,) that are at most `radius`, in the same unit."""
    return float(100 * np.mean(np.asarray(errors) <= radius))


def _first(distances, k):
    distances = np.asarray(distances, dtype=np.float64)
    if distances.ndim != 2 or not 1 <= k <= distances.shape[1]:
        raise ValueError(
            f"distances of shape {distances.shape}, expected (queries, images) with at least "
            f"K = {k} >= 1 images: use a smaller K or rank more images"
        )
    return distances[:, :k]
