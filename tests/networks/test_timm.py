"""Transformers of timm at other sizes than those of their training: maps, weights, refusals."""

import inspect

import pytest
import torch
from conftest import FLAGS, fails
from torch import nn

import model
import test
import train
import utils

timm = pytest.importorskip("timm", reason="timm is not installed")

TINY = "timm:test_vit"  # 2 blocks of 64 channels, patches of 16 pixels, trained at 160
AT_48 = ["--backbone", TINY, *FLAGS, "--h", "48", "--w", "48"]


def warmed(network):
    """In evaluation mode, with weights that are not the zeros of a fresh start."""
    for weight in network.parameters():
        if weight.dim() < 2 or weight.std() == 0:
            nn.init.uniform_(weight, 0.05, 0.15)
    return network.eval()


# ---------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    ("name", "patch", "prefix"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 14, 1),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 14, 5),
        ("vit_small_patch16_dinov3.lvd1689m", 16, 5),
    ],
)
def test_dino_at_any_multiple_of_the_patch(name, patch, prefix):
    """Class token and registers are told from the patches; the weights do not know the size."""
    torch.manual_seed(0)
    backbone = f"timm:{name}"
    with torch.device("meta"):  # shapes without arithmetic
        keys = timm.create_model(name, num_classes=0).state_dict()
        branch = model.make_branch(3, 2, "cls+gem", backbone, image_size=(336, 224))
        assert branch.model.num_prefix_tokens == prefix
        assert branch.input_spec[3:] == (False, patch) and branch.pooled_dim == 768
        state = {k: v for k, v in branch.model.state_dict().items() if k != "gem2.p"}
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in keys.items()}
        for height, width in ((224, 224), (336, 224), (518 // patch * patch, 336)):
            images = torch.empty(1, 3, height, width)
            positions = height // patch * (width // patch)
            assert branch.feature_map(images).shape == (1, 384, 1 + positions, 1)
            assert branch(images).shape == (1, 768)
    with pytest.raises(ValueError, match=f"cuts images into squares of {patch} pixels, and 230 x"):
        branch.feature_map(torch.empty(1, 3, 230, 224))


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_dino_trains_at_224_and_336(name):
    """Every weight gets a gradient at either size, those of the positions too."""
    torch.manual_seed(0)
    branch = model.make_branch(3, 2, "cls+gem", f"timm:{name}")
    del branch.model.blocks[2:]  # the others are like these
    for size in (224, 336):
        branch.zero_grad()
        branch(torch.rand(1, 3, size, size)).square().sum().backward()
        assert all(weight.grad.isfinite().all() for weight in branch.parameters())


@torch.no_grad()
def test_the_trained_size_gives_what_it_gave():
    """And class token and GeM stand side by side, each as by itself."""
    torch.manual_seed(0)
    whole = warmed(timm.create_model("test_vit", num_classes=0))
    images = torch.rand(2, 3, 160, 160)
    expected = whole.forward_features(images)  # (2, 1 + 100, 64)
    both, first, gem = (
        model.make_branch(3, 2, pool, TINY).eval() for pool in ("cls+gem", "cls", "gem")
    )
    for branch in (both, first, gem):
        branch.load_imagenet(whole.state_dict(), "FILE")
    torch.testing.assert_close(first(images), expected[:, 0], atol=0, rtol=0)
    powered = expected[:, 1:].clamp(min=1e-6).pow(3).mean(1).pow(1 / 3)
    torch.testing.assert_close(gem(images), powered)
    side_by_side = torch.cat((expected[:, 0], powered), dim=1)
    torch.testing.assert_close(both(images), side_by_side)
    vit = model.make_branch(3, 2, "cls+gem", "vit_b_32").eval()  # torchvision's
    del vit.model.encoder.layers[1:]
    pooled = vit(images)
    vit.pool = "cls"
    torch.testing.assert_close(pooled[:, :768], vit(images))
    vit.pool = "gem"
    torch.testing.assert_close(pooled[:, 768:], vit(images))


# Of any size since timm's Swin has `dynamic_img_size`, before of the size it is built for.
ANY_SIZE = "dynamic_img_size" in inspect.signature(timm.models.SwinTransformer).parameters
SWIN = ((224, 224), False, 4) if ANY_SIZE else ((96, 128), True, 32)


@pytest.mark.parametrize(
    ("name", "size", "shape", "spec"),
    [
        ("swin_tiny_patch4_window7_224", (96, 128), (3, 4), SWIN),
        ("beit_base_patch16_224", (32, 48), (2, 3), ((32, 48), True, 16)),  # no dynamic_img_size
        ("mixer_s16_224", (32, 48), (2, 3), ((32, 48), True, 16)),
    ],
)
@torch.no_grad()
def test_other_transformers(name, size, shape, spec):
    with torch.device("meta"):
        branch = model.make_branch(3, 2, "avg", f"timm:{name}", image_size=size)
        assert branch.input_spec[2:] == spec
        assert branch.feature_map(torch.empty(1, 3, *size)).shape[2:] == shape
    if branch.input_spec.fixed:
        height, width = size
        wanted = f"of {height} x {width} pixels only, not 64 x 64: give --h {height}"
        with pytest.raises(ValueError, match=wanted):
            branch.feature_map(torch.empty(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("mvitv2_tiny", (64, 96), "224 x 224 pixels, and timm cannot build it for 64 x 96: give"),
        (TINY.removeprefix("timm:"), (40, 48), "squares of 16 pixels, and 40 x 48 is not"),
    ],
)
def test_sizes_that_are_refused(name, size, message):
    with pytest.raises(ValueError, match=message) as caught:
        branch = model.make_branch(3, 2, "avg", f"timm:{name}", image_size=size)
        branch.feature_map(torch.rand(1, 3, *size))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- weights
@torch.no_grad()
def test_weights_of_another_size_are_resampled():
    """Into a network that keeps the size of its training, and one that is built for a size."""
    torch.manual_seed(0)
    small = warmed(timm.create_model("test_vit", num_classes=0, img_size=80))
    branch = model.make_branch(3, 2, "gem", TINY, image_size=(80, 80)).eval()
    state = small.state_dict()
    assert state["pos_embed"].shape == (1, 1 + 25, 64)
    branch.load_imagenet(state, "FILE")
    assert branch.model.pos_embed.shape == (1, 1 + 100, 64)
    assert torch.equal(branch.model.blocks[1].mlp.fc1.weight, small.blocks[1].mlp.fc1.weight)
    expected = timm.layers.resample_abs_pos_embed(small.pos_embed, [10, 10], num_prefix_tokens=1)
    torch.testing.assert_close(branch.model.pos_embed.data, expected)
    mixer = timm.create_model("mixer_s16_224", num_classes=0).state_dict()
    branch = model.make_branch(3, 2, "avg", "timm:mixer_s16_224", image_size=(32, 32))
    with pytest.raises(ValueError, match="FILE does not fit the backbone"):  # it mixes positions
        branch.load_imagenet(mixer, "FILE")
    with pytest.raises(ValueError, match="FILE does not fit the backbone"):
        branch.load_imagenet({"nonsense": torch.zeros(1)}, "FILE")


# ---------------------------------------------------------------- a run
def test_a_run_at_another_size(toy, workdir, capsys):
    """It trains, resumes to the same weights, and is tested at several scales."""
    argv = [*AT_48, "--pool", "cls+gem", "--share", "--data_dir", str(toy), "--train_all"]
    train.main([*argv, "--name", "whole", "--epochs", "2", "--step_size", "9"])
    train.main([*argv, "--name", "halves", "--epochs", "1", "--step_size", "9"])
    train.main(["--name", "halves", "--resume", "--epochs", "2"])
    whole, halves = (
        utils.load_state_dict(workdir / "model" / name / "net_last.pth")
        for name in ("whole", "halves")
    )
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert whole["model_1.model.pos_embed"].shape == (1, 101, 64)
    tested = ["--name", "whole", "--test_dir", str(toy), "--device", "cpu", "--num_workers", "0"]
    metrics = test.main([*tested, "--ms", "1,1.34"])  # 48 and 64 pixels
    assert 0 <= metrics["recall@1"] <= 100
    fails(test.main, [*tested, "--ms", "1.5"], capsys, "squares of 16 pixels, and 72 x 72")
    fails(
        train.main,
        [*argv, "--name", "odd", "--h", "40"],
        capsys,
        "cuts images into squares of 16 pixels, and 40 x 48 is not a multiple of that",
    )
