"""What log.jsonl records of a run, as curves of TensorBoard: `tensorboard --logdir model`."""

import threading
from contextlib import contextmanager, suppress

from runtime import processes
from runtime.files import not_written
from runtime.optional import require

FOLDER = "tensorboard"  # of a run folder
FILES = f"{FOLDER}/events.out.tfevents.*"
TIMES = ("seconds", "seconds_waiting")


def check():
    """ValueError where the package is missing."""
    require("tensorboard", "--tensorboard", "-r requirements-tensorboard.txt")


@contextmanager
def curves(run_dir, log, asked):
    """Yield a function that adds an epoch's record, a dict, to the curves of a run.

    The records in `log` are written first, in place of what an earlier start has left: log.jsonl is
    the record, and of a resumed run each epoch stands there once. Without `asked`, and in other
    processes than the first of torchrun, nothing is done. OSError where there is no room.
    """
    if not asked or not processes.is_main():
        yield lambda entry: None
        return
    check()
    for path in run_dir.glob(FILES):
        path.unlink()
    # purge_step tells a TensorBoard that is open to forget what it has read.
    package = require("torch.utils.tensorboard", "--tensorboard", "-r requirements-tensorboard.txt")
    folder = run_dir / FOLDER
    with _telling(folder):
        writer = package.SummaryWriter(folder, purge_step=0)

    def add(entry):
        with _telling(folder):
            for name, value in entry.items():
                if name != "epoch":
                    writer.add_scalar(curve_of(name), value, entry["epoch"])
            writer.flush()

    try:
        for entry in log:
            add(entry)
        yield add
    finally:
        with suppress(OSError):  # that was told by `add`, after which nothing is left to write
            writer.close()


@contextmanager
def _telling(folder):
    """Within, an OSError says in one line that the curves cannot be written.

    TensorBoard writes in a thread, which passes its error on and would print a traceback too.
    """
    hook, threading.excepthook = threading.excepthook, lambda about: None
    try:
        yield
    except OSError as error:
        raise not_written(folder, error) from None
    finally:
        threading.excepthook = hook


def curve_of(name):
    """The curve's name of a number of log.jsonl; TensorBoard shows those of one group together."""
    for start, group in (("error_", "error"), ("val_", "held_out")):
        if name.startswith(start):
            return f"{group}/{name.removeprefix(start)}"
    group = "time" if name in TIMES else "optimisation" if name == "lr" else "loss"
    return f"{group}/{name}"
