"""Each data set's metrics against cases worked by hand and plain loops; the command."""

import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import fails
from ranking_tasks import random_task, task, write

import evaluate_gpu
from evaluate_gpu import evaluate
from evaluation.feature_file import save_features
from evaluation.places import Coordinates, haversine
from evaluation.protocols import (
    answer_lines,
    evaluate_protocol,
    format_protocol,
    mean_over_heights,
    own_metrics,
    write_answer,
)
from evaluation.side_files import Matches

ROOT = Path(evaluate_gpu.__file__).parent


# ---------------------------------------------------------------- DenseUAV, GTA, CVACT
def test_denseuav_by_hand():
    """Two queries, three images: the first right, the second 0.0002 degrees north of its own."""
    query, gallery = task([[3, 2, 1], [2, 1, 3]], [0, 1])
    south, north = 30.0, 30.0 + 2.0**-12  # exact in float32
    places = {"0000": (south, 120.0), "0001": (south, 120.0), "0002": (north, 120.0)}
    metrics = evaluate_protocol(
        "denseuav", query, gallery, coordinates=Coordinates(places, False, "t")
    )
    far = math.exp(-5000 * 2.0**-12)  # also of the metres: along a meridian both scales agree
    sdm_3 = [(1 + 2 / 3 + far / 3) / 2, (far + 2 / 3 + 1 / 3) / 2]
    for name in ("SDM", "SDM_metres"):
        assert metrics[f"{name}@1"] == pytest.approx(100 * (1 + far) / 2)
        assert metrics[f"{name}@3"] == pytest.approx(100 * sum(sdm_3) / 2)
        assert f"{name}@5" not in metrics  # a gallery of three
    metres = 2.0**-12 * 111319.4908
    assert 20 < metres < 50
    shares = {m: metrics[f"MA@{m}"] for m in (3, 5, 10, 20, 50, 100)}
    assert shares == {3: 50, 5: 50, 10: 50, 20: 50, 50: 100, 100: 100}
    assert metrics["recall@1"] == 50 and metrics["AP"] == evaluate(query, gallery)["AP"]
    text = format_protocol(metrics).splitlines()
    assert text[1].startswith("Recall@1:50.00 Recall@5:100.00")
    assert text[2] == f"SDM@1:{50 * (1 + far):.2f} SDM@3:{50 * sum(sdm_3):.2f}"
    assert text[4].startswith("MA@3:50.00 MA@5:50.00")


def test_places_by_hand():
    """The first image of one query is right, that of the other 27.2 m off: a meridian's 2**-12."""
    query, gallery = task([[3, 2, 1], [2, 1, 3]], [0, 1])
    places = {"0000": (30.0, 120.0), "0001": (30.0, 120.0), "0002": (30.0 + 2.0**-12, 120.0)}
    metrics = evaluate_protocol(
        "places", query, gallery, coordinates=Coordinates(places, False, "t")
    )
    assert metrics["median_error"] == pytest.approx(2.0**-12 * 111319.4908 / 2)
    assert [metrics[f"within@{radius}"] for radius in (25, 50, 100)] == [50, 100, 100]
    assert format_protocol(metrics) == (
        "first image: median error 13.6 m, 50.00 % within 25 m, 100.00 % within 50 m, 100.00 % "
        "within 100 m"
    )


def random_places(query, gallery, planar, seed=0):
    """A place for every image, within some hundred metres."""
    generator = np.random.default_rng(seed)
    scale, origin = (500.0, (0, 0)) if planar else (0.004, (30.3, 120.4))
    names = [Path(path).name for path in (*query.paths, *gallery.paths)]
    places = {name: tuple(origin + scale * generator.random(2)) for name in names}
    return Coordinates(places, planar, "t")


def first_images(query, gallery):
    for row in range(len(query.labels)):
        order = np.argsort(gallery.features @ query.features[row])[::-1]
        yield row, [image for image in order if gallery.labels[image] != -1]


