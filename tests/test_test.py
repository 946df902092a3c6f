"""test.py and extract.py: tasks, branches, scales, memory, files, warnings, refusals."""

import numpy as np
import pytest
import scipy.io
import torch
from conftest import NARROW, SMALL, fails
from PIL import Image
from torch import nn

import dataset
import extract
import model
import test as script
import utils
from evaluation.feature_file import load_features
from imaging import cache
from networks.inference import inference_copy

CPU = torch.device("cpu")
QUICK = ["--num_workers", "0", "--device", "cpu", "--batchsize", "8"]


def run_test(toy, *options):
    return script.main(["--name", "small", "--test_dir", str(toy), *QUICK, *options])


class Fake(nn.Module):
    """What extraction asks of a network beside `embed`."""

    input_spec = dataset.Normalisation()

    def finish(self, embedding):
        return nn.functional.normalize(embedding)


class Mean(Fake):
    """A network whose embedding is known: the mean colour of branch 1, the maximum of branch 2."""

    def embed(self, images, branch):
        return images.mean((2, 3)) if branch == 1 else images.amax((2, 3))


def test_default_task_is_drone_to_satellite(toy, small_run, workdir, capsys):
    """Published defect 9: with the default two views there was no branch for the drone."""
    metrics = run_test(toy)
    assert metrics["num_queries"] == 10 and metrics["num_gallery"] == 7
    assert metrics["num_distractors"] == 2 and metrics["num_unmatched"] == 0
    out = capsys.readouterr().out
    assert "drone -> satellite" in out and "Recall@1:" in out
    content = scipy.io.loadmat("pytorch_result.mat")
    assert content["query_f"].shape == (10, 512) and content["query_f"].dtype == np.float32
    assert content["query_label"].shape == (1, 10) and content["gallery_label"].shape == (1, 7)
    np.testing.assert_allclose(np.linalg.norm(content["gallery_f"], axis=1), 1, atol=1e-5)
    for path, label in zip(content["query_path"], content["query_label"][0], strict=True):
        assert path.strip().split("/")[-2:-1] == [f"{label:04}"]
    assert "drone -> satellite: Recall@1:" in (small_run / "result.txt").read_text()


def test_each_view_goes_through_its_own_branch(toy, small_run, workdir):
    """Published defect 34: drone images of one script were encoded by the satellite branch."""
    run_test(toy, "--query", "drone", "--gallery", "satellite")
    forward = scipy.io.loadmat("pytorch_result.mat")
    run_test(toy, "--query", "satellite", "--gallery", "drone")
    backward = scipy.io.loadmat("pytorch_result.mat")
    network, branches, _ = model.load_run("small", "last", CPU)
    assert branches == {"satellite": 1, "drone": 2}
    path = backward["query_path"][0].strip()
    for stored, branch in ((backward["query_f"][0], 1), (forward["gallery_f"], 1)):
        own = extract.extract_features(
            network, branch, [path], cache.open_view([path], 32, 32), device=CPU
        )[0]
        assert np.abs(np.atleast_2d(stored) - own).max(axis=1).min() < 1e-5
    other = extract.extract_features(
        network, 2, [path], cache.open_view([path], 32, 32), device=CPU
    )[0]
    assert np.abs(backward["query_f"][0] - other).max() > 1e-3


def test_batch_size_does_not_change_features(toy, small_run, workdir):
    run_test(toy)
    first = scipy.io.loadmat("pytorch_result.mat")["query_f"]
    run_test(toy, "--batchsize", "3", "--num_workers", "2")
    np.testing.assert_allclose(scipy.io.loadmat("pytorch_result.mat")["query_f"], first, atol=1e-5)


def test_all_tasks_the_folders_allow(toy, small_run, workdir):
    results = run_test(toy, "--all", "--output", "f.npz")
    assert set(results) == {"satellite_drone", "drone_satellite"}
    assert (workdir / "f_drone_satellite.npz").is_file()
    assert (workdir / "f_satellite_drone.npz").is_file()
    assert results["satellite_drone"]["num_gallery"] == 14


def test_only_the_folders_of_the_task_are_opened(toy, small_run, workdir, tmp_path_factory):
    """Published defect 15: all six test folders had to exist for one direction."""
    import shutil

    bare = tmp_path_factory.mktemp("bare")
    for folder in ("query_drone", "gallery_satellite"):
        shutil.copytree(toy / "test" / folder, bare / folder)
    assert run_test(bare)["num_queries"] == 10


