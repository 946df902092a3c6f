"""From a data folder in the University-1652 layout to batches {view: (images, labels)}.

    <data>/train/{satellite,street,drone,google}/<ID>/*
    <data>/test/{query,gallery}_{satellite,street,drone}/<ID>/*

Views are known by name. One sorted list of IDs serves all views, so a class that has no image in a
view keeps its label in the others.
"""

import collections
import functools
import io
import math
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as image_ops

from cache import open_images
from random_erasing import random_erasing
from weather import CONDITIONS, apply_weather, choose_condition

try:
    import simplejpeg
except ModuleNotFoundError:  # no wheel for this platform: Pillow decodes
    simplejpeg = None

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


# ---------------------------------------------------------------- images
def read_image(path):
    """Decode an image file to uint8 (H, W, 3); OSError names the file that cannot be read.

    Pillow decides what an image is. A JPEG in order is decoded by simplejpeg where it is installed:
    the same pixels (both are libjpeg-turbo) in half the time.
    """
    try:
        content = Path(path).read_bytes()
        decoded = _decode_jpeg(content)
        if decoded is not None:
            return decoded
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):  # to cut it off at 255 would leave it white
                raise ValueError(f"its pixels are of mode {image.mode}, expected 8 bits a colour")
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = re.sub("<_io.BytesIO[^>]*>", "the file", " ".join(str(error).split()))
        raise OSError(
            f"{path} cannot be read as an image ({reason.replace(str(path), 'the file')}): replace "
            "or remove it; `python prepare.py check DIR` lists all such files"
        ) from None


def _decode_jpeg(content):
    """A JPEG as uint8 (H, W, 3), or None where it is for Pillow to decode or to refuse."""
    if simplejpeg is None or not content.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours in ("YCbCr", "Gray") and height * width <= (Image.MAX_IMAGE_PIXELS or math.inf):
            return simplejpeg.decode_jpeg(content)
    except ValueError:  # cut off, damaged
        pass
    return None


def _as_tensor(image):
    """uint8 (H, W, 3) array -> tensor (3, H, W) of the same memory, channels last."""
    return torch.from_numpy(image).permute(2, 0, 1)


def resize_bicubic(image, height, width):
    """The published resize, straight to (height, width), bicubic with antialiasing.

    uint8 (H, W, 3) -> uint8 (height, width, 3). Pillow's numbers to one level, in half its time.
    """
    resized = image_ops.resize(
        _as_tensor(image), [height, width], v2.InterpolationMode.BICUBIC, antialias=True
    )
    return resized.permute(1, 2, 0).contiguous().numpy()


def load_resized(path, height, width, change=None):
    """Decode and resize an image file: uint8 (height, width, 3).

    `change(image, path)` is done before, on the image at its own size: uint8 (H, W, 3) -> the same.
    """
    image = read_image(path)
    if change is not None:
        image = change(image, path)
    return resize_bicubic(image, height, width)


def open_view(paths, height, width, cache="none", num_workers=1, change=None):
    """`cache.ResizedImages` of a view's files; `cache` is "none", "ram" or "disk".

    With a `change` (see `load_resized`) only "none": the cache knows the files alone.
    """
    load = functools.partial(load_resized, height=height, width=width, change=change)
    return open_images(paths, load, (height, width), cache, num_workers)


class Normalisation(NamedTuple):
    """Mean and standard deviation of the colours that a backbone's weights expect, 0 to 1."""

    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD


def to_network_input(images, device, normalisation=None):
    """uint8 (B, 3, H, W) -> float32 on the device, channels last, scaled to 0..1 and normalised.

    A quarter of the bytes travels, and the arithmetic is one pass over the whole batch.
    `normalisation` has a `mean` and a `std` (model.input_spec); the default is ImageNet's.
    """
    own = normalisation or Normalisation()
    batch, _, height, width = images.shape
    scale, shift = _normalisation(torch.device(device), tuple(own.mean), tuple(own.std), width)
    # Whole rows of pixels: over the three numbers of a pixel alone the loop would not vectorise.
    rows = images.to(device, non_blocking=True).permute(0, 2, 3, 1).reshape(-1, 3 * width)
    out = torch.addcmul(shift, rows, scale)
    return out.view(batch, height, width, 3).permute(0, 3, 1, 2)


@functools.lru_cache(64)  # making them for every batch would stop a GPU each time
def _normalisation(device, mean, std, width):
    """(x / 255 - mean) / std as x * scale + shift for a row of pixels, both (3 * width,)."""
    mean, std = torch.tensor(mean), torch.tensor(std)
    pair = 1 / (255 * std), -mean / std
    return tuple(each.repeat(width).to(device) for each in pair)


