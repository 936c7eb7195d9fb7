"""``splat_from_map`` from ArUco markers or AprilTags of known pose in the map, seen in posed images of the splat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from feature_gs_ros.core.camera import Camera, Frame, Image, rectified
from feature_gs_ros.core.errors import AlignmentError, ImageError
from feature_gs_ros.core.geometry import Sim3, camera_centre
from feature_gs_ros.frames.report import AlignmentReport, ViewResidual
from feature_gs_ros.frames.umeyama import INLIER_LIMIT, Array, covariance_of, fit_points, refine_similarity, robust_rms
from feature_gs_ros.io.alignment import sim3_from_mapping
from feature_gs_ros.io.structured import read_table

MIN_PIXELS = 0.05  # of residuals: corners are found no better
MIN_PARALLAX = np.radians(3.0)  # between two rays to a corner: of less its distance is noise


@dataclass(frozen=True, eq=False)
class MarkerSet:
    """Square markers on the table: their family, and where each one's corners are."""

    dictionary: str  # OpenCV's name, e.g. DICT_4X4_50 or DICT_APRILTAG_36h11
    corners: Mapping[int, Array]  # by id, [4, 3] in the map: top left, top right, bottom right, bottom left


@dataclass(frozen=True, eq=False)
class Observation:
    """Known points seen in one posed image."""

    name: str
    camera: Camera  # pinhole
    camera_from_splat: Array  # [4, 4]
    map_points: Array  # [K, 3] metres
    pixels: Array  # [K, 2] counted from the image's corner


def load_markers(path: str | Path) -> MarkerSet:
    """Read a YAML file ``{dictionary, size, markers: {ID: {translation, rotation_wxyz[, size]}}}``, sizes in metres.

    Each entry is ``map_from_marker``; the marker's x points right, y up and z out of it, from its middle.

    Raises:
        AlignmentError: the file says something else.
    """
    content = read_table(Path(path), AlignmentError)
    corners = {}
    for key, entry in content.named_tables("markers").items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise AlignmentError(f"{entry.source}: a marker's name is its number, 0 or more", code="alignment.value")
        size = entry.over(content).number("size", least=0)
        if size == 0:
            raise AlignmentError(f"'size' of {entry.source} is 0, expected metres", code="alignment.value")
        keys = ("rotation_xyzw", "rotation_wxyz", "translation", "scale")
        pose = {name: entry.get(name) for name in keys if name in entry}
        corners[int(key)] = sim3_from_mapping(pose, f"marker {key} of {path}").apply(marker_corners(size))
    return MarkerSet(content.text("dictionary", "DICT_4X4_50"), corners)


