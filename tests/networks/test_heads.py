"""Centring, and the heads of --head."""

import pytest
import torch
from conftest import NARROW

import model
from networks.heads import Centring, ClassBlock, LinearHead, make_head, whitening
from networks.inference import inference_copy
from networks.options import HEADS
from training import options


def test_centring_is_by_view():
    center = Centring(2, 2)
    x = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    torch.testing.assert_close(center(x, 1)[0], torch.tensor([0.6, 0.8]))  # no mean yet
    center.set_mean(2, torch.tensor([0.0, 1.0]))
    expected = torch.tensor([[2**-0.5, 2**-0.5], [1.0, 0.0]])
    torch.testing.assert_close(center(x, 2), expected)
    assert center.state_dict()["means"].tolist() == [[0, 0], [0, 1]]
    assert not list(center.parameters())


def test_whitened_features_spread_alike_in_all_directions():
    torch.manual_seed(0)
    spread = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0])
    turn = torch.linalg.qr(torch.randn(5, 5))[0]
    features = torch.randn(4000, 5) * spread @ turn
    directions = whitening(features, 3, shrink=0.0)
    variance = (features @ directions).T @ (features @ directions) / 4000
    torch.testing.assert_close(variance, torch.eye(3), atol=1e-3, rtol=0)
    # Shrunk, directions with a smaller variance than the first keep less: v / (v + 0.1 v1).
    shrunk = ((features @ whitening(features, 3)) ** 2).mean(0)
    expected = torch.tensor([16 / 17.6, 4 / 5.6, 1 / 2.6])
    torch.testing.assert_close(shrunk, expected, atol=0.03, rtol=0)
    few = whitening(features[:2], 4)  # two features have two directions
    assert few.shape == (5, 4) and not few[:, 2:].any() and few[:, :2].any(0).all()


def test_centring_whitens_what_it_has_centred():
    center = Centring(2, 3, 2)
    center.set_mean(1, torch.tensor([1.0, 0.0, 0.0]))
    center.directions.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    found = center(torch.tensor([[1.0, 3.0, 4.0]]), 1)  # centred (0, .6, .8), then (1.2, .8)
    torch.testing.assert_close(found, torch.tensor([[1.2, 0.8]]) / (1.2**2 + 0.8**2) ** 0.5)
    assert set(center.state_dict()) == {"means", "directions"}


@pytest.mark.parametrize("width", [8, 20, 30])
def test_a_linear_head_begins_as_a_rotation(width):
    head = LinearHead(20, 3, 0.5, width)
    weight = head.add_block[1].weight.detach()  # (width, 20)
    product = weight @ weight.T if width <= 20 else weight.T @ weight
    torch.testing.assert_close(product, torch.eye(min(width, 20)), atol=1e-5, rtol=0)
    assert [name for name, _ in head.named_parameters()] == [
        "add_block.1.weight", "classifier.0.weight", "classifier.0.bias",
    ]  # fmt: skip
    x = torch.randn(4, 20)
    assert (head.train().embed(torch.ones(1, 20)) != head.embed(torch.ones(1, 20))).any()
    assert head(x).shape == (4, 3)
    head.eval()
    if width >= 20:  # it keeps distances
        torch.testing.assert_close(torch.cdist(head.embed(x), head.embed(x)), torch.cdist(x, x),
                                   atol=1e-4, rtol=1e-4)  # fmt: skip


def test_heads_by_name():
    x = torch.randn(4, 6)
    none = make_head("none", 6, 3, 0.5, 512, return_f=True)
    logits, embedding = none(x)
    assert torch.equal(embedding, x) and logits.shape == (4, 3)
    assert type(make_head("linear", 6, 3, 0.5, 5)) is LinearHead
    torch.manual_seed(0)
    block = make_head("block", 6, 3, 0.5, 512)
    torch.manual_seed(0)
    published = ClassBlock(6, 3, 0.5)
    assert str(block) == str(published)
    for ours, theirs in zip(block.parameters(), published.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    rows = {flag: what for group in options.OPTIONS.values() for flag, what, *_ in
            (row for row in group if isinstance(row, tuple))}  # fmt: skip
    assert rows["--head"] == HEADS


@torch.no_grad()
@pytest.mark.parametrize(("head", "width"), [("block", 7), ("linear", 7), ("none", 64)])
def test_a_network_with_each(head, width):
    """In testing an embedding is that of training; views have means of their own, also where they
    share a branch."""
    torch.manual_seed(0)
    settings = {"share": True, "center": True, "embedding_dim": 7, "return_f": True}
    network = model.build_model(3, backbone=NARROW, head=head, **settings).eval()
    assert network.embedding_dim == width and network.center.means.shape == (2, 64)
    for number in (1, 2):
        network.center.set_mean(number, torch.rand(64))
    images = torch.rand(2, 3, 32, 32)
    (_, first), (_, second) = network(images, images)
    assert (first - second).abs().max() > 0.01
    copy = inference_copy(network)
    for number, trained in ((1, first), (2, second)):
        torch.testing.assert_close(copy.embed(images, number), trained, atol=1e-4, rtol=1e-4)
        pooled = network.model_1(images) - network.center.means[number - 1]
        pooled = pooled / pooled.norm(dim=1, keepdim=True)
        torch.testing.assert_close(network.classifier.embed(pooled), trained)
    assert network(None, images)[0] is None
    torch.testing.assert_close(network(None, images)[1][1], second)
