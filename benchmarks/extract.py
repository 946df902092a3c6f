"""Extraction of JPEGs with ResNet-50 and flip averaging, from the command line to the saved file.

python benchmarks/extract.py
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import measure  # noqa: E402
from input_pipeline import jpeg_contents  # noqa: E402

from evaluation.feature_file import load_features  # noqa: E402
from runtime.cli import Parser, example_in, positive_int, script  # noqa: E402

TASK = {"query_drone": 2, "gallery_satellite": 1}  # test folder: branch


# ---------------------------------------------------------------- work to do
def make_work(images, quick):
    """A test folder of JPEGs and a run folder model/bench with random weights, in this folder."""
    import torch

    import model
    import utils

    queries = images * 3 // 5
    contents = jpeg_contents(4 if quick else 32, 64 if quick else 512)
    for folder, count in {"query_drone": queries, "gallery_satellite": images - queries}.items():
        for number in range(count):
            path = Path("data", "test", folder, f"{number % 6:04d}", f"{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[number % len(contents)])
    opts = {
        "view_names": ["satellite", "drone"],
        "views": 2,
        "nclasses": 701,
        "backbone": "resnet18" if quick else "resnet50",
        "h": 64 if quick else 256,
        "w": 64 if quick else 256,
        "stride": 1,
        "share": True,
    }
    torch.manual_seed(0)
    network = model.model_from_opts(opts)
    _settle_batch_norm(network, opts["h"])
    run_dir = utils.run_folder("bench")
    utils.write_opts(run_dir, opts)
    utils.save_tensors(run_dir / "net_last.pth", network.state_dict())


def _settle_batch_norm(network, side):
    """Give batch norm the statistics of its own inputs, without which random layers explode."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all batches
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(6, 3, side, side), None)
    network.eval()


# ---------------------------------------------------------------- the published way
def extract_as_published(output, device):
    """The plain way of University1652-Baseline's test.py, written anew.

    Pillow and float32 in loader processes, an eager float32 network, the mirror image by
    `index_select`, and a `torch.cat` of all features after every batch.
    """
    import torch
    from scipy.io import savemat
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    import model
    import utils

    opts = utils.read_opts("model/bench")
    network = model.model_from_opts(opts)
    network.load_state_dict(torch.load("model/bench/net_last.pth"))
    network.to(device).eval()
    transform = transforms.Compose(
        [
            transforms.Resize((opts["h"], opts["w"]), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    arrays = {}
    for folder, branch in TASK.items():
        images = ImageFolder(f"data/test/{folder}", transform)
        features = torch.FloatTensor()
        with torch.no_grad():
            for batch, _ in DataLoader(images, 32, num_workers=2):
                total = torch.zeros(len(batch), 512, device=device)
                for flip in (False, True):
                    if flip:
                        mirrored = torch.arange(batch.size(3) - 1, -1, -1).long()
                        batch = batch.index_select(3, mirrored)
                    total += network.embed(batch.to(device), branch)
                total = total.div(torch.norm(total, p=2, dim=1, keepdim=True))
                features = torch.cat((features, total.cpu()), 0)
        side = folder.split("_")[0]
        arrays[f"{side}_f"] = features.numpy()
        arrays[f"{side}_label"] = [label for _, label in images.imgs]
        arrays[f"{side}_path"] = [path for path, _ in images.imgs]
    savemat(output, arrays)


# ---------------------------------------------------------------- the comparison
def agreement(reference, other):
    """Largest difference of two feature files, and their smallest cosine."""
    pairs = list(zip(load_features(reference), load_features(other), strict=True))
    difference = max(float(np.abs(a.features - b.features).max()) for a, b in pairs)
    cosine = min(float((a.features * b.features).sum(axis=1).min()) for a, b in pairs)
    return difference, cosine


def parse_args(argv=None):
    """Options of the comparison."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    measure.add_options(parser, rounds=2)
    parser.add_argument(
        "--as_published", metavar="FILE", help="extract the plain way, once: a part of the run"
    )
    parser.add_argument("--images", type=positive_int, default=160, help="in query and gallery")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Time whole processes in turn and print the ratios; returns what --json writes."""
    opts = parse_args(argv)
    device = "cpu" if opts.device == "auto" else opts.device
    if opts.as_published:
        extract_as_published(opts.as_published, device)
        return None
    ours = [sys.executable, ROOT / "test.py", "--name", "bench", "--test_dir", "data",
            "--batchsize", "32", "--device", device, "--num_workers", "2"]  # fmt: skip
    commands = {
        "published": [sys.executable, __file__, "--as_published", "published.mat",
                      "--device", device],
        "ours, float32": [*ours, "--output", "float32.mat"],
        "ours, bfloat16": [*ours, "--output", "bfloat16.mat", "--bf16"],
    }  # fmt: skip
    peaks = {}

    def start(name):
        _, peak, _ = measure.run_process(commands[name])
        peaks[name] = max(peak, peaks.get(name, 0))

    with measure.working_folder():
        make_work(16 if opts.quick else opts.images, opts.quick)
        seconds = measure.interleave(
            {name: lambda name=name: start(name) for name in commands}, opts.rounds
        )
        apart = {
            name: agreement("published.mat", f"{name}.mat") for name in ("float32", "bfloat16")
        }
        images = len(list(Path("data").rglob("*.jpg")))
    # A GPU convolves float32 in TF32, with 10 bits, unless it is told otherwise: so do both ways.
    # At the tiny sizes of --quick fewer values average out the rounding.
    largest = 1e-3 if device == "cuda" else 1e-5
    if apart["float32"][0] > largest or apart["bfloat16"][1] < (0.99 if opts.quick else 0.9999):
        raise ValueError(f"the features are not the same (difference, cosine): {apart}")
    print(f"{images} JPEGs, whole process: start, decode, network twice an image, save")
    rows = [
        [
            name,
            measure.ratio(seconds["published"], its),
            images / float(np.median(its)),
            peaks[name],
        ]
        for name, its in seconds.items()
    ]
    measure.print_table(rows, ["way", "published / this", "images/s", "peak MiB"])
    print(f"float32 features differ by {apart['float32'][0]:.1e} at most; "
          f"bfloat16: smallest cosine {apart['bfloat16'][1]:.6f}")  # fmt: skip
    result = {"images": images, "seconds": seconds, "peak_mib": peaks, "agreement": apart}
    measure.write_json(opts.json, result)
    return {**result, "ratios": {row[0]: row[1].ratio for row in rows}}


if __name__ == "__main__":
    main()
