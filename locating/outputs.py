"""What locate.py writes: tables, GeoJSON (RFC 7946) and KML."""

import json
from xml.etree import ElementTree

from runtime.files import table_text, write_text

COLUMNS = ("photo", "latitude", "longitude", "confidence", "score", "tile", "tile_metres",
           "true_latitude", "true_longitude", "error_metres", "note")  # fmt: skip
TILE_COLUMNS = ("photo", "rank", "tile", "score", "turned", "latitude", "longitude",
                "tile_metres", "error_metres")  # fmt: skip
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
    """Write the estimates as points, longitude first, with the other columns as properties."""
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
    content = {"type": "FeatureCollection", "features": features}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_kml(path, rows):
    """Write the estimates as placemarks, for viewers such as Google Earth."""
    root = ElementTree.Element("kml", xmlns=KML)
    document = ElementTree.SubElement(root, "Document")
    for row in rows:
        mark = ElementTree.SubElement(document, "Placemark")
        ElementTree.SubElement(mark, "name").text = row["photo"]
        about = f"score {row['score']:.3f}"
        if row.get("confidence") is not None:
            about += f", confidence {row['confidence']:.2f}"
        if row.get("error_metres") is not None:
            about += f", {row['error_metres']:.1f} m from the place that the photo carries"
        ElementTree.SubElement(mark, "description").text = about
        point = ElementTree.SubElement(mark, "Point")
        ElementTree.SubElement(
            point, "coordinates"
        ).text = f"{row['longitude']:.8f},{row['latitude']:.8f}"
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=False)
    write_text(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')
