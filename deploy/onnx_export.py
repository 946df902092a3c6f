"""One view of a run as an ONNX file: pixels in, features out, checked against PyTorch."""

import hashlib
import logging
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import model
import utils
from deploy import metadata
from deploy.onnx_network import OnnxNetwork
from deploy.quantise import IMAGES, pixels_of, print_recalls, quantised, quiet, some_of
from extract import copies_of
from imaging.turns import turns_in_test
from networks.blocks import USAM
from networks.branch import ConvNeXtBranch
from networks.inference import inference_copy
from networks.musenet import MuSeNet
from networks.run_options import input_size_from_opts
from runtime import cli
from runtime.bundles import read_bytes
from runtime.files import replacing
from runtime.optional import require
from runtime.printing import printable
from zero_shot import images_of

PURPOSE, PACKAGES = "export.py --output", "-r requirements-export.txt"
OPSET = 18
LARGEST = 2**31  # bytes: an ONNX file is one protobuf message
SMALLEST = 64  # pixels, of a side that is free
MOST = 2**20  # images in a batch
BATCHES = (1, 7)  # at which the file is compared with PyTorch
# Of the features in a file: the smallest cosine with PyTorch's, and the largest distance to them,
# as a share of the mean distance between two images. A network gives all images a large part in
# common, which alone would make a high cosine. In 8 bits it is another network: what counts there
# is the recall that is printed.
BOUNDS = {"fp32": (0.9999, 0.01), "fp16": (0.999, 0.1), "int8": (0.9, 0.5)}


class ViewNetwork(nn.Module):
    """uint8 images (B, 3, H, W), RGB, 0 to 255 -> features (B, D) of length 1, of one branch.

    `network` is an `inference_copy`; the embeddings of the image in `turns` right-angle turns, and
    with `flips` of the mirror images, are added, as in extract.py.
    """

    def __init__(self, network, branch, turns=1, flips=True):
        super().__init__()
        self.network, self.branch, self.turns, self.flips = network, branch, turns, flips
        mean, std = (torch.tensor(each)[:, None, None] for each in network.input_spec[:2])
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images):
        x = images.float() * self.scale + self.shift
        pairs = copies_of(x, self.turns)
        copies = [copy for pair in pairs for copy in (pair if self.flips else pair[:1])]
        embedded = self.network.embed(torch.cat(copies), self.branch).float()  # (copies B, D)
        return self.network.finish(embedded.unflatten(0, (len(copies), -1)).sum(0))


# ---------------------------------------------------------------- from a run to a file
def export_view(opts):
    """Write the file that the options of export.py ask for; returns its metadata, a dict.

    Raises ValueError where the run or the view cannot be exported, or the file would not give the
    features of PyTorch within BOUNDS: then nothing is written.
    """
    onnx = require("onnx", PURPOSE, PACKAGES)
    for module in ("onnxscript", "onnxruntime"):
        require(module, PURPOSE, PACKAGES)
    network, numbers, run_opts = model.load_run(opts.name, opts.which_epoch, torch.device("cpu"))
    cli.need_views(opts, numbers, "view")
    number = numbers[opts.view]
    if opts.fp16:
        need_half(network, number)
    size = input_size_from_opts(run_opts)
    turns = turns_in_test(run_opts.get("turns"), numbers, *size)
    photos = images_of(opts.data_dir, opts.view, "--data_dir", "--int8") if opts.int8 else None
    free = takes_any_size(network, number, turns[opts.view]) and min(size) >= SMALLEST
    flips = opts.flips and not run_opts.get("no_flip")
    plain = inference_copy(network)
    stored = inference_copy(network, "fp16") if opts.fp16 else plain
    reference, exported = (
        ViewNetwork(each, number, turns[opts.view], flips).eval() for each in (plain, stored)
    )
    proto = to_onnx(exported, *size, free)
    if free and not has_free_size(proto):  # what fixes the size fixes the batch too
        free, proto = False, to_onnx(exported, *size)
    precision = "fp16" if opts.fp16 else "int8" if opts.int8 else "fp32"
    if opts.int8:
        pixels = pixels_of(some_of(photos, IMAGES), *size)
        proto = quantised(proto, pixels, PURPOSE, PACKAGES)
    about = describe(opts, run_opts, size, free, precision, flips, turns[opts.view])
    onnx.helper.set_model_props(proto, metadata.to_text(about))
    with replacing(opts.output) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        written = OnnxNetwork([temporary], "cpu")
        trials = trials_of(*size, free, photos)
        features = partial(features_of, opts.output, written, opts.view)
        found = compare(features, reference, trials)
        need_agreement(opts.output, found, precision)
        if opts.int8:
            mirrored = {**dict.fromkeys(numbers, not run_opts.get("no_flip")), opts.view: flips}
            print_recalls(opts, plain, written, numbers, turns, mirrored)
    sides = "of any size, made for" if free else "of"
    print(
        f"{printable(opts.output)}: {opts.view} of {printable(opts.name)}, {precision}, "
        f"{Path(opts.output).stat().st_size / 1e6:.1f} MB, images {sides} {size[0]} x {size[1]} "
        f"pixels; cosine with PyTorch {found[0]:.6f} at least"
    )
    return about


