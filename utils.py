"""Run folders, checkpoints, seeds and devices: what scripts that load or train a network need.

torch is imported only in the functions that use it, so that `--help` stays quick.
"""

import json
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

from runtime import bundles
from runtime.files import (
    Counted,
    is_safetensors,
    need_whole_zip,
    replacing,
    write_text,
    write_yaml,
    yaml_dict,
)
from runtime.printing import quoted
from runtime.processes import world_size
from runtime.tensor_file import read_safetensors, why_unreadable

MODEL_DIR = Path("model")
LAST_WEIGHTS = "net_last.pth"
# Where other training scripts keep the state dict beside epoch, optimizer and so on.
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")


@contextmanager
def chart(path, size, panels=1):
    """Yield the axes of `panels` charts side by side; the picture is written if the block succeeds.

    `size` is (width, height) of the picture, in units of 110 pixels.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    yield axes
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def run_folder(name):
    """Path of the run folder `model/<name>`, or of the bundle that is meant by `path/to/run.zip`.

    Raises ValueError where `name` is not a plain name, FileNotFoundError for an absent bundle.
    """
    if str(name).endswith(".zip"):
        if not bundles.is_bundle(name):
            raise FileNotFoundError(f"no shared run {name}: there is no such file; check the path")
        return Path(name)
    if not name or name in {".", ".."} or Path(name).name != name:
        raise ValueError(f"--name {name!r} is not a folder name: use letters, digits, '_' and '-'")
    return MODEL_DIR / name


def results_folder(name):
    """Where the results of a run go: its folder; of a bundle the folder of its name beside it."""
    run_dir = run_folder(name)
    return run_dir.with_suffix("") if bundles.is_bundle(run_dir) else run_dir


def write_opts(run_dir, opts):
    """Write the options (a dict of plain Python values) to `<run_dir>/opts.yaml`."""
    write_yaml(Path(run_dir) / "opts.yaml", opts)


def read_opts(run_dir):
    """Read `<run_dir>/opts.yaml` as a dict. FileNotFoundError or ValueError says what is wrong."""
    path = Path(run_dir) / "opts.yaml"
    if not path.is_file() and not bundles.is_bundle(run_dir):
        raise FileNotFoundError(
            f"{path} not found: {run_dir} is not the folder of a trained run; check the name, or "
            f"train one with `python train.py --name {quoted(Path(run_dir).name)}`"
        )
    return yaml_dict(bundles.read_bytes(path), path)


def write_log(run_dir, entries):
    """Write the epochs' records to `<run_dir>/log.jsonl`, one JSON object a line."""
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_text(Path(run_dir) / "log.jsonl", text)


def save_tensors(path, state):
    """`torch.save` a state of tensors and plain Python values in one step (see `replacing`)."""
    import torch

    def size():
        torch.save(state, counted := Counted())
        return counted.size

    # To an open file: torch's writer of a path hides that the disk is full, and would put the
    # temporary name into the file.
    with replacing(path, size) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def load_tensors(path):
    """What a file of torch.save or a safetensors file holds, on the CPU; no code in it is run.

    The file may be one in a bundle (see `runtime.bundles`). Raises FileNotFoundError, or ValueError
    that says what else it is.
    """
    import torch

    path = Path(path)
    bundled = bundles.is_bundle(path.parent)
    if not bundled and not path.is_file():
        found = "is a folder" if path.is_dir() else "not found"
        raise FileNotFoundError(f"{path} {found}: expected a file written by torch.save")
    content = bundles.read_bytes(path) if bundled else None
    try:
        if content is None:
            with open(path, "rb") as file:
                content = path.read_bytes() if is_safetensors(file.read(9)) else None
        if content is not None:
            return read_safetensors(content, torch)
        need_whole_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes lead the reader into errors of any type
        reason = why_unreadable(path, error)
        raise ValueError(f"{path} is not a readable torch checkpoint: {reason}") from None


def load_state_dict(path):
    """The state dict in a file (see `load_tensors`), taken out of a wrapper of a known name."""
    state = load_tensors(path)
    for name in WRAPPERS if isinstance(state, dict) else ():
        if isinstance(state.get(name), dict):
            state = state[name]
            break
    for name, value in state.items() if isinstance(state, dict) else ():
        if hasattr(value, "layout") and (
            value.is_quantized or value.is_meta or "strided" not in str(value.layout)
        ):
            raise ValueError(f"{path} holds {name}, a tensor that is no plain one: save it dense")
    return state


def find_checkpoint(run_dir, which_epoch="last"):
    """Path of a run's weights: `net_059.pth` for "59"; "last" is net_last.pth, else the newest.

    A bundle has only the last, net_last.safetensors, and so has a folder into which it is unpacked.
    Raises FileNotFoundError that lists the epochs there are.
    """
    run_dir = Path(run_dir)
    if bundles.is_bundle(run_dir):
        if which_epoch != "last":
            raise FileNotFoundError(f"{run_dir} has its last weights only: drop --which_epoch")
        return run_dir / bundles.WEIGHTS
    if not run_dir.is_dir():
        names = sorted(path.parent.name for path in run_dir.parent.glob("*/opts.yaml"))
        raise FileNotFoundError(
            f"no run folder {run_dir}: there are {', '.join(names) or 'none yet'}; check the name"
        )
    # By number, not by name: net_1000 comes after net_999.
    snapshots = {int(p.stem[4:]): p for p in run_dir.glob("net_*.pth") if p.stem[4:].isdigit()}
    last = run_dir / LAST_WEIGHTS
    if not last.is_file():
        last = run_dir / bundles.WEIGHTS
    if which_epoch == "last":
        if last.is_file():
            return last
        if snapshots:
            return snapshots[max(snapshots)]
    elif str(which_epoch).isdigit() and int(which_epoch) in snapshots:
        return snapshots[int(which_epoch)]
    found = [str(epoch) for epoch in sorted(snapshots)] + ["last"] * last.is_file()
    if not found:
        raise FileNotFoundError(f"{run_dir} holds no weights: the run has saved none yet")
    raise FileNotFoundError(
        f"no weights of epoch {which_epoch!r} in {run_dir}: --which_epoch can be {', '.join(found)}"
    )


