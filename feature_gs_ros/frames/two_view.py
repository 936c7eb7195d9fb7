"""What pairs of images say about poses and intrinsics without any map: matches must lie on epipolar lines.

A point seen at the rays x and x' by two cameras with ``x' ~ R x + t`` obeys ``x'ᵀ [t]ₓ R x = 0`` (Hartley and
Zisserman, "Multiple View Geometry", section 9.6), and lies in front of both. Whether a given pose accounts for the
matches is judged beside what the images themselves could reach: the fundamental matrix that explains most of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.frames.features import Features
from feature_gs_ros.frames.reprojection import PosedCamera, matching_scale, undistorted_pixels
from feature_gs_ros.frames.umeyama import Array

TOLERANCE = 4.0  # px of the matched image from the epipolar line
RATIO = 0.8  # of the nearest descriptor's distance to the next one's
MIN_MATCHES = 24  # of a pair that can be judged
MIN_MOVED = 5.0  # px of the matched image: the median match moves less where both cameras are in one place


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Matches between two images; some of it is wrong."""

    first: int
    second: int  # indices of the views
    first_pixels: Array  # [K, 2] of the images as they were taken
    second_pixels: Array
    reached: float  # matches that some fundamental matrix explains


def match_pair(first: int, second: int, a: Features, b: Features, cameras: tuple[Camera, Camera]) -> ViewPair | None:
    """The matches of two images; None where they are too few to judge by, or no geometry explains them."""
    if min(len(a.pixels), len(b.pixels)) < MIN_MATCHES:
        return None
    similarity = torch.from_numpy(a.descriptors) @ torch.from_numpy(b.descriptors).T
    best = similarity.topk(2, dim=1)
    distances = np.sqrt(np.maximum(0, 2 - 2 * best.values.double().numpy()))
    nearest, back = best.indices[:, 0].numpy(), similarity.argmax(dim=0).numpy()
    good = (distances[:, 0] < RATIO * distances[:, 1]) & (back[nearest] == np.arange(len(nearest)))
    pixels_a, pixels_b = a.pixels[good], b.pixels[nearest[good]]
    if len(pixels_a) < MIN_MATCHES:
        return None
    rays_a, rays_b = undistorted_pixels(cameras[0], pixels_a), undistorted_pixels(cameras[1], pixels_b)
    # In pixels of the matched image, whatever the focal length is worth.
    scale_a, scale_b = (camera.fx / matching_scale(camera) for camera in cameras)
    found, _ = cv2.findFundamentalMat(rays_a * scale_a, rays_b * scale_b, cv2.FM_RANSAC, 2.0, 0.999, 2000)
    if found is None or found.shape != (3, 3):
        return None
    off = sampson(np.asarray(found, np.float64), rays_a * scale_a, rays_b * scale_b)
    reached = float(_counted(off).sum())
    return ViewPair(first, second, pixels_a, pixels_b, reached) if reached >= 0.5 * MIN_MATCHES else None


def moved_pixels(pair: ViewPair, camera: Camera) -> float:
    """Median distance that a match moves, in pixels of the matched image."""
    return float(np.median(np.linalg.norm(pair.first_pixels - pair.second_pixels, axis=1))) / matching_scale(camera)


def sampson(fundamental: Array, first: Array, second: Array) -> Array:
    """First-order distance of matches [K, 2] from each other's epipolar lines [K]."""
    a, b = (np.column_stack([points, np.ones(len(points))]) for points in (first, second))
    lines, back = a @ fundamental.T, b @ fundamental
    off = (b * lines).sum(axis=1)
    return np.asarray(np.abs(off) / np.sqrt(np.maximum((lines[:, :2] ** 2 + back[:, :2] ** 2).sum(axis=1), 1e-18)))


def pair_support(pair: ViewPair, first: PosedCamera, second: PosedCamera, tolerance: float = TOLERANCE) -> float:
    """How many of a pair's matches two cameras explain: 1 each on the epipolar line and in front of both."""
    rays_a = undistorted_pixels(first.camera, pair.first_pixels)
    rays_b = undistorted_pixels(second.camera, pair.second_pixels)
    relative = second.camera_from_splat @ np.linalg.inv(first.camera_from_splat)
    rotation, shift = relative[:3, :3], relative[:3, 3]
    a, b = (np.column_stack([rays, np.ones(len(rays))]) for rays in (rays_a, rays_b))
    turned = a @ rotation.T
    scale = (first.camera.fx / matching_scale(first.camera) + second.camera.fx / matching_scale(second.camera)) / 2
    length = float(np.linalg.norm(shift))
    if length < 1e-9:
        behind = turned[:, 2] <= 1e-6
        off = np.linalg.norm(turned[:, :2] / np.where(behind, 1.0, turned[:, 2])[:, None] - rays_b, axis=1)
        return float(_counted(np.where(behind, np.inf, off * scale), tolerance).sum())
    x, y, z = shift / length
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    off = sampson(essential, rays_a, rays_b) * scale
    return float((_counted(off, tolerance) * _in_front(turned, b, shift / length)).sum())


def _in_front(turned: Array, b: Array, direction: Array) -> NDArray[np.bool_]:
    """Whether rays [K, 3] in the second camera's axes meet before both; almost parallel ones may."""
    # depth_b · b = depth_a · turned + direction, in least squares.
    aa, bb, ab = (turned**2).sum(axis=1), (b**2).sum(axis=1), (turned * b).sum(axis=1)
    det = np.maximum(aa * bb - ab**2, 1e-18)
    ad, bd = turned @ direction, b @ direction
    depth_a, depth_b = (ab * bd - bb * ad) / det, (aa * bd - ab * ad) / det
    parallel = det < 1e-6 * aa * bb
    return np.asarray(((depth_a > 0) & (depth_b > 0)) | parallel)


def _counted(off: Array, tolerance: float = TOLERANCE) -> Array:
    """1 for an exact match, falling to 0 at the tolerance (MSAC)."""
    return np.asarray(np.maximum(0.0, 1.0 - (off / tolerance) ** 2))


def paired_rows(count: int, pairs: int) -> list[int]:
    """Indices of frames to look at: so many spread over ``count``, and for each those a few steps later."""
    starts = np.linspace(0, max(0, count - 2), min(pairs, max(0, count - 1))).round().astype(int)
    return sorted({int(k) + step for k in starts for step in (0, *_steps(count)) if k + step < count})


def _steps(count: int) -> tuple[int, ...]:
    """Frames between two that are matched; a video moves little from one to the next."""
    return tuple(step for step, least in ((1, 0), (4, 60), (16, 300)) if count >= least)


def matched_pairs(count: int, features: Mapping[int, Features], cameras: Mapping[int, Camera]) -> list[ViewPair]:
    """Pairs of the frames looked at, some frames apart where the camera moves little between two.

    Args:
        count: frames in all.
        features: of the frames looked at, by their index among all.
        cameras: the same.
    """
    found = []
    for first in features:
        pair = None
        for step in (step for step in _steps(count) if first + step in features):
            both = (cameras[first], cameras[first + step])
            pair = match_pair(first, first + step, features[first], features[first + step], both) or pair
            if pair is None or moved_pixels(pair, cameras[first]) >= MIN_MOVED:
                break
        if pair is not None:
            found.append(pair)
    return found


def supports(pairs: Sequence[ViewPair], cameras: Mapping[int, PosedCamera]) -> Array:
    """How much of each pair's matches the frames' cameras explain."""
    return np.array([pair_support(pair, cameras[pair.first], cameras[pair.second]) for pair in pairs])
