"""A map of two halves, red and blue, with a folder of posed pictures and masks: small enough for a whole command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.splats.gaussian_ply import save_ply
from feature_gs_ros.pictures import save_png

WIDTH, HEIGHT = 64, 48
RED, BLUE = (190, 30, 30), (30, 60, 190)
FRAMES = ("0000", "0001", "0002", "0003", "0004", "0005")


def two_halves(count: int = 400) -> GaussianMap:
    """A slab about the origin: blue where x < 0, red where x > 0."""
    rng = np.random.default_rng(0)
    means = rng.uniform(-0.5, 0.5, (count, 3)) * [1, 1, 0.2]
    colors = np.where(means[:, :1] > 0, [RED], [BLUE]) / 255
    return GaussianMap.from_tensors(
        torch.from_numpy(means),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        torch.full((count, 3), 0.05),
        torch.full((count,), 0.95),
        torch.from_numpy((colors - 0.5) / 0.28209479177387814)[:, None],
    )


def write_scene(folder: Path, frames: tuple[str, ...] = FRAMES) -> Path:
    """``map.ply``, ``cameras.json`` with ``images``, ``masks`` and ``labels.yaml`` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_ply(two_halves(), folder / "map.ply")
    write_stream(folder, frames)
    for name in frames:
        save_png(_halves(1, 2).astype(np.uint8), folder / "masks" / f"{name}.png")
    (folder / "labels.yaml").write_text("1: left\n2: right\n")
    return folder


def write_stream(folder: Path, frames: tuple[str, ...] = FRAMES, aside: float = 0.0) -> Path:
    """``cameras.json`` and ``images``; the cameras look along z at the map, ``aside`` to one side of it."""
    entries = []
    for index, name in enumerate(frames):
        save_png(np.where(_halves(0, 1)[:, :, None] > 0, RED, BLUE).astype(np.uint8), folder / f"images/{name}.png")
        pose = np.eye(4)
        pose[:3, 3] = [0.02 * index + aside, 0, 1.5]
        entries.append(
            {
                "image": f"images/{name}.png", "width": WIDTH, "height": HEIGHT,
                "fx": 60.0, "fy": 60.0, "cx": 32.0, "cy": 24.0, "camera_from_world": pose.tolist(),
            }
        )  # fmt: skip
    (folder / "cameras.json").write_text(json.dumps({"frames": entries}))
    return folder


def _halves(left: int, right: int) -> NDArray[np.int64]:
    return np.repeat(np.where(np.arange(WIDTH) < WIDTH // 2, left, right)[None], HEIGHT, axis=0)
