"""What an image shows otherwise than the map: per pixel, and carried onto the Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap

MAX_SIDE = 320  # px that images are compared at
BLUR = 1.5  # px: edges of map and image never lie quite the same
FULL = 0.35  # of the range of colours: this much is drawn as full change
MIN_OPACITY = 0.5  # of the map at a pixel; where it shows less there is nothing to compare with
MIN_WEIGHT = 0.05  # of a Gaussian in the image, summed over pixels, that says something about it


@dataclass(frozen=True, eq=False)
class Change:
    """Of Gaussians, as one image shows them."""

    amount: Tensor  # [N] 0 as the map has it … 1
    seen: Tensor  # [N] bool, in the image


def change(gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64], image: Image) -> Change:
    """How far each Gaussian's surroundings in an image differ from the map: ``Σ w(p) d(p) / Σ w(p)``.

    d is the largest difference of the three colours, after both images are blurred and the image is given the map's
    exposure, in units of `FULL`, at most 1.

    Args:
        camera: pinhole, of the image, which may have another size.
        camera_from_splat: rigid pose [4, 4].
        image: [H, W, 3] rectified.
    """
    factor = min(1.0, MAX_SIDE / max(camera.width, camera.height))
    small = camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))
    view = rasterizer.view(gaussians, small, camera_from_splat)
    drawn = _blurred(view.render_color().clamp(0, 1).numpy())
    resized = cv2.resize(image, (small.width, small.height), interpolation=cv2.INTER_AREA)
    comparable = view.render_depth()[:, :, 1] > MIN_OPACITY
    taken = _blurred(np.asarray(resized, np.float32) / np.float32(255))
    exposed = np.clip(taken * _gain(taken, drawn, comparable.numpy()), 0, 1)
    difference = torch.from_numpy(np.abs(exposed - drawn).max(axis=2) / FULL).clamp_max(1)
    total, weight = view.backproject(FeatureGrid(difference.float().unsqueeze(2).contiguous()), comparable)
    return Change(total[:, 0] / weight.clamp_min(1e-12), weight > MIN_WEIGHT)


def _blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    blurred: NDArray[np.float32] = np.asarray(cv2.GaussianBlur(image, (0, 0), BLUR), np.float32)
    return blurred


def _gain(taken: NDArray[np.float32], drawn: NDArray[np.float32], comparable: NDArray[np.bool_]) -> float:
    """Factor that brings the image's exposure to the map's; what changed, less than half of it, has no say."""
    if not comparable.any():
        return 1.0
    ratios = drawn[comparable].sum(axis=1) / np.maximum(taken[comparable].sum(axis=1), 1 / 255)
    return float(np.clip(np.median(ratios), 0.3, 3.0))
