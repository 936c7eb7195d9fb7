"""(Wᵀ M U) F where a tile lies between 2×2 cells: lists of cells first, then rows of the accumulators.

numerator_i += Σ_cell (Wᵀ M U)_i,cell F_cell, float32. A list is three arrays: where each owner's row begins in the flat
accumulators, and its cells (where each begins in the flat features) with their weights, as many per owner.

A list holds Gaussians that mix as many cells, so that neither half has a branch which the processor can't predict:
four cells of one tile, six of two neighbouring tiles, nine of 2×2. What more tiles mix is cut into fours.
"""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import load, prefetch, store
from feature_gs_ros.rasterizer.cpu.constants import ROW_PREFETCH, SLOTS_AT_ONCE, TILE

ZERO = np.float32(0)


@inline
def list_one(cells, weights, k, x, y, corners, slot):
    """Cells 2×2 of a tile and their weights, from index k of a list on; returns Σ w."""
    w0, w1, w2, w3 = corners[slot, 0], corners[slot, 1], corners[slot, 2], corners[slot, 3]
    cells[k], cells[k + 1], cells[k + 2], cells[k + 3] = y[0] + x[0], y[0] + x[1], y[1] + x[0], y[1] + x[1]
    weights[k], weights[k + 1], weights[k + 2], weights[k + 3] = w0, w1, w2, w3
    return (w0 + w1) + (w2 + w3)


@inline
def list_beside(cells, weights, k, x, y, corners, slot):
    """The same of the 3×2 cells of two tiles side by side."""
    a, b = slot, slot + 1
    w0, w1, w2 = corners[a, 0], corners[a, 1] + corners[b, 0], corners[b, 1]
    w3, w4, w5 = corners[a, 2], corners[a, 3] + corners[b, 2], corners[b, 3]
    cells[k], cells[k + 1], cells[k + 2] = y[0] + x[0], y[0] + x[1], y[0] + x[2]
    cells[k + 3], cells[k + 4], cells[k + 5] = y[1] + x[0], y[1] + x[1], y[1] + x[2]
    weights[k], weights[k + 1], weights[k + 2], weights[k + 3], weights[k + 4], weights[k + 5] = w0, w1, w2, w3, w4, w5
    return ((w0 + w1) + (w2 + w3)) + (w4 + w5)


@inline
def list_below(cells, weights, k, x, y, corners, slot):
    """The same of the 2×3 cells of two tiles, one below the other."""
    a, b = slot, slot + 1
    w0, w1, w2, w3 = corners[a, 0], corners[a, 1], corners[a, 2] + corners[b, 0], corners[a, 3] + corners[b, 1]
    w4, w5 = corners[b, 2], corners[b, 3]
    cells[k], cells[k + 1], cells[k + 2] = y[0] + x[0], y[0] + x[1], y[1] + x[0]
    cells[k + 3], cells[k + 4], cells[k + 5] = y[1] + x[1], y[2] + x[0], y[2] + x[1]
    weights[k], weights[k + 1], weights[k + 2], weights[k + 3], weights[k + 4], weights[k + 5] = w0, w1, w2, w3, w4, w5
    return ((w0 + w1) + (w2 + w3)) + (w4 + w5)


@inline
def list_square(cells, weights, k, x, y, corners, slot):
    """The same of the 3×3 cells of 2×2 tiles."""
    a, b, c, d = slot, slot + 1, slot + 2, slot + 3
    w0, w1, w2 = corners[a, 0], corners[a, 1] + corners[b, 0], corners[b, 1]
    w3, w5 = corners[a, 2] + corners[c, 0], corners[b, 3] + corners[d, 1]
    w4 = (corners[a, 3] + corners[b, 2]) + (corners[c, 1] + corners[d, 0])
    w6, w7, w8 = corners[c, 2], corners[c, 3] + corners[d, 2], corners[d, 3]
    cells[k], cells[k + 1], cells[k + 2] = y[0] + x[0], y[0] + x[1], y[0] + x[2]
    cells[k + 3], cells[k + 4], cells[k + 5] = y[1] + x[0], y[1] + x[1], y[1] + x[2]
    cells[k + 6], cells[k + 7], cells[k + 8] = y[2] + x[0], y[2] + x[1], y[2] + x[2]
    weights[k], weights[k + 1], weights[k + 2], weights[k + 3], weights[k + 4] = w0, w1, w2, w3, w4
    weights[k + 5], weights[k + 6], weights[k + 7], weights[k + 8] = w5, w6, w7, w8
    return (((w0 + w1) + (w2 + w3)) + ((w4 + w5) + (w6 + w7))) + w8


@inline
def list_line(cells, weights, k, line, first, several, stride, columns, sums):
    """Those of a line of cells that have weight; returns the list's new end and the line's weight."""
    total = ZERO
    for cell in range(several):
        if sums[cell] > ZERO:
            cells[k], weights[k] = line * stride * columns + min(first + cell, columns - 1) * stride, sums[cell]
            total += sums[cell]
            k += 1
    return k, total


