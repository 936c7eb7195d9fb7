"""The operator W and its transpose, by any of the backends: `view` gives one camera's, `render` is W, `backproject` Wᵀ.

w_i(p) = α_i(p) · T_i(p),   T_i(p) = Π_{j in front of i} (1 − α_j(p))                      Eq. (1)–(3)

Backends by name (`get_backend`): "cpu"; "cuda", or "cuda:1" for a certain card, and "warp-cpu", the same kernels on
the CPU; "reference", dense, for small scenes; "auto", a card that can be used, else the CPU. Each is a folder or a file
beside this one and is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, check_pose
from feature_gs_ros.core.errors import BackendError, CameraError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer.base import Accumulator, AccumulatorState, Backend, CellOperator, Paging, Rendering, View

__all__ = [
    "NAMES",
    "Accumulator",
    "AccumulatorState",
    "Backend",
    "BackendChoice",
    "CellOperator",
    "Paging",
    "Rendering",
    "View",
    "compile_ahead",
    "get_backend",
    "training_backend",
    "view",
]

BackendChoice = Backend | str  # a backend, or its name
NAMES = ("auto", "cpu", "cuda", "cuda:N", "warp-cpu", "reference")
CUDA_PACKAGE = "feature_gs_ros.rasterizer.cuda"


def view(
    gaussians: GaussianMap,
    camera: Camera,
    camera_from_splat: NDArray[np.float64],
    backend: BackendChoice = "auto",
) -> View:
    """Project, cull and sort the map for one camera.

    Args:
        camera: pinhole; rectify a distorted image first.
        camera_from_splat: rigid pose [4, 4], splat units; `Sim3.camera_from_splat` gives it.
        backend: auto, cpu, cuda, cuda:N, warp-cpu or reference.

    Returns:
        The view's weights W: ``render`` is ``W v`` [H, W, C], ``backproject`` is ``Wᵀ M U F`` [N, D] and ``Wᵀ m`` [N].

    Raises:
        CameraError: the camera is distorted, or the pose is not rigid and finite.
        BackendError: ``backend`` can't run here.
    """
    if camera.distortion is not None:
        raise CameraError(
            f"the rasteriser needs a pinhole camera, this one has {camera.distortion.model}: rectify first",
            code="camera.unsupported",
        )
    return get_backend(backend).view(gaussians, camera, check_pose(camera_from_splat, "the view"))


def get_backend(choice: BackendChoice = "auto") -> Backend:
    """The backend of a name, made once; a backend itself is given back as it is.

    Raises:
        BackendError: the name is unknown, or that backend can't run here.
    """
    return backend_named(choice) if isinstance(choice, str) else choice


def training_backend(backend: BackendChoice = "auto", rasterizer: str = "own") -> Backend:
    """What training renders with: the backend itself, or with gsplat's rasteriser on its card.

    Args:
        rasterizer: "own" or "gsplat".

    Raises:
        BackendError: it can't run here, or gsplat isn't installed.
    """
    if rasterizer == "own":
        return get_backend(backend)
    if rasterizer != "gsplat":
        raise BackendError(f"rasterizer '{rasterizer}' is unknown; choose own or gsplat", code="backend.unknown")
    own = get_backend("cuda" if backend == "auto" else backend)
    if own.device.type != "cuda":
        raise BackendError(
            f"--rasterizer gsplat renders on cards only, not with --backend {own.name}; leave one of them out",
            code="backend.unusable",
        )
    from feature_gs_ros.rasterizer.gsplat_training import GsplatBackend

    return GsplatBackend(own)


def compile_ahead(architecture: int) -> list[Path]:
    """Compile the kernels of "cuda" for a card that need not be here, into their cache; gives the binaries.

    Args:
        architecture: compute capability, 87 for 8.7.

    Raises:
        BackendError: Warp isn't installed, or doesn't compile for it.
    """
    found: list[Path] = _cuda_package().compile_ahead(architecture)
    return found


@cache
def backend_named(name: str) -> Backend:
    """By name. The package of the cards' backend offers ``usable()`` and ``make_backend(name)``."""
    if name == "auto":
        return backend_named("cuda" if _cuda_package().usable() else "cpu")
    if name == "cpu":
        from feature_gs_ros.rasterizer.cpu import CpuBackend

        return CpuBackend()
    if name == "reference":
        from feature_gs_ros.rasterizer.reference import ReferenceBackend

        return ReferenceBackend()
    card = name.removeprefix("cuda:")
    if name not in ("cuda", "warp-cpu") and not (name != card and card.isascii() and card.isdigit()):
        raise BackendError(
            f"backend '{name}' is unknown; choose {', '.join(NAMES[:-1])} or {NAMES[-1]}", code="backend.unknown"
        )
    made: Backend = _cuda_package().make_backend(name)
    return made


def _cuda_package() -> ModuleType:
    """The package of the cards' backend, imported when it is asked for: it looks for torch's cards."""
    return importlib.import_module(CUDA_PACKAGE)
