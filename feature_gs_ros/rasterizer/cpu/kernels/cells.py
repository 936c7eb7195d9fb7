"""Wᵀ U of one view: sums of weights over the cells that a tile touches."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import broadcast, load, load_rows, store, store_first, store_rows, store_totals, total
from feature_gs_ros.rasterizer.cpu.constants import CHECK_EVERY, LANES, MEAN_X, MEAN_Y, RADIUS_X, RADIUS_Y, TILE
from feature_gs_ros.rasterizer.cpu.kernels.alpha import (
    CENTRES,
    along_row,
    alpha_of,
    composite,
    gaussian_at,
    open_rows,
    row_weights,
    splat_of,
    start_tile,
)
from feature_gs_ros.rasterizer.cpu.kernels.binning import pixel_span

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
ROW = np.repeat(np.array([0, 1], np.float32), TILE // 2)  # which of two rows a lane is of


@inline
def count_pixels(valid, x0, x1, y0, y1, counts):
    """m(p) of a tile's lanes."""
    for lane in range(LANES):
        x, y = min(x0 + lane % TILE, x1 - 1), min(y0 + lane // TILE, y1 - 1)
        counts[lane] = valid[y, x] if valid.shape[0] > 0 else ONE


@inline
def row_sums(splat, xs, y0, first, end, transmittance, counts, fractions, masked):
    """Σ w and Σ w v of a pair, by lanes: one row of sixteen pixels at a time."""
    mean_x, mean_y, conic, opacity = splat
    along, every, low = along_row(xs - mean_x, conic), broadcast(ZERO), broadcast(ZERO)
    for y in range(first, end):
        lane = (y - y0) * TILE
        weight, _ = row_weights(np.float32(y) + HALF - mean_y, along, conic, opacity, transmittance, lane)
        if masked:
            weight *= load(counts, lane)
        every += weight
        low += weight * load(fractions, lane)
    return every, low


@inline
def two_row_sums(splat, x0, column, y0, first, end, transmittance, counts, fractions, masked):
    """The same of a pair whose pixels lie in the eight columns from ``column`` on: two rows at a time.

    Where the number of rows is odd, the last one lies outside the Gaussian's footprint or below the tile.
    """
    mean_x, mean_y, conic, opacity = splat
    xs = load_rows(CENTRES, column, column) + (np.float32(x0) - mean_x)
    along, every, low = along_row(xs, conic), broadcast(ZERO), broadcast(ZERO)
    lane = (first - y0) * TILE + column
    for y in range(first, end, 2):
        alpha = alpha_of(load(ROW, 0) + (np.float32(y) + HALF - mean_y), along, conic, opacity)
        weight, left = composite(alpha, load_rows(transmittance, lane, lane + TILE))
        store_rows(transmittance, lane, lane + TILE, left)
        if masked:
            weight *= load_rows(counts, lane, lane + TILE)
        every += weight
        low += weight * load_rows(fractions, lane, lane + TILE)
        lane += 2 * TILE
    return every, low


@kernel
def corner_sums(
    start, stop, splats, entries, gaussians, pair_slots, edges_x, edges_y, fraction_x, fraction_y, valid, corners
):
    """Σ_p w(p) m(p) times the bilinear weight of each of a tile's 2×2 cells, for every pair of a range of tiles."""
    # A row more than a tile has, in which no ray is left.
    transmittance, counts = np.zeros(LANES + TILE, np.float32), np.zeros(LANES + TILE, np.float32)
    fractions, shares = np.zeros(LANES + TILE, np.float32), np.empty(TILE, np.float32)
    sums, masked = corners.reshape(-1), valid.shape[0] > 0
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, transmittance)
        count_pixels(valid, x0, x1, y0, y1, counts)
        for x in range(TILE):
            shares[x] = fraction_x[min(x0 + x, x1 - 1)]
        for lane in range(LANES):
            fractions[lane] = fraction_y[min(y0 + lane // TILE, y1 - 1)]
        xs, us = load(CENTRES, 0) + np.float32(x0), load(shares, 0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            splat = splat_of(splats, i)
            first, end = pixel_span(splat[1], splats[i, RADIUS_Y], top, bottom)
            left, right = pixel_span(splat[0], splats[i, RADIUS_X], x0, x1)
            place = np.int64(pair_slots[entry]) * 4
            if right - left <= TILE // 2:
                column = min(left - x0, TILE // 2)
                every, low = two_row_sums(splat, x0, column, y0, first, end, transmittance, counts, fractions, masked)
                u = load_rows(shares, column, column)
            else:
                every, low = row_sums(splat, xs, y0, first, end, transmittance, counts, fractions, masked)
                u = us
            high = every - low
            store_totals(sums, place, high - high * u, high * u, low - low * u, low * u)
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)
                if top == bottom:
                    for hidden in range(entry + 1, entries[tile + 1]):
                        corners[pair_slots[hidden], :] = ZERO
                    break


@inline
def block_of(mean, radius, first, end, lower, reach):
    """Pixels [start, stop) of a pair along one axis, its first cell and how many cells its block has there.

    ``reach`` is the cells that one pixel mixes: 2, or 1 where every pixel's centre is on a cell's.
    """
    start, stop = pixel_span(mean, radius, first, end)
    if stop <= start:
        return start, start, 0, 0
    return start, stop, lower[start], lower[stop - 1] - lower[start] + reach


@kernel
def block_sizes(start, stop, splats, rects, slots, reach, edges_x, edges_y, lower_x, lower_y, offsets):
    """Cells under each Gaussian's box in each of its tiles, into ``offsets`` [slot + 1]; summed up by the caller."""
    for i in range(start, stop):
        slot = slots[i]
        for row in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            _, _, _, cells_y = block_of(
                splats[i, MEAN_Y], splats[i, RADIUS_Y], edges_y[row], edges_y[row + 1], lower_y, reach
            )
            for column in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                _, _, _, cells_x = block_of(
                    splats[i, MEAN_X], splats[i, RADIUS_X], edges_x[column], edges_x[column + 1], lower_x, reach
                )
                offsets[slot + 1] = cells_x * cells_y
                slot += 1


@inline
def mixing_width(edges, lower):
    """Cells that a tile's pixels touch along one axis at most, and room to load a vector from any of them on."""
    widest = 0
    for tile in range(edges.shape[0] - 1):
        widest = max(widest, lower[edges[tile + 1] - 1] - lower[edges[tile]])
    return widest + 2 + TILE


@inline
def fill_mixing(x0, x1, lower_x, fraction_x, width, mixing):
    """U along a row of a tile, [pixels, width]: the share of each pixel in each cell from the tile's first one on."""
    mixing[:] = ZERO
    for x in range(x0, x1):
        cell, u = (x - x0) * width + lower_x[x] - lower_x[x0], fraction_x[x]
        mixing[cell], mixing[cell + 1] = ONE - u, u


@inline
def mix_line(pixels, line, first, end, mixing, width, shift, blocks, place, cells):
    """A line of a block: weights of a tile's pixels [first, end), already mixed across rows, to its cells."""
    store(line, 0, pixels)
    for cell in range(0, cells, TILE):
        mixed = broadcast(ZERO)
        for x in range(first, end):
            mixed += load(mixing, x * width + shift + cell) * line[x]
        store_first(blocks, place + cell, mixed, cells - cell)


@inline
def mix_block(weights, y0, span_y, span_x, lower_y, fraction_y, line, mixing, width, shift, blocks, place, cells):
    """Bilinear: a pair's weights to its block, line by line; each row of pixels mixes two lines of cells."""
    row0, row1 = span_y
    first, end = span_x
    near, far = broadcast(ZERO), broadcast(ZERO)
    current = lower_y[row0]
    for y in range(row0, row1):
        while current < lower_y[y]:
            mix_line(near, line, first, end, mixing, width, shift, blocks, place, cells)
            near, far = far, broadcast(ZERO)
            current += 1
            place += cells
        weight, v = load(weights, (y - y0) * TILE), fraction_y[y]
        near += weight * (ONE - v)
        far += weight * v
    mix_line(near, line, first, end, mixing, width, shift, blocks, place, cells)
    mix_line(far, line, first, end, mixing, width, shift, blocks, place + cells, cells)


@kernel
def cell_blocks(
    start,
    stop,
    splats,
    entries,
    gaussians,
    pair_slots,
    offsets,
    reach,
    edges_x,
    edges_y,
    lower_x,
    lower_y,
    fraction_x,
    fraction_y,
    valid,
    blocks,
    filled,
):
    """Σ_p w(p) m(p) U(p, cell) of every cell of a pair's block, for the pairs of the tiles ``start <= t < stop``."""
    transmittance, counts = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    weights = np.empty(LANES, np.float32)
    width = mixing_width(edges_x, lower_x)
    line, mixing = np.empty(TILE, np.float32), np.empty(TILE * width, np.float32)
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, transmittance)
        count_pixels(valid, x0, x1, y0, y1, counts)
        fill_mixing(x0, x1, lower_x, fraction_x, width, mixing)
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            mean_x, mean_y, conic, opacity = splat_of(splats, i)
            column0, column1, _, cells_x = block_of(mean_x, splats[i, RADIUS_X], x0, x1, lower_x, reach)
            row0, row1, _, cells_y = block_of(mean_y, splats[i, RADIUS_Y], y0, y1, lower_y, reach)
            if cells_x * cells_y == 0:
                continue
            along, every = along_row(xs - mean_x, conic), broadcast(ZERO)
            for y in range(row0, row1):
                lane = (y - y0) * TILE
                weight, _ = row_weights(np.float32(y) + HALF - mean_y, along, conic, opacity, transmittance, lane)
                weight *= load(counts, lane)
                store(weights, lane, weight)
                every += weight
            if total(every) > ZERO:
                slot = pair_slots[entry]
                filled[slot] = True
                if reach == 2:
                    shift = lower_x[column0] - lower_x[x0]
                    mix_block(
                        weights, y0, (row0, row1), (column0 - x0, column1 - x0), lower_y, fraction_y,
                        line, mixing, width, shift, blocks, offsets[slot], cells_x,
                    )  # fmt: skip
                else:
                    block = blocks[offsets[slot] : offsets[slot + 1]].reshape((cells_y, cells_x))
                    block[:] = ZERO
                    first = (row0 - y0) * TILE + column0 - x0
                    for row in range(row0, row1):
                        cells = block[lower_y[row] - lower_y[row0]]
                        for column in range(column0, column1):
                            weight = weights[first + (row - row0) * TILE + column - column0]
                            cells[lower_x[column] - lower_x[column0]] += weight
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)
                if top == bottom:
                    break
