"""Wᵀ M L of one view: how much of each Gaussian's weight lies on pixels of each label.

L [pixels, C] is the one-hot matrix of a label image. Features of one code per label, F = L E, need no more than
this: Wᵀ M F = (Wᵀ M L) E. The cost depends neither on the number of labels nor on the codes' dimension.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.cpu.arrays import Bins, Floats, Ints, LabelImage, LabelSums, Tiles
from feature_gs_ros.rasterizer.cpu.constants import LANES
from feature_gs_ros.rasterizer.cpu.kernels import labels as kernels
from feature_gs_ros.rasterizer.cpu.projection import Projection
from feature_gs_ros.rasterizer.cpu.tiles import bin_pairs
from feature_gs_ros.rasterizer.tiling import Layout

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
    tiles, y = Tiles.of(layout), layout.y
    image = LabelImage(labels, valid, np.empty(layout.tiles * LANES, np.int32), np.empty(layout.tiles, np.int64))
    parallel_for(layout.tiles, 64, lambda i, j: kernels.list_labels(i, j, tiles, image))
    sums = int((np.diff(bins.entries) * image.counts).sum())
    bands, shape = min(y.tiles, -(-sums // MAX_SUMS) or 1), (gaussians, classes)
    if bands == 1:
        return _band(projection, tiles, bins, image, shape)
    result = scipy.sparse.csr_matrix(shape, dtype=np.float32)
    for band in range(bands):
        part = bin_pairs(projection, layout, y.tiles * band // bands, y.tiles * (band + 1) // bands)
        result = result + _band(projection, tiles, part, image, shape)
    return result


def _band(
    projection: Projection, tiles: Tiles, bins: Bins, image: LabelImage, shape: tuple[int, int]
) -> scipy.sparse.csr_matrix:
    starts = np.concatenate([[0], np.cumsum(np.diff(bins.entries) * image.counts)])
    found = LabelSums(starts, np.zeros(bins.pairs, np.int64), np.zeros(starts[-1], np.float32))
    splats = projection.splats
    parallel_for(len(image.counts), 16, lambda i, j: kernels.label_sums(i, j, splats, bins, tiles, image, found))
    count = len(projection)
    entries, sizes = np.zeros(count, np.int64), np.zeros(count, np.int64)
    walk = (bins.rects, bins.slots, len(tiles.x.edges) - 1)
    parallel_for(count, 4096, lambda i, j: kernels.count_labels(i, j, *walk, image.counts, found, entries))
    ends = np.concatenate([[0], np.cumsum(entries)])
    classes, weights = np.empty(ends[-1], np.int32), np.empty(ends[-1], np.float32)
    results = (ends, sizes, classes, weights)
    parallel_for(count, 4096, lambda i, j: kernels.merge_labels(i, j, *walk, image, found, *results))
    kept = np.arange(ends[-1]) - np.repeat(ends[:-1], entries) < np.repeat(sizes, entries)
    rows = np.repeat(projection.rows, sizes)
    return scipy.sparse.csr_matrix((weights[kept], (rows, classes[kept])), shape=shape)