def marker_corners(size: float) -> Array:
    """Corners [4, 3] of a marker in its own frame, in OpenCV's order."""
    half = size / 2
    return np.array([[-half, half, 0.0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])


def find_markers(frames: Iterable[Frame], markers: MarkerSet) -> list[Observation]:
    """Corners of the known markers in a stream whose poses are in the splat's frame.

    Raises:
        AlignmentError: this OpenCV has no markers, or doesn't know their dictionary.
    """
    detector = _detector(markers.dictionary)
    found = []
    for frame in frames:
        try:
            image, camera, _ = rectified(frame.image, frame.camera)
        except ImageError:
            continue
        seen, points = _detect(detector, image, markers)
        if len(seen):
            found.append(Observation(frame.name, camera, frame.camera_from_world, points, seen))
    return found


def _detector(dictionary: str) -> Any:
    aruco = getattr(cv2, "aruco", None)
    if aruco is None or not hasattr(aruco, "ArucoDetector"):
        raise AlignmentError(
            f"OpenCV {cv2.__version__} here finds no markers; pip install 'opencv-python-headless>=4.7'",
            code="alignment.package",
        )
    if not hasattr(aruco, dictionary):
        known = ", ".join(name for name in dir(aruco) if name.startswith("DICT_"))
        raise AlignmentError(
            f"marker dictionary '{dictionary}' is unknown; OpenCV has {known}", code="alignment.unknown"
        )
    parameters = aruco.DetectorParameters()
    parameters.cornerRefinementMethod = aruco.CORNER_REFINE_SUBPIX
    return aruco.ArucoDetector(aruco.getPredefinedDictionary(getattr(aruco, dictionary)), parameters)


def _detect(detector: Any, image: Image, markers: MarkerSet) -> tuple[Array, Array]:
    """Pixels [K, 2] and map points [K, 3] of the known markers in one image."""
    corners, ids, _ = detector.detectMarkers(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    pixels, points = [np.empty((0, 2))], [np.empty((0, 3))]
    for marker, four in zip(() if ids is None else ids.ravel(), corners, strict=False):
        if int(marker) in markers.corners:
            pixels.append(np.asarray(four, np.float64).reshape(4, 2) + 0.5)  # OpenCV counts from the pixel's centre
            points.append(markers.corners[int(marker)])
    return np.concatenate(pixels), np.concatenate(points)


def align_markers(observations: Sequence[Observation]) -> AlignmentReport:
    """``splat_from_map`` by which known points of the map are where the images show them.

    Points seen from two sides are triangulated and give a start; the similarity of least reprojection error follows.

    Raises:
        AlignmentError: fewer than two views see markers, or all from one side: the scale is unknown then.
    """
    if len(observations) < 2:
        raise AlignmentError(
            f"markers are seen in {len(observations)} images; two or more are needed, from different sides: "
            "check the dictionary, the ids and the images",
            code="alignment.too-few",
        )
    in_map, in_splat = _triangulated(observations)
    if len(in_map) < 3:
        raise AlignmentError(
            "the images see the markers all from one side, so the scale is unknown; add other views",
            code="alignment.degenerate",
        )
    fit = fit_points(in_map, in_splat).target_from_source
    sigma, used = 1.0, list(observations)
    for _ in range(5):
        chosen, noise = used, sigma

        def normalised(transform: Sim3, chosen: list[Observation] = chosen, noise: float = noise) -> Array:
            return np.concatenate([_pixel_errors(seen, transform).ravel() for seen in chosen]) / noise

        fit, _ = refine_similarity(normalised, fit, "soft_l1")
        errors = np.array([_rms(_pixel_errors(seen, fit)) for seen in observations])
        limit = INLIER_LIMIT * robust_rms(errors, 2, MIN_PIXELS)
        used = [seen for seen, error in zip(observations, errors, strict=True) if error <= limit]
        sigma = max(float(np.sqrt((errors[errors <= limit] ** 2).mean() / 2)), MIN_PIXELS)
    kept, noise = used, sigma

    def final(transform: Sim3) -> Array:
        return np.concatenate([_pixel_errors(seen, transform).ravel() for seen in kept]) / noise

    views = tuple(
        _view_residual(seen, fit, error, error > limit) for seen, error in zip(observations, errors, strict=True)
    )
    return AlignmentReport(fit, "markers", views, covariance_of(final, fit))


def _rms(errors: Array) -> float:
    """Of the lengths of vectors [K, 2]."""
    return float(np.sqrt((errors**2).sum(axis=1).mean()))


def _pixel_errors(seen: Observation, splat_from_map: Sim3) -> Array:
    """Projected minus seen [K, 2]."""
    pose = seen.camera_from_splat
    points = splat_from_map.apply(seen.map_points) @ pose[:3, :3].T + pose[:3, 3]
    depth = np.maximum(points[:, 2:], 1e-9)
    focal, middle = np.array([seen.camera.fx, seen.camera.fy]), np.array([seen.camera.cx, seen.camera.cy])
    return np.asarray(points[:, :2] / depth * focal + middle - seen.pixels)


def _view_residual(seen: Observation, splat_from_map: Sim3, pixels: float, is_outlier: bool) -> ViewResidual:
    """Of pixels, and of millimetres at the points' distance."""
    pose = seen.camera_from_splat
    depth = (splat_from_map.apply(seen.map_points) @ pose[:3, :3].T + pose[:3, 3])[:, 2].mean() / splat_from_map.scale
    return ViewResidual(
        seen.name, 1000 * pixels * abs(float(depth)) / seen.camera.fx, pixels=pixels, is_outlier=is_outlier
    )


def _triangulated(observations: Sequence[Observation]) -> tuple[Array, Array]:
    """Map points [K, 3] that are seen with parallax, and where they are in the splat [K, 3]."""
    rays: dict[tuple[float, ...], list[tuple[Array, Array]]] = {}
    for seen in observations:
        camera, pose = seen.camera, seen.camera_from_splat
        x = (seen.pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
        directions = np.column_stack([x, np.ones(len(x))]) @ pose[:3, :3]
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        centre = camera_centre(pose)
        for point, direction in zip(seen.map_points, directions, strict=True):
            rays.setdefault(tuple(point), []).append((centre, direction))
    in_map, in_splat = [], []
    for point, through in rays.items():
        centres, directions = (np.array(values) for values in zip(*through, strict=True))
        if (directions @ directions.T).min() > np.cos(MIN_PARALLAX):
            continue
        # The point nearest to all rays: Σ (I − d dᵀ)(x − c) = 0.
        off_ray = np.eye(3) - np.einsum("ni,nj->nij", directions, directions)
        in_map.append(point)
        in_splat.append(np.linalg.solve(off_ray.sum(axis=0), np.einsum("nij,nj->i", off_ray, centres)))
    return np.array(in_map).reshape(-1, 3), np.array(in_splat).reshape(-1, 3)
