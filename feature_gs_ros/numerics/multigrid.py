"""Conjugate gradients on a graph's Laplacian plus a diagonal, preconditioned by a hierarchy of aggregates.

The system is ``(L + diag(restart)) x = b`` with the normalised Laplacian ``L = diag(D > 0) − D^-½ A D^-½`` of a graph.
L depends on the graph alone, so the hierarchy is prepared once (`aggregation.hierarchy_of`); the restart differs from
question to question and enters the coarse levels lumped, i.e. as what it does to L's null vector ``D^½``.

On the finest level the preconditioner is additive, ``M⁻¹ r = ω diag⁻¹ r + P C⁻¹ Pᵀ r``: one product with the large
matrix per iteration, the one that conjugate gradients need anyway. C⁻¹ is a symmetric V-cycle with one Jacobi step
before and after each correction, and an exact solution on the coarsest level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.numerics.runtime import kernel, parallel_for
from feature_gs_ros.numerics.simd import SIZE, broadcast, load, store

STEP = 8192  # rows per range: sums are taken range by range, so that they don't depend on the number of threads
MAX_ITERATIONS = 200
MIN_RESTART = 1e-6  # in the preconditioner: L's smallest eigenvalues are rounded to ±1e-7, and it must be positive

Vector = NDArray[np.float32]  # [n]
Columns = NDArray[np.float32]  # [n, P], C order; P is 1 or SIZE in kernels


class SparseRows(NamedTuple):
    """A sparse matrix in CSR."""

    starts: NDArray[np.uint32]  # [n + 1]; unsigned: kernels would look whether an index counts from the end
    columns: NDArray[np.uint32]  # [nonzeros]
    values: NDArray[np.float32]  # [nonzeros]

    def check(self, rows: int, columns: int) -> None:
        """Raise a ValueError unless this is a matrix of that shape: kernels don't look."""
        starts, count = self.starts, len(self.columns)
        kinds = [str(array.dtype) for array in self]
        if kinds != ["uint32", "uint32", "float32"] or len(starts) != rows + 1 or len(self.values) != count:
            raise ValueError(f"arrays of {kinds} and lengths {len(starts)}, {count} are no matrix of {rows} rows")
        if starts[0] != 0 or starts[-1] != count or bool((starts[1:] < starts[:-1]).any()):
            raise ValueError("the rows' starts don't ascend")
        if count and self.columns.max() >= columns:
            raise ValueError(f"a column is none of the {columns}")

    def __matmul__(self, x: Columns) -> Columns:
        rows = len(self.starts) - 1
        product = np.empty((rows, x.shape[1]), np.float32)
        parallel_for(rows, STEP, lambda start, stop: _multiply(start, stop, *self, x, product))
        return product


class Level(NamedTuple):
    """The Laplacian ``diag(diagonal) − adjacency`` on one level, and the way to the next coarser one."""

    adjacency: SparseRows  # [n, n] symmetric, nothing on the diagonal
    diagonal: Vector  # [n]
    null: Vector  # [n], the vector that L maps to zero
    radius: float  # spectral radius of diag⁻¹ L, or a little more
    prolongation: SparseRows | None  # [n, m]; None on the coarsest level
    restriction: SparseRows | None  # its transpose


@dataclass(frozen=True, eq=False)
class _Restarted:
    """A level with a restart on its diagonal."""

    level: Level
    diagonal: Vector
    relaxation: Vector  # [n, 1] ω / diagonal
    inverse: Columns | None  # of the whole matrix, on the coarsest level


