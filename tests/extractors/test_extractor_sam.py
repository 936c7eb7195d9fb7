"""SAM: the padded square, prompts on embeddings, automatic masks; against segment-anything where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractor_weights import published_shapes, scene, seeded_state

from feature_gs_ros.extractors import make_extractor, sam
from feature_gs_ros.extractors.libraries import import_library, installed
from feature_gs_ros.extractors.network import resized
from feature_gs_ros.extractors.sam import SamExtractor, model_of
from feature_gs_ros.extractors.sam_masks import (
    _boxes,
    _scale,
    instance_map,
    padded,
    prompted_masks,
    rendered_size,
    suppress_overlaps,
)
from tests.errors import raises

# ---- without segment-anything


@pytest.mark.parametrize("model", ["vit_b", "vit_l", "vit_h"])
def test_the_model_is_told_by_its_weights(model: str) -> None:
    shapes = published_shapes(f"sam_{model}")
    assert model_of({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}) == model
    with raises("extractor.format"):
        model_of({"image_encoder.pos_embed": torch.empty(1, 32, 32, 768)})


@pytest.mark.parametrize(
    ("height", "width", "cells"),
    [(720, 1280, (36, 64)), (480, 640, (48, 64)), (1000, 1000, (64, 64)), (1280, 720, (64, 36)), (10, 1024, (1, 64))],
)
def test_the_image_covers_its_part_of_the_padded_square(height: int, width: int, cells: tuple[int, int]) -> None:
    assert rendered_size(height, width) == cells


def test_rendered_features_are_padded_by_zeros_or_by_what_an_encoder_said() -> None:
    rendered = torch.rand(36, 64, 256)
    embedding = padded(rendered)
    assert torch.equal(embedding[:36], rendered)
    assert not embedding[36:].any()
    padding = torch.full((64, 64, 256), 7.0)
    embedding = padded(rendered, padding)
    assert torch.equal(embedding[:36], rendered)
    assert bool((embedding[36:] == 7).all())
    assert bool((padding == 7).all())
    with raises("extractor.shape", "65", "64", "256"):
        padded(torch.rand(65, 64, 256))


def test_prompts_are_scaled_as_the_image_is_fitted() -> None:
    """The longer side to 1024, the other to whole pixels: 401 high, 300 wide become 1024 and 766."""
    assert _scale((401, 300)).tolist() == pytest.approx([766 / 300, 1024 / 401])
    assert _scale((300, 401)).tolist() == pytest.approx([1024 / 401, 766 / 300])


def test_overlapping_boxes_are_suppressed_as_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [0, 5, 10, 15], [0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.9, 0.1, 0.8, 0.4])
    # 1 is best; 0 and 4 share 0.8 with it, 3 shares 30 of 150 = 0.2; 2 is alone.
    assert suppress_overlaps(boxes, scores, 0.7).tolist() == [1, 3, 2]
    assert suppress_overlaps(boxes, scores, 0.1).tolist() == [1, 2]
    assert suppress_overlaps(boxes, scores, 0.8).tolist() == [1, 3, 0, 2]
    assert suppress_overlaps(boxes[:0], scores[:0], 0.5).tolist() == []


def test_boxes_of_masks() -> None:
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:7] = True
    masks[1, 5, 0] = True
    assert _boxes(masks).tolist() == [[2, 1, 6, 2], [0, 5, 0, 5]]


def test_without_segment_anything_the_error_says_what_to_install(tmp_path: Path) -> None:
    if installed("segment_anything"):
        pytest.skip("segment-anything is installed")
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}, tmp_path / "sam.pth")
    with raises("extractor.package", "pip install"):
        make_extractor("sam", weights=tmp_path / "sam.pth").extract(scene(64, 64))


def test_bad_weights_and_options_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with raises("extractor.format"):
        make_extractor("sam", weights=tmp_path / "other.pth")
    with raises("extractor.unknown"):
        make_extractor("sam", weights=tmp_path / "other.pth", model="vit_x")
    with raises("extractor.weights", "sam_vit_h_4b8939.pth", "2,564", "https://dl.fbaipublicfiles"):
        make_extractor("sam", weights=tmp_path / "absent", model="vit_h")


# ---- with segment-anything: one pass of the real encoder, 90 million weights


@pytest.fixture(scope="module")
def library() -> Any:
    if not installed("segment_anything"):
        pytest.skip("segment-anything is not installed")
    return import_library("segment_anything", "segment-anything")


@pytest.fixture(scope="module")
def checkpoint(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    path = tmp_path_factory.mktemp("sam") / sam.weights_file("vit_b").name
    torch.save(seeded_state(published_shapes("sam_vit_b"), 7), path)
    return path


@pytest.fixture(scope="module")
def extractor(checkpoint: Path) -> SamExtractor:
    return SamExtractor(weights=checkpoint, device="cpu")


IMAGE = scene(270, 480)


@pytest.fixture(scope="module")
def predictor(library: Any, checkpoint: Path) -> Any:
    """The published predictor, given the published weights by its own loader."""
    own = library.SamPredictor(library.sam_model_registry["vit_b"](checkpoint=str(checkpoint)))
    pixels = resized([IMAGE], 576, 1024, "bilinear")
    with torch.inference_mode():
        own.set_torch_image(pixels, IMAGE.shape[:2])
    return own


def test_embedding_equals_the_published_predictors(extractor: SamExtractor, predictor: Any) -> None:
    grid = extractor.extract(IMAGE)
    assert (grid.rows, grid.columns, grid.dimension) == (64, 64, 256)
    assert (grid.left, grid.top, grid.right) == (0, 0, 1)
    assert grid.bottom == pytest.approx(64 / 36)
    assert float((grid.values - predictor.features[0].permute(1, 2, 0)).abs().max()) < 1e-4
    # The published resize, by Pillow, differs by a level of 255 here and there.
    theirs = predictor.transform.apply_image(IMAGE).astype(int)
    ours = resized([IMAGE], 576, 1024, "bilinear")[0].permute(1, 2, 0).numpy().astype(int)
    assert abs(theirs - ours).max() <= 1


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("kind", ["points", "box", "both"])
def test_prompted_masks_equal_the_published_predictors(
    extractor: SamExtractor, predictor: Any, kind: str, several: bool
) -> None:
    points, labels = np.array([[50.0, 60.0], [300.5, 20.0]]), [1, 0]
    box = [10, 20, 150, 160]
    ours: dict[str, Any] = {"points": points, "labels": labels} if kind != "box" else {}
    theirs = {"point_coords": points, "point_labels": np.array(labels)} if kind != "box" else {}
    if kind != "points":
        ours["box"], theirs["box"] = box, np.array(box)
    embedding = predictor.features[0].permute(1, 2, 0)
    masks = prompted_masks(extractor, embedding, (270, 480), several=several, **ours)
    expected, quality, _ = predictor.predict(multimask_output=several, return_logits=True, **theirs)
    assert masks.logits.shape == (3 if several else 1, 270, 480)
    assert float((masks.logits - torch.from_numpy(expected)).abs().max()) < 1e-4
    assert masks.quality.tolist() == pytest.approx(quality.tolist(), abs=1e-5)


@pytest.mark.parametrize("overlap", [1.0, 0.9])
def test_instance_maps_equal_the_published_automatic_masks(
    library: Any, extractor: SamExtractor, monkeypatch: pytest.MonkeyPatch, overlap: float
) -> None:
    """Random weights give noise all over the image: one mask is left where boxes may not overlap, else many are."""
    embedding = torch.randn(16, 16, 256, generator=torch.Generator().manual_seed(1)) * 8
    embedding = embedding.repeat_interleave(4, 0).repeat_interleave(4, 1)
    monkeypatch.setattr(extractor.network.image_encoder, "forward", lambda _: embedding.permute(2, 0, 1)[None])
    import segment_anything.automatic_mask_generator as published

    # Where torchvision's operators can't be loaded, so can't theirs.
    monkeypatch.setattr(
        published,
        "batched_nms",
        lambda boxes, scores, idxs, iou_threshold: suppress_overlaps(boxes, scores, iou_threshold),  # noqa: ARG005
    )
    image = IMAGE[:120, :200]
    generator = library.SamAutomaticMaskGenerator(
        extractor.network, points_per_side=3, pred_iou_thresh=-9.0, stability_score_thresh=0.3, box_nms_thresh=overlap
    )
    found = sorted(generator.generate(image), key=lambda mask: -mask["area"])
    expected = np.zeros(image.shape[:2], dtype=np.int32)
    for number, mask in enumerate(found, start=1):
        expected[mask["segmentation"]] = number
    ours = instance_map(extractor, image, points_per_side=3, quality=-9.0, stability=0.3, overlap=overlap)
    assert (len(found) > 1) == (overlap == 1)
    assert np.array_equal(ours, expected)
    assert not instance_map(extractor, image, points_per_side=2, quality=99.0).any()


def test_bad_prompts_are_named(extractor: SamExtractor) -> None:
    embedding = torch.zeros(64, 64, 256)
    for options, code in [
        ({}, "prompt.missing"),
        ({"points": np.zeros((2, 3))}, "prompt.shape"),
        ({"points": np.zeros((0, 2))}, "prompt.shape"),
        ({"points": np.zeros((2, 2)), "labels": [1]}, "prompt.shape"),
        ({"points": np.array([[np.nan, 1]])}, "prompt.not-finite"),
        ({"points": np.zeros((1, 2)), "labels": [2]}, "prompt.not-finite"),
        ({"box": [5, 5, 1, 9]}, "prompt.value"),
        ({"box": [5, 5, 9]}, "prompt.value"),
    ]:
        with raises(code):
            prompted_masks(extractor, embedding, (100, 100), **options)
    with raises("extractor.shape", "padded"):
        prompted_masks(extractor, embedding[:36], (100, 100), box=[0, 0, 1, 1])