def test_epoch_asked_for_is_loaded(toy, small_run, workdir, capsys):
    """Published defect 13: --which_epoch was ignored."""
    other = model.build_model(8, backbone=NARROW)
    utils.save_tensors(small_run / "net_019.pth", other.state_dict())
    run_test(toy, "--which_epoch", "9")
    first = scipy.io.loadmat("pytorch_result.mat")["query_f"]
    run_test(toy)
    assert "net_019.pth" in capsys.readouterr().out
    assert np.abs(scipy.io.loadmat("pytorch_result.mat")["query_f"] - first).max() > 1e-3
    fails(script.main, ["--name", "small", "--which_epoch", "7", *QUICK], capsys,
          "no weights of epoch '7'", "can be 9, 19")  # fmt: skip


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_flags_work(toy, small_run, workdir, precision):
    """Published defect 13: inference was float32 whatever was asked for."""
    run_test(toy)
    exact = scipy.io.loadmat("pytorch_result.mat")["query_f"]
    run_test(toy, f"--{precision}")
    content = scipy.io.loadmat("pytorch_result.mat")["query_f"]
    assert content.dtype == np.float32
    difference = np.abs(content - exact).max()
    assert 0 < difference < 0.01
    assert (content * exact).sum(1).min() > 0.9999


def test_contradicting_options_are_refused(toy, small_run, workdir, capsys):
    """Published defect 13: --pool, --views and the input size of the command line were ignored."""
    for option, value in (("--pool", "gem"), ("--views", "3"), ("--h", "64"), ("--w", "64")):
        fails(script.main, ["--name", "small", "--test_dir", toy, option, value, *QUICK], capsys,
              f"{option} {value} contradicts")  # fmt: skip
    assert run_test(toy, "--pool", "avg", "--views", "2", "--h", "32")["num_queries"] == 10


def test_weights_that_are_no_state_dict_are_refused(toy, small_run, workdir, capsys):
    utils.save_tensors(small_run / "net_last.pth", torch.zeros(3))
    fails(script.main, ["--name", "small", "--test_dir", toy, *QUICK], capsys, "no state dict")


@pytest.mark.parametrize("flag", sorted(script.REFUSED))
def test_refused_flags_say_why(workdir, capsys, flag):
    """Published defect 6: --PCB crashed, --use_dense did nothing."""
    fails(script.main, [f"--{flag}"], capsys, f"--{flag} is refused")


def test_multi_scores_the_images_of_a_building_together(toy, small_run, workdir, capsys):
    """Published defect 14: --multi crashed. Here the file keeps each image's own features."""
    run_test(toy)
    plain = scipy.io.loadmat("pytorch_result.mat")
    metrics = run_test(toy, "--multi", "--ignore_distractors", "--query_expansion", "2")
    notes = [
        "5 queries of several images, 10 in all",
        "without distractors: 2 of 7 gallery images",
        "queries expanded by their first 2 images, alpha 0",
    ]
    assert metrics["num_queries"] == 5 and metrics["num_junk"] == 2
    assert metrics["protocol"] == notes
    stored = scipy.io.loadmat("pytorch_result.mat")
    for name in ("query_f", "query_label", "gallery_f", "gallery_label"):
        np.testing.assert_array_equal(stored[name], plain[name])
    first, second = (small_run / "result.txt").read_text().splitlines()
    assert first.startswith("drone -> satellite: Recall@1:")
    assert second.startswith(f"drone -> satellite; {'; '.join(notes)}: Recall@1:")
    assert "\n".join(notes) in capsys.readouterr().out


def test_options_of_the_protocol_reach_the_ranking(toy, small_run, workdir):
    import evaluate_gpu

    options = ["--rerank", "k_reciprocal", "--rerank_k1", "4", "--rerank_k2", "2"]
    results = run_test(toy, "--all", "--output", "f.npz", *options)
    for task, metrics in results.items():
        assert metrics["protocol"] == ["re-ranked by k_reciprocal, k1 4, k2 2, lambda 0.3"]
        assert evaluate_gpu.main([f"f_{task}.npz", *options]) == metrics


