"""What locate.py writes: tables, GeoJSON (RFC 7946) and KML."""

import json
from xml.etree import ElementTree

from runtime.files import table_text, write_text
from runtime.printing import printable

COLUMNS = ("photo", "time", "latitude", "longitude", "confidence", "score", "tile", "tile_metres",
           "true_latitude", "true_longitude", "error_metres", "path_latitude", "path_longitude",
           "path_error_metres", "note")  # fmt: skip
TILE_COLUMNS = ("photo", "rank", "tile", "score", "turned", "latitude", "longitude",
                "tile_metres", "error_metres")  # fmt: skip
PATH = "path of the flight"
KML = "http://www.opengis.net/kml/2.2"


def write_table(path, columns, rows):
    """Write dicts as a comma-separated table; what a row lacks stays empty."""
    table = [[_text(row.get(column)) for column in columns] for row in rows]
    write_text(path, table_text([columns, *table]))


def _text(value):
    if value is None:
        return ""
    return f"{value:.7f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def write_geojson(path, rows):
    """Write the estimates as points, longitude first, with the other columns as properties.

    The path of a flight, if the rows have one, is a line after them.
    """
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [row["longitude"], row["latitude"]]},
            "properties": {
                key: row[key]
                for key in COLUMNS
                if key not in ("latitude", "longitude") and row.get(key) is not None
            },
        }
        for row in rows
    ]
    if lines := path_lines(rows):
        geometry = {"type": "LineString", "coordinates": lines[0]}
        if len(lines) > 1:
            geometry = {"type": "MultiLineString", "coordinates": lines}
        line = {"type": "Feature", "geometry": geometry, "properties": {"name": PATH}}
        features.append(line)
    content = {"type": "FeatureCollection", "features": features}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_kml(path, rows):
    """Write the estimates, and the path of a flight, as placemarks for such as Google Earth."""
    root = ElementTree.Element("kml", xmlns=KML)
    document = ElementTree.SubElement(root, "Document")
    for row in rows:
        mark = ElementTree.SubElement(document, "Placemark")
        ElementTree.SubElement(mark, "name").text = printable(row["photo"])
        about = f"score {row['score']:.3f}"
        if row.get("confidence") is not None:
            about += f", confidence {row['confidence']:.2f}"
        if row.get("error_metres") is not None:
            about += f", {row['error_metres']:.1f} m from the place that the photo carries"
        ElementTree.SubElement(mark, "description").text = about
        _add_geometry(mark, "Point", [(row["longitude"], row["latitude"])])
    if lines := path_lines(rows):
        mark = ElementTree.SubElement(document, "Placemark")
        ElementTree.SubElement(mark, "name").text = PATH
        parts = ElementTree.SubElement(mark, "MultiGeometry") if len(lines) > 1 else mark
        for line in lines:
            _add_geometry(parts, "LineString", line)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
    write_text(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')


def _add_geometry(parent, kind, positions):
    geometry = ElementTree.SubElement(parent, kind)
    text = " ".join(f"{longitude:.8f},{latitude:.8f}" for longitude, latitude in positions)
    ElementTree.SubElement(geometry, "coordinates").text = text


def path_lines(rows):
    """The path of a flight as lists of (longitude, latitude), cut at the 180th meridian.

    [] where the rows have none. The cut is that of RFC 7946, 3.1.9.
    """
    path = [(row["path_longitude"], row["path_latitude"]) for row in rows if "path_latitude" in row]
    if not path:
        return []
    lines = [path[:1]]
    for (east, south), (longitude, latitude) in zip(path, path[1:], strict=False):
        if abs(longitude - east) > 180:
            side = 180.0 if east > 0 else -180.0
            step = longitude - east + 2 * side
            part = (side - east) / step if step else 0.5
            crossing = south + part * (latitude - south)
            lines[-1].append((side, crossing))
            lines.append([(-side, crossing)])
        lines[-1].append((longitude, latitude))
    return lines
