"""A picture to judge an alignment by: what the camera saw, the map rendered from there, and the two blended."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from feature_gs_ros.core.camera import Frame, Image, rectified
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.frames.features import render_view, small_camera

PICTURE_SIZE = 480  # longer side in pixels of one of the images


def comparison_picture(gaussians: GaussianMap, frames: Sequence[Frame], splat_from_map: Sim3) -> Image:
    """A row for each frame: live, rendered, blended; [H, W, 3]."""
    rows = []
    for frame in frames:
        image, camera, _ = rectified(frame.image, frame.camera)
        camera = small_camera(camera, PICTURE_SIZE)
        live = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        rendered = render_view(gaussians, camera, splat_from_map.camera_from_splat(frame.camera_from_world)).image
        rows.append(np.concatenate([live, rendered, cv2.addWeighted(live, 0.5, rendered, 0.5, 0)], axis=1))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return np.concatenate(padded).astype(np.uint8)