# ---------------------------------------------------------------- augmentation
class Augmentation(NamedTuple):
    """The published training augmentation of a view.

    Resize, edge padding by `pad` pixels, random crop, horizontal flip; a satellite image has no
    up, so it is also turned by up to 90 degrees either way. Colour jitter, AutoAugment and random
    erasing apply to every view (the published code forgot the last two for satellites).

    Not published: with `zoom` Z an image is magnified by 1/Z to Z, with `recolouring` S the tone
    curve of each colour is changed (`tone_curves`), as from another height and by another camera.
    """

    height: int  # pixels, of the result
    width: int
    turned: bool = False
    pad: int = 10
    color_jitter: bool = False
    auto_augment: bool = False
    erasing_p: float = 0.0
    zoom: float = 1.0
    recolouring: float = 0.0
    weather: tuple = ()  # conditions, see weather.CONDITIONS; any of them, all alike likely

    @property
    def seeds_torch(self):
        """Whether torch's global generator is used, of which a process has one."""
        return self.color_jitter or self.auto_augment

    @property
    def before_resize(self):
        """Whether an image is changed before it is resized, which no cache can hold."""
        return bool(self.seeds_torch or self.weather)

    def before_resizing(self, image, seed):
        """What comes before the resize: uint8 (H, W, 3) -> the same shape."""
        if self.weather:
            image = apply_weather(image, choose_condition(self.weather, seed), seed)
        if not self.seeds_torch:
            return image
        steps = []
        if self.color_jitter:
            steps.append(v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0))
        if self.auto_augment:
            steps.append(v2.AutoAugment())
        # torchvision draws from torch's global generator, which belongs to dropout.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone
            return v2.Compose(steps)(_as_tensor(image)).permute(1, 2, 0).numpy()

    def rearrange(self, image, rng, mirrored=None):
        """What comes after the resize: uint8 (height, width, 3) -> the same shape, a new array.

        `rng` is a random.Random; it decides about the flip unless `mirrored` does.
        """
        angle = rng.uniform(-90, 90) if self.turned else None
        top, left = rng.randint(0, 2 * self.pad), rng.randint(0, 2 * self.pad)
        zoom = self.zoom ** rng.uniform(-1, 1) if self.zoom > 1 else 1.0
        moved = (
            edge_window(image, top - self.pad, left - self.pad, self.height, self.width)
            if angle is None and zoom == 1
            else turned_window(image, angle or 0.0, top, left, self.pad, zoom)
        )
        if self.recolouring:
            curves = tone_curves(self.recolouring, rng).ravel().tolist()
            moved = np.array(Image.fromarray(moved).point(curves))
        heads = rng.random() < 0.5
        if heads if mirrored is None else mirrored:
            moved = torch.from_numpy(moved).flip(1).numpy()  # ten times NumPy's speed on 3 bytes
        return random_erasing(moved, self.erasing_p, rng)


def edge_window(image, top, left, height, width):
    """A window of an image (H, W, 3) that may reach outside it, where the edges are repeated.

    Equal to padding with mode "edge" and cropping, but copies what is seen only. Window and image
    must overlap.
    """
    first_row, first_column = max(0, -top), max(0, -left)
    seen = image[max(0, top) : top + height, max(0, left) : left + width]
    last_row, last_column = first_row + seen.shape[0], first_column + seen.shape[1]
    out = np.empty((height, width, 3), image.dtype)
    out[first_row:last_row, first_column:last_column] = seen
    out[first_row:last_row, :first_column] = seen[:, :1]
    out[first_row:last_row, last_column:] = seen[:, -1:]
    out[:first_row], out[last_row:] = out[first_row], out[last_row - 1]
    return out


def turned_window(image, angle, top, left, pad, zoom=1.0):
    """Pad the edges of an image (H, W, 3), turn and magnify it, and crop the window at (top, left).

    The turn is by `angle` degrees counter-clockwise about the middle of the padded image, with the
    nearest pixel, black outside: torchvision's RandomAffine on a Pillow image, of which only the
    window is computed. With a `zoom` pixels are interpolated.
    """
    height, width, _ = image.shape
    padded = edge_window(image, -pad, -pad, height + 2 * pad, width + 2 * pad)
    cos, sin = (f(math.radians(angle)) / zoom for f in (math.cos, math.sin))
    x0, y0 = width / 2 + pad, height / 2 + pad
    matrix = (  # from a pixel of the window to one of the padded image
        *(cos, -sin, x0 - cos * (x0 - left) + sin * (y0 - top)),
        *(sin, cos, y0 - sin * (x0 - left) - cos * (y0 - top)),
    )
    sampling = Image.Resampling.NEAREST if zoom == 1 else Image.Resampling.BILINEAR
    turned = Image.fromarray(padded).transform(
        (width, height), Image.Transform.AFFINE, matrix, sampling
    )
    return np.array(turned)


