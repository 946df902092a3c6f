"""The maps of a backbone, and their pooling: --maps and --pool rings."""

import copy

import pytest
import torch
from conftest import NARROW
from torch.nn import functional as F

import model
from networks import backbones
from networks.inference import inference_copy
from training import options

# backbone: (side of the images, channels of maps 1, 2, 3 and the last)
CHANNELS = {
    NARROW: (8, 16, 32, 64),
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "vgg16_bn": (128, 256, 512, 512),
    "convnext_tiny": (96, 192, 384, 768),
    "swin_t": (96, 192, 384, 768),
    "timm:tf_efficientnet_lite0": (24, 40, 112, 1280),
    "timm:test_resnet": (32, 48, 192, 96),
    "timm:test_convnext": (24, 32, 48, 64),
}
MAPS = (1, 2, 3, "last")


def branch_of(backbone, pool="avg", block=None, **pooling):
    if backbone.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    return model.make_branch(3, 2, pool, backbone, block, **pooling).eval()


def gem_of(x, p=3.0):
    return x.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)


@pytest.mark.parametrize("backbone", CHANNELS)
def test_a_map_has_half_the_side_of_the_one_before(backbone):
    with torch.device("meta"):  # shapes without memory or arithmetic
        branch = branch_of(backbone, "gem", maps=MAPS)
        maps = branch.feature_maps(torch.empty(1, 3, 64, 128))
        assert branch(torch.empty(1, 3, 64, 128)).shape == (1, sum(CHANNELS[backbone]))
    expected = [(c, 64 // 2**n, 128 // 2**n) for n, c in enumerate(CHANNELS[backbone], 2)]
    assert [tuple(each.shape[1:]) for each in maps] == expected
    assert branch.map_channels == [*CHANNELS[backbone]]
    assert [gem.p.numel() for gem in branch.model.gem2] == branch.map_channels


@pytest.mark.parametrize(("backbone", "side", "width"), [("vit_b_32", 32, 768),
                                                         ("timm:test_vit", 16, 64)])  # fmt: skip
@torch.no_grad()
def test_a_transformer_has_a_map_for_each_block(backbone, side, width):
    branch = branch_of(backbone, "cls+gem", maps=(2, "last"))
    images = torch.rand(2, 3, 64, 96)
    cells = (64 // side) * (96 // side)
    maps = branch.feature_maps(images)
    assert [tuple(each.shape) for each in maps] == [(2, width, 1 + cells, 1)] * 2
    pooled = branch(images)
    assert pooled.shape == (2, branch.pooled_dim) == (2, 4 * width)
    torch.testing.assert_close(pooled[:, :width], F.normalize(maps[0][:, :, 0, 0]))
    patches = branch.as_map(torch.arange(2.0 * (1 + cells) * width).view(2, -1, width), (64, 96))
    assert patches[0, 0, :3, 0].tolist() == [0, width, 2 * width]  # the token, then the patches


@torch.no_grad()
def test_parts_stand_side_by_side_with_length_1():
    branch = branch_of(NARROW, "gem", maps=(3, "last"))
    images = torch.rand(2, 3, 64, 64)
    middle, last = branch.feature_maps(images)
    assert torch.equal(last, branch.feature_map(images))
    net = branch.model
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    torch.testing.assert_close(middle, net.layer3(net.layer2(net.layer1(x))))
    pooled = branch(images)
    expected = torch.cat([F.normalize(gem_of(each)) for each in (middle, last)], 1)
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(pooled.norm(dim=1), torch.full((2,), 2**0.5))
    assert not net.layer3[-1]._forward_hooks


@torch.no_grad()
def test_an_earlier_map_alone():
    """It is not normalised by what follows the last, and stays as long as it is."""
    branch = branch_of("convnext_tiny", "avg", maps=(3,))
    images = torch.rand(1, 3, 32, 32)
    (only,) = branch.feature_maps(images)
    assert only.shape == (1, 384, 2, 2)
    torch.testing.assert_close(branch(images), only.mean((2, 3)))
    # The last one is, also beside others.
    branch = branch_of("convnext_tiny", "avg", maps=(3, "last"))
    last = branch.feature_maps(images)[1].mean((2, 3))
    last = F.layer_norm(last, (768,), eps=1e-6)
    torch.testing.assert_close(branch(images)[:, 384:], F.normalize(last))


def test_rings_of_a_known_map():
    """Two rings of a 4 x 4 map: the middle 2 x 2, and what is around it over the whole area."""
    branch = branch_of(NARROW, "rings", rings=2)
    assert branch.pooled_dim == 128
    x = torch.zeros(1, 64, 4, 4)
    x[0, 0] = 1.0
    x[0, 1, 1:3, 1:3] = 2.0
    x[0, 2, 0] = 4.0
    pooled = branch.pooled([x])
    inner, outer = pooled[0, :64], pooled[0, 64:]
    torch.testing.assert_close(inner[:3], torch.tensor([1.0, 2.0, 0.0]) / 5**0.5)
    torch.testing.assert_close(outer[:3], torch.tensor([0.75, 0.0, 1.0]) / 1.25)
    both = branch_of(NARROW, "avg+rings", rings=2).pooled([x])
    torch.testing.assert_close(both[:, 64:], pooled)
    average = torch.tensor([1.0, 0.5, 1.0])
    torch.testing.assert_close(both[0, :3], average / average.norm())
    # Turned or mirrored it is the same.
    x = torch.rand(1, 64, 4, 4)
    torch.testing.assert_close(branch.pooled([x]), branch.pooled([x.rot90(1, (2, 3))]))


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_inference_copy_with_several_maps(precision):
    torch.manual_seed(0)
    settings = {"maps": (2, "last"), "pool": "gem+rings", "head": "linear", "center": True}
    network = model.build_model(3, backbone=NARROW, **settings).eval()
    half = inference_copy(network, precision)
    assert [gem.p.dtype for gem in half.model_1.model.gem2] == [torch.float32] * 2
    assert half.model_1.model.conv1.weight.dtype != torch.float32
    assert half.center.means.dtype == half.classifier.add_block[1].weight.dtype == torch.float32
    images = torch.rand(4, 3, 32, 32)
    for number in (1, 2):
        whole, found = network.embed(images, number), half.embed(images, number)
        assert F.cosine_similarity(whole, found).min() > 0.999
        exact = inference_copy(network).embed(images, number)
        torch.testing.assert_close(exact, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backbone", [NARROW, "vgg16_bn"])
def test_checkpointing_with_several_maps(backbone):
    plain = branch_of(backbone, "gem", maps=(2, "last"))
    saving = copy.deepcopy(plain)
    saving.checkpoint_gradients()
    images = torch.rand(2, 3, 32, 32)
    for branch in (plain, saving):
        branch.train()(images)[:, ::3].sum().backward()
    found, expected = ([w.grad for w in each.parameters() if w.grad is not None]
                       for each in (saving, plain))  # fmt: skip
    torch.testing.assert_close(found, expected)


def test_imagenet_weights_load_with_several_maps():
    state = branch_of(NARROW).model.state_dict()
    branch = branch_of(NARROW, "gem", maps=(2, "last"))
    with torch.no_grad():
        for weight in branch.parameters():
            weight.zero_()
    branch.load_imagenet(state, "a.pth")
    assert all(torch.equal(branch.model.state_dict()[key], state[key]) for key in state)
    assert {key for key in branch.model.state_dict() if key not in state} == {
        "gem2.0.p",
        "gem2.1.p",
    }


def test_pools_of_the_options_are_those_of_the_networks():
    assert options.POOLS == backbones.POOLS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"maps": (5, "last")}, "--maps 5: resnet_narrow has maps 1 to 4 and last"),
        ({"maps": (5, "last"), "backbone": "vgg16_bn"}, "vgg16_bn has maps 1 to 4 and last"),
        ({"maps": (0,)}, "expected numbers of stages and last"),
        ({"maps": ()}, "expected numbers of stages and last"),
        ({"maps": ("first",)}, "expected numbers of stages and last"),
        (
            {"maps": (7,), "backbone": "timm:test_vit"},
            "--maps 7: timm:test_vit has maps 1, 2, 3, 4, 5, 6, last",
        ),
        ({"maps": (2, "last"), "backbone": "timm:hrnet_w18_small"}, "are not one tensor each"),
        ({"head": "wide"}, "head 'wide' is unknown: expected one of block, linear, none"),
        ({"LPN": True, "center": True}, "--LPN has rings of the last map"),
        ({"LPN": True, "head": "linear"}, "--LPN has rings of the last map"),
        ({"LPN": True, "maps": (3, "last")}, "--LPN has rings of the last map"),
        ({"LPN": True, "pool": "rings"}, "--LPN pools its rings with avg, max or avg\\+max"),
        ({"musenet": True, "backbone": "resnet18", "center": True}, "--musenet adapts the last"),
        ({"musenet": True, "backbone": "resnet18", "maps": [3, "last"]}, "--musenet adapts the la"),
    ],
)
def test_refusals(settings, message):
    if settings.get("backbone", "").startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(ValueError, match=message):
        model.build_model(3, **{"backbone": NARROW, **settings})