def load_weights(network, path, state=None):
    """Load a state dict from `path` into `network`, every key; ValueError names what differs.

    `state` is what `load_state_dict(path)` gave, where that has been read already.
    Prefixes left by DataParallel (`module.`) and torch.compile (`_orig_mod.`) are removed.
    """
    if state is None:
        state = load_state_dict(path)
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} holds no state dict: expected what train.py saves as net_*.pth")
    clean = {
        str(key).removeprefix("module.").removeprefix("_orig_mod."): value
        for key, value in state.items()
    }
    if len(clean) < len(state):
        raise ValueError(f"{path} holds weights twice, with and without `module.`: keep one set")
    expected = network.state_dict()
    differing = [
        f"{key} is {_shape(clean.get(key))}, expected {_shape(expected.get(key))}"
        for key in sorted(expected.keys() | clean.keys())
        if _shape(clean.get(key)) != _shape(expected.get(key))
    ]
    if differing:
        raise ValueError(
            f"{path} is of another architecture than its opts.yaml says: {len(differing)} of "
            f"{len(expected)} entries differ, first {differing[0]}; check views, pool, share, "
            "nclasses"
        )
    require_equal_copies(network, clean, path)
    network.load_state_dict(clean)


def require_equal_copies(network, state, path):
    """ValueError where a state dict differs in entries that are one tensor of the network.

    A shared branch stands in it under two names; loaded, one of them would overwrite the other.
    """
    names = {}
    for name, tensor in network.state_dict().items():
        first = names.setdefault((tensor.data_ptr(), tensor.shape), name)
        if not state[first].allclose(state[name], rtol=0, atol=0, equal_nan=True):
            raise ValueError(
                f"{path} has different weights in {first} and {name}, which opts.yaml makes one "
                "(share: true): restore opts.yaml, or set share: false"
            )


def require_finite(state, path):
    """ValueError where a tensor of a state dict, read from `path`, holds NaN or infinity."""
    damaged = [name for name, value in state.items() if not value.isfinite().all()]
    if damaged:
        raise ValueError(
            f"{path} holds NaN or infinity in {len(damaged)} of {len(state)} entries, first "
            f"{damaged[0]}: it is damaged, or its training diverged; take another file"
        )


def _shape(tensor):
    return "absent" if tensor is None else tuple(getattr(tensor, "shape", ("not a tensor",)))


def select_device(device="auto", gpu_ids="0"):
    """The torch.device that `--device auto|cpu|cuda` and `--gpu_ids` ask for.

    `--gpu_ids 0`, the default of the published commands, falls back to the CPU under `auto`; any
    other GPU must exist. -1 means the CPU. One process drives one GPU, so a list is refused;
    processes started by torchrun take the GPUs in order.
    """
    import torch

    if world_size() > 1:
        if gpu_ids != "0":
            raise ValueError(
                f"--gpu_ids {gpu_ids}: torchrun gives each process its own GPU, so leave the "
                "option out; CUDA_VISIBLE_DEVICES=2,3 chooses among them, --device cpu takes none"
            )
        gpu_ids = os.environ["LOCAL_RANK"]
    if not gpu_ids.lstrip("-").isdigit():
        if all(part.strip().isdigit() for part in gpu_ids.split(",")):
            raise ValueError(f"--gpu_ids {gpu_ids} names several GPUs, one is used: name that one")
        raise ValueError(f"--gpu_ids {gpu_ids!r} is not a GPU number such as 0, or -1 for the CPU")
    index, count = int(gpu_ids), torch.cuda.device_count()
    if index < 0 and device == "cuda":
        raise ValueError("--device cuda and --gpu_ids -1 (the CPU) contradict each other")
    shared = world_size() > 1
    if device == "cpu" or index < 0 or (device == "auto" and count == 0 and (shared or index == 0)):
        return torch.device("cpu")
    if shared and index >= count:
        raise ValueError(
            f"torchrun started process {index + 1} on this machine, which shows {count} GPU(s) to "
            "torch: lower --nproc_per_node, or use --device cpu"
        )
    if index >= count:
        raise ValueError(
            f"--gpu_ids {index} asked for, but this machine shows {count} GPU(s) to torch: "
            f"use --device cpu" + (f" or --gpu_ids 0..{count - 1}" if count else "")
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def seed_everything(seed, epoch=0, rank=0):
    """Seed torch (all devices) as a function of the run's seed, the epoch and the process's rank.

    No random state outlives an epoch, so a resumed run draws exactly what the unbroken one would.
    """
    import torch

    torch.manual_seed((seed * 1_000_003 + epoch + rank * 2_305_843_009_213_693_951) % 2**63)


if __name__ == "__main__":
    raise SystemExit("utils.py is a library: run train.py, test.py or another script of README.md")
