"""Wᵀ U of one view: the weight of each (Gaussian, cell) pair, free of the feature's dimension.

Both kernels walk a tile's Gaussians front to back over `TILE` × `TILE` lanes of pixels. Lanes beyond the
image start with transmittance 0 and stay so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.cpu.kernels import cells as kernels
from feature_gs_ros.rasterizer.cpu.projection import Projection
from feature_gs_ros.rasterizer.cpu.tiles import Bins, bin_pairs
from feature_gs_ros.rasterizer.tiling import Layout

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CoarseWeights:
    """Four sums a pair: the weight that falls to cell (0,0), (0,1), (1,0), (1,1) of the tile's corners."""

    layout: Layout
    rects: NDArray[np.int16]  # as in `Bins`, of which no more is kept: a batch holds them of several views
    slots: NDArray[np.int64]
    corners: Floats  # [pairs, 4] by slot


@dataclass(frozen=True, eq=False)
class FineWeights:
    """A block of cells a pair: those under the Gaussian's bounding box in the tile."""

    layout: Layout
    bins: Bins
    blocks: Floats  # all blocks, by slot
    offsets: NDArray[np.int64]  # [pairs + 1] where each block begins
    filled: NDArray[np.bool_]  # [pairs] by slot; the block of a hidden pair is not
    reach: int  # cells that one pixel mixes along an axis


def coarse_weights(projection: Projection, layout: Layout, valid: Floats) -> CoarseWeights:
    """Corner sums of every pair; ``valid`` [H, W] is m(p), or [0, 0] where all pixels count."""
    bins = bin_pairs(projection, layout)
    corners = np.empty((bins.pairs, 4), np.float32)
    x, y = layout.x, layout.y
    arrays = (
        projection.splats,
        bins.entries,
        bins.gaussians,
        bins.pair_slots,
        x.edges,
        y.edges,
        x.fraction,
        y.fraction,
    )
    parallel_for(layout.tiles, 64, lambda i, j: kernels.corner_sums(i, j, *arrays, valid, corners))
    return CoarseWeights(layout, bins.rects, bins.slots, corners)


def fine_weights(projection: Projection, layout: Layout, valid: Floats, first_row: int, last_row: int) -> FineWeights:
    """Cell blocks of every pair in the tile rows ``first_row <= row < last_row``."""
    bins = bin_pairs(projection, layout, first_row, last_row)
    offsets = np.empty(bins.pairs + 1, np.int64)
    offsets[0] = 0
    x, y = layout.x, layout.y
    reach = 2 if x.mixes or y.mixes else 1
    axes = (reach, x.edges, y.edges, x.lower, y.lower)
    parallel_for(
        len(projection),
        16384,
        lambda i, j: kernels.block_sizes(i, j, projection.splats, bins.rects, bins.slots, *axes, offsets),
    )
    np.cumsum(offsets, out=offsets)
    blocks = np.empty(offsets[-1], np.float32)
    filled = np.zeros(bins.pairs, np.bool_)
    arrays = (projection.splats, bins.entries, bins.gaussians, bins.pair_slots, offsets, *axes, x.fraction, y.fraction)
    first, last = first_row * x.tiles, last_row * x.tiles
    parallel_for(
        last - first,
        16,
        lambda i, j: kernels.cell_blocks(first + i, first + j, *arrays, valid, blocks, filled),
    )
    return FineWeights(layout, bins, blocks, offsets, filled, reach)
