"""Hand–eye calibration with scale: ``flange_from_camera`` and ``splat_from_map`` together.

A flange pose and the camera's pose in the splat of the same moment obey

    splat_from_camera_i  =  splat_from_map · map_from_flange_i · flange_from_camera

with thirteen unknowns: a rigid transform of the camera on the flange, and a similarity. Their start is closed form:
turns between moments have the same angle in both frames, about axes that differ by the camera's rotation (Park and
Martin, "Robot sensor calibration: solving AX = XB on the Euclidean group", 1994); given the rotations, positions are
linear in the scale and both translations. Then all are refined by robust least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.frames.matching import MatchBy, Matches, angles, match_by_name, match_by_stamp, match_poses
from feature_gs_ros.frames.poses import Array, Poses
from feature_gs_ros.frames.report import AlignmentReport, ViewResidual
from feature_gs_ros.frames.umeyama import INLIER_LIMIT, moved, robust_rms

MIN_POSES = 4  # three give as many equations as there are unknowns, and no residual to judge by
MIN_TURN = np.radians(5.0)  # between two poses: of less the axis is noise
SAME_ANGLE = np.radians(3.0)  # by which the turns in both frames may differ
ONE_AXIS = 0.1  # of the turns' second to their first extent: below it they are about one axis
LITTLE_TURNING = np.radians(15.0)  # largest turn from the mean orientation
UNSURE_MILLIMETRES, UNSURE_SCALE = 10.0, 0.02  # standard deviations from which a value is called uncertain
MAX_SIGMA = 1e6  # of what cannot be found at all
SEARCHES = 300  # random triples of poses for a robust start


@dataclass(frozen=True, eq=False)
class _State:
    """The thirteen unknowns."""

    splat_from_map: Sim3
    flange_from_camera: Array  # [4, 4]

    def moved(self, x: Array) -> _State:
        """After a small change [13]: of the similarity on its left, of the rigid transform on its right."""
        change = np.eye(4)
        change[:3, :3] = Rotation.from_rotvec(x[7:10]).as_matrix()
        change[:3, 3] = x[10:13]
        return _State(moved(self.splat_from_map, x[:7]), self.flange_from_camera @ change)


def align_hand_eye(flange: Poses, reference: Poses, by: MatchBy = "auto") -> AlignmentReport:
    """``splat_from_map`` and ``flange_from_camera`` from poses of an arm's flange and of its camera in the splat.

    Args:
        flange: ``map_from_flange``, metres.
        reference: ``splat_from_camera``, of COLMAP for one.
        by: how they are matched; by shape they can't be, as the camera's rotation on the flange is unknown.

    Raises:
        AlignmentError: too few poses correspond, or they move so little that nothing can be found.
    """
    return solve_hand_eye(_matched(flange, reference, by))


def _matched(flange: Poses, reference: Poses, by: MatchBy) -> Matches:
    if by == "shape":
        raise AlignmentError(
            "flange poses can't be matched by shape; name them like the images, or give stamps",
            code="alignment.unmatched",
        )
    if by != "auto":
        return match_poses(flange, reference, by)
    reasons = []
    for match in (match_by_name, match_by_stamp):
        matches, reason = match(flange, reference)
        if matches is not None:
            return matches
        reasons.append(reason)
    raise AlignmentError(
        f"poses of '{flange.source}' and '{reference.source}' don't correspond ({'; '.join(reasons)}); name the flange "
        "poses like the images, or give stamps",
        code="alignment.unmatched",
    )


def solve_hand_eye(matches: Matches) -> AlignmentReport:
    """The same for poses that are matched already.

    Raises:
        AlignmentError: fewer than `MIN_POSES`, or they move so little that nothing can be found.
    """
    a, b = matches.stream, matches.reference
    if len(a) < MIN_POSES:
        raise AlignmentError(
            f"{len(a)} poses; hand–eye calibration takes {MIN_POSES} or more, better 15", code="alignment.too-few"
        )
    state, inliers = _robust_start(a, b)
    state, inliers, covariance = _refined(a, b, state, inliers)
    positions, turns = _lengths(a, b, state)
    return AlignmentReport(
        state.splat_from_map,
        f"hand–eye by {matches.by}",
        tuple(
            ViewResidual(name, 1000 * float(distance), float(np.degrees(turn)), is_outlier=not inlier)
            for name, distance, turn, inlier in zip(a.names, positions, turns, inliers, strict=True)
        ),
        covariance[:7, :7],
        matches.time_offset,
        state.flange_from_camera,
        _flange_sigma(covariance),
        _warnings(a.subset(np.flatnonzero(inliers)), covariance),
    )


def _robust_start(a: Poses, b: Poses) -> tuple[_State, NDArray[np.bool_]]:
    """Of closed-form solutions of a few poses each, and of all, the one with the least median residual."""
    rng = np.random.default_rng(0)
    samples = [np.arange(len(a))]
    if len(a) > MIN_POSES:
        samples += [rng.choice(len(a), min(len(a) - 1, 5), replace=False) for _ in range(SEARCHES)]
    best, least, ranks = None, np.inf, np.zeros(len(a))
    extent = max(float(np.linalg.norm(np.ptp(a.positions, axis=0))), 1e-9)
    for rows in samples:
        candidate = _closed_form(a.subset(rows), b.subset(rows))
        if candidate is None:
            continue
        positions, turns = _lengths(a, b, candidate)
        cost = float(np.quantile(positions / extent + turns, 0.6))
        if cost < least:
            best, least, ranks = candidate, cost, positions / extent + turns
    if best is None:
        raise AlignmentError(
            f"the {len(a)} poses of '{a.source}' turn by less than {np.degrees(MIN_TURN):.0f}° or not as those of "
            f"'{b.source}' do: hand–eye calibration needs turns of 30° or more about two axes, the same in both",
            code="alignment.degenerate",
        )
    return best, ranks <= np.quantile(ranks, 0.6)


def _closed_form(a: Poses, b: Poses) -> _State | None:
    """Park and Martin's rotation, then linear least squares; None where there is too little turning."""
    first, second = np.triu_indices(len(a), 1)
    turn_flange = Rotation.from_matrix(np.einsum("nji,njk->nik", a.rotations[first], a.rotations[second])).as_rotvec()
    turn_camera = Rotation.from_matrix(np.einsum("nji,njk->nik", b.rotations[first], b.rotations[second])).as_rotvec()
    by_flange, by_camera = np.linalg.norm(turn_flange, axis=1), np.linalg.norm(turn_camera, axis=1)
    # Near half a turn an axis may point either way.
    usable = (by_flange > MIN_TURN) & (by_flange < np.radians(170)) & (np.abs(by_flange - by_camera) < SAME_ANGLE)
    if usable.sum() < 2:
        return None
    u, _, vt = np.linalg.svd(turn_flange[usable].T @ turn_camera[usable])
    flange_from_camera = u @ np.diag([1, 1, np.linalg.det(u) * np.linalg.det(vt)]) @ vt
    votes = np.einsum("nij,kj,nlk->nil", b.rotations, flange_from_camera, a.rotations)
    splat_from_map = Rotation.from_matrix(votes).mean().as_matrix()
    return _positions_given_rotations(a, b, splat_from_map, flange_from_camera)


