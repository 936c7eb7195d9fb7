"""`View` of the GPU: one view's W and Wᵀ, its splats and lists on the device."""

from __future__ import annotations

from functools import cached_property
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
from feature_gs_ros.numerics.streams import upload
from feature_gs_ros.rasterizer.cuda.accumulate import backproject_views
from feature_gs_ros.rasterizer.cuda.cell_operator import CudaCellOperator
from feature_gs_ros.rasterizer.cuda.kernels import blending, spherical_harmonics
from feature_gs_ros.rasterizer.cuda.labels import label_weights
from feature_gs_ros.rasterizer.cuda.pairs import Pairs, pair_tiles
from feature_gs_ros.rasterizer.cuda.product import Sums
from feature_gs_ros.rasterizer.cuda.projection import Projection, eye_of, project
from feature_gs_ros.rasterizer.cuda.render import render_values
from feature_gs_ros.rasterizer.cuda.runtime import launch, out_of_memory, vectors
from feature_gs_ros.rasterizer.tiling import pixel_layout

if TYPE_CHECKING:
    from feature_gs_ros.rasterizer.cuda.backend import CudaBackend


class CudaView:
    """One view of a map; see `feature_gs_ros.rasterizer.base.View`."""

    def __init__(
        self,
        backend: CudaBackend,
        gaussians: GaussianMap,
        camera: Camera,
        camera_from_splat: NDArray[np.float64],
    ) -> None:
        self.backend = backend
        self.gaussians = gaussians
        self.camera = camera
        self.camera_from_splat = camera_from_splat
        self.device = backend.device
        with out_of_memory(self.device, f"a map of {len(gaussians)} Gaussians"):
            self.projection: Projection = project(backend.maps(gaussians), camera, camera_from_splat)

    @property
    def visible(self) -> Tensor:
        """Rows [V] int64 of the map's Gaussians that can touch the image, front to back."""
        return self.projection.rows.to("cpu", torch.int64)

    def render(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """W v, see `View.render`; the image lies where the values lie."""
        if values.dim() != 2 or values.shape[0] != len(self.gaussians):
            raise GridError(
                f"values have shape {tuple(values.shape)}, expected ({len(self.gaussians)}, C)", code="grid.shape"
            )
        index = self.projection.rows.to(values.device).long()
        return self._render(values.detach()[index], rows).to(values.device)

    def render_visible(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """As `render`, of values [V, C] of the `visible` Gaussians alone."""
        if values.dim() != 2 or len(values) != len(self.projection):
            raise GridError(
                f"values have shape {tuple(values.shape)}, expected ({len(self.projection)}, C)", code="grid.shape"
            )
        return self._render(values.detach(), rows).to(values.device)

    def render_color(self) -> Tensor:
        """Colour from the spherical harmonics, [H, W, 3], not clipped at 1."""
        rows = self.projection.rows
        colors = torch.empty(len(rows), 3, device=self.device)
        # Coefficients stay on the host, forty-eight numbers per Gaussian, and what is in view comes over.
        columns, shown = (self.gaussians.means, self.gaussians.sh), rows.cpu().long()
        means, sh = (upload(column[shown], self.device) for column in columns)
        every = torch.arange(len(rows), dtype=torch.int32, device=self.device)
        arrays = (every, vectors(means), sh, eye_of(self.camera_from_splat), colors)
        launch(spherical_harmonics.colors, (len(rows), 3), self.device, *arrays)
        return self._render(colors).cpu()

    def render_depth(self) -> Tensor:
        """Accumulated camera z, Σ w z, and opacity, Σ w: [H, W, 2] in splat units and 0..1."""
        depths = self.projection.depths
        return self._render(torch.stack([depths, torch.ones_like(depths)], dim=1)).cpu()

    def backproject(self, grid: FeatureGrid, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Wᵀ M U F and Wᵀ m, see `View.backproject`."""
        count = len(self.gaussians)
        with out_of_memory(self.device, f"{count} Gaussians × {grid.dimension} channels"):
            sums = Sums(
                torch.zeros(count, grid.dimension, device=self.device),
                torch.zeros(count, device=self.device),
                torch.zeros(count, dtype=torch.int32, device=self.device),
            )
        backproject_views([self], [grid], [valid], sums)
        return sums.numerator.cpu(), sums.weight.cpu()

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
        image = upload(torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int32)), self.device)
        shape = (len(self.gaussians), classes)
        with out_of_memory(self.device, "back-projecting labels"):
            return label_weights(self.projection, self.pixel_pairs, image, self.mask(valid), shape)

    def cell_operator(self, grid: FeatureGrid, valid: Tensor | None = None) -> CudaCellOperator:
        """A of this view and one kind of grid, see `View.cell_operator`."""
        with out_of_memory(self.device, "the weights of a view's cells"):
            return CudaCellOperator(self, grid, valid)

    def unoccluded_weight(self) -> Tensor:
        """Weight [N] of each Gaussian if nothing stood in front, see `View.unoccluded_weight`."""
        pairs = self.pixel_pairs
        weight = torch.zeros(len(self.projection), device=self.device)
        launch(blending.unoccluded, len(pairs), self.device, pairs.tiles, pairs.entries[1:], weight)
        result = torch.zeros(len(self.gaussians), device=self.device)
        return result.index_copy_(0, self.projection.rows.long(), weight).cpu()

    @cached_property
    def pixel_pairs(self) -> Pairs:
        """Which Gaussians may touch which plain square tiles."""
        return pair_tiles(self.projection, pixel_layout(self.camera.width, self.camera.height))

    def mask(self, valid: Tensor | None) -> Tensor | None:
        """m(p) [H, W] float32 on the device; raises as `check_valid`."""
        self.check_valid(valid)
        return None if valid is None else upload(valid, self.device, torch.float32).contiguous()

    def check_valid(self, valid: Tensor | None) -> None:
        """A GridError if the mask's size isn't the image's."""
        if valid is not None and tuple(valid.shape) != (self.camera.height, self.camera.width):
            raise GridError(
                f"the mask of pixels that count is {tuple(valid.shape)}, "
                f"the image {self.camera.height}×{self.camera.width}",
                code="grid.size",
            )

    def _render(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        first, end = rows or (0, self.camera.height)
        with out_of_memory(self.device, f"an image of {values.shape[1]} channels"):
            return render_values(self.pixel_pairs, upload(values, self.device, torch.float32).contiguous(), first, end)
