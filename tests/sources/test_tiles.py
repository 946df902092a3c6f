"""prepare.py tiles: maps of every kind, cut into the same tiles."""

import csv
import json
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from odd_images import exif, noise
from PIL import Image

from evaluation import mercator
from evaluation.map_folder import read_map
from imaging.pixels import read_image
from prepare import main
from sources.maps import homography, open_map
from sources.tiles import cut_tile, parse_corners, plan_tiles

WEST, SOUTH, EAST, NORTH = 11.50, 48.10, 11.52, 48.1134  # about 1.5 km each way
SIDE = 512  # pixels of the maps


def colour(latitude, longitude):
    """The picture: red rises to the east, green to the north, blue waves a little."""
    red = 40 + 160 * (longitude - WEST) / (EAST - WEST)
    green = 40 + 160 * (latitude - SOUTH) / (NORTH - SOUTH)
    blue = 128 + 20 * np.sin(np.radians(longitude) * 4e3)
    return np.stack(np.broadcast_arrays(red, green, blue), axis=-1)


def pixel_middles(first, last, count):
    return first + (np.arange(count) + 0.5) * (last - first) / count


def picture(north=NORTH, south=SOUTH, west=WEST, east=EAST, size=SIDE):
    """Even steps of degrees, uint8 (size, size, 3)."""
    rows, columns = pixel_middles(north, south, size), pixel_middles(west, east, size)
    return colour(rows[:, None], columns[None]).round().astype(np.uint8)


