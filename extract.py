"""Network and images to L2-normalised features: for testing, validation and hard negatives."""

import numpy as np
import torch
from torch.nn import functional as F

from dataset import ImageBatches, batch_loader, in_batches, to_network_input
from evaluation.feature_file import Features, need_finite
from runtime import exchange
from runtime.cli import is_out_of_memory
from runtime.processes import rank, world_size
from runtime.progress import progress_bar


def extract_features(
    network,
    branch,
    paths,
    images,
    *,
    device,
    batch_size=32,
    scales=(1.0,),
    turns=1,
    flip=True,
    num_workers=0,
    description="features",
):
    """Features of image files by one branch of a network, in the order of `paths`.

    The feature of an image is the sum of the embeddings of the image and, with `flip`, its mirror
    image, in `turns` right-angle turns (1, 2 or 4) and at all `scales` (each applied to the resized
    input, bilinear as published), divided by its length.

    Args:
        network: a multi-view network in evaluation mode (networks.inference.inference_copy):
            `embed` gives embeddings, `finish` makes features of their sum, `input_spec` says how to
            normalise.
        branch: number of the branch, 1 to 3 (model.branch_numbers).
        images: `imaging.cache.ResizedImages` that holds the paths (imaging.cache.open_view).

    Returns:
        float32 array (N, D), rows of norm 1; each of several processes returns all rows. Where the
        device runs out of memory the batch is halved and the run goes on; a single image that does
        not fit is a torch.OutOfMemoryError.
    """

    def embed(chunk):
        images = to_network_input(chunk, device, network.input_spec)
        # Twice the images use a GPU better; a CPU would only need twice the memory.
        embedded = embed_images(network, branch, images, scales, turns, flip, images.is_cuda)
        return network.finish(embedded.cpu())

    loading = {"batch_size": batch_size, "num_workers": num_workers, "description": description}
    return extract_rows(embed, paths, images, device=device, **loading)


@torch.inference_mode()
def extract_rows(
    embed, paths, images, *, device, batch_size=32, num_workers=0, description="features"
):
    """A row of numbers for each image: float32 array (N, D), in the order of `paths`.

    `embed` turns uint8 images (B, 3, H, W) into rows (B, D) on the CPU; for the rest see
    `extract_features`. ValueError where a row is not finite.
    """
    # Whole batches are dealt out to the processes: each is the same batch as in one process.
    shard = in_batches(range(len(paths)), batch_size)[rank() :: world_size()]
    loader = batch_loader(
        ImageBatches(images),
        [[paths[row] for row in rows] for rows in shard],
        num_workers,
        device.type == "cuda",
    )
    limit, features = batch_size, None
    with progress_bar(loader, description) as batches:
        for rows, batch in zip(shard, batches, strict=True):
            embedded, limit = _embed_within_memory(embed, batch, device, limit)
            need_finite(embedded.numpy(), description)
            if features is None:
                features = np.zeros((len(paths), embedded.shape[1]), np.float32)  # (N, D)
            features[rows.start : rows.stop] = embedded.numpy()
    return exchange.join_shards(features, len(paths), device)


def _embed_within_memory(embed, images, device, limit):
    """Rows (B, D) made of `limit` images at a time, and the limit that fits."""
    chunks, start = [], 0
    while start < len(images):
        chunk = images[start : start + limit]
        try:
            chunks.append(embed(chunk))
            start += len(chunk)
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(chunk) == 1:
                raise
        # After the handler, whose traceback kept the memory in use.
        limit = len(chunk) // 2
        print(f"out of memory with {len(chunk)} images at once: going on with {limit}")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return torch.cat(chunks), limit


def embed_images(network, branch, images, scales=(1.0,), turns=1, flip=True, doubled=False):
    """Sum of the embeddings of the copies of images (B, 3, H, W), or of texts (B, L): (B, D).

    With `doubled`, images and mirror images are one batch of 2B for the network, else two batches.
    """
    if images.ndim == 2:  # token ids (B, L): a text has no copies
        return network.embed(images, branch).float()
    total = 0
    for scale in scales:
        # Always from the original: scales must not compound.
        scaled = images
        if scale != 1:
            scaled = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        for both in copies_of(scaled, turns, flip):
            for batch in [torch.cat(both)] if doubled else both:
                embedded = network.embed(batch, branch).float()  # (B, D), or (2B, D)
                total = total + sum(embedded.split(len(images)))
    return total


def copies_of(images, turns=1, flip=True):
    """Yield (turned, turned and mirrored) images (B, 3, H, W), in 1, 2 or 4 right-angle turns.

    Without `flip` the second is left out.
    """
    for turn in range(turns):
        turned = images.rot90(turn * 4 // turns, (2, 3)) if turn else images
        yield (turned, turned.flip(3)) if flip else (turned,)


def view_features(network, branch, classes, label_of, images, **options):
    """`Features` of a view's {ID: paths}; `label_of` maps ID -> label; see `extract_features`."""
    paths = [path for images in classes.values() for path in images]
    return labelled(extract_features(network, branch, paths, images, **options), classes, label_of)


def labelled(features, classes, label_of):
    """`Features` of the array (N, D) of a view's {ID: paths}; `label_of` maps ID -> label."""
    labels = [label_of[name] for name, images in classes.items() for _ in images]
    paths = [path.as_posix() for images in classes.values() for path in images]
    return Features(features, np.array(labels, np.int64), paths)


if __name__ == "__main__":
    raise SystemExit("extract.py is a library: run test.py")
