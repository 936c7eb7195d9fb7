"""The cheap half of the doctor: whether a few images show the map where their poses say.

A view is judged by what it could reach: the same image, matched with the map rendered from its pose, is given the pose
that its matches ask for. Where that explains much more than the pose it came with, the pose (or the alignment, or the
intrinsics) is wrong, whatever the quality of the map; where neither explains anything, nothing is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Frame, Image
from feature_gs_ros.core.errors import CameraError, ImageError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.frames.features import (
    MapFeatures,
    RenderedView,
    live_features,
    map_features,
    match_features,
    render_view,
    small_camera,
)
from feature_gs_ros.frames.reprojection import PosedCamera, pose_from_matches, posed_cameras, support
from feature_gs_ros.frames.two_view import matched_pairs, paired_rows, supports
from feature_gs_ros.io.streams.registry import Stream

VIEWS = 6  # of a stream that are checked
TOLERANCE = 4.0  # px of the matched image
MIN_REACHED = 12.0  # matches that a view's own pose must explain to say anything
MIN_SOLVED = 0.2  # of its matches: a tenth agree by chance
ELSEWHERE = 0.35  # of what its own pose reaches: a view that has less is not where its pose says
CERTAIN = 0.5  # of the views that can be judged: if as many are elsewhere, the stream is wrong
COVERED = 0.05  # of the pixels that must show the map for a view to be judged
PAIRS = 8  # of neighbouring images that are checked without a map
DENSE_SIZE = 80  # px at which whole images are laid over each other
DENSE_REACH = 12  # px by which they are shifted against each other
DENSE_NEAR = 2  # px: a best shift so near to none says that they belong together

State = Literal["fits", "elsewhere", "unknown"]


@dataclass(frozen=True)
class ViewVerdict:
    """One image beside the map."""

    name: str
    state: State
    supported: float  # matches that the given pose explains
    reached: float  # matches that the image's own pose explains


@dataclass(frozen=True)
class StreamVerdict:
    """Some images beside the map, or beside each other."""

    views: tuple[ViewVerdict, ...]
    findings: tuple[Finding, ...]
    shown: str = "show the map where their poses say"

    @property
    def is_wrong(self) -> bool:
        """Certainly."""
        return any(finding.severity == "error" for finding in self.findings)

    def __str__(self) -> str:
        judged = [view for view in self.views if view.state != "unknown"]
        if not judged:
            return f"none of {len(self.views)} images looked at tells whether the poses are right"
        fitting = sum(view.state == "fits" for view in judged)
        worst = min(judged, key=lambda view: view.supported / max(view.reached, 1e-9))
        return (
            f"{fitting} of {len(judged)} images looked at {self.shown} (worst '{worst.name}': "
            f"{worst.supported:.0f} of {worst.reached:.0f} points)"
        )


def check_view(gaussians: GaussianMap, frame: Frame, splat_from_map: Sim3) -> ViewVerdict:
    """One frame beside the map, at a small size.

    Raises:
        ImageError: the image can't be decoded.
    """
    rendered = _rendered(gaussians, frame, splat_from_map)
    if rendered is None:
        return ViewVerdict(frame.name, "unknown", 0.0, 0.0)
    return _verdict(frame, frame.image, rendered, map_features(rendered))


def check_stream(
    stream: Stream, names: Sequence[str], gaussians: GaussianMap, splat_from_map: Sim3, views: int = VIEWS
) -> StreamVerdict:
    """A few frames, spread over the named ones, beside the map; each may show what any of them should see.

    Raises:
        StreamError: the stream is damaged.
    """
    chosen = [names[row] for row in np.unique(np.linspace(0, len(names) - 1, min(views, len(names))).astype(int))]
    looked_at: list[tuple[Frame, Image, RenderedView | None]] = []
    for frame in stream.frames(chosen):
        with contextlib.suppress(ImageError):
            looked_at.append((frame, frame.image, _rendered(gaussians, frame, splat_from_map)))
    known = MapFeatures.pooled([map_features(rendered) for _, _, rendered in looked_at if rendered is not None])
    verdicts = [
        ViewVerdict(frame.name, "unknown", 0.0, 0.0) if rendered is None else _verdict(frame, image, rendered, known)
        for frame, image, rendered in looked_at
    ]
    return StreamVerdict(tuple(verdicts), findings_of(verdicts))


def check_pairs(stream: Stream, names: Sequence[str], pairs: int = PAIRS) -> StreamVerdict:
    """Neighbouring images of a stream beside each other: whether what both show lies on epipolar lines; needs no map.

    A transform that all poses share, and their scale, can't be seen so.

    Raises:
        StreamError: the stream is damaged.
    """
    rows = {names[row]: row for row in paired_rows(len(names), pairs)}
    frames, features = {}, {}
    for frame in stream.frames(list(rows)):
        with contextlib.suppress(ImageError):
            features[rows[frame.name]] = live_features(frame.image)
            frames[rows[frame.name]] = frame
    found = matched_pairs(len(names), features, {row: frame.camera for row, frame in frames.items()})
    cameras = dict(zip(frames, posed_cameras(list(frames.values()), Sim3.identity()), strict=True))
    verdicts = []
    for pair, supported in zip(found, supports(found, cameras), strict=True):
        state: State = "elsewhere" if supported < ELSEWHERE * pair.reached else "fits"
        verdicts.append(ViewVerdict(names[pair.first], state, float(supported), max(pair.reached, float(supported))))
    verdicts += [ViewVerdict(frame.name, "unknown", 0.0, 0.0) for frame in frames.values()][: len(verdicts) == 0]
    shown = "agree with their neighbours by their poses"
    finding = findings_of(verdicts, "disagree with their neighbours by their poses", "feature-gs doctor STREAM")
    return StreamVerdict(tuple(verdicts), finding, shown)


def _rendered(gaussians: GaussianMap, frame: Frame, splat_from_map: Sim3) -> RenderedView | None:
    """What the frame should show; None where that is next to nothing of the map."""
    try:
        pose = splat_from_map.camera_from_splat(frame.camera_from_world)
        rendered = render_view(gaussians, small_camera(frame.camera), pose)
    except CameraError:  # too near, too far
        return None
    return rendered if rendered.covered >= COVERED else None


def _verdict(frame: Frame, image: Image, rendered: RenderedView, known: MapFeatures) -> ViewVerdict:
    posed = PosedCamera(frame.camera, rendered.camera_from_splat)
    matches = match_features(0, live_features(image), known)
    supported = float(support([posed], matches, TOLERANCE).sum())
    solved = pose_from_matches(frame.camera, matches)
    reached = supported
    if solved is not None:
        own = float(support([PosedCamera(frame.camera, solved[0])], matches, TOLERANCE).sum())
        reached = max(own, supported)
    state: State = "fits"
    if reached < max(MIN_REACHED, MIN_SOLVED * len(matches)):
        state = "fits" if frame.camera.distortion is None and lies_over(image, rendered) else "unknown"
    elif supported < ELSEWHERE * reached:
        state = "elsewhere"
    return ViewVerdict(frame.name, state, supported, reached)


def findings_of(
    views: Sequence[ViewVerdict],
    wrong_how: str = "show the map from elsewhere than their poses say",
    command: str = "feature-gs doctor STREAM --map MAP --alignment FILE",
) -> tuple[Finding, ...]:
    """What verdicts on some views come to."""
    judged = [view for view in views if view.state != "unknown"]
    elsewhere = [view for view in judged if view.state == "elsewhere"]
    if not elsewhere:
        return ()
    wrong = len(elsewhere) / len(judged)
    is_certain = wrong > CERTAIN or (wrong == CERTAIN and len(judged) > 2)
    names = tuple(view.name for view in sorted(elsewhere, key=lambda view: view.supported / view.reached))
    return (
        Finding(
            "poses.mismatch",
            "error" if is_certain else "warning",
            min(0.99, 0.5 + 0.5 * wrong),
            f"{len(elsewhere)} of {len(judged)} images looked at {wrong_how}",
            f"{command} finds out why",
            names,
            {"images": float(len(elsewhere)), "judged": float(len(judged))},
        ),
    )


def lies_over(image: NDArray[np.uint8], rendered: RenderedView) -> bool:
    """Whether a whole image lies best over the rendered one where it is: for maps too blurred to match points of."""
    height, width = rendered.depth.shape
    factor = DENSE_SIZE / max(height, width)
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    live, drawn = (_edges(picture, size) for picture in (image, rendered.image))
    reach = min(DENSE_REACH, size[0] // 4, size[1] // 4)
    inner = drawn[reach : size[1] - reach, reach : size[0] - reach]
    if inner.std() < 1e-3 or live.std() < 1e-3:
        return False
    scores = cv2.matchTemplate(live, inner, cv2.TM_CCOEFF_NORMED)
    row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return bool(max(abs(int(row) - reach), abs(int(column) - reach)) <= DENSE_NEAR and scores.max() > 0.2)


def _edges(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Lengths of gradients, so that exposure doesn't matter."""
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    return np.asarray(np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)), np.float32)
