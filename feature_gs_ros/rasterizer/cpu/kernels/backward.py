"""Gradients of blended channels: what each pair of tile and Gaussian adds to its splat's and its values' gradients.

Walked front to back like the image itself, so that every weight is the one that was drawn: with the ray's total
``Σ_j w_j g·v_j`` known from the image, what lies behind Gaussian i is the total less what was passed,
``S_i = Σ_{j>i} w_j g·v_j``, and ``∂L/∂α_i = T_i g·v_i − S_i / (1 − α_i)``.
"""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import bits, broadcast, end_bit, first_bit, load, maximum, put, store, total, where
from feature_gs_ros.rasterizer.conventions import ALPHA_MAX, TRANSMITTANCE_MIN
from feature_gs_ros.rasterizer.cpu.constants import CHECK_EVERY, COLORED, LANES, RADIUS_Y, TILE, WIDE
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

CLIPPED = np.float32(1.0005) * (np.float32(1) - ALPHA_MAX)  # the fraction left by a clipped α, with its rounding
ZERO, HALF = np.float32(0), np.float32(0.5)


@inline
def logarithmic_slope(weight, left, value, behind):
    """∂L/∂log α of pixels from w and the transmittance after it, as α / (1 − α) = w / left; 0 where α is clipped."""
    slope = weight * (value - behind / maximum(left, TRANSMITTANCE_MIN))
    return where(left > (left + weight) * CLIPPED, slope)


@inline
def add_slope_sums(slope_sums, slope, dy):
    """Sums over rows of slope times 1, dy, dy², a column each; what has dx in it waits for the sum over columns."""
    once, down, twice = slope_sums
    slanted = slope * dy
    return once + slope, down + slanted, twice + slanted * dy


@inline
def store_splat(row, dx, conic, opacity, slope_sums):
    """These sums as gradients of mean, conic and opacity."""
    once, down, twice = slope_sums
    a, b, c = conic
    across = once * dx
    x, y = total(across), total(down)
    row[0], row[1] = a * x + b * y, b * x + c * y
    row[2], row[3], row[4] = -HALF * total(across * dx), -total(down * dx), -HALF * total(twice)
    row[5] = total(once) / opacity


@inline
def open_tile(bounds, image, gradient, planes, behind):
    """A tile's gradient by colour, red, green, blue and opacity, and each ray's total g·v."""
    x0, x1, y0, y1 = bounds
    planes[:] = ZERO
    behind[:] = ZERO
    for y in range(y0, y1):
        for x in range(x0, x1):
            lane = (y - y0) * TILE + x - x0
            r, g, b, o = gradient[y, x, 0], gradient[y, x, 1], gradient[y, x, 2], gradient[y, x, 3]
            planes[lane], planes[lane + LANES], planes[lane + 2 * LANES], planes[lane + 3 * LANES] = r, g, b, o
            behind[lane] = (r * image[y, x, 0] + g * image[y, x, 1]) + (b * image[y, x, 2] + o * image[y, x, 3])


@inline
def gradient_of_row(planes, lane, color):
    """g of a row of pixels by colour, and g·v of one Gaussian; its opacity's value is 1."""
    reds, greens, blues = load(planes, lane), load(planes, LANES + lane), load(planes, 2 * LANES + lane)
    value = reds * color[0] + greens * color[1] + blues * color[2] + load(planes, 3 * LANES + lane)
    return (reds, greens, blues), value


@inline
def add_colors(sums, weight, g):
    """Σ w g of each colour, a column each."""
    return sums[0] + weight * g[0], sums[1] + weight * g[1], sums[2] + weight * g[2]


@inline
def store_colors(row, sums):
    """Sums of `add_colors` as the gradients of red, green and blue."""
    row[6], row[7], row[8] = total(sums[0]), total(sums[1]), total(sums[2])


@kernel
def color_gradients(start, stop, splats, bins, tiles, color, pairs):
    """`PairRows` [pairs, COLORED] of the tiles ``start <= t < stop``: all sums of a pair in registers.

    ∂L/∂log α = w (g·v − S / T'), with T' the transmittance after the splat, is the slope s of each pixel; then
    ∂L/∂μ = Σ_p s K d, ∂L/∂(a, b, c) = −Σ_p s (½ dx², dx dy, ½ dy²), ∂L/∂o = Σ_p s / o, ∂L/∂v = Σ_p w g. All float32.

    Args:
        splats, bins, tiles: `Projected.splats`, `Bins` and `Tiles`.
        color: `ColorGradient`.
        pairs: written for pairs with weight; ``indices`` hold −1 before.
    """
    entries, gaussians, pair_slots = bins.entries, bins.gaussians, bins.pair_slots
    colors, image, gradient = color
    rows, indices = pairs.rows, pairs.indices
    transmittance, behind = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    planes = np.empty(4 * LANES, np.float32)
    for tile in range(start, stop):
        bounds = start_tile(tile, tiles, transmittance)
        open_tile(bounds, image, gradient, planes, behind)
        x0, _, y0, y1 = bounds
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom, following = y0, y1, entries[tile]
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussian_at(entry, entries[tile + 1], gaussians, splats)
            mean_x, mean_y, conic, opacity = splat_of(splats, i)
            dx = xs - mean_x
            along, own = along_row(dx, conic), (colors[i, 0], colors[i, 1], colors[i, 2])
            none = broadcast(ZERO)
            slope_sums, sums = (none, none, none), (none, none, none)
            drawn = 0
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], top, bottom)
            for y in range(row0, row1):
                lane, dy = (y - y0) * TILE, np.float32(y) + HALF - mean_y
                weight, left = row_weights(dy, along, conic, opacity, transmittance, lane)
                seen = bits(weight > ZERO)
                if seen == 0:
                    continue
                drawn |= seen
                g, value = gradient_of_row(planes, lane, own)
                rest = load(behind, lane) - weight * value
                store(behind, lane, rest)
                slope_sums = add_slope_sums(slope_sums, logarithmic_slope(weight, left, value, rest), dy)
                sums = add_colors(sums, weight, g)
            if drawn != 0:
                indices[pair_slots[entry]] = following
                store_splat(rows[following], dx, conic, opacity, slope_sums)
                store_colors(rows[following], sums)
                following += 1
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)
                if top == bottom:
                    break


