"""GeM, square rings and USAM against loops over their definitions, and their gradients."""

import pytest
import torch
from torch.nn import functional as F

from networks import blocks


def test_gem_between_mean_and_maximum():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert blocks.GeM(1, p=1.0)(x).item() == pytest.approx(3.0)
    # (1 + 8 + 27 + 216) / 4 = 63
    assert blocks.GeM(1)(x).item() == pytest.approx(63 ** (1 / 3))
    assert blocks.GeM(1, p=40.0)(x).item() == pytest.approx(6.0, rel=0.05)


def test_gem_survives_half_precision():
    x = torch.full((1, 2, 2, 2), 60.0, dtype=torch.float16)  # 60^3 overflows float16
    assert blocks.GeM(2)(x).tolist() == [[pytest.approx(60.0, rel=1e-3)] * 2]


# ---------------------------------------------------------------- square rings
def rings_by_definition(x, parts, kind):
    """Pooled parts of one map (H, W), a loop over positions: list of `parts` floats."""
    height, width = x.shape
    centre, step = (height // 2, width // 2), (height // (2 * parts), width // (2 * parts))
    pooled = []
    for part in range(1, parts + 1):

        def inside(row, column, i):
            return (
                centre[0] - i * step[0] <= row < centre[0] + i * step[0]
                and centre[1] - i * step[1] <= column < centre[1] + i * step[1]
            )

        values = []
        for row in range(height):
            for column in range(width):
                if part == parts or inside(row, column, part):
                    hole = part > 1 and inside(row, column, part - 1)
                    values.append(0.0 if hole else x[row, column].item())
        pooled.append(sum(values) / len(values) if kind == "avg" else max(values))
    return pooled


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize(
    ("height", "width", "parts"),
    [(16, 16, 4), (8, 8, 4), (18, 18, 4), (12, 16, 2), (9, 11, 3), (7, 5, 1)],
)
def test_ring_pool_is_a_loop_over_positions(height, width, parts, kind):
    torch.manual_seed(0)
    x = torch.randn(2, 3, height, width)
    expected = [[rings_by_definition(channel, parts, kind) for channel in image] for image in x]
    torch.testing.assert_close(blocks.ring_pool(x, parts, kind), torch.tensor(expected))


def test_rings_of_a_small_map_by_hand():
    assert blocks.square_rings(4, 4, 2).tolist() == [
        [1, 1, 1, 1],
        [1, 0, 0, 1],
        [1, 0, 0, 1],
        [1, 1, 1, 1],
    ]
    # 2 x 2 square of ones; twelve ones around it over all sixteen positions
    assert blocks.ring_pool(torch.ones(1, 1, 4, 4), 2).tolist() == [[[1.0, 12 / 16]]]
    # the hole is zero, so a ring of negative numbers has the maximum zero
    assert blocks.ring_pool(-torch.ones(1, 1, 4, 4), 2, "max").tolist() == [[[-1.0, 0.0]]]


@pytest.mark.parametrize(("size", "larger"), [((2, 2), (8, 8)), ((7, 7), (9, 9)), ((4, 9), (8, 9))])
def test_small_maps_are_enlarged_as_published(size, larger):
    x = torch.randn(1, 2, *size)
    enlarged = F.interpolate(x, size=larger, mode="bilinear", align_corners=True)
    torch.testing.assert_close(blocks.ring_pool(x, 4), blocks.ring_pool(enlarged, 4))


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_gradient_of_ring_pool(kind):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: blocks.ring_pool(x, 2, kind), x)
    assert torch.autograd.gradcheck(lambda x: blocks.ring_pool(x, 4, kind), x)  # enlarged


# ---------------------------------------------------------------- USAM
def usam_by_definition(x, scale, shift):
    """One image (C, H, W), a loop over positions; batch norm as attention * scale + shift."""
    _, height, width = x.shape
    total = x.sum(0)
    out = x.clone()
    for row in range(1, height - 1):  # the outermost positions have no attention
        for column in range(1, width - 1):
            around = total[row - 1 : row + 2, column - 1 : column + 2].sum()
            attention = max((9 * total[row, column] - around) * scale + shift, 0)
            out[:, row, column] += attention * x[:, row, column]
    return out


def test_usam_is_a_loop_over_positions():
    torch.manual_seed(0)
    usam = blocks.USAM()
    usam.bn.running_mean.fill_(0.3)
    usam.bn.running_var.fill_(2.0)
    usam.bn.weight.data.fill_(0.7)
    usam.bn.bias.data.fill_(0.1)
    scale = 0.7 / (2.0 + usam.bn.eps) ** 0.5
    x = torch.randn(2, 3, 5, 6)
    expected = torch.stack([usam_by_definition(image, scale, 0.1 - 0.3 * scale) for image in x])
    torch.testing.assert_close(usam.eval()(x), expected)


def test_usam_trains_its_batch_norm_on_the_whole_map():
    """The zeros of the rim come after batch norm, whose statistics see the rim too."""
    x = torch.randn(2, 3, 5, 6)
    total = x.sum(1, keepdim=True)
    subtracted = 9 * total - 9 * F.avg_pool2d(total, 3, 1, 1)
    usam = blocks.USAM()
    usam(x)
    torch.testing.assert_close(usam.bn.running_mean, 0.1 * subtracted.mean().view(1))


def test_keys_and_trained_weights_of_usam():
    usam = blocks.USAM()
    shapes = {key: tuple(value.shape) for key, value in usam.state_dict().items()}
    assert shapes == {
        "weight": (1, 1, 3, 3),
        "weight2": (1, 1, 1, 1),
        "bn.weight": (1,),
        "bn.bias": (1,),
        "bn.running_mean": (1,),
        "bn.running_var": (1,),
        "bn.num_batches_tracked": (),
    }
    assert [name for name, _ in usam.named_parameters()] == ["bn.weight", "bn.bias"]
    # A published moving average may have changed the kernels: those of the file count.
    changed = blocks.USAM().eval()
    changed.weight.mul_(0.5)
    x = torch.randn(1, 2, 4, 4)
    assert not torch.allclose(changed(x), usam.eval()(x))


def test_gradient_of_usam():
    torch.manual_seed(0)
    usam = blocks.USAM().double()
    usam.bn.bias.data.fill_(0.2)
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    inputs = (x, usam.bn.weight, usam.bn.bias)

    def attended(x, weight, bias):
        parameters = {"bn.weight": weight, "bn.bias": bias}
        return torch.func.functional_call(usam, parameters, x)

    usam.bn.momentum = 0.0  # a repeated call must give the same
    assert torch.autograd.gradcheck(attended, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_usam_computes_its_attention_in_float32(dtype):
    """9 S overflows float16 here, and 9 S - sum is a small difference of large numbers."""
    torch.manual_seed(0)
    x = (30 + torch.randn(1, 256, 6, 6)).to(dtype)
    usam = blocks.USAM().eval()
    torch.testing.assert_close(usam.attention(x), usam.attention(x.float()))
    assert usam(x).dtype == dtype
