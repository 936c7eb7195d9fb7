"""The GPU backend's own: bands that bound its memory, what running out of it leaves, and where its answers lie."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest
import torch
from conftest import random_camera, random_map

from feature_gs_ros import rasterizer
from feature_gs_ros.core.errors import OutOfMemoryError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.rasterizer import Accumulator, Backend, View
from tests.errors import raises

pytest.importorskip("warp")

from feature_gs_ros.rasterizer.cuda import labels, runtime, weights
from feature_gs_ros.rasterizer.cuda.accumulate import blocks_of
from feature_gs_ros.rasterizer.cuda.view import CudaView

pytestmark = pytest.mark.slow

MAP = random_map(3, 250)


@pytest.fixture(scope="module")
def backend() -> Backend:
    return rasterizer.get_backend("warp-cpu")


def views_of(backend: Backend, count: int) -> list[View]:
    return [rasterizer.view(MAP, *random_camera(seed), backend) for seed in range(count)]


def fill(sums: Accumulator, views: list[View], sign: int = 1) -> None:
    """Coarse, fine and a cell per pixel, in one batch."""
    generator = torch.Generator().manual_seed(2)
    grids = [FeatureGrid(torch.randn(*shape, 3, generator=generator)) for shape in ((4, 5), (22, 35), (45, 70))]
    sums.add(views, grids, [None] * len(views), sign)


def test_bands_give_the_sums_of_the_whole_view(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    views = views_of(backend, 3)
    whole, banded = backend.accumulator(MAP, 3), backend.accumulator(MAP, 3)
    fill(whole, views)
    monkeypatch.setattr(weights, "MAX_WEIGHTS", 2000)
    fill(banded, views)
    one, other = whole.state(), banded.state()
    assert torch.allclose(one.numerator, other.numerator, rtol=1e-4, atol=1e-4)
    assert torch.allclose(one.weight, other.weight, rtol=1e-5)
    assert torch.equal(one.view_count, other.view_count)  # a view counts once, however many bands it takes
    fill(banded, views, sign=-1)
    assert not any(tensor.any() for tensor in (banded.state().numerator, banded.state().weight, banded.view_count()))


def test_bands_of_labels_add_up(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    view = views_of(backend, 1)[0]
    image = torch.randint(-1, 9, (45, 70), generator=torch.Generator().manual_seed(0)).numpy()
    whole = view.backproject_labels(image, 9)
    monkeypatch.setattr(labels, "MAX_SUMS", 500)
    assert abs(view.backproject_labels(image, 9) - whole).max() < 1e-3


@pytest.mark.parametrize("fails", [0, 4, 9, 13])
def test_running_out_of_memory_loses_no_sums(backend: Backend, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    """Wherever memory is taken: in the first view, between the views, and last, for the weights."""
    views, sums = views_of(backend, 3), backend.accumulator(MAP, 3)
    fill(sums, views)
    before = sums.state()
    views, taken, empty = views_of(backend, 3), itertools.count(), torch.empty

    def short(*arguments: object, **options: object) -> torch.Tensor:
        if next(taken) == fails:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return empty(*arguments, **options)

    monkeypatch.setattr(torch, "empty", short)
    with pytest.raises(OutOfMemoryError):
        fill(sums, views)
    after = sums.state()
    assert torch.equal(before.numerator, after.numerator)
    assert torch.equal(before.weight, after.weight)
    assert torch.equal(before.view_count, after.view_count)


def test_sums_that_have_no_room_are_refused(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_bytes", lambda: 300_000)
    with raises("memory"):
        backend.accumulator(MAP, 2000)
    assert backend.accumulator_bytes(len(MAP), 2000) > 4 * len(MAP) * 2000


def test_threads_share_the_device(backend: Backend) -> None:
    """Queries run beside ingestion: no thread sees another's launches."""
    values = torch.randn(len(MAP), 3)
    expected = [view.render(values) for view in views_of(backend, 4)]
    found: dict[int, torch.Tensor] = {}

    def work(seed: int) -> None:
        for _ in range(3):
            found[seed] = rasterizer.view(MAP, *random_camera(seed), backend).render(values)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], image) for seed, image in enumerate(expected))


def test_a_row_of_many_cells_is_the_sum_of_its_cells(backend: Backend) -> None:
    """The product takes channels in strides: none is left out at widths that aren't multiples of them."""
    view = views_of(backend, 1)[0]
    values = torch.randn(22, 35, 9)
    whole, _ = view.backproject(FeatureGrid(values))
    for channel in range(9):
        alone, _ = view.backproject(FeatureGrid(values[:, :, channel : channel + 1].contiguous()))
        assert torch.allclose(whole[:, channel : channel + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 5), (22, 35), (45, 70)])
def test_weights_beyond_a_footprint_land_in_nobody_elses_block(backend: Backend, shape: tuple[int, int]) -> None:
    """Rounding may give long needles an α where they have no cells; here footprints are halved to have many of them."""
    view = rasterizer.view(MAP, *random_camera(1), backend)
    assert isinstance(view, CudaView)
    (planned,) = blocks_of(view, FeatureGrid(torch.ones(*shape, 1)), None)
    whole = torch.zeros(planned.size)
    weights.sum_weights(planned, whole)
    halved = planned.blocks.clone()
    halved[::2, 3] //= 2
    sizes = halved[:, 2] * halved[:, 3]
    offsets = sizes.cumsum(0, dtype=torch.int32) - sizes
    guarded = torch.zeros(planned.size)
    weights.sum_weights(replace(planned, blocks=halved, offsets=offsets), guarded)
    assert int(sizes.sum()) < planned.size
    assert not bool(guarded[int(sizes.sum()) :].any())
    for i, (begin, old) in enumerate(zip(offsets.tolist(), planned.offsets.tolist(), strict=True)):
        # A Gaussian of half a footprint keeps what its last row of cells doesn't share with those that are gone.
        kept = int(sizes[i]) if i % 2 else max(0, int(sizes[i] - halved[i, 2]))
        torch.testing.assert_close(guarded[begin : begin + kept], whole[old : old + kept])


def test_more_threads_than_can_be_counted_are_refused(backend: Backend) -> None:
    with raises("backend.range"):
        runtime.launch(None, 2**31, backend.device)


def test_views_that_are_too_much_for_one_product_take_several(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, grids = views_of(backend, 4), [FeatureGrid(torch.randn(4, 5, 3)) for _ in range(4)]
    whole, split = backend.accumulator(MAP, 3), backend.accumulator(MAP, 3)
    whole.add(views, grids, [None] * 4)
    monkeypatch.setattr(weights, "MAX_WEIGHTS", 3000)  # a view and a half
    split.add(views, grids, [None] * 4)
    assert torch.allclose(whole.state().numerator, split.state().numerator, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole.view_count(), split.view_count())
