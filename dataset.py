"""From a data folder in the University-1652 layout to batches {view: (images, labels)}.

    <data>/train/{satellite,street,drone,google}/<ID>/*
    <data>/test/{query,gallery}_{satellite,street,drone}/<ID>/*

Views are known by name. One sorted list of IDs serves all views, so a class that has no image in a
view keeps its label in the others.
"""

import random
import re
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as image_ops

from random_erasing import RandomErasing

VIEWS = ("satellite", "street", "drone", "google")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# ---------------------------------------------------------------- folders
def split_folder(data_dir, split):
    """The `train` or `test` folder of a data folder given by itself or by its parent.

    Raises FileNotFoundError where there is neither.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(
            f"data folder {data_dir} not found: expected a folder holding {split}/; "
            "`python prepare.py toy --out data/toy` makes one to try with"
        )
    if (data_dir / split).is_dir():
        return data_dir / split
    prefixes = ("",) if split == "train" else ("query_", "gallery_")
    if any((data_dir / f"{prefix}{view}").is_dir() for prefix in prefixes for view in VIEWS):
        return data_dir
    found = sorted(path.name for path in data_dir.iterdir())[:6]
    raise FileNotFoundError(
        f"{data_dir} holds neither {split}/ nor folders named {prefixes[0]}{VIEWS[0]}, "
        f"{prefixes[0]}{VIEWS[2]}, ...; found {', '.join(found) or 'nothing'}: "
        f"`python prepare.py check {data_dir}` says what is missing"
    )


def scan_classes(folder):
    """{ID: sorted image paths} of a view's folder; a class folder without images gives [].

    Hidden files and files that are no images by their suffix are passed over. Raises
    FileNotFoundError where the folder is missing, ValueError where it holds no image at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        present = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        raise FileNotFoundError(
            f"{folder} not found: there are {', '.join(present) or 'no folders'} beside it; "
            "name other views, or check the layout with `python prepare.py check`"
        )
    classes = {}
    for class_dir in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not class_dir.name.startswith("."):
            classes[class_dir.name] = sorted(filter(is_image_name, class_dir.iterdir()))
    if not any(classes.values()):
        raise ValueError(
            f"{folder} holds no images: expected <ID>/<image> with a suffix of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return classes


def is_image_name(path):
    """Whether a path looks like an image by its suffix, and is no hidden file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def scan_training_views(data_dir, views):
    """{view: {ID: paths}} of the training views asked for; no other folder is opened."""
    folder = split_folder(data_dir, "train")
    return {view: scan_classes(folder / view) for view in views}


def class_list(scanned):
    """The sorted union of the IDs that have an image in any of the scanned views."""
    views = scanned.values()
    return sorted({name for classes in views for name, paths in classes.items() if paths})


def hold_out(class_names, seed, share=0.1):
    """The IDs to hold out for validation: a share of the buildings, at least one, by seed."""
    if len(class_names) < 4:
        raise ValueError(
            f"{len(class_names)} buildings with images in both views are too few to hold some out: "
            "use --train_all"
        )
    return sorted(random.Random(seed).sample(class_names, max(1, round(share * len(class_names)))))


def retrieval_labels(*class_names):
    """One {ID: integer label} for query and gallery: int(ID), as published, where that is possible.

    Where a folder name is no number, or two are the same one (`1` and `0001`), all names are
    numbered in sorted order. -1 is the published label of junk images.
    """
    names = sorted(set().union(*class_names))
    if all(re.fullmatch("-1|[0-9]{1,18}", name) for name in names):
        labels = {name: int(name) for name in names}
        if len(set(labels.values())) == len(names):
            return labels
    return {name: number for number, name in enumerate(names)}


# ---------------------------------------------------------------- images and transforms
def read_image(path):
    """Decode an image file to uint8 (3, H, W); OSError names the file that cannot be read."""
    try:
        with Image.open(path) as image:
            return image_ops.pil_to_tensor(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).replace(str(path), "the file")
        raise OSError(
            f"{path} cannot be read as an image ({reason}): replace or remove it; "
            "`python prepare.py check DIR` lists all such files"
        ) from None


def _to_network_input():
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


def resize_bicubic(height, width):
    """The published resize: straight to (height, width), bicubic with antialiasing, on uint8."""
    return v2.Resize((height, width), v2.InterpolationMode.BICUBIC, antialias=True)


def test_transform(height, width):
    """uint8 (3, H, W) -> normalised float (3, height, width)."""
    return v2.Compose([resize_bicubic(height, width), *_to_network_input()])


def train_transform(
    view, height, width, pad=10, color_jitter=False, auto_augment=False, erasing_p=0.0
):
    """The published training augmentation of a view: uint8 (3, H, W) -> float (3, height, width).

    Resize, edge padding by `pad` pixels, random crop, horizontal flip; a satellite image has no
    up, so it is also turned by up to 90 degrees either way. Colour jitter, AutoAugment and random
    erasing apply to every view (the published code forgot the last two for satellites).
    """
    steps = []
    if color_jitter:
        steps.append(v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0))
    if auto_augment:
        steps.append(v2.AutoAugment())
    steps += [resize_bicubic(height, width), v2.Pad(pad, padding_mode="edge")]
    if view == "satellite":
        steps.append(v2.RandomAffine(90))
    steps += [v2.RandomCrop((height, width)), v2.RandomHorizontalFlip(), *_to_network_input()]
    if erasing_p > 0:
        steps.append(RandomErasing(erasing_p))
    return v2.Compose(steps)


class ImageList(Dataset):
    """Images of a list of paths, in order, each through one transform: float (3, H, W)."""

    def __init__(self, paths, transform):
        self.paths = list(paths)
        self.transform = transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.transform(read_image(self.paths[index]))


# ---------------------------------------------------------------- training batches
class Draw(NamedTuple):
    """One image to load: the view, its index in that view's list, and its augmentation's seed."""

    view: str
    index: int
    seed: int


class TrainingViews(Dataset):
    """All training images of several views; an item is asked for by a `Draw`.

    `samples` is {view: [(path, label)]}, `transforms` is {view: transform}. The augmentation of a
    draw depends on its seed alone, never on workers or order.
    """

    def __init__(self, samples, transforms):
        self.samples = samples
        self.transforms = transforms

    def __len__(self):
        return sum(len(samples) for samples in self.samples.values())

    def __getitem__(self, draw):
        path, label = self.samples[draw.view][draw.index]
        image = read_image(path)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)  # the CPU's alone
            return draw.view, self.transforms[draw.view](image), label


def label_samples(scanned, class_names):
    """{view: [(path, label)]} with label = position of the ID in `class_names`; others left out."""
    label_of = {name: label for label, name in enumerate(class_names)}
    return {
        view: [(p, label_of[name]) for name, ps in classes.items() if name in label_of for p in ps]
        for view, classes in scanned.items()
    }


def collate_views(items):
    """[(view, image, label)] -> {view: (images (B, 3, H, W) float32, labels (B,) int64)}.

    A view with a single image in the batch is left out: batch norm needs two.
    """
    views = dict.fromkeys(view for view, _, _ in items)
    batch = {}
    for view in views:
        images = [image for name, image, _ in items if name == view]
        labels = [label for name, _, label in items if name == view]
        if len(images) > 1:
            batch[view] = (torch.stack(images), torch.tensor(labels))
    return batch


class _EpochSampler:
    """Yields the draws of an epoch batch by batch; the epoch's number is set before it starts."""

    def __init__(self, samples, batch_size, seed):
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def _generator(self):
        return random.Random(f"{self.seed}/{self.epoch}")


class PairedSampler(_EpochSampler):
    """Batches of distinct buildings with one image of each of their views, so positives are sure.

    An epoch shows every image of the first view once (a building without one, once all the same)
    and with each a random image of every other view. The buildings of an epoch are spread evenly
    over its batches, so none is left out and none is alone.
    """

    def __init__(self, samples, batch_size, seed=0):
        super().__init__(samples, batch_size, seed)
        self.by_label = {view: _group_by_label(pairs) for view, pairs in samples.items()}
        self.labels = sorted(set().union(*self.by_label.values()))
        self.anchor_view = next(iter(samples))
        if len(self.labels) < 2:
            raise ValueError(f"{len(self.labels)} building(s) to train on: at least 2 are needed")

    def _rounds(self):
        """Labels of the first, second, ... image of the anchor view: distinct within a round."""
        counts = {
            label: max(1, len(self.by_label[self.anchor_view].get(label, ())))
            for label in self.labels
        }
        for turn in range(max(counts.values())):
            labels = [label for label in self.labels if counts[label] > turn]
            # A lone building has no batch to be in: batch norm needs two.
            if len(labels) > 1:
                yield turn, labels

    def _batch_count(self, labels):
        # No batch of one, even where the batch size is 1 or divides badly.
        return max(1, min(-(-len(labels) // self.batch_size), len(labels) // 2))

    def __len__(self):
        return sum(self._batch_count(labels) for _, labels in self._rounds())

    def __iter__(self):
        rng = self._generator()
        order = {
            label: rng.sample(indices, len(indices))
            for label, indices in self.by_label[self.anchor_view].items()
        }
        for turn, labels in self._rounds():
            rng.shuffle(labels)
            count = self._batch_count(labels)
            for start in range(count):
                yield [
                    draw
                    for label in labels[start::count]
                    for draw in self._draw(label, order.get(label), turn, rng)
                ]

    def _draw(self, label, anchors, turn, rng):
        for view, by_label in self.by_label.items():
            indices = anchors if view == self.anchor_view else by_label.get(label)
            if indices:
                index = indices[turn] if view == self.anchor_view else rng.choice(indices)
                yield Draw(view, index, rng.getrandbits(63))


class IndependentSampler(_EpochSampler):
    """Every view shuffled on its own, as published; an epoch ends with the smallest view.

    Only full batches are drawn, so a view must have at least `batch_size` images.
    """

    def __init__(self, samples, batch_size, seed=0):
        super().__init__(samples, batch_size, seed)
        view, smallest = min(samples.items(), key=lambda item: len(item[1]))
        if len(smallest) < max(2, batch_size):
            raise ValueError(
                f"{len(smallest)} {view} images do not fill a batch of {batch_size}: "
                "lower --batchsize (2 at least) or use --sampler paired"
            )

    def __len__(self):
        return min(len(samples) for samples in self.samples.values()) // self.batch_size

    def __iter__(self):
        rng = self._generator()
        orders = {view: rng.sample(range(len(s)), len(s)) for view, s in self.samples.items()}
        for step in range(len(self)):
            chosen = slice(step * self.batch_size, (step + 1) * self.batch_size)
            yield [
                Draw(view, index, rng.getrandbits(63))
                for view, order in orders.items()
                for index in order[chosen]
            ]


SAMPLERS = {"paired": PairedSampler, "independent": IndependentSampler}


def _group_by_label(samples):
    groups = {}
    for index, (_, label) in enumerate(samples):
        groups.setdefault(label, []).append(index)
    return groups


# ---------------------------------------------------------------- loaders
def training_loader(dataset, sampler, num_workers, pin_memory=False):
    """DataLoader of {view: (images, labels)} over the draws of `sampler`; workers stay alive."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        # Its own, or starting the workers would draw from the generator that dropout uses.
        generator=torch.Generator(),
        collate_fn=collate_views,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
    )


def image_loader(paths, transform, batch_size, num_workers, pin_memory=False):
    """DataLoader of images (B, 3, H, W) in the order of `paths`."""
    return DataLoader(
        ImageList(paths, transform),
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
