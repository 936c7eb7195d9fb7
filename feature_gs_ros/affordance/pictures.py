"""Pictures of a transfer: a source with its mask, the map with its regions, an overlay on a real view."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.affordance.evaluation import render_affordances
from feature_gs_ros.affordance.patches import IGNORE
from feature_gs_ros.affordance.regions import Region
from feature_gs_ros.affordance.source import Source
from feature_gs_ros.affordance.transfer import Transfer
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.pictures import label_image, to_image
from feature_gs_ros.rasterizer import View

Array = NDArray[np.float64]
ARROW = 0.08  # metres
OUTLINE = (255, 255, 255)
CLOSING = (255, 255, 255)
APPROACH = (20, 20, 20)


def source_picture(source: Source) -> Image:
    """The image with what is marked on it, and a legend."""
    labels = source.decoded_labels()
    return _marked(np.where(labels == IGNORE, 0, labels), source.affordances, source.decoded_image())


def transfer_picture(
    view: View, transferred: Transfer, regions: Sequence[Region], splat_from_map: Sim3, image: Image | None = None
) -> Image:
    """Labels over a view's image, or over the rendered map; with each region's approach and gripper width."""
    base = to_image(view.render_color()) if image is None else image
    shown = _marked(render_affordances(view, transferred).numpy(), transferred.affordances, base)
    for region in regions:
        half = region.closing * region.gripper_width / 2
        _line(shown, view, splat_from_map, region.center - half, region.center + half, CLOSING, arrow=False)
        start = region.center - ARROW * region.approach
        _line(shown, view, splat_from_map, start, region.center, APPROACH, arrow=True)
    return shown


def _marked(labels: NDArray[np.integer], affordances: Sequence[str], image: Image) -> Image:
    """Labels [H, W] in their colours, outlined: a red mark must show on a red object."""
    shown = label_image(labels, dict(enumerate(affordances, start=1)), image)
    outlines, _ = cv2.findContours((labels > 0).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outlines, -1, OUTLINE, 1)
    return shown


def _line(
    image: Image, view: View, splat_from_map: Sim3, start: Array, end: Array, color: tuple[int, int, int], arrow: bool
) -> None:
    """A line between two points [3] of the map frame, where both are in front of the camera."""
    camera, pose = view.camera, view.camera_from_splat
    seen = splat_from_map.apply(np.stack([start, end])) @ pose[:3, :3].T + pose[:3, 3]
    if (seen[:, 2] <= 1e-6).any():
        return
    pixels = seen[:, :2] / seen[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy] - 0.5
    if np.abs(pixels).max() > 1e5:
        return
    first, last = pixels.round().astype(np.int64).tolist()
    if arrow:
        cv2.arrowedLine(image, first, last, color, 2, cv2.LINE_AA, tipLength=0.25)
    else:
        cv2.line(image, first, last, color, 2, cv2.LINE_AA)
