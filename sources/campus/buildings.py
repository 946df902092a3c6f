"""The building in the middle of a site: wings under roofs, in families of plans.

A family returns the name of the shape that it drew and the solids.
"""

from dataclasses import dataclass, replace

import numpy as np

from sources.campus.palette import FLAT_COLOURS, SEAT_COLOURS, TILE_COLOURS, WALL_COLOURS, Material
from sources.campus.solids import Shape, Solid


@dataclass(frozen=True)
class Style:
    """What the wings of one building share: walls, flat roofs, facade and pitched roofs."""

    wall: dict[str, tuple]  # Solid fields
    tiles: dict[str, object]  # Solid fields
    pitched: bool
    gabled: bool
    slope: float


def pick_colour(rng: np.random.Generator, colours: np.ndarray) -> tuple[float, ...]:
    """One of the colours, a little lighter or darker and a little off in hue."""
    return tuple(rng.choice(colours) * rng.normal(1, 0.12) * rng.normal(1, 0.06, 3))


def draw_style(rng: np.random.Generator) -> Style:
    """A style at random."""
    window = 1.0 if rng.random() < 0.3 else rng.uniform(0.35, 0.85)  # 1: ribbons of glass
    facade = (rng.uniform(2.6, 6.0), window, rng.uniform(0.4, 0.72), rng.uniform(3.3, 4.3))
    wall = {
        "side_colour": pick_colour(rng, WALL_COLOURS),
        "cap_colour": pick_colour(rng, FLAT_COLOURS),
    }
    tile = pick_colour(rng, TILE_COLOURS)
    tiles = {"side": Material.TILES, "side_colour": tile, "cap": Material.TILES, "cap_colour": tile}
    pitched, gabled = rng.random(2) < (0.35, 0.5)
    return Style({**wall, "facade": facade}, tiles, pitched, gabled, rng.uniform(0.35, 0.75))


def wing(rng, style: Style, x0, y0, x1, y1, height, yaw=0.0) -> list[Solid]:
    """A wing between two corners under its roof, which is pitched or flat with equipment."""
    x, y, half_x, half_y = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    block = Solid(x, y, half_x, half_y, 0.0, height, yaw, **style.wall)
    if not style.pitched:
        return [block, *_roof_plant(rng, block)]
    half_x, half_y = half_x + 0.6, half_y + 0.6
    span = min(half_x, half_y)
    end = 0.0 if style.gabled else span
    insets = (end, half_y) * 2 if half_x >= half_y else (half_x, end) * 2
    ridge = height + style.slope * span
    roof = Solid(x, y, half_x, half_y, height, ridge, yaw, insets=insets, **style.tiles)
    chimney = Solid(*_inside(rng, block, 3), 0.8, 0.8, height, ridge + 1.5, yaw)
    return [block, roof, chimney._replace(side=Material.PLAIN)]


def _inside(rng: np.random.Generator, block: Solid, margin: float) -> tuple[float, float]:
    """A point of the block's plan at least `margin` from its edges (or its middle)."""
    along = rng.uniform(-1, 1) * max(block.half_x - margin, 0.0)
    across = rng.uniform(-1, 1) * max(block.half_y - margin, 0.0)
    cos, sin = np.cos(block.yaw), np.sin(block.yaw)
    return block.x + along * cos - across * sin, block.y + along * sin + across * cos


def _roof_plant(rng: np.random.Generator, block: Solid) -> list[Solid]:
    """Equipment on a flat roof: machines and tanks, a lift tower, a skylight or solar panels."""
    plant, roof = [], {"base": block.top, "yaw": block.yaw, "side": Material.PLAIN}
    for _ in range(int(np.clip(block.half_x * block.half_y / 40, 1, 5))):
        x, y = _inside(rng, block, 3.0)
        size, tank = rng.uniform(0.8, 2.6, 2), rng.random() < 0.2
        half = {"half_x": size[0], "half_y": size[0] if tank else size[1]}
        paint = dict.fromkeys(("side_colour", "cap_colour"), (rng.uniform(0.25, 0.7),) * 3)
        top, shape = block.top + rng.uniform(0.9, 2.6), Shape.CYLINDER if tank else Shape.BOX
        look = {**roof, **paint, "cap": Material.PLAIN, "shape": shape}
        plant.append(Solid(x, y, **half, **look, top=top))
    x, y = _inside(rng, block, 5.0)
    paint = {"side_colour": block.side_colour, "cap_colour": block.cap_colour}
    plant.append(Solid(x, y, 2.5, rng.uniform(2.5, 5), top=block.top + 3.4, **roof, **paint))
    kind = rng.random()
    if kind < 0.3:
        wide = block.half_x > block.half_y
        half = (0.7 * block.half_x, 1.4) if wide else (1.4, 0.7 * block.half_y)
        glass = {"cap": Material.PANELS, "cap_colour": (0.13, 0.2, 0.24), "insets": (1.0,) * 4}
        plant.append(Solid(block.x, block.y, *half, top=block.top + 1.3, **roof, **glass))
    elif kind < 0.55:
        half = rng.uniform(0.3, 0.6, 2) * (block.half_x, block.half_y)
        x, y = _inside(rng, block, max(half) + 1.5)
        solar = {"cap": Material.PANELS, "cap_colour": (0.03, 0.045, 0.09)}
        plant.append(Solid(x, y, *half, top=block.top + 0.5, **roof, **solar))
    return plant


