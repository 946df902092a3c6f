"""What locating/features.py needs of a run, or with --zero_shot of a pretrained network."""

import utils
from extract import extract_features
from imaging.cache import resize_bicubic
from imaging.files import TEXT
from imaging.turns import turns_in_test
from locating.features import VERSION, Source, TurnedImages
from networks.run_options import input_size_from_opts
from runtime import cli, startup
from runtime.bundles import read_bytes
from zero_shot import ViewMeans, load_network


def open_run(opts):
    """The `Source` that the options of locate.py name.

    Raises ValueError where the run does not know a view.
    """
    device = utils.select_device(opts.device, opts.gpu_ids)
    startup.keep_freed_memory()
    network, branches, run_opts = load_network(opts, device)
    if opts.text and TEXT not in branches:
        raise ValueError(f"the run {opts.name} was not trained with texts: leave --text out")
    cli.need_views(opts, branches, "view", "map_view")
    size = input_size_from_opts(run_opts)
    turns = turns_in_test(run_opts.get("turns"), branches, *size)

    def features(view, keys, images, description):
        return extract_features(
            network,
            branches[view],
            keys,
            images,
            turns=turns[view],
            flip=not run_opts.get("no_flip"),
            device=device,
            batch_size=opts.batchsize,
            num_workers=opts.num_workers,
            description=description,
        )

    def upright(view, paths, description):
        keys = [(path, 0) for path in paths]
        return features(view, keys, TurnedImages(size, resize_bicubic), description)

    centring = ViewMeans(opts, {opts.map_view, opts.view}, upright)
    identity = _identity(opts, run_opts, centring.key)
    return Source(size, resize_bicubic, features, centring, identity, network.read_words)


def _identity(opts, run_opts, centred):
    """(bytes of the weights, settings) on which the features of a map depend, for `kept_file`."""
    settings = (VERSION, sorted(run_opts.items()), opts.map_view, cli.precision_of(opts))
    if opts.zero_shot:  # the options hold a digest of the weights
        return b"", (*settings, centred)
    weights = utils.find_checkpoint(utils.run_folder(opts.name), opts.which_epoch)
    return read_bytes(weights), settings
