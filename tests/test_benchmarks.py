"""The measured comparisons run and measure what they say."""

import importlib.util
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW, fails, narrow_resnet
from PIL import Image

import losses
import test as testing
import train
import utils
import zero_shot
from evaluation.feature_file import Features, save_features
from training import build

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load_benchmark(name):
    """benchmarks/<name>.py as a module: by its path, since the root has modules of equal names."""
    full_name = f"benchmarks_{name}"
    if full_name not in sys.modules:
        if str(BENCHMARKS) not in sys.path:
            sys.path.append(str(BENCHMARKS))  # for `import measure`; after the root
        spec = importlib.util.spec_from_file_location(full_name, BENCHMARKS / f"{name}.py")
        sys.modules[full_name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full_name])
    return sys.modules[full_name]


measure = load_benchmark("measure")
toy_difficulty = load_benchmark("toy_difficulty")
words = load_benchmark("words")


# ---------------------------------------------------------------- measure.py
def test_interleave_runs_all_ways_in_each_round_and_turns_the_order():
    order = []
    ways = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = measure.interleave(ways, rounds=3)
    assert "".join(order) == "abccbaabc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    slow = measure.interleave({"sleep": lambda: time.sleep(0.02)}, rounds=1)
    assert slow["sleep"][0] >= 0.02


def test_ratio_of_medians_and_of_pairs():
    found = measure.ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert found == (2.0, 2.0, 3.0)
    assert str(found) == "2.00 (2.00 to 3.00)"


def test_run_process_measures_the_child_and_not_this_process():
    code = "import os; a = bytearray({}); a[::4096] = b'x' * len(a[::4096]); print(os.environ['E'])"
    ballast = np.ones(2**25)  # 256 MiB here must not count as the child's
    _, small, out = measure.run_process([sys.executable, "-c", code.format(2**20)], {"E": "set"})
    _, large, _ = measure.run_process([sys.executable, "-c", code.format(2**27)], {"E": "set"})
    assert out == "set\n" and ballast[0] == 1
    assert small < 100 and 100 < large - small < 160  # 127 MiB more


def test_run_process_raises_with_what_the_child_said():
    with pytest.raises(RuntimeError, match="ended with 3:\nno such luck"):
        code = "import sys; print('no such luck', file=sys.stderr); sys.exit(3)"
        measure.run_process([sys.executable, "-c", code])
    with pytest.raises(RuntimeError, match="absent-command"):
        measure.run_process(["absent-command"])


def test_tables_are_aligned_markdown(capsys):
    measure.print_table([["a", 1.23456, 5], ["long name", 1234.5, 60]], ["way", "seconds", "n"])
    assert capsys.readouterr().out.splitlines() == [
        "| way       | seconds |   n |",
        "| --------- | ------: | --: |",
        "| a         |    1.23 |   5 |",
        "| long name |    1234 |  60 |",
    ]


def test_json_names_the_hardware(tmp_path):
    measure.write_json(None, {"a": 1})
    measure.write_json(tmp_path / "sub/f.json", {"a": measure.Ratio(1.0, 0.5, 2.0)})
    written = json.loads((tmp_path / "sub/f.json").read_text())
    assert written["a"] == [1.0, 0.5, 2.0]
    assert written["hardware"]["numpy"] == np.__version__
    assert written["hardware"]["cores"] >= 1 and written["hardware"]["cpu"]


# ---------------------------------------------------------------- evaluate.py and scaling.py
def test_evaluate_compares_equal_lines(tmp_path, capsys):
    evaluate = load_benchmark("evaluate")
    options = ["--quick", "--rounds", "1", "--json", str(tmp_path / "e.json")]
    results = evaluate.main(options)
    written = json.loads((tmp_path / "e.json").read_text())
    out = capsys.readouterr().out
    assert list(results) == ["satellite->drone", "drone->satellite"]
    for task, found in results.items():
        assert found["line"].startswith("Recall@1:") and found["line"] in out
        assert set(found["command"]) == {
            "published loop, .mat", "evaluate_gpu.py, .mat", "evaluate_gpu.py, .npz"
        }  # fmt: skip
        assert set(found["ranking"]) == {"published loop", "evaluate", "matrix product alone"}
        assert found["ranking"]["matrix product alone"]["of_product"].ratio == 1
        assert all(row["peak_mib"] > 10 for row in found["command"].values())
        assert written[task]["line"] == found["line"]


