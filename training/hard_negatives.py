"""Which buildings look alike, or stand close by: the hard negatives that fill a batch."""

import random
from pathlib import Path

import numpy as np
import torch

from evaluation.places import COORDINATE_FILES, metre_distance, read_coordinates
from evaluation.ranking import k_largest, score_blocks
from evaluation.side_files import find_side_file
from extract import extract_features
from model import branch_numbers
from networks.inference import inference_copy

BLOCK = 256  # buildings compared with all others at once


def set_neighbours(training, data, opts, epoch):
    """Before an epoch, where it is due: give the sampler the neighbours that fill a batch."""
    if opts.hard_negatives == "none":
        return
    count = opts.batchsize * opts.world_size  # more are never looked at
    found = None
    if opts.hard_negatives != "similarity" and epoch == 0:
        places = read_places(opts.data_dir, data.class_names)
        found = close_by(*places, count)
    looks = epoch > 0 and epoch % opts.hard_negatives_every == 0
    if opts.hard_negatives != "coordinates" and looks:
        found = alike(*building_features(training, data, opts, epoch), count)
    if found is not None:
        data.sampler.neighbours = torch.from_numpy(found)


def building_features(training, data, opts, epoch):
    """Features of each building in the pair of views that is retrieved, first and last: two (N, D).

    Each is of one image, another one from look to look; a building without a view is known by the
    other view alone.
    """
    network = inference_copy(training.network, training.precision)
    found = {}
    for view in (opts.view_names[0], opts.view_names[-1]):
        images_of = {}
        for path, label in data.samples[view]:
            images_of.setdefault(label, []).append(path)
        rng = random.Random(f"{opts.seed}/{epoch}/{view}")
        features = extract_features(
            network,
            branch_numbers(opts.view_names)[view],
            [rng.choice(paths) for paths in images_of.values()],
            data.images[view],
            device=training.device,
            batch_size=opts.batchsize,
            flip=not opts.no_flip,
            num_workers=opts.num_workers,
            description=f"hard negatives, {view}",
        )
        found[view] = np.zeros((len(data.class_names), features.shape[1]), np.float32)
        found[view][list(images_of)] = features
    one, other = found.values()
    return (
        np.where(one.any(axis=1, keepdims=True), one, other),
        np.where(other.any(axis=1, keepdims=True), other, one),
    )


def alike(one, other, count):
    """The most similar buildings of each, by unit features of a view and of another, both (N, D).

    The similarity of buildings a and b is one_a . other_b + one_b . other_a: how easily either
    view of a is taken for b. Returns (N, min(count, N - 1)) int64, most similar first.
    """

    def similarity(rows):
        return one[rows] @ other.T + other[rows] @ one.T

    return _nearest(one, other, similarity, count)


def close_by(places, planar, count):
    """The nearest buildings of each; places (N, 2), (latitude, longitude) in degrees or (x, y).

    `planar` says that they are (x, y); else the distance is along a great circle. Returns
    (N, min(count, N - 1)) int64, nearest first.
    """

    def closeness(rows):
        return -metre_distance(places[rows, None], places, planar)

    return _nearest(places, places, closeness, count)


def _nearest(one, other, similarity, count):
    """The `count` largest of similarity(rows) (B, N) for each of N rows, itself left out."""
    count = min(count, len(one) - 1)
    nearest = np.empty((len(one), count), np.int64)
    if not count:
        return nearest
    for rows, scores in score_blocks(one, other, similarity, BLOCK):
        block = np.arange(len(scores))
        scores[block, rows.start + block] = -np.inf
        nearest[rows] = k_largest(scores, count)
    return nearest


def read_places(data_dir, class_names):
    """(places (N, 2) float64, planar) of the buildings, from the data folder's coordinates.csv.

    `data_dir` is the data folder or its train/. Raises FileNotFoundError or ValueError where the
    file, or a building in it, is missing.
    """
    path = find_side_file(data_dir, *COORDINATE_FILES)
    if path is None:
        folder = Path(data_dir).parent if Path(data_dir).name == "train" else Path(data_dir)
        raise FileNotFoundError(
            f"{folder / COORDINATE_FILES[0]} not found: hard negatives by coordinates need it (a "
            "line building,latitude,longitude for each); use --hard_negatives similarity"
        )
    places, planar, _ = read_coordinates(path)
    missing = [name for name in class_names if name not in places]
    if missing:
        raise ValueError(
            f"{path} has no coordinates of {len(missing)} of {len(class_names)} buildings, first "
            f"{missing[0]}: add them or use --hard_negatives similarity"
        )
    return np.array([places[name] for name in class_names], np.float64), planar
