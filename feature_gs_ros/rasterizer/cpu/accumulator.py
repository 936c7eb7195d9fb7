"""`Accumulator` of the CPU: sums along the map's Z-curve, as the kernels walk it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from feature_gs_ros.core.errors import BackendError, GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.tensors import zeros_on_disk
from feature_gs_ros.rasterizer.base import AccumulatorState, Paging, View
from feature_gs_ros.rasterizer.cpu.masks import check_valid
from feature_gs_ros.rasterizer.cpu.order import spatial_order
from feature_gs_ros.rasterizer.cpu.view import CHUNK, CpuView, CurveSegments, backproject_views
from feature_gs_ros.rasterizer.tiling import grid_layout

SEGMENT = 0.05  # of the memory limit: sums of a segment of the curve, after which pages may be given back


class CpuAccumulator:
    """Sums of any number of views; see `Accumulator`."""

    def __init__(self, gaussians: GaussianMap, channels: int, paging: Paging | None = None) -> None:
        self.gaussians = gaussians
        self.channels = channels
        self._order = spatial_order(gaussians)
        self._rows = torch.from_numpy(self._order.rows)
        self._paging = paging
        shape = (len(gaussians), channels)
        self._numerator = torch.zeros(shape) if paging is None else zeros_on_disk(shape, paging.folder)
        self._weight = torch.zeros(len(gaussians))
        self._view_count = torch.zeros(len(gaussians), dtype=torch.int32)

    def add(
        self, views: Sequence[View], grids: Sequence[FeatureGrid], valids: Sequence[Tensor | None], sign: int = 1
    ) -> None:
        """Add or take out a batch, see `Accumulator.add`."""
        own = [self._checked(*entry) for entry in zip(views, grids, valids, strict=True)]
        sums = (self._numerator, self._weight, self._view_count)
        backproject_views(own, grids, valids, *sums, sign=sign, segments=self._segments)
        self._relieve()
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
        self._relieve()
        self._weight.index_add_(0, at, other.weight)
        self._view_count.index_add_(0, at, other.view_count)

    def load(self, state: AccumulatorState, first: int = 0) -> None:
        """Replace sums of rows, see `Accumulator.load`."""
        at = self._indices(first, first + len(state.weight))
        self._numerator.index_copy_(0, at, state.numerator)
        self._relieve()
        self._weight.index_copy_(0, at, state.weight)
        self._view_count.index_copy_(0, at, state.view_count)

    def state(self, first: int = 0, end: int | None = None) -> AccumulatorState:
        """A copy of the sums of rows, see `Accumulator.state`."""
        at = self._indices(first, len(self.gaussians) if end is None else end)
        state = AccumulatorState(self._numerator[at], self._weight[at], self._view_count[at])
        self._relieve()
        return state

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, AccumulatorState]]:
        """The sums themselves along the curve, see `Accumulator.blocks`."""
        sums = (self._numerator, self._weight, self._view_count)
        for own, *parts in zip(*(torch.split(part, rows) for part in (self._rows, *sums)), strict=True):
            yield own.long(), AccumulatorState(*parts)
            self._relieve()

    def view_count(self) -> Tensor:
        """Views that saw each Gaussian, [N] int32."""
        return self._view_count[self._indices(0, len(self.gaussians))]

    def _relieve(self) -> None:
        """Give pages of the sums and of the map back, where they are in files and memory is short."""
        if self._paging is not None:
            self._paging.memory.relieve(self._numerator, self.gaussians.means)

    @property
    def _segments(self) -> CurveSegments | None:
        """How far along the curve views are added before memory is looked at."""
        if self._paging is None:
            return None
        rows = int(SEGMENT * self._paging.memory.limit / (4 * self.channels))
        return CurveSegments(max(1, rows // CHUNK) * CHUNK, self._relieve)

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