def test_evaluate_has_the_label_structure_of_the_published_test_set():
    evaluate = load_benchmark("evaluate")
    tasks = evaluate.make_tasks((7, 2, 54))
    assert evaluate.FULL == (701, 250, 54)
    query, gallery = tasks["satellite->drone"]
    assert len(query.labels) == 7 and len(gallery.labels) == 9 * 54 + 1
    query, gallery = tasks["drone->satellite"]
    assert len(query.labels) == 7 * 54 + 1 and len(gallery.labels) == 9
    assert query.features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(query.features, axis=1), 1, atol=1e-5)


def test_published_loop_by_hand():
    """Positives at 2 and 4 of the ranking, which has an image of junk at its third place."""
    evaluate = load_benchmark("evaluate")
    gallery = np.linspace(0.9, 0.1, 12, dtype=np.float32)[:, np.newaxis]
    labels = np.array([7, 1, -1, 7, 1, *[7] * 7])
    line = evaluate.published_loop(np.ones((2, 1), np.float32), np.array([1, 99]), gallery, labels)
    ap = 100 * (1 / 4 + (1 / 3 + 2 / 4) / 2) / 2 / 2
    expected = f"Recall@1:0.00 Recall@5:50.00 Recall@10:50.00 Recall@top1:0.00 AP:{ap:.2f}"
    assert line == expected


def test_different_lines_are_refused():
    with pytest.raises(AssertionError, match="the printed lines differ"):
        load_benchmark("evaluate")._check_equal({"a": "AP:1.00", "b": "AP:1.01"})


def test_scaling_measures_every_point(tmp_path, capsys):
    scaling = load_benchmark("scaling")
    results = scaling.main(["--quick", "--rounds", "1", "--json", str(tmp_path / "s.json")])
    assert {name: len(points) for name, points in results.items()} == {
        "gallery": 2, "queries": 2, "width": 2
    }  # fmt: skip
    for name, points in results.items():
        assert points[0]["growth"] == 1 and points[1]["growth"] > 0
        assert points[1][name] > points[0][name]
        for point in points:
            assert point["checked"] == 20 * scaling.IMAGES
            assert point["certain"] > 0.95 * point["checked"]
    assert json.loads((tmp_path / "s.json").read_text())["gallery"][1]["gallery"] == 2000
    assert capsys.readouterr().out.count("| ------: |") >= 3


def test_scaling_finds_wrong_ranks(tmp_path, monkeypatch):
    scaling = load_benchmark("scaling")
    scaling.write_features(tmp_path / "f.npz", 20, 500, 16)
    query, gallery = scaling.load_features(tmp_path / "f.npz")
    tiles = [slice(0, 300), slice(300, 500)]
    assert scaling.check_ranks(query, gallery, tiles, "cpu")["checked"] == 1000
    right = scaling.rank_positives

    def off_by_one(*arguments, **options):
        ranks, *others = right(*arguments, **options)
        return [each + 1 for each in ranks], *others

    monkeypatch.setattr(scaling, "rank_positives", off_by_one)
    with pytest.raises(AssertionError, match="differ from those counted by brute force"):
        scaling.check_ranks(query, gallery, tiles, "cpu")


