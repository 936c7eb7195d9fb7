"""Radix sorts against numpy's stable ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_gs_ros.numerics.sorting import argsort_positive, argsort_unsigned


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_whole_numbers_of_any_range(seed: int, count: int, one: int, other: int) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.integers(min(one, other), max(one, other), count, np.uint32, endpoint=True)
    keys[rng.random(count) < 0.3] = one  # equal ones keep their order
    np.testing.assert_array_equal(argsort_unsigned(keys), np.argsort(keys, kind="stable"))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 2.0**100, width=32), max_size=200))
def test_positive_floats(values: list[float]) -> None:
    depths = np.abs(np.array(values, np.float32))  # no −0
    np.testing.assert_array_equal(argsort_positive(depths), np.argsort(depths, kind="stable"))


def test_one_value_alone_and_often() -> None:
    assert argsort_unsigned(np.zeros(0, np.uint32)).tolist() == []
    assert argsort_unsigned(np.array([7], np.uint32)).tolist() == [0]
    assert argsort_unsigned(np.full(50, 2**32 - 1, np.uint32)).tolist() == list(range(50))
