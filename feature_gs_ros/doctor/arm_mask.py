"""What is at the same pixels in all images while the camera moves: the robot's own arm, or dirt on the lens."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.doctor.evidence import Evidence
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.frames.umeyama import Array

SIZE = 96  # px of the longer side at which images are compared
MIN_IMAGES = 5
MIN_AREA = 0.01  # of the image
CONSTANT = 0.25  # of the median pixel's deviation over the images: less is constant
MIN_EDGE = 4.0  # of 255 per pixel
MIN_OUTLINED = 0.4  # of a constant region's rim that must be an edge in nearly all images
MIN_DEVIATION = 8.0  # of 255, of the median pixel: less, and the camera hardly moved
BLACK = 12.0  # of 255: constant pixels darker than this are a rim without image, not a thing
MIN_CONTRAST = 3.0  # of 255: deviation that constant pixels may have at most anyhow


def constant_pixels(evidence: Evidence) -> NDArray[np.bool_] | None:
    """Mask [h, w] of pixels that are the same in all images looked at; None where the images don't tell.

    Exposure is taken out by each image's median; images must be of one size.
    """
    if len(evidence.images) < MIN_IMAGES or len({image.shape for image in evidence.images}) > 1:
        return None
    height, width = evidence.images[0].shape[:2]
    factor = SIZE / max(height, width)
    size = (max(4, round(width * factor)), max(4, round(height * factor)))
    small = np.stack(
        [cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) for image in evidence.images]
    )
    deviation = _robust_deviation(small)
    usual = float(np.median(deviation))
    if usual < MIN_DEVIATION:
        return None
    still = (deviation < max(MIN_CONTRAST, CONSTANT * usual)).astype(np.uint8)
    black = (np.median(small, axis=0).max(axis=2) < BLACK).astype(np.uint8)
    black = (
        cv2.dilate(cv2.morphologyEx(black, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.ones((7, 7), np.uint8)) > 0
    )
    still[black] = 0  # of a fisheye or a rectified image
    constant = np.asarray(cv2.morphologyEx(still, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(constant)
    mask = np.zeros(constant.shape, dtype=np.bool_)
    outlined = _standing_edges(small) & ~black
    for label in range(1, count):
        left, top, wide, high, area = stats[label]
        at_border = left == 0 or top == 0 or left + wide == size[0] or top + high == size[1]
        large = area >= MIN_AREA * constant.size and (at_border or area >= 5 * MIN_AREA * constant.size)
        if large and _has_outline(labels == label, outlined):
            mask |= labels == label
    return mask if mask.any() else None


def _standing_edges(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where nearly all images have an edge, [h, w], to a pixel."""
    strengths = []
    for image in images:
        grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 0.8)
        edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=0.125))
        strengths.append(cv2.dilate(edges, np.ones((3, 3), np.uint8)))
    return np.asarray(np.quantile(strengths, 0.2, axis=0) > MIN_EDGE)


def _has_outline(region: NDArray[np.bool_], edges: NDArray[np.bool_]) -> bool:
    """Whether what is constant ends at an edge that stands: a wall or floor of one colour ends elsewhere each time."""
    grown = cv2.dilate(region.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rim = grown & ~region
    return bool(edges[rim].mean() >= MIN_OUTLINED) if rim.any() else True


def _robust_deviation(images: Array | NDArray[np.float32]) -> Array:
    """Over the images, of each pixel's colour: median distance from its median, [h, w]."""
    return np.asarray(np.median(np.abs(images - np.median(images, axis=0)).max(axis=3), axis=0) * 1.48)


def arm_findings(evidence: Evidence) -> list[Finding]:
    """The part of all images that never changes."""
    mask = constant_pixels(evidence)
    if mask is None:
        return []
    rows, columns = np.nonzero(mask)
    height, width = evidence.images[0].shape[:2]
    scale_x, scale_y = width / mask.shape[1], height / mask.shape[0]
    box = f"x {columns.min() * scale_x:.0f}…{(columns.max() + 1) * scale_x:.0f}, "
    box += f"y {rows.min() * scale_y:.0f}…{(rows.max() + 1) * scale_y:.0f} px"
    return [
        Finding(
            "images.own-arm", "warning", 0.7,
            f"{mask.mean():.0%} of the image is the same in all images while the camera moves ({box}): the robot's own "
            "arm, or dirt on the lens",
            "Leave these pixels out; feature-gs doctor --mask FILE writes them as a mask (255 where they are)", (),
            {"fraction": float(mask.mean())},
        )
    ]  # fmt: skip


def arm_mask(evidence: Evidence) -> NDArray[np.uint8] | None:
    """Image [H, W] of the camera's size, 255 where pixels never change; None where all do."""
    mask = constant_pixels(evidence)
    if mask is None:
        return None
    height, width = evidence.images[0].shape[:2]
    grown = cv2.dilate(mask.astype(np.uint8) * 255, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.resize(grown, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
