"""Gradients of blended channels: through each pixel's blending to splats, and through the projection to the map.

Walked front to back like the image itself, so that every weight is the one that was drawn: with the ray's total
``Σ_j w_j g·v_j`` known from the image, what lies behind Gaussian i is the total less what was passed,
``S_i = Σ_{j>i} w_j g·v_j``, and ``∂L/∂α_i = T_i g·v_i − S_i / (1 − α_i)``.
"""

import warp as wp

from feature_gs_ros.rasterizer.cuda.kernels.native import add_four, any_lane, first_bit, lanes
from feature_gs_ros.rasterizer.cuda.kernels.projection import Lens, rotation_of, tangents_of
from feature_gs_ros.rasterizer.cuda.kernels.walk import (
    ALPHA_MAX,
    LANES,
    Tiles,
    alpha_of,
    left_of,
    pixel_of,
    touching,
)

wp.set_module_options({"enable_backward": False})


@wp.kernel
def blend_back(
    tiles: Tiles,
    colors: wp.array2d(dtype=float),
    image: wp.array3d(dtype=float),
    d_image: wp.array3d(dtype=float),
    extra: wp.array2d(dtype=float),
    extra_image: wp.array3d(dtype=float),
    d_extra_image: wp.array3d(dtype=float),
    moments: wp.array(dtype=float),
):
    """Sums over pixels of ∂L/∂log α times 1, dx, dy, dx², dx dy, dy², and of w g of red, green, blue: [V · 12].

    ``image`` and ``d_image`` [H, W, 4]: colour and opacity. ``extra`` [V, C] with its images [H, W, C]; C = 0 where
    their gradient doesn't reach the splats.
    """
    thread = wp.tid()
    tile = thread / LANES
    pixel = pixel_of(tiles, tile, thread % LANES)
    x = float(pixel.x) + 0.5
    y = float(pixel.y) + 0.5
    transmittance = float(0.0)
    behind = float(0.0)
    red = float(0.0)
    green = float(0.0)
    blue = float(0.0)
    drawn = float(0.0)
    if pixel.inside:
        transmittance = 1.0
        red = d_image[pixel.y, pixel.x, 0]
        green = d_image[pixel.y, pixel.x, 1]
        blue = d_image[pixel.y, pixel.x, 2]
        drawn = d_image[pixel.y, pixel.x, 3]
        behind = red * image[pixel.y, pixel.x, 0] + green * image[pixel.y, pixel.x, 1]
        behind += blue * image[pixel.y, pixel.x, 2] + drawn * image[pixel.y, pixel.x, 3]
        for channel in range(extra.shape[1]):
            behind += d_extra_image[pixel.y, pixel.x, channel] * extra_image[pixel.y, pixel.x, channel]
    entry = tiles.entries[tile]
    end = tiles.entries[tile + 1]
    while entry < end:
        if not any_lane(transmittance > 0.0):
            entry = end
        else:
            todo = touching(tiles, entry, end, pixel)
            while todo != wp.uint32(0):
                i = tiles.gaussians[entry + first_bit(todo)]
                todo = todo & (todo - wp.uint32(1))
                weight = float(0.0)
                slope = float(0.0)
                if transmittance > 0.0:
                    alpha = alpha_of(tiles.splats, i, x, y)
                    weight = alpha * transmittance
                    transmittance = left_of(transmittance, weight)
                    if transmittance == 0.0:
                        weight = 0.0
                    if weight > 0.0:
                        value = red * colors[i, 0] + green * colors[i, 1] + blue * colors[i, 2] + drawn
                        for channel in range(extra.shape[1]):
                            value += d_extra_image[pixel.y, pixel.x, channel] * extra[i, channel]
                        behind = behind - weight * value
                        if alpha < ALPHA_MAX:  # a clipped α has no slope; α / (1 − α) = w / what is left
                            slope = weight * (value - behind / transmittance)
                if any_lane(weight > 0.0):
                    dx = x - tiles.splats[i, 0]
                    dy = y - tiles.splats[i, 1]
                    add_four(moments, 12 * i, 2, slope, slope * dx, slope * dy, slope * dx * dx)
                    add_four(moments, 12 * i + 4, 2, slope * dx * dy, slope * dy * dy, weight * red, weight * green)
                    add_four(moments, 12 * i + 8, 2, weight * blue, 0.0, 0.0, 0.0)
            entry += lanes()


@wp.kernel
def splats_back(splats: wp.array2d(dtype=float), moments: wp.array(dtype=float), d_splats: wp.array2d(dtype=float)):
    """These sums as gradients of mean x, y, conic a, b, c, opacity, red, green, blue: [V, 9]."""
    i = wp.tid()
    k = 12 * i
    across = moments[k + 1]
    down = moments[k + 2]
    d_splats[i, 0] = splats[i, 2] * across + splats[i, 3] * down
    d_splats[i, 1] = splats[i, 3] * across + splats[i, 4] * down
    d_splats[i, 2] = -0.5 * moments[k + 3]
    d_splats[i, 3] = -moments[k + 4]
    d_splats[i, 4] = -0.5 * moments[k + 5]
    d_splats[i, 5] = moments[k] / splats[i, 5]
    for channel in range(3):
        d_splats[i, 6 + channel] = moments[k + 6 + channel]