def _plans(length: float, width: float, depth: float, cut: float) -> dict[str, list[tuple]]:
    """Footprints made of bars `depth` deep, as rectangles (x0, y0, x1, y1); 0 < cut < 1."""
    mid_x, mid_y = cut * (length - depth), cut * (width - depth)
    south, north = (0, 0, length, depth), (0, width - depth, length, width)
    west, east = (0, 0, depth, width), (length - depth, 0, length, width)
    along, across = (0, mid_y, length, mid_y + depth), (mid_x, 0, mid_x + depth, width)
    thin = 0.75 * depth
    teeth = [(x, 0, x + thin, width) for x in np.linspace(0, length - thin, 4)]
    return {
        "slab": [along, (mid_x, mid_y, mid_x + 14, mid_y + depth + 9)],
        "corner": [south, west],
        "u": [south, west, east],
        "t": [north, across],
        "h": [west, east, along],
        "court": [south, north, west, east],
        "two courts": [south, north, west, east, across],
        "cross": [along, across],
        "comb": [(0, 0, length, thin), *teeth],
        "z": [(0, 0, mid_x + depth, depth), across, (mid_x, width - depth, length, width)],
        "f": [west, north, along],
        "parallel": [south, north, (mid_x, 0, mid_x + 6, width)],
    }


def barred(rng: np.random.Generator, style: Style) -> tuple[str, list[Solid]]:
    """A building of bars, by one of the plans above."""
    length, depth, cut = rng.uniform(46, 88), rng.uniform(11, 19), rng.uniform(0.25, 0.75)
    plans = _plans(length, length * rng.uniform(0.55, 0.95), depth, cut)
    solids, mirrored, storeys = [], rng.random() < 0.5, rng.integers(2, 6)
    plan = str(rng.choice(list(plans)))
    for x0, y0, x1, y1 in plans[plan]:
        # The odd centimetres keep crossing roofs out of one plane, where they would flicker.
        height = 3.8 * max(storeys + rng.choice([-1, 0, 0, 1, 3]), 1) + rng.uniform(0.8, 1.6)
        x0, x1 = (-x1, -x0) if mirrored else (x0, x1)
        solids += wing(rng, style, x0, y0, x1, y1, height)
    return plan, solids


def _rotunda(rng: np.random.Generator, style: Style) -> tuple[str, list[Solid]]:
    """A domed drum with two or four wings."""
    radius, height, half = rng.uniform(13, 22), rng.uniform(13, 22), rng.uniform(5, 9)
    reach, rise, inner = radius + rng.uniform(8, 20), *rng.uniform(0.6, 0.95, 2) * radius
    drum = Solid(0, 0, radius, radius, 0, height, shape=Shape.CYLINDER, **style.wall)
    dome = drum._replace(half_x=inner, half_y=inner, base=height - rise, top=height + rise)
    dome = dome._replace(shape=Shape.ELLIPSOID, **style.tiles)
    lantern = drum._replace(half_x=1.8, half_y=1.8, base=dome.top - 1, top=dome.top + 3)
    low = height * rng.uniform(0.45, 0.75)
    solids = [drum, dome, lantern, *wing(rng, style, -reach, -half, reach, half, low)]
    if rng.random() < 0.5:
        solids += wing(rng, style, -half, -reach, half, 0, low + 1.1)
    return "rotunda", solids


def stadium(rng: np.random.Generator, style: Style) -> tuple[str, list[Solid]]:
    """Sloping stands on two to four sides of a pitch, one of them under a roof."""
    half_x, half_y = rng.uniform(24, 32), rng.uniform(15, 21)
    rake, high = rng.uniform(8, 13), rng.uniform(7, 13)
    look = {**style.wall, "side": Material.TILES, "side_colour": pick_colour(rng, SEAT_COLOURS)}
    solids = []
    for side, (x, y) in enumerate(((-1, 0), (0, -1), (1, 0), (0, 1))):
        if side < 2 and rng.random() < 0.25:
            continue
        half = (rake / 2, half_y) if x else (half_x, rake / 2)
        centre = x * (half_x + rake / 2), y * (half_y + rake / 2)
        insets = tuple((rake - 1) * (np.arange(4) == side))
        solids.append(Solid(*centre, *half, 0, high * rng.uniform(0.7, 1.2), insets=insets, **look))
    roof = {**style.wall, "side": Material.PLAIN}
    top = high * 1.5
    solids.append(Solid(0, half_y + rake * 0.65, half_x, rake * 0.5, top, top + 0.8, **roof))
    masts = [(x * (half_x + rake), y * (half_y + rake)) for x in (-0.9, 0.9) for y in (-0.9, 0.9)]
    solids += [Solid(*mast, 1, 1, 0, high * 2, side=Material.PLAIN) for mast in masts]
    return "stadium", solids


