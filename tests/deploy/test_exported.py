"""export.py: a view of a run as ONNX; test.py and locate.py with such files in place of the run."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NarrowResNet, fails
from torch import nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock

import export
import locate
import model
import test
import utils
from dataset import to_network_input
from deploy import metadata, onnx_export, onnx_network
from evaluation.feature_file import load_features
from extract import embed_images
from imaging.cache import resize_bicubic
from imaging.pixels import resize_pillow
from networks import backbones
from networks.inference import inference_copy
from runtime import optional

onnx = pytest.importorskip("onnx", reason="onnx, an optional package, is not installed")
pytest.importorskip("onnxscript", reason="onnxscript, an optional package, is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime, an optional package, is not installed")

ROOT = Path(__file__).resolve().parent.parent.parent
TINY, SIDE = "resnet_tiny", 64
backbones.BACKBONES[TINY] = (
    lambda: NarrowResNet(BasicBlock, [1, 1, 1, 1]),
    ResNet18_Weights.IMAGENET1K_V1,
    64,
)
BOTH = "drone.onnx,satellite.onnx"


@pytest.fixture(scope="module")
def exports(tmp_path_factory, toy):
    """A folder with a run `small`, drone.onnx, half.onnx, int8.onnx, satellite.onnx, their abouts.

    The run has four turns of satellite images.
    """
    folder = tmp_path_factory.mktemp("exports")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        run_dir = utils.run_folder("small")
        opts = {"view_names": ["satellite", "drone"], "views": 2, "nclasses": 8, "backbone": TINY,
                "h": SIDE, "w": SIDE, "data_dir": "secret", "turns": {"satellite": 4}}  # fmt: skip
        utils.write_opts(run_dir, opts)
        utils.save_tensors(run_dir / "net_last.pth", model.model_from_opts(opts).state_dict())
        more = {"half": ["--fp16", "--no-flips"], "int8": ["--int8", "--data_dir", toy]}
        abouts = {
            name: export.main(["--name", "small", "--view", view, "--output", f"{name}.onnx",
                               *map(str, more.get(name, []))])
            for name, view in (("drone", "drone"), ("satellite", "satellite"), ("half", "drone"),
                               ("int8", "drone"))
        }  # fmt: skip
    assert Path.cwd() == before
    return folder, abouts


@pytest.fixture
def files(exports, workdir):
    """The current folder has the exported files and no run."""
    for path in exports[0].glob("*.onnx"):
        (workdir / path.name).symlink_to(path)
    return exports[1]


def as_extracted(exports, branch, images, **how):
    """What extract.py makes of uint8 images by PyTorch."""
    run_dir = exports[0] / "model" / "small"
    network, _, _ = model.read_run(run_dir, run_dir / "net_last.pth")
    network = inference_copy(network.eval())
    pixels = to_network_input(torch.from_numpy(images), "cpu", network.input_spec)
    with torch.inference_mode():
        return network.finish(embed_images(network, branch, pixels, **how)).numpy()


# ---------------------------------------------------------------- the files
def test_features_are_those_of_extraction(exports, files):
    """With any batch and, where nothing is turned, any size; four turns are inside the file."""
    network = onnx_network.OnnxNetwork(BOTH.split(","))
    for count, height, width in ((1, SIDE, SIDE), (5, SIDE, SIDE), (2, 96, 65)):
        images = onnx_export.trial_images(count, height, width)
        found = network.features("drone", images)
        assert found.shape == (count, 512) and found.dtype == np.float32
        assert np.abs(found - as_extracted(exports, 2, images)).max() < 1e-6
    images = onnx_export.trial_images(2, SIDE, SIDE)
    found = network.features("satellite", images)
    assert np.abs(found - as_extracted(exports, 1, images, turns=4)).max() < 1e-6
    turned = network.features("satellite", np.rot90(images, 1, (2, 3)))
    assert np.abs(found - turned).max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": TINY, "maps": (3, "last"), "pool": "gem"},
        {"backbone": "resnet18", "musenet": True, "share": True},
    ],
)
def test_modules_are_known_in_an_export(options):
    """Where torch calls a module's forward with another object: maps, and branches that adapt."""
    torch.manual_seed(0)
    network = model.build_model(3, **options)
    for name, weight in network.named_parameters():
        if name.startswith("pt_model.layer"):
            nn.init.normal_(weight, std=0.1)  # as it begins, what it modulates hardly changes
    view = onnx_export.ViewNetwork(inference_copy(network.eval()), 1).eval()
    images = onnx_export.trial_images(3, SIDE, SIDE)
    content = onnx_export.to_onnx(view, SIDE, SIDE).SerializeToString()
    session = optional.require("onnxruntime", "a test", "onnxruntime").InferenceSession(content)
    (found,) = session.run(None, {"images": np.asarray(images)})
    with torch.inference_mode():
        assert np.abs(found - view(torch.as_tensor(images)).numpy()).max() < 1e-5


