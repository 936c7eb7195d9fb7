"""What is given to a card, and in which order it is done: a stream per role, and copies that the host doesn't wait for.

Roles don't wait for each other's work but where one needs the other's. Without a card all of this does nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, cuda

Role = Literal["extractor", "ingestion", "queries"]
MAX_PINNED = 64 << 20  # bytes of a copy by page-locked memory
PRIORITY: dict[Role, int] = {"extractor": 0, "ingestion": 0, "queries": -1}  # the lower goes first: someone waits


@contextmanager
def on(role: Role, device: torch.device) -> Iterator[None]:
    """In the block, this thread gives work to the role's stream of a card."""
    if device.type != "cuda":
        yield
        return
    with cuda.stream(stream_of(role, device)):
        yield


def stay_on(role: Role, device: torch.device) -> None:
    """From now on, this thread gives work to the role's stream of a card."""
    if device.type == "cuda":
        cuda.set_stream(stream_of(role, device))


@contextmanager
def inserted(role: Role, device: torch.device) -> Iterator[None]:
    """As `on`, after all that this thread gave before, and before all that it gives later.

    What lies on the card and is used and let go of in the block stays the role's own: its memory isn't given to others
    while the role still works on it.
    """
    if device.type != "cuda":
        yield
        return
    own, other = cuda.current_stream(device), stream_of(role, device)
    other.wait_stream(own)
    try:
        with cuda.stream(other):
            yield
    finally:  # also of a block that failed halfway: the card goes on with what it was given
        own.wait_stream(other)


def follow(role: Role, device: torch.device, *results: Tensor) -> None:
    """What this thread gives from now on comes after all that a role was given so far, of which ``results`` came."""
    if device.type != "cuda":
        return
    own = cuda.current_stream(device)
    own.wait_stream(stream_of(role, device))
    keep(device, *results)


def keep(device: torch.device, *tensors: Tensor) -> None:
    """Tensors that another stream may have made aren't given to others before this thread's work with them is done."""
    if device.type == "cuda":
        own = cuda.current_stream(device)
        for tensor in tensors:
            if tensor.device.type == "cuda":
                tensor.record_stream(own)


class OrderedLock:
    """A lock whose holder's work on a card comes after the work of those who held it before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._done: Any = None  # event: all that was given under the lock so far

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._done is not None:
            cuda.current_stream(self._device).wait_event(self._done)

    def __exit__(self, *_: object) -> None:
        try:
            if self._device.type == "cuda":
                self._done = cuda.current_stream(self._device).record_event()
        finally:
            self._lock.release()


def upload(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor on a device, as a type; from the host to a card by page-locked memory, without waiting for the copy.

    Large ones are waited for: what is page-locked once stays so, and is missing elsewhere.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes <= MAX_PINNED:
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device, dtype)


@cache
def stream_of(role: Role, device: torch.device) -> Any:
    """The stream of a role on a card, made once."""
    return cuda.Stream(device, priority=PRIORITY[role])
