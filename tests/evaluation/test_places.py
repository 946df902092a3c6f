"""Coordinates from tables, distances worked by hand and by vectors, metrics of distances."""

import math
from pathlib import Path

import numpy as np
import pytest
from ranking_tasks import task, write

from evaluation.places import (
    degree_distance,
    geodesic,
    haversine,
    mean_distance,
    metre_accuracy,
    places_of,
    planar_distance,
    read_coordinates,
    recall_within,
    sdm,
    share_within,
)
from evaluation.protocols import evaluate_protocol


# ---------------------------------------------------------------- coordinates
def test_coordinates_of_the_toy_campus(toy):
    table = read_coordinates(toy / "coordinates.csv")
    assert not table.planar
    paths = sorted(map(str, (toy / "test" / "query_drone").glob("*/*")))
    places = places_of(paths, table)
    assert places.shape == (10, 2) and places.dtype == np.float64
    lines = (toy / "coordinates.csv").read_text().splitlines()[1:]
    expected = {line.split(",")[0]: tuple(map(float, line.split(",")[1:])) for line in lines}
    for path, place in zip(paths, places, strict=True):
        assert tuple(place) == expected[Path(path).parent.name]


def test_coordinates_by_image_and_by_folder(tmp_path):
    path = write(
        tmp_path / "c.csv",
        "\ufeffheight,Longitude,name,latitude\r\n"
        '90,-1.5,0001,50\n80,2,"a,b.jpg",51\n70,3,0002/x.jpg,52\n\n60,4,./query/0002/x.jpg,53\n'
        "50,5,x.jpg,54\n40,6,gallery/0003,55\n",
    )
    table = read_coordinates(path)
    assert table.places["0001"] == (50, -1.5)
    cases = {
        "test/query/0001/y.jpg": (50, -1.5),
        "test/query/0001/a,b.jpg": (51, 2),  # the image before its folder
        "test\\query\\0002\\x.jpg": (53, 4),  # the longer name before the shorter
        "test/other/0002/x.jpg": (52, 3),
        "test/other/0004/x.jpg": (54, 5),
        "gallery/0003/z.jpg": (55, 6),
    }
    assert [tuple(place) for place in places_of(list(cases), table)] == list(cases.values())
    with pytest.raises(ValueError, match=r"c.csv has no place for 2 of 3 images, first b/y.jpg"):
        places_of(["0001/y.jpg", "b/y.jpg", "query/0003/y.jpg"], table)


@pytest.mark.parametrize("columns", ["name,x,y", "building,easting,northing"])
def test_planar_coordinates(tmp_path, columns):
    table = read_coordinates(write(tmp_path / "c.csv", f"{columns}\na.png,500000,-12.5\n"))
    assert table.planar and places_of(["t/a.png"], table).tolist() == [[500000, -12.5]]
    with pytest.raises(ValueError, match="DenseUAV's metrics are defined by"):
        evaluate_protocol("denseuav", *task(np.ones((1, 1))), coordinates=table)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "has the columns none, expected name,latitude,longitude"),
        ("name,lat,lon\na,1,2\n", "has the columns name, lat, lon"),
        ("latitude,longitude\n1,2\n", "expected name,latitude"),
        ("name,latitude,longitude\na,1\n", "line 2: 2 columns, expected 3"),
        ("name,latitude,longitude\na,30,001,90,001\n", "line 2: 5 columns, expected 3"),
        ("name,latitude,longitude,latitude\na,1,2,3\n", "name each once"),
        ("name,latitude,longitude\na,1,2\nb,1,east\n", "line 3: longitude is 'east'"),
        ("name,latitude,longitude\na,120.5,30.2\n", "'120.5', expected a number from -90 to 90"),
        ("name,x,y\na,nan,2\n", "x is 'nan', expected a number$"),
        ("name,x,y\na,1,2\na,1,2\na,1,3\n", "line 4: a has another place than before"),
    ],
)
def test_coordinates_that_cannot_be(tmp_path, text, expected):
    with pytest.raises(ValueError, match=expected) as info:
        read_coordinates(write(tmp_path / "c.csv", text))
    assert str(info.value).startswith(str(tmp_path / "c.csv"))
    assert "\n" not in str(info.value)


