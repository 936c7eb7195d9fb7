"""Convex hulls of few faces, for collision checkers; and the plane that objects stand on, as a box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.query.objects import OrientedBox, oriented_box

Array = NDArray[np.float64]

DIRECTIONS = 34  # in which the points that reach furthest are taken: at most so many vertices, 64 faces
THICKNESS = 0.01  # m of a plane's box at least
NEAR = 0.004  # of the map's extent: Gaussians so near to the plane are on it
MIN_OPACITY = 0.5


def convex_hull(points: Array, directions: int = DIRECTIONS) -> tuple[Array, NDArray[np.int64]] | None:
    """Vertices [V, 3] and triangles [T, 3], counter-clockwise from outside, T ≤ 2 V − 4; None of flat or few points.

    The hull of the points that reach furthest in evenly spread directions: it lies within the hull of all of them.

    Args:
        points: [M, 3].
        directions: V at most.
    """
    if len(points) < 4:
        return None
    extremes = np.unique(np.argmax(points @ _sphere(directions).T, axis=0))
    chosen = points[extremes]
    try:
        hull = ConvexHull(chosen)
    except QhullError:  # fewer than four, or all in a plane
        return None
    inside = chosen.mean(axis=0)
    a, b, c = (chosen[hull.simplices[:, k]] for k in range(3))
    outward = np.einsum("ij,ij->i", np.cross(b - a, c - a), a - inside) > 0
    triangles = np.where(outward[:, None], hull.simplices, hull.simplices[:, [0, 2, 1]])
    used, renumbered = np.unique(triangles, return_inverse=True)
    return chosen[used], renumbered.reshape(-1, 3).astype(np.int64)


def plane_box(gaussians: GaussianMap, normal: Array, offset: float, map_from_splat: Sim3) -> OrientedBox:
    """The box, in the map frame, of the Gaussians on a plane ``normal · x = offset`` of the splat's frame.

    Args:
        gaussians: the map.
        normal: unit [3].
        offset: in splat units.
        map_from_splat: the alignment.
    """
    solid = gaussians.means[gaussians.opacities >= MIN_OPACITY].double().numpy()
    low, high = np.quantile(solid, [0.1, 0.9], axis=0)
    on = np.abs(solid @ normal - offset) < NEAR * float(np.linalg.norm(high - low))
    box = oriented_box(map_from_splat.apply(solid[on]), np.ones(int(on.sum())))
    return OrientedBox(box.center, box.quat_wxyz, np.maximum(box.size, THICKNESS))


def _sphere(count: int) -> Array:
    """Unit vectors [count, 3], evenly spread: a Fibonacci lattice."""
    index = np.arange(count) + 0.5
    z, angle = 1 - 2 * index / count, np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