def tone_curves(strength, rng):
    """Random curves of the three colours, (3, 256) uint8: brightness, contrast, and a gamma each.

    y = (x^g - 1/2) k + 1/2 + b / 4 on 0..1, with b, log k and, for each colour by itself, log g
    uniform in +-strength; `rng` is a random.Random.
    """
    brightness, contrast = rng.uniform(-strength, strength), rng.uniform(-strength, strength)
    gamma = np.exp([[rng.uniform(-strength, strength)] for _ in range(3)])  # (3, 1)
    levels = ((np.arange(256) / 255) ** gamma - 0.5) * math.exp(contrast) + 0.5 + brightness / 4
    return (255 * levels).round().clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------- training batches
class Draw(NamedTuple):
    """One image to load: the view, its index in that view's list, and its augmentation's seed."""

    view: str
    index: int
    seed: int
    mirrored: bool | None = None  # None: as the seed decides


class TrainingViews(Dataset):
    """All training images of several views; an item is a whole batch, asked for by its draws.

    `samples` is {view: [(path, label)]}, `images` {view: cache.ResizedImages}, `augmentations`
    {view: Augmentation}. What a draw gives depends on its seed alone, never on workers or order.
    """

    def __init__(self, samples, images, augmentations):
        self.samples = samples
        self.images = images
        self.augmentations = augmentations

    @property
    def needs_processes(self):
        """Whether loading seeds torch's global generator, of which a process has one."""
        return any(each.seeds_torch for each in self.augmentations.values())

    def __len__(self):
        return sum(len(samples) for samples in self.samples.values())

    def __getitem__(self, draws):
        """[Draw] -> {view: (images (B, 3, H, W) uint8 channels last, labels (B,) int64)}.

        Where weather is drawn, the conditions (B,) int64 follow: 1 to 10 in the order of
        weather.CONDITIONS. A view with a single image is left out: batch norm needs two.
        """
        by_view = {}
        for draw in draws:
            by_view.setdefault(draw.view, []).append(draw)
        return {view: self._batch(view, its) for view, its in by_view.items() if len(its) > 1}

    def _batch(self, view, draws):
        augmentation, samples = self.augmentations[view], self.samples[view]
        shape = (len(draws), augmentation.height, augmentation.width, 3)
        images = np.empty(shape, np.uint8)
        for row, draw in enumerate(draws):
            images[row] = self._image(view, samples[draw.index][0], draw)
        labels = torch.tensor([samples[draw.index][1] for draw in draws])
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
        if not augmentation.weather:
            return images, labels
        drawn = [choose_condition(augmentation.weather, draw.seed) for draw in draws]
        return images, labels, torch.tensor([CONDITIONS.index(name) + 1 for name in drawn])

    def _image(self, view, path, draw):
        augmentation = self.augmentations[view]
        if augmentation.before_resize:
            whole = augmentation.before_resizing(read_image(path), draw.seed)
            image = resize_bicubic(whole, augmentation.height, augmentation.width)
        else:
            image = self.images[view][path]
        return augmentation.rearrange(image, random.Random(draw.seed), draw.mirrored)


def label_samples(scanned, class_names):
    """{view: [(path, label)]} with label = position of the ID in `class_names`; others left out."""
    label_of = {name: label for label, name in enumerate(class_names)}
    return {
        view: [(p, label_of[name]) for name, ps in classes.items() if name in label_of for p in ps]
        for view, classes in scanned.items()
    }


class _EpochSampler:
    """Yields the draws of an epoch batch by batch; the epoch's number is set before it starts.

    Of several processes each draws what one process would with `world_size` times the batch size,
    and keeps every `world_size`-th building of it from number `rank` on: no two see the same.
    """

    def __init__(self, samples, batch_size, seed=0, rank=0, world_size=1):
        self.samples = samples
        self.batch_size = batch_size * world_size  # of all processes together
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.neighbours = None  # see PairedSampler

    def _mine(self, items):
        return items[self.rank :: self.world_size]

    def _generator(self):
        return random.Random(f"{self.seed}/{self.epoch}")


