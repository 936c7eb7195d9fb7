"""The cheap half of the doctor: whether a few images show the map where their poses say.

A view is judged by what it could reach: the same image, matched with the map rendered from its pose, is given the pose
that its matches ask for. Where that explains much more than the pose it came with, the pose (or the alignment, or the
intrinsics) is wrong, whatever the quality of the map. Where few images are recognised from their poses, the map is also
rendered from other poses of the stream and from all around, and the images are tried mirrored: what is recognised then
is elsewhere, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Frame, Image, rectified
from feature_gs_ros.core.errors import CameraError, ImageError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.doctor.images import (
    CLEARLY_SWAPPED,
    MAX_GAIN,
    MAX_SATURATED,
    MIN_BRIGHTNESS,
    MIN_DEVIATION,
    MIN_GAIN,
    deviation_of,
    swap_gain,
)
from feature_gs_ros.frames.features import (
    Features,
    MapFeatures,
    RenderedView,
    live_features,
    map_features,
    match_features,
    render_view,
    small_camera,
)
from feature_gs_ros.frames.relocalise import surrounding_features
from feature_gs_ros.frames.reprojection import (
    PosedCamera,
    matching_scale,
    pose_from_matches,
    posed_cameras,
    residuals,
    support,
)
from feature_gs_ros.frames.two_view import matched_pairs, paired_rows, supports
from feature_gs_ros.io.streams.registry import Stream

VIEWS = 6  # of a stream that are checked
TOLERANCE = 4.0  # px of the matched image
MIN_REACHED = 12.0  # matches that a view's own pose must explain to say anything
MIN_SOLVED = 0.2  # of its matches: a tenth agree by chance
ELSEWHERE = 0.35  # of what its own pose reaches: a view that has less is not where its pose says
CERTAIN = 0.5  # of the views that can be judged: if as many are elsewhere, the stream is wrong
COVERED = 0.05  # of the pixels that must show the map for a view to be judged
UNSEEN = 0.002  # of the pixels: with less the camera doesn't look at the map
RECOGNISABLE = 80  # features of an image, and of the map as it should show it: they should find each other
IN_FRONT = 0.3  # of the pixels that must show the map for an image without it to be strange
UNRECOGNISED = 0.3  # of the views: a doubt
LOOKED_AT = 0.5  # of the views that must be recognised, or the map is searched
LYING = 0.6  # of the views whose whole images must lie over the map: some do by chance
NEAR = 15.0  # px of the matched image: residuals of matches that may be right
STRETCHED_AT, MIN_STRETCH = 0.7, 2.5  # of half the diagonal; px of the matched image there that are a doubt
MORE_POSES = 24  # of the stream, from which the map is rendered in a search
PAIRS = 8  # of neighbouring images that are checked without a map
DENSE_SIZE = 80  # px at which whole images are laid over each other
DENSE_REACH = 12  # px by which they are shifted against each other
DENSE_NEAR = 2  # px: a best shift so near to none says that they belong together

State = Literal["fits", "lies over", "elsewhere", "unseen", "unrecognised", "unknown"]
JUDGED: tuple[State, ...] = ("fits", "lies over", "elsewhere")


DOUBTS = {
    "images.blank": ("are of one colour and show nothing", "Check the camera and its driver"),
    "images.exposure": ("are burnt out, or much darker or brighter than the map", "Fix the exposure while recording"),
    "images.red-blue-swapped": ("have red and blue swapped (BGR for RGB)", "Set the encoding to what the data are"),
}


@dataclass(frozen=True)
class ViewVerdict:
    """One image beside the map."""

    name: str
    state: State
    supported: float  # matches that the given pose explains
    reached: float  # matches that the image's own pose explains
    doubt: str = ""  # a key of `DOUBTS`: what is wrong with the image's values


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
        judged = [view for view in self.views if view.state in JUDGED]
        if not judged:
            return f"none of {len(self.views)} images looked at tells whether the poses are right"
        fitting = sum(view.state != "elsewhere" for view in judged)
        worst = min(judged, key=lambda view: view.supported / max(view.reached, 1e-9))
        return (
            f"{fitting} of {len(judged)} images looked at {self.shown} (worst '{worst.name}': "
            f"{worst.supported:.0f} of {worst.reached:.0f} points)"
        )


@dataclass(frozen=True, eq=False)
class _Look:
    """One image, and the map where it should show it."""

    frame: Frame
    image: Image
    features: Features
    rendered: RenderedView | None  # None: too near, too far
    known: MapFeatures | None  # what it shows

    @staticmethod
    def of(gaussians: GaussianMap, frame: Frame, splat_from_map: Sim3) -> _Look:
        """
        Raises:
            ImageError: the image can't be decoded.
        """
        image = frame.image
        rendered = None
        with contextlib.suppress(CameraError):
            pose = splat_from_map.camera_from_splat(frame.camera_from_world)
            rendered = render_view(gaussians, small_camera(frame.camera), pose)
        known = map_features(rendered) if rendered is not None and rendered.covered >= UNSEEN else None
        return _Look(frame, image, live_features(image), rendered, known)


def check_view(gaussians: GaussianMap, frame: Frame, splat_from_map: Sim3) -> ViewVerdict:
    """One frame beside the map, at a small size.

    Raises:
        ImageError: the image can't be decoded.
    """
    look = _Look.of(gaussians, frame, splat_from_map)
    return replace(_verdict(look, look.known), doubt=_doubt(look))


def check_stream(
    stream: Stream, names: Sequence[str], gaussians: GaussianMap, splat_from_map: Sim3, views: int = VIEWS
) -> StreamVerdict:
    """A few frames, spread over the named ones, beside the map; each may show what any of them should see.

    Raises:
        StreamError: the stream is damaged.
    """
    looks = []
    for frame in stream.frames(_spread(names, views)):
        with contextlib.suppress(ImageError):
            looks.append(_Look.of(gaussians, frame, splat_from_map))
    known = MapFeatures.pooled([look.known for look in looks if look.known is not None])
    verdicts = [_verdict(look, known) for look in looks]
    recognised = sum(verdict.state in ("fits", "elsewhere") for verdict in verdicts)
    lying = sum(verdict.state in ("fits", "lies over") for verdict in verdicts)
    is_map_found = recognised >= LOOKED_AT * len(verdicts) or lying >= LYING * len(verdicts)
    if not is_map_found:
        verdicts = [replace(view, state="unknown") if view.state == "lies over" else view for view in verdicts]
    open_views = {k for k, view in enumerate(verdicts) if view.state == "unrecognised" or not is_map_found}
    searches: tuple[Callable[[], MapFeatures | None], ...] = (
        lambda: None,  # mirrored
        lambda: _of_other_poses(stream, names, gaussians, splat_from_map),
        lambda: None if is_map_found else surrounding_features(gaussians, looks[0].frame.camera),
    )
    for number, search in enumerate(searches):
        if not open_views or (not is_map_found and len(open_views) <= (1 - LOOKED_AT) * len(looks)):
            break
        more = search()
        for k in sorted(open_views) if more is not None or number == 0 else ():
            found = (
                _mirrored(looks[k], known) if more is None else _elsewhere(looks[k], MapFeatures.pooled([known, more]))
            )
            if found is not None:
                verdicts[k] = found
                open_views.discard(k)
    verdicts = [replace(verdict, doubt=_doubt(look)) for verdict, look in zip(verdicts, looks, strict=True)]
    findings = findings_of(verdicts, is_whole=True)
    return StreamVerdict(tuple(verdicts), findings or _stretched(looks, known))


def _spread(names: Sequence[str], count: int) -> list[str]:
    return [names[row] for row in np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))]


def _of_other_poses(stream: Stream, names: Sequence[str], gaussians: GaussianMap, splat_from_map: Sim3) -> MapFeatures:
    """Of the map as other frames of the stream should show it: images may be on each other's poses."""
    frames = list(stream.frames(_spread(names, MORE_POSES)))
    parts = []
    for posed in posed_cameras(frames, splat_from_map):
        with contextlib.suppress(CameraError):
            parts.append(map_features(render_view(gaussians, small_camera(posed.camera), posed.camera_from_splat)))
    return MapFeatures.pooled(parts)


