"""Sight: whether the views of a stream see the map at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from feature_gs_ros import rasterizer
from feature_gs_ros.alignment import Sim3
from feature_gs_ros.cameras import Frame
from feature_gs_ros.errors import CameraError
from feature_gs_ros.gaussians import GaussianMap
from feature_gs_ros.io.streams import Stream

LOOKED_AT = 5  # first views after which a stream that misses the map is refused
SEES_NOTHING = 0.02  # of a view's pixels covered by the map, on average over these


class Sight:
    """Whether a stream's views see the map at all: where they don't, the two are in different frames."""

    def __init__(self, source: str) -> None:
        """``source`` is the stream's, for the message."""
        self._source = source
        self._shares: list[float] = []  # per view, of the pixels that the map covers

    def check(self, view: rasterizer.View) -> None:
        """Look at one more view, seen at every eighth pixel's cost; after the first few none is looked at.

        Raises:
            CameraError: the first views see almost nothing of the map.
        """
        if len(self._shares) >= LOOKED_AT:
            return
        self._shares.append(covered(view))
        if len(self._shares) == LOOKED_AT:
            self.finish()

    def finish(self) -> None:
        """Judge by the views that there were, however few.

        Raises:
            CameraError: they see almost nothing of the map.
        """
        count = len(self._shares)
        if count and sum(self._shares) / count < SEES_NOTHING:
            raise CameraError(
                f"the first {count} cameras of '{self._source}' see the map in {100 * sum(self._shares) / count:.1f}% "
                "of their pixels: stream and map are in different frames. Give the transform between them (--alignment "
                "FILE with splat_from_map, or nerfstudio's dataparser_transforms.json)"
            )


def covered(view: rasterizer.View) -> float:
    """Share of the pixels that show the map, at an eighth of the view's size."""
    camera = view.camera
    width, height = max(1, camera.width // 8), max(1, camera.height // 8)
    small = rasterizer.view(view.gaussians, camera.resized(width, height), view.camera_from_splat)
    return float((small.render_depth()[:, :, 1] > 0.5).float().mean())


def fitting_alignment(gaussians: GaussianMap, own: Sim3, stream: Stream, names: Sequence[str]) -> Sim3:
    """The transform by which another stream than a field's sees the map: the field's own, or none.

    A field that a robot's recording made, in metres, may be looked at from the reconstruction that its map came from,
    whose poses are in the map's frame. The field's own it is unless the frames see almost nothing by it.

    Args:
        own: the field's splat_from_map.
        names: frames of the stream that are of interest.

    Raises:
        CameraError: by neither do the frames see anything of the map.
    """
    frames = list(stream.frames(names[:LOOKED_AT]))
    by_own = _mean_covered(gaussians, frames, own)
    if by_own >= SEES_NOTHING:
        return own
    by_none = _mean_covered(gaussians, frames, Sim3.identity())
    if by_none >= SEES_NOTHING:
        return Sim3.identity()
    raise CameraError(
        f"the frames of '{stream.source}' see the map in {100 * by_own:.1f}% of their pixels, and without the field's "
        f"alignment in {100 * by_none:.1f}%: they are in another frame. Give the transform (--alignment FILE with "
        "splat_from_map)"
    )


def _mean_covered(gaussians: GaussianMap, frames: Sequence[Frame], splat_from_map: Sim3) -> float:
    shares = []
    for frame in frames:
        pose = splat_from_map.camera_from_splat(frame.camera_from_world)
        shares.append(covered(rasterizer.view(gaussians, replace(frame.camera, distortion=None), pose)))
    return float(np.mean(shares))
