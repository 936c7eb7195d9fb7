"""Tiles of an image whose corners follow a grid's cell centres: what a backend's kernels walk.

Between two cell centres bilinear interpolation is linear, so a tile that never crosses a centre touches
2×2 cells and needs four sums per Gaussian (coarse cells). Where cells are smaller than a tile, a tile holds
many cells and a Gaussian touches a small block of them (fine cells).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import CameraError
from feature_gs_ros.core.feature_grid import AxisWeights, FeatureGrid, Interpolation, axis_weights, pixel_centres

TILE = 16  # pixels per side at most
COARSE_CELL = 9.0  # pixels; cells at least as large get tiles between their centres
MAX_TILES = np.iinfo(np.int16).max  # a side of the image

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Axis(AxisWeights):
    """One side of U at the pixels of an image, and where its tiles end."""

    edges: Ints  # [tiles + 1] first pixel of each tile, and the end
    tile_of: Ints  # [pixels] the tile of each pixel
    coarse: bool  # every tile lies between two neighbouring centres

    @property
    def tiles(self) -> int:
        return len(self.edges) - 1

    @cached_property
    def first_cells(self) -> Ints:
        """[tiles] the cell at or before each tile's first pixel."""
        return self.lower[self.edges[:-1]]

    @cached_property
    def identity(self) -> bool:
        """Whether each pixel is a cell of its own."""
        return not self.mixes and np.array_equal(self.lower, np.arange(self.cells))


@dataclass(frozen=True, eq=False)
class Layout:
    """The tiles of an image for one kind of grid."""

    x: Axis
    y: Axis

    @property
    def coarse(self) -> bool:
        return self.x.coarse

    @property
    def tiles(self) -> int:
        return self.x.tiles * self.y.tiles


def grid_layout(grid: FeatureGrid, width: int, height: int) -> Layout:
    """Tiles for back-projecting ``grid`` over an image of width × height pixels.

    Raises:
        CameraError: the image has more than `MAX_TILES` tiles a side.
    """
    coarse = (
        min((grid.right - grid.left) * width / grid.columns, (grid.bottom - grid.top) * height / grid.rows)
        >= COARSE_CELL
    )
    return _layout(
        _axis(width, grid.columns, grid.left, grid.right, grid.interpolation, coarse),
        _axis(height, grid.rows, grid.top, grid.bottom, grid.interpolation, coarse),
    )


def pixel_layout(width: int, height: int) -> Layout:
    """Plain square tiles, a cell a pixel; raises as `grid_layout`."""
    return _layout(_axis(width, width, 0.0, 1.0, "nearest", False), _axis(height, height, 0.0, 1.0, "nearest", False))


def _layout(x: Axis, y: Axis) -> Layout:
    if max(x.tiles, y.tiles) > MAX_TILES:
        raise CameraError(
            f"an image of {len(x.lower)}×{len(y.lower)} px has more than {MAX_TILES} tiles a side; render it in parts",
            code="camera.range",
        )
    return Layout(x, y)


@lru_cache(maxsize=64)
def _axis(pixels: int, cells: int, begin: float, end: float, interpolation: Interpolation, coarse: bool) -> Axis:
    weights = axis_weights(pixel_centres(pixels), cells, begin, end, interpolation)
    cuts = np.flatnonzero(np.diff(weights.lower)) + 1 if coarse else np.zeros(0, np.int64)
    spans = np.concatenate([[0], cuts, [pixels]])
    edges = [0]
    for start, stop in itertools.pairwise(spans):
        parts = -(-(stop - start) // TILE)
        edges += (
            [int(start + (stop - start) * (part + 1) // parts) for part in range(parts)]
            if coarse
            else [int(min(start + TILE * (part + 1), stop)) for part in range(parts)]
        )
    tile_of = np.repeat(np.arange(len(edges) - 1), np.diff(edges)).astype(np.int32)
    return Axis(cells, weights.lower, weights.fraction, np.array(edges, np.int32), tile_of, coarse)
