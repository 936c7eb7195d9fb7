"""Parts of the map that no camera of the stream sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feature_gs_ros.doctor.evidence import Evidence
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.frames.reprojection import PosedCamera, posed_cameras
from feature_gs_ros.frames.umeyama import Array

MAX_CAMERAS = 60
MAX_POINTS = 20_000
MAX_UNSEEN = 0.3  # of the map's opacity that may be outside of all views without a word


def coverage_findings(evidence: Evidence) -> list[Finding]:
    """A note where much of the map is in no camera's view (what stands in front is not considered)."""
    seen, points = seen_points(evidence)
    unseen = 1 - float(seen.mean())
    if unseen <= MAX_UNSEEN:
        return []
    in_map = evidence.splat_from_map.inverse().apply(points[~seen])
    middle = ", ".join(f"{value:.2f}" for value in np.median(in_map, axis=0))
    return [
        Finding(
            "coverage.unseen", "note", 0.9,
            f"{unseen:.0%} of the map is in no camera's view (around {middle} in the map frame)",
            "What isn't seen gets no features: record that part, too", (), {"unseen": unseen},
        )
    ]  # fmt: skip


def seen_points(evidence: Evidence) -> tuple[np.ndarray, Array]:
    """Whether points of the map [K, 3], drawn by opacity, are in a camera's view [K]."""
    assert evidence.gaussians is not None
    rng = np.random.default_rng(0)
    opacity = evidence.gaussians.opacities.double().numpy()
    rows = rng.choice(len(opacity), min(MAX_POINTS, len(opacity)), p=opacity / opacity.sum())
    points = evidence.gaussians.means.double().numpy()[rows]
    frames = evidence.all_frames
    chosen = [
        frames[row] for row in np.unique(np.linspace(0, len(frames) - 1, min(MAX_CAMERAS, len(frames))).astype(int))
    ]
    seen = np.zeros(len(points), dtype=np.bool_)
    for posed in posed_cameras(chosen, evidence.splat_from_map):
        local = points @ posed.camera_from_splat[:3, :3].T + posed.camera_from_splat[:3, 3]
        depth = np.maximum(local[:, 2], 1e-9)
        camera = posed.camera
        x, y = local[:, 0] / depth * camera.fx + camera.cx, local[:, 1] / depth * camera.fy + camera.cy
        seen |= (local[:, 2] > 0.01) & (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)
    return seen, points


def in_view(evidence: Evidence, cameras: Sequence[PosedCamera]) -> float:
    """Fraction of the images' parts (8 × 6) that have opaque Gaussians in front, over cameras."""
    assert evidence.gaussians is not None
    opaque = evidence.gaussians.means[evidence.gaussians.opacities > 0.3].double().numpy()
    points = opaque[:: max(1, len(opaque) // 4000)]
    filled = []
    for posed in cameras:
        local = points @ posed.camera_from_splat[:3, :3].T + posed.camera_from_splat[:3, 3]
        local = local[local[:, 2] > 0.01]
        x = (local[:, 0] / local[:, 2] * posed.camera.fx + posed.camera.cx) / posed.camera.width * 8
        y = (local[:, 1] / local[:, 2] * posed.camera.fy + posed.camera.cy) / posed.camera.height * 6
        inside = (x >= 0) & (x < 8) & (y >= 0) & (y < 6)
        filled.append(len(np.unique(x[inside].astype(int) * 6 + y[inside].astype(int))) / 48)
    return float(np.mean(filled))
