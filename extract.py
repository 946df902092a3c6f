"""Network and images to L2-normalised features: for `test.py` and the validation of `train.py`."""

import numpy as np
import torch
from torch.nn import functional as F

from dataset import ImageBatches, batch_loader, in_batches, to_network_input
from features import Features
from utils import autocast, is_out_of_memory, progress_bar


@torch.inference_mode()
def extract_features(
    network,
    branch,
    paths,
    images,
    *,
    device,
    batch_size=32,
    scales=(1.0,),
    precision="fp32",
    num_workers=0,
    description="features",
):
    """Features of image files by one branch of a multi-view network, in the order of `paths`.

    An image's feature is the sum of its embeddings over the image, its mirror image and all
    `scales` (each applied to the resized input, bicubic), divided by its length.

    Args:
        branch: number of the branch, 1 to 3 (model.branch_numbers).
        images: `cache.ResizedImages` that holds the paths (dataset.open_view).
        precision: "fp32", or "fp16"/"bf16" for autocast; features are float32 in any case.

    Returns:
        float32 array (N, D), rows of norm 1. Where the device runs out of memory the batch is
        halved and the run goes on; a single image that does not fit is a torch.OutOfMemoryError.
    """
    network.eval()
    loader = batch_loader(
        ImageBatches(images), in_batches(paths, batch_size), num_workers, device.type == "cuda"
    )
    limit, done, features = batch_size, 0, None
    with progress_bar(loader, description) as batches, autocast(device, precision):
        for batch in batches:
            embedded, limit = _embed_within_memory(network, branch, batch, device, scales, limit)
            if features is None:
                features = np.empty((len(paths), embedded.shape[1]), np.float32)  # (N, D)
            features[done : done + len(embedded)] = F.normalize(embedded, dim=1).numpy()
            done += len(embedded)
    return features


def _embed_within_memory(network, branch, images, device, scales, limit):
    """Embeddings (B, D) on the CPU, `limit` images at a time; returns the limit that fitted."""
    chunks, start = [], 0
    while start < len(images):
        chunk = images[start : start + limit]
        try:
            embedded = embed_images(network, branch, to_network_input(chunk, device), scales)
            chunks.append(embedded.cpu())
            start += len(chunk)
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(chunk) == 1:
                raise
        # Past the handler, whose traceback still held what did not fit.
        limit = len(chunk) // 2
        print(f"out of memory with {len(chunk)} images at once: going on with {limit}")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return torch.cat(chunks), limit


def embed_images(network, branch, images, scales=(1.0,)):
    """Sum of the embeddings of images (B, 3, H, W), their mirror images, and all scales: (B, D)."""
    total = 0
    for scale in scales:
        # Always from the original: scales must not compound.
        scaled = images
        if scale != 1:
            scaled = F.interpolate(images, scale_factor=scale, mode="bicubic", align_corners=False)
        for view in (scaled, scaled.flip(3)):
            total = total + network.embed(view, branch).float()
    return total


def view_features(network, branch, classes, label_of, images, **options):
    """`Features` of a view's {ID: paths}; `label_of` maps ID -> label; see `extract_features`."""
    paths = [path for images in classes.values() for path in images]
    labels = [label_of[name] for name, images in classes.items() for _ in images]
    features = extract_features(network, branch, paths, images, **options)
    return Features(features, np.array(labels, np.int64), [path.as_posix() for path in paths])
