"""``splat_from_map`` from the images of a stream alone: found anywhere in the map, or refined from a start near by.

Live images are matched with rendered views (`features`). From a start, views are rendered where the cameras are thought
to be; without one, from directions all around the map. A pose is solved for each live view (PnP), two such poses and
those of the stream give a similarity, and the one that explains most matches of all views is refined by the
reprojection error of all, rendering anew where the cameras now are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Camera, Frame
from feature_gs_ros.core.errors import AlignmentError, ImageError, StoppedError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.frames.features import (
    Features,
    MapFeatures,
    Matches2D3D,
    live_features,
    map_features,
    match_features,
    render_view,
    small_camera,
    spread_frames,
)
from feature_gs_ros.frames.report import AlignmentReport, ViewResidual
from feature_gs_ros.frames.reprojection import (
    TOLERANCE,
    PosedCamera,
    fit_alignment,
    matching_scale,
    pose_from_matches,
    posed_cameras,
    residuals,
    support,
)
from feature_gs_ros.frames.umeyama import Array

VIEWS = 12  # of the stream that are looked at
REFINEMENTS = 4  # times that the map is rendered where the cameras are
MIN_SUPPORT = 6.0  # matches explained per view, below which nothing is found
MIN_VIEWS = 0.5  # of the views that must be explained
OUTLIER_FRACTION = 0.25  # of the median view's support, below which a view is an outlier
DIRECTIONS = 42  # from which the map is looked at without a start
DISTANCES = (1.0, 1.7)  # of one at which the map's core fills the view
SETTLED = 1e-4  # change of the alignment, relative and rad, that ends the refinement

Progress = Callable[[int, int, str], bool | None]


@dataclass(frozen=True, eq=False)
class LiveViews:
    """Frames of a stream with the features of their images."""

    frames: tuple[Frame, ...]
    features: tuple[Features, ...]

    @staticmethod
    def of(frames: Sequence[Frame], count: int = VIEWS) -> LiveViews:
        """Of up to ``count`` of the frames, spread over them; those whose image is damaged are left out."""
        kept, features = [], []
        for index in spread_frames(frames, count):
            try:
                features.append(live_features(frames[index].image))
            except ImageError:
                continue
            kept.append(frames[index])
        return LiveViews(tuple(kept), tuple(features))

    def matches(self, known: MapFeatures | Sequence[MapFeatures]) -> Matches2D3D:
        """All views' matches with the same points, or each with its own."""
        each = [known] * len(self.frames) if isinstance(known, MapFeatures) else known
        return Matches2D3D.joined(
            match_features(index, live, points)
            for index, (live, points) in enumerate(zip(self.features, each, strict=True))
        )


def align_images(
    gaussians: GaussianMap, frames: Sequence[Frame], start: Sim3 | None = None, progress: Progress | None = None
) -> AlignmentReport:
    """``splat_from_map`` by which the stream's images show the map.

    Args:
        frames: posed in the map frame; a few spread over them are looked at.
        start: a guess within some 20 cm and 20°; None searches the whole map.
        progress: called with steps done and in all.

    Raises:
        AlignmentError: the images show nothing of the map that can be found.
    """
    live = LiveViews.of(frames)
    found = None
    if start is not None:
        _tell(progress, 0, "near the start")
        found = refine_alignment(gaussians, live, start)
    if found is None:
        _tell(progress, 0, "searching the whole map")
        found = search(gaussians, live)
    if found is None:
        raise AlignmentError(
            f"the {len(live.frames)} images looked at show nothing of the map that can be found from outside it: is it "
            "the same scene? Give a --start within 20 cm and 20°, or align by poses, points or markers",
            code="alignment.not-found",
        )
    _tell(progress, 2, "found")
    alignment, covariance, matches = found
    return _report(live, alignment, covariance, matches, "images" if start is not None else "images, without a start")


Found = tuple[Sim3, Array, Matches2D3D]  # the alignment, its covariance [7, 7], and the matches it rests on


