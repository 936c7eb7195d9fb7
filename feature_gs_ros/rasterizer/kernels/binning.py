"""Pairs of a tile and a Gaussian that may touch it."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.kernels import inline, kernel
from feature_gs_ros.rasterizer.constants import MEAN_X, MEAN_Y, RADIUS_X, RADIUS_Y


@inline
def pixel_span(mean, radius, first, end):
    """First pixel and end of those in [first, end) whose centres lie within ``radius`` of ``mean``."""
    start = max(first, int(np.ceil(max(mean - radius, np.float32(-1e6)) - np.float32(0.5))))
    stop = min(end, int(np.floor(min(mean + radius, np.float32(1e6)) - np.float32(0.5))) + 1)
    return start, stop


@kernel
def tile_rects(start, stop, splats, tile_of_x, tile_of_y, first_row, last_row, rects, sizes):
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


@kernel
def count_pairs(start, stop, order, rects, tile_columns, counts):
    for k in range(start, stop):
        i = order[k]
        for y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            for x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                counts[y * tile_columns + x] += 1


@kernel
def fill_pairs(start, stop, order, rects, slots, tile_columns, starts, gaussians, pair_slots):
    for k in range(start, stop):
        i = order[k]
        slot = slots[i]
        for y in range(rects[i, 1], rects[i, 1] + rects[i, 3]):
            for x in range(rects[i, 0], rects[i, 0] + rects[i, 2]):
                tile = y * tile_columns + x
                entry = starts[tile]
                starts[tile] = entry + 1
                gaussians[entry] = i
                pair_slots[entry] = slot
                slot += 1
