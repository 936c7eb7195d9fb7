"""EWA projection of Gaussians onto an image."""

from __future__ import annotations

import math

import numpy as np

from feature_gs_ros.kernels import kernel
from feature_gs_ros.rasterizer.constants import (
    ALPHA_MIN,
    CONIC_A,
    CONIC_B,
    CONIC_C,
    EPS2D,
    MEAN_X,
    MEAN_Y,
    NEAR_PLANE,
    OPACITY,
    RADIUS_X,
    RADIUS_Y,
    TANGENT_MARGIN,
    WIDEST,
)


@kernel
def project(start, stop, means, quats, scales, opacities, pose, intrinsics, splats, depths, places):
    """Those of [start, stop) that can touch the image, side by side from ``start`` on; returns how many."""
    count = start
    fx, fy, cx, cy, width, height = intrinsics
    margin = np.float32(TANGENT_MARGIN)
    right, left = (width - cx) / fx + margin * width / fx, cx / fx + margin * width / fx
    bottom, top = (height - cy) / fy + margin * height / fy, cy / fy + margin * height / fy
    reach_x = fx * math.sqrt(np.float32(1) + max(right, left) ** 2)
    reach_y = fy * math.sqrt(np.float32(1) + max(bottom, top) ** 2)
    for i in range(start, stop):
        x = pose[0, 0] * means[i, 0] + pose[0, 1] * means[i, 1] + pose[0, 2] * means[i, 2] + pose[0, 3]
        y = pose[1, 0] * means[i, 0] + pose[1, 1] * means[i, 1] + pose[1, 2] * means[i, 2] + pose[1, 3]
        z = pose[2, 0] * means[i, 0] + pose[2, 1] * means[i, 1] + pose[2, 2] * means[i, 2] + pose[2, 3]
        opacity = opacities[i]
        if z < NEAR_PLANE or opacity < ALPHA_MIN:
            continue
        inverse_z = np.float32(1) / z
        mean_x, mean_y = fx * x * inverse_z + cx, fy * y * inverse_z + cy
        # Most of what lies outside goes here, before anything dear: a bound on the footprint from the largest scale.
        largest = max(scales[i, 0], max(scales[i, 1], scales[i, 2])) * inverse_z
        bound_x = WIDEST * (largest * reach_x + np.float32(1))
        bound_y = WIDEST * (largest * reach_y + np.float32(1))
        if mean_x + bound_x < 0 or mean_x - bound_x > width or mean_y + bound_y < 0 or mean_y - bound_y > height:
            continue
        # Rows of J · R_camera: the Jacobian of the pinhole projection, its tangents clamped.
        tx = z * min(right, max(-left, x * inverse_z))
        ty = z * min(bottom, max(-top, y * inverse_z))
        j00, j02 = fx * inverse_z, -fx * tx * inverse_z * inverse_z
        j11, j12 = fy * inverse_z, -fy * ty * inverse_z * inverse_z
        a0, a1, a2 = (
            j00 * pose[0, 0] + j02 * pose[2, 0],
            j00 * pose[0, 1] + j02 * pose[2, 1],
            j00 * pose[0, 2] + j02 * pose[2, 2],
        )
        b0, b1, b2 = (
            j11 * pose[1, 0] + j12 * pose[2, 0],
            j11 * pose[1, 1] + j12 * pose[2, 1],
            j11 * pose[1, 2] + j12 * pose[2, 2],
        )
        # u, v: those rows times R_Gaussian · S, so that the 2D covariance is [[u·u, u·v], [u·v, v·v]].
        w, p, q, r = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        s0, s1, s2 = scales[i, 0], scales[i, 1], scales[i, 2]
        two, one = np.float32(2), np.float32(1)
        r00, r01, r02 = one - two * (q * q + r * r), two * (p * q - w * r), two * (p * r + w * q)
        r10, r11, r12 = two * (p * q + w * r), one - two * (p * p + r * r), two * (q * r - w * p)
        r20, r21, r22 = two * (p * r - w * q), two * (q * r + w * p), one - two * (p * p + q * q)
        u0, u1, u2 = (
            (a0 * r00 + a1 * r10 + a2 * r20) * s0,
            (a0 * r01 + a1 * r11 + a2 * r21) * s1,
            (a0 * r02 + a1 * r12 + a2 * r22) * s2,
        )
        v0, v1, v2 = (
            (b0 * r00 + b1 * r10 + b2 * r20) * s0,
            (b0 * r01 + b1 * r11 + b2 * r21) * s1,
            (b0 * r02 + b1 * r12 + b2 * r22) * s2,
        )
        xx = u0 * u0 + u1 * u1 + u2 * u2 + EPS2D
        xy = u0 * v0 + u1 * v1 + u2 * v2
        yy = v0 * v0 + v1 * v1 + v2 * v2 + EPS2D
        # In float64: the products cancel for thin, slanted Gaussians.
        determinant = np.float64(xx) * yy - np.float64(xy) * xy
        if not determinant > 0:
            continue
        # alpha >= 1/255 ends at this Mahalanobis distance; a hair wider, so that only the alpha test decides.
        extent = math.sqrt(np.float32(2) * math.log(opacity * np.float32(255)))
        radius_x = extent * math.sqrt(xx) * np.float32(1.0001) + np.float32(1e-3)
        radius_y = extent * math.sqrt(yy) * np.float32(1.0001) + np.float32(1e-3)
        if (
            mean_x + radius_x <= 0
            or mean_x - radius_x >= width
            or mean_y + radius_y <= 0
            or mean_y - radius_y >= height
        ):
            continue
        splats[count, MEAN_X], splats[count, MEAN_Y] = mean_x, mean_y
        splats[count, CONIC_A], splats[count, CONIC_B], splats[count, CONIC_C] = (
            yy / determinant,
            -xy / determinant,
            xx / determinant,
        )
        splats[count, OPACITY], splats[count, RADIUS_X], splats[count, RADIUS_Y] = opacity, radius_x, radius_y
        depths[count], places[count] = z, i
        count += 1
    return count - start
