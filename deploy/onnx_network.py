"""Features of images by exported files, one a view: --name drone.onnx,satellite.onnx.

onnxruntime computes; torch is not needed.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from deploy import metadata
from evaluation.feature_file import need_finite
from imaging.files import TEXT
from runtime.optional import require
from runtime.printing import first_line, printable
from runtime.progress import progress_bar
from runtime.threads import done_ahead

SUFFIX = ".onnx"


# ---------------------------------------------------------------- the option --name
def onnx_files(name):
    """The exported files that --name lists; [] where it names a run."""
    names = name.split(",")
    return names if all(each.endswith(SUFFIX) for each in names) else []


def check_onnx(parser, opts, **inside):
    """End the program where options come with exported files that these have settled.

    `inside` has the values that mean nothing was given, {name: value}.
    """
    if not onnx_files(opts.name):
        return
    for name, value in {"which_epoch": "last", "fp16": False, "bf16": False, **inside}.items():
        if getattr(opts, name) != value:
            parser.error(
                f"--{name} is settled in an exported file: leave it out, or name the run and not "
                f"{opts.name}"
            )


# ---------------------------------------------------------------- the network
class OnnxNetwork:
    """The views of exported files of one run, ready to give features.

    Attributes:
        abouts: {view: metadata of the file}, see deploy/metadata.py.
        size: (height, width) in pixels of the images that all files take.
    """

    def __init__(self, paths, device="auto"):
        """Opens files; ValueError where they are no exported views that belong together.

        `device` is "auto", "cpu" or "cuda".
        """
        self.paths, self.abouts, self.sessions = list(map(Path, paths)), {}, {}
        providers = _providers(device)
        for path in self.paths:
            session, about = _open(path, providers)
            self._need_fitting(path, about)
            self.abouts[about["view"]], self.sessions[about["view"]] = about, session
        self.size = about["h"], about["w"]

    def _need_fitting(self, path, about):
        """ValueError where a file does not go with those before it."""
        if about["view"] in self.abouts:
            raise ValueError(f"{path} is of the view {about['view']}, as another of the files is: "
                             "name one a view")  # fmt: skip
        for other in self.abouts.values():
            if about["weights_sha256"] != other["weights_sha256"]:
                raise ValueError(
                    f"{path} and {self.paths[0]} have different weights, of the runs "
                    f"{about['run']} and {other['run']}: their features cannot be compared; export "
                    "both views of one run"
                )

    def need_views(self, *views):
        """ValueError where a view has no file."""
        for view in views:
            if view == TEXT:
                raise ValueError("texts are not exported: name the run itself")
            if view not in self.abouts:
                raise ValueError(
                    f"of {view} there is no file, {', '.join(map(str, self.paths))} "
                    f"{'is' if len(self.paths) == 1 else 'are'} of {', '.join(self.abouts)}: name "
                    f"another view, or write one with `python export.py --view {view}`"
                )

    def features(self, view, images):
        """uint8 images (B, 3, H, W), RGB, 0 to 255 -> float32 features (B, D), rows of length 1."""
        return self.sessions[view].run(None, {"images": np.ascontiguousarray(images)})[0]

    def extract(self, view, keys, images, batch_size=32, num_workers=0, description="features"):
        """Features (N, D) of `images[key]`, uint8 (height, width, 3), for each of `keys`."""

        def load(batch):
            return np.stack([images[key] for key in batch]).transpose(0, 3, 1, 2)

        starts = range(0, len(keys), batch_size)
        batches = [keys[start : start + batch_size] for start in starts]
        loaded = done_ahead(load, batches, num_workers)
        rows = [
            self.features(view, batch) for batch in progress_bar(loaded, description, len(batches))
        ]
        found = np.concatenate(rows)
        need_finite(found, description)
        return found

    def run_options(self):
        """The options of the run that describe its network; turns are inside the files."""
        options = next(iter(self.abouts.values()))["options"]
        return {**options, "h": self.size[0], "w": self.size[1], "turns": None}

    def digest(self):
        """sha256 of all files, bytes: other files are another network."""
        digest = hashlib.sha256()
        for path in self.paths:
            with open(path, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        return digest.digest()


def open_files(name, device, *views):
    """The `OnnxNetwork` of the files that --name lists, among which these views have to be."""
    network = OnnxNetwork(onnx_files(name), device)
    network.need_views(*views)
    about = next(iter(network.abouts.values()))
    weights = f"exported from the run {about['run']} ({about['weights_sha256'][:8]})"
    print(f"weights: {printable(', '.join(map(str, network.paths)))}, {printable(weights)}")
    return network


def _providers(device):
    available = _onnxruntime().get_available_providers()
    cuda = [each for each in available if each == "CUDAExecutionProvider"]
    if device == "cuda" and not cuda:
        raise ValueError(
            "--device cuda: this onnxruntime computes on the CPU alone; install onnxruntime-gpu, "
            "or give --device cpu"
        )
    return [*(cuda if device != "cpu" else []), "CPUExecutionProvider"]


def _onnxruntime():
    return require("onnxruntime", f"--name FILE{SUFFIX}", "-r requirements-export.txt")


def _open(path, providers):
    """(session, metadata) of an exported file."""
    runtime = _onnxruntime()
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: write it with `python export.py`")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    # As torch does it; 0 means all cores.
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    try:
        session = runtime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # of many types, none of them public
        raise ValueError(f"{path} cannot be read as an ONNX file: {first_line(error)}") from None
    return session, metadata.from_text(session.get_modelmeta().custom_metadata_map, path)
