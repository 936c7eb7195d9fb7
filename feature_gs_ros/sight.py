"""Sight: whether the views of a stream see the map at all."""

from __future__ import annotations

from feature_gs_ros import rasterizer
from feature_gs_ros.errors import CameraError

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
        camera = view.camera
        width, height = max(1, camera.width // 8), max(1, camera.height // 8)
        small = rasterizer.view(view.gaussians, camera.resized(width, height), view.camera_from_splat)
        self._shares.append(float((small.render_depth()[:, :, 1] > 0.5).float().mean()))
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
