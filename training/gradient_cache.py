"""The gradient of a loss over a batch larger than memory: gradient caching.

A contrastive loss compares every image of a batch with every other, so the batch cannot simply be
cut up. Two passes do it (Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup, RepL4NLP 2021): the first computes all outputs and keeps nothing else; the loss gives
the gradient of the outputs; the second computes each part again and sends its gradient on.

Batch norm normalises each part by itself in both passes; its running statistics are updated in the
second alone.
"""

from contextlib import nullcontext

import torch

from losses import Output
from networks.blocks import kept_statistics


def split_batch(images, micro_batchsize, longest=None):
    """{view: (B, 3, H, W)} -> such dictionaries of at most `micro_batchsize` images a view.

    No part holds a lone image of a view, for batch norm needs two: where `micro_batchsize` is 2
    some hold three, and of a view with few images the last parts are empty, (0, 3, H, W).
    `longest` is the largest B of any view, in any process, so that all have as many parts; by
    default that of these images. `micro_batchsize` None: the batch as it is, alone in a list.
    """
    if micro_batchsize is None:
        return [images]
    longest = longest or max(map(len, images.values()))
    count = max(1, min(-(-longest // micro_batchsize), longest // 2))
    pieces = {view: _pieces(x, count) for view, x in images.items()}
    return [{view: xs[number] for view, xs in pieces.items()} for number in range(count)]


def _pieces(x, count):
    filled = max(1, min(count, len(x) // 2))
    return [*torch.tensor_split(x, filled), *[x[:0]] * (count - filled)]


class GradientCache:
    """Two passes of the parts of a batch through `forward`, which is `network` or wraps it.

    `first_pass` gives the outputs of the whole batch as if nothing had been cut; when the loss of
    these has been sent back, `second_pass` adds the gradient of the weights.
    """

    def __init__(self, network, forward):
        self.network = network
        self.forward = forward
        self.outputs = None  # of each part: {view: Output}, leaves of the loss's graph
        self.state = None  # of the random numbers before the first part

    def first_pass(self, run, parts):
        """{view: Output} of all parts; `run` is called with each of them."""
        self.state = _random_state()
        with torch.no_grad(), kept_statistics(self.network):
            self.outputs = [
                {view: _leaves(output) for view, output in run(part).items()} for part in parts
            ]
        return {view: _joined([part[view] for part in self.outputs]) for view in self.outputs[0]}

    def second_pass(self, run, parts):
        """Compute each part again, with the same random numbers, and send its gradient back."""
        _set_random_state(self.state)
        for number, part in enumerate(parts, 1):
            # Of several processes' gradients only the sum of all parts is exchanged.
            wait = (
                getattr(self.forward, "no_sync", nullcontext)
                if number < len(parts)
                else nullcontext
            )
            with wait():
                pairs = [
                    (again, leaf.grad)
                    for view, output in run(part).items()
                    for again, leaf in zip(output, self.outputs[number - 1][view], strict=True)
                    # No loss may use the logits, or there is no embedding.
                    if leaf is not None and leaf.grad is not None
                ]
                torch.autograd.backward(*zip(*pairs, strict=True))


def _leaves(output):
    return Output(*(None if x is None else x.detach().requires_grad_() for x in output))


def _joined(outputs):
    """Outputs of several parts as one, through which gradients go back to them."""
    return Output(*(None if x[0] is None else torch.cat(x) for x in zip(*outputs, strict=True)))


def _random_state():
    return (
        torch.get_rng_state(),
        torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    )


def _set_random_state(state):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
