"""(WᵀU) F: the D-dimensional half of back-projection, one Gaussian's row at a time.

A row of the accumulators is read and written once however many cells it takes, and by one thread only:
the sums don't depend on the number of threads.
"""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.cpu.arrays import Bins, Floats, Ints, Tiles
from feature_gs_ros.rasterizer.cpu.kernels import coarse, pixels
from feature_gs_ros.rasterizer.cpu.kernels import product as kernels
from feature_gs_ros.rasterizer.cpu.projection import Projection
from feature_gs_ros.rasterizer.cpu.weights import CoarseWeights, FineWeights
from feature_gs_ros.rasterizer.tiling import Layout


def add_coarse(
    weights: CoarseWeights,
    projection: Projection,
    cells: Floats,  # [rows · columns, D]
    start: int,
    stop: int,
    numerator: Floats,  # [N, D] along the map's Z-curve, added to
    totals: Floats,  # [V] Wᵀm of the projected Gaussians, added to
) -> None:
    """Add a view with coarse cells to the accumulators of the projection's Gaussians ``start <= i < stop``."""
    coarse.add_coarse(start, stop, projection.indices, weights.sums, weights.tiles, cells, numerator, totals)


def add_fine(
    weights: FineWeights,
    projection: Projection,
    cells: Floats,  # [rows · columns, D]
    start: int,
    stop: int,
    numerator: Floats,  # [N, D] along the map's Z-curve, added to
    totals: Floats,  # [V] Wᵀm of the projected Gaussians, added to
) -> None:
    """Add a view with fine cells to the accumulators of the projection's Gaussians ``start <= i < stop``."""
    splats, (tiles, bins, sums) = projection.arrays, weights
    kernels.add_fine(start, stop, splats, bins, sums, tiles, cells, numerator, totals)


def add_pixels(
    projection: Projection,
    layout: Layout,
    bins: Bins,
    features: Floats,  # [H, W, D]
    valid: Floats,  # m(p) [H, W], or [0, 0] where all pixels count
    numerator: Floats,  # [N, D] along the map's Z-curve, added to
    totals: Floats,  # [V] Wᵀm of the projected Gaussians, added to
) -> None:
    """Add a view with few channels per pixel to the accumulators: weights and product in one pass."""
    sums, tiles = np.empty((bins.pairs, features.shape[2] + 1), np.float32), Tiles.of(layout)
    parallel_for(
        layout.tiles,
        16,
        lambda i, j: pixels.pixel_sums(i, j, projection.splats, bins, tiles, features, valid, sums),
    )
    parallel_for(
        len(projection),
        4096,
        lambda i, j: pixels.add_sums(i, j, projection.indices, bins.slots, sums, numerator, totals),
    )


def add_totals(projection: Projection, totals: Floats, sign: int, weight: Floats, view_count: Ints) -> None:
    """Add a view's Wᵀm to the weight [N], and ±1 to ``view_count`` [N] where it has any; both along the Z-curve."""
    kernels.add_totals(0, len(totals), projection.indices, totals, sign, weight, view_count)
