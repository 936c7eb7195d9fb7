"""EWA projection of Gaussians onto an image, as gsplat 1.5.3 does it in its classic and its antialiased mode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import BLUR, CurveBlocks, GaussianMap
from feature_gs_ros.numerics.runtime import parallel_for, thread_count
from feature_gs_ros.numerics.simd import SIZE
from feature_gs_ros.numerics.sorting import argsort_positive
from feature_gs_ros.rasterizer.conventions import NEAR_PLANE, TANGENT_MARGIN
from feature_gs_ros.rasterizer.cpu.arrays import Floats, Geometry, Ints, Pinhole, Projected
from feature_gs_ros.rasterizer.cpu.constants import MAX_SIGMAS
from feature_gs_ros.rasterizer.cpu.kernels import projection as kernels
from feature_gs_ros.rasterizer.cpu.order import spatial_order

RANGE = 1024  # blocks projected at once, at least
SLACK = 1e-5  # of a plane's terms: float32 is wrong by less


@dataclass(frozen=True, eq=False)
class Projection:
    """The V Gaussians that can touch the image, along the map's Z-curve (`spatial_order`)."""

    indices: Ints  # [V] on the curve, ascending
    splats: Floats  # [V, 8] mean x, y (px); conic a, b, c (1/px²); opacity; half width and height of the footprint (px)
    depths: Floats  # [V] camera z, splat units
    order: Ints  # [V] indices into the arrays above, front to back
    rows_on_curve: Ints | None = None  # [N] the map's row at each index; None where an index is a row

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def arrays(self) -> Projected:
        """The same as the kernels take it."""
        return Projected(self.splats, self.depths, self.indices)

    @cached_property
    def rows(self) -> Ints:
        """[V] rows of the map."""
        return self.indices if self.rows_on_curve is None else self.rows_on_curve.take(self.indices)


def project(gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> Projection:
    """Project, cull and sort front to back; ``camera_from_splat`` is a rigid [4, 4] pose in splat units."""
    curve = spatial_order(gaussians)
    geometry = Geometry(curve.means, curve.quats_wxyz, curve.scales, curve.opacities)
    in_view = blocks_in_view(curve.blocks, camera, camera_from_splat)
    return _project_blocks(
        in_view, geometry, camera, camera_from_splat, curve.rows, gaussians.antialiased, gaussians.blur
    )


def project_arrays(geometry: Geometry, camera: Camera, camera_from_splat: NDArray[np.float64]) -> Projection:
    """The same of plain arrays, in whose order indices count."""
    every = np.arange(-(-len(geometry.means) // SIZE), dtype=np.int32)
    return _project_blocks(every, geometry, camera, camera_from_splat, None)


def _project_blocks(
    blocks: Ints,
    geometry: Geometry,
    camera: Camera,
    camera_from_splat: NDArray[np.float64],
    rows: Ints | None,
    antialiased: bool = False,
    blur: float = BLUR,
) -> Projection:
    size = SIZE * len(blocks)
    room = Projected(np.empty((size, 8), np.float32), np.empty(size, np.float32), np.empty(size, np.int32))
    pinhole = kernel_camera(camera, camera_from_splat, antialiased, blur)
    planes = touching_planes(camera).astype(np.float32)
    counts: dict[int, int] = {}

    def work(start: int, stop: int) -> None:
        counts[start] = kernels.project(start, stop, blocks, geometry, pinhole, planes, room)

    # As few ranges as threads: only what follows a range that isn't full has to move.
    parallel_for(len(blocks), max(RANGE, -(-len(blocks) // thread_count())), work)
    count = 0
    for start in sorted(counts):
        kernels.close_gap(count, SIZE * start, counts[start], room)
        count += counts[start]
    depths = room.depths[:count]
    return Projection(room.indices[:count], room.splats[:count], depths, argsort_positive(depths), rows)


def touching_planes(camera: Camera) -> NDArray[np.float64]:
    """Half-spaces [5, 5] of means and scales: a Gaussian can touch the image only if it lies in all of them.

    a, b, c, d, e says a x + b y + c z + d s + e ≥ 0, where x, y, z is its mean in the camera's frame and s its largest
    scale: no footprint reaches farther from its mean than `MAX_SIGMAS` · (s √(1 + tan²) f / z + 1) pixels.
    """
    planes = [[0.0, 0.0, 1.0, 0.0, -float(NEAR_PLANE)]]
    widest = float(MAX_SIGMAS)
    lens = [(camera.fx, camera.cx, camera.width), (camera.fy, camera.cy, camera.height)]
    for axis, (focal, centre, pixels) in enumerate(lens):
        tangent = (max(centre, pixels - centre) + TANGENT_MARGIN * pixels) / focal
        for sign, edge in ((1, centre), (-1, pixels - centre)):
            plane = [0.0, 0.0, edge + widest, widest * focal * float(np.hypot(1, tangent)), 0.0]
            plane[axis] = sign * focal
            planes.append(plane)
    return np.array(planes)


def blocks_in_view(blocks: CurveBlocks, camera: Camera, camera_from_splat: NDArray[np.float64]) -> Ints:
    """Indices of the blocks that may hold a Gaussian that touches the image, ascending."""
    planes, pose = touching_planes(camera), camera_from_splat[:3, :4]
    terms = np.abs(planes[:, :3]) @ np.abs(pose)  # what a plane's sum is made of, before anything cancels
    slack = SLACK * np.column_stack([terms[:, :3].sum(axis=1), terms[:, 3]])
    sums = planes[:, :3] @ pose
    in_map = np.column_stack([sums[:, :3], planes[:, 3], sums[:, 3] + planes[:, 4]])
    found = np.empty(len(blocks.scale) + SIZE, np.int32)
    bounds = (blocks.low, blocks.high, blocks.scale)
    count = kernels.blocks_in_view(*bounds, in_map.astype(np.float32), slack.astype(np.float32), found)
    return found[:count]


def kernel_camera(
    camera: Camera, camera_from_splat: NDArray[np.float64], antialiased: bool = False, blur: float = BLUR
) -> Pinhole:
    """A camera and its pose as the kernels take them."""
    intrinsics = [camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]
    pose = np.ascontiguousarray(camera_from_splat[:3, :4], dtype=np.float64)
    lens = np.array(intrinsics, np.float64)
    return Pinhole(pose.astype(np.float32), lens.astype(np.float32), pose, lens[:4], antialiased, np.float32(blur))