def _positions_given_rotations(a: Poses, b: Poses, turn: Array, camera: Array) -> _State | None:
    """``c_i = s (R t_i) + R R_i (s x) + t``: linear in the scale s, the scaled offset s x of the camera, and t."""
    system = np.zeros((len(a), 3, 7))
    system[:, :, 0] = a.positions @ turn.T
    system[:, :, 1:4] = turn @ a.rotations
    system[:, :, 4:] = np.eye(3)
    solution, *_ = np.linalg.lstsq(system.reshape(-1, 7), b.positions.ravel(), rcond=1e-9)
    scale = float(solution[0])
    if scale <= 1e-12:
        return None
    flange_from_camera = np.eye(4)
    flange_from_camera[:3, :3], flange_from_camera[:3, 3] = camera, solution[1:4] / scale
    return _State(Sim3(scale, quat_wxyz_from_rotation(turn), solution[4:].astype(np.float64)), flange_from_camera)


def _refined(a: Poses, b: Poses, state: _State, inliers: NDArray[np.bool_]) -> tuple[_State, NDArray[np.bool_], Array]:
    """Least squares over positions and rotations, weighted by the noise that each shows, until the inliers stay."""
    covariance = np.eye(13)
    for _ in range(12):
        used, weights = inliers, _noise(a, b, state, inliers)

        def normalised(x: Array, used: NDArray[np.bool_] = used, noise: tuple[float, float] = weights,
                       start: _State = state) -> Array:  # fmt: skip
            return _normalised(a, b, used, start.moved(x), noise)

        solved = least_squares(normalised, np.zeros(13), x_scale="jac", loss="soft_l1", f_scale=3.0, max_nfev=50)
        settled = float(np.abs(solved.x).max()) < 1e-7
        state = state.moved(solved.x)
        covariance = _covariance(solved.jac)
        positions, turns = _lengths(a, b, state)
        before, (position_rms, rotation_rms) = inliers, _noise(a, b, state, np.ones(len(a), dtype=np.bool_), True)
        inliers = (positions <= INLIER_LIMIT * position_rms) & (turns <= INLIER_LIMIT * rotation_rms)
        if inliers.sum() < MIN_POSES:
            inliers = before
        if settled and (inliers == before).all():
            break
    return state, inliers, covariance


