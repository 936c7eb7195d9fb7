"""W v of one view: front-to-back blending."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.kernels import kernel
from feature_gs_ros.rasterizer.constants import (
    CHECK_EVERY,
    CONIC_A,
    CONIC_B,
    CONIC_C,
    LANES,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    RADIUS_Y,
    TILE,
)
from feature_gs_ros.rasterizer.kernels.alpha import all_ended, alpha_at, start_tile, weight_of
from feature_gs_ros.rasterizer.kernels.binning import pixel_span


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
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussians[entry]
            mean_x, mean_y = splats[i, MEAN_X], splats[i, MEAN_Y]
            a, b, c, opacity = splats[i, CONIC_A], splats[i, CONIC_B], splats[i, CONIC_C], splats[i, OPACITY]
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], y0, y1)
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
                for channel in range(channels):
                    value, blended = values[i, channel], sums[channel, first : first + lanes]
                    for lane in range(lanes):
                        blended[lane] += value * weights[lane]
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1 and all_ended(transmittance):
                break
        for y in range(y0, y1):
            for x in range(x0, x1):
                for channel in range(channels):
                    image[y - first_row, x, channel] = sums[channel, (y - y0) * TILE + x - x0]
