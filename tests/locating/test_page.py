"""locations.html: what is in the file, and the page in a real browser."""

import base64
import hashlib
import io
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from browser import MISSING, Browser
from PIL import ExifTags, Image

from evaluation.map_folder import MapFolder
from locating import overview, page
from locating.overview import draw_overview
from locating.page import write_page

EQUATOR = 2 * math.pi * 6_378_137  # metres
SIDE = 100.0  # metres, of a tile


# ---------------------------------------------------------------- what the tests are made of
def mercator_of(latitude, longitude):
    """Formula of the projection, metres: Snyder's 7-1 and 7-2 in another form."""
    y = math.log(math.tan(math.pi / 4 + math.radians(latitude) / 2)) * EQUATOR / (2 * math.pi)
    return longitude / 360 * EQUATOR, y


def grid(folder, columns, rows, latitude, longitude, pixels=16, picture=None):
    """A `MapFolder` of tiles side by side, the upper left one from a place; each has its colour."""
    left, top = mercator_of(latitude, longitude)
    side = SIDE / math.cos(math.radians(latitude))
    (folder / "tiles").mkdir(parents=True)
    paths, places, edges = [], [], []

    def unproject(x, y):
        degrees = math.degrees(math.atan(math.sinh(y * 2 * math.pi / EQUATOR)))
        return degrees, (x / EQUATOR * 360 + 180) % 360 - 180

    for row in range(rows):
        for column in range(columns):
            x, y = left + column * side, top - row * side
            (north, west), (south, east) = unproject(x, y), unproject(x + side, y - side)
            places.append(unproject(x + side / 2, y - side / 2))
            edges.append((north, south, west, east))
            paths.append(folder / "tiles" / f"{row}_{column}.png")
            colour = (40 + 25 * column, 60 + 30 * row, 128)
            (picture or Image.new("RGB", (pixels, pixels), colour)).save(paths[-1])
    # The projection's metres are shorter than those of the ground, differently in each row.
    ground = [side * math.cos(math.radians(north)) for north, _ in places]
    return MapFolder(folder, paths, np.array(places), np.array(edges), np.array(ground))


def photos_of(folder, names, size=(24, 18)):
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in names]
    for index, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (20 * index, 120, 60)).save(path, "JPEG")
    return paths


def rows_of(photos, table, places, errors=(), turned=0):
    """Rows as locate.py makes them: the photos' places, and three tiles each."""
    rows, tile_rows = [], []
    for index, (photo, place) in enumerate(zip(photos, places, strict=True)):
        row = {"photo": str(photo), "score": 0.9 - index / 100, "note": "EXIF"}
        if place:
            row |= {"latitude": place[0], "longitude": place[1]}
        if errors:
            row |= {"error_metres": errors[index], "confidence": (7 * index % 10) / 10}
            row |= {"true_latitude": place[0] + 1e-4, "true_longitude": place[1]}
        rows.append(row)
        for rank in (1, 2, 3):
            tile = (index + rank - 1) % len(table.paths)
            tile_row = {"photo": str(photo), "rank": rank, "tile": str(table.paths[tile]),
                        "score": 0.9 - index / 100 - rank / 10, "turned": turned}  # fmt: skip
            if table.places is not None:
                latitude, longitude = map(float, table.places[tile])
                tile_row |= {"latitude": latitude, "longitude": longitude}
                tile_row["tile_metres"] = float(table.metres[tile])
            tile_rows.append(tile_row)
    return rows, tile_rows


def data_of(path):
    """What a written page tells the browser, and the text of the whole page."""
    text = path.read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(block), text


