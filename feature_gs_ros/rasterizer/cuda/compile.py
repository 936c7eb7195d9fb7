"""Kernels compiled ahead of time, for cards that are here or not: images of robots start without waiting."""

from __future__ import annotations

import importlib
from pathlib import Path

import warp as wp

from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.rasterizer.cuda.runtime import KERNELS, VERSION, start

PACKAGE = "feature_gs_ros.rasterizer.cuda.kernels"


def known_architectures() -> list[int]:
    """Compute capabilities, 75 for 7.5, that the installed Warp compiles for, ascending."""
    start()
    return sorted(wp.get_cuda_supported_archs())


def compile_ahead(architecture: int, folder: Path | None = None, ptx: bool = False) -> list[Path]:
    """Compile every kernel for one architecture; no card is needed.

    Args:
        architecture: compute capability, 87 for 8.7 (Orin), 110 for 11.0 (Thor).
        folder: where to; by default Warp's cache, where the first use finds them.
        ptx: the virtual machine's code, which a driver compiles once more, and not the card's own.

    Returns:
        One binary per module of kernels.

    Raises:
        BackendError: the installed Warp doesn't compile for it.
    """
    known = known_architectures()
    if architecture not in known:
        raise BackendError(
            f"warp-lang {VERSION} doesn't compile for sm_{architecture}, but for "
            f"{', '.join(f'sm_{arch}' for arch in known) or 'no card'}",
            code="backend.unsupported",
        )
    found = []
    for name in KERNELS:
        module = importlib.import_module(f"{PACKAGE}.{name}")
        wp.compile_aot_module(module, device=None, arch=architecture, module_dir=folder, use_ptx=ptx)
        binaries = (start() if folder is None else folder).rglob(
            f"*kernels.{name}_*.sm{architecture}.{'ptx' if ptx else 'cubin'}"
        )
        found.append(max(binaries, key=lambda path: path.stat().st_mtime_ns))
    return found
