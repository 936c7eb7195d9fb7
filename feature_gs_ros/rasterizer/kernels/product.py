"""(WᵀU) F, one row of the accumulators at a time."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.kernels import inline, kernel
from feature_gs_ros.rasterizer.constants import BUFFER, FEW_TILES, MEAN_X, MEAN_Y, RADIUS_X, RADIUS_Y, TILE
from feature_gs_ros.rasterizer.kernels.cells import block_of
from feature_gs_ros.vectors import load, store


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


@inline
def add_line(target, sums, base, first, columns, indices, shares, count):
    """Queue a line of cells, multiply when the buffer is full; returns the queue's length and the line's weight."""
    rows, row, cells, dimension = target
    total = np.float32(0)
    for cell in range(sums.shape[0]):
        share = sums[cell]
        if share > np.float32(0):
            indices[count], shares[count] = base + min(first + cell, columns - 1), share
            total += share
            count += 1
            if count == BUFFER:
                add_cells(rows, row, cells, indices, shares, 0, count, dimension)
                count = 0
    return count, total


@inline
def list_corners(rect, first, end, corners, cell_of_column, cell_of_row, columns, lines, indices, shares):
    """Queue the four cells of each of a Gaussian's tiles that have weight; returns the queue's length and the weight.

    One loop over the slots, and no branch: most Gaussians touch one to four tiles, in no pattern to predict.
    """
    left, top, across = rect
    count, total, x, y = 0, np.float32(0), left, top
    for slot in range(first, end):
        upper, lower = cell_of_row[y] * columns, min(cell_of_row[y] + 1, lines - 1) * columns
        cell, next_cell = cell_of_column[x], min(cell_of_column[x] + 1, columns - 1)
        s0, s1, s2, s3 = corners[slot, 0], corners[slot, 1], corners[slot, 2], corners[slot, 3]
        indices[count], indices[count + 1] = upper + cell, upper + next_cell
        indices[count + 2], indices[count + 3] = lower + cell, lower + next_cell
        shares[count], shares[count + 1], shares[count + 2], shares[count + 3] = s0, s1, s2, s3
        added = (s0 + s1) + (s2 + s3)
        total += added
        count += 4 if added > np.float32(0) else 0
        x += 1
        y, x = (y + 1, left) if x == left + across else (y, x)
    return count, total


@kernel
def add_coarse(
    start, stop, places, rects, slots, corners, cell_of_column, cell_of_row, columns, lines, cells, numerator, totals
):
    indices, shares = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.float32)
    dimension = cells.shape[1]
    values, rows = cells.reshape(-1), numerator.reshape(-1)
    widest = 0
    for i in range(start, stop):
        widest = max(widest, rects[i, 2])
    # Neighbouring tiles share cells: a line of cells is summed over its tiles before it is multiplied.
    upper_line, lower_line = np.empty(widest + 1, np.float32), np.empty(widest + 1, np.float32)
    for i in range(start, stop):
        left, top, across, down = rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3]
        row = places[i] * dimension
        if across * down <= FEW_TILES:  # as most are: what tiles share is less than the work of finding it
            rect = (left, top, across)
            count, total = list_corners(
                rect, slots[i], slots[i + 1], corners, cell_of_column, cell_of_row, columns, lines, indices, shares
            )
            if count > 0:
                add_cells(rows, row, values, indices, shares, 0, count, dimension)
                totals[i] += total
            continue
        most = np.float32(0)
        for slot in range(slots[i], slots[i + 1]):
            most = max(most, max(max(corners[slot, 0], corners[slot, 1]), max(corners[slot, 2], corners[slot, 3])))
        if most == np.float32(0):  # hidden, as many are
            continue
        total = np.float32(0)
        target = (rows, row, values, dimension)
        count = 0
        slot = slots[i]
        first, line = cell_of_column[left], cell_of_row[top]
        reach = cell_of_column[left + across - 1] - first + 2
        upper, lower = upper_line[:reach], lower_line[:reach]
        upper[:] = np.float32(0)
        lower[:] = np.float32(0)
        for y in range(top, top + down):
            if cell_of_row[y] != line:  # then it is the next one: the line above is complete
                count, added = add_line(target, upper, line * columns, first, columns, indices, shares, count)
                total += added
                line = cell_of_row[y]
                upper[:] = lower
                lower[:] = np.float32(0)
            for x in range(left, left + across):
                cell = cell_of_column[x] - first
                upper[cell] += corners[slot, 0]
                upper[cell + 1] += corners[slot, 1]
                lower[cell] += corners[slot, 2]
                lower[cell + 1] += corners[slot, 3]
                slot += 1
        count, added = add_line(target, upper, line * columns, first, columns, indices, shares, count)
        total += added
        below = min(line + 1, lines - 1) * columns
        count, added = add_line(target, lower, below, first, columns, indices, shares, count)
        add_cells(rows, row, values, indices, shares, 0, count, dimension)
        totals[i] += total + added


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
