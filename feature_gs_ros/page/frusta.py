"""The remembered cameras in the map frame: frusta with their images, and the way that the camera went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feature_gs_ros.backprojection.provenance import KnownView
from feature_gs_ros.core.geometry import quat_wxyz_from_rotation
from feature_gs_ros.page.content import Content

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frustum:
    """A remembered camera whose image stands at `depth` metres before it."""

    known: KnownView
    rotation: Array  # [3, 3] map from camera, z forward
    centre: Array  # [3] m, map frame
    depth: float  # m

    @staticmethod
    def of(content: Content, known: KnownView, depth: float) -> Frustum:
        rotation, centre = content.camera_in_map(known)
        return Frustum(known, rotation, centre, depth)

    @property
    def quat_wxyz(self) -> Array:
        """[4] map from camera."""
        return quat_wxyz_from_rotation(self.rotation)

    @property
    def image_size(self) -> tuple[float, float]:
        """Width and height [m] of the image where it stands."""
        camera = self.known.camera
        return self.depth * camera.width / camera.fx, self.depth * camera.height / camera.fy

    @property
    def image_centre(self) -> Array:
        """[3] m, map frame."""
        camera = self.known.camera
        return self._in_map(camera.width / 2, camera.height / 2)

    @property
    def vertical_fov(self) -> float:
        """Radians."""
        return float(2 * np.arctan(self.known.camera.height / 2 / self.known.camera.fy))

    def lines(self) -> Array:
        """Segments [8, 2, 3] m: from the centre to the image's corners, and around it."""
        camera = self.known.camera
        pixels = ((0, 0), (camera.width, 0), (camera.width, camera.height), (0, camera.height))
        corners = np.array([self._in_map(u, v) for u, v in pixels])
        around = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
        return np.concatenate([np.stack([np.broadcast_to(self.centre, (4, 3)), corners], axis=1), around])

    def pixel_of_ray(self, origin: ArrayLike, direction: ArrayLike) -> tuple[float, float] | None:
        """Where a ray of the map frame meets the image; None where it doesn't."""
        start = self.rotation.T @ (np.asarray(origin, np.float64) - self.centre)
        towards = self.rotation.T @ np.asarray(direction, np.float64)
        if abs(towards[2]) < 1e-12:
            return None
        along = (self.depth - start[2]) / towards[2]
        if along <= 0:
            return None
        x, y, _ = start + towards * along
        return self.pixel_of_point(x, y)

    def pixel_of_map_point(self, point: ArrayLike) -> tuple[float, float] | None:
        """Where a point of the map frame, on the image, lies in it; None outside."""
        x, y, _ = self.rotation.T @ (np.asarray(point, np.float64) - self.centre)
        return self.pixel_of_point(x, y)

    def pixel_of_point(self, x: float, y: float) -> tuple[float, float] | None:
        """Pixel of a point of the image plane, in the camera's frame [m]; None outside."""
        camera = self.known.camera
        u, v = camera.fx * x / self.depth + camera.cx, camera.fy * y / self.depth + camera.cy
        return (float(u), float(v)) if 0 <= u < camera.width and 0 <= v < camera.height else None

    def _in_map(self, u: float, v: float) -> Array:
        camera = self.known.camera
        ray = np.array([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0])
        return np.asarray(self.rotation @ (ray * self.depth) + self.centre, np.float64)
