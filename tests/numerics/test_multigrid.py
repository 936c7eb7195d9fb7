"""The hierarchy's solutions against a dense solver's, on graphs with borders, parts and lone nodes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from feature_gs_ros.numerics.aggregation import hierarchy_of
from feature_gs_ros.numerics.multigrid import RestartedLaplacian, SparseRows
from feature_gs_ros.numerics.runtime import set_thread_count, thread_count


def graph(count: int, seed: int) -> tuple[sparse.csr_array, np.ndarray]:
    """Two far parts of near points, weak edges between halves of each, and three nodes that know nobody."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, 3)) + np.array([10.0, 0, 0]) * (np.arange(count) % 3 == 0)[:, None]
    _, near = cKDTree(points).query(points, 9)
    rows, columns = np.repeat(np.arange(count), 8), near[:, 1:].ravel()
    same_half = (points[rows, 1] < 0.5) == (points[columns, 1] < 0.5)
    weights = rng.uniform(0.2, 1.0, len(rows)) * np.where(same_half, 1.0, 0.01)
    weights[(rows < 3) | (columns < 3)] = 0
    edges = sparse.csr_array(sparse.coo_array((weights, (rows, columns)), shape=(count, count)))
    edges = sparse.csr_array(edges.maximum(edges.T))
    edges.eliminate_zeros()
    degree = edges.sum(axis=1)
    root = np.sqrt(np.where(degree > 0, degree, 1.0))
    return sparse.csr_array(sparse.diags_array(1 / root) @ edges @ sparse.diags_array(1 / root)), root


def dense(adjacency: sparse.csr_array, restart: np.ndarray) -> np.ndarray:
    return np.diag((adjacency.sum(axis=1) > 0) + restart.astype(np.float64)) - adjacency.toarray()


@settings(max_examples=8, deadline=None)
@given(
    count=st.integers(4, 1500), columns=st.sampled_from([1, 2, 17]), rate=st.sampled_from([5e-4, 0.3, 1e3]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_it_solves_as_a_dense_solver_does(count: int, columns: int, rate: float, seed: int) -> None:
    adjacency, root = graph(max(count, 12), seed)
    rng = np.random.default_rng(seed)
    restart = (rate * rng.uniform(0.2, 1.0, len(root))).astype(np.float32)
    matrix = dense(adjacency, restart)
    target = (restart[:, None] * rng.random((len(root), columns))).astype(np.float32)
    solution = RestartedLaplacian(hierarchy_of(adjacency, root), restart).solve(target, 1e-4)
    error = solution - np.linalg.solve(matrix, target)
    energies = np.einsum("ip,ij,jp->p", error, matrix, error), np.einsum("ip,ip->p", solution, target)
    assert (energies[0] <= 1e-3**2 * energies[1]).all()


def test_levels_shrink_keep_the_null_vector_and_need_few_iterations() -> None:
    adjacency, root = graph(4000, 1)
    levels = hierarchy_of(adjacency, root)
    sizes = [len(level.null) for level in levels]
    assert len(sizes) > 2
    assert sizes[-1] <= 200
    for level in levels:
        image = level.diagonal[:, None] * level.null[:, None] - level.adjacency @ level.null[:, None]
        assert np.abs(image).max() < 1e-5 * np.abs(level.null).max()
    for fine, coarse in pairwise(levels):
        assert fine.prolongation is not None
        np.testing.assert_allclose(fine.prolongation @ coarse.null[:, None], fine.null[:, None], rtol=1e-4)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    adjacency, root = graph(20_000, 2)
    system = RestartedLaplacian(hierarchy_of(adjacency, root), np.full(20_000, 1e-3, np.float32))
    target = np.random.default_rng(0).random((20_000, 1)).astype(np.float32)
    answers, before = [], thread_count()
    try:
        for threads in (1, 3):
            set_thread_count(threads)
            answers.append(system.solve(target, 1e-3))
    finally:
        set_thread_count(before)
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("broken", [{"starts": [0, 3, 2]}, {"columns": [0, 1, 9]}, {"values": [1.0]}])
def test_arrays_that_are_no_matrix_are_refused(broken: dict[str, list[float]]) -> None:
    arrays = {"starts": np.array([0, 2, 3], np.uint32), "columns": np.array([0, 1, 2], np.uint32)}
    arrays |= {"values": np.ones(3, np.float32)}
    SparseRows(**arrays).check(2, 3)
    arrays |= {name: np.array(values, arrays[name].dtype) for name, values in broken.items()}
    with pytest.raises(ValueError, match=r"no matrix|ascend|none of"):
        SparseRows(**arrays).check(2, 3)
