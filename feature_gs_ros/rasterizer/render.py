"""W v of one view: front-to-back blending of any number of channels, zero background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.kernels import parallel_for
from feature_gs_ros.rasterizer.kernels import blending as kernels
from feature_gs_ros.rasterizer.projection import (
    Projection,
)
from feature_gs_ros.rasterizer.tiles import Bins, Layout

Floats = NDArray[np.float32]
CHANNELS = 32  # blended at once: their 32 KiB of accumulators stay in the first-level cache


def render_values(projection: Projection, layout: Layout, bins: Bins, values: Floats) -> Floats:
    """Blend ``values`` [V, C] of the projected Gaussians to an image [H, W, C]."""
    channels = values.shape[1]
    image = np.empty((len(layout.y.lower), len(layout.x.lower), channels), np.float32)
    for first in range(0, channels, CHANNELS):
        block = np.ascontiguousarray(values[:, first : first + CHANNELS])
        _blend(projection, layout, bins, block, image[:, :, first : first + CHANNELS])
    return image


def _blend(projection: Projection, layout: Layout, bins: Bins, values: Floats, image: Floats) -> None:
    arrays = (projection.splats, bins.entries, bins.gaussians, layout.x.edges, layout.y.edges, values, image)
    parallel_for(layout.tiles, 16, lambda i, j: kernels.blend(i, j, *arrays))