def test_scaling_asks_for_a_larger_disk(monkeypatch, capsys):
    scaling = load_benchmark("scaling")
    monkeypatch.setattr(scaling.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
    fails(scaling.main, ["--quick"], capsys, "GiB free", "set TMPDIR to a larger disk")


@pytest.mark.parametrize("name", ["evaluate", "scaling"])
def test_benchmarks_run_as_scripts(name):
    """`import measure` works, and the library's modules are found before the benchmarks'."""
    _, _, out = measure.run_process([sys.executable, BENCHMARKS / f"{name}.py", "--help"])
    assert "--rounds" in out and "--quick" in out


# ---------------------------------------------------------------- input, extraction, training step
def test_input_pipeline_loads_the_same_images(tmp_path, monkeypatch, capsys):
    input_pipeline = load_benchmark("input_pipeline")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # of the tests' own process
    options = ["--quick", "--rounds", "1", "--json", str(tmp_path / "i.json")]
    results = input_pipeline.main(options)
    assert results["difference"] <= 1 and results["steps"] == 2
    assert json.loads((tmp_path / "i.json").read_text())["seconds"] == results["seconds"]
    assert results["ratios"]["published"] == 1 and len(results["ratios"]) == 5
    assert "| ours, --cache ram, no thread" in capsys.readouterr().out


def test_extraction_gives_the_same_features(tmp_path, capsys):
    extract = load_benchmark("extract")
    before = Path.cwd()
    results = extract.main(["--quick", "--rounds", "1"])
    assert Path.cwd() == before
    assert results["agreement"]["float32"][0] <= 1e-5
    assert 0.99 <= results["agreement"]["bfloat16"][1] < 0.9999999
    assert set(results["ratios"]) == {"published", "ours, float32", "ours, bfloat16"}
    assert "JPEGs, whole process" in capsys.readouterr().out


def test_training_steps_have_the_same_loss(capsys):
    train_step = load_benchmark("train_step")
    results = train_step.main(["--quick", "--rounds", "1", "--batchsize", "2", "--steps", "3"])
    losses = results["losses"]
    assert losses["ours, float32"] == pytest.approx(losses["published"], rel=1e-3)
    assert losses["ours, bfloat16"] == pytest.approx(losses["published"], rel=3e-2)
    assert losses["ours, bfloat16"] != losses["ours, float32"]
    for way, seconds in results["seconds"].items():
        assert 0 < results["least"][way][0] < seconds[0], way
    assert "| ours, bfloat16" in capsys.readouterr().out
    fails(train_step.main, ["--steps", "1"], capsys, "--steps 1 is the warm-up alone")


# ---------------------------------------------------------------- toy_difficulty.py
def test_colour_histogram_counts_colours(tmp_path):
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, 0] = (255, 0, 0)  # one red pixel, seven black ones
    Image.fromarray(pixels).save(tmp_path / "a.png")
    histogram = toy_difficulty.colour_histogram(tmp_path / "a.png", bins=4)
    assert histogram.shape == (64,) and np.linalg.norm(histogram) == pytest.approx(1)
    assert histogram[0] / histogram[3 * 16] == pytest.approx(7)


def test_histograms_find_images_of_the_same_colour(tmp_path, workdir, capsys):
    paths = []
    for number, colour in enumerate([(200, 0, 0), (0, 200, 0), (0, 0, 200)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (8, 8), colour).save(paths[-1])
    labels = np.arange(3)
    features = np.eye(3, dtype=np.float32)
    gallery = Features(features, labels, paths)
    save_features("f.mat", Features(features[[1, 0, 2]], labels, paths), gallery)
    result = toy_difficulty.main(["f.mat"])
    assert result["histogram"] == 100.0 and result["trained"] == pytest.approx(100 / 3)
    assert result["ratio"] == pytest.approx(3)
    assert "histogram 16^3" in capsys.readouterr().out
    fails(toy_difficulty.main, ["absent.mat"], capsys, "absent.mat not found")


# ---------------------------------------------------------------- recipes
def test_recipes_see_the_same_images_and_fill_the_tables(toy, workdir, capsys, monkeypatch):
    recipes = load_benchmark("recipes")
    from training import engine

    seen = []
    original = engine.train_step

    def count(training, batch, sizes):
        seen.append(sum(len(labels) for _, labels in batch.values()))
        return original(training, batch, sizes)

    monkeypatch.setattr(engine, "train_step", count)
    found = recipes.main(
        [str(toy), "--recipes", "baseline", "sample4geo", "--seeds", "2", "--passes", "1",
         "--backbone", "resnet18", "--size", "32", "--json", "out.json"]
    )  # fmt: skip
    # 8 buildings in two views: batches of 8 for one recipe, of 32, so of all, for the other.
    assert seen == [16] * 4
    results = found["results"]
    assert list(results) == ["baseline", "sample4geo"] and len(results["baseline"]) == 2
    first = results["baseline"][0]["drone_satellite"]
    assert first["without distractors"]["recall@1"] >= first["plain"]["recall@1"]
    assert first["several images a query"]["num_queries"] == 5
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line.startswith("| ")]
    recalls = [run["drone_satellite"]["plain"]["recall@1"] for run in results["baseline"]]
    row = next(line for line in table if line.startswith("| baseline"))
    assert f"{np.mean(recalls):.1f} ± {np.std(recalls, ddof=1):.1f}" in row
    assert json.loads(Path("out.json").read_text())["results"] == results
    fails(recipes.main, ["data", "--recipes", "bets"], capsys, "no recipe bets", "baseline")