def picture_of(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


# ---------------------------------------------------------------- the map
@pytest.mark.parametrize("latitude, longitude", [
    (48.0, 11.0), (-33.9, 151.2), (60.0, -0.002), (10.0, 179.9985), (-17.0, 179.9999),
])  # fmt: skip
def test_positions_by_the_formula(tmp_path, latitude, longitude):
    """To a hundredth of a pixel, also where the map crosses the 180th meridian."""
    table = grid(tmp_path / "map", 4, 3, latitude, longitude)
    drawn = draw_overview(table)
    left, top = mercator_of(latitude, longitude)
    pixel = SIDE / math.cos(math.radians(latitude)) / 16
    assert drawn.picture.size == (64, 48)
    assert drawn.per_pixel == pytest.approx(pixel, rel=1e-6)
    for right, down in ((0, 0), (64, 48), (31, 7), (-40, 300)):
        degrees = math.atan(math.sinh((top - down * pixel) * 2 * math.pi / EQUATOR))
        east = (left + right * pixel) / EQUATOR * 360
        for turn in (-360, 0, 360):  # the same meridian
            found = drawn.position(math.degrees(degrees), east + turn)
            assert found == pytest.approx((right, down), abs=0.01)
    assert drawn.position(90, longitude)[1] < -1e4  # a pole is far away, and no error


def test_every_tile_is_drawn_where_it_lies(tmp_path):
    table = grid(tmp_path / "map", 4, 3, -17.0, 179.9985)
    drawn = np.asarray(draw_overview(table).picture)
    for row in range(3):
        for column in range(4):
            square = drawn[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            assert (square == (40 + 25 * column, 60 + 30 * row, 128)).all(), (row, column)


def test_large_tiles_fill_where_small_ones_are_missing(tmp_path):
    """Of two sizes the one that fits the picture is drawn, the other only where it lacks."""
    small = grid(tmp_path / "small", 2, 2, 48.0, 11.0, pixels=32)
    large = grid(tmp_path / "large", 1, 1, 48.0, 11.0, picture=Image.new("RGB", (32, 32), "red"))
    edges = np.array([small.edges[0, 0], small.edges[2, 1], small.edges[0, 2], small.edges[1, 3]])
    table = MapFolder(
        tmp_path,
        [*small.paths[:3], large.paths[0]],
        np.array([*small.places[:3], small.places[0]]),
        np.array([*small.edges[:3], edges]),
        np.array([*small.metres[:3], 2 * SIDE]),
    )
    drawn = np.asarray(draw_overview(table).picture)
    assert drawn.shape == (64, 64, 3)
    assert (drawn[:32, :32] == (40, 60, 128)).all() and (drawn[:32, 32:] == (65, 60, 128)).all()
    assert (drawn[33:, 33:] == (255, 0, 0)).all()


def test_a_map_of_many_tiles_is_bounded(tmp_path, monkeypatch):
    """Pixels and tiles that are read do not grow with the map; nothing of it stays empty."""
    table = grid(tmp_path / "map", 8, 6, 48.0, 11.0)
    asked = []

    def read(path, near=0):
        asked.append(path)
        return np.full((16, 16, 3), 200, np.uint8)

    monkeypatch.setattr(overview, "read_image", read)
    monkeypatch.setattr(overview, "PIXELS", 40 * 30)
    monkeypatch.setattr(overview, "MOST_TILES", 12)
    drawn = draw_overview(table)
    assert drawn.picture.size == (40, 30)
    assert len(set(asked)) <= 12 + 1
    assert (np.asarray(drawn.picture) == 200).all()
    # Tiles upon one another are read once.
    asked.clear()
    twice = [np.concatenate([each, each]) for each in table[2:]]
    monkeypatch.setattr(overview, "MOST_TILES", 8192)
    draw_overview(MapFolder(table.folder, table.paths * 2, *twice))
    assert len(asked) == 48 + 1


# ---------------------------------------------------------------- what the page is told
# On a map from 179.998 degrees east to 179.9966 west.
PLACES = [(47.9995, 179.999), (47.9985, -180.0), (47.999, -179.9975), (47.9978, -179.999)]
ERRORS = (12.0, 60.0, 30.0, 140.0)


@pytest.fixture
def area(tmp_path):
    table = grid(tmp_path / "map", 4, 3, 48.0, 179.998)
    photos = photos_of(tmp_path / "photos", [f"{name}.jpg" for name in ("p10", "p9", "p8", "p7")])
    return table, photos


def test_numbers_of_the_page(area, tmp_path):
    table, photos = area
    rows, tile_rows = rows_of(photos, table, PLACES, ERRORS)
    for row, error in zip(rows, (5.0, 7.0, 9.0, 11.0), strict=True):
        row |= {"path_latitude": 47.999, "path_longitude": -179.9997, "path_error_metres": error}
    write_page(tmp_path / "a.html", rows, tile_rows, table, guessing=150.0)
    data, _ = data_of(tmp_path / "a.html")
    assert data["summary"] == {"known": 4, "of": 4, "median": 45, "guessing": 150, "path_median": 8,
                               "within": {"25": 25, "50": 50, "100": 75}}  # fmt: skip
    left, top = mercator_of(48.0, 179.998)
    pixel = SIDE / math.cos(math.radians(48.0)) / 16
    for photo, (latitude, longitude) in zip(data["photos"], PLACES, strict=True):
        places = {"estimate": (latitude, longitude), "truth": (latitude + 1e-4, longitude),
                  "path_place": (47.999, -179.9997)}  # fmt: skip
        for name, place in places.items():
            x, y = mercator_of(place[0], place[1] % 360)
            drawn = photo[name]["x"], photo[name]["y"]
            assert drawn == pytest.approx(((x - left) / pixel, (top - y) / pixel), abs=0.01)
            assert (photo[name]["latitude"], photo[name]["longitude"]) == pytest.approx(place)
    second = data["photos"][1]
    assert [tile["rank"] for tile in second["tiles"]] == [1, 2, 3]
    assert [tile["score"] for tile in second["tiles"]] == [0.79, 0.69, 0.59]
    assert [(t["x"], t["y"], t["side"]) for t in second["tiles"]] == [
        pytest.approx((24 + 16 * i, 8, 16), abs=0.01) for i in range(3)
    ]
    assert picture_of(data["images"][second["image"]]).size == (24, 18)
    colour = picture_of(data["images"][second["tiles"][0]["image"]]).getpixel((8, 8))
    assert colour == pytest.approx((65, 60, 128), abs=4)


def test_pictures_without_places(area, tmp_path):
    table, photos = area
    table = MapFolder(table.folder, table.paths)
    write_page(tmp_path / "a.html", *rows_of(photos, table, [None] * 4), table)
    data, _ = data_of(tmp_path / "a.html")
    assert data["map"] is None and data["summary"] is None
    assert data["photos"][0]["tiles"][2]["name"] == "tiles/0_2.png"
    assert not any("latitude" in tile for photo in data["photos"] for tile in photo["tiles"])


def test_a_photo_is_shown_upright(area, tmp_path):
    table, photos = area
    halves = np.zeros((40, 60, 3), np.uint8)
    halves[:, :30] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turn it to the right: what is left comes to the top
    Image.fromarray(halves).save(photos[0], exif=exif)
    write_page(tmp_path / "a.html", *rows_of(photos, table, PLACES), table)
    data, _ = data_of(tmp_path / "a.html")
    shown = picture_of(data["images"][data["photos"][0]["image"]])
    assert shown.size == (40, 60)
    assert shown.getpixel((20, 10))[0] > 240 and shown.getpixel((20, 50))[0] < 15


def test_photos_and_pictures_are_bounded(area, tmp_path, monkeypatch, capsys):
    table, _ = area
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    for path in table.paths:
        Image.fromarray(noise).save(path)
    photos = photos_of(tmp_path / "many", [f"{i}.jpg" for i in range(10)])
    rows, tile_rows = rows_of(photos, table, [PLACES[0]] * 10)
    monkeypatch.setattr(page, "PHOTOS", 4)
    monkeypatch.setattr(page, "PIXELS", 64 * 64 * 12)
    monkeypatch.setattr(page, "SMALLEST", 64)
    write_page(tmp_path / "a.html", rows, tile_rows, table)
    data, _ = data_of(tmp_path / "a.html")
    assert [photo["name"] for photo in data["photos"]] == ["0.jpg", "3.jpg", "6.jpg", "9.jpg"]
    # 12 pictures of 64 pixels, of which four photos take 2.25 each: 3 of 12 tiles.
    assert len(data["images"]) == 4 + 3
    firsts = [photo["tiles"][0]["image"] for photo in data["photos"]]
    assert [index is not None for index in firsts] == [True, True, True, False]
    for text in data["images"][4:]:
        assert picture_of(text).size == (64, 64)
        assert len(text) <= 4 / 3 * 0.6 * 64 * 64 + 4
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'a.html'} shows 4 of 10 photos, evenly chosen, to stay small",
        f"{tmp_path / 'a.html'} has no picture of 9 tiles of later ranks, to stay small",
    ]


