"""Sixteen rows at a time against numpy: columns in, and rows that are kept out; functions of vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from feature_gs_ros.numerics.runtime import kernel
from feature_gs_ros.numerics.simd import (
    SIZE,
    count_bits,
    float_parts,
    load,
    load_quadruples,
    load_scalars,
    load_triples,
    pack_indices,
    pack_octets,
    pack_scalars,
    square_root,
    store,
)
from feature_gs_ros.numerics.simd.math import log_from_one

Floats = NDArray[np.float32]


@kernel
def _columns(numbers, triples, quadruples, first, results):
    store(results, 0, load_scalars(numbers, first))
    x, y, z = load_triples(triples, first)
    store(results, SIZE, x)
    store(results, 2 * SIZE, y)
    store(results, 3 * SIZE, z)
    a, b, c, d = load_quadruples(quadruples, first)
    store(results, 4 * SIZE, a)
    store(results, 5 * SIZE, b)
    store(results, 6 * SIZE, c)
    store(results, 7 * SIZE, d)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3 * SIZE), st.data())
def test_columns_of_sixteen_rows_and_zeros_after_the_last(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count - 1))
    rows = np.arange(1, 8 * count + 1, dtype=np.float32).reshape(count, 8)
    numbers, triples, quadruples = (np.ascontiguousarray(part) for part in (rows[:, 0], rows[:, 1:4], rows[:, 4:]))
    results = np.full(8 * SIZE, np.nan, np.float32)
    _columns(numbers, triples, quadruples, first, results)
    expected = np.zeros((SIZE, 8), np.float32)
    expected[: min(SIZE, count - first)] = rows[first : first + SIZE]
    np.testing.assert_array_equal(results.reshape(8, SIZE).T, expected)


@kernel
def _packed(columns, kept, first, start, numbers, places, octets):
    eight = (
        load(columns, 0),
        load(columns, SIZE),
        load(columns, 2 * SIZE),
        load(columns, 3 * SIZE),
        load(columns, 4 * SIZE),
        load(columns, 5 * SIZE),
        load(columns, 6 * SIZE),
        load(columns, 7 * SIZE),
    )
    pack_octets(octets, first, eight, kept)
    pack_scalars(numbers, first, eight[0], kept)
    pack_indices(places, first, start, kept)
    return count_bits(kept)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**SIZE - 1) | st.just(2**SIZE - 1), st.integers(0, 5), st.integers(0, 10**6))
def test_rows_that_are_kept_lie_side_by_side(kept: int, first: int, start: int) -> None:
    columns = np.random.default_rng(kept).normal(size=(8, SIZE)).astype(np.float32)
    room = first + SIZE
    numbers, places = np.full(room + 1, -1, np.float32), np.full(room + 1, -1, np.int32)
    octets = np.full((room + 1, 8), -1, np.float32)
    count = _packed(columns.reshape(-1), kept, first, start, numbers, places, octets)
    lanes = np.flatnonzero(kept >> np.arange(SIZE) & 1)
    assert count == len(lanes)
    here = slice(first, first + count)
    np.testing.assert_array_equal(octets[here], columns.T[lanes])
    np.testing.assert_array_equal(numbers[here], columns[0, lanes])
    np.testing.assert_array_equal(places[here], start + lanes)
    for array in (numbers, places, octets):  # nothing before, and no more than there is room for
        assert (array[:first] == -1).all()
        assert (array[room:] == -1).all()


@kernel
def _functions(values, results):
    x = load(values, 0)
    store(results, 0, square_root(x))
    store(results, SIZE, log_from_one(x))
    mantissa, exponent = float_parts(x)
    store(results, 2 * SIZE, mantissa)
    store(results, 3 * SIZE, exponent)


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.float32, SIZE, elements=st.floats(1, 2.0**20, width=32)))
def test_roots_logarithms_and_parts(values: Floats) -> None:
    results = np.zeros(4 * SIZE, np.float32)
    _functions(values, results)
    roots, logs, mantissas, exponents = results.reshape(4, SIZE)
    np.testing.assert_allclose(roots, np.sqrt(values.astype(np.float64)), rtol=3e-7)
    np.testing.assert_allclose(logs, np.log(values.astype(np.float64)), rtol=5e-7, atol=1e-12)
    np.testing.assert_array_equal(mantissas * 2.0**exponents, values)
    assert ((mantissas >= 1) & (mantissas < 2)).all()
