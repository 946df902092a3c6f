"""What the toy campus says of its buildings is true, reads well and gives no building away."""

import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sources.campus import palette, words
from sources.campus.descriptions import COUNT, LONGEST, SHORTEST, describe
from sources.campus.facts import SIDES, gather
from sources.campus.grounds import Plot
from sources.campus.palette import CONIFER, Land, Material
from sources.campus.site import Plan, Site, make_site
from sources.campus.solids import Solid, SolidTable
from sources.campus.views import picture_span

SEED, BUILDINGS = 3, range(1, 26)
SHOWN = {  # kind -> what the ground shows of it
    "car_park": Land.PARKING, "court": Land.COURT, "courts": Land.COURT, "pond": Land.WATER,
    "plaza": Land.PAVING, "field": Land.TURF_LIGHT, "lawn": Land.LAWN, "road": Land.ASPHALT,
}  # fmt: skip
ANGLES = {name: 45 * number for number, name in enumerate(SIDES)}  # degrees from the east


@pytest.fixture(scope="module")
def campus():
    """(site, descriptions) of each building."""
    sites = [make_site(SEED, building) for building in BUILDINGS]
    return [(site, describe(site)) for site in sites]


@pytest.fixture(scope="module")
def said(campus):
    """(site, text, claim) of all that is claimed."""
    return [(site, each.text, claim) for site, found in campus for each in found
            for claim in each.claims]  # fmt: skip


def _of(said, *topics):
    found = [(site, text, claim) for site, text, claim in said if claim.topic in topics]
    assert found
    return found


def _degrees_off(first, second):
    return abs((first - second + 180) % 360 - 180)


def _walls(site):
    return [s for s in site.plan.block if s.side == Material.WALL and s.base == 0]


# ---------------------------------------------------------------- texts
def test_three_descriptions_of_each_building(campus):
    texts = [each.text for _, found in campus for each in found]
    assert len(texts) == COUNT * len(BUILDINGS) == len(set(texts)) == 75
    for text in texts:
        assert SHORTEST <= len(text.split()) <= LONGEST
        assert re.fullmatch(r"[A-Z][a-zA-Z,;\- ]+\.( [A-Z][a-zA-Z,;\- ]+\.)*", text), text
        slips = r"  | ,|\{|,,|\ba [aeio](?!ne)|\ban [^aeioLHF]|\b(\w+) \1\b"
        assert not re.search(slips, text), text


def test_each_tells_other_facts(campus):
    for _, found in campus:
        told = [{(claim.topic, str(claim.value)) for claim in each.claims} for each in found]
        assert len(set(map(frozenset, told))) == COUNT
        assert all(len(each) >= 2 for each in told)


def test_the_same_seed_says_the_same(campus):
    """In another process too, whose hashes differ."""
    code = ("from sources.campus.descriptions import describe\n"
            "from sources.campus.site import make_site\n"
            f"for number in (1, 2): print(*(e.text for e in describe(make_site({SEED}, number))), "
            "sep='\\n')")  # fmt: skip
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                             check=True, env={**os.environ, "PYTHONHASHSEED": "77"})  # fmt: skip
    texts = [each.text for _, found in campus[:2] for each in found]
    assert printed.stdout.splitlines() == texts
    assert [each.text for each in describe(make_site(SEED + 1, 1))] != texts[:COUNT]


def test_words_are_shared(campus):
    """No word is there for one building: most stand in the texts of many."""
    spoken = [set(re.findall("[a-z]+", " ".join(e.text for e in found).lower()))
              for _, found in campus]  # fmt: skip
    counts = {word: sum(word in each for each in spoken) for word in set().union(*spoken)}
    assert len(counts) < 320
    assert np.mean([count > 1 for count in counts.values()]) > 0.6


