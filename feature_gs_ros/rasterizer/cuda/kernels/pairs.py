"""Pairs of a tile and a Gaussian that may touch it, and the cells under each Gaussian."""

import warp as wp

wp.set_module_options({"enable_backward": False})


@wp.func
def pixel_span(mean: float, radius: float, first: int, end: int) -> wp.vec2i:
    """First pixel and end of those in [first, end) whose centres lie within ``radius`` of ``mean``."""
    start = wp.max(first, int(wp.ceil(wp.max(mean - radius, -1.0e6) - 0.5)))
    stop = wp.min(end, int(wp.floor(wp.min(mean + radius, 1.0e6) - 0.5)) + 1)
    return wp.vec2i(start, stop)


@wp.kernel
def tile_rects(
    splats: wp.array2d(dtype=float),
    tile_of_x: wp.array(dtype=wp.int32),
    tile_of_y: wp.array(dtype=wp.int32),
    rects: wp.array2d(dtype=wp.int32),
    sizes: wp.array(dtype=wp.int32),
):
    """First tile column and row, tile columns and rows of each Gaussian, and how many tiles these are."""
    i = wp.tid()
    x = pixel_span(splats[i, 0], splats[i, 6], 0, tile_of_x.shape[0])
    y = pixel_span(splats[i, 1], splats[i, 7], 0, tile_of_y.shape[0])
    sizes[i] = 0
    if x[1] > x[0] and y[1] > y[0]:
        left = tile_of_x[x[0]]
        top = tile_of_y[y[0]]
        columns = tile_of_x[x[1] - 1] - left + 1
        rows = tile_of_y[y[1] - 1] - top + 1
        rects[i, 0] = left
        rects[i, 1] = top
        rects[i, 2] = columns
        rects[i, 3] = rows
        sizes[i] = columns * rows


@wp.kernel
def list_pairs(
    rects: wp.array2d(dtype=wp.int32),
    ends: wp.array(dtype=wp.int64),
    tile_columns: int,
    tiles: wp.array(dtype=wp.int32),
    gaussians: wp.array(dtype=wp.int32),
):
    """Tile and Gaussian of each pair, a thread each; ``ends`` are the running sums of the Gaussians' tiles.

    A thread per pair and not per Gaussian: one that fills the image would keep a thread busy for as long as all others.
    """
    pair = wp.tid()
    i = wp.lower_bound(ends, wp.int64(pair) + wp.int64(1))
    across = rects[i, 2]
    place = pair - int(ends[i] - wp.int64(across * rects[i, 3]))
    tiles[pair] = (rects[i, 1] + place / across) * tile_columns + rects[i, 0] + place % across
    gaussians[pair] = i


@wp.kernel
def cell_blocks(
    splats: wp.array2d(dtype=float),
    lower_x: wp.array(dtype=wp.int32),
    lower_y: wp.array(dtype=wp.int32),
    extra_x: int,
    extra_y: int,
    first_line: int,
    end_line: int,
    blocks: wp.array2d(dtype=wp.int32),
    sizes: wp.array(dtype=wp.int32),
):
    """First cell column and row, cell columns and rows that each Gaussian's pixels mix, in the lines of a band.

    ``extra``: 1 along an axis whose pixels mix two cells. A block may then end beyond the last cell, with no weight.
    """
    i = wp.tid()
    x = pixel_span(splats[i, 0], splats[i, 6], 0, lower_x.shape[0])
    y = pixel_span(splats[i, 1], splats[i, 7], first_line, end_line)
    sizes[i] = 0
    for k in range(4):
        blocks[i, k] = 0
    if x[1] > x[0] and y[1] > y[0]:
        left = lower_x[x[0]]
        top = lower_y[y[0]]
        columns = lower_x[x[1] - 1] - left + 1 + extra_x
        rows = lower_y[y[1] - 1] - top + 1 + extra_y
        blocks[i, 0] = left
        blocks[i, 1] = top
        blocks[i, 2] = columns
        blocks[i, 3] = rows
        sizes[i] = columns * rows
