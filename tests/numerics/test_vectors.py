"""The kernels' vectors against numpy: each piece alone, compiled as kernels compile it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from feature_gs_ros.numerics.products import MAX_VECTORS, inner_products
from feature_gs_ros.numerics.runtime import kernel
from feature_gs_ros.numerics.simd import (
    bits,
    broadcast,
    end_bit,
    first_bit,
    load,
    load_rows,
    maximum,
    minimum,
    put,
    store,
    store_first,
    store_rows,
    store_totals,
    total,
    where,
)
from feature_gs_ros.rasterizer.cpu.constants import TILE

Floats = NDArray[np.float32]
NUMBERS = st.floats(-1e3, 1e3, width=32)
VECTORS = arrays.arrays(np.float32, TILE, elements=NUMBERS)


@kernel
def _arithmetic(a, b, number, results):
    x, y = load(a, 0), load(b, 0)
    store(results, 0, x + y)
    store(results, TILE, x - number)
    store(results, 2 * TILE, number * y)
    quotient = broadcast(np.float32(1))
    quotient += x
    quotient -= number
    quotient *= y
    store(results, 3 * TILE, quotient)
    store(results, 4 * TILE, x / (y * y + np.float32(1)))
    store(results, 5 * TILE, maximum(x, y))
    store(results, 6 * TILE, minimum(x, number))
    store(results, 7 * TILE, where((x >= y) & (x > number), x))


@settings(deadline=None, max_examples=30)
@given(VECTORS, VECTORS, NUMBERS)
def test_arithmetic_comparisons_and_choices(a: Floats, b: Floats, number: float) -> None:
    results, scalar = np.zeros(8 * TILE, np.float32), np.float32(number)
    _arithmetic(a, b, scalar, results)
    wanted = [a + b, a - scalar, scalar * b, (1 + a - scalar) * b, a / (b * b + 1), np.maximum(a, b)]
    wanted += [np.minimum(a, scalar), np.where((a >= b) & (a > scalar), a, 0)]
    for row, expected in zip(results.reshape(8, TILE), wanted, strict=True):
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-2)  # a sum's terms may cancel


@kernel
def _sum_of(values, first):
    return total(load(values, first))


@settings(deadline=None, max_examples=30)
@given(arrays.arrays(np.float32, 3 * TILE, elements=NUMBERS), st.integers(0, 2 * TILE))
def test_total_of_any_stretch(values: Floats, first: int) -> None:
    np.testing.assert_allclose(_sum_of(values, first), values[first : first + TILE].sum(), rtol=1e-4, atol=1e-2)


@kernel
def _places_above(values, limit):
    seen = bits(load(values, 0) > limit)
    return seen, first_bit(seen), end_bit(seen)


@settings(deadline=None, max_examples=50)
@given(VECTORS, NUMBERS)
def test_bits_of_a_mask_and_their_ends(values: Floats, limit: float) -> None:
    above = np.flatnonzero(values > np.float32(limit))
    seen, first, end = _places_above(values, np.float32(limit))
    assert seen == sum(1 << int(place) for place in above)
    assert (first, end) == ((above[0], above[-1] + 1) if len(above) else (64, 0))


@kernel
def _put(values, place, number, result):
    store(result, 0, put(load(values, 0), place, number))


@settings(deadline=None, max_examples=30)
@given(VECTORS, st.integers(0, TILE - 1), NUMBERS)
def test_put_changes_one_place(values: Floats, place: int, number: float) -> None:
    result, expected = np.empty(TILE, np.float32), values.copy()
    expected[place] = number
    _put(values, place, np.float32(number), result)
    np.testing.assert_array_equal(result, expected)


@kernel
def _store_first(values, first, vector, count):
    store_first(values, first, load(vector, 0), count)


@settings(deadline=None, max_examples=30)
@given(arrays.arrays(np.float32, 3 * TILE, elements=NUMBERS), VECTORS, st.integers(0, 2 * TILE), st.integers(-3, 99))
def test_store_first_leaves_the_rest(values: Floats, vector: Floats, first: int, count: int) -> None:
    expected, end = values.copy(), min(max(count, 0), TILE)
    expected[first : first + end] = vector[:end]
    _store_first(values, first, vector, count)
    np.testing.assert_array_equal(values, expected)


@kernel
def _whole_rows(values, factor, result):
    sums = broadcast(np.float32(0))
    for first in range(0, values.shape[0], TILE):
        sums += load(values, first) * factor
    store(result, 0, sums)


def test_a_sum_over_rows_stays_a_vector() -> None:
    values = np.arange(5 * TILE, dtype=np.float32)
    result = np.empty(TILE, np.float32)
    _whole_rows(values, np.float32(0.5), result)
    np.testing.assert_allclose(result, 0.5 * values.reshape(5, TILE).sum(0))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 300), st.integers(1, MAX_VECTORS + 1), st.integers(1, 200), st.booleans())
def test_inner_products_of_any_shape(rows: int, vectors: int, dimension: int, strided: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    features = torch.randn(rows, 2 * dimension if strided else dimension, generator=generator)[:, :dimension]
    others = torch.randn(vectors, dimension, generator=generator)
    expected = features.double() @ others.double().T
    assert torch.allclose(inner_products(features, others).double(), expected, atol=1e-4)


@kernel
def _two_rows(a, first, second, rows, sums, vectors):
    store_rows(rows, first, second, load_rows(a, second, first))
    store_totals(sums, 1, load(vectors, 0), load(vectors, TILE), load(vectors, 2 * TILE), load(vectors, 3 * TILE))


@settings(deadline=None, max_examples=30)
@given(arrays.arrays(np.float32, 4 * TILE, elements=NUMBERS), st.integers(0, 24), st.integers(32, 56))
def test_two_rows_in_a_vector_and_four_sums_at_once(a: Floats, first: int, second: int) -> None:
    rows, sums = np.zeros_like(a), np.full(6, 7, np.float32)
    _two_rows(a, first, second, rows, sums, a)
    half, wanted = TILE // 2, np.zeros_like(a)
    wanted[first : first + half], wanted[second : second + half] = a[second : second + half], a[first : first + half]
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_allclose(sums[1:5], a.reshape(4, TILE).sum(1), rtol=1e-5, atol=1e-2)
    assert sums[0] == sums[5] == 7  # nothing beside them
