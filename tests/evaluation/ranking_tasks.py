"""Tasks whose scores are known exactly, for the tests of this folder."""

import numpy as np

from evaluation.feature_file import Features


def task(scores, query_labels=None, gallery_labels=None):
    """Features whose scores are the given (Nq, Ng) exactly; the label of image i is i by default.

    Images are query_drone/<label>/q<i>.jpg and gallery_satellite/<label>/g<j>.jpg.
    """
    scores = np.asarray(scores, dtype=np.float32)
    num_query, num_gallery = scores.shape
    query_labels = np.arange(num_query) if query_labels is None else np.asarray(query_labels)
    gallery_labels = np.arange(num_gallery) if gallery_labels is None else gallery_labels

    def side(array, labels, folder, letter):
        paths = [f"{folder}/{label:04d}/{letter}{i}.jpg" for i, label in enumerate(labels)]
        return Features(array, np.asarray(labels, dtype=np.int64), paths)

    return (
        side(np.eye(num_query, dtype=np.float32), query_labels, "test/query_drone", "q"),
        side(scores.T.copy(), gallery_labels, "test/gallery_satellite", "g"),
    )


def random_task(num_query=40, num_gallery=90, levels=12, seed=0, labels=30):
    """Scores of few levels, so that many tie; labels repeat or have no image, and some is junk."""
    generator = np.random.default_rng(seed)
    gallery_labels = generator.permutation(num_gallery)
    gallery_labels[gallery_labels >= num_gallery - 6] = -1
    query_labels = generator.integers(0, labels, num_query) + num_gallery - labels
    scores = generator.integers(0, levels, (num_query, num_gallery))
    scores[query_labels[:, None] == gallery_labels] += levels // 2  # better than by chance
    return task(scores, query_labels, gallery_labels)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path