def refine_alignment(gaussians: GaussianMap, live: LiveViews, start: Sim3) -> Found | None:
    """From a start near by; None where the images don't fit what is rendered around there."""
    alignment = start
    covariance, matches = np.eye(7), Matches2D3D.joined([])
    for _ in range(REFINEMENTS):
        rendered = rendered_features(gaussians, posed_cameras(live.frames, alignment))
        matches = live.matches(MapFeatures.pooled(rendered))
        if len(matches) == 0:
            return None
        candidates = [alignment, *similarities_by_pairs(live.frames, solved_poses(live.frames, matches))]
        best = max(candidates, key=lambda candidate: _total(live, candidate, matches))
        before = alignment
        scales = (15.0, 5.0, 2.0) if best is not alignment else (5.0, 2.0)
        alignment, covariance = fit_alignment(live.frames, matches, best, scales)
        change = before.inverse() @ alignment
        turn = float(np.linalg.norm(Rotation.from_matrix(change.rotation).as_rotvec()))
        if turn + abs(np.log(change.scale)) < SETTLED:
            break
    return (alignment, covariance, matches) if is_explained(live, alignment, matches) else None


def search(gaussians: GaussianMap, live: LiveViews) -> Found | None:
    """Anywhere in the map."""
    matches = live.matches(surrounding_features(gaussians, live.frames[0].camera))
    candidates = sorted(
        similarities_by_pairs(live.frames, solved_poses(live.frames, matches)),
        key=lambda candidate: -_total(live, candidate, matches),
    )
    for candidate in candidates[:3]:
        near, _ = fit_alignment(live.frames, matches, candidate, (15.0, 5.0))
        found = refine_alignment(gaussians, live, near)
        if found is not None:
            return found
    return None


def surrounding_features(gaussians: GaussianMap, camera: Camera) -> MapFeatures:
    """Of the map rendered from all around."""
    small = small_camera(camera)
    poses = surrounding_poses(gaussians, small)
    return MapFeatures.pooled(rendered_features(gaussians, [PosedCamera(small, pose) for pose in poses]))


def _tell(progress: Progress | None, done: int, what: str) -> None:
    if progress is not None and progress(done, 2, what):
        raise StoppedError("interrupted")


def rendered_features(gaussians: GaussianMap, cameras: Sequence[PosedCamera]) -> list[MapFeatures]:
    """Of the map as the cameras see it, at the size that is matched."""
    return [
        map_features(render_view(gaussians, small_camera(posed.camera), posed.camera_from_splat)) for posed in cameras
    ]


def is_explained(live: LiveViews, alignment: Sim3, matches: Matches2D3D) -> bool:
    """Whether enough views have enough matches that the alignment explains."""
    return float((_per_view(live, alignment, matches) >= MIN_SUPPORT).mean()) >= MIN_VIEWS


def _per_view(live: LiveViews, alignment: Sim3, matches: Matches2D3D) -> Array:
    """Support of each view [V]."""
    weights = support(posed_cameras(live.frames, alignment), matches)
    return np.bincount(matches.frames, weights, minlength=len(live.frames)).astype(np.float64)


def _total(live: LiveViews, alignment: Sim3, matches: Matches2D3D) -> float:
    """Support of all views; more counts less, so that many views with some beat one with all."""
    return float(np.sqrt(_per_view(live, alignment, matches)).sum())


def solved_poses(frames: Sequence[Frame], matches: Matches2D3D) -> dict[int, Array]:
    """Each frame's own ``camera_from_splat`` [4, 4], from its matches alone, where there are enough."""
    solved = {}
    for index, frame in enumerate(frames):
        found = pose_from_matches(frame.camera, matches.of(matches.frames == index))
        if found is not None:
            solved[index] = found[0]
    return solved


def similarities_by_pairs(frames: Sequence[Frame], solved: Mapping[int, Array]) -> list[Sim3]:
    """Similarities that bring two frames' solved poses together with those of the stream."""
    candidates = []
    for i, k in combinations(solved, 2):
        candidate = _similarity_of(frames[i], frames[k], solved[i], solved[k])
        if candidate is not None:
            candidates.append(candidate)
    return candidates


