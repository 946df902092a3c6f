"""Random streams: seed, building and purpose fix every number that is drawn."""

from enum import IntEnum

import numpy as np

Stream = IntEnum("Stream", "SITE NOISE SATELLITE DRONE STREET GOOGLE PRESENCE", start=0)


def random_stream(seed: int, building: int, stream: int, part: int = 0) -> np.random.Generator:
    """The generator of one purpose, or of a part of it."""
    return np.random.default_rng([seed, building, int(stream), part])
