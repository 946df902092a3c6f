"""Data and run folders shared by the tests; everything is rendered or made here."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a worker: more threads are in their way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock, ResNet

import model
import utils
from networks import backbones
from sources.campus.render import render_campus

# A ResNet-18 with an eighth of the channels behind its stem: a run of it writes 3 MB where
# a ResNet-18's writes 270, and tests that train are otherwise mostly about writing.
NARROW = "resnet_narrow"
FLAGS = ["--no_pretrained", "--h", "32", "--w", "32", "--pad", "2", "--num_workers", "0",
         "--batchsize", "4", "--device", "cpu"]  # fmt: skip
SMALL = ["--backbone", NARROW, *FLAGS]  # for main([...]) in this process
SMALL_COMMAND = ["--backbone", "resnet18", *FLAGS]  # for processes of their own


class NarrowResNet(ResNet):
    def _make_layer(self, block, planes, *args, **kwargs):
        return super()._make_layer(block, planes // 8, *args, **kwargs)


def narrow_resnet(**kwargs):
    return NarrowResNet(BasicBlock, [2, 2, 2, 2], **kwargs)


backbones.BACKBONES[NARROW] = (narrow_resnet, ResNet18_Weights.IMAGENET1K_V1, 64)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A small toy campus: 8 training buildings, 5 test buildings and 2 distractors, 48 pixels."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    folder.mkdir()
    render_campus(
        folder,
        seed=3,
        num_train=8,
        num_test=5,
        num_distractors=2,
        drone_frames=2,
        image_size=48,
        num_workers=0,
    )
    return folder


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty current folder, so that model/ and the feature files land in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GEO_TRACEBACK", raising=False)
    return tmp_path


@pytest.fixture
def source(workdir):
    """An empty folder for a published tree."""
    folder = workdir / "downloads"
    folder.mkdir()
    return folder


@pytest.fixture
def small_run(workdir):
    """A run folder `small` with random weights of a two-view narrow ResNet for 8 classes."""
    torch.manual_seed(0)
    network = model.build_model(8, backbone=NARROW)
    run_dir = utils.run_folder("small")
    utils.write_opts(
        run_dir,
        {
            "view_names": ["satellite", "drone"],
            "views": 2,
            "nclasses": 8,
            "backbone": NARROW,
            "h": 32,
            "w": 32,
            "pool": "avg",
            "stride": 2,
            "share": False,
            "droprate": 0.5,
        },
    )
    utils.save_tensors(run_dir / "net_009.pth", network.state_dict())
    return run_dir


def fails(main, argv, capsys, *expected):
    """Assert that `main(argv)` exits with code 2 and one error line holding the expected parts."""
    with pytest.raises(SystemExit) as exit_info:
        main([os.fspath(part) for part in argv])
    assert exit_info.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "error:" in lines[0], lines
    for part in expected:
        assert str(part) in lines[0], lines[0]
    return lines[0]


def without_batch_norm(network):
    """Take batch norm out; its weights, halved, keep the activations from growing instead."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(0.5)