@inline
def open_extra(bounds, extra, pixels, behind):
    """A tile's gradient lane by lane, `WIDE` channels each, and what it adds to each ray's total g·v."""
    x0, x1, y0, y1 = bounds
    features, wanted, shapes = extra.image, extra.gradient, extra.shapes
    for y in range(y0, y1):
        for x in range(x0, x1):
            lane, passed = (y - y0) * TILE + x - x0, ZERO
            for channel in range(features.shape[2]):
                pixels[np.uint64(lane * WIDE + channel)] = wanted[y, x, channel]
                passed += wanted[y, x, channel] * features[y, x, channel]
            behind[lane] += passed if shapes else ZERO


@inline
def four(array, first):
    """64 values of a flat array, as four vectors."""
    a, b = load(array, first), load(array, first + TILE)
    return a, b, load(array, first + 2 * TILE), load(array, first + 3 * TILE)


@inline
def dot(a, b):
    """Σ a · b over four vectors each, a scalar."""
    return total((a[0] * b[0] + a[1] * b[1]) + (a[2] * b[2] + a[3] * b[3]))


@inline
def add_four(sums, weight, gradients):
    """Sixty-four Σ w g, one pixel's w g added."""
    a, b = sums[0] + gradients[0] * weight, sums[1] + gradients[1] * weight
    return a, b, sums[2] + gradients[2] * weight, sums[3] + gradients[3] * weight


@inline
def store_four(array, first, values):
    """Four vectors to 64 values of a flat array."""
    store(array, first, values[0])
    store(array, first + TILE, values[1])
    store(array, first + 2 * TILE, values[2])
    store(array, first + 3 * TILE, values[3])


@kernel
def extra_gradients(start, stop, splats, bins, tiles, color, extra, pairs):
    """The same with the channels of `ExtraGradient`, [pairs, COLORED + WIDE]: pixels without weight cost nothing."""
    entries, gaussians, pair_slots = bins.entries, bins.gaussians, bins.pair_slots
    colors, image, gradient = color
    values, shapes = extra.values, extra.shapes
    rows, indices = pairs.rows, pairs.indices
    transmittance, behind = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    planes = np.empty(4 * LANES, np.float32)
    weights, pixels = np.empty(TILE, np.float32), np.zeros(LANES * WIDE, np.float32)
    for tile in range(start, stop):
        bounds = start_tile(tile, tiles, transmittance)
        open_tile(bounds, image, gradient, planes, behind)
        open_extra(bounds, extra, pixels, behind)
        x0, _, y0, y1 = bounds
        xs = load(CENTRES, 0) + np.float32(x0)
        top, bottom, following = y0, y1, entries[tile]
        for entry in range(entries[tile], entries[tile + 1]):
            i = np.int64(gaussian_at(entry, entries[tile + 1], gaussians, splats))
            mean_x, mean_y, conic, opacity = splat_of(splats, i)
            dx = xs - mean_x
            along, own = along_row(dx, conic), (colors[i, 0], colors[i, 1], colors[i, 2])
            mine = four(values, i * WIDE)
            none = broadcast(ZERO)
            slope_sums, sums, wide_sums = (none, none, none), (none, none, none), (none, none, none, none)
            drawn = 0
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], top, bottom)
            for y in range(row0, row1):
                lane, dy = (y - y0) * TILE, np.float32(y) + HALF - mean_y
                weight, left = row_weights(dy, along, conic, opacity, transmittance, lane)
                seen = bits(weight > ZERO)
                if seen == 0:
                    continue
                drawn |= seen
                store(weights, 0, weight)
                g, value = gradient_of_row(planes, lane, own)
                carried = none
                for k in range(first_bit(seen), end_bit(seen)):
                    wide_g = four(pixels, (lane + k) * WIDE)
                    wide_sums = add_four(wide_sums, weights[k], wide_g)
                    if shapes:
                        carried = put(carried, k, dot(mine, wide_g))
                value += carried
                rest = load(behind, lane) - weight * value
                store(behind, lane, rest)
                slope_sums = add_slope_sums(slope_sums, logarithmic_slope(weight, left, value, rest), dy)
                sums = add_colors(sums, weight, g)
            if drawn != 0:
                indices[pair_slots[entry]] = following
                row = rows[following]
                store_splat(row, dx, conic, opacity, slope_sums)
                store_colors(row, sums)
                store_four(row, COLORED, wide_sums)
                following += 1
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, y0, top, bottom)
                if top == bottom:
                    break


@kernel
def sum_pairs(start, stop, slots, pairs, totals):
    """Add each splat's `PairRows` to its row of ``totals`` [V, width]: its slots lie side by side, in a fixed order."""
    rows, indices = pairs.rows, pairs.indices
    width = rows.shape[1]
    for i in range(start, stop):
        total = totals[i]
        for slot in range(slots[i], slots[i + 1]):
            if indices[slot] >= 0:
                row = rows[indices[slot]]
                for k in range(width):
                    total[k] += row[k]
