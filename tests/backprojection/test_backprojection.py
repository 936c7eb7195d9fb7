"""Streaming accumulators: linear, so views add, subtract and merge; codecs act before them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.projector import BackProjector, memory_needed
from feature_gs_ros.backprojection.shards import merge_fields
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.codec import Codec, fit_pca, parse_codec, random_projection, span_of
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.rasterizer import View
from tests.errors import raises

EXTRACTOR = ExtractorIdentity("test", "00", {"size": 3})
MAP = random_map(11, 300)


def views_and_grids(count: int, dimension: int = 5) -> list[tuple[View, FeatureGrid]]:
    entries = []
    for seed in range(count):
        camera, pose = random_camera(seed)
        generator = torch.Generator().manual_seed(seed)
        # Cells of different sizes in one run: coarse, fine, coarse, …
        shape = [(3, 5), (20, 30)][seed % 2]
        entries.append(
            (rasterizer.view(MAP, camera, pose), FeatureGrid(torch.randn(*shape, dimension, generator=generator)))
        )
    return entries


def projected(entries: list[tuple[View, FeatureGrid]], codec: Codec | None = None, batch: int = 4) -> BackProjector:
    projector = BackProjector(MAP, EXTRACTOR, entries[0][1].dimension, codec=codec, batch=batch)
    for index, (view, grid) in enumerate(entries):
        projector.add(view, grid, name=str(index))
    return projector


def test_the_sum_over_views_is_the_sum_of_views() -> None:
    entries = views_and_grids(5)
    field = projected(entries).field()
    numerator = sum(view.backproject(grid)[0] for view, grid in entries)
    weight = sum(view.backproject(grid)[1] for view, grid in entries)
    seen = sum((view.backproject(grid)[1] > 0).int() for view, grid in entries)
    assert torch.allclose(field.accumulated(), numerator, rtol=1e-4, atol=1e-4)
    assert torch.allclose(field.weight, weight, rtol=1e-5)
    assert torch.equal(field.view_count, seen)
    rows = field.seen
    assert torch.allclose(field.features[rows], numerator[rows] / weight[rows, None], rtol=1e-3, atol=1e-4)
    assert torch.isfinite(field.features).all()
    assert not bool(field.features[~rows].any())


def test_a_projector_knows_how_much_of_the_map_it_has_seen() -> None:
    projector = projected(views_and_grids(1))
    field = projector.field()
    seen = field.seen
    assert 0.1 < float(seen.float().mean()) < 0.9
    assert projector.coverage() == pytest.approx(float(MAP.opacities[seen].sum() / MAP.opacities.sum()))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_batch_changes_nothing(batch: int) -> None:
    entries = views_and_grids(5)
    one, other = projected(entries, batch=1).field(), projected(entries, batch=batch).field()
    assert torch.allclose(one.features, other.features, rtol=1e-4, atol=1e-5)
    assert torch.equal(one.view_count, other.view_count)


def test_subtracting_a_view_is_never_having_added_it() -> None:
    entries = views_and_grids(4)
    projector = projected(entries)
    projector.subtract(*entries[1], name="1")
    expected = projected([entries[0], *entries[2:]]).field()
    field = projector.field()
    assert torch.equal(field.view_count, expected.view_count)
    assert field.provenance.frames == ("0", "2", "3")
    strong = expected.weight > 1e-3
    assert torch.allclose(field.features[strong], expected.features[strong], atol=2e-3)
    for view, grid in (entries[0], *entries[2:]):
        projector.subtract(view, grid)
    empty = projector.field()
    assert not bool(empty.features.any())
    assert not bool(empty.seen.any())
    with raises("field.missing", "'9'"):
        projector.subtract(*entries[0], name="9")


def test_merge_of_two_projectors_and_of_two_fields() -> None:
    entries = views_and_grids(5)
    whole = projected(entries).field()
    first, second = projected(entries[:2]), projected(entries[2:])
    fields = merge_fields([first.field(), second.field()])
    first.merge(second)
    for merged in (first.field(), fields):
        assert torch.allclose(merged.features, whole.features, rtol=1e-3, atol=1e-4)
        assert torch.equal(merged.view_count, whole.view_count)
    other = BackProjector(random_map(12, 300), EXTRACTOR, 5)
    with raises("field.mismatch"):
        first.merge(other)
    with raises("field.mismatch"):
        first.merge(projected(entries, random_projection(5, 3)))


def test_resume_goes_on_where_the_file_stopped(tmp_path) -> None:  # type: ignore[no-untyped-def]
    entries = views_and_grids(4)
    projected(entries[:2]).field().save(tmp_path / "part")
    resumed = BackProjector.resume(MAP, FeatureField.load(tmp_path / "part"))
    for index, (view, grid) in enumerate(entries[2:], start=2):
        resumed.add(view, grid, name=str(index))
    whole = projected(entries).field()
    assert torch.allclose(resumed.field().features, whole.features, rtol=1e-3, atol=1e-4)
    assert torch.equal(resumed.field().view_count, whole.view_count)
    assert resumed.field().provenance.frames == whole.provenance.frames


def test_pixels_that_do_not_count() -> None:
    (view, grid), *_ = views_and_grids(1)
    valid = torch.zeros(view.camera.height, view.camera.width, dtype=torch.bool)
    projector = BackProjector(MAP, EXTRACTOR, 5)
    projector.add(view, grid, valid)
    assert not bool(projector.field().seen.any())
    valid[:, : view.camera.width // 2] = True
    projector.add(view, grid, valid)
    half = projector.field()
    numerator, weight = view.backproject(grid, valid)
    assert torch.allclose(half.weight, weight)
    assert torch.allclose(half.accumulated(), numerator, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(["pca", "random", "span"]), dimension=st.integers(1, 6), seed=st.integers(0, 99))
def test_codecs_act_before_or_after_accumulation_alike(kind: str, dimension: int, seed: int) -> None:
    entries = views_and_grids(3, dimension=6)
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randn(dimension, 6, generator=generator)
    cells = torch.cat([grid.values.reshape(-1, 6) for _, grid in entries])
    codec = {"pca": lambda: fit_pca(cells, dimension), "random": lambda: random_projection(6, dimension, seed)}.get(
        kind, lambda: span_of(prompts)
    )()
    plain, coded = projected(entries).field(), projected(entries, codec).field()
    assert coded.features.shape == (300, codec.dimension)
    strong = plain.weight > 1e-4
    encoded = codec.encode(plain.features[strong])
    assert torch.allclose(coded.features[strong], encoded, rtol=1e-3, atol=1e-3)
    if kind == "span":  # the prompts' logits are kept exactly
        assert torch.allclose(
            coded.decoded()[strong] @ prompts.T, plain.features[strong] @ prompts.T, rtol=1e-3, atol=1e-3
        )
    if kind == "pca" and dimension == 6:
        assert torch.allclose(coded.decoded()[strong], plain.features[strong], rtol=1e-3, atol=1e-3)


def test_pca_keeps_what_varies_most() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(500, 8, generator=generator) * torch.tensor([9.0, 5, 3, 0.1, 0.1, 0.1, 0.1, 0.1]) + 4
    codec = fit_pca(samples, 3)
    assert (codec.decode(codec.encode(samples)) - samples).std() < 0.11
    singular = np.linalg.svd((samples - samples.mean(0)).numpy(), full_matrices=False)[2][:3]
    overlap = np.abs(codec.encoder.numpy() @ singular.T)
    assert np.allclose(overlap, np.eye(3), atol=1e-3)


def test_random_projections_keep_inner_products_and_features_on_average() -> None:
    first, second = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    codecs = [random_projection(12, 4, seed) for seed in range(500)]
    inner = torch.stack([codec.encode(first) @ codec.encode(second) for codec in codecs])
    again = torch.stack([codec.decode(codec.encode(first)) for codec in codecs])
    for found, wanted in ((inner, first @ second), (again, first)):
        assert bool(((found.mean(dim=0) - wanted).abs() < 4 * found.std(dim=0) / 500**0.5).all())
    assert float((again.mean(dim=0) - first).norm() / first.norm()) < 0.15


def test_the_span_of_prompts_that_depend_on_each_other_has_their_rank() -> None:
    one, other = torch.randn(2, 9, generator=torch.Generator().manual_seed(2))
    prompts = torch.stack([one, other, 2 * one - other])
    codec = span_of(prompts)
    assert codec.dimension == 2
    features = torch.randn(5, 9, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(codec.decode(codec.encode(features)) @ prompts.T, features @ prompts.T, atol=1e-5)


def test_codec_names() -> None:
    assert parse_codec("pca:64") == ("pca", 64)
    assert parse_codec("random:128") == ("random", 128)
    for wrong in ("pca", "pca:0", "pca:-1", "span:3", "zip:9", "pca:x", "pca:²", "pca:" + "9" * 5000, "pca:3 "):
        with raises("field.value"):
            parse_codec(wrong)
    with raises("field.range"):
        fit_pca(torch.randn(4, 9), 5)
    with raises("field.shape"):
        BackProjector(MAP, EXTRACTOR, 5, codec=random_projection(6, 2))


def test_memory_is_said_before_and_refused_over_a_budget() -> None:
    needed = memory_needed(len(MAP), 768)
    BackProjector(MAP, EXTRACTOR, 768, budget=needed)
    with raises("budget", "300 Gaussians × 768 channels", "1.94 MB"):
        BackProjector(MAP, EXTRACTOR, 768, budget=needed - 1)


def test_bad_views_leave_the_projector_as_it_was() -> None:
    entries = views_and_grids(2)
    projector = projected(entries)
    before = projector.field()
    view, grid = entries[0]
    broken = grid.values.clone()
    broken[0, 0, 0] = float("nan")
    with raises("grid.not-finite"):
        projector.add(view, FeatureGrid(broken))
    with raises("grid.shape"):
        projector.add(view, FeatureGrid(grid.values[..., :4]))
    with raises("grid.size"):
        projector.add(view, grid, torch.ones(2, 2))
    after = projector.field()
    assert torch.equal(before.features, after.features)
    assert before.provenance.frames == after.provenance.frames


def test_an_image_that_is_too_large_spoils_no_batch() -> None:
    entries = views_and_grids(2)
    projector = projected(entries)
    endless = rasterizer.view(MAP, Camera(600_000, 20, 300.0, 300.0, 300_000.0, 10.0), np.eye(4))
    with raises("camera.range"):
        projector.add(endless, FeatureGrid(torch.ones(1, 30_000, 5)), name="endless")
    field, wanted = projector.field(), projected(entries).field()
    assert torch.equal(field.features, wanted.features)
    assert "endless" not in field.provenance.frames


def test_a_snapshot_does_not_change() -> None:
    entries = views_and_grids(3)
    projector = projected(entries[:2])
    snapshot = projector.field()
    copy = snapshot.features.clone()
    projector.add(*entries[2])
    projector.field()
    assert torch.equal(snapshot.features, copy)
