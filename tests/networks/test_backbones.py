"""Every backbone against torchvision's own network, its metadata, and what it refuses."""

import copy
import sys

import pytest
import torch
import torchvision
from torch import nn

import model
from networks import backbones
from networks.branch import ViTBranch
from networks.inference import inference_copy
from training import optimisation

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = ("resnet101", "convnext_tiny", "swin_t", "swin_v2_t", "vit_b_32")


def warmed(network):
    """The network in evaluation mode, with weights that are not the zeros of a fresh start."""
    for weight in network.parameters():
        if weight.dim() < 2 or weight.std() == 0:
            nn.init.uniform_(weight, 0.05, 0.15)
    return network.eval()


@pytest.mark.parametrize("backbone", SMALL)
@torch.no_grad()
def test_pooled_feature_is_what_torchvision_classifies(backbone, size=64):
    """Also: torchvision's weights load, whole, and `pool cls` is a ViT's class token."""
    torch.manual_seed(0)
    transformer = {"image_size": size} if backbone.startswith("vit") else {}
    whole = warmed(torchvision.models.get_model(backbone, **transformer))
    network = model.build_model(
        3, backbone=backbone, share=True, pool="cls" if transformer else "avg"
    ).eval()
    if transformer:  # torchvision's positions are those of its own image size
        side = network.model_1.model.encoder.pos_embedding
        network.model_1.model.image_size = size
        network.model_1.model.encoder.pos_embedding = nn.Parameter(
            torch.zeros(1, 1 + (size // 32) ** 2, side.shape[2])
        )
    model.load_backbone(network, whole.state_dict(), "FILE")
    images = torch.rand(1, 3, size, size)
    pooled = network.model_1(images)
    classifier = {
        "resnet": lambda: whole.fc,
        "convnext": lambda: whole.classifier[2],
        "swin": lambda: whole.head,
        "vit": lambda: whole.heads,
    }[backbone.rstrip("0123456789").partition("_")[0]]()
    expected = whole(images)
    torch.testing.assert_close(classifier(pooled), expected, atol=1e-5, rtol=1e-4)
    folded = inference_copy(network)
    torch.testing.assert_close(folded.embed(images, 2), network.embed(images, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", ["convnext_tiny", "swin_t", "swin_v2_t", "vit_b_32"])
def test_every_trained_weight_gets_a_gradient(backbone):
    """And half-precision backbones keep the direction of the embedding."""
    torch.manual_seed(0)
    network = model.build_model(3, backbone=backbone, share=True)
    images = torch.randn(2, 3, 64, 64)
    first, second = network(images, images.flip(3))
    (first.square().sum() + second.sum()).backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    head, backbone, _ = optimisation.split_parameters(network)
    assert len(head) == 6 and len(head) + len(backbone) == len(list(network.parameters()))
    network.eval()
    with torch.no_grad():
        half = inference_copy(network, "bf16")
        assert next(half.model_1.parameters()).dtype == torch.bfloat16
        embedded = half.embed(images, 1)
        assert embedded.dtype == torch.float32
        similarity = torch.cosine_similarity(embedded, network.embed(images, 1))
        assert similarity.min() > 0.999


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("convnext_tiny", (2, 3)), ("swin_t", (2, 3)), ("swin_v2_t", (2, 3)), ("vit_b_32", (2, 3))],
)
@pytest.mark.parametrize(("pool", "LPN"), [("avg+max", False), ("max", True)])
@torch.no_grad()
def test_maps_and_widths(backbone, size, pool, LPN):
    branch = model.make_branch(3, 2, pool, backbone, 2 if LPN else None, False).eval()
    images = torch.rand(1, 3, 64, 96)
    channels = backbones.BACKBONES[backbone][2]
    assert branch.feature_map(images).shape == (1, channels, *size)
    width = channels * (2 if pool == "avg+max" else 1)
    assert branch(images).shape == ((1, width, 2) if LPN else (1, width))


@torch.no_grad()
def test_positions_of_a_vit_follow_the_image():
    torch.manual_seed(0)
    branch = ViTBranch("vit_b_32", "avg", None).eval()
    own = branch.model.encoder.pos_embedding
    assert branch._positions(7, 7) is own  # 224 pixels, the size of the weights
    own[0, 1:] = torch.arange(7.0).repeat(7)[:, None]  # the column's number
    wide = branch._positions(7, 14)
    assert wide.shape == (1, 1 + 7 * 14, 768) and torch.equal(wide[:, 0], own[:, 0])
    columns = wide[0, 1:, 0].unflatten(0, (7, 14))
    torch.testing.assert_close(columns, columns[:1].expand(7, 14))
    # A position of the wide grid lies half a step before or after one of the narrow grid.
    torch.testing.assert_close(columns[0, 4:10], torch.arange(4, 10) / 2 - 0.25)


@pytest.mark.parametrize(
    ("backbone", "size", "multiple"),
    [("resnet50", 224, 1), ("convnext_base", 224, 1), ("swin_v2_b", 256, 1), ("vit_b_16", 224, 16)],
)
def test_input_comes_from_the_weights(backbone, size, multiple):
    expected = backbones.InputSpec(*IMAGENET, (size, size), False, multiple)
    assert backbones.input_spec(backbone) == expected


@pytest.mark.parametrize("backbone", backbones.BACKBONES)
def test_the_table_is_right(backbone):
    assert backbones.input_spec(backbone)[:2] == IMAGENET
    with torch.device("meta"):  # shapes without memory or arithmetic
        branch = model.make_branch(3, 2, "avg", backbone)
        features = branch.feature_map(torch.empty(1, 3, 64, 64))
    assert features.shape[1] == branch.channels == backbones.BACKBONES[backbone][2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet1"}, "backbone 'resnet1' is unknown: expected resnet18.*timm:NAME"),
        ({"pool": "sum"}, "pool 'sum' is unknown"),
        ({"stride": 3}, "stride 3 is not possible"),
        ({"backbone": "swin_t", "stride": 1}, "stride 1 changes a ResNet's.*swin_t has none"),
        ({"backbone": "vgg16_bn", "usam": True}, "not into vgg16_bn"),
        ({"pool": "cls"}, "pool cls is made of the class token of a ViT; resnet50"),
        ({"pool": "cls+gem", "backbone": "swin_t"}, "class token of a ViT; swin_t"),
        ({"LPN": True, "pool": "gem"}, "--LPN pools.*not with gem"),
        ({"LPN": True, "block": 0}, "0 rings are not possible: --block is from 1 to 32"),
        ({"pool": "rings", "block": 33}, "33 rings are not possible"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        model.build_model(3, **options)
    assert "\n" not in str(caught.value)


def test_a_vit_refuses_sizes_between_its_patches():
    backbones.input_spec("vit_b_32").check_size("vit_b_32", 64, 96)
    with pytest.raises(ValueError, match="squares of 32 pixels, and 64 x 80 is not a multiple"):
        ViTBranch("vit_b_32", "avg", None)(torch.rand(1, 3, 64, 80))


# ---------------------------------------------------------------- timm
def test_a_missing_timm_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # makes its import fail
    with pytest.raises(ValueError, match="needs the timm package: pip install timm"):
        model.build_model(3, backbone="timm:resnet18")


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "pool", "size"),
    [
        ("convnext_atto", "avg", 64),  # layer norm after the pooling
        ("resnet10t", "avg", 64),
        ("swin_s3_tiny_224", "avg", 224),  # channels last
        ("vit_tiny_patch16_224", "cls", 224),
        ("vit_wee_patch16_reg1_gap_256", "avg", 256),  # registers, a norm after the pooling
    ],
)
@torch.no_grad()
def test_pooled_feature_is_timms_own(timm, name, pool, size):
    """Its weights load too, and nothing is folded that might not be in the order of use."""
    torch.manual_seed(0)
    whole = warmed(timm.create_model(name, num_classes=0))
    network = model.build_model(3, backbone=f"timm:{name}", pool=pool, share=True).eval()
    model.load_backbone(network, whole.state_dict(), "FILE")
    images = torch.rand(1, 3, size, size)
    expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
    torch.testing.assert_close(network.model_1(images), expected, atol=1e-5, rtol=1e-4)
    embedded = network.embed(images, 1)
    torch.testing.assert_close(
        inference_copy(network).embed(images, 1), embedded, atol=1e-5, rtol=0
    )
    half = inference_copy(network, "bf16").embed(images, 1)
    assert torch.cosine_similarity(half, embedded).min() > 0.99


def test_what_timm_says_of_its_images(timm):
    spec = backbones.input_spec("timm:convnext_base.fb_in22k_ft_in1k_384")
    assert spec == (*IMAGENET, (384, 384), False, 1)
    spec = backbones.input_spec("timm:vit_small_patch16_224")
    assert spec == ((0.5,) * 3, (0.5,) * 3, (224, 224), True, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nonsense", "has no model 'nonsense'"), ("convnext_atto.nonsense", "nonsense")],
)
def test_names_that_timm_does_not_know(timm, name, message):
    with pytest.raises(ValueError, match=message):
        model.build_model(3, backbone=f"timm:{name}")


def test_no_class_token_to_pool(timm):
    with pytest.raises(ValueError, match="timm:resnet10t has no class token"):
        model.build_model(3, backbone="timm:resnet10t", pool="cls", share=True)


# ---------------------------------------------------------------- gradient checkpointing
def kept_bytes(network, images):
    """Loss, gradients and statistics of a step, and the bytes kept for the way back."""
    kept, weights = {}, {w.untyped_storage().data_ptr() for w in network.parameters()}

    def pack(x):
        place = x.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = network(images).square().mean()
    loss.backward()
    gradients = {n: w.grad for n, w in network.named_parameters() if w.grad is not None}
    return loss.detach(), gradients, dict(network.named_buffers()), sum(kept.values())


@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "vgg16_bn", "convnext_tiny", "swin_t", "vit_b_32", "timm:convnext_atto"],
)
def test_checkpointing_changes_memory_alone(backbone, request):
    """Batch norm's statistics count the batch once, though it passes twice; a random depth of
    ConvNeXt and Swin, and a ViT's dropout, are drawn once."""
    if backbone.startswith("timm"):
        request.getfixturevalue("timm")
    torch.manual_seed(0)
    size = 224 if backbone.startswith("vit") else 64
    images = torch.randn(2, 3, size, size)
    plain = model.make_branch(5, 2, "avg", backbone).train()
    for name in plain.unused:  # VGG's has nine tenths of its weights
        setattr(plain.model, name, nn.Identity())
    if backbone.startswith("vit"):
        del plain.model.encoder.layers[4:]
        for layer in plain.model.encoder.layers:
            layer.dropout.p = 0.1
    saving = copy.deepcopy(plain)
    saving.checkpoint_gradients()
    first, second = kept_bytes(plain, images), kept_bytes(saving, images)
    torch.testing.assert_close(second[0], first[0])
    assert len(first[1]) > 20
    for ours, expected in ((second[1], first[1]), (second[2], first[2])):
        assert ours.keys() == expected.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], expected[name], atol=1e-5, rtol=1e-4, msg=name)
    assert second[3] < 0.6 * first[3]


def test_checkpointing_that_timm_would_do_wrong_is_refused(timm):
    """Its own passes a batch twice through batch norm, which would count it twice."""
    branch = model.make_branch(5, 2, "avg", "timm:resnet10t")
    with pytest.raises(ValueError, match="timm:resnet10t has batch norm.*leave --grad_checkpoint"):
        branch.checkpoint_gradients()
