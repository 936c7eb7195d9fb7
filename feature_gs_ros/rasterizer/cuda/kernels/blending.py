"""W v of one view: front-to-back blending, a thread per pixel and a block of channels."""

import inspect
from typing import Any

import warp as wp

from feature_gs_ros.rasterizer.cuda.kernels.native import any_lane, first_bit, lanes
from feature_gs_ros.rasterizer.cuda.kernels.walk import LANES, Tiles, alpha_of, left_of, pixel_of, touching

wp.set_module_options({"enable_backward": False})


# Four blocks of 256 threads on a multiprocessor: at most 64 registers. Left alone, compilers for some cards take 96.
# Releases of Warp that can't say so take what they take.
_CAN_BOUND = "launch_bounds" in inspect.signature(wp.kernel).parameters
_HALF_OF_THE_WARPS: dict[str, Any] = {"launch_bounds": (256, 4)} if _CAN_BOUND else {}


def blend_by(channels: int) -> Any:
    """A kernel that keeps sums of so many channels in registers."""
    sums_of = wp.types.vector(length=channels, dtype=float)
    block = wp.constant(channels)

    def blend(
        tiles: Tiles,
        values: wp.array2d(dtype=float),
        first_tile: int,
        tile_count: int,
        first_line: int,
        image: wp.array3d(dtype=float),
    ):
        """Blend values [V, C] into ``image`` [lines, W, C], whose first line is ``first_line`` of the camera's."""
        thread = wp.tid()
        part = thread / (tile_count * LANES)
        thread = thread - part * (tile_count * LANES)
        tile = first_tile + thread / LANES
        pixel = pixel_of(tiles, tile, thread % LANES)
        x = float(pixel.x) + 0.5
        y = float(pixel.y) + 0.5
        first = part * block
        transmittance = float(0.0)
        if pixel.inside:
            transmittance = 1.0
        sums = sums_of()
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
                        if transmittance > 0.0 and weight > 0.0:
                            for k in range(block):
                                if first + k < values.shape[1]:
                                    sums[k] = sums[k] + weight * values[i, first + k]
                entry += lanes()
        line = pixel.y - first_line
        if pixel.inside and line >= 0 and line < image.shape[0]:
            for k in range(block):
                if first + k < values.shape[1]:
                    image[line, pixel.x, first + k] = sums[k]

    blend.__qualname__ = f"blend_{channels}"  # Warp's key, and the name in a compiler's report
    return wp.kernel(blend, **_HALF_OF_THE_WARPS)


FEW, MANY = 4, 12  # channels in registers
blend_few = blend_by(FEW)
blend_many = blend_by(MANY)


@wp.kernel
def unoccluded(tiles: Tiles, ends: wp.array(dtype=wp.int32), weight: wp.array(dtype=float)):
    """α summed over all pixels as if nothing stood in front; a thread per pair of a tile and a Gaussian."""
    pair = wp.tid()
    tile = wp.lower_bound(ends, pair + 1)
    row = tile / tiles.columns
    column = tile - row * tiles.columns
    i = tiles.gaussians[pair]
    total = float(0.0)
    for y in range(tiles.edges_y[row], tiles.edges_y[row + 1]):
        for x in range(tiles.edges_x[column], tiles.edges_x[column + 1]):
            total += alpha_of(tiles.splats, i, float(x) + 0.5, float(y) + 0.5)
    if total > 0.0:
        wp.atomic_add(weight, i, total)