def _noise(a: Poses, b: Poses, state: _State, rows: NDArray[np.bool_], robust: bool = False) -> tuple[float, float]:
    """Root mean square residual of positions and of turns, as unbiased as their shared thirteen unknowns allow."""
    positions, turns = _lengths(a, b, state)
    if robust:
        return robust_rms(positions, 3, 1e-9), robust_rms(turns, 3, 1e-9)
    freedom = np.sqrt(max(0.3, 1 - 13 / (6 * rows.sum())))
    return (
        max(float(np.sqrt((positions[rows] ** 2).mean())) / freedom, 1e-9),
        max(float(np.sqrt((turns[rows] ** 2).mean())) / freedom, 1e-9),
    )


def _predicted(a: Poses, state: _State) -> tuple[Array, Array]:
    """Camera centres [N, 3] in the splat, and rotations [N, 3, 3]."""
    camera = a.world_from_body @ state.flange_from_camera
    return state.splat_from_map.apply(camera[:, :3, 3]), state.splat_from_map.rotation @ camera[:, :3, :3]


def _lengths(a: Poses, b: Poses, state: _State) -> tuple[Array, Array]:
    """Residual of each pose: metres [N] and rad [N]."""
    centres, rotations = _predicted(a, state)
    return np.linalg.norm(centres - b.positions, axis=1) / state.splat_from_map.scale, angles(rotations, b.rotations)


def _normalised(a: Poses, b: Poses, rows: NDArray[np.bool_], state: _State, noise: tuple[float, float]) -> Array:
    """Residuals [6 M] in standard deviations per axis."""
    centres, rotations = _predicted(a, state)
    positions = (centres - b.positions)[rows] / state.splat_from_map.scale / noise[0]
    turns = Rotation.from_matrix(np.einsum("nji,njk->nik", b.rotations[rows], rotations[rows])).as_rotvec() / noise[1]
    return np.asarray(np.sqrt(3.0) * np.concatenate([positions.ravel(), turns.ravel()]))


def _covariance(jacobian: Array) -> Array:
    """Inverse of the information; directions that the poses leave free get `MAX_SIGMA`."""
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
    return np.asarray(vectors @ np.diag(1 / np.maximum(values, MAX_SIGMA**-2)) @ vectors.T)


def _flange_sigma(covariance: Array) -> tuple[float, float]:
    """One standard deviation of the camera on the flange: degrees and millimetres (roots of the sums over axes)."""
    return (
        float(np.degrees(np.sqrt(np.trace(covariance[7:10, 7:10])))),
        1000 * float(np.sqrt(np.trace(covariance[10:13, 10:13]))),
    )


def _warnings(a: Poses, covariance: Array) -> tuple[str, ...]:
    """What the geometry of the motion leaves uncertain."""
    warnings = []
    middle = Rotation.from_matrix(a.rotations).mean()
    turns = (middle.inv() * Rotation.from_matrix(a.rotations)).as_rotvec()
    extents = np.linalg.svd(turns - turns.mean(axis=0), compute_uv=False)
    widest = float(np.linalg.norm(turns, axis=1).max())
    if widest < LITTLE_TURNING:
        warnings.append(
            f"too little motion: the flange turns by {np.degrees(widest):.0f}° at most from its mean; turn it by 30° "
            "or more about two axes"
        )
    elif extents[1] < ONE_AXIS * extents[0]:
        axis = middle.as_matrix() @ np.linalg.svd(turns - turns.mean(axis=0))[2][0]
        named = ", ".join(f"{value:.2f}" for value in axis)
        warnings.append(
            f"all turns are about one axis ({named} in the map frame), which leaves the camera's offset along it "
            "unknown; add poses that turn about another axis"
        )
    sigma = _flange_sigma(covariance)
    if sigma[1] > UNSURE_MILLIMETRES:
        warnings.append(f"flange_from_camera is known to {_or_not_at_all(sigma[1], 'mm')} only; add more varied poses")
    scale = 100 * float(np.sqrt(covariance[0, 0]))
    if scale > 100 * UNSURE_SCALE:
        warnings.append(f"the scale is known to {_or_not_at_all(scale, '%')} only; move the flange further")
    return tuple(warnings)


def _or_not_at_all(sigma: float, unit: str) -> str:
    return f"{sigma:.3g} {unit}" if sigma < 1e4 else f"more than 10,000 {unit}"
