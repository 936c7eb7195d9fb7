"""Views of every backend: W against the dense oracle, Wᵀ against W, the cell operator, labels, masks and bands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import dense_colors

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer import Backend
from feature_gs_ros.rasterizer.reference import dense_u, dense_w
from tests.errors import raises

GRIDS = {
    "14-pixel cells": ((4, 5), {}),
    "cells that do not divide the image": ((3, 5), {"right": 1.13, "bottom": 1.21}),
    "cells wider than a tile": ((2, 2), {}),
    "a padded square, as SAM": ((8, 8), {"bottom": 70 / 45}),
    "a grid of the middle only": ((4, 4), {"left": 0.2, "top": 0.3, "right": 0.7, "bottom": 0.9}),
    "2-pixel cells": ((22, 35), {}),
    "a cell a pixel": ((45, 70), {}),
    "three cells a pixel": ((135, 200), {}),
    "nearest": ((7, 9), {"interpolation": "nearest"}),
    "one cell": ((1, 1), {}),
}

LARGEST = "three cells a pixel"  # whose dense U is 700 MB
NAMES = [name if name != LARGEST else pytest.param(name, marks=pytest.mark.slow) for name in GRIDS]


def seeds(count: int) -> list[object]:
    """The first among the fast tests."""
    return [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, count))]


def make_grid(name: str, dimension: int, seed: int = 0) -> FeatureGrid:
    (rows, columns), covers = GRIDS[name]
    generator = torch.Generator().manual_seed(seed)
    return FeatureGrid(torch.randn(rows, columns, dimension, generator=generator), **covers)


@pytest.mark.parametrize("seed", seeds(6))
def test_render_is_the_dense_w(backend: Backend, seed: int) -> None:
    gaussians, (camera, pose) = random_map(seed), random_camera(seed)
    values = torch.randn(len(gaussians), 5)
    ours = rasterizer.view(gaussians, camera, pose, backend).render(values)
    dense = (dense_w(gaussians, camera, pose) @ values.double()).reshape(camera.height, camera.width, 5)
    # A pixel may flip over 1/255 or 1e-4 in float32; the rest agree to float accuracy.
    off = (ours - dense).abs().amax(dim=2) > 1e-4 * values.abs().max()
    assert off.float().mean() < 2e-3
    assert (ours - dense).norm() < 1e-3 * dense.norm()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", seeds(3))
def test_backprojection_is_the_dense_transpose(backend: Backend, name: str, seed: int) -> None:
    gaussians, (camera, pose) = random_map(seed), random_camera(seed)
    grid = make_grid(name, 6, seed)
    valid = (torch.rand(camera.height, camera.width, generator=torch.Generator().manual_seed(seed)) > 0.3).double()
    numerator, weight = rasterizer.view(gaussians, camera, pose, backend).backproject(grid, valid)
    w_transposed = dense_w(gaussians, camera, pose).T * valid.reshape(-1)
    features = dense_u(grid, camera.width, camera.height) @ grid.values.reshape(-1, 6).double()
    assert (numerator - w_transposed @ features).norm() < 1e-3 * (w_transposed @ features).norm()
    assert (weight - w_transposed.sum(1)).norm() < 1e-3 * w_transposed.sum(1).norm()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 50),
    columns=st.integers(1, 75),
    right=st.floats(0.5, 1.5),
    bottom=st.floats(0.5, 1.5),
    nearest=st.booleans(),
)
@example(seed=0, rows=45, columns=70, right=1.0, bottom=1.5, nearest=True)  # as many cells as pixels, but elsewhere
def test_adjoint_to_float_accuracy(
    backend: Backend, seed: int, rows: int, columns: int, right: float, bottom: float, nearest: bool
) -> None:
    gaussians, (camera, pose) = random_map(seed, 120), random_camera(seed)
    generator = torch.Generator().manual_seed(seed)
    grid = FeatureGrid(
        torch.randn(rows, columns, 3, generator=generator),
        right=right,
        bottom=bottom,
        interpolation="nearest" if nearest else "bilinear",
    )
    values = torch.randn(len(gaussians), 3, generator=generator)
    valid = torch.rand(camera.height, camera.width, generator=generator)
    view = rasterizer.view(gaussians, camera, pose, backend)
    numerator, _ = view.backproject(grid, valid)
    resampling = dense_u(grid, camera.width, camera.height)
    cells = grid.values.reshape(-1, 3).double()
    masked = (resampling @ cells) * valid.reshape(-1, 1)
    left = (view.render(values).reshape(-1, 3).double() * masked).sum()
    right_side = (values.double() * numerator.double()).sum()
    bound = (view.render(values.abs()).reshape(-1, 3).double() * (resampling @ cells.abs())).sum()
    assert abs(left - right_side) <= 1e-5 * bound + 1e-12


@pytest.mark.parametrize("name", ["14-pixel cells", "2-pixel cells", "a padded square, as SAM"])
def test_cells_and_upsampled_pixels_give_the_same(backend: Backend, name: str) -> None:
    """Wᵀ(U F) = (WᵀU) F: the map upsampled to every pixel and the cells themselves."""
    gaussians, (camera, pose) = random_map(3), random_camera(3)
    grid = make_grid(name, 4)
    pixels = dense_u(grid, camera.width, camera.height) @ grid.values.reshape(-1, 4).double()
    view = rasterizer.view(gaussians, camera, pose, backend)
    by_cells, weight = view.backproject(grid)
    by_pixels, pixel_weight = view.backproject(FeatureGrid(pixels.reshape(camera.height, camera.width, 4).float()))
    assert (by_cells - by_pixels).norm() < 1e-5 * by_pixels.norm()
    assert torch.allclose(weight, pixel_weight, rtol=1e-4, atol=1e-5)


def test_known_answer_of_two_gaussians(backend: Backend) -> None:
    """Two round Gaussians on the optical axis: at the centre pixel w = α₁ and (1 − α₁) α₂."""
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 4.0]]),
        torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4),
        torch.full((2, 3), 0.2),
        torch.tensor([0.6, 0.8]),
        torch.zeros(2, 1, 3),
    )
    camera = Camera(21, 21, 50, 50, 10.5, 10.5)
    image = rasterizer.view(gaussians, camera, np.eye(4), backend).render(torch.eye(2))
    assert image[10, 10].tolist() == pytest.approx([0.6, 0.4 * 0.8], rel=1e-5)
    # Three pixels aside: variance (50 · 0.2 / z)² + 0.3 px².
    near = 0.6 * np.exp(-0.5 * 9 / (25 + 0.3))
    far = 0.8 * np.exp(-0.5 * 9 / (6.25 + 0.3))
    assert image[10, 13].tolist() == pytest.approx([near, (1 - near) * far], rel=1e-4)


@pytest.mark.parametrize("condition", [1e3, 1e5, 1e7, 1e8])
def test_needles_weigh_as_in_float64(backend: Backend, condition: float) -> None:
    """Of a covariance of condition 1e7, float32 holds no digit of xx yy − xy²: weights were off by a third."""
    camera, rng = Camera(48, 36, 500.0, 500.0, 24.0, 18.0), np.random.default_rng(0)
    for _ in range(4):
        quat = torch.from_numpy(rng.normal(size=(1, 4)))
        needle = GaussianMap.from_tensors(
            torch.from_numpy(np.append(rng.uniform(-0.03, 0.03, 2), 1.0))[None],
            quat / quat.norm(),
            torch.tensor([[np.sqrt(0.3 * condition) / 500, 1e-5, 1e-5]]),
            torch.tensor([0.9]),
            torch.zeros(1, 1, 3),
        )
        ours, exact = (
            rasterizer.view(needle, camera, np.eye(4), choice).render(torch.ones(1, 1))
            for choice in (backend, "reference")
        )
        assert float((ours.double() - exact.double()).abs().max()) < 2e-3


def test_rays_end_before_their_last_gaussian(backend: Backend) -> None:
    """Opaque layers, alpha 0.99 each: the second would bring T to 1e-4, so it isn't drawn."""
    layers = 4
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0.0, 2.0 + k] for k in range(layers)]),
        torch.tensor([[1.0, 0, 0, 0]]).expand(layers, 4),
        torch.full((layers, 3), 1.0),
        torch.tensor([0.9, 0.99, 0.99, 0.5]),
        torch.zeros(layers, 1, 3),
    )
    image = rasterizer.view(gaussians, Camera(9, 9, 20, 20, 4.5, 4.5), np.eye(4), backend).render(torch.eye(layers))
    assert image[4, 4].tolist() == pytest.approx([0.9, 0.1 * 0.99, 0.0, 0.0], rel=1e-4)


