"""Where training starts: the points that structure from motion knows, the surfaces that stereo adds, and what lies
behind everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from feature_gs_ros.core.errors import TrainingError
from feature_gs_ros.training.parameters import SplatParameters
from feature_gs_ros.training.stereo import StereoView, sweep_points
from feature_gs_ros.training.views import TrainingView

Points = NDArray[np.float64]
STEREO_WIDTH = 320  # pixels: finer depths are noisier and take four times as long
MIN_POINTS = 8
NEAR_FRACTION = 0.3  # of the depth that 95% of the points lie beyond: nothing may be nearer to a camera
BACKGROUND_OPACITY = 0.9
BACKGROUND_DISTANCE = 1.3  # of the radius of 99% of the points, where the inner sphere is
BACKGROUND_CLEARANCE = (
    1.03  # of the farthest camera's distance at least: nothing of it is between a camera and the scene
)
BACKGROUND_SCALE = 0.6  # standard deviation of a background sphere's Gaussian, of the distance to the next
BEHIND = 95  # percent of a view's points that the inner sphere has to be behind of


@dataclass(frozen=True)
class StartOptions:
    """How dense the start is."""

    stereo: int = 40_000  # cells of space that stereo may fill; 0 leaves stereo out
    background_sphere: int = 2000  # Gaussians on each sphere around the scene, for what no point explains; 0 for none
    opacity: float = 0.3


def start_from_points(
    points: Points,  # [N, 3] splat frame
    colors: NDArray[np.uint8],  # [N, 3] RGB
    views: Sequence[TrainingView],
    degree: int,
    options: StartOptions | None = None,
) -> SplatParameters:
    """Gaussians as wide as their neighbours are apart.

    Raises:
        TrainingError: too few points to know where the scene is, all in one place, or in no image.
    """
    options = options or StartOptions()
    if len(points) < MIN_POINTS:
        raise TrainingError(
            f"{len(points)} points are too few to start from ({MIN_POINTS} at least); start from a map with --init",
            code="training.too-few",
        )
    if not float(np.ptp(points, axis=0).max()) > 0:
        raise TrainingError(
            f"all {len(points)} points to start from are in one place; start from a map with --init",
            code="training.degenerate",
        )
    depths = np.concatenate(_depths(points, views))
    if len(depths) == 0:
        raise TrainingError(
            f"none of the {len(points)} points to start from is in any of the {len(views)} images: take more of the "
            "images, check their poses, or start from a map with --init",
            code="training.elsewhere",
        )
    positions, shades = points, colors / 255.0
    if options.stereo:
        found, looks = thinned_points(*_stereo_points(points, views), options.stereo)
        positions, shades = np.concatenate([positions, found]), np.concatenate([shades, looks])
    sizes = np.clip(_neighbour_distance(positions), 1e-6, 0.1 * float(np.median(depths)))
    opacity = np.full(len(positions), options.opacity)
    if options.background_sphere:
        far, looks, size = _background_spheres(points, views, options.background_sphere)
        positions, shades = np.concatenate([positions, far]), np.concatenate([shades, looks])
        sizes = np.concatenate([sizes, size])
        opacity = np.concatenate([opacity, np.full(len(far), BACKGROUND_OPACITY)])
    tensor = torch.from_numpy
    return SplatParameters.of_points(tensor(positions), tensor(shades), tensor(sizes), tensor(opacity), degree)


def nearest_allowed(points: Points, views: Sequence[TrainingView]) -> float:
    """Distance from a camera under which nothing can be, judged by the points in front of the cameras."""
    depths = np.concatenate(_depths(points, views))
    return float(NEAR_FRACTION * np.percentile(depths, 5)) if len(depths) else 0.0


def _depths(points: Points, views: Sequence[TrainingView]) -> list[Points]:
    """Camera z of the points that each view sees."""
    return [z[inside] for z, inside, _, _ in (_seen(points, view) for view in views)]


def _seen(
    points: Points, view: TrainingView, margin: float = 0.0
) -> tuple[Points, NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Camera z, whether a ball of radius ``margin`` touches the image, and the centre's row and column there."""
    camera = view.camera
    local = points @ view.camera_from_splat[:3, :3].T + view.camera_from_splat[:3, 3]
    z = local[:, 2]
    safe = np.where(z > 1e-9, z, 1e-9)
    x = local[:, 0] / safe * camera.fx + camera.cx
    y = local[:, 1] / safe * camera.fy + camera.cy
    wide, high = margin / safe * camera.fx, margin / safe * camera.fy
    inside = (z > 1e-9) & (x >= -wide) & (x < camera.width + wide) & (y >= -high) & (y < camera.height + high)
    rows, columns = np.clip(y, 0, camera.height - 1), np.clip(x, 0, camera.width - 1)
    return z, inside, rows.astype(np.int64), columns.astype(np.int64)


