"""The CPU backend: `CpuView`, one view's W and Wᵀ by numba kernels over arrays shared with torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import camera_centre
from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.conventions import ALPHA_MIN
from feature_gs_ros.rasterizer.cpu.arrays import Bins
from feature_gs_ros.rasterizer.cpu.cell_operator import CpuCellOperator
from feature_gs_ros.rasterizer.cpu.constants import CONIC_A, CONIC_B, CONIC_C, OPACITY
from feature_gs_ros.rasterizer.cpu.labels import label_weights
from feature_gs_ros.rasterizer.cpu.masks import mask_array
from feature_gs_ros.rasterizer.cpu.order import spatial_order
from feature_gs_ros.rasterizer.cpu.product import add_coarse, add_fine, add_pixels, add_totals
from feature_gs_ros.rasterizer.cpu.projection import Projection, project
from feature_gs_ros.rasterizer.cpu.render import render_values
from feature_gs_ros.rasterizer.cpu.spherical_harmonics import colors_from_sh
from feature_gs_ros.rasterizer.cpu.tiles import bin_pairs
from feature_gs_ros.rasterizer.cpu.weights import CoarseWeights, FineWeights, coarse_weights, fine_weights
from feature_gs_ros.rasterizer.tiling import Layout, grid_layout, pixel_layout

if TYPE_CHECKING:
    from feature_gs_ros.rasterizer.base import Backend

FINE_PAIRS = 2_000_000  # pairs of tile and Gaussian whose cell blocks are held at once
MAX_PIXEL_CHANNELS = 24  # channels up to which features per pixel need no cells
MAX_SUMS = 1 << 27  # of pairs of tile and Gaussian, held at once
CHUNK = 2048  # Gaussians whose rows take all views of a batch before the next ones


class CpuView:
    """`View` by numba kernels: projected, culled and sorted when it is made."""

    def __init__(
        self, backend: Backend, gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]
    ) -> None:
        self.backend = backend
        self.gaussians = gaussians
        self.camera = camera
        self.camera_from_splat = camera_from_splat
        self.projection: Projection = project(gaussians, camera, camera_from_splat)

    def render(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """W v, see `View.render`."""
        if values.dim() != 2 or values.shape[0] != len(self.gaussians):
            raise GridError(
                f"values have shape {tuple(values.shape)}, expected ({len(self.gaussians)}, C)", code="grid.shape"
            )
        return self._render_visible(values.detach().to("cpu", torch.float32)[self.visible].numpy(), rows)

    @property
    def visible(self) -> Tensor:
        """Rows [V] int64 of the map's Gaussians that can touch the image."""
        return torch.from_numpy(self.projection.rows).long()

    def render_visible(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """W v of the visible Gaussians' values, see `View.render_visible`."""
        if values.dim() != 2 or len(values) != len(self.projection):
            raise GridError(
                f"values have shape {tuple(values.shape)}, expected ({len(self.projection)}, C)", code="grid.shape"
            )
        return self._render_visible(values.detach().to("cpu", torch.float32).numpy(), rows)

    def render_color(self) -> Tensor:
        """Colour from the spherical harmonics, [H, W, 3], not clipped at 1."""
        pose = self.camera_from_splat
        eye = camera_centre(pose).astype(np.float32)
        colors = colors_from_sh(self.gaussians.sh.numpy(), self.gaussians.means.numpy(), eye, self.projection.rows)
        return self._render_visible(colors)

    def render_depth(self) -> Tensor:
        """Accumulated camera z, Σ w z, and opacity, Σ w: [H, W, 2] in splat units and 0..1."""
        depths = self.projection.depths
        return self._render_visible(np.stack([depths, np.ones_like(depths)], axis=1))

    def backproject(self, grid: FeatureGrid, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Wᵀ M U F and Wᵀ m, see `View.backproject`."""
        numerator = torch.zeros(len(self.gaussians), grid.dimension)
        weight = torch.zeros(len(self.gaussians))
        backproject_views([self], [grid], [valid], numerator, weight)
        inverse = torch.from_numpy(spatial_order(self.gaussians).inverse)
        return numerator[inverse], weight[inverse]

    def backproject_labels(
        self, labels: NDArray[np.integer], classes: int, valid: Tensor | None = None
    ) -> scipy.sparse.csr_matrix:
        """Wᵀ M L of a label image, see `View.backproject_labels`."""
        size = (self.camera.height, self.camera.width)
        if labels.shape != size or labels.max() >= classes:
            raise GridError(
                f"labels {labels.shape} up to {labels.max()} don't fit an image {size} and {classes} classes",
                code="grid.shape",
            )
        image = np.ascontiguousarray(labels, dtype=np.int32)
        mask = mask_array(valid, self.camera)
        return label_weights(self.projection, *self._pixel_tiles, image, classes, mask, len(self.gaussians))

    def cell_operator(self, grid: FeatureGrid, valid: Tensor | None = None) -> CpuCellOperator:
        """A at the grid's cells, see `View.cell_operator`."""
        return CpuCellOperator(self.projection, self.camera, len(self.gaussians), grid, valid)

    def unoccluded_weight(self) -> Tensor:
        """Each Gaussian's alpha summed over all pixels, see `View.unoccluded_weight`.

        In closed form over the whole plane: parts beyond the image's border count, too.
        """
        splats = torch.from_numpy(self.projection.splats)
        determinant = splats[:, CONIC_A] * splats[:, CONIC_C] - splats[:, CONIC_B] ** 2
        # ∫ o·exp(−q/2) over the plane is 2π o / √det; the skirt below ALPHA_MIN isn't drawn.
        opacity = (splats[:, OPACITY] - float(ALPHA_MIN)).clamp_min(0.0)
        weight = torch.zeros(len(self.gaussians))
        weight[self.visible] = 2 * torch.pi * opacity / determinant.clamp_min(1e-12).sqrt()
        return weight

    @cached_property
    def _pixel_tiles(self) -> tuple[Layout, Bins]:
        layout = pixel_layout(self.camera.width, self.camera.height)
        return layout, bin_pairs(self.projection, layout)

    def _render_visible(self, values: NDArray[np.float32], rows: tuple[int, int] | None = None) -> Tensor:
        first, end = rows or (0, self.camera.height)
        return torch.from_numpy(render_values(self.projection, *self._pixel_tiles, values, first, end))


@dataclass(frozen=True)
class CurveSegments:
    """The curve in parts, a whole number of chunks each, and what happens after each of them."""

    rows: int
    after: Callable[[], None] = lambda: None


def backproject_views(
    views: Sequence[CpuView],
    grids: Sequence[FeatureGrid],
    valids: Sequence[Tensor | None],
    numerator: Tensor,  # [N, D] float32, added to
    weight: Tensor,  # [N] float32, added to
    view_count: Tensor | None = None,  # [N] int32, ±1 where a view's weight is above 0
    sign: int = 1,
    segments: CurveSegments | None = None,
) -> None:
    """Add Σ_v Wᵀ M U F to accumulators along the map's Z-curve (`spatial_order`).

    Several views per call touch each row of the accumulators once, not once per view. ``sign`` −1 takes them out.
    """
    segments = segments or CurveSegments(len(weight))
    coarse: list[tuple[CpuView, CoarseWeights, NDArray[np.float32], NDArray[np.float32]]] = []
    counts = np.zeros(len(weight), np.int32) if view_count is None else view_count.numpy()
    totals = [np.zeros(len(view.projection), np.float32) for view in views]
    for view, grid, valid, total in zip(views, grids, valids, totals, strict=True):
        layout = grid_layout(grid, view.camera.width, view.camera.height)
        mask = mask_array(valid, view.camera)
        values = grid.values.to("cpu", torch.float32).contiguous().numpy()
        values = values if sign == 1 else sign * values
        cells = values.reshape(-1, grid.dimension)
        if _by_pixels(view, layout, grid.dimension):
            add_pixels(view.projection, *view._pixel_tiles, values, mask, numerator.numpy(), total)
        elif layout.coarse:
            coarse.append((view, coarse_weights(view.projection, layout, mask), cells, total))
        else:
            for first, last in _bands(view, layout):
                weights = fine_weights(view.projection, layout, mask, first, last)
                _add_fine_band(view, weights, cells, numerator, total, segments)
    if coarse:
        _add_coarse_batch(coarse, numerator, segments)
    for view, total in zip(views, totals, strict=True):
        add_totals(view.projection, total, sign, weight.numpy(), counts)


def _by_pixels(view: CpuView, layout: Layout, dimension: int) -> bool:
    """Whether U is the identity, and channels are so few that a pair's sums are best taken at once."""
    identity = layout.x.identity and layout.y.identity
    return dimension <= MAX_PIXEL_CHANNELS and identity and view._pixel_tiles[1].pairs * (dimension + 1) <= MAX_SUMS


def _add_coarse_batch(
    batch: Sequence[tuple[CpuView, CoarseWeights, NDArray[np.float32], NDArray[np.float32]]],
    numerator: Tensor,
    segments: CurveSegments,
) -> None:
    target = numerator.numpy()
    # Chunks of the map's Z-curve: their cells and their rows of the accumulators stay in cache for all views.
    starts = np.arange(0, len(target) + CHUNK, CHUNK)
    ends = [np.searchsorted(view.projection.indices, starts) for view, _, _, _ in batch]

    def add(first: int, last: int) -> None:
        for chunk in range(first, last):
            for (view, weights, cells, total), end in zip(batch, ends, strict=True):
                if end[chunk] < end[chunk + 1]:
                    add_coarse(weights, view.projection, cells, end[chunk], end[chunk + 1], target, total)

    chunks, step = len(starts) - 1, -(-segments.rows // CHUNK)
    for begin in range(0, chunks, step):
        parallel_for(min(begin + step, chunks), 1, add, begin)
        segments.after()


def _add_fine_band(
    view: CpuView,
    weights: FineWeights,
    cells: NDArray[np.float32],
    numerator: Tensor,
    total: NDArray[np.float32],
    segments: CurveSegments,
) -> None:
    target = numerator.numpy()
    borders = np.arange(0, len(target) + segments.rows, segments.rows)
    ends = np.searchsorted(view.projection.indices, borders)

    def add(first: int, last: int) -> None:
        add_fine(weights, view.projection, cells, first, last, target, total)

    for begin, end in pairwise(ends.tolist()):
        parallel_for(end, 1024, add, begin)
        segments.after()


def _bands(view: CpuView, layout: Layout) -> list[tuple[int, int]]:
    """Ranges of tile rows that hold about `FINE_PAIRS` pairs each, so that the cell blocks stay small."""
    rows = layout.y.tiles
    pairs = bin_pairs(view.projection, layout).pairs
    bands = min(rows, -(-pairs // FINE_PAIRS) or 1)
    return [(rows * band // bands, rows * (band + 1) // bands) for band in range(bands)]