def test_color_and_depth(backend: Backend) -> None:
    gaussians, (camera, pose) = random_map(5, degree=3), random_camera(5)
    view = rasterizer.view(gaussians, camera, pose, backend)
    z = (gaussians.means.double() @ torch.from_numpy(pose[:3, :3]).T)[:, 2] + pose[2, 3]
    expected = view.render(torch.stack([z.float(), torch.ones(len(z))], 1))
    assert torch.allclose(view.render_depth(), expected, atol=1e-4)
    rotated = GaussianMap.from_tensors(
        gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh[:, :1]
    )
    flat = rasterizer.view(rotated, camera, pose, backend).render_color()
    colors = (gaussians.sh[:, 0] * 0.28209479177387814 + 0.5).clamp_min(0)
    assert torch.allclose(flat, view.render(colors), atol=1e-5)
    assert not torch.allclose(flat, view.render_color(), atol=1e-2)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_colour_depends_on_direction_as_the_definition_says(backend: Backend, degree: int) -> None:
    gaussians, (camera, pose) = random_map(5, degree=degree), random_camera(5)
    view = rasterizer.view(gaussians, camera, pose, backend)
    expected = view.render(dense_colors(gaussians.sh, gaussians.means, pose).float())
    assert torch.allclose(view.render_color(), expected, atol=1e-4)