def test_metrics_of_the_data_set_that_a_folder_was_prepared_from(
    toy, small_run, workdir, tmp_path, capsys
):
    folder = tmp_path / "denseuav"
    folder.mkdir()
    (folder / "test").symlink_to(toy / "test")
    (folder / "coordinates.csv").write_text((toy / "coordinates.csv").read_text())
    plain = run_test(folder)
    assert "as published" not in capsys.readouterr().out  # prepare.py says nothing of a data set
    (folder / "prepare.yaml").write_text("command: denseuav\n")
    assert run_test(folder / "test") == plain
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("as published for denseuav:")
    assert lines[start - 2].startswith("Recall@1:") and lines[start + 2].startswith("SDM@1:")
    (folder / "coordinates.csv").write_text("building,latitude,longitude\n0000,1,2\n")
    assert run_test(folder) == plain
    out, err = capsys.readouterr()
    assert "as published" not in out
    assert "warning: no metrics as published for this data set: " in err and "no place for" in err


def test_feature_is_the_sum_over_image_and_mirror(toy):
    class Left(Fake):
        def embed(self, images, branch):
            return images[:, :, :, 0].mean(2)  # (B, 3), the left column

    paths = [next((toy / "test" / "gallery_satellite").glob("*/*.jpg"))]
    images = cache.open_view(paths, 16, 16)
    pixels = torch.from_numpy(images[paths[0]]).permute(2, 0, 1)
    image = dataset.to_network_input(pixels[None], CPU)[0]
    both = image[:, :, 0].mean(1) + image[:, :, -1].mean(1)
    feature = extract.extract_features(Left(), 1, paths, images, device=CPU)
    np.testing.assert_allclose(feature[0], (both / both.norm()).numpy(), atol=1e-5)


