"""`Backend` of the GPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer.base import Paging, Rendering, check_no_paging
from feature_gs_ros.rasterizer.cuda.accumulator import CudaAccumulator
from feature_gs_ros.rasterizer.cuda.gradients import render_with_gradients
from feature_gs_ros.rasterizer.cuda.projection import MapCache
from feature_gs_ros.rasterizer.cuda.runtime import announce_compilation
from feature_gs_ros.rasterizer.cuda.view import CudaView

GEOMETRY_BYTES = 48  # per Gaussian: a map's rows, means, quaternions, scales and opacities
# What a batch of 8 views of coarse cells holds beside the accumulators, per Gaussian, of which a view shows a part:
# splats, lists of tiles while they are sorted, blocks of cells and their weights, and which block is a row's.
WORKSPACE_BYTES = 1200


class CudaBackend:
    """Warp kernels on one device; see `feature_gs_ros.rasterizer.base.Backend`."""

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self.device = torch.device(device)
        self.maps = MapCache(self.device)
        announce_compilation(self.device)

    def view(self, gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> CudaView:
        """Project, cull and sort the map for one pinhole camera."""
        return CudaView(self, gaussians, camera, camera_from_splat)

    def accumulator(self, gaussians: GaussianMap, channels: int, paging: Paging | None = None) -> CudaAccumulator:
        """Empty sums for a map; see `Backend.accumulator`."""
        check_no_paging(self.name, paging)
        return CudaAccumulator(self, gaussians, channels)

    def accumulator_bytes(self, gaussians: int, channels: int) -> int:
        """Bytes of the map, of accumulators and of a batch's work on the device."""
        return gaussians * (4 * channels + 4 + 4 + GEOMETRY_BYTES + WORKSPACE_BYTES)

    def render_with_gradients(
        self,
        means: Tensor,
        quats_wxyz: Tensor,
        scales: Tensor,
        opacities: Tensor,
        sh: Tensor,
        camera: Camera,
        camera_from_splat: NDArray[np.float64],
        extra_signals: Tensor | None = None,
        means2d: Tensor | None = None,
        extra_shapes: bool = True,
    ) -> Rendering:
        """Render with gradients; see `Backend.render_with_gradients`."""
        return render_with_gradients(
            self.device, means, quats_wxyz, scales, opacities, sh, camera, camera_from_splat, extra_signals, means2d,
            extra_shapes,
        )  # fmt: skip