def _similarity_of(first: Frame, second: Frame, first_solved: Array, second_solved: Array) -> Sim3 | None:
    """By two cameras' poses in both frames; None where they contradict each other."""
    in_map = [np.linalg.inv(frame.camera_from_world) for frame in (first, second)]
    in_splat = [np.linalg.inv(pose) for pose in (first_solved, second_solved)]
    turns = np.stack([b[:3, :3] @ a[:3, :3].T for a, b in zip(in_map, in_splat, strict=True)])
    length = float(np.linalg.norm(in_map[1][:3, 3] - in_map[0][:3, 3]))
    reached = float(np.linalg.norm(in_splat[1][:3, 3] - in_splat[0][:3, 3]))
    if length < 1e-6 or reached < 1e-9 or np.trace(turns[0].T @ turns[1]) < 1 + 2 * np.cos(np.radians(10)):
        return None
    rotation, scale = Rotation.from_matrix(turns).mean().as_matrix(), reached / length
    middle = (in_map[0][:3, 3] + in_map[1][:3, 3]) / 2
    target = (in_splat[0][:3, 3] + in_splat[1][:3, 3]) / 2
    return Sim3(scale, quat_wxyz_from_rotation(rotation), target - scale * rotation @ middle)


def surrounding_poses(gaussians: GaussianMap, camera: Camera) -> list[Array]:
    """``camera_from_splat`` of cameras around the map's core that look at it, from all directions and two distances."""
    opaque = gaussians.means[gaussians.opacities > 0.3].double().numpy()
    points = opaque if len(opaque) > 100 else gaussians.means.double().numpy()
    middle = np.median(points, axis=0)
    distances = np.linalg.norm(points - middle, axis=1)
    core = points[distances <= np.median(distances)]
    middle = np.median(core, axis=0)
    radius = float(np.quantile(np.linalg.norm(core - middle, axis=1), 0.8))
    fills = radius * min(camera.fx / camera.width, camera.fy / camera.height) * 2
    golden = np.pi * (3 - np.sqrt(5))
    poses = []
    for k in range(DIRECTIONS):
        z = 1 - 2 * (k + 0.5) / DIRECTIONS
        direction = np.array([np.sqrt(1 - z * z) * np.cos(golden * k), np.sqrt(1 - z * z) * np.sin(golden * k), z])
        poses += [_looking_at(middle + distance * fills * direction, middle) for distance in DISTANCES]
    return poses


def _looking_at(eye: Array, target: Array) -> Array:
    forward = (target - eye) / np.linalg.norm(target - eye)
    side = np.eye(3)[np.abs(forward).argmin()]
    right = np.cross(forward, side)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose


def _report(live: LiveViews, alignment: Sim3, covariance: Array, matches: Matches2D3D, method: str) -> AlignmentReport:
    cameras = posed_cameras(live.frames, alignment)
    off = np.linalg.norm(residuals(cameras, matches), axis=1)
    per_view = _per_view(live, alignment, matches)
    views = []
    for index, frame in enumerate(live.frames):
        rows = (matches.frames == index) & (off < TOLERANCE)
        pixels = float(np.sqrt((off[rows] ** 2).mean())) * matching_scale(frame.camera) if rows.any() else float("nan")
        outlier = bool(per_view[index] < max(MIN_SUPPORT / 2, OUTLIER_FRACTION * float(np.median(per_view))))
        millimetres, degrees = _pose_error(frame, cameras[index], matches.of(matches.frames == index), alignment)
        views.append(ViewResidual(frame.name, millimetres, degrees, pixels, outlier))
    return AlignmentReport(alignment, method, tuple(views), covariance)


def _pose_error(frame: Frame, posed: PosedCamera, matches: Matches2D3D, alignment: Sim3) -> tuple[float, float]:
    """How far the pose that this view's own matches give is from its pose by the alignment: mm and degrees."""
    solved = pose_from_matches(frame.camera, matches)
    if solved is None:
        return float("nan"), float("nan")
    change = np.linalg.inv(solved[0]) @ posed.camera_from_splat
    centre = np.linalg.inv(posed.camera_from_splat)[:3, 3] - np.linalg.inv(solved[0])[:3, 3]
    turn = float(np.linalg.norm(Rotation.from_matrix(change[:3, :3]).as_rotvec()))
    return 1000 * float(np.linalg.norm(centre)) / alignment.scale, float(np.degrees(turn))
