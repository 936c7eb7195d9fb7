"""EWA projection of Gaussians onto an image, as gsplat 1.5.3 does it in classic mode; a thread per Gaussian."""

import warp as wp

from feature_gs_ros.rasterizer import conventions

wp.set_module_options({"enable_backward": False})

NEAR_PLANE = wp.constant(float(conventions.NEAR_PLANE))
ALPHA_MIN = wp.constant(float(conventions.ALPHA_MIN))
TANGENT_MARGIN = wp.constant(float(conventions.TANGENT_MARGIN))
MAX_DETERMINANT = wp.constant(1.0e37)  # whose inverse float32 holds


@wp.struct
class Lens:
    """Pose and intrinsics: x_camera = rotation · x + shift; cx, cy from the image's corner."""

    rotation: wp.mat33
    shift: wp.vec3
    fx: float
    fy: float
    cx: float
    cy: float
    width: float
    height: float
    rotation64: wp.mat33d  # the same in float64, for means
    shift64: wp.vec3d
    focal64: wp.vec2d
    centre64: wp.vec2d


@wp.func
def rotation_of(quat: wp.vec4) -> wp.mat33:
    """Rotation matrix of a unit quaternion wxyz."""
    w, p, q, r = quat[0], quat[1], quat[2], quat[3]
    return wp.mat33(
        1.0 - 2.0 * (q * q + r * r), 2.0 * (p * q - w * r), 2.0 * (p * r + w * q),
        2.0 * (p * q + w * r), 1.0 - 2.0 * (p * p + r * r), 2.0 * (q * r - w * p),
        2.0 * (p * r - w * q), 2.0 * (q * r + w * p), 1.0 - 2.0 * (p * p + q * q),
    )  # fmt: skip


@wp.func
def tangents_of(point: wp.vec3, lens: Lens) -> wp.vec2:
    """x / z and y / z, clamped to the image's bounds widened by a margin: those of the Jacobian."""
    margin_x = TANGENT_MARGIN * lens.width
    margin_y = TANGENT_MARGIN * lens.height
    return wp.vec2(
        wp.clamp(point[0] / point[2], -(lens.cx + margin_x) / lens.fx, (lens.width - lens.cx + margin_x) / lens.fx),
        wp.clamp(point[1] / point[2], -(lens.cy + margin_y) / lens.fy, (lens.height - lens.cy + margin_y) / lens.fy),
    )


@wp.kernel
def project(
    means: wp.array(dtype=wp.vec3),
    quats: wp.array(dtype=wp.vec4),
    scales: wp.array(dtype=wp.vec3),
    opacities: wp.array(dtype=float),
    lens: Lens,
    antialiased: bool,
    blur: float,
    splats: wp.array2d(dtype=float),
    depths: wp.array(dtype=float),
):
    """Splats and camera z of the Gaussians that can touch the image; depth 0 of the others."""
    i = wp.tid()
    depths[i] = 0.0
    opacity = opacities[i]
    point = lens.rotation * means[i] + lens.shift
    if opacity < ALPHA_MIN or point[2] < NEAR_PLANE:
        return
    x = lens.fx * (point[0] / point[2]) + lens.cx
    y = lens.fy * (point[1] / point[2]) + lens.cy
    tangents = tangents_of(point, lens)
    # Rows of J · R_camera, turned into the Gaussian's axes and scaled: u and v, of which the covariance is
    # [[u·u, u·v], [u·v, v·v]].
    turned = wp.transpose(lens.rotation * rotation_of(quats[i]))
    u = wp.cw_mul(turned * wp.vec3(lens.fx / point[2], 0.0, -lens.fx / point[2] * tangents[0]), scales[i])
    v = wp.cw_mul(turned * wp.vec3(0.0, lens.fy / point[2], -lens.fy / point[2] * tangents[1]), scales[i])
    xx = wp.dot(u, u) + blur
    xy = wp.dot(u, v)
    yy = wp.dot(v, v) + blur
    # xx·yy − xy² cancels for needles, whose xx, xy and yy are rounded already. By Lagrange's identity
    # u·u v·v − (u·v)² = |u × v|², and every term is positive.
    normal = wp.cross(u, v)
    determinant = wp.dot(normal, normal) + blur * (xx + wp.dot(v, v))
    if antialiased:
        # What the blur spreads over the plane is taken from the peak: |u × v|² is the determinant without it.
        sharp = wp.min(wp.dot(normal, normal), MAX_DETERMINANT)
        opacity = opacity * wp.sqrt(sharp / wp.clamp(determinant, 1.0e-30, MAX_DETERMINANT))
        if opacity < ALPHA_MIN:
            return
    # alpha >= 1/255 ends at this Mahalanobis distance; a hair wider, so that only the alpha test decides.
    extent = wp.sqrt(2.0 * wp.log(wp.max(opacity * 255.0, 1.0))) * 1.0001
    width = extent * wp.sqrt(xx) + 1.0e-3
    height = extent * wp.sqrt(yy) + 1.0e-3
    if x + width <= 0.0 or x - width >= lens.width or y + height <= 0.0 or y - height >= lens.height:
        return
    inverse = 1.0 / wp.min(determinant, MAX_DETERMINANT)
    exact = (
        lens.rotation64 * wp.vec3d(wp.float64(means[i][0]), wp.float64(means[i][1]), wp.float64(means[i][2]))
        + lens.shift64
    )
    inverse_z = wp.float64(1.0) / exact[2]
    depths[i] = float(exact[2])
    splats[i, 0] = float(lens.focal64[0] * (exact[0] * inverse_z) + lens.centre64[0])
    splats[i, 1] = float(lens.focal64[1] * (exact[1] * inverse_z) + lens.centre64[1])
    splats[i, 2] = yy * inverse
    splats[i, 3] = -xy * inverse
    splats[i, 4] = xx * inverse
    splats[i, 5] = opacity
    splats[i, 6] = width
    splats[i, 7] = height
