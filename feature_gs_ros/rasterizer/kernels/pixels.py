"""Wᵀ M F of a map with a feature a pixel, and few channels: no cells, the sums of a pair are taken at once."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.kernels import kernel
from feature_gs_ros.rasterizer.constants import (
    CHECK_EVERY,
    LANES,
    MEAN_Y,
    RADIUS_Y,
    TILE,
)
from feature_gs_ros.rasterizer.kernels.alpha import lane_weights, open_rows, start_tile
from feature_gs_ros.rasterizer.kernels.binning import pixel_span


@kernel
def pixel_sums(start, stop, splats, entries, gaussians, pair_slots, edges_x, edges_y, features, valid, sums):
    """``sums`` [pairs, D + 1] by slot: Σ w m F over a pair's pixels, and Σ w m."""
    channels = features.shape[2]
    pixel_x, pixel_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    transmittance, weights = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    planes = np.empty(
        (channels + 1, LANES), np.float32
    )  # channels first: a channel's lanes are one vector after another
    columns = edges_x.shape[0] - 1
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, pixel_x, pixel_y, transmittance)
        for lane in range(LANES):
            x, y = min(x0 + lane % TILE, x1 - 1), min(y0 + lane // TILE, y1 - 1)
            count = valid[y, x] if valid.shape[0] > 0 else np.float32(1)
            for channel in range(channels):
                planes[channel, lane] = features[y, x, channel] * count
            planes[channels, lane] = count
        top, bottom = 0, y1 - y0
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussians[entry]
            row0, row1 = pixel_span(splats[i, MEAN_Y], splats[i, RADIUS_Y], y0 + top, y0 + bottom)
            first, lanes = (row0 - y0) * TILE, max(0, (row1 - row0) * TILE)
            total = lane_weights(splats, i, first, lanes, pixel_x, pixel_y, transmittance, weights)
            slot = pair_slots[entry]
            if total > np.float32(0):
                for channel in range(channels + 1):
                    plane = planes[channel, first : first + lanes]
                    added = np.float32(0)
                    for lane in range(lanes):
                        added += weights[lane] * plane[lane]
                    sums[slot, channel] = added
            else:
                sums[slot, :] = np.float32(0)
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, top, bottom)
                if top == bottom:
                    for hidden in range(entry + 1, entries[tile + 1]):
                        sums[pair_slots[hidden], :] = np.float32(0)
                    break


@kernel
def add_sums(start, stop, places, slots, sums, numerator, weight):
    """Add the sums of each Gaussian's pairs to its row of the accumulators."""
    channels = sums.shape[1] - 1
    for i in range(start, stop):
        row = numerator[places[i]]
        total = np.float32(0)
        for slot in range(slots[i], slots[i + 1]):
            for channel in range(channels):
                row[channel] += sums[slot, channel]
            total += sums[slot, channels]
        weight[places[i]] += total
