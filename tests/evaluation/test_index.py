"""Approximate search by an index of faiss."""

import re
import sys

import numpy as np
import pytest

from evaluation.index import candidates, open_index


@pytest.fixture(scope="module")
def features():
    """600 unit features around 60 centres, float32 (600, 16)."""
    pytest.importorskip("faiss", reason="faiss is not installed")
    generator = np.random.default_rng(0)
    rows = np.repeat(generator.standard_normal((60, 16)), 10, axis=0)
    rows += 0.3 * generator.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    "factory, least", [("Flat", 1.0), ("HNSW16", 0.95), ("IVF8,Flat", 0.5), ("PCA8,HNSW16", 0.5)]
)
def test_candidates_beside_brute_force(features, factory, least):
    index = open_index(features, factory)
    found = candidates(index, features[:50], 10)
    exact = np.argsort(-features[:50] @ features.T, axis=1)[:, :10]
    shares = [len(np.intersect1d(*pair)) / 10 for pair in zip(found, exact, strict=True)]
    assert np.mean(shares) >= least
    assert (found == np.arange(50)[:, np.newaxis]).any(axis=1).mean() >= least


def test_an_index_is_kept_beside_the_features(features, tmp_path):
    kept = tmp_path / "key.npy"
    first = candidates(open_index(features, "HNSW16", kept), features[:9], 5)
    (file,) = tmp_path.glob("key-HNSW16-*.faiss")
    times = file.stat().st_mtime_ns
    again = candidates(open_index(features, "HNSW16", kept), features[:9], 5)
    assert (again == first).all() and file.stat().st_mtime_ns == times
    open_index(features, "IVF4,Flat", kept)  # another string, another file
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OSError, match="is the index of other features: remove it"):
        open_index(features[:500], "HNSW16", kept)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(OSError, match=r"key-HNSW16-\w+.faiss cannot be read .*: remove it"):
        open_index(features, "HNSW16", kept)


@pytest.mark.parametrize("factory, message", [
    ("Flat32", "--index 'Flat32' names no index that faiss makes of 16 numbers: give such as Flat"),
    ("PQ5", "of 16 numbers (The dimension of the vector (d) should be a multiple of"),
    ("IVF4096,Flat", "cannot be made of 600 features (Number of training points (600) should be"),
    ("IDMap,Flat", "cannot be made of 600 features (add does not make sense with"),
])  # fmt: skip
def test_strings_that_make_no_index(features, factory, message):
    """One line, in which faiss speaks only of what the user can mend."""
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        open_index(features, factory)
    words = str(info.value)
    assert "\n" not in words and "Flat, HNSW32" in words
    assert not re.search(r"\.cpp|::|Error|failed|index string", words)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        ValueError, match="--index Flat needs the faiss package: pip install -r req"
    ):
        open_index(np.eye(3, dtype=np.float32), "Flat")