def _stereo_points(points: Points, views: Sequence[TrainingView]) -> tuple[Points, Points]:
    small = []
    for view in views:
        width = min(view.camera.width, STEREO_WIDTH)
        height = max(1, round(view.camera.height * width / view.camera.width))
        image = cv2.resize(view.image.numpy(), (width, height), interpolation=cv2.INTER_AREA)
        small.append(StereoView(image.astype(np.float32), view.camera.resized(width, height), view.camera_from_splat))
    return sweep_points(small, points)


def thinned_points(points: Points, colors: Points, most: int) -> tuple[Points, Points]:
    """Means of the points in cells of space, the cells so large that at most ``most`` of them are filled.

    A cell that holds a single point is left out: one pixel's word alone is too little.
    """
    if len(points) == 0:
        return points, colors
    low, high = 0.0, float(np.ptp(points, axis=0).max()) + 1e-9
    for _ in range(24):
        size = (low + high) / 2
        filled = len(np.unique(np.floor(points / size).astype(np.int64), axis=0))
        low, high = (size, high) if filled > most else (low, size)
    cells = np.floor(points / high).astype(np.int64)
    _, cell, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    sums = [np.stack([np.bincount(cell.ravel(), column) for column in values.T], 1) for values in (points, colors)]
    sure = counts >= 2
    return sums[0][sure] / counts[sure, None], sums[1][sure] / counts[sure, None]


def _neighbour_distance(points: Points) -> Points:
    """Root mean square distance [N] to the three nearest other points."""
    distances, _ = cKDTree(points).query(points, k=4)
    root: Points = np.sqrt((distances[:, 1:] ** 2).mean(axis=1))
    return root


def _background_spheres(points: Points, views: Sequence[TrainingView], count: int) -> tuple[Points, Points, Points]:
    """Points [M, 3] on spheres around the scene, their colours [M, 3] as views see them, and their sizes [M].

    The inner sphere holds what surrounds the scene, so only what a view sees there and none sees before its points.
    The outer one is whole and beyond all cameras: behind it there is nothing.
    """
    centre = np.median(points, axis=0)
    scene_radius = float(np.percentile(np.linalg.norm(points - centre, axis=1), 99))
    farthest = max(float(np.linalg.norm(view.centre.numpy() - centre)) for view in views)
    sphere = _sphere(count)
    inner_size = BACKGROUND_SCALE * scene_radius * float(np.sqrt(4 * np.pi / count))
    inner = centre + scene_radius * sphere
    inner = inner[_behind(inner, inner_size, points, views)]
    radius = max(BACKGROUND_DISTANCE * scene_radius, BACKGROUND_CLEARANCE * farthest)
    positions = np.concatenate([inner, centre + radius * sphere])
    sizes = np.concatenate([np.full(len(inner), inner_size), np.full(count, inner_size * radius / scene_radius)])
    return positions, _looks(positions, views), sizes


def _sphere(count: int) -> Points:
    """Fibonacci's points on the unit sphere [N, 3]."""
    turn = np.arange(count) + 0.5
    height, angle = 1 - 2 * turn / count, np.pi * (1 + 5**0.5) * turn
    circle = np.sqrt(1 - height**2)
    sphere: Points = np.stack([circle * np.cos(angle), circle * np.sin(angle), height], axis=1)
    return sphere


def _behind(candidates: Points, size: float, points: Points, views: Sequence[TrainingView]) -> NDArray[np.bool_]:
    """Which points [M] some view sees, and every view that does sees beyond nearly all of its points."""
    seen, behind = np.zeros(len(candidates), np.bool_), np.ones(len(candidates), np.bool_)
    for view, depths in zip(views, _depths(points, views), strict=True):
        z, touches, _, _ = _seen(candidates, view, margin=2 * size)
        seen |= _seen(candidates, view)[1]
        if len(depths):
            behind &= ~touches | (z - size >= np.percentile(depths, BEHIND))
        behind &= np.linalg.norm(candidates - view.centre.numpy(), axis=1) > 4 * size
    result: NDArray[np.bool_] = seen & behind
    return result


def _looks(positions: Points, views: Sequence[TrainingView]) -> Points:
    """Mean colour [M, 3] of the views at points; what no view sees gets the one of the images' borders.

    Beyond them it goes on like that, at a guess.
    """
    colors, seen = np.zeros((len(positions), 3)), np.zeros(len(positions))
    for view in views:
        _, inside, rows, columns = _seen(positions, view)
        blurred = cv2.blur(view.image.numpy(), (max(1, view.camera.width // 20),) * 2)
        colors[inside] += blurred[rows[inside], columns[inside]]
        seen += inside
    border = np.concatenate([side for view in views for side in _sides(view.image.numpy())]).mean(axis=0)
    return np.where(seen[:, None] > 0, colors / np.maximum(seen, 1)[:, None], border)


def _sides(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """The outermost rows and columns of an image [H, W, 3]."""
    return image[0], image[-1], image[:, 0], image[:, -1]
