"""From a mask over Gaussians to objects: clusters with oriented boxes in the map frame, in metres."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.numerics.point_grid import (
    PointGrid,
    dbscan,
    hull_candidates,
    median_neighbour_distance,
    weighted_quantiles,
)

Array = NDArray[np.float64]

MAX_SAMPLE = 2500  # points whose neighbours tell the spacing, within about a hundredth
NEIGHBOURS = 8  # the median distance to this neighbour is the map's own spacing
RADIUS = 3.0  # spacings within which two Gaussians belong to one cluster
FINE = 1 / 6  # of the radius: a map much denser than that is clustered by cubes of this side
MIN_CORE_OPACITY = 5  # summed opacity of the neighbourhood that makes a Gaussian the core of a cluster
TRIM = 0.01  # of the opacity is left outside the box at each of its faces: floaters
UPRIGHT_BONUS = 1.2  # an upright box wins unless a tilted one is smaller by more than this factor


@dataclass(frozen=True, eq=False)
class OrientedBox:
    """A box in the map frame: ``x_map = R(quat_wxyz) · x_box + center``, |x_box| ≤ size / 2."""

    center: Array  # [3] metres
    quat_wxyz: Array  # [4] unit
    size: Array  # [3] metres, along the box's axes


@dataclass(frozen=True, eq=False)
class FoundObject:
    """A cluster of selected Gaussians."""

    box: OrientedBox
    rows: NDArray[np.int64]  # rows of the map
    score: float  # opacity-weighted mean similarity
    opacity: float  # summed


def find_objects(
    gaussians: GaussianMap,
    mask: Tensor,  # [N] bool
    similarity: Tensor,  # [N]
    map_from_splat: Sim3,
    radius: float | None = None,
    limit: int | None = None,
) -> list[FoundObject]:
    """Cluster the selected Gaussians by DBSCAN, weighted by opacity; the most opaque object first.

    Args:
        gaussians: N Gaussians, in the splat's frame.
        mask: [N] bool, the selection, e.g. `Answer.mask`.
        similarity: [N], e.g. `Answer.similarity`.
        map_from_splat: to the frame of the boxes, e.g. ``splat_from_map.inverse()``.
        radius: metres within which Gaussians belong together; three times the selection's own spacing by default.
        limit: objects to return, at most; all by default.

    Returns:
        Objects with their rows, similarity and oriented box; lengths in units of the map frame (metres).

    Raises:
        PromptError: ``radius`` is not positive.
    """
    if radius is not None and not radius > 0:
        raise PromptError(f"the clusters' radius is {radius} m, expected a positive length", code="prompt.range")
    rows = mask.nonzero()[:, 0].numpy()
    if len(rows) == 0:
        return []
    points = map_from_splat.apply(gaussians.means[mask].numpy())
    opacities = gaussians.opacities[mask].numpy().astype(np.float64)
    labels = cluster(points, opacities, radius)
    scores = similarity[mask].numpy().astype(np.float64)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 2))
    parts = [order[first:last] for first, last in pairwise(starts)]
    parts.sort(key=lambda members: -float(opacities[members].sum()))
    return [
        FoundObject(
            box=oriented_box(points[members], opacities[members]),
            rows=rows[members],
            score=float(np.average(scores[members], weights=opacities[members])),
            opacity=float(opacities[members].sum()),
        )
        for members in parts[:limit]
    ]


def cluster(points: Array, weights: Array, radius: float | None = None) -> NDArray[np.int64]:
    """DBSCAN labels [M] of points [M, 3] with weights [M]; −1 belongs to no cluster.

    Within a radius of many spacings all pairs of points would be neighbours. There the points of a cube count as one,
    at their mean.
    """
    if len(points) == 1:
        return np.zeros(1, np.int64)
    apart = spacing(points)
    radius = RADIUS * apart if radius is None else radius
    if radius <= 0:
        return np.zeros(len(points), np.int64)
    smallest = max(1, min(MIN_CORE_OPACITY, int(weights.sum() / 2)))
    if FINE * radius <= apart:
        return dbscan(points, weights, radius, smallest)
    owner, points, weights = _thinned(points, weights, FINE * radius)
    return dbscan(points, weights, radius, smallest)[owner]


def _thinned(points: Array, weights: Array, side: float) -> tuple[NDArray[np.int32], Array, Array]:
    """One point for each cube of this side that holds any: whose [M], weighted means [K, 3], summed weights [K]."""
    owner = PointGrid.of(points, side).cell
    total: Array = np.bincount(owner, weights).astype(np.float64)
    fractions = weights / np.maximum(total[owner], np.finfo(np.float64).tiny)
    means: Array = np.stack([np.bincount(owner, fractions * points[:, k]) for k in range(3)], axis=1)
    return owner, means, total


def spacing(points: Array) -> float:
    """Median distance [m] of points [M, 3] to their eighth neighbour: how dense this part of the map is."""
    if len(points) < 2:
        return 0.0
    sample = np.arange(0, len(points), -(-len(points) // MAX_SAMPLE))
    return median_neighbour_distance(points, sample, min(NEIGHBOURS, len(points) - 1))


def oriented_box(points: Array, weights: Array) -> OrientedBox:
    """The smallest of the boxes that stand on z or on a principal axis; upright unless tilting gains much."""
    centred = points - np.average(points, axis=0, weights=weights)
    covariance = (centred * weights[:, None]).T @ centred / weights.sum()
    _, axes = np.linalg.eigh(covariance)
    upright = _box_on(points, weights, np.array([0.0, 0.0, 1.0]))
    tilted = min((_box_on(points, weights, axes[:, k]) for k in range(3)), key=_volume)
    return tilted if _volume(tilted) * UPRIGHT_BONUS < _volume(upright) else upright


def _volume(box: OrientedBox) -> float:
    return float(np.prod(np.maximum(box.size, 1e-4)))  # flat boxes compare by their area


def _box_on(points: Array, weights: Array, up: Array) -> OrientedBox:
    """The box with one axis ``up`` [3] and the footprint of smallest area around it."""
    helper = np.eye(3)[int(np.argmin(np.abs(up)))]
    first = np.cross(helper, up)
    first /= np.linalg.norm(first)
    second = np.cross(up, first)
    flat = np.stack([points @ first, points @ second], axis=1)
    # The footprint's direction comes from the hull of what is left after trimming, its extent from trimming along it.
    inside = np.ones(len(points), np.bool_)
    for column in flat.T:
        low, high = weighted_quantiles(column, weights, [TRIM, 1 - TRIM])
        inside &= (column >= low) & (column <= high)
    angle = 0.0
    if inside.sum() >= 3:
        footprint = flat[inside]
        angle = np.deg2rad(cv2.minAreaRect(footprint[hull_candidates(footprint)].astype(np.float32))[2])
    x = np.cos(angle) * first + np.sin(angle) * second
    rotation = np.stack([x, np.cross(up, x), up], axis=1)
    bounds = np.array([weighted_quantiles(points @ rotation[:, k], weights, [TRIM, 1 - TRIM]) for k in range(3)])
    return OrientedBox(rotation @ bounds.mean(axis=1), quat_wxyz_from_rotation(rotation), bounds[:, 1] - bounds[:, 0])
