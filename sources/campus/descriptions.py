"""What a person might write of a building: three descriptions of a site, from what its plan says.

    for description in describe(make_site(seed=0, building=7)):
        print(description.text)

Each tells other facts, in another order and in other words, and leaves most of them out. A text
holds nothing but what the pictures show, so it is as true of every other building that it fits.
"""

from typing import NamedTuple

import numpy as np

from sources.campus import words
from sources.campus.facts import SIDES, Facts, Thing, gather
from sources.campus.site import Site, Stream, random_stream

VERSION = 1  # of the texts: raised when the same seed says others
COUNT = 3  # descriptions of a building
SHORTEST, LONGEST = 12, 40  # words
TRIES = 100  # to write one of such a length
SPECIAL = ("stadium", "church", "sawtooth", "one tower", "two towers", "parallel", "rotunda")
AN = ("a", "e", "i", "o", "L-", "H-", "F-")  # before what an article is "an"


class Claim(NamedTuple):
    """A fact that a description tells, and the words that tell it."""

    topic: str  # shape, or what `_topics` gives, or the kind of a thing
    value: object  # of a thing beside the building its `Thing`
    words: tuple[str, ...]


class Description(NamedTuple):
    """A text of one line, and all that it claims."""

    text: str
    claims: tuple[Claim, ...]


def describe(site: Site) -> list[Description]:
    """The descriptions of a site that has a plan, the same for the same seed and building."""
    facts, rng = gather(site), random_stream(site.seed, site.building, Stream.TEXT)
    patterns = rng.permutation(len(PATTERNS))
    topics = [str(topic) for topic in rng.permutation(_topics(facts))]
    found, told = [], []
    for number in range(COUNT):
        start, more = number * len(topics) // COUNT, 0
        for _ in range(TRIES):
            writer = Writer(facts, topics[start:] + topics[:start], rng, more)
            text = PATTERNS[patterns[number]](writer)
            claimed, length = {claim[:2] for claim in writer.claims}, len(text.split())
            if SHORTEST <= length <= LONGEST and claimed not in told:
                break
            more += length < SHORTEST  # in the end it tells everything
        told.append(claimed)
        found.append(Description(text, tuple(writer.claims)))
    return found


def _topics(facts: Facts) -> list[str]:
    """What there is to tell of the building beside its shape."""
    low, high = facts.storeys or (4, 4)
    there = {
        "size": not 37 < facts.reach < 50,
        "height": high <= 2 or low >= 6,
        "storeys": facts.storeys is not None and high - low <= 3 and high < len(words.NUMBERS),
        "walls": facts.shape != "stadium",
        "roof": True,
        "axis": facts.axis is not None,
        "tallest": facts.tallest is not None,
        "trees": facts.trees != "",
    }
    return [topic for topic, told in there.items() if told] + list(facts.details)


