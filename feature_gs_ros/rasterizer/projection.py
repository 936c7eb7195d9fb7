"""EWA projection of Gaussians onto an image, as gsplat 1.5.3 does it in classic mode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.cameras import Camera
from feature_gs_ros.gaussians import GaussianMap, Stretches
from feature_gs_ros.kernels import parallel_for, thread_count
from feature_gs_ros.rasterizer.constants import NEAR_PLANE, TANGENT_MARGIN, WIDEST
from feature_gs_ros.rasterizer.kernels import projection as kernels
from feature_gs_ros.sorting import argsort_positive
from feature_gs_ros.vectors import SIZE

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
RANGE = 1024  # stretches projected at once, at least
SLACK = 1e-5  # of a plane's terms: more than float32 can be wrong


@dataclass(frozen=True, eq=False)
class Projection:
    """The V Gaussians that can touch the image, along the map's Z-curve (`GaussianMap.along_curve`)."""

    places: Ints  # [V] places on the curve, ascending
    splats: Floats  # [V, 8] mean x, y (px); conic a, b, c (1/px²); opacity; half width and height of the footprint (px)
    depths: Floats  # [V] camera z, splat units
    order: Ints  # [V] indices into the arrays above, front to back
    curve: Ints | None  # [N] the map's row at each place; None where a place is a row

    @cached_property
    def rows(self) -> Ints:
        """[V] rows of the map."""
        return self.places if self.curve is None else self.curve[self.places]


def project(gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> Projection:
    """Project, cull and sort front to back; ``camera_from_splat`` is a rigid [4, 4] pose in splat units."""
    geometry = gaussians.along_curve
    arrays = (geometry.means, geometry.quats_wxyz, geometry.scales, geometry.opacities)
    in_view = _stretches_in_view(geometry.stretches, camera, camera_from_splat)
    return _project(in_view, arrays, camera, camera_from_splat, geometry.rows)


def project_arrays(
    means: Floats,  # [N, 3]
    quats_wxyz: Floats,  # [N, 4] unit
    scales: Floats,  # [N, 3]
    opacities: Floats,  # [N]
    camera: Camera,
    camera_from_splat: NDArray[np.float64],
) -> Projection:
    """The same of plain arrays, in whose order places and rows count."""
    every = np.arange(-(-len(means) // SIZE), dtype=np.int32)
    return _project(every, (means, quats_wxyz, scales, opacities), camera, camera_from_splat, None)


def _project(
    stretches: Ints,
    arrays: tuple[Floats, Floats, Floats, Floats],
    camera: Camera,
    camera_from_splat: NDArray[np.float64],
    curve: Ints | None,
) -> Projection:
    room = SIZE * len(stretches)
    splats, depths, places = np.empty((room, 8), np.float32), np.empty(room, np.float32), np.empty(room, np.int32)
    view = (*kernel_camera(camera, camera_from_splat), touching_planes(camera).astype(np.float32))
    found: dict[int, int] = {}

    def work(start: int, stop: int) -> None:
        found[start] = kernels.project(start, stop, stretches, *arrays, *view, splats, depths, places)

    parallel_for(len(stretches), max(RANGE, -(-len(stretches) // thread_count())), work)
    parts = [slice(SIZE * start, SIZE * start + found[start]) for start in sorted(found)] or [slice(0, 0)]
    splats, depths, places = (_side_by_side(array, parts) for array in (splats, depths, places))
    return Projection(places, splats, depths, argsort_positive(depths), curve)
def _side_by_side(array, parts):
    return array[parts[0]] if len(parts) == 1 else np.concatenate([array[part] for part in parts])


def touching_planes(camera: Camera) -> NDArray[np.float64]:
    """Planes a, b, c, d, e [5, 5]: only if a x + b y + c z + d s + e ≥ 0 for all can a Gaussian touch the image.

    x, y, z is its place in the camera's frame and s its largest scale, as its footprint is no larger than
    `WIDEST` (s √(1 + tan²) f / z + 1) pixels around its mean. The first plane is the one near the camera.
    """
    planes = [(0.0, 0.0, 1.0, 0.0, -float(NEAR_PLANE))]
    widest = float(WIDEST)
    for axis, (focal, centre, size) in enumerate(
        [(camera.fx, camera.cx, camera.width), (camera.fy, camera.cy, camera.height)]
    ):
        steepest = (max(centre, size - centre) + TANGENT_MARGIN * size) / focal
        reach = widest * focal * float(np.hypot(1.0, steepest))
        for sign, edge in ((1.0, centre), (-1.0, size - centre)):
            plane = [0.0, 0.0, edge + widest, reach, 0.0]
            plane[axis] = sign * focal
            planes.append(tuple(plane))
    return np.array(planes)


def _stretches_in_view(stretches: Stretches, camera: Camera, camera_from_splat: NDArray[np.float64]) -> Ints:
    """Numbers of the stretches that may hold Gaussians that touch the image."""
    planes = touching_planes(camera)
    size = np.abs(planes[:, :3]) @ np.abs(camera_from_splat[:3, :4])
    slack = np.stack([size[:, :3].sum(1), size[:, 3]], axis=1) * SLACK
    planes = np.column_stack([planes[:, :3] @ camera_from_splat[:3, :3], planes[:,3], planes[:, :3] @ camera_from_splat[:3, 3] + planes[:, 4]])
    found = np.empty(len(stretches.largest) + SIZE, np.int32)
    arrays = (stretches.low, stretches.high, stretches.largest)
    count = kernels.stretches_in_view(*arrays, planes.astype(np.float32), slack.astype(np.float32), found)
    return found[:count]


def kernel_camera(camera: Camera, camera_from_splat: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Pose [3, 4] and intrinsics fx, fy, cx, cy, width, height as the kernels take them."""
    intrinsics = [camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]
    return np.ascontiguousarray(camera_from_splat[:3, :4], dtype=np.float32), np.array(intrinsics, np.float32)