def test_a_recipe_keeps_what_is_its_own_in_the_benchmark():
    recipes = load_benchmark("recipes")
    import train

    def options(name):
        opts = recipes.parse_args(["data", "--passes", "30", "--size", "48"])
        path = recipes.ROOT / "recipes" / f"{name}.yaml"
        return train.parse_args(recipes.run_options(path, opts, seed=5))

    base, lpn, ours = options("baseline"), options("lpn"), options("sample4geo")
    assert (base.batchsize, base.lr, base.backbone_lr, base.droprate) == (16, 0.003, 10, 0.75)
    assert (base.step_size, base.epochs, base.seed) == (20, 30, 5)
    assert (base.view_names, base.extra_Google, base.share) == (["satellite", "drone"], False, True)
    assert lpn.LPN and lpn.block == 4 and lpn.lr == 0.003
    assert (ours.optimizer, ours.lr, ours.schedule) == ("adamw", 0.001, "cosine")
    assert (ours.warm_epoch, ours.batchsize, ours.backbone) == (3.0, 32, "resnet18")
    assert ours.epoch_over == "satellite" and not ours.grad_checkpoint


@pytest.mark.parametrize(
    ("name", "added"),
    [
        (
            "strong",
            [
                "droprate",
                "loss_weights",
                "joint_flips",
                "batchsize",
                "optimizer",
                "turns",
                "maps",
                "pool",
            ],
        ),
        ("sample4geo", ["stride", "droprate", "loss_weights", "joint_flips", "batchsize"]),
        ("lpn", ["LPN"]),
        ("rknet_lpn", ["usam", "LPN"]),
        ("musenet", ["droprate", "musenet"]),
    ],
)
def test_steps_from_the_baseline_to_a_recipe(name, added, workdir):
    """One change a row, none that changes nothing; the last has the recipe's options."""
    recipes = load_benchmark("recipes")
    import train

    opts = recipes.parse_args(["data", "--towards", name])

    def options(path):
        found = vars(train.parse_args(recipes.run_options(path, opts, seed=0)))
        return {**found, "name": "", "config": ""}

    paths = recipes.different(recipes.write_steps(recipes.steps_towards(name)), opts)
    assert paths[0].stem == "baseline"
    assert set(added) <= {path.stem.removeprefix("+ ") for path in paths}
    expected = recipes.find_recipes(["baseline", name])
    assert [options(paths[0]), options(paths[-1])] == [options(path) for path in expected]
    for path, earlier in zip(paths[1:], paths, strict=False):
        changed = {k for k, v in options(path).items() if v != options(earlier)[k]}
        group = next((set(g) for g in recipes.TOGETHER if changed & set(g)), set())
        assert changed and (len(changed - {"cache"}) == 1 or changed <= group | {"cache"})


