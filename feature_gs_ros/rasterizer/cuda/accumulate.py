"""From views and grids to accumulators: what several views share, and what may run out of memory, comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.numerics.streams import upload
from feature_gs_ros.rasterizer.cuda import weights
from feature_gs_ros.rasterizer.cuda.pairs import pair_tiles
from feature_gs_ros.rasterizer.cuda.product import Batch, Sums, add_batches, plan_batch
from feature_gs_ros.rasterizer.cuda.projection import Projection
from feature_gs_ros.rasterizer.cuda.runtime import out_of_memory
from feature_gs_ros.rasterizer.cuda.weights import CellBlocks, plan_blocks
from feature_gs_ros.rasterizer.tiling import grid_layout

if TYPE_CHECKING:
    from feature_gs_ros.rasterizer.cuda.view import CudaView


def backproject_views(
    views: Sequence[CudaView],
    grids: Sequence[FeatureGrid],
    valids: Sequence[Tensor | None],
    sums: Sums,
    sign: int = 1,
) -> None:
    """Add Σ_v Wᵀ M U F and Wᵀ m to ``sums``; ``sign`` −1 takes them out.

    Views with coarse cells share products, those with fine cells are added one by one.

    Raises:
        OutOfMemoryError: the device has no room; ``sums`` are as before.
    """
    with out_of_memory(sums.weight.device, f"back-projecting {len(views)} views at once"):
        coarse: list[tuple[CellBlocks, Projection, Tensor]] = []
        batches: list[Batch] = []
        for view, grid, valid in zip(views, grids, valids, strict=True):
            parts, values = blocks_of(view, grid, valid), cells_of(grid, view.device)
            if parts[0].layout.coarse and len(parts) == 1:
                coarse.append((parts[0], view.projection, values))
                continue
            own = [plan_batch([part], [view.projection], [values]) for part in parts]
            if len(own) > 1:
                totals = torch.zeros_like(sums.weight)
                own = [replace(batch, totals=totals, ends=batch is own[-1]) for batch in own]
            batches += own
        add_batches(batches + _side_by_side(coarse), sums, sign)


def _side_by_side(views: Sequence[tuple[CellBlocks, Projection, Tensor]]) -> list[Batch]:
    """Views with coarse cells, as many per product as `MAX_WEIGHTS` holds."""
    groups: list[list[tuple[CellBlocks, Projection, Tensor]]] = []
    size = 0
    for view in views:
        size += view[0].size
        if not groups or size > weights.MAX_WEIGHTS:
            groups.append([])
            size = view[0].size
        groups[-1].append(view)
    return [plan_batch(*zip(*group, strict=True)) for group in groups]


def blocks_of(view: CudaView, grid: FeatureGrid, valid: Tensor | None) -> list[CellBlocks]:
    """The cells of a grid under each Gaussian of a view, planned."""
    layout = grid_layout(grid, view.camera.width, view.camera.height)
    # Tiles of fine cells are the plain ones, whatever the cells.
    pairs = pair_tiles(view.projection, layout) if layout.coarse else view.pixel_pairs
    return plan_blocks(view.projection, pairs, layout, view.mask(valid))


def cells_of(grid: FeatureGrid, device: torch.device) -> Tensor:
    """A grid's values [cells, D] float32 on the device; no copy where they lie there so."""
    return upload(grid.values.detach(), device, torch.float32).reshape(-1, grid.dimension).contiguous()
