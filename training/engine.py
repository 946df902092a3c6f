"""An epoch of training: each step is forward every view -> named loss terms -> sum -> backward."""

from contextlib import nullcontext

import torch

from losses import as_output, require_finite
from model import predicted_classes
from networks.inference import DTYPES
from runtime import exchange
from runtime.progress import Stopwatch, progress_bar
from training.gradient_cache import GradientCache, split_batch
from training.optimisation import clip_gradients

READ_EVERY = 100  # steps on a GPU between two looks at the loss


def train_one_epoch(training, data, epoch, lr_factor):
    """Train on every batch of an epoch.

    training, data: `Training` and `TrainingData` of training/build.py. lr_factor(epoch, progress)
    multiplies the learning rates. Returns {"loss", a mean per term, "error_<view>" in percent,
    "seconds_waiting" for images}.
    """
    training.network.train()
    training.losses.train()
    data.sampler.epoch = epoch
    tally = Tally(READ_EVERY if training.device.type == "cuda" else 1)
    batches = Stopwatch(progress_bar(data.loader, f"epoch {epoch}"))
    for batch in batches:
        sizes = exchange.batch_sizes(batch, training.views)
        if not any(map(sum, sizes.values())):  # no view had two images
            continue
        batch = exchange.with_every_view(batch, training.views, training.nothing)
        for group in training.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor(epoch, tally.steps / len(data.loader))
        tally.add(*train_step(training, batch, sizes), sizes)
    exchange.average_statistics(training.network, training.average)
    return {**tally.summary(), "seconds_waiting": batches.seconds}


def train_step(training, batch, sizes):
    """One update from a batch {view: (images (B, 3, H, W) uint8, labels (B,) int64)}.

    `sizes` {view: images in the batch of each process}: the loss and the wrong answers are those of
    the batches of all processes. What else a batch knows, see `TrainingViews`, goes to the losses.
    Returns {term: loss} and {view: wrong answers}, 0-d tensors that stay on the device: to read one
    would make this process wait for a GPU in every step. Without the instance loss no classifier is
    trained, and {view: wrong answers} is empty.
    """
    device = training.device
    images = {view: training.to_input(x) for view, (x, *_) in batch.items()}
    labels = {view: y.to(device, non_blocking=True) for view, (_, y, *_) in batch.items()}
    longest = max(map(max, sizes.values()))
    parts = split_batch(images, training.micro_batchsize, longest)
    if len(parts) > 1:
        cache = GradientCache(training.network, training.forward)
        outputs = cache.first_pass(lambda part: forward_views(training, part), parts)
    else:
        outputs = forward_views(training, images)
    outputs = with_labels(outputs, batch, training.losses, device)
    outputs, labels = exchange.gather_views(outputs, labels, sizes)
    terms = training.losses(outputs, labels)
    loss = sum(terms.values())
    loss = exchange.with_all_outputs(loss, outputs)
    training.optimizer.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()
    if len(parts) > 1:
        cache.second_pass(lambda part: forward_views(training, part), parts)
    if any(training.clip.values()):
        training.scaler.unscale_(training.optimizer)
        clip_gradients(training.optimizer, **training.clip)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    if training.average:
        training.average.update_parameters(training.network)
    wrong = {}
    if "instance" in training.losses:
        wrong = {
            view: (predicted_classes(y.logits) != labels[view]).sum() for view, y in outputs.items()
        }
    return {name: value.detach() for name, value in terms.items()}, wrong


def forward_views(training, images):
    """{view: losses.Output}, in float32, of images {view: (B, 3, H, W)}."""
    with autocast(training.device, training.precision):
        outputs = training.forward(*[images.get(view) for view in training.views])
    return {
        view: as_output(output)
        for view, output in zip(training.views, outputs, strict=False)
        if output is not None
    }


def autocast(device, precision):
    """Context of `torch.autocast` for precision "fp16" or "bf16"; does nothing for "fp32"."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def with_labels(outputs, batch, losses, device):
    """Outputs with the fields that a batch {view: (images, labels, {field: (B, ...)})} knows.

    Images that no weather was drawn for have the condition 0. In every process a view has the same
    fields, also one that an empty batch stands for.
    """
    labelled = {}
    for view, output in outputs.items():
        _, labels, *more = batch[view]
        known = more[0] if more else {}
        fields = {}
        if output.weather is not None:
            fields["condition"] = known.get("condition", torch.zeros_like(labels))
        if "overlap" in losses:
            fields["ground"] = known.get("ground", torch.zeros(len(labels), 3))
        fields = {name: x.to(device, non_blocking=True) for name, x in fields.items()}
        labelled[view] = output._replace(**fields)
    return labelled


class Tally:
    """Loss terms and wrong answers of an epoch, left on the device and read every few steps."""

    def __init__(self, read_every):
        self.read_every = read_every
        self.steps = 0
        self.unread = []  # {term: 0-d tensor} of the last steps
        self.sums = {}  # {term: float} of the steps before
        self.wrong, self.seen = {}, {}  # by view

    def add(self, terms, wrong, sizes):
        """Count a step: what `train_step` returned, and was given."""
        self.steps += 1
        self.unread.append(terms)
        for view, count in wrong.items():
            self.wrong[view] = self.wrong.get(view, 0) + count
            self.seen[view] = self.seen.get(view, 0) + sum(sizes[view])
        if len(self.unread) >= self.read_every:
            self.read()

    def read(self):
        """Add up the unread terms; FloatingPointError names a step's term that is not finite."""
        if not self.unread:
            return
        names = list(self.unread[0])
        values = torch.stack([terms[name] for terms in self.unread for name in names])
        first = self.steps - len(self.unread)
        for step, row in enumerate(values.view(-1, len(names)).tolist(), first):
            terms = dict(zip(names, row, strict=True))
            require_finite(terms, step)
            for name, value in terms.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.unread.clear()

    def summary(self):
        """{"loss", a mean per term, "error_<view>" in percent} of all steps."""
        self.read()
        if not self.steps:
            raise ValueError(
                "no batch held two images of one view: add images or raise --batchsize"
            )
        means = {name: value / self.steps for name, value in self.sums.items()}
        errors = {
            f"error_{view}": 100 * int(wrong) / self.seen[view]
            for view, wrong in self.wrong.items()
        }
        return {"loss": sum(means.values()), **means, **errors}
