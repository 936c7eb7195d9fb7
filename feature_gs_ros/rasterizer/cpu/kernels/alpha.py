"""The heart of every kernel: α, w and T of Eq. (1)–(3), a tile's row of pixels at a time.

With the splat's 2D mean μ and conic [[a, b], [b, c]], d = p + ½ − μ at the pixel p, and its opacity o:

    σ = ½ (a dx² + c dy²) + b dx dy        α = min(o exp(−σ), ALPHA_MAX), 0 where σ < 0 or α < ALPHA_MIN
    w = α T                                T ← T − w; where T ≤ TRANSMITTANCE_MIN the ray has ended before this splat

All of it is float32. A tile's T is an array of `LANES` lanes, `TILE` per row of pixels; lanes outside the image hold 0.
"""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline
from feature_gs_ros.numerics.simd import bits, broadcast, load, maximum, minimum, prefetch, store, total, where
from feature_gs_ros.rasterizer.conventions import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN
from feature_gs_ros.rasterizer.cpu.constants import (
    CONIC_A,
    CONIC_B,
    CONIC_C,
    LANES,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    PREFETCH,
    RADIUS_Y,
    TILE,
)
from feature_gs_ros.rasterizer.cpu.kernels.binning import pixel_span

CENTRES = np.arange(TILE, dtype=np.float32) + np.float32(0.5)  # of a row's pixels, from the tile's first
HALF, SIXTEENTH = np.float32(0.5), np.float32(-1 / 16)  # the latter, with the sign of exp(−σ)


@inline
def exp_of_sixteenth(z):
    """exp(16 z) for -6/16 ≤ z ≤ 0 to 3e-6 relative: exp(z)¹⁶ by a minimax polynomial."""
    p = z * np.float32(0.03459351) + np.float32(0.16442051)
    p = z * (z * (z * p + np.float32(0.49970358)) + np.float32(0.9999862)) + np.float32(0.9999999)
    p = p * p
    p = p * p
    p = p * p
    return p * p


@inline
def start_tile(tile, tiles, transmittance):
    """T = 1 inside the tile, 0 in lanes beyond it; returns the tile's pixel bounds x0, x1, y0, y1."""
    edges_x, edges_y = tiles.x.edges, tiles.y.edges
    columns = edges_x.shape[0] - 1
    row = tile // columns
    column = tile - row * columns
    x0, x1, y0, y1 = edges_x[column], edges_x[column + 1], edges_y[row], edges_y[row + 1]
    for lane in range(LANES):
        inside = x0 + lane % TILE < x1 and y0 + lane // TILE < y1
        transmittance[lane] = np.float32(1) if inside else np.float32(0)
    return x0, x1, y0, y1


@inline
def gaussian_at(entry, end, gaussians, splats):
    """The splat of a tile's entry; one further on is prefetched, as a tile's splats lie all over memory."""
    prefetch(splats, np.int64(gaussians[min(entry + PREFETCH, end - 1)]) * splats.shape[1])
    return gaussians[entry]


@inline
def splat_of(splats, i):
    """Mean x, y, conic (a, b, c) and opacity of the splat ``i``."""
    conic = (splats[i, CONIC_A], splats[i, CONIC_B], splats[i, CONIC_C])
    return splats[i, MEAN_X], splats[i, MEAN_Y], conic, splats[i, OPACITY]


@inline
def along_row(dx, conic):
    """What −σ/16 with σ = ½ (a dx² + c dy²) + b dx dy has in common in all rows: its first part, and dy's factor."""
    a, b, _ = conic
    return dx * dx * (SIXTEENTH * HALF * a), dx * (SIXTEENTH * b)


@inline
def alpha_of(dy, along, conic, opacity):
    """α of Eq. (1), opacity · exp(−σ), clipped, and skipped under 1/255, where it is below σ = 6 in any case."""
    across, slant = along
    z = across + (slant + (SIXTEENTH * HALF * conic[2]) * dy) * dy
    alpha = minimum(exp_of_sixteenth(maximum(z, np.float32(-6 / 16))) * opacity, ALPHA_MAX)
    return where((alpha >= ALPHA_MIN) & (np.float32(0) >= z), alpha)


@inline
def composite(alpha, rays):
    """w = α T of Eq. (2), and the transmittance after it; both 0 once a ray has ended."""
    weight = alpha * rays
    left = rays - weight
    alive = left > TRANSMITTANCE_MIN
    return where(alive, weight), where(alive, left)


@inline
def row_weights(dy, along, conic, opacity, transmittance, lane):
    """w = α T of a row of pixels, whose transmittance moves on, and the transmittance after it."""
    weight, left = composite(alpha_of(dy, along, conic, opacity), load(transmittance, lane))
    store(transmittance, lane, left)
    return weight, left


@inline
def pair_weights(splats, i, xs, y0, top, bottom, transmittance, weights):
    """w of Gaussian i in a tile's open rows, into their lanes of ``weights``; returns these rows and Σ w."""
    mean_x, mean_y, conic, opacity = splat_of(splats, i)
    along, every = along_row(xs - mean_x, conic), broadcast(np.float32(0))
    row0, row1 = pixel_span(mean_y, splats[i, RADIUS_Y], top, bottom)
    for y in range(row0, row1):
        lane = (y - y0) * TILE
        weight, _ = row_weights(np.float32(y) + HALF - mean_y, along, conic, opacity, transmittance, lane)
        store(weights, lane, weight)
        every += weight
    return row0, row1, total(every)


@inline
def open_rows(transmittance, y0, top, bottom):
    """Image rows [top, bottom) of the tile from ``y0`` on outside which every ray has ended; equal where all have."""
    while top < bottom and row_ended(transmittance, (top - y0) * TILE):
        top += 1
    while top < bottom and row_ended(transmittance, (bottom - 1 - y0) * TILE):
        bottom -= 1
    return top, bottom


@inline
def row_ended(transmittance, lane):
    """Whether every ray of the row of pixels from ``lane`` on has ended."""
    return bits(load(transmittance, lane) > np.float32(0)) == 0