@inline
def list_many(cells, weights, fours, rect, tile_cells, stride, size, corners, slot, lines_of_cells):
    """Fours of any rectangle of tiles, a line of cells summed over its tiles first; returns their end and Σ w."""
    left, top, across, down = rect
    cell_of_column, cell_of_row = tile_cells
    columns, lines = size
    upper, lower = lines_of_cells
    first, line, k = np.int64(cell_of_column[left]), np.int64(cell_of_row[top]), 4 * fours
    several = cell_of_column[left + across - 1] - first + 2
    for cell in range(several):
        upper[cell], lower[cell] = ZERO, ZERO
    total = ZERO
    for y in range(top, top + down):
        if cell_of_row[y] != line:  # then it is the next one: the line above is complete
            k, added = list_line(cells, weights, k, line, first, several, stride, columns, upper)
            total += added
            line = np.int64(cell_of_row[y])
            for cell in range(several):
                upper[cell], lower[cell] = lower[cell], ZERO
        for x in range(left, left + across):
            cell = cell_of_column[x] - first
            upper[cell] += corners[slot, 0]
            upper[cell + 1] += corners[slot, 1]
            lower[cell] += corners[slot, 2]
            lower[cell + 1] += corners[slot, 3]
            slot += 1
    k, added = list_line(cells, weights, k, line, first, several, stride, columns, upper)
    total += added
    k, added = list_line(cells, weights, k, min(line + 1, lines - 1), first, several, stride, columns, lower)
    while k % 4 > 0:  # filled up with nothing of a cell that counts anyway
        cells[k], weights[k] = cells[4 * fours], ZERO
        k += 1
    return k // 4, total + added


@inline
def add_fours(count, lists, values, rows, dimension):
    """rows[owner : owner + D] += Σ weight · values[cell : cell + D], four cells per owner; indices of flat arrays.

    The row of a later owner is prefetched: they lie all over a memory that no cache holds.
    """
    owners, cells, weights = lists
    whole = dimension - dimension % TILE
    for k in range(count):
        row, ahead, i = owners[k], owners[min(k + ROW_PREFETCH, count - 1)], 4 * k
        c0, c1, c2, c3 = cells[i], cells[i + 1], cells[i + 2], cells[i + 3]
        w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for d in range(0, whole, TILE):
            prefetch(rows, ahead + d)
            near = load(values, c0 + d) * w0 + load(values, c1 + d) * w1
            far = load(values, c2 + d) * w2 + load(values, c3 + d) * w3
            store(rows, row + d, load(rows, row + d) + (near + far))
        for d in range(whole, dimension):
            near, far = values[c0 + d] * w0 + values[c1 + d] * w1, values[c2 + d] * w2 + values[c3 + d] * w3
            rows[row + d] += near + far


@inline
def add_sixes(count, lists, values, rows, dimension):
    """The same of six cells per owner."""
    owners, cells, weights = lists
    whole = dimension - dimension % TILE
    for k in range(count):
        row, ahead, i = owners[k], owners[min(k + ROW_PREFETCH, count - 1)], 6 * k
        c0, c1, c2, c3, c4, c5 = cells[i], cells[i + 1], cells[i + 2], cells[i + 3], cells[i + 4], cells[i + 5]
        w0, w1, w2, w3, w4, w5 = (
            weights[i],
            weights[i + 1],
            weights[i + 2],
            weights[i + 3],
            weights[i + 4],
            weights[i + 5],
        )
        for d in range(0, whole, TILE):
            prefetch(rows, ahead + d)
            near = load(values, c0 + d) * w0 + load(values, c1 + d) * w1 + load(values, c2 + d) * w2
            far = load(values, c3 + d) * w3 + load(values, c4 + d) * w4 + load(values, c5 + d) * w5
            store(rows, row + d, load(rows, row + d) + (near + far))
        for d in range(whole, dimension):
            near = values[c0 + d] * w0 + values[c1 + d] * w1 + values[c2 + d] * w2
            far = values[c3 + d] * w3 + values[c4 + d] * w4 + values[c5 + d] * w5
            rows[row + d] += near + far


@inline
def add_nines(count, lists, values, rows, dimension):
    """The same of nine cells per owner."""
    owners, cells, weights = lists
    whole = dimension - dimension % TILE
    for k in range(count):
        row, ahead, i = owners[k], owners[min(k + ROW_PREFETCH, count - 1)], 9 * k
        c0, c1, c2, c3, c4 = cells[i], cells[i + 1], cells[i + 2], cells[i + 3], cells[i + 4]
        c5, c6, c7, c8 = cells[i + 5], cells[i + 6], cells[i + 7], cells[i + 8]
        w0, w1, w2, w3, w4 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3], weights[i + 4]
        w5, w6, w7, w8 = weights[i + 5], weights[i + 6], weights[i + 7], weights[i + 8]
        for d in range(0, whole, TILE):
            prefetch(rows, ahead + d)
            near = load(values, c0 + d) * w0 + load(values, c1 + d) * w1 + load(values, c2 + d) * w2
            middle = load(values, c3 + d) * w3 + load(values, c4 + d) * w4 + load(values, c5 + d) * w5
            far = load(values, c6 + d) * w6 + load(values, c7 + d) * w7 + load(values, c8 + d) * w8
            store(rows, row + d, load(rows, row + d) + ((near + middle) + far))
        for d in range(whole, dimension):
            near = values[c0 + d] * w0 + values[c1 + d] * w1 + values[c2 + d] * w2
            middle = values[c3 + d] * w3 + values[c4 + d] * w4 + values[c5 + d] * w5
            far = values[c6 + d] * w6 + values[c7 + d] * w7 + values[c8 + d] * w8
            rows[row + d] += (near + middle) + far


