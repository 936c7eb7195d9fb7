"""What the benchmarks run on: a room of Gaussians as a map of that size would be, and honest clocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap

WIDTH, HEIGHT = 640, 480
CAMERA = Camera(WIDTH, HEIGHT, 0.8 * WIDTH, 0.8 * WIDTH, WIDTH / 2, HEIGHT / 2)
POSE = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2.3], [0, 0, 0, 1]])


def room(count: int, seed: int = 0) -> GaussianMap:
    """Two thirds on the walls of a room 5 units wide, one third on twenty balls in it; sizes fit the number."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2.5, 2.5, (count, 3))
    walls = rng.integers(0, 3, count)
    points[np.arange(count), walls] = rng.choice([-2.5, 2.5], count)
    third = count // 3
    centres, radii = rng.uniform(-1.2, 1.2, (20, 3)), rng.uniform(0.15, 0.35, 20)
    ball, directions = rng.integers(0, 20, third), rng.normal(size=(third, 3))
    points[:third] = centres[ball] + directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii[ball, None]
    scales = np.exp(rng.normal(np.log(0.02 * (100_000 / count) ** 0.5), 0.5, (count, 3)))
    return GaussianMap.from_tensors(
        torch.from_numpy(points),
        torch.from_numpy(rng.normal(size=(count, 4))),
        torch.from_numpy(scales),
        torch.from_numpy(rng.beta(2, 1, count)),
        torch.from_numpy(rng.normal(0, 0.3, (count, 1, 3))),
    )


def grid_of_cells(cell: int, dimension: int) -> FeatureGrid:
    """Random features on square cells of ``cell`` pixels."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = -(-HEIGHT // cell), -(-WIDTH // cell)
    values = torch.randn(rows, columns, dimension, generator=generator)
    return FeatureGrid(values, right=columns * cell / WIDTH, bottom=rows * cell / HEIGHT)


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median time of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
