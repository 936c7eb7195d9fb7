"""Warp and torch together: where kernels are compiled and cached, how they are launched, and what memory there is.

All arrays are torch's, so that one allocator knows what is in use; Warp sees them without a copy. Kernels run on
torch's current stream of the device, so that both sides are in order without waiting for each other.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import warp as wp
from torch import Tensor

from feature_gs_ros.core.cache_folder import cache_folder
from feature_gs_ros.core.errors import BackendError, OutOfMemoryError
from feature_gs_ros.core.memory import available_bytes, gigabytes

VERSION: str = wp.config.version
BLOCK = 256  # threads: a tile, and a whole number of warps
COUNTABLE = 2**31 - 1  # what 32-bit places in a list count
MAX_FRACTION = 0.9  # of the free memory that is promised
KERNELS = ("projection", "pairs", "weights", "product", "blending", "labels", "spherical_harmonics", "backward")

logger = logging.getLogger(__name__)
# Warp loads a module, and changes a device's stream, for all threads.
_lock = threading.Lock()
_streams: dict[tuple[int, int], Any] = {}
_VECTORS = {2: wp.vec2, 3: wp.vec3, 4: wp.vec4}


def start() -> Path:
    """Start Warp once, quietly, with its cache below ours unless the user chose another; returns the cache's folder."""
    if wp.config.kernel_cache_dir is None and "WARP_CACHE_PATH" not in os.environ:
        wp.config.kernel_cache_dir = str(cache_folder("warp"))
    if hasattr(wp.config, "log_level"):
        wp.config.log_level = max(wp.config.log_level, logging.WARNING)
    else:  # before 1.13
        wp.config.quiet = True
    wp.init()
    return Path(str(wp.config.kernel_cache_dir))


def sees_card(index: int) -> bool:
    """Whether Warp can use the card that torch counts as ``index``."""
    start()
    try:
        return bool(wp.get_device(f"cuda:{index}").is_cuda)
    except (RuntimeError, ValueError):
        return False


def announce_compilation(device: torch.device) -> None:
    """Say so where the first use will compile kernels, so that nobody takes that minute for a hang."""
    folder = start()
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if not any(folder.rglob(f"*feature_gs_ros*/*.sm{major}{minor}.*")):
            logger.info("compiling the rasteriser's kernels for sm_%d%d, once; kept in %s", major, minor, folder)


def launch(kernel: Any, dim: int | tuple[int, ...], device: torch.device, *arguments: Any) -> None:
    """Run a kernel on torch's current stream; tensors are passed without a copy, [.., n] as rows of numbers.

    Raises:
        BackendError: more threads than their numbers, of 32 bits, can count.
    """
    if isinstance(dim, int) and dim > COUNTABLE:
        raise BackendError(
            f"{dim} pixels and blocks of channels are too many at once; use fewer channels, a smaller image or "
            "--backend cpu",
            code="backend.range",
        )
    inputs = [
        wp.from_torch(argument, requires_grad=False, return_ctype=True) if isinstance(argument, Tensor) else argument
        for argument in arguments
    ]
    with _lock:
        wp.launch(kernel, dim=dim, inputs=inputs, device=str(device), stream=stream_of(device), block_dim=BLOCK)


def stream_of(device: torch.device) -> Any:
    """torch's current stream of a card as Warp's; None on the CPU."""
    if device.type == "cpu":
        return None
    current = torch.cuda.current_stream(device)
    known = (current.device_index, current.cuda_stream)
    if known not in _streams:  # torch never destroys its streams; Warp's own would be forgotten after each launch
        _streams[known] = wp.stream_from_torch(current)
    return _streams[known]


def vectors(tensor: Tensor) -> Any:
    """A tensor [N, n] as a Warp array [N] of vectors."""
    return wp.from_torch(tensor, dtype=_VECTORS[tensor.shape[-1]], requires_grad=False)


def free_bytes(device: torch.device) -> int | None:
    """Memory that may still be taken on a device, with what torch keeps of what was freed; None where unknown."""
    if device.type == "cpu":
        return available_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def check_room(needed: int, device: torch.device, work: str) -> None:
    """Refuse work for which the device has no room.

    Raises:
        OutOfMemoryError: with the need and what is free.
    """
    free = free_bytes(device)
    if free is not None and needed > MAX_FRACTION * free:
        raise OutOfMemoryError(
            f"{work} needs {gigabytes(needed)} on {device}, {gigabytes(free)} are free: use fewer channels (a codec), "
            "prune the map, or use --backend cpu"
        )


@contextmanager
def out_of_memory(device: torch.device, work: str) -> Iterator[None]:
    """Turn the allocators' errors into ours, and give back what torch kept for later.

    Raises:
        OutOfMemoryError: the device had no room.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_shortage(error):
            raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemoryError(
            f"{device} has no room for {work}: use fewer views per batch, smaller images, or --backend cpu"
        ) from error


def _is_shortage(error: RuntimeError) -> bool:
    """Whether it is torch's out of memory, the driver's, a library's (CUBLAS_STATUS_ALLOC_FAILED) or Warp's."""
    words = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in words or "alloc" in words
