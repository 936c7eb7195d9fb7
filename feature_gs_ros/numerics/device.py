"""Where numbers are worked on: by numba where they lie on the host, by torch where they lie on a card."""

from __future__ import annotations

import torch

HOST = torch.device("cpu")
NUMBA = frozenset({"cpu"})  # kinds of devices whose memory numba's kernels read


def in_torch(device: torch.device) -> bool:
    """Whether what lies there is worked on by torch, where it lies."""
    return device.type not in NUMBA