def test_nothing_is_said_that_is_not_accounted_for(campus):
    """Without the words of its claims a text tells of no colour, side, number or thing."""
    lexicon = [words.SHAPES, words.SIZES, words.HEIGHTS, words.DETAILS, words.TREES, words.COLOURS]
    phrases = [phrase for table in lexicon for options in table.values() for phrase in options]
    phrases += [noun for kinds in words.THINGS.values() for options in kinds for noun in options]
    telling = set(re.findall("[a-z]+", " ".join([*phrases, *SIDES, *words.NUMBERS]).lower()))
    telling |= {"storey", "storeys", "floors", "right", "left", "upper", "lower", "top", "bottom"}
    telling -= {"building", "block", "complex", "stands", "high", "a", "an", "the", "of", "to",
                "in", "on", "one", "with", "and", "is", "are", "there", "two", "between", "at",
                "middle", "itself", "for", "that"}  # fmt: skip
    for _, found in campus:
        for each in found:
            rest = each.text.lower()
            told = {word for claim in each.claims for phrase in claim.words
                    for word in re.findall("[a-z]+", phrase.lower())}  # fmt: skip
            for claim in each.claims:
                for phrase in claim.words:
                    bare = re.sub("^an? ", "", phrase.lower())  # a note has no articles
                    assert bare in rest, (each.text, phrase)
            untold = set(re.findall("[a-z]+", rest)) & telling - told
            assert not untold, (each.text, untold)


# ---------------------------------------------------------------- truth, against solids and ground
def _toward(site, degrees, east, north, off=32.0):
    """Whether points lie towards a side of the building, in the picture."""
    away = np.degrees(np.arctan2(north, east))
    return (_degrees_off(away, degrees) < off) & (np.hypot(east, north) < picture_span(site) / 2)


def test_what_lies_around_is_there(said):
    metres = (np.arange(1024) - 511.5)[::4] * 0.24
    east, north = np.meshgrid(metres, -metres)  # the ground map is north-up
    for site, text, claim in _of(said, *SHOWN):
        degrees = 45 * claim.value.side
        there = _toward(site, degrees, east, north) & (site.land[::4, ::4] == SHOWN[claim.topic])
        assert there.sum() * 0.96**2 > 40, (site.building, text, claim)


def test_buildings_and_trees_are_there(said):
    for site, text, claim in _of(said, "building", "grove", "conifers"):
        degrees, others = 45 * claim.value.side, site.solids[len(site.plan.block) :]
        if claim.topic == "building":
            places = [(s.x + along * s.half_x, s.y + across * s.half_y) for s in others
                      if s.side == Material.WALL
                      for along in (-0.7, 0, 0.7) for across in (-0.7, 0, 0.7)]  # fmt: skip
        else:
            wanted = {CONIFER} if claim.topic == "conifers" else {0, 1, CONIFER}
            places = [(s.x, s.y) for s in others if s.species in wanted]
        there = _toward(site, degrees, *np.transpose(places), off=45.0)
        assert there.sum() >= (1 if claim.topic == "building" else 4), (site.building, text, claim)


def test_the_words_of_a_side_name_that_side(said):
    """A place in the picture is that of the north-up satellite."""
    corners = {"right": 0, "upper right": 45, "top": 90, "upper left": 135, "left": 180,
               "lower left": 225, "bottom": 270, "lower right": 315}  # fmt: skip
    told = 0
    for _, text, claim in _of(said, *SHOWN, "building", "grove", "conifers"):
        side = claim.words[1].lower()
        degrees = 45 * claim.value.side
        if side.endswith(" of"):  # the building lies on the other side of it
            degrees = (degrees + 180) % 360
        compass = re.findall("(?:north|south)(?:-(?:east|west))?|east|west", side)
        if compass:
            assert degrees in [ANGLES[name] for name in compass], (text, claim)
        else:
            places = re.findall("upper right|upper left|lower right|lower left|"
                                "top|bottom|left|right", side)  # fmt: skip
            assert degrees in [corners[place] for place in places], (text, claim)
            told += 1
    assert told > 5


