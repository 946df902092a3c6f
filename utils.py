"""Run folders, checkpoints, seeds, devices and error reports: what every script needs.

Imports nothing local, and torch only in the functions that use it, so that `--help` stays quick.
"""

import argparse
import functools
import gc
import json
import math
import os
import sys
import time
import traceback
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path

import yaml

MODEL_DIR = Path("model")
LAST_WEIGHTS = "net_last.pth"


# ---------------------------------------------------------------- errors and progress
def script(main):
    """Decorate a script's `main`: a user's mistake becomes one line on stderr and exit code 2.

    Libraries raise ValueError, OSError or FloatingPointError with a sentence that says what was
    found, what was expected and what to do. Any other exception is a defect of the program and
    keeps its traceback. `GEO_TRACEBACK=1` in the environment shows every traceback.

    Of several processes (torchrun) the first that fails speaks for all: the others either meet the
    same mistake or lose their partner. Only the first process prints to stdout.
    """

    @functools.wraps(main)
    def wrapped(argv=None):
        try:
            with nullcontext() if is_main() else _silent_stdout():
                result = main(argv)
        except KeyboardInterrupt:
            _say_first("interrupted")
            _end(130)
        except Exception as error:
            line = _error_line(error)
            if line is None or os.environ.get("GEO_TRACEBACK"):
                if world_size() == 1:
                    raise
                _say_first(traceback.format_exc())
            else:
                name = Path(sys.modules[main.__module__].__file__).name
                _say_first(f"{name}: error: {line}")
            _end(2)
        leave_processes()
        return result

    return wrapped


@contextmanager
def _silent_stdout():
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _error_line(error):
    """The line that tells the user of a mistake; None for a defect of the program."""
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return "out of memory: lower --batchsize, or --h and --w"
    if not isinstance(error, (ValueError, OSError, FloatingPointError)):
        return None
    # An error from a loader worker carries that process's traceback; its last line is ours.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix(f"{type(error).__name__}: ")


def _say_first(text):
    """Print on stderr why the program ends, unless another process of it already has.

    torchrun stops all processes when one has ended, so the others wait until the text is out.
    """
    store = _shared_store() if world_size() > 1 else None
    if store is None or store.add("failures", 1) == 1:
        print(text, file=sys.stderr, flush=True)
        if store is not None:
            store.set("said", "yes")
    else:
        with suppress(RuntimeError):  # nobody says anything for ten seconds
            store.wait(["said"], timedelta(seconds=10))


def _end(code):
    """End the program with an exit code; one of several processes at once.

    The usual way out would wait for the other processes, and they may wait for this one.
    """
    if world_size() > 1:
        with suppress(OSError):  # a reader that has gone
            sys.__stdout__.flush()
        os._exit(code)
    raise SystemExit(code) from None


