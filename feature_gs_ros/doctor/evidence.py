"""What the doctor looks at: some frames of a stream, all its poses, and where the images show points of the map."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from feature_gs_ros.core.camera import Frame, Image
from feature_gs_ros.core.errors import ImageError, NoTransformError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.frames.features import (
    Features,
    MapFeatures,
    Matches2D3D,
    RenderedView,
    live_features,
    map_features,
    match_features,
    render_view,
    small_camera,
)
from feature_gs_ros.frames.poses import Poses
from feature_gs_ros.frames.relocalise import solved_poses
from feature_gs_ros.frames.reprojection import PosedCamera, posed_cameras, support
from feature_gs_ros.frames.two_view import ViewPair, matched_pairs, paired_rows
from feature_gs_ros.frames.umeyama import Array
from feature_gs_ros.io.streams.registry import Stream

VIEWS = 10  # frames whose images are looked at
TOLERANCE = 3.0  # px of the matched image, at which a match counts nothing


@runtime_checkable
class Interpolating(Protocol):
    """A stream that knows poses at any stamp."""

    def camera_from_map(self, frame: Frame, stamp_ns: int) -> Array:
        """[4, 4]; raises a NoTransformError where it doesn't know."""
        ...


@runtime_checkable
class KnowsGaps(Protocol):
    """A stream whose poses are interpolated between samples."""

    def tf_gap(self, frame: Frame) -> float:
        """Seconds between the samples that a frame's pose lies between; raises a NoTransformError where none are."""
        ...


@dataclass(frozen=True, eq=False)
class Evidence:
    """A stream, looked at once."""

    stream: Stream
    poses: Poses  # of all frames, in the stream's order
    all_frames: tuple[Frame, ...]  # without images
    rows: tuple[int, ...]  # of the frames below among all
    frames: tuple[Frame, ...]  # looked at
    images: tuple[Image, ...]  # as taken
    damaged: tuple[str, ...]  # names of frames whose image can't be decoded
    splat_from_map: Sim3
    gaussians: GaussianMap | None = None
    _solved: list[tuple[Matches2D3D, dict[int, Array]]] = field(default_factory=list, repr=False)

    @staticmethod
    def of(stream: Stream, gaussians: GaussianMap | None, splat_from_map: Sim3, count: int = VIEWS) -> Evidence:
        """Look at up to ``count`` frames, spread over the stream; poses are read of all.

        Without a map as many neighbours are looked at, too.

        Raises:
            StreamError: the stream is damaged.
        """
        listed = [replace(frame, load_image=_no_image) for frame in stream.frames()]
        if gaussians is None:
            chosen = paired_rows(len(listed), count)
        else:
            chosen = sorted(set(np.linspace(0, len(listed) - 1, min(count, len(listed))).round().astype(int).tolist()))
        rows, frames, images, damaged = [], [], [], []
        by_name = {listed[row].name: row for row in chosen}
        for frame in stream.frames(list(by_name)):
            try:
                images.append(frame.image)
            except ImageError:
                damaged.append(frame.name)
                continue
            rows.append(by_name[frame.name])
            frames.append(replace(frame, load_image=_no_image))
        stamps = [frame.stamp_ns for frame in listed]
        seconds = None if None in stamps or not stamps else np.array([float(stamp or 0) * 1e-9 for stamp in stamps])
        poses = np.stack([np.linalg.inv(frame.camera_from_world) for frame in listed]).astype(np.float64)
        return Evidence(
            stream,
            Poses(tuple(frame.name for frame in listed), poses, seconds, stream.source),
            tuple(listed),
            tuple(rows),
            tuple(frames),
            tuple(images),
            tuple(damaged),
            splat_from_map,
            gaussians,
        )

    @cached_property
    def cameras(self) -> list[PosedCamera]:
        """Of the frames looked at, as stream and alignment say."""
        return posed_cameras(self.frames, self.splat_from_map)

    @cached_property
    def features(self) -> tuple[Features, ...]:
        """Of the images looked at."""
        return tuple(live_features(image) for image in self.images)

    @cached_property
    def pairs(self) -> list[ViewPair]:
        """Neighbours among the frames looked at with their matches; their indices are of all frames."""
        features = dict(zip(self.rows, self.features, strict=True))
        return matched_pairs(
            len(self.all_frames), features, {row: self.all_frames[row].camera for row in self.rows}
        )  # fmt: skip

    @cached_property
    def mirrored_features(self) -> tuple[Features, ...]:
        """Of the images flipped left to right."""
        return tuple(live_features(np.ascontiguousarray(image[:, ::-1])) for image in self.images)

    @cached_property
    def rendered(self) -> list[RenderedView]:
        """The map as the frames should see it."""
        return [self.render(posed) for posed in self.cameras]

    def render(self, posed: PosedCamera) -> RenderedView:
        assert self.gaussians is not None
        return render_view(self.gaussians, small_camera(posed.camera), posed.camera_from_splat)

    def match(self, known: MapFeatures, features: Sequence[Features] | None = None) -> Matches2D3D:
        """All images' matches with some points."""
        return Matches2D3D.joined(
            match_features(index, live, known) for index, live in enumerate(features or self.features)
        )

    @cached_property
    def known(self) -> MapFeatures:
        """Points of the map that `rendered` shows."""
        return MapFeatures.pooled([map_features(view) for view in self.rendered])

    def moved_in_time(self, seconds: float) -> list[PosedCamera]:
        """The cameras where the stream has them so much later; without stamps, so many frames later."""
        stamps = self.poses.stamps
        rows = np.array(self.rows)
        if stamps is None:
            between = self._between(rows + seconds)
        else:
            between = np.asarray(np.linalg.inv(self.poses.at(stamps[rows] + seconds)[0]), np.float64)
        return [
            PosedCamera(frame.camera, self.splat_from_map.camera_from_splat(self._pose_at(frame, seconds, pose)))
            for frame, pose in zip(self.frames, between, strict=True)
        ]

    def _pose_at(self, frame: Frame, seconds: float, between: Array) -> Array:
        """What the stream has at a time, if it knows; else the pose between its frames'."""
        if isinstance(self.stream, Interpolating) and frame.stamp_ns is not None and self.poses.stamps is not None:
            with contextlib.suppress(NoTransformError):
                return self.stream.camera_from_map(frame, frame.stamp_ns + round(seconds * 1e9))
        return between

    def _between(self, numbers: Array) -> Array:
        """Poses [M, 4, 4] at fractional indices [M]."""
        numbered = replace(self.poses, stamps=np.arange(len(self.poses), dtype=np.float64))
        return np.asarray(np.linalg.inv(numbered.at(numbers)[0]))

    def solved(self, matches: Matches2D3D) -> dict[int, Array]:
        """Each frame's own ``camera_from_splat`` by its matches and the given intrinsics, computed once."""
        if not any(known is matches for known, _ in self._solved):
            self._solved.append((matches, solved_poses(self.frames, matches)))
        return next(found for known, found in self._solved if known is matches)

    def supports(self, cameras: Sequence[PosedCamera], matches: Matches2D3D, tolerance: float = TOLERANCE) -> Array:
        """How much of each frame's matches cameras explain [V]."""
        weights = support(cameras, matches, tolerance)
        return np.bincount(matches.frames, weights, minlength=len(self.frames)).astype(np.float64)


def _no_image() -> Image:
    raise ImageError("the doctor keeps images of some frames only", code="image.missing")


PoseChange = Callable[[Array], Array]  # camera_from_map [4, 4] to camera_from_map
