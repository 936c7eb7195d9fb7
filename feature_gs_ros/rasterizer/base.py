"""The contract of a backend: one folder beside this file that implements `Backend`, `View`, `Accumulator`,
`CellOperator` and `Rendering`. Nobody outside a backend's folder imports from inside it.

What every backend promises:

- **Meaning.** W is that of `reference.py` (the dense oracle): w_i(p) = α_i(p) · T_i(p), Eq. (1)–(3), with the numbers
  of `conventions.py`. ``‖difference‖ ≤ 1e-3 ‖reference‖`` for whole images and accumulators; single entries may differ
  where an alpha or a transmittance lies on a threshold.
- **Adjointness.** ``⟨render(v), M U F⟩ = ⟨v, backproject(F)⟩`` to 1e-5 of ``⟨render(|v|), M U |F|⟩``.
- **Where tensors are.** Arguments may lie on any device. What these protocols return is float32 on the host, with
  these exceptions: `Accumulator`'s own arrays stay on the backend's device until a field is asked for; what
  `render_with_gradients` returns lies where its arguments lie; and a backend with a device leaves images of values,
  and products of a cell operator with values, where the values lie.
- **Order.** Rows are the map's, whatever order a backend keeps inside.
- **Determinism.** The CPU backend gives the same bits for any number of threads. Others promise the tolerance alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import MemoryLimit

if TYPE_CHECKING:
    import scipy.sparse


class CellOperator(Protocol):
    """A view's operator at the cells of a grid, ``A = diag(Uᵀ m)⁻¹ Uᵀ M W``: what the cells see of features.

    With frozen geometry A never changes, so W is walked once and A is multiplied with as often as needed.
    """

    cells: Tensor  # [C] int64 of rows × columns: the cells with enough pixels that count
    gaussians: int  # N
    weight: Tensor  # [N] Wᵀ m
    products: int  # with A or Aᵀ so far

    @property
    def nonzeros(self) -> int:
        """Pairs of a cell and a Gaussian."""
        ...

    def forward(self, features: Tensor) -> Tensor:
        """A f: features [N, D] to cells [C, D]."""
        ...

    def adjoint(self, values: Tensor) -> Tensor:
        """Aᵀ g: cells [C, D] to Gaussians [N, D]."""
        ...

    def target(self, grid: FeatureGrid) -> Tensor:
        """A grid's values [C, D] float32 at `cells`.

        Raises:
            GridError: the grid has another number of cells.
        """
        ...


class View(Protocol):
    """One view of a map, W and Wᵀ: projected, culled and sorted once, then used as often as needed."""

    backend: Backend  # that made it
    gaussians: GaussianMap
    camera: Camera  # pinhole
    camera_from_splat: NDArray[np.float64]  # [4, 4] rigid, splat units

    @property
    def visible(self) -> Tensor:
        """Rows [V] int64 of the map's Gaussians that can touch the image."""
        ...

    def render(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """W v: values [N, C] to an image [H, W, C] on zero; ``rows`` (first, end) renders a band of it alone.

        Raises:
            GridError: ``values`` is not [N, C].
        """
        ...

    def render_visible(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """As `render`, of values [V, C] of the `visible` Gaussians alone: for many bands of one image."""
        ...

    def render_color(self) -> Tensor:
        """Colour from the spherical harmonics, [H, W, 3], not clipped at 1."""
        ...

    def render_depth(self) -> Tensor:
        """Accumulated camera z, Σ w z, and opacity, Σ w: [H, W, 2] in splat units and 0..1."""
        ...

    def backproject(self, grid: FeatureGrid, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Wᵀ M U F and Wᵀ m: numerator [N, D] and weight [N].

        Args:
            grid: F and how its cells cover the image, U.
            valid: m(p) [H, W], bool or the fraction 0..1 in which a pixel counts; all count by default.

        Raises:
            GridError: ``valid`` has another size than the camera.
        """
        ...

    def backproject_labels(
        self, labels: NDArray[np.integer], classes: int, valid: Tensor | None = None
    ) -> scipy.sparse.csr_matrix:
        """Wᵀ M L of a label image [H, W], L its one-hot matrix: weights [N, C] float32; negative labels don't count.

        Raises:
            GridError: labels or ``valid`` have another size than the camera, or a label is no class.
        """
        ...

    def cell_operator(self, grid: FeatureGrid, valid: Tensor | None = None) -> CellOperator:
        """A of this view and one kind of grid, whose values don't matter.

        Raises:
            GridError: ``valid`` has another size than the camera.
        """
        ...

    def unoccluded_weight(self) -> Tensor:
        """Weight [N] that each Gaussian would have if nothing stood in front: its alpha summed over all pixels."""
        ...


@dataclass(frozen=True, eq=False)
class AccumulatorState:
    """What accumulators hold of all rows, or of R consecutive ones, in the map's row order.

    On the host, but for what `Accumulator.blocks` gives.
    """

    numerator: Tensor  # [R, C] float32, Σ_v Wᵀ M U F
    weight: Tensor  # [R] float32, Σ_v Wᵀ m
    view_count: Tensor  # [R] int32, views that saw the Gaussian


@dataclass(frozen=True)
class Paging:
    """Sums in a file, of which only what a batch of views touches is in memory."""

    folder: Path  # on whose disk they lie; nobody else sees the file, and it goes when the sums do
    memory: MemoryLimit  # of this process


def check_no_paging(backend: str, paging: Paging | None) -> None:
    """Raise a BackendError where sums shall be paged that a backend keeps on its device."""
    if paging is not None:
        raise BackendError(
            f"the backend '{backend}' can't keep its sums on disk; use --backend cpu, or leave out --memory",
            code="backend.unsupported",
        )


class Accumulator(Protocol):
    """Sums over views of Wᵀ M U F and Wᵀ m, and how many views saw each Gaussian. They stay on the backend's device."""

    gaussians: GaussianMap
    channels: int

    def add(
        self,
        views: Sequence[View],
        grids: Sequence[FeatureGrid],
        valids: Sequence[Tensor | None],
        sign: int = 1,
    ) -> None:
        """Add a batch of views of this backend; ``sign`` −1 takes them out again.

        Several views per call read and write each row once, not once per view. Rows for which no view is left after a
        subtraction are exactly zero.

        Raises:
            GridError: another number of channels, or a mask of another size. Nothing is added then.
            OutOfMemoryError: the device has no room. What was accumulated before is intact.
        """
        ...

    def check(self, view: View, grid: FeatureGrid, valid: Tensor | None) -> None:
        """Raise what `add` would, before anything is queued.

        Raises:
            GridError, CameraError: as `add`.
        """
        ...

    def merge(self, other: AccumulatorState, first: int = 0) -> None:
        """Add another accumulator's sums, of the same map; those of a part of its rows, from ``first`` on."""
        ...

    def load(self, state: AccumulatorState, first: int = 0) -> None:
        """Replace the sums, or those of a part of the rows, from ``first`` on."""
        ...

    def state(self, first: int = 0, end: int | None = None) -> AccumulatorState:
        """A copy of the sums, on the host, or of those of the rows ``first <= row < end``."""
        ...

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, AccumulatorState]]:
        """All sums, at most ``rows`` rows at a time in any order, each block with its rows of the map [R] int64.

        Sums and rows lie on `Backend.device`. They may be no copies: read them before the next `add`, write nothing.
        """
        ...

    def view_count(self) -> Tensor:
        """How many views saw each Gaussian, [N] int32, without copying the sums."""
        ...


@dataclass(frozen=True, eq=False)
class Rendering:
    """One view, differentiable; tensors lie where the arguments of `Backend.render_with_gradients` lie."""

    color: Tensor  # [H, W, 3] on black, not clipped at 1
    opacity: Tensor  # [H, W] Σ w
    extra: Tensor | None  # [H, W, C] the extra signals
    rows: Tensor  # [V] int64, the Gaussians that can touch the image
    radii: Tensor  # [V] px, half the longer side of their footprints


class Backend(Protocol):
    """One implementation of the operator."""

    name: str  # "cpu", "cuda", "reference", …
    device: torch.device  # where accumulators live

    def view(self, gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> View:
        """Project, cull and sort the map for one pinhole camera; arguments are checked already."""
        ...

    def accumulator(self, gaussians: GaussianMap, channels: int, paging: Paging | None = None) -> Accumulator:
        """Empty sums for a map.

        Args:
            paging: keep them on disk; only the CPU's backend can.

        Raises:
            OutOfMemoryError: the device has no room for them.
            BackendError: this backend keeps them on its device.
            OSError: the disk has no room for them.
        """
        ...

    def accumulator_bytes(self, gaussians: int, channels: int) -> int:
        """Bytes on `device` that accumulators and the work of a view take: the peak."""
        ...

    def render_with_gradients(
        self,
        means: Tensor,  # [N, 3] splat frame
        quats_wxyz: Tensor,  # [N, 4] any length but zero
        scales: Tensor,  # [N, 3] linear
        opacities: Tensor,  # [N] linear
        sh: Tensor,  # [N, K, 3]
        camera: Camera,
        camera_from_splat: NDArray[np.float64],
        extra_signals: Tensor | None = None,  # [N, C]
        means2d: Tensor | None = None,  # [N, 2]
        extra_shapes: bool = True,
    ) -> Rendering:
        """Render what `View` renders, with gradients to all tensors.

        Args:
            camera: pinhole.
            camera_from_splat: rigid [4, 4].
            extra_signals: further channels, blended by the same weights.
            extra_shapes: whether the gradient of ``extra`` reaches means, scales, rotations and opacities, too.
            means2d: zeros; its gradient is that of the means on the image, in pixels, by which 3DGS densifies.

        Raises:
            MapError: shapes that don't fit together.
            GridError: extra signals of another length.
            CameraError: a pose that isn't rigid.
        """
        ...
