"""An epoch of input alone: the published loaders beside ours, without a cache and with one.

python benchmarks/input_pipeline.py
"""

import collections
import io
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import measure  # noqa: E402

from runtime.cli import Parser, example_in, script  # noqa: E402
from runtime.startup import keep_freed_memory  # noqa: E402
from utils import select_device  # noqa: E402

PUBLISHED_VIEWS = ("satellite", "street", "drone", "google")  # google is loaded, used or not
VIEWS = ("satellite", "street", "drone")
IMAGES_EACH = {"satellite": 1, "street": 1, "drone": 3, "google": 2}  # per building


# ---------------------------------------------------------------- data
def jpeg_contents(distinct, side):
    """The bytes of some JPEGs of `side` pixels, quality 90: about 110 KB each at 512 pixels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    contents = []
    for _ in range(distinct):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        pixels = np.asarray(smooth.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-24, 25, pixels.shape, dtype=np.int16)
        written = io.BytesIO()
        image = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
        image.save(written, "JPEG", quality=90)
        contents.append(written.getvalue())
    return contents


def make_images(folder, buildings, contents):
    """A data folder of copies of some JPEGs under many names."""
    for view, count in IMAGES_EACH.items():
        for building in range(buildings):
            place = Path(folder, "train", view, f"{building:04d}")
            place.mkdir(parents=True)
            for number in range(count):
                content = contents[(building * count + number) % len(contents)]
                (place / f"{number}.jpg").write_bytes(content)


# ---------------------------------------------------------------- the published way
class PublishedLoaders:
    """A loader per view, float32 through Pillow, two processes each, started every epoch.

    The plain way of University1652-Baseline's train.py, written anew: four shuffled loaders are
    zipped, the shortest ends the epoch, and a short batch is skipped by the training loop.
    """

    def __init__(self, folder, side, batch_size):
        from torch.utils.data import DataLoader
        from torchvision import transforms
        from torchvision.datasets import ImageFolder

        loaders = []
        for view in PUBLISHED_VIEWS:
            turn = [transforms.RandomAffine(90)] if view == "satellite" else []
            transform = transforms.Compose(
                [
                    transforms.Resize((side, side), transforms.InterpolationMode.BICUBIC),
                    transforms.Pad(10, padding_mode="edge"),
                    *turn,
                    transforms.RandomCrop((side, side)),
                    transforms.RandomHorizontalFlip(),
                    transforms.ToTensor(),
                    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
                ]
            )
            images = ImageFolder(Path(folder, "train", view), transform)
            loaders.append(DataLoader(images, batch_size, shuffle=True, num_workers=2))
        self.loaders = loaders
        self.batch_size = batch_size

    def epoch(self, device):
        """Load an epoch onto the device; returns the number of full batches."""
        steps = 0
        for views in zip(*self.loaders):  # noqa: B905, the shortest ends it
            if len(views[0][0]) == self.batch_size:
                for images, _ in views[: len(VIEWS)]:
                    images.to(device)
                steps += 1
        return steps


# ---------------------------------------------------------------- ours
class OurLoader:
    """The loader of train.py; `place` is that of --cache."""

    def __init__(self, folder, side, batch_size, place, num_workers):
        import dataset
        from imaging import cache
        from imaging.augmentation import Augmentation
        from training import samplers

        scanned = dataset.scan_training_views(folder, VIEWS)
        samples = dataset.label_samples(scanned, dataset.class_list(scanned))
        paths = {view: [path for path, _ in pairs] for view, pairs in samples.items()}
        self.images = {
            view: cache.open_view(paths[view], side, side, place, os.cpu_count()) for view in VIEWS
        }
        augmentations = {
            view: Augmentation(side, side, turned=view == "satellite") for view in VIEWS
        }
        # As in the published loop, 8 of each view a step and what does not fill a batch left out.
        self.sampler = samplers.IndependentSampler(samples, batch_size)
        self.loader = dataset.batch_loader(
            dataset.TrainingViews(samples, self.images, augmentations),
            self.sampler,
            num_workers,
        )

    def epoch(self, device):
        """Load an epoch onto the device, normalised; returns the number of batches."""
        from dataset import to_network_input

        self.sampler.epoch += 1
        steps = 0
        for batch in self.loader:
            for images, _ in batch.values():
                to_network_input(images, device)
            steps += 1
        return steps


def decode_only(folder, count):
    """Decode `count` images on all cores and throw them away: the limit."""
    from imaging.pixels import read_image

    files = sorted(Path(folder, "train", "drone").glob("*/*.jpg"))
    chosen = [files[number % len(files)] for number in range(count)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        collections.deque(pool.map(read_image, chosen), maxlen=0)


# ---------------------------------------------------------------- agreement
def largest_difference(folder, side, images):
    """Largest difference in levels of 255 between the published resize and ours, on some files."""
    from PIL import Image

    worst = 0
    for path in sorted(Path(folder, "train", "drone").glob("*/*.jpg"))[:16]:
        with Image.open(path) as image:
            published = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        ours = np.asarray(images[path], np.int16)
        worst = max(worst, int(np.abs(ours - np.asarray(published, np.int16)).max()))
    return worst


def parse_args(argv=None):
    """Options of the comparison."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    measure.add_options(parser, rounds=3)
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Time all ways in turn and print the ratios; returns what --json writes."""
    opts = parse_args(argv)
    import torch

    device = select_device(opts.device)
    keep_freed_memory()  # as train.py does
    torch.set_num_threads(1)  # nothing computes here: the cores are the loaders'
    buildings, file_side, side, batch = (20, 64, 32, 8) if opts.quick else (701, 512, 256, 8)
    workers = min(4, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        make_images(folder, buildings, jpeg_contents(8 if opts.quick else 64, file_side))
        published = PublishedLoaders(folder, side, batch)
        ours = {
            f"ours, {workers} threads": OurLoader(folder, side, batch, "none", workers),
            "ours, --cache ram, no thread": OurLoader(folder, side, batch, "ram", 0),
            f"ours, --cache ram, {workers} threads": OurLoader(folder, side, batch, "ram", workers),
        }
        difference = max(
            largest_difference(folder, side, loader.images["drone"]) for loader in ours.values()
        )
        steps = buildings // batch
        if difference > 1 or {loader.epoch(device) for loader in ours.values()} != {steps}:
            raise ValueError("the two ways do not load the same images")
        ways = {
            "published": lambda: published.epoch(device),
            **{name: lambda it=it: it.epoch(device) for name, it in ours.items()},
            "decoding alone": lambda: decode_only(folder, steps * batch * len(VIEWS)),
        }
        seconds = measure.interleave(ways, opts.rounds)
    images = steps * batch * len(VIEWS)
    print(f"{steps} steps of {batch} images of {len(VIEWS)} views, {file_side} -> {side} pixels")
    print(f"the resized images differ by {difference} of 255 at most")
    rows = [
        [name, measure.ratio(seconds["published"], its), images / float(np.median(its))]
        for name, its in seconds.items()
    ]
    measure.print_table(rows, ["way", "published / this", "images/s"])
    result = {"steps": steps, "batch": batch, "difference": difference, "seconds": seconds}
    measure.write_json(opts.json, result)
    return {**result, "ratios": {name: ratio.ratio for name, ratio, _ in rows}}


if __name__ == "__main__":
    main()
