"""Explanations: hypotheses about what is wrong, each of which says where the cameras would be then.

Whatever is wrong, the images show the map's points where they really are. An explanation is judged by how many of these
sightings it accounts for, and it must account for clearly more of them than the stream as it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.doctor.evidence import Evidence
from feature_gs_ros.frames.features import Matches2D3D
from feature_gs_ros.frames.reprojection import PosedCamera, fit_parameters, residuals
from feature_gs_ros.frames.umeyama import Array

WIDE = 12.0  # px of the matched image: how far off a coarse start may be
MAX_COARSE = 700  # matches that hypotheses are fitted to
PARAMETER_COST = 0.01  # of the support: what a fitted parameter must gain at least


@dataclass(frozen=True, eq=False)
class Explanation:
    """One hypothesis: what would be wrong, and the cameras of the frames looked at as they would be then."""

    code: str
    cameras: Sequence[PosedCamera]
    what: str
    advice: str
    parameters: int = 0  # fitted to the images
    values: Mapping[str, float] = field(default_factory=dict)
    matches: Matches2D3D | None = None  # where they are other ones than the images' own (mirrored)


def with_cameras(evidence: Evidence, change: Callable[[Camera], Camera]) -> list[PosedCamera]:
    """The frames with other intrinsics."""
    return [PosedCamera(change(posed.camera), posed.camera_from_splat) for posed in evidence.cameras]


def with_poses(evidence: Evidence, change: Callable[[Array], Array]) -> list[PosedCamera]:
    """The frames with other poses ``camera_from_map``, by a change of the given ones."""
    return [
        PosedCamera(frame.camera, evidence.splat_from_map.camera_from_splat(change(frame.camera_from_world)))
        for frame in evidence.frames
    ]


def coarse(cameras: Sequence[PosedCamera], matches: Matches2D3D) -> float:
    """Support with a wide tolerance, by which a start is chosen."""
    distances = np.linalg.norm(residuals(cameras, matches), axis=1)
    return float(np.maximum(0, 1 - (distances / WIDE) ** 2).sum())


def fitted(
    cameras_of: Callable[[Array], Sequence[PosedCamera]], starts: Sequence[Sequence[float]], matches: Matches2D3D
) -> Array:
    """The parameters that explain most, from the best of some starts."""
    matches = matches.thinned(MAX_COARSE)
    best = max(starts, key=lambda start: coarse(cameras_of(np.array(start, np.float64)), matches))
    solution, _ = fit_parameters(cameras_of, np.array(best, np.float64), matches, (12.0, 4.0, 1.5))
    return solution


def resized_focal(camera: Camera, factor_x: float, factor_y: float | None = None) -> Camera:
    """Another focal length, bounded to what a camera takes."""
    x, y = (float(np.clip(f, 0.02, 50)) for f in (factor_x, factor_x if factor_y is None else factor_y))
    return replace(camera, fx=camera.fx * x, fy=camera.fy * y)