def _mirrored(look: _Look, known: MapFeatures) -> ViewVerdict | None:
    """A verdict on a view whose image shows the map mirrored, whichever way."""
    flipped = live_features(np.ascontiguousarray(look.image[:, ::-1]))
    return _elsewhere(replace(look, features=flipped), known, also_fitting=True)


def _elsewhere(look: _Look, known: MapFeatures, also_fitting: bool = False) -> ViewVerdict | None:
    """A verdict on a view that shows the map from elsewhere; None where it doesn't."""
    supported, reached, least = _supports(look, known)
    wrong = reached >= least and (also_fitting or supported < ELSEWHERE * reached)
    return ViewVerdict(look.frame.name, "elsewhere", 0.0 if also_fitting else supported, reached) if wrong else None


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


def _supports(look: _Look, known: MapFeatures) -> tuple[float, float, float]:
    """Matches explained by the given pose and by the image's own one, and how many say something."""
    camera = look.frame.camera
    matches = match_features(0, look.features, known)
    supported = 0.0
    if look.rendered is not None:
        supported = float(support([PosedCamera(camera, look.rendered.camera_from_splat)], matches, TOLERANCE).sum())
    solved = pose_from_matches(camera, matches)
    own = 0.0
    if solved is not None:
        own = float(support([PosedCamera(camera, solved[0])], matches, TOLERANCE).sum())
    return supported, max(own, supported), max(MIN_REACHED, MIN_SOLVED * len(matches))


