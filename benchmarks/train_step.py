"""A training step of ResNet-50: the published loop's way beside ours in float32 and bfloat16.

python benchmarks/train_step.py
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure  # noqa: E402

from runtime.cli import Parser, example_in, positive_int, script  # noqa: E402
from utils import select_device  # noqa: E402

WAYS = ("published", "ours, float32", "ours, bfloat16")
VIEWS = ("satellite", "drone")
CLASSES = 701
WARM_UP = 2  # steps until kernels are chosen and memory is at hand


def make_batch(quick, batch_size, seed=0):
    """A batch {view: (uint8 (B, 3, H, W), labels (B,))} of smooth noise, the same for all ways."""
    import torch

    side = 64 if quick else 256
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(CLASSES, generator=generator)[:batch_size]
    batch = {}
    for view in VIEWS:
        coarse = torch.rand(batch_size, 3, 8, 8, generator=generator)
        images = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
        images = images.mul(255).to(torch.uint8).contiguous(memory_format=torch.channels_last)
        batch[view] = (images, labels)
    return batch


def published_step(opts, batch, device):
    """A function that does one step the plain way of University1652-Baseline's train.py.

    Float32 images in the usual layout, an eager network, SGD without fusion, and the loss and the
    right answers of every view fetched to the host in every step. The network is ours, whose head
    normalises the views together, so that the losses can be compared.
    """
    import torch
    from torch.nn import functional as F

    from dataset import to_network_input
    from training import build

    network = build.build_network(opts, CLASSES).to(device).train()
    optimizer = torch.optim.SGD(
        [
            {"params": list(network.model_1.parameters()) + list(network.model_2.parameters())},
            {"params": network.classifier.parameters(), "lr": opts.lr},
        ],
        lr=opts.lr * opts.backbone_lr,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=True,
    )
    ready = {  # as the published loader hands it over
        view: (to_network_input(images, "cpu").contiguous(), labels)
        for view, (images, labels) in batch.items()
    }

    def step():
        optimizer.zero_grad()
        outputs = network(*[ready[view][0].to(device) for view in VIEWS])
        targets = [ready[view][1].to(device) for view in VIEWS]
        loss = sum(map(F.cross_entropy, outputs, targets))
        loss.backward()
        optimizer.step()
        right = [
            float(torch.sum(output.argmax(1) == target))
            for output, target in zip(outputs, targets, strict=True)
        ]
        return loss.item(), right

    return lambda: step()[0]


def our_step(opts, batch, device):
    """A function that does one step as train.py does."""
    from runtime import startup
    from training import build, engine

    startup.keep_freed_memory()
    network = build.build_network(opts, CLASSES)
    training = build.build_training(opts, network, device, CLASSES)
    training.network.train()
    sizes = {view: (len(labels),) for view, (_, labels) in batch.items()}

    def step():
        terms, _ = engine.train_step(training, batch, sizes)
        return terms

    return lambda: float(sum(step().values()))


def product_rate(dtype, device):
    """Additions and multiplications a second of a large matrix product: the limit of a step.

    The product is a convolution of 1 x 1, so that it is made by the library of the other ones.
    """
    import torch

    channels, side = 1024, 32
    images = torch.randn(8, channels, side, side, device=device, dtype=dtype)
    images = images.to(memory_format=torch.channels_last)
    weights = torch.randn(channels, channels, 1, 1, device=device, dtype=dtype)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        torch.nn.functional.conv2d(images, weights)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * len(images) * side**2 * channels**2 / median(seconds)


def time_steps(opts):
    """Run one way in this process.

    Returns {"seconds": of each step, "losses": of the first ones, "least": seconds of a step whose
    products, and nothing else, went at `product_rate`}.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import train
    from networks.inference import DTYPES

    device = select_device(opts.device)
    options = ["--no_pretrained", "--stride", "1", "--droprate", "0", "--lr", "0.001"]
    options += ["--bf16"] * (opts.way == "ours, bfloat16")
    options += ["--backbone", "resnet18"] * opts.quick
    train_opts = train.parse_args(options)
    batch = make_batch(opts.quick, opts.batchsize)
    torch.manual_seed(0)
    build = published_step if opts.way == "published" else our_step
    step = build(train_opts, batch, device)
    with FlopCounterMode(display=False) as counter:
        losses, seconds = [step()], []
    for _ in range(opts.steps - 1):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    precision = "bf16" if opts.way == "ours, bfloat16" else "fp32"
    least = counter.get_total_flops() / product_rate(DTYPES[precision], device)
    return {"seconds": seconds[WARM_UP - 1 :], "losses": losses, "least": least}


def parse_args(argv=None):
    """Options of the comparison."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    measure.add_options(parser, rounds=2)
    parser.add_argument("--batchsize", type=positive_int, default=8, help="images per view")
    parser.add_argument(
        "--steps", type=positive_int, default=3, help="steps a run, two are warm-up"
    )
    parser.add_argument("--way", choices=WAYS, help="run this one way, once: a part of the run")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Time the ways in processes of their own, in turn; returns what --json writes."""
    opts = parse_args(argv)
    if opts.steps <= WARM_UP:
        raise ValueError(f"--steps {opts.steps} is the warm-up alone: give {WARM_UP + 1} or more")
    if opts.way:
        result = time_steps(opts)
        print(json.dumps(result))
        return result
    seconds, least = {way: [] for way in WAYS}, {way: [] for way in WAYS}
    losses, peaks = {}, {}
    arguments = ["--device", opts.device, "--steps", opts.steps, "--batchsize", opts.batchsize]

    def start(way):
        command = [sys.executable, __file__, "--way", way, *arguments, *["--quick"] * opts.quick]
        _, peak, out = measure.run_process(command)
        result = json.loads(out.splitlines()[-1])
        seconds[way].append(median(result["seconds"]))
        least[way].append(result["least"])
        losses[way], peaks[way] = result["losses"], max(peak, peaks.get(way, 0))

    # A process each: how glibc keeps memory can be chosen once in a process.
    measure.interleave({way: lambda way=way: start(way) for way in WAYS}, opts.rounds)
    apart = {
        way: max(
            abs(a - b) / a for a, b in zip(losses["published"][:2], losses[way][:2], strict=True)
        )
        for way in WAYS[1:]
    }
    # A GPU convolves float32 in TF32, with 10 bits, unless it is told otherwise: so do both ways.
    float32_limit = 1e-2 if opts.device == "cuda" else 1e-3
    if apart[WAYS[1]] > float32_limit or apart[WAYS[2]] > 3e-2:
        raise ValueError(f"the first losses do not agree (relative difference): {apart}")
    print(f"batch of {opts.batchsize} images of {len(VIEWS)} views, forward, backward, update")
    rows = [
        [
            way,
            measure.ratio(seconds["published"], its),
            len(VIEWS) * opts.batchsize / median(its),
            peaks[way],
            measure.ratio(its, least[way]),
        ]
        for way, its in seconds.items()
    ]
    headers = ["way", "published / this", "images/s", "peak MiB", "this / bare products"]
    measure.print_table(rows, headers)
    print("losses of the first steps: " + "; ".join(
        f"{way} {', '.join(f'{loss:.4f}' for loss in its[:3])}" for way, its in losses.items()
    ))  # fmt: skip
    result = {"seconds": seconds, "least": least, "losses": losses, "peak_mib": peaks}
    measure.write_json(opts.json, result)
    return {**result, "ratios": {row[0]: row[1].ratio for row in rows}}


if __name__ == "__main__":
    main()
