"""Web Mercator (EPSG:3857): the plane in which maps are cut into tiles.

Angles are degrees of WGS 84, lengths metres of the projection: at latitude phi a metre on the
ground is 1 / cos(phi) of them, in every direction, so that a square of the plane is a square on the
ground. (The projection takes the Earth for a sphere: up to 0.7 % of error in that length.) Source:
Snyder, Map Projections - A Working Manual, USGS 1395, 1987, equations 7-1 to 7-4.
"""

import numpy as np

RADIUS = 6_378_137.0  # metres: the sphere of EPSG:3857
HALF_WORLD = np.pi * RADIUS  # the projection's square reaches from -HALF_WORLD to HALF_WORLD
LARGEST_LATITUDE = 85.05  # degrees: the square ends just beyond


def project(latitude, longitude):
    """(x, y) in metres of the projection, float64; broadcasts.

    Raises ValueError for a latitude near the poles, which the projection does not have.
    """
    latitude = np.asarray(latitude, dtype=np.float64)
    if np.any(np.abs(latitude) > LARGEST_LATITUDE):
        raise ValueError(
            f"latitude {latitude.flat[np.argmax(np.abs(latitude))]:g} is outside Web Mercator, "
            f"which ends at {LARGEST_LATITUDE} degrees: tiles cannot be cut near the poles"
        )
    x = RADIUS * np.radians(longitude)
    return x, RADIUS * np.arcsinh(np.tan(np.radians(latitude)))


def unproject(x, y):
    """(latitude, longitude) in degrees, longitude from -180 to 180; broadcasts."""
    longitude = (np.degrees(np.asarray(x) / RADIUS) + 180) % 360 - 180
    return np.degrees(np.arctan(np.sinh(np.asarray(y) / RADIUS))), longitude


def per_ground_metre(y):
    """Metres of the projection for one on the ground at height `y` of the plane: 1 / cos(phi)."""
    return np.cosh(np.asarray(y) / RADIUS)


def square(latitude, longitude, metres):
    """(x, y, side) of a square with this middle and side on the ground; all broadcast."""
    x, y = project(latitude, longitude)
    return x, y, metres * per_ground_metre(y)


def eastwards(x, start):
    """Metres of the projection from `start` to `x`, the shorter way around the Earth; broadcasts.

    To the east they are positive.
    """
    return (np.asarray(x) - start + HALF_WORLD) % (2 * HALF_WORLD) - HALF_WORLD
