"""`multigrid.RestartedLaplacian` in torch, for what lies on a card: the same hierarchy, the same iterations."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from feature_gs_ros.numerics.multigrid import MAX_ITERATIONS, MIN_RESTART, Level, SparseRows
from feature_gs_ros.numerics.simd import SIZE


@dataclass(frozen=True, eq=False)
class DeviceLevel:
    """A `Level` on a device."""

    adjacency: Tensor  # [n, n] sparse by rows; dense on the coarsest level
    diagonal: Tensor  # [n]
    null: Tensor  # [n]
    radius: float
    prolongation: Tensor | None  # [n, m] sparse by rows; None on the coarsest level
    restriction: Tensor | None

    @staticmethod
    def of(level: Level, device: torch.device) -> DeviceLevel:
        size, coarse = len(level.diagonal), 0 if level.restriction is None else len(level.restriction.starts) - 1
        return DeviceLevel(
            _matrix(level.adjacency, size, device) if coarse else _dense(level.adjacency).to(device),
            torch.from_numpy(level.diagonal).to(device),
            torch.from_numpy(level.null).to(device),
            level.radius,
            None if level.prolongation is None else _matrix(level.prolongation, coarse, device),
            None if level.restriction is None else _matrix(level.restriction, size, device),
        )


@dataclass(frozen=True, eq=False)
class _Restarted:
    """A level with a restart on its diagonal."""

    level: DeviceLevel
    diagonal: Tensor  # [n, 1]
    relaxation: Tensor  # [n, 1] ω / diagonal
    inverse: Tensor | None  # of the whole matrix, on the coarsest level

    def image(self, x: Tensor) -> Tensor:
        """The matrix times x [n, P]."""
        return self.diagonal * x - self.level.adjacency @ x


class DeviceLaplacian:
    """``L + diag(restart)`` with its preconditioner, see `RestartedLaplacian`."""

    def __init__(self, levels: Sequence[DeviceLevel], restart: Tensor) -> None:
        """
        Args:
            levels: finest first.
            restart: [n] float32, above zero, where the levels lie.
        """
        self._levels: list[_Restarted] = []
        for index, level in enumerate(levels):
            diagonal = (level.diagonal + restart)[:, None]
            relaxation = 4 / 3 / max(level.radius, 1.0) / diagonal
            inverse = _inverse(level, restart) if level.restriction is None else None
            self._levels.append(_Restarted(level, diagonal, relaxation, inverse))
            if level.restriction is not None:
                lumped = (level.restriction @ (restart * level.null)[:, None])[:, 0] / levels[index + 1].null
                restart = lumped.clamp_min(MIN_RESTART)

    def solve(self, target: Tensor, tolerance: float) -> Tensor:
        """x [n, P] for ``target`` [n, P], to ``tolerance`` as `RestartedLaplacian.solve`."""
        return torch.cat([self._solve(part, tolerance) for part in target.split(SIZE, dim=1)], dim=1)

    def _solve(self, target: Tensor, tolerance: float) -> Tensor:
        solution, residual = torch.zeros_like(target), target.clone()
        direction, energy = self._preconditioned(residual)
        total = torch.zeros_like(energy)
        for _ in range(MAX_ITERATIONS):
            image = self._levels[0].image(direction)
            curvature = _dots(direction, image)
            step = torch.where(curvature > 0, energy / curvature.clamp_min(1e-300), 0.0)
            total += step * energy
            along = step.to(torch.float32)
            solution += along * direction
            residual -= along * image
            if bool((step * energy <= tolerance**2 * total).all()):
                break
            correction, after = self._preconditioned(residual)
            turn = torch.where(energy > 0, after / energy.clamp_min(1e-300), 0.0)
            direction = correction + turn.to(torch.float32) * direction
            energy = after
        return solution

    def _preconditioned(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """``z = M⁻¹ r`` and ``zᵀ r`` per column."""
        top = self._levels[0]
        if top.inverse is not None:
            correction = top.inverse @ residual
        else:
            assert top.level.restriction is not None and top.level.prolongation is not None  # noqa: PT018
            coarse = self._cycle(1, top.level.restriction @ residual)
            correction = top.relaxation * residual + top.level.prolongation @ coarse
        return correction, _dots(correction, residual)

    def _cycle(self, index: int, residual: Tensor) -> Tensor:
        """A V-cycle from the level ``index`` down."""
        here = self._levels[index]
        if here.inverse is not None:
            return here.inverse @ residual
        assert here.level.restriction is not None and here.level.prolongation is not None  # noqa: PT018
        solution = here.relaxation * residual
        down = here.level.restriction @ (residual - here.image(solution))
        solution = solution + here.level.prolongation @ self._cycle(index + 1, down)
        return solution + here.relaxation * (residual - here.image(solution))


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """Sums of products per column [P], float64."""
    return (one * other).sum(dim=0, dtype=torch.float64)


def _inverse(level: DeviceLevel, restart: Tensor) -> Tensor:
    diagonal = level.diagonal.double() + restart.double().clamp_min(MIN_RESTART)
    inverse: Tensor = torch.linalg.inv(torch.diag(diagonal) - level.adjacency.double()).float()
    return inverse


def _dense(rows: SparseRows) -> Tensor:
    size = len(rows.starts) - 1
    matrix = torch.zeros(size, size)
    starts, columns = (torch.from_numpy(array.astype(np.int64)) for array in (rows.starts, rows.columns))
    owners = torch.repeat_interleave(torch.arange(size), starts.diff())
    matrix[owners, columns] = torch.from_numpy(rows.values)
    return matrix


def _matrix(rows: SparseRows, columns: int, device: torch.device) -> Tensor:
    starts, indices = (torch.from_numpy(array.astype(np.int32)).to(device) for array in (rows.starts, rows.columns))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        shape = (len(rows.starts) - 1, columns)
        values = torch.from_numpy(rows.values).to(device)
        return torch.sparse_csr_tensor(starts, indices, values, shape, check_invariants=True)
