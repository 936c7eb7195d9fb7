"""A numba whose vectors are wrong is named before anything is rasterised with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from feature_gs_ros.numerics.simd import probe
from feature_gs_ros.rasterizer.cpu import CpuBackend
from tests.errors import raises


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    probe.check_vectors.cache_clear()
    yield
    probe.check_vectors.cache_clear()


def test_the_installed_numba_passes() -> None:
    CpuBackend()


def test_a_wrong_sum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "kernel", lambda _function: lambda *_arrays: 3.0)
    with raises("backend.unusable", "0.58", "0.68"):
        CpuBackend()


def test_what_does_not_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_function: object) -> object:
        raise AttributeError("no attribute 'make_array'")

    monkeypatch.setattr(probe, "kernel", broken)
    with raises("backend.unusable"):
        CpuBackend()
