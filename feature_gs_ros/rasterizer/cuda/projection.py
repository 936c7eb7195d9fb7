"""The Gaussians that can touch an image, front to back, on the device."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import warp as wp
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import BLUR, GaussianMap
from feature_gs_ros.numerics.sorting import morton_order
from feature_gs_ros.numerics.streams import keep
from feature_gs_ros.rasterizer.cuda.kernels import projection as kernels
from feature_gs_ros.rasterizer.cuda.runtime import launch, vectors


@dataclass(frozen=True, eq=False)
class DeviceMap:
    """A map on the device, its geometry along a Z-curve: neighbours in space are neighbours in memory.

    Equal depths are drawn in this order, as on the CPU.
    """

    rows: Tensor  # [N] int32, the map's row at each index of the curve
    means: Tensor  # [N, 3]
    quats_wxyz: Tensor  # [N, 4]
    scales: Tensor  # [N, 3]
    opacities: Tensor  # [N]
    antialiased: bool = False  # `GaussianMap.antialiased`
    blur: float = BLUR  # `GaussianMap.blur`


class MapCache:
    """Each map's geometry on one device, uploaded once and kept as long as the map."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._maps: WeakKeyDictionary[GaussianMap, DeviceMap] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __call__(self, gaussians: GaussianMap) -> DeviceMap:
        with self._lock:
            found = self._maps.get(gaussians)
            if found is None:
                rows = torch.from_numpy(morton_order(gaussians.means.numpy()))
                columns = (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities)
                means, quats_wxyz, scales, opacities = (column[rows].to(self._device) for column in columns)
                mode = (gaussians.antialiased, gaussians.blur)
                found = DeviceMap(rows.to(self._device), means, quats_wxyz, scales, opacities, *mode)
                self._maps[gaussians] = found
            keep(self._device, found.rows, found.means, found.quats_wxyz, found.scales, found.opacities)
            return found


@dataclass(frozen=True, eq=False)
class Projection:
    """The V Gaussians that can touch the image, front to back."""

    geometry: DeviceMap  # of the map
    places: Tensor  # [V] int32, their indices on its curve
    splats: Tensor  # [V, 8] mean x, y (px); conic a, b, c (1/px²); opacity; half width and height of the footprint (px)
    depths: Tensor  # [V] camera z, splat units

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def rows(self) -> Tensor:
        """[V] int32 rows of the map."""
        return self.geometry.rows.index_select(0, self.places)


def project(geometry: DeviceMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> Projection:
    """Project, cull and sort; waits once for the device, for how many there are."""
    device, count = geometry.means.device, len(geometry.means)
    splats, depths = torch.empty(count, 8, device=device), torch.empty(count, device=device)
    arrays = (vectors(geometry.means), vectors(geometry.quats_wxyz), vectors(geometry.scales), geometry.opacities)
    lens = lens_of(camera, camera_from_splat)
    launch(kernels.project, count, device, *arrays, lens, geometry.antialiased, geometry.blur, splats, depths)
    visible = depths.nonzero()[:, 0]
    near_to_far, order = depths[visible].sort(stable=True)
    visible = visible[order]
    return Projection(geometry, visible.to(torch.int32), splats[visible], near_to_far)


def lens_of(camera: Camera, camera_from_splat: NDArray[np.float64]) -> Any:
    """Pose and intrinsics as kernels take them, by value."""
    lens = kernels.Lens()
    lens.rotation = wp.mat33(*camera_from_splat[:3, :3].reshape(-1).tolist())
    lens.shift = wp.vec3(*camera_from_splat[:3, 3].tolist())
    lens.fx, lens.fy, lens.cx, lens.cy = camera.fx, camera.fy, camera.cx, camera.cy
    lens.width, lens.height = float(camera.width), float(camera.height)
    lens.rotation64 = wp.mat33d(*camera_from_splat[:3, :3].reshape(-1).tolist())
    lens.shift64 = wp.vec3d(*camera_from_splat[:3, 3].tolist())
    lens.focal64, lens.centre64 = wp.vec2d(camera.fx, camera.fy), wp.vec2d(camera.cx, camera.cy)
    return lens


def eye_of(camera_from_splat: NDArray[np.float64]) -> Any:
    """The camera's centre in the splat's frame."""
    return wp.vec3(*(-camera_from_splat[:3, :3].T @ camera_from_splat[:3, 3]).tolist())
