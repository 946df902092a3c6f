"""Which images make up a batch: pairs of the same buildings, or each view shuffled separately."""

import random

from dataset import Draw


class _EpochSampler:
    """Yields the draws of an epoch batch by batch; the epoch's number is set before it starts.

    Each of several processes draws what one process would with `world_size` times the batch size,
    and keeps every `world_size`-th building from number `rank` on: no two see the same building.
    """

    def __init__(self, samples, batch_size, seed=0, rank=0, world_size=1):
        self.samples = samples
        self.batch_size = batch_size * world_size  # of all processes together
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.neighbours = None  # see PairedSampler

    def _share(self, items):
        """The part of a whole batch that this process loads."""
        return items[self.rank :: self.world_size]

    def _generator(self):
        return random.Random(f"{self.seed}/{self.epoch}")


class PairedSampler(_EpochSampler):
    """Batches of distinct buildings with images of each of their views: always positive pairs.

    An epoch shows every image of the anchor view once, each with a random image of every other
    view; a building without an image in the anchor view is shown once too. The buildings of an
    epoch are spread evenly over its batches, so none is left out and none is alone.

    Args:
        batch_size: images of a view in a batch of one process.
        anchor_view: the view an epoch is a pass over; the first one by default.
        epoch_passes: how many passes make up an epoch.
        images_per_building: K > 1 draws K images of each view of batch_size // K buildings; where
            a building has fewer, some are repeated.
        joint_flips: mirror either all images of a building in a batch or none.
        joint_turns: turn all images of a building by as many quarters, 0 to 3.

    `neighbours` may be set before an epoch: None, or for each of N labels the K most similar ones,
    best first, (N, K) int64. Batches are then made of neighbours, see `batches_of_neighbours`.
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
        epoch_passes=1,
        images_per_building=1,
        joint_flips=False,
        joint_turns=False,
    ):
        super().__init__(samples, batch_size, seed, rank, world_size)
        self.by_label = {view: _group_by_label(pairs) for view, pairs in samples.items()}
        self.labels = sorted(set().union(*self.by_label.values()))
        self.anchor_view = anchor_view or next(iter(samples))
        self.epoch_passes = epoch_passes
        self.images_per_building = images_per_building
        self.joint_flips = joint_flips
        self.joint_turns = joint_turns
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
        firsts = range(0, max(counts.values()), self.images_per_building)
        for first in [*firsts] * self.epoch_passes:
            labels = [label for label in self.labels if counts[label] > first]
            # Fewer buildings than a batch needs are left out.
            if len(labels) >= self.fewest:
                yield first, labels

    def _batch_count(self, labels):
        # No batch of one building, even where the batch size is 1 or leaves a remainder of 1.
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
                yield [draw for draws in self._share(buildings) for draw in draws]

    def _draw(self, label, anchors, first, rng):
        """The draws of one building, K images of each of its views."""
        draws = []
        mirrored = rng.random() < 0.5 if self.joint_flips else None
        quarters = rng.randrange(4) if self.joint_turns else 0
        for view, by_label in self.by_label.items():
            indices = anchors if view == self.anchor_view else by_label.get(label)
            if indices:
                chosen = indices[first:] if view == self.anchor_view else indices
                for index in self._choose(chosen, view == self.anchor_view, indices, rng):
                    draws.append(Draw(view, index, rng.getrandbits(63), mirrored, quarters))
        return draws

    def _choose(self, candidates, in_order, all_indices, rng):
        """K of the candidates, the first or random ones; where too few, more from all images."""
        count = self.images_per_building
        fresh = min(count, len(candidates))
        chosen = candidates[:fresh] if in_order else rng.sample(candidates, fresh)
        return [*chosen, *rng.choices(all_indices, k=count - fresh)]


def batches_of_neighbours(labels, count, neighbours, rng):
    """Cut labels into `count` lists of similar buildings, each label in exactly one.

    A list of n takes the next unused label as a seed, with it the n/4 most similar unused ones and
    n/4 random others of the n most similar, then the next seed, until it is full. This is the
    dynamic similarity sampling of Sample4Geo (Deuser et al., ICCV 2023, section 3.4), whose
    published code leaves out the first sample of the data set.

    Args:
        labels: shuffled, distinct.
        neighbours: {label: other labels, most similar first}, or a list indexed by label.
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
    """Every view shuffled separately, as published; an epoch ends with the smallest view.

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
            yield [draw for drawn in draws.values() for draw in self._share(drawn)]


SAMPLERS = {"paired": PairedSampler, "independent": IndependentSampler}


def _group_by_label(samples):
    groups = {}
    for index, (_, label) in enumerate(samples):
        groups.setdefault(label, []).append(index)
    return groups
