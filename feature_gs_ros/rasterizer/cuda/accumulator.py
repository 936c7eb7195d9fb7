"""`Accumulator` of the GPU: sums by the map's rows that stay on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from feature_gs_ros.core.errors import BackendError, GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer.base import AccumulatorState, View
from feature_gs_ros.rasterizer.cuda.accumulate import backproject_views
from feature_gs_ros.rasterizer.cuda.product import Sums
from feature_gs_ros.rasterizer.cuda.runtime import check_room, out_of_memory
from feature_gs_ros.rasterizer.cuda.view import CudaView
from feature_gs_ros.rasterizer.tiling import grid_layout

if TYPE_CHECKING:
    from feature_gs_ros.rasterizer.cuda.backend import CudaBackend


class CudaAccumulator:
    """Sums of any number of views; see `feature_gs_ros.rasterizer.base.Accumulator`."""

    def __init__(self, backend: CudaBackend, gaussians: GaussianMap, channels: int) -> None:
        self.gaussians = gaussians
        self.channels = channels
        self._backend = backend
        count, device = len(gaussians), backend.device
        work = f"a field of {count} Gaussians × {channels} channels"
        check_room(backend.accumulator_bytes(count, channels), device, work)
        with out_of_memory(device, work):
            self.sums = Sums(
                torch.zeros(count, channels, device=device),
                torch.zeros(count, device=device),
                torch.zeros(count, dtype=torch.int32, device=device),
            )

    def add(
        self, views: Sequence[View], grids: Sequence[FeatureGrid], valids: Sequence[Tensor | None], sign: int = 1
    ) -> None:
        """Add or take out a batch, see `Accumulator.add`."""
        own = [self._checked(*entry) for entry in zip(views, grids, valids, strict=True)]
        backproject_views(own, grids, valids, self.sums, sign)

    def check(self, view: View, grid: FeatureGrid, valid: Tensor | None) -> None:
        """Raise what `add` would, see `Accumulator.check`."""
        self._checked(view, grid, valid)

    def merge(self, other: AccumulatorState, first: int = 0) -> None:
        """Add sums of rows, see `Accumulator.merge`."""
        for own, more in zip(self._columns(first, first + len(other.weight)), _columns(other), strict=True):
            own += more.to(own.device)

    def load(self, state: AccumulatorState, first: int = 0) -> None:
        """Replace sums of rows, see `Accumulator.load`."""
        for own, new in zip(self._columns(first, first + len(state.weight)), _columns(state), strict=True):
            own.copy_(new)

    def state(self, first: int = 0, end: int | None = None) -> AccumulatorState:
        """A copy of the sums of rows on the host, see `Accumulator.state`."""
        columns = self._columns(first, len(self.gaussians) if end is None else end)
        return AccumulatorState(*(column.to("cpu", copy=True) for column in columns))

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, AccumulatorState]]:
        """The sums themselves, see `Accumulator.blocks`."""
        for first in range(0, len(self.gaussians), rows):
            end = min(first + rows, len(self.gaussians))
            yield torch.arange(first, end, device=self._backend.device), AccumulatorState(*self._columns(first, end))

    def view_count(self) -> Tensor:
        """Views that saw each Gaussian, [N] int32."""
        return self.sums.view_count.to("cpu", copy=True)

    def _columns(self, first: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """Numerator, weight and view count of the rows ``first <= row < end``."""
        return self.sums.numerator[first:end], self.sums.weight[first:end], self.sums.view_count[first:end]

    def _checked(self, view: View, grid: FeatureGrid, valid: Tensor | None) -> CudaView:
        if not isinstance(view, CudaView) or view.device != self._backend.device:
            raise BackendError(
                f"a view of the backend '{view.backend.name}' can't be added to sums of the backend "
                f"'{self._backend.name}'; make both with one backend",
                code="backend.mismatch",
            )
        if grid.dimension != self.channels:
            raise GridError(f"the grid has {grid.dimension} channels, the sums {self.channels}", code="grid.shape")
        if len(view.gaussians) != len(self.gaussians):
            raise GridError(
                f"a view of {len(view.gaussians)} Gaussians can't be added to sums of {len(self.gaussians)}",
                code="grid.mismatch",
            )
        grid_layout(grid, view.camera.width, view.camera.height)
        view.check_valid(valid)
        return view


def _columns(state: AccumulatorState) -> tuple[Tensor, Tensor, Tensor]:
    return state.numerator, state.weight, state.view_count