def test_nothing_in_view_is_no_error(backend: Backend) -> None:
    gaussians, (camera, pose) = random_map(1), random_camera(1)
    pose = pose.copy()
    pose[2, 3] = -100
    view = rasterizer.view(gaussians, camera, pose, backend)
    numerator, weight = view.backproject(make_grid("2-pixel cells", 2))
    assert view.render_color().abs().sum() == 0
    assert numerator.abs().sum() == 0
    assert weight.sum() == 0


def test_bad_input_is_named(backend: Backend) -> None:
    gaussians, (camera, pose) = random_map(1), random_camera(1)
    view = rasterizer.view(gaussians, camera, pose, backend)
    with raises("grid.shape", "200"):
        view.render(torch.zeros(3, 3))
    with raises("grid.size"):
        view.backproject(make_grid("one cell", 1), torch.ones(3, 3))
    with raises("grid.dtype", "64"):
        FeatureGrid(torch.zeros(2, 2, 2, dtype=torch.float64))
    with raises("camera.not-finite"):
        rasterizer.view(gaussians, camera, np.full((4, 4), np.nan))
    distorted = Camera(9, 9, 9, 9, 4, 4, Distortion("plumb_bob", (0.1, 0, 0, 0, 0)))
    with raises("camera.unsupported"):
        rasterizer.view(gaussians, distorted, pose, backend)
    with raises("backend.unknown", "'metal'"):
        rasterizer.view(gaussians, camera, pose, backend="metal")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans())
