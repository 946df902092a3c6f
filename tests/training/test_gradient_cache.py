"""Gradient caching: the gradient of a batch in parts is that of the batch."""

import copy

import pytest
import torch
from conftest import without_batch_norm
from torch import nn

import losses
import train
from training import build, engine
from training.gradient_cache import GradientCache, split_batch


class Network(nn.Module):
    """Two branches, or one for both, and a head, with what is asked for in between."""

    def __init__(self, *layers, share=False):
        super().__init__()
        self.model_1 = nn.Linear(12, 7)
        self.model_2 = self.model_1 if share else nn.Linear(12, 7)
        self.middle = nn.Sequential(*layers)
        self.classifier = nn.Linear(7, 5)

    def forward(self, a, b):
        parts = [x for x in (a, b) if x is not None]
        branches = [m for m, x in ((self.model_1, a), (self.model_2, b)) if x is not None]
        pooled = [branch(x.flatten(1)) for branch, x in zip(branches, parts, strict=True)]
        middle = self.middle(torch.cat(pooled)).split([len(x) for x in parts])
        outputs = iter([(self.classifier(x), x) for x in middle])
        return tuple(None if x is None else next(outputs) for x in (a, b))


def run_of(network):
    def run(images):
        outputs = network(images.get("satellite"), images.get("drone"))
        return {
            view: losses.as_output(output)
            for view, output in zip(("satellite", "drone"), outputs, strict=True)
            if output is not None
        }

    return run


def batch(satellite, drone):
    torch.manual_seed(1)
    labels = {"satellite": torch.arange(satellite) % 5, "drone": torch.arange(drone) % 5}
    images = {v: torch.randn(len(y), 3, 2, 2).double() for v, y in labels.items() if len(y)}
    return images, {view: y for view, y in labels.items() if len(y)}


