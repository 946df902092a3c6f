"""Samplers: which images make up a batch."""

import collections
import random

import numpy as np
import pytest
import torch

from training import samplers


def samples_of(counts):
    """{view: {label: number of images}} -> samples with made-up paths."""
    return {
        view: [(f"{view}/{label}/{n}", label) for label in labels for n in range(labels[label])]
        for view, labels in counts.items()
    }


def test_paired_batches_hold_distinct_buildings_and_all_their_views():
    """Published defect 18: views were shuffled on their own, so a batch had almost no positives."""
    samples = samples_of(
        {
            "satellite": dict.fromkeys(range(9), 1),
            "drone": dict.fromkeys(range(9), 4),
            "street": {0: 2, 5: 1},
        }
    )
    sampler = samplers.PairedSampler(samples, batch_size=4, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3
    shown = collections.Counter()
    for batch in batches:
        labels = collections.defaultdict(list)
        for draw in batch:
            labels[draw.view].append(samples[draw.view][draw.index][1])
        assert len(set(labels["satellite"])) == len(labels["satellite"]) == 3
        assert labels["satellite"] == labels["drone"]
        assert set(labels["street"]) == set(labels["satellite"]) & {0, 5}
        shown.update(labels["satellite"])
    assert shown == dict.fromkeys(range(9), 1)


def test_paired_epoch_shows_every_satellite_image_once():
    samples = samples_of({"satellite": {0: 3, 1: 1, 2: 2}, "drone": {0: 1, 1: 1, 2: 1, 3: 1}})
    draws = [draw for batch in samplers.PairedSampler(samples, 2) for draw in batch]
    satellites = sorted(draw.index for draw in draws if draw.view == "satellite")
    # The third image of building 0 would be alone in its round, and batch norm needs two.
    assert len(satellites) == 5 and len(set(satellites)) == 5
    assert 3 in [samples["drone"][d.index][1] for d in draws if d.view == "drone"]


@pytest.mark.parametrize("images_per_building", [1, 2])
def test_an_epoch_of_several_passes(images_per_building):
    """Each satellite image as often as there are passes, each time with drawn drone images."""
    samples = samples_of({"satellite": {0: 2, 1: 2, 2: 2}, "drone": dict.fromkeys(range(3), 8)})
    settings = {"images_per_building": images_per_building}
    once = samplers.PairedSampler(samples, 4, **settings)
    thrice = samplers.PairedSampler(samples, 4, epoch_passes=3, **settings)
    batches = list(thrice)
    assert len(batches) == len(thrice) == 3 * len(once)
    assert batches[: len(once)] == list(once)
    draws = [draw for batch in batches for draw in batch]
    assert collections.Counter(d.index for d in draws if d.view == "satellite") == dict.fromkeys(
        range(6), 3
    )
    drones = [tuple(d.index for d in batch if d.view == "drone") for batch in batches]
    assert len(set(drones)) == len(drones)
    assert len({draw.seed for draw in draws}) == len(draws)


def test_no_batch_is_too_small_for_batch_norm():
    for count in range(2, 40):
        samples = samples_of({"satellite": dict.fromkeys(range(count), 1)})
        for batch_size in (1, 2, 3, 8):
            sizes = [len(batch) for batch in samplers.PairedSampler(samples, batch_size)]
            assert sum(sizes) == count and min(sizes) >= 2 and max(sizes) <= max(3, batch_size)
    with pytest.raises(ValueError, match="at least 2"):
        samplers.PairedSampler(samples_of({"satellite": {0: 5}}), 4)


def test_samplers_depend_on_seed_and_epoch_only():
    counts = {"satellite": dict.fromkeys(range(8), 1), "drone": dict.fromkeys(range(8), 5)}
    samples = samples_of(counts)
    for kind in samplers.SAMPLERS.values():
        sampler, again, other = kind(samples, 4, 1), kind(samples, 4, 1), kind(samples, 4, 2)
        assert list(sampler) == list(again) != list(other)
        again.epoch = 1
        assert list(sampler) != list(again)


def test_independent_sampler_is_the_published_zip():
    samples = samples_of({"satellite": dict.fromkeys(range(10), 1), "drone": {0: 30, 1: 30}})
    batches = list(samplers.IndependentSampler(samples, 4))
    assert len(batches) == 2  # the last, partial batch of the ten satellites is skipped
    for batch in batches:
        assert collections.Counter(draw.view for draw in batch) == {"satellite": 4, "drone": 4}
    with pytest.raises(ValueError, match="10 satellite images do not fill a batch of 16"):
        samplers.IndependentSampler(samples, 16)


def test_an_epoch_over_the_drone_images_shows_each_once():
    samples = samples_of(
        {"satellite": dict.fromkeys(range(6), 1), "drone": {0: 7, 1: 4, 2: 4, 3: 4}}
    )
    batches = list(samplers.PairedSampler(samples, 3, anchor_view="drone"))
    drones = [draw.index for batch in batches for draw in batch if draw.view == "drone"]
    # Three images of building 0 are alone in their rounds; buildings 4 and 5 have none to show.
    assert len(drones) == len(set(drones)) == 16
    for batch in batches:
        shown = [samples["satellite"][d.index][1] for d in batch if d.view == "satellite"]
        assert len(shown) == len(set(shown))


def test_p_buildings_of_k_images_each():
    samples = samples_of(
        {"satellite": dict.fromkeys(range(9), 1), "drone": dict.fromkeys(range(9), 5)}
    )
    sampler = samplers.PairedSampler(samples, 12, anchor_view="drone", images_per_building=4)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6  # 5 images are two rounds of 4, the second drawn again
    seen = collections.Counter()
    for batch in batches:
        for view in ("satellite", "drone"):
            labels = [samples[view][draw.index][1] for draw in batch if draw.view == view]
            assert set(collections.Counter(labels).values()) == {4} and len(labels) == 12
        seen.update(draw.index for draw in batch if draw.view == "drone")
    assert set(seen) == set(range(45))
    first = [draw.index for batch in batches[:3] for draw in batch if draw.view == "drone"]
    assert len(set(first)) == 36


def test_joint_flips_mirror_a_building_or_not():
    samples = samples_of(
        {"satellite": dict.fromkeys(range(40), 1), "drone": dict.fromkeys(range(40), 2)}
    )
    flips = {}
    for batch in samplers.PairedSampler(samples, 8, joint_flips=True):
        for draw in batch:
            flips.setdefault(samples[draw.view][draw.index][1], set()).add(draw.mirrored)
    assert all(len(drawn) == 1 for drawn in flips.values())
    assert 10 <= sum(drawn == {True} for drawn in flips.values()) <= 30


def test_joint_turns_turn_a_building_by_as_many_quarters():
    """Three of four are turned, as in Sample4Geo's code."""
    samples = samples_of(
        {"satellite": dict.fromkeys(range(400), 1), "street": dict.fromkeys(range(400), 1)}
    )
    turns = {}
    for batch in samplers.PairedSampler(samples, 8, joint_turns=True):
        for draw in batch:
            turns.setdefault(samples[draw.view][draw.index][1], []).append(draw.quarters)
    assert all(len(drawn) == 2 and len(set(drawn)) == 1 for drawn in turns.values())
    counts = [sum(drawn[0] == quarters for drawn in turns.values()) for quarters in range(4)]
    assert sum(counts) == 400 and min(counts) > 75
    plain = [draw for batch in samplers.PairedSampler(samples, 8) for draw in batch]
    assert {draw.quarters for draw in plain} == {0}


def brute_force_neighbour_batches(labels, count, neighbours, rng):
    """The definition, by scanning lists: seed, n/4 nearest, n/4 of the n nearest, next seed."""
    left, batches = list(labels), []
    for start in range(count):
        size = len(labels[start::count])
        batch = []
        while len(batch) < size:
            seed, pool = left[0], []
            for other in neighbours[seed][:size]:
                if other in left and other != seed:
                    pool.append(other)
            group = [seed] + pool[: size // 4]
            rest = pool[size // 4 :]
            group += rng.sample(rest, min(size // 4, len(rest)))
            for label in group:
                if len(batch) < size:
                    batch.append(label)
                    left.remove(label)
        batches.append(batch)
    assert not left
    return batches


@pytest.mark.parametrize(("count", "batches"), [(64, 4), (37, 3), (9, 4)])
def test_batches_of_neighbours_are_their_definition(count, batches):
    """Sample4Geo's sampling; its published code left the first sample of the data set out."""
    positions = random.Random(7).choices(range(1000), k=count)
    neighbours = {
        here: sorted(set(range(count)) - {here}, key=lambda o: abs(positions[o] - positions[here]))
        for here in range(count)
    }
    labels = random.Random(1).sample(range(count), count)
    ours = samplers.batches_of_neighbours(labels, batches, neighbours, random.Random(2))
    expected = brute_force_neighbour_batches(labels, batches, neighbours, random.Random(2))
    assert ours == expected
    assert sorted(sum(ours, [])) == list(range(count))  # 0 too, and each once

    samples = samples_of(
        {"satellite": dict.fromkeys(range(count), 1), "drone": dict.fromkeys(range(count), 2)}
    )
    sampler = samplers.PairedSampler(samples, -(-count // batches), seed=1)

    def spread(sampler):
        drawn = [[samples[d.view][d.index][1] for d in batch] for batch in sampler]
        assert sorted(set(sum(drawn, []))) == list(range(count))
        return np.mean([np.std([positions[label] for label in batch]) for batch in drawn])

    far = spread(sampler)
    sampler.neighbours = torch.tensor([neighbours[label] for label in range(count)])
    if count > 9:  # three or two buildings a batch leave no choice
        assert spread(sampler) < 0.8 * far


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", ["paired", "independent"])
def test_processes_share_the_batches_of_one(kind, world_size):
    counts = {"satellite": dict.fromkeys(range(26), 1), "drone": dict.fromkeys(range(23), 4)}
    samples = samples_of(counts)
    sampler = samplers.SAMPLERS[kind]
    together = list(sampler(samples, 4 * world_size, seed=3))
    alone = [list(sampler(samples, 4, 3, rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in alone} == {len(together)}
    for step, whole in enumerate(together):
        parts = [batches[step] for batches in alone]
        assert sorted(sum(parts, [])) == sorted(whole)
        sizes = [sum(draw.view == "satellite" for draw in part) for part in parts]
        assert min(sizes) >= 2 and max(sizes) - min(sizes) <= 1
        if kind == "paired":
            labels = [{samples[d.view][d.index][1] for d in part} for part in parts]
            assert len(set.union(*labels)) == sum(map(len, labels))  # distinct buildings
    with pytest.raises(ValueError, match="at least|do not fill"):
        sampler(samples_of({"satellite": {0: 1, 1: 1, 2: 1}}), 1, 0, 0, world_size)
