"""The GPU backend: NVIDIA Warp kernels, compiled at run time by what its wheel brings; no nvcc, nothing to build.

"cuda" and "cuda:N" are cards. "warp-cpu" is the same kernels on Warp's CPU device, one scalar thread: for tests, not
for users. Warp is imported when a backend is made, not before.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.rasterizer.cuda.probe import card_present, why_unusable

if TYPE_CHECKING:
    from feature_gs_ros.rasterizer.cuda.backend import CudaBackend

__all__ = ["compile_ahead", "make_backend", "usable", "why_unusable"]

logger = logging.getLogger(__name__)


def usable() -> bool:
    """Whether the first card can be used; where it can't, the log says why: loud where there seems to be one."""
    reason = why_unusable()
    if reason is not None:
        logger.log(logging.WARNING if card_present() else logging.INFO, "rasterising on the CPU: %s", reason)
    return reason is None


def make_backend(name: str) -> CudaBackend:
    """The backend of "cuda", "cuda:N" or "warp-cpu".

    Raises:
        BackendError: Warp isn't installed, or there is no such card, or it can't be used; says what to install.
    """
    card = name != "warp-cpu"
    index = int(name.split(":")[1]) if ":" in name else 0
    reason = why_unusable(index, card=card)
    if reason is not None:
        raise BackendError(
            f"backend '{name}' can't be used: {reason}; or use --backend auto or cpu", code="backend.unusable"
        )
    from feature_gs_ros.rasterizer.cuda.backend import CudaBackend

    return CudaBackend(name, f"cuda:{index}" if card else "cpu")


def compile_ahead(architecture: int) -> list[Path]:
    """Compile every kernel for a card that need not be here, into the cache; gives the binaries.

    Args:
        architecture: compute capability, 87 for 8.7.

    Raises:
        BackendError: Warp isn't installed, or doesn't compile for it.
    """
    reason = why_unusable(card=False)
    if reason is not None:
        raise BackendError(f"can't compile for sm_{architecture}: {reason}", code="backend.unsupported")
    from feature_gs_ros.rasterizer.cuda import compile as ahead

    return ahead.compile_ahead(architecture)
