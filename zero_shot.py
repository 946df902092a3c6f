"""The network with which a script compares images: of a run, or with --zero_shot one as it came.

Without a run the features are those of a backbone with its pretrained weights, pooled, with nothing
trained. Then each view's mean is taken from them: two platforms see a place in different light and
from different heights, which moves all features of a view alike, and what is left tells the places
apart. The mean is of the images that are compared themselves, or of a data folder (--center_on).
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

import model
import utils
from deploy.onnx_network import onnx_files, open_files
from imaging.files import DRONE, SATELLITE, TEST_VIEWS, scan_classes
from networks.backbones import check_backbone, download_imagenet_weights
from networks.inference import inference_copy
from networks.options import FEWEST, RINGS, SIDE
from runtime import cli
from runtime.printing import printable

BLOCK = 2**15  # features at a time


# ---------------------------------------------------------------- network
def load_network(opts, device):
    """(copy of a network for extraction, branch numbers by view, options of the run, a dict).

    Of the run `opts.name`, or with `opts.zero_shot` of `networks.options.add_zero_shot_options`:
    then one branch serves all views. Where the name lists exported files, the network is an
    `OnnxNetwork`, whose branches are its views. Raises as `model.load_run` and
    `model.load_backbone` do.
    """
    if onnx_files(opts.name):
        views = () if opts.all else (opts.query, opts.gallery)
        network = open_files(opts.name, opts.device, *views)
        return network, {view: view for view in network.abouts}, network.run_options()
    if opts.zero_shot:
        network, numbers, run_opts = _load_pretrained(opts)
        network = network.to(device).eval()
    else:
        network, numbers, run_opts = model.load_run(opts.name, opts.which_epoch, device)
    return inference_copy(network, cli.precision_of(opts)), numbers, run_opts


def _load_pretrained(opts):
    backbone, size = opts.backbone or "resnet50", (opts.h or SIDE, opts.w or SIDE)
    check_backbone(backbone)
    options = {"backbone": backbone, "pool": opts.pool or "rings", "block": opts.block or RINGS}
    options["maps"] = opts.maps or _usual_maps(backbone, size)
    network = model.build_model(1, **options, share=True, head="none", image_size=size)
    network.input_spec.check_size(backbone, *size)
    if opts.weights:
        state, source = utils.load_state_dict(opts.weights), opts.weights
    else:
        source = f"ImageNet's, of {backbone}"
        state = download_imagenet_weights(backbone, trains=False)
    model.load_backbone(network, state, source)
    maps = ",".join(map(str, options["maps"]))
    about = f"{options['pool']} of maps {maps} at {size[0]} x {size[1]} pixels"
    print(f"weights: {source}, {about}, nothing trained")
    digest = hashlib.sha256()
    for name, weight in network.model_1.state_dict().items():
        digest.update(name.encode() + weight.contiguous().numpy().tobytes())
    turns = 4 if size[0] == size[1] else 2
    options |= {"h": size[0], "w": size[1], "weights": digest.hexdigest()}
    options["turns"] = {SATELLITE: turns, DRONE: turns}  # street images have an up and a down
    return network, dict.fromkeys(TEST_VIEWS, 1), options


def _usual_maps(backbone, size):
    """What --maps is where it is left out."""
    with torch.device("meta"):  # no weights are made
        branch = model.make_branch(1, 2, "avg", backbone, image_size=size)
    return [2, 3, "last"] if branch.pyramid else ["last"]


# ---------------------------------------------------------------- centring
class ViewMeans:
    """Takes from features of --zero_shot the mean of their view; of a run it leaves them alone.

    `extract(view, paths, description)` gives the features (N, D) of images, here of those of
    `opts.center_on`.

    Attributes:
        means: {view: mean (D,) float32} of that folder; empty where there is none.
        key: text that tells features centred in another way apart.
    """

    def __init__(self, opts, views, extract):
        self.on, self.means, self.key, counts = opts.zero_shot, {}, "", []
        if opts.center_on:
            for view in sorted(views):
                paths = images_of(opts.center_on, view)
                self.means[view] = mean_of(extract(view, paths, f"{view} of --center_on"))
                counts.append(f"{len(paths)} {view}")
            print(f"centred on {' and '.join(counts)} images of {printable(opts.center_on)}")
            digest = hashlib.sha256(b"".join(self.means[view].tobytes() for view in sorted(views)))
            self.key = digest.hexdigest()

    def task(self, task, query, gallery):
        """The centred `Features` of a test's task, (view of the queries, view of the gallery)."""
        if not self.on:
            return query, gallery
        counts = len(query.features), len(gallery.features)
        gallery = gallery._replace(features=gallery.features.copy())
        mean = self.gallery(gallery.features, task[1])
        names = "queries", "gallery images"
        centred = self.queries(query.features, task[0], mean, names, counts)
        return query._replace(features=centred), gallery

    def gallery(self, features, view):
        """Centre features (M, D) in place; returns the mean, None where they are too few for one.

        `features` may be a mapped file.
        """
        mean = self.means.get(view)
        if mean is None and self.on and len(features) >= FEWEST:
            mean = mean_of(features)
        if mean is not None:
            centre(features, mean)
        return mean

    def queries(self, features, view, of_gallery, names, counts):
        """Centred features (N, D), where `gallery` gave the mean `of_gallery`; prints how.

        A few queries have no mean: that of the gallery is better than none. `names` are what
        queries and gallery are called, `counts` how many there are.
        """
        if not self.on or not len(features):
            return features
        queries, gallery = (f"{n} {name}" for n, name in zip(counts, names, strict=True))
        mean = self.means.get(view)
        more = f"{FEWEST} are enough, or give --center_on DIR"
        if of_gallery is None:
            print(f"not centred: {gallery} are too few for a mean ({more})")
            return features
        if mean is None and counts[0] >= FEWEST:
            print(f"centred on the {queries} and {gallery} themselves")
            mean = mean_of(features)
        elif mean is None:
            print(f"centred on the {gallery}, the {queries} too: these are too few ({more})")
            mean = of_gallery
        features = features.copy()
        centre(features, mean)
        return features


def mean_of(features):
    """The mean (D,) float32 of features (N, D)."""
    return features.mean(axis=0, dtype=np.float64).astype(np.float32)


def centre(features, mean):
    """Take a mean (D,) from features (N, D), in place, and make each of length 1."""
    for start in range(0, len(features), BLOCK):
        rows = features[start : start + BLOCK]
        rows -= mean
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def images_of(folder, view, option="--center_on", use="a mean"):
    """The images of a view in a data folder: of training, else of the test's gallery or queries.

    `option` names the folder, and the images are for such a `use`: both for the error's words.
    Raises FileNotFoundError where there are none, ValueError where they are too few for a mean.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{option} {folder} is no folder: give a data folder")
    names = [
        f"{part}{name}" for part in ("", "test/") for name in (f"gallery_{view}", f"query_{view}")
    ]
    folders = [Path(folder, name) for name in (f"train/{view}", view, *names)]
    found = next(filter(Path.is_dir, folders), None)
    if found is None:
        raise FileNotFoundError(
            f"{option} {folder} has no {view} images: expected a data folder with train/{view} "
            f"or test/gallery_{view}"
        )
    paths = [path for images in scan_classes(found).values() for path in images]
    if len(paths) < FEWEST:
        raise ValueError(
            f"{option} {folder}: {found} holds {len(paths)} images, too few for {use}: "
            f"{FEWEST} are enough"
        )
    return paths


if __name__ == "__main__":
    raise SystemExit("zero_shot.py is a library: run test.py or locate.py with --zero_shot")
