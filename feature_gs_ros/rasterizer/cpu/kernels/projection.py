"""EWA projection of Gaussians onto an image, sixteen at a time."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.numerics.simd import (
    SIZE,
    bits,
    count_bits,
    load_quadruples,
    load_scalars,
    load_triples,
    maximum,
    minimum,
    pack_indices,
    pack_octets,
    pack_scalars,
    prefetch,
    square_root,
)
from feature_gs_ros.numerics.simd.math import log_from_one
from feature_gs_ros.rasterizer.conventions import ALPHA_MIN, NEAR_PLANE, TANGENT_MARGIN
from feature_gs_ros.rasterizer.cpu.constants import MEAN_X, MEAN_Y

PLANES = 5  # around what can touch the image
PREFETCH = 6  # blocks after which what one needs has come from memory
MAX_DETERMINANT = np.float32(1e37)  # determinant whose inverse float32 holds
MIN_DETERMINANT = np.float32(1e-30)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)


@kernel
def blocks_in_view(low, high, largest, planes, slack, found):
    """Blocks of sixteen Gaussians that may hold some that touch the image, into ``found`` [≥ B + 16]; returns how many.

    The means of each lie in a box [low, high] [B, 3], no scale is above ``largest`` [B]. ``planes`` [5, 5] are those
    of `touching_planes` in the map's frame; rounding moves none by more than slack[:, 0] per unit of distance
    from the origin and slack[:, 1].
    """
    blocks, count = low.shape[0], 0
    for first in range(0, blocks, SIZE):
        x0, y0, z0 = load_triples(low, first)
        x1, y1, z1 = load_triples(high, first)
        scale = load_scalars(largest, first)
        distance = maximum(maximum(maximum(x1, ZERO - x0), maximum(y1, ZERO - y0)), maximum(z1, ZERO - z0))
        inside = scale >= ZERO
        for p in range(PLANES):
            a, b, c = planes[p, 0], planes[p, 1], planes[p, 2]
            corner = maximum(a * x0, a * x1) + maximum(b * y0, b * y1) + maximum(c * z0, c * z1)
            bound = corner + planes[p, 3] * scale + planes[p, 4]
            inside &= bound + slack[p, 0] * distance + slack[p, 1] >= ZERO
        kept = bits(inside) & ((1 << min(SIZE, blocks - first)) - 1)
        pack_indices(found, count, first, kept)
        count += count_bits(kept)
    return count


@kernel
def project(start, stop, blocks, geometry, camera, planes, room):
    """Project the Gaussians of ``blocks[start:stop]``, 16 each, that can touch the image; returns how many.

    Mean μ = (fx x/z + cx, fy y/z + cy); covariance Σ = J R S Sᵀ Rᵀ Jᵀ + blur · 1 with J the pinhole's Jacobian, its
    tangents clamped (`lens_of`); conic Σ⁻¹; footprint √Σ_xx and √Σ_yy times the distance at which α falls to ALPHA_MIN.
    Dropped are Gaussians before NEAR_PLANE, those outside ``planes`` [5, 5], and footprints beside the image.

    Args:
        geometry, camera: `Geometry` and `Pinhole`; float32 throughout.
        room: `Projected`, written from 16 · start on, in ascending order of the indices; 16 · stop is never reached,
            but all between may be written over.
    """
    means, quats, scales, opacities = geometry
    pose, intrinsics = camera.pose, camera.intrinsics
    splats, depths, indices = room.splats, room.depths, room.indices
    count = start * SIZE
    lens, width, height = lens_of(intrinsics), intrinsics[4], intrinsics[5]
    for k in range(start, stop):
        first = np.int64(blocks[k]) * SIZE
        prefetch_block(np.int64(blocks[min(k + PREFETCH, stop - 1)]) * SIZE, means, quats, scales, opacities)
        x, y, z = to_camera(load_triples(means, first), pose)
        s0, s1, s2 = load_triples(scales, first)
        opacity = load_scalars(opacities, first)
        largest = maximum(s0, maximum(s1, s2))
        # Most of what lies outside goes here, before anything dear.
        possible = opacity >= ALPHA_MIN
        for p in range(PLANES):
            bound = planes[p, 0] * x + planes[p, 1] * y + planes[p, 2] * z + planes[p, 3] * largest + planes[p, 4]
            possible &= bound >= ZERO
        if bits(possible) == 0:
            continue
        z = maximum(z, NEAR_PLANE)
        quat = load_quadruples(quats, first)
        mean_x, mean_y, xx, xy, yy, determinant, sharp = splats_of(x, y, z, quat, (s0, s1, s2), pose, lens, camera.blur)
        determinant = minimum(determinant, MAX_DETERMINANT)
        if camera.antialiased:  # what the blur spreads over the plane is taken from the peak
            opacity = opacity * square_root(minimum(sharp, MAX_DETERMINANT) / maximum(determinant, MIN_DETERMINANT))
            possible &= opacity >= ALPHA_MIN
        # alpha >= 1/255 ends at this Mahalanobis distance; a hair wider, so that only the alpha test decides.
        extent = square_root(TWO * log_from_one(maximum(opacity * np.float32(255), ONE))) * np.float32(1.0001)
        radius_x = extent * square_root(xx) + np.float32(1e-3)
        radius_y = extent * square_root(yy) + np.float32(1e-3)
        touches = (mean_x + radius_x > ZERO) & (width > mean_x - radius_x)
        touches &= (mean_y + radius_y > ZERO) & (height > mean_y - radius_y)
        kept = bits(possible & touches & (determinant > ZERO))
        inverse = ONE / determinant
        columns = (mean_x, mean_y, yy * inverse, ZERO - xy * inverse, xx * inverse, opacity, radius_x, radius_y)
        pack_octets(splats, count, columns, kept)
        pack_scalars(depths, count, z, kept)
        pack_indices(indices, count, first, kept)
        end = count + count_bits(kept)
        place_means(count, end, indices, means, camera, splats, depths)
        count = end
    return count - start * SIZE


@inline
def place_means(first, end, indices, means, camera, splats, depths):
    """Means on the image and depths of splats, computed in float64 and rounded once.

    All in float32 a mean is off by up to 1e-4 px, and so are the weights of a Gaussian of a pixel, relative; backends
    that round otherwise would differ by as much, and draw Gaussians of almost the same depth in another order.
    """
    pose, lens = camera.pose64, camera.lens64
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    for k in range(first, end):
        i = indices[k]
        x, y, z = to_camera((np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])), pose)
        inverse_z = 1.0 / z
        splats[k, MEAN_X] = np.float32(fx * (x * inverse_z) + cx)
        splats[k, MEAN_Y] = np.float32(fy * (y * inverse_z) + cy)
        depths[k] = np.float32(z)


@kernel
def close_gap(to, start, count, room):
    """Move ``count`` splats that begin at ``start`` down to ``to``."""
    splats, depths, indices = room.splats, room.depths, room.indices
    for k in range(count if to < start else 0):
        for column in range(splats.shape[1]):
            splats[to + k, column] = splats[start + k, column]
        depths[to + k], indices[to + k] = depths[start + k], indices[start + k]


@inline
def prefetch_block(first, means, quats, scales, opacities):
    """Ask for sixteen Gaussians from memory: blocks in view lie apart, so the processor can't know the next one."""
    for line in range(3):
        prefetch(means, first * 3 + line * SIZE)
        prefetch(scales, first * 3 + line * SIZE)
    for line in range(4):
        prefetch(quats, first * 4 + line * SIZE)
    prefetch(opacities, first)


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
def lens_of(intrinsics):
    """fx, fy, cx, cy, and the least and greatest tangents that the Jacobian knows, in x and in y."""
    fx, fy, cx, cy = intrinsics[0], intrinsics[1], intrinsics[2], intrinsics[3]
    width, height, margin = intrinsics[4], intrinsics[5], np.float32(TANGENT_MARGIN)
    left, right = -(cx + margin * width) / fx, (width - cx + margin * width) / fx
    top, bottom = -(cy + margin * height) / fy, (height - cy + margin * height) / fy
    return fx, fy, cx, cy, (left, right, top, bottom)


