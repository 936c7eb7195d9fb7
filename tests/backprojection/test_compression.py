"""Fields of eight-bit codes: what they keep, answers from the codes, and what can't be compressed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from feature_gs_ros.backprojection.compression import compress_field
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.backprojection.shards import merge_fields
from feature_gs_ros.cli.compress import compress
from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors.base import Extractor, needed_directions
from feature_gs_ros.extractors.imagenet import ImageNetExtractor
from feature_gs_ros.extractors.precomputed import PrecomputedExtractor
from feature_gs_ros.live.live_field import LiveField, LiveMap
from feature_gs_ros.numerics.products import affine_products
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.rasterizer import get_backend
from tests.errors import raises

COUNT, CHANNELS, RANK = 600, 40, 8


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    """Three words of random directions."""
    folder = tmp_path_factory.mktemp("words")
    words = torch.randn(3, CHANNELS, generator=torch.Generator().manual_seed(5)).numpy()
    np.savez(folder / "words.npz", **dict(zip(("red", "green", "blue"), words, strict=True)))
    return PrecomputedExtractor(embeddings=folder / "words.npz", dimension=CHANNELS)


@pytest.fixture(scope="module")
def gaussians() -> GaussianMap:
    generator = torch.Generator().manual_seed(1)
    return GaussianMap.from_tensors(
        torch.randn(COUNT, 3, generator=generator),
        torch.tensor([[1.0, 0, 0, 0]]).expand(COUNT, 4),
        torch.full((COUNT, 3), 0.05),
        torch.full((COUNT,), 0.9),
        torch.zeros(COUNT, 1, 3),
    )


@pytest.fixture
def field(gaussians: GaussianMap, extractor: Extractor) -> FeatureField:
    """Features of few dimensions and an offset; the last ten Gaussians were not seen."""
    generator = torch.Generator().manual_seed(2)
    basis = torch.randn(RANK, CHANNELS, generator=generator)
    features = torch.randn(COUNT, RANK, generator=generator) @ basis + 0.5
    count = torch.ones(COUNT, dtype=torch.int32)
    count[-10:] = 0
    features[-10:] = 0
    return FeatureField(features, count.float(), count, extractor.identity, Provenance(gaussians.checksum))


def cosines(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one, other, dim=1)


def test_a_byte_per_channel_keeps_features_of_few_dimensions(field: FeatureField) -> None:
    small = compress_field(field, RANK)
    assert small.field.features.dtype == torch.int8
    assert small.field.features.nbytes == COUNT * RANK
    assert small.kept > 0.999
    seen = field.seen
    assert float(cosines(small.field.decoded()[seen], field.features[seen]).min()) > 0.99
    assert torch.equal(small.field.features.abs().amax(dim=0), torch.full((RANK,), 127, dtype=torch.int8))


def test_fewer_bytes_keep_less(field: FeatureField) -> None:
    kept = [compress_field(field, channels).kept for channels in (1, 3, 6, RANK)]
    assert kept == sorted(kept)
    assert kept[0] < 0.7


def test_answers_from_codes_are_those_of_the_decoded_features(
    field: FeatureField, gaussians: GaussianMap, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = compress_field(field, RANK).field
    decoded = Segmenter(gaussians, replace(small, features=small.decoded(), codec=None), extractor)
    by_codes = Segmenter(gaussians, small, extractor)
    _ = by_codes._prepared  # norms: made once, of the features
    monkeypatch.setattr(Codec, "decode", lambda *_: pytest.fail("a question decoded the features"))
    expected, found = (one.similarities_of_text(["red", "blue"]) for one in (decoded, by_codes))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    example = field.features[3:5]
    expected, found = (one.score_examples(example).similarities for one in (decoded, by_codes))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_live_map_answers_from_the_codes_that_it_went_on_with(
    field: FeatureField, gaussians: GaussianMap, extractor: Extractor
) -> None:
    small = compress_field(field, RANK).field
    live = LiveField(LiveMap(gaussians, "", Sim3.identity(), extractor, get_backend("cpu"), None))
    live.resume(small)
    found = live.question().segmenter.similarities_of_text(["green", "blue"])
    expected = Segmenter(gaussians, small, extractor).similarities_of_text(["green", "blue"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_words_of_logits_from_codes(gaussians: GaussianMap) -> None:
    extractor = ImageNetExtractor()
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(COUNT, 5, generator=generator) @ torch.randn(5, 1000, generator=generator)
    count = torch.ones(COUNT, dtype=torch.int32)
    field = FeatureField(features, count.float(), count, extractor.identity, Provenance(gaussians.checksum))
    small = compress_field(field, 5).field
    embeddings = extractor.embed(["coffee mug", "water bottle"])
    directions = needed_directions(extractor, embeddings)
    assert directions is not None
    assert directions.shape[1] < 10
    expected = extractor.scores(small.decoded(), embeddings)
    found = extractor.scores(
        affine_products(small.features, *small.codec.along(directions)),  # type: ignore[union-attr]
        embeddings @ directions,
        extractor.prepare(small.decoded()),
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_a_compressed_field_is_saved_read_and_gone_on_with(
    field: FeatureField, gaussians: GaussianMap, tmp_path: Path
) -> None:
    small = compress_field(field, RANK).field
    small.save(tmp_path / "small")
    assert (tmp_path / "small").stat().st_size < field.features.nbytes
    again = FeatureField.load(tmp_path / "small")
    assert torch.equal(again.features, small.features)
    torch.testing.assert_close(again.decoded(), small.decoded())
    went_on = BackProjector.resume(gaussians, again, backend="cpu").field()
    torch.testing.assert_close(went_on.decoded(), small.decoded(), rtol=1e-4, atol=1e-4)


def test_whole_numbers_without_a_codec_are_no_features(field: FeatureField, tmp_path: Path) -> None:
    replace(field, features=field.features.to(torch.int8)).save(tmp_path / "bare")
    with raises("field.value", "int8"):
        FeatureField.load(tmp_path / "bare")


def test_fields_compressed_apart_are_not_added_up(field: FeatureField) -> None:
    one, other = compress_field(field, 4).field, compress_field(replace(field, features=2 * field.features), 4).field
    with raises("field.merge"):
        merge_fields([one, other])


def test_the_command_writes_it(field: FeatureField, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field.save(tmp_path / "field")
    assert compress(tmp_path / "field", out=tmp_path / "small", bytes=5) == 0
    assert "5 bytes per Gaussian instead of 160" in capsys.readouterr().out
    assert FeatureField.load(tmp_path / "small").features.shape == (COUNT, 5)


def test_what_cannot_be_compressed_is_said(field: FeatureField) -> None:
    with raises("field.conflict", f"{RANK} bytes per Gaussian already"):
        compress_field(compress_field(field, RANK).field, 4)
    with raises("field.range", f"{CHANNELS + 1}"):
        compress_field(field, CHANNELS + 1)
    with raises("field.empty"):
        compress_field(replace(field, view_count=torch.zeros_like(field.view_count)), 4)
