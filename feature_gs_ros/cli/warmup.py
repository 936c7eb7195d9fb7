"""``feature-gs warmup``: compile kernels before the first use, e.g. when building a robot's image."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import tyro

from feature_gs_ros import rasterizer
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.live.warmup import warm_up
from feature_gs_ros.rasterizer import get_backend


def warmup(
    *,
    backend: Literal["auto", "cpu", "cuda"] = "auto",
    arch: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(aliases=["--architecture"])] = (),
) -> int:
    """Compile the rasteriser's kernels in advance, so that the first view doesn't wait for the compiler.

    With --arch no card is needed, e.g. to build a robot's image on another machine. On the robot, the same release of
    warp-lang finds the kernels in its cache, ~/.cache/feature_gs_ros/warp or WARP_CACHE_PATH; other releases compile
    again. Without --arch the work of a node is done in miniature; kernels of training are compiled by its first step.

    Args:
        backend: whose kernels; auto: those of this machine's card if it can be used, else the CPU's.
        arch: compute capability of a card, which need not be in this machine, such as sm_87 (Orin) or sm_110 (Thor);
            may be repeated. All kernels are then compiled for it and none for this machine.
    """
    for name in arch:
        _compile(_architecture(name))
    if not arch:
        chosen = get_backend(backend)
        print(f"{chosen.name}: kernels are compiled, {warm_up(chosen):.0f} s")
    return 0


def _architecture(name: str) -> int:
    """87 of "sm_87", "87" or "8.7"."""
    digits = name.removeprefix("sm_").replace(".", "")
    if not (digits.isascii() and digits.isdigit() and 2 <= len(digits) <= 3):
        raise BackendError(
            f"'{name}' is not a compute capability; give it as sm_87 (nvidia-smi --query-gpu=compute_cap)",
            code="backend.value",
        )
    return int(digits)


def _compile(architecture: int) -> None:
    """Compile all kernels for a card that need not be here."""
    began = time.monotonic()
    binaries = rasterizer.compile_ahead(architecture)
    seconds, folder = time.monotonic() - began, binaries[0].parents[1]
    megabytes = sum(binary.stat().st_size for binary in binaries) / 1e6
    print(f"sm_{architecture}: {len(binaries)} modules, {megabytes:.1f} MB, {seconds:.0f} s, in {folder}")
