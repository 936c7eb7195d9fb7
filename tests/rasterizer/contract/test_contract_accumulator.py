"""Accumulators of every backend: sums over views, in the map's row order, that can be subtracted, moved and merged."""

from __future__ import annotations

import pytest
import torch
from conftest import random_camera, random_map
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.core.errors import GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.rasterizer import Accumulator, AccumulatorState, Backend, View, get_backend
from tests.errors import raises

MAP = random_map(11, 300)
SHAPES = [(4, 5), (22, 35), (45, 70), (3, 4)]  # coarse, fine and a cell per pixel, in one batch


def entries(backend: Backend, channels: int = 3) -> tuple[list[View], list[FeatureGrid], list[Tensor | None]]:
    generator = torch.Generator().manual_seed(1)
    views, grids, valids = [], [], []
    for seed, shape in enumerate(SHAPES):
        camera, pose = random_camera(seed)
        views.append(rasterizer.view(MAP, camera, pose, backend))
        grids.append(FeatureGrid(torch.randn(*shape, channels, generator=generator)))
        valids.append(torch.rand(camera.height, camera.width, generator=generator) if seed % 2 else None)
    return views, grids, valids


def close(found: Accumulator, expected: AccumulatorState) -> bool:
    state = found.state()
    return bool(
        (state.numerator - expected.numerator).norm() < 1e-5 * expected.numerator.norm().clamp_min(1e-6)
        and (state.weight - expected.weight).norm() < 1e-5 * expected.weight.norm().clamp_min(1e-6)
        and torch.equal(state.view_count, expected.view_count)
        and torch.equal(found.view_count(), expected.view_count)
    )


def test_sums_are_those_of_the_views(backend: Backend) -> None:
    views, grids, valids = entries(backend)
    sums = backend.accumulator(MAP, 3)
    sums.add(views[:3], grids[:3], valids[:3])
    sums.add(views[3:], grids[3:], valids[3:])
    parts = [view.backproject(grid, valid) for view, grid, valid in zip(views, grids, valids, strict=True)]
    weights = torch.stack([weight for _, weight in parts])
    expected = AccumulatorState(
        torch.stack([numerator for numerator, _ in parts]).sum(0), weights.sum(0), (weights > 0).sum(0).int()
    )
    assert close(sums, expected)
    state = sums.state()
    assert state.numerator.dtype == state.weight.dtype == torch.float32
    assert state.view_count.dtype == torch.int32
    assert state.numerator.device.type == "cpu"


def test_what_is_subtracted_was_never_there(backend: Backend) -> None:
    views, grids, valids = entries(backend)
    sums, fewer = backend.accumulator(MAP, 3), backend.accumulator(MAP, 3)
    sums.add(views, grids, valids)
    fewer.add(views[:1], grids[:1], valids[:1])
    sums.add(views[1:], grids[1:], valids[1:], sign=-1)
    state, expected = sums.state(), fewer.state()
    assert torch.equal(state.view_count, expected.view_count)
    unseen = state.view_count == 0
    assert bool(unseen.any())
    assert float(state.numerator[unseen].abs().sum()) == 0.0
    assert float(state.weight[unseen].abs().sum()) == 0.0
    assert (state.numerator - expected.numerator).norm() < 1e-4 * expected.numerator.norm()


def test_blocks_of_rows_are_read_loaded_and_merged(backend: Backend) -> None:
    views, grids, valids = entries(backend)
    sums, other, empty = (backend.accumulator(MAP, 3) for _ in range(3))
    sums.add(views[:2], grids[:2], valids[:2])
    other.add(views[2:], grids[2:], valids[2:])
    for first, end in ((0, 100), (100, 101), (101, len(MAP))):
        part = sums.state(first, end)
        assert len(part.weight) == end - first
        assert torch.equal(part.numerator, sums.state().numerator[first:end])
        empty.load(part, first)
    assert close(empty, sums.state())
    for first in (0, 150):
        empty.merge(other.state(first, first + 150), first)
    whole = backend.accumulator(MAP, 3)
    whole.add(views, grids, valids)
    assert close(empty, whole.state())
    empty.load(other.state())
    assert close(empty, other.state())


def test_a_state_is_a_copy(backend: Backend) -> None:
    views, grids, valids = entries(backend)
    sums = backend.accumulator(MAP, 3)
    sums.add(views[:1], grids[:1], valids[:1])
    state = sums.state()
    before = state.numerator.clone()
    sums.add(views[1:], grids[1:], valids[1:])
    assert torch.equal(state.numerator, before)
    state.numerator.zero_()
    assert float(sums.state().numerator.abs().sum()) > 0


def test_what_does_not_fit_adds_nothing(backend: Backend) -> None:
    views, grids, valids = entries(backend)
    sums = backend.accumulator(MAP, 3)
    wide = FeatureGrid(torch.ones(2, 2, 4))
    with pytest.raises(GridError):
        sums.check(views[0], wide, None)
    with pytest.raises(GridError):
        sums.add(views[:2], [grids[0], wide], [None, None])
    with raises("grid.size"):
        sums.add(views[:2], grids[:2], [None, torch.ones(3, 3)])
    assert float(sums.state().weight.sum()) == 0.0
    sums.check(views[0], grids[0], valids[0])


def test_views_of_another_backend_are_refused(backend: Backend) -> None:
    other = get_backend("reference" if backend.name != "reference" else "cpu")
    views, grids, valids = entries(other)
    with raises("backend.mismatch", other.name):
        backend.accumulator(MAP, 3).add(views, grids, valids)


def test_the_need_of_memory_grows_with_rows_and_channels(backend: Backend) -> None:
    assert backend.accumulator_bytes(1000, 64) >= 1000 * 4 * 65
    assert backend.accumulator_bytes(2000, 64) > backend.accumulator_bytes(1000, 64)
    assert backend.accumulator_bytes(1000, 128) > backend.accumulator_bytes(1000, 64)
