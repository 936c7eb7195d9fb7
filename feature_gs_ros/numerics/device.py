"""Where numbers are worked on: by numba where they lie on the host, by torch where they lie on a card."""

from __future__ import annotations

from dataclasses import dataclass

import torch

HOST = torch.device("cpu")
NUMBA = frozenset({"cpu"})  # kinds of devices whose memory numba's kernels read


def in_torch(device: torch.device) -> bool:
    """Whether what lies there is worked on by torch, where it lies."""
    return device.type not in NUMBA


@dataclass(frozen=True)
class Card:
    """A device as a person is told of it."""

    name: str  # "cpu", or "cuda:0 NVIDIA Orin"
    total: int = 0  # bytes of a card
    free: int = 0  # of them, that nobody holds


def card_of(device: torch.device) -> Card:
    """Name and memory of a device."""
    if device.type != "cuda":
        return Card(device.type)
    free, total = torch.cuda.mem_get_info(device)
    return Card(f"{device} {torch.cuda.get_device_name(device)}", total, free)
