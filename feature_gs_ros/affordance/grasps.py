"""From a region's principal axes to the way a gripper comes and closes, where the map leaves room for its fingers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.numerics.point_grid import weighted_quantiles
from feature_gs_ros.query.masks_3d import MIN_SUMMED_OPACITY

Array = NDArray[np.float64]

TRIM = 0.02  # of the opacity is left outside an extent at each end: floaters
FINGER_WIDTH, FINGER_THICKNESS = 0.02, 0.015  # m, along the major axis, and along the closing direction
FINGER_LENGTH = 0.04  # m that must also be free in front of the region
FACING = 0.5  # cosine to the normal from which on an approach is one from the seen side


@dataclass(frozen=True, eq=False)
class Grasp:
    """How a parallel gripper may take a region. Unit vectors of the map frame."""

    approach: Array  # [3] the way it comes, at right angles to the major axis
    closing: Array  # [3] the way its fingers close, at right angles to both
    width: float  # m, extent along ``closing``


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Everything of the map that is not the region, near it."""

    points: Array  # [K, 3] m
    opacities: Array  # [K]


def choose_grasp(points: Array, opacities: Array, axes: Array, normal: Array, around: Surroundings) -> Grasp:
    """The narrowest grasp across a principal axis from the seen side with room: less than `MIN_SUMMED_OPACITY` in it.

    Next comes the approach against the normal, then any other across a principal axis; where nothing has room, the
    approach against the normal.

    Args:
        points, opacities: [M, 3] m and [M], of the region.
        axes: [3, 3], columns by falling variance.
        normal: [3] outward.
    """
    weights = opacities / opacities.sum()
    against_normal = _grasp(points, weights, axes[:, 0], normal @ axes[:, 0] * axes[:, 0] - normal, -axes[:, 2])
    across = sorted(_principal_grasps(points, weights, axes, normal), key=lambda grasp: grasp.width)
    facing = [grasp for grasp in across if -(grasp.approach @ normal) >= FACING]
    for grasp in (*facing, against_normal, *across):
        if obstruction(grasp, points, weights, around) < MIN_SUMMED_OPACITY:
            return grasp
    return against_normal


def obstruction(grasp: Grasp, points: Array, weights: Array, around: Surroundings) -> float:
    """Summed opacity of what is where the fingers would be, beside the region [M, 3] and on their way to it."""
    major = np.cross(grasp.closing, grasp.approach)
    frame = np.stack([major, grasp.closing, grasp.approach], axis=1)
    bounds = np.array([weighted_quantiles(points @ axis, weights, [TRIM, 1 - TRIM]) for axis in frame.T])
    x, y, z = (around.points @ frame).T
    gap = np.maximum(bounds[1, 0] - y, y - bounds[1, 1])
    beside = (gap > 0) & (gap < FINGER_THICKNESS) & (np.abs(x - bounds[0].mean()) < FINGER_WIDTH / 2)
    in_the_way = beside & (z < bounds[2, 1]) & (z > bounds[2, 0] - FINGER_LENGTH)
    return float(around.opacities[in_the_way].sum())


def unit(vector: Array, otherwise: Array) -> Array:
    """The vector at length 1; ``otherwise`` where it has none."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-6 else otherwise


def _principal_grasps(points: Array, weights: Array, axes: Array, normal: Array) -> Iterator[Grasp]:
    """Approaches along ± the middle and the minor axis, for each the side first that the normal faces."""
    for axis in (axes[:, 1], axes[:, 2]):
        inward = -axis if axis @ normal > 0 else axis
        for approach in (inward, -inward):
            yield _grasp(points, weights, axes[:, 0], approach, approach)


def _grasp(points: Array, weights: Array, major: Array, approach: Array, otherwise: Array) -> Grasp:
    approach = unit(approach, otherwise)
    closing = np.cross(approach, major)
    low, high = weighted_quantiles(points @ closing, weights, [TRIM, 1 - TRIM])
    return Grasp(approach, closing, high - low)
