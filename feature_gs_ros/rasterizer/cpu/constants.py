"""The CPU backend's own constants: columns of its arrays, sizes of its vectors, and what was tuned by measurement."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.rasterizer import tiling

# Columns of Projection.splats.
MEAN_X, MEAN_Y, CONIC_A, CONIC_B, CONIC_C, OPACITY, RADIUS_X, RADIUS_Y = range(8)
SPLAT_GRADIENTS = 6  # of a splat's mean x, y, conic a, b, c and opacity, before those of its values
COLORED = SPLAT_GRADIENTS + 3  # and of its red, green and blue

MAX_SIGMAS = np.float32(3.34)  # standard deviations at which an opacity of 1 has fallen under ALPHA_MIN
TILE = tiling.TILE  # which is SIZE: a row of pixels is one vector
LANES = TILE * TILE
WIDE = 4 * TILE  # channels of extra signals that one walk of the backward pass takes

PREFETCH = 8  # entries of a list ahead of which a Gaussian's data is prefetched
FAR_PREFETCH = 16  # the same where little is done with each
ROW_PREFETCH = 6  # the same for rows of the accumulators
CHECK_EVERY = 16  # Gaussians between two checks whether all of a tile's rays have ended
SLOTS_AT_ONCE = 4096  # pairs of a Gaussian and a tile whose cells are listed before they are multiplied
BUFFER = 64  # (cell, weight) pairs collected before they are multiplied
