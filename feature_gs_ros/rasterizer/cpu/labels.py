"""Wᵀ M L of one view: how much of each Gaussian's weight lies on pixels of each label.

L [pixels, C] is the one-hot matrix of a label image. Features of one code per label, F = L E, need no more than
this: Wᵀ M F = (Wᵀ M L) E. The cost doesn't depend on the number of labels or of the codes' numbers.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.cpu.constants import LANES
from feature_gs_ros.rasterizer.cpu.kernels import labels as kernels
from feature_gs_ros.rasterizer.cpu.projection import Projection
from feature_gs_ros.rasterizer.cpu.tiles import Bins, bin_pairs
from feature_gs_ros.rasterizer.tiling import Layout

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
MAX_SUMS = 1 << 26  # of pairs of tile and Gaussian, and the tile's labels, held at once


def label_weights(
    projection: Projection,
    layout: Layout,  # of plain tiles
    bins: Bins,  # of all of them
    labels: Ints,  # [H, W], negative where there is none
    classes: int,
    valid: Floats,  # m(p) [H, W], or [0, 0] where all pixels count
    gaussians: int,
) -> scipy.sparse.csr_matrix:
    """Weights [N, C] by the map's rows, float32."""
    x, y = layout.x, layout.y
    listed, counts = np.empty(layout.tiles * LANES, np.int32), np.empty(layout.tiles, np.int64)
    parallel_for(layout.tiles, 64, lambda i, j: kernels.list_labels(i, j, x.edges, y.edges, labels, listed, counts))
    sums = int((np.diff(bins.entries) * counts).sum())
    bands, shape = min(y.tiles, -(-sums // MAX_SUMS) or 1), (gaussians, classes)
    if bands == 1:
        return _band(projection, layout, bins, labels, valid, listed, counts, shape)
    result = scipy.sparse.csr_matrix(shape, dtype=np.float32)
    for band in range(bands):
        part = bin_pairs(projection, layout, y.tiles * band // bands, y.tiles * (band + 1) // bands)
        result = result + _band(projection, layout, part, labels, valid, listed, counts, shape)
    return result


def _band(
    projection: Projection,
    layout: Layout,
    bins: Bins,
    labels: Ints,
    valid: Floats,
    listed: Ints,
    counts: NDArray[np.int64],
    shape: tuple[int, int],
) -> scipy.sparse.csr_matrix:
    begins = np.concatenate([[0], np.cumsum(np.diff(bins.entries) * counts)])
    sums, places = np.zeros(begins[-1], np.float32), np.zeros(bins.pairs, np.int64)
    arrays = (projection.splats, bins.entries, bins.gaussians, bins.pair_slots, layout.x.edges, layout.y.edges)
    tables = (labels, valid, listed, counts, begins, places, sums)
    parallel_for(layout.tiles, 16, lambda i, j: kernels.label_sums(i, j, *arrays, *tables))
    count, columns = len(projection), layout.x.tiles
    entries, found = np.zeros(count, np.int64), np.zeros(count, np.int64)
    walk = (bins.rects, bins.slots, columns)
    parallel_for(count, 4096, lambda i, j: kernels.count_labels(i, j, *walk, counts, places, sums, entries))
    starts = np.concatenate([[0], np.cumsum(entries)])
    classes, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    results = (listed, counts, places, sums, starts, found, classes, weights)
    parallel_for(count, 4096, lambda i, j: kernels.merge_labels(i, j, *walk, *results))
    kept = np.arange(starts[-1]) - np.repeat(starts[:-1], entries) < np.repeat(found, entries)
    rows = np.repeat(projection.rows, found)
    return scipy.sparse.csr_matrix((weights[kept], (rows, classes[kept])), shape=shape)