class RestartedLaplacian:
    """``L + diag(restart)`` with its preconditioner; make it once per restart, solve as often as needed."""

    def __init__(self, levels: Sequence[Level], restart: Vector) -> None:
        """
        Args:
            levels: finest first.
            restart: [n], above zero.
        """
        self._levels: list[_Restarted] = []
        for index, level in enumerate(levels):
            diagonal = level.diagonal + restart
            relaxation = (4 / 3 / max(level.radius, 1.0) / diagonal)[:, None].astype(np.float32)
            inverse = _inverse(level, restart) if level.restriction is None else None
            self._levels.append(_Restarted(level, diagonal, np.ascontiguousarray(relaxation), inverse))
            if level.restriction is not None:
                lumped = (level.restriction @ (restart * level.null)[:, None])[:, 0] / levels[index + 1].null
                restart = np.maximum(lumped, np.float32(MIN_RESTART))

    def solve(self, target: Columns, tolerance: float) -> Columns:
        """x [n, P] for ``target`` [n, P], `SIZE` columns side by side; a single one costs less.

        Args:
            tolerance: stop where an iteration changes x by less than this fraction of it, both in the energy norm
                ``√(xᵀ K x)``.
        """
        if target.shape[1] == 1:
            return self._solve(np.ascontiguousarray(target), tolerance)
        solution = np.empty_like(target)
        for first in range(0, target.shape[1], SIZE):
            part = target[:, first : first + SIZE]
            lanes = np.zeros((len(target), SIZE), np.float32)
            lanes[:, : part.shape[1]] = part
            solution[:, first : first + SIZE] = self._solve(lanes, tolerance)[:, : part.shape[1]]
        return solution

    def _solve(self, target: Columns, tolerance: float) -> Columns:
        """As `solve`, of one column or `SIZE`."""
        top = self._levels[0]
        solution, residual = np.zeros_like(target), target.copy()
        direction, energy = self._preconditioned(residual)
        image, total = np.empty_like(target), np.zeros(target.shape[1])
        ranges = -(-len(target) // STEP)
        for _ in range(MAX_ITERATIONS):
            dots = np.empty((ranges, target.shape[1]), np.float32)
            _image(top, direction, image, dots)
            curvature = dots.sum(axis=0, dtype=np.float64)
            step = np.where(curvature > 0, energy / np.maximum(curvature, 1e-300), 0.0)
            total += step * energy
            _in_ranges(len(target), _advance, step.astype(np.float32), direction, image, solution, residual)
            if (step * energy <= tolerance**2 * total).all():
                break
            correction, after = self._preconditioned(residual)
            turn = np.where(energy > 0, after / np.maximum(energy, 1e-300), 0.0)
            _in_ranges(len(target), _turn, turn.astype(np.float32), correction, direction)
            energy = after
        return solution

    def _preconditioned(self, residual: Columns) -> tuple[Columns, NDArray[np.float64]]:
        """``z = M⁻¹ r`` and ``zᵀ r`` per column."""
        top = self._levels[0]
        if top.inverse is not None:
            exact = np.ascontiguousarray(top.inverse @ residual)
            return exact, (exact.astype(np.float64) * residual).sum(axis=0)
        assert top.level.restriction is not None and top.level.prolongation is not None  # noqa: PT018
        coarse = self._cycle(1, top.level.restriction @ residual)
        correction = np.empty_like(residual)
        dots = np.empty((-(-len(residual) // STEP), residual.shape[1]), np.float32)
        _in_ranges(len(residual), _correct, *top.level.prolongation, coarse, residual, top.relaxation, correction, dots)
        return correction, dots.sum(axis=0, dtype=np.float64)

    def _cycle(self, index: int, residual: Columns) -> Columns:
        """A V-cycle from the level ``index`` down."""
        here = self._levels[index]
        if here.inverse is not None:
            return np.ascontiguousarray(here.inverse @ residual)
        assert here.level.restriction is not None and here.level.prolongation is not None  # noqa: PT018
        image = np.empty_like(residual)
        dots = np.empty((-(-len(residual) // STEP), residual.shape[1]), np.float32)
        solution = here.relaxation * residual
        _image(here, solution, image, dots)
        solution += here.level.prolongation @ self._cycle(index + 1, here.level.restriction @ (residual - image))
        _image(here, solution, image, dots)
        solution += here.relaxation * (residual - image)
        return solution


def _inverse(level: Level, restart: Vector) -> Columns:
    starts, columns, values = level.adjacency
    diagonal = level.diagonal.astype(np.float64) + np.maximum(restart, MIN_RESTART)
    matrix = np.diag(diagonal)
    matrix[np.repeat(np.arange(len(diagonal)), np.diff(starts)), columns] -= values
    return np.linalg.inv(matrix).astype(np.float32)


def _image(here: _Restarted, x: Columns, image: Columns, dots: Columns) -> None:
    _in_ranges(len(x), _operate, *here.level.adjacency, here.diagonal, x, image, dots)


def _in_ranges(rows: int, body, *arguments) -> None:  # type: ignore[no-untyped-def]
    parallel_for(rows, STEP, lambda start, stop: body(start, stop, *arguments))


@kernel
def _multiply(start, stop, starts, columns, values, x, product):
    """product = matrix · x in these rows; a row of x is one float, or a vector's `SIZE`."""
    flat, out = x.reshape(-1), product.reshape(-1)
    if x.shape[1] == 1:
        for row in range(start, stop):
            single = np.float32(0)
            for k in range(starts[row], starts[row + 1]):
                single += values[k] * flat[columns[k]]
            out[row] = single
    else:
        for row in range(start, stop):
            lanes = broadcast(0.0)
            for k in range(starts[row], starts[row + 1]):
                lanes += values[k] * load(flat, columns[k] * SIZE)
            store(out, row * SIZE, lanes)


@kernel
def _operate(start, stop, starts, columns, values, diagonal, x, image, dots):
    """image = diagonal x − adjacency x in these rows, and x · image summed over them."""
    flat, out, dot = x.reshape(-1), image.reshape(-1), np.float32(0)
    if x.shape[1] == 1:
        for row in range(start, stop):
            single = np.float32(0)
            for k in range(starts[row], starts[row + 1]):
                single += values[k] * flat[columns[k]]
            single = diagonal[row] * flat[row] - single
            out[row] = single
            dot += single * flat[row]
        dots[start // STEP, 0] = dot
    else:
        sums = broadcast(0.0)
        for row in range(start, stop):
            lanes = broadcast(0.0)
            for k in range(starts[row], starts[row + 1]):
                lanes += values[k] * load(flat, columns[k] * SIZE)
            own = load(flat, row * SIZE)
            lanes = diagonal[row] * own - lanes
            store(out, row * SIZE, lanes)
            sums += lanes * own
        store(dots.reshape(-1), start // STEP * SIZE, sums)


@kernel
def _correct(start, stop, starts, columns, values, coarse, residual, relaxation, correction, dots):
    """correction = relaxation · residual + prolongation · coarse, and correction · residual summed over the rows."""
    flat, given, out, dot = coarse.reshape(-1), residual.reshape(-1), correction.reshape(-1), np.float32(0)
    if coarse.shape[1] == 1:
        for row in range(start, stop):
            single = relaxation[row, 0] * given[row]
            for k in range(starts[row], starts[row + 1]):
                single += values[k] * flat[columns[k]]
            out[row] = single
            dot += single * given[row]
        dots[start // STEP, 0] = dot
    else:
        sums = broadcast(0.0)
        for row in range(start, stop):
            own = load(given, row * SIZE)
            lanes = relaxation[row, 0] * own
            for k in range(starts[row], starts[row + 1]):
                lanes += values[k] * load(flat, columns[k] * SIZE)
            store(out, row * SIZE, lanes)
            sums += lanes * own
        store(dots.reshape(-1), start // STEP * SIZE, sums)


@kernel
def _advance(start, stop, step, direction, image, solution, residual):
    """One step along a direction and its image, a factor per column."""
    width = step.shape[0]
    along, changes = direction.reshape(-1), image.reshape(-1)
    x, r = solution.reshape(-1), residual.reshape(-1)
    if width == 1:
        for k in range(start, stop):
            x[k] += step[0] * along[k]
            r[k] -= step[0] * changes[k]
    else:
        factors = load(step, 0)
        for row in range(start, stop):
            k = row * SIZE
            store(x, k, load(x, k) + factors * load(along, k))
            store(r, k, load(r, k) - factors * load(changes, k))


@kernel
def _turn(start, stop, factor, correction, direction):
    """The next direction, conjugate to those before."""
    width = factor.shape[0]
    given, along = correction.reshape(-1), direction.reshape(-1)
    if width == 1:
        for k in range(start, stop):
            along[k] = given[k] + factor[0] * along[k]
    else:
        factors = load(factor, 0)
        for row in range(start, stop):
            k = row * SIZE
            store(along, k, load(given, k) + factors * load(along, k))
