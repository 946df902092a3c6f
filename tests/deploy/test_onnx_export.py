"""export.py: a view of a run as ONNX, checked against PyTorch."""

import numpy as np
import pytest
import torch
from conftest import NARROW, fails

import export
import model
import utils
from dataset import to_network_input
from deploy import metadata, onnx_export
from extract import embed_images
from networks.inference import inference_copy

onnxruntime = pytest.importorskip("onnxruntime", reason="onnx and onnxruntime are optional")
pytest.importorskip("onnxscript", reason="onnx and onnxruntime are optional")


def features_of(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]


def as_extracted(network, branch, images, **how):
    """What extract.py makes of images."""
    copy = inference_copy(network)
    pixels = to_network_input(images, "cpu", copy.input_spec)
    with torch.inference_mode():
        return copy.finish(embed_images(copy, branch, pixels, **how)).numpy()


def test_a_file_gives_the_features_of_extraction(small_run, capsys):
    """And says what it is; the batch is free."""
    about = export.main(["--name", "small", "--view", "drone", "--output", "out/drone.onnx"])
    assert "drone of small, fp32" in capsys.readouterr().out
    network, _, _ = model.read_run(small_run, small_run / "net_009.pth")
    images = onnx_export.trial_images(5, 32, 32)
    for count in (1, 5):
        found = features_of("out/drone.onnx", images[:count])
        expected = as_extracted(network.eval(), 2, images[:count])
        assert found.shape == (count, 512) and found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-6
    session = onnxruntime.InferenceSession("out/drone.onnx", providers=["CPUExecutionProvider"])
    texts = session.get_modelmeta().custom_metadata_map
    assert metadata.from_text(texts, "drone.onnx") == about
    assert (about["view"], about["h"], about["turns"], about["flips"]) == ("drone", 32, 1, True)
    assert about["options"]["backbone"] == NARROW and "data_dir" not in about["options"]


def test_turns_of_the_run_are_inside(small_run):
    utils.write_opts(small_run, utils.read_opts(small_run) | {"turns": {"satellite": 4}})
    export.main(["--name", "small", "--view", "satellite", "--output", "satellite.onnx"])
    network, _, _ = model.read_run(small_run, small_run / "net_009.pth")
    images = onnx_export.trial_images(2, 32, 32)
    found = features_of("satellite.onnx", images)
    assert np.abs(found - as_extracted(network.eval(), 1, images, turns=4)).max() < 1e-6
    turned = features_of("satellite.onnx", images.rot90(1, (2, 3)))
    assert np.abs(found - turned).max() < 1e-6


def test_half_the_size_and_no_mirror_image(small_run):
    command = ["--name", "small", "--view", "drone", "--no-flips", "--output"]
    export.main([*command, "whole.onnx"])
    assert export.main([*command, "half.onnx", "--fp16"])["precision"] == "fp16"
    images = onnx_export.trial_images(3, 32, 32)
    whole, half = features_of("whole.onnx", images), features_of("half.onnx", images)
    assert 0 < np.abs(whole - half).max() < 1e-2
    assert np.abs(whole - features_of("whole.onnx", images.flip(3))).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--output", "drone.pt"], ["ending in .onnx"]),
        (["--output", "x.onnx", "--view", "street"], ["trained on satellite, drone"]),
        (["--output", "x.onnx", "--name", "other"], ["no run folder", "small"]),
    ],
)
def test_mistakes_are_one_line(small_run, capsys, options, parts):
    fails(export.main, ["--name", "small", *options], capsys, *parts)


def test_a_file_that_differs_is_not_written(small_run, capsys, monkeypatch):
    monkeypatch.setitem(onnx_export.BOUNDS, "fp32", (1.1, 0.01))
    fails(export.main, ["--name", "small", "--output", "x.onnx"], capsys, "x.onnx is not written")
    assert not any(small_run.parent.parent.glob("*.onnx"))


def test_missing_packages_are_named(small_run, capsys, monkeypatch):
    monkeypatch.setitem(onnx_export.require.__globals__, "importlib", Missing("onnxscript"))
    parts = "needs the onnxscript package", "requirements-export.txt"
    fails(export.main, ["--name", "small", "--output", "x.onnx"], capsys, *parts)


class Missing:
    """importlib without a package."""

    def __init__(self, name):
        self.name = name

    def import_module(self, module):
        if module == self.name:
            raise ModuleNotFoundError(name=module)
        return __import__(module)