@pytest.mark.parametrize("turns", [2, 4])
def test_features_of_all_turns_do_not_know_how_an_image_lies(toy, small_run, turns):
    network = inference_copy(model.load_run("small", "9", CPU)[0])
    paths = sorted((toy / "test" / "gallery_satellite").glob("*/*"))
    images = cache.open_view(paths, 32, 32)
    turned = {path: np.rot90(images[path], 4 // turns) for path in paths}
    mirrored = {path: images[path][:, ::-1] for path in paths}
    plain, *others = (
        extract.extract_features(network, 1, paths, each, device=CPU, turns=turns)
        for each in (images, turned, mirrored)
    )
    for other in others:
        np.testing.assert_allclose((plain * other).sum(1), 1, atol=1e-5)
    once = [extract.extract_features(network, 1, paths, each, device=CPU) for each in
            (images, turned)]  # fmt: skip
    assert (once[0] * once[1]).sum(1).max() < 0.9999


def test_turns_are_those_of_the_run_unless_told(toy, small_run, workdir, capsys):
    """Runs without the key, as all older ones, have none."""

    def features(*options):
        run_test(toy, *options)
        return load_features("pytorch_result.mat")

    saved = utils.read_opts(small_run)
    assert "turns" not in saved
    plain, both = features(), features("--turns", "4")
    one_view = features("--turns", "satellite=4")
    np.testing.assert_array_equal(plain[0].features, one_view[0].features)  # drones
    np.testing.assert_array_equal(both[1].features, one_view[1].features)
    assert np.abs(plain[1].features - both[1].features).max() > 1e-3
    utils.write_opts(small_run, {**saved, "turns": {"satellite": 4}})
    for told, expected in (([], one_view), (["--turns", "1"], plain)):
        for found, features_before in zip(features(*told), expected, strict=True):
            np.testing.assert_array_equal(found.features, features_before.features)
    argv = ["--name", "small", "--test_dir", toy, *QUICK]
    fails(script.main, [*argv, "--turns", "street=4"], capsys, "--turns names street, and the run")
    utils.write_opts(small_run, {**saved, "turns": 3})
    fails(script.main, argv, capsys, "opts.yaml has turns: 3, which no run writes")
    utils.write_opts(small_run, {**saved, "w": 64})
    fails(script.main, [*argv, "--turns", "4"], capsys, "32 x 64 pixels are not square")


def test_scales_do_not_compound_and_are_as_given():
    """Published defect 11: each scale was applied to the last one's result, as a square root."""
    sizes = []

    class Size(nn.Module):
        def embed(self, images, branch):
            sizes.append(images.shape[-1])
            return images.mean((2, 3))

    extract.embed_images(Size(), 1, torch.rand(1, 3, 40, 40), scales=(1.0, 1.5, 2.0))
    assert sizes == [40, 40, 60, 60, 80, 80]


def test_scales_interpolate_bilinearly():
    """As published; twice a row of pixels a, b has a, 3/4 a + 1/4 b, 1/4 a + 3/4 b, b."""
    seen = []

    class Row(nn.Module):
        def embed(self, images, branch):
            seen.append(images[0, 0, 0].tolist())
            return images.mean((2, 3))

    row = torch.tensor([0.0, 8.0, 4.0, 4.0]).expand(1, 3, 4, 4)
    extract.embed_images(Row(), 1, row, scales=(2.0,))
    assert seen[0] == pytest.approx([0, 2, 6, 7, 5, 4, 4, 4])


def test_one_doubled_batch_equals_two_passes():
    """On a GPU an image and its mirror image go through the network together."""
    torch.manual_seed(0)
    network = inference_copy(model.build_model(3, backbone="resnet18"))
    images = torch.rand(3, 3, 40, 40)
    sizes = []
    network.model_1.model.conv1.register_forward_hook(lambda _, x, y: sizes.append(len(y)))
    with torch.inference_mode():
        two, one = (
            extract.embed_images(network, 1, images, (1.0, 1.5), doubled=doubled)
            for doubled in (False, True)
        )
    assert sizes == [3, 3, 3, 3, 6, 6]
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_out_of_memory_halves_the_batch_and_goes_on(toy, monkeypatch, capsys):
    paths = sorted((toy / "test" / "gallery_drone").glob("*/*"))[:11]
    whole = extract.extract_features(
        Mean(), 1, paths, cache.open_view(paths, 16, 16), device=CPU, batch_size=8
    )
    sizes = []

    class Small(Mean):
        def embed(self, images, branch):
            sizes.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().embed(images, branch)

    features = extract.extract_features(
        Small(), 1, paths, cache.open_view(paths, 16, 16), device=CPU, batch_size=8
    )
    np.testing.assert_array_equal(features, whole)
    assert sizes[:3] == [8, 4, 2] and max(sizes[3:]) == 2
    assert "going on with 4" in capsys.readouterr().out

    class Broken(Mean):
        def embed(self, images, branch):
            torch.empty(2**60)  # what the CPU's allocator says

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator|not enough memory"):
        extract.extract_features(Broken(), 1, paths, cache.open_view(paths, 16, 16), device=CPU)
    assert "going on with 1" in capsys.readouterr().out


def test_collapsed_features_are_warned_about(toy, small_run, workdir, monkeypatch, capsys):
    class Constant(Fake):
        def embed(self, images, branch):
            return torch.ones(len(images), 4)

    monkeypatch.setattr(
        model, "load_run", lambda *_: (Constant(), {"drone": 2, "satellite": 1}, {})
    )
    run_test(toy)
    assert "are the same vector" in capsys.readouterr().err


def test_features_that_are_not_finite_are_refused(toy, small_run, workdir, monkeypatch, capsys):
    class Nan(Fake):
        def embed(self, images, branch):
            return torch.full((len(images), 4), float("nan"))

    monkeypatch.setattr(model, "load_run", lambda *_: (Nan(), {"drone": 2, "satellite": 1}, {}))
    fails(script.main, ["--name", "small", "--test_dir", toy, *QUICK], capsys, "hold NaN")
    assert not (workdir / "pytorch_result.mat").exists()


def test_queries_without_a_match_are_counted(toy, small_run, workdir, tmp_path_factory, capsys):
    import shutil

    data = tmp_path_factory.mktemp("data")
    shutil.copytree(toy / "test", data / "test")
    building = sorted((data / "test" / "query_drone").iterdir())[0].name
    shutil.rmtree(data / "test" / "gallery_satellite" / building)
    assert run_test(data)["num_unmatched"] == 2
    assert "2 of 10 queries have no true match" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--name", "absent"], "no run folder model/absent: there are small"),
        (["--query", "street"], "was trained on satellite, drone, not on street"),
        (["--query", "satellite"], "both satellite"),
        (["--gpu_ids", "3", "--device", "auto"], "--gpu_ids 3 asked for"),
        (["--batchsize", "0"], "--batchsize: 0 is too small"),
        (["--h", "-1"], "--h: -1 is too small"),
        (["--ms", "1,x"], "not a list of scales"),
        (["--turns", "3"], "'3' is not 1, 2 or 4, nor a list by view such as satellite=4,drone=1"),
        (["--output", "features.txt"], "ending in .mat or .npz"),
        (["--rerank", "gnn", "--rerank_k1", "5"], "--rerank_k2 7 exceeds --rerank_k1 5"),
        (["--rerank", "gnn"], "--rerank_k1 26: the images of queries and gallery together allow"),
        (["--test_dir", "absent"], "data folder absent not found"),
    ],
)
def test_bad_options(toy, small_run, workdir, capsys, monkeypatch, options, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    fails(script.main, ["--name", "small", "--test_dir", toy, *QUICK, *options], capsys, expected)


def test_bad_run_folders(toy, small_run, workdir, capsys):
    argv = ["--name", "small", "--test_dir", toy, *QUICK]
    good = (small_run / "opts.yaml").read_text()
    for text, expected in (
        ("a: [", "is not YAML"),
        ("words", "holds a str"),
        (good.replace(NARROW, "resnet50"), "another architecture"),
        (good.replace("nclasses: 8", "nclasses: 9"), "classifier.classifier.0.bias is (8,)"),
    ):
        (small_run / "opts.yaml").write_text(text)
        fails(script.main, argv, capsys, expected)
    (small_run / "opts.yaml").unlink()
    fails(script.main, argv, capsys, "opts.yaml not found")
    (small_run / "net_009.pth").write_bytes(b"damaged")
    (small_run / "opts.yaml").write_text(good)
    fails(script.main, argv, capsys, "not a readable torch checkpoint")


def test_bad_test_folders(toy, small_run, workdir, tmp_path_factory, capsys):
    import shutil

    data = tmp_path_factory.mktemp("data")
    shutil.copytree(toy / "test", data / "test")
    argv = ["--name", "small", "--test_dir", data, *QUICK]
    stranger = data / "test" / "query_drone" / "9998"
    shutil.copytree(sorted((data / "test" / "query_drone").iterdir())[0], stranger)
    fails(script.main, argv, capsys, "1 class folder(s) that no gallery folder holds, first 9998")
    shutil.rmtree(stranger)
    image = sorted((data / "test" / "query_drone").glob("*/*"))[0]
    image.write_bytes(image.read_bytes()[:300])
    fails(script.main, argv, capsys, f"{image.name} cannot be read as an image")
    shutil.rmtree(data / "test" / "gallery_satellite")
    fails(script.main, argv, capsys, "gallery_satellite not found", "gallery_drone")


def test_published_run_folder_is_tested_as_it_is(toy, workdir):
    """A run folder of the published code, with three views and no names for them."""
    torch.manual_seed(0)
    network = model.three_view_net(6, 0.75, stride=1, share_weight=True)
    run_dir = utils.run_folder("three_view")
    utils.save_tensors(run_dir / "net_119.pth", network.state_dict())
    opts = {
        **{"views": 3, "share": True, "stride": 1, "pool": "avg", "droprate": 0.75, "nclasses": 6},
        **{"h": 32, "w": 32, "extra_Google": True, "fp16": True, "gpu_ids": "0"},
    }
    utils.write_opts(run_dir, opts)
    argv = ["--name", "three_view", "--test_dir", str(toy), *QUICK, "--which_epoch", "119"]
    results = script.main([*argv, "--all"])
    assert len(results) == 6 and "street_satellite" in results


def test_train_then_test_with_the_defaults_agree(toy, workdir):
    """Training and testing meet through the run folder alone: no flag has to be repeated."""
    import train

    argv = ["--data_dir", str(toy), *SMALL, "--epochs", "1", "--pool", "gem", "--share"]
    train.main([*argv, "--views", "satellite,drone", "--train_all"])
    metrics = script.main(["--test_dir", str(toy), *QUICK])
    assert metrics["num_queries"] == 10


def test_weather_gives_a_table_and_its_mean(toy, small_run, capsys):
    """Each condition by itself, drone images alone, and the mean that MuSe-Net reports."""
    argv = ["--name", "small", "--test_dir", str(toy), "--which_epoch", "9", "--device", "cpu"]
    plain = script.main(argv)
    results = script.main([*argv, "--weather", "fog,normal,wind"])
    assert list(results) == ["normal", "fog", "wind", "mean"]
    assert results["normal"] == plain
    for key in ("recall@1", "AP"):
        values = [results[name][key] for name in ("normal", "fog", "wind")]
        assert results["mean"][key] == pytest.approx(sum(values) / 3)
    clear, fog = (load_features(f"pytorch_result_{name}.mat") for name in ("normal", "fog"))
    assert np.array_equal(clear[1].features, fog[1].features)  # satellite images are not drawn on
    assert np.abs(clear[0].features - fog[0].features).max() > 1e-3
    out = capsys.readouterr().out
    assert f"mean                      {results['mean']['recall@1']:>8.2f}" in out
    lines = (small_run / "result.txt").read_text().splitlines()
    assert lines[1].startswith("drone -> satellite under normal: Recall@1:")
    assert lines[-1].startswith("drone -> satellite, mean of 3 weather conditions: Recall@1:")
    fails(script.main, [*argv, "--weather", "hail"], capsys, "'hail' is not all", "fog")
    fails(script.main, [*argv, "--weather", "fog", "--cache", "ram"], capsys, "--cache out")


def test_perturbations_change_the_queries_alone(toy, small_run, capsys):
    """A range gives a table, a curve and a feature file each; zero degrees are the plain test."""
    argv = ["--name", "small", "--test_dir", str(toy), "--which_epoch", "9", "--device", "cpu"]
    plain = script.main(argv)
    results = script.main([*argv, "--perturb", "rotate=0:90:45"])
    assert list(results) == ["rotate_0", "rotate_45", "rotate_90"]
    assert results["rotate_0"] == plain
    upright, turned = (load_features(f"pytorch_result_rotate_{a}.mat") for a in ("0", "90"))
    assert np.array_equal(upright[1].features, turned[1].features)
    assert np.abs(upright[0].features - turned[0].features).max() > 1e-3
    with Image.open(small_run / "perturb_rotate.png") as picture:
        assert picture.width > 500
    out = capsys.readouterr().out
    assert f"  rotate=45                 {results['rotate_45']['recall@1']:>8.2f}" in out
    assert "rotate=45: Recall@1:" in (small_run / "result.txt").read_text()


def test_a_choice_of_queries(toy, small_run, capsys):
    argv = ["--name", "small", "--test_dir", str(toy), "--which_epoch", "9", "--device", "cpu"]
    results = script.main([*argv, "--perturb", "images=1,2", "--all"])
    assert results["drone_satellite"]["images_1"]["num_queries"] == 5
    assert results["drone_satellite"]["images_2"]["num_queries"] == 10
    assert not (small_run / "perturb_images.png").exists()
    assert (small_run / "perturb_images_drone_satellite.png").exists()
    frames = [int(path.stem[-2:]) for path in (toy / "test" / "query_drone").rglob("*.jpeg")]
    by_third = script.main([*argv, "--perturb", "distance=long,short"])
    assert by_third["distance_long"]["num_queries"] == sum(n <= 18 for n in frames) > 0
    assert by_third["distance_short"]["num_queries"] == sum(n >= 37 for n in frames) > 0
    middle = ["--perturb", "distance=middle"]
    assert not any(19 <= n <= 36 for n in frames)
    (small_run / "result.txt").unlink()
    both = ["--perturb", "distance=long,middle"]  # told before the first is extracted
    fails(script.main, [*argv, *both], capsys, "query_drone has no image for distance=middle")
    fails(script.main, [*argv, *middle, "--all"], capsys, "needs drone queries", "without --all")
    fails(script.main, [*argv, "--perturb", "shift=9,99"], capsys, "leaves nothing of 32 pixels")
    assert not (small_run / "result.txt").exists()
    fails(script.main, [*argv, "--perturb", "tilt=3"], capsys, "'tilt=3' is not", "rotate")
    both = ["--perturb", "images=1", "--weather", "fog"]
    fails(script.main, [*argv, *both], capsys, "not allowed with")
    fails(script.main, [*argv, *both[:2], "--cache", "ram"], capsys, "--cache out")
