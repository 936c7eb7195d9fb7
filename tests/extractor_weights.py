"""Weights of the published layouts for the tests: keys and shapes from data/extractor_keys.json, seeded values."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).with_name("data")


def published_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a published checkpoint; "*" in the file stands for the numbers of the blocks."""
    entry = json.loads((DATA / "extractor_keys.json").read_text())[model]
    shapes = {}
    for key, shape in entry["shapes"].items():
        for number in range(entry["depth"]) if "*" in key else (0,):
            shapes.setdefault(key.replace("*", str(number)), tuple(shape))
    return shapes


def seeded_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Values that depend on seed, key and shape alone, so that every machine and version of torch makes the same.

    Matrices and kernels are normal with deviation fan-in^-½; gains and variances uniform in 0.5 … 1.5; other vectors,
    tokens and positions normal with deviation 0.2.
    """
    state = {}
    for key, shape in shapes.items():
        random = np.random.default_rng([seed, zlib.crc32(key.encode())])
        name = key.rsplit(".", 1)[-1]
        if name == "num_batches_tracked":
            state[key] = torch.tensor(0)
            continue
        if len(shape) > 1 and name == "weight":
            values = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        elif len(shape) == 1 and name in ("weight", "gamma", "running_var"):
            values = random.uniform(0.5, 1.5, shape)
        else:
            values = random.normal(size=shape) * 0.2
        state[key] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return state


def scene(height: int, width: int) -> np.ndarray:
    """An image [H, W, 3] with structure at all scales; the same on every machine."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = [np.sin(x / (7 + 9 * c)) + np.cos(y / (5 + 6 * c)) + ((x + c * y) % 40 > 20) for c in range(3)]
    return np.clip(np.stack(channels, axis=2) * 50 + 110, 0, 255).astype(np.uint8)