def _verdict(look: _Look, known: MapFeatures | None) -> ViewVerdict:
    name, rendered = look.frame.name, look.rendered
    if rendered is None or rendered.covered < UNSEEN:
        return ViewVerdict(name, "unseen", 0.0, 0.0)
    if known is None or rendered.covered < COVERED:
        return ViewVerdict(name, "unknown", 0.0, 0.0)
    supported, reached, least = _supports(look, known)
    state: State = "fits"
    if reached < least:
        shown = 0 if look.known is None else len(look.known.points)
        is_rich = min(len(look.features.pixels), shown) >= RECOGNISABLE and rendered.covered >= IN_FRONT
        state = "unrecognised" if is_rich else "unknown"
        if lies_over(look.image, look.frame.camera, rendered):
            state = "lies over"
    elif supported < ELSEWHERE * reached:
        state = "elsewhere"
    return ViewVerdict(name, state, supported, reached)


def _doubt(look: _Look) -> str:
    """What is wrong with the values of an image, beside the map."""
    if look.rendered is None or look.rendered.covered < COVERED:
        return ""
    drawn, depth = look.rendered.image, look.rendered.depth
    live = np.asarray(cv2.resize(look.image, drawn.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
    if deviation_of(live) < MIN_DEVIATION < 0.5 * deviation_of(drawn) and live.mean() > MIN_BRIGHTNESS:
        return "images.blank"
    ours, theirs = (cv2.GaussianBlur(image.astype(np.float32) / 255, (0, 0), 3.0)[depth > 0] for image in (live, drawn))
    burnt = [float((image.max(axis=2)[depth > 0] >= 254).mean()) for image in (live, drawn)]
    gain = float(ours.mean() / max(float(theirs.mean()), 1e-6))
    if not MIN_GAIN / 1.5 <= gain <= 1.5 * MAX_GAIN or burnt[0] > burnt[1] + MAX_SATURATED:
        return "images.exposure"
    swap = swap_gain(np.asarray(ours, np.float64), np.asarray(theirs, np.float64))
    return "images.red-blue-swapped" if swap > CLEARLY_SWAPPED else ""


def _stretched(looks: Sequence[_Look], known: MapFeatures) -> tuple[Finding, ...]:
    """A warning where all images are stretched from their middles against the map, as wrong intrinsics or scale do.

    Residuals of matches are fitted by a shift of each view and by ``a r + b r³`` outwards in all, twice: without
    outliers the second time.
    """
    parts = []
    for look in looks:
        if look.rendered is None:
            continue
        posed = PosedCamera(look.frame.camera, look.rendered.camera_from_splat)
        matches = match_features(0, look.features, known)
        off = residuals([posed], matches)
        near = np.linalg.norm(off, axis=1) < NEAR
        scale = matching_scale(posed.camera)
        outwards = (matches.pixels[near] - [posed.camera.width / 2, posed.camera.height / 2]) / scale
        if near.sum() >= MIN_REACHED:
            parts.append((off[near], outwards, 0.5 * np.hypot(posed.camera.width, posed.camera.height) / scale))
    if len(parts) < 2:
        return ()
    off, outwards = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    radius = float(np.mean([part[2] for part in parts]))
    views = np.concatenate([np.full(len(part[0]), k) for k, part in enumerate(parts)])
    shifts = np.kron(np.eye(len(parts))[views], np.eye(2))  # [2 K, 2 views]
    r2 = (outwards**2).sum(axis=1, keepdims=True) / radius**2
    design = np.column_stack([(outwards / radius).ravel(), (outwards / radius * r2).ravel(), shifts])
    kept = np.ones(len(off), np.bool_)
    for _ in range(3):
        both = np.repeat(kept, 2)
        solution, *_ = np.linalg.lstsq(design[both], off.ravel()[both], rcond=None)
        left = np.linalg.norm((off.ravel() - design @ solution).reshape(-1, 2), axis=1)
        kept = left < max(2.0, 2.5 * float(np.median(left)))
    gone = abs(float(solution[0] * STRETCHED_AT + solution[1] * STRETCHED_AT**3))
    if gone < MIN_STRETCH:
        return ()
    return (
        Finding(
            "intrinsics.mismatch",
            "warning",
            0.7,
            f"the images are stretched against the map, by about {gone:.1f} px of 320 near their corners: another "
            "focal length, another lens, or another scale",
            "feature-gs doctor STREAM --map MAP --alignment FILE finds out which",
            (),
            {"pixels": gone},
        ),
    )


def findings_of(
    views: Sequence[ViewVerdict],
    wrong_how: str = "show the map from elsewhere than their poses say",
    command: str = "feature-gs doctor STREAM --map MAP --alignment FILE",
    is_whole: bool = False,
) -> tuple[Finding, ...]:
    """What verdicts on some views come to.

    Args:
        is_whole: they are spread over a whole stream; a live camera may look away from the map for a while.
    """
    judged = [view for view in views if view.state in JUDGED]
    elsewhere = [view for view in judged if view.state == "elsewhere"]
    if not elsewhere:
        return _doubtful_values(views) or _without_sight(views, command, is_whole)
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


def _doubtful_values(views: Sequence[ViewVerdict]) -> tuple[Finding, ...]:
    found = []
    for code, (what, advice) in DOUBTS.items():
        names = tuple(view.name for view in views if view.doubt == code)
        if names and len(names) >= LOOKED_AT * len(views):
            images = f"{len(names)} of {len(views)} images looked at"
            found.append(
                Finding(code, "warning", 0.8, f"{images} {what}", advice, names, {"images": float(len(names))})
            )
    return tuple(found)


def _without_sight(views: Sequence[ViewVerdict], command: str, is_whole: bool) -> tuple[Finding, ...]:
    """Cameras that don't look at the map, and images in which it isn't recognised."""
    unseen = tuple(view.name for view in views if view.state == "unseen")
    unknown = tuple(view.name for view in views if view.state == "unrecognised")
    if unseen and len(unseen) >= LOOKED_AT * len(views):
        return (
            Finding(
                "poses.unseen",
                "error" if is_whole and len(unseen) == len(views) else "warning",
                0.9,
                f"by their poses, {len(unseen)} of {len(views)} images looked at show nothing of the map",
                f"Check the unit of the poses and the alignment: {command}",
                unseen,
                {"images": float(len(unseen))},
            ),
        )
    if unknown and len(unknown) >= UNRECOGNISED * len(views):
        return (
            Finding(
                "scene.unrecognised",
                "warning",
                0.7,
                f"{len(unknown)} of {len(views)} images looked at show nothing that the map has where their poses say",
                f"Another scene, or wrong poses: {command}",
                unknown,
                {"images": float(len(unknown))},
            ),
        )
    return ()


def lies_over(image: Image, camera: Camera, rendered: RenderedView) -> bool:
    """Whether a whole image lies best over the rendered one where it is: for maps too blurred to match points of."""
    height, width = rendered.depth.shape
    if camera.distortion is not None:
        small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        image = rectified(small, camera.resized(width, height))[0]
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
