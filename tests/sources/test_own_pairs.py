"""The user's own pairs: two folders, or a CSV file."""

import os

import published_layouts
from conftest import fails
from conversion import made, prepare_data, read_table, train_and_test

import prepare
from sources.own_pairs import plan_pairs


def test_pairs_of_folders(source, workdir):
    published_layouts.pair_folders(source)
    result = prepare_data("pairs", source / "photos", source / "tiles", "--views",
                          "drone,satellite", "--out", "out", "--test_share", "0.4")  # fmt: skip
    files = made(workdir / "out")
    test_names = {path.split("/")[2] for path in files if path.startswith("test/")}
    assert len(test_names) == 2  # 0.4 of six
    ends = {"drone": "jpg", "satellite": "png"}
    assert files == {
        f"{folder}{view}/{name}/{name}.{ends[view]}"
        for view in ends
        for name in (f"place {n}" for n in range(6))
        for folder in (("test/query_", "test/gallery_") if name in test_names else ("train/",))
    }
    assert result["notes"] == [
        f"1 stems of {source / 'photos'} have no partner and are left out, first alone"
    ]
    again = prepare_data("pairs", source / "photos", source / "tiles", "--views",
                         "drone,satellite", "--out", "b", "--test_share", "0.4")  # fmt: skip
    assert made(workdir / "b") == files and again["counts"] == result["counts"]
    folders, views, splits = [source / "photos", source / "tiles"], ("drone", "satellite"), set()
    for seed in range(8):
        plan = plan_pairs(folders, views=views, test_share=0.4, seed=seed)
        splits.add(frozenset(e.target.split("/")[2] for e in plan.entries if "test/" in e.target))
    assert len(splits) > 1


def test_pairs_of_a_table(source, workdir):
    published_layouts.pair_table(source)
    prepare_data("pairs", source / "pairs.csv", "--out", "out")
    files = made(workdir / "out", "coordinates.csv")
    # Rows 1 and 2 share a tile: one building, whose photos have one name.
    first = {path for path in files if "drone/0001/" in path}
    assert {path.split("/")[-1] for path in first} == {"view.jpg", "view_1.jpg"}
    assert not any("/0002/" in path for path in files)
    assert {path.split("/")[2] for path in files} == {"0001", "0003", "0004", "0005", "0006"}
    assert os.path.samefile(source / "photos/1/view.jpg", workdir / "out" / next(
        path for path in first if path.endswith("view_1.jpg")))  # fmt: skip
    rows = [(row["building"], row["latitude"], row["longitude"])
            for row in read_table(workdir / "out/coordinates.csv")]  # fmt: skip
    assert rows == [("0001", "48.0", "11.0"), ("0003", "48.2", "11.2"), ("0005", "48.4", "11.4"),
                    ("0006", "48.5", "11.5")]  # fmt: skip
    metrics = train_and_test("out", "satellite,drone", "drone", "satellite")
    assert metrics["num_gallery"] == 2 and metrics["num_unmatched"] == 0


def test_pairs_of_a_table_with_ids(source, workdir, capsys):
    published_layouts.pair_table(source)
    table = source / "named.csv"
    rows = ["hall;photos/0/view.jpg;tiles/0.png", "hall;photos/1/view.jpg;tiles/1.png",
            "mill;photos/2/view.jpg;tiles/2.png", "barn;photos/3/view.jpg;tiles/3.png",
            "pond;photos/4/view.jpg;tiles/4.png"]  # fmt: skip
    published_layouts.text(table, ["building;query;reference", *rows])
    fails(prepare.main, ["pairs", table], capsys, "image columns query, reference", "--views")
    prepare_data("pairs", table, "--views", "street,satellite", "--out", "out")
    files = made(workdir / "out")
    assert {path.split("/")[2] for path in files} == {"hall", "mill", "barn", "pond"}
    assert {p.split("/")[-1] for p in files if "satellite/hall" in p} == {"0.png", "1.png"}
    published_layouts.text(table, ["id;drone;satellite", *rows[:2], rows[2].replace("/2/", "/1/")])
    fails(prepare.main, ["pairs", table], capsys, "ids hall and mill share an image")
    published_layouts.text(table, ["id;drone;satellite", *rows[:4], rows[4].replace("pond", "a/b")])
    fails(prepare.main, ["pairs", table], capsys, "'a/b' cannot be a folder name")


