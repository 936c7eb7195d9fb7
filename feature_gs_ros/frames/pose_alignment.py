"""``splat_from_map`` from poses of the same cameras in both frames, robust against wrong ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.frames.matching import MatchBy, Matches, angles, match_poses
from feature_gs_ros.frames.poses import Array, Poses
from feature_gs_ros.frames.report import AlignmentReport, ViewResidual
from feature_gs_ros.frames.umeyama import (
    INLIER_LIMIT,
    covariance_of,
    fit_points,
    refine_similarity,
    robust_rms,
    sampled_subsets,
)

ROTATION_FLOOR = np.radians(1e-5)
POSITION_FLOOR = 1e-7  # of the extent
OTHER_BODY = np.radians(10.0)  # rotations off by more while positions fit: not the same body's axes
MIN_INLIERS = 0.35  # of the poses; fewer may agree by chance
UNSURE_SCALE = 0.01  # relative standard deviation from which the scale is called uncertain


def align_poses(stream: Poses, reference: Poses, by: MatchBy = "auto") -> AlignmentReport:
    """``splat_from_map`` from camera poses in the map frame (``stream``) and in the splat's (``reference``).

    Raises:
        AlignmentError: the poses don't correspond, or no similarity brings enough of them together.
    """
    return align_matches(match_poses(stream, reference, by))


def align_matches(matches: Matches) -> AlignmentReport:
    """The same for poses that are matched already."""
    a, b = matches.stream, matches.reference
    start = _consensus(a, b)
    fit, inliers, position_rms, rotation_rms = _refined(a, b, start)
    if inliers.mean() < MIN_INLIERS:
        raise _no_fit(matches, inliers)
    positions, turns = _residuals(a, b, fit)

    def normalised(transform: Sim3) -> Array:
        return _normalised(a, b, inliers, transform, position_rms, rotation_rms)

    report = AlignmentReport(
        fit,
        f"poses by {matches.by}",
        tuple(
            ViewResidual(name, 1000 * float(distance), float(np.degrees(turn)), is_outlier=not inlier)
            for name, distance, turn, inlier in zip(a.names, positions, turns, inliers, strict=True)
        )
        + tuple(ViewResidual(name, float("nan"), is_outlier=True) for name in matches.unmatched),
        covariance_of(normalised, fit),
        matches.time_offset,
    )
    return _with_warnings(report)


def _consensus(a: Poses, b: Poses) -> Sim3:
    """Of all pairs of poses, the similarity of the one that the median pose agrees with best (LMedS)."""
    relative = np.einsum("nij,nkj->nik", b.rotations, a.rotations)  # the turn between the frames, by each pose
    extent = _median_distance(a.positions)
    best, least = None, np.inf
    for i, k in sampled_subsets(len(a), 2):
        length = float(np.linalg.norm(a.positions[k] - a.positions[i]))
        reached = float(np.linalg.norm(b.positions[k] - b.positions[i]))
        if length < 0.05 * extent or reached == 0:
            continue
        # Rotations say the turn, and the two positions the scale; both rotations must say the same.
        rotation = Rotation.from_matrix(relative[[i, k]]).mean().as_matrix()
        scale = reached / length
        middle = (a.positions[i] + a.positions[k]) / 2
        translation = (b.positions[i] + b.positions[k]) / 2 - scale * rotation @ middle
        candidate = Sim3(scale, quat_wxyz_from_rotation(rotation), translation)
        positions, turns = _residuals(a, b, candidate)
        cost = float(np.quantile(positions / extent + turns, 0.5 if len(a) > 4 else 0.75))
        if cost < least:
            best, least = candidate, cost
    if best is None:
        raise AlignmentError(
            f"the {len(a)} cameras of '{a.source}' are all in one place, so there is no scale: move the camera",
            code="alignment.degenerate",
        )
    return best


def _refined(a: Poses, b: Poses, start: Sim3) -> tuple[Sim3, NDArray[np.bool_], float, float]:
    """Least squares over positions and rotations of the inliers, each weighted by its own noise, until they stay."""
    fit, inliers = start, np.ones(len(a), dtype=np.bool_)
    floor = POSITION_FLOOR * _median_distance(a.positions)
    position_rms = rotation_rms = np.inf
    for _ in range(10):
        positions, turns = _residuals(a, b, fit)
        position_rms, rotation_rms = robust_rms(positions, 3, floor), robust_rms(turns, 3, ROTATION_FLOOR)
        before = inliers
        inliers = (positions <= INLIER_LIMIT * position_rms) & (turns <= INLIER_LIMIT * rotation_rms)
        if inliers.sum() < 3:
            inliers = np.argsort(np.argsort(positions / position_rms + turns / rotation_rms)) < 3
        used, noise = inliers, (position_rms, rotation_rms)

        def normalised(transform: Sim3, used: NDArray[np.bool_] = used, noise: tuple[float, float] = noise) -> Array:
            return _normalised(a, b, used, transform, *noise)

        fit, _ = refine_similarity(normalised, fit)
        if (inliers == before).all():
            break
    return fit, inliers, position_rms, rotation_rms


def _residuals(a: Poses, b: Poses, splat_from_map: Sim3) -> tuple[Array, Array]:
    """Of each pose: distance in units of the map [N], and angle in rad [N]."""
    positions = np.linalg.norm(splat_from_map.apply(a.positions) - b.positions, axis=1) / splat_from_map.scale
    return positions, angles(splat_from_map.rotation @ a.rotations, b.rotations)


def _normalised(
    a: Poses, b: Poses, rows: NDArray[np.bool_], splat_from_map: Sim3, position_rms: float, rotation_rms: float
) -> Array:
    """Residuals [6 M] of the rows in units of their standard deviations per axis."""
    positions = (splat_from_map.apply(a.positions[rows]) - b.positions[rows]) / splat_from_map.scale
    turned = splat_from_map.rotation @ a.rotations[rows]
    turns = Rotation.from_matrix(np.einsum("nji,njk->nik", b.rotations[rows], turned)).as_rotvec()
    return np.asarray(
        np.sqrt(3.0) * np.concatenate([(positions / position_rms).ravel(), (turns / rotation_rms).ravel()])
    )


def _median_distance(points: Array) -> float:
    return max(float(np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1))), 1e-12)


def _no_fit(matches: Matches, inliers: NDArray[np.bool_]) -> AlignmentError:
    """Why no similarity holds: the usual reason is that the poses are the flange's."""
    a, b = matches.stream, matches.reference
    hint = "are they of the same recording?"
    try:
        points = fit_points(a.positions, b.positions)
    except AlignmentError:
        points = None
    if points is not None and points.inliers.mean() > 0.5:
        hint = "their positions agree but their axes don't: poses of a flange (feature-gs align hand-eye) or other axes"
    return AlignmentError(
        f"no similarity brings more than {int(inliers.sum())} of the {len(a)} poses of '{a.source}' together with "
        f"'{b.source}': {hint}",
        code="alignment.inconsistent",
    )


def _with_warnings(report: AlignmentReport) -> AlignmentReport:
    warnings = []
    if report.rms_degrees > np.degrees(OTHER_BODY):
        warnings.append(
            f"rotations are {report.rms_degrees:.0f}° off while positions are {report.rms_millimetres:.1f} mm: these "
            "are not poses of the camera but of a flange or of other axes; use feature-gs align hand-eye"
        )
    if report.scale_sigma > UNSURE_SCALE:
        warnings.append(f"the scale is known to {100 * report.scale_sigma:.1f}% only: move the camera further")
    if not warnings:
        return report
    return AlignmentReport(**{**report.__dict__, "warnings": (*report.warnings, *warnings)})
