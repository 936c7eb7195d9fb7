"""``feature-gs warmup``: kernels compiled before the first use, as when an image of a robot is built."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.progress import say
from feature_gs_ros.live.warmup import warm_up
from feature_gs_ros.rasterizer import Backend, get_backend

SIZE = 64  # pixels of the image that is walked


def warmup(
    *,
    backend: Literal["auto", "cpu", "cuda"] = "auto",
    arch: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
) -> int:
    """Compile the rasteriser's kernels, so that the first view doesn't wait for the compiler.

    With --arch no card is needed: build an image of a robot anywhere. There the same release of warp-lang finds the
    kernels in its cache, ~/.cache/feature_gs_ros/warp or WARP_CACHE_PATH; other releases compile anew.

    Args:
        backend: whose kernels; auto: those of this machine's card if it can be used, else the CPU's.
        arch: compute capability of a card that need not be here, such as sm_87 (Orin) or sm_110 (Thor); may be
            repeated. Then nothing is compiled for this machine.
    """
    for name in arch:
        _compile(_architecture(name))
    if not arch:
        began, chosen = time.monotonic(), get_backend(backend)
        _walk(chosen)
        warm_up(chosen)  # and what a node does beside
        say(f"{chosen.name}: kernels are compiled, {time.monotonic() - began:.0f} s")
    return 0


def _architecture(name: str) -> int:
    """87 of "sm_87", "87" or "8.7"."""
    digits = name.removeprefix("sm_").replace(".", "")
    if not (digits.isascii() and digits.isdigit() and 2 <= len(digits) <= 3):
        raise BackendError(f"'{name}' is no compute capability; give it as sm_87 (nvidia-smi --query-gpu=compute_cap)")
    return int(digits)


def _compile(architecture: int) -> None:
    """Compile all kernels for a card that need not be here."""
    began = time.monotonic()
    binaries = rasterizer.compile_ahead(architecture)
    seconds, folder = time.monotonic() - began, binaries[0].parents[1]
    megabytes = sum(binary.stat().st_size for binary in binaries) / 1e6
    say(f"sm_{architecture}: {len(binaries)} modules, {megabytes:.1f} MB, {seconds:.0f} s, in {folder}")


def _walk(backend: Backend) -> None:
    """Use every kernel of a backend once, on one Gaussian."""
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0, 0, 0]]), torch.ones(1, 3), torch.ones(1),
        torch.ones(1, 16, 3),
    )  # fmt: skip
    camera, pose = Camera(SIZE, SIZE, SIZE, SIZE, SIZE / 2, SIZE / 2), np.eye(4)
    view = rasterizer.view(gaussians, camera, pose, backend)
    view.render_color()
    view.render(torch.ones(1, 64))
    view.unoccluded_weight()
    view.backproject_labels(np.zeros((SIZE, SIZE), np.int32), 1)
    for cells in (SIZE // 16, SIZE // 4, SIZE):
        grid = FeatureGrid(torch.ones(cells, cells, 8))
        sums = backend.accumulator(gaussians, 8)
        sums.add([view, view], [grid, grid], [None, torch.ones(SIZE, SIZE)])
        sums.add([view], [grid], [None], -1)
        operator = view.cell_operator(grid)
        operator.adjoint(operator.forward(torch.ones(1, 8)))
    geometry = (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh)
    means, quats, scales, opacities, sh = (tensor.clone().requires_grad_() for tensor in geometry)
    for extra in (None, torch.ones(1, 8, requires_grad=True)):
        drawn = backend.render_with_gradients(means, quats, scales, opacities, sh, camera, pose, extra)
        total = drawn.color.sum() + (0.0 if drawn.extra is None else drawn.extra.sum())
        torch.autograd.grad(total, means)
