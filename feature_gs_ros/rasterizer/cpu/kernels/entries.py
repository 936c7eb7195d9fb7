"""WᵀU of one view as entries (Gaussian, cell, weight), and products with the sparse matrix made of them."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import kernel
from feature_gs_ros.rasterizer.cpu.constants import MEAN_X, MEAN_Y, RADIUS_X, RADIUS_Y
from feature_gs_ros.rasterizer.cpu.kernels.cells import block_of
from feature_gs_ros.rasterizer.cpu.kernels.product import add_cells


@kernel
def coarse_entries(rows, sums, tiles, gaussians, cells, weights):
    """List the `CornerSums` that are above 0; returns how many. The same Gaussian and cell may come up again.

    Args:
        rows: [V] the map's row of each splat.
        gaussians, cells, weights: the list, with room for all corners: row, cell (row by row), Σ_p w m U.
    """
    rects, slots, corners = sums.rects, sums.slots, sums.corners
    cell_of_column, cell_of_row, columns, lines = tiles.x.first_cells, tiles.y.first_cells, tiles.x.cells, tiles.y.cells
    count = 0
    for i in range(rows.shape[0]):
        slot = slots[i]
        for y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            for x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                for corner in range(4):
                    weight = corners[slot, corner]
                    if weight > np.float32(0):
                        line = min(cell_of_row[y] + corner // 2, lines - 1)
                        cell = min(cell_of_column[x] + corner % 2, columns - 1)
                        gaussians[count], cells[count], weights[count] = rows[i], line * columns + cell, weight
                        count += 1
                slot += 1
    return count


@kernel
def fine_entries(rows, splats, bins, sums, tiles, gaussians, cells, weights):
    """The same from `CellBlocks`."""
    rects, slots = bins.rects, bins.slots
    offsets, blocks, filled, mixed = sums.offsets, sums.blocks, sums.filled, sums.mixed
    edges_x, edges_y, lower_x, lower_y = tiles.x.edges, tiles.y.edges, tiles.x.lower, tiles.y.lower
    columns, lines = tiles.x.cells, tiles.y.cells
    count = 0
    for i in range(rows.shape[0]):
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
                for k in range(offsets[slot], offsets[slot + 1]):
                    weight, index = blocks[k], k - offsets[slot]
                    if weight > np.float32(0):
                        line, cell = (
                            min(cell_y + index // cells_x, lines - 1),
                            min(cell_x + index % cells_x, columns - 1),
                        )
                        gaussians[count], cells[count], weights[count] = rows[i], line * columns + cell, weight
                        count += 1
    return count


@kernel
def multiply(start, stop, ends, indices, weights, values, product):
    """Rows ``start <= r < stop`` of a sparse matrix by rows, ``ends`` [rows + 1], times dense values [M, D]."""
    dimension = values.shape[1]
    flat, rows = values.reshape(-1), product.reshape(-1)
    for row in range(start, stop):
        product[row, :] = np.float32(0)
        add_cells(rows, row * dimension, flat, indices, weights, ends[row], ends[row + 1], dimension)
