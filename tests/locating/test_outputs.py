"""The path of a flight in GeoJSON and KML."""

import json
from xml.etree import ElementTree

import pytest

from locating.outputs import path_lines, write_geojson, write_kml


def rows(*path):
    single = {"photo": "a", "score": 0.5, "latitude": 1.0, "longitude": 2.0}
    return [single | {"path_latitude": y, "path_longitude": x} for y, x in path]


def test_lines_end_at_the_180th_meridian():
    assert path_lines([{"photo": "a", "latitude": 1.0, "longitude": 2.0}]) == []
    assert path_lines(rows((50, 8), (51, 9))) == [[(8, 50), (9, 51)]]
    east, west = path_lines(rows((10, 179.8), (11, 179.9), (12, -179.8)))
    crossing = 11 + 1 / 3
    assert east == [(179.8, 10), (179.9, 11), (180, pytest.approx(crossing))]
    assert west == [(-180, pytest.approx(crossing)), (-179.8, 12)]
    there, back, again = path_lines(rows((0, -179.5), (0, 179.5), (0, -179.5)))
    assert there == [(-179.5, 0), (-180, 0)] and back == [(180, 0), (179.5, 0), (180, 0)]
    assert again == [(-180, 0), (-179.5, 0)]


@pytest.mark.parametrize("path, kind", [
    (((50.0, 8.0), (51.0, 9.0)), "LineString"), (((0.0, 179.5), (0.0, -179.5)), "MultiLineString"),
])  # fmt: skip
def test_files(tmp_path, path, kind):
    write_geojson(tmp_path / "a.geojson", rows(*path))
    *points, line = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [point["geometry"]["type"] for point in points] == ["Point"] * 2
    expected = [[list(position) for position in part] for part in path_lines(rows(*path))]
    expected = expected if len(expected) > 1 else expected[0]
    assert line["geometry"] == {"type": kind, "coordinates": expected}
    write_kml(tmp_path / "a.kml", rows(*path))
    tree = ElementTree.parse(tmp_path / "a.kml")
    namespace = "{http://www.opengis.net/kml/2.2}"
    lines = [
        each.find(f"{namespace}coordinates").text for each in tree.iter(f"{namespace}LineString")
    ]
    found = [[[float(x) for x in pair.split(",")] for pair in text.split()] for text in lines]
    assert found == (expected if kind != "LineString" else [expected])
    assert len(list(tree.iter(f"{namespace}Point"))) == 2


def test_a_control_character_in_a_name_leaves_kml_well_formed(tmp_path):
    row = {"photo": "a\x01\nb.jpg", "latitude": 1.0, "longitude": 2.0, "score": 0.5}
    write_kml(tmp_path / "a.kml", [row])
    names = [each.text for each in ElementTree.parse(tmp_path / "a.kml").iter() if each.text]
    assert any("b.jpg" in name and "\n" not in name for name in names)
