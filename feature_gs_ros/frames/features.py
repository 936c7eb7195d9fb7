"""Points of the map found again in images: SIFT features of rendered views with their depth, matched to live ones.

Rendered and live images of the same place have the same blobs and corners, even where the map is blurred, and SIFT
finds them whatever the exposure, the turn about the view axis and a few tens of degrees of viewpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera, Frame, Image
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.frames.umeyama import Array
from feature_gs_ros.pictures import to_image

MATCHING_SIZE = 320  # longer side in pixels of the images that are matched
MAX_FEATURES = 500  # of an image
CONTRAST = 0.02  # SIFT's threshold: half of the usual, as rendered images are soft
RATIO = 0.85  # of the nearest descriptor's distance to that of the nearest one elsewhere
NEIGHBOURS = 6  # descriptors searched for one of another point
ELSEWHERE = 0.03  # of the points' extent: as far from each other, two points are different ones
SOLID = 0.6  # opacity of a pixel that shows a surface


@dataclass(frozen=True, eq=False)
class Features:
    """SIFT features of one live image."""

    pixels: Array  # [K, 2] of the image as it was taken, counted from its corner
    descriptors: NDArray[np.float32]  # [K, 128] RootSIFT


@dataclass(frozen=True, eq=False)
class MapFeatures:
    """Features of rendered views, with the points of the map that they show."""

    points: Array  # [K, 3] splat frame
    descriptors: NDArray[np.float32]  # [K, 128]

    @staticmethod
    def pooled(parts: Sequence[MapFeatures]) -> MapFeatures:
        return MapFeatures(
            np.concatenate([np.empty((0, 3)), *(part.points for part in parts)]),
            np.concatenate([np.empty((0, 128), np.float32), *(part.descriptors for part in parts)]),
        )


@dataclass(frozen=True, eq=False)
class Matches2D3D:
    """Where points of the map are seen in the images of some frames; some of it is wrong."""

    frames: NDArray[np.int64]  # [M] index of the frame
    pixels: Array  # [M, 2] of the image as it was taken
    points: Array  # [M, 3] splat frame

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def by_frame(self) -> list[tuple[int, NDArray[np.int64]]]:
        """Each frame that has matches, with their rows."""
        return [(int(index), np.flatnonzero(self.frames == index)) for index in np.unique(self.frames)]

    def thinned(self, count: int) -> Matches2D3D:
        """About so many of them, spread evenly."""
        return self if len(self) <= count else self.of(np.arange(len(self)) % -(-len(self) // count) == 0)

    def of(self, rows: NDArray[np.bool_]) -> Matches2D3D:
        return Matches2D3D(self.frames[rows], self.pixels[rows], self.points[rows])

    @staticmethod
    def joined(parts: Iterable[Matches2D3D]) -> Matches2D3D:
        parts = list(parts)
        return Matches2D3D(
            np.concatenate([np.empty(0, np.int64), *(part.frames for part in parts)]),
            np.concatenate([np.empty((0, 2)), *(part.pixels for part in parts)]),
            np.concatenate([np.empty((0, 3)), *(part.points for part in parts)]),
        )


def small_camera(camera: Camera, size: int = MATCHING_SIZE) -> Camera:
    """The camera of an image reduced to ``size`` pixels on its longer side, never enlarged."""
    factor = min(1.0, size / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))


def live_features(image: Image, size: int = MATCHING_SIZE) -> Features:
    """Of an image as it was taken [H, W, 3], found at a reduced size."""
    height, width = image.shape[:2]
    factor = min(1.0, size / max(height, width))
    reduced = (max(1, round(width * factor)), max(1, round(height * factor)))
    pixels, descriptors = _sift(
        np.asarray(cv2.resize(image, reduced, interpolation=cv2.INTER_AREA), dtype=np.uint8), None
    )
    return Features(pixels * [width / reduced[0], height / reduced[1]], descriptors)


@dataclass(frozen=True, eq=False)
class RenderedView:
    """The map as a camera sees it."""

    camera: Camera  # pinhole
    camera_from_splat: Array  # [4, 4]
    image: Image  # [H, W, 3]
    depth: NDArray[np.float32]  # [H, W] along z, splat units; 0 where there is no surface

    @property
    def covered(self) -> float:
        """Fraction of the pixels that show a surface."""
        return float((self.depth > 0).mean())


def render_view(gaussians: GaussianMap, camera: Camera, camera_from_splat: Array) -> RenderedView:
    """The map from a pose, through the camera without its lens's distortion."""
    straight = replace(camera, distortion=None)
    view = rasterizer.view(gaussians, straight, camera_from_splat)
    drawn = view.render_depth().numpy()
    solid = drawn[:, :, 1] > SOLID
    depth = np.where(solid, drawn[:, :, 0] / np.maximum(drawn[:, :, 1], 1e-6), 0).astype(np.float32)
    return RenderedView(straight, camera_from_splat, to_image(view.render_color()), depth)


