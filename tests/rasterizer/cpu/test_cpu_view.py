"""What the CPU backend alone promises: the same bits for any number of threads; and its ways through the kernels."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.numerics import runtime as kernels
from feature_gs_ros.rasterizer.cpu import CpuBackend
from feature_gs_ros.rasterizer.cpu.spherical_harmonics import colors_from_sh
from feature_gs_ros.rasterizer.cpu.view import MAX_PIXEL_CHANNELS
from tests.errors import raises

BACKEND = CpuBackend()
GRIDS = {"14-pixel cells": (4, 5), "2-pixel cells": (22, 35)}


def make_grid(name: str, dimension: int) -> FeatureGrid:
    return FeatureGrid(torch.randn(*GRIDS[name], dimension, generator=torch.Generator().manual_seed(0)))


def test_few_and_many_channels_a_pixel_give_the_same() -> None:
    """Up to some channels a feature a pixel goes without cells; a masked pixel counts for nothing in both ways."""
    gaussians, (camera, pose) = random_map(3), random_camera(3)
    view = BACKEND.view(gaussians, camera, pose)
    values = torch.randn(
        camera.height, camera.width, MAX_PIXEL_CHANNELS + 6, generator=torch.Generator().manual_seed(5)
    )
    valid = torch.rand(camera.height, camera.width, generator=torch.Generator().manual_seed(6))
    many, weight = view.backproject(FeatureGrid(values), valid)
    few, narrow_weight = view.backproject(FeatureGrid(values[:, :, :7].contiguous()), valid)
    assert (few - many[:, :7]).norm() < 1e-5 * few.norm()
    assert torch.allclose(weight, narrow_weight, rtol=1e-4, atol=1e-5)
    assert float(weight.sum()) > 100


def test_spherical_harmonics_are_orthonormal() -> None:
    """Each basis function of degrees 0–3, integrated over the sphere against every other: the identity."""
    count = 20_000
    k = np.arange(count) + 0.5
    z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    directions = np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], 1).astype(
        np.float32
    )
    basis = []
    for index in range(16):
        sh = np.zeros((count, 16, 3), np.float32)
        sh[:, index] = 0.1  # small, so that nothing is cut at 0
        color = colors_from_sh(sh, directions, np.zeros(3, np.float32), np.arange(count, dtype=np.int32))
        basis.append((color[:, 0].astype(np.float64) - 0.5) / 0.1)
    gram = np.array(basis) @ np.array(basis).T * 4 * np.pi / count
    assert np.abs(gram - np.eye(16)).max() < 2e-3


def test_threads_do_not_change_a_bit() -> None:
    gaussians, (camera, pose) = random_map(7, 3000), random_camera(7, 200, 150)
    grids = [make_grid(name, 8) for name in ("14-pixel cells", "2-pixel cells")]
    before = kernels.thread_count()
    results = []
    try:
        for threads in (1, 2, 5):
            kernels.set_thread_count(threads)
            view = BACKEND.view(gaussians, camera, pose)
            results.append([view.render_color(), *(view.backproject(grid)[0] for grid in grids)])
    finally:
        kernels.set_thread_count(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_two_python_threads_in_the_kernels() -> None:
    gaussians, (camera, pose) = random_map(8, 2000), random_camera(8, 160, 120)
    grid = make_grid("14-pixel cells", 16)
    view = BACKEND.view(gaussians, camera, pose)
    expected = view.render_color(), view.backproject(grid)[0]
    wrong: list[str] = []

    def work() -> None:
        for _ in range(20):
            fresh = BACKEND.view(gaussians, camera, pose)
            if not torch.equal(fresh.render_color(), expected[0]):
                wrong.append("render")
            if not torch.equal(fresh.backproject(grid)[0], expected[1]):
                wrong.append("backproject")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_error_in_a_range_reaches_the_caller() -> None:
    def body(start: int, _stop: int) -> None:
        if start == 30:
            raise ValueError("range 30")

    with pytest.raises(ValueError, match="range 30"):
        kernels.parallel_for(100, 10, body)


def test_labels_in_bands_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians, (camera, pose) = random_map(5), random_camera(5)
    labels = np.random.default_rng(0).integers(0, 9, (camera.height, camera.width))
    view = BACKEND.view(gaussians, camera, pose)
    whole = view.backproject_labels(labels, 9)
    monkeypatch.setattr("feature_gs_ros.rasterizer.cpu.labels.MAX_SUMS", 200)
    assert abs(view.backproject_labels(labels, 9) - whole).max() <= 1e-5 * whole.max()


def test_an_image_beyond_all_measure_is_refused() -> None:
    gaussians, (_, pose) = random_map(5), random_camera(5)
    wide = Camera(600_000, 1, 100.0, 100.0, 300_000.0, 0.5)
    with raises("camera.range", "600000×1"):
        BACKEND.view(gaussians, wide, pose).render_color()
