"""`Backend` of the CPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.numerics.simd.probe import check_scalars, reason_for_scalars
from feature_gs_ros.rasterizer.base import Paging, Rendering
from feature_gs_ros.rasterizer.cpu.accumulator import CpuAccumulator
from feature_gs_ros.rasterizer.cpu.gradients import render_with_gradients
from feature_gs_ros.rasterizer.cpu.view import CpuView

# What a batch of 8 views holds beside the accumulators, per Gaussian, of which a view shows a part: splats, and the
# lists of tiles and cells.
WORKSPACE_BYTES = 320


class CpuBackend:
    """numba kernels over arrays shared with torch; see `feature_gs_ros.rasterizer.base.Backend`."""

    name = "cpu"
    device = torch.device("cpu")

    def __init__(self) -> None:
        """
        Raises:
            BackendError: the installed numba compiles the kernels' vectors neither as such nor lane by lane.
        """
        if reason_for_scalars():
            check_scalars()

    def view(self, gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> CpuView:
        """Project, cull and sort the map for one pinhole camera."""
        return CpuView(self, gaussians, camera, camera_from_splat)

    def accumulator(self, gaussians: GaussianMap, channels: int, paging: Paging | None = None) -> CpuAccumulator:
        """Empty sums for a map."""
        return CpuAccumulator(gaussians, channels, paging)

    def accumulator_bytes(self, gaussians: int, channels: int) -> int:
        """Bytes of accumulators and of a batch's work."""
        return gaussians * (4 * channels + 4 + 4 + WORKSPACE_BYTES)

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
        """Render with gradients; all tensors lie on the CPU. Rows along a Z-curve are fastest."""
        return render_with_gradients(
            means, quats_wxyz, scales, opacities, sh, camera, camera_from_splat, extra_signals, means2d, extra_shapes
        )