def geotiff(path, crs, **settings):
    """The picture as a GeoTIFF in a coordinate system, by rasterio's own arithmetic."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    from rasterio.warp import transform, transform_bounds  # noqa: PLC0415

    left, bottom, right, top = transform_bounds("EPSG:4326", crs, WEST, SOUTH, EAST, NORTH)
    x, y = np.meshgrid(pixel_middles(left, right, SIDE), pixel_middles(top, bottom, SIDE))
    longitude, latitude = transform(crs, "EPSG:4326", x.ravel(), y.ravel())
    bands = colour(np.array(latitude), np.array(longitude)).reshape(SIDE, SIDE, 3)
    settings = {"dtype": "uint8", "count": 3} | settings
    scale = 16 if settings["dtype"] == "uint16" else 1
    bands = (bands * scale).round().astype(settings["dtype"]).transpose(2, 0, 1)
    profile = {
        "driver": "GTiff", "height": SIDE, "width": SIDE, "crs": crs,
        "transform": rasterio.transform.from_bounds(left, bottom, right, top, SIDE, SIDE),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile, **settings) as file:
        file.write(bands[: settings["count"]])
    return path


def web_tiles(zoom=16):
    """{(column, row): image} of Web Mercator tiles that cover the picture, by the formula."""
    n = 2**zoom

    def place(column, row):
        longitude = column / n * 360 - 180
        return np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * row / n)))), longitude

    tiles = {}
    first = (
        int((WEST + 180) / 360 * n),
        int((1 - np.arcsinh(np.tan(np.radians(NORTH))) / np.pi) / 2 * n),
    )
    last = (
        int((EAST + 180) / 360 * n),
        int((1 - np.arcsinh(np.tan(np.radians(SOUTH))) / np.pi) / 2 * n),
    )
    for column in range(first[0], last[0] + 1):
        for row in range(first[1], last[1] + 1):
            steps = (np.arange(256) + 0.5) / 256
            latitude, _ = place(column, row + steps)
            _, longitude = place(column + steps, row)
            image = colour(latitude[:, None], longitude[None]).clip(0, 255)
            tiles[column, row] = Image.fromarray(image.round().astype(np.uint8))
    return tiles


def make_map(kind, folder):
    """A map of a kind, and the further options it needs."""
    if kind == "zxy":
        for (column, row), image in web_tiles().items():
            path = folder / "zxy" / "16" / str(column) / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        return [folder / "zxy"]
    if kind == "tms":
        for (column, row), image in web_tiles().items():
            path = folder / "tms" / "16" / str(column) / f"{2**16 - 1 - row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        (folder / "tms" / "tilemapresource.xml").write_text("<TileMap/>")
        return [folder / "tms"]
    if kind == "mbtiles":
        with sqlite3.connect(folder / "map.mbtiles") as file:
            file.execute("CREATE TABLE metadata (name text, value text)")
            file.execute("CREATE TABLE tiles (zoom_level integer, tile_column integer, "
                         "tile_row integer, tile_data blob)")  # fmt: skip
            for (column, row), image in web_tiles().items():
                image.save(folder / "tile.png")
                content = (folder / "tile.png").read_bytes()
                values = (16, column, 2**16 - 1 - row, content)
                file.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", values)
        file.close()
        return [folder / "map.mbtiles"]
    if kind in ("corners", "world file", "turned"):
        image = Image.fromarray(picture())
        corners = [(NORTH, WEST), (NORTH, EAST), (SOUTH, EAST), (SOUTH, WEST)]
        if kind == "turned":
            image, corners = image.transpose(Image.Transpose.ROTATE_90), corners[1:] + corners[:1]
        image.save(folder / "map.png")
        if kind == "world file":
            step, down = (EAST - WEST) / SIDE, (SOUTH - NORTH) / SIDE
            lines = step, 0, 0, down, WEST + step / 2, NORTH + down / 2
            (folder / "map.pgw").write_text("\n".join(map(str, lines)))
            return [folder / "map.png"]
        return [folder / "map.png", "--corners", ";".join(f"{a},{b}" for a, b in corners)]
    crs, settings = {
        "utm": ("EPSG:32632", {}),
        "mercator": ("EPSG:3857", {}),
        "degrees": ("EPSG:4326", {"tiled": True, "blockxsize": 128, "blockysize": 128}),
    }[kind]
    return [geotiff(folder / "map.tif", crs, **settings)]


def tiles(folder, *options):
    return main(["tiles", *map(str, options), "--out", str(folder)])


@pytest.mark.parametrize("kind", [
    "utm", "mercator", "degrees", "mbtiles", "zxy", "tms", "corners", "world file", "turned",
])  # fmt: skip
def test_every_kind_of_map_gives_the_tiles_of_the_places(kind, workdir):
    """Each pixel is compared with the picture at the place that tiles.csv gives it."""
    made = make_map(kind, workdir)
    result = tiles("map", *made, "--metres", "300,500", "--pixels", 12, "--least_data", 1)
    table = read_map("map")
    assert result["tiles"] == len(table.paths) > 20
    assert set(table.metres) == {300, 500}
    for path, (north, south, west, east), metres in zip(
        table.paths, table.edges, table.metres, strict=True
    ):
        found = np.array(Image.open(path)).astype(float)
        expected = colour(
            pixel_middles(north, south, 12)[:, None], pixel_middles(west, east, 12)[None]
        )
        error = (found - expected)[1:-1, 1:-1]  # a cubic filter looks over the edges of the map
        step = 160 / 1500 * metres / 12  # levels a pixel, of red and of green
        for corner in (error[:5, :5], error[:5, -5:], error[-5:, :5], error[-5:, -5:]):
            assert np.abs(corner[..., :2].mean(axis=(0, 1)) / step).max() < 0.5  # pixels
        assert (east - west) * np.cos(np.radians(north)) * 111_320 == pytest.approx(
            metres, rel=0.01
        )
        assert (north - south) * 111_320 == pytest.approx(metres, rel=0.01)


def test_tiles_cover_the_map_and_overlap():
    bounds = (0.0, 0.0, 1000.0, 700.0)
    planned = plan_tiles(bounds, 200, 0.5)
    boxes = np.array([tile.box for tile in planned])
    assert len(boxes) == 9 * 6
    assert boxes.min(axis=0)[:2] == pytest.approx([0, 0], abs=1e-6)
    assert boxes.max(axis=0)[2:] == pytest.approx([1000, 700], abs=1e-6)
    assert sorted(set(boxes[:, 0].round(1))) == pytest.approx(
        [0, 100, 200, 300, 400, 500, 600, 700, 800]
    )
    assert len({tile.name for tile in planned}) == len(planned)


def test_a_map_smaller_than_a_tile_gives_one_in_the_middle():
    (tile,) = plan_tiles((0.0, 0.0, 50.0, 60.0), 100, 0.5)
    assert tile.box == pytest.approx((-25, -40, 75, 60), abs=1e-3)


def test_sides_are_metres_on_the_ground_far_north():
    x, y = mercator.project(70.0, 20.0)
    (tile, *_) = plan_tiles((x, y - 1000, x + 1000, y), 100, 0.0)
    left, bottom, right, top = tile.box
    assert right - left == pytest.approx(100 / np.cos(np.radians(70)), rel=1e-3)
    assert top - bottom == pytest.approx(right - left)


@pytest.mark.parametrize(
    "latitude, longitude", [(48.1, 11.5), (-33.9, 151.2), (0, -179.9), (-54, -70)]
)
def test_projection_and_back(latitude, longitude):
    x, y = mercator.project(latitude, longitude)
    assert mercator.unproject(x, y) == pytest.approx((latitude, longitude), abs=1e-9)


def test_projection_by_hand():
    """EPSG Guidance Note 7-2: x = R lon, y = R ln tan(pi/4 + lat/2)."""
    assert mercator.project(0, 180)[0] == pytest.approx(20037508.342789244)
    y = 6378137 * np.log(np.tan(np.pi / 4 + np.radians(45) / 2))
    assert mercator.project(45, 0)[1] == pytest.approx(y)
    with pytest.raises(ValueError, match="near the poles"):
        mercator.project([10, 89], 0)


def test_homography_takes_corners_to_corners():
    a = np.array([(0, 0), (10, 1), (12, 9), (-1, 8)], dtype=float)
    b = np.array([(5, 5), (50, 7), (45, 60), (3, 40)], dtype=float)
    found = np.column_stack([a, np.ones(4)]) @ homography(a, b).T
    assert found[:, :2] / found[:, 2:] == pytest.approx(b)


# ---------------------------------------------------------------- data
def test_16_bits_and_one_band_are_stretched(workdir):
    path = geotiff(workdir / "deep.tif", "EPSG:32632", dtype="uint16", count=1)
    tiles("map", path, "--metres", 500, "--pixels", 64)
    images = np.stack([np.array(Image.open(path)) for path in read_map("map").paths])
    assert images.min() < 10 and images.max() > 245
    assert np.abs(images[..., 0].astype(int) - images[..., 1]).max() <= 2  # grey


def test_a_palette(workdir):
    """Numbers of colours are looked up, not mixed."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    path = geotiff(workdir / "map.tif", "EPSG:32632", count=1)
    with rasterio.open(path, "r+") as file:
        file.write((np.indices((SIDE, SIDE))[1] // 64 % 2).astype(np.uint8), 1)
        file.write_colormap(1, {0: (250, 10, 10, 255), 1: (10, 10, 250, 255)})
    tiles("map", path, "--metres", 500, "--pixels", 64)
    images = np.stack([np.array(Image.open(path)) for path in read_map("map").paths]).astype(int)
    red, blue = (
        np.abs(images - colour).max(axis=-1) < 40 for colour in ((250, 10, 10), (10, 10, 250))
    )
    assert (red | blue).mean() > 0.9 and red.any() and blue.any()


def test_a_deep_picture_is_refused(workdir, capsys):
    """As everywhere: Pillow would silently take the upper byte of its colours."""
    Image.fromarray(np.full((64, 64), 4000, np.uint16)).save("map.png")
    corners = f"{NORTH},{WEST};{NORTH},{EAST};{SOUTH},{EAST};{SOUTH},{WEST}"
    assert "more than 8 bits a colour" in fails(capsys, "map.png", "--corners", corners)


def test_tiles_without_data_are_left_out_and_alpha_respected(workdir):
    image = np.dstack([picture(), np.full((SIDE, SIDE), 255, np.uint8)])
    image[:, : SIDE // 2, 3] = 0
    image[:, : SIDE // 2, :3] = (255, 0, 255)  # hidden, it must not shine through
    Image.fromarray(image).save("map.png")
    corners = f"{NORTH},{WEST};{NORTH},{EAST};{SOUTH},{EAST};{SOUTH},{WEST}"
    found = tiles("map", "map.png", "--corners", corners, "--metres", 300, "--pixels", 64)
    table = read_map("map")
    assert found["without_data"] > 0
    assert table.places[:, 1].min() > (WEST + EAST) / 2 - 0.0005
    for path in table.paths:
        red, _, blue = np.array(Image.open(path)).reshape(-1, 3).astype(int).T
        assert not ((red > 230) & (blue > 200)).any()


def test_nodata_of_a_geotiff(workdir):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    path = geotiff(workdir / "map.tif", "EPSG:32632", nodata=0)
    with rasterio.open(path, "r+") as file:
        bands = file.read()
        bands[:, : SIDE // 2] = 0
        file.write(bands)
    tiles("map", path, "--metres", 300, "--pixels", 64)
    assert read_map("map").places[:, 0].max() < (NORTH + SOUTH) / 2 + 0.0005


def test_web_tiles_of_two_sizes(workdir):
    """Tiles of one level may have 256 and 512 pixels: each is drawn on all of its ground."""
    made = make_map("zxy", workdir)
    tiles("expected", *made, "--metres", 500, "--pixels", 12)
    for path in sorted(made[0].rglob("*.png"))[1::2]:
        Image.open(path).resize((512, 512), Image.Resampling.BICUBIC).save(path)
    tiles("map", *made, "--metres", 500, "--pixels", 12)
    for path in read_map("map").paths:
        expected = np.array(Image.open(workdir / "expected" / "tiles" / path.name), int)
        assert np.abs(np.array(Image.open(path), int) - expected).max() <= 4


def test_several_files_are_one_map(workdir):
    for name, west, east in (("a", WEST, 11.51), ("b", 11.51, EAST)):
        Image.fromarray(picture(west=west, east=east)).save(f"{name}.png")
        step, down = (east - west) / SIDE, (SOUTH - NORTH) / SIDE
        lines = step, 0, 0, down, west + step / 2, NORTH + down / 2
        (workdir / f"{name}.wld").write_text("\n".join(map(str, lines)))
    tiles("map", "a.png", "b.png", "--metres", 400, "--pixels", 64, "--least_data", 1)
    table = read_map("map")
    across = (table.edges[:, 2] < 11.51) & (table.edges[:, 3] > 11.51)
    assert across.any()
    for index in np.flatnonzero(across):
        north, south, west, east = table.edges[index]
        red = np.array(Image.open(table.paths[index]))[..., 0].astype(float)
        expected = colour(north, pixel_middles(west, east, 64))[:, 0]
        assert np.abs(red.mean(axis=0) - expected)[2:-2].max() < 3


class Plain(NamedTuple):
    """A map that is the same everywhere."""

    pixel: tuple
    bounds: tuple = (0, 0, 1, 1)

    def read(self, box, pixels):
        return np.full((pixels, pixels, 4), self.pixel, np.uint8)


@pytest.mark.parametrize("pixels, expected", [
    ([(7, 90, 251, 255)], (7, 90, 251)),
    ([(9, 9, 9, 0), (7, 90, 251, 255), (1, 1, 1, 255)], (7, 90, 251)),
    ([(7, 90, 251, 100), (1, 1, 1, 255)], (7, 90, 251)),  # the ground is its own mean colour
    ([(9, 9, 9, 0)], None), ([], None),
])  # fmt: skip
def test_the_first_map_with_data_shows_through_the_empty_ones(pixels, expected):
    tile = cut_tile([Plain(pixel) for pixel in pixels], (0, 0, 1, 1), 4)
    assert (tile and tile.getpixel((2, 2))) == expected
    assert cut_tile([Plain((7, 90, 251, 255))], (2, 2, 3, 3), 4) is None  # beside it


def test_bounds_and_dry_run(workdir, capsys):
    made = make_map("zxy", workdir)
    bounds = f"{WEST},{SOUTH},11.51,48.106"
    planned = tiles("map", *made, "--bounds", bounds, "--metres", 200, "--dry_run")
    assert not (workdir / "map").exists()
    found = tiles("map", *made, "--bounds", bounds, "--metres", 200)
    assert planned["tiles"] == found["tiles"]
    assert planned["bytes"] == pytest.approx(found["bytes"], rel=0.2)
    edges = read_map("map").edges
    assert edges[:, 2].min() == pytest.approx(WEST, abs=1e-6)
    assert edges[:, 3].max() == pytest.approx(11.51, abs=1e-6)
    assert "nothing written" in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on(workdir, monkeypatch):
    made = make_map("zxy", workdir)
    tiles("whole", *made, "--metres", 400)
    whole = {p.name: p.read_bytes() for p in (workdir / "whole/tiles").iterdir()}
    tiles("part", *made, "--metres", 400)
    (workdir / "part/tiles.csv").unlink()
    for path in sorted((workdir / "part/tiles").iterdir())[::2]:
        path.unlink()
    kept = {p.name: p.stat().st_mtime_ns for p in (workdir / "part/tiles").iterdir()}
    tiles("part", *made, "--metres", 400)
    assert {p.name: p.read_bytes() for p in (workdir / "part/tiles").iterdir()} == whole
    assert all((workdir / "part/tiles" / n).stat().st_mtime_ns == t for n, t in kept.items())
    with open("whole/tiles.csv") as a, open("part/tiles.csv") as b:
        assert list(csv.reader(a)) == list(csv.reader(b))


def test_across_the_180th_meridian(workdir):
    Image.fromarray(picture()).save("map.png")
    corners = "-17.9,179.99;-17.9,-179.99;-17.92,-179.99;-17.92,179.99"
    tiles("map", "map.png", "--corners", corners, "--metres", 400, "--pixels", 32)
    longitudes = read_map("map").places[:, 1]
    assert (longitudes > 179.98).any() and (longitudes < -179.98).any()
    assert (np.abs(longitudes) > 179.98).all()


# ---------------------------------------------------------------- mistakes
def fails(capsys, *options):
    with pytest.raises(SystemExit) as ended:
        tiles("out", *options)
    message = capsys.readouterr().err
    assert ended.value.code == 2 and message.count("\n") == 1
    return message


def test_mistakes_are_one_line(workdir, capsys, monkeypatch):
    Image.fromarray(picture(size=64)).save("map.png")
    assert "has no georeference" in fails(capsys, "map.png")
    assert "not found" in fails(capsys, "nothing.tif")
    (workdir / "map.pgw").write_text("1\n2\n3")
    assert "no world file" in fails(capsys, "map.png")
    (workdir / "map.pgw").write_text("1 0 0 -1 500000 5330000")
    assert "no degrees" in fails(capsys, "map.png")
    (workdir / "map.pgw").write_text(f"1e-5 0 0 -1e-5 {WEST} {NORTH}")
    assert "lies outside the map" in fails(capsys, "map.png", "--bounds", "1,2,3,4")
    assert "near the poles" in fails(capsys, "map.png", "--corners", "89,0;89,1;88,1;88,0")
    assert "in turn" in fails(capsys, "map.png", "--corners", "1,1;2,2;3,3;4,5")
    assert "in turn" in fails(capsys, "map.png", "--corners", "1,1;0,2;1,2;0,1")
    assert "is not four places" in fails(capsys, "map.png", "--corners", "1,1;2,2")
    assert "longitude before latitude" in fails(capsys, "map.png", "--bounds", "1,2,1,4")
    (workdir / "empty").mkdir()
    assert "holds no tiles" in fails(capsys, "empty")
    (workdir / "cut.mbtiles").write_bytes(b"SQLite format 3\0" + bytes(50))
    assert "cannot be read as MBTiles" in fails(capsys, "cut.mbtiles")
    (workdir / "text.txt").write_text("no map")
    assert "is no map that can be read" in fails(capsys, "text.txt")
    Image.new("RGBA", (64, 64)).save("clear.png")
    assert "smaller than the tiles" in fails(capsys, "map.png", "--metres", 5000)
    corners = f"{NORTH},{WEST};{NORTH},{EAST};{SOUTH},{EAST};{SOUTH},{WEST}"
    assert "holds 50% of data" in fails(capsys, "clear.png", "--corners", corners, "--metres", 700)
    assert not (workdir / "out" / "tiles.csv").exists()
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    Image.fromarray(picture(size=64)).save("map.tif")
    assert "pip install -r requirements-maps.txt" in fails(capsys, "map.tif")


def test_another_way_needs_another_folder(workdir, capsys):
    made = make_map("corners", workdir)
    tiles("out", *made, "--metres", 500)
    assert "was not made of this map in this way" in fails(capsys, *made, "--metres", 400)
    assert tiles("out", *made, "--metres", 500) == {"out": "out"}


def test_a_geotiff_without_georeference(workdir, capsys, recwarn):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(
            "map.tif", "w", driver="GTiff", height=8, width=8, count=1, dtype="uint8"
        ) as f,
    ):
        f.write(np.zeros((1, 8, 8), np.uint8))
    recwarn.clear()
    assert "has no georeference" in fails(capsys, "map.tif")  # and rasterio is silent
    assert not [each for each in recwarn if "georef" in str(each.message)]


def test_coordinate_systems_that_do_not_fit(workdir, capfd):
    """What names none is taken by --crs; what names one counts, and a wrong one is said.

    By `capfd`: GDAL would print by itself.
    """
    path = geotiff(workdir / "map.tif", "EPSG:32632")
    assert "--crs 'EPSG:99999' is no coordinate" in fails(capfd, path, "--crs", "EPSG:99999")
    assert "--crs 'nonsense' is no coordinate system that is known" in fails(
        capfd, path, "--crs", "nonsense"
    )
    options = "--metres", 500, "--dry_run"
    expected = tiles("out", path, *options)
    assert "coordinate system of the map: EPSG:32632\n" in capfd.readouterr().out
    assert tiles("out", path, "--crs", "EPSG:32633", *options) == expected
    assert (
        "map.tif is read in EPSG:32632, which it names, not in --crs EPSG:32633: if that is wrong, "
        "mend the file (gdal_edit.py -a_srs EPSG:32633)\n"
    ) in capfd.readouterr().err
    tiles("out", path, "--crs", "EPSG:32632", *options)
    assert capfd.readouterr().err == ""
    with pytest.importorskip("rasterio").open(path, "r+") as file:
        file.crs = "EPSG:4326"
    assert "are no places of its coordinate system, EPSG:4326: name the right one" in fails(
        capfd, path
    )
    Image.fromarray(picture(size=64)).save("map.png")
    (workdir / "map.pgw").write_text("1 0 0 -1 500000 5330000")
    assert "--crs 'nonsense' is no" in fails(capfd, "map.png", "--crs", "nonsense")


def test_blur_is_said(workdir, capsys):
    made = make_map("corners", workdir)
    tiles("map", *made, "--metres", 100, "--pixels", 256, "--bounds", "11.51,48.11,11.512,48.112")
    assert "will be blurred" in capsys.readouterr().out


def test_provenance(workdir):
    made = make_map("zxy", workdir)
    tiles("map", *made, "--metres", 500)
    text = (workdir / "map" / "prepare.yaml").read_text()
    assert "command: tiles" in text and "zxy" in text
    assert json.dumps(open_map(made[0]).bounds)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_corners_are_those_of_the_picture_as_it_is_seen(orientation, workdir):
    """A world file's are those of the stored pixels."""
    Image.fromarray(noise(60, 80)).save("map.png", exif=exif(orientation))
    corners = f"{NORTH},{WEST};{NORTH},{EAST};{SOUTH},{EAST};{SOUTH},{WEST}"
    shown = open_map("map.png", parse_corners(corners)).image
    assert np.array_equal(np.array(shown.convert("RGB")), read_image("map.png"))
    Path("map.pgw").write_text("1e-5\n0\n0\n-1e-5\n9\n48\n")
    assert np.array_equal(np.array(open_map("map.png").image.convert("RGB")), noise(60, 80))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_among_web_tiles_is_not_waited_for(workdir, capsys):
    made = make_map("zxy", workdir)
    path = next(made[0].rglob("*.png"))
    path.unlink()
    os.mkfifo(path)
    assert "a pipe or a device, not a file" in fails(capsys, *made, "--metres", 500)


def test_it_is_said_where_the_finest_zoom_level_shows_a_part(workdir, capsys):
    make_map("zxy", workdir)
    make_map("mbtiles", workdir)
    finest = web_tiles()
    above = {(column // 2, row // 2) for column, row in finest}
    outside = max(above)[0] + 1, max(above)[1]
    for level, said in ((above, ""), ({*above, outside}, "1 tiles of level 15 lie outside it")):
        with sqlite3.connect("map.mbtiles") as file:
            file.execute("DELETE FROM tiles WHERE zoom_level = 15")
            for column, row in level:
                Path("zxy/15", str(column)).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (256, 256)).save(f"zxy/15/{column}/{row}.png")
                file.execute(
                    "INSERT INTO tiles VALUES (15, ?, ?, x'00')", (column, 2**15 - 1 - row)
                )
        file.close()
        for path in ("zxy", "map.mbtiles"):
            tiles(workdir / "out", path, "--metres", 100, "--dry_run")
            errors = capsys.readouterr().err
            assert said in errors and ("warning" in errors) == bool(said)
