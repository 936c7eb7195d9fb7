"""W v of one view: front-to-back blending of any number of channels, zero background."""

from __future__ import annotations

import torch
from torch import Tensor

from feature_gs_ros.rasterizer.cuda.kernels import blending as kernels
from feature_gs_ros.rasterizer.cuda.pairs import Pairs
from feature_gs_ros.rasterizer.cuda.runtime import BLOCK, launch

TILE = 16


def render_values(pairs: Pairs, values: Tensor, first_line: int, end_line: int) -> Tensor:
    """Blend values [V, C] to the image's lines ``first_line <= y < end_line``, [lines, W, C] on the device."""
    columns, width, channels = pairs.layout.x.tiles, len(pairs.layout.x.lower), values.shape[1]
    image = torch.zeros(end_line - first_line, width, channels, device=values.device)
    first_tile, end_tile = first_line // TILE * columns, -(-end_line // TILE) * columns
    few = channels <= kernels.FEW
    kernel, block = (kernels.blend_few, kernels.FEW) if few else (kernels.blend_many, kernels.MANY)
    tiles = end_tile - first_tile
    # Blocks of channels come one after another: as many walks as blocks, but no more sums than registers hold.
    threads = -(-channels // block) * tiles * BLOCK
    launch(kernel, threads, values.device, pairs.tiles, values, first_tile, tiles, first_line, image)
    return image