def test_the_steps_are_trained(toy, workdir, capsys):
    recipes = load_benchmark("recipes")
    argv = [str(toy), "--towards", "lpn", "--seeds", "1", "--passes", "1", "--size", "32"]
    found = recipes.main(argv)["results"]
    assert list(found) == ["baseline", "+ LPN"]
    out = capsys.readouterr().out
    assert "| + LPN " in out and "features of + LPN" in out


def test_training_under_weather_is_compared(toy, workdir, capsys, monkeypatch):
    """A recipe, the same under weather, and MuSe-Net, which has weather: both from the first."""
    begun, original = [], build.start_from
    monkeypatch.setattr(build, "start_from", lambda *a: begun.append(a[0]) or original(*a))
    benchmark = load_benchmark("weather_training")
    from imaging import weather

    found = benchmark.networks(["baseline", "musenet"])
    assert list(found) == ["baseline", "baseline + weather", "musenet"]
    assert found["musenet"]["init"] == found["baseline + weather"].pop("init") == "baseline"
    assert "init" not in benchmark.networks(["musenet"])["musenet"]
    assert list(benchmark.networks(["musenet", "strong"])) == [
        "strong",
        "strong + weather",
        "musenet",
    ]
    assert found["baseline + weather"].pop("weather") == list(weather.CONDITIONS)
    assert found["baseline + weather"] == found["baseline"]
    argv = [str(toy), "--recipes", "baseline", "--seeds", "1", "--passes", "1", "--size", "32"]
    results = benchmark.main(argv)["results"]
    assert list(results) == ["baseline", "baseline + weather"] and begun == ["baseline"]
    (clear,), (run,) = results.values()
    assert list(run["conditions"]) == [*weather.CONDITIONS, "mean"] and 0 < run["waiting"] < 1
    assert clear["conditions"]["fog"] != run["conditions"]["fog"]
    out = capsys.readouterr().out
    rates = [each["conditions"]["over_exposure"]["recall@1"] for each in (clear, run)]
    row = next(line for line in out.splitlines() if line.startswith("| over-exposure"))
    assert [float(cell) for cell in row.split("|")[2:4]] == pytest.approx(rates, abs=0.05)
    assert f"baseline + weather {run['waiting']:.0%}" in out


def test_training_for_locating_is_compared(workdir, monkeypatch, capsys):
    benchmark = load_benchmark("locate_training")
    monkeypatch.setattr(benchmark, "LOSSES", ("overlap",))
    monkeypatch.setattr(benchmark, "TILES", {"off-centre": 0.25})
    monkeypatch.setattr(benchmark, "METRES", 40)
    argv = ["--seeds", "1", "--epochs", "1", "--photos", "16", "--plots", "2", "--size", "32"]
    ((name, (run,)),) = benchmark.main(argv)["results"].items()
    assert name == "off-centre, overlap"
    assert list(run) == [
        "right tile", "median error", "within 25 m", *(f"shift {n}/8" for n in range(4))
    ]  # fmt: skip
    row = next(line for line in capsys.readouterr().out.splitlines() if "| off-centre" in line)
    assert [float(cell) for cell in row.split("|")[2:-1]] == pytest.approx(
        list(run.values()), abs=0.06
    )
    assert 0 < run["median error"] < 300 and run["right tile"] % 25 == 0  # of four photos


# ---------------------------------------------------------------- startup
def test_startup_compares_whole_commands(monkeypatch, capsys):
    """With --help for the two commands, whose options are parsed: they take a minute."""
    startup = load_benchmark("startup")
    whole = startup.commands("toy", quick=True)
    assert train.parse_args(whole["train.py"][1:]).epochs == 1
    assert testing.parse_args(whole["test.py"][1:]).name == "startup"
    short = {name: [argv[0], "--help"] for name, argv in whole.items()}
    monkeypatch.setattr(startup, "commands", lambda data, quick: short)
    found = startup.main(["--quick", "--rounds", "1"])
    assert set(found) == {"train.py", "test.py"}
    for tricks in found.values():
        assert set(tricks) == {"all", "no collector", "no memory"}
        assert tricks["all"]["without"] == (1, 1, 1)
        assert all(each["seconds"] > 0 for each in tricks.values())
    assert "times as long as with all" in capsys.readouterr().out


