"""One small kernel that uses each operation that depends on numba or on LLVM, and what it has to give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.numerics.runtime import kernel
from feature_gs_ros.numerics.simd.llvm.math import float_parts, square_root
from feature_gs_ros.numerics.simd.llvm.transpose import (
    count_bits,
    load_triples,
    pack_indices,
    pack_octets,
    pack_scalars,
)
from feature_gs_ros.numerics.simd.llvm.two_rows import load_rows, store_rows, store_totals
from feature_gs_ros.numerics.simd.llvm.types import (
    bits,
    broadcast,
    end_bit,
    first_bit,
    load,
    maximum,
    minimum,
    prefetch,
    put,
    store,
    store_first,
    total,
    where,
)
from feature_gs_ros.numerics.simd.size import SIZE

ROWS = np.arange(1, 3 * SIZE + 1, dtype=np.float32)


@kernel
def _check(rows, table, results, packed, indices):
    """Each operation once; returns how many rows ``packed`` [16, 8] and ``indices`` [16] hold."""
    prefetch(rows, 0)
    a, b = load(rows, 0), load(rows, SIZE)
    store(results, 0, (a * b - a) / (b + np.float32(1)))
    mask = (a > np.float32(3)) & (b >= np.float32(20))
    store(results, SIZE, where(mask, put(maximum(a, minimum(b, np.float32(9))), 5, np.float32(7))))
    mantissa, exponent = float_parts(square_root(b))
    store(results, 2 * SIZE, mantissa + exponent)
    store_rows(results, 3 * SIZE, 3 * SIZE + SIZE // 2, load_rows(rows, 3, 20))
    store_first(results, 4 * SIZE, broadcast(total(a)), 3)
    store_totals(results, 5 * SIZE, a, b, a, b)
    kept = bits(mask)
    results[5 * SIZE + 4], results[5 * SIZE + 5] = first_bit(kept), end_bit(kept)
    x, y, z = load_triples(table, 1)  # the last row lies after the end
    pack_octets(packed, 0, (x, y, z, x, y, z, x, y), kept)
    pack_scalars(results, 5 * SIZE + 6, a, kept)
    pack_indices(indices, 0, 100, kept)
    return count_bits(kept)


def results() -> NDArray[np.float64]:
    """What the kernel gives, one value after the other."""
    found, packed, indices = np.zeros(7 * SIZE, np.float32), np.zeros((SIZE, 8), np.float32), np.zeros(SIZE, np.int32)
    count = _check(ROWS, ROWS.reshape(SIZE, 3), found, packed, indices)
    return np.concatenate([found[: 5 * SIZE + 6 + count], packed[:count, :3].reshape(-1), indices[:count], [count]])


def wanted() -> NDArray[np.float64]:
    """The same by numpy."""
    a, b = ROWS[:SIZE], ROWS[SIZE : 2 * SIZE]
    lanes = np.flatnonzero((a > 3) & (b >= 20))
    chosen = np.zeros(SIZE)
    chosen[lanes] = np.maximum(a, np.minimum(b, 9))[lanes]
    chosen[5] = 7
    fraction, power = np.frexp(np.sqrt(b))
    halves = [*ROWS[3 : 3 + SIZE // 2], *ROWS[20 : 20 + SIZE // 2]]
    rows = np.concatenate([ROWS.reshape(SIZE, 3)[1:], np.zeros((1, 3))])[lanes]
    return np.concatenate([
        (a * b - a) / (b + 1), chosen, 2 * fraction + power - 1, halves,
        np.where(np.arange(SIZE) < 3, a.sum(), 0), [a.sum(), b.sum(), a.sum(), b.sum(), lanes[0], lanes[-1] + 1],
        a[lanes], rows.reshape(-1), 100 + lanes, [len(lanes)],
    ])  # fmt: skip