def test_a_file_says_what_it_is(exports, files):
    """Its metadata are readable by name, and hold nothing of the folders of the run."""
    texts = {each.key: each.value for each in onnx.load("satellite.onnx").metadata_props}
    about = metadata.from_text(texts, "satellite.onnx")
    assert about == files["satellite"]
    assert (about["run"], about["view"], about["h"], about["w"]) == ("small", "satellite", 64, 64)
    assert (about["turns"], about["flips"], about["size"]) == (4, True, "fixed")
    assert files["drone"]["size"] == "any" and files["half"]["flips"] is False
    weights = (exports[0] / "model" / "small" / "net_last.pth").read_bytes()
    assert about["weights_sha256"] == onnx_export.hashlib.sha256(weights).hexdigest()
    assert about["options"]["backbone"] == TINY and "secret" not in str(texts)


def test_smaller_files_give_nearly_the_same(exports, files):
    """float16 without the mirror image, and 8 bits in the backbone alone."""
    images = onnx_export.trial_images(3, SIDE, SIDE)
    half = onnx_network.OnnxNetwork(["half.onnx"])
    mirrored = half.features("drone", images[..., ::-1])
    assert np.abs(half.features("drone", images) - mirrored).max() > 1e-3
    apart = half.features("drone", images) + mirrored
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    assert 0 < np.abs(apart - as_extracted(exports, 2, images)).max() < 0.03
    kinds = [node.op_type for node in onnx.load("int8.onnx").graph.node]
    assert kinds.count("DequantizeLinear") > 20 and kinds.count("Gemm") == 1
    whole = onnx_network.OnnxNetwork(["drone.onnx"]).features("drone", images)
    small = onnx_network.OnnxNetwork(["int8.onnx"]).features("drone", images)
    assert 0.9 < (whole * small).sum(1).min() < 0.999999


# ---------------------------------------------------------------- in place of a run
def test_test_py_scores_the_same(exports, files, toy, monkeypatch, capsys):
    command = ["--test_dir", toy, "--device", "cpu", "--num_workers", "0", "--output"]
    metrics = test.main(["--name", BOTH, *map(str, command), "onnx.mat"])
    assert "weights: drone.onnx, satellite.onnx, exported from the run small (" in (
        capsys.readouterr().out
    )
    assert not Path("model").exists()
    shutil.copytree(exports[0] / "model", "model")
    assert test.main(["--name", "small", *map(str, command), "run.mat"]) == pytest.approx(
        metrics, abs=1e-3
    )
    for found, expected in zip(load_features("onnx.mat"), load_features("run.mat"), strict=True):
        assert found.paths == expected.paths
        assert np.abs(found.features - expected.features).max() < 1e-6


def test_locate_py_finds_the_same_without_torch(exports, files, toy):
    photos, tiles = toy / "test/query_drone", toy / "test/gallery_satellite"
    command = [str(photos), "--map", str(tiles), "--turns", "2", "--device", "cpu"]
    code = (
        "import sys, locate\n"
        "locate.main(sys.argv[1:])\n"
        "heavy = {'torch', 'torchvision', 'model', 'extract', 'training', 'onnx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    argv = [sys.executable, "-c", code, *command, "--name", BOTH, "--output", "onnx"]
    found = subprocess.run(argv, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert found.returncode == 0, found.stderr
    shutil.copytree(exports[0] / "model", "model")
    expected = locate.main([*command, "--name", "small", "--num_workers", "0"])["photos"]
    with open("onnx.csv", newline="") as file:
        scores = {row["photo"]: float(row["score"]) for row in csv.DictReader(file)}
    assert len(scores) == 10
    for row in expected:  # Pillow resizes within a level of what torchvision does
        assert scores[row["photo"]] == pytest.approx(row["score"], abs=2e-3)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 90), (100, 64)])
def test_both_resizes_agree(height, width):
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    found, expected = (f(image, height, width) for f in (resize_pillow, resize_bicubic))
    assert found.shape == expected.shape and found.dtype == np.uint8
    apart = np.abs(found.astype(int) - expected)  # of noise, the worst there is
    assert apart.max() <= 1 or (height < 48 and width > 80 and (apart > 1).mean() < 0.03)


# ---------------------------------------------------------------- what is refused
def with_metadata(source, path, **changes):
    """Write an exported file anew as another path, with other metadata; None takes one away."""
    proto = onnx.load(source)
    about = {each.key: each.value for each in proto.metadata_props} | changes
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {k: v for k, v in about.items() if v is not None})
    onnx.save(proto, path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("drone.onnx", ["of satellite there is no file", "--view satellite"]),
        ("drone.onnx,half.onnx", ["half.onnx is of the view drone"]),
        ("drone.onnx,other.onnx", ["different weights", "large and small"]),
        ("drone.onnx,plain.onnx", ["plain.onnx", "no view of a run", "export.py"]),
        ("drone.onnx,damaged.onnx", ["damaged.onnx cannot be read as an ONNX file"]),
        ("drone.onnx,lost.onnx", ["lost.onnx has damaged metadata ('h')"]),
        ("drone.onnx,gone.onnx", ["gone.onnx not found"]),
        (f"{BOTH} --ms 1,1.1", ["--ms is settled in an exported file"]),
        (f"{BOTH} --turns 2", ["--turns is settled"]),
        (f"{BOTH} --fp16", ["--fp16 is settled"]),
        (f"{BOTH} --which_epoch 3", ["--which_epoch is settled"]),
        (f"{BOTH} --h 32", ["--h 32 contradicts"]),
    ],
)
def test_files_that_do_not_fit_are_one_line(files, toy, capsys, name, parts):
    with_metadata("satellite.onnx", "other.onnx", weights_sha256="0" * 64, run="large")
    with_metadata("satellite.onnx", "plain.onnx", format=None)
    with_metadata("satellite.onnx", "lost.onnx", h=None)
    Path("damaged.onnx").write_bytes(Path("drone.onnx").read_bytes()[:1000])
    fails(test.main, ["--test_dir", toy, "--name", *name.split(" ")], capsys, *parts)
    assert not Path("pytorch_result.mat").exists()


