"""One view of a run as an ONNX file: pixels in, features out, checked against PyTorch."""

import hashlib
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import model
import utils
from deploy import metadata
from extract import copies_of
from imaging.turns import turns_in_test
from networks.branch import Branch
from networks.inference import inference_copy
from networks.run_options import input_size_from_opts
from runtime import cli
from runtime.bundles import read_bytes
from runtime.files import write_bytes
from runtime.optional import require
from runtime.printing import printable

PURPOSE, PACKAGES = "export.py --output", "-r requirements-export.txt"
OPSET = 18
LARGEST = 2**31  # bytes: an ONNX file is one protobuf message
BATCHES = (1, 7)  # at which the file is compared with PyTorch
# Of the features in a file: the smallest cosine with PyTorch's, and the largest distance to them,
# as a share of the mean distance between two images. A network gives all images a large part in
# common, which alone would make a high cosine.
BOUNDS = {"fp32": (0.9999, 0.01), "fp16": (0.999, 0.1)}


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
    number, precision = numbers[opts.view], "fp16" if opts.fp16 else "fp32"
    need_images(network, number, opts.view)
    height, width = input_size_from_opts(run_opts)
    turns = turns_in_test(run_opts.get("turns"), numbers, height, width)[opts.view]
    flips = opts.flips and not run_opts.get("no_flip")
    reference, exported = (
        ViewNetwork(inference_copy(network, kind), number, turns, flips).eval()
        for kind in ("fp32", precision)
    )
    proto = to_onnx(exported, height, width)
    weights = utils.find_checkpoint(utils.run_folder(opts.name), opts.which_epoch)
    about = {
        "format": metadata.FORMAT,
        "run": utils.results_folder(opts.name).name,
        "view": opts.view,
        "weights_sha256": hashlib.sha256(read_bytes(weights)).hexdigest(),
        "precision": precision,
        "h": height,
        "w": width,
        "size": "fixed",
        "flips": flips,
        "turns": turns,
        "options": metadata.options_of(run_opts),
        "input": metadata.INPUT,
        "output": metadata.OUTPUT,
    }
    onnx.helper.set_model_props(proto, metadata.to_text(about))
    content = proto.SerializeToString()
    found = compare(content, reference, height, width)
    need_agreement(opts.output, found, precision)
    write_bytes(opts.output, content)
    print(
        f"{printable(opts.output)}: {opts.view} of {printable(opts.name)}, {precision}, "
        f"{len(content) / 1e6:.1f} MB, images of {height} x {width} pixels; cosine with PyTorch "
        f"{found[0]:.6f} at least"
    )
    return about


def need_images(network, number, view):
    """ValueError where a branch does not take images."""
    if not isinstance(getattr(network, f"model_{number}"), Branch):
        raise ValueError(f"--view {view} is no view of images: only these are exported so far")


def to_onnx(view_network, height, width):
    """The `onnx.ModelProto` of a `ViewNetwork`; ValueError where torch cannot export it."""
    size = sum(each.nbytes for each in view_network.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"the network has {size / 2**30:.1f} GiB: an ONNX file holds less than 2")
    images = torch.zeros(3, 3, height, width, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about the exporter's parts
            program = torch.onnx.export(
                view_network,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["feature"],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"torch cannot export this network to ONNX ({reason})") from None
    return program.model_proto


# ---------------------------------------------------------------- the check
def compare(content, reference, height, width):
    """(smallest cosine, largest distance) of an ONNX file's features to those of `reference`.

    The distance is a share of the mean distance between the features of two images.
    """
    runtime = require("onnxruntime", PURPOSE, PACKAGES)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    cosine, distance = 1.0, 0.0
    for count in BATCHES:
        images = trial_images(count + 1, height, width)
        with torch.inference_mode():
            expected = reference(images)
        between = torch.pdist(expected).mean()
        (found,) = session.run(["feature"], {"images": images[:count].numpy()})
        found, expected = torch.from_numpy(found), expected[:count]
        cosine = min(cosine, float(F.cosine_similarity(found, expected).min()))
        distance = max(distance, float((found - expected).norm(dim=1).max() / between))
    return cosine, distance


def trial_images(count, height, width):
    """uint8 (count, 3, height, width): patches of random colours, coarser and finer ones."""
    random = np.random.default_rng(count)
    images = torch.zeros(count, 3, height, width)
    for side in (2, 8, 32):
        noise = torch.from_numpy(random.random((count, 3, side, side), np.float32))
        images += F.interpolate(noise, (height, width)) / 3
    return (255 * images).byte()


def need_agreement(path, found, precision):
    """ValueError where features in a file are not those of PyTorch, see BOUNDS."""
    (cosine, distance), (least, most) = found, BOUNDS[precision]
    if not (cosine > least and distance < most):
        raise ValueError(
            f"{path} is not written: its features differ from PyTorch's, smallest cosine "
            f"{cosine:.6f} and distance {distance:.3f} of that between images, expected above "
            f"{least} and below {most}" + ("; leave --fp16 out" if precision == "fp16" else "")
        )
