"""Whole numbers of 8 bits in an exported file's backbone, and what they cost in recall."""

import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from evaluation.metrics import evaluate
from extract import extract_features, labelled
from imaging.cache import load_resized, open_view
from imaging.files import TEXT, retrieval_labels, scan_test_folders, split_folder, task_folders
from runtime.files import NO_ROOM
from runtime.optional import require

IMAGES = 100  # on which the ranges of the numbers are measured
AT_ONCE = 10  # of these
LOADERS = 2  # threads that decode
COMPARED = 1000  # images of a test folder at most for the recall, at least one of each place
# Layers whose numbers become 8 bits wide. What stands between the convolutions of a network with
# ReLU too, so that they stay so; transformers and ConvNeXt add numbers of very different size.
LAYERS, BETWEEN = ("Conv", "MatMul", "Gemm"), ("Add", "Relu", "MaxPool")
SCOPES = "pkg.torch.onnx.name_scopes"  # metadata of a node: the modules that it is in


def some_of(paths, count, first=0):
    """`count` of the paths at most, spread evenly, from number `first`."""
    return paths[first :: -(-len(paths) // count)]


def pixels_of(paths, height, width):
    """Images of files as the exported network takes them: uint8 (N, 3, height, width)."""
    images = [load_resized(path, height, width) for path in paths]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


class _Batches:
    """The images on which onnxruntime measures ranges, a batch at a time."""

    def __init__(self, pixels):
        parts = range(0, len(pixels), AT_ONCE)
        self.batches = ({"images": pixels[start : start + AT_ONCE]} for start in parts)

    def get_next(self):
        return next(self.batches, None)


def quantised(proto, pixels, purpose, packages):
    """An `onnx.ModelProto` of deploy/onnx_export.py with its backbone in 8 bits, another one.

    Static quantisation: weights by channel, the ranges of what flows between them are the widest on
    images uint8 (N, 3, H, W). What prepares the pixels, pooling, head and length stay float32.
    """
    quantization = require("onnxruntime.quantization", purpose, packages)
    onnx = require("onnx", purpose, packages)
    kinds = {node.op_type for node in proto.graph.node}
    # onnxruntime advises to prepare the network, which has been done.
    with _temporary_folder() as folder, quiet(logging.WARNING):
        given, path = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(proto, given)  # onnxruntime 1.20 cannot take the ModelProto
        quantization.quantize_static(
            given,
            path,
            _Batches(pixels),
            op_types_to_quantize=[*LAYERS, *(BETWEEN if "Relu" in kinds else ())],
            nodes_to_exclude=[node.name for node in proto.graph.node if not _in_backbone(node)],
            per_channel=True,
            # Weights of 7 bits: without the instructions for 8 (VNNI) a sum would overflow unseen.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(path)


def _in_backbone(node):
    scopes = next((each.value for each in node.metadata_props if each.key == SCOPES), "")
    return "'network.model_" in scopes


@contextmanager
def _temporary_folder():
    """A folder for the block; OSError that names it where it has no room: onnxruntime's name none.

    Beside what is written here onnxruntime keeps files of its own there.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(
            f"{tempfile.gettempdir()} has no room for the files of --int8 ({error.strerror}), some "
            "four times the network's size: make room, or name another folder by TMPDIR"
        ) from None


@contextmanager
def quiet(level):
    """Without the messages of libraries up to a level of `logging`."""
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


# ---------------------------------------------------------------- recall
def print_recalls(opts, plain, exported, branches, turns, flips):
    """Print Recall@1 of the view's test tasks, with PyTorch and with the exported view.

    `plain` is the `inference_copy`, `exported` the `OnnxNetwork`; `branches`, `turns` and `flips`
    are by view. The other view of a task is `plain`'s both times. Returns {(query, gallery):
    (before, after)} in percent; it is empty where the folder has no such test.
    """
    try:
        test_dir = split_folder(opts.data_dir, "test")
    except FileNotFoundError:
        test_dir = None
    others = [view for view in branches if view not in (opts.view, TEXT)]
    tasks = [task for view in others for task in ((opts.view, view), (view, opts.view))]
    tasks = [task for task in tasks if test_dir and _has(test_dir, task)]
    if not tasks:
        print(f"no Recall: {opts.data_dir} has no test of {opts.view} and another view")
        return {}
    scanned = scan_test_folders(test_dir, tasks)
    label_of = retrieval_labels(*scanned.values())
    scanned = {folder: _some_of_each(classes) for folder, classes in scanned.items()}
    before = {
        folder: _features(plain, branches[view := folder.split("_")[1]], classes, turns[view],
                          flips[view], label_of, exported.size)
        for folder, classes in scanned.items()
    }  # fmt: skip
    after = before | {
        folder: labelled(_by_file(exported, opts.view, classes), classes, label_of)
        for folder, classes in scanned.items()
        if folder.endswith(f"_{opts.view}")
    }
    found = {}
    for task in tasks:
        recalls = [
            evaluate(*(each[folder] for folder in task_folders(task)))["recall@1"]
            for each in (before, after)
        ]
        counts = [len(before[folder].labels) for folder in task_folders(task)]
        print(
            f"{' -> '.join(task)}, {counts[0]} queries, {counts[1]} gallery images: Recall@1 "
            f"{recalls[0]:.2f} before, {recalls[1]:.2f} with {opts.view} in 8 bits"
        )
        found[task] = tuple(recalls)
    return found


def _has(test_dir, task):
    return all((test_dir / folder).is_dir() for folder in task_folders(task))


def _some_of_each(classes):
    """{ID: paths} with COMPARED paths in all, or one an ID."""
    share = max(1, COMPARED // max(1, len(classes)))
    return {name: some_of(paths, share) if paths else [] for name, paths in classes.items()}


def _features(network, branch, classes, turns, flip, label_of, size):
    paths = _paths_of(classes)
    images = open_view(paths, *size)
    about = {"device": torch.device("cpu"), "turns": turns, "flip": flip, "num_workers": LOADERS}
    return labelled(extract_features(network, branch, paths, images, **about), classes, label_of)


def _by_file(exported, view, classes):
    """Features (N, D) of the images of a view by its exported file."""
    paths = _paths_of(classes)
    return exported.extract(view, paths, open_view(paths, *exported.size), num_workers=LOADERS)


def _paths_of(classes):
    return [path for images in classes.values() for path in images]