def test_denseuav_equals_the_published_loops():
    query, gallery = random_task(seed=3, levels=1000)
    table = random_places(query, gallery, planar=False)
    metrics = evaluate_protocol("denseuav", query, gallery, coordinates=table)
    sums = dict.fromkeys(("SDM@1", "SDM@10", "SDM_metres@10", "MA@100"), 0.0)
    for row, order in first_images(query, gallery):
        here = table.places[f"q{row}.jpg"]
        there = [table.places[f"g{image}.jpg"] for image in order]
        degrees = [
            math.hypot(
                *(float(np.float32(a)) - float(np.float32(b)) for a, b in zip(p, here, strict=True))
            )
            for p in there
        ]
        metres = [float(haversine(*here, *place)) for place in there]
        for name, distances, scale in (
            ("SDM@1", degrees, 5000),
            ("SDM@10", degrees, 5000),
            ("SDM_metres@10", metres, 5000 / 111319.490793),
        ):
            k = int(name.split("@")[1])
            weights = [1 - i / k for i in range(k)]
            terms = [w / math.exp(d * scale) for w, d in zip(weights, distances[:k], strict=True)]
            sums[name] += sum(terms) / sum(weights) / 40
        sums["MA@100"] += (metres[0] < 100) / 40
    assert 0 < sums["MA@100"] < 1
    for name, value in sums.items():
        assert metrics[name] == pytest.approx(100 * value, rel=1e-6)


