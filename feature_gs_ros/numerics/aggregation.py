"""The hierarchy of a graph for `multigrid`: smoothed aggregation over strong edges.

Vaněk, Mandel and Brezina (1996): strongly coupled neighbourhoods become the unknowns of the next level; the piecewise
null vector on them, smoothed by one Jacobi step along the strong edges, is the prolongation P, and ``Pᵀ L P`` the next
level's matrix. Weak edges are borders (of colour, here): aggregates don't cross them.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from feature_gs_ros.numerics.multigrid import Level, SparseRows
from feature_gs_ros.numerics.runtime import kernel

STRENGTH = 0.05  # an edge a_ij is strong over this fraction of √(a_ii a_jj); half as much per level
EXACT_UNKNOWNS = 200  # unknowns that are solved for exactly
MAX_COARSENING_FRACTION = 0.8  # of a level's unknowns left on the next: coarser levels would gain nothing
MAX_DENSE_UNKNOWNS = 2000  # unknowns of a coarsest level that wouldn't coarsen, at most: solved by a dense inverse
POWER_STEPS = 12


def hierarchy_of(adjacency: sparse.csr_array, null: NDArray[np.float64]) -> list[Level]:
    """Levels, finest first, of ``L = diag(has neighbours) − adjacency``.

    Args:
        adjacency: [n, n] symmetric, normalised: ``L null = 0``.
        null: [n] positive, ``D^½``.
    """
    matrix = _laplacian(adjacency)
    levels, strength = [], STRENGTH
    while True:
        diagonal = matrix.diagonal()
        if len(null) > EXACT_UNKNOWNS:
            strong = _strong(matrix, diagonal, strength)
            owner, count = _aggregated(strong)
        if (
            len(null) <= EXACT_UNKNOWNS
            or (count > MAX_COARSENING_FRACTION * len(null) and len(null) <= MAX_DENSE_UNKNOWNS)
            or count == len(null)
        ):
            levels.append(_level(matrix, null, 0.0, None))
            return levels
        coarse_null = np.sqrt(np.bincount(owner, null**2, count))
        tentative = sparse.csr_array(
            (null / coarse_null[owner], owner, np.arange(len(null) + 1)), shape=(len(null), count)
        )
        prolongation = _smoothed(strong, null, tentative)
        levels.append(_level(matrix, null, _radius(matrix, diagonal), prolongation))
        matrix = sparse.csr_array(prolongation.T @ matrix @ prolongation)
        null, strength = coarse_null, strength / 2


def _laplacian(adjacency: sparse.csr_array) -> sparse.csr_array:
    has_neighbours = (np.asarray(adjacency.sum(axis=1)).ravel() > 0).astype(np.float64)
    return sparse.csr_array(sparse.diags_array(has_neighbours) - adjacency)


def _strong(matrix: sparse.csr_array, diagonal: NDArray[np.float64], strength: float) -> sparse.csr_array:
    """The strong edges of a Laplacian, positive, without the diagonal."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    bound = strength * np.sqrt(np.maximum(diagonal[rows] * diagonal[matrix.indices], 0))
    keep = (rows != matrix.indices) & (-matrix.data > bound)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows[keep], minlength=matrix.shape[0]))])
    return sparse.csr_array((-matrix.data[keep], matrix.indices[keep], starts), shape=matrix.shape)


def _aggregated(strong: sparse.csr_array) -> tuple[NDArray[np.int32], int]:
    """Which aggregate each unknown belongs to, and how many there are."""
    owner = np.full(strong.shape[0], -1, np.int32)
    count = _aggregate(strong.indptr.astype(np.uint32), strong.indices.astype(np.uint32), strong.data, owner)
    return owner, int(count)


@kernel
def _aggregate(starts, columns, values, owner):
    """Whole neighbourhoods first; then each one left joins the aggregate of its strongest neighbour, or stays alone."""
    count = 0
    for row in range(owner.shape[0]):
        free = owner[row] < 0 and starts[row] < starts[row + 1]
        for k in range(starts[row], starts[row + 1]):
            free = free and owner[columns[k]] < 0
        if free:
            owner[row] = count
            for k in range(starts[row], starts[row + 1]):
                owner[columns[k]] = count
            count += 1
    first = owner.copy()
    for row in range(owner.shape[0]):
        if owner[row] < 0:
            strongest = 0.0
            for k in range(starts[row], starts[row + 1]):
                if first[columns[k]] >= 0 and values[k] > strongest:
                    strongest, owner[row] = values[k], first[columns[k]]
        if owner[row] < 0:
            owner[row] = count
            count += 1
    return count


def _smoothed(strong: sparse.csr_array, null: NDArray[np.float64], tentative: sparse.csr_array) -> sparse.csr_array:
    """``(1 − ω diag⁻¹ S) T`` with S the Laplacian of the strong edges alone, which keeps the null vector."""
    diagonal = (strong @ null) / null
    inverse = np.where(diagonal > 0, 1 / np.where(diagonal > 0, diagonal, 1), 0)
    laplacian = sparse.csr_array(sparse.diags_array(diagonal) - strong)
    relaxation = 4 / 3 / max(_radius(laplacian, np.where(diagonal > 0, diagonal, 1)), 1e-6)
    return sparse.csr_array(tentative - sparse.diags_array(relaxation * inverse) @ (laplacian @ tentative))


def _radius(matrix: sparse.csr_array, diagonal: NDArray[np.float64]) -> float:
    """About the largest eigenvalue of ``diag⁻¹ matrix``, by a few power steps."""
    inverse = 1 / np.where(diagonal > 0, diagonal, 1)
    vector = np.random.default_rng(0).random(len(diagonal))
    radius = 0.0
    for _ in range(POWER_STEPS):
        vector = inverse * (matrix @ vector)
        radius = float(np.linalg.norm(vector))
        vector /= max(radius, 1e-300)
    return 1.05 * radius


def _level(
    matrix: sparse.csr_array, null: NDArray[np.float64], radius: float, prolongation: sparse.csr_array | None
) -> Level:
    diagonal = matrix.diagonal()
    off_diagonal = sparse.csr_array(sparse.diags_array(diagonal) - matrix)
    off_diagonal.eliminate_zeros()
    return Level(
        _rows(off_diagonal),
        diagonal.astype(np.float32),
        null.astype(np.float32),
        radius,
        None if prolongation is None else _rows(prolongation),
        None if prolongation is None else _rows(sparse.csr_array(prolongation.T)),
    )


def _rows(matrix: sparse.csr_array) -> SparseRows:
    matrix.sort_indices()
    return SparseRows(matrix.indptr.astype(np.uint32), matrix.indices.astype(np.uint32), matrix.data.astype(np.float32))
