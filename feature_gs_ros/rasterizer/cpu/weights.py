"""Wᵀ U of one view: the weight of each (Gaussian, cell) pair, free of the feature's dimension.

Both kernels walk a tile's Gaussians front to back over `TILE` × `TILE` lanes of pixels. Lanes beyond the
image start with transmittance 0 and stay so.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.cpu.arrays import Bins, CellBlocks, CornerSums, Floats, Tiles
from feature_gs_ros.rasterizer.cpu.kernels import cells as kernels
from feature_gs_ros.rasterizer.cpu.projection import Projection
from feature_gs_ros.rasterizer.cpu.tiles import bin_pairs
from feature_gs_ros.rasterizer.tiling import Layout


class CoarseWeights(NamedTuple):
    """Four sums per pair, of the cells around its tile."""

    tiles: Tiles
    sums: CornerSums


class FineWeights(NamedTuple):
    """A block of cells per pair: those under the splat's footprint in the tile."""

    tiles: Tiles
    bins: Bins
    sums: CellBlocks


def coarse_weights(projection: Projection, layout: Layout, valid: Floats) -> CoarseWeights:
    """Corner sums of every pair; ``valid`` [H, W] is m(p), or [0, 0] where all pixels count."""
    bins, tiles = bin_pairs(projection, layout), Tiles.of(layout)
    corners = np.empty((bins.pairs, 4), np.float32)
    splats = projection.splats
    parallel_for(layout.tiles, 64, lambda i, j: kernels.corner_sums(i, j, splats, bins, tiles, valid, corners))
    return CoarseWeights(tiles, CornerSums(bins.rects, bins.slots, corners))


def fine_weights(projection: Projection, layout: Layout, valid: Floats, first_row: int, last_row: int) -> FineWeights:
    """Cell blocks of every pair in the tile rows ``first_row <= row < last_row``."""
    bins, tiles, splats = bin_pairs(projection, layout, first_row, last_row), Tiles.of(layout), projection.splats
    offsets = np.empty(bins.pairs + 1, np.int64)
    offsets[0] = 0
    mixed = 2 if layout.x.mixes or layout.y.mixes else 1
    parallel_for(len(projection), 16384, lambda i, j: kernels.block_sizes(i, j, splats, bins, tiles, mixed, offsets))
    np.cumsum(offsets, out=offsets)
    sums = CellBlocks(offsets, np.empty(offsets[-1], np.float32), np.zeros(bins.pairs, np.bool_), mixed)
    first, last = first_row * layout.x.tiles, last_row * layout.x.tiles
    parallel_for(
        last - first, 16, lambda i, j: kernels.cell_blocks(first + i, first + j, splats, bins, tiles, valid, sums)
    )
    return FineWeights(tiles, bins, sums)
