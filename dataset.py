"""From a data folder in the University-1652 layout to batches {view: (images, labels)}.

Views are known by name. All views share one sorted list of IDs, so a class that has no image in a
view keeps its label in the others.
"""

import collections
import functools
import itertools
import random
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from imaging.files import need_one_form, scan_classes, split_folder
from runtime.threads import done_ahead

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def scan_training_views(data_dir, views):
    """{view: {ID: paths}} of the training views given by name; no other folder is opened."""
    folder = split_folder(data_dir, "train")
    scanned = {view: scan_classes(folder / view) for view in views}
    need_one_form(scanned.values())
    return scanned


def class_list(scanned):
    """The sorted union of the IDs that have an image in any of the scanned views."""
    views = scanned.values()
    return sorted({name for classes in views for name, paths in classes.items() if paths})


def paired_classes(scanned):
    """The IDs that have an image in at least two of the scanned views, sorted."""
    views = [[name for name, paths in classes.items() if paths] for classes in scanned.values()]
    counts = collections.Counter(itertools.chain(*views))
    return sorted(name for name, count in counts.items() if count > 1)


def hold_out(class_names, seed, share=0.1):
    """The IDs to hold out for validation: a random share of the buildings, at least one."""
    if len(class_names) < 4:
        raise ValueError(
            f"{len(class_names)} buildings with images in both views are too few to hold some out: "
            "use --train_all"
        )
    return sorted(random.Random(seed).sample(class_names, max(1, round(share * len(class_names)))))


def label_samples(scanned, class_names):
    """{view: [(path, label)]} of the IDs in `class_names`; a label is the position there."""
    label_of = {name: label for label, name in enumerate(class_names)}
    return {
        view: [(p, label_of[name]) for name, ps in classes.items() if name in label_of for p in ps]
        for view, classes in scanned.items()
    }


class Normalisation(NamedTuple):
    """Mean and standard deviation of the colours, 0 to 1, that a backbone's weights expect."""

    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD


def to_network_input(images, device, normalisation=None):
    """uint8 (B, 3, H, W) -> float32 on the device, channels last, scaled to 0..1 and normalised.

    What is not of bytes, as the token ids of texts, is moved to the device as it is. Bytes are a
    quarter of what floats would be to copy, and the arithmetic is one pass over the whole batch.
    `normalisation` has a `mean` and a `std` (networks.backbones.InputSpec); by default those of
    ImageNet.
    """
    if images.dtype != torch.uint8:
        return images.to(device, non_blocking=True)
    spec = normalisation or Normalisation()
    batch, _, height, width = images.shape
    scale, shift = _normalisation(torch.device(device), tuple(spec.mean), tuple(spec.std), width)
    # Whole rows of pixels: over the three numbers of a pixel alone the loop would not vectorise.
    rows = images.to(device, non_blocking=True).permute(0, 2, 3, 1).reshape(-1, 3 * width)
    out = torch.addcmul(shift, rows, scale)
    return out.view(batch, height, width, 3).permute(0, 3, 1, 2)


@functools.lru_cache(64)  # made for every batch, they would make a GPU wait each time
def _normalisation(device, mean, std, width):
    """(x / 255 - mean) / std as x * scale + shift for a row of pixels, both (3 * width,)."""
    mean, std = torch.tensor(mean), torch.tensor(std)
    pair = 1 / (255 * std), -mean / std
    return tuple(each.repeat(width).to(device) for each in pair)


class Draw(NamedTuple):
    """One image to load: the view, the index in that view's list, the seed of the augmentation."""

    view: str
    index: int
    seed: int
    mirrored: bool | None = None  # None: the seed decides
    quarters: int = 0  # turns by 90 degrees that all images of the building share


