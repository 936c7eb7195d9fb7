"""EWA projection of Gaussians onto an image, as gsplat 1.5.3 does it in classic mode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.cameras import Camera
from feature_gs_ros.gaussians import GaussianMap
from feature_gs_ros.kernels import parallel_for
from feature_gs_ros.rasterizer.kernels import projection as kernels
from feature_gs_ros.sorting import argsort_positive

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
RANGE = 16384  # Gaussians projected at once


@dataclass(frozen=True, eq=False)
class Projection:
    """The V Gaussians that can touch the image, along the map's Z-curve (`GaussianMap.along_curve`)."""

    places: Ints  # [V] places on the curve, ascending
    rows: Ints  # [V] rows of the map
    splats: Floats  # [V, 8] mean x, y (px); conic a, b, c (1/px²); opacity; half width and height of the footprint (px)
    depths: Floats  # [V] camera z, splat units
    order: Ints  # [V] indices into the arrays above, front to back


def project(gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> Projection:
    """Project, cull and sort front to back; ``camera_from_splat`` is a rigid [4, 4] pose in splat units."""
    geometry = gaussians.along_curve
    arrays = (geometry.means, geometry.quats_wxyz, geometry.scales, geometry.opacities)
    projection = project_arrays(*arrays, camera, camera_from_splat)
    return replace(projection, rows=geometry.rows[projection.places])


def project_arrays(
    means: Floats,  # [N, 3]
    quats_wxyz: Floats,  # [N, 4] unit
    scales: Floats,  # [N, 3]
    opacities: Floats,  # [N]
    camera: Camera,
    camera_from_splat: NDArray[np.float64],
) -> Projection:
    """The same of plain arrays, in whose order places and rows count."""
    count = len(means)
    splats, depths = np.empty((count, 8), np.float32), np.empty(count, np.float32)
    places = np.empty(count, np.int32)
    arrays = (means, quats_wxyz, scales, opacities, *kernel_camera(camera, camera_from_splat))
    found: dict[int, int] = {}

    def work(start: int, stop: int) -> None:
        found[start] = kernels.project(start, stop, *arrays, splats, depths, places)

    parallel_for(count, RANGE, work)
    parts = [slice(start, start + found[start]) for start in sorted(found)] or [slice(0, 0)]
    splats, depths, places = (np.concatenate([array[part] for part in parts]) for array in (splats, depths, places))
    return Projection(places, places, splats, depths, argsort_positive(depths))


def kernel_camera(camera: Camera, camera_from_splat: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Pose [3, 4] and intrinsics fx, fy, cx, cy, width, height as the kernels take them."""
    intrinsics = [camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]
    return np.ascontiguousarray(camera_from_splat[:3, :4], dtype=np.float32), np.array(intrinsics, np.float32)
