"""Σ_v (Wᵀ M U) F into accumulators. All memory is taken before the first of them is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feature_gs_ros.rasterizer.cuda.kernels import product as kernels
from feature_gs_ros.rasterizer.cuda.projection import Projection
from feature_gs_ros.rasterizer.cuda.runtime import launch
from feature_gs_ros.rasterizer.cuda.weights import CellBlocks, sum_weights

CHANNELS = 4  # per thread, see the kernel


@dataclass(frozen=True, eq=False)
class Sums:
    """Accumulators on the device, by the map's rows."""

    numerator: Tensor  # [N, D]
    weight: Tensor  # [N]
    view_count: Tensor  # [N] int32


@dataclass(frozen=True, eq=False)
class Batch:
    """One product: the blocks of one or more views, or of a band of one view, and the cells they take."""

    parts: Sequence[CellBlocks]
    rows: Tensor  # [U] int32, rows of the accumulators that any of them touches
    index: Tensor  # [views, U] int32, which of all blocks, side by side, is a row's; −1 for none
    blocks: Tensor  # [ΣV, 4] int32
    offsets: Tensor  # [ΣV] int32
    size: int  # of the weights of all blocks
    columns: Tensor  # [views] int32, cell columns
    first_cells: Tensor  # [views] int32, where each view's cells begin
    values: Tensor  # [cells, D]
    totals: Tensor | None = None  # [N] zeros, Wᵀm of a view whose bands come one by one: it counts once
    ends: bool = False  # whether this is such a view's last band


def plan_batch(parts: Sequence[CellBlocks], projections: Sequence[Projection], values: Sequence[Tensor]) -> Batch:
    """Put views of one map side by side; ``values`` [cells, D] each.

    Owners follow the map's curve: neighbours mix the same cells, which then lie in a multiprocessor's own cache.
    """
    geometry = projections[0].geometry
    device = geometry.rows.device
    bases = torch.tensor([0, *(part.size for part in parts)]).cumsum(0).tolist()
    index = torch.full((len(parts), len(geometry.rows)), -1, dtype=torch.int32, device=device)
    first = 0
    for view, projection in enumerate(projections):
        end = first + len(projection)
        index[view, projection.places.long()] = torch.arange(first, end, dtype=torch.int32, device=device)
        first = end
    touched = (index >= 0).any(dim=0).nonzero()[:, 0]
    index = index[:, touched].contiguous()
    first_cells = torch.tensor([0, *(len(cells) for cells in values[:-1])]).cumsum(0)
    return Batch(
        parts,
        geometry.rows[touched],
        index,
        torch.cat([part.blocks for part in parts]) if len(parts) > 1 else parts[0].blocks,
        torch.cat([part.offsets + base for part, base in zip(parts, bases, strict=False)]),
        int(bases[-1]),
        torch.tensor([part.layout.x.cells for part in parts], dtype=torch.int32).to(device),
        first_cells.to(device, torch.int32),
        torch.cat(list(values)) if len(values) > 1 else values[0],
    )


def add_batches(batches: Sequence[Batch], sums: Sums, sign: int) -> None:
    """Add products one after another; several batches share one buffer of weights."""
    device, channels = sums.numerator.device, sums.numerator.shape[1]
    buffer = torch.empty(max((batch.size for batch in batches), default=0), device=device)
    threads = max(1, -(-channels // CHANNELS))
    for batch in batches:
        weights = buffer[: batch.size].zero_()
        begin = 0
        for part in batch.parts:
            sum_weights(part, weights[begin : begin + part.size])
            begin += part.size
        arrays = (batch.rows, batch.index, batch.blocks, batch.offsets, weights, batch.columns, batch.first_cells)
        totals = sums.weight.new_empty(0) if batch.totals is None else batch.totals
        outputs = (batch.values, float(sign), totals, sums.numerator, sums.weight, sums.view_count)
        launch(kernels.add_products, (len(batch.rows), threads), device, *arrays, *outputs)
        if batch.ends:
            launch(kernels.add_totals, len(totals), device, totals, float(sign), sums.weight, sums.view_count)
    if sign < 0:
        for batch in batches:
            touched = (batch.rows, sums.view_count, sums.numerator, sums.weight)
            launch(kernels.clear_unseen, (len(batch.rows), max(1, channels)), device, *touched)
