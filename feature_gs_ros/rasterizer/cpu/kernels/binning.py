"""Pairs of a tile and a splat that may touch it: counted, then written by tile, front to back.

A splat may touch the tiles under its footprint, mean ± half width and height. Integers only, but for the footprint.
"""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import prefetch
from feature_gs_ros.rasterizer.cpu.constants import FAR_PREFETCH, MEAN_X, MEAN_Y, RADIUS_X, RADIUS_Y


@inline
def pixel_span(mean, radius, first, end):
    """First pixel and end of those in [first, end) whose centres lie within ``radius`` of ``mean``."""
    start = max(first, int(np.ceil(max(mean - radius, np.float32(-1e6)) - np.float32(0.5))))
    stop = min(end, int(np.floor(min(mean + radius, np.float32(1e6)) - np.float32(0.5))) + 1)
    return start, stop


@inline
def next_tile(tile, x, across, tile_columns):
    """The tile after this one in a rectangle ``across`` tiles wide: one loop mispredicts less than two nested ones."""
    ends = x + 1 == across
    return tile + 1 + (tile_columns - across if ends else 0), (0 if ends else x + 1)


@kernel
def tile_rects(start, stop, splats, tiles, first_row, last_row, rects, sizes):
    """Rectangle of tiles that each of the splats ``start <= i < stop`` may touch, in tile rows [first_row, last_row).

    Into ``rects`` [V, 4], and how many tiles that is into ``sizes`` [V + 1] at i + 1.
    """
    tile_of_x, tile_of_y = tiles.x.tile_of, tiles.y.tile_of
    width, height = tile_of_x.shape[0], tile_of_y.shape[0]
    for i in range(start, stop):
        x0, x1 = pixel_span(splats[i, MEAN_X], splats[i, RADIUS_X], 0, width)
        y0, y1 = pixel_span(splats[i, MEAN_Y], splats[i, RADIUS_Y], 0, height)
        columns = rows = left = top = 0
        if x1 > x0 and y1 > y0:
            left, top = tile_of_x[x0], max(tile_of_y[y0], first_row)
            columns = tile_of_x[x1 - 1] - left + 1
            rows = max(0, min(tile_of_y[y1 - 1], last_row - 1) - top + 1)
        rects[i, 0], rects[i, 1], rects[i, 2], rects[i, 3] = left, top, columns, rows
        sizes[i + 1] = columns * rows


@inline
def count_few(counts, tile, across, down, tile_columns):
    """Count the pairs of at most 2×2 tiles without a branch: how many they are has no pattern to predict."""
    right, below = np.int64(across == 2 and down > 0), np.int64(down == 2 and across > 0)
    counts[tile] += np.int64(across * down > 0)
    counts[tile + right] += right
    counts[tile + below * tile_columns] += below
    counts[tile + (right & below) * (tile_columns + 1)] += right & below


@kernel
def count_pairs(start, stop, order, rects, slots, tile_columns, counts, walks):
    """Count each tile's pairs of the splats ``order[start:stop]`` (front to back) into ``counts`` [tiles].

    What is needed to walk them again goes to ``walks`` [V, 4], in the order of the walk: first tile, tiles across,
    tiles, first slot.
    """
    for k in range(start, stop):
        ahead = np.int64(order[min(k + FAR_PREFETCH, stop - 1)])
        prefetch(rects, ahead * rects.shape[1])
        prefetch(slots, ahead)
        i = order[k]
        left, top, across, down = np.int64(rects[i, 0]), np.int64(rects[i, 1]), rects[i, 2], rects[i, 3]
        tile, size = top * tile_columns + left, across * down
        walks[k, 0], walks[k, 1], walks[k, 2], walks[k, 3] = tile, across, size, slots[i]
        if across <= 2 and down <= 2:
            count_few(counts, tile, across, down, tile_columns)
            continue
        x = 0
        for _ in range(size):
            counts[tile] += 1
            tile, x = next_tile(tile, x, across, tile_columns)


@kernel
def fill_pairs(start, stop, order, walks, tile_columns, starts, gaussians, pair_slots):
    """Write what `count_pairs` counted into the tiles' lists, front to back: the splat and the pair's slot.

    ``starts`` [tiles]: where in each tile's list this chunk of the order begins; moved on.
    """
    for k in range(start, stop):
        i = order[k]
        tile, across, size, slot = walks[k, 0], walks[k, 1], walks[k, 2], walks[k, 3]
        x = 0
        for _ in range(size):
            entry = starts[tile]
            starts[tile] = entry + 1
            gaussians[entry] = i
            pair_slots[entry] = slot
            slot += 1
            tile, x = next_tile(tile, x, across, tile_columns)
