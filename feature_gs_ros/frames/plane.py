"""``splat_from_map`` from a known plane (a table top, the floor) and one camera's known height above it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.frames.poses import Poses
from feature_gs_ros.frames.report import AlignmentReport, ViewResidual
from feature_gs_ros.frames.umeyama import Array

MIN_OPACITY = 0.5
MAX_POINTS = 20_000
TRIALS = 500
THICKNESS = 0.004  # of the map's extent: how far points of one plane lie off it
MIN_ON_PLANE = 0.05  # of the Gaussians
FREE = "a plane leaves heading and horizontal position free; they are arbitrary here: give --start, or use markers"


def largest_plane(gaussians: GaussianMap) -> tuple[Array, float, NDArray[np.bool_]]:
    """The plane ``normal · x = offset`` with most Gaussians: unit normal [3], offset, and which ones lie on it.

    Raises:
        AlignmentError: there is no plane to speak of.
    """
    points = gaussians.means[gaussians.opacities >= MIN_OPACITY].double().numpy()
    rng = np.random.default_rng(0)
    if len(points) > MAX_POINTS:
        points = points[rng.choice(len(points), MAX_POINTS, replace=False)]
    if len(points) < 3:
        raise AlignmentError(f"{len(points)} Gaussians are opaque enough to find a plane in", code="alignment.too-few")
    low, high = np.quantile(points, [0.1, 0.9], axis=0)
    thickness = THICKNESS * float(np.linalg.norm(high - low))
    best: tuple[Array, float] = (np.array([0.0, 0.0, 1.0]), 0.0)
    most = 0
    for triple in (rng.choice(len(points), 3, replace=False) for _ in range(TRIALS)):
        a, b, c = points[triple]
        normal = np.cross(b - a, c - a)
        length = float(np.linalg.norm(normal))
        if length < 1e-12:
            continue
        count = int((np.abs((points - a) @ (normal / length)) < thickness).sum())
        if count > most:
            best, most = (normal / length, float(a @ normal / length)), count
    if most < MIN_ON_PLANE * len(points):
        raise AlignmentError(
            "the map has no large plane; align it by poses, points or markers", code="alignment.not-found"
        )
    normal, offset = best
    for _ in range(3):
        on = np.abs(points @ normal - offset) < thickness
        middle = points[on].mean(axis=0)
        normal = np.linalg.svd(points[on] - middle, full_matrices=False)[2][2]
        offset = float(normal @ middle)
    return normal, offset, np.abs(points @ normal - offset) < thickness


def align_plane(
    gaussians: GaussianMap,
    reference: Poses,
    height: float,
    camera_heights: Mapping[str, float],
    start: Sim3 | None = None,
) -> AlignmentReport:
    """The similarity by which the map's largest plane is level at a height, and cameras are as high above it as known.

    A plane leaves the heading and the horizontal position free: they are those of ``start``, or else such that the
    splat's x axis points along the map's as far as it can and the first camera stands above the origin.

    Args:
        reference: camera poses in the splat's frame, all on the plane's upper side.
        height: of the plane in the map frame, metres along z.
        camera_heights: metres above the plane by name, one at least: they give the scale.

    Raises:
        AlignmentError: no plane, no such camera, or a height that isn't positive.
    """
    normal, offset, _ = largest_plane(gaussians)
    if np.median(reference.positions @ normal - offset) < 0:
        normal, offset = -normal, -offset
    rows = {name: row for row, name in enumerate(reference.names)}
    unknown = [name for name in camera_heights if name not in rows]
    if unknown or not camera_heights:
        raise AlignmentError(
            f"camera {', '.join(unknown) or 'heights'} of '{reference.source}': give NAME=METRES of its frames",
            code="alignment.size",
        )
    if min(camera_heights.values()) <= 0:
        raise AlignmentError(
            f"a camera height of {min(camera_heights.values())} m; expected metres above the plane",
            code="alignment.value",
        )
    known = np.array(list(camera_heights.values()))
    above = np.array([float(reference.positions[rows[name]] @ normal - offset) for name in camera_heights])
    scale = float(known @ above / (known @ known))  # least squares of above = scale · known
    if scale <= 0:
        raise AlignmentError(
            "the cameras of known height are below the plane; is it the map's largest one?", code="alignment.degenerate"
        )
    rotation = _level(normal, np.eye(3) if start is None else start.rotation.T)
    level = Sim3(1 / scale, quat_wxyz_from_rotation(rotation), np.zeros(3))
    foot = reference.positions[0] if start is None else start.apply(np.zeros(3))
    shift = -level.apply(foot)
    shift[2] = height - float(level.apply(normal * offset)[2])
    residuals = above / scale - known
    covariance = np.diag([float(residuals.var()) / float(known.mean()) ** 2, *[np.nan] * 6])
    return AlignmentReport(
        Sim3(level.scale, level.quat_wxyz, shift).inverse(),
        "plane and height",
        tuple(
            ViewResidual(name, 1000 * abs(float(residual)))
            for name, residual in zip(camera_heights, residuals, strict=True)
        ),
        covariance,
        warnings=() if start is not None else (FREE,),
    )


def _level(normal: Array, heading: Array) -> Array:
    """The rotation [3, 3] that takes the normal to z and is as near to ``heading`` as that allows."""
    x = heading[0] - (heading[0] @ normal) * normal
    if np.linalg.norm(x) < 0.1:
        x = heading[1] - (heading[1] @ normal) * normal
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(normal, x), normal])
