"""W v of one view: front-to-back blending, image(p) = Σ_i w_i(p) v_i over zero, float32, Eq. (3)."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import bits, end_bit, first_bit, load, store
from feature_gs_ros.rasterizer.cpu.constants import CHECK_EVERY, LANES, RADIUS_Y, TILE
from feature_gs_ros.rasterizer.cpu.kernels.alpha import (
    CENTRES,
    along_row,
    gaussian_at,
    open_rows,
    row_weights,
    splat_of,
    start_tile,
)
from feature_gs_ros.rasterizer.cpu.kernels.binning import pixel_span

ZERO, HALF = np.float32(0), np.float32(0.5)


@inline
def blend_row(weight, values, i, channels, lane, sums):
    """Add one splat's few values to a row of pixels; ``sums`` has channels first."""
    for channel in range(channels):
        index = channel * LANES + lane
        store(sums, index, load(sums, index) + weight * values[i, channel])


@kernel
def blend(start, stop, splats, bins, tiles, values, first_row, image):
    """W v of the tiles ``start <= t < stop``, channel by channel.

    ``values`` [V, C] of the splats; ``image`` [rows, W, C] begins at the image's row ``first_row``.
    """
    channels, entries, gaussians = values.shape[1], bins.entries, bins.gaussians
    transmittance, sums = np.empty(LANES, np.float32), np.empty(channels * LANES, np.float32)
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, tiles, transmittance)
        sums[:] = ZERO
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            mean_x, mean_y, conic, opacity = splat_of(splats, i)
            along = along_row(xs - mean_x, conic)
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], top, bottom)
            for y in range(row0, row1):
                lane = (y - y0) * TILE
                weight, _ = row_weights(np.float32(y) + HALF - mean_y, along, conic, opacity, transmittance, lane)
                blend_row(weight, values, i, channels, lane, sums)
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)
                if top == bottom:
                    break
        for y in range(y0, y1):
            for x in range(x0, x1):
                for channel in range(channels):
                    image[y - first_row, x, channel] = sums[channel * LANES + (y - y0) * TILE + x - x0]


@inline
def add_four(values, value, weights, first, end, sums, index, step):
    """Add one splat's next 64 values, held in registers, to the pixels [first, end) of a row."""
    a, b = load(values, value), load(values, value + TILE)
    c, d = load(values, value + 2 * TILE), load(values, value + 3 * TILE)
    for k in range(first, end):
        weight, at = weights[k], index + k * step
        store(sums, at, load(sums, at) + a * weight)
        store(sums, at + TILE, load(sums, at + TILE) + b * weight)
        store(sums, at + 2 * TILE, load(sums, at + 2 * TILE) + c * weight)
        store(sums, at + 3 * TILE, load(sums, at + 3 * TILE) + d * weight)


@inline
def add_one(values, value, weights, first, end, sums, index, step):
    """The same of sixteen values."""
    a = load(values, value)
    for k in range(first, end):
        at = index + k * step
        store(sums, at, load(sums, at) + a * weights[k])


@kernel
def blend_wide(start, stop, splats, bins, tiles, colors, values, first_row, image, wide):
    """A few ``colors`` [V, K] as `blend` does, and many channels by the same weights, pixel by pixel.

    ``values`` [V · B] holds whole vectors, B ≥ C of ``wide`` [rows, W, C], which begins at ``first_row`` as ``image``.
    """
    entries, gaussians = bins.entries, bins.gaussians
    narrow, channels = colors.shape[1], wide.shape[2]
    broad = (channels + TILE - 1) // TILE * TILE
    fours = broad - broad % (4 * TILE)
    transmittance, weights = np.empty(LANES, np.float32), np.empty(TILE, np.float32)
    sums, few = np.empty(LANES * broad, np.float32), np.empty(narrow * LANES, np.float32)
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, tiles, transmittance)
        sums[:] = ZERO
        few[:] = ZERO
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom = y0, y1
        for entry in range(entries[tile], entries[tile + 1]):
            i = np.int64(gaussian_at(entry, entries[tile + 1], gaussians, splats))
            mean_x, mean_y, conic, opacity = splat_of(splats, i)
            along = along_row(xs - mean_x, conic)
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], top, bottom)
            for y in range(row0, row1):
                lane = (y - y0) * TILE
                weight, _ = row_weights(np.float32(y) + HALF - mean_y, along, conic, opacity, transmittance, lane)
                seen = bits(weight > ZERO)
                if seen == 0:
                    continue
                blend_row(weight, colors, i, narrow, lane, few)
                store(weights, 0, weight)
                # An ellipse's pixels in a row are neighbours.
                first, end = first_bit(seen), end_bit(seen)
                for channel in range(0, fours, 4 * TILE):
                    add_four(values, i * broad + channel, weights, first, end, sums, lane * broad + channel, broad)
                for channel in range(fours, broad, TILE):
                    add_one(values, i * broad + channel, weights, first, end, sums, lane * broad + channel, broad)
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)
                if top == bottom:
                    break
        for y in range(y0, y1):
            for x in range(x0, x1):
                pixel = (y - y0) * TILE + x - x0
                for channel in range(narrow):
                    image[y - first_row, x, channel] = few[channel * LANES + pixel]
                for channel in range(channels):
                    wide[y - first_row, x, channel] = sums[np.uint64(pixel * broad + channel)]
