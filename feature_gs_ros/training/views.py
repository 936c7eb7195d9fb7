"""Photographs as training takes them: rectified, resized, posed in the splat's frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.backprojection.ingest import pinhole_view
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.geometry import Sim3, camera_centre
from feature_gs_ros.io.streams.registry import Stream


@dataclass(frozen=True, eq=False)
class TrainingView:
    """One photograph."""

    name: str
    image: Tensor  # [H, W, 3] float32 in 0 … 1
    camera: Camera
    camera_from_splat: NDArray[np.float64]  # [4, 4]
    valid: Tensor | None = None  # [H, W] bool; all pixels count by default

    @property
    def centre(self) -> Tensor:
        """The camera's centre in the splat's frame [3]."""
        return torch.from_numpy(camera_centre(self.camera_from_splat)).float()

    def resized(self, width: int, height: int) -> TrainingView:
        """The same view in another resolution; a pixel counts where all that it is made of does."""
        image = cv2.resize(self.image.numpy(), (width, height), interpolation=cv2.INTER_AREA)
        valid = self.valid
        if valid is not None:
            fractions = cv2.resize(valid.numpy().astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
            valid = torch.from_numpy(fractions > 0.99)
        return TrainingView(
            self.name, torch.from_numpy(image), self.camera.resized(width, height), self.camera_from_splat, valid
        )

    def on(self, device: torch.device) -> TrainingView:
        """The same view with its pixels on a device."""
        return replace(self, image=self.image.to(device), valid=None if self.valid is None else self.valid.to(device))

    def halved(self, times: int) -> TrainingView:
        """The view at 1 / 2**times of its size."""
        return self.resized(max(1, self.camera.width >> times), max(1, self.camera.height >> times))


def load_views(stream: Stream, names: Sequence[str], splat_from_map: Sim3, longest: int) -> list[TrainingView]:
    """The named frames, reduced to a longer side of at most ``longest`` pixels.

    Raises:
        StreamError: an image can't be read.
        CameraError: a lens can't be rectified.
    """
    views = []
    for frame in stream.frames(names):
        pinhole = pinhole_view(frame, splat_from_map)
        image = torch.from_numpy(pinhole.image.astype(np.float32) / 255)
        view = TrainingView(frame.name, image, pinhole.camera, pinhole.camera_from_splat, pinhole.valid)
        scale = min(1.0, longest / max(view.camera.width, view.camera.height))
        width, height = (max(1, round(scale * side)) for side in (view.camera.width, view.camera.height))
        views.append(view.resized(width, height))
    return views