def describe(opts, run_opts, size, free, precision, flips, turns):
    """What the file says of itself, see deploy/metadata.py."""
    weights = utils.find_checkpoint(utils.run_folder(opts.name), opts.which_epoch)
    return {
        "format": metadata.FORMAT,
        "run": utils.results_folder(opts.name).name,
        "view": opts.view,
        "weights_sha256": hashlib.sha256(read_bytes(weights)).hexdigest(),
        "precision": precision,
        "h": size[0],
        "w": size[1],
        "size": "any" if free else "fixed",
        "flips": flips,
        "turns": turns,
        "options": metadata.options_of(run_opts),
        "input": metadata.INPUT,
        "output": metadata.OUTPUT,
    }


def need_half(network, number):
    """ValueError where onnxruntime cannot run a branch in float16."""
    # From version 1.24 on it ends the whole process, without a word: its issue 28392.
    branch = getattr(network, f"model_{number}")
    if any(isinstance(module, nn.MultiheadAttention) for module in branch.modules()):
        raise ValueError(
            "onnxruntime cannot run torch's own attention layers in float16: leave --fp16 out, or "
            "train a vision transformer of timm"
        )


def takes_any_size(network, number, turns):
    """Whether a branch works alike on images of all sizes: convolutions and a global pooling."""
    branch = getattr(network, f"model_{number}")
    return (
        isinstance(branch, (model.ft_net, model.ft_net_VGG16, ConvNeXtBranch))
        and not isinstance(network, MuSeNet)
        and not any(isinstance(module, USAM) for module in branch.modules())
        and branch.maps == ("last",)
        and {*branch.kinds} <= {"avg", "max", "gem"}
        and not branch.block
        and turns < 4
    )


def to_onnx(view_network, height, width, free=False):
    """The `onnx.ModelProto` of a `ViewNetwork`; ValueError where torch cannot export it.

    The batch is free, and with `free` height and width too, from 64 pixels up.
    """
    size = sum(each.nbytes for each in view_network.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"the network has {size / 2**30:.1f} GiB: an ONNX file holds less than 2")
    images = torch.zeros(3, 3, height, width, dtype=torch.uint8)
    axes = {0: torch.export.Dim("batch", min=1, max=MOST)}  # torch 2.6 fixes it without a maximum
    if free:  # not by `Dim`, with which torch 2.6 fixes the size of what a pooling gets
        axes |= dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    try:
        # Not what the exporter's parts say, nor what torch 2.6 tries first.
        with warnings.catch_warnings(), quiet(logging.ERROR), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                view_network,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["feature"],
                dynamic_shapes=(axes,),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"torch cannot export this network to ONNX ({reason})") from None
    return program.model_proto


def has_free_size(proto):
    """Whether height and width are free in an ONNX graph."""
    dimensions = proto.graph.input[0].type.tensor_type.shape.dim
    return all(each.dim_param for each in dimensions[2:])


# ---------------------------------------------------------------- the check
def trials_of(height, width, free, photos=None):
    """Images for `compare`: a uint8 array (B + 1, 3, H, W) for each of BATCHES.

    They are of `photos` where these are given, else of random colours; with `free` some are larger.
    """
    sizes = [(height, width), (height + 64, width + 32)] if free else [(height, width)]
    if photos is None:
        return [trial_images(count + 1, *size) for size in sizes for count in BATCHES]
    spread = some_of(photos, 2 * max(BATCHES), first=1)
    return [pixels_of(spread[: count + 1], *size) for size in sizes for count in BATCHES]


def features_of(path, network, view, images):
    """Features by an `OnnxNetwork`; ValueError where what was exported cannot run on the images."""
    try:
        return network.features(view, images)
    except Exception as error:  # of many types, none of them public
        reason = " ".join(str(error).split())
        shape = " x ".join(map(str, images.shape))
        raise ValueError(
            f"{path} is not written: what torch exported does not run on images {shape} ({reason})"
        ) from None


def trial_images(count, height, width):
    """uint8 (count, 3, height, width): patches of random colours, coarser and finer ones."""
    random = np.random.default_rng(count)
    images = np.zeros((count, 3, height, width))
    for side in (2, 8, 32):
        noise = random.random((count, 3, side, side))
        rows, columns = (np.arange(length) * side // length for length in (height, width))
        images += noise[:, :, rows[:, None], columns] / 3
    return (255 * images).astype(np.uint8)


def compare(features, reference, trials):
    """(smallest cosine, largest distance) of features to those of `reference`, a `ViewNetwork`.

    `features` takes uint8 arrays (B, 3, H, W) and gives arrays (B, D); of each of the `trials` it
    gets all but the last image. The distance is a share of the mean distance between the features
    of two images.
    """
    cosine, distance = 1.0, 0.0
    for images in trials:
        with torch.inference_mode():
            expected = reference(torch.from_numpy(images))
        between = torch.pdist(expected).mean()
        found, expected = torch.from_numpy(features(images[:-1])), expected[:-1]
        cosine = min(cosine, float(F.cosine_similarity(found, expected).min()))
        distance = max(distance, float((found - expected).norm(dim=1).max() / between))
    return cosine, distance


def need_agreement(path, found, precision):
    """ValueError where features in a file are not those of PyTorch, see BOUNDS."""
    (cosine, distance), (least, most) = found, BOUNDS[precision]
    if not (cosine > least and distance < most):
        without = "" if precision == "fp32" else f"; leave --{precision} out"
        raise ValueError(
            f"{path} is not written: its features differ from PyTorch's, smallest cosine "
            f"{cosine:.6f} and distance {distance:.3f} of that between images, expected above "
            f"{least} and below {most}{without}"
        )
