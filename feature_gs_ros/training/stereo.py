"""Start points for training: depth of every view by plane sweep, kept where other views agree.

A view's neighbours are warped onto planes at many depths; where a small window of them looks like the view's own
(normalised cross-correlation, so exposure doesn't count), a surface is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.geometry import camera_centre
from feature_gs_ros.numerics.runtime import parallel_for

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StereoView:
    """One image as stereo takes it."""

    image: Floats  # [H, W, 3] in 0 … 1
    camera: Camera
    camera_from_splat: NDArray[np.float64]  # [4, 4]

    @property
    def gray(self) -> Floats:
        """Brightness [H, W]."""
        return np.asarray(cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY), dtype=np.float32)

    @property
    def centre(self) -> NDArray[np.float64]:
        """The camera's centre, splat frame [3]."""
        return camera_centre(self.camera_from_splat)


@dataclass(frozen=True)
class StereoOptions:
    """How depth is searched for."""

    planes: int = 128
    neighbours: int = 4
    window: int = 7  # pixels
    score: float = 0.6  # correlation that a surface needs
    agreement: float = 0.02  # of the depth, within which another view says the same
    witnesses: int = 2  # views that must agree, where so many look there


def sweep_points(
    views: Sequence[StereoView], known: NDArray[np.float64], options: StereoOptions | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points [M, 3] in the splat's frame and their colours [M, 3] in 0 … 1; none of a view without neighbours.

    Args:
        known: points [N, 3], by which a view's depths are bounded and its neighbours chosen.
    """
    options = options or StereoOptions()
    seen = [_seen_points(view, known) for view in views]
    depths: list[Floats] = [np.zeros(view.image.shape[:2], np.float32) for view in views]

    def sweep(first: int, last: int) -> None:
        for k in range(first, last):
            neighbours = _neighbours(views, seen, k, options.neighbours)
            if neighbours and seen[k].sum() >= 8:
                depths[k] = _sweep(views, k, neighbours, known[seen[k]], options)

    parallel_for(len(views), 1, sweep)
    points, colors = [], []
    for k, view in enumerate(views):
        agreed = _agreed(views, depths, k, options)
        rows, columns = np.nonzero(agreed)
        points.append(unproject(view, rows, columns, depths[k][rows, columns]))
        colors.append(view.image[rows, columns])
    return np.concatenate(points), np.concatenate(colors).astype(np.float64)


def _seen_points(view: StereoView, known: NDArray[np.float64]) -> NDArray[np.bool_]:
    x, y, z = project(view, known)
    return (z > 0) & (x >= 0) & (x < view.camera.width) & (y >= 0) & (y < view.camera.height)


def _neighbours(views: Sequence[StereoView], seen: Sequence[NDArray[np.bool_]], k: int, count: int) -> list[StereoView]:
    """The views that share many points with view k at a useful angle."""
    view = views[k]
    scored = []
    for other, shared in ((other, seen[k] & seen[m]) for m, other in enumerate(views) if m != k):
        if shared.any():
            turn = view.camera_from_splat[:3, :3] @ other.camera_from_splat[:3, :3].T
            angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
            baseline = float(np.linalg.norm(view.centre - other.centre))
            usable = shared.sum() * np.exp(-((angle / 30) ** 2)) * (baseline > 1e-6)
            scored.append((usable, other))
    return [other for usable, other in sorted(scored, key=lambda item: -item[0])[:count] if usable > 0]


def _sweep(
    views: Sequence[StereoView],
    k: int,
    neighbours: Sequence[StereoView],
    points: NDArray[np.float64],
    options: StereoOptions,
) -> Floats:
    """Depth [H, W] of view k, 0 where nothing looks alike."""
    view = views[k]
    height, width = view.image.shape[:2]
    z = project(view, points)[2]
    near, far = np.percentile(z, 2) * 0.75, np.percentile(z, 98) * 1.5
    inverse = np.linspace(1 / near, 1 / far, options.planes)
    gray = view.gray
    others = [(other, other.gray) for other in neighbours]
    mean, variance = moments(gray, options.window)
    scores = np.full((options.planes, height, width), -1, np.float32)
    best = max(1, len(others) // 2)  # the others may be hidden there
    for plane, at in enumerate(inverse):
        found = np.stack(
            [correlation(view, gray, mean, variance, other, image, 1 / at, options.window) for other, image in others]
        )
        scores[plane] = -np.sort(-found, axis=0)[:best].mean(axis=0)
    top = scores.argmax(axis=0)
    inner = np.clip(top, 1, options.planes - 2)
    low, middle, high = (np.take_along_axis(scores, (inner + step)[None], 0)[0] for step in (-1, 0, 1))
    bend = low - 2 * middle + high
    shift = np.where(bend < -1e-6, np.clip(0.5 * (low - high) / np.minimum(bend, -1e-6), -0.5, 0.5), 0)
    depth = 1 / (inverse[0] + (inner + shift) * (inverse[1] - inverse[0]))
    sure = (middle >= options.score) & (top == inner) & (variance > 1e-5)
    return np.where(sure, depth, 0).astype(np.float32)


def correlation(
    view: StereoView,
    gray: Floats,
    mean: Floats,
    variance: Floats,
    other: StereoView,
    image: Floats,
    depth: float,
    window: int,
) -> Floats:
    """Correlation [H, W] of the view's windows with another's image, warped as if all lay at one depth."""
    other_from_view = other.camera_from_splat @ np.linalg.inv(view.camera_from_splat)
    plane = np.outer(other_from_view[:3, 3], [0, 0, 1]) / depth
    homography = _centred(other.camera) @ (other_from_view[:3, :3] + plane) @ np.linalg.inv(_centred(view.camera))
    size = (gray.shape[1], gray.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = np.asarray(
        cv2.warpPerspective(image, homography, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=-1),
        dtype=np.float32,
    )
    mean_other, variance_other = moments(warped, window)
    product = cv2.boxFilter(gray * warped, cv2.CV_32F, (window, window))
    correlation = (product - mean * mean_other) / np.sqrt(np.maximum(variance * variance_other, 1e-8))
    return np.where(warped < 0, -1, correlation)


def moments(gray: Floats, window: int) -> tuple[Floats, Floats]:
    mean = cv2.boxFilter(gray, cv2.CV_32F, (window, window))
    square = cv2.boxFilter(gray * gray, cv2.CV_32F, (window, window))
    return np.asarray(mean, np.float32), np.maximum(square - mean * mean, 0, dtype=np.float32)


def _agreed(views: Sequence[StereoView], depths: Sequence[Floats], k: int, options: StereoOptions) -> NDArray[np.bool_]:
    """Where other views' depths say the same [H, W], and the pixel sees the surface about as finely as any of them."""
    rows, columns = np.nonzero(depths[k])
    points = unproject(views[k], rows, columns, depths[k][rows, columns])
    votes, could = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
    for m, other in enumerate(views):
        if m == k:
            continue
        x, y, z = project(other, points)
        inside = (z > 0) & (x >= 0) & (x < other.camera.width) & (y >= 0) & (y < other.camera.height)
        theirs = np.zeros(len(points))
        theirs[inside] = depths[m][y[inside].astype(int), x[inside].astype(int)]
        could += inside
        votes += (theirs > 0) & (np.abs(theirs - z) < options.agreement * z)
    agreed = np.zeros(depths[k].shape, np.bool_)
    keep = votes >= np.clip(could, 1, options.witnesses)
    agreed[rows[keep], columns[keep]] = True
    return agreed


def project(
    view: StereoView, points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Pixel x, y and camera z of points."""
    local = points @ view.camera_from_splat[:3, :3].T + view.camera_from_splat[:3, 3]
    z = local[:, 2]
    safe = np.where(z > 1e-9, z, 1e-9)
    return (
        local[:, 0] / safe * view.camera.fx + view.camera.cx,
        local[:, 1] / safe * view.camera.fy + view.camera.cy,
        z,
    )


def unproject(
    view: StereoView, rows: NDArray[np.int64], columns: NDArray[np.int64], depth: Floats
) -> NDArray[np.float64]:
    x = (columns + 0.5 - view.camera.cx) / view.camera.fx * depth
    y = (rows + 0.5 - view.camera.cy) / view.camera.fy * depth
    local = np.stack([x, y, depth], axis=1)
    points: NDArray[np.float64] = (local - view.camera_from_splat[:3, 3]) @ view.camera_from_splat[:3, :3]
    return points


def _centred(camera: Camera) -> NDArray[np.float64]:
    """K for OpenCV's pixels, whose centres are whole numbers."""
    matrix = camera.matrix
    matrix[:2, 2] -= 0.5
    return matrix
