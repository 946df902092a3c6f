"""What the opts.yaml of a run says of its network: ours, or a published one.

Keys that older files lack have the published defaults.
"""

from networks.musenet import is_published_musenet


def network_options(opts, view_names, weights=None):
    """The arguments of model.build_model, views apart, from the options of a run (a dict).

    `weights` is the state dict of the run, whose keys alone tell a published RK-Net. ValueError
    where an option is impossible.
    """
    for name in ("PCB", "use_dense", "use_NAS"):
        if switch_in(opts, name):
            raise ValueError(f"opts.yaml says {name}: true, a network this project does not have")
    backbone = "vgg16_bn" if switch_in(opts, "use_vgg16") else "resnet50"
    usam = switch_in(opts, "usam")
    usam |= isinstance(weights, dict) and any(".usam_1." in key for key in weights)
    LPN = switch_in(opts, "LPN")
    if LPN and "view_names" not in opts and len(view_names) == 2:
        raise ValueError(
            "opts.yaml says LPN: true and views: 2, the published network for panoramas, which "
            "cuts the street view into strips: this project has only the square rings"
        )
    published_musenet = is_published_musenet(opts)
    return {
        "class_num": option_in(opts, "nclasses", int, None),
        "backbone": option_in(opts, "backbone", str, backbone),
        "droprate": float(option_in(opts, "droprate", (int, float), 0.5)),
        "stride": option_in(opts, "stride", int, 2),
        "pool": option_in(opts, "pool", str, "avg"),
        "share": switch_in(opts, "share"),
        "LPN": LPN,
        "block": option_in(opts, "block", int, 4),
        "usam": usam,
        "image_size": input_size_from_opts(opts),
        "maps": option_in(opts, "maps", list, ["last"]),
        "head": option_in(opts, "head", str, "block"),
        "embedding_dim": option_in(opts, "embedding_dim", int, 512),
        "center": switch_in(opts, "center"),
        "whiten": option_in(opts, "whiten", int, 0) if opts.get("whiten") else None,
        "musenet": published_musenet or switch_in(opts, "musenet"),
        "btnk": opts.get("btnk"),
        # The published MuSe-Net with LPN makes the maps of layer2 and does not use them.
        "stages": (1,) if published_musenet and LPN else (1, 2),
    }


def input_size_from_opts(opts):
    """(height, width) in pixels from the options of a run; 256 where an older file has none."""
    return option_in(opts, "h", int, 256), option_in(opts, "w", int, 256)


def option_in(opts, name, kind, default):
    """The option of a run, or the default; ValueError where it is not of the type `kind`."""
    value = opts.get(name, default)
    # In Python true is a whole number as well, 1.
    fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
    if not fits or (kind is int and value < 1):
        raise ValueError(f"opts.yaml has {name}: {value!r}, which no run writes: restore the file")
    return value


def switch_in(opts, name):
    """The switch of a run, False where it has none; ValueError where it is no boolean."""
    return option_in(opts, name, bool, False)
