"""What every walk over a tile's Gaussians shares: α of Eq. (1), a thread's pixel, and which Gaussians touch a warp."""

import warp as wp

from feature_gs_ros.rasterizer import conventions
from feature_gs_ros.rasterizer.cuda.kernels.native import ballot, lane, lanes

wp.set_module_options({"enable_backward": False})

TILE = wp.constant(16)  # pixels per side at most
LANES = wp.constant(256)  # threads per tile, one per pixel
ALPHA_MIN = wp.constant(float(conventions.ALPHA_MIN))
ALPHA_MAX = wp.constant(float(conventions.ALPHA_MAX))
TRANSMITTANCE_MIN = wp.constant(float(conventions.TRANSMITTANCE_MIN))


@wp.struct
class Tiles:
    """The tiles of an image, and the Gaussians of each from front to back."""

    edges_x: wp.array(dtype=wp.int32)  # [columns + 1] first pixel of each column of tiles, and the end
    edges_y: wp.array(dtype=wp.int32)  # [rows + 1]
    columns: int
    entries: wp.array(dtype=wp.int32)  # [tiles + 1] where each tile's list begins
    gaussians: wp.array(dtype=wp.int32)  # [pairs] indices of splats
    splats: wp.array2d(dtype=float)  # [V, 8] mean x, y; conic a, b, c; opacity; half width and height


@wp.struct
class Pixel:
    """A thread's pixel, and the rectangle of pixels that its warp holds."""

    x: int
    y: int
    inside: bool
    left: float  # centres of the warp's outermost pixels
    right: float
    top: float
    bottom: float


@wp.func
def pixel_of(tiles: Tiles, tile: int, thread: int) -> Pixel:
    """The pixel of a tile's thread 0 … 255, row by row."""
    row = tile / tiles.columns
    column = tile - row * tiles.columns
    x0 = tiles.edges_x[column]
    y0 = tiles.edges_y[row]
    first = thread - lane()
    last = first + lanes() - 1
    pixel = Pixel()
    pixel.x = x0 + thread % TILE
    pixel.y = y0 + thread / TILE
    pixel.inside = pixel.x < tiles.edges_x[column + 1] and pixel.y < tiles.edges_y[row + 1]
    pixel.left = float(x0 + first % TILE) + 0.5
    pixel.right = float(x0 + last % TILE) + 0.5
    pixel.top = float(y0 + first / TILE) + 0.5
    pixel.bottom = float(y0 + last / TILE) + 0.5
    return pixel


@wp.func
def touching(tiles: Tiles, entry: int, end: int, pixel: Pixel) -> wp.uint32:
    """Which of the entries from ``entry`` on, one per lane, can touch the warp's pixels: a bit each.

    Footprints are wide enough that only the alpha test decides; what is left out here has no alpha.
    """
    mine = entry + lane()
    touches = bool(False)
    if mine < end:
        i = tiles.gaussians[mine]
        x = tiles.splats[i, 0]
        y = tiles.splats[i, 1]
        width = tiles.splats[i, 6]
        height = tiles.splats[i, 7]
        touches = (
            x + width >= pixel.left
            and x - width <= pixel.right
            and y + height >= pixel.top
            and y - height <= pixel.bottom
        )
    return ballot(touches)


@wp.func
def alpha_of(splats: wp.array2d(dtype=float), i: int, x: float, y: float) -> float:
    """α of Eq. (1) at a pixel's centre: opacity · exp(−σ), clipped, and 0 under 1/255."""
    dx = x - splats[i, 0]
    dy = y - splats[i, 1]
    sigma = 0.5 * (splats[i, 2] * dx * dx + splats[i, 4] * dy * dy) + splats[i, 3] * dx * dy
    alpha = wp.min(splats[i, 5] * wp.exp(-sigma), ALPHA_MAX)
    if sigma < 0.0 or alpha < ALPHA_MIN:
        alpha = 0.0
    return alpha


@wp.func
def left_of(transmittance: float, weight: float) -> float:
    """The transmittance behind a Gaussian; 0 where it would end the ray, and then its weight doesn't count."""
    left = transmittance - weight
    if left <= TRANSMITTANCE_MIN:
        left = 0.0
    return left
