"""Wᵀ M U of one view: each Gaussian's weight in the block of cells under it, without the features' dimension."""

import warp as wp

from feature_gs_ros.rasterizer.cuda.kernels.native import add_four, any_lane, first_bit, lanes
from feature_gs_ros.rasterizer.cuda.kernels.walk import LANES, Tiles, alpha_of, left_of, pixel_of, touching

wp.set_module_options({"enable_backward": False})


@wp.struct
class Cells:
    """How pixels mix cells, m(p), and where each Gaussian's block of cells lies."""

    lower_x: wp.array(dtype=wp.int32)  # [W] the cell at or before each pixel's centre
    lower_y: wp.array(dtype=wp.int32)  # [H]
    fraction_x: wp.array(dtype=float)  # [W] weight of the cell after it
    fraction_y: wp.array(dtype=float)  # [H]
    valid: wp.array2d(dtype=float)  # [H, W], or [0, 0] where all pixels count
    mixes_x: int  # cells after `lower` that a pixel mixes, 0 or 1
    mixes_y: int
    blocks: wp.array2d(dtype=wp.int32)  # [V, 4] first column and row, columns and rows
    offsets: wp.array(dtype=wp.int32)  # [V] where each block begins
    weights: wp.array(dtype=float)  # all blocks, row by row; added to


@wp.func
def place_of(cells: Cells, i: int, column: int, row: int) -> int:
    """Where a cell lies in Gaussian i's block."""
    return cells.offsets[i] + (row - cells.blocks[i, 1]) * cells.blocks[i, 2] + column - cells.blocks[i, 0]


@wp.func
def in_block(cells: Cells, i: int, column: int, row: int) -> bool:
    """Whether all that a pixel mixes from this cell on lies in Gaussian i's block.

    Of the pixels in its footprint it does. Rounding gives long needles an α beyond their tips: the terms of σ are up to
    a condition number larger than σ. Elsewhere that is a weight too much; here it would be written into other blocks.
    """
    across = column - cells.blocks[i, 0]
    down = row - cells.blocks[i, 1]
    return (
        across >= 0
        and across + cells.mixes_x < cells.blocks[i, 2]
        and down >= 0
        and down + cells.mixes_y < cells.blocks[i, 3]
    )


@wp.kernel
def coarse_sums(tiles: Tiles, cells: Cells, first_tile: int):
    """Tiles between neighbouring cell centres: four sums over the warp per Gaussian, added once per warp."""
    thread = wp.tid()
    tile = first_tile + thread / LANES
    pixel = pixel_of(tiles, tile, thread % LANES)
    x = float(pixel.x) + 0.5
    y = float(pixel.y) + 0.5
    transmittance = float(0.0)
    counts = float(0.0)
    right = float(0.0)
    below = float(0.0)
    row = tile / tiles.columns
    column = cells.lower_x[tiles.edges_x[tile - row * tiles.columns]]
    line = cells.lower_y[tiles.edges_y[row]]
    if pixel.inside:
        transmittance = 1.0
        counts = 1.0
        right = cells.fraction_x[pixel.x]
        below = cells.fraction_y[pixel.y]
        if cells.valid.shape[0] > 0:
            counts = cells.valid[pixel.y, pixel.x]
    entry = tiles.entries[tile]
    end = tiles.entries[tile + 1]
    while entry < end:
        if not any_lane(transmittance > 0.0):
            entry = end
        else:
            todo = touching(tiles, entry, end, pixel)
            while todo != wp.uint32(0):
                i = tiles.gaussians[entry + first_bit(todo)]
                todo = todo & (todo - wp.uint32(1))
                weight = float(0.0)
                if transmittance > 0.0:
                    weight = alpha_of(tiles.splats, i, x, y) * transmittance
                    transmittance = left_of(transmittance, weight)
                    if transmittance == 0.0:
                        weight = 0.0
                weight = weight * counts
                if any_lane(weight > 0.0 and in_block(cells, i, column, line)):
                    before = weight * (1.0 - right)
                    after = weight * right
                    add_four(
                        cells.weights, place_of(cells, i, column, line), cells.blocks[i, 2],
                        before * (1.0 - below), after * (1.0 - below), before * below, after * below,
                    )  # fmt: skip
            entry += lanes()


@wp.kernel
def fine_sums(tiles: Tiles, cells: Cells, first_tile: int):
    """Tiles of many cells: each pixel adds to the one, two or four cells that it mixes."""
    thread = wp.tid()
    tile = first_tile + thread / LANES
    pixel = pixel_of(tiles, tile, thread % LANES)
    x = float(pixel.x) + 0.5
    y = float(pixel.y) + 0.5
    transmittance = float(0.0)
    counts = float(0.0)
    right = float(0.0)
    below = float(0.0)
    column = int(0)
    line = int(0)
    if pixel.inside:
        transmittance = 1.0
        counts = 1.0
        column = cells.lower_x[pixel.x]
        line = cells.lower_y[pixel.y]
        right = cells.fraction_x[pixel.x]
        below = cells.fraction_y[pixel.y]
        if cells.valid.shape[0] > 0:
            counts = cells.valid[pixel.y, pixel.x]
    entry = tiles.entries[tile]
    end = tiles.entries[tile + 1]
    while entry < end:
        if not any_lane(transmittance > 0.0):
            entry = end
        else:
            todo = touching(tiles, entry, end, pixel)
            while todo != wp.uint32(0):
                i = tiles.gaussians[entry + first_bit(todo)]
                todo = todo & (todo - wp.uint32(1))
                if transmittance > 0.0:
                    weight = alpha_of(tiles.splats, i, x, y) * transmittance
                    transmittance = left_of(transmittance, weight)
                    weight = weight * counts
                    if transmittance > 0.0 and weight > 0.0 and in_block(cells, i, column, line):
                        place = place_of(cells, i, column, line)
                        wp.atomic_add(cells.weights, place, weight * (1.0 - right) * (1.0 - below))
                        if right > 0.0:
                            wp.atomic_add(cells.weights, place + 1, weight * right * (1.0 - below))
                        if below > 0.0:
                            under = place + cells.blocks[i, 2]
                            wp.atomic_add(cells.weights, under, weight * (1.0 - right) * below)
                            if right > 0.0:
                                wp.atomic_add(cells.weights, under + 1, weight * right * below)
            entry += lanes()