class TrainingViews(Dataset):
    """All training images of several views; an item is a whole batch, asked for by its draws.

    `samples` is {view: [(path, label)]}, `images` {view: imaging.cache.ResizedImages} and
    `augmentations` {view: Augmentation}; a view of texts has imaging.texts.TokenizedTexts instead
    and no augmentation. `ground`, if known, is {view: (N, 3)}, a row a sample, see
    `losses.ground_overlap`. An image depends on its draw alone, never on workers or their order.
    """

    def __init__(self, samples, images, augmentations, ground=None):
        self.samples = samples
        self.images = images
        self.augmentations = augmentations
        self.ground = ground

    @property
    def needs_processes(self):
        """Whether loading seeds torch's global generator, which all threads of a process share."""
        return any(each.seeds_torch for each in self.augmentations.values())

    def __getitem__(self, draws):
        """[Draw] -> {view: (images (B, 3, H, W) uint8 channels last, labels (B,) int64)}.

        Where more is known of the images, {field of losses.Output: (B, ...)} follows the labels:
        `condition`, `ground`. A view with a single image is left out: batch norm needs two.
        """
        return self.load(draws, self.inputs)

    def load(self, draws, inputs):
        """As `self[draws]`, with what the function `inputs(view, draws)` gives, (B, ...)."""
        by_view = {}
        for draw in draws:
            by_view.setdefault(draw.view, []).append(draw)
        pairs = [(view, each) for view, each in by_view.items() if len(each) > 1]
        return {view: (inputs(view, each), *self._labels(view, each)) for view, each in pairs}

    def inputs(self, view, draws):
        """The images (B, 3, H, W) of the draws, or token ids (B, L)."""
        augmentation, samples = self.augmentations.get(view), self.samples[view]
        if augmentation is None:
            return as_batch([self.images[view][samples[draw.index][0]] for draw in draws])
        shape = (len(draws), augmentation.height, augmentation.width, 3)
        images = np.empty(shape, np.uint8)
        for row, draw in enumerate(draws):
            path, _ = samples[draw.index]
            shared = draw.mirrored, draw.quarters
            images[row] = augmentation.load(path, self.images[view], draw.seed, *shared)
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def _labels(self, view, draws):
        labels = torch.tensor([self.samples[view][draw.index][1] for draw in draws])
        augmentation = self.augmentations.get(view)
        more = augmentation.extra_labels([d.seed for d in draws]) if augmentation else {}
        if self.ground is not None:
            more["ground"] = self.ground[view][[draw.index for draw in draws]]
        return (labels, more) if more else (labels,)


def as_batch(samples):
    """Images (H, W, 3) uint8 -> (B, 3, H, W), channels last; token ids (L,) -> (B, L), end -1."""
    if samples[0].ndim == 3:
        return torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2)
    return pad_sequence([*map(torch.from_numpy, samples)], batch_first=True, padding_value=-1)


class ImageBatches(Dataset):
    """Images or texts of one view; an item is a whole batch, asked for by a list of paths."""

    needs_processes = False

    def __init__(self, images):
        self.images = images

    def __getitem__(self, paths):
        """[path] -> what `as_batch` makes of their images."""
        return as_batch([self.images[path] for path in paths])


class ThreadLoader:
    """Yields `dataset[batch]` for every batch of `batches`, in order, loaded ahead by threads.

    Threads are enough: decoding, resizing and copying run outside Python's lock. Processes would
    have to be started, and to send every batch.
    """

    def __init__(self, dataset, batches, num_threads, pin_memory=False):
        self.dataset = dataset
        self.batches = batches
        self.num_threads = num_threads
        self.pin_memory = pin_memory

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        # One torch thread in each of ours: more would fight for the same cores.
        yield from done_ahead(
            self._load, self.batches, self.num_threads, torch.set_num_threads, (1,)
        )

    def _load(self, batch):
        loaded = self.dataset[batch]
        if not self.pin_memory:
            return loaded
        if isinstance(loaded, torch.Tensor):
            return loaded.pin_memory()
        return {view: tuple(map(_pinned, part)) for view, part in loaded.items()}


def _pinned(part):
    """A tensor, or a dict of tensors, in memory from which a GPU copies without waiting."""
    if isinstance(part, dict):
        return {name: x.pin_memory() for name, x in part.items()}
    return part.pin_memory()


def batch_loader(dataset, batches, num_workers, pin_memory=False):
    """Loader of `dataset[batch]` for every batch of `batches`, in order.

    `num_workers` threads load ahead; 0 loads a batch when it is asked for. A dataset that draws
    from torch's global generator (`needs_processes`) is loaded by as many processes instead, which
    stay alive from epoch to epoch.
    """
    if num_workers > 0 and not dataset.needs_processes:
        return ThreadLoader(dataset, batches, num_workers, pin_memory)
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        # Without one, starting the workers would draw from the generator that dropout uses.
        generator=torch.Generator(),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
    )


def in_batches(paths, batch_size):
    """The list of paths cut into lists of `batch_size`, the last one shorter."""
    return [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]


if __name__ == "__main__":
    raise SystemExit("dataset.py is a library: run train.py, or prepare.py check")
