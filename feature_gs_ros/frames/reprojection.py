"""Where points of the map fall in images by a hypothesis about cameras and poses, and fits of such hypotheses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from feature_gs_ros.core.camera import Camera, Frame
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.lens import distorted
from feature_gs_ros.frames.features import MATCHING_SIZE, Matches2D3D
from feature_gs_ros.frames.umeyama import Array, moved

TOLERANCE = 4.0  # px of an image of MATCHING_SIZE: how far right matches lie off, with poses a little off
ANNEALING = (40.0, 15.0, 5.0, 2.0)  # px: scales of the robust loss, one after another
SHARED_ERROR = 0.3  # px of the matched image: edges of a soft map lie that much off, the same way in all views
MAX_FITTED = 1500  # matches that a fit uses
BEHIND = 1e4  # px: residual of a point behind its camera
MIN_PNP = 7  # inliers of a pose from matches


@dataclass(frozen=True, eq=False)
class PosedCamera:
    """One frame's camera and pose in the splat, as some hypothesis has them."""

    camera: Camera  # as the image was taken, with its lens
    camera_from_splat: Array  # [4, 4]


def posed_cameras(frames: Sequence[Frame], splat_from_map: Sim3) -> list[PosedCamera]:
    """As the stream and the alignment say."""
    return [PosedCamera(frame.camera, splat_from_map.camera_from_splat(frame.camera_from_world)) for frame in frames]


def matching_scale(camera: Camera) -> float:
    """Pixels of the image per pixel of the reduced image that is matched."""
    return max(1.0, max(camera.width, camera.height) / MATCHING_SIZE)


def project(camera: Camera, points: Array) -> Array:
    """Pixels [M, 2] of points [M, 3] in the camera's frame, through its lens; far outside where they are behind it."""
    depth = points[:, 2:]
    in_front = depth[:, 0] > 1e-6
    plane = points[:, :2] / np.where(in_front[:, None], depth, 1.0)
    if camera.distortion is not None:
        # Beyond the field of view a lens's polynomial means nothing.
        plane = distorted(np.clip(plane, -2.5, 2.5), camera.distortion)
    pixels = plane * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    return np.where(in_front[:, None], pixels, -BEHIND * matching_scale(camera))


def residuals(cameras: Sequence[PosedCamera], matches: Matches2D3D) -> Array:
    """Projected minus seen [M, 2], in pixels of the matched image."""
    off = np.empty((len(matches), 2))
    for index, rows in matches.by_frame:
        posed = cameras[index]
        pose = posed.camera_from_splat
        seen = matches.points[rows] @ pose[:3, :3].T + pose[:3, 3]
        off[rows] = (project(posed.camera, seen) - matches.pixels[rows]) / matching_scale(posed.camera)
    return off


def support(cameras: Sequence[PosedCamera], matches: Matches2D3D, tolerance: float = TOLERANCE) -> Array:
    """How well each match is explained [M]: 1 exactly, falling to 0 at the tolerance (MSAC)."""
    distances = np.linalg.norm(residuals(cameras, matches), axis=1)
    return np.asarray(np.maximum(0.0, 1.0 - (distances / tolerance) ** 2))


def fit_parameters(
    cameras_of: Callable[[Array], Sequence[PosedCamera]],
    start: Array,
    matches: Matches2D3D,
    scales: Sequence[float] = ANNEALING,
) -> tuple[Array, Array]:
    """Parameters of least robust reprojection error (Cauchy's loss, from wide to narrow), and their covariance.

    Args:
        cameras_of: all frames' cameras by parameters [P].
        start: [P].
    """
    matches = matches.thinned(MAX_FITTED)
    parameters = np.asarray(start, np.float64)
    covariance = np.eye(len(parameters))
    for scale in scales:

        def off(x: Array) -> Array:
            return residuals(cameras_of(x), matches).ravel()

        try:
            solved = least_squares(off, parameters, loss="cauchy", f_scale=scale, x_scale="jac", max_nfev=15)
        except ValueError:  # not finite somewhere
            return parameters, covariance
        parameters = solved.x
        distances = np.linalg.norm(solved.fun.reshape(-1, 2), axis=1)
        near = distances < TOLERANCE
        variance = float((distances[near] ** 2).mean() / 2) if near.any() else TOLERANCE**2
        covariance = np.linalg.pinv(solved.jac.T @ solved.jac) * variance
    return parameters, covariance


