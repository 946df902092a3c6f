"""One writer at a time for what several processes might make at once: a run, a feature file.

A lock belongs to its process and ends with it, however that ends: what a killed one leaves is no
obstacle.
"""

import glob
import os
import platform
import shlex
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from runtime.files import not_written, remove_partials
from runtime.processes import is_main


@contextmanager
def sole_writer(path, instead="", wait=0):
    """Hold a file or folder for writing within the block; wait for it up to `wait` seconds.

    The lock is a file `.lock-<name>` beside it. Raises ValueError where another process holds it,
    which says who and since when; `instead` is what else to do, such as "choose another --name".
    What killed writers left of `path` is removed. Of the processes of torchrun the first holds it.
    """
    if not is_main():
        yield
        return
    path = Path(path)
    lock_path = path.absolute().with_name(f".lock-{path.absolute().name}")
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path, timeout=wait)
        lock.acquire()
    except Timeout:
        advice = "wait until that has ended" + (f", or {instead}" if instead else "")
        raise ValueError(f"{path} is in use: {_holder_of(lock_path)} writes it; {advice}") from None
    except OSError as error:
        raise not_written(path, error) from None
    try:
        with suppress(OSError):  # a full disk, which the files to be written will meet and tell
            # A name that is no UTF-8 is no reason to stop.
            lock_path.write_text(_describe_holder(), encoding="utf-8", errors="backslashreplace")
        remove_partials(lock_path.parent, glob.escape(path.absolute().name))
        yield
    finally:
        with suppress(OSError):  # Windows keeps an open file; it is no obstacle
            lock_path.unlink()
        lock.release()


def _describe_holder():
    """This process, in words: number, machine, time, command."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return f"process {os.getpid()} on {platform.node()}, since {since} ({command})"


def _holder_of(lock_path):
    """The words of the process that holds a lock."""
    for _ in range(20):
        time.sleep(0.1)  # it may have the lock since a moment ago, and write them now
        with suppress(OSError, UnicodeDecodeError):  # Windows lets nobody read a locked file
            if words := lock_path.read_text(encoding="utf-8"):
                return words
    return "another process"
