"""A view's operator at a grid's own cells, ``A = diag(Uᵀ m)⁻¹ Uᵀ M W``, kept as one sparse matrix on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from feature_gs_ros.core.errors import BackendError, GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.rasterizer.conventions import CELL_WEIGHT_MIN
from feature_gs_ros.rasterizer.cuda.accumulate import blocks_of
from feature_gs_ros.rasterizer.cuda.kernels import product as kernels
from feature_gs_ros.rasterizer.cuda.runtime import COUNTABLE, launch
from feature_gs_ros.rasterizer.cuda.weights import CellBlocks, sum_weights

if TYPE_CHECKING:
    from feature_gs_ros.rasterizer.cuda.view import CudaView


@dataclass(frozen=True, eq=False)
class _Rows:
    """A sparse matrix by rows, on the device."""

    ends: Tensor  # [rows + 1] int64
    indices: Tensor  # int32
    weights: Tensor

    @staticmethod
    def of(rows: Tensor, columns: Tensor, weights: Tensor, count: int) -> _Rows:
        """Of entries in any order; several for one place add up when multiplied."""
        order = torch.argsort(rows, stable=True)
        every = torch.arange(count + 1, device=rows.device)
        ends = torch.searchsorted(rows[order], every)
        return _Rows(ends, columns[order].to(torch.int32), weights[order])

    def times(self, values: Tensor) -> Tensor:
        """Times dense values [M, D], which may lie anywhere; the product lies there."""
        dense = values.detach().to(self.weights.device, torch.float32).contiguous()
        product = torch.empty(len(self.ends) - 1, dense.shape[1], device=dense.device)
        arrays = (self.ends, self.indices, self.weights, dense, product)
        launch(kernels.multiply, (len(product), dense.shape[1]), dense.device, *arrays)
        return product.to(values.device)


class CudaCellOperator:
    """A of one view and one kind of grid; see `feature_gs_ros.rasterizer.base.CellOperator`."""

    def __init__(self, view: CudaView, grid: FeatureGrid, valid: Tensor | None = None) -> None:
        parts, mask = blocks_of(view, grid, valid), view.mask(valid)
        layout, device, camera = parts[0].layout, view.device, view.camera
        counts = torch.ones(camera.height, camera.width, device=device) if mask is None else mask
        lines, columns = (torch.from_numpy(axis.dense()).to(device) for axis in (layout.y, layout.x))
        total = (lines.T @ counts @ columns).reshape(-1)  # Uᵀ m
        full = (lines.sum(0)[:, None] * columns.sum(0)).max()
        enough = total > CELL_WEIGHT_MIN * full
        self.cells = enough.nonzero()[:, 0].cpu()
        self.gaussians = len(view.gaussians)
        self.products = 0
        entries = [_entries(part, layout.x.cells) for part in parts]
        if sum(len(weights) for _, _, weights in entries) > COUNTABLE:
            raise BackendError(
                "a view has more pairs of a cell and a Gaussian than can be counted: use larger cells",
                code="backend.range",
            )
        owners, cells, weights = (torch.cat(column) for column in zip(*entries, strict=True))
        rows = view.projection.rows[owners].long()
        self.weight = torch.zeros(self.gaussians, device=device).index_add_(0, rows, weights).cpu()
        place = enough.cumsum(0) - 1
        kept = enough[cells]
        rows, cells, weights = rows[kept], cells[kept], weights[kept]
        weights = weights / total[cells]
        self._matrix = _Rows.of(place[cells], rows, weights, len(self.cells))
        self._transposed = _Rows.of(rows, place[cells], weights, self.gaussians)

    @property
    def nonzeros(self) -> int:
        """Pairs of a cell and a Gaussian."""
        return len(self._matrix.indices)

    def forward(self, features: Tensor) -> Tensor:
        """A f: features [N, D] to cells [C, D], where the features lie."""
        self.products += 1
        return self._matrix.times(features)

    def adjoint(self, values: Tensor) -> Tensor:
        """Aᵀ g: cells [C, D] to Gaussians [N, D], where the values lie."""
        self.products += 1
        return self._transposed.times(values)

    def target(self, grid: FeatureGrid) -> Tensor:
        """A grid's values [C, D] float32 at `cells`.

        Raises:
            GridError: the grid has another number of cells.
        """
        values = grid.values.reshape(-1, grid.dimension)
        if len(self.cells) and int(self.cells[-1]) >= len(values):
            raise GridError(f"a grid of {len(values)} cells doesn't fit the operator's", code="grid.shape")
        return values[self.cells.to(values.device)].float()


def _entries(part: CellBlocks, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the splat, cell and weight of every entry of UᵀMW; one for each Gaussian and cell of a band."""
    weights = torch.zeros(part.size, device=part.blocks.device)
    sum_weights(part, weights)
    found = weights.nonzero()[:, 0]
    ends = (part.blocks[:, 2] * part.blocks[:, 3]).cumsum(0)
    owner = torch.searchsorted(ends, found, right=True)
    block, inside = part.blocks[owner].long(), found - part.offsets[owner]
    cells = (block[:, 1] + inside // block[:, 2]) * columns + block[:, 0] + inside % block[:, 2]
    return owner, cells, weights[found]
