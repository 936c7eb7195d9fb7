"""Gradients on the image back to the map: through the projection, and through the spherical harmonics."""

from __future__ import annotations

import numpy as np

from feature_gs_ros.numerics.runtime import inline, kernel
from feature_gs_ros.rasterizer.conventions import TANGENT_MARGIN
from feature_gs_ros.rasterizer.cpu.constants import CONIC_A, CONIC_B, CONIC_C
from feature_gs_ros.rasterizer.cpu.kernels.spherical_harmonics import C0, C1, C2, C3


@kernel
def project_back(start, stop, rows, splats, totals, geometry, camera, gradients):
    """∂L/∂(mean, conic, opacity) of splats to the map: the transpose of `projection.project`'s derivative, float32.

    Args:
        rows: [V] the row of each splat in ``geometry``, each at most once.
        totals: [V, ≥ 6], the first six columns ∂L/∂ of mean x, y, conic a, b, c and opacity.
        geometry, camera: `Geometry` and `Pinhole`.
        gradients: `MapGradients`, added to in these rows.
    """
    means, quats, scales, _ = geometry
    d_means, d_quats, d_scales, d_opacities, d_means2d = gradients
    pose, intrinsics = camera.pose, camera.intrinsics
    fx, fy, cx, cy, width, height = intrinsics
    margin, two = np.float32(TANGENT_MARGIN), np.float32(2)
    right, left = (width - cx) / fx + margin * width / fx, cx / fx + margin * width / fx
    bottom, top = (height - cy) / fy + margin * height / fy, cy / fy + margin * height / fy
    axes, d_axes = np.empty((3, 3), np.float32), np.empty((3, 3), np.float32)
    row_a, row_b, d_a, d_b = (
        np.empty(3, np.float32),
        np.empty(3, np.float32),
        np.empty(3, np.float32),
        np.empty(3, np.float32),
    )
    for k in range(start, stop):
        i = rows[k]
        g_x, g_y, g_a, g_b, g_c, g_opacity = (
            totals[k, 0], totals[k, 1], totals[k, 2], totals[k, 3], totals[k, 4], totals[k, 5],
        )  # fmt: skip
        d_opacities[i] += g_opacity
        d_means2d[i, 0] += g_x
        d_means2d[i, 1] += g_y
        x = pose[0, 0] * means[i, 0] + pose[0, 1] * means[i, 1] + pose[0, 2] * means[i, 2] + pose[0, 3]
        y = pose[1, 0] * means[i, 0] + pose[1, 1] * means[i, 1] + pose[1, 2] * means[i, 2] + pose[1, 3]
        z = pose[2, 0] * means[i, 0] + pose[2, 1] * means[i, 1] + pose[2, 2] * means[i, 2] + pose[2, 3]
        inverse_z = np.float32(1) / z
        tangent_x, tangent_y = min(right, max(-left, x * inverse_z)), min(bottom, max(-top, y * inverse_z))
        free_x, free_y = tangent_x == x * inverse_z, tangent_y == y * inverse_z
        j00, j02 = fx * inverse_z, -fx * tangent_x * inverse_z
        j11, j12 = fy * inverse_z, -fy * tangent_y * inverse_z
        rotate(quats[i], axes)
        # The conic is the covariance's inverse K: ∂L/∂Σ = −K G K.
        a, b, c = splats[k, CONIC_A], splats[k, CONIC_B], splats[k, CONIC_C]
        half = np.float32(0.5) * g_b
        p00, p01, p10, p11 = g_a * a + half * b, g_a * b + half * c, half * a + g_c * b, half * b + g_c * c
        h_xx, h_xy, h_yy = -(a * p00 + b * p10), -(a * p01 + b * p11), -(b * p01 + c * p11)
        for axis in range(3):
            row_a[axis] = j00 * pose[0, axis] + j02 * pose[2, axis]
            row_b[axis] = j11 * pose[1, axis] + j12 * pose[2, axis]
            d_a[axis], d_b[axis] = np.float32(0), np.float32(0)
        # u = a · R S and v = b · R S span the covariance, [[u·u, u·v], [u·v, v·v]].
        for axis in range(3):
            scale = scales[i, axis]
            along_a = row_a[0] * axes[0, axis] + row_a[1] * axes[1, axis] + row_a[2] * axes[2, axis]
            along_b = row_b[0] * axes[0, axis] + row_b[1] * axes[1, axis] + row_b[2] * axes[2, axis]
            d_u = two * scale * (h_xx * along_a + h_xy * along_b)
            d_v = two * scale * (h_xy * along_a + h_yy * along_b)
            d_scales[i, axis] += d_u * along_a + d_v * along_b
            for m in range(3):
                d_axes[m, axis] = scale * (d_u * row_a[m] + d_v * row_b[m])
                d_a[m] += d_u * scale * axes[m, axis]
                d_b[m] += d_v * scale * axes[m, axis]
        rotate_back(quats[i], d_axes, d_quats[i])
        d_j00 = d_a[0] * pose[0, 0] + d_a[1] * pose[0, 1] + d_a[2] * pose[0, 2]
        d_j02 = d_a[0] * pose[2, 0] + d_a[1] * pose[2, 1] + d_a[2] * pose[2, 2]
        d_j11 = d_b[0] * pose[1, 0] + d_b[1] * pose[1, 1] + d_b[2] * pose[1, 2]
        d_j12 = d_b[0] * pose[2, 0] + d_b[1] * pose[2, 1] + d_b[2] * pose[2, 2]
        d_x, d_y = g_x * fx * inverse_z, g_y * fy * inverse_z
        d_z = -(d_x * x + d_y * y) * inverse_z - (fx * d_j00 + fy * d_j11) * inverse_z * inverse_z
        # j02 = −fx tan_x / z, where tan_x = x / z unless it is clamped.
        d_z += (fx * tangent_x * d_j02 + fy * tangent_y * d_j12) * inverse_z * inverse_z
        if free_x:
            d_x -= fx * d_j02 * inverse_z * inverse_z
            d_z += fx * tangent_x * d_j02 * inverse_z * inverse_z
        if free_y:
            d_y -= fy * d_j12 * inverse_z * inverse_z
            d_z += fy * tangent_y * d_j12 * inverse_z * inverse_z
        for axis in range(3):
            d_means[i, axis] += pose[0, axis] * d_x + pose[1, axis] * d_y + pose[2, axis] * d_z


