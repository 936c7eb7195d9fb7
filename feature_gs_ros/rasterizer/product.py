"""(WᵀU) F: the D-dimensional half of back-projection, one Gaussian's row at a time.

A row of the accumulators is read and written once however many cells it takes, and by one thread only:
the sums don't depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.rasterizer.kernels import product as kernels
from feature_gs_ros.rasterizer.projection import Projection
from feature_gs_ros.rasterizer.weights import CoarseWeights, FineWeights

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def add_coarse(
    weights: CoarseWeights,
    projection: Projection,
    cells: Floats,  # [rows · columns, D]
    start: int,
    stop: int,
    numerator: Floats,  # [N, D] along the map's Z-curve, added to
    weight: Floats,  # [N] along the map's Z-curve, added to
) -> None:
    """Add a view with coarse cells to the accumulators of the projection's Gaussians ``start <= i < stop``."""
    x, y = weights.layout.x, weights.layout.y
    kernels.add_coarse(
        start,
        stop,
        projection.places,
        weights.bins.rects,
        weights.bins.slots,
        weights.corners,
        x.lower[x.edges[:-1]],
        y.lower[y.edges[:-1]],
        x.cells,
        y.cells,
        cells,
        numerator,
        weight,
    )


def add_fine(
    weights: FineWeights,
    projection: Projection,
    cells: Floats,  # [rows · columns, D]
    start: int,
    stop: int,
    numerator: Floats,  # [N, D] along the map's Z-curve, added to
    weight: Floats,  # [N] along the map's Z-curve, added to
) -> None:
    """Add a view with fine cells to the accumulators of the projection's Gaussians ``start <= i < stop``."""
    x, y = weights.layout.x, weights.layout.y
    kernels.add_fine(
        start,
        stop,
        projection.places,
        projection.splats,
        weights.bins.rects,
        weights.bins.slots,
        weights.blocks,
        weights.offsets,
        weights.filled,
        weights.reach,
        x.edges,
        y.edges,
        x.lower,
        y.lower,
        x.cells,
        cells,
        numerator,
        weight,
    )
