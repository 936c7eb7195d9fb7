"""EWA projection of Gaussians onto an image, sixteen at a time."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.columns import (
    count_bits,
    load_numbers,
    load_quadruples,
    load_triples,
    pack_numbers,
    pack_octets,
    pack_places,
)
from feature_gs_ros.kernels import inline, kernel
from feature_gs_ros.rasterizer.constants import ALPHA_MIN, EPS2D, NEAR_PLANE, TANGENT_MARGIN
from feature_gs_ros.vector_math import difference_of_products, log_from_one, square_root
from feature_gs_ros.vectors import SIZE, bits, maximum, minimum

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)


@kernel
def stretches_in_view(low, high, largest, planes, slack, found):
    """Stretches of sixteen Gaussians that may touch the image, into ``found`` (16 longer than they are); how many.

    Each lies in the box [low, high] [S, 3] and has no scale above ``largest`` [S]. ``planes`` [P, 5] are those of
    `rasterizer.projection`, in the map's frame.
    """
    stretches, count = low.shape[0], 0
    for first in range(0, stretches, SIZE):
        x0, y0, z0 = load_triples(low, first)
        x1, y1, z1 = load_triples(high, first)
        scale = load_numbers(largest, first)
        size = maximum(maximum(maximum(x1, ZERO - x0), maximum(y1, ZERO - y0)), maximum(z1, ZERO - z0))
        inside = scale > ZERO  # not after the last stretch
        for p in range(planes.shape[0]):
            a, b, c = planes[p, 0], planes[p, 1], planes[p, 2]
            corner = maximum(a * x0, a * x1) + maximum(b * y0, b * y1) + maximum(c * z0, c * z1)
            inside &= corner + planes[p, 3] * scale + planes[p, 4] + slack[p,0] * size + slack[p,1] >= ZERO
        kept = bits(inside)
        pack_places(found, count, first, kept)
        count += count_bits(kept)
    return count


@kernel
def project(start, stop, stretches, means, quats, scales, opacities, pose, intrinsics, planes, splats, depths, places):
    """Those of stretches [start, stop) of a list that can touch the image, side by side; returns how many.

    They are written from 16 · start on; whatever is there up to 16 · stop may be written over.
    """
    begin = start * SIZE
    count = begin
    width, height = intrinsics[4], intrinsics[5]
    for k in range(start, stop):
        first = np.int64(stretches[k]) * SIZE
        x, y, z = to_camera(load_triples(means, first), pose)
        s = load_triples(scales, first)
        opacity = load_numbers(opacities, first)
        largest = maximum(s[0], maximum(s[1], s[2]))
        # Most of what lies outside goes here, before anything dear.
        possible = opacity >= ALPHA_MIN
        for p in range(planes.shape[0]):
            a, b, c, d, e = planes[p]
            possible &= a * x + b * y + c * z + d * largest + e >= ZERO
        if bits(possible) == 0:
            continue
        z = maximum(z, NEAR_PLANE)
        mean_x, mean_y, xx, xy, yy = splat_of(x, y, z, load_quadruples(quats, first), s, pose, intrinsics)
        # The products cancel for thin, slanted Gaussians.
        determinant = difference_of_products(xx, yy, xy, xy)
        # alpha >= 1/255 ends at this Mahalanobis distance; a hair wider, so that only the alpha test decides.
        extent = square_root(TWO * log_from_one(maximum(opacity * np.float32(255), ONE))) * np.float32(1.0001)
        radius_x = extent * square_root(xx) + np.float32(1e-3)
        radius_y = extent * square_root(yy) + np.float32(1e-3)
        touches = (mean_x + radius_x > ZERO) & (mean_y + radius_y > ZERO)
        touches &= (width > mean_x - radius_x) & (height > mean_y - radius_y)
        kept = bits(possible & touches & (determinant > ZERO))
        inverse = ONE / determinant
        columns = (mean_x, mean_y, yy * inverse, ZERO - xy * inverse, xx * inverse, opacity, radius_x, radius_y)
        pack_octets(splats, count, columns, kept)
        pack_numbers(depths, count, z, kept)
        pack_places(places, count, first, kept)
        count += count_bits(kept)
    return count - begin


@inline
def to_camera(points, pose):
    """From the splat's frame to the camera's."""
    x, y, z = points
    return (
        pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3],
        pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3],
        pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3],
    )


@inline
def splat_of(x, y, z, quats, scales, pose, intrinsics):
    """The 2D means and covariances xx, xy, yy of Gaussians that lie at x, y, z in the camera's frame."""
    fx, fy, cx, cy, width, height = intrinsics
    margin = np.float32(TANGENT_MARGIN)
    right, left = (width - cx) / fx + margin * width / fx, cx / fx + margin * width / fx
    bottom, top = (height - cy) / fy + margin * height / fy, cy / fy + margin * height / fy
    inverse_z = ONE / z
    tan_x, tan_y = x * inverse_z, y * inverse_z
    # Rows of J · R_camera: the Jacobian of the pinhole projection, its tangents clamped.
    j00, j11 = fx * inverse_z, fy * inverse_z
    j02 = ZERO - j00 * minimum(maximum(tan_x, -left), right)
    j12 = ZERO - j11 * minimum(maximum(tan_y, -top), bottom)
    a0, b0 = j00 * pose[0, 0] + j02 * pose[2, 0], j11 * pose[1, 0] + j12 * pose[2, 0]
    a1, b1 = j00 * pose[0, 1] + j02 * pose[2, 1], j11 * pose[1, 1] + j12 * pose[2, 1]
    a2, b2 = j00 * pose[0, 2] + j02 * pose[2, 2], j11 * pose[1, 2] + j12 * pose[2, 2]
    # u, v: those rows times R_Gaussian · S, so that the 2D covariance is [[u·u, u·v], [u·v, v·v]].
    w, p, q, r = quats
    s0, s1, s2 = scales
    r00, r10, r20 = ONE - TWO * (q * q + r * r), TWO * (p * q + w * r), TWO * (p * r - w * q)
    r01, r11, r21 = TWO * (p * q - w * r), ONE - TWO * (p * p + r * r), TWO * (q * r + w * p)
    r02, r12, r22 = TWO * (p * r + w * q), TWO * (q * r - w * p), ONE - TWO * (p * p + q * q)
    u0, v0 = (a0 * r00 + a1 * r10 + a2 * r20) * s0, (b0 * r00 + b1 * r10 + b2 * r20) * s0
    u1, v1 = (a0 * r01 + a1 * r11 + a2 * r21) * s1, (b0 * r01 + b1 * r11 + b2 * r21) * s1
    u2, v2 = (a0 * r02 + a1 * r12 + a2 * r22) * s2, (b0 * r02 + b1 * r12 + b2 * r22) * s2
    xx = u0 * u0 + u1 * u1 + u2 * u2 + EPS2D
    xy = u0 * v0 + u1 * v1 + u2 * v2
    yy = v0 * v0 + v1 * v1 + v2 * v2 + EPS2D
    return fx * tan_x + cx, fy * tan_y + cy, xx, xy, yy