@inline
def empty_list(owners, cells):
    """Room for a list of that many owners and cells per owner."""
    return np.empty(owners, np.int64), np.empty(owners * cells, np.int64), np.empty(owners * cells, np.float32)


@inline
def listed_end(start, stop, slots):
    """The end of the splats from ``start`` on that are listed at once."""
    end = start + 1
    while end < stop and slots[end + 1] - slots[start] <= SLOTS_AT_ONCE:
        end += 1
    return end


@inline
def neighbours(first, stride, count):
    """Where a cell and the next two along an axis begin; beyond the last one, whose weights are 0, it once more."""
    cell = np.int64(first)
    return cell * stride, min(cell + 1, count - 1) * stride, min(cell + 2, count - 1) * stride


@inline
def list_gaussians(start, stop, indices, sums, tiles, dimension, lists, lines_of_cells, totals):
    """Fill the lists with those of [start, stop) that have weight; returns how many owners each list has.

    ``lists``: of owners of four, six and nine cells. ``lines_of_cells``: two arrays of a line's length.
    """
    rects, slots, corners = sums.rects, sums.slots, sums.corners
    tile_cells, size = (tiles.x.first_cells, tiles.y.first_cells), (tiles.x.cells, tiles.y.cells)
    cell_of_column, cell_of_row = tile_cells
    columns, lines = size
    (owners4, cells4, weights4), (owners6, cells6, weights6), (owners9, cells9, weights9) = lists
    count4, count6, count9 = 0, 0, 0
    for i in range(start, stop):
        left, top, across, down = rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3]
        owner, slot, total = indices[i] * dimension, slots[i], ZERO
        x = neighbours(cell_of_column[left], dimension, columns)
        y = neighbours(cell_of_row[top], columns * dimension, lines)
        # Tiles beside each other have a column of cells in common, unless both lie between the same two.
        beside = (across == 2) & (cell_of_column[left + across - 1] > cell_of_column[left])
        below = (down == 2) & (cell_of_row[top + down - 1] > cell_of_row[top])
        if across == 1 and down == 1:
            total = list_one(cells4, weights4, 4 * count4, x, y, corners, slot)
            owners4[count4] = owner
            count4 += 1 if total > ZERO else 0
        elif beside and down == 1:
            total = list_beside(cells6, weights6, 6 * count6, x, y, corners, slot)
            owners6[count6] = owner
            count6 += 1 if total > ZERO else 0
        elif below and across == 1:
            total = list_below(cells6, weights6, 6 * count6, x, y, corners, slot)
            owners6[count6] = owner
            count6 += 1 if total > ZERO else 0
        elif beside and below:
            total = list_square(cells9, weights9, 9 * count9, x, y, corners, slot)
            owners9[count9] = owner
            count9 += 1 if total > ZERO else 0
        elif across * down > 0:
            rect, first = (left, top, across, down), count4
            count4, total = list_many(
                cells4, weights4, count4, rect, tile_cells, dimension, size, corners, slot, lines_of_cells
            )
            owners4[first:count4] = owner
        totals[i] += total
    return count4, count6, count9


@kernel
def add_coarse(start, stop, indices, sums, tiles, cells, numerator, totals):
    """Add the cells' features to the rows of the splats ``start <= i < stop``, and their Wᵀ m to ``totals`` [V].

    Args:
        indices: [V] each splat's row of ``numerator`` [N, D].
        sums, tiles: `CornerSums`, and how cells cover the image.
        cells: F [rows · columns, D], row by row.
    """
    dimension, columns = cells.shape[1], tiles.x.cells
    values, rows = cells.reshape(-1), numerator.reshape(-1)
    tile_count = tiles.x.first_cells.shape[0] * tiles.y.first_cells.shape[0]
    fours = empty_list(max(SLOTS_AT_ONCE, tile_count), 4)
    sixes, nines = empty_list(SLOTS_AT_ONCE // 2, 6), empty_list(SLOTS_AT_ONCE // 4, 9)
    lines_of_cells = np.empty(columns + 1, np.float32), np.empty(columns + 1, np.float32)
    first = start
    while first < stop:
        end = listed_end(first, stop, sums.slots)
        count4, count6, count9 = list_gaussians(
            first, end, indices, sums, tiles, dimension, (fours, sixes, nines), lines_of_cells, totals
        )
        add_fours(count4, fours, values, rows, dimension)
        add_sixes(count6, sixes, values, rows, dimension)
        add_nines(count9, nines, values, rows, dimension)
        first = end
