"""Parts of the published networks between backbone and head: GeM, USAM, square rings.

Each works on feature maps, so it can be read and tested without the networks.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F


# ---------------------------------------------------------------- pooling
class GeM(nn.Module):
    """Generalised-mean pooling, a trained exponent per channel (Radenovic et al., TPAMI 2019).

    y_c = (mean over positions of max(x_c, eps)^p_c)^(1/p_c), eq. 3; p = 1 is the average,
    p -> infinity the maximum. (B, C, H, W) -> (B, C).
    """

    def __init__(self, dim, p=3.0, eps=1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.full((dim,), float(p)))  # (C,)
        self.eps = eps

    def forward(self, x):
        # float32: x^p overflows half precision already at x = 41 with p = 3.
        p = self.p.float()
        powered = x.float().clamp(min=self.eps).pow(p[:, None, None])  # (B, C, H, W)
        return powered.mean(dim=(2, 3)).pow(1 / p)  # (B, C)


# ---------------------------------------------------------------- square rings
def _steps(size, parts, device):
    """Distance of each position on an axis from the centre line, floor(size / 2): (size,) int64.

    In steps of floor(size / (2 * parts)), 0 the nearest. What the steps leave over at the rim
    belongs to the last part.
    """
    offset = torch.arange(size, device=device) - size // 2
    distance = torch.where(offset < 0, -offset - 1, offset)
    return (distance // (size // (2 * parts))).clamp(max=parts - 1)  # (size,)


def square_rings(height, width, parts, device=None):
    """The ring of each position of a map, 0 the innermost: (H, W) int64.

    Ring i < parts - 1 is the centred square of half-size (i + 1) * step without the one inside it,
    the last ring is the rest of the map (LPN: Wang et al., TCSVT 2021, section III-B). Both sides
    must be at least 2 * parts.
    """
    rows, columns = _steps(height, parts, device), _steps(width, parts, device)
    return torch.maximum(rows[:, None], columns[None])


def _square_areas(height, width, parts):
    """Positions in the square that a ring closes, hole included: a list of `parts` ints."""
    step_h, step_w = height // (2 * parts), width // (2 * parts)
    return [(2 * i * step_h) * (2 * i * step_w) for i in range(1, parts)] + [height * width]


def _large_enough(x, parts):
    """The map, enlarged bilinearly where a side has fewer than 2 * parts positions."""
    size = [side + 2 * (parts - side // 2) if side < 2 * parts else side for side in x.shape[-2:]]
    if list(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def ring_pool(x, parts, kind="avg"):
    """Pool a map over `parts` square rings, inner to outer: (B, C, H, W) -> (B, C, parts).

    As published (wtyhub/LPN, `get_part_pool`), a ring is a square with a hole of zeros: `avg` is
    the sum of the ring divided by the area of the square, `max` is at least zero where there is a
    hole. For odd or unequal sides the published code shifts the hole; here it is in the centre.
    """
    x = _large_enough(x, parts)
    height, width = x.shape[-2:]
    rings = square_rings(height, width, parts, x.device)  # (H, W)
    masks = [rings == i for i in range(parts)]
    if kind == "avg":
        areas = _square_areas(height, width, parts)
        shares = [mask.to(x.dtype) / area for mask, area in zip(masks, areas, strict=True)]
        return x.flatten(2) @ torch.stack(shares, -1).flatten(0, 1)  # (B, C, HW) @ (HW, parts)
    # The innermost square has no hole.
    outside = [-torch.inf] + [0.0] * (parts - 1)
    filled = (x.where(mask, value) for mask, value in zip(masks, outside, strict=True))
    return torch.stack([each.amax(dim=(2, 3)) for each in filled], dim=-1)


# ---------------------------------------------------------------- attention
class USAM(nn.Module):
    """Unit Subtraction Attention Module (RK-Net: Lin et al., TIP 2022): (B, C, H, W) -> the same.

    S = sum of the channels; A = ReLU(BatchNorm(9 S - sum of S over 3 x 3, zeros outside)), zero on
    the outermost rows and columns; y = x + A x. Only the batch norm is trained. The two kernels
    are buffers under their published names, which a checkpoint may change.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(1, 1, 3, 3))
        self.register_buffer("weight2", torch.full((1, 1, 1, 1), 9.0))
        self.bn = nn.BatchNorm2d(1)

    def attention(self, x):
        """The A of `USAM`: (B, C, H, W) -> (B, 1, H, W) float."""
        # In float32, and not as a convolution, which a GPU would round to ten bits (TF32) and
        # autocast to half precision: 9 S - sum is a small difference of large numbers.
        dtype = torch.promote_types(x.dtype, torch.float32)
        total = x.sum(dim=1, keepdim=True, dtype=dtype)  # (B, 1, H, W)
        around = F.unfold(total, kernel_size=3, padding=1)  # (B, 9, HW)
        summed = (around * self.weight.to(dtype).view(1, 9, 1)).sum(1).view_as(total)
        attention = F.relu(self.bn(self.weight2.to(dtype) * total - summed))
        return F.pad(attention[:, :, 1:-1, 1:-1], (1, 1, 1, 1))

    def forward(self, x):
        return torch.addcmul(x, self.attention(x).to(x.dtype), x)


# ---------------------------------------------------------------- batch norm
@contextmanager
def kept_statistics(module):
    """Inside, batch norm in `module` normalises by the batch and keeps its running statistics.

    For a pass that is repeated, so that its batch counts once.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # not `track_running_stats`: checkpointing wants the same tensors saved
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