class PairedSampler(_EpochSampler):
    """Batches of distinct buildings with images of each of their views, so positives are sure.

    An epoch shows every image of the anchor view once (a building without one, once all the same)
    and with each a random image of every other view. The buildings of an epoch are spread evenly
    over its batches, so none is left out and none is alone.

    Args:
        batch_size: images of a view in a batch of one process.
        anchor_view: the view an epoch is a pass over; the first one by default.
        images_per_building: K > 1 draws K images of each view of batch_size // K buildings; a
            building with fewer is drawn from again.
        joint_flips: mirror either all images of a building in a batch or none.

    `neighbours`, a (N, K) int64 tensor or None, may be set before an epoch, for each label the most
    similar ones first: a batch is then filled with these instead of any buildings
    (see `batches_of_neighbours`).
    """

    def __init__(
        self,
        samples,
        batch_size,
        seed=0,
        rank=0,
        world_size=1,
        *,
        anchor_view=None,
        images_per_building=1,
        joint_flips=False,
    ):
        super().__init__(samples, batch_size, seed, rank, world_size)
        self.by_label = {view: _group_by_label(pairs) for view, pairs in samples.items()}
        self.labels = sorted(set().union(*self.by_label.values()))
        self.anchor_view = anchor_view or next(iter(samples))
        self.images_per_building = images_per_building
        self.joint_flips = joint_flips
        # Batch norm needs two images in every process.
        self.fewest = world_size * (2 if images_per_building == 1 else 1)
        if len(self.labels) < max(2, self.fewest):
            raise ValueError(
                f"{len(self.labels)} building(s) to train on: at least {max(2, self.fewest)} "
                "are needed"
            )

    def _rounds(self):
        """Number and labels of each round, in which a building shows its next K anchor images."""
        counts = {
            label: max(1, len(self.by_label[self.anchor_view].get(label, ())))
            for label in self.labels
        }
        for first in range(0, max(counts.values()), self.images_per_building):
            labels = [label for label in self.labels if counts[label] > first]
            # A lone building has no batch to be in.
            if len(labels) >= self.fewest:
                yield first, labels

    def _batch_count(self, labels):
        # No batch of one, even where the batch size is 1 or divides badly.
        buildings = max(1, self.batch_size // self.images_per_building)
        return min(-(-len(labels) // buildings), len(labels) // self.fewest)

    def __len__(self):
        return sum(self._batch_count(labels) for _, labels in self._rounds())

    def __iter__(self):
        rng = self._generator()
        order = {
            label: rng.sample(indices, len(indices))
            for label, indices in self.by_label[self.anchor_view].items()
        }
        neighbours = None if self.neighbours is None else self.neighbours.tolist()
        for first, labels in self._rounds():
            rng.shuffle(labels)
            count = self._batch_count(labels)
            batches = (
                [labels[start::count] for start in range(count)]
                if neighbours is None
                else batches_of_neighbours(labels, count, neighbours, rng)
            )
            for batch in batches:
                buildings = [self._draw(label, order.get(label), first, rng) for label in batch]
                yield [draw for draws in self._mine(buildings) for draw in draws]

    def _draw(self, label, anchors, first, rng):
        """The draws of one building, K images of each of its views."""
        draws = []
        mirrored = rng.random() < 0.5 if self.joint_flips else None
        for view, by_label in self.by_label.items():
            indices = anchors if view == self.anchor_view else by_label.get(label)
            if indices:
                chosen = indices[first:] if view == self.anchor_view else indices
                for index in self._choose(chosen, view == self.anchor_view, indices, rng):
                    draws.append(Draw(view, index, rng.getrandbits(63), mirrored))
        return draws

    def _choose(self, candidates, in_order, all_indices, rng):
        """K of the candidates, the first ones or any; what lacks is drawn again from all."""
        count = self.images_per_building
        fresh = min(count, len(candidates))
        chosen = candidates[:fresh] if in_order else rng.sample(candidates, fresh)
        return [*chosen, *rng.choices(all_indices, k=count - fresh)]


def batches_of_neighbours(labels, count, neighbours, rng):
    """Cut labels into `count` lists of alike buildings, each label in exactly one.

    A list of n takes the next unused label as a seed, with it the n/4 most similar unused ones and
    n/4 random others of the n most similar, then the next seed, until it is full: the dynamic
    similarity sampling of Sample4Geo (Deuser et al., ICCV 2023, section 3.4), whose published code
    leaves the first sample of the data set out.

    Args:
        labels: shuffled, distinct.
        neighbours: of each label (index or key) the other labels, most similar first.
        rng: a random.Random.
    """
    waiting = dict.fromkeys(labels)  # an ordered set
    batches = []
    for start in range(count):
        size, batch = len(labels[start::count]), []
        while len(batch) < size:
            seed = next(iter(waiting))
            near = [other for other in neighbours[seed][:size] if other in waiting]
            near = [other for other in near if other != seed]
            nearest, others = near[: size // 4], near[size // 4 :]
            random_ones = rng.sample(others, min(len(others), size // 4))
            taken = [seed, *nearest, *random_ones][: size - len(batch)]
            batch += taken
            for label in taken:
                del waiting[label]
        batches.append(batch)
    return batches


class IndependentSampler(_EpochSampler):
    """Every view shuffled on its own, as published; an epoch ends with the smallest view.

    Only full batches are drawn, so a view must have at least `batch_size` images.
    """

    def __init__(self, samples, batch_size, seed=0, rank=0, world_size=1):
        super().__init__(samples, batch_size, seed, rank, world_size)
        view, smallest = min(samples.items(), key=lambda item: len(item[1]))
        if len(smallest) < max(2 * world_size, self.batch_size):
            raise ValueError(
                f"{len(smallest)} {view} images do not fill a batch of {self.batch_size}: "
                "lower --batchsize (2 at least) or use --sampler paired"
            )

    def __len__(self):
        return min(len(samples) for samples in self.samples.values()) // self.batch_size

    def __iter__(self):
        rng = self._generator()
        orders = {view: rng.sample(range(len(s)), len(s)) for view, s in self.samples.items()}
        for step in range(len(self)):
            chosen = slice(step * self.batch_size, (step + 1) * self.batch_size)
            draws = {
                view: [Draw(view, index, rng.getrandbits(63)) for index in order[chosen]]
                for view, order in orders.items()
            }
            yield [draw for drawn in draws.values() for draw in self._mine(drawn)]


SAMPLERS = {"paired": PairedSampler, "independent": IndependentSampler}


def _group_by_label(samples):
    groups = {}
    for index, (_, label) in enumerate(samples):
        groups.setdefault(label, []).append(index)
    return groups


# ---------------------------------------------------------------- loaders
class ImageBatches(Dataset):
    """Whole batches of images of one view; an item is asked for by its list of paths."""

    needs_processes = False

    def __init__(self, images):
        self.images = images

    def __getitem__(self, paths):
        """[path] -> uint8 (B, 3, H, W), channels last."""
        batch = np.stack([self.images[path] for path in paths])  # (B, H, W, 3)
        return torch.from_numpy(batch).permute(0, 3, 1, 2)


class ThreadLoader:
    """Yields `dataset[batch]` for every batch of `batches`, in order, made ahead by threads.

    Decoding, resizing and copying run outside Python's lock, nothing is sent between processes,
    and no process is copied, whose memory would then have to be copied page by page.
    """

    def __init__(self, dataset, batches, num_threads, pin_memory=False):
        self.dataset = dataset
        self.batches = batches
        self.num_threads = num_threads
        self.pin_memory = pin_memory

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        # A thread of ours gets no threads of torch's own: they would fight for the same cores.
        with ThreadPoolExecutor(self.num_threads, "loader", torch.set_num_threads, (1,)) as pool:
            waiting = collections.deque()
            try:
                for batch in self.batches:
                    waiting.append(pool.submit(self._load, batch))
                    if len(waiting) > 2 * self.num_threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for batch in waiting:
                    batch.cancel()

    def _load(self, batch):
        loaded = self.dataset[batch]
        if not self.pin_memory:
            return loaded
        if isinstance(loaded, torch.Tensor):
            return loaded.pin_memory()
        return {view: tuple(x.pin_memory() for x in pair) for view, pair in loaded.items()}


def batch_loader(dataset, batches, num_workers, pin_memory=False):
    """Loader of `dataset[batch]` for every batch of `batches`, in order.

    `num_workers` threads load ahead, 0 loads when asked. What draws from torch's global generator
    (`dataset.needs_processes`) is loaded by as many processes instead, which stay alive.
    """
    if num_workers > 0 and not dataset.needs_processes:
        return ThreadLoader(dataset, batches, num_workers, pin_memory)
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        # Its own, or starting the workers would draw from the generator that dropout uses.
        generator=torch.Generator(),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
    )


def in_batches(paths, batch_size):
    """The list of paths cut into lists of `batch_size`, the last one shorter."""
    return [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
