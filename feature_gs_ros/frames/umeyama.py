"""Similarities between two sets of corresponding points, closed form and robust, and their uncertainty.

Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation

Array = NDArray[np.float64]

MIN_SPREAD = 1e-3  # of a point set's second to its first extent: less is a line, whose turn about itself is free
MAX_SAMPLES = 2000  # of RANSAC
INLIER_LIMIT = 3.0  # times the root mean square length of the right ones' residuals
RELATIVE_FLOOR = 1e-7  # of the points' extent: smaller residuals are rounding


def umeyama(source: Array, target: Array) -> Sim3:
    """``target_from_source`` of least squared distances, Eq. (39)–(43), for points [N, 3] each.

    Raises:
        AlignmentError: fewer than three points, or all on a line.
    """
    if len(source) < 3:
        raise AlignmentError(
            f"{len(source)} pairs of points; a similarity takes three or more", code="alignment.too-few"
        )
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    centred_source, centred_target = source - mean_source, target - mean_target
    for name, points in (("source", centred_source), ("target", centred_target)):
        extents = np.linalg.svd(points, compute_uv=False)
        if extents[1] <= MIN_SPREAD * extents[0]:
            raise AlignmentError(
                f"the {name} points lie on a line (or are one point), so the rotation about it is free; "
                "give points that span a plane at least",
                code="alignment.degenerate",
            )
    u, singular, vt = np.linalg.svd(centred_target.T @ centred_source / len(source))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = float((singular * sign).sum() / (centred_source**2).sum(axis=1).mean())
    return Sim3(scale, quat_wxyz_from_rotation(rotation), mean_target - scale * rotation @ mean_source)


@dataclass(frozen=True, eq=False)
class Fit:
    """A similarity, which data it rests on, and how well they determine it (one standard deviation each)."""

    target_from_source: Sim3
    inliers: NDArray[np.bool_]  # [N]
    covariance: Array  # [7, 7] of (log scale, rotation vector in rad, translation in target units)

    @property
    def scale_sigma(self) -> float:
        """Relative."""
        return float(np.sqrt(self.covariance[0, 0]))


def fit_points(source: Array, target: Array, tolerance: float | None = None) -> Fit:
    """Robust similarity of points [N, 3]: RANSAC over triples, then `umeyama` of the inliers.

    Args:
        tolerance: distance in source units up to which a pair is right; by default estimated from the residuals.

    Raises:
        AlignmentError: too few points, or no three of them span a plane.
    """
    umeyama(source, target)  # names what is wrong with them
    best = _least_median(source, target)
    if best is None:
        raise AlignmentError(
            "no three of the pairs of points span a plane in both frames; give others", code="alignment.degenerate"
        )
    floor = RELATIVE_FLOOR * float(np.ptp(source, axis=0).max())
    inliers = np.ones(len(source), dtype=np.bool_)
    for _ in range(10):
        residuals = np.linalg.norm(best.apply(source) - target, axis=1) / best.scale
        limit = tolerance or INLIER_LIMIT * robust_rms(residuals, 3, floor)
        before, inliers = inliers, residuals <= limit
        if inliers.sum() < 3:
            inliers = residuals <= np.sort(residuals)[2]
        try:
            best = umeyama(source[inliers], target[inliers])
        except AlignmentError:
            break
        if (inliers == before).all():
            break

    def residuals_of(fit: Sim3) -> Array:
        return np.asarray((fit.apply(source[inliers]) - target[inliers]).ravel())

    return Fit(best, inliers, covariance_of(residuals_of, best))


def _least_median(source: Array, target: Array) -> Sim3 | None:
    """The similarity of three pairs by which the median of all distances is least (LMedS)."""
    best, least = None, np.inf
    for triple in sampled_subsets(len(source), 3):
        try:
            candidate = umeyama(source[triple], target[triple])
        except AlignmentError:
            continue
        distances = np.linalg.norm(candidate.apply(source) - target, axis=1) / candidate.scale
        median = float(np.quantile(distances, max(0.5, min(1.0, 4 / len(source)))))
        if median < least:
            best, least = candidate, median
    return best


def sampled_subsets(count: int, size: int) -> list[list[int]]:
    """All subsets of ``size`` of ``count`` indices, or `MAX_SAMPLES` random ones, the same each time."""
    total = int(np.prod([count - i for i in range(size)]) / np.prod(range(1, size + 1)))
    if total <= MAX_SAMPLES:
        return [list(subset) for subset in combinations(range(count), size)]
    rng = np.random.default_rng(0)
    return [rng.choice(count, size, replace=False).tolist() for _ in range(MAX_SAMPLES)]


def robust_rms(lengths: Array, dimensions: int, floor: float = 0.0) -> float:
    """Root mean square length of normal errors in so many dimensions; a minority of the lengths [N] may be anything."""
    median = {1: 0.6745, 2: 1.1774, 3: 1.5382}[dimensions]  # of the chi distribution, in σ per axis
    return float(max(np.median(lengths) / median * np.sqrt(dimensions), floor, 1e-300))


def moved(transform: Sim3, parameters: Array) -> Sim3:
    """The transform after a small change (log scale, rotation vector, translation) [7] on its left."""
    turn = Rotation.from_rotvec(parameters[1:4]).as_matrix()
    return Sim3(
        transform.scale * float(np.exp(parameters[0])),
        quat_wxyz_from_rotation(turn @ transform.rotation),
        transform.translation + parameters[4:7],
    )


def refine_similarity(residuals: Callable[[Sim3], Array], start: Sim3, loss: str = "linear") -> tuple[Sim3, Array]:
    """The similarity of least squares of ``residuals``, which are normalised by their σ, and its covariance [7, 7]."""

    def at(x: Array) -> Array:
        return residuals(moved(start, x))

    solved = least_squares(at, np.zeros(7), loss=loss, x_scale="jac", max_nfev=100)
    return moved(start, solved.x), np.linalg.pinv(solved.jac.T @ solved.jac)


def covariance_of(residuals: Callable[[Sim3], Array], at: Sim3) -> Array:
    """Cramér–Rao covariance [7, 7] of a least-squares fit, with the residuals' own variance."""
    base = residuals(at)
    steps = np.full(7, 1e-6)
    columns = [(residuals(moved(at, step)) - residuals(moved(at, -step))) / 2e-6 for step in np.diag(steps)]
    jacobian = np.stack(columns, axis=1)
    freedom = max(1, len(base) - 7)
    return np.asarray(np.linalg.pinv(jacobian.T @ jacobian) * float(base @ base) / freedom)
