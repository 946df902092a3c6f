"""Work that threads do ahead of the one who asks for it."""

import collections
from concurrent.futures import ThreadPoolExecutor


def done_ahead(work, items, num_threads, initializer=None, initargs=()):
    """Yield `work(item)` for every item, in order, up to two a thread ahead of what is asked for.

    For work outside Python's lock, such as decoding, resizing and copying. With 0 threads it is
    done when it is asked for.
    """
    if not num_threads:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(num_threads, "loader", initializer, initargs) as pool:
        waiting = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()