class Writer:
    """Puts facts into words, at random, and keeps account of what has been claimed."""

    def __init__(self, facts: Facts, topics: list[str], rng: np.random.Generator, more: int = 0):
        self.facts, self.rng, self.claims = facts, rng, []
        self.topics = set(topics[: rng.integers(2, 5) + more])  # what this description tells
        self.in_picture = rng.random() < 0.2  # says left and right rather than west and east
        weights = np.sqrt([thing.size for thing in facts.things])
        count = min(int(rng.choice([1, 2, 3], p=[0.2, 0.5, 0.3])), len(facts.things))
        order = rng.choice(len(weights), count, False, weights / weights.sum()) if count else []
        self.things = [facts.things[number] for number in order]

    def pick(self, options):
        """One of the options."""
        return options[self.rng.integers(len(options))]

    def claim(self, topic, value, text: str) -> str:
        """The words, noted as what tells a fact."""
        self.claims.append(Claim(topic, value, (text,)))
        return text

    def colour(self, linear, brief=False) -> str:
        """A word for a colour, or the first one; where it lies between two, people differ."""
        off = np.exp(self.rng.normal(0, 0.04) + self.rng.normal(0, 0.015, 3))
        options = words.COLOURS[words.name_colour(np.multiply(linear, off))]
        return options[0] if brief else self.pick(options)

    # ------------------------------------------------------------ the building
    def building(self) -> str:
        """The building as a noun, with what stands before it: "a low red U-shaped building"."""
        facts, before = self.facts, []
        if "size" in self.topics:
            size = "small" if facts.reach < 44 else "large"
            before.append(self.claim("size", size, self.pick(words.SIZES[size])))
        if "height" in self.topics:
            height = "low" if facts.storeys[1] <= 2 else "tall"
            before.append(self.claim("height", height, self.pick(words.HEIGHTS[height])))
        elif "storeys" in self.topics and self.rng.random() < 0.6:
            self.topics.remove("storeys")
            before.append(self.claim("storeys", facts.storeys, self._storeys(*facts.storeys)))
        if "walls" in self.topics and self.rng.random() < 0.25:
            self.topics.remove("walls")
            colour = self.colour(facts.wall_colour, brief=True)
            before.append(self.claim("walls", facts.wall_colour, f"{colour}-walled"))
        if facts.shape in SPECIAL or self.rng.random() < 0.85:
            shape = self.pick(words.SHAPES[facts.shape]).format(n=words.NUMBERS[facts.parts])
            shape = self.claim("shape", facts.shape, shape)
        else:
            shape = self.pick(words.UNTOLD)
        self.noun = _article(" ".join(["a", *before, shape]))
        return self.noun

    def _storeys(self, low: int, high: int) -> str:
        low, high = (words.NUMBERS[number] for number in (low, high))
        return f"{low}-storey" if low == high else f"{low}- to {high}-storey"

    def _floors(self, low: int, high: int) -> str:
        number = " to ".join(words.NUMBERS[number] for number in sorted({low, high}))
        return f"{number} {self.pick(('floors', 'storeys') if high > 1 else ('floor', 'storey'))}"

    def roof(self) -> str:
        """The roof with its colour."""
        facts = self.facts
        text = self.pick(words.ROOFS[facts.roof]).format(self.colour(facts.roof_colour))
        return self.claim("roof", facts.roof_colour, _article(text))

    def features(self) -> list[str]:
        """Roof, walls and details: what the building has."""
        found = []
        if "roof" in self.topics:
            found.append(self.roof())
        if "walls" in self.topics:
            text = self.pick(words.WALLS).format(self.colour(self.facts.wall_colour))
            found.append(self.claim("walls", self.facts.wall_colour, text))
        for detail in self.facts.details:
            if detail in self.topics:
                found.append(self.claim(detail, True, self.pick(words.DETAILS[detail])))
        return [found[number] for number in self.rng.permutation(len(found))]

    def having(self) -> str:
        """ " with a flat roof and beige walls", or nothing."""
        found = self.features()
        if not found or " with " not in self.noun:
            return f" with {_listed(found)}" if found else ""
        return f" and {found[0]}" if len(found) == 1 else f", {_listed(found)}"

    def extent(self) -> str:
        """ ", three storeys high, running from north to south", or less."""
        found = ""
        if "storeys" in self.topics and "height" not in self.topics:
            storeys = self.facts.storeys
            found += f", {self.claim('storeys', storeys, self._floors(*storeys))} high"
        if "axis" not in self.topics:
            return found
        ends = [SIDES[self.facts.axis], SIDES[self.facts.axis + 4]]
        ends = [ends[number] for number in self.rng.permutation(2)]
        text = self.pick(words.AXIS).format(*ends)
        return f"{found}, {self.claim('axis', self.facts.axis, text)}"

    def closing(self) -> str:
        """Sentences on the highest wing and the trees."""
        found = []
        if "tallest" in self.topics:
            text = self.pick(words.TALLEST).format(f"{SIDES[self.facts.tallest]}ern")
            found.append(self.claim("tallest", self.facts.tallest, text))
        if "trees" in self.topics:
            text = self.pick(words.TREES[self.facts.trees])
            found.append(self.claim("trees", self.facts.trees, text))
        if not self.facts.things:
            found.append(self.claim("grass", True, self.pick(words.GRASS)))
        return "".join(f" {sentence}" for sentence in found)

    # ------------------------------------------------------------ what lies around
    def side(self, sides: tuple[int, ...], plain: str | None = None) -> str:
        """Where something lies, on one side or several."""
        names = [SIDES[side] for side in dict.fromkeys(sides)]
        if self.in_picture and plain is None:
            return _listed([words.IN_PICTURE[name] for name in names])
        phrase = (plain or self.pick(words.SIDES)).format(_listed(names))
        return phrase.replace("side", "sides") if len(names) > 1 else phrase

    def thing(self, things: list[Thing]) -> str:
        """Things of one kind as a noun."""
        kind = things[0].kind
        text = self.pick(words.THINGS[kind][len(things) > 1])
        if len(things) > 1:
            return text
        small, large = words.SIZED.get(kind, (0, np.inf))
        size = things[0].size
        size = "small" if size < small else "large" if size > large else ""
        text = _article(" ".join(text.format(size if self.rng.random() < 0.6 else "").split()))
        if kind == "building" and self.rng.random() < 0.6:
            roof = self.pick(words.NEIGHBOURS[things[0].roof])
            text += f" with {_article(roof.format(self.colour(things[0].colour)))}"
        return text

    def around(self, things: list[Thing], plain: str | None = None) -> list[tuple]:
        """(nouns, whether they are several, side) of things, by kind and side."""
        kinds = {}
        for thing in things:
            kinds.setdefault(thing.kind, []).append(thing)
        places = {}  # the sides of things -> what lies there
        for alike in kinds.values():
            places.setdefault(tuple(thing.side for thing in alike), []).append(alike)
        found = []
        for sides, groups in places.items():
            nouns, side = [self.thing(alike) for alike in groups], self.side(sides, plain)
            several = len(groups) > 1 or len(sides) > 1 or groups[0][0].kind == "courts"
            found.append((_listed(nouns), several, side))
            self.claims += [Claim(thing.kind, thing, (noun, side))
                            for noun, alike in zip(nouns, groups, strict=True)
                            for thing in alike]  # fmt: skip
        return found

    def surroundings(self, plain: str | None = None) -> str:
        """One sentence on what lies around, with a space before it; or nothing."""
        found = self.around(self.things, plain)
        if not found:
            return ""
        (noun, several, side), *rest = found
        more = [f"{noun} {side}" for noun, _, side in rest]
        turned = ", ".join([noun, *(f"{side} {noun}" for noun, _, side in rest)])
        be, lie = ("are", "lie") if several else ("is", "lies")
        return " " + self.pick((
            f"There {be} {_listed([f'{noun} {side}', *more])}.",
            f"{_capital(noun)} {self.pick((be, lie))} {', '.join([side, *more])}.",
            f"{_capital(side)} {be} {turned}.",
            f"{_capital(side)} there {be} {turned}.",
        ))  # fmt: skip


