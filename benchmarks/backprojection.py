"""Back-projection by cells against the same by pixels, against a colour render, and on more threads."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from torch import Tensor

from benchmarks.scenes import CAMERA, HEIGHT, POSE, WIDTH, grid_of_cells, room, seconds
from feature_gs_ros.backprojection.projector import BATCH
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.numerics import runtime as kernels
from feature_gs_ros.rasterizer.cpu import CpuBackend
from feature_gs_ros.rasterizer.cpu.masks import NO_MASK
from feature_gs_ros.rasterizer.cpu.tiles import bin_pairs
from feature_gs_ros.rasterizer.cpu.view import CpuView, backproject_views
from feature_gs_ros.rasterizer.cpu.weights import coarse_weights, fine_weights
from feature_gs_ros.rasterizer.tiling import grid_layout, pixel_layout


def main() -> dict[str, float]:
    """Print and return the ratios; one thread unless said."""
    results: dict[str, float] = {}
    for count, dimension in ((100_000, 768), (1_000_000, 512)):
        results |= _by_cells(room(count), 16, dimension)
    results |= _by_cells(room(100_000), 2, 512)
    results |= _beside_a_render(room(100_000))
    results |= _two_threads(room(100_000))
    return results


def _by_cells(gaussians: GaussianMap, cell: int, dimension: int) -> dict[str, float]:
    """Projection, weights and product of a view: cells, single and in a batch; pixels; and the plain loop."""
    grid = grid_of_cells(cell, dimension)
    pixels = FeatureGrid(torch.nn.functional.interpolate(
        grid.values.permute(2, 0, 1)[None], scale_factor=cell, mode="bilinear", align_corners=False
    )[0, :, :HEIGHT, :WIDTH].permute(1, 2, 0).contiguous())  # fmt: skip
    numerator, weight = torch.zeros(len(gaussians), dimension), torch.zeros(len(gaussians))
    kernels.set_thread_count(1)

    def lift(one: FeatureGrid, views: int) -> None:
        fresh = [_cpu_view(gaussians) for _ in range(views)]
        backproject_views(fresh, [one] * views, [None] * views, numerator, weight)

    single = seconds(lambda: lift(grid, 1))
    batch = seconds(lambda: lift(grid, BATCH), 3) / BATCH
    by_pixels = seconds(lambda: lift(pixels, 1), 3)
    plain = seconds(lambda: _plain_loop(gaussians, pixels.values, numerator), 1)
    nonzeros = _nonzeros(gaussians, pixels) / _nonzeros(gaussians, grid)
    name = f"{len(gaussians) // 1000}k Gaussians, {dimension}-d, {cell}-px cells"
    print(f"{name}: a view {single:.3f} s, of {BATCH} at once {batch:.3f} s")
    print(
        f"  by pixels, our own kernel  {by_pixels:.3f} s: {by_pixels / batch:.1f}x ({by_pixels / single:.1f}x single)"
    )
    print(f"  by pixels, the plain loop  {plain:.3f} s: {plain / batch:.1f}x ({plain / single:.1f}x single)")
    print(f"  non-zeros of pixels over those of cells: {nonzeros:.1f}x")
    return {f"{name}, over our pixels": by_pixels / batch, f"{name}, over the plain loop": plain / batch}


def _beside_a_render(gaussians: GaussianMap) -> dict[str, float]:
    kernels.set_thread_count(1)
    grid = grid_of_cells(16, 768)
    numerator, weight = torch.zeros(len(gaussians), 768), torch.zeros(len(gaussians))
    lifted = seconds(lambda: backproject_views([_cpu_view(gaussians)], [grid], [None], numerator, weight))
    colored = seconds(lambda: _cpu_view(gaussians).render_color())
    print(f"768-d back-projection {lifted:.3f} s, colour render {colored:.3f} s: {lifted / colored:.2f}x")
    return {"768-d back-projection over colour render": lifted / colored}


def _two_threads(gaussians: GaussianMap) -> dict[str, float]:
    grid = grid_of_cells(16, 768)
    numerator, weight = torch.zeros(len(gaussians), 768), torch.zeros(len(gaussians))

    def lift() -> None:
        fresh = [_cpu_view(gaussians) for _ in range(BATCH)]
        backproject_views(fresh, [grid] * BATCH, [None] * BATCH, numerator, weight)

    times = {}
    for threads in (1, 2):
        kernels.set_thread_count(threads)
        times[threads] = seconds(lift)
    print(f"one thread {times[1]:.3f} s, two {times[2]:.3f} s: {times[1] / times[2]:.2f}x")
    return {"one thread over two": times[1] / times[2]}


def _cpu_view(gaussians: GaussianMap) -> CpuView:
    return CpuBackend().view(gaussians, CAMERA, POSE)


def _nonzeros(gaussians: GaussianMap, grid: FeatureGrid) -> int:
    """(Gaussian, cell) pairs with weight; a cell between two tiles counts in each."""
    projected = _cpu_view(gaussians)
    layout = grid_layout(grid, WIDTH, HEIGHT)
    if layout.coarse:
        return int((coarse_weights(projected.projection, layout, NO_MASK).sums.corners > 0).sum())
    sums = fine_weights(projected.projection, layout, NO_MASK, 0, layout.y.tiles).sums
    return int((sums.blocks[np.repeat(sums.filled, np.diff(sums.offsets))] > 0).sum())


def _plain_loop(gaussians: GaussianMap, features: Tensor, numerator: Tensor) -> None:
    """What a D-channel backward pass does: every pixel's D channels to every Gaussian that it sees."""
    projection = _cpu_view(gaussians).projection
    layout = pixel_layout(WIDTH, HEIGHT)
    bins = bin_pairs(projection, layout)
    _accumulate(
        projection.splats,
        projection.indices,
        bins.entries,
        bins.gaussians,
        layout.x.edges,
        layout.y.edges,
        features.numpy(),
        numerator.numpy(),
    )


@numba.njit(fastmath=True, cache=True)  # type: ignore[untyped-decorator]
def _accumulate(splats, indices, entries, gaussians, edges_x, edges_y, features, numerator):  # type: ignore[no-untyped-def]
    columns = edges_x.shape[0] - 1
    dimension = features.shape[2]
    for tile in range(entries.shape[0] - 1):
        row = tile // columns
        column = tile - row * columns
        for y in range(edges_y[row], edges_y[row + 1]):
            for x in range(edges_x[column], edges_x[column + 1]):
                transmittance = np.float32(1)
                for entry in range(entries[tile], entries[tile + 1]):
                    i = gaussians[entry]
                    dx, dy = np.float32(x + 0.5) - splats[i, 0], np.float32(y + 0.5) - splats[i, 1]
                    sigma = np.float32(0.5) * (splats[i, 2] * dx * dx + splats[i, 4] * dy * dy) + splats[i, 3] * dx * dy
                    alpha = min(np.float32(0.999), splats[i, 5] * np.float32(math.exp(-sigma)))
                    if sigma < 0 or alpha < np.float32(1 / 255):
                        continue
                    weight = alpha * transmittance
                    if transmittance - weight <= np.float32(1e-4):
                        break
                    transmittance -= weight
                    for d in range(dimension):
                        numerator[indices[i], d] += weight * features[y, x, d]
