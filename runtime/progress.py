"""Progress bars, and how long something takes to come."""

import time

from tqdm import tqdm

from runtime.processes import is_main


class Stopwatch:
    """Iterates over something; `seconds` is the time spent waiting for the items."""

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
    disable = None if is_main() else True
    return tqdm(iterable, desc=description, total=total, leave=False, disable=disable)
