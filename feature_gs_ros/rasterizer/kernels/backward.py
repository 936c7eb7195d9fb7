"""Gradients of blended channels: what each pair of tile and Gaussian adds to its splat's and its values' gradients.

Walked front to back like the image itself, so that every weight is the one that was drawn: with the ray's total
``Σ_j w_j g·v_j`` known from the image, what lies behind Gaussian i is the total less what was passed,
``S_i = Σ_{j>i} w_j g·v_j``, and ``∂L/∂α_i = T_i g·v_i − S_i / (1 − α_i)``.
"""

from __future__ import annotations

import numpy as np

from feature_gs_ros.kernels import inline, kernel
from feature_gs_ros.rasterizer.constants import (
    ALPHA_MAX,
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
    SPLAT_GRADIENTS,
    TILE,
    TRANSMITTANCE_MIN,
)
from feature_gs_ros.rasterizer.kernels.alpha import alpha_at, open_rows, start_tile, weight_of
from feature_gs_ros.rasterizer.kernels.binning import pixel_span

CLIPPED = np.float32(1.0005) * (np.float32(1) - ALPHA_MAX)  # the share left by a clipped α, with its rounding


@inline
def logarithmic_slope(weight, left, value, behind):
    """∂L/∂log α of one pixel from w and the transmittance after it, as α / (1 − α) = w / left; 0 where α is clipped."""
    slope = weight * (value - behind / max(left, TRANSMITTANCE_MIN))
    return slope if left > CLIPPED * (left + weight) else np.float32(0)


@inline
def store_splat(row, a, b, c, opacity, total, x, y, xx, xy, yy):
    """Sums over pixels of slope times 1, dx, dy, dx², dx dy, dy² as gradients of mean, conic and opacity."""
    row[0], row[1] = a * x + b * y, b * x + c * y
    row[2], row[3], row[4] = np.float32(-0.5) * xx, -xy, np.float32(-0.5) * yy
    row[5] = total / opacity


@kernel
def color_gradients(
    start, stop, splats, entries, gaussians, pair_slots, edges_x, edges_y, values, image, gradient, pairs, filled
):
    """Four channels, red, green, blue and opacity, whose value is 1: all sums of a pair in registers."""
    pixel_x, pixel_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    transmittance, behind = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    weights, looks = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    red, green, blue = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    columns = edges_x.shape[0] - 1
    zero = np.float32(0)
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, pixel_x, pixel_y, transmittance)
        red[:], green[:], blue[:], looks[:], behind[:] = zero, zero, zero, zero, zero
        for y in range(y0, y1):
            for x in range(x0, x1):
                lane = (y - y0) * TILE + x - x0
                red[lane], green[lane], blue[lane] = gradient[y, x, 0], gradient[y, x, 1], gradient[y, x, 2]
                looks[lane] = gradient[y, x, 3]
                for channel in range(4):
                    behind[lane] += gradient[y, x, channel] * image[y, x, channel]
        top, bottom = 0, y1 - y0
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussians[entry]
            mean_x, mean_y = splats[i, MEAN_X], splats[i, MEAN_Y]
            a, b, c, opacity = splats[i, CONIC_A], splats[i, CONIC_B], splats[i, CONIC_C], splats[i, OPACITY]
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], y0 + top, y0 + bottom)
            first, lanes = (row0 - y0) * TILE, max(0, (row1 - row0) * TILE)
            last = first + lanes
            rays, xs, ys = transmittance[first:last], pixel_x[first:last], pixel_y[first:last]
            drawn = zero
            for lane in range(lanes):
                alpha = alpha_at(xs[lane] - mean_x, ys[lane] - mean_y, a, b, c, opacity)
                weight, rays[lane] = weight_of(alpha, rays[lane])
                weights[lane] = weight
                drawn += weight
            if drawn > zero:
                r, g, bl = values[i, 0], values[i, 1], values[i, 2]
                rs, gs, bs, ls, after = (
                    red[first:last],
                    green[first:last],
                    blue[first:last],
                    looks[first:last],
                    behind[first:last],
                )
                total, sx, sy, sxx, sxy, syy, dr, dg, db = zero, zero, zero, zero, zero, zero, zero, zero, zero
                for lane in range(lanes):
                    weight = weights[lane]
                    value = r * rs[lane] + g * gs[lane] + bl * bs[lane] + ls[lane]
                    rest = after[lane] - weight * value
                    after[lane] = rest
                    slope = logarithmic_slope(weight, rays[lane], value, rest)
                    dx, dy = xs[lane] - mean_x, ys[lane] - mean_y
                    total += slope
                    sx += slope * dx
                    sy += slope * dy
                    sxx += slope * dx * dx
                    sxy += slope * dx * dy
                    syy += slope * dy * dy
                    dr += weight * rs[lane]
                    dg += weight * gs[lane]
                    db += weight * bs[lane]
                slot = pair_slots[entry]
                filled[slot] = True
                row = pairs[slot]
                store_splat(row, a, b, c, opacity, total, sx, sy, sxx, sxy, syy)
                row[6], row[7], row[8] = dr, dg, db
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, top, bottom)
                if top == bottom:
                    break


