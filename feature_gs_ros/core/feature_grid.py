"""FeatureGrid: an extractor's output and how its cells cover the image, i.e. the resampling matrix U."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from feature_gs_ros.core.errors import GridError

Interpolation = Literal["bilinear", "nearest"]


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
            raise GridError(f"a feature grid needs shape [rows, columns, D], got {tuple(self.values.shape)}")
        if self.values.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise GridError(f"a feature grid holds float16, bfloat16 or float32, got {self.values.dtype}")
        if not (self.right > self.left and self.bottom > self.top):
            raise GridError(f"the grid's rectangle ({self.left}, {self.top}) to ({self.right}, {self.bottom}) is empty")

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
            raise GridError(f"aligned corners need at least 2×2 cells, got {rows}×{columns}")
        cell_x = (width - 1) / (columns - 1) / width
        cell_y = (height - 1) / (rows - 1) / height
        left, top = 0.5 / width - cell_x / 2, 0.5 / height - cell_y / 2
        return FeatureGrid(values, left, top, left + columns * cell_x, top + rows * cell_y)