def test_pairs_that_cannot_be_made(source, workdir, capsys):
    published_layouts.pair_folders(source)
    published_layouts.pair_table(source)
    photos, tiles, table = source / "photos", source / "tiles", source / "pairs.csv"
    fails(
        prepare.main, ["pairs", photos, tiles], capsys, "photos, tiles", "--views drone,satellite"
    )
    fails(prepare.main, ["pairs", photos, tiles, "--views", "drone,tank"], capsys, "drone,tank")
    fails(prepare.main, ["pairs", photos, tiles, photos], capsys, "3 sources given")
    fails(prepare.main, ["pairs", photos / "0", tiles, "--views", "drone,satellite"], capsys,
          "no file of", "view", "use a CSV")  # fmt: skip
    fails(prepare.main, ["pairs", source, tiles, "--views", "drone,satellite"], capsys,
          f"{source} holds no images itself")  # fmt: skip
    fails(prepare.main, ["pairs", photos, tiles, "--test_share", "1.5"], capsys, "1.5")
    fails(prepare.main, ["pairs", source / "absent.csv"], capsys, "absent.csv not found")
    for header, row, words in (
        ("drone,satellite,size", "a,b,c", "has the header 'drone,satellite,size' and 1 rows"),
        ("drone,satellite", "", "and 0 rows"),
        ("drone,satellite,latitude", "a,b,1", "one of latitude and longitude"),
        ("drone,satellite", "a", "line 2 is ['a']"),
        ("drone,satellite,latitude,longitude", "a,b,91,3", "line 2 has '91', expected a number"),
        ("drone,satellite,latitude,longitude", "a,b,1,", "has '', expected a number"),
    ):
        published_layouts.text(table, [header, row])
        fails(prepare.main, ["pairs", table], capsys, words)
    lines = ["drone,satellite,id", "", '"a.png",b.png,"of two', 'lines"', "c.png"]
    published_layouts.text(table, lines)
    fails(prepare.main, ["pairs", table], capsys, "line 5 is ['c.png']")
    rows = [f"photos/{n}/view.jpg,tiles/{n}.png" for n in range(3)]
    published_layouts.text(table, ["drone,satellite", *rows])
    fails(prepare.main, ["pairs", table], capsys, "found 3 buildings: four are needed")
    published_layouts.text(table, ["drone,satellite", *rows, "photos/9/view.jpg,tiles/4.png"])
    fails(prepare.main, ["pairs", table], capsys, "1 of 4 rows", "photos/9/view.jpg (line 5)",
          "--skip_missing")  # fmt: skip
    assert not (workdir / "data").exists()


def test_pairs_that_are_not_said_clearly(source, workdir, capsys):
    """A table without a header would lose its first pair; one folder is no pair of folders."""
    published_layouts.text(source / "pairs.csv", ["a/0.png,b/0.png", "a/1.png,b/1.png"])
    argv = ["pairs", source / "pairs.csv", "--views", "drone,satellite"]
    fails(prepare.main, argv, capsys, "begins with 'a/0.png,b/0.png'", "such as drone,satellite")
    fails(prepare.main, ["pairs", source], capsys, f"{source} is one folder: give a second one")


def test_pairs_that_are_completed_later_keep_their_names_and_halves(source, workdir):
    for number in range(8):
        published_layouts.picture(source / f"a/{number}.png")
        published_layouts.picture(source / f"b/{number}.png")
    rows = [f"a/{number}.png,b/{number}.png" for number in range(8)]
    published_layouts.text(source / "pairs.csv", ["drone,satellite", *rows])
    argv = ["pairs", source / "pairs.csv", "--out", "out", "--skip_missing"]
    (source / "a/2.png").rename(source / "hidden.png")
    prepare_data(*argv)
    first = made(workdir / "out")
    (source / "hidden.png").rename(source / "a/2.png")
    prepare_data(*argv)
    added = made(workdir / "out") - first
    assert first < made(workdir / "out") and {name.split("/")[2] for name in added} == {"0003"}


def test_sources_that_the_layout_cannot_hold(source, workdir, capsys):
    """Files that nothing reads as images, and names that are no text."""
    for view in ("drone", "satellite"):
        for number in range(4):
            published_layouts.picture(source / view / f"{number}.png")
    (source / "drone/0.png").rename(source / "drone/0.heic")
    rows = [f"drone/{n}.{'png' if n else 'heic'},satellite/{n}.png" for n in range(4)]
    published_layouts.text(source / "pairs.csv", ["drone,satellite", *rows])
    argv = ["pairs", source / "pairs.csv", "--out", "out"]
    fails(prepare.main, argv, capsys, "0.heic is not read as an image")
    published_layouts.text(source / "pairs.csv", ["drone,satellite", *rows[1:], '"' + 140000 * "a"])
    fails(prepare.main, argv, capsys, "pairs.csv line 5 is not CSV", "field larger than")
    folders = ["pairs", source / "drone", source / "satellite", "--test_share", "1"]
    (source / "drone/0.heic").unlink()
    for view in ("drone", "satellite"):
        strange = os.fsencode(source / view) + b"/\xff.png"
        os.rename(source / view / "3.png", strange)
    fails(
        prepare.main, [*folders, "--out", "out"], capsys, "\\xff.png has a name that is not UTF-8"
    )
    assert not (workdir / "out").exists()


def test_names_in_two_unicode_forms_are_one_building(source):
    """One folder from macOS, which writes accents apart, one from elsewhere."""
    for view, accent in (("drone", "e\u0301"), ("satellite", "\u00e9")):
        for number in range(4):
            published_layouts.picture(source / view / f"caf{accent} {number}.png")
    plan = plan_pairs([source / "drone", source / "satellite"])
    assert not plan.notes
    names = {entry.target.rsplit("/", 2)[1] for entry in plan.entries}
    assert names == {f"caf\u00e9 {number}" for number in range(4)}
