"""The reference backend: W [pixels, N] and U [pixels, cells] written out in plain torch, float64, differentiable.

The specification that the others are tested against, straight from the definitions, for small scenes only: nothing is
culled, tiled or skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera, check_pose
from feature_gs_ros.core.errors import BackendError, GridError, MapError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import BLUR, GaussianMap
from feature_gs_ros.core.geometry import rotations_from_quats_wxyz
from feature_gs_ros.core.sh import sh_basis
from feature_gs_ros.rasterizer.base import AccumulatorState, Backend, Paging, Rendering, View, check_no_paging
from feature_gs_ros.rasterizer.conventions import (
    ALPHA_MAX,
    ALPHA_MIN,
    CELL_WEIGHT_MIN,
    NEAR_PLANE,
    TANGENT_MARGIN,
    TRANSMITTANCE_MIN,
)

MAX_ENTRIES = 1 << 24  # of W, pixels × Gaussians: about ten matrices of that size in float64 are held at once


def dense_w(gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> Tensor:
    """W [H · W, N] float64 of Eq. (1)–(3)."""
    geometry = (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities)
    mode = (gaussians.antialiased, gaussians.blur)
    return _blend(*geometry, camera, camera_from_splat, None, *mode).weights


def dense_u(grid: FeatureGrid, width: int, height: int) -> Tensor:
    """U [H · W, rows · columns] float64: bilinear or nearest, border cells repeated outwards."""
    x = _axis(width, grid.columns, grid.left, grid.right, grid.interpolation)
    y = _axis(height, grid.rows, grid.top, grid.bottom, grid.interpolation)
    return torch.einsum("yr,xc->yxrc", y, x).reshape(height * width, grid.rows * grid.columns)


@dataclass(frozen=True, eq=False)
class _Blended:
    """W and what it is made of, float64."""

    weights: Tensor  # [P, N] w_i(p)
    alphas: Tensor  # [P, N] α_i(p)
    depths: Tensor  # [N] camera z
    radii: Tensor  # [N] px, half the longer side of each footprint


def _blend(
    means: Tensor,
    quats_wxyz: Tensor,
    scales: Tensor,
    opacities: Tensor,
    camera: Camera,
    camera_from_splat: NDArray[np.float64],
    means2d: Tensor | None = None,
    antialiased: bool = False,
    blur: float = BLUR,
) -> _Blended:
    entries = camera.width * camera.height * len(means)
    if entries > MAX_ENTRIES:
        raise BackendError(
            f"{camera.width}×{camera.height} pixels × {len(means)} Gaussians are {entries} entries of W, more than the "
            f"{MAX_ENTRIES} that the backend 'reference' writes out; use the backend cpu, or a smaller image or map",
            code="backend.range",
        )
    means, quats_wxyz, scales, opacities = (part.cpu().double() for part in (means, quats_wxyz, scales, opacities))
    pose = torch.as_tensor(camera_from_splat, dtype=torch.float64)
    rotation = pose[:3, :3]
    x, y, z = (means @ rotation.T + pose[:3, 3]).unbind(1)
    front = z >= float(NEAR_PLANE)
    safe = torch.where(front, z, torch.ones_like(z))
    zero = torch.zeros_like(z)
    tangent_x = _clamped(x / safe, camera.fx, camera.cx, camera.width)
    tangent_y = _clamped(y / safe, camera.fy, camera.cy, camera.height)
    jacobian = torch.stack(
        [
            torch.stack([camera.fx / safe, zero, -camera.fx * tangent_x / safe], 1),
            torch.stack([zero, camera.fy / safe, -camera.fy * tangent_y / safe], 1),
        ],
        1,
    )
    half = jacobian @ rotation @ rotations_from_quats_wxyz(quats_wxyz) * scales[:, None, :]
    sharp = half @ half.transpose(1, 2)
    covariance = sharp + blur * torch.eye(2, dtype=torch.float64)
    if antialiased:  # what the blur spreads over the plane is taken from the peak
        opacities = opacities * (torch.linalg.det(sharp).clamp_min(0.0) / torch.linalg.det(covariance)).sqrt()
    mean = torch.stack([camera.fx * x / safe + camera.cx, camera.fy * y / safe + camera.cy], 1)
    mean = mean if means2d is None else mean + means2d.cpu().double()
    offset = _pixel_centres(camera)[:, None, :] - mean[None]
    sigma = 0.5 * torch.einsum("pni,nij,pnj->pn", offset, torch.linalg.inv(covariance), offset)
    alphas = (opacities * torch.exp(-sigma)).clamp(max=float(ALPHA_MAX))
    alphas = torch.where((alphas >= float(ALPHA_MIN)) & front, alphas, torch.zeros_like(alphas))
    order = torch.argsort(z, stable=True)
    sorted_alphas = alphas[:, order]
    after = torch.cumprod(1 - sorted_alphas, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    # The ray ends before the Gaussian that would bring its transmittance this low.
    alive = torch.cumprod((after > float(TRANSMITTANCE_MIN)).double(), dim=1)
    weights = torch.zeros_like(alphas).index_copy(1, order, sorted_alphas * before * alive)
    sigmas = (2 * (opacities / float(ALPHA_MIN)).clamp_min(1.0).log()).sqrt()
    radii = sigmas * covariance.diagonal(dim1=1, dim2=2).amax(dim=1).sqrt()
    return _Blended(weights, alphas, z, radii)


def _clamped(tangent: Tensor, focal: float, centre: float, pixels: int) -> Tensor:
    """The tangent of a ray, for the Jacobian alone: far outside the image it would blow up."""
    margin = TANGENT_MARGIN * pixels
    return tangent.clamp((-centre - margin) / focal, (pixels - centre + margin) / focal)


def _pixel_centres(camera: Camera) -> Tensor:
    """[P, 2] x, y, row by row."""
    rows, columns = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    return torch.stack([columns.reshape(-1), rows.reshape(-1)], 1).double() + 0.5


def _axis(pixels: int, cells: int, begin: float, end: float, interpolation: str) -> Tensor:
    matrix = torch.zeros(pixels, cells, dtype=torch.float64)
    for pixel in range(pixels):
        position = ((pixel + 0.5) / pixels - begin) / (end - begin) * cells - 0.5
        position = min(max(position, 0.0), cells - 1.0)
        if interpolation == "nearest":
            matrix[pixel, int(np.floor(position + 0.5))] = 1
            continue
        lower = int(np.floor(position))
        matrix[pixel, lower] += 1 - (position - lower)
        matrix[pixel, min(lower + 1, cells - 1)] += position - lower
    return matrix


def _colors(sh: Tensor, means: Tensor, camera_from_splat: NDArray[np.float64]) -> Tensor:
    """Colour max(SH(direction) + ½, 0) [N, 3] float64."""
    pose = torch.as_tensor(camera_from_splat, dtype=torch.float64)
    eye = -pose[:3, :3].T @ pose[:3, 3]
    directions = torch.nn.functional.normalize(means.cpu().double() - eye, dim=1)
    degree = int(sh.shape[1] ** 0.5) - 1
    x, y, z = directions.unbind(1)
    basis = torch.stack(sh_basis(x, y, z, degree), dim=1)
    return (torch.einsum("nk,nkc->nc", basis, sh.cpu().double()) + 0.5).clamp_min(0.0)


class ReferenceCellOperator:
    """A as a dense matrix; see `CellOperator`."""

    def __init__(self, w: Tensor, u: Tensor, counts: Tensor) -> None:
        total = u.T @ counts
        self.cells = (total > CELL_WEIGHT_MIN * u.sum(0).max()).nonzero()[:, 0]
        self.gaussians = w.shape[1]
        self.weight = (w.T @ counts).float()
        self.products = 0
        self._matrix = (u[:, self.cells].T / total[self.cells, None]) @ (w * counts[:, None])

    @property
    def nonzeros(self) -> int:
        """Pairs of a cell and a Gaussian."""
        return int((self._matrix != 0).sum())

    def forward(self, features: Tensor) -> Tensor:
        """A f."""
        self.products += 1
        return (self._matrix @ features.detach().cpu().double()).float()

    def adjoint(self, values: Tensor) -> Tensor:
        """Aᵀ g."""
        self.products += 1
        return (self._matrix.T @ values.detach().cpu().double()).float()

    def target(self, grid: FeatureGrid) -> Tensor:
        """A grid's values at `cells`."""
        values = grid.values.reshape(-1, grid.dimension)
        if len(self.cells) and int(self.cells[-1]) >= len(values):
            raise GridError(f"a grid of {len(values)} cells doesn't fit the operator's", code="grid.shape")
        return values[self.cells].float()


