"""gsplat's rasteriser in training's place: a card's backend of which only the rendering with gradients is gsplat's.

It is optional, and compiles its kernels with nvcc on first use: the second opinion on our own gradients.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera, check_pose
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer.base import Accumulator, Backend, Paging, Rendering, View
from feature_gs_ros.rasterizer.conventions import EPS2D, NEAR_PLANE

INSTALL = "pip install gsplat==1.5.3 packaging, with a CUDA toolkit (nvcc) of torch's version beside it"


class GsplatBackend:
    """See `feature_gs_ros.rasterizer.base.Backend`; all but `render_with_gradients` is another backend's."""

    name = "gsplat"

    def __init__(self, own: Backend) -> None:
        """
        Args:
            own: of the card that gsplat renders on.

        Raises:
            BackendError: gsplat isn't installed; says how to.
        """
        self._own, self.device = own, own.device
        try:
            self._gsplat: Any = importlib.import_module("gsplat")
        except ImportError as error:
            raise BackendError(
                f"--rasterizer gsplat needs gsplat ({error}): {INSTALL}; or leave the option out",
                code="backend.unusable",
            ) from error

    def view(self, gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> View:
        """The other backend's view."""
        return self._own.view(gaussians, camera, camera_from_splat)

    def accumulator(self, gaussians: GaussianMap, channels: int, paging: Paging | None = None) -> Accumulator:
        """The other backend's sums."""
        return self._own.accumulator(gaussians, channels, paging)

    def accumulator_bytes(self, gaussians: int, channels: int) -> int:
        """Those of the other backend."""
        return self._own.accumulator_bytes(gaussians, channels)

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
        """Render with gradients; see `Backend.render_with_gradients`.

        Raises:
            BackendError: gsplat can't compile its kernels, or fails.
        """
        pose, device = check_pose(camera_from_splat, "the view"), self.device
        geometry = [tensor.to(device) for tensor in (means, quats_wxyz, scales, opacities)]
        eye = torch.from_numpy(-pose[:3, :3].T @ pose[:3, 3]).float().to(device)
        degree = int(sh.shape[1] ** 0.5) - 1
        try:
            harmonics = self._gsplat.spherical_harmonics(degree, geometry[0] - eye, sh.to(device))
            channels = [(harmonics + 0.5).clamp_min(0.0)]
            if extra_signals is not None and extra_shapes:
                channels.append(extra_signals.to(device))
            image, opacity, found = self._drawn(geometry, torch.cat(channels, dim=1), camera, pose)
            extra = image[:, :, 3:] if len(channels) > 1 else None
            if extra_signals is not None and not extra_shapes:
                frozen = [tensor.detach() for tensor in geometry]
                extra, _, _ = self._drawn(frozen, extra_signals.to(device), camera, pose)
        except (RuntimeError, ImportError, OSError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            raise BackendError(
                f"gsplat fails: {str(error)[:300]}; {INSTALL}; or leave --rasterizer out", code="backend.unusable"
            ) from error
        if means2d is not None and found["means2d"].requires_grad:
            found["means2d"].register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: _add_gradient(means2d, gradient[0])
            )
        radii = found["radii"][0].amax(dim=-1) if found["radii"].dim() == 3 else found["radii"][0]
        rows = (radii > 0).nonzero()[:, 0]
        tensors = (image[:, :, :3], opacity, extra, rows, radii[rows].float())
        return Rendering(*(None if tensor is None else tensor.to(means.device) for tensor in tensors))  # type: ignore[arg-type]

    def _drawn(
        self, geometry: list[Tensor], values: Tensor, camera: Camera, pose: NDArray[np.float64]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Values [N, C] as an image [H, W, C], opacity [H, W], and what gsplat tells of its splats."""
        matrices = [torch.from_numpy(matrix).float().to(self.device)[None] for matrix in (pose, camera.matrix)]
        image, opacity, found = self._gsplat.rasterization(
            *geometry,
            values,
            *matrices,
            camera.width,
            camera.height,
            near_plane=float(NEAR_PLANE),
            eps2d=float(EPS2D),
            packed=False,
            rasterize_mode="classic",
        )
        return image[0], opacity[0, :, :, 0], found


def _add_gradient(leaf: Tensor, gradient: Tensor) -> None:
    """What autograd would add to a leaf that the gradient didn't pass."""
    gradient = gradient.detach().to(leaf.device)
    leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad + gradient
