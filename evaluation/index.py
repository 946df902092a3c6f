"""Approximate search in many features by an index of faiss, named by the string of its factory.

An index answers with candidates, whose scores are rough: they have to be scored again. Which
strings there are ("Flat", "HNSW32", "IVF1024,SQ8", ...): The index factory, in the wiki of faiss.
"""

import hashlib
import re

import numpy as np

from runtime.files import replacing
from runtime.optional import require
from runtime.progress import progress_bar

PACKAGES = "-r requirements-index.txt"
BLOCK = 2**16  # features added at a time
TRAINED_ON = 2**17  # features at most from which an index learns its lists and codes
LISTS, FEWEST = 16, 8  # one list of 16 is searched, and 8 at least, of an index with lists (IVF)
EXAMPLES = "Flat, HNSW32, IVF1024,Flat or IVF1024,SQ8"
EFFORT = 4  # candidates that a graph (HNSW) keeps, for each that is asked for


def open_index(features, factory, kept=None):
    """The index of features (M, D), which may be a mapped file.

    `kept` names the file of the features: the index is kept beside it, and found again. Raises
    ValueError where faiss is missing or cannot make such an index, OSError for a file that is no
    index of these features.
    """
    faiss = require("faiss", f"--index {factory}", PACKAGES)
    path = kept and _file_beside(kept, factory)
    if path and path.is_file():
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise OSError(f"{path} cannot be read ({_reason(error)}): remove it") from None
        if (index.ntotal, index.d) != features.shape:
            raise OSError(f"{path} is the index of other features: remove it")
        return index
    index = _build(faiss, features, factory)
    if path:
        write_index(path, index)
    return index


def write_index(path, index):
    """Write an index of faiss to a file in one step."""
    faiss = require("faiss", "--index", PACKAGES)
    # To an open file: faiss's writer of a path hides that the disk is full.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def _file_beside(kept, factory):
    plain = re.sub(r"\W", "-", factory)[:40]
    digest = hashlib.sha256(factory.encode()).hexdigest()[:8]
    return kept.with_name(f"{kept.stem}-{plain}-{digest}.faiss")


def _build(faiss, features, factory):
    index = _make(faiss, features.shape[1], factory)
    try:
        for each in (index, _inner(faiss, index)):
            if hasattr(each, "do_polysemous_training"):
                each.do_polysemous_training = False  # slow, and for a filter that is not used
        if not index.is_trained:
            rows = np.linspace(0, len(features) - 1, min(TRAINED_ON, len(features))).astype(int)
            index.train(np.array(features[rows]))
        for start in progress_bar(range(0, len(features), BLOCK), "index"):
            index.add(np.array(features[start : start + BLOCK]))
    except RuntimeError as error:
        raise ValueError(
            f"--index {factory} cannot be made of {len(features)} features ({_reason(error)}): "
            "try Flat, HNSW32 or, of many more tiles than lists, IVF1024,SQ8"
        ) from None
    return index


def _make(faiss, numbers, factory):
    """The empty index of features of so many numbers."""
    try:
        return faiss.index_factory(numbers, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        why = "" if "could not parse" in str(error) else f" ({_reason(error)})"
        raise ValueError(
            f"--index {factory!r} names no index that faiss makes of {numbers} numbers{why}: give "
            f"such as {EXAMPLES}"
        ) from None


def candidates(index, queries, count):
    """Rows (N, count) int64 of the features that an index finds for queries (N, D); -1 for none."""
    faiss = require("faiss", "--index", PACKAGES)
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        lists.nprobe = max(FEWEST, lists.nlist // LISTS)
    inner = _inner(faiss, index)
    if hasattr(inner, "hnsw"):
        inner.hnsw.efSearch = EFFORT * count
    return index.search(np.ascontiguousarray(queries), min(count, index.ntotal))[1]


def _inner(faiss, index):
    """The index behind a rotation or reduction of the features, if there is one."""
    return faiss.downcast_index(getattr(index, "index", index))


def _reason(error):
    """What faiss says, in one line without places in its source."""
    text = re.sub(r"^Error in .*?\.\w+:\d+: ", "", " ".join(str(error).split()))
    return text.rpartition("failed: ")[2]
