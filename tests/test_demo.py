"""The picture of what was retrieved: which queries, which paths, which frame round which image."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import fails
from PIL import Image

import demo
import evaluate_gpu
from evaluation.feature_file import Features, load_features, save_features
from evaluation.ranking import rank_gallery

RED, GREEN, BLUE = (215, 25, 28), (26, 150, 65), (31, 59, 115)

# Angles on a circle, in degrees: a query retrieves the gallery images nearest to its own angle.
QUERY_ANGLES = {3: 0, 4: 40, 5: 62, 6: 100}  # label: angle; nobody in the gallery is a 6
GALLERY_ANGLES = [(3, 1), (5, 10), (4, 30), (4, 47), (3, 61), (5, 90)]  # (label, angle)


def on_circle(root, view, labels, angles):
    """Features at the given angles, and an image file for each."""
    radians = np.deg2rad(np.array(angles, dtype=np.float64))
    paths = []
    for place, (label, angle) in enumerate(zip(labels, angles, strict=True)):
        path = root / view / f"{label:04d}" / f"image {place}.{'jpeg' if place % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40 + place), (2 * angle, 128, 200)).save(path)
        paths.append(str(path))
    features = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    return Features(features, np.array(labels, dtype=np.int64), paths)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with images below test/ and the feature file of four queries."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "test"
    query = on_circle(root, "query_drone", list(QUERY_ANGLES), list(QUERY_ANGLES.values()))
    gallery = on_circle(root, "gallery_satellite", *zip(*GALLERY_ANGLES, strict=True))
    save_features("pytorch_result.mat", query, gallery)
    return tmp_path


def frame_colours(path, line=0, columns=11):
    """Colour at the middle of the upper edge of each cell of one line; None where it is blank."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    y = round(demo.DPI * (demo.MARGIN + line * (demo.CELL + demo.CAPTION)))
    colours = []
    for cell in range(columns):
        step = demo.QUERY_GAP + (cell - 1) * demo.GAP if cell else 0
        x = round(demo.DPI * (demo.MARGIN + (cell + 0.5) * demo.CELL + step))
        inside = x < picture.shape[1]
        colour = tuple(picture[y, x].tolist()) if inside else (255, 255, 255)
        colours.append(None if colour == (255, 255, 255) else colour)
    return colours


def test_one_query(work, capsys):
    result = demo.main(["--query_index", "1"])
    [shown] = result["queries"]
    # From 40 degrees: 47 (label 4), 30 (4), 61 (3), 10 (5), 1 (3), 90 (5).
    assert [image["label"] for image in shown["retrieved"]] == [4, 4, 3, 5, 3, 5]
    assert [image["correct"] for image in shown["retrieved"]] == [True, True] + 4 * [False]
    expected = np.cos(np.deg2rad([7, 10, 21, 30, 39, 50]))
    assert [image["score"] for image in shown["retrieved"]] == pytest.approx(expected, abs=1e-6)
    assert shown["index"] == 1 and shown["label"] == 4 and shown["first_match"] == 1
    assert result["output"] == "show.png"
    assert frame_colours("show.png") == [BLUE, GREEN, GREEN] + 4 * [RED] + 4 * [None]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("label 4, first match: rank 1") and "image 1.jpeg" in lines[0]
    assert [line.split()[:4] for line in lines[1:3]] == [
        ["1", "right", "label", "4"],
        ["2", "right", "label", "4"],
    ]
    assert "image 3.jpeg" in lines[1] and "image 2.png" in lines[2]
    assert lines[-1] == "picture: show.png"


def test_several_queries_are_rows(work):
    result = demo.main(["--query_index", "2", "0", "3", "--top", "3", "--output", "rows.png"])
    assert [shown["label"] for shown in result["queries"]] == [5, 3, 6]
    width = 2 * demo.MARGIN + 4 * demo.CELL + demo.QUERY_GAP + 2 * demo.GAP
    height = 2 * demo.MARGIN + 3 * (demo.CELL + demo.CAPTION)
    assert Image.open("rows.png").size == pytest.approx(
        (width * demo.DPI, height * demo.DPI), abs=1.01
    )
    # From 62 degrees: 61 (label 3), 47 (4), 90 (5); from 0: 1 (3), 10 (5), 30 (4).
    assert frame_colours("rows.png", 0, 4) == [BLUE, RED, RED, GREEN]
    assert frame_colours("rows.png", 1, 4) == [BLUE, GREEN, RED, RED]
    assert frame_colours("rows.png", 2, 4) == [BLUE, RED, RED, RED]