def gradients(module):
    return {name: w.grad for name, w in module.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize(
    ("satellite", "drone", "micro"), [(8, 8, 2), (9, 7, 4), (5, 0, 2), (6, 2, 2)]
)
@pytest.mark.parametrize("instance", [1.0, 0.0])
def test_gradient_in_parts_is_that_of_the_batch(satellite, drone, micro, instance, share):
    """InfoNCE with its own trained temperature, and the instance loss; views of unequal length.

    Without the instance loss the logits, and so the classifier, have no gradient in either.
    """
    images, labels = batch(satellite, drone)
    whole = Network(nn.Tanh(), share=share).double()
    terms = losses.build_losses(
        {"instance": instance, "infonce": 0.7, "triplet": 0.5}, loss_merge=True
    )
    terms = terms.double()
    parted, parted_terms = copy.deepcopy(whole), copy.deepcopy(terms)
    expected = sum(terms(run_of(whole)(images), labels).values())
    expected.backward()

    parts = split_batch(images, micro)
    assert len(parts) > 1 and max(len(x) for part in parts for x in part.values()) <= micro + 1
    cache = GradientCache(parted, parted)
    loss = sum(parted_terms(cache.first_pass(run_of(parted), parts), labels).values())
    loss.backward()
    assert not gradients(parted)  # only the second pass reaches the weights
    cache.second_pass(run_of(parted), parts)
    torch.testing.assert_close(loss, expected)
    for module, other in ((whole, parted), (terms, parted_terms)):
        first, second = gradients(module), gradients(other)
        assert first.keys() == second.keys() and first
        for name in first:
            torch.testing.assert_close(second[name], first[name], atol=1e-12, rtol=1e-9, msg=name)
    assert ("classifier.weight" in gradients(parted)) == (instance > 0)


@pytest.mark.parametrize("share", [[], ["--share"]], ids=["own", "shared"])
@pytest.mark.parametrize("saving", [[], ["--grad_checkpoint"]], ids=["kept", "checkpointed"])
def test_a_step_in_parts_is_the_step_of_the_batch(monkeypatch, saving, share):
    """train_step, four views of a ResNet of unequal length, one view of two images only."""
    sizes = {"satellite": [7], "street": [2], "drone": [6], "google": [3]}
    torch.manual_seed(0)
    batch = {
        view: (torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.randperm(7)[:n])
        for view, (n,) in sizes.items()
    }
    argv = ["--views", "3", "--extra", "--no_pretrained", "--backbone", "resnet18", "--droprate",
            "0", "--loss_weights", "infonce=1", *share]  # fmt: skip

    def step(*options):
        opts = train.parse_args([*argv, *options])
        torch.manual_seed(1)
        network = build.build_network(opts, 7)
        without_batch_norm(network)
        training = build.build_training(opts, network, torch.device("cpu"), 7)
        training.network.train()
        terms, wrong = engine.train_step(training, batch, sizes)
        return terms, wrong, {**gradients(training.network), **gradients(training.losses)}

    terms, wrong, expected = step()
    assert "infonce.logit_scale" in expected and "model_2.model.conv1.weight" in expected
    parted = step("--micro_batchsize", "2", *saving)
    assert parted[1] == wrong and terms.keys() == parted[0].keys()
    torch.testing.assert_close(parted[0], terms)
    assert parted[2].keys() == expected.keys()
    for name, gradient in expected.items():
        error = (parted[2][name] - gradient).norm() / gradient.norm()
        assert error < 1e-5, (name, error)


def test_both_passes_drop_the_same_and_count_statistics_once():
    images, labels = batch(6, 6)
    network = Network(nn.BatchNorm1d(7), nn.Dropout(0.5)).double()
    plain = copy.deepcopy(network)
    parts = split_batch(images, 3)
    cache = GradientCache(network, network)
    torch.manual_seed(5)
    outputs = cache.first_pass(run_of(network), parts)
    kept = network.middle[0].running_mean.clone()
    assert torch.equal(kept, plain.middle[0].running_mean) and network.middle[0].momentum == 0.1
    sum(losses.build_losses()(outputs, labels).values()).backward()
    cache.second_pass(run_of(network), parts)

    # The same by hand: every part on its own, its share of the same loss.
    torch.manual_seed(5)
    found = [run_of(plain)(part) for part in parts]
    joined = {
        view: (torch.cat([f[view].logits for f in found]),
               torch.cat([f[view].embedding for f in found]))
        for view in images
    }  # fmt: skip
    sum(losses.build_losses()(joined, labels).values()).backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(network)[name], gradient, msg=name)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(network.named_buffers())[name], buffer, msg=name)
    assert int(network.middle[0].num_batches_tracked) == 2


def test_a_batch_is_cut_evenly():
    def sizes(count, micro, other=0):
        images = {"a": torch.zeros(count, 1), "b": torch.zeros(other, 1)}
        return [tuple(map(len, part.values())) for part in split_batch(images, micro)]

    assert sizes(8, None) == [(8, 0)] and sizes(8, 8) == [(8, 0)]
    assert sizes(9, 4) == [(3, 0)] * 3
    assert sizes(8, 3, other=2) == [(3, 2), (3, 0), (2, 0)]
    assert sizes(3, 2) == [(3, 0)]  # never a lone image: batch norm needs two
    assert sizes(8, 2, other=5) == [(2, 3), (2, 2), (2, 0), (2, 0)]


@pytest.mark.parametrize("micro", [None, 2])
def test_a_process_cuts_its_batch_into_as_many_parts_as_the_others(micro):
    """One without any image, as torchrun's may be, and one with fewer than another."""
    counts = {"a": 3, "b": 0}
    for fewer in (counts, dict.fromkeys(counts, 0)):
        images = {view: torch.zeros(n, 1) for view, n in fewer.items()}
        parts = split_batch(images, micro, longest=6)
        assert len(parts) == (3 if micro else 1)
        joined = {view: torch.cat([part[view] for part in parts]) for view in images}
        assert all(torch.equal(joined[view], images[view]) for view in images)
