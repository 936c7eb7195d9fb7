"""Cells larger than a tile, Gaussian by Gaussian: each shape of a footprint mixes its cells in code of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer.cpu.constants import SLOTS_AT_ONCE, TILE
from feature_gs_ros.rasterizer.cpu.tiles import bin_pairs
from feature_gs_ros.rasterizer.reference import dense_u, dense_w
from feature_gs_ros.rasterizer.tiling import grid_layout

CAMERA = Camera(112, 96, 100.0, 100.0, 56.0, 48.0)


def scattered(count: int, widest: float, seed: int = 0) -> GaussianMap:
    """Thin Gaussians all over the image, and somewhat beyond it, up to ``widest`` px of standard deviation."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform([-8, -8], [CAMERA.width + 8, CAMERA.height + 8], (count, 2))
    depths = rng.uniform(1, 1.2, count)
    points = np.column_stack([(pixels - [CAMERA.cx, CAMERA.cy]) / CAMERA.fx * depths[:, None], depths])
    return GaussianMap.from_tensors(
        torch.from_numpy(points),
        torch.from_numpy(rng.normal(size=(count, 4))),
        torch.from_numpy(rng.uniform(0.3, widest, (count, 3)) / CAMERA.fx),
        torch.from_numpy(rng.uniform(0.05, 0.6, count)),
        torch.zeros(count, 1, 3),
    )


def grid_of(cell: float, dimension: int) -> FeatureGrid:
    rows, columns = int(np.ceil(CAMERA.height / cell)), int(np.ceil(CAMERA.width / cell))
    values = torch.randn(rows, columns, dimension, generator=torch.Generator().manual_seed(1))
    return FeatureGrid(values, right=columns * cell / CAMERA.width, bottom=rows * cell / CAMERA.height)


@pytest.mark.parametrize("cell", [10.0, 21.5, *(pytest.param(cell, marks=pytest.mark.slow) for cell in (16.0, 40.0))])
@pytest.mark.parametrize(("widest", "dimension"), [(2.0, 6), (6.0, TILE + 3), (14.0, 2 * TILE)])
def test_every_gaussian_has_its_row_of_the_dense_transpose(cell: float, widest: float, dimension: int) -> None:
    gaussians, grid = scattered(250, widest), grid_of(cell, dimension)
    numerator, weight = rasterizer.view(gaussians, CAMERA, np.eye(4)).backproject(grid)
    transposed = dense_w(gaussians, CAMERA, np.eye(4)).T
    wanted = transposed @ dense_u(grid, CAMERA.width, CAMERA.height) @ grid.values.reshape(-1, dimension).double()
    # A pixel more or less that float32 puts on the other side of alpha = 1/255.
    error = (numerator - wanted).abs().amax(dim=1)
    assert bool((error <= 1e-4 * weight * grid.values.abs().max() + 0.02).all())
    assert torch.allclose(weight, transposed.sum(1).float(), rtol=1e-4, atol=0.01)


def test_the_scene_has_footprints_of_every_shape() -> None:
    view, layout = rasterizer.view(scattered(250, 6.0), CAMERA, np.eye(4)), grid_layout(grid_of(16.0, 1), 112, 96)
    shapes = {(int(across), int(down)) for _, _, across, down in bin_pairs(view.projection, layout).rects}
    assert {(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (3, 3)} <= shapes


def test_more_pairs_than_are_listed_at_once() -> None:
    """Wᵀ(U F) = (WᵀU) F, where neighbours along the map's curve have more tiles than a list holds."""
    gaussians, grid = scattered(3000, 8.0), grid_of(16.0, 4)
    view = rasterizer.view(gaussians, CAMERA, np.eye(4))
    assert bin_pairs(view.projection, grid_layout(grid, CAMERA.width, CAMERA.height)).pairs > 3 * SLOTS_AT_ONCE
    pixels = dense_u(grid, CAMERA.width, CAMERA.height) @ grid.values.reshape(-1, 4).double()
    wanted, _ = view.backproject(FeatureGrid(pixels.reshape(CAMERA.height, CAMERA.width, 4).float()))
    assert torch.allclose(view.backproject(grid)[0], wanted, rtol=1e-3, atol=1e-3)


def test_what_a_gaussian_has_no_weight_in_does_not_reach_it() -> None:
    """Cells are listed by shape, with weight or without; only the neighbours of a pixel may count."""
    gaussians, grid = scattered(250, 2.0), grid_of(16.0, 3)
    clean, _ = rasterizer.view(gaussians, CAMERA, np.eye(4)).backproject(grid)
    touched = dense_w(gaussians, CAMERA, np.eye(4)).T @ dense_u(grid, CAMERA.width, CAMERA.height)
    grid.values[3, 3] = 1e6
    changed, _ = rasterizer.view(gaussians, CAMERA, np.eye(4)).backproject(grid)
    away = touched[:, 3 * grid.columns + 3] == 0
    assert bool(away.any())
    assert torch.equal(clean[away], changed[away])