def test_long_ranking_goes_on_below(work):
    query, gallery = load_features("pytorch_result.mat")
    twice = Features(*(np.repeat(values, 2, axis=0) for values in gallery[:2]), gallery.paths * 2)
    save_features("pytorch_result.mat", query, twice)
    [shown] = demo.main(["--query_index", "1", "--top", "12"])["queries"]
    assert [image["label"] for image in shown["retrieved"]] == [4, 4, 4, 4, 3, 3, 5, 5, 3, 3, 5, 5]
    assert frame_colours("show.png", 0) == [BLUE] + 4 * [GREEN] + 6 * [RED]
    assert frame_colours("show.png", 1) == [None, RED, RED] + 8 * [None]


def test_ranking_is_that_of_the_evaluation(work):
    query, gallery = load_features("pytorch_result.mat")
    for shown in demo.main(["--query_index", "0", "1", "2", "3"])["queries"]:
        order, scores = rank_gallery(query, gallery, shown["index"])
        assert [image["path"] for image in shown["retrieved"]] == [gallery.paths[i] for i in order]
        assert [image["score"] for image in shown["retrieved"]] == scores.tolist()


def test_query_without_match_is_noted(work, capsys):
    [shown] = demo.main(["--query_index", "3"])["queries"]
    assert shown["first_match"] is None
    assert not any(image["correct"] for image in shown["retrieved"])
    assert capsys.readouterr().out.splitlines()[0].endswith("label 6, no true match")


def test_mistakes_are_the_worst_ranked_first(work):
    # First true matches: query 0 at rank 1, query 1 at 1, query 2 at 3; query 3 has none.
    worst = demo.main(["--mistakes"])["queries"]
    assert [(shown["index"], shown["first_match"]) for shown in worst] == [(2, 3), (0, 1), (1, 1)]
    assert [shown["index"] for shown in demo.main(["--mistakes", "1"])["queries"]] == [2]


def test_an_older_file_than_the_last_test_s_is_not_shown_silently(work, capsys):
    task = "pytorch_result_drone_satellite.mat"
    save_features(task, *load_features("pytorch_result.mat"))
    os.utime("pytorch_result.mat", (1, 1))
    warning = f"warning: pytorch_result.mat is older than {task}, which a later test wrote"
    for door in (demo, evaluate_gpu):
        door.main([])
        assert warning in capsys.readouterr().err
    os.utime(task, (0, 0))
    demo.main([])
    demo.main(["--features", task])
    assert not capsys.readouterr().err
    Path("pytorch_result.mat").unlink()
    fails(demo.main, [], capsys, f"or name another one ({task})")


def test_mistakes_are_of_different_buildings(work):
    """Twelve frames of one building are ranked worst, and all look alike."""
    query, gallery = load_features("pytorch_result.mat")
    frames = [2] * 12 + [0, 1]
    many = Features(query.features[frames], query.labels[frames], [query.paths[i] for i in frames])
    save_features("many.npz", many, gallery)
    shown = demo.main(["--mistakes", "3", "--features", "many.npz"])["queries"]
    assert [each["label"] for each in shown] == [5, 3, 4]
    assert [each["first_match"] for each in shown] == [3, 1, 1]


def test_mistakes_without_any_match_is_an_error(work, capsys):
    query, gallery = load_features("pytorch_result.mat")
    save_features("none.npz", query, gallery._replace(labels=gallery.labels + 50))
    assert exit_code(["--mistakes", "--features", "none.npz"]) == 2
    assert "no query has a true match" in capsys.readouterr().err
    assert not Path("show.png").exists()


def test_random_is_seeded_and_draws_each_query_once(work):
    query, gallery = load_features("pytorch_result.mat")

    def drawn(*arguments):
        return demo.choose_queries(demo.parse_args(["--random", *arguments]), query, gallery)

    assert drawn("2", "--seed", "5") == drawn("2", "--seed", "5")
    assert sorted(drawn("9")) == [0, 1, 2, 3]
    assert len({tuple(drawn("4", "--seed", str(seed))) for seed in range(6)}) > 1
    shown = demo.main(["--random", "2", "--seed", "5", "--top", "1"])["queries"]
    assert [each["index"] for each in shown] == drawn("2", "--seed", "5")


def exit_code(arguments):
    with pytest.raises(SystemExit) as caught:
        demo.main(arguments)
    return caught.value.code


