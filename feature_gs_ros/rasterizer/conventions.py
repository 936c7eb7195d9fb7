"""The rasteriser's conventions, each in one place; those of gsplat 1.5.3 in classic mode unless said."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.simd.types import SIZE

NEAR_PLANE = np.float32(0.01)  # splat units
EPS2D = np.float32(0.3)  # px², added to the diagonal of the 2D covariance
ALPHA_MIN = np.float32(1.0 / 255.0)  # smaller alphas are skipped
ALPHA_MAX = np.float32(0.999)  # larger ones are clipped; 0.99 in Inria's code and gsplat 1.6
TRANSMITTANCE_MIN = np.float32(1e-4)  # a ray ends before the Gaussian that would bring it this low
TANGENT_MARGIN = 0.15  # of the image's width: the Jacobian's tangents are clamped to bounds widened by it
WIDEST = np.float32(3.34)  # standard deviations at which an opacity of 1 has fallen under ALPHA_MIN

# Columns of Projection.splats.
MEAN_X, MEAN_Y, CONIC_A, CONIC_B, CONIC_C, OPACITY, RADIUS_X, RADIUS_Y = range(8)

TILE = SIZE  # pixels a side at most: a row of them is one vector
LANES = TILE * TILE
AHEAD = 8  # entries of a list after which what a Gaussian needs has come from memory
FAR_AHEAD = 16  # the same where little is done with each
CHECK_EVERY = 16  # Gaussians between two looks whether all of a tile's rays have ended
SLOTS_AT_ONCE = 4096  # pairs of a Gaussian and a tile whose cells are listed before they are multiplied
ROWS_AHEAD = 6  # of the accumulators, after which one has come from memory
BUFFER = 64  # (cell, weight) pairs collected before they are multiplied
SPLAT_GRADIENTS = 6  # of a splat's mean x, y, conic a, b, c and opacity, before those of its values
COLORED = SPLAT_GRADIENTS + 3  # and of its red, green and blue
WIDE = 4 * TILE  # channels of a payload that one walk of the backward pass takes