# ---------------------------------------------------------------- distances
def test_haversine_by_hand():
    """A degree of a meridian, a quarter of the equator, the poles, and a parallel at 60 degrees."""
    degree = math.pi / 180 * 6378137
    assert degree == pytest.approx(111319.4908)
    assert haversine(10, 20, 11, 20) == pytest.approx(degree)
    assert haversine(0, 0, 0, 90) == pytest.approx(90 * degree)
    assert haversine(90, 0, -90, 55) == pytest.approx(180 * degree)
    assert haversine(0, 179.5, 0, -179.5) == pytest.approx(degree)
    assert haversine(60, 5, 60, 5.001) == pytest.approx(degree / 2 / 1000, rel=1e-6)
    assert haversine(1, 2, 1, 2) == 0
    # Paris to London on a sphere of radius 6371 km: 343.6 km by common tables.
    assert haversine(48.8566, 2.3522, 51.5074, -0.1278, radius=6371) == pytest.approx(
        343.6, abs=0.1
    )


def test_haversine_equals_the_angle_between_vectors():
    generator = np.random.default_rng(0)
    lat, lon = generator.uniform(-90, 90, (2, 50)), generator.uniform(-180, 180, (2, 50))
    vectors = np.stack(
        [
            np.cos(np.radians(lat)) * np.cos(np.radians(lon)),
            np.cos(np.radians(lat)) * np.sin(np.radians(lon)),
            np.sin(np.radians(lat)),
        ],
        axis=-1,
    )  # (2, 50, 3)
    sine = np.linalg.norm(np.cross(vectors[0][:, None], vectors[1][None]), axis=-1)
    angles = np.arctan2(sine, vectors[0] @ vectors[1].T)
    found = haversine(lat[0][:, None], lon[0][:, None], lat[1], lon[1], radius=1)
    assert found.shape == (50, 50)
    np.testing.assert_allclose(found, angles, atol=1e-7)
    lat, lon = np.mgrid[-90:91:1.7, -180:181:1.7]  # for some, rounding makes the sine exceed 1
    np.testing.assert_allclose(haversine(lat, lon, -lat, lon + 180, radius=1), math.pi, atol=1e-7)


def test_geodesic_against_published_lengths():
    """An arc of the equator, a quarter of a meridian, and two published worked examples."""
    axis, flattening = 6378137.0, 1 / 298.257223563
    assert geodesic(0, 0, 0, 1) == pytest.approx(axis * math.pi / 180, abs=1e-6)
    # Helmert's series for the quarter of a meridian, with n = f / (2 - f).
    n = flattening / (2 - flattening)
    quarter = math.pi / 2 * axis / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    assert geodesic(0, 20, 90, -70) == pytest.approx(quarter, abs=1e-4)
    assert geodesic(-90, 0, 90, 55) == pytest.approx(2 * quarter, abs=1e-4)
    # Flinders Peak to Buninyong (Geoscience Australia's example of Vincenty's formula).
    flinders = -(37 + 57 / 60 + 3.7203 / 3600), 144 + 25 / 60 + 29.5244 / 3600
    buninyong = -(37 + 39 / 60 + 10.1561 / 3600), 143 + 55 / 60 + 35.3839 / 3600
    assert geodesic(*flinders, *buninyong) == pytest.approx(54972.271, abs=1e-3)
    # New York to London, the example of GeographicLib's GeodSolve.
    assert geodesic(40.6, -73.8, 51.6, -0.5) == pytest.approx(5551759.400, abs=1e-3)


