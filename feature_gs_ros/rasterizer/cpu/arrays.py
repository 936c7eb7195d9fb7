"""What the CPU's kernels take: arrays that belong together, with shape, type and unit of each.

numba takes NamedTuples as they are. All arrays are C-contiguous; N Gaussians in the map, V of them in the view (the
splats), D channels, tiles counted row by row. A *pair* is a splat and a tile that it may touch. It has an *entry*,
counted by tile and there front to back, and a *slot*, counted by splat and there by tile row and column. What is summed
per pair is written by slot, so that a second pass adds up each splat's pairs in a fixed order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.rasterizer.tiling import Axis, Layout

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


class Geometry(NamedTuple):
    """Gaussians in the splat's frame, in the order in which they are walked."""

    means: Floats  # [N, 3] splat units
    quats_wxyz: Floats  # [N, 4] unit
    scales: Floats  # [N, 3] linear, splat units
    opacities: Floats  # [N] linear, 0..1


class Pinhole(NamedTuple):
    """A camera and where it stands."""

    pose: Floats  # [3, 4] camera from splat, rigid, splat units
    intrinsics: Floats  # [6] fx, fy, cx, cy, width, height (px, from the image's corner)
    pose64: Doubles  # [3, 4] and
    lens64: Doubles  # [4] fx, fy, cx, cy: the same in float64, for means
    antialiased: bool  # whether opacities are compensated for the blur: √(det without it / det with it)
    blur: np.float32  # px², added to the diagonal of covariances


class Projected(NamedTuple):
    """Room for splats, or the splats."""

    splats: Floats  # [V, 8] mean x, y (px); conic a, b, c (1/px²); opacity; half width and height (px): `constants`
    depths: Floats  # [V] camera z, splat units
    indices: Ints  # [V] where each lies in the Geometry, ascending


class AxisTables(NamedTuple):
    """One side of the image: its tiles, and U along it."""

    edges: Ints  # [tiles + 1] first pixel of each tile, and the end
    tile_of: Ints  # [pixels] the tile of each pixel
    lower: Ints  # [pixels] the cell whose centre lies at or before a pixel's
    fraction: Floats  # [pixels] weight of the cell after it; 0 where U doesn't mix
    first_cells: Ints  # [tiles] `lower` of each tile's first pixel
    cells: int  # of the grid

    @staticmethod
    def of(axis: Axis) -> AxisTables:
        return AxisTables(axis.edges, axis.tile_of, axis.lower, axis.fraction, axis.first_cells, axis.cells)


class Tiles(NamedTuple):
    """An image's tiles and how a grid's cells cover it."""

    x: AxisTables
    y: AxisTables

    @staticmethod
    def of(layout: Layout) -> Tiles:
        return Tiles(AxisTables.of(layout.x), AxisTables.of(layout.y))


class Bins(NamedTuple):
    """Pairs of a tile and a splat that may touch it, by slot and by entry."""

    rects: NDArray[np.int16]  # [V, 4] first tile column and row, tile columns and rows of each splat
    slots: Longs  # [V + 1] first slot of each splat
    entries: Longs  # [tiles + 1] first entry of each tile
    gaussians: Ints  # [pairs] index of the splat, by entry
    pair_slots: Ints  # [pairs] the pair's slot, by entry

    @property
    def pairs(self) -> int:
        return len(self.gaussians)


class CornerSums(NamedTuple):
    """Wᵀ M U where every tile lies between 2×2 cells."""

    rects: NDArray[np.int16]  # as in `Bins`, of which no more is kept: a batch holds them of several views
    slots: Longs  # the same
    corners: Floats  # [pairs, 4] by slot: Σ_p w m U of the tile's cells (0,0), (0,1), (1,0), (1,1)


class CellBlocks(NamedTuple):
    """Wᵀ M U where tiles hold many cells: for each pair those under the splat's footprint, row by row."""

    offsets: Longs  # [pairs + 1] where each pair's block begins, by slot
    blocks: Floats  # [offsets[-1]] Σ_p w m U of each cell
    filled: NDArray[np.bool_]  # [pairs] by slot: whether the block is written; that of a hidden pair is not
    mixed: int  # cells that one pixel mixes along an axis: 2, or 1 where every pixel's centre is on a cell's


class ColorGradient(NamedTuple):
    """Four blended channels, red, green, blue and opacity, and what the loss says of them."""

    colors: Floats  # [V, 4]; the last is 1
    image: Floats  # [H, W, 4] as blended
    gradient: Floats  # [H, W, 4] ∂L/∂image


class ExtraGradient(NamedTuple):
    """Up to `WIDE` further channels of the same walk."""

    values: Floats  # [V · WIDE] flat, zeros beyond the channels
    image: Floats  # [H, W, C ≤ WIDE] as blended
    gradient: Floats  # [H, W, C] ∂L/∂image
    shapes: bool  # whether it reaches means, shapes and opacities, or the values alone


class PairRows(NamedTuple):
    """What a backward walk leaves per pair; the rows of a tile's drawn pairs begin at its first entry."""

    rows: Floats  # [pairs, COLORED (+ WIDE)] ∂L/∂ mean x, y; conic a, b, c; opacity; red, green, blue; extra values
    indices: Ints  # [pairs] by slot: the pair's row; −1 where it has none


class MapGradients(NamedTuple):
    """Gradients of the loss by the map's rows, added to."""

    means: Floats  # [N, 3]
    quats_wxyz: Floats  # [N, 4]
    scales: Floats  # [N, 3]
    opacities: Floats  # [N]
    means2d: Floats  # [N, 2] px, before the projection


class LabelImage(NamedTuple):
    """Labels of pixels, and those that each tile holds."""

    labels: Ints  # [H, W]; negative: none
    valid: Floats  # m(p) [H, W]; [0, 0]: all pixels count
    listed: Ints  # [tiles · LANES] a tile's labels, each once, from tile · LANES on
    counts: Longs  # [tiles] how many those are


class LabelSums(NamedTuple):
    """Σ_p w m over a pair's pixels of each of its tile's labels."""

    tile_starts: Longs  # [tiles + 1] where each tile's sums begin
    starts: Longs  # [pairs] by slot: where each pair's sums begin
    sums: Floats  # [tile_starts[-1]] in the order of `LabelImage.listed`
