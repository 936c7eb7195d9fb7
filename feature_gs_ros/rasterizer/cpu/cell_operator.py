"""A view's operator at an extractor's own cells, ``A = diag(Uᵀ m)⁻¹ Uᵀ M W``, kept as one sparse matrix.

A f is what the view shows of features f, averaged over each cell as the extractor's bilinear upsampling weighs its
pixels. With frozen geometry A never changes: where W is walked once, A is multiplied with as often as needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.conventions import CELL_WEIGHT_MIN
from feature_gs_ros.rasterizer.cpu.kernels import entries as kernels
from feature_gs_ros.rasterizer.cpu.masks import NO_MASK, check_valid
from feature_gs_ros.rasterizer.cpu.projection import Projection
from feature_gs_ros.rasterizer.cpu.weights import coarse_weights, fine_weights
from feature_gs_ros.rasterizer.tiling import Layout, grid_layout

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Rows:
    """A sparse matrix by rows."""

    ends: NDArray[np.int64]  # [rows + 1]
    indices: NDArray[np.int32]
    weights: Floats

    def times(self, values: Tensor) -> Tensor:
        """Times dense values [M, D] float32."""
        dense = np.ascontiguousarray(values.detach().numpy(), dtype=np.float32)
        product = np.empty((len(self.ends) - 1, dense.shape[1]), np.float32)
        step = max(8, len(product) // 64)
        arrays = (self.ends, self.indices, self.weights, dense, product)
        parallel_for(len(product), step, lambda i, j: kernels.multiply(i, j, *arrays))
        return torch.from_numpy(product)


class CpuCellOperator:
    """`CellOperator` as a sparse matrix and its transpose, both by rows."""

    def __init__(
        self, projection: Projection, camera: Camera, gaussians: int, grid: FeatureGrid, valid: Tensor | None = None
    ) -> None:
        """
        Args:
            gaussians: N of the map.
            grid: only how its cells cover the image counts, not their values.
            valid: m(p) [H, W]; all pixels count by default.

        Raises:
            GridError: ``valid`` has another size than the camera.
        """
        layout = grid_layout(grid, camera.width, camera.height)
        mask = check_valid(valid, camera)
        counts = np.ones((camera.height, camera.width), np.float32) if mask is None else mask.float().numpy()
        rows, columns = layout.y.dense(), layout.x.dense()
        total = (rows.T @ counts @ columns).reshape(-1)  # Uᵀ m
        full = (rows.sum(0)[:, None] * columns.sum(0)).max()
        self.cells = torch.from_numpy(np.flatnonzero(total > CELL_WEIGHT_MIN * full))  # [C] of rows × columns
        self.gaussians = gaussians
        self.products = 0
        rows_seen, cells, weights = _entries(projection, layout, NO_MASK if mask is None else counts)
        self.weight = torch.from_numpy(np.bincount(rows_seen, weights, gaussians).astype(np.float32))  # [N] Wᵀ m
        index = np.full(grid.rows * grid.columns, -1)
        index[self.cells.numpy()] = np.arange(len(self.cells))
        kept = index[cells] >= 0
        rows_seen, cells, weights = rows_seen[kept], cells[kept], weights[kept]
        matrix = scipy.sparse.csr_matrix(
            (weights / total[cells], (index[cells], rows_seen)), shape=(len(self.cells), gaussians)
        )
        self._matrix, self._transposed = _rows_of(matrix), _rows_of(matrix.T.tocsr())

    @property
    def nonzeros(self) -> int:
        """Pairs of a cell and a Gaussian."""
        return len(self._matrix.indices)

    def forward(self, features: Tensor) -> Tensor:
        """A f: features [N, D] to the cells that count [C, D]."""
        self.products += 1
        return self._matrix.times(features)

    def adjoint(self, values: Tensor) -> Tensor:
        """Aᵀ g: values [C, D] of the cells that count to Gaussians [N, D]."""
        self.products += 1
        return self._transposed.times(values)

    def target(self, grid: FeatureGrid) -> Tensor:
        """The extractor's values [C, D] float32 at the cells that count.

        Raises:
            GridError: a grid of another number of cells.
        """
        values = grid.values.reshape(-1, grid.dimension)
        if len(self.cells) and int(self.cells[-1]) >= len(values):
            raise GridError(f"a grid of {len(values)} cells doesn't fit the operator's", code="grid.shape")
        return values[self.cells].float()


def _entries(
    projection: Projection, layout: Layout, valid: Floats
) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
    """Gaussian, cell and weight of every entry of UᵀMW."""
    rows = projection.rows
    if layout.coarse:
        tiles, corner_sums = coarse_weights(projection, layout, valid)
        lists = _empty_lists(corner_sums.corners.size)
        count = kernels.coarse_entries(rows, corner_sums, tiles, *lists)
    else:
        tiles, bins, blocks = fine_weights(projection, layout, valid, 0, layout.y.tiles)
        lists = _empty_lists(blocks.blocks.size)
        count = kernels.fine_entries(rows, projection.splats, bins, blocks, tiles, *lists)
    return lists[0][:count], lists[1][:count], lists[2][:count]


def _empty_lists(size: int) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
    return np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float32)


def _rows_of(matrix: scipy.sparse.csr_matrix) -> _Rows:
    return _Rows(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32, copy=False)
    )
