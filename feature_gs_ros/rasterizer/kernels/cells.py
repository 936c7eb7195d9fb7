"""Wᵀ U of one view: sums of weights over the cells that a tile touches."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.kernels import inline, kernel
from feature_gs_ros.rasterizer.constants import (
    CHECK_EVERY,
    CONIC_A,
    CONIC_B,
    CONIC_C,
    LANES,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RADIUS_X,
    RADIUS_Y,
    TILE,
)
from feature_gs_ros.rasterizer.kernels.alpha import all_ended, alpha_at, open_rows, start_tile, weight_of
from feature_gs_ros.rasterizer.kernels.binning import pixel_span


@kernel
def corner_sums(
    start, stop, splats, entries, gaussians, pair_slots, edges_x, edges_y, fraction_x, fraction_y, valid, corners
):
    pixel_x, pixel_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    share_x, share_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    transmittance, counts = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, pixel_x, pixel_y, transmittance)
        for lane in range(LANES):
            x, y = min(x0 + lane % TILE, x1 - 1), min(y0 + lane // TILE, y1 - 1)
            share_x[lane], share_y[lane] = fraction_x[x], fraction_y[y]
            counts[lane] = valid[y, x] if valid.shape[0] > 0 else np.float32(1)
        top, bottom = 0, y1 - y0
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussians[entry]
            mean_x, mean_y = splats[i, MEAN_X], splats[i, MEAN_Y]
            a, b, c, opacity = splats[i, CONIC_A], splats[i, CONIC_B], splats[i, CONIC_C], splats[i, OPACITY]
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], y0 + top, y0 + bottom)
            first = (row0 - y0) * TILE
            lanes = max(0, (row1 - row0) * TILE)
            rays, xs, ys = (
                transmittance[first : first + lanes],
                pixel_x[first : first + lanes],
                pixel_y[first : first + lanes],
            )
            us, vs, ms = share_x[first : first + lanes], share_y[first : first + lanes], counts[first : first + lanes]
            whole = right = lower = both = np.float32(0)
            for lane in range(lanes):
                alpha = alpha_at(xs[lane] - mean_x, ys[lane] - mean_y, a, b, c, opacity)
                weight, rays[lane] = weight_of(alpha, rays[lane])
                weight *= ms[lane]
                whole += weight
                right += weight * us[lane]
                lower += weight * vs[lane]
                both += weight * us[lane] * vs[lane]
            slot = pair_slots[entry]
            corners[slot, 0], corners[slot, 1] = whole - right - lower + both, right - both
            corners[slot, 2], corners[slot, 3] = lower - both, both
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, top, bottom)
                if top == bottom:
                    for hidden in range(entry + 1, entries[tile + 1]):
                        corners[pair_slots[hidden], :] = np.float32(0)
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
    pixel_x, pixel_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    transmittance, counts = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    weights = np.empty(LANES, np.float32)
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, pixel_x, pixel_y, transmittance)
        for lane in range(LANES):
            x, y = min(x0 + lane % TILE, x1 - 1), min(y0 + lane // TILE, y1 - 1)
            counts[lane] = valid[y, x] if valid.shape[0] > 0 else np.float32(1)
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussians[entry]
            mean_x, mean_y = splats[i, MEAN_X], splats[i, MEAN_Y]
            a, b, c, opacity = splats[i, CONIC_A], splats[i, CONIC_B], splats[i, CONIC_C], splats[i, OPACITY]
            column0, column1, cell_x, cells_x = block_of(mean_x, splats[i, RADIUS_X], x0, x1, lower_x, reach)
            row0, row1, cell_y, cells_y = block_of(mean_y, splats[i, RADIUS_Y], y0, y1, lower_y, reach)
            if cells_x * cells_y == 0:
                continue
            first, lanes = (row0 - y0) * TILE, (row1 - row0) * TILE
            rays, xs, ys = (
                transmittance[first : first + lanes],
                pixel_x[first : first + lanes],
                pixel_y[first : first + lanes],
            )
            ms = counts[first : first + lanes]
            total = np.float32(0)
            for lane in range(lanes):
                alpha = alpha_at(xs[lane] - mean_x, ys[lane] - mean_y, a, b, c, opacity)
                weight, rays[lane] = weight_of(alpha, rays[lane])
                weights[lane] = weight * ms[lane]
                total += weights[lane]
            if total > np.float32(0):
                slot = pair_slots[entry]
                filled[slot] = True
                block = blocks[offsets[slot] : offsets[slot + 1]].reshape((cells_y, cells_x))
                block[:] = np.float32(0)
                for row in range(row0, row1):
                    v, line = fraction_y[row], lower_y[row] - cell_y
                    for column in range(column0, column1):
                        weight = weights[(row - row0) * TILE + column - x0]
                        u, cell = fraction_x[column], lower_x[column] - cell_x
                        if reach == 1:
                            block[line, cell] += weight
                            continue
                        block[line, cell] += weight * (np.float32(1) - u) * (np.float32(1) - v)
                        block[line, cell + 1] += weight * u * (np.float32(1) - v)
                        block[line + 1, cell] += weight * (np.float32(1) - u) * v
                        block[line + 1, cell + 1] += weight * u * v
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1 and all_ended(transmittance):
                break
