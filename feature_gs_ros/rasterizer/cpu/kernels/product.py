"""(Wᵀ M U) F from blocks of cells, one row of the accumulators at a time."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import load, store
from feature_gs_ros.rasterizer.cpu.constants import BUFFER, MEAN_X, MEAN_Y, RADIUS_X, RADIUS_Y, TILE
from feature_gs_ros.rasterizer.cpu.kernels.cells import block_of


@inline
def add_cells(rows, row, cells, indices, weights, first, end, dimension):
    """rows[row : row + D] += Σ weight · cells[index] over the list's [first, end), four per pass.

    ``rows`` and ``cells`` are flat; slices of whole arrays would count references, which costs more than the sum.
    """
    whole, fours = dimension - dimension % TILE, end - (end - first) % 4
    for k in range(first, fours, 4):
        c0, c1 = np.int64(indices[k]) * dimension, np.int64(indices[k + 1]) * dimension
        c2, c3 = np.int64(indices[k + 2]) * dimension, np.int64(indices[k + 3]) * dimension
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        for d in range(0, whole, TILE):
            near = load(cells, c0 + d) * w0 + load(cells, c1 + d) * w1
            far = load(cells, c2 + d) * w2 + load(cells, c3 + d) * w3
            store(rows, row + d, load(rows, row + d) + (near + far))
        for d in range(whole, dimension):
            rows[row + d] += (w0 * cells[c0 + d] + w1 * cells[c1 + d]) + (w2 * cells[c2 + d] + w3 * cells[c3 + d])
    for k in range(fours, end):
        cell, weight = np.int64(indices[k]) * dimension, weights[k]
        for d in range(0, whole, TILE):
            store(rows, row + d, load(rows, row + d) + load(cells, cell + d) * weight)
        for d in range(whole, dimension):
            rows[row + d] += weight * cells[cell + d]


@kernel
def add_fine(start, stop, projected, bins, sums, tiles, cells, numerator, totals):
    """Add the cells' features to the rows of the splats ``start <= i < stop``, and their Wᵀ m to ``totals`` [V].

    numerator_i += Σ_cell (Wᵀ M U)_i,cell F_cell, by slot and in a slot cell by cell.

    Args:
        projected: `Projected`; ``indices`` are the rows of ``numerator`` [N, D].
        bins, sums, tiles: pairs, their `CellBlocks`, and how cells cover the image.
        cells: F [rows · columns, D], row by row.
    """
    rows_of, splats, rects, slots = projected.indices, projected.splats, bins.rects, bins.slots
    offsets, blocks, filled, mixed = sums.offsets, sums.blocks, sums.filled, sums.mixed
    edges_x, edges_y, lower_x, lower_y, columns = (
        tiles.x.edges,
        tiles.y.edges,
        tiles.x.lower,
        tiles.y.lower,
        tiles.x.cells,
    )
    indices, weights = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.float32)
    dimension = cells.shape[1]
    values, rows = cells.reshape(-1), numerator.reshape(-1)
    for i in range(start, stop):
        row = rows_of[i] * dimension
        total = np.float32(0)
        count = 0
        slot = slots[i] - 1
        for tile_y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            _, _, cell_y, _ = block_of(
                splats[i, MEAN_Y], splats[i, RADIUS_Y], edges_y[tile_y], edges_y[tile_y + 1], lower_y, mixed
            )
            for tile_x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                slot += 1
                if not filled[slot]:
                    continue
                _, _, cell_x, cells_x = block_of(
                    splats[i, MEAN_X], splats[i, RADIUS_X], edges_x[tile_x], edges_x[tile_x + 1], lower_x, mixed
                )
                base = cell_y * columns + cell_x
                x = 0
                for k in range(offsets[slot], offsets[slot + 1]):
                    weight = blocks[k]
                    if weight > np.float32(0):
                        indices[count], weights[count] = base + x, weight
                        total += weight
                        count += 1
                        if count == BUFFER:
                            add_cells(rows, row, values, indices, weights, 0, count, dimension)
                            count = 0
                    x += 1
                    if x == cells_x:
                        x = 0
                        base += columns
        add_cells(rows, row, values, indices, weights, 0, count, dimension)
        totals[i] += total


@kernel
def add_totals(start, stop, indices, totals, sign, weight, view_count):
    """A view's Wᵀ m, ``totals`` [V], times ±1 to ``weight`` [N], and ±1 to ``view_count`` [N] where it is above 0."""
    for i in range(start, stop):
        if totals[i] > np.float32(0):
            weight[indices[i]] += sign * totals[i]
            view_count[indices[i]] += sign