@wp.func
def quat_back(quat: wp.vec4, d: wp.mat33) -> wp.vec4:
    """∂L/∂quat of a rotation matrix's entries' gradients."""
    w, p, q, r = quat[0], quat[1], quat[2], quat[3]
    return 2.0 * wp.vec4(
        r * (d[1, 0] - d[0, 1]) + q * (d[0, 2] - d[2, 0]) + p * (d[2, 1] - d[1, 2]),
        q * (d[0, 1] + d[1, 0]) + r * (d[0, 2] + d[2, 0]) + w * (d[2, 1] - d[1, 2]) - 2.0 * p * (d[1, 1] + d[2, 2]),
        p * (d[0, 1] + d[1, 0]) + r * (d[1, 2] + d[2, 1]) + w * (d[0, 2] - d[2, 0]) - 2.0 * q * (d[0, 0] + d[2, 2]),
        p * (d[0, 2] + d[2, 0]) + q * (d[1, 2] + d[2, 1]) + w * (d[1, 0] - d[0, 1]) - 2.0 * r * (d[0, 0] + d[1, 1]),
    )  # fmt: skip


@wp.kernel
def project_back(
    rows: wp.array(dtype=wp.int32),
    splats: wp.array2d(dtype=float),
    d_splats: wp.array2d(dtype=float),
    means: wp.array(dtype=wp.vec3),
    quats: wp.array(dtype=wp.vec4),
    scales: wp.array(dtype=wp.vec3),
    lens: Lens,
    d_means: wp.array(dtype=wp.vec3),
    d_quats: wp.array(dtype=wp.vec4),
    d_scales: wp.array(dtype=wp.vec3),
    d_opacities: wp.array(dtype=float),
    d_means2d: wp.array(dtype=wp.vec2),
):
    """Splats' gradients to the map's rows, each of which one thread writes."""
    k = wp.tid()
    i = rows[k]
    g_x = d_splats[k, 0]
    g_y = d_splats[k, 1]
    d_opacities[i] = d_splats[k, 5]
    d_means2d[i] = wp.vec2(g_x, g_y)
    # u = S Rᵀ a and v = S Rᵀ b span the covariance, [[u·u, u·v], [u·v, v·v]]; a and b are rows of J · R_camera.
    point = lens.rotation * means[i] + lens.shift
    tangents = tangents_of(point, lens)
    j00 = lens.fx / point[2]
    j11 = lens.fy / point[2]
    a = wp.transpose(lens.rotation) * wp.vec3(j00, 0.0, -j00 * tangents[0])
    b = wp.transpose(lens.rotation) * wp.vec3(0.0, j11, -j11 * tangents[1])
    along_a = wp.transpose(rotation_of(quats[i])) * a
    along_b = wp.transpose(rotation_of(quats[i])) * b
    # The conic is the covariance's inverse K: ∂L/∂Σ = −K G K.
    half = 0.5 * d_splats[k, 3]
    conic = wp.mat22(splats[k, 2], splats[k, 3], splats[k, 3], splats[k, 4])
    h = -(conic * wp.mat22(d_splats[k, 2], half, half, d_splats[k, 4]) * conic)
    d_u = 2.0 * wp.cw_mul(scales[i], h[0, 0] * along_a + h[0, 1] * along_b)
    d_v = 2.0 * wp.cw_mul(scales[i], h[1, 0] * along_a + h[1, 1] * along_b)
    d_scales[i] = wp.cw_mul(d_u, along_a) + wp.cw_mul(d_v, along_b)
    d_u = wp.cw_mul(scales[i], d_u)
    d_v = wp.cw_mul(scales[i], d_v)
    d_quats[i] = quat_back(quats[i], wp.outer(a, d_u) + wp.outer(b, d_v))
    # Gradients of J: those of a and b in the camera's frame.
    d_j0 = lens.rotation * (rotation_of(quats[i]) * d_u)
    d_j1 = lens.rotation * (rotation_of(quats[i]) * d_v)
    d_x = g_x * j00
    d_y = g_y * j11
    d_z = -(d_x * point[0] + d_y * point[1] + j00 * d_j0[0] + j11 * d_j1[1]) / point[2]
    # j02 = −fx tan_x / z, where tan_x = x / z unless it is clamped.
    d_z += (j00 * tangents[0] * d_j0[2] + j11 * tangents[1] * d_j1[2]) / point[2]
    if tangents[0] == point[0] / point[2]:
        d_x -= j00 * d_j0[2] / point[2]
        d_z += j00 * tangents[0] * d_j0[2] / point[2]
    if tangents[1] == point[1] / point[2]:
        d_y -= j11 * d_j1[2] / point[2]
        d_z += j11 * tangents[1] * d_j1[2] / point[2]
    d_means[i] = wp.transpose(lens.rotation) * wp.vec3(d_x, d_y, d_z)
