"""The words for what can be told of a site (facts.py): several for each thing.

`{}` stands for a colour or a size, `{n}` for a number.
"""

import numpy as np

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
           "eleven", "twelve")  # fmt: skip
SHAPES = {
    "slab": ("long straight building with a short annex", "straight bar with a stub at its side",
             "long narrow block with a small extension"),
    "corner": ("L-shaped building", "building of two wings at a right angle",
               "angled building like a letter L", "L-shaped block"),
    "u": ("U-shaped building", "horseshoe-shaped block", "three-winged building open on one side",
          "building of three wings round an open yard"),
    "t": ("T-shaped building", "building like a letter T", "T-shaped block"),
    "h": ("H-shaped building", "building of two parallel wings and a crossbar",
          "block like a letter H"),
    "court": ("building round a courtyard", "four-winged block with a yard in the middle",
              "closed block round an inner court"),
    "two courts": ("building with two inner courtyards", "block round two yards",
                   "complex with two closed courtyards"),
    "cross": ("cross-shaped building", "building of two wings that cross", "cross-shaped block"),
    "comb": ("comb-shaped building", "building of four parallel wings on one spine",
             "complex of four wings side by side"),
    "z": ("Z-shaped building", "building with a double bend", "zigzag block"),
    "f": ("F-shaped building", "building with two arms on one side"),
    "parallel": ("pair of parallel blocks with a narrow link", "building of two parallel bars",
                 "double block joined by a passage"),
    "block": ("compact block", "compact building", "chunky block"),
    "rotunda": ("round domed building with {n} wings", "rotunda with {n} wings",
                "domed hall with {n} arms"),
    "stadium": ("stadium with {n} stands", "sports ground with {n} stands",
                "arena with stands on {n} sides"),
    "church": ("church", "church with a spired tower", "church with a transept",
               "church with a pointed steeple"),
    "one tower": ("broad block with one tower on top", "building with a tower on a flat base",
                  "podium with a single tower"),
    "two towers": ("broad block with two towers on top", "building with two towers on a flat base",
                   "podium with a pair of towers"),
    "sawtooth": ("factory hall with an office block at one end", "industrial hall",
                 "workshop hall with a higher end"),
    "crescent": ("crescent-shaped building", "curved building", "building bent into an arc"),
    "star": ("star-shaped building with {n} wings", "building with {n} wings about a round core",
             "star of {n} wings"),
}  # fmt: skip
UNTOLD = ("building", "block", "complex")  # where the shape is left out
SIZES = {"small": ("small", "fairly small"), "large": ("large", "big", "sizeable")}
HEIGHTS = {"low": ("low", "low-rise"), "tall": ("tall", "high")}
ROOFS = {
    "flat": ("a flat {} roof", "flat {} roofs", "a {} flat roof"),
    "gabled": ("a {} gable roof", "{} gabled roofs", "a pitched {} roof", "{} saddle roofs"),
    "hipped": ("a {} hipped roof", "{} hip roofs", "a sloping {} roof"),
    "dome": ("a {} dome", "a large {} dome", "a round {} cupola"),
    "sawtooth": ("a {} sawtooth roof", "a jagged {} roof", "rows of {} shed roofs"),
    "seats": ("{} seats", "rows of {} seats"),
}
WALLS = ("{} walls", "{} facades", "{} outer walls")
DETAILS = {
    "bands": ("long bands of windows", "ribbon windows", "windows in continuous bands"),
    "skylight": ("a long skylight", "a strip of glass along the roof", "a glazed roof light"),
    "solar": ("solar panels on the roof", "a field of solar panels on top", "solar panels"),
}
AXIS = ("running from {} to {}", "stretching from {} to {}", "lying along the line {} to {}")
TREES = {
    "many": ("Trees stand all around.", "There are many trees about.", "Plenty of trees."),
    "few": ("There are hardly any trees.", "Few trees grow here.", "Almost no trees."),
}
GRASS = ("There is little but grass around it.", "Round about lies nothing but open grass.")
TALLEST = ("The {} wing is taller than the rest.", "One wing, the {} one, stands out in height.",
           "Its {} part is the highest.")  # fmt: skip