# ---------------------------------------------------------------- names from outside
HOSTILE = [
    "a<\\/script><img src=x onerror=hacked=1>.jpg", "</script><script>hacked=1</script>.jpg",
    "<!--<script>.jpg", '"><svg onload=hacked=1>.jpg', "${data} & &lt;b&gt; '.jpg",
    "مكان الصورة.jpg", "\u202egpj.exe\u2066.jpg", "line\u2028break\n.jpg", os.fsdecode(b"\xff.jpg"),
]  # fmt: skip
SHOWN = {6: "\\u202egpj.exe\\u2066.jpg", 7: "line\\u2028break\\n.jpg", 8: "\\udcff.jpg"}


@pytest.fixture
def hostile(tmp_path):
    if os.name == "nt":
        pytest.skip("needs a file system that takes any name")
    # A slash in a name makes a folder, which the paths of photos, and the names of tiles, show.
    photos = photos_of(tmp_path / "photos", HOSTILE)
    tiles = photos_of(tmp_path / "tiles", HOSTILE)
    table = MapFolder(tmp_path / "tiles", tiles)
    rows, tile_rows = rows_of(photos, table, [None] * len(photos))
    rows[0] |= {"time": "</script><b onclick=hacked=1>", "note": "<img src=x onerror=hacked=1>"}
    write_page(tmp_path / "hostile.html", rows, tile_rows, table)
    return tmp_path / "hostile.html"