def test_gta_by_hand():
    """Places on a line; by labels one positive each, by the table two, one and none."""
    query, gallery = task([[4, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]], [0, 1, 9])
    places = {"query_drone": (0, 0), **{f"g{j}.jpg": (100 * j, 0) for j in range(4)}}
    query = query._replace(paths=[f"query_drone/q{i}.jpg" for i in range(3)])
    table = Coordinates(places, True, "t")
    metrics = evaluate_protocol("gta", query, gallery, coordinates=table)
    assert metrics["recall@1"] == pytest.approx(100 / 3)
    assert metrics["recall@5"] == pytest.approx(200 / 3)
    assert metrics["AP_standard_matched"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert metrics["Dis@1"] == pytest.approx((0 + 0 + 300) / 3)
    assert metrics["Dis@3"] == pytest.approx((100 + 100 + 200) / 3)
    e = [math.exp(-0.1 * j) for j in range(4)]
    upper = (3 * e[0] + 2 * e[1] + e[2]) * 2 + 3 * e[3] + 2 * e[2] + e[1]
    assert metrics["SDM@3"] == pytest.approx(100 * upper / 6 / 3)
    assert "Dis@5" not in metrics and metrics["num_unmatched"] == 1
    positives = Matches({"q0.jpg": ["g1.jpg", "g3.jpg"], "q1.jpg": ["g0.jpg"]}, "t")
    given = evaluate_protocol("gta", query, gallery, coordinates=table, positives=positives)
    assert given["recall@1"] == pytest.approx(100 / 3)
    assert given["AP_standard_matched"] == pytest.approx(100 * ((1 / 2 + 2 / 4) / 2 + 1) / 2)
    assert given["recall@1_chance"] == pytest.approx(100 * 3 / 3 / 4)
    assert given["Dis@3"] == metrics["Dis@3"]
    strangers = query._replace(labels=query.labels + 50)
    nobody = evaluate_protocol("gta", strangers, gallery, coordinates=table)
    assert (nobody["AP_standard_matched"], nobody["num_unmatched"]) == (0, 3)
    lines = format_protocol(metrics).splitlines()
    assert lines[1].startswith("Recall@1:33.33 Recall@5:66.67 ") and "chance" not in lines[1]
    assert lines[-1] == "Dis@1:100.00 m Dis@3:133.33 m"


@pytest.mark.parametrize("planar", [True, False])
def test_gta_equals_the_plain_loop(planar):
    query, gallery = random_task(seed=4, levels=1000)
    table = random_places(query, gallery, planar)
    metrics = evaluate_protocol("gta", query, gallery, coordinates=table)
    dis, decay, precision, found = [], [], [], 0
    for row, order in first_images(query, gallery):
        here = table.places[f"q{row}.jpg"]
        there = [table.places[f"g{image}.jpg"] for image in order[:5]]
        metres = [math.dist(here, p) if planar else float(haversine(*here, *p)) for p in there]
        dis.append(sum(metres) / 5)
        decay.append(sum((5 - i) / math.exp(0.001 * d) for i, d in enumerate(metres)) / 15)
        ranks = [n for n, j in enumerate(order, 1) if gallery.labels[j] == query.labels[row]]
        precision += [1 / rank for rank in ranks]
        found += any(rank <= 10 for rank in ranks)
    assert metrics["Dis@5"] == pytest.approx(np.mean(dis))
    assert metrics["SDM@5"] == pytest.approx(100 * np.mean(decay))
    assert metrics["AP_standard_matched"] == pytest.approx(100 * np.mean(precision))
    assert len(precision) < 40 and metrics["recall@10"] == pytest.approx(100 * found / 40)


def test_cvact_within_five_metres():
    """The true image is second, the first lies 5 metres away: found within 5 m, not by name."""
    query, gallery = task([[1, 2, 0], [0, 1, 2]], [0, 1])
    places = {"0000": (0, 0), "0001": (3, 4), "0002": (3, 9.5)}
    metrics = evaluate_protocol("cvact", query, gallery, coordinates=Coordinates(places, True, "t"))
    assert (metrics["recall@1"], metrics["recall@1_5m"]) == (0, 50)
    assert "recall@5_5m" not in metrics  # a gallery of three
    assert "Recall@1_5m:50.00" in format_protocol(metrics)
    assert "recall@1_5m" not in evaluate_protocol("cvact", query, gallery)


# ---------------------------------------------------------------- SUES-200
def test_sues200_by_height():
    tasks = {height: random_task(seed=height, levels=500) for height in (150, 200)}
    heights = {height: evaluate(*sides) for height, sides in tasks.items()}
    for height, sides in tasks.items():
        assert evaluate_protocol("sues200", *sides) == {"dataset": "sues200", **heights[height]}
    table = mean_over_heights(heights)
    assert table["heights"] == heights
    assert heights[150]["AP"] != heights[200]["AP"]
    for name in ("recall@1", "recall@top1", "AP", "AP_standard"):
        assert table["mean"][name] == pytest.approx((heights[150][name] + heights[200][name]) / 2)
    assert "num_queries" not in table["mean"]
    lines = format_protocol(table).splitlines()
    assert lines[1].startswith(f"150 m: Recall@1:{heights[150]['recall@1']:.2f} ")
    assert lines[3].startswith("mean: Recall@1:")
    with pytest.raises(ValueError, match="no heights"):
        mean_over_heights({})


# ---------------------------------------------------------------- University-160k
def test_answer_by_hand():
    """Image j scores j for query 0 and -j for query 1; the list turns the queries round."""
    query, gallery = task([np.arange(12), -np.arange(12)])
    lines = answer_lines(query, gallery, ["q1.jpg", "q0.jpg"])
    assert lines == [
        "g0\tg1\tg2\tg3\tg4\tg5\tg6\tg7\tg8\tg9",
        "g11\tg10\tg9\tg8\tg7\tg6\tg5\tg4\tg3\tg2",
    ]
    assert answer_lines(query, gallery, ["q0.jpg"]) == lines[1:]
    gallery.labels[:] = -1  # labels play no part
    assert answer_lines(query, gallery, ["q1.jpg"]) == lines[:1]
    metrics = evaluate_protocol("university160k", query, gallery, query_list=["q1.jpg"])
    assert metrics["answer"] == lines[:1] and metrics["num_queries"] == 1
    assert "1 queries, 12 gallery images" in format_protocol(metrics)


def test_answer_follows_the_published_order_of_ties():
    query, gallery = task(np.random.default_rng(0).integers(0, 5, (3, 4000)))
    lines = answer_lines(query, gallery, ["q2.jpg", "q0.jpg"])
    for line, row in zip(lines, (2, 0), strict=True):
        order = np.argsort(gallery.features @ query.features[row])[::-1][:10]
        assert line == "\t".join(f"g{image}" for image in order)


def test_answer_is_written_as_text_and_zipped(tmp_path):
    lines = ["\t".join(f"{row}_{place}" for place in range(10)) for row in range(3)]
    text, packed = write_answer(tmp_path / "new" / "mine.txt", lines)
    assert (text, packed) == (tmp_path / "new/mine.txt", tmp_path / "new/mine.zip")
    assert text.read_text() == "\n".join(lines) + "\n"
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == ["answer.txt"]
        assert archive.read("answer.txt").decode() == text.read_text()
        assert archive.infolist()[0].external_attr >> 16 == 0o644
    before = packed.read_bytes()
    write_answer(text, lines)
    assert packed.read_bytes() == before
    assert sorted(path.name for path in text.parent.iterdir()) == ["mine.txt", "mine.zip"]


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda q, g: (q, g, ["q0.jpg", "q7.jpg"]), "names 1 images .* first q7.jpg"),
        (lambda q, g: (q, g, ["0001"]), "not among the 2 .* first 0001"),
        (
            lambda q, g: (q, g._replace(paths=["a/x.jpg"] * 12), ["q0.jpg"]),
            "12 gallery .* called x",
        ),
        (lambda q, g: (q, g._replace(paths=[""] * 12), ["q0.jpg"]), "holds no image paths"),
        (lambda q, g: (*task(np.ones((2, 9))), ["q0.jpg"]), "gallery of 9 images"),
    ],
)
def test_answers_that_cannot_be(change, expected):
    with pytest.raises(ValueError, match=expected):
        answer_lines(*change(*task(np.ones((2, 12)))))


