"""Whether the vectors of kernels work here: they are built on numba's internals, which a release may change."""

from __future__ import annotations

from functools import cache

import numba
import numpy as np

from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.numerics.runtime import kernel


@cache
def check_vectors() -> None:
    """Compile and run one small kernel of vectors, once per process.

    Raises:
        BackendError: it doesn't compile, or gives the wrong sum.
    """
    try:
        from feature_gs_ros.numerics.simd.types import SIZE, load, spread, store, total

        def dot(one, other, products):
            vector = load(one, 0) * load(other, 0) + spread(np.float32(1))
            store(products, 0, vector)
            return total(vector)

        one, products = np.arange(SIZE, dtype=np.float32), np.zeros(SIZE, np.float32)
        found = kernel(dot)(one, one, products)
    except Exception as error:  # whatever numba's internals raise
        raise BackendError(_advice(f"{type(error).__name__}: {error}"), code="backend.unusable") from error
    expected = one * one + 1
    if found != expected.sum() or not np.array_equal(products, expected):
        raise BackendError(_advice(f"a sum of {found} instead of {expected.sum()}"), code="backend.unusable")


def _advice(problem: str) -> str:
    first = problem.splitlines()[0]
    return (
        f"numba {numba.__version__} doesn't compile the vectors of the CPU's kernels ({first}): install a numba from "
        "0.58 to 0.68, or use the backend reference for small scenes"
    )