# ---------------------------------------------------------------- real_pairs.py
REAL = ["data", "--weights", "w.pth"]


def test_each_row_of_the_ablation_is_one_change_away():
    real_pairs = load_benchmark("real_pairs")
    rows = real_pairs.all_rows(real_pairs.parse_args([*REAL, "--campus", "toy", "--passes", "9"]))
    few = rows["few_pairs"]
    together = {"pool": {"block"}, "center": {"whiten"}, "freeze": set(real_pairs.TUNED)}
    for name, change in real_pairs.ABLATION.items():
        changed = {k for k in {*few, *rows[name]} if few.get(k) != rows[name].get(k)}
        first = next(iter(change))
        assert changed - together.get(first, set()) == {first}, name
    assert rows["strong"] | {"freeze": True} == rows["frozen"]
    assert rows["campus"] == rows["strong"]
    baseline, strong = rows["baseline"], rows["strong"]
    assert (baseline["epochs"], baseline["step_size"], baseline["lr"]) == (9, 6, 0.01)
    assert (strong["epochs"], strong["warm_epoch"], strong["h"]) == (9, 5 / 120 * 9, 128)


def test_rows_bring_those_they_start_from(capsys):
    real_pairs = load_benchmark("real_pairs")

    def chosen(*options):
        return list(real_pairs.chosen_rows(real_pairs.parse_args([*REAL, *options])))

    assert chosen("--only", "GeM,few_pairs + last block") == [
        "few_pairs", "few_pairs + last block", "GeM"
    ]  # fmt: skip
    assert chosen("--only", "campus first", "--campus", "toy") == ["campus", "campus first"]
    assert "campus first" not in chosen() and chosen()[0] == "zero_shot"
    fails(real_pairs.main, [*REAL, "--only", "campus first"], capsys, "give --campus", "few_pairs")


def test_folds_share_out_all_pairs(toy, workdir):
    real_pairs = load_benchmark("real_pairs")
    folders = real_pairs.fold_folders(toy, 3, "folds")
    ids = lambda folder: {path.name for path in folder.iterdir()}  # noqa: E731
    tested = [ids(folder / "test/query_drone") for folder in folders]
    everything = ids(toy / "train/drone") | ids(toy / "test/gallery_drone")
    assert sorted(name for names in tested for name in names) == sorted(everything)
    assert max(map(len, tested)) - min(map(len, tested)) <= 1
    for folder, names in zip(folders, tested, strict=True):
        assert ids(folder / "train/satellite") == everything - names
        assert ids(folder / "test/gallery_satellite") == names
        assert all(any(each.iterdir()) for each in folder.glob("*/*/*"))
    with pytest.raises(ValueError, match="too few for --folds 8"):
        real_pairs.fold_folders(toy, 8, "none")
    twice = workdir / "twice"
    for role in ("train/satellite", "train/drone", "test/gallery_satellite", "test/gallery_drone"):
        (twice / role).parent.mkdir(parents=True, exist_ok=True)
        view = role.split("_")[-1].split("/")[-1]
        (twice / role).symlink_to(toy / f"test/gallery_{view}")
    with pytest.raises(ValueError, match="in train/ and in test/"):
        real_pairs.fold_folders(twice, 2, "none")


def test_the_table_of_real_pairs_is_of_seeds_over_folds():
    real_pairs = load_benchmark("real_pairs")
    keys = ("both", *real_pairs.TASKS, "pairs", "seconds")
    runs = [dict.fromkeys(keys, value) for value in (10, 20, 30, 60)]
    rows = real_pairs.table_rows({"a": [runs[:2], runs[2:]], "b": [runs[:1]], "c": []})
    assert rows == [
        ["a", *["30.0 ± 21.2"] * 3, "30", 30.0],  # of 15 and 45
        ["b", *["10.0"] * 3, "10", 10.0],
    ]


