"""U: every function that resamples a grid against the matrix written out, ties included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.affordance.baseline import view_masks
from feature_gs_ros.affordance.transfer import Settings
from feature_gs_ros.core.feature_grid import FeatureGrid, pixel_centres, pixel_weights, pool, sample, upsample
from feature_gs_ros.live.ignored_pixels import counted_pixels
from feature_gs_ros.query.clicks import feature_under_mask
from feature_gs_ros.rasterizer.tiling import grid_layout

SIDES = st.integers(1, 9)
# Eighths of the image: pixels fall onto cells' centres and half-way between them often.
BEGINS, EXTENTS = st.integers(-3, 3), st.integers(4, 14)


@st.composite
def grids(draw: st.DrawFn) -> FeatureGrid:
    rows, columns = draw(SIDES), draw(SIDES)
    left, top = draw(BEGINS) / 8, draw(BEGINS) / 8
    values = torch.randn(rows, columns, 3, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    right, bottom = left + draw(EXTENTS) / 8, top + draw(EXTENTS) / 8
    return FeatureGrid(values, left, top, right, bottom, draw(st.sampled_from(["bilinear", "nearest"])))


def dense_axis(pixels: int, cells: int, begin: float, end: float, interpolation: str) -> NDArray[np.float64]:
    """One side of U from its definition, pixel by pixel."""
    matrix = np.zeros((pixels, cells))
    for pixel in range(pixels):
        position = ((pixel + 0.5) / pixels - begin) / (end - begin) * cells - 0.5
        if interpolation == "nearest":
            matrix[pixel, min(max(int(np.floor(position + 0.5)), 0), cells - 1)] = 1
            continue
        position = min(max(position, 0.0), cells - 1.0)
        lower = int(np.floor(position))
        matrix[pixel, lower] += 1 - (position - lower)
        matrix[pixel, min(lower + 1, cells - 1)] += position - lower
    return matrix


def dense_u(grid: FeatureGrid, height: int, width: int) -> Tensor:
    """U [height · width, rows · columns]."""
    rows = dense_axis(height, grid.rows, grid.top, grid.bottom, grid.interpolation)
    columns = dense_axis(width, grid.columns, grid.left, grid.right, grid.interpolation)
    return torch.from_numpy(np.einsum("yr,xc->yxrc", rows, columns).reshape(height * width, -1))


def image_points(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.meshgrid(pixel_centres(height), pixel_centres(width), indexing="ij")
    return x.ravel(), y.ravel()


def close(told: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(told.double(), wanted, atol=1e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(grid=grids(), height=SIDES, width=SIDES)
def test_every_consumer_of_u_agrees_with_the_matrix(grid: FeatureGrid, height: int, width: int) -> None:
    matrix = dense_u(grid, height, width)
    wanted = matrix @ grid.values.double().reshape(-1, 3)
    close(upsample(grid, height, width).reshape(-1, 3), wanted)
    close(sample(grid, *image_points(height, width)), wanted)

    across, down = pixel_weights(grid, width, height)
    close(torch.from_numpy(np.kron(down.dense(), across.dense())), matrix)
    layout = grid_layout(grid, width, height)
    for tiles, axis in ((layout.x, across), (layout.y, down)):
        assert np.array_equal(tiles.lower, axis.lower)
        assert np.array_equal(tiles.fraction, axis.fraction)

    pixels = torch.rand(height, width, generator=torch.Generator().manual_seed(height * 10 + width)) + 0.1
    sums = matrix.T @ pixels.double().reshape(-1)
    close(pool(grid, pixels).reshape(-1), sums)
    close(pool(grid, torch.stack([pixels, 2 * pixels], dim=2)).reshape(-1, 2), torch.stack([sums, 2 * sums], dim=1))
    close(feature_under_mask(grid, pixels), (wanted * pixels.double().reshape(-1, 1)).sum(0) / pixels.double().sum())

    ignored = np.zeros((height, width), bool)
    ignored[0, 0] = True
    inside = dense_u(FeatureGrid(grid.values, grid.left, grid.top, grid.right, grid.bottom, "nearest"), height, width)
    touched = inside.T @ torch.from_numpy(ignored.ravel()).double() > 0.02 * inside.sum(0).clamp_min(1)
    mixed = ((matrix > 1e-4).double() @ touched.double() > 0).reshape(height, width).numpy()
    assert np.array_equal(counted_pixels(ignored, grid), ~ignored & ~mixed)


def sampled(grid: FeatureGrid, pixels: int) -> Tensor:
    return sample(grid, *image_points(pixels, pixels)).reshape(pixels, pixels, -1)


def seen_through_masks(grid: FeatureGrid, pixels: int) -> Tensor:
    """Which cell each pixel takes, told by the similarity of the cells to one patch."""
    angle = grid.values[:, :, 0] / 20
    features = torch.stack([angle.cos(), angle.sin()], dim=2)
    cells = FeatureGrid(features, interpolation=grid.interpolation)
    patch, fractions = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    masks = view_masks(cells, patch, fractions, Settings(k=1, smoothing_rate=0), -1.0, pixels, pixels)
    return masks.values[:, :, -1:].clamp(-1, 1).acos() * 20


def pooled(grid: FeatureGrid, pixels: int) -> Tensor:
    """The cell that each pixel falls to."""
    told = torch.empty(pixels, pixels, 1)
    for row in range(pixels):
        for column in range(pixels):
            one = torch.zeros(pixels, pixels)
            one[row, column] = 1
            told[row, column] = feature_under_mask(grid, one)
    return told


@pytest.mark.parametrize("consumer", [lambda grid, n: upsample(grid, n, n), sampled, seen_through_masks, pooled])
def test_a_pixel_between_two_cells_of_a_nearest_grid_takes_the_later_one(
    consumer: Callable[[FeatureGrid, int], Tensor],
) -> None:
    """4 pixels over 8 cells: 1, 3, 5, 7, whoever asks."""
    grid = FeatureGrid(torch.arange(8.0).expand(8, 8).unsqueeze(2).contiguous(), interpolation="nearest")
    torch.testing.assert_close(
        consumer(grid, 4), torch.tensor([1.0, 3, 5, 7]).expand(4, 4).unsqueeze(2), atol=2e-3, rtol=0
    )
    assert grid_layout(grid, 4, 4).x.lower.tolist() == [1, 3, 5, 7]
