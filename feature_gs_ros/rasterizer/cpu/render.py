"""W v of one view: front-to-back blending of any number of channels, zero background."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.cpu.arrays import Bins, Floats, Tiles
from feature_gs_ros.rasterizer.cpu.constants import TILE
from feature_gs_ros.rasterizer.cpu.kernels import blending as kernels
from feature_gs_ros.rasterizer.cpu.projection import Projection
from feature_gs_ros.rasterizer.tiling import Layout

MAX_NARROW_CHANNELS = 24  # channels up to which the lanes of a tile are blended channel by channel
WIDE_BLOCK_CHANNELS = 128  # blended at once beyond that: their accumulators stay in the second-level cache


def render_values(
    projection: Projection,
    layout: Layout,
    bins: Bins,
    values: Floats,  # [V, C] of the projected Gaussians
    first_row: int,
    end_row: int,
) -> Floats:
    """Blend values to the image rows ``first_row <= y < end_row``, [end_row − first_row, W, C]."""
    first_tile, end_tile = first_row // TILE, -(-end_row // TILE)
    height, width = min(end_tile * TILE, len(layout.y.lower)) - first_tile * TILE, len(layout.x.lower)
    tiles = (first_tile, end_tile)
    image = np.empty((height, width, values.shape[1]), np.float32)
    if values.shape[1] <= MAX_NARROW_CHANNELS:
        _blend(projection, layout, bins, tiles, np.ascontiguousarray(values), image)
    else:
        _blend_wide(projection, layout, bins, tiles, values[:, :0], values, image[:, :, :0], image)
    return image[first_row - first_tile * TILE : end_row - first_tile * TILE]


def render_with_extra(
    projection: Projection, layout: Layout, bins: Bins, colors: Floats, extra: Floats
) -> tuple[Floats, Floats]:
    """Blend colours [V, K] and extra signals [V, C] by the same weights to images [H, W, K] and [H, W, C]."""
    height, width, tiles = len(layout.y.lower), len(layout.x.lower), (0, layout.y.tiles)
    image, features = (np.empty((height, width, part.shape[1]), np.float32) for part in (colors, extra))
    if extra.shape[1] == 0:
        _blend(projection, layout, bins, tiles, colors, image)
    else:
        _blend_wide(projection, layout, bins, tiles, colors, extra, image, features)
    return image, features


def whole_vectors(values: Floats, size: int = TILE) -> Floats:
    """Values [V, C] with columns of zeros up to a multiple of ``size``, flat: kernels take whole vectors."""
    if values.shape[1] % size == 0:
        return np.ascontiguousarray(values).reshape(-1)
    padded = np.zeros((len(values), -(-values.shape[1] // size) * size), np.float32)
    padded[:, : values.shape[1]] = values
    return padded.reshape(-1)


def _blend(
    projection: Projection, layout: Layout, bins: Bins, tiles: tuple[int, int], values: Floats, image: Floats
) -> None:
    columns, first_row = layout.x.tiles, tiles[0] * TILE
    splats, tables = projection.splats, Tiles.of(layout)
    start, count = tiles[0] * columns, (tiles[1] - tiles[0]) * columns
    parallel_for(
        count, 16, lambda i, j: kernels.blend(start + i, start + j, splats, bins, tables, values, first_row, image)
    )


def _blend_wide(
    projection: Projection,
    layout: Layout,
    bins: Bins,
    tiles: tuple[int, int],
    colors: Floats,
    values: Floats,
    image: Floats,
    wide: Floats,
) -> None:
    columns, channels = layout.x.tiles, values.shape[1]
    start, count = tiles[0] * columns, (tiles[1] - tiles[0]) * columns
    step = -(-channels // -(-channels // WIDE_BLOCK_CHANNELS))  # blocks of about one size
    splats, tables, first_row = projection.splats, Tiles.of(layout), tiles[0] * TILE
    for first in range(0, channels, step):
        few, part = (colors, image) if first == 0 else (colors[:, :0], image[:, :, :0])
        block, target = whole_vectors(values[:, first : first + step]), wide[:, :, first : first + step]
        parallel_for(
            count,
            16,
            lambda i, j, few=few, block=block, part=part, target=target: kernels.blend_wide(  # type: ignore[misc]
                start + i, start + j, splats, bins, tables, few, block, first_row, part, target
            ),
        )
