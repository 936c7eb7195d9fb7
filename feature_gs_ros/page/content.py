"""Content: what a page shows. Opened once, shared by all browsers, never changed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.ingest import pinhole_view
from feature_gs_ros.backprojection.provenance import KnownView
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import CameraError, StreamError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, camera_centre
from feature_gs_ros.extractors.base import has_unit_features
from feature_gs_ros.identity.answers import Identities
from feature_gs_ros.io.data_folder import DataFolder
from feature_gs_ros.io.splats.registry import plain_ply
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.page.splats import SplatCloud
from feature_gs_ros.pictures import to_image
from feature_gs_ros.query.masks_3d import Segmenter

TRIM = 0.1  # of the Gaussians lie beyond each face of the box that the view is laid out by
CHUNK = 65_536  # Gaussians whose features are decoded at once
MAX_THUMBNAIL_PIXELS = 320  # of a camera's image, along its longer side


@dataclass(frozen=True, eq=False)
class Content:
    """A map, and what is known of it.

    Without a field a page shows the map, and nothing can be asked.
    """

    source: Path  # the field, or the map where there is none
    gaussians: GaussianMap
    splat_from_map: Sim3
    folder: DataFolder  # the only one that a browser writes to
    map_path: Path | None = None  # the map's own file
    segmenter: Segmenter | None = None
    identities: Identities | None = None
    stream: Stream | None = None
    command_options: tuple[str, ...] = ()  # of the command that repeats an answer: --map, --weights, …
    asking: threading.Lock = field(default_factory=threading.Lock)  # one query at a time, whoever asks

    @cached_property
    def cloud(self) -> SplatCloud:
        """The map as browsers take it."""
        return SplatCloud.of(self.gaussians, self.splat_from_map.inverse())

    @cached_property
    def plain_ply(self) -> Path | None:
        """The map's own file, where its rows can be carried over byte by byte."""
        return plain_ply(self.map_path) if self.map_path is not None else None

    @cached_property
    def agreement(self) -> Tensor | None:
        """How much the views agree on each Gaussian, [N] in 0..1: the length of the mean of unit features.

        None where the extractor's features are not of unit length: then their mean doesn't tell.
        """
        if self.segmenter is None or not has_unit_features(self.segmenter.extractor):
            return None
        field = self.segmenter.field
        starts = range(0, len(field), CHUNK)  # a copy of the features may be larger than what is left
        return torch.cat([field.decoded(slice(start, start + CHUNK)).norm(dim=1) for start in starts]).clamp(0, 1)

    @property
    def views(self) -> tuple[KnownView, ...]:
        """The cameras that the field remembers."""
        return self.segmenter.field.provenance.views if self.segmenter else ()

    def camera_in_map(self, known: KnownView) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rotation [3, 3] (map from camera, z forward) and centre [3] m of a remembered camera."""
        map_from_splat = self.splat_from_map.inverse()
        pose = known.camera_from_splat
        return map_from_splat.rotation @ pose[:3, :3].T, map_from_splat.apply(camera_centre(pose))

    def image_of(self, known: KnownView) -> Image:
        """A remembered camera's rectified image [H, W, 3]: the stream's, the field's own, or the map from there."""
        if self.stream is not None:
            try:
                for frame in self.stream.frames([known.name]):
                    return pinhole_view(frame, self.splat_from_map).image
            except (StreamError, CameraError):
                pass
        for look in self.segmenter.field.looks if self.segmenter else ():
            if look.view.name == known.name:
                return look.image  # perhaps smaller
        return to_image(rasterizer.view(self.gaussians, known.camera, known.camera_from_splat).render_color())

    def thumbnails(self, stop: threading.Event) -> dict[str, Image]:
        """Small images of the remembered cameras by name: the stream's, or the map drawn from there."""
        found: dict[str, Image] = {}
        names = {known.name for known in self.views}
        if self.stream is not None and names:
            try:
                for frame in self.stream.frames(names & set(self.stream.names())):
                    if stop.is_set():
                        return found
                    found[frame.name] = _thumbnail(pinhole_view(frame, self.splat_from_map).image)
            except (StreamError, CameraError):
                pass  # what was read before is shown
        for known in self.views:
            if known.name not in found and not stop.is_set():
                scale = MAX_THUMBNAIL_PIXELS / max(known.camera.width, known.camera.height)
                size = (max(1, round(side * scale)) for side in (known.camera.width, known.camera.height))
                view = rasterizer.view(self.gaussians, known.camera.resized(*size), known.camera_from_splat)
                found[known.name] = to_image(view.render_color())
        return found

    @cached_property
    def trajectory(self) -> NDArray[np.float64]:
        """Camera centres [V, 3] m of all of the stream's frames in order, or of the remembered cameras."""
        map_from_splat = self.splat_from_map.inverse()
        poses = [known.camera_from_splat for known in self.views]
        if self.stream is not None:
            try:
                poses = [self.splat_from_map.camera_from_splat(f.camera_from_world) for f in self.stream.frames()]
            except StreamError:
                poses = poses or []
        centres = np.array([camera_centre(pose) for pose in poses], np.float64).reshape(-1, 3)
        return map_from_splat.apply(centres)

    @cached_property
    def bounds(self) -> NDArray[np.float64]:
        """Corners [2, 3] m, map frame, of a box around most of the map: a background far away is outside."""
        sample = self.gaussians.means[:: max(1, len(self.gaussians) // 100_000)].numpy()
        low, high = np.quantile(self.splat_from_map.inverse().apply(sample), [TRIM, 1 - TRIM], axis=0)
        return np.stack([low, high])


def _thumbnail(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = min(1.0, MAX_THUMBNAIL_PIXELS / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