# ---------------------------------------------------------------- whole descriptions
def _plain(writer: Writer) -> str:
    return (f"{_capital(writer.building())}{writer.having()}{writer.extent()}."
            f"{writer.surroundings()}{writer.closing()}")  # fmt: skip


def _shown(writer: Writer) -> str:
    start = writer.pick(("This is", "The picture shows", "In the middle stands", "One sees"))
    return (f"{start} {writer.building()}{writer.having()}{writer.extent()}."
            f"{writer.surroundings()}{writer.closing()}")  # fmt: skip


def _sought(writer: Writer) -> str:
    start = writer.pick(("Look for", "We are looking for", "Find", "I remember", "Search for"))
    return (f"{start} {writer.building()}{writer.having()}{writer.extent()}."
            f"{writer.surroundings()}{writer.closing()}")  # fmt: skip


def _from_a_neighbour(writer: Writer) -> str:
    """South of a pond stands..."""
    if not writer.things:
        return _shown(writer)
    first, *writer.things = writer.things
    noun = writer.thing([first])
    side = _capital(writer.pick(("{} of", "To the {} of")).format(SIDES[(first.side + 4) % 8]))
    writer.claims.append(Claim(first.kind, first, (noun, side)))
    return (f"{side} {noun} stands {writer.building()}{writer.having()}{writer.extent()}."
            f"{writer.surroundings()}{writer.closing()}")  # fmt: skip


def _roof_first(writer: Writer) -> str:
    if writer.facts.shape == "stadium":
        return _plain(writer)
    writer.topics.discard("roof")
    roof = writer.roof()
    verb = "covers" if roof.split()[0] in ("a", "an") else "cover"
    return (f"{_capital(roof)} {verb} {writer.building()}{writer.having()}{writer.extent()}."
            f"{writer.surroundings()}{writer.closing()}")  # fmt: skip


def _between(writer: Writer) -> str:
    """Between a pond to the north and a road to the south stands..."""
    first, *others = writer.things or [None]
    opposite = [other for other in others if other.kind != first.kind and _apart(first, other) > 2]
    if not opposite:
        return _plain(writer)
    found = writer.around([first, opposite[0]])
    writer.things = [other for other in others if other != opposite[0]]
    beside = " and ".join(f"{noun} {side}" for noun, _, side in found)
    verb = writer.pick(("stands", "is", "you find"))
    return (f"Between {beside} {verb} {writer.building()}"
            f"{writer.having()}{writer.extent()}.{writer.surroundings()}{writer.closing()}"
            )  # fmt: skip


def _surroundings_first(writer: Writer) -> str:
    around = writer.surroundings("to the {}").strip()
    sides = len({thing.side for thing in writer.things})
    middle = "In between stands" if sides > 1 else "Beside that is"
    start = writer.pick(("The building itself is", "In the middle is", middle))
    return (f"{around} {start} {writer.building()}{writer.having()}{writer.extent()}."
            f"{writer.closing()}").strip()  # fmt: skip


def _note(writer: Writer) -> str:
    """In the style of a note, without articles."""
    parts = [writer.building(), *writer.features()]
    around = [f"{noun} {side}" for noun, _, side in writer.around(writer.things)]
    text = ", ".join(map(_bare, parts)) + writer.extent()
    text += f"; {', '.join(map(_bare, around))}" if around else ""
    return f"{_capital(text)}.{writer.closing()}"


PATTERNS = (_plain, _shown, _sought, _from_a_neighbour, _roof_first, _between,
            _surroundings_first, _note)  # fmt: skip


# ---------------------------------------------------------------- grammar
def _article(noun: str) -> str:
    """A noun that may begin with "a", which becomes "an" where the word after it needs that."""
    article, _, rest = noun.partition(" ")
    vowel = rest.startswith(AN) and not rest.startswith("one")
    return f"an {rest}" if article == "a" and vowel else noun


def _apart(first: Thing, second: Thing) -> int:
    """Steps of 45 degrees between the sides of two things."""
    return min((first.side - second.side) % 8, (second.side - first.side) % 8)


def _bare(noun: str) -> str:
    return noun.removeprefix("a ").removeprefix("an ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(parts: list[str]) -> str:
    """One, two and three."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