class ReferenceView:
    """W as a dense matrix; see `View`."""

    def __init__(
        self, backend: ReferenceBackend, gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]
    ) -> None:
        self.backend: Backend = backend
        self.gaussians = gaussians
        self.camera = camera
        self.camera_from_splat = camera_from_splat
        geometry = (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities)
        mode = (gaussians.antialiased, gaussians.blur)
        self._blended = _blend(*geometry, camera, camera_from_splat, None, *mode)

    @cached_property
    def visible(self) -> Tensor:
        """Rows [V] with an alpha anywhere in the image."""
        return (self._blended.alphas > 0).any(dim=0).nonzero()[:, 0]

    def render(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """W v."""
        if values.dim() != 2 or len(values) != len(self.gaussians):
            raise GridError(
                f"values have shape {tuple(values.shape)}, expected ({len(self.gaussians)}, C)", code="grid.shape"
            )
        first, end = rows or (0, self.camera.height)
        band = self._blended.weights[first * self.camera.width : end * self.camera.width]
        return (band @ values.detach().cpu().double()).float().reshape(end - first, self.camera.width, values.shape[1])

    def render_visible(self, values: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """W v of the visible Gaussians' values."""
        if values.dim() != 2 or len(values) != len(self.visible):
            raise GridError(
                f"values have shape {tuple(values.shape)}, expected ({len(self.visible)}, C)", code="grid.shape"
            )
        every = torch.zeros(len(self.gaussians), values.shape[1], dtype=torch.float64)
        every[self.visible] = values.detach().cpu().double()
        return self.render(every, rows)

    def render_color(self) -> Tensor:
        """Colour from the spherical harmonics."""
        return self.render(_colors(self.gaussians.sh, self.gaussians.means, self.camera_from_splat))

    def render_depth(self) -> Tensor:
        """Σ w z and Σ w."""
        return self.render(torch.stack([self._blended.depths, torch.ones_like(self._blended.depths)], dim=1))

    def backproject(self, grid: FeatureGrid, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Wᵀ M U F and Wᵀ m."""
        numerator, weight = self.sums(grid, valid)
        return numerator.float(), weight.float()

    def sums(self, grid: FeatureGrid, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `backproject`, float64."""
        counts = self._counts(valid)
        image = dense_u(grid, self.camera.width, self.camera.height) @ grid.values.cpu().double().flatten(0, 1)
        w = self._blended.weights
        return w.T @ (counts[:, None] * image), w.T @ counts

    def backproject_labels(
        self, labels: NDArray[np.integer], classes: int, valid: Tensor | None = None
    ) -> scipy.sparse.csr_matrix:
        """Wᵀ M L."""
        size = (self.camera.height, self.camera.width)
        if labels.shape != size or labels.max() >= classes:
            raise GridError(
                f"labels {labels.shape} up to {labels.max()} don't fit an image {size} and {classes} classes",
                code="grid.shape",
            )
        flat = torch.from_numpy(np.asarray(labels, dtype=np.int64)).reshape(-1)
        one_hot = torch.nn.functional.one_hot(flat.clamp_min(0), classes).double() * (flat >= 0)[:, None]
        weights = self._blended.weights.T @ (self._counts(valid)[:, None] * one_hot)
        return scipy.sparse.csr_matrix(weights.float().numpy())

    def cell_operator(self, grid: FeatureGrid, valid: Tensor | None = None) -> ReferenceCellOperator:
        """A at the grid's cells."""
        u = dense_u(grid, self.camera.width, self.camera.height)
        return ReferenceCellOperator(self._blended.weights, u, self._counts(valid))

    def unoccluded_weight(self) -> Tensor:
        """Each Gaussian's alpha summed over the image."""
        return self._blended.alphas.sum(0).float()

    def _counts(self, valid: Tensor | None) -> Tensor:
        """m(p) [P] float64."""
        if valid is None:
            return torch.ones(self.camera.width * self.camera.height, dtype=torch.float64)
        if tuple(valid.shape) != (self.camera.height, self.camera.width):
            raise GridError(
                f"the mask of pixels that count is {tuple(valid.shape)}, the image "
                f"{self.camera.height}×{self.camera.width}",
                code="grid.size",
            )
        return valid.cpu().double().reshape(-1)


class ReferenceAccumulator:
    """Sums in float64; see `Accumulator`."""

    def __init__(self, gaussians: GaussianMap, channels: int) -> None:
        self.gaussians, self.channels = gaussians, channels
        self._numerator = torch.zeros(len(gaussians), channels, dtype=torch.float64)
        self._weight = torch.zeros(len(gaussians), dtype=torch.float64)
        self._view_count = torch.zeros(len(gaussians), dtype=torch.int32)

    def add(
        self, views: Sequence[View], grids: Sequence[FeatureGrid], valids: Sequence[Tensor | None], sign: int = 1
    ) -> None:
        """Add or take out a batch."""
        entries = [(self._checked(*entry), *entry[1:]) for entry in zip(views, grids, valids, strict=True)]
        for view, grid, valid in entries:
            numerator, weight = view.sums(grid, valid)
            self._numerator += sign * numerator
            self._weight += sign * weight
            self._view_count += sign * (weight > 0)
        if sign < 0:
            gone = self._view_count <= 0
            self._numerator[gone] = 0
            self._weight[gone] = 0

    def check(self, view: View, grid: FeatureGrid, valid: Tensor | None) -> None:
        """Raise what `add` would."""
        self._checked(view, grid, valid)

    def merge(self, other: AccumulatorState, first: int = 0) -> None:
        """Add sums of rows."""
        rows = slice(first, first + len(other.weight))
        self._numerator[rows] += other.numerator
        self._weight[rows] += other.weight
        self._view_count[rows] += other.view_count

    def load(self, state: AccumulatorState, first: int = 0) -> None:
        """Replace sums of rows."""
        rows = slice(first, first + len(state.weight))
        self._numerator[rows], self._weight[rows] = state.numerator.double(), state.weight.double()
        self._view_count[rows] = state.view_count

    def state(self, first: int = 0, end: int | None = None) -> AccumulatorState:
        """A copy of the sums of rows."""
        rows = slice(first, end)
        return AccumulatorState(
            self._numerator[rows].float(), self._weight[rows].float(), self._view_count[rows].clone()
        )

    def blocks(self, rows: int) -> Iterator[tuple[Tensor, AccumulatorState]]:
        """Copies of the sums, see `Accumulator.blocks`."""
        for first in range(0, len(self.gaussians), rows):
            end = min(first + rows, len(self.gaussians))
            yield torch.arange(first, end), self.state(first, end)

    def view_count(self) -> Tensor:
        """Views that saw each Gaussian."""
        return self._view_count.clone()

    def _checked(self, view: View, grid: FeatureGrid, valid: Tensor | None) -> ReferenceView:
        if not isinstance(view, ReferenceView):
            raise BackendError(
                f"a view of the backend '{view.backend.name}' can't be added to sums of the backend 'reference'; make "
                "both with one backend",
                code="backend.mismatch",
            )
        if grid.dimension != self.channels:
            raise GridError(f"the grid has {grid.dimension} channels, the sums {self.channels}", code="grid.shape")
        if len(view.gaussians) != len(self.gaussians):
            raise GridError(
                f"a view of {len(view.gaussians)} Gaussians can't be added to sums of {len(self.gaussians)}",
                code="grid.mismatch",
            )
        view._counts(valid)
        return view


class ReferenceBackend:
    """Dense matrices; see `Backend`. Every method raises a BackendError above `MAX_ENTRIES`."""

    name = "reference"
    device = torch.device("cpu")

    def view(self, gaussians: GaussianMap, camera: Camera, camera_from_splat: NDArray[np.float64]) -> ReferenceView:
        """W of one pinhole camera."""
        return ReferenceView(self, gaussians, camera, camera_from_splat)

    def accumulator(self, gaussians: GaussianMap, channels: int, paging: Paging | None = None) -> ReferenceAccumulator:
        """Empty sums for a map."""
        check_no_paging(self.name, paging)
        return ReferenceAccumulator(gaussians, channels)

    def accumulator_bytes(self, gaussians: int, channels: int) -> int:
        """Bytes of accumulators; those of W are bounded by `MAX_ENTRIES`."""
        return gaussians * (8 * channels + 8 + 4)

    def render_with_gradients(
        self,
        means: Tensor,
        quats_wxyz: Tensor,
        scales: Tensor,
        opacities: Tensor,
        sh: Tensor,
        camera: Camera,
        camera_from_splat: NDArray[np.float64],
        extra_signals: Tensor | None = None,
        means2d: Tensor | None = None,
        extra_shapes: bool = True,
    ) -> Rendering:
        """Render with autograd's own gradients."""
        count = len(means)
        shapes = [tuple(tensor.shape) for tensor in (means, quats_wxyz, scales, opacities)]
        if shapes != [(count, 3), (count, 4), (count, 3), (count,)] or sh.dim() != 3 or sh.shape[::2] != (count, 3):
            raise MapError(
                f"means, quaternions, scales, opacities and SH have shapes {shapes} and {tuple(sh.shape)}",
                code="map.shape",
            )
        if extra_signals is not None and (extra_signals.dim() != 2 or len(extra_signals) != count):
            raise GridError(
                f"the extra signals have shape {tuple(extra_signals.shape)}, expected ({count}, C)", code="grid.shape"
            )
        pose = check_pose(camera_from_splat, "the view")
        unit = torch.nn.functional.normalize(quats_wxyz, dim=1)
        blended = _blend(means, unit, scales, opacities, camera, pose, means2d)
        w, size = blended.weights, (camera.height, camera.width)
        color = (w @ _colors(sh, means, pose)).reshape(*size, 3)
        extra = None
        if extra_signals is not None:
            extra = ((w if extra_shapes else w.detach()) @ extra_signals.cpu().double()).reshape(*size, -1)
        rows = (blended.alphas > 0).any(dim=0).nonzero()[:, 0]
        return Rendering(
            color.to(means),
            w.sum(1).reshape(size).to(means),
            extra.to(means) if extra is not None else None,
            rows.to(means.device),
            blended.radii.detach()[rows].to(means),
        )