def test_geodesic_in_every_hemisphere_and_beside_the_sphere():
    north = geodesic(48.1, 11.5, 48.2, 11.7)
    for signs in ((-1, 1), (1, -1), (-1, -1)):  # the ellipsoid is the same on all sides
        mirrored = (48.1, 11.5, 48.2, 11.7) * np.array([*signs, *signs])
        assert geodesic(*mirrored) == pytest.approx(north, abs=1e-6)
    across = geodesic(-17, 179.999, -17, -179.999)  # of the 180th meridian
    assert across == pytest.approx(geodesic(-17, 10, -17, 10.002), abs=1e-6) and across < 213
    assert geodesic(12, -180, 12, 180) == pytest.approx(0, abs=1e-6)
    generator = np.random.default_rng(0)
    a, b = generator.uniform((-89, -180), (89, 180), (2, 40, 2))
    on_sphere = haversine(a[:, :1], a[:, 1:], b[:, 0], b[:, 1])
    found = geodesic(a[:, :1], a[:, 1:], b[:, 0], b[:, 1])
    assert found.shape == (40, 40)
    np.testing.assert_allclose(found, on_sphere, rtol=7e-3)


def test_share_within_counts_the_edge():
    assert share_within([10, 25, 25.1, 99], 25) == 50
    assert share_within([0.0], 0) == 100 and share_within([1.0], 0.5) == 0


def test_degrees_are_planar_and_rounded_as_published():
    a, b = np.array([30.0, 120.0]), np.array([30.25, 120.5])
    assert planar_distance(np.zeros(2), np.array([3.0, 4.0])) == 5
    assert degree_distance(a, b) == pytest.approx(math.hypot(0.25, 0.5))
    # float32 has steps of 7.6e-6 degrees at 120: a shift by less is lost, 3 of them are kept.
    assert degree_distance(a, a + [0, 3e-6]) == 0
    assert degree_distance(a, a + [0, 3 * 2.0**-17]) == 3 * 2.0**-17


def test_sdm_by_hand():
    """Weights 1, 2/3, 1/3 and decays 1, 1/2, 1/4: (1 + 1/3 + 1/12) / 2 = 17/24."""
    distances = np.log([[1, 2, 4], [4, 2, 1]]) / 0.001
    assert sdm(distances, 3, 0.001) == pytest.approx([17 / 24, (1 / 4 + 1 / 3 + 1 / 3) / 2])
    assert sdm(distances, 1, 0.001) == pytest.approx([1, 1 / 4])
    assert sdm(np.zeros((1, 4)), 4, 5000) == pytest.approx([1])


def test_sdm_equals_the_published_loops():
    generator = np.random.default_rng(0)
    distances = generator.exponential(800, (6, 12))
    for k in (1, 3, 5, 12):
        expected = []
        for row in distances:
            upper = sum((k - i) / math.exp(0.001 * row[i]) for i in range(k))
            expected.append(upper / sum(k - i for i in range(k)))
        np.testing.assert_allclose(sdm(distances, k, 0.001), expected)
        np.testing.assert_allclose(mean_distance(distances, k), [sum(r[:k]) / k for r in distances])
    with pytest.raises(ValueError, match=r"shape \(6, 12\), .* K = 13"):
        sdm(distances, 13, 0.001)
    with pytest.raises(ValueError, match="K = 0"):
        mean_distance(distances, 0)


def test_metre_accuracy_is_strict_and_recall_within_is_not():
    distances = np.array([[5.0, 1.0], [4.9, 9.0], [100.0, 5.0], [0.0, 0.0]])
    assert metre_accuracy(distances, 5) == 50
    assert metre_accuracy(distances, [0, 1, 5, 5.1, 100, 101]).tolist() == [0, 25, 50, 75, 75, 100]
    assert recall_within(distances, 1, 5.0) == 75
    assert recall_within(distances, 2, 5.0) == 100
    assert recall_within(distances, 2, 0.5) == 25
