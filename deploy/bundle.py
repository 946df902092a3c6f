"""A trained run as one zip file for others, with a model card; read by `runtime.bundles`."""

import hashlib
import json
import zipfile
from pathlib import Path

import yaml

import model
import utils
from imaging.files import TEXT
from networks.options import TEXT_CONFIG, TOKENIZER
from networks.run_options import input_size_from_opts
from runtime.bundles import (
    CARD,
    FORMAT,
    LARGEST_TEXT,
    MANIFEST,
    OPTIONS,
    WEIGHTS,
    is_bundle,
)
from runtime.files import replacing, write_text
from runtime.optional import require
from runtime.printing import printable, quoted

CARD_THERE = "model_card.md"  # README.md of the bundle, in the run folder
TO_FILL_IN = "TO FILL IN"
# Options that are paths of the machine where the run was trained: their last names are kept.
PATHS = ("config", "data_dir", "ibn_weights", "init", "weights")
# Of the card: what says where, not how, a run was trained.
NOT_THE_RECIPE = {*PATHS, "name", "nclasses", "view_names", "views", "device", "gpu_ids",
                  "num_workers", "cache", "world_size"}  # fmt: skip


def export_bundle(name, which_epoch, path):
    """Write the run `name` with the weights of an epoch to the zip file `path`.

    Its model card is model_card.md of the run folder, which is made where there is none. Returns
    {file of the bundle: bytes}. Raises as `model.load_run`, and ValueError for a bundle.
    """
    run_dir = utils.run_folder(name)
    if is_bundle(run_dir):
        raise ValueError(f"--name {name} is a bundle already: copy it")
    package = require("safetensors.torch", "--bundle", "safetensors")
    checkpoint = utils.find_checkpoint(run_dir, which_epoch)
    model.read_run(run_dir, checkpoint)  # a run that does not load is not shared
    opts = shared_options(utils.read_opts(run_dir))
    card = run_dir / CARD_THERE
    if not card.is_file():
        write_text(card, model_card(run_dir, opts, Path(path).name))
    tensors, others = distinct(utils.load_state_dict(checkpoint))
    files = {
        OPTIONS: yaml.safe_dump(opts, sort_keys=True).encode(),
        CARD: card.read_bytes(),
        WEIGHTS: package.save(tensors, others),
    }
    of_texts = TEXT in model.views_from_opts(opts)[0]
    words = [run_dir / name for name in (TOKENIZER, TEXT_CONFIG) if of_texts]
    files |= {path.name: path.read_bytes() for path in words if path.is_file()}
    write_bundle(path, files)
    print(f"{printable(checkpoint)} as {printable(path)}, {Path(path).stat().st_size:,} bytes")
    if TO_FILL_IN.encode() in files[CARD]:
        print(
            f"fill in what {printable(card)} leaves open, the licence above all, and export again"
        )
    return {name: len(content) for name, content in files.items()}


def write_bundle(path, files):
    """Write {name: bytes} and their manifest as a bundle; the same files give the same bytes."""
    listed = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    manifest = json.dumps({"format": FORMAT, "files": listed}, indent=1).encode()
    everything = {MANIFEST: manifest, **files}
    for name, content in everything.items():
        if len(content) > LARGEST_TEXT and name != WEIGHTS:
            raise ValueError(
                f"{name} has {len(content):,} bytes, and a bundle takes {LARGEST_TEXT:,} of a text"
            )
    size = sum(map(len, everything.values()))
    with replacing(path, lambda: size) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in everything.items():
            member = zipfile.ZipInfo(name)  # of 1980, not of now
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)


def shared_options(opts):
    """The options of a run without the folders of the machine where it was trained."""
    shared = {}
    for key, value in opts.items():
        if isinstance(value, str) and key in PATHS:
            value = Path(value).name
        elif isinstance(value, str) and key in ("backbone", "text_backbone"):
            value = without_folder(value)
        shared[key] = value
    return shared


def without_folder(name):
    """The name of a network without the folder of a file that its weights were read from."""
    kind, colon, rest = name.partition(":")
    if kind == "hf" and (rest.count("/") > 1 or Path(rest).is_dir()):
        return f"{kind}:{Path(rest).name}"
    architecture, slash, weights = rest.partition("/")
    if kind == "open_clip" and "/" in weights:
        return f"{kind}:{architecture}/{Path(weights).name}"
    return name


def distinct(state):
    """(tensors of a state dict, each once, {its other names: the name it has there}).

    The two names of a shared branch are one tensor, which safetensors writes once.
    """
    tensors, others, first = {}, {}, {}
    for name, tensor in state.items():
        kept = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if kept == name or not tensor.numel():
            tensors[name] = tensor.contiguous().clone()
        else:
            others[name] = kept
    return tensors, others


# ---------------------------------------------------------------- model card
def model_card(run_dir, opts, file_name):
    """The text of the model card of a run: what it is, its data, recipe and results."""
    views, _ = model.views_from_opts(opts)
    height, width = input_size_from_opts(opts)
    kind = "two_view_net" if len(views) == 2 else "three_view_net"
    data = printable(Path(str(opts.get("data_dir", "?"))).name)
    recipe = "\n".join(f"- `{key}`: {value}" for key, value in recipe_of(opts).items())
    return f"""# {printable(run_dir.name)}

A network that turns images of {", ".join(views)} into features, so that images of one place get
similar ones. Of Geo-Localization-Practical, where it is used by

    python test.py --name {quoted(file_name)} --test_dir your_data_path
    python locate.py your_photos --name {quoted(file_name)} --map your_map

or, without these scripts, in PyTorch: `torch.hub.load(FOLDER_OF_THE_PROJECT, "{kind}",
source="local", run={json.dumps(file_name)})`.

## Data

`{data}`: {opts["nclasses"]} places, images of {height} x {width} pixels.
{TO_FILL_IN}: where the images are from, and what their licence asks.

## Recipe

{recipe}

All options are in `{OPTIONS}`.

## Results

{results(run_dir)}

## Licence

{TO_FILL_IN}: what others may do with these weights.
"""


def recipe_of(opts):
    """The options of a run that say how it was trained, but those that are off."""
    return {
        key: value
        for key, value in sorted(opts.items())
        if key not in NOT_THE_RECIPE and value not in (None, False, [], "", "none")
    }


def results(run_dir):
    """What log.jsonl and result.txt of a run folder tell, as lines."""
    lines = []
    log, tested = run_dir / "log.jsonl", run_dir / "result.txt"
    entries = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    try:
        entries = [json.loads(entry) for entry in entries]
        for entry in entries[-1:]:
            about = f"{entry['epoch'] + 1} epochs, the last with a loss of {entry['loss']:.4f}"
            lines.append(f"Trained for {about}.")
        for entry in [each for each in entries if "val_recall@1" in each][-1:]:
            found = f"Recall@1 {entry['val_recall@1']:.2f}, AP {entry['val_AP']:.2f}"
            lines.append(f"Held-out places: {found}.")
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{log} is not what train.py writes: restore it or remove it") from None
    found = tested.read_text(encoding="utf-8").splitlines() if tested.is_file() else []
    lines += [""] * bool(lines) + [f"- {line}" for line in dict.fromkeys(found)]
    if not found:
        lines.append(f"{TO_FILL_IN}: test the run with `test.py`, delete this file, export again.")
    return "\n".join(lines)
