"""PoseSanityCheck: whether the views of a stream see the map at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Frame, Image
from feature_gs_ros.core.errors import CameraError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.streams.registry import Stream

LOOKED_AT = 5  # first views after which a stream that misses the map is refused
SEES_NOTHING = 0.02  # of a view's pixels covered by the map, on average over these
BRIGHTEST = 99.5  # percentile of an image's values that stands for its highlights
DARK = 32  # of 255, below which those of the first images say that something is wrong
UNLIKE = 0.2  # likeness of images to the map below which their poses are doubted
MORE_LIKE = 0.1  # correlation by which frames must look more like the map without the field's alignment than with it


class PoseSanityCheck:
    """Whether a stream's views see the map at all: where they don't, the two are in different frames."""

    def __init__(self, source: str) -> None:
        """``source`` is the stream's, for the message."""
        self._source = source
        self._fractions: list[float] = []  # per view, of the pixels that the map covers
        self._likenesses: list[float] = []
        self._brightest: list[float] = []  # per image, its highlights, 0 to 255

    def check(self, view: rasterizer.View, image: Image | None = None) -> None:
        """Look at one more view, and its image, at an eighth of the size; after the first few none is looked at.

        Raises:
            CameraError: the first views see almost nothing of the map.
        """
        if len(self._fractions) >= LOOKED_AT:
            return
        self._fractions.append(covered(view))
        if image is not None:
            self._brightest.append(float(np.percentile(image, BRIGHTEST)))
        like = None if image is None else likeness(view, image)
        if like is not None:
            self._likenesses.append(like)
        if len(self._fractions) == LOOKED_AT:
            self.finish()

    def finish(self) -> None:
        """Judge by the views that there were, however few.

        Raises:
            CameraError: they see almost nothing of the map.
        """
        count = len(self._fractions)
        if count and sum(self._fractions) / count < SEES_NOTHING:
            raise CameraError(
                f"the first {count} cameras of '{self._source}' see the map in "
                f"{100 * sum(self._fractions) / count:.1f}% of their pixels: stream and map are in "
                "different frames. Give the transform (--alignment FILE with splat_from_map, or nerfstudio's "
                "dataparser_transforms.json)",
                code="camera.elsewhere",
            )

    @property
    def doubt(self) -> str:
        """A line for a person where the images are almost black, or look nothing like the map; else nothing."""
        if self._brightest and max(self._brightest) < DARK:
            return (
                f"the first {len(self._brightest)} images of '{self._source}' are almost black: their highlights are "
                f"{max(self._brightest):.0f} of 255, and networks find little in them. Is it a raw export whose 10 or "
                "12 bits were stored as 16? Scale the values, or record with more light"
            )
        if not self._likenesses or np.mean(self._likenesses) >= UNLIKE:
            return ""
        return (
            f"the first {len(self._likenesses)} images of '{self._source}' look little like the map from their poses "
            f"(correlation {np.mean(self._likenesses):.2f}): is the transform between stream and map missing or wrong "
            "(--alignment)? feature-gs render shows a view beside its image"
        )


def covered(view: rasterizer.View) -> float:
    """Fraction of the pixels that show the map, at an eighth of the view's size."""
    return float((_small(view).render_depth()[:, :, 1] > 0.5).float().mean())


def fitting_alignment(gaussians: GaussianMap, own: Sim3, stream: Stream, names: Sequence[str]) -> Sim3:
    """The transform by which another stream than a field's sees the map: the field's own, or none.

    A field that a robot's recording made, in metres, may be looked at from the reconstruction that its map came from,
    whose poses are in the map's frame. The field's own it is unless the frames see almost nothing by it, or look much
    more like the map without it: cameras in the wrong frame may graze the map.

    Args:
        own: the field's splat_from_map.
        names: frames of the stream that are of interest.

    Raises:
        CameraError: by neither do the frames see anything of the map.
    """
    none = Sim3.identity()
    frames = list(stream.frames(names[:LOOKED_AT]))
    by_own, by_none = ([_view(gaussians, frame, aligned) for frame in frames] for aligned in (own, none))
    fraction_own, fraction_none = (float(np.mean([covered(view) for view in views])) for views in (by_own, by_none))
    if max(fraction_own, fraction_none) < SEES_NOTHING:
        raise CameraError(
            f"the frames of '{stream.source}' see the map in {100 * fraction_own:.1f}% of their pixels, and without "
            f"the field's alignment in {100 * fraction_none:.1f}%: they are in another frame. Give the transform "
            "(--alignment FILE with splat_from_map)",
            code="camera.elsewhere",
        )
    if min(fraction_own, fraction_none) < SEES_NOTHING:
        return own if fraction_own > fraction_none else none
    gain = [
        (likeness(without, frame.image) or 0.0) - (likeness(with_own, frame.image) or 0.0)
        for frame, with_own, without in zip(frames, by_own, by_none, strict=True)
    ]
    return none if np.mean(gain) > MORE_LIKE else own


def _view(gaussians: GaussianMap, frame: Frame, splat_from_map: Sim3) -> rasterizer.View:
    """Of the frame's camera, the lens left out."""
    camera = replace(frame.camera, distortion=None)
    return rasterizer.view(gaussians, camera, splat_from_map.camera_from_splat(frame.camera_from_world))


def likeness(view: rasterizer.View, image: Image) -> float | None:
    """Correlation of the map's colours with an image's, about their means, at an eighth of the size, where the map is.

    Times the root of the covered fraction: few pixels agree by chance. None if one of the two has no contrast.
    """
    small = _small(view)
    shown = small.render_depth()[:, :, 1].numpy() > 0.5
    size = (small.camera.width, small.camera.height)
    taken = cv2.resize(image, size, interpolation=cv2.INTER_AREA)[shown] / 255.0
    drawn = small.render_color().numpy()[shown]
    if len(taken) == 0:
        return None
    taken, drawn = taken - taken.mean(axis=0), drawn - drawn.mean(axis=0)
    product = float(np.linalg.norm(taken) * np.linalg.norm(drawn))
    return float((taken * drawn).sum() / product * np.sqrt(shown.mean())) if product > 1e-9 else None


def _small(view: rasterizer.View) -> rasterizer.View:
    camera = view.camera.resized(max(1, view.camera.width // 8), max(1, view.camera.height // 8))
    return rasterizer.view(view.gaussians, camera, view.camera_from_splat, view.backend)
