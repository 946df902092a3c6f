"""What can be said of a site: shape, roof, colours and storeys of its building, what lies around.

Told is what the satellite's and the drone's pictures both show, whatever the season: nothing that
stands only in a corner of the picture, and no colour of what grows.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from sources.campus.grounds import TEXEL
from sources.campus.palette import CONIFER, Land, Material
from sources.campus.site import Plan, Site
from sources.campus.solids import Shape, Solid
from sources.campus.views import picture_span

SIDES = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")
SHOWN_BY = {  # kind of plot -> what the ground shows of it, and the square metres that one notices
    "car_park": ((Land.PARKING, Land.MARKING), 150),
    "courts": ((Land.COURT, Land.COURT_EDGE, Land.MARKING), 150),
    "pond": ((Land.WATER,), 60),
    "plaza": ((Land.PAVING, Land.SOIL, Land.WATER), 150),
    "field": ((Land.TURF_LIGHT, Land.TURF_DARK, Land.MARKING), 150),
    "lawn": ((Land.LAWN, Land.PATH), 350),
}
COARSE = 4  # texels along a cell of what is measured on the ground
ROAD, NEIGHBOUR, TREES, GROVE = 35, 90, 27, 6  # metres, square metres and numbers worth a word
NARROW = 3  # cells, half the width of a strip at the edge that one overlooks
SOLID_SHARE = 0.75  # of its box; a building that fills more of it shows no wings


class Thing(NamedTuple):
    """What lies beside the building."""

    kind: str  # of SHOWN_BY, or "court", "grove", "conifers", "building", "road"
    side: int  # of SIDES
    size: float  # square metres in the picture, of a road metres
    colour: tuple[float, ...] | None = None  # linear RGB of a building's roof
    roof: str = ""  # of a building: flat or pitched


class Facts(NamedTuple):
    """All that can be told of a site."""

    shape: str
    parts: int  # stands or wings, where the shape has a number of them
    reach: float  # metres from the middle to the farthest corner
    axis: int | None  # of SIDES, 0..3: where the long side points; None without one
    storeys: tuple[int, int] | None  # of the lowest and of the highest part
    roof: str  # flat, gabled, hipped, dome, sawtooth, seats
    roof_colour: tuple[float, ...]  # linear RGB
    wall_colour: tuple[float, ...]
    details: tuple[str, ...]  # bands, skylight, solar, equipment
    tallest: int | None  # of SIDES: where the one wing that tops the others stands
    trees: str  # many, few or ""
    things: list[Thing]


def gather(site: Site) -> Facts:
    """What can be told of a site that has a plan."""
    plan = site.plan
    walls = [solid for solid in plan.block if solid.side == Material.WALL and solid.base == 0]
    roof, colour = _roof(plan, walls)
    shape = _seen_shape(plan)
    parts = {"rotunda": 2 * (len(walls) - 1), "star": len(walls) - 1,
             "stadium": sum(solid.side == Material.TILES for solid in plan.block)}  # fmt: skip
    around = _Surroundings(site)
    crowns = sum(around.shows(s.x, s.y) for s in site.solids if s.species >= 0)
    crowns *= (95 / around.span) ** 2
    return Facts(
        shape, parts.get(plan.shape, 1), site.reach, _axis(plan), _storeys(plan, walls),
        roof, colour, plan.block[0].side_colour if shape != "stadium" else (0.5, 0.5, 0.5),
        _details(plan, walls), _tallest(plan, walls),
        "many" if crowns > TREES else "few" if crowns < TREES / 4 else "", around.things(),
    )  # fmt: skip


# ---------------------------------------------------------------- the building
def _roof(plan: Plan, walls: list[Solid]) -> tuple[str, tuple[float, ...]]:
    """Form and colour of what one sees from above."""
    named = {"rotunda": "dome", "sawtooth": "sawtooth", "stadium": "seats"}.get(plan.shape)
    tiled = [s for s in plan.block if s.side == Material.TILES]
    if named or tiled:
        form = named or ("gabled" if min(tiled[0].insets) == 0 else "hipped")
        return form, tiled[0].side_colour
    return "flat", walls[0].cap_colour


def _seen_shape(plan: Plan) -> str:
    """The shape that the building has to the eye: wings that grew into one another are a block."""
    if plan.shape == "stepped":
        towers = {(round(s.x, 3), round(s.y, 3)) for s in plan.block[1:] if s.side == Material.WALL}
        return "two towers" if len(towers) > 1 else "one tower"
    if plan.shape not in ("corner", "u", "t", "h", "court", "two courts", "cross", "comb", "z",
                          "f", "parallel"):  # fmt: skip
        return plan.shape
    bars = [solid for solid in plan.block if solid.side == Material.WALL and solid.base == 0]
    x, y = (np.arange(-half, half) + 0.5 for half in plan.half)
    filled = np.zeros((len(y), len(x)), bool)
    for bar in bars:
        filled |= np.logical_and.outer(abs(y - bar.y) < bar.half_y, abs(x - bar.x) < bar.half_x)
    _, yards = ndimage.label(ndimage.binary_opening(~filled, np.ones((5, 5))))
    if plan.shape in ("court", "two courts"):
        return ("block", "court", "two courts")[yards]
    arms_apart = {"f": 2, "parallel": 2, "comb": 3, "h": 2, "z": 2, "cross": 4, "t": 2, "u": 1}
    if filled.mean() > SOLID_SHARE or yards < arms_apart.get(plan.shape, 1):
        return "block"
    return plan.shape


def _axis(plan: Plan) -> int | None:
    """Where the long side of the box about the building points."""
    half_x, half_y = plan.half
    if max(half_x, half_y) < 1.35 * min(half_x, half_y):
        return None
    return _side_of(plan.yaw + (0 if half_x > half_y else np.pi / 2)) % 4


def _storeys(plan: Plan, walls: list[Solid]) -> tuple[int, int] | None:
    """Rows of windows of the lowest and the highest part; None where it has none to count."""
    if plan.shape in ("church", "stadium"):
        return None
    rows = [max(int((wall.top - 0.9) / wall.facade[3] + 0.48), 1) for wall in walls]
    return min(rows), max(rows)


def _details(plan: Plan, walls: list[Solid]) -> tuple[str, ...]:
    """What else stands out: long bands of windows, what lies on the roofs."""
    in_bands = plan.shape != "church" and walls and walls[0].facade[1] == 1
    found = ["bands"] if in_bands else []
    for panel in plan.block:
        covered = any(
            wall.top > panel.top
            and abs(panel.x - wall.x) < wall.half_x + panel.half_x / 2
            and abs(panel.y - wall.y) < wall.half_y + panel.half_y / 2
            for wall in walls
        )
        if panel.cap == Material.PANELS and not covered and panel.half_x * panel.half_y > 8:
            found.append("skylight" if any(panel.insets) else "solar")
    return tuple(dict.fromkeys(found))


def _tallest(plan: Plan, walls: list[Solid]) -> int | None:
    """The side of the one bar that is a storey higher than the others, where it stands off."""
    if plan.shape in ("rotunda", "stadium", "church", "stepped", "crescent", "star", "slab"):
        return None
    *_, second, first = sorted(walls, key=lambda wall: wall.top)
    off = np.hypot(first.x, first.y)
    if first.top - second.top < 3.3 or off < 0.25 * np.hypot(*plan.half):
        return None
    return _side_of(plan.yaw + np.arctan2(first.y, first.x))


def _side_of(angle: float) -> int:
    """The one of SIDES at an angle from the east over the north, radians."""
    return int(np.round(angle / (np.pi / 4))) % 8


# ---------------------------------------------------------------- what lies around
class _Surroundings:
    """The ground about a building, in cells, as far as all pictures show it."""

    def __init__(self, site: Site):
        self.site, self.plan, self.span = site, site.plan, picture_span(site)
        self.turn = np.array([np.cos(site.plan.yaw), np.sin(site.plan.yaw)])
        self.land = site.land[COARSE // 2 :: COARSE, COARSE // 2 :: COARSE]
        across = (np.arange(len(self.land)) - len(self.land) / 2 + 0.5) * COARSE * TEXEL
        self.east, self.north = np.meshgrid(across, -across)
        self.seen = self.shows(self.east, self.north)

    def shows(self, east, north):
        """Whether the satellite's picture and the drone's, turned as it may be, show a point."""
        return np.hypot(east, north) < 0.5 * self.span

    def things(self) -> list[Thing]:
        """All that one notices around the building."""
        found = [*self._plots(), *self._buildings(), *self._roads()]
        return [thing for thing in found if thing]

    def _within(self, x, y, half_x, half_y, yaw) -> np.ndarray:
        """Which cells of the pictures a turned rectangle holds; none of one that they cut off."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        along = (self.east - x) * cos + (self.north - y) * sin
        beside = (self.north - y) * cos - (self.east - x) * sin
        cells = (abs(along) < half_x) & (abs(beside) < half_y)
        seen = cells & self.seen
        strip = not ndimage.binary_erosion(seen, iterations=NARROW).any()
        return seen & (not strip and seen.sum() > 0.2 * cells.sum())

    def _thing(self, kind, cells, least, **more) -> Thing | None:
        size = float(cells.sum() * (COARSE * TEXEL) ** 2)
        if size < least:
            return None
        middle = self.east[cells].mean(), self.north[cells].mean()
        return Thing(kind, _side_of(np.arctan2(middle[1], middle[0])), size, **more)

    def _place(self, x, y) -> tuple[float, float]:
        """East and north of a point in the building's frame."""
        cos, sin = self.turn
        return x * cos - y * sin, x * sin + y * cos

    def _plots(self):
        for plot in self.plan.plots:
            place = *self._place(plot.x, plot.y), plot.half_x, plot.half_y, self.plan.yaw
            cells = self._within(*place)
            if plot.kind in SHOWN_BY:
                lands, least = SHOWN_BY[plot.kind]
                single = plot.kind == "courts" and plot.half_x < 18
                kind = "court" if single else plot.kind
                yield self._thing(kind, cells & np.isin(self.land, lands), least)
            elif plot.kind == "grove":
                crowns = [s for s in self.site.solids if s.species >= 0 and self._inside(s, place)]
                area = cells.sum() * (COARSE * TEXEL) ** 2
                if len(crowns) >= max(GROVE, area / 50):
                    needles = np.mean([crown.species == CONIFER for crown in crowns])
                    yield self._thing("conifers" if needles > 0.6 else "grove", cells, 150)

    def _inside(self, solid, place) -> bool:
        """Whether a solid stands in a turned rectangle, and in the pictures."""
        x, y, half_x, half_y, _ = place
        along = (solid.x - x) * self.turn[0] + (solid.y - y) * self.turn[1]
        beside = (solid.y - y) * self.turn[0] - (solid.x - x) * self.turn[1]
        return abs(along) < half_x and abs(beside) < half_y and self.shows(solid.x, solid.y)

    def _buildings(self):
        others = self.site.solids[len(self.plan.block) :]
        for wall, above in zip(others[:-1], others[1:], strict=True):
            if wall.side == Material.WALL and wall.shape == Shape.BOX:
                pitched = above.side == Material.TILES
                yield self._thing(
                    "building", self._within(*wall[:4], wall.yaw), NEIGHBOUR,
                    colour=above.side_colour if pitched else wall.cap_colour,
                    roof="pitched" if pitched else "flat",
                )  # fmt: skip

    def _roads(self):
        for start, stop in self.plan.roads:
            line = np.linspace(start, stop, 400)
            under = (abs(line) < self.plan.half).all(1)
            east, north = self._place(*line.T)
            shown = self.shows(east, north)
            if under.any() or not shown.any():
                continue  # one that the building stands over has no side
            length = shown.mean() * float(np.hypot(*np.subtract(stop, start)))
            if length >= ROAD:
                middle = np.arctan2(north[shown].mean(), east[shown].mean())
                yield Thing("road", _side_of(middle), length)
