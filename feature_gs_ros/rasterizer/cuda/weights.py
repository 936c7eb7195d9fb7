"""Wᵀ M U of one view as a block of cell weights per Gaussian, planned first and summed later."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import warp as wp
from torch import Tensor

from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.rasterizer.cuda.kernels import pairs as pair_kernels
from feature_gs_ros.rasterizer.cuda.kernels import weights as kernels
from feature_gs_ros.rasterizer.cuda.pairs import Pairs, device_axis
from feature_gs_ros.rasterizer.cuda.projection import Projection
from feature_gs_ros.rasterizer.cuda.runtime import BLOCK, COUNTABLE, launch
from feature_gs_ros.rasterizer.tiling import Layout

MAX_WEIGHTS = 1 << 27  # of cells under Gaussians, summed at once: 512 MB


@dataclass(frozen=True, eq=False)
class CellBlocks:
    """The cells under each Gaussian in a band of tile rows, side by side; their weights are summed by `sum_weights`."""

    pairs: Pairs
    layout: Layout  # of the grid
    valid: Tensor | None  # m(p) [H, W]
    band: tuple[int, int]  # first tile row and end
    blocks: Tensor  # [V, 4] int32, first cell column and row, cell columns and rows
    offsets: Tensor  # [V] int32, where each block begins
    size: int  # of all blocks


def plan_blocks(projection: Projection, pairs: Pairs, layout: Layout, valid: Tensor | None) -> list[CellBlocks]:
    """Blocks for a whole view, or for bands of it where a view's have more than `MAX_WEIGHTS` weights.

    Raises:
        BackendError: a single row of tiles has more than kernels can count.
    """
    whole = _band(projection, pairs, layout, valid, (0, layout.y.tiles))
    bands = min(layout.y.tiles, -(-whole.size // MAX_WEIGHTS) or 1)
    if bands == 1:
        parts = [whole]
    else:
        ends = [layout.y.tiles * band // bands for band in range(bands + 1)]
        parts = [_band(projection, pairs, layout, valid, (ends[band], ends[band + 1])) for band in range(bands)]
    if max(part.size for part in parts) > COUNTABLE:
        raise BackendError(
            f"{max(part.size for part in parts)} weights of Gaussians and cells are too many; use larger cells, a "
            "smaller image or --backend cpu",
            code="backend.range",
        )
    return parts


def _band(
    projection: Projection, pairs: Pairs, layout: Layout, valid: Tensor | None, band: tuple[int, int]
) -> CellBlocks:
    device, count = projection.splats.device, len(projection)
    x, y = device_axis(layout.x, device), device_axis(layout.y, device)
    blocks = torch.empty(count, 4, dtype=torch.int32, device=device)
    sizes = torch.empty(count, dtype=torch.int32, device=device)
    lines = (int(layout.y.edges[band[0]]), int(layout.y.edges[band[1]]))
    mixes = (int(layout.x.mixes), int(layout.y.mixes))
    launch(pair_kernels.cell_blocks, count, device, projection.splats, x.lower, y.lower, *mixes, *lines, blocks, sizes)
    ends = sizes.cumsum(0, dtype=torch.int64)
    size = int(ends[-1]) if count else 0
    return CellBlocks(pairs, layout, valid, band, blocks, (ends - sizes).to(torch.int32), size)


def sum_weights(planned: CellBlocks, weights: Tensor) -> None:
    """Add the band's Σ w m u to ``weights`` [≥ size], which hold zeros; only launches."""
    device, layout = weights.device, planned.layout
    x, y = device_axis(layout.x, device), device_axis(layout.y, device)
    cells = kernels.Cells()
    cells.lower_x, cells.lower_y = wp.from_torch(x.lower), wp.from_torch(y.lower)
    cells.fraction_x, cells.fraction_y = wp.from_torch(x.fraction), wp.from_torch(y.fraction)
    valid = planned.valid if planned.valid is not None else weights.new_empty(0, 0)
    cells.valid, cells.weights = wp.from_torch(valid), wp.from_torch(weights)
    cells.mixes_x, cells.mixes_y = int(layout.x.mixes), int(layout.y.mixes)
    cells.blocks, cells.offsets = wp.from_torch(planned.blocks), wp.from_torch(planned.offsets)
    columns = layout.x.tiles
    tiles = (planned.band[1] - planned.band[0]) * columns
    kernel = kernels.coarse_sums if layout.coarse else kernels.fine_sums
    launch(kernel, tiles * BLOCK, device, planned.pairs.tiles, cells, planned.band[0] * columns)
