"""A lens, its inverse, and the rays through a camera's pixels.

OpenCV's own inverse stops after five fixed-point steps, pixels away from the answer near a strong lens's corners; this
one is Newton's method to convergence.

The models are OpenCV's, which CameraInfo names: Brown's (`plumb_bob`), its rational extension and the fisheye.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.errors import CameraError

Floats = NDArray[np.float64]
_INVERSION_STEPS = 50
_INVERSION_ERROR = 1e-9  # of the distorted point, focal length 1


def pixel_rays(camera: Camera) -> Floats:
    """Points (x, y) [H, W, 2] of the rays (x, y, 1) through the pixels' centres.

    Raises:
        CameraError: the lens model is unknown, or folds over within the image.
    """
    x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    seen = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)
    if camera.distortion is None:
        return np.ascontiguousarray(seen)
    return undistorted(seen, camera.distortion)


def distorted(points: Floats, lens: Distortion) -> Floats:
    """Where the ideal points [..., 2] (x/z, y/z) appear behind the lens, focal length 1."""
    if lens.model == "equidistant":
        k = _padded(lens.coefficients, 4)
        radius = np.maximum(np.linalg.norm(points, axis=-1, keepdims=True), 1e-12)
        angle = np.arctan(radius)
        bent: Floats = angle * (1 + k[0] * angle**2 + k[1] * angle**4 + k[2] * angle**6 + k[3] * angle**8)
        bent_points: Floats = points * (bent / radius)
        return bent_points
    if lens.model not in ("plumb_bob", "rational_polynomial"):
        raise CameraError(
            f"lens model '{lens.model}' is unknown; use plumb_bob, rational_polynomial or equidistant",
            code="camera.unknown",
        )
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tilt_x, tilt_y = _padded(lens.coefficients, 14)
    x, y = points[..., 0], points[..., 1]
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    bent_points = np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + r2 * (s1 + r2 * s2),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + r2 * (s3 + r2 * s4),
        ],
        axis=-1,
    )
    return _tilted(bent_points, tilt_x, tilt_y) if tilt_x or tilt_y else bent_points


def _tilted(points: Floats, tilt_x: float, tilt_y: float) -> Floats:
    """Points [..., 2] on a sensor turned by tilt_x about x, then tilt_y about y [rad], as OpenCV's tilted model."""
    cos_x, sin_x, cos_y, sin_y = np.cos(tilt_x), np.sin(tilt_x), np.cos(tilt_y), np.sin(tilt_y)
    about_x = np.array([[1, 0, 0], [0, cos_x, sin_x], [0, -sin_x, cos_x]])
    about_y = np.array([[cos_y, 0, -sin_y], [0, 1, 0], [sin_y, 0, cos_y]])
    turned = about_y @ about_x
    onto_sensor = np.array([[turned[2, 2], 0, -turned[0, 2]], [0, turned[2, 2], -turned[1, 2]], [0, 0, 1]]) @ turned
    image = points @ onto_sensor[:, :2].T + onto_sensor[:, 2]
    on_sensor: Floats = image[..., :2] / image[..., 2:]
    return on_sensor


def undistorted(points: Floats, lens: Distortion) -> Floats:
    """The inverse of `distorted` by Newton's method with a numerical Jacobian, [..., 2] -> [..., 2].

    Raises:
        CameraError: it doesn't converge: the lens model folds over within these points.
    """
    ideal: Floats = points.copy()
    step = 1e-6
    x_step, y_step = np.array([step, 0.0]), np.array([0.0, step])
    for _ in range(_INVERSION_STEPS):
        error = distorted(ideal, lens) - points
        if float(np.abs(error).max()) < _INVERSION_ERROR:
            return ideal
        along_x = (distorted(ideal + x_step, lens) - distorted(ideal - x_step, lens)) / (2 * step)
        along_y = (distorted(ideal + y_step, lens) - distorted(ideal - y_step, lens)) / (2 * step)
        determinant = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
        if not bool((determinant > 1e-6).all()):
            break
        ideal = ideal - np.stack(
            [
                (along_y[..., 1] * error[..., 0] - along_y[..., 0] * error[..., 1]) / determinant,
                (along_x[..., 0] * error[..., 1] - along_x[..., 1] * error[..., 0]) / determinant,
            ],
            axis=-1,
        )
    raise CameraError(
        f"the {lens.model} lens {lens.coefficients} folds over within the image; "
        "its coefficients don't belong to this focal length",
        code="camera.lens",
    )


def _padded(coefficients: Sequence[float], count: int) -> list[float]:
    return [*coefficients, *[0.0] * count][:count]
