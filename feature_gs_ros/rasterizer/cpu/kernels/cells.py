"""Wᵀ M U of one view: for each pair, sums of w m U over the cells that its tile touches; free of the channels.

U is separable, U(p, cell) = u_x(cell) u_y(cell): along an axis a pixel mixes the cell ``lower`` with 1 − ``fraction``
and the next one with ``fraction``. All sums are float32, over a pair's rows of pixels in their order.
"""

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
def count_pixels(valid, bounds, counts):
    """m(p) of a tile's lanes."""
    x0, x1, y0, y1 = bounds
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
def corner_sums(start, stop, splats, bins, tiles, valid, corners):
    """`CornerSums` of every pair of the tiles ``start <= t < stop``, into ``corners`` [pairs, 4].

    Σ_p w m times (1−u)(1−v), u (1−v), (1−u) v and u v, where u and v are the fractions of p's column and row: Σ w m and
    Σ w m v by column are all that is summed over rows.

    Args:
        splats, bins, tiles: `Projected.splats`, `Bins` and `Tiles`; no tile crosses a cell's centre.
        valid: m [H, W], or [0, 0] where all pixels count.
    """
    entries, gaussians, pair_slots = bins.entries, bins.gaussians, bins.pair_slots
    fraction_x, fraction_y = tiles.x.fraction, tiles.y.fraction
    # A row more than a tile has, in which no ray is left.
    transmittance, counts = np.zeros(LANES + TILE, np.float32), np.zeros(LANES + TILE, np.float32)
    fractions, across = np.zeros(LANES + TILE, np.float32), np.empty(TILE, np.float32)
    sums, masked = corners.reshape(-1), valid.shape[0] > 0
    for tile in range(start, stop):
        bounds = start_tile(tile, tiles, transmittance)
        count_pixels(valid, bounds, counts)
        x0, x1, y0, y1 = bounds
        for x in range(TILE):
            across[x] = fraction_x[min(x0 + x, x1 - 1)]
        for lane in range(LANES):
            fractions[lane] = fraction_y[min(y0 + lane // TILE, y1 - 1)]
        xs, us = load(CENTRES, 0) + np.float32(x0), load(across, 0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            splat = splat_of(splats, i)
            first, end = pixel_span(splat[1], splats[i, RADIUS_Y], top, bottom)
            left, right = pixel_span(splat[0], splats[i, RADIUS_X], x0, x1)
            index = np.int64(pair_slots[entry]) * 4
            if right - left <= TILE // 2:
                column = min(left - x0, TILE // 2)
                every, low = two_row_sums(splat, x0, column, y0, first, end, transmittance, counts, fractions, masked)
                u = load_rows(across, column, column)
            else:
                every, low = row_sums(splat, xs, y0, first, end, transmittance, counts, fractions, masked)
                u = us
            high = every - low
            store_totals(sums, index, high - high * u, high * u, low - low * u, low * u)
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)
                if top == bottom:
                    for hidden in range(entry + 1, entries[tile + 1]):
                        corners[pair_slots[hidden], :] = ZERO
                    break


@inline
def block_of(mean, radius, first, end, lower, mixed):
    """Pixels [start, stop) of a pair along one axis, its first cell and how many cells its block has there."""
    start, stop = pixel_span(mean, radius, first, end)
    if stop <= start:
        return start, start, 0, 0
    return start, stop, lower[start], lower[stop - 1] - lower[start] + mixed


@kernel
def block_sizes(start, stop, splats, bins, tiles, mixed, offsets):
    """Cells under each splat's footprint in each of its tiles, into ``offsets`` [slot + 1]; summed up by the caller."""
    rects, slots = bins.rects, bins.slots
    edges_x, edges_y, lower_x, lower_y = tiles.x.edges, tiles.y.edges, tiles.x.lower, tiles.y.lower
    for i in range(start, stop):
        slot = slots[i]
        for row in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            _, _, _, cells_y = block_of(
                splats[i, MEAN_Y], splats[i, RADIUS_Y], edges_y[row], edges_y[row + 1], lower_y, mixed
            )
            for column in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                _, _, _, cells_x = block_of(
                    splats[i, MEAN_X], splats[i, RADIUS_X], edges_x[column], edges_x[column + 1], lower_x, mixed
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
    """U along a row of a tile, [pixels, width]: the weight of each pixel in each cell from the tile's first one on."""
    mixing[:] = ZERO
    for x in range(x0, x1):
        cell, u = (x - x0) * width + lower_x[x] - lower_x[x0], fraction_x[x]
        mixing[cell], mixing[cell + 1] = ONE - u, u


@inline
def mix_line(pixels, line, span, mixing, shape, blocks, index):
    """A line of a block: weights of a tile's pixels in ``span``, already mixed across rows, to its cells.

    ``shape``: cells of the block's line, of a row of ``mixing``, and from the tile's first cell to the block's.
    """
    first, end = span
    cells, width, shift = shape
    store(line, 0, pixels)
    for cell in range(0, cells, TILE):
        mixed = broadcast(ZERO)
        for x in range(first, end):
            mixed += load(mixing, x * width + shift + cell) * line[x]
        store_first(blocks, index + cell, mixed, cells - cell)


@inline
def mix_block(weights, y0, rows, span, lower_y, fraction_y, line, mixing, shape, blocks, index):
    """Bilinear: a pair's weights to its block, line by line; each row of pixels mixes two lines of cells."""
    row0, row1 = rows
    near, far = broadcast(ZERO), broadcast(ZERO)
    current = lower_y[row0]
    for y in range(row0, row1):
        while current < lower_y[y]:
            mix_line(near, line, span, mixing, shape, blocks, index)
            near, far = far, broadcast(ZERO)
            current += 1
            index += shape[0]
        weight, v = load(weights, (y - y0) * TILE), fraction_y[y]
        near += weight * (ONE - v)
        far += weight * v
    mix_line(near, line, span, mixing, shape, blocks, index)
    mix_line(far, line, span, mixing, shape, blocks, index + shape[0])


@kernel
def cell_blocks(start, stop, splats, bins, tiles, valid, sums):
    """Fill ``blocks`` and ``filled`` (all False before) of `CellBlocks` for the tiles ``start <= t < stop``.

    Args:
        splats, bins, tiles: `Projected.splats`, `Bins` and `Tiles`.
        valid: m [H, W], or [0, 0] where all pixels count.
        sums: ``offsets`` are those of `block_sizes`, summed up.
    """
    entries, gaussians, pair_slots = bins.entries, bins.gaussians, bins.pair_slots
    lower_x, lower_y, fraction_x, fraction_y = tiles.x.lower, tiles.y.lower, tiles.x.fraction, tiles.y.fraction
    offsets, blocks, filled, mixed = sums.offsets, sums.blocks, sums.filled, sums.mixed
    transmittance, counts = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    weights = np.empty(LANES, np.float32)
    width = mixing_width(tiles.x.edges, lower_x)
    line, mixing = np.empty(TILE, np.float32), np.empty(TILE * width, np.float32)
    for tile in range(start, stop):
        bounds = start_tile(tile, tiles, transmittance)
        count_pixels(valid, bounds, counts)
        x0, x1, y0, y1 = bounds
        fill_mixing(x0, x1, lower_x, fraction_x, width, mixing)
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            mean_x, mean_y, conic, opacity = splat_of(splats, i)
            column0, column1, _, cells_x = block_of(mean_x, splats[i, RADIUS_X], x0, x1, lower_x, mixed)
            row0, row1, _, cells_y = block_of(mean_y, splats[i, RADIUS_Y], y0, y1, lower_y, mixed)
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
                if mixed == 2:
                    shape = (cells_x, width, lower_x[column0] - lower_x[x0])
                    rows, span = (row0, row1), (column0 - x0, column1 - x0)
                    mix_block(weights, y0, rows, span, lower_y, fraction_y, line, mixing, shape, blocks, offsets[slot])
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
