"""FeatureGrid: an extractor's output and how its cells cover the image, i.e. the resampling matrix U.

U [pixels, cells] is separable: `axis_weights` is one side of it; `sample`, `upsample` (U F) and `pool` (Uᵀ g) are made
of that. Whatever resamples a grid takes its weights from here, so that ties fall alike everywhere: a pixel half-way
between two cells of a nearest grid takes the one to the right, or below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from feature_gs_ros.core.errors import GridError

Interpolation = Literal["bilinear", "nearest"]
SNAP = 1e-5  # of a cell: closer to a centre is on it


@dataclass(frozen=True, eq=False)
class FeatureGrid:
    """Values of ``rows × columns`` cells and the image rectangle that these cells tile.

    Cell (r, c) has its centre at ``x = left + (c + ½)(right − left)/columns``, and so for y; pixels
    between centres are interpolated, pixels beyond the outer centres take the border cell. A grid may
    reach beyond the image: SAM's 64×64 cells cover a padded square. A grid whose corners are aligned
    (``align_corners``) has centres on the outer pixels' centres, see `FeatureGrid.corner_aligned`.

    The rectangle is in units of the image (0 … 1 is its width and height), so that it holds at any
    raster size.

    Raises:
        GridError: not three axes, empty, not a floating type, or an empty rectangle.
    """

    values: Tensor  # [rows, columns, D] float16, bfloat16 or float32
    left: float = 0.0  # in image widths
    top: float = 0.0  # in image heights
    right: float = 1.0
    bottom: float = 1.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.values.dim() != 3 or 0 in self.values.shape:
            raise GridError(
                f"a feature grid needs shape [rows, columns, D], got {tuple(self.values.shape)}", code="grid.shape"
            )
        if self.values.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise GridError(
                f"a feature grid holds float16, bfloat16 or float32, got {self.values.dtype}", code="grid.dtype"
            )
        if not (self.right > self.left and self.bottom > self.top):
            raise GridError(
                f"the grid's rectangle ({self.left}, {self.top}) to ({self.right}, {self.bottom}) is empty",
                code="grid.empty",
            )

    @property
    def rows(self) -> int:
        return self.values.shape[0]

    @property
    def columns(self) -> int:
        return self.values.shape[1]

    @property
    def dimension(self) -> int:
        return self.values.shape[2]

    @staticmethod
    def corner_aligned(values: Tensor, width: int, height: int) -> FeatureGrid:
        """A grid [rows, columns, D] whose outer centres lie on the outer pixels' centres of a width × height image."""
        rows, columns = values.shape[0], values.shape[1]
        if rows < 2 or columns < 2:
            raise GridError(f"aligned corners need at least 2×2 cells, got {rows}×{columns}", code="grid.range")
        cell_x = (width - 1) / (columns - 1) / width
        cell_y = (height - 1) / (rows - 1) / height
        left, top = 0.5 / width - cell_x / 2, 0.5 / height - cell_y / 2
        return FeatureGrid(values, left, top, left + columns * cell_x, top + rows * cell_y)


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """One side of U: a point takes ``1 − fraction`` of the cell ``lower`` and ``fraction`` of the next one."""

    cells: int
    lower: NDArray[np.int32]  # [points] the cell at or before each point
    fraction: NDArray[np.float32]  # [points] weight of cell lower + 1; 0 for the last cell

    @property
    def upper(self) -> NDArray[np.int32]:
        """[points] the cell that ``fraction`` is of."""
        return np.minimum(self.lower + 1, self.cells - 1)

    @property
    def mixes(self) -> bool:
        """Whether any point lies between two cells."""
        return bool(self.fraction.any())

    def dense(self) -> NDArray[np.float32]:
        """The weights written out, [points, cells]; rows sum to 1."""
        matrix = np.zeros((len(self.lower), self.cells), np.float32)
        points = np.arange(len(self.lower))
        np.add.at(matrix, (points, self.lower), 1 - self.fraction)
        np.add.at(matrix, (points, self.upper), self.fraction)
        return matrix