def is_out_of_memory(error):
    """Whether a RuntimeError says that a GPU or the CPU has no memory left."""
    # The CPU allocator raises a plain RuntimeError, whose words depend on the system.
    words = ("out of memory", "DefaultCPUAllocator", "not enough memory")
    return any(word in str(error) for word in words)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, whose errors are one line."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        """Print the message alone, without the usage, and exit with code 2."""
        _say_first(f"{self.prog}: error: {message} (see --help)")
        self.exit(2)


class _Refuse(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is refused: {self.help}")


def add_refused(parser, reasons):
    """Add published flags that end the program with the reason why they are not taken."""
    for name, reason in reasons.items():
        parser.add_argument(
            f"--{name}", action=_Refuse, nargs=0, default=argparse.SUPPRESS, help=reason
        )


class Stopwatch:
    """Iterates over something; `seconds` is the time its items took to come."""

    def __init__(self, items):
        self.items, self.seconds = items, 0.0

    def __iter__(self):
        items = iter(self.items)
        while True:
            began = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - began
            yield item


def progress_bar(iterable, description, total=None):
    """Wrap an iterable in a tqdm bar on stderr; silent where stderr is not a terminal."""
    from tqdm import tqdm

    disable = None if is_main() else True
    return tqdm(iterable, desc=description, total=total, leave=False, disable=disable)


def positive_int(text):
    """argparse type: a whole number of at least 1."""
    return _bounded_int(text, 1)


def natural_int(text):
    """argparse type: a whole number of at least 0."""
    return _bounded_int(text, 0)


def _bounded_int(text, lowest):
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < lowest:
        raise argparse.ArgumentTypeError(f"{value} is too small: at least {lowest}")
    return value


def number_within(lowest, highest=math.inf, above=False):
    """An argparse type: a number from `lowest`, or with `above` only above it, to `highest`."""

    def number(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        fits = lowest <= value <= highest and math.isfinite(value)
        if not fits or (above and value == lowest):
            span = f"from {lowest} up" if math.isinf(highest) else f"from {lowest} to {highest}"
            span = f"above {lowest}" if above else span
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {span}")
        return value

    return number


# ---------------------------------------------------------------- files
@contextmanager
def replacing(path):
    """Yield a temporary path in the folder of `path`; it becomes `path` if the block succeeds.

    A reader sees the old file or the new one, never half of one, whenever the process is killed.
    The temporary name keeps the suffix, from which many writers derive the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def chart(path, size, panels=1):
    """Yield the axes of `panels` charts side by side; the picture is written if the block succeeds.

    `size` is (width, height) of the picture, in units of 110 pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    yield axes
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def write_text(path, text):
    """Write a text file in one step (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_yaml(path, values):
    """Write a dict of plain Python values as YAML in one step (see `replacing`)."""
    write_text(path, yaml.safe_dump(values, sort_keys=True))


def read_yaml(path):
    """Read a YAML file that holds a dict; ValueError says what it holds instead."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML ({reason}): restore it or make it again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected `name: value` lines")
    return values


# ---------------------------------------------------------------- run folders
def run_folder(name):
    """Path of the run folder `model/<name>`; raises ValueError where `name` is not a plain name."""
    if not name or name in {".", ".."} or Path(name).name != name:
        raise ValueError(f"--name {name!r} is not a folder name: use letters, digits, '_' and '-'")
    return MODEL_DIR / name


def write_opts(run_dir, opts):
    """Write the options (a dict of plain Python values) to `<run_dir>/opts.yaml`."""
    write_yaml(Path(run_dir) / "opts.yaml", opts)


def read_opts(run_dir):
    """Read `<run_dir>/opts.yaml` as a dict. FileNotFoundError or ValueError says what is wrong."""
    path = Path(run_dir) / "opts.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: {run_dir} is not the folder of a trained run; "
            f"train one with `python train.py --name {Path(run_dir).name}`, or check --name"
        )
    return read_yaml(path)


def write_log(run_dir, entries):
    """Write the epochs' records to `<run_dir>/log.jsonl`, one JSON object a line."""
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_text(Path(run_dir) / "log.jsonl", text)


# ---------------------------------------------------------------- checkpoints
def save_tensors(path, state):
    """`torch.save` a state of tensors and plain Python values in one step (see `replacing`)."""
    import torch

    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_tensors(path):
    """`torch.load` onto the CPU with `weights_only=True`; a damaged file is a ValueError."""
    import torch

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: expected a file written by torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes lead the reader into errors of any type
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise ValueError(f"{path} is not a readable torch checkpoint: {reason}") from None


def find_checkpoint(run_dir, which_epoch="last"):
    """Path of a run's weights: `net_059.pth` for "59"; "last" is net_last.pth, else the newest.

    Raises FileNotFoundError that lists the epochs there are.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        names = sorted(path.parent.name for path in run_dir.parent.glob("*/opts.yaml"))
        raise FileNotFoundError(
            f"no run folder {run_dir}: there are {', '.join(names) or 'none yet'}; check --name"
        )
    # By number, not by name: net_1000 comes after net_999.
    snapshots = {int(p.stem[4:]): p for p in run_dir.glob("net_*.pth") if p.stem[4:].isdigit()}
    last = run_dir / LAST_WEIGHTS
    if which_epoch == "last":
        if last.is_file():
            return last
        if snapshots:
            return snapshots[max(snapshots)]
    elif str(which_epoch).isdigit() and int(which_epoch) in snapshots:
        return snapshots[int(which_epoch)]
    found = [str(epoch) for epoch in sorted(snapshots)] + ["last"] * last.is_file()
    raise FileNotFoundError(
        f"no weights of epoch {which_epoch!r} in {run_dir}: --which_epoch can be "
        f"{', '.join(found) if found else 'nothing yet, the run has saved no weights'}"
    )


def load_weights(network, path, state=None):
    """Load a state dict from `path` into `network`, every key; ValueError names what differs.

    `state` is what `load_tensors(path)` gave, where that has been read already.
    Prefixes left by DataParallel (`module.`) and torch.compile (`_orig_mod.`) are removed.
    """
    if state is None:
        state = load_tensors(path)
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} holds no state dict: expected what train.py saves as net_*.pth")
    clean = {
        key.removeprefix("module.").removeprefix("_orig_mod."): value
        for key, value in state.items()
    }
    own = network.state_dict()
    differing = [
        f"{key} is {_shape(clean.get(key))}, expected {_shape(own.get(key))}"
        for key in sorted(own.keys() | clean.keys())
        if _shape(clean.get(key)) != _shape(own.get(key))
    ]
    if differing:
        raise ValueError(
            f"{path} is of another architecture than its opts.yaml says: {len(differing)} of "
            f"{len(own)} entries differ, first {differing[0]}; check views, pool, share, nclasses"
        )
    network.load_state_dict(clean)


def _shape(tensor):
    return "absent" if tensor is None else tuple(getattr(tensor, "shape", ("not a tensor",)))


# ---------------------------------------------------------------- devices and seeds
def add_machine_options(parser):
    """Add the options that say where a script computes, the same in every script."""
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where to compute; on Linux a process keeps freed memory for its next step, "
        "unless GEO_KEEP_MEMORY=0 is in the environment",
    )
    parser.add_argument(
        "--gpu_ids",
        default="0",
        help="number of the one GPU, -1 for the CPU; torchrun gives each process its own",
    )
    parser.add_argument(
        "--num_workers",
        type=natural_int,
        default=min(4, os.cpu_count() or 1),
        help="loader threads, or processes with --color_jitter and --DA (of each process of "
        "torchrun); 0 loads when asked",
    )


def add_cache_option(parser):
    """Add `--cache`, which keeps resized images between epochs or runs."""
    parser.add_argument(
        "--cache",
        default="none",
        choices=("none", "ram", "disk"),
        help="decode and resize every image once: in memory, or for later runs too in cache/; "
        "3 x h x w bytes an image, the same pixels",
    )


def import_torch():
    """Import torch and torchvision, for a script that needs both, with the collector at rest.

    What they make lives as long as the process. Python's garbage collector would look through all
    of it again and again, while they are imported and at the end: a third of the time of both.
    """
    if "torchvision" in sys.modules:
        return
    gc.disable()
    try:
        import torchvision  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


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


def keep_freed_memory():
    """Tell glibc to keep freed blocks for the next step instead of handing them back to Linux.

    A step on the CPU frees and asks again for the same large blocks; each fresh one costs a page
    fault for every 4 KiB. Does nothing on other systems, or with GEO_KEEP_MEMORY=0 in the
    environment: then memory goes back at once, or as glibc's own MALLOC_ variables say.
    """
    import ctypes

    if os.environ.get("GEO_KEEP_MEMORY") == "0" or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        # Older versions refuse a threshold above 32 MiB, and then are better left as they are.
        if libc.mallopt(mmap_threshold, 2**30):
            libc.mallopt(trim_threshold, 2**31 - 1)


def with_config(parser, argv=None):
    """The command line with the options of its `--config FILE` put before it, so that its own win.

    The file is YAML with `options: {name: value}`: true gives `--name`, false `--no-name`, a list
    or a mapping what the command line takes for it (`a,b`, `a=1,b=2`). Its other keys are for the
    reader. Raises ValueError or FileNotFoundError.
    """
    argv = sys.argv[1:] if argv is None else [str(each) for each in argv]
    finder = Parser(prog=parser.prog, add_help=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(argv)[0].config
    if path is None:
        return argv
    tokens = [token for item in read_config(path).items() for token in _option_tokens(*item)]
    unknown = [token for token in parser.parse_known_args(tokens)[1] if token.startswith("--")]
    if unknown:
        raise ValueError(f"{path} sets {unknown[0]}, which {parser.prog} does not know: remove it")
    return [*tokens, *argv]


def _option_tokens(name, value):
    if value is None or (value is False and name.startswith("no_")):
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):
        value = ",".join(f"{key}={each}" for key, each in value.items())
    elif isinstance(value, list):
        value = ",".join(map(str, value))
    return [f"--{name}", str(value)]


def read_config(path):
    """The `options` of a recipe file as a dict; see `with_config`."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        names = sorted(each.stem for each in Path(path).parent.glob("*.yaml"))
        beside = f"; there are {', '.join(names)}" if names else ""
        raise FileNotFoundError(f"recipe {path} not found{beside}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML ({reason}): mend it") from None
    options = content.get("options") if isinstance(content, dict) else None
    if not isinstance(options, dict):
        raise ValueError(f"{path} holds no options: expected `options:` with lines `name: value`")
    return options


def add_precision_options(parser):
    """Add `--fp16` and `--bf16`, of which one may be given (see `precision_of`)."""
    group = parser.add_mutually_exclusive_group()
    parts = "for the convolutions and layers that bear it; loss and features stay float32"
    group.add_argument("--fp16", action="store_true", help=f"float16 {parts}")
    group.add_argument("--bf16", action="store_true", help=f"bfloat16 {parts}")


def precision_of(opts):
    """ "fp16", "bf16" or "fp32", as `--fp16` and `--bf16` say."""
    return "fp16" if opts.fp16 else "bf16" if opts.bf16 else "fp32"


def dtype_of(precision):
    """The torch.dtype of precision "fp32", "fp16" or "bf16"."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def autocast(device, precision):
    """Context of `torch.autocast` for precision "fp16" or "bf16"; does nothing for "fp32"."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype_of(precision))


def seed_everything(seed, epoch=0, rank=0):
    """Seed torch (all devices) as a function of the run's seed, the epoch and the process's rank.

    No random state outlives an epoch, so a resumed run draws exactly what the unbroken one would.
    """
    import torch

    torch.manual_seed((seed * 1_000_003 + epoch + rank * 2_305_843_009_213_693_951) % 2**63)


# ---------------------------------------------------------------- several processes
def rank():
    """Number of this process among those that torchrun started, from 0; else 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def world_size():
    """Number of processes that torchrun started on all machines, else 1."""
    # Cluster schedulers set WORLD_SIZE too, torchrun alone all of these.
    started = {"TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys()
    return int(os.environ["WORLD_SIZE"]) if started else 1


def is_main():
    """Whether this process is the one that prints and writes."""
    return rank() == 0


@functools.cache
def _shared_store():
    """The key-value store through which torchrun's processes find one another."""
    from torch import distributed

    store, _, _ = next(distributed.rendezvous("env://"))
    return store


def join_processes(device):
    """Start the process group of torchrun's processes, if any: NCCL on GPUs, Gloo on the CPU."""
    if world_size() == 1:
        return
    from torch import distributed

    store = _shared_store()
    turn = store.add(f"turn of {rank()}", 1)  # a second group does not meet the first one's keys
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore(f"group {turn}", store),
        rank=rank(),
        world_size=world_size(),
        # The first process alone decodes a cache and scores: no other may give up on it meanwhile.
        timeout=timedelta(hours=2),
    )


def leave_processes():
    """End the process group, if there is one, when every process has come here.

    After an error there is no such moment: the failed process simply ends, and torchrun stops the
    others.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def barrier():
    """Wait here for all other processes, if there are any."""
    if world_size() > 1:
        from torch import distributed

        distributed.barrier()


@contextmanager
def main_process_first():
    """The first process runs the block while the others wait, then they do."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def gather_counts(counts):
    """[n, ...] of this process -> [[n, ...] of each process]; through the CPU, so no GPU waits."""
    if world_size() == 1:
        return [counts]
    import torch

    table = torch.zeros(world_size(), len(counts), dtype=torch.long)
    table[rank()] = torch.tensor(counts)
    return sum_over_ranks(table).tolist()


def sum_over_ranks(tensor):
    """Sum of a tensor of one shape over all processes, in place; of a single process, itself."""
    if world_size() > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
    return tensor