def test_colours_of_roofs_and_walls(said):
    for site, text, claim in _of(said, "roof", "walls"):
        red, green, blue = np.array(claim.value) / max(claim.value)
        if claim.topic == "walls":
            assert claim.value == _walls(site)[0].side_colour
        else:
            tops = {colour for s in site.plan.block for colour in (s.cap_colour, s.side_colour)}
            assert claim.value in tops
        spoken = claim.words[0].lower()
        if re.search("red|terracotta|rosy|orange|brown|chestnut|tan|ochre|sand|yellow", spoken):
            assert red == 1 and blue < 0.9, (text, claim)
        elif re.search("blue", spoken):
            assert blue == 1 and red < 0.85, (text, claim)
        elif re.search("green", spoken):
            assert green > 0.95 and min(red, blue) < 0.9, (text, claim)
        elif re.search("white|very pale|black|dark", spoken):
            light = np.mean(claim.value)
            assert light > 0.5 if re.search("white|very pale", spoken) else light < 0.32


def test_the_building_is_as_told(said):
    for site, text, claim in said:
        plan, walls = site.plan, _walls(site)
        if claim.topic == "storeys":
            low, high = claim.value
            heights = [wall.top for wall in walls]
            assert 2.4 < min(heights) / low < 6.5 and 2.4 < max(heights) / high < 5.5, (text, claim)
        elif claim.topic == "size":
            assert (site.reach < 40) if claim.value == "small" else (site.reach > 48)
        elif claim.topic == "height":
            assert (max(w.top for w in walls) < 12) == (claim.value == "low")
        elif claim.topic == "axis":
            long = plan.yaw + (0 if plan.half[0] > plan.half[1] else math.pi / 2)
            off = _degrees_off(math.degrees(long), 45 * claim.value)
            assert min(off, 180 - off) <= 22.5 and max(plan.half) > 1.3 * min(plan.half)
            assert SIDES[claim.value] in claim.words[0] and SIDES[claim.value + 4] in claim.words[0]
        elif claim.topic == "tallest":
            tall = max(walls, key=lambda wall: wall.top)
            degrees = math.degrees(math.atan2(tall.y, tall.x) + plan.yaw)
            assert _degrees_off(degrees, 45 * claim.value) <= 22.5
            assert f"{SIDES[claim.value]}ern" in claim.words[0]
        elif claim.topic in ("solar", "skylight"):
            panels = [s for s in plan.block if s.cap == Material.PANELS]
            assert any(any(p.insets) == (claim.topic == "skylight") for p in panels)
        elif claim.topic == "shape":
            assert claim.value in (plan.shape, "block", "court", "one tower", "two towers")


# ---------------------------------------------------------------- by hand
def _hand_made(yaw=0.0, half=(30, 10), bars=((0, 0, 30, 10),), plots=(), paint=(), shape="slab"):
    """A grey building of bars on a lawn, with nothing but plots; `paint` are boxes of a Land."""
    look = {"side_colour": (0.34, 0.15, 0.1), "cap_colour": (0.22, 0.22, 0.22)}
    block = [Solid(x, y, wide, deep, 0.0, 12.0, **look) for x, y, wide, deep in bars]
    land = np.full((1024, 1024), Land.LAWN, np.uint8)
    metres = (np.arange(1024) - 511.5) * 0.24
    east, north = np.meshgrid(metres, -metres)
    for x, y, wide, deep, kind in paint:
        land[(abs(east - x) < wide) & (abs(north - y) < deep)] = kind
    return Site(
        seed=0, building=1, solids=block, table=SolidTable(block), land=land,
        stalls=np.zeros((0, 3)), noise=np.zeros((256, 256)), grain=np.zeros((512, 512)),
        reach=float(np.hypot(*half)), plan=Plan(shape, yaw, half, block, list(plots), []),
    )  # fmt: skip


