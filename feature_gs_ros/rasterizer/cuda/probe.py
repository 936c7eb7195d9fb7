"""Whether a card can be used, and if not, why and what to install."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import torch

MIN_CAPABILITY = (7, 5)  # Turing: the oldest cards that current CUDA compilers compile for
INSTALL = 'pip install "feature_gs_ros[gpu]"'
_ARCHITECTURE = re.compile(r"(sm|compute)_([0-9]+)[af]?")  # a: of one card alone, f: of a family
NODES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu")  # of the drivers of cards, and of Jetsons


def card_present() -> bool:
    """Whether there seems to be an NVIDIA GPU, usable or not."""
    return any(Path(node).exists() for node in NODES)


def why_unusable(index: int = 0, card: bool = True) -> str | None:
    """Why card ``index`` can't be used and how to fix it; None where it can. Without ``card``: Warp's CPU device."""
    if importlib.util.find_spec("warp") is None:
        return f"warp-lang is not installed: {INSTALL}"
    if card and not torch.cuda.is_available():
        if torch.version.cuda is None:
            return "torch is a CPU build: install one for CUDA, see docs/gpu.md"
        return "torch finds no NVIDIA GPU: look at nvidia-smi, the driver may be missing or older than torch's CUDA"
    if card and index >= torch.cuda.device_count():
        return f"there is no card {index}: torch finds {torch.cuda.device_count()}, counted from 0"
    if card and torch.cuda.get_device_capability(index) < MIN_CAPABILITY:
        major, minor = torch.cuda.get_device_capability(index)
        name, oldest = torch.cuda.get_device_name(index), ".".join(map(str, MIN_CAPABILITY))
        return f"{name} has compute capability {major}.{minor}, {oldest} is needed: use --backend cpu"
    if card and not _torch_compiled_for(torch.cuda.get_device_capability(index)):
        major, minor = torch.cuda.get_device_capability(index)
        return (
            f"this torch is built for {', '.join(torch.cuda.get_arch_list())}, not for "
            f"{torch.cuda.get_device_name(index)} (sm_{major}{minor}): install a build for it, see docs/gpu.md"
        )
    try:
        runtime = importlib.import_module("feature_gs_ros.rasterizer.cuda.runtime")
    except (ImportError, AttributeError) as error:  # another package named warp, or a release too old
        return f"warp-lang can't be imported ({error}): {INSTALL}"
    if card and not runtime.sees_card(index):
        return (
            f"warp-lang {runtime.VERSION} can't use the driver: releases from 1.18 on need R580 or newer; update the "
            'driver, or on JetPack 6 pip install "warp-lang<1.18"'
        )
    return None


def _torch_compiled_for(capability: tuple[int, int]) -> bool:
    """Whether torch's own kernels run on such a card: a binary of its generation, or code that a driver compiles on.

    Where torch doesn't say what it holds, it is taken at its word that there is a card.
    """
    major, minor = capability
    found = [match for name in torch.cuda.get_arch_list() if (match := _ARCHITECTURE.fullmatch(name))]
    own = [(kind, int(number) // 10, int(number) % 10) for kind, number in (match.groups() for match in found)]
    return not own or any(
        (m, n) <= capability if kind == "compute" else m == major and n <= minor for kind, m, n in own
    )
