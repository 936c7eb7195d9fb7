"""Which Gaussians touch which tile of an image."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.cpu.arrays import Bins, Tiles
from feature_gs_ros.rasterizer.cpu.kernels import binning as kernels
from feature_gs_ros.rasterizer.cpu.projection import Projection
from feature_gs_ros.rasterizer.tiling import Layout


def bin_pairs(projection: Projection, layout: Layout, first_row: int = 0, last_row: int | None = None) -> Bins:
    """Which Gaussians may touch which tiles, limited to the tile rows ``first_row <= row < last_row``.

    Raises:
        BackendError: more pairs than memory could hold.
    """
    last_row = layout.y.tiles if last_row is None else last_row
    count = len(projection)
    rects = np.empty((count, 4), np.int16)
    slots = np.empty(count + 1, np.int64)
    slots[0] = 0
    tiles, columns = layout.tiles, layout.x.tiles
    step = max(1, -(-count // 16))
    counts = np.zeros((17, tiles), np.int64)
    tables = Tiles.of(layout)
    parallel_for(
        count,
        step,
        lambda i, j: kernels.tile_rects(i, j, projection.splats, tables, first_row, last_row, rects, slots),
    )
    np.cumsum(slots, out=slots)
    if slots[-1] >= 2**31:
        raise BackendError(  # they would need 32 GB
            f"{slots[-1]} pairs of tile and Gaussian are more than 2³¹; use a smaller image or prune the map",
            code="backend.range",
        )
    # Chunks of the front-to-back order fill their own stretch of every tile's list: parallel, and the same list.
    walks = np.empty((count, 4), np.int32)
    parallel_for(
        count,
        step,
        lambda i, j: kernels.count_pairs(i, j, projection.order, rects, slots, columns, counts[i // step + 1], walks),
    )
    totals = counts.sum(axis=0)
    entries = np.concatenate([[0], np.cumsum(totals)])
    starts = np.cumsum(counts[:-1], axis=0) + entries[:-1]
    gaussians, pair_slots = np.empty((2, entries[-1]), np.int32)
    parallel_for(
        count,
        step,
        lambda i, j: kernels.fill_pairs(
            i, j, projection.order, walks, columns, starts[i // step], gaussians, pair_slots
        ),
    )
    return Bins(rects, slots, entries, gaussians, pair_slots)