@inline
def rotate(quat, axes):
    """Rotation matrix of a unit quaternion wxyz."""
    w, p, q, r = quat[0], quat[1], quat[2], quat[3]
    one, two = np.float32(1), np.float32(2)
    axes[0, 0], axes[0, 1], axes[0, 2] = one - two * (q * q + r * r), two * (p * q - w * r), two * (p * r + w * q)
    axes[1, 0], axes[1, 1], axes[1, 2] = two * (p * q + w * r), one - two * (p * p + r * r), two * (q * r - w * p)
    axes[2, 0], axes[2, 1], axes[2, 2] = two * (p * r - w * q), two * (q * r + w * p), one - two * (p * p + q * q)


@inline
def rotate_back(quat, d, d_quat):
    """Add ∂L/∂quat of the matrix entries' gradients ``d``."""
    w, p, q, r = quat[0], quat[1], quat[2], quat[3]
    two = np.float32(2)
    d_quat[0] += two * (r * (d[1, 0] - d[0, 1]) + q * (d[0, 2] - d[2, 0]) + p * (d[2, 1] - d[1, 2]))
    d_quat[1] += two * (
        q * (d[0, 1] + d[1, 0]) + r * (d[0, 2] + d[2, 0]) + w * (d[2, 1] - d[1, 2]) - two * p * (d[1, 1] + d[2, 2])
    )
    d_quat[2] += two * (
        p * (d[0, 1] + d[1, 0]) + r * (d[1, 2] + d[2, 1]) + w * (d[0, 2] - d[2, 0]) - two * q * (d[0, 0] + d[2, 2])
    )
    d_quat[3] += two * (
        p * (d[0, 2] + d[2, 0]) + q * (d[1, 2] + d[2, 1]) + w * (d[1, 0] - d[0, 1]) - two * r * (d[0, 0] + d[1, 1])
    )


