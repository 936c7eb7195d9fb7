"""Wᵀ M L of a label image, L its one-hot matrix: a tile holds few labels, however many there are."""

import warp as wp

from feature_gs_ros.rasterizer.cuda.kernels.native import any_lane, first_bit, lanes
from feature_gs_ros.rasterizer.cuda.kernels.walk import LANES, Tiles, alpha_of, left_of, pixel_of, touching

wp.set_module_options({"enable_backward": False})


@wp.kernel
def list_labels(
    edges_x: wp.array(dtype=wp.int32),
    edges_y: wp.array(dtype=wp.int32),
    labels: wp.array2d(dtype=wp.int32),
    listed: wp.array2d(dtype=wp.int32),
    counts: wp.array(dtype=wp.int32),
    planes: wp.array2d(dtype=wp.int32),
):
    """Each tile's labels, each once, in ``listed`` [tiles, 256], and which of them a pixel has; −1 where none."""
    tile = wp.tid()
    columns = edges_x.shape[0] - 1
    row = tile / columns
    column = tile - row * columns
    count = int(0)
    for y in range(edges_y[row], edges_y[row + 1]):
        for x in range(edges_x[column], edges_x[column + 1]):
            label = labels[y, x]
            plane = int(0)
            while plane < count:  # both conditions in one would read beyond the list: Warp evaluates them all
                if listed[tile, plane] == label:
                    break
                plane += 1
            if label < 0:
                plane = -1
            if plane == count:
                listed[tile, plane] = label
                count += 1
            planes[y, x] = plane
    counts[tile] = count


@wp.kernel
def label_sums(
    tiles: Tiles,
    first_tile: int,
    planes: wp.array2d(dtype=wp.int32),
    valid: wp.array2d(dtype=float),
    counts: wp.array(dtype=wp.int32),
    begins: wp.array(dtype=wp.int64),
    sums: wp.array(dtype=float),
):
    """Σ w m over a pair's pixels of each label of its tile; a band's sums begin at its first tile's."""
    thread = wp.tid()
    tile = first_tile + thread / LANES
    pixel = pixel_of(tiles, tile, thread % LANES)
    x = float(pixel.x) + 0.5
    y = float(pixel.y) + 0.5
    transmittance = float(0.0)
    share = float(1.0)
    plane = int(-1)
    if pixel.inside:
        transmittance = 1.0
        plane = planes[pixel.y, pixel.x]
        if valid.shape[0] > 0:
            share = valid[pixel.y, pixel.x]
    begin = int(begins[tile] - begins[first_tile])
    start = tiles.entries[tile]
    entry = start
    end = tiles.entries[tile + 1]
    while entry < end:
        if not any_lane(transmittance > 0.0):
            entry = end
        else:
            todo = touching(tiles, entry, end, pixel)
            while todo != wp.uint32(0):
                pair = entry + first_bit(todo)
                i = tiles.gaussians[pair]
                todo = todo & (todo - wp.uint32(1))
                if transmittance > 0.0:
                    weight = alpha_of(tiles.splats, i, x, y) * transmittance
                    transmittance = left_of(transmittance, weight)
                    if transmittance > 0.0 and plane >= 0 and weight * share > 0.0:
                        wp.atomic_add(sums, begin + (pair - start) * counts[tile] + plane, weight * share)
            entry += lanes()