def test_names_are_data(hostile):
    data, text = data_of(hostile)
    assert text.isascii() or "\u2028" not in text
    assert len(re.findall("<script|</script", text)) == 4  # the data and the script
    assert "<img" not in text.lower() and "<!--" not in text
    assert data["photos"][0]["path"].endswith(
        "/photos/a<\\/script><img src=x onerror=hacked=1>.jpg"
    )
    for index, name in enumerate(HOSTILE):
        expected = SHOWN.get(index, name)
        assert data["photos"][index]["path"].endswith(expected)
        assert data["photos"][index]["name"] == expected.split("/")[-1]
        assert data["photos"][index]["tiles"][0]["name"] == expected


def test_nothing_is_fetched_and_nothing_else_runs(hostile):
    _, text = data_of(hostile)
    (policy,) = re.findall(r'"Content-Security-Policy" content="([^"]*)"', text)
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for name in page.FILES:
        source = Path(page.__file__).with_name(name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|@import|url\(|innerHTML|insertAdjacent|\beval\b", source)


# ---------------------------------------------------------------- in a browser
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    try:
        found = Browser(tmp_path_factory.mktemp("profile"))
    except OSError as error:
        pytest.skip(f"no browser starts: {error}")
    with found:
        yield found


@pytest.fixture
def page_of_area(area, tmp_path):
    table, photos = area
    rows, tile_rows = rows_of(photos, table, PLACES, ERRORS, turned=90)
    for second, (row, (latitude, longitude)) in enumerate(zip(rows, PLACES, strict=True)):
        row |= {"path_latitude": latitude, "path_longitude": longitude - 1e-4}
        row |= {"path_error_metres": 9.0, "time": f"2026-05-17T10:00:0{second}"}
    write_page(tmp_path / "area.html", rows, tile_rows, table, guessing=150.0)
    return tmp_path / "area.html"


MIDDLES = """
const middle = (element) => {
  const box = element.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
};
const box = document.getElementById("map").getBoundingClientRect();
const marker = (name) => [...document.querySelectorAll(".marker")].find((m) => m.title === name);
const names = arguments[0];
return [[box.left, box.top, box.width, box.height], names.map((n) => middle(marker(n).firstChild))];
"""
ROWS = "return [...document.querySelectorAll('#list .row .name')].map((name) => name.textContent)"
NAMES = ["p10.jpg", "p9.jpg", "p8.jpg", "p7.jpg"]
CHOOSE = """
const select = document.getElementById(arguments[0]);
select.value = [...select.options].find((option) => option.text === arguments[1]).value;
select.dispatchEvent(new Event("change"));
"""
PANEL = """
const panel = document.getElementById("comparison");
const texts = (what) => [...panel.querySelectorAll(what)].map((each) => each.textContent);
const box = panel.getBoundingClientRect();
return panel.hidden ? null : {name: texts("#name")[0], ranks: texts(".rank"), facts: texts("dd"),
  captions: texts(".tile .strong"), box: [box.left, box.top, box.right, box.bottom],
  turn: panel.querySelector(".photo img").style.transform};
"""


def check_markers(browser):
    """Markers of the whole map: centred, with 24 pixels around it."""
    browser.run("document.getElementById('whole').click()")
    (left, top, width, height), middles = browser.run(MIDDLES, NAMES)
    zoom = min((width - 48) / 64, (height - 48) / 48)
    map_left, map_top = mercator_of(48.0, 179.998)
    pixel = SIDE / math.cos(math.radians(48.0)) / 16
    for place, found in zip(PLACES, middles, strict=True):
        x, y = mercator_of(place[0], place[1] % 360)
        expected = (
            left + width / 2 + ((x - map_left) / pixel - 32) * zoom,
            top + height / 2 + ((map_top - y) / pixel - 24) * zoom,
        )
        assert found == pytest.approx(expected, abs=0.6)
    return middles


LONG_NAME = """
const old = photos[0].row;
photos[0].name = arguments[0];
const row = makeRow(photos[0]);
old.replaceWith(row);
const [name, end, value] = [".name", ".end", ".value"].map((each) => row.querySelector(each));
const start = row.querySelector(".start");
const right = (each) => each.getBoundingClientRect().right;
return [name.textContent, end.textContent, start.scrollWidth > start.clientWidth,
  right(end) <= right(name) + 0.5, right(name) < value.getBoundingClientRect().left];
"""


@needs_browser
def test_the_time_of_a_frame_is_not_cut_off(browser, page_of_area):
    name = f"{'DJI_0001_' * 6}00012.500.jpg"
    browser.open(page_of_area, 1400, 900)
    assert browser.run(LONG_NAME, name) == [name, "_00012.500.jpg", True, True, True]


@needs_browser
@pytest.mark.parametrize("width, height", [(1400, 900), (390, 844)])
def test_the_page_of_a_map(browser, page_of_area, width, height):
    browser.open(page_of_area, width, height)
    assert browser.run("return document.getElementById('summary').textContent").startswith(
        "Median error45 malong the path9 mby guessing150 mwithin 25 m25 %"
    )
    middles = check_markers(browser)
    # A click on a marker opens the comparison, within the window.
    assert browser.run(PANEL) is None
    browser.click(*middles[2])
    panel = browser.run(PANEL)
    assert panel["name"] == "p8.jpg" and panel["ranks"] == ["1", "2", "3"]
    assert panel["captions"] == ["0.780", "0.680", "0.580"]
    assert panel["facts"][0] == "47.999000, -179.997500 · 30 m off"
    assert panel["turn"].endswith("rotate(-90deg)")  # to the left, as it was matched
    left, top, right, bottom = panel["box"]
    assert left >= 0 and top > 0 and right <= width and bottom <= height
    assert browser.run("return document.scrollingElement.scrollWidth") == width
    check_markers(browser)  # the map is smaller now
    browser.press("Escape")
    assert browser.run(PANEL) is None
    # The list: sorted, filtered, walked through by keys.
    assert browser.run(ROWS) == NAMES  # in the order of time
    browser.run(CHOOSE, "sort", "Name")
    assert browser.run(ROWS) == NAMES[::-1]  # p7 before p10
    browser.run(CHOOSE, "sort", "Largest error")
    assert browser.run(ROWS) == ["p7.jpg", "p9.jpg", "p8.jpg", "p10.jpg"]
    browser.run(CHOOSE, "sort", "Lowest confidence")
    assert browser.run(ROWS) == ["p10.jpg", "p7.jpg", "p8.jpg", "p9.jpg"]
    browser.run(CHOOSE, "filter", "More than 50 m off")
    assert browser.run(ROWS) == ["p7.jpg", "p9.jpg"]
    assert browser.run("return document.querySelectorAll('.marker:not([hidden])').length") == 2
    browser.run("document.querySelector('.row').focus()")
    browser.press("Enter")
    assert browser.run(PANEL)["name"] == "p7.jpg"
    browser.press("ArrowDown")
    assert browser.run(PANEL)["name"] == "p9.jpg"
    assert browser.complaints() == []


@needs_browser
def test_wheel_fingers_and_keys_move_the_map(browser, page_of_area):
    browser.open(page_of_area, 390, 844)
    middles = check_markers(browser)
    for (x, y), place in zip(middles, PLACES, strict=True):
        browser.devtools("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        text = browser.run("return document.getElementById('pointer').textContent")
        shown = [float(part) for part in text.split(", ")]
        off = (np.subtract(shown, place) + 180) % 360 - 180
        assert np.abs(off).max() < 1e-5  # a pixel of the screen is 1.2 metres here
    x, y = middles[0]
    browser.roll(x, y, -300)
    _, zoomed = browser.run(MIDDLES, NAMES)
    assert zoomed[0] == pytest.approx((x, y), abs=0.6)  # what is under the pointer stays
    factor = math.dist(*zoomed[:2]) / math.dist(*middles[:2])
    assert factor > 1.3
    check_markers(browser)
    browser.devtools("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    a, b = (x - 20, y + 40), (x + 20, y + 40)
    wider = (a[0] - 8, a[1]), (b[0] + 8, b[1])  # 56 pixels apart instead of 40
    browser.touch([a], [a, b], [wider[0], b], [*wider], [])
    _, pinched = browser.run(MIDDLES, NAMES)
    assert math.dist(*pinched[:2]) == pytest.approx(1.4 * math.dist(*middles[:2]), rel=1e-3)
    assert pinched[0] == pytest.approx((x, y + 40 - 1.4 * 40), abs=0.6)  # their middle stays
    browser.touch([a], [(a[0] + 30, a[1] + 10)], [])
    _, moved = browser.run(MIDDLES, NAMES)
    assert np.subtract(moved, pinched) == pytest.approx(np.array([[30, 10]] * 4), abs=0.6)
    browser.run("document.getElementById('map').focus()")
    browser.press("ArrowRight")
    _, stepped = browser.run(MIDDLES, NAMES)
    assert np.subtract(stepped, moved) == pytest.approx(np.array([[-80, 0]] * 4), abs=0.6)
    browser.press("0")
    assert browser.run(MIDDLES, NAMES)[1] == pytest.approx(np.array(middles), abs=0.1)
    browser.touch([middles[3]], [])
    assert browser.run(PANEL)["name"] == "p7.jpg"
    assert browser.complaints() == []


@needs_browser
@pytest.mark.parametrize("width, dark", [(1400, False), (390, True)])
def test_names_from_outside_do_nothing(browser, hostile, width, dark):
    """They are shown as they are, on a page without a map."""
    browser.open(hostile, width, 844, dark)
    assert browser.run("return typeof hacked") == "undefined"
    assert browser.run("return document.querySelectorAll('b, svg *, script').length") == 5
    names = browser.run(
        "return [...document.querySelectorAll('.pair h2')].map((h) => h.textContent)"
    )
    expected = [SHOWN.get(i, name).split("/")[-1] for i, name in enumerate(HOSTILE)]
    assert sorted(names) == sorted(expected)
    sources = browser.run("return [...document.images].map((image) => image.src.slice(0, 15))")
    assert set(sources) == {"data:image/jpeg"} and len(sources) == 4 * len(HOSTILE)
    assert browser.run("return document.scrollingElement.scrollWidth") == width
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(15, 18, 21)" if dark else "rgb(244, 245, 247)")
    assert browser.complaints() == []
