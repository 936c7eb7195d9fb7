"""The operator W and its transpose: `view` gives one view's, `render` is W, `backproject` is Wᵀ.

w_i(p) = α_i(p) · T_i(p),   T_i(p) = Π_{j in front of i} (1 − α_j(p))                      Eq. (1)–(3)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, check_pose
from feature_gs_ros.core.errors import BackendError, CameraError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer.cpu.view import CpuView

Backend = Literal["auto", "cpu", "cuda"]


# What every backend's view offers: render, render_color, render_depth, backproject and backproject_labels, with
# ``⟨render(v), M U F⟩ = ⟨v, backproject(F)⟩``.
View = CpuView


def view(
    gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64], backend: Backend = "auto"
) -> View:
    """Project, cull and sort the map for one camera.

    Args:
        camera: pinhole; rectify a distorted image first.
        camera_from_splat: rigid pose [4, 4], splat units; `Sim3.camera_from_splat` gives it.

    Raises:
        CameraError: the camera is distorted, or the pose is not rigid and finite.
        BackendError: ``backend`` can't run here.
    """
    if camera.distortion is not None:
        raise CameraError(
            f"the rasteriser needs a pinhole camera, this one has {camera.distortion.model}: rectify first"
        )
    choose_backend(backend)
    return CpuView(gaussians, camera, check_pose(camera_from_splat, "the view"))


def choose_backend(backend: Backend) -> Literal["cpu"]:
    """The backend that runs here.

    Raises:
        BackendError: ``backend`` is unknown, or is "cuda".
    """
    if backend not in ("auto", "cpu", "cuda"):
        raise BackendError(f"backend '{backend}' is unknown; choose auto, cpu or cuda")
    if backend == "cuda":
        card = "this machine has an NVIDIA GPU, but" if torch.cuda.is_available() else "torch sees no NVIDIA GPU, and"
        raise BackendError(f"{card} this version rasterises on the CPU only: use --backend auto or cpu")
    return "cpu"


__all__ = ["Backend", "FeatureGrid", "View", "choose_backend", "view"]