def _church(rng: np.random.Generator, style: Style) -> tuple[str, list[Solid]]:
    """A nave with transept under steep gables, an apse and a spired tower."""
    half, arm, width = rng.uniform(20, 32), rng.uniform(12, 20), rng.uniform(5.5, 8.5)
    high, crossing = rng.uniform(10, 15), rng.uniform(3, 14)
    steep = replace(style, pitched=True, gabled=True, slope=rng.uniform(0.8, 1.2))
    solids = wing(rng, steep, -half, -width, half, width, high)
    solids += wing(rng, steep, crossing - width, -arm, crossing + width, arm, high - 0.7)
    solids.append(Solid(half, 0, width, width, 0, high - 2, shape=Shape.CYLINDER, **style.wall))
    tall, thick = high * rng.uniform(1.8, 2.6), rng.uniform(3.2, 4.6)
    tower = Solid(
        -half - thick + 1, rng.choice([-1, 0, 1]) * (width - 1), thick, thick, 0, tall, **style.wall
    )
    spire = tower._replace(base=tall, top=tall + 12, insets=(thick,) * 4, **style.tiles)
    return "church", [*solids, tower, spire]


def _stepped(rng: np.random.Generator, style: Style) -> tuple[str, list[Solid]]:
    """A podium carrying one or two towers that step back as they rise."""
    half_x, half_y, podium = rng.uniform(24, 38), rng.uniform(18, 28), rng.uniform(5, 10)
    flat = replace(style, pitched=False)
    solids = wing(rng, flat, -half_x, -half_y, half_x, half_y, podium)
    for place in ((0.1,), (-0.5, 0.5))[rng.integers(2)]:
        x, y = (place + rng.uniform(-0.2, 0.2)) * half_x, rng.uniform(-0.4, 0.4) * half_y
        size, height = rng.uniform(8, 13, 2), podium
        for _ in range(rng.integers(1, 4)):
            height += rng.uniform(8, 14)
            solids += wing(rng, flat, x - size[0], y - size[1], x + size[0], y + size[1], height)
            size = size * rng.uniform(0.6, 0.8)
    return "stepped", solids


def _sawtooth(rng: np.random.Generator, style: Style) -> tuple[str, list[Solid]]:
    """A hall under a row of north-light roofs, with an office block at one end."""
    half_x, half_y, high = rng.uniform(24, 38), rng.uniform(14, 26), rng.uniform(6, 9)
    solids, teeth = [Solid(0, 0, half_x, half_y, 0, high, **style.wall)], rng.integers(4, 9)
    pitch = half_x / teeth
    for x in np.linspace(-half_x + pitch, half_x - pitch, teeth):
        tooth = Solid(x, 0, pitch, half_y, high, high + 0.8 * pitch, **style.tiles)
        solids.append(tooth._replace(insets=(2 * pitch - 0.3, 0, 0, 0)))
    end, short = rng.choice([-1, 1]) * (half_x + 6), -half_y * rng.uniform(0.5, 1)
    return "sawtooth", solids + wing(rng, style, end - 6, short, end + 6, half_y, high + 7)


def _crescent(rng: np.random.Generator, style: Style) -> tuple[str, list[Solid]]:
    """A curved range of bars, with or without a drum at the centre of the bend."""
    radius, depth, sweep = rng.uniform(26, 40), rng.uniform(6, 9), np.radians(rng.uniform(110, 250))
    high, step = rng.uniform(9, 22), rng.choice([0, 0, 1.5])
    half = (radius + depth) * np.tan(sweep / 18)
    solids = []
    for piece, angle in enumerate(np.linspace(-4 / 9, 4 / 9, 9) * sweep):
        x, y = radius * np.sin(angle), radius * np.cos(angle)
        solids.append(Solid(x, y, half, depth, 0, high + step * piece, -angle, **style.wall))
        solids += _roof_plant(rng, solids[-1])[:1]
    if rng.random() < 0.6:
        size = rng.uniform(7, 12)
        solids.append(Solid(0, 0, size, size, 0, high * 0.7, shape=Shape.CYLINDER, **style.wall))
    return "crescent", solids


def _star(rng: np.random.Generator, style: Style) -> tuple[str, list[Solid]]:
    """Three to five wings radiating from a round core."""
    arms, half, high = rng.integers(3, 6), rng.uniform(5.5, 8), rng.uniform(10, 20)
    core = {"half_x": half * 1.6, "half_y": half * 1.6, "shape": Shape.CYLINDER, **style.wall}
    solids = [Solid(0, 0, base=0, top=high + rng.uniform(2, 9), **core)]
    for angle in 2 * np.pi * np.arange(arms) / arms:
        reach = rng.uniform(13, 21)
        x, y, top = reach * np.cos(angle), reach * np.sin(angle), high + rng.uniform(-3, 3)
        solids += wing(rng, style, x - reach, y - half, x + reach, y + half, top, angle)
    return "star", solids


FAMILIES = (_rotunda, stadium, _church, _stepped, _sawtooth, _crescent, _star)
BARRED_SHARE = 0.6  # of the buildings are made of bars; the other families share the rest