def map_features(view: RenderedView) -> MapFeatures:
    """Features of a rendered view where it shows a surface."""
    mask = np.asarray(cv2.erode((view.depth > 0).astype(np.uint8), np.ones((5, 5), np.uint8)), dtype=np.uint8)
    pixels, descriptors = _sift(view.image, mask)
    rows = np.clip(pixels[:, 1].astype(np.int64), 0, view.depth.shape[0] - 1)
    columns = np.clip(pixels[:, 0].astype(np.int64), 0, view.depth.shape[1] - 1)
    return MapFeatures(unprojected(view, pixels, view.depth[rows, columns]), descriptors)


def unprojected(view: RenderedView, pixels: Array, depth: NDArray[np.floating]) -> Array:
    """Points [K, 3] in the splat at pixels [K, 2] and depths [K] of a rendered view."""
    camera, pose = view.camera, view.camera_from_splat
    x = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy] * np.asarray(depth)[:, None]
    seen = np.column_stack([x, depth])
    return np.asarray((seen - pose[:3, 3]) @ pose[:3, :3])


def match_features(frame: int, live: Features, known: MapFeatures) -> Matches2D3D:
    """Which live features show which points: the nearest descriptor, if none of another point is as near."""
    count = len(known.points)
    if len(live.pixels) == 0 or count < 2:
        return Matches2D3D.joined([])
    similarity = torch.from_numpy(live.descriptors) @ torch.from_numpy(known.descriptors).T
    best = similarity.topk(min(NEIGHBOURS, count), dim=1)
    values, nearest = best.values.double().numpy(), best.indices.numpy()
    distances = np.sqrt(np.maximum(0, 2 - 2 * values))
    extent = float(np.linalg.norm(np.subtract(*np.quantile(known.points, [0.9, 0.1], axis=0))))
    apart = np.linalg.norm(known.points[nearest] - known.points[nearest[:, :1]], axis=2) > ELSEWHERE * extent
    rival = np.where(apart, distances, np.inf).min(axis=1)
    rival = np.where(np.isinf(rival), distances[:, -1], rival)  # all of the same point: well confirmed
    good = distances[:, 0] < RATIO * np.maximum(rival, distances[:, -1] * 0.999)
    return Matches2D3D(np.full(int(good.sum()), frame, np.int64), live.pixels[good], known.points[nearest[good, 0]])


def _sift(image: Image, mask: NDArray[np.uint8] | None) -> tuple[Array, NDArray[np.float32]]:
    """Pixels [K, 2] counted from the corner, and RootSIFT descriptors [K, 128] of unit length."""
    detector = cv2.SIFT.create(nfeatures=MAX_FEATURES, contrastThreshold=CONTRAST)
    keypoints, found = detector.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), mask)
    if found is None or len(keypoints) == 0:
        return np.empty((0, 2)), np.empty((0, 128), np.float32)
    descriptors = np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return np.array([keypoint.pt for keypoint in keypoints]) + 0.5, descriptors


def spread_frames(frames: Sequence[Frame], count: int) -> list[int]:
    """Indices of up to ``count`` frames, spread evenly, the first and the last among them."""
    return sorted(set(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int).tolist()))
