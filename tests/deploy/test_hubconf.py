"""torch.hub gives a trained network from the folder of the project."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW

import model
import utils
from extract import extract_features
from networks.inference import inference_copy

ROOT = Path(__file__).resolve().parents[2]


def load(name, run):
    return torch.hub.load(str(ROOT), name, source="local", run=str(run))


def test_the_network_of_a_run(small_run, workdir):
    """As the docstring says, its features are those of extract.py."""
    network = load("two_view_net", "small")
    assert not network.training and network.view_numbers == {"satellite": 1, "drone": 2}
    assert network.image_size == (32, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    mean, std = (torch.tensor(each)[:, None, None] for each in network.input_spec[:2])
    images = (torch.from_numpy(pixels).movedim(3, 1) / 255 - mean) / std
    with torch.inference_mode():
        number = network.view_numbers["drone"]
        both = network.embed(images, number) + network.embed(images.flip(3), number)
        features = network.finish(both).numpy()
    loaded, numbers, _ = model.load_run("small", "last", torch.device("cpu"))
    expected = extract_features(
        inference_copy(loaded), numbers["drone"], range(3), pixels, device=torch.device("cpu"),
        batch_size=3,
    )  # fmt: skip
    np.testing.assert_allclose(features, expected, atol=1e-5)
    for run in (small_run.resolve(), small_run.resolve() / "net_009.pth"):
        again = load("two_view_net", run).state_dict()
        assert all(torch.equal(again[name], x) for name, x in network.state_dict().items())


def test_the_other_network_is_named(small_run, workdir):
    with pytest.raises(ValueError, match="small is no three_view_net: load it as two_view_net"):
        load("three_view_net", "small")
    opts = {"views": 3, "nclasses": 2, "backbone": NARROW}
    utils.write_opts("model/three", opts)
    utils.save_tensors("model/three/net_last.pth", model.model_from_opts(opts).state_dict())
    network = load("three_view_net", "three")
    assert network.view_numbers == {"satellite": 1, "street": 2, "drone": 3}


def test_no_such_run(workdir):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load("two_view_net", "absent")
