"""The pooled features of all training images by the network as it begins.

The means and directions of `networks.heads.Centring` come from them. Where the backbone is frozen
and images are drawn from a few copies (`--turns`, mirrored or not), they are all that training
needs: they are computed once, and an epoch costs a matrix product.
"""

import copy
import dataclasses
import random
import time

import torch
from torch import nn
from torch.utils.data import Dataset

import dataset
from extract import copies_of, extract_rows
from imaging.files import TEXT
from imaging.turns import turns_of
from model import branch_numbers
from networks.heads import whitening
from networks.inference import inference_copy

FOR_DIRECTIONS = 2**14  # features of a view that suffice to know how they spread


class Head(nn.Module):
    """What of a network follows its centred features: `head(x1, x2) -> (y1, y2)`, x (B, D).

    Texts, token ids (B, L), go through their branch, which trains.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        pairs = zip(inputs, self.network.view_branches, strict=False)
        return self.network.classify_centred([self._centred(x, number) for x, number in pairs])

    def _centred(self, x, number):
        if x is None or x.is_floating_point():
            return x
        return self.network.centred(getattr(self.network, f"model_{number}")(x), number)


class PooledViews(Dataset):
    """As `dataset.TrainingViews`, with centred features (B, D) float32 in place of the images.

    `features` is {view: (N, copies, D)}, the copies in the order of `extract.copies_of`. A view
    that has none, as texts, is as it was.
    """

    needs_processes = False

    def __init__(self, views, features):
        self.views = views
        self.features = features

    def __getitem__(self, draws):
        return self.views.load(draws, self._load)

    def _load(self, view, draws):
        if view not in self.features:
            return self.views.inputs(view, draws)
        augmentation = self.views.augmentations[view]
        copies = [augmentation.copy_of(random.Random(d.seed), d.mirrored) for d in draws]
        return self.features[view][
            [draw.index for draw in draws], [2 * turn + mirrored for turn, mirrored in copies]
        ]


def prepare(training, data, opts):
    """Set what `--center` asks for, and, where they suffice, let the data be pooled features.

    Returns the data to train on. A resumed run has the means and directions.
    """
    numbers = branch_numbers(opts.view_names, opts.extra_Google)
    views = [view for view in data.samples if view != TEXT]
    branches = {numbers[view] for view in views}
    to_set = opts.center and not (opts.resume or training.network.center.is_set(branches))
    if not (training.pooled or to_set):
        return data
    began = time.perf_counter()
    network = inference_copy(training.network, training.precision)
    center = copy.deepcopy(training.network.center)
    if opts.center:
        center.cpu()  # as the features are
    features = {
        view: pooled_copies(network, numbers[view], data, view, training.device, opts)
        for view in views
    }
    if to_set:
        set_center(center, features, numbers)
        for each in {training.network, training.evaluated}:  # two where there is an average
            each.center.load_state_dict(center.state_dict())
    count = sum(x.shape[:2].numel() for x in features.values())
    seconds = time.perf_counter() - began
    print(f"{count:,} pooled features, of images and their copies, in {seconds:.0f} s")
    if not training.pooled:
        return data
    if opts.center:
        for view, x in features.items():
            features[view] = center(x.flatten(0, 1), numbers[view]).unflatten(0, x.shape[:2])
    pooled_views = PooledViews(data.loader.dataset, features)
    loader = dataset.batch_loader(pooled_views, data.sampler, opts.num_workers)
    return dataclasses.replace(data, loader=loader)


@torch.no_grad()
def set_center(center, features, numbers):
    """Set means and directions of a `Centring` by features {view: (N, copies, D)}, on one device.

    `numbers` are the branches by view; views of one branch have one mean. What another run has
    given (`--init`), with the head that was trained on it, stays.
    """
    rows = {view: x.flatten(0, 1) for view, x in features.items()}
    for number in {numbers[view] for view in rows}:
        if center.means[number - 1].any():
            continue
        views = [view for view in rows if numbers[view] == number]
        center.set_mean(number, torch.cat([rows[view] for view in views]).mean(0))
    if center.directions is None or center.directions.any():
        return
    few = {view: x[:: -(-len(x) // FOR_DIRECTIONS)] for view, x in rows.items()}
    centred = torch.cat([center.centred(x, numbers[view]) for view, x in few.items()])
    width = center.directions.shape[1]
    center.directions.copy_(whitening(centred, width))
    if min(centred.shape) < width:
        print(
            f"--whiten {width}: {len(centred):,} features of {centred.shape[1]} numbers have only "
            f"{min(centred.shape)} directions, the rest is 0"
        )


def pooled_copies(network, number, data, view, device, opts):
    """Pooled features (N, copies, D) float32 of a view's samples, by branch `number`."""
    turns = turns_of(opts.turns, view)

    def pool(chunk):
        images = dataset.to_network_input(chunk, device, network.input_spec)
        pairs = copies_of(images, turns)
        rows = [network.pool(each, number).float().cpu() for pair in pairs for each in pair]
        return torch.stack(rows, dim=1).flatten(1)  # (B, copies * D)

    rows = extract_rows(
        pool,
        [path for path, _ in data.samples[view]],
        data.images[view],
        device=device,
        batch_size=opts.batchsize,
        num_workers=opts.num_workers,
        description=f"pooled features, {view}",
    )
    return torch.from_numpy(rows).unflatten(1, (2 * turns, -1))
