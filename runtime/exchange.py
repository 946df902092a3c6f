"""What the processes of torchrun exchange: batches, gradients, statistics.

In a single process nothing is exchanged: batches, outputs and networks come back as they are.
"""

import inspect

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from runtime.processes import is_main, rank, world_size


# ---------------------------------------------------------------- numbers
def sum_over_ranks(tensor):
    """Sum of a tensor of one shape over all processes, in place."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def gather_counts(counts):
    """[n, ...] of this process -> [[n, ...] of each process]; through the CPU, so no GPU waits."""
    if world_size() == 1:
        return [counts]
    table = torch.zeros(world_size(), len(counts), dtype=torch.long)
    table[rank()] = torch.tensor(counts)
    return sum_over_ranks(table).tolist()


def join_shards(features, count, device):
    """Features (count, D) whose other processes' rows are zero -> all rows, in every process.

    A process that had no batch has None; the first always has one.
    """
    if world_size() == 1:
        return features
    width = features.shape[1] if is_main() else 0
    width = int(sum_over_ranks(torch.tensor(width, device=device)))
    if features is None:
        features = torch.zeros(count, width).numpy()
    return sum_over_ranks(torch.from_numpy(features).to(device)).cpu().numpy()


# ---------------------------------------------------------------- batches
def batch_sizes(batch, views):
    """{view: [images in the batch of each process]}; a view that a batch lacks counts 0."""
    counts = [len(batch[view][1]) if view in batch else 0 for view in views]
    return dict(zip(views, zip(*gather_counts(counts), strict=True), strict=True))


def with_every_view(batch, views, nothing):
    """The batch with an empty one, `nothing[view]` (0, ...), for each view that it lacks.

    Of several processes each must go through all weights, for they wait for one another's
    gradients. An empty batch gives gradients of zero and leaves batch norm as it was.
    """
    if world_size() == 1:
        return batch
    labels = torch.empty(0, dtype=torch.long)
    return {view: batch.get(view, (nothing[view], labels)) for view in views}


class _GatherRows(torch.autograd.Function):
    """Rows of all processes in rank order; the gradient of a row is summed over the processes."""

    @staticmethod
    def forward(ctx, rows, sizes):
        start = sum(sizes[: distributed.get_rank()])
        ctx.local = slice(start, start + len(rows))
        gathered = rows.new_zeros(sum(sizes), *rows.shape[1:])
        gathered[ctx.local] = rows
        distributed.all_reduce(gathered)  # each row is zero in all processes but one
        return gathered

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[ctx.local], None


def gather_batch(features, sizes):
    """Features (B_local, ...) of this process -> (B_global, ...) of all, in rank order.

    `sizes` are the B_local of all processes, which may differ and be zero. So every process can
    compare with the whole batch. Gradients go back to the process a row came from, as the sum over
    the processes; DistributedDataParallel then averages the weights' gradients. What is minimised
    is thus the mean over the processes of what each computes from the gathered rows: the loss of
    the whole batch where each computes all of it.
    """
    return _GatherRows.apply(features, sizes) if len(sizes) > 1 else features


def gather_views(outputs, labels, sizes):
    """Outputs {view: NamedTuple of (B, ...) or None} and labels {view: (B,)} of all processes.

    Every process then computes the loss of the whole batch, whatever that compares. A view of
    which no process has an image is left out. `sizes` are those of `batch_sizes`.
    """
    if world_size() == 1:
        return outputs, labels
    present = [view for view in outputs if any(sizes[view])]
    # Weights that only an absent view uses must get their gradient of zero all the same.
    absent = [x for view in outputs if view not in present for x in outputs[view]]
    nothing = sum(0 * x.sum() for x in absent if x is not None)

    def gather(x, counts):
        if x is None:
            return None
        return gather_batch(x + nothing if x.is_floating_point() else x, counts)

    return (
        {v: type(outputs[v])(*(gather(x, sizes[v]) for x in outputs[v])) for v in present},
        {view: gather_batch(labels[view], sizes[view]) for view in present},
    )


def with_all_outputs(loss, outputs):
    """The loss, such that every floating-point output gets a gradient, of zero at least.

    The processes wait for the gradients of what no loss term uses too.
    """
    if world_size() == 1:
        return loss
    tensors = [x for output in outputs.values() for x in output if x is not None]
    return loss + sum(0 * x.sum() for x in tensors if x.is_floating_point())


# ---------------------------------------------------------------- networks
def distribute(network, device):
    """The network to call in training: with gradients averaged over the processes, if there are.

    Batch norm's running statistics are not exchanged in every step: their update is linear, so to
    average them once, after an epoch (`average_statistics`), comes to the same.
    """
    if world_size() == 1:
        return network
    devices = [device] if device.type == "cuda" else None
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    # The name since torch 2.14, and the one before.
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(network, device_ids=devices, **{name: False})


def average_statistics(*networks):
    """Average batch norm's running statistics over the processes, in place; None is skipped."""
    if world_size() == 1:
        return
    # What is frozen, in evaluation mode, is the same in all, and a mean of equals may round.
    modules = [m for network in filter(None, networks) for m in network.modules() if m.training]
    for norm in [m for m in modules if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]:
        for buffer in norm.buffers(recurse=False):
            if buffer.is_floating_point():
                sum_over_ranks(buffer).div_(world_size())
