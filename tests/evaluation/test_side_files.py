"""Tables of matches and lists of queries: what they name, and one clear line for each bad one."""

import numpy as np
import pytest
from ranking_tasks import task, write

from evaluation.places import read_coordinates
from evaluation.protocols import evaluate_protocol
from evaluation.side_files import find_side_file, matches_of, read_matches, read_query_list


def test_matches_of_vigor(tmp_path):
    """Names with commas, as VIGOR's panoramas have, and satellite images by their folder's name."""
    path = write(
        tmp_path / "semi_positives.csv",
        "panorama,latitude,positive,positive_delta_1,semi_1,semi_1_delta_1,semi_2\n"
        '"test/query_street/S0/p,37.7,-122.4,.jpg",37.7,S0,1,S1,5,S2\n'
        "train/street/S1/q.jpg,37.7,S1,1,nowhere,5,\n"
        "test/query_street/S1/q.jpg,37.7,S1,1,S2,5,\n",
    )
    query, gallery = task(np.ones((3, 4)))
    streets = ["S0/p,37.7,-122.4,.jpg", "S1/q.jpg", "S2/r.jpg"]
    query = query._replace(paths=[f"data/test/query_street/{name}" for name in streets])
    gallery = gallery._replace(
        paths=[f"data/test/gallery_satellite/S{j}/{j}.png" for j in range(4)]
    )
    matches = read_matches(path)
    assert matches.names["test/query_street/S0/p,37.7,-122.4,.jpg"] == ["S1", "S2"]
    found = matches_of(query, gallery, matches)
    assert [each.tolist() for each in found] == [[1, 2], [2], []]
    assert all(each.dtype == np.int64 for each in found)
    assert evaluate_protocol("vigor", query, gallery, semi_positives=path) == evaluate_protocol(
        "vigor", query, gallery, semi_positives=matches
    )


def test_matches_of_any_columns(tmp_path):
    path = write(
        tmp_path / "p.csv", "query,gallery\nq0.jpg,g1.jpg,,0002/g2.jpg,g1.jpg\nq0.jpg,g0.jpg\n"
    )
    query, gallery = task(np.ones((2, 4)))
    gallery.paths[3] = "test/g1.jpg/g3.jpg"  # a folder called like an image: the image is meant
    found = matches_of(query, gallery, read_matches(path))
    assert [each.tolist() for each in found] == [[0, 1, 2], []]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "begins with 'nothing', expected the header query,gallery"),
        ("q0.jpg,g1.jpg\n", "begins with 'q0.jpg,g1.jpg', expected the header"),
        ("query,gallery\nx.jpg,g1.jpg\n", "no line for any of the 2 queries, first test/query"),
        ("query,gallery\nq0.jpg,g9.jpg\n", "names 1 images that are not among the 4 .* g9.jpg"),
        ("query,gallery\nq0.jpg,same.jpg\n", "names same.jpg, as several images are called"),
        ("query,positive,semi_1\nq0.jpg,g1.jpg\n", "line 2: 2 columns, expected 3"),
    ],
)
def test_matches_that_cannot_be(tmp_path, text, expected):
    query, gallery = task(np.ones((2, 4)))
    gallery = gallery._replace(paths=[*gallery.paths[:2], "a/same.jpg", "b/same.jpg"])
    path = write(tmp_path / "m.csv", text)
    with pytest.raises(ValueError, match=expected) as info:
        matches_of(query, gallery, read_matches(path))
    assert str(info.value).startswith(str(path)) and "\n" not in str(info.value)


def test_query_list(tmp_path):
    path = write(tmp_path / "n.txt", "\ufeffb.jpg\r\n\n a.jpg \n")
    assert read_query_list(path) == ["b.jpg", "a.jpg"]
    with pytest.raises(ValueError, match="names b.jpg more than once"):
        read_query_list(write(path, "a.jpg\nb.jpg\nb.jpg\n"))
    with pytest.raises(ValueError, match="is empty"):
        read_query_list(write(path, "\n"))


@pytest.mark.parametrize("reader", [read_coordinates, read_matches, read_query_list])
def test_files_that_are_missing_or_no_text(tmp_path, reader):
    with pytest.raises(FileNotFoundError, match="none.csv not found"):
        reader(tmp_path / "none.csv")
    path = tmp_path / "latin.csv"
    path.write_bytes("Bibliothèque,1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv is not UTF-8 text"):
        reader(path)


def test_a_side_file_is_found_by_the_data_folder_or_a_part_of_it(tmp_path):
    (tmp_path / "test").mkdir()
    assert find_side_file(tmp_path / "test", "utm.csv") is None
    write(tmp_path / "utm.csv", "")
    for folder in (tmp_path, tmp_path / "test", str(tmp_path / "train")):
        assert find_side_file(folder, "coordinates.csv", "utm.csv") == tmp_path / "utm.csv"
    write(tmp_path / "coordinates.csv", "")
    assert find_side_file(tmp_path, "coordinates.csv", "utm.csv").name == "coordinates.csv"
