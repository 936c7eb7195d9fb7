"""What a view costs a card, by counts: bytes and instructions of each kernel over published rates.

Times are bounds, not promises: each kernel takes at least the longer of its bytes over the bandwidth and its
instructions over the issue rate. Launches, waiting for memory and uneven lists come on top; a well-behaved kernel
takes one and a half to three times its bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import warp as wp

from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer.cuda.accumulate import blocks_of
from feature_gs_ros.rasterizer.cuda.kernels.walk import LANES, Tiles, alpha_of, left_of, pixel_of, touching
from feature_gs_ros.rasterizer.cuda.pairs import Pairs, pair_tiles
from feature_gs_ros.rasterizer.cuda.runtime import BLOCK, launch
from feature_gs_ros.rasterizer.cuda.view import CudaView
from feature_gs_ros.rasterizer.cuda.weights import sum_weights
from feature_gs_ros.rasterizer.tiling import grid_layout

wp.set_module_options({"enable_backward": False})

WARP = 32
ROWS_PER_WARP = 2  # of a tile's pixels
# Instructions per step of a warp, counted in the listings of sm_90 to within a third.
STEP = 45  # find the Gaussian, its six values, σ, exp, the transmittance
CORNERS = 40  # four weights, six exchanges, the sum's index
CHANNEL = 3  # one more channel of a blended value: load, multiply and add
PIXEL_ATOMIC = 12  # one cell of a fine grid
PAPER_CHANNEL = 14  # of the backward pass of a D-channel render: load, five exchanges with their sums, an atomic add
GRADIENT = 75  # of a splat's nine gradients, on top of a step: three folded sums of six exchanges, slopes
GSPLAT_GRADIENT = 110  # the same by nine sums of five exchanges each, as gsplat does it
# DINOv2 ViT-S/14 at 640×480, operations: 12 blocks of 34 × 45 + 1 tokens, 384 wide.
VIT_TOKENS, VIT_WIDTH, VIT_BLOCKS = 34 * 45 + 1, 384, 12
VIT = VIT_BLOCKS * (24 * VIT_TOKENS * VIT_WIDTH**2 + 4 * VIT_TOKENS**2 * VIT_WIDTH)


@dataclass(frozen=True)
class Card:
    """Published figures, and what follows from them."""

    name: str
    bandwidth: float  # bytes per second
    multiprocessors: int
    clock: float  # Hz, boost
    rate: float  # float32 operations per second, without tensor cores
    cache_bytes: float = 64  # per clock and multiprocessor: half of what a first-level cache gives, assumed

    @property
    def instructions(self) -> float:
        """Warp instructions per second: four schedulers per multiprocessor."""
        return 4 * self.multiprocessors * self.clock

    @property
    def cache_bandwidth(self) -> float:
        """Bytes per second from the caches, where neighbouring Gaussians find each other's cells."""
        return self.cache_bytes * self.multiprocessors * self.clock


CARDS = (
    Card("Jetson AGX Orin 64 GB", 204.8e9, 16, 1.30e9, 5.3e12),
    Card("GeForce RTX 4090", 1008e9, 128, 2.52e9, 82.6e12),
    Card("H200 SXM", 4.8e12, 132, 1.98e9, 67e12),
)


@dataclass(frozen=True)
class Counts:
    """Of one view, counted in a run on the CPU."""

    gaussians: int  # N of the map
    visible: int  # V
    pairs: int  # of a tile and a Gaussian
    cell_weights: int  # of cells under Gaussians
    nonzeros: int  # of them, those above 0
    cells: int
    pixels: int
    steps: int  # of warps: a Gaussian that touches one of their rays before all have ended
    drawn_steps: int  # of them, those that draw
    drawn: int  # pixels and Gaussians


@wp.kernel
def count_steps(tiles: Tiles, counted: wp.array(dtype=wp.int64)):
    """Per pixel: Gaussians whose footprint holds it, those before its ray ends, and those drawn."""
    thread = wp.tid()
    tile = thread / LANES
    pixel = pixel_of(tiles, tile, thread % LANES)
    transmittance = 0.0
    if pixel.inside:
        transmittance = 1.0
    entry = tiles.entries[tile]
    while entry < tiles.entries[tile + 1] and pixel.inside:
        if touching(tiles, entry, tiles.entries[tile + 1], pixel) != wp.uint32(0):
            wp.atomic_add(counted, 0, wp.int64(1))
            if transmittance > 0.0:
                wp.atomic_add(counted, 1, wp.int64(1))
                i = tiles.gaussians[entry]
                weight = alpha_of(tiles.splats, i, float(pixel.x) + 0.5, float(pixel.y) + 0.5) * transmittance
                transmittance = left_of(transmittance, weight)
                if transmittance > 0.0 and weight > 0.0:
                    wp.atomic_add(counted, 2, wp.int64(1))
        entry += 1


