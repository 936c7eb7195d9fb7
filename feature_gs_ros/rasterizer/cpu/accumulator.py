"""`Accumulator` of the CPU: sums along the map's Z-curve, as the kernels walk it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from feature_gs_ros.core.errors import BackendError, GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer.base import AccumulatorState, View
from feature_gs_ros.rasterizer.cpu.masks import check_valid
from feature_gs_ros.rasterizer.cpu.order import spatial_order
from feature_gs_ros.rasterizer.cpu.view import CpuView, backproject_views
from feature_gs_ros.rasterizer.tiling import grid_layout


class CpuAccumulator:
    """Sums of any number of views; see `Accumulator`."""

    def __init__(self, gaussians: GaussianMap, channels: int) -> None:
        self.gaussians = gaussians
        self.channels = channels
        self._order = spatial_order(gaussians)
        self._rows = torch.from_numpy(self._order.rows)
        self._numerator = torch.zeros(len(gaussians), channels)
        self._weight = torch.zeros(len(gaussians))
        self._view_count = torch.zeros(len(gaussians), dtype=torch.int32)

    def add(
        self, views: Sequence[View], grids: Sequence[FeatureGrid], valids: Sequence[Tensor | None], sign: int = 1
    ) -> None:
        """Add or take out a batch, see `Accumulator.add`."""
        own = [self._checked(*entry) for entry in zip(views, grids, valids, strict=True)]
        backproject_views(own, grids, valids, self._numerator, self._weight, self._view_count, sign=sign)
        if sign < 0:
            # What no view is left for is empty, not a rounding error that a division would blow up.
            gone = self._view_count <= 0
            self._numerator[gone] = 0
            self._weight[gone] = 0

    def check(self, view: View, grid: FeatureGrid, valid: Tensor | None) -> None:
        """Raise what `add` would, see `Accumulator.check`."""
        self._checked(view, grid, valid)

    def merge(self, other: AccumulatorState, first: int = 0) -> None:
        """Add sums of rows, see `Accumulator.merge`."""
        at = self._indices(first, first + len(other.weight))
        self._numerator.index_add_(0, at, other.numerator)
        self._weight.index_add_(0, at, other.weight)
        self._view_count.index_add_(0, at, other.view_count)

    def load(self, state: AccumulatorState, first: int = 0) -> None:
        """Replace sums of rows, see `Accumulator.load`."""
        at = self._indices(first, first + len(state.weight))
        self._numerator.index_copy_(0, at, state.numerator)
        self._weight.index_copy_(0, at, state.weight)
        self._view_count.index_copy_(0, at, state.view_count)

    def state(self, first: int = 0, end: int | None = None) -> AccumulatorState:
        """A copy of the sums of rows, see `Accumulator.state`."""
        at = self._indices(first, len(self.gaussians) if end is None else end)
        return AccumulatorState(self._numerator[at], self._weight[at], self._view_count[at])

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, AccumulatorState]]:
        """The sums themselves along the curve, see `Accumulator.blocks`."""
        sums = (self._numerator, self._weight, self._view_count)
        for own, *parts in zip(*(torch.split(part, rows) for part in (self._rows, *sums)), strict=True):
            yield own.long(), AccumulatorState(*parts)

    def view_count(self) -> Tensor:
        """Views that saw each Gaussian, [N] int32."""
        return self._view_count[self._indices(0, len(self.gaussians))]

    def _indices(self, first: int, end: int) -> Tensor:
        """Where the rows ``first <= row < end`` of the map lie here."""
        return torch.from_numpy(self._order.inverse[first:end]).long()

    def _checked(self, view: View, grid: FeatureGrid, valid: Tensor | None) -> CpuView:
        if not isinstance(view, CpuView):
            raise BackendError(
                f"a view of the backend '{view.backend.name}' can't be added to sums of the backend 'cpu'; make both "
                "with one backend",
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
        check_valid(valid, view.camera)
        return view
