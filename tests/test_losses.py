"""Loss terms against hand-worked values."""

import math

import pytest
import torch

from losses import build_losses, require_finite


def test_instance_loss_is_the_sum_over_views():
    """Published defect 19: with `--loss_merge` alone the loss was 4 CE(mean) for three streams."""
    logits = {"satellite": torch.tensor([[0.0, 0.0]]), "drone": torch.tensor([[0.0, math.log(3)]])}
    labels = {"satellite": torch.tensor([0]), "drone": torch.tensor([0])}
    value = build_losses()["instance"](logits, labels)
    assert value.item() == pytest.approx(math.log(2) + math.log(4))


def test_gradient_is_softmax_minus_one_hot():
    logits = torch.tensor([[1.0, 2.0, 0.5]], requires_grad=True)
    build_losses()["instance"]({"drone": logits}, {"drone": torch.tensor([1])}).backward()
    expected = torch.softmax(logits.detach(), 1) - torch.tensor([[0.0, 1.0, 0.0]])
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_terms_are_named(value):
    terms = {"instance": torch.tensor(1.0), "other": torch.tensor(value)}
    with pytest.raises(FloatingPointError, match="the other loss became .* at step 7"):
        require_finite(terms, 7)
