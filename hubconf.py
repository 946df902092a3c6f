"""A trained run in PyTorch without the scripts: torch.hub.load(FOLDER, ..., source="local")."""

import model
from networks.run_options import input_size_from_opts
from training import transfer

dependencies = ["torch", "torchvision", "numpy", "yaml", "PIL", "tqdm"]


def two_view_net(run):
    """The network for two views of a trained run, with its weights, in evaluation mode.

        network = torch.hub.load(FOLDER, "two_view_net", source="local", run="run.zip")
        mean, std = (torch.tensor(each)[:, None, None] for each in network.input_spec[:2])
        images = (pixels / 255 - mean) / std                # (B, 3, *network.image_size), RGB
        with torch.inference_mode():
            embedding = network.embed(images, network.view_numbers["drone"])
            features = network.finish(embedding)            # (B, D), rows of length 1

    FOLDER is that of this file. The score of two images is the product of their features. test.py
    adds the embeddings of an image and of its mirror image before `finish`: a little more is found.

    Args:
        run: a shared run, path/to/run.zip; a run folder, FOLDER/model/two_view; a file of weights
            in one; or the name of a run in model/ of the current folder.

    Returns a `model.two_view_net` on the CPU with the attributes `view_numbers`, {view: number of
    its branch}, and `image_size`, (height, width) in pixels. ValueError or FileNotFoundError where
    there is no such run, or it has another number of views.
    """
    return _load(run, model.two_view_net)


def three_view_net(run):
    """The network for satellite, street and drone images of a run; the rest as `two_view_net`."""
    return _load(run, model.three_view_net)


def _load(run, kind):
    network, numbers, run_opts = model.read_run(*transfer.find_run(run))
    if not isinstance(network, kind):
        other = "three_view_net" if kind is model.two_view_net else "two_view_net"
        raise ValueError(f"{run} is no {kind.__name__}: load it as {other}")
    network.view_numbers, network.image_size = numbers, input_size_from_opts(run_opts)
    return network.eval()