def test_a_car_park_to_the_north_by_hand():
    plots = [Plot("car_park", 0, 25, 15, 8)]
    facts = gather(_hand_made(plots=plots, paint=[(0, 25, 15, 8, Land.PARKING)]))
    (thing,) = facts.things
    assert (thing.kind, SIDES[thing.side]) == ("car_park", "north")
    assert thing.size == pytest.approx(30 * 16, rel=0.07)
    assert (facts.axis, facts.roof, facts.storeys) == (0, "flat", (3, 3))
    assert words.name_colour(facts.roof_colour) == "dark grey"
    assert words.name_colour(facts.wall_colour) == "red"
    # With the building turned by 90 degrees it lies to the west, and the building runs northwards.
    turned = gather(_hand_made(np.pi / 2, plots=plots, paint=[(-25, 0, 8, 15, Land.PARKING)]))
    (thing,) = turned.things
    assert SIDES[thing.side] == "west" and turned.axis == 2
    # Where something else was painted over it there is none, nor beyond the picture.
    assert gather(_hand_made(plots=plots)).things == []
    far = [Plot("car_park", 0, 60, 15, 8)]
    assert gather(_hand_made(plots=far, paint=[(0, 60, 15, 8, Land.PARKING)])).things == []


def test_wings_that_grew_into_one_another_are_a_block():
    def shape_of(name, half, bars):
        return gather(_hand_made(half=half, bars=bars, shape=name)).shape

    ring = [(0, -20, 30, 5), (0, 20, 30, 5), (-25, 0, 5, 25), (25, 0, 5, 25)]
    assert shape_of("court", (30, 25), ring) == "court"
    assert shape_of("two courts", (30, 25), [*ring, (0, 0, 4, 25)]) == "two courts"
    assert shape_of("two courts", (30, 25), [*ring, (-15, 0, 8, 25)]) == "court"
    assert shape_of("court", (30, 20), [(0, 0, 30, 19), *ring[2:]]) == "block"
    assert shape_of("u", (30, 25), [ring[0], *ring[2:]]) == "u"
    assert shape_of("parallel", (30, 25), [*ring[:2], (0, 0, 3, 25)]) == "parallel"
    assert shape_of("f", (30, 25), [ring[1], ring[2], (0, 13, 30, 5)]) == "block"


def test_a_building_with_nothing_around_it_is_described_too():
    for site in (_hand_made(), replace(_hand_made(half=(30, 25)), seed=5)):
        found = describe(site)
        assert len(found) == COUNT
        assert all(SHORTEST <= len(each.text.split()) <= LONGEST for each in found)


@pytest.mark.parametrize(
    ("row", "name"),
    [(palette.FLAT_COLOURS[4], "grey"), (palette.FLAT_COLOURS[1], "dark grey"),
     (palette.FLAT_COLOURS[2], "light grey"), (palette.FLAT_COLOURS[6], "white"),
     (palette.FLAT_COLOURS[7], "black"), (palette.FLAT_COLOURS[8], "red"),
     (palette.FLAT_COLOURS[9], "green"), (palette.FLAT_COLOURS[10], "blue"),
     (palette.FLAT_COLOURS[11], "sand"), (palette.TILE_COLOURS[0], "red"),
     (palette.TILE_COLOURS[2], "brown"), (palette.TILE_COLOURS[3], "green"),
     (palette.TILE_COLOURS[5], "orange"), (palette.TILE_COLOURS[6], "blue"),
     (palette.WALL_COLOURS[0], "red"), (palette.WALL_COLOURS[5], "beige")],
)  # fmt: skip
def test_names_of_the_colours_of_the_palette(row, name):
    assert words.name_colour(row) == name


def test_every_colour_has_a_name():
    grid = np.stack(np.meshgrid(*[np.linspace(0.01, 1.2, 12)] * 3), -1).reshape(-1, 3)
    named = {words.name_colour(colour) for colour in grid}
    assert named <= words.COLOURS.keys() and len(named) > 12