def test_index_out_of_range_says_the_range(work, capsys):
    assert exit_code(["--query_index", "1", "4"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("demo.py: error: --query_index 4 is out of range: ")
    assert line.endswith("holds 4 queries, 0 to 3")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--query_index", "0", "--random", "1"], "not allowed with argument --query_index"),
        (["--random", "1", "--mistakes"], "not allowed with argument --random"),
        (["--query_index", "-1"], "too small"),
        (["--top", "0"], "too small"),
        (["--query", "0"], "unrecognized arguments: --query 0"),
    ],
)
def test_refused_arguments(work, capsys, arguments, words):
    assert exit_code(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("test_dir", ["moved", "moved/test"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_moved_images_are_found_below_test_dir(work, test_dir, separator):
    query, gallery = load_features("pytorch_result.mat")
    gone = [path.replace(str(work), "C:").replace("/", separator) for path in query.paths]
    save_features("pytorch_result.mat", query._replace(paths=gone), gallery)
    Path("moved").mkdir()
    Path("test").rename("moved/test")
    found = demo.find_image(gone[0], test_dir)
    assert found == Path("moved/test/query_drone/0003/image 0.png")
    [shown] = demo.main(["--test_dir", test_dir])["queries"]
    assert shown["path"] == gone[0] and frame_colours("show.png")[:2] == [BLUE, GREEN]


def test_missing_image_is_one_line_and_leaves_the_old_picture(work, capsys):
    Path("show.png").write_bytes(b"old")
    lost = load_features("pytorch_result.mat")[1].paths[5]
    Path(lost).unlink()
    assert exit_code([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        f"demo.py: error: {lost} not found: name the folder that holds the views with "
        f"--test_dir DIR"
    )
    assert exit_code(["--test_dir", "nowhere"]) == 2
    assert capsys.readouterr().err.strip().endswith("not found: also not below --test_dir nowhere")
    assert Path("show.png").read_bytes() == b"old"
    demo.main(["--top", "5"])  # the lost one is sixth
    assert Image.open("show.png").size[0] > 100


def test_damaged_image_and_absent_paths(work, capsys):
    query, gallery = load_features("pytorch_result.mat")
    Path(gallery.paths[0]).write_bytes(b"no image")
    assert exit_code([]) == 2
    assert "image 0.png cannot be read as an image" in capsys.readouterr().err
    save_features("pytorch_result.mat", query._replace(paths=[""] * 4), gallery)
    assert exit_code([]) == 2
    assert "holds no image paths" in capsys.readouterr().err


def test_too_tall_a_picture_is_refused(work, monkeypatch):
    monkeypatch.setattr(demo, "MAX_LINES", 2)
    results = [{"retrieved": [{}]}] * 3
    with pytest.raises(ValueError, match="3 lines of images is too tall, at most 2"):
        demo.draw(results)


@pytest.mark.parametrize(
    "name, start", [("a.jpg", b"\xff\xd8"), ("a.pdf", b"%PDF"), ("a", b"\x89P")]
)
def test_output_formats(work, name, start):
    demo.main(["--top", "1", "--output", name])
    assert Path(name).read_bytes().startswith(start)


def test_published_defect_30_new_folders_odd_names_no_screen(work):
    """Published defect 30: mkdir without the parent, shell `cp` of unquoted names, a GUI pause."""
    before = {path for path in work.rglob("*") if path.is_file()}
    result = demo.main(["--query_index", "0", "--output", "image_show/00/a b.png"])
    after = {path for path in work.rglob("*") if path.is_file()}
    assert after - before == {work / "image_show/00/a b.png"}
    assert all("image " in image["path"] for image in result["queries"][0]["retrieved"])


def test_window_only_before_a_screen(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    assert demo.wants_window(no_window=False) is True
    assert demo.wants_window(no_window=True) is False
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert demo.wants_window(no_window=False) is False
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert demo.wants_window(no_window=False) is True
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert demo.wants_window(no_window=False) is False


@pytest.mark.parametrize("framework, shows", [("qt", 1), (None, 0)])
def test_window_opens_only_with_an_interactive_backend(work, monkeypatch, framework, shows):
    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    calls = []
    pyplot.switch_backend("agg")
    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", framework)
    monkeypatch.setattr(pyplot, "show", lambda: calls.append("shown"))
    monkeypatch.setattr(demo, "wants_window", lambda no_window: True)
    demo.main(["--top", "2"])
    assert len(calls) == shows
    assert frame_colours("show.png", 0, 3) == [BLUE, GREEN, RED]
    pyplot.close("all")


def test_import_is_light():
    code = (
        "import sys, demo; print([m for m in ('matplotlib', 'PIL', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(demo.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
