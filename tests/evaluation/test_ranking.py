"""First images and ranks of given positives against plain sorts; memory bounded by a block."""

import tracemalloc

import numpy as np
import pytest
from ranking_tasks import random_task

from evaluation.feature_file import Features
from evaluation.pairs import count_above
from evaluation.ranking import (
    find_matches,
    first_images,
    published_order,
    rank_positives,
    top_images,
)


@pytest.mark.parametrize("junk", [[], [3, 700, 4999]], ids=["no junk", "junk"])
@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("length", [101, 5000, 30001])
def test_first_images_are_the_head_of_the_published_order(length, k, junk):
    junk = [image for image in junk if image < length]
    generator = np.random.default_rng(length + k)
    for scores in (
        generator.standard_normal(length).astype(np.float32),
        generator.integers(0, 40, length).astype(np.float32),  # ties everywhere
        np.where(np.arange(length) < k - 1, 9, generator.random(length)).astype(np.float32),
        -np.arange(length, dtype=np.float32),
    ):
        expected = published_order(scores, junk)[:k]
        assert first_images(scores[None], k, [junk])[0].tolist() == expected.tolist()


def test_top_images_without_junk_in_blocks_of_any_size():
    query, gallery = random_task()
    junk = find_matches(query, gallery)[1]
    scores = query.features @ gallery.features.T
    expected = [published_order(row, junk[0])[:7].tolist() for row in scores]
    for size in (1, 7, 100):
        assert top_images(query, gallery, 7, junk, size).tolist() == expected
    expected = [published_order(row, [])[:7].tolist() for row in scores]
    assert top_images(query, gallery, 7).tolist() == expected
    assert len(top_images(query, gallery, 84, junk)[0]) == 84
    with pytest.raises(ValueError, match="first 85 .* only 84 can be ranked"):
        top_images(query, gallery, 85, junk)


def test_ranks_of_given_positives():
    query, gallery = random_task(seed=1)
    generator = np.random.default_rng(2)
    positives = [generator.choice(90, generator.integers(0, 5), replace=False) for _ in range(40)]
    junk = set(np.flatnonzero(gallery.labels == -1))
    expected = []
    for row, given in enumerate(positives):
        order = np.argsort(gallery.features @ query.features[row])[::-1]
        order = [image for image in order if image not in junk or image in given]
        expected.append([rank for rank, image in enumerate(order, 1) if image in given])
    for size in (None, 3):
        ranks, *_ = rank_positives(query, gallery, size, positives=positives)
        assert [each.tolist() for each in ranks] == expected
    by_label, *_ = rank_positives(query, gallery, positives=find_matches(query, gallery)[0])
    for given, found in zip(by_label, rank_positives(query, gallery)[0], strict=True):
        np.testing.assert_array_equal(given, found)


@pytest.mark.parametrize("levels", [4, 12, 10**6])
def test_first_ranks_alone_are_those_of_all(levels):
    """With ties, near ties, junk, several positives, and queries without any."""
    query, gallery = random_task(seed=levels, levels=levels)
    gallery.labels[gallery.labels >= 0] //= 4
    query.labels[:] //= 4
    query.labels[:3] = 999, -1, 998
    gallery.features[:] += np.random.default_rng(0).random(gallery.features.shape) * 2.0**-20
    expected, lengths, bounds = rank_positives(query, gallery)
    assert sum(len(each) > 1 for each in expected) > 20
    for size in (None, 7):
        ranks, *others = rank_positives(query, gallery, size, only_first=True)
        assert [each.tolist() for each in ranks] == [each[:1].tolist() for each in expected]
        for found, all_of_them in zip(others, (lengths, bounds), strict=True):
            np.testing.assert_array_equal(found, all_of_them)


def test_memory_is_bounded_by_a_block():
    """The 3000 x 4000 scores would be 48 MB; a block of 16 queries is 0.26 MB."""
    generator = np.random.default_rng(0)
    query, gallery = (
        Features(generator.random((n, 8), dtype=np.float32), np.arange(n), ["x"] * n)
        for n in (3000, 4000)
    )
    for run in (
        lambda: count_above(query, gallery, block_size=16),
        lambda: top_images(query, gallery, 10, None, 16),
        lambda: rank_positives(query, gallery, 16, positives=[np.array([1])] * 3000),
        lambda: rank_positives(gallery, query, 16, only_first=True),
    ):
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4e6