def test_real_pairs_are_measured(toy, workdir, capsys, monkeypatch):
    real_pairs = load_benchmark("real_pairs")
    torch.save(narrow_resnet().state_dict(), "narrow.pth")
    original, temperatures = real_pairs.all_rows, []

    def small_rows(opts):
        small = {"h": 32, "w": 32, "block": 1, "whiten": 8, "epochs": 1, "epoch_passes": 2}
        rows = original(opts).items()
        return {name: {**each, **small} if "epochs" in each else each for name, each in rows}

    monkeypatch.setattr(real_pairs, "all_rows", small_rows)
    monkeypatch.setattr(zero_shot, "FEWEST", 2)
    centred_on, centring = [], zero_shot.ViewMeans.__init__

    def centre(self, *args):
        centring(self, *args)
        centred_on.extend([set(self.means)] if self.means else [])

    monkeypatch.setattr(zero_shot.ViewMeans, "__init__", centre)
    build_infonce = losses.InfoNCE.__init__

    def infonce(self, temperature, smoothing):
        temperatures.append(temperature)
        build_infonce(self, temperature, smoothing)

    monkeypatch.setattr(losses.InfoNCE, "__init__", infonce)
    argv = [str(toy), "--weights", "narrow.pth", "--backbone", NARROW, "--seeds", "1"]
    only = "temperature 0.03,few_pairs + last block,zero_shot,zero_shot + center_on"
    only = ["--only", only, "--json", "out.json"]
    results = real_pairs.main([*argv, *only, "--folds", "2"])["results"]
    ((itself, _),), ((centred, _),) = (results.pop(n) for n in only[1].split(",")[2:])
    assert itself["pairs"] == itself["seconds"] == centred["seconds"] == 0
    assert centred_on == [{"satellite", "drone"}] * 2
    assert list(results) == ["few_pairs", "few_pairs + last block", "temperature 0.03"]
    assert temperatures == [0.07, 0.07, 0.03] * 2
    ((first, second),), ((then, _),), _ = results.values()  # one seed, two folds
    # 15 pairs: 7 train, then 8; two passes over them, then again in the second row
    assert (first["pairs"], second["pairs"], then["pairs"]) == (14, 16, 28)
    assert then["seconds"] > first["seconds"] > 0
    assert first["both"] == (first["drone_satellite"] + first["satellite_drone"]) / 2
    assert json.loads(Path("out.json").read_text())["results"].items() >= results.items()
    row = next(line for line in capsys.readouterr().out.splitlines() if "| few_pairs  " in line)
    assert f" {(first['both'] + second['both']) / 2:.1f} " in row and " 15 " in row


# ---------------------------------------------------------------- words.py
def write_words(folder, classes):
    """Texts {ID: lines} as a view; the samples by ID."""
    for name, lines in classes.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "a.txt").write_text("\n".join(lines))
    return {n: [f"{folder}/{n}/a.txt:{k + 1}" for k in range(len(ls))] for n, ls in classes.items()}


def test_a_bag_of_words_finds_what_its_words_were_trained_for(tmp_path):
    features = {"1": np.array([1.0, 0, 0]), "2": np.array([0, 1.0, 0]), "3": np.array([0, 0, 1.0])}
    known = {"1": ["a red hall", "red red"], "2": ["a blue hall", "blue"], "3": ["a pond", "pond"]}
    write_words(tmp_path / "train/text", {n: lines * 5 for n, lines in known.items()})
    asked = write_words(tmp_path / "query_text", {"8": ["Pond?", "the BLUE one, unheard of"]})
    bag = words.BagOfWords(tmp_path, features)
    query = bag.of(Features(np.zeros((2, 3), np.float32), np.array([8, 8]), asked["8"]))
    assert query.features.argmax(1).tolist() == [2, 1]
    np.testing.assert_allclose(np.linalg.norm(query.features, axis=1), 1, rtol=1e-5)