def count(view: CudaView, gaussians: GaussianMap, grid: FeatureGrid) -> Counts:
    """Of a view on Warp's CPU device, whose warps are single pixels; a card's are two rows of sixteen."""
    layout = grid_layout(grid, view.camera.width, view.camera.height)
    pairs = pair_tiles(view.projection, layout)
    counted = torch.zeros(3, dtype=torch.int64)
    launch(count_steps, layout.tiles * BLOCK, view.device, pairs.tiles, counted)
    inside, before, drawn = counted.tolist()
    # A warp goes on until its last ray has ended: the fraction of steps left lies between that of its pixels and 1.
    parts, nonzeros = blocks_of(view, grid, None), 0
    for part in parts:
        weights = torch.zeros(part.size)
        sum_weights(part, weights)
        nonzeros += int(weights.count_nonzero())
    steps = int(_strips(pairs) * (0.5 + 0.5 * before / max(1, inside)))
    return Counts(
        len(gaussians),
        len(view.projection),
        len(pairs),
        sum(part.size for part in parts),
        nonzeros,
        grid.rows * grid.columns,
        view.camera.width * view.camera.height,
        steps,
        int(steps * min(1.0, 2 * drawn / max(1, before))),
        drawn,
    )


def _strips(pairs: Pairs) -> int:
    """Pairs of a warp's two rows of pixels and a Gaussian whose footprint touches them."""
    axis = pairs.layout.y
    counts = pairs.entries.diff().long()
    tiles = torch.repeat_interleave(torch.arange(len(counts)), counts)
    edges = torch.from_numpy(axis.edges)
    first, end = (edges[tiles // pairs.layout.x.tiles + k].float() for k in (0, 1))
    mean, height = (pairs.splats[pairs.gaussians.long(), k] for k in (1, 7))
    top, bottom = torch.maximum(mean - height, first), torch.minimum(mean + height, end)
    return int((((bottom - first) / ROWS_PER_WARP).ceil() - ((top - first) / ROWS_PER_WARP).floor()).clamp_min(1).sum())


def bound(card: Card, moved: float, instructions: float, cached: float = 0.0) -> float:
    """Seconds at least: of bytes of the memory, of instructions of warps, of bytes from the caches."""
    return max(moved / card.bandwidth, instructions / card.instructions, cached / card.cache_bandwidth)


def predict(card: Card, counts: Counts, channels: int, coarse: bool, batch: int = 8) -> dict[str, float]:
    """Seconds per view of each kernel, at least."""
    n, v, pairs = counts.gaussians, counts.visible, counts.pairs

    sums = CORNERS * counts.drawn_steps if coarse else 2.5 * PIXEL_ATOMIC * counts.drawn_steps
    rows = min(n, 1.3 * v) / batch if coarse else v  # a batch's views share rows
    return {
        "project": bound(card, 44 * n + 36 * n + 80 * v, 6 * n),
        "pairs": bound(card, 40 * v + 2 * 2 * 8 * pairs + 16 * pairs, 2 * pairs),
        "weights": bound(
            card, 36 * v + 4 * pairs + 4 * counts.cell_weights, STEP * counts.steps + sums, 36 * counts.steps
        ),
        "product": bound(
            card,
            8 * channels * rows + 4 * channels * counts.cells + 4 * counts.cell_weights,
            counts.nonzeros * channels / WARP * CHANNEL,
            4 * channels * counts.nonzeros,
        ),
        "color": bound(card, 36 * v + 12 * counts.pixels, (STEP + 4 * CHANNEL) * counts.steps, 36 * counts.steps),
        "paper's way": bound(
            card,
            4 * channels * (3 * counts.pixels + 2 * v),
            counts.steps * 2 * STEP + counts.drawn_steps * channels * (CHANNEL + PAPER_CHANNEL),
            4 * channels * counts.drawn_steps,
        ),
    }


def predict_queries(card: Card, gaussians: int, channels: int, neighbours: tuple[int, int, int]) -> dict[str, float]:
    """Seconds, at least, of a cosine of every Gaussian, and of nearest neighbours: of so many, among so many, so wide.

    Products of neighbours are written once and read twice, by the search for the best of them.
    """
    many, few, width = neighbours
    products = max(2.0 * many * few * width / card.rate, 4.0 * width * (many + few) / card.bandwidth)
    return {
        "text query": 4.0 * gaussians * (channels + 2) / card.bandwidth,
        "nearest neighbours": products + 3 * 4.0 * many * few / card.bandwidth,
    }


def predict_training(card: Card, counts: Counts) -> tuple[float, float]:
    """Seconds, at least, of an image and its gradients: ours, and by gsplat's way of summing them."""
    moved = 36.0 * counts.visible * 3 + 24.0 * counts.pixels
    steps = (2 * STEP + 4 * CHANNEL) * counts.steps
    ours, theirs = (bound(card, moved, steps + each * counts.drawn_steps) for each in (GRADIENT, GSPLAT_GRADIENT))
    return ours, theirs


def predict_network(card: Card) -> float:
    """Seconds, at least, of DINOv2 ViT-S on an image of 640×480, in float32 without tensor cores."""
    return VIT / card.rate