@pytest.mark.parametrize(
    "name, lines, expected",
    [
        ("a.zip", ["\t" * 9], "must end in .txt"),
        ("a.txt", [], "0 lines"),
        ("a.txt", ["\t" * 9, "a\tb"], r"1 of them without 10 names \(first line 2\)"),
    ],
)
def test_answers_that_are_not_written(tmp_path, name, lines, expected):
    with pytest.raises(ValueError, match=expected):
        write_answer(tmp_path / name, lines)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the door
def test_protocols_and_their_side_files():
    query, gallery = task(np.ones((2, 12)))
    with pytest.raises(ValueError, match="no protocol 'cvusb': there are cvusa, cvact, vigor"):
        evaluate_protocol("cvusb", query, gallery)
    with pytest.raises(ValueError, match="denseuav needs --coordinates FILE"):
        evaluate_protocol("denseuav", query, gallery, coordinates=None)
    with pytest.raises(ValueError, match="cvusa does not use --positives"):
        evaluate_protocol("cvusa", query, gallery, positives="x.csv")
    with pytest.raises(ValueError, match="query features hold NaN"):
        evaluate_protocol("cvusa", query._replace(features=query.features * np.nan), gallery)
    assert evaluate_protocol("cvact", query, gallery, coordinates=None)["dataset"] == "cvact"


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A folder with a feature file and its side files: query i finds image i first."""
    monkeypatch.chdir(tmp_path)
    query, gallery = task(np.eye(3, 12) - 0.01 * np.arange(12))
    save_features(tmp_path / "r.npz", query, gallery)
    table = [f"{label:04d},30,{120 + 0.001 * label}" for label in range(12)]
    write(tmp_path / "c.csv", "\n".join(["building,latitude,longitude", *table]))
    write(tmp_path / "s.csv", "query,gallery\nq0.jpg,0003\n")
    write(tmp_path / "n.txt", "q2.jpg\nq0.jpg\n")
    return tmp_path


@pytest.mark.parametrize(
    "argv, lines",
    [
        (["cvusa"], ["Recall@1:100.00", "Recall@1% of 12: first 0 (recall@1%_floor"]),
        (["cvact", "--coordinates", "c.csv"], ["Recall@1_5m:100.00 Recall@5_5m:100.00"]),
        (["vigor", "--semi_positives", "s.csv"], ["Hit rate:100.00", "2 of 3 queries have no"]),
        (["denseuav", "--coordinates", "c.csv"], ["SDM@1:100.00", "MA@3:100.00"]),
        (["gta", "--coordinates", "c.csv"], ["AP_standard_matched:100.00", "Dis@1:0.00 m"]),
        (["university160k", "--query_list", "n.txt"], ["written: answer.txt and answer.zip"]),
    ],
    ids=lambda value: value[0],
)
def test_command(scored, capsys, argv, lines):
    protocol, *options = argv
    metrics = evaluate_gpu.main(["r.npz", "--protocol", protocol, *options, "--json", "out.json"])
    out = capsys.readouterr().out
    assert out.startswith(f"as published for {protocol}:\n")
    for line in lines:
        assert line in out
    assert json.loads((scored / "out.json").read_text()) == metrics
    assert metrics["dataset"] == protocol and metrics["num_gallery"] == 12
    if protocol == "university160k":
        assert "answer" not in metrics
        assert [line[:2] for line in (scored / "answer.txt").read_text().splitlines()] == [
            "g2",
            "g0",
        ]
    evaluate_gpu.main(["r.npz", "--protocol", protocol, *options, "--json", "-"])
    assert json.loads(capsys.readouterr().out) == metrics


def test_command_of_several_heights(scored, capsys):
    other = task(np.ones((3, 12)) - np.eye(3, 12), gallery_labels=np.arange(12))
    save_features(scored / "low.npz", *other)
    metrics = evaluate_gpu.main(
        ["low.npz", "r.npz", "--protocol", "sues200", "--heights", "150", "300"]
    )
    out = capsys.readouterr()
    assert list(metrics["heights"]) == ["150", "300"]
    assert metrics["heights"]["300"]["recall@1"] == 100
    assert metrics["mean"]["recall@1"] == (metrics["heights"]["150"]["recall@1"] + 100) / 2
    assert "300 m: Recall@1:100.00" in out.out and "mean: Recall@1:" in out.out
    assert "warning: 150 m: 12 of 12 gallery features are not of norm 1" in out.err


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--protocol vigor", "r.npz"], "vigor needs --semi_positives"),
        (
            ["--protocol cvusa", "r.npz", "--coordinates", "c.csv"],
            "cvusa does not use --coordinates",
        ),
        (["--protocol cvusa", "r.npz", "r.npz"], "2 files: the protocol cvusa takes one"),
        (
            ["--protocol sues200", "r.npz", "r.npz", "--heights", "150", "150"],
            "name each height once",
        ),
        (["--protocol sues200", "r.npz"], "1 file(s) for the heights 150 200 250 300"),
        (
            ["--protocol university160k", "r.npz", "--query_list", "n.txt", "--answer", "a.zip"],
            ".txt",
        ),
        (["--protocol cvusa", "none.npz"], "none.npz not found"),
        (["--protocol gta", "r.npz", "--coordinates", "none.csv"], "none.csv not found"),
        (["--protocol nowhere", "r.npz"], "invalid choice"),
        (["", "r.npz", "--coordinates", "c.csv"], "without --protocol cvact or denseuav or gta"),
        (["", "r.npz", "--query_list", "n.txt"], "without --protocol university160k"),
        (["--protocol cvusa", "r.npz", "--answer", "a.txt"], "cvusa does not use --answer"),
        (["", "r.npz", "--heights", "150"], "no effect without --protocol sues200"),
        (["", "r.npz", "r.npz"], "2 files: name one"),
        (["--protocol cvusa", "r.npz", "--device", "cuda"], "--protocol computes on the CPU"),
    ],
)
def test_mistakes_are_one_line(scored, capsys, argv, expected):
    protocol, *rest = argv
    fails(evaluate_gpu.main, [*rest, *protocol.split()], capsys, expected)
    assert not list(scored.glob("answer*"))


def test_command_imports_nothing_heavy():
    code = (
        "import sys, evaluate_gpu\ntry: evaluate_gpu.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'torchvision', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_ranking_options_and_protocols_together(scored, capsys):
    """Two images of a building are one query of its mean; what is not plain is said first."""
    metrics = evaluate_gpu.main(["r.npz", "--protocol", "cvusa", "--multi"])
    notes = ["3 queries of several images, 3 in all"]
    assert metrics["protocol"] == notes and metrics["recall@1"] == 100
    assert capsys.readouterr().out.splitlines()[:2] == [*notes, "as published for cvusa:"]


# ---------------------------------------------------------------- by the data folder alone
def prepared(folder, command, **side_files):
    """A data folder as prepare.py leaves it; side files by name without suffix."""
    (folder / "test").mkdir()
    if command:
        write(folder / "prepare.yaml", f"command: {command}\nsource: [/data]\n")
    for name, text in side_files.items():
        write(folder / f"{name}.csv", text)
    return folder


STREET, DRONE = ("street", "satellite"), ("drone", "satellite")
DEGREES = "building,latitude,longitude\n" + "".join(f"{n:04d},30,{120 + n}\n" for n in range(12))
METRES = "building,easting,northing\n" + "".join(f"{n:04d},{9 * n},5\n" for n in range(12))
SEMI = "panorama,latitude,longitude,positive,semi_1\nq0.jpg,1,2,0000,0003\n"


@pytest.mark.parametrize(
    ("command", "views", "files", "protocol", "option"),
    [
        ("cvusa", STREET, {"coordinates": DEGREES}, "cvusa", None),
        ("cvact", STREET, {"utm": METRES}, "cvact", "coordinates"),
        ("cvact", STREET, {}, "cvact", None),
        ("vigor", STREET, {"semi_positives": SEMI, "coordinates": DEGREES}, "vigor",
         "semi_positives"),
        (None, STREET, {"semi_positives": SEMI}, "vigor", "semi_positives"),
        ("denseuav", DRONE, {"coordinates": DEGREES}, "denseuav", "coordinates"),
        ("pairs\nmaps: [a.tif]", DRONE, {"coordinates": DEGREES}, "places", "coordinates"),
    ],
)  # fmt: skip
def test_own_metrics_of_a_prepared_folder(tmp_path, command, views, files, protocol, option):
    query, gallery = random_task(num_query=9, num_gallery=12, levels=60, labels=12)
    query, gallery = query._replace(labels=np.arange(9)), gallery._replace(labels=np.arange(12))
    query, gallery = (
        side._replace(paths=[f"test/v/{n:04d}/{letter}{n}.jpg" for n in side.labels])
        for side, letter in ((query, "q"), (gallery, "g"))
    )
    folder = prepared(tmp_path, command, **files)
    given = {option: folder / f"{next(iter(files))}.csv"} if option else {}
    expected = evaluate_protocol(protocol, query, gallery, **given)
    for path in (folder, folder / "test"):
        found = own_metrics(path, views, query, gallery)
        assert found == (expected, format_protocol(expected), [])
    assert ("recall@1_5m" in expected) == ("utm" in files)
    assert own_metrics(folder, ("satellite", "drone"), query, gallery) == ({}, "", [])


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (None, {"coordinates": DEGREES}),  # the toy campus
        ("pairs", {"coordinates": DEGREES}),
        ("limit-views", {"coordinates": DEGREES}),
        ("university160k", {}),
        ("denseuav", {}),  # its release had no coordinates
        ("vigor", {}),
    ],
)
def test_other_data_folders_have_no_metrics_of_their_own(tmp_path, command, files):
    query, gallery = task(np.eye(2, 12))
    folder = prepared(tmp_path, command, **files)
    for views in (STREET, DRONE):
        assert own_metrics(folder, views, query, gallery) == ({}, "", [])


@pytest.mark.parametrize(
    ("command", "files", "words"),
    [
        ("vigor", {"semi_positives": "query,gallery\nx.jpg,y.jpg\n"}, "no line for any of the 2"),
        ("cvact", {"utm": "building,easting\n"}, "has the columns building, easting"),
        ("[", {}, "is not YAML"),
    ],
)
def test_side_files_that_do_not_fit_are_a_warning(tmp_path, command, files, words):
    folder = prepared(tmp_path, command, **files)
    metrics, text, [warning] = own_metrics(folder, STREET, *task(np.eye(2, 12)))
    assert (metrics, text) == ({}, "")
    assert warning.startswith("no metrics as published for this data set: ") and words in warning
    assert "\n" not in warning