def pixel_centres(pixels: int) -> NDArray[np.float64]:
    """Where the centres of a row or column of pixels lie, [pixels], in units of the image."""
    centres: NDArray[np.float64] = (np.arange(pixels) + 0.5) / pixels
    return centres


def axis_weights(
    points: NDArray[np.float64], cells: int, begin: float, end: float, interpolation: Interpolation
) -> AxisWeights:
    """Weights of ``cells`` cells, which tile ``begin … end``, at points [points]; all in units of the image."""
    position = (points - begin) / (end - begin) * cells - 0.5
    if interpolation == "nearest":
        position = np.floor(position + 0.5)
    position = np.clip(position, 0, cells - 1)  # beyond the outer centres: the border cell
    lower = np.floor(position + SNAP)
    fraction = np.maximum(position - lower, 0.0)
    fraction[fraction < SNAP] = 0.0
    return AxisWeights(cells, lower.astype(np.int32), fraction.astype(np.float32))


def pixel_weights(grid: FeatureGrid, width: int, height: int) -> tuple[AxisWeights, AxisWeights]:
    """U of an image of width × height pixels: its weights along x and along y."""
    return (
        axis_weights(pixel_centres(width), grid.columns, grid.left, grid.right, grid.interpolation),
        axis_weights(pixel_centres(height), grid.rows, grid.top, grid.bottom, grid.interpolation),
    )


def sample(grid: FeatureGrid, x: ArrayLike, y: ArrayLike) -> Tensor:
    """Rows of U F: the grid's values at points of the image.

    Args:
        x, y: [M] in image widths and heights; beyond the grid its border cells count.

    Returns:
        Values [M, D] float32.
    """
    across, down = (
        axis_weights(np.asarray(points, dtype=np.float64), cells, begin, end, grid.interpolation)
        for points, cells, begin, end in (
            (x, grid.columns, grid.left, grid.right),
            (y, grid.rows, grid.top, grid.bottom),
        )
    )
    left, right, u = _tensors(across)
    top, bottom, v = _tensors(down)
    if not (across.mixes or down.mixes):
        return grid.values[top, left].float()
    u, v = u.unsqueeze(1), v.unsqueeze(1)
    upper = grid.values[top, left].float() * (1 - u) + grid.values[top, right].float() * u
    lower = grid.values[bottom, left].float() * (1 - u) + grid.values[bottom, right].float() * u
    return upper * (1 - v) + lower * v


def upsample(grid: FeatureGrid, height: int, width: int) -> Tensor:
    """U F: the grid's values at every pixel's centre, [height, width, D] float32."""
    across, down = pixel_weights(grid, width, height)
    values = grid.values.to(torch.float32)
    low, high, fraction = _tensors(down)
    values = torch.lerp(values[low], values[high], fraction[:, None, None])
    low, high, fraction = _tensors(across)
    return torch.lerp(values[:, low], values[:, high], fraction[None, :, None])


def pool(grid: FeatureGrid, pixels: Tensor) -> Tensor:
    """Uᵀ g: what of the pixels' values falls to each of the grid's cells; the values of the grid don't count.

    Args:
        pixels: g [H, W] or [H, W, K].

    Returns:
        Sums [rows, columns] or [rows, columns, K] float32.
    """
    across, down = pixel_weights(grid, pixels.shape[1], pixels.shape[0])
    rows = _gathered(down, pixels.to(torch.float32))
    return _gathered(across, rows.transpose(0, 1)).transpose(0, 1)


def _gathered(axis: AxisWeights, values: Tensor) -> Tensor:
    """One axis of Uᵀ: values [points, …] added up by cell, [cells, …]; as a matrix it would take points × cells."""
    lower, upper, fraction = _tensors(axis)
    fraction = fraction.reshape(-1, *[1] * (values.dim() - 1))
    sums = torch.zeros(axis.cells, *values.shape[1:])
    sums.index_add_(0, lower, values * (1 - fraction))
    return sums.index_add_(0, upper, values * fraction)


def _tensors(axis: AxisWeights) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(axis.lower).long(), torch.from_numpy(axis.upper).long(), torch.from_numpy(axis.fraction)
