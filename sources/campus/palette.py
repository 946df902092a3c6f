"""What a site is made of, and in which colours (linear RGB)."""

from enum import IntEnum

import numpy as np

Material = IntEnum("Material", "PLAIN WALL FLAT_ROOF TILES PANELS LEAVES GROUND SKY", start=0)
# What a texel of the ground shows; the car colours are numbered on from CAR.
Land = IntEnum(
    "Land",
    "LAWN MEADOW ASPHALT MARKING PATH PAVING PARKING WATER COURT COURT_EDGE TURF_LIGHT TURF_DARK "
    "SOIL CAR_SHADOW CAR_GLASS CAR",
    start=0,
)

CAR_COLOURS = np.array(
    [[0.75, 0.75, 0.76], [0.5, 0.52, 0.54], [0.04, 0.04, 0.05], [0.2, 0.21, 0.23],
     [0.45, 0.05, 0.05], [0.06, 0.12, 0.36], [0.8, 0.79, 0.74], [0.3, 0.27, 0.22]]
)  # fmt: skip
LAND_COLOURS = np.array(
    [[0.13, 0.2, 0.06], [0.17, 0.21, 0.08], [0.11, 0.11, 0.12], [0.7, 0.7, 0.66],
     [0.42, 0.4, 0.36], [0.36, 0.32, 0.28], [0.17, 0.17, 0.17], [0.05, 0.09, 0.1],
     [0.12, 0.26, 0.3], [0.3, 0.12, 0.08], [0.13, 0.25, 0.07], [0.1, 0.2, 0.05],
     [0.2, 0.14, 0.09], [0.05, 0.05, 0.06], [0.03, 0.04, 0.05]]
)  # fmt: skip
LAND_ROUGHNESS = np.array(
    [0.5, 0.7, 0.25, 0.2, 0.2, 0.25, 0.25, 0.1, 0.15, 0.15, 0.3, 0.3, 0.5] + [0.05] * 10, np.float32
)
GLASS_COLOUR = np.array([0.07, 0.09, 0.11], np.float32)
WALL_COLOURS = np.array(
    [[0.34, 0.15, 0.1], [0.5, 0.4, 0.28], [0.45, 0.44, 0.41], [0.7, 0.68, 0.63],
     [0.3, 0.3, 0.31], [0.55, 0.47, 0.36], [0.24, 0.27, 0.31]]
)  # fmt: skip
FLAT_COLOURS = np.array(  # gravel, bitumen, membranes, brick-red paint, sedum, blue-grey metal
    [[0.42, 0.41, 0.39], [0.22, 0.22, 0.22], [0.62, 0.61, 0.58], [0.38, 0.33, 0.27],
     [0.3, 0.31, 0.28], [0.5, 0.47, 0.42], [0.78, 0.77, 0.74], [0.12, 0.12, 0.13],
     [0.42, 0.2, 0.15], [0.2, 0.25, 0.12], [0.24, 0.31, 0.42], [0.56, 0.44, 0.27]]
)  # fmt: skip
TILE_COLOURS = np.array(  # clay, slate, brown, copper, zinc, orange clay, blue slate, moss, straw
    [[0.36, 0.14, 0.08], [0.16, 0.16, 0.18], [0.28, 0.17, 0.12], [0.22, 0.34, 0.29],
     [0.45, 0.45, 0.46], [0.52, 0.23, 0.08], [0.13, 0.18, 0.28], [0.2, 0.24, 0.13],
     [0.5, 0.38, 0.2]]
)  # fmt: skip
SEAT_COLOURS = np.array([[0.4, 0.4, 0.42], [0.12, 0.2, 0.4], [0.4, 0.1, 0.08]])
CONIFER = 2  # the species that keeps its needles