THINGS = {  # kind -> words for one, words for several
    "car_park": (("a {} car park", "a {} parking lot", "a {} parking area"),
                 ("car parks", "parking lots")),
    "court": (("a tennis court", "a hard court"), ("tennis courts",)),
    "courts": (("tennis courts", "hard courts for tennis"),) * 2,
    "pond": (("a {} pond", "a {} pool of water"), ("ponds",)),
    "plaza": (("a {} plaza", "a {} paved square", "a {} paved area"),
              ("paved squares", "plazas")),
    "field": (("a {} sports field", "a {} football pitch", "a {} playing field"),
              ("sports fields", "playing fields")),
    "lawn": (("a lawn", "an open lawn", "a stretch of grass with footpaths"), ("lawns",)),
    "grove": (("a group of trees", "a grove", "a cluster of trees", "a small wood"),
              ("groups of trees", "groves")),
    "conifers": (("a group of conifers", "a stand of firs", "a grove of evergreens"),
                 ("groups of conifers",)),
    "building": (("another building", "a neighbouring building"),
                 ("other buildings", "neighbouring buildings")),
    "road": (("a road", "a street"), ("roads", "streets")),
}  # fmt: skip
NEIGHBOURS = {
    "flat": ("a flat {} roof", "a {} roof", "a {} flat roof"),
    "pitched": ("a pitched {} roof", "a {} roof", "a sloping {} roof"),
}
SIZED = {  # kind -> square metres up to which it is small, from which it is large
    "car_park": (220, 600), "pond": (110, 280), "plaza": (190, 450), "field": (0, 450),
}  # fmt: skip
COLOURS = {
    "white": ("white", "whitish", "very pale"),
    "light grey": ("light grey", "pale grey", "light"),
    "grey": ("grey", "mid-grey", "greyish"),
    "dark grey": ("dark grey", "slate-grey", "dark"),
    "black": ("black", "almost black", "very dark"),
    "taupe": ("grey-brown", "taupe", "brownish grey"),
    "red": ("red", "brick-red", "reddish", "rust-red"),
    "orange": ("orange", "terracotta", "orange-red"),
    "brown": ("brown", "reddish brown", "chestnut"),
    "sand": ("tan", "sand-coloured", "ochre", "yellowish"),
    "beige": ("beige", "cream", "light brown"),
    "green": ("green", "mossy green", "greenish"),
    "blue": ("blue", "blue-grey", "bluish"),
    "pink": ("pinkish", "pale red", "rosy"),
    "purple": ("mauve", "purplish", "lilac-grey"),
}
SIDES = ("to the {}", "on the {} side", "towards the {}")
IN_PICTURE = {  # a side as the satellite's picture shows it, with the north at the top
    "east": "on the right", "north-east": "in the upper right", "north": "at the top",
    "north-west": "in the upper left", "west": "on the left", "south-west": "in the lower left",
    "south": "at the bottom", "south-east": "in the lower right",
}  # fmt: skip


def name_colour(colour) -> str:
    """The one of COLOURS that a linear RGB colour has in sunlight."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(xyz @ colour / (0.9505, 1.0, 1.089), 1e-3))  # CIELAB, as sRGB's
    lightness, red, yellow = 116 * y - 16, 500 * (x - y), 200 * (y - z)
    chroma, hue = np.hypot(red, yellow), np.degrees(np.arctan2(yellow, red)) % 360
    hardly_seen = 7 if 35 < hue < 110 else 9
    if 110 < hue < 200:  # among lawns
        hardly_seen = 17 if lightness > 68 else 12 if hue < 150 else 6
    if chroma < hardly_seen:
        greys = {44: "black", 55: "dark grey", 67: "grey", 83: "light grey", np.inf: "white"}
        return next(name for limit, name in greys.items() if lightness < limit)
    if 290 < hue < 345:
        return "purple"
    if hue < 53 or hue > 345:
        return "pink" if lightness > 64 else "red" if chroma > 14 else "taupe"
    if hue < 75 and chroma > 14:
        if chroma > 24:
            return "orange" if lightness > 52 else "red"
        return "brown" if lightness < 66 else "beige"
    if hue < (118 if lightness > 60 else 105):
        if chroma > 15:
            return "sand" if lightness > 58 else "brown"
        return "beige" if lightness > 69 else "taupe"
    return "green" if hue < 210 else "blue"
