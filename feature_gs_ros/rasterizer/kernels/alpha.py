"""The heart of every kernel: α, w and T of Eq. (1)–(3) over the lanes of a tile."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.kernels import inline
from feature_gs_ros.rasterizer.constants import (
    ALPHA_MAX,
    ALPHA_MIN,
    CONIC_A,
    CONIC_B,
    CONIC_C,
    LANES,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    TILE,
    TRANSMITTANCE_MIN,
)


@inline
def exp_negative(x):
    """exp(x) for -6 ≤ x ≤ 0 to 3e-6 relative: exp(x/16)¹⁶ by a minimax polynomial, which vectorises."""
    z = x * np.float32(1 / 16)
    p = np.float32(0.16442051) + z * np.float32(0.03459351)
    p = np.float32(0.9999999) + z * (np.float32(0.9999862) + z * (np.float32(0.49970358) + z * p))
    p = p * p
    p = p * p
    p = p * p
    return p * p


@inline
def alpha_at(dx, dy, a, b, c, opacity):
    """α of Eq. (1): opacity · exp(−σ), clipped; 0 where it is skipped. Below −6 it is under 1/255 anyway."""
    sigma = np.float32(0.5) * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = min(ALPHA_MAX, opacity * exp_negative(max(-sigma, np.float32(-6))))
    alpha = alpha if alpha >= ALPHA_MIN else np.float32(0)
    return alpha if sigma >= np.float32(0) else np.float32(0)


@inline
def weight_of(alpha, transmittance):
    """w = α T of Eq. (2) and the transmittance after it, both 0 once the ray has ended."""
    weight = alpha * transmittance
    left = transmittance - weight
    alive = left > TRANSMITTANCE_MIN
    return (weight if alive else np.float32(0)), (left if alive else np.float32(0))


@inline
def start_tile(tile, edges_x, edges_y, columns, pixel_x, pixel_y, transmittance):
    """Fill the lanes with their pixels' centres and T = 1 inside the tile; return the tile's pixel bounds."""
    row = tile // columns
    column = tile - row * columns
    x0, x1, y0, y1 = edges_x[column], edges_x[column + 1], edges_y[row], edges_y[row + 1]
    for lane in range(LANES):
        x, y = x0 + lane % TILE, y0 + lane // TILE
        pixel_x[lane], pixel_y[lane] = np.float32(x) + np.float32(0.5), np.float32(y) + np.float32(0.5)
        transmittance[lane] = np.float32(1) if x < x1 and y < y1 else np.float32(0)
    return x0, x1, y0, y1


@inline
def all_ended(transmittance):
    most = np.float32(0)
    for lane in range(LANES):
        most = max(most, transmittance[lane])
    return most == np.float32(0)


@inline
def open_rows(transmittance, top, bottom):
    """Rows [top, bottom) of the tile outside which every ray has ended; equal where all have."""
    while top < bottom and row_ended(transmittance, top):
        top += 1
    while top < bottom and row_ended(transmittance, bottom - 1):
        bottom -= 1
    return top, bottom


@inline
def row_ended(transmittance, row):
    most = np.float32(0)
    for lane in range(row * TILE, (row + 1) * TILE):
        most = max(most, transmittance[lane])
    return most == np.float32(0)


@inline
def lane_weights(splats, i, first, lanes, pixel_x, pixel_y, transmittance, weights):
    """w of Gaussian i in the lanes from ``first`` on, into ``weights`` [lanes], and T after it; returns their sum."""
    mean_x, mean_y = splats[i, MEAN_X], splats[i, MEAN_Y]
    a, b, c, opacity = splats[i, CONIC_A], splats[i, CONIC_B], splats[i, CONIC_C], splats[i, OPACITY]
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
    return total
