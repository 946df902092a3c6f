"""Features of photos and of a map's tiles by a run; a map's are computed once and kept beside it.

<map>/features/<key>.npy, float32 (M, D). The key is a digest of the run's weights and options, of
the tiles' names, sizes and times, and of how features are computed: features of other weights, or
of a map that has changed, are not found by it.
"""

import functools
import hashlib
from pathlib import Path

import numpy as np

import model
import utils
from extract import extract_features
from imaging.cache import open_view
from networks.inference import inference_copy
from runtime import cli, startup
from runtime.files import replacing


def extract(opts, photos, table, keep):
    """Features (M, D) of the tiles of a `MapFolder`, and (T, N, D) of photos in `opts.turns` turns.

    `opts` are those of locate.py. With `keep` the map's are kept, and found again. Raises
    ValueError where the run does not know a view.
    """
    device = utils.select_device(opts.device, opts.gpu_ids)
    startup.keep_freed_memory()
    network, branches, run_opts = model.load_run(opts.name, opts.which_epoch, device)
    cli.need_views(opts, branches, "view", "map_view")
    network = inference_copy(network, cli.precision_of(opts))
    size = model.input_size_from_opts(run_opts)

    def features(view, paths, description, change=None):
        return extract_features(
            network,
            branches[view],
            paths,
            open_view(paths, *size, num_workers=opts.num_workers, change=change),
            device=device,
            batch_size=opts.batchsize,
            num_workers=opts.num_workers,
            description=description,
        )

    tiles = None
    if keep:
        checkpoint = utils.find_checkpoint(utils.run_folder(opts.name), opts.which_epoch)
        settings = (opts.map_view, cli.precision_of(opts))
        path = table.folder / "features" / f"{_key(checkpoint, run_opts, table, settings)}.npy"
        tiles = _find(path)
    if tiles is None:
        tiles = features(opts.map_view, table.paths, "map")
        if keep:
            with replacing(path) as temporary:
                np.save(temporary, tiles)
            tiles = _find(path)
    turns = [functools.partial(turn, quarters=4 // opts.turns * i) for i in range(opts.turns)]
    return tiles, np.stack([features(opts.view, photos, "photos", each) for each in turns])


def turn(image, _, quarters):
    """An image (H, W, 3) turned to the left by quarters of a circle."""
    return np.ascontiguousarray(np.rot90(image, quarters))


def _key(checkpoint, run_opts, table, settings):
    digest = hashlib.sha256(Path(checkpoint).read_bytes())
    digest.update(repr((sorted(run_opts.items()), settings)).encode())
    for path in table.paths:
        about = path.stat()
        digest.update(f"{path.name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _find(path):
    """The features in a file, mapped; None where there is none."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise OSError(f"{path} cannot be read ({error}): remove it") from None