@kernel
def colors_back(start, stop, rows, colors, d_colors, sh, means, eye, d_sh, d_means):
    """∂L/∂colour [V, 3] to the spherical harmonics' coefficients and, through the direction, to the means.

    Args:
        rows: [V] the map's row of each splat, each at most once.
        colors: [V, ≥ 3] as drawn: where max(…, 0) clipped, nothing passes.
        sh, means, eye: [N, K, 3], [N, 3] and the camera's centre [3], splat frame.
        d_sh, d_means: added to in these rows.
    """
    coefficients = sh.shape[1]
    basis, slopes = np.zeros(16, np.float32), np.zeros((16, 3), np.float32)
    g = np.empty(3, np.float32)
    basis[0] = C0
    for k in range(start, stop):
        i = rows[k]
        for channel in range(3):  # max(…, 0) lets nothing through where it clips
            g[channel] = d_colors[k, channel] if colors[k, channel] > np.float32(0) else np.float32(0)
        x, y, z = means[i, 0] - eye[0], means[i, 1] - eye[1], means[i, 2] - eye[2]
        inverse = np.float32(1) / max(np.sqrt(x * x + y * y + z * z), np.float32(1e-12))
        x, y, z = x * inverse, y * inverse, z * inverse
        if coefficients > 1:
            fill_basis(x, y, z, coefficients, basis, slopes)
        d_x, d_y, d_z = np.float32(0), np.float32(0), np.float32(0)
        for n in range(coefficients):
            d_basis = np.float32(0)
            for channel in range(3):
                d_sh[i, n, channel] += basis[n] * g[channel]
                d_basis += sh[i, n, channel] * g[channel]
            d_x += d_basis * slopes[n, 0]
            d_y += d_basis * slopes[n, 1]
            d_z += d_basis * slopes[n, 2]
        along = d_x * x + d_y * y + d_z * z  # a direction's length doesn't count
        d_means[i, 0] += (d_x - along * x) * inverse
        d_means[i, 1] += (d_y - along * y) * inverse
        d_means[i, 2] += (d_z - along * z) * inverse


@inline
def fill_basis(x, y, z, coefficients, basis, slopes):
    """The basis functions 1 … at a unit direction, and their derivatives by x, y and z."""
    basis[1], basis[2], basis[3] = -C1 * y, C1 * z, -C1 * x
    slopes[1, 1], slopes[2, 2], slopes[3, 0] = -C1, C1, -C1
    if coefficients > 4:
        two, three, four, six, eight = np.float32(2), np.float32(3), np.float32(4), np.float32(6), np.float32(8)
        xx, yy, zz = x * x, y * y, z * z
        basis[4], basis[5] = C2[0] * x * y, -C2[0] * y * z
        basis[6] = C2[1] * (two * zz - xx - yy)
        basis[7], basis[8] = -C2[0] * x * z, C2[2] * (xx - yy)
        slopes[4, 0], slopes[4, 1] = C2[0] * y, C2[0] * x
        slopes[5, 1], slopes[5, 2] = -C2[0] * z, -C2[0] * y
        slopes[6, 0], slopes[6, 1], slopes[6, 2] = -two * C2[1] * x, -two * C2[1] * y, four * C2[1] * z
        slopes[7, 0], slopes[7, 2] = -C2[0] * z, -C2[0] * x
        slopes[8, 0], slopes[8, 1] = two * C2[2] * x, -two * C2[2] * y
        if coefficients > 9:
            basis[9], basis[15] = -C3[0] * y * (three * xx - yy), -C3[0] * x * (xx - three * yy)
            basis[10], basis[14] = C3[1] * x * y * z, C3[4] * z * (xx - yy)
            basis[11], basis[13] = -C3[2] * y * (four * zz - xx - yy), -C3[2] * x * (four * zz - xx - yy)
            basis[12] = C3[3] * z * (two * zz - three * xx - three * yy)
            slopes[9, 0], slopes[9, 1] = -six * C3[0] * x * y, -three * C3[0] * (xx - yy)
            slopes[10, 0], slopes[10, 1], slopes[10, 2] = C3[1] * y * z, C3[1] * x * z, C3[1] * x * y
            slopes[11, 0], slopes[11, 1] = two * C3[2] * x * y, -C3[2] * (four * zz - xx - three * yy)
            slopes[11, 2] = -eight * C3[2] * y * z
            slopes[12, 0], slopes[12, 1] = -six * C3[3] * x * z, -six * C3[3] * y * z
            slopes[12, 2] = C3[3] * (six * zz - three * xx - three * yy)
            slopes[13, 0], slopes[13, 1] = -C3[2] * (four * zz - three * xx - yy), two * C3[2] * x * y
            slopes[13, 2] = -eight * C3[2] * x * z
            slopes[14, 0], slopes[14, 1], slopes[14, 2] = two * C3[4] * x * z, -two * C3[4] * y * z, C3[4] * (xx - yy)
            slopes[15, 0], slopes[15, 1] = -three * C3[0] * (xx - yy), six * C3[0] * x * y
