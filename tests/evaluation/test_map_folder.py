"""The table of a map folder."""

import pytest

from evaluation.map_folder import COLUMNS, read_map

TILE = dict(zip(
    COLUMNS, ("tiles/a.jpg", 48.0, 11.0, 48.001, 47.999, 10.999, 11.001, 150, 0.5), strict=True
))  # fmt: skip


def table(folder, **changes):
    values = TILE | changes
    lines = [",".join(COLUMNS), ",".join(str(values[column]) for column in COLUMNS)]
    (folder / "tiles.csv").write_text("\n".join(lines))
    return folder


def test_a_row_is_read(tmp_path):
    found = read_map(table(tmp_path))
    assert found.paths == [tmp_path / "tiles/a.jpg"]
    assert found.places.tolist() == [[48.0, 11.0]] and found.metres.tolist() == [150]
    assert found.edges.tolist() == [[48.001, 47.999, 10.999, 11.001]]


@pytest.mark.parametrize("changes", [
    {"latitude": 95}, {"longitude": "nan"}, {"north": 47.0}, {"west": 11.001}, {"metres": 0},
])  # fmt: skip
def test_what_is_no_square_on_earth_is_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=r"tiles\.csv holds what is no place on Earth"):
        read_map(table(tmp_path, **changes))


def test_incomplete_tables(tmp_path):
    (tmp_path / "tiles.csv").write_text(",".join(COLUMNS))
    with pytest.raises(ValueError, match="lists no tile"):
        read_map(tmp_path)
    (tmp_path / "tiles.csv").write_text("path,latitude\na.jpg,48")
    with pytest.raises(ValueError, match="lacks the column longitude"):
        read_map(tmp_path)


def test_the_command_that_is_offered_can_be_pasted(tmp_path):
    with pytest.raises(FileNotFoundError, match="--out '[^']*/it'\"'\"'s; ls'`"):
        read_map(tmp_path / "it's; ls")