@inline
def look_at_pixels(mine, gradient, x0, y0, listed, shares, count, looks, sums):
    """g·v of each listed pixel, and Σ w g into ``sums``; four pixels a pass."""
    for k in range(0, count, 4):
        p0, p1, p2, p3 = listed[k], listed[k + 1], listed[k + 2], listed[k + 3]
        g0, g1 = gradient[y0 + p0 // TILE, x0 + p0 % TILE], gradient[y0 + p1 // TILE, x0 + p1 % TILE]
        g2, g3 = gradient[y0 + p2 // TILE, x0 + p2 % TILE], gradient[y0 + p3 // TILE, x0 + p3 % TILE]
        w0, w1, w2, w3 = shares[k], shares[k + 1], shares[k + 2], shares[k + 3]
        v0, v1, v2, v3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for channel in range(gradient.shape[2]):
            value = mine[channel]
            v0 += value * g0[channel]
            v1 += value * g1[channel]
            v2 += value * g2[channel]
            v3 += value * g3[channel]
            sums[channel] += (w0 * g0[channel] + w1 * g1[channel]) + (w2 * g2[channel] + w3 * g3[channel])
        looks[p0], looks[p1], looks[p2], looks[p3] = v0, v1, v2, v3


@kernel
def channel_gradients(
    start, stop, splats, entries, gaussians, pair_slots, edges_x, edges_y, values, image, gradient, pairs, filled
):
    """Any number of channels, a pixel's channels side by side: pixels without weight cost nothing."""
    channels = gradient.shape[2]
    pixel_x, pixel_y = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    transmittance, behind = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    weights, looks = np.empty(LANES, np.float32), np.zeros(LANES, np.float32)
    listed, shares = np.empty(LANES + 4, np.int32), np.empty(LANES + 4, np.float32)
    columns = edges_x.shape[0] - 1
    zero = np.float32(0)
    for tile in range(start, stop):
        x0, x1, y0, y1 = start_tile(tile, edges_x, edges_y, columns, pixel_x, pixel_y, transmittance)
        behind[:] = zero
        for y in range(y0, y1):
            for x in range(x0, x1):
                lane = (y - y0) * TILE + x - x0
                total = zero
                for channel in range(channels):
                    total += gradient[y, x, channel] * image[y, x, channel]
                behind[lane] = total
        top, bottom = 0, y1 - y0
        for entry in range(entries[tile], entries[tile + 1]):
            i = gaussians[entry]
            mean_x, mean_y = splats[i, MEAN_X], splats[i, MEAN_Y]
            a, b, c, opacity = splats[i, CONIC_A], splats[i, CONIC_B], splats[i, CONIC_C], splats[i, OPACITY]
            row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], y0 + top, y0 + bottom)
            first, lanes = (row0 - y0) * TILE, max(0, (row1 - row0) * TILE)
            last = first + lanes
            rays, xs, ys = transmittance[first:last], pixel_x[first:last], pixel_y[first:last]
            drawn = zero
            for lane in range(lanes):
                alpha = alpha_at(xs[lane] - mean_x, ys[lane] - mean_y, a, b, c, opacity)
                weight, rays[lane] = weight_of(alpha, rays[lane])
                weights[lane] = weight
                drawn += weight
            if drawn > zero:
                slot = pair_slots[entry]
                filled[slot] = True
                row, mine = pairs[slot], values[i]
                sums = row[SPLAT_GRADIENTS:]
                sums[:] = zero
                count = 0
                column0, column1 = pixel_span(mean_x, splats[i, RADIUS_X], x0, x1)
                for line in range(row1 - row0):
                    # Written always, counted where there is weight: no branch to mispredict.
                    for lane in range(line * TILE + column0 - x0, line * TILE + column1 - x0):
                        listed[count], shares[count] = first + lane, weights[lane]
                        count += 1 if weights[lane] > zero else 0
                while count % 4:
                    listed[count], shares[count] = listed[0], zero
                    count += 1
                look_at_pixels(mine, gradient, x0, y0, listed, shares, count, looks, sums)
                after, look = behind[first:last], looks[first:last]
                total, sx, sy, sxx, sxy, syy = zero, zero, zero, zero, zero, zero
                for lane in range(lanes):
                    weight = weights[lane]
                    rest = after[lane] - weight * look[lane]
                    after[lane] = rest
                    slope = logarithmic_slope(weight, rays[lane], look[lane], rest)
                    dx, dy = xs[lane] - mean_x, ys[lane] - mean_y
                    total += slope
                    sx += slope * dx
                    sy += slope * dy
                    sxx += slope * dx * dx
                    sxy += slope * dx * dy
                    syy += slope * dy * dy
                store_splat(row, a, b, c, opacity, total, sx, sy, sxx, sxy, syy)
            if (entry - entries[tile]) % CHECK_EVERY == CHECK_EVERY - 1:
                top, bottom = open_rows(transmittance, top, bottom)
                if top == bottom:
                    break


@kernel
def sum_pairs(start, stop, slots, pairs, filled, totals):
    """Pairs of a Gaussian lie side by side: one thread adds them, always in the same order."""
    width = pairs.shape[1]
    for i in range(start, stop):
        total = totals[i]
        for slot in range(slots[i], slots[i + 1]):
            if filled[slot]:
                row = pairs[slot]
                for k in range(width):
                    total[k] += row[k]