def test_chance_is_what_random_rankings_give():
    labels = np.repeat(np.arange(10), 3)
    query = Features(np.zeros((2, 1), np.float32), np.array([1, 4]), ["", ""])
    found = words.chance(query, Features(np.zeros((30, 1), np.float32), labels, [""] * 30))
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(labels) for _ in range(20_000)])
    assert found["recall@1"] == pytest.approx(10)
    assert found["recall@10"] == pytest.approx(100 * (ranked[:, :10] == 4).any(1).mean(), abs=1)


def test_words_beside_a_bag_of_words_and_chance(toy, capsys):
    pytest.importorskip("transformers")
    outcome = words.main([str(toy), "--seeds", "1", "--passes", "1", "--size", "32", "--backbone",
                          NARROW])  # fmt: skip
    (run,) = outcome["results"]
    assert [*run][1:] == ["words", *words.BAGS, "chance"]
    for row in words.ROWS:
        assert {*run[row]} == {"text_satellite", "satellite_text", "text_drone", "drone_text"}
    assert run["chance"]["text_satellite"]["recall@1"] == pytest.approx(100 / 7)
    table = capsys.readouterr().out
    assert "| bag of words " in table and "T>S R@1" in table and "D>T R@10" in table


# ---------------------------------------------------------------- deployment
def test_deploy_compares_whole_searches(toy, tmp_path, monkeypatch, workdir):
    """With files that stand for what the exports would write: a file is what it is named."""
    deploy = load_benchmark("deploy")
    photo, tile = toy / "test/query_drone/5001/a.jpg", toy / "test/gallery_satellite/5001/b.jpg"
    rows = [(photo, tile), (photo, tile.parent.parent / "5002" / "b.jpg")]
    lines = ["photo,tile", *(f"{photo},{tile}" for photo, tile in rows)]
    (workdir / "found.csv").write_text("\n".join(lines))
    assert deploy.recall_of("found.csv") == 50

    def run(argv, env=None):
        shutil.copy(workdir / "found.csv", f"{argv[-1]}.csv")
        return (5.0 if "--bf16" in argv else 3.0), 100.0, ""

    def write(opts, folder):
        (folder / "int8-drone.onnx").write_bytes(bytes(2_000_000))

    run_dir = utils.run_folder("small")
    run_dir.mkdir(parents=True)
    (run_dir / "net_last.pth").write_bytes(bytes(1_000_000))
    monkeypatch.setattr(deploy, "write_files", write)
    monkeypatch.setattr(deploy.measure, "run_process", run)
    argv = ["--name", "small", "--data_dir", str(toy), "--rounds", "2"]
    found = deploy.main(argv)
    assert list(found) == ["PyTorch float32", "PyTorch bfloat16", "ONNX float32", "ONNX int8"]
    assert [each["MB"] for each in found.values()] == [1, 1, 0, 2]
    assert {each["Recall@1"] for each in found.values()} == {50}


def test_the_table_of_exported_networks(workdir, monkeypatch, capsys):
    """With a network of the tests and an export that has no file in float16."""
    exported = load_benchmark("exported")
    runs = []

    def export_view(opts):
        if opts.fp16:
            raise ValueError("x.onnx is not written")
        network, numbers, _ = exported.model.load_run(opts.name, opts.which_epoch, "cpu")
        runs.append((opts.view, sorted(numbers), network.center.directions.std().item()))
        print("x.onnx: fp32, 12.5 MB, images; cosine with PyTorch 0.999987 at least")

    monkeypatch.setattr(exported, "export_view", export_view)
    monkeypatch.setattr(exported, "PLAIN", exported.PLAIN | {"backbone": NARROW})
    found = exported.main(["--only", "rings"])
    (name,) = found
    assert found[name] == {"fp32": (0.999987, 12.5), "fp16": (None, None)}
    assert runs == [("drone", ["drone", "satellite"], pytest.approx(1, abs=0.1))]
    said = capsys.readouterr()
    assert f"| {name} | 0.999987" in said.out and "x.onnx is not written" in said.err
    assert not Path("model").exists()