def test_labels_give_what_their_one_hot_images_give(backend: Backend, seed: int, classes: int, masked: bool) -> None:
    gaussians, (camera, pose) = random_map(seed, 150), random_camera(seed)
    rng = np.random.default_rng(seed)
    labels = np.kron(
        rng.integers(-1, classes, (camera.height // 6 + 1, camera.width // 6 + 1)), np.ones((6, 6), np.int64)
    )[: camera.height, : camera.width]
    valid = torch.from_numpy(rng.random(labels.shape, np.float32)) if masked else None
    view = rasterizer.view(gaussians, camera, pose, backend)
    found = view.backproject_labels(labels, classes, valid).toarray()
    one_hot = torch.from_numpy(labels[:, :, None] == np.arange(classes)).float()
    expected, _ = view.backproject(FeatureGrid(one_hot, interpolation="nearest"), valid)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4 * float(expected.max().clamp_min(1e-3)))


def test_labels_that_do_not_fit_are_refused(backend: Backend) -> None:
    gaussians, (camera, pose) = random_map(5), random_camera(5)
    view = rasterizer.view(gaussians, camera, pose, backend)
    with raises("grid.shape"):
        view.backproject_labels(np.full((camera.height, camera.width), 9), 9)
    with raises("grid.shape"):
        view.backproject_labels(np.zeros((3, 3), np.int64), 9)


@pytest.mark.parametrize("name", NAMES)
def test_the_cell_operator_is_the_dense_one_and_its_transpose(backend: Backend, name: str) -> None:
    """A = diag(Uᵀ m)⁻¹ Uᵀ M W at the cells with enough pixels that count."""
    gaussians, (camera, pose) = random_map(3), random_camera(3)
    generator = torch.Generator().manual_seed(0)
    grid = make_grid(name, 4)
    valid = torch.rand(camera.height, camera.width, generator=generator) > 0.3
    view = rasterizer.view(gaussians, camera, pose, backend)
    operator = view.cell_operator(grid, valid)
    u = dense_u(grid, camera.width, camera.height)
    masked = u * valid.double().reshape(-1, 1)
    full = u.sum(0).max()
    assert torch.equal(operator.cells, (masked.sum(0) > 0.05 * full).nonzero()[:, 0])
    dense = ((masked.T @ dense_w(gaussians, camera, pose)) / masked.sum(0).clamp_min(1e-9)[:, None])[operator.cells]
    features = torch.randn(len(gaussians), 5, generator=generator)
    values = torch.randn(len(operator.cells), 5, generator=generator)
    shown, spread = operator.forward(features), operator.adjoint(values)
    assert (shown - dense @ features.double()).norm() < 2e-3 * (dense @ features.double()).norm()
    assert (spread - dense.T @ values.double()).norm() < 2e-3 * (dense.T @ values.double()).norm()
    assert float((shown.double() * values).sum()) == pytest.approx(float((spread.double() * features).sum()), rel=1e-3)
    assert operator.products == 2
    assert operator.gaussians == len(gaussians)
    assert torch.equal(operator.target(grid), grid.values.reshape(-1, 4)[operator.cells])
    assert torch.allclose(operator.weight, view.backproject(grid, valid)[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 5, 40])
def test_bands_of_an_image_are_its_rows(backend: Backend, channels: int) -> None:
    gaussians, (camera, pose) = random_map(2), random_camera(2)
    view = rasterizer.view(gaussians, camera, pose, backend)
    values = torch.randn(len(gaussians), channels, generator=torch.Generator().manual_seed(0))
    whole = view.render(values)
    bands = [view.render(values, rows) for rows in ((0, 7), (7, 32), (32, camera.height))]
    assert [len(band) for band in bands] == [7, 25, camera.height - 32]
    assert torch.allclose(torch.cat(bands), whole, atol=1e-5)
    visible = view.render_visible(values[view.visible], (7, 32))
    assert torch.allclose(visible, bands[1], atol=1e-5)
    with raises("grid.shape"):
        view.render_visible(torch.zeros(len(view.visible) + 1, 2))


def test_what_is_not_visible_has_no_weight(backend: Backend) -> None:
    gaussians, (camera, pose) = random_map(2), random_camera(2)
    view = rasterizer.view(gaussians, camera, pose, backend)
    weight = dense_w(gaussians, camera, pose).sum(0)
    assert view.visible.dtype == torch.int64
    hidden = torch.ones(len(gaussians), dtype=torch.bool)
    hidden[view.visible] = False
    assert bool(hidden.any())
    assert float(weight[hidden].sum()) < 1e-3 * float(weight.sum())


def test_unoccluded_weight_is_the_alpha_over_all_pixels(backend: Backend) -> None:
    """Two Gaussians, one behind the other, well inside the image: each has its alpha's sum as if alone."""
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 4.0]]),
        torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4),
        torch.full((2, 3), 0.2),
        torch.tensor([0.6, 0.8]),
        torch.zeros(2, 1, 3),
    )
    camera = Camera(61, 61, 50, 50, 30.5, 30.5)
    found = rasterizer.view(gaussians, camera, np.eye(4), backend).unoccluded_weight()
    for index in range(2):
        alone = dense_w(gaussians.select(torch.tensor([index])), camera, np.eye(4)).sum()
        assert float(found[index]) == pytest.approx(float(alone), rel=0.03)


def test_answers_are_float32_on_the_host(backend: Backend) -> None:
    gaussians, (camera, pose) = random_map(2), random_camera(2)
    view = rasterizer.view(gaussians, camera, pose, backend)
    assert view.backend is backend
    operator = view.cell_operator(make_grid("14-pixel cells", 3))
    tensors = [
        view.render(torch.ones(len(gaussians), 2, dtype=torch.float64)),
        view.render_color(),
        view.render_depth(),
        *view.backproject(make_grid("14-pixel cells", 3)),
        view.unoccluded_weight(),
        operator.weight,
        operator.forward(torch.ones(len(gaussians), 2)),
        operator.adjoint(torch.ones(len(operator.cells), 2)),
    ]
    assert all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
    labels = np.zeros((camera.height, camera.width), np.int64)
    assert view.backproject_labels(labels, 1).dtype == np.float32
