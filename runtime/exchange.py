"""What the processes of torchrun exchange: gradients of gathered rows, statistics, counts.

In one process every call does nothing.
"""

import torch
from torch import distributed


class _GatherRows(torch.autograd.Function):
    """Rows of all processes in rank order; the gradient of a row is summed over the processes."""

    @staticmethod
    def forward(ctx, rows, sizes):
        start = sum(sizes[: distributed.get_rank()])
        ctx.local = slice(start, start + len(rows))
        gathered = rows.new_zeros(sum(sizes), *rows.shape[1:])
        gathered[ctx.local] = rows
        distributed.all_reduce(gathered)  # each row is zero in all processes except one
        return gathered

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[ctx.local], None


def gather_batch(features, sizes):
    """Features (B_local, ...) of this process -> (B_global, ...) of all, in rank order.

    `sizes` are the B_local of all processes, which may differ and be zero. The gradient of a row
    goes back to the process it came from, as the sum over the processes; DistributedDataParallel
    then averages the gradients of the weights. So what is minimised is the mean over the processes
    of what each computes from the gathered rows: the loss of the whole batch, where each computes
    all of it.
    """
    return _GatherRows.apply(features, sizes) if len(sizes) > 1 else features
