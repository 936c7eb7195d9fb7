"""W v of one view: front-to-back blending of any number of channels, zero background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.kernels import parallel_for
from feature_gs_ros.rasterizer.constants import TILE
from feature_gs_ros.rasterizer.kernels import blending as kernels
from feature_gs_ros.rasterizer.projection import (
    Projection,
)
from feature_gs_ros.rasterizer.tiles import Bins, Layout

Floats = NDArray[np.float32]
CHANNELS = 32  # blended at once: their 32 KiB of accumulators stay in the first-level cache


def render_values(
    projection: Projection,
    layout: Layout,
    bins: Bins,
    values: Floats,  # [V, C] of the projected Gaussians
    first_row: int,
    end_row: int,
) -> Floats:
    """Blend values to the image rows ``first_row <= y < end_row``, [end_row − first_row, W, C]."""
    channels = values.shape[1]
    first_tile, end_tile = first_row // TILE, -(-end_row // TILE)
    height = min(end_tile * TILE, len(layout.y.lower)) - first_tile * TILE
    image = np.empty((height, len(layout.x.lower), channels), np.float32)
    for first in range(0, channels, CHANNELS):
        block = np.ascontiguousarray(values[:, first : first + CHANNELS])
        arrays = (projection.splats, bins.entries, bins.gaussians, layout.x.edges, layout.y.edges, block)
        _blend(layout.x.tiles, first_tile, end_tile, arrays, image[:, :, first : first + CHANNELS])
    return image[first_row - first_tile * TILE : end_row - first_tile * TILE]


def _blend(
    columns: int, first_tile: int, end_tile: int, arrays: tuple[NDArray[np.generic], ...], image: Floats
) -> None:
    start = first_tile * columns
    parallel_for(
        (end_tile - first_tile) * columns,
        16,
        lambda i, j: kernels.blend(start + i, start + j, *arrays, first_tile * TILE, image),
    )
