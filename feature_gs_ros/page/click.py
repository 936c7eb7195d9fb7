"""From a click in the page, or in a camera's image, to Gaussians, a point and a feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.provenance import KnownView
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.core.geometry import rigid_inverse
from feature_gs_ros.editing.operations import EditedMap
from feature_gs_ros.page.content import Content
from feature_gs_ros.query.clicks import feature_of, point_of_pixel, weights_of_pixel
from feature_gs_ros.rasterizer import View

SIDE = 3  # px of the camera that looks along a click's ray; the middle one counts


@dataclass(frozen=True, eq=False)
class Pick:
    """What lies under a click."""

    weights: Tensor  # [N] of the map's Gaussians
    point: NDArray[np.float64]  # [3] m, map frame
    feature: Tensor | None  # [D]; None where too little of it was seen, or there is no field


def pick_along_ray(
    content: Content, edited: EditedMap, origin: ArrayLike, direction: ArrayLike, focal: float
) -> Pick | None:
    """What a ray of the map frame meets first; None where it meets nothing.

    Args:
        origin: [3] m.
        direction: [3], any length but zero.
        focal: pixels, of the picture that was clicked: how wide a pixel is.

    Raises:
        PromptError: the ray isn't finite.
    """
    start, towards = np.asarray(origin, np.float64), np.asarray(direction, np.float64)
    length = float(np.linalg.norm(towards))
    if not (np.isfinite(start).all() and np.isfinite(length) and length > 0 and 0 < focal < np.inf):
        raise PromptError(
            f"the click's ray from {start} along {towards} is not a ray; click again", code="prompt.value"
        )
    camera = Camera(SIDE, SIDE, focal, focal, SIDE / 2, SIDE / 2)
    pose = content.splat_from_map.camera_from_splat(_looking_along(start, towards / length))
    return _pick(content, edited, camera, pose, SIDE / 2, SIDE / 2)


def pick_in_image(content: Content, edited: EditedMap, known: KnownView, u: float, v: float) -> Pick | None:
    """What lies under a pixel of a remembered camera's rectified image; None where the map shows nothing.

    Raises:
        PromptError: outside the image.
    """
    return _pick(content, edited, known.camera, known.camera_from_splat, u, v)


def _pick(
    content: Content, edited: EditedMap, camera: Camera, camera_from_splat: NDArray[np.float64], u: float, v: float
) -> Pick | None:
    view: View = rasterizer.view(edited.visible(), camera, camera_from_splat)
    there = weights_of_pixel(view, u, v)
    position = point_of_pixel(view, there, u, v)
    if position is None:
        return None
    weights = torch.zeros(len(edited.present))
    weights[edited.present] = there
    feature = feature_of(weights, content.segmenter.field) if content.segmenter else None
    return Pick(weights, content.splat_from_map.inverse().apply(position), feature)


def _looking_along(position: NDArray[np.float64], forward: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pose [4, 4] (camera from map) of a camera at ``position`` that looks along the unit vector ``forward``."""
    helper = np.eye(3)[int(np.argmin(np.abs(forward)))]
    right = np.cross(helper, forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return rigid_inverse(pose)
