"""Clicks and examples: which feature lies under a pixel, beside a point, or under a mask of a picture."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.camera import Camera, Image, turning_radius
from feature_gs_ros.core.errors import CameraError, PromptError
from feature_gs_ros.core.feature_grid import FeatureGrid, pool
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.lens import undistorted
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.rasterizer import View

COVERED = 0.5  # Σ w of a pixel under which it shows no map
OBSERVED = 0.5  # of the weight that must have been seen
NEIGHBOURS = 8  # Gaussians around a point that speak for it
CLICK_RADIUS = 0.05  # m around a 3D point within which there must be a Gaussian
FILLS = 0.5  # of an image's width or height: an object as large fills it
CANVAS = 6.0  # size of the canvas that it is shown on then, in object sizes
CANVAS_PIXELS, GREY = 1920, 124
PICTURE_SHARE = 0.7  # of the example rule's threshold, for what was shown so


def straight_pixel(camera: Camera, u: float, v: float) -> tuple[float, float]:
    """Where a pixel of the camera's own image lies in the rectified one; corner-based coordinates.

    Raises:
        PromptError: outside the image, not finite, or where the lens images nothing.
    """
    if not (0 <= u < camera.width and 0 <= v < camera.height):  # False for NaN, too
        raise PromptError(
            f"pixel ({u:g}, {v:g}) is outside the image of {camera.width}×{camera.height}", code="prompt.outside"
        )
    if camera.distortion is None:
        return u, v
    seen = np.array([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy])
    nothing = f"the lens shows nothing of the scene at pixel ({u:g}, {v:g}): click nearer to the middle"
    try:
        x, y = (float(value) for value in undistorted(seen, camera.distortion))
    except CameraError as error:
        raise PromptError(nothing, code="prompt.lens") from error
    if not np.hypot(x, y) < turning_radius(camera.distortion):
        raise PromptError(nothing, code="prompt.lens")
    return camera.fx * x + camera.cx, camera.fy * y + camera.cy


def weights_of_pixel(view: View, u: float, v: float) -> Tensor:
    """One row of W: the weight [N] of each Gaussian in the pixel that holds (u, v), corner-based.

    Raises:
        PromptError: outside the image.
    """
    camera = view.camera
    if not (0 <= u < camera.width and 0 <= v < camera.height):
        raise PromptError(
            f"pixel ({u:g}, {v:g}) is outside the rectified image of {camera.width}×{camera.height}",
            code="prompt.outside",
        )
    valid = torch.zeros(camera.height, camera.width)
    valid[int(v), int(u)] = 1.0
    _, weight = view.backproject(FeatureGrid(torch.ones(1, 1, 1)), valid)
    return weight


def point_of_pixel(view: View, weights: Tensor, u: float, v: float) -> NDArray[np.float64] | None:
    """Where the ray through a pixel meets the map, [3] splat frame; None where the map covers less than half of it.

    The depth is the weights' median, so that a border between two objects gives one or the other.
    """
    rows = weights.nonzero()[:, 0]
    w = weights[rows].double()
    if float(w.sum()) < COVERED:
        return None
    pose = view.camera_from_splat
    depths = torch.from_numpy(view.gaussians.means[rows].double().numpy() @ pose[2, :3] + pose[2, 3])
    order = depths.argsort()
    middle = int(torch.searchsorted(w[order].cumsum(0), float(w.sum()) / 2))
    depth = float(depths[order[min(middle, len(order) - 1)]])
    camera = view.camera
    ray = np.array([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0])
    point: NDArray[np.float64] = pose[:3, :3].T @ (depth * ray - pose[:3, 3])
    return point


def weights_near(gaussians: GaussianMap, point: ArrayLike, radius: float) -> Tensor:
    """Weights [N] of the nearest Gaussians of a point [3] in the splat frame; all 0 where none is within ``radius``.

    Raises:
        PromptError: the point isn't finite.
    """
    position = torch.as_tensor(np.asarray(point, dtype=np.float64))
    if not bool(torch.isfinite(position).all()):
        raise PromptError(
            f"the point {tuple(position.tolist())} is not finite; give finite numbers", code="prompt.not-finite"
        )
    at = position.float()
    weights = torch.zeros(len(gaussians))
    distances, rows = (gaussians.means - at).norm(dim=1).topk(min(NEIGHBOURS, len(gaussians)), largest=False)
    if float(distances[0]) <= radius:
        width = max(float(distances[-1]), 1e-12)
        weights[rows] = gaussians.opacities[rows] * torch.exp(-0.5 * (distances / width) ** 2)
    return weights


def feature_of(weights: Tensor, field: FeatureField) -> Tensor | None:
    """The feature [D] of what has these weights [N], ``Σ_seen w f / Σ_seen w``; None where too little was seen."""
    rows = weights.nonzero()[:, 0]
    known = weights[rows] * field.seen[rows]
    total = float(known.sum())
    if total <= 0 or total < OBSERVED * float(weights.sum()):
        return None
    return (known / total) @ field.decoded(rows)


def picture_example(
    extractor: Extractor,
    image: Image,  # [H, W, 3] uint8
    mask: Tensor | None = None,  # [H, W], above 0 on the object; the whole image by default
    name: str = "",
) -> tuple[Tensor, float]:
    """What a picture shows, to ask by: its feature [D], and the similarity from which on Gaussians are like it.

    An object that fills its image would look far larger to the network than objects do in a robot's views: it is shown
    in the middle of a grey canvas. Other light and another camera make it less similar than views of the map are.

    Raises:
        PromptError: the mask marks nothing.
    """
    marked = torch.ones(image.shape[:2]) if mask is None else mask.to(torch.float32)
    height, width = marked.shape
    fraction = max(_extent(marked.amax(dim=1)) / height, _extent(marked.amax(dim=0)) / width)
    threshold = extractor.example_rule.threshold
    if fraction > FILLS and extractor.identity.weights:  # without weights it is not a network: files, or plain colours
        image, marked = _on_canvas(image, marked, CANVAS * fraction)
        threshold *= PICTURE_SHARE
    return feature_under_mask(extractor.extract(image, name), marked), threshold


def _extent(marked: Tensor) -> int:
    rows = marked.nonzero()
    return int(rows[-1] - rows[0]) + 1 if len(rows) else 0


def _on_canvas(image: Image, mask: Tensor, times: float) -> tuple[Image, Tensor]:
    """Picture and mask in the middle of a canvas so many times as wide and high, no side above `CANVAS_PIXELS`."""
    shrink = min(1.0, CANVAS_PIXELS / (times * max(mask.shape)))
    size = tuple(max(1, round(side * shrink)) for side in mask.shape[::-1])
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    shown = torch.from_numpy(cv2.resize(mask.numpy(), size, interpolation=cv2.INTER_AREA))
    height, width = (max(side, round(side * times)) for side in shown.shape)
    top, left = (height - shown.shape[0]) // 2, (width - shown.shape[1]) // 2
    inside = slice(top, top + shown.shape[0]), slice(left, left + shown.shape[1])
    canvas, marked = np.full((height, width, 3), GREY, np.uint8), torch.zeros(height, width)
    canvas[inside], marked[inside] = picture, shown
    return canvas, marked


def feature_under_mask(grid: FeatureGrid, mask: Tensor) -> Tensor:
    """Mean feature [D] of the pixels that a mask [H, W] (bool, or fractions) marks, ``Σ m U F / Σ m``.

    Raises:
        PromptError: the mask marks nothing.
    """
    fractions = mask.to(torch.float32)
    if not float(fractions.sum()) > 0:
        raise PromptError("the mask marks nothing; mark the object with values above 0", code="prompt.empty")
    cells = pool(grid, fractions).reshape(-1, 1)
    return (cells * grid.values.float().reshape(-1, grid.dimension)).sum(dim=0) / cells.sum()
