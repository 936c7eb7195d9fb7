"""The order in which the CPU walks a map: along a Z-curve, in blocks with bounds that a view culls by."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.gaussians import CurveBlocks, GaussianMap
from feature_gs_ros.numerics.sorting import morton_order


@dataclass(frozen=True, eq=False)
class SpatialOrder:
    """A map's geometry along the curve: neighbours in space are neighbours in memory, and on screen."""

    rows: NDArray[np.int32]  # [N] the map's row at each index of the curve
    inverse: NDArray[np.int32]  # [N] the index on the curve of each row
    means: NDArray[np.float32]  # [N, 3]
    quats_wxyz: NDArray[np.float32]  # [N, 4]
    scales: NDArray[np.float32]  # [N, 3]
    opacities: NDArray[np.float32]  # [N]

    known_blocks: CurveBlocks | None = None

    @cached_property
    def blocks(self) -> CurveBlocks:
        """Bounds by which a view skips what it doesn't see."""
        return self.known_blocks or CurveBlocks.of(self.means, self.scales)


_orders: WeakKeyDictionary[GaussianMap, SpatialOrder] = WeakKeyDictionary()
_lock = threading.Lock()


def spatial_order(gaussians: GaussianMap) -> SpatialOrder:
    """A map's geometry along the Z-curve, sorted once per map and kept as long as the map."""
    with _lock:
        order = _orders.get(gaussians)
        if order is None:
            order = _orders[gaussians] = _sorted_along_curve(gaussians)
        return order


def _sorted_along_curve(gaussians: GaussianMap) -> SpatialOrder:
    if gaussians.curve is not None:  # as it is: its tensors may be a mapped file, of which views read what they see
        rows = np.arange(len(gaussians), dtype=np.int32)
        return SpatialOrder(
            rows,
            rows,
            gaussians.means.numpy(),
            gaussians.quats_wxyz.numpy(),
            gaussians.scales.numpy(),
            gaussians.opacities.numpy(),
            gaussians.curve,
        )
    rows = morton_order(gaussians.means.numpy())
    order = torch.from_numpy(rows)
    inverse = np.empty_like(rows)
    inverse[rows] = np.arange(len(rows), dtype=rows.dtype)
    return SpatialOrder(
        rows,
        inverse,
        gaussians.means[order].numpy(),
        gaussians.quats_wxyz[order].numpy(),
        gaussians.scales[order].numpy(),
        gaussians.opacities[order].numpy(),
    )
