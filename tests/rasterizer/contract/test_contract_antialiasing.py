"""Opacity compensation of every backend, for maps trained with it: against the dense oracle, and a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer import Backend
from feature_gs_ros.rasterizer.reference import dense_u, dense_w


@pytest.mark.parametrize("blur", [0.3, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_those_of_the_dense_w(backend: Backend, seed: int, blur: float) -> None:
    classic, (camera, pose) = random_map(seed), random_camera(seed)
    classic = replace(classic, scales=classic.scales * 0.15)
    gaussians = replace(classic, antialiased=True, blur=blur)
    dense = dense_w(gaussians, camera, pose)
    assert (dense - dense_w(classic, camera, pose)).norm() > 3e-3 * dense.norm()  # it does something here
    other = replace(gaussians, blur=0.4 - blur)
    assert (dense - dense_w(other, camera, pose)).norm() > 1.5e-3 * dense.norm()
    assert gaussians.checksum not in (other.checksum, classic.checksum)
    view = rasterizer.view(gaussians, camera, pose, backend)
    values = torch.randn(len(gaussians), 5)
    expected = (dense @ values.double()).reshape(camera.height, camera.width, 5)
    assert (view.render(values) - expected).norm() < 1e-3 * expected.norm()
    grid = FeatureGrid(torch.randn(4, 5, 6))
    numerator, weight = view.backproject(grid)
    features = dense_u(grid, camera.width, camera.height) @ grid.values.reshape(-1, 6).double()
    assert (numerator - dense.T @ features).norm() < 1e-3 * (dense.T @ features).norm()
    assert (weight - dense.sum(0)).norm() < 1e-3 * dense.sum(0).norm()


def small(sigma: float, antialiased: bool) -> GaussianMap:
    """A round Gaussian whose standard deviation is so many pixels, in the middle of the image."""
    made = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), sigma * 2 / 50),
        torch.tensor([0.9]), torch.zeros(1, 1, 3),
    )  # fmt: skip
    return replace(made, antialiased=antialiased)


@pytest.mark.parametrize("blur", [0.3, 0.1])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_the_blur_takes_from_the_peak_what_it_gives_to_the_plane(backend: Backend, sigma: float, blur: float) -> None:
    """∫ α = 2π o σ² of the Gaussian as it is; in classic mode 2π o (σ² + blur)."""
    camera = Camera(41, 41, 50.0, 50.0, 20.5, 20.5)
    for antialiased, variance in ((True, sigma**2), (False, sigma**2 + blur)):
        view = rasterizer.view(replace(small(sigma, antialiased), blur=blur), camera, np.eye(4), backend)
        total = float(view.render(torch.ones(1, 1)).sum())
        assert total == pytest.approx(2 * np.pi * 0.9 * variance, rel=0.06)  # pixels sample it, and its skirt is cut


def test_what_compensation_makes_invisible_is_not_there(backend: Backend) -> None:
    camera = Camera(41, 41, 50.0, 50.0, 20.5, 20.5)
    assert len(rasterizer.view(small(0.02, False), camera, np.eye(4), backend).visible) == 1
    assert len(rasterizer.view(small(0.02, True), camera, np.eye(4), backend).visible) == 0