def test_locate_py_refuses_in_one_line_too(files, toy, capsys):
    where = [toy / "test/query_drone", "--map", toy / "test/gallery_satellite", "--name"]
    fails(locate.main, [*where, "drone.onnx"], capsys, "of satellite there is no file")
    fails(locate.main, [*where, BOTH, "--bf16"], capsys, "--bf16 is settled in an exported file")
    fails(locate.main, [*where, BOTH, "--device", "cuda"], capsys, "onnxruntime")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--output", "drone.pt"], ["ending in .onnx"]),
        (["--output", "x.onnx", "--view", "street"], ["trained on satellite, drone"]),
        (["--output", "x.onnx", "--name", "other"], ["no run folder", "small"]),
        (["--output", "x.onnx", "--int8"], ["--int8 goes with --data_dir"]),
        (["--output", "x.onnx", "--int8", "--data_dir", "gone"], ["--data_dir gone is no folder"]),
        (["--output", "x.onnx", "--int8", "--fp16"], ["not allowed with"]),
    ],
)
def test_mistakes_of_an_export_are_one_line(exports, monkeypatch, capsys, options, parts):
    monkeypatch.chdir(exports[0])
    fails(export.main, ["--name", "small", *options], capsys, *parts)


def test_a_file_that_differs_is_not_written(exports, monkeypatch, capsys):
    """Whatever the exporter did: here it forgets the mirror image."""
    monkeypatch.chdir(exports[0])
    other = onnx.load("half.onnx")
    monkeypatch.setattr(onnx_export, "to_onnx", lambda *_: other)
    monkeypatch.setattr(onnx_export, "has_free_size", lambda _: True)
    fails(export.main, ["--name", "small", "--output", "x.onnx"], capsys, "x.onnx is not written")
    assert not [*Path().glob("*x.onnx")]


def test_a_file_that_does_not_run_is_not_written(exports, monkeypatch, capsys):
    """As where the exporter has fixed the batch, or the size."""
    monkeypatch.chdir(exports[0])
    other = onnx.load("satellite.onnx")
    monkeypatch.setattr(onnx_export, "to_onnx", lambda *_: other)
    monkeypatch.setattr(onnx_export, "has_free_size", lambda _: True)
    parts = "x.onnx is not written", "does not run on images 1 x 3 x 128 x 96"
    fails(export.main, ["--name", "small", "--output", "x.onnx"], capsys, *parts)


def test_attention_that_ends_onnxruntime_is_refused_in_float16(workdir, monkeypatch, capsys):
    """Torch's own, as in the transformers of torchvision."""

    def build(weights=None):
        backbone = NarrowResNet(BasicBlock, [1, 1, 1, 1])
        backbone.attention = nn.MultiheadAttention(4, 1)
        return backbone

    spec = build, ResNet18_Weights.IMAGENET1K_V1, 64
    monkeypatch.setitem(backbones.BACKBONES, "resnet_attentive", spec)
    opts = {"view_names": ["satellite", "drone"], "views": 2, "nclasses": 2,
            "backbone": "resnet_attentive", "h": SIDE, "w": SIDE}  # fmt: skip
    utils.write_opts(utils.run_folder("a"), opts)
    weights = model.model_from_opts(opts).state_dict()
    utils.save_tensors(utils.run_folder("a") / "net_last.pth", weights)
    argv = ["--name", "a", "--output", "x.onnx", "--fp16"]
    fails(export.main, argv, capsys, "attention layers in float16: leave --fp16 out")
    assert not [*Path().glob("*x.onnx")]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages_are_named(exports, monkeypatch, capsys, package):
    monkeypatch.chdir(exports[0])
    monkeypatch.setattr(optional, "importlib", Missing(package))
    parts = f"needs the {package} package", "requirements-export.txt"
    fails(export.main, ["--name", "small", "--output", "x.onnx"], capsys, *parts)


class Missing:
    """importlib where a package is not installed."""

    def __init__(self, name):
        self.name = name

    def import_module(self, module):
        if module == self.name:
            raise ModuleNotFoundError(name=module)
        return __import__(module)
