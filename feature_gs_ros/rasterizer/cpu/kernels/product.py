"""(WᵀU) F, one row of the accumulators at a time."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import load, store
from feature_gs_ros.rasterizer.cpu.constants import BUFFER, MEAN_X, MEAN_Y, RADIUS_X, RADIUS_Y, TILE
from feature_gs_ros.rasterizer.cpu.kernels.cells import block_of


@inline
def add_cells(rows, row, cells, indices, shares, first, end, dimension):
    """rows[row : row + D] += Σ share · cells[index] over the list's [first, end), four a pass.

    ``rows`` and ``cells`` are flat; slices of whole arrays would count references, which costs more than the sum.
    """
    whole, fours = dimension - dimension % TILE, end - (end - first) % 4
    for k in range(first, fours, 4):
        c0, c1 = np.int64(indices[k]) * dimension, np.int64(indices[k + 1]) * dimension
        c2, c3 = np.int64(indices[k + 2]) * dimension, np.int64(indices[k + 3]) * dimension
        w0, w1, w2, w3 = shares[k], shares[k + 1], shares[k + 2], shares[k + 3]
        for d in range(0, whole, TILE):
            near = load(cells, c0 + d) * w0 + load(cells, c1 + d) * w1
            far = load(cells, c2 + d) * w2 + load(cells, c3 + d) * w3
            store(rows, row + d, load(rows, row + d) + (near + far))
        for d in range(whole, dimension):
            rows[row + d] += (w0 * cells[c0 + d] + w1 * cells[c1 + d]) + (w2 * cells[c2 + d] + w3 * cells[c3 + d])
    for k in range(fours, end):
        cell, share = np.int64(indices[k]) * dimension, shares[k]
        for d in range(0, whole, TILE):
            store(rows, row + d, load(rows, row + d) + load(cells, cell + d) * share)
        for d in range(whole, dimension):
            rows[row + d] += share * cells[cell + d]


@kernel
def add_fine(
    start,
    stop,
    places,
    splats,
    rects,
    slots,
    blocks,
    offsets,
    filled,
    reach,
    edges_x,
    edges_y,
    lower_x,
    lower_y,
    columns,
    cells,
    numerator,
    totals,
):
    """Add the blocks' features to the rows of a range of Gaussians, and their Wᵀ m to ``totals``."""
    indices, shares = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.float32)
    dimension = cells.shape[1]
    values, rows = cells.reshape(-1), numerator.reshape(-1)
    for i in range(start, stop):
        row = places[i] * dimension
        total = np.float32(0)
        count = 0
        slot = slots[i] - 1
        for tile_y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            _, _, cell_y, _ = block_of(
                splats[i, MEAN_Y], splats[i, RADIUS_Y], edges_y[tile_y], edges_y[tile_y + 1], lower_y, reach
            )
            for tile_x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                slot += 1
                if not filled[slot]:
                    continue
                _, _, cell_x, cells_x = block_of(
                    splats[i, MEAN_X], splats[i, RADIUS_X], edges_x[tile_x], edges_x[tile_x + 1], lower_x, reach
                )
                base = cell_y * columns + cell_x
                x = 0
                for k in range(offsets[slot], offsets[slot + 1]):
                    share = blocks[k]
                    if share > np.float32(0):
                        indices[count], shares[count] = base + x, share
                        total += share
                        count += 1
                        if count == BUFFER:
                            add_cells(rows, row, values, indices, shares, 0, count, dimension)
                            count = 0
                    x += 1
                    if x == cells_x:
                        x = 0
                        base += columns
        add_cells(rows, row, values, indices, shares, 0, count, dimension)
        totals[i] += total


@kernel
def add_totals(start, stop, places, totals, sign, weight, view_count):
    """A view's Wᵀm to the accumulators, and to the number of views in which a Gaussian has weight."""
    for i in range(start, stop):
        if totals[i] > np.float32(0):
            weight[places[i]] += sign * totals[i]
            view_count[places[i]] += sign
