"""The processes that torchrun started, if it did: who this one is, and how they begin and end.

In a single process every function here does nothing, or gives what one process gives. What they
exchange is in exchange.py. Imports torch in the functions that only several processes enter.
"""

import functools
import os
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta


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


@contextmanager
def silent_stdout():
    """Print nothing to stdout within."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def say_first(text):
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


def end_process(code):
    """End the program with an exit code; one of several processes at once.

    The usual way out would wait for the other processes, and they may wait for this one.
    """
    if world_size() > 1:
        with suppress(OSError):  # a reader that has gone
            sys.__stdout__.flush()
        os._exit(code)
    raise SystemExit(code) from None


@functools.cache
def _shared_store():
    """The key-value store through which torchrun's processes find one another."""
    store, _, _ = next(_distributed().rendezvous("env://"))
    return store


def _distributed():
    """torch.distributed, which a single process does not import."""
    from torch import distributed

    return distributed


def join_processes(device):
    """Start the process group of torchrun's processes, if any: NCCL on GPUs, Gloo on the CPU."""
    if world_size() == 1:
        return
    distributed, store = _distributed(), _shared_store()
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
        _distributed().barrier()


@contextmanager
def main_process_first():
    """The first process runs the block while the others wait, then they do."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()
