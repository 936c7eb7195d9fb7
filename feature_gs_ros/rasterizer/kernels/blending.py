"""W v of one view: front-to-back blending."""

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
from feature_gs_ros.rasterizer.kernels.alpha import alpha_at, lane_weights, open_rows, start_tile, weight_of
from feature_gs_ros.rasterizer.kernels.binning import pixel_span
from feature_gs_ros.rasterizer.kernels.product import add_cells

LISTED = 128  # Gaussians of a tile between two times that its pixels take in what they have listed


@inline
def take_in(row, values, listed, shares, count):
    """row += Σ share · values[listed]; filled up to fours, as single ones cost nearly as much."""
    while count % 4:
        listed[count], shares[count] = listed[0], np.float32(0)
        count += 1
    add_cells(row, values, listed, shares, count)


@kernel
def blend(start, stop, splats, entries, gaussians, edges_x, edges_y, values, first_row, image):
    channels = values.shape[1]
    pixel_x, pixel_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    transmittance, weights = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    sums = np.empty((channels, LANES), np.float32)
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, pixel_x, pixel_y, transmittance)
        sums[:] = np.float32(0)
        top, bottom = 0, y1 - y0
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussians[entry]
            row0, row1 = pixel_span(splats[i, MEAN_Y], splats[i, RADIUS_Y], y0 + top, y0 + bottom)
            first, lanes = (row0 - y0) * TILE, max(0, (row1 - row0) * TILE)
            total = lane_weights(splats, i, first, lanes, pixel_x, pixel_y, transmittance, weights)
            if total > np.float32(0):
                for channel in range(channels):
                    value, blended = values[i, channel], sums[channel, first : first + lanes]
                    for lane in range(lanes):
                        blended[lane] += value * weights[lane]
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, top, bottom)
                if top == bottom:
                    break
        for y in range(y0, y1):
            for x in range(x0, x1):
                for channel in range(channels):
                    image[y - first_row, x, channel] = sums[channel, (y - y0) * TILE + x - x0]


@kernel
def blend_wide(start, stop, splats, entries, gaussians, edges_x, edges_y, colors, values, first_row, image, wide):
    """A few colours as above, and many channels: side by side, they take four of what their pixel has listed at once.

    ``values`` [V, B] may be wider than ``wide`` [H, W, C ≤ B]: whole vectors are faster than their remainders.
    """
    narrow, broad, channels = colors.shape[1], values.shape[1], wide.shape[2]
    pixel_x, pixel_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    transmittance, weights = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    sums, few = np.empty((LANES, broad), np.float32), np.empty((narrow, LANES), np.float32)
    listed, shares = np.empty((LANES, LISTED + 4), np.int32), np.empty((LANES, LISTED + 4), np.float32)
    counts = np.empty(LANES, np.int32)
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, pixel_x, pixel_y, transmittance)
        sums[:] = np.float32(0)
        few[:] = np.float32(0)
        counts[:] = 0
        top, bottom = 0, y1 - y0
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussians[entry]
            mean_x, mean_y = splats[i, MEAN_X], splats[i, MEAN_Y]
            a, b, c, opacity = splats[i, CONIC_A], splats[i, CONIC_B], splats[i, CONIC_C], splats[i, OPACITY]
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], y0 + top, y0 + bottom)
            first, lanes = (row0 - y0) * TILE, max(0, (row1 - row0) * TILE)
            rays, xs, ys = (
                transmittance[first : first + lanes],
                pixel_x[first : first + lanes],
                pixel_y[first : first + lanes],
            )
            total = np.float32(0)
            for lane in range(lanes):
                alpha = alpha_at(xs[lane] - mean_x, ys[lane] - mean_y, a, b, c, opacity)
                weight, rays[lane] = weight_of(alpha, rays[lane])
                weights[lane] = weight
                total += weight
            if total > np.float32(0):
                for channel in range(narrow):
                    value, blended = colors[i, channel], few[channel, first : first + lanes]
                    for lane in range(lanes):
                        blended[lane] += value * weights[lane]
                column0, column1 = pixel_span(mean_x, splats[i, RADIUS_X], x0, x1)
                for row in range(row1 - row0):
                    # Written always, counted where there is weight: no branch to mispredict.
                    for lane in range(row * TILE + column0 - x0, row * TILE + column1 - x0):
                        pixel, weight = first + lane, weights[lane]
                        count = counts[pixel]
                        listed[pixel, count], shares[pixel, count] = i, weight
                        counts[pixel] = count + (1 if weight > np.float32(0) else 0)
            if (entry - entries[tile]) % LISTED == LISTED - 1:
                for pixel in range(LANES):
                    take_in(sums[pixel], values, listed[pixel], shares[pixel], counts[pixel])
                counts[:] = 0
                top, bottom = open_rows(transmittance, top, bottom)
                if top == bottom:
                    break
        for y in range(y0, y1):
            for x in range(x0, x1):
                pixel = (y - y0) * TILE + x - x0
                take_in(sums[pixel], values, listed[pixel], shares[pixel], counts[pixel])
                for channel in range(narrow):
                    image[y - first_row, x, channel] = few[channel, pixel]
                for channel in range(channels):
                    wide[y - first_row, x, channel] = sums[pixel, channel]
