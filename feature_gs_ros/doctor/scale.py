"""Scale and alignment: poses in another unit, an alignment that is off, a camera that isn't where its pose is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.evidence import Evidence
from feature_gs_ros.doctor.explanations import Explanation, fitted, with_poses
from feature_gs_ros.frames.features import Matches2D3D
from feature_gs_ros.frames.reprojection import PosedCamera, fit_parameters, posed_cameras
from feature_gs_ros.frames.umeyama import Array, moved

UNITS = {1000.0: "mm for m", 100.0: "cm for m", 10.0: "dm for m", 0.001: "m for mm", 0.01: "m for cm", 0.1: "m for dm",
         39.3701: "inches for m", 0.0254: "m for inches", 3.28084: "feet for m", 0.3048: "m for feet"}  # fmt: skip
NEAR_UNIT = 0.03  # relative: a factor so near to a usual one is named by it
RMS_OF_THIRD = 1.4  # rms of a vector of three normal values, by the lower third of its lengths
MIN_AGREEING = 0.5  # of the views, for a transform that all share


def _scaled(evidence: Evidence, factor: float) -> list[PosedCamera]:
    """Cameras whose positions are so many times as large as they should be."""

    def change(pose: Array) -> Array:
        changed: Array = pose.copy()
        changed[:3, 3] /= factor
        return changed

    return with_poses(evidence, change)


def unit_explanations(evidence: Evidence) -> list[Explanation]:
    """Positions in another unit."""
    return [_unit(evidence, factor) for factor in UNITS]


def _unit(evidence: Evidence, factor: float, fitted_parameters: int = 0) -> Explanation:
    near = next((unit for unit in UNITS if abs(np.log(factor / unit)) < NEAR_UNIT), None)
    named = f" ({UNITS[near]})" if near is not None else ""
    return Explanation(
        "scale",
        _scaled(evidence, factor),
        f"the scale is wrong: positions are {factor:.4g} times as large as the map's{named}",
        f"Divide the positions by {factor:.4g}, or the alignment's scale; feature-gs align images finds it exactly",
        fitted_parameters,
        {"factor": factor},
    )


def scale_explanation(evidence: Evidence, matches: Matches2D3D) -> Explanation:
    """Positions a little or a lot too large."""
    starts = [[float(np.log(factor))] for factor in (0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.2, 1.5, 2.0)]
    (log_factor,) = fitted(lambda x: _scaled(evidence, float(np.exp(np.clip(x[0], -9, 9)))), starts, matches)
    return _unit(evidence, float(np.exp(np.clip(log_factor, -9, 9))), 1)


def alignment_explanation(evidence: Evidence, matches: Matches2D3D, starts: Sequence[Sim3] = ()) -> Explanation:
    """All cameras off by one similarity."""
    given = evidence.splat_from_map
    base = max(
        (given, *starts),
        key=lambda start: float(evidence.supports(posed_cameras(evidence.frames, start), matches).sum()),
    )

    extent = max(float(np.linalg.norm(np.ptp(evidence.poses.positions, axis=0))), 1e-6) * base.scale
    reach = np.array([1.0, 1, 1, 1, extent, extent, extent])  # translations are bounded by the stream's extent

    def cameras_of(x: Array) -> list[PosedCamera]:
        return posed_cameras(evidence.frames, moved(base, np.clip(x, -5, 5) * reach))

    solution, _ = fit_parameters(cameras_of, np.zeros(7), matches)
    found = moved(base, np.clip(solution, -5, 5) * reach)
    change = given.inverse() @ found
    middle = np.median(evidence.poses.positions, axis=0)
    turn = float(np.degrees(np.linalg.norm(Rotation.from_matrix(change.rotation).as_rotvec())))
    shift = float(np.linalg.norm(change.apply(middle) - middle))
    return Explanation(
        "alignment.off",
        posed_cameras(evidence.frames, found),
        f"the alignment is off: by {shift:.3g} m and {turn:.2g}° at the cameras, and {100 * (change.scale - 1):+.2g}% "
        "in scale",
        "feature-gs align images MAP STREAM --start ALIGNMENT --out NEW finds the right one",
        7,
        {"metres": shift, "degrees": turn, "scale": change.scale},
    )


def flange_explanation(evidence: Evidence, matches: Matches2D3D, solved: dict[int, Array]) -> Explanation | None:
    """Poses of something that the camera is fixed to: all off by one rigid transform in the camera's own frame."""
    if len(solved) < 3:
        return None
    given = evidence.cameras
    changes = np.stack([solved[index] @ np.linalg.inv(given[index].camera_from_splat) for index in solved])
    # The view whose change the others agree with best.
    dispersion = [np.median([_difference(change, other, evidence) for other in changes]) for change in changes]
    start = changes[int(np.argmin(dispersion))]

    def cameras_of(x: Array) -> list[PosedCamera]:
        small = np.eye(4)
        small[:3, :3], small[:3, 3] = Rotation.from_rotvec(x[:3]).as_matrix(), x[3:] * evidence.splat_from_map.scale
        return [PosedCamera(posed.camera, small @ start @ posed.camera_from_splat) for posed in given]

    solution, _ = fit_parameters(cameras_of, np.zeros(6), matches, (12.0, 4.0, 1.5))
    change = cameras_of(solution)[0].camera_from_splat @ np.linalg.inv(given[0].camera_from_splat)
    turn = float(np.degrees(np.linalg.norm(Rotation.from_matrix(change[:3, :3]).as_rotvec())))
    shift = float(np.linalg.norm(change[:3, 3])) / evidence.splat_from_map.scale
    return Explanation(
        "poses.flange",
        cameras_of(solution),
        f"the poses are not the camera's but of something it is fixed to, {shift:.3g} m and {turn:.3g}° away "
        "(an arm's flange)",
        "feature-gs align hand-eye finds flange_from_camera; publish it as a static transform",
        6,
        {"metres": shift, "degrees": turn},
    )


def _difference(first: Array, second: Array, evidence: Evidence) -> float:
    change = np.linalg.inv(first) @ second
    turn = np.linalg.norm(Rotation.from_matrix(change[:3, :3]).as_rotvec())
    return float(turn + np.linalg.norm(change[:3, 3]) / evidence.splat_from_map.scale)


def wrong_views(
    evidence: Evidence, cameras: Sequence[PosedCamera], solved: Mapping[int, Array]
) -> tuple[dict[int, tuple[float, float]], tuple[float, float]]:
    """How far views' own poses are from an explanation's: {view: (metres, degrees)}, and the better third's rms."""
    off = {}
    for index, pose in solved.items():
        change = pose @ np.linalg.inv(cameras[index].camera_from_splat)
        centre = np.linalg.inv(pose)[:3, 3] - np.linalg.inv(cameras[index].camera_from_splat)[:3, 3]
        turn = float(np.degrees(np.linalg.norm(Rotation.from_matrix(change[:3, :3]).as_rotvec())))
        off[index] = (float(np.linalg.norm(centre)) / evidence.splat_from_map.scale, turn)
    # Up to two thirds may be wrong.
    metres, degrees = np.quantile(np.array(list(off.values()) or [(0.0, 0.0)]), 0.33, axis=0) * RMS_OF_THIRD
    return off, (float(metres), float(degrees))