def fit_alignment(
    frames: Sequence[Frame], matches: Matches2D3D, start: Sim3, scales: Sequence[float] = ANNEALING
) -> tuple[Sim3, Array]:
    """The alignment by which the frames see the matched points where they are, and its covariance [7, 7]."""
    solution, _ = fit_parameters(lambda x: posed_cameras(frames, moved(start, x)), np.zeros(7), matches, scales)
    found = moved(start, solution)
    return found, _covariance_over_views(frames, matches, found, scales[-1])


def _covariance_over_views(frames: Sequence[Frame], matches: Matches2D3D, at: Sim3, scale: float) -> Array:
    """Covariance [7, 7] of an alignment, by how much each view's matches would pull it elsewhere.

    Errors within a view go together (its pose is a little off), so that views count, not matches: the sandwich
    estimator with clusters (Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika
    1986), which is what drawing views with replacement comes to. What the map does to all views alike, as soft edges
    do, doesn't show in their scatter and is added by `SHARED_ERROR`.
    """

    def off(x: Array) -> Array:
        return residuals(posed_cameras(frames, moved(at, x)), matches).ravel()

    base = off(np.zeros(7))
    steps = np.eye(7) * 1e-5
    jacobian = np.stack([(off(step) - off(-step)) / 2e-5 for step in steps], axis=1)
    weights = 1 / (1 + (base / scale) ** 2)  # of Cauchy's loss
    hessian = np.linalg.pinv(jacobian.T @ (jacobian * weights[:, None]))
    pulls = (jacobian * (weights * base)[:, None]).reshape(len(matches), 2, 7).sum(axis=1)
    per_view = np.stack([pulls[rows].sum(axis=0) for _, rows in matches.by_frame])
    count = len(per_view)
    # Seven parameters are fitted to so many views of two or more.
    scatter = per_view.T @ per_view * count / max(count - 3.5, 1.0)
    shared = jacobian.T @ (weights[:, None] * _shared_errors(frames, matches)) * SHARED_ERROR
    return np.asarray(hessian @ (scatter + shared @ shared.T) @ hessian)


def _shared_errors(frames: Sequence[Frame], matches: Matches2D3D) -> Array:
    """Errors [2 M, 3] that all views may have alike, of 1 px rms: outwards from the middle, along x, along y."""
    cameras = [frames[index].camera for index in matches.frames]
    middle = np.array([[camera.cx, camera.cy] for camera in cameras])
    outwards = (matches.pixels - middle) / np.array([[matching_scale(camera)] for camera in cameras])
    outwards /= max(float(np.sqrt((outwards**2).sum(axis=1).mean())), 1e-9)
    along = np.tile(np.eye(2), (len(matches), 1))
    return np.column_stack([outwards.ravel(), along])


def pose_from_matches(camera: Camera, matches: Matches2D3D, tolerance: float = TOLERANCE) -> tuple[Array, int] | None:
    """``camera_from_splat`` [4, 4] that explains most of one frame's matches, and how many; None if too few."""
    if len(matches) < MIN_PNP:
        return None
    rays = undistorted_pixels(camera, matches.pixels)
    limit = tolerance * matching_scale(camera) / camera.fx
    found, turn, shift, inliers = cv2.solvePnPRansac(
        matches.points, rays, np.eye(3), None, iterationsCount=2000, reprojectionError=limit, flags=cv2.SOLVEPNP_P3P
    )
    if not found or inliers is None or len(inliers) < MIN_PNP:
        return None
    rows = inliers.ravel()
    turn, shift = cv2.solvePnPRefineLM(matches.points[rows], rays[rows], np.eye(3), None, turn, shift)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], shift.ravel()
    return pose, len(rows)


def undistorted_pixels(camera: Camera, pixels: Array) -> Array:
    """Points (x, y) [M, 2] of the rays (x, y, 1) through pixels [M, 2] of the image as it was taken."""
    plane = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    lens = camera.distortion
    if lens is None or len(plane) == 0:
        return np.asarray(plane)
    coefficients = np.array(lens.coefficients)
    undistort: Callable[..., Any] = cv2.fisheye.undistortPoints if lens.model == "equidistant" else cv2.undistortPoints
    return np.asarray(undistort(plane[:, None], np.eye(3), coefficients)[:, 0], dtype=np.float64)


def without_lens(camera: Camera) -> Camera:
    return replace(camera, distortion=None)


def frames_seen(matches: Matches2D3D, count: int) -> NDArray[np.int64]:
    """Matches per frame [count]."""
    return np.bincount(matches.frames, minlength=count)
