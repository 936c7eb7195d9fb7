"""(WᵀU) F, one row of the accumulators at a time."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.kernels import inline, kernel
from feature_gs_ros.rasterizer.constants import BUFFER, FEW_TILES, MEAN_X, MEAN_Y, RADIUS_X, RADIUS_Y
from feature_gs_ros.rasterizer.kernels.cells import block_of


@inline
def add_cells(row, cells, indices, shares, count):
    """row += Σ share · cells[index]; four cells a pass, so that the row is loaded a quarter as often."""
    dimension = row.shape[0]
    k = 0
    while k + 4 <= count:
        f0, f1, f2, f3 = cells[indices[k]], cells[indices[k + 1]], cells[indices[k + 2]], cells[indices[k + 3]]
        w0, w1, w2, w3 = shares[k], shares[k + 1], shares[k + 2], shares[k + 3]
        for d in range(dimension):
            row[d] += (w0 * f0[d] + w1 * f1[d]) + (w2 * f2[d] + w3 * f3[d])
        k += 4
    left = count - k
    if left == 3:
        f0, f1, f2 = cells[indices[k]], cells[indices[k + 1]], cells[indices[k + 2]]
        w0, w1, w2 = shares[k], shares[k + 1], shares[k + 2]
        for d in range(dimension):
            row[d] += (w0 * f0[d] + w1 * f1[d]) + w2 * f2[d]
    elif left == 2:
        f0, f1 = cells[indices[k]], cells[indices[k + 1]]
        w0, w1 = shares[k], shares[k + 1]
        for d in range(dimension):
            row[d] += w0 * f0[d] + w1 * f1[d]
    elif left == 1:
        f0, w0 = cells[indices[k]], shares[k]
        for d in range(dimension):
            row[d] += w0 * f0[d]


@inline
def add_line(row, cells, sums, base, first, columns, indices, shares, count):
    """Queue a line of cells, multiply when the buffer is full; returns the queue's length and the line's weight."""
    total = np.float32(0)
    for cell in range(sums.shape[0]):
        share = sums[cell]
        if share > np.float32(0):
            indices[count], shares[count] = base + min(first + cell, columns - 1), share
            total += share
            count += 1
            if count == BUFFER:
                add_cells(row, cells, indices, shares, count)
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
    start, stop, places, rects, slots, corners, cell_of_column, cell_of_row, columns, lines, cells, numerator, weight
):
    indices, shares = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.float32)
    widest = 0
    for i in range(start, stop):
        widest = max(widest, rects[i, 2])
    # Neighbouring tiles share cells: a line of cells is summed over its tiles before it is multiplied.
    upper_line, lower_line = np.empty(widest + 1, np.float32), np.empty(widest + 1, np.float32)
    for i in range(start, stop):
        left, top, across, down = rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3]
        row = numerator[places[i]]
        if across * down <= FEW_TILES:  # as most are: what tiles share is less than the work of finding it
            rect = (left, top, across)
            count, total = list_corners(
                rect, slots[i], slots[i + 1], corners, cell_of_column, cell_of_row, columns, lines, indices, shares
            )
            if count > 0:
                add_cells(row, cells, indices, shares, count)
                weight[places[i]] += total
            continue
        most = np.float32(0)
        for slot in range(slots[i], slots[i + 1]):
            most = max(most, max(max(corners[slot, 0], corners[slot, 1]), max(corners[slot, 2], corners[slot, 3])))
        if most == np.float32(0):  # hidden, as many are
            continue
        total = np.float32(0)
        count = 0
        slot = slots[i]
        first, line = cell_of_column[left], cell_of_row[top]
        reach = cell_of_column[left + across - 1] - first + 2
        upper, lower = upper_line[:reach], lower_line[:reach]
        upper[:] = np.float32(0)
        lower[:] = np.float32(0)
        for y in range(top, top + down):
            if cell_of_row[y] != line:  # then it is the next one: the line above is complete
                count, added = add_line(row, cells, upper, line * columns, first, columns, indices, shares, count)
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
        count, added = add_line(row, cells, upper, line * columns, first, columns, indices, shares, count)
        total += added
        below = min(line + 1, lines - 1) * columns
        count, added = add_line(row, cells, lower, below, first, columns, indices, shares, count)
        add_cells(row, cells, indices, shares, count)
        weight[places[i]] += total + added


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
    weight,
):
    indices, shares = np.empty(BUFFER, np.int64), np.empty(BUFFER, np.float32)
    for i in range(start, stop):
        row = numerator[places[i]]
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
                            add_cells(row, cells, indices, shares, count)
                            count = 0
                    x += 1
                    if x == cells_x:
                        x = 0
                        base += columns
        add_cells(row, cells, indices, shares, count)
        weight[places[i]] += total