@inline
def splats_of(x, y, z, quats, scales, pose, lens, blur):
    """2D means, covariances xx, xy, yy, determinants and those without the blur; x, y, z are in the camera's frame."""
    fx, fy, cx, cy, (left, right, top, bottom) = lens
    inverse_z = ONE / z
    tan_x, tan_y = x * inverse_z, y * inverse_z
    # Rows of J · R_camera: the Jacobian of the pinhole projection, its tangents clamped.
    j00, j11 = fx * inverse_z, fy * inverse_z
    j02 = ZERO - j00 * minimum(maximum(tan_x, left), right)
    j12 = ZERO - j11 * minimum(maximum(tan_y, top), bottom)
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
    uu = u0 * u0 + u1 * u1 + u2 * u2
    uv = u0 * v0 + u1 * v1 + u2 * v2
    vv = v0 * v0 + v1 * v1 + v2 * v2
    # xx·yy − xy² cancels for needles: of a covariance of condition 1e7 float32 leaves no digit. By Lagrange's identity
    # u·u v·v − (u·v)² = |u × v|², and every term is positive.
    n0, n1, n2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
    sharp = n0 * n0 + n1 * n1 + n2 * n2
    determinant = sharp + blur * (uu + vv + blur)
    return fx * tan_x + cx, fy * tan_y + cy, uu + blur, uv, vv + blur, determinant, sharp
