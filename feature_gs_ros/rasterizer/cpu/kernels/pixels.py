"""Wᵀ M F of a map with a feature a pixel, and few channels: no cells, the sums of a pair are taken at once."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import kernel
from feature_gs_ros.numerics.simd import broadcast, load, total
from feature_gs_ros.rasterizer.cpu.constants import CHECK_EVERY, LANES, TILE
from feature_gs_ros.rasterizer.cpu.kernels.alpha import CENTRES, gaussian_at, open_rows, pair_weights, start_tile

ZERO = np.float32(0)


@kernel
def pixel_sums(start, stop, splats, bins, tiles, features, valid, sums):
    """``sums`` [pairs, D + 1] by slot: Σ_p w m F over a pair's pixels, and Σ_p w m; of the tiles ``start <= t < stop``.

    ``features`` F [H, W, D]; ``valid`` m [H, W], or [0, 0] where all pixels count.
    """
    entries, gaussians, pair_slots = bins.entries, bins.gaussians, bins.pair_slots
    channels = features.shape[2]
    transmittance, weights = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    planes = np.empty((channels + 1) * LANES, np.float32)  # channels first: a channel's rows are vectors
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, tiles, transmittance)
        for lane in range(LANES):
            x, y = min(x0 + lane % TILE, x1 - 1), min(y0 + lane // TILE, y1 - 1)
            count = valid[y, x] if valid.shape[0] > 0 else np.float32(1)
            for channel in range(channels):
                planes[channel * LANES + lane] = features[y, x, channel] * count
            planes[channels * LANES + lane] = count
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            row0, row1, drawn = pair_weights(splats, i, xs, y0, top, bottom, transmittance, weights)
            slot = pair_slots[entry]
            if drawn > ZERO:
                for channel in range(channels + 1):
                    added = broadcast(ZERO)
                    for lane in range((row0 - y0) * TILE, (row1 - y0) * TILE, TILE):
                        added += load(weights, lane) * load(planes, channel * LANES + lane)
                    sums[slot, channel] = total(added)
            else:
                sums[slot, :] = ZERO
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)
                if top == bottom:
                    for hidden in range(entry + 1, entries[tile + 1]):
                        sums[pair_slots[hidden], :] = ZERO
                    break


@kernel
def add_sums(start, stop, indices, slots, sums, numerator, totals):
    """Add the sums of each splat's pairs, slot by slot, to its row of ``numerator`` [N, D] and to ``totals`` [V]."""
    channels = sums.shape[1] - 1
    for i in range(start, stop):
        row = numerator[indices[i]]
        added = ZERO
        for slot in range(slots[i], slots[i + 1]):
            for channel in range(channels):
                row[channel] += sums[slot, channel]
            added += sums[slot, channels]
        totals[i] += added
