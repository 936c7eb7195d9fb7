"""The differentiable rasteriser against its own forward pass; and a map trained from the recorded tabletop's images."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from json import loads
from pathlib import Path

import numpy as np
import torch

from benchmarks.scenes import POSE, room, seconds
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.numerics import runtime as kernels
from feature_gs_ros.numerics.sorting import morton_order
from feature_gs_ros.rasterizer import Rendering, get_backend

COUNT, WIDTH, HEIGHT, CHANNELS = 60_000, 640, 360, 64
CAMERA = Camera(WIDTH, HEIGHT, 0.8 * WIDTH, 0.8 * WIDTH, WIDTH / 2, HEIGHT / 2)
HELD_OUT = ("4", "19")


def main() -> dict[str, float]:
    """Print and return the ratios of times, and the held-out PSNR where FEATURE_GS_TABLETOP is set."""
    return _passes() | _tabletop()


def _passes() -> dict[str, float]:
    """Forward, and forward and backward, of colours and of colours with extra signals; one thread."""
    kernels.set_thread_count(1)
    torch.set_num_threads(1)
    gaussians = room(COUNT)
    rows = torch.from_numpy(morton_order(gaussians.means.numpy()).astype(np.int64))
    tensors = (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh)
    leaves = [tensor[rows].clone().requires_grad_() for tensor in tensors]
    generator = torch.Generator().manual_seed(0)
    extra = torch.randn(COUNT, CHANNELS, generator=generator).requires_grad_()
    wanted = [torch.randn(HEIGHT, WIDTH, channels, generator=generator) for channels in (3, CHANNELS)]

    def draw(carried: torch.Tensor | None) -> Rendering:
        return get_backend("cpu").render_with_gradients(*leaves, CAMERA, POSE, extra_signals=carried)

    def forward(carried: torch.Tensor | None) -> Callable[[], object]:
        def work() -> object:
            with torch.no_grad():
                return draw(carried)

        return work

    def both(carried: torch.Tensor | None) -> Callable[[], object]:
        def work() -> None:
            drawn = draw(carried)
            images = [drawn.color] if drawn.extra is None else [drawn.color, drawn.extra]
            torch.autograd.backward(images, wanted[: len(images)])

        return work

    times = [seconds(work) for work in (forward(None), both(None), forward(extra), both(extra))]
    print(f"{COUNT // 1000}k Gaussians, {WIDTH}×{HEIGHT}, one thread")
    print(f"  RGB: forward {times[0]:.3f} s, forward and backward {times[1]:.3f} s: {times[1] / times[0]:.2f}x")
    print(f"  RGB and {CHANNELS} features: forward {times[2]:.3f} s, forward and backward {times[3]:.3f} s")
    print(f"  with features over without, forward and backward: {times[3] / times[1]:.2f}x")
    return {
        "RGB, forward and backward over forward": times[1] / times[0],
        f"{CHANNELS} features over RGB, forward and backward": times[3] / times[1],
    }


def _tabletop() -> dict[str, float]:
    """`feature-gs train` as a user runs it, two views left out."""
    if "FEATURE_GS_TABLETOP" not in os.environ:
        print("FEATURE_GS_TABLETOP is not set: the recorded tabletop is skipped")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "train",
            str(Path(os.environ["FEATURE_GS_TABLETOP"]) / "colmap"),
            "--out",
            f"{folder}/map.ply",
            "--json",
        ]
        for name in HELD_OUT:
            words += ["--hold-out", name]
        program = "from feature_gs_ros.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *words], check=True, capture_output=True, text=True, timeout=1800
        )
    told = loads(done.stdout)
    print(f"tabletop from its COLMAP points: {told['mean_psnr']:.2f} dB on {', '.join(HELD_OUT)} ({told['psnr']})")
    print(f"  {told['gaussians']} Gaussians, {told['iterations']} iterations, {told['seconds']:.0f} s")
    return {"tabletop, held-out PSNR in dB": told["mean_psnr"], "tabletop, seconds of training": told["seconds"]}


if __name__ == "__main__":
    main()
