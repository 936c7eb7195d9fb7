"""Which Gaussians may touch which tiles, front to back, on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import warp as wp
from torch import Tensor

from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.numerics.streams import keep
from feature_gs_ros.rasterizer.cuda.kernels import pairs as kernels
from feature_gs_ros.rasterizer.cuda.kernels.walk import Tiles
from feature_gs_ros.rasterizer.cuda.projection import Projection
from feature_gs_ros.rasterizer.cuda.runtime import launch
from feature_gs_ros.rasterizer.tiling import Axis, Layout

MAX_PAIRS = 2**30  # kernels and sorting count in 32 bits
MAX_SHORT = 2**15 - 1  # tiles that 16 bits count


@dataclass(frozen=True, eq=False)
class DeviceAxis:
    """One side of an image's tiles and of U, see `Axis`."""

    edges: Tensor  # [tiles + 1] int32
    tile_of: Tensor  # [pixels] int32
    lower: Tensor  # [pixels] int32
    fraction: Tensor  # [pixels]


_axes: WeakKeyDictionary[Axis, dict[torch.device, DeviceAxis]] = WeakKeyDictionary()


def device_axis(axis: Axis, device: torch.device) -> DeviceAxis:
    """An axis on the device, uploaded once."""
    found = _axes.setdefault(axis, {})
    if device not in found:
        arrays = (axis.edges, axis.tile_of, axis.lower, axis.fraction)
        found[device] = DeviceAxis(*(torch.from_numpy(array).to(device) for array in arrays))
    own = found[device]
    keep(device, own.edges, own.tile_of, own.lower, own.fraction)
    return own


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a tile and a Gaussian that may touch it, by tile and there front to back."""

    layout: Layout
    entries: Tensor  # [tiles + 1] int32, where each tile's list begins
    gaussians: Tensor  # [pairs] int32, indices into the projection
    splats: Tensor  # [V, 8] of the projection

    def __len__(self) -> int:
        return len(self.gaussians)

    @property
    def tiles(self) -> Any:
        """As kernels take them."""
        tiles, device = Tiles(), self.splats.device
        tiles.edges_x = wp.from_torch(device_axis(self.layout.x, device).edges)
        tiles.edges_y = wp.from_torch(device_axis(self.layout.y, device).edges)
        tiles.columns = self.layout.x.tiles
        tiles.entries, tiles.gaussians = wp.from_torch(self.entries), wp.from_torch(self.gaussians)
        tiles.splats = wp.from_torch(self.splats)
        return tiles


def pair_tiles(projection: Projection, layout: Layout) -> Pairs:
    """List and sort the pairs; waits once for the device, for how many there are.

    Raises:
        BackendError: more pairs than kernels can count.
    """
    device, count = projection.splats.device, len(projection)
    x, y = device_axis(layout.x, device), device_axis(layout.y, device)
    rects = torch.empty(count, 4, dtype=torch.int32, device=device)
    sizes = torch.empty(count, dtype=torch.int32, device=device)
    launch(kernels.tile_rects, count, device, projection.splats, x.tile_of, y.tile_of, rects, sizes)
    ends = sizes.cumsum(0, dtype=torch.int64)
    pairs = int(ends[-1]) if count else 0
    if pairs > MAX_PAIRS:
        raise BackendError(
            f"{pairs} pairs of tile and Gaussian are more than {MAX_PAIRS}; use a smaller image or prune the map",
            code="backend.range",
        )
    tiles, gaussians = torch.empty(2, pairs, dtype=torch.int32, device=device)
    launch(kernels.list_pairs, pairs, device, rects, ends, layout.x.tiles, tiles, gaussians)
    # The projection is sorted by depth and the sort is stable: by tile alone is by tile and depth. Torch's radix sort,
    # not Warp's, which says nothing where it finds no memory and leaves the lists as they are. It reads all bits of its
    # keys: 16 take half of the passes.
    keys = torch.int16 if layout.tiles <= MAX_SHORT else torch.int32
    tiles, order = tiles.to(keys).sort(stable=True)
    every = torch.arange(layout.tiles + 1, dtype=keys, device=device)
    entries = torch.searchsorted(tiles, every, out_int32=True)
    return Pairs(layout, entries, gaussians[order], projection.splats)
