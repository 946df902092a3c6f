"""Tricks that make a start or a step faster; benchmarks/startup.py measures what each saves."""

import ctypes
import gc
import os
import sys


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


def keep_freed_memory():
    """Tell glibc to keep freed blocks for the next step instead of handing them back to Linux.

    A step on the CPU frees and asks again for the same large blocks; each fresh one costs a page
    fault for every 4 KiB. Does nothing on other systems, or with GEO_KEEP_MEMORY=0 in the
    environment: then memory goes back at once, or as glibc's own MALLOC_ variables say.
    """
    if os.environ.get("GEO_KEEP_MEMORY") == "0" or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        # Older versions refuse a threshold above 32 MiB, and then are better left as they are.
        if libc.mallopt(mmap_threshold, 2**30):
            libc.mallopt(trim_threshold, 2**31 - 1)
