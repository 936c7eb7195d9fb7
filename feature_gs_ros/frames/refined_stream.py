"""A stream whose poses are corrected a little, view by view, where the images clearly say so."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.errors import CameraError, ImageError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, camera_centre
from feature_gs_ros.frames.features import live_features, map_features, match_features, render_view, small_camera
from feature_gs_ros.frames.reprojection import PosedCamera, pose_from_matches, support
from feature_gs_ros.frames.umeyama import Array
from feature_gs_ros.io.streams.registry import Stream

MAX_OF_DEPTH, MAX_DEGREES = 0.05, 3.0  # of the median depth; a pose that is further off is not corrected but wrong
MIN_GAIN = 1.1  # times the matches explained by the given pose: noise of the matches alone gains less
MIN_SUPPORT = 20.0  # matches that the corrected pose must explain


@dataclass(frozen=True)
class Correction:
    """How one view's pose was changed."""

    metres: float  # in the map frame; 0 where it stayed
    degrees: float


class RefinedStream:
    """Frames of another stream, each posed by its matches with the map rendered from its pose.

    A pose stays as it is unless the corrected one explains clearly more matches and is near.
    """

    def __init__(self, stream: Stream, gaussians: GaussianMap, splat_from_map: Sim3) -> None:
        self.source = stream.source
        self._stream, self._gaussians, self._splat_from_map = stream, gaussians, splat_from_map
        self._poses: dict[str, Array] = {}
        self.corrections: dict[str, Correction] = {}  # of the frames read so far, by name

    @property
    def skipped(self) -> Mapping[str, int]:
        return self._stream.skipped

    def names(self) -> list[str]:
        return self._stream.names()

    def frames(self, names: Collection[str] | None = None) -> Iterator[Frame]:
        """As the stream's, with corrected poses; an image is decoded once more for its correction."""
        for frame in self._stream.frames(names):
            if frame.name not in self._poses:
                self._poses[frame.name] = self._corrected(frame)
            yield replace(frame, camera_from_world=self._poses[frame.name])

    def summary(self) -> str:
        """A line for a person."""
        moved = [correction for correction in self.corrections.values() if correction.metres or correction.degrees]
        if not moved:
            return f"no pose of {len(self.corrections)} was corrected"
        return (
            f"{len(moved)} of {len(self.corrections)} poses were corrected, by up to "
            f"{1000 * max(correction.metres for correction in moved):.1f} mm and "
            f"{max(correction.degrees for correction in moved):.2f}°"
        )

    def _corrected(self, frame: Frame) -> Array:
        """``camera_from_world`` [4, 4]."""
        self.corrections[frame.name] = Correction(0.0, 0.0)
        given = PosedCamera(frame.camera, self._splat_from_map.camera_from_splat(frame.camera_from_world))
        try:
            rendered = render_view(self._gaussians, small_camera(frame.camera), given.camera_from_splat)
            matches = match_features(0, live_features(frame.image), map_features(rendered))
        except (ImageError, CameraError):
            return frame.camera_from_world
        solved = pose_from_matches(frame.camera, matches)
        if solved is None:
            return frame.camera_from_world
        own = float(support([PosedCamera(frame.camera, solved[0])], matches).sum())
        if own < max(MIN_SUPPORT, MIN_GAIN * float(support([given], matches).sum())):
            return frame.camera_from_world
        pose = self._splat_from_map.inverse().camera_from_splat(solved[0])
        change = pose[:3, :3] @ frame.camera_from_world[:3, :3].T
        degrees = float(np.degrees(np.linalg.norm(Rotation.from_matrix(change).as_rotvec())))
        metres = float(np.linalg.norm(camera_centre(pose) - camera_centre(frame.camera_from_world)))
        depth = float(np.median(rendered.depth[rendered.depth > 0])) / self._splat_from_map.scale
        if metres > MAX_OF_DEPTH * depth or degrees > MAX_DEGREES:
            return frame.camera_from_world
        self.corrections[frame.name] = Correction(metres, degrees)
        return pose
