"""Prompts on a field with known answers: three blobs, three words."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_camera

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.extractors.base import Extractor, ScoringRule
from feature_gs_ros.extractors.imagenet import ImageNetExtractor
from feature_gs_ros.extractors.precomputed import PrecomputedExtractor
from feature_gs_ros.query.masks_2d import mask_labels, render_similarities, segment_view
from feature_gs_ros.query.masks_3d import Segmenter, State, decide
from feature_gs_ros.query.smoothing import GaussianGraph
from tests.errors import raises

WORDS = ("red", "green", "blue")
EACH = 60


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    """Features from files with three words: the real `precomputed` extractor."""
    folder = tmp_path_factory.mktemp("features")
    np.save(folder / "0.npy", np.zeros((2, 2, 3), np.float32))
    np.savez(folder / "words.npz", **{word: np.eye(3, dtype=np.float32)[k] for k, word in enumerate(WORDS)})
    frames = tmp_path_factory.mktemp("frames")
    (folder / "0.npy").rename(frames / "0.npy")
    return PrecomputedExtractor(frames, folder / "words.npz")


def blobs(seed: int = 0) -> GaussianMap:
    """Three clusters of `EACH` opaque Gaussians at x = −1, 0, 1."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]]).repeat_interleave(EACH, 0)
    count = 3 * EACH
    return GaussianMap.from_tensors(
        centres + 0.1 * torch.randn(count, 3, generator=generator),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.full((count, 3), 0.05),
        torch.full((count,), 0.9),
        torch.zeros(count, 1, 3),
    )


def field_of(gaussians: GaussianMap, extractor: Extractor, unseen: int = 0) -> FeatureField:
    """Blob k has the feature of word k, with some noise; the last ``unseen`` Gaussians were never seen."""
    generator = torch.Generator().manual_seed(1)
    features = torch.eye(3).repeat_interleave(EACH, 0) + 0.1 * torch.rand(3 * EACH, 3, generator=generator)
    count = torch.ones(3 * EACH, dtype=torch.int32)
    if unseen:
        features[-unseen:], count[-unseen:] = 0, 0
    return FeatureField(
        features * (count > 0)[:, None], count.float(), count, extractor.identity, Provenance(gaussians.checksum)
    )


def segmenter_of(extractor: Extractor, unseen: int = 0) -> Segmenter:
    gaussians = blobs()
    return Segmenter(gaussians, field_of(gaussians, extractor, unseen), extractor)


@pytest.mark.parametrize(("toaster", "state"), [(0.04, State.FOUND), (0.012, State.NOT_FOUND)])
def test_a_thing_that_is_rather_another_is_not_found(toaster: float, state: State) -> None:
    """One blob is a mug with p = 0.3 and little else; elsewhere no word stands out."""
    extractor, gaussians = ImageNetExtractor(), blobs()
    likely = torch.full((1000,), 1e-4)
    mug, other = extractor.words.classes("coffee mug")[0], extractor.words.classes("toaster")[0]
    likely[mug], likely[other] = 0.3, toaster
    features = torch.zeros(3 * EACH, 1000)
    features[:EACH] = (likely / likely.sum()).log()
    features -= features.mean(dim=1, keepdim=True)
    seen = torch.ones(3 * EACH, dtype=torch.int32)
    field = FeatureField(features, seen.float(), seen, extractor.identity, Provenance(gaussians.checksum))
    answers = Segmenter(gaussians, field, extractor).ask(["coffee mug", "toaster"])
    assert [answer.state for answer in answers] == [State.FOUND, state]


def test_each_word_finds_its_blob(extractor: Extractor) -> None:
    answers = segmenter_of(extractor).ask(WORDS)
    for index, answer in enumerate(answers):
        expected = torch.zeros(3 * EACH, dtype=torch.bool)
        expected[index * EACH : (index + 1) * EACH] = True
        assert torch.equal(answer.mask, expected)
        assert answer.state is State.FOUND
        assert answer.coverage == 1.0
        assert f"{EACH} Gaussians" in answer.message


def test_negatives_take_what_fits_them_better(extractor: Extractor) -> None:
    segmenter = segmenter_of(extractor)
    alone = segmenter.ask(["red"], threshold=-1)[0]
    assert int(alone.mask.sum()) == 3 * EACH  # nothing competes, everything is over the threshold
    contested = segmenter.ask(["red"], ["green", "blue"], threshold=-1)[0]
    assert int(contested.mask.sum()) == EACH
    strict = segmenter.ask(["red"], ["green", "blue"], threshold=0.9999)[0]
    assert int(strict.mask.sum()) < EACH


def test_many_prompts_are_answered_as_each_alone(extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = segmenter_of(extractor)
    monkeypatch.setattr(extractor, "text_rule", ScoringRule(threshold=-1.0, other="blue"))
    for answer in segmenter.ask_many(["red", "blue"], ["green"]):
        alone = segmenter.ask([answer.prompt], ["green"])[0]
        assert (answer.prompt, answer.state, answer.message) == (alone.prompt, alone.state, alone.message)
        torch.testing.assert_close(answer.mask, alone.mask)
        torch.testing.assert_close(answer.similarity, alone.similarity)


def test_what_passes_is_above_the_threshold(extractor: Extractor) -> None:
    segmenter = segmenter_of(extractor)
    similarity = segmenter.ask(["red"])[0].similarity
    limit = float(similarity[7])
    answer = segmenter.ask(["red"], threshold=limit)[0]
    assert torch.equal(answer.mask, similarity > limit)
    assert not answer.mask[7]
    assert bool(answer.mask.any())


def test_the_last_other_of_a_extractor_competes(extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = segmenter_of(extractor)
    monkeypatch.setattr(extractor, "text_rule", ScoringRule(threshold=-1.0, other="blue"))
    assert int(segmenter.ask(["red"])[0].mask[2 * EACH :].sum()) == 0
    assert int(segmenter.ask(["blue"])[0].mask.sum()) == 3 * EACH  # "other" itself asked for: no second column


def test_the_three_states(extractor: Extractor) -> None:
    # Everything but blue was seen: red is found, blue is not found as 2/3 of the map were seen.
    answers = segmenter_of(extractor, unseen=EACH).ask(["red", "blue"])
    assert [answer.state for answer in answers] == [State.FOUND, State.NOT_FOUND]
    assert answers[1].coverage == pytest.approx(2 / 3, abs=0.01)
    # Only red was seen: of blue nothing can be said.
    answers = segmenter_of(extractor, unseen=2 * EACH).ask(["red", "blue"])
    assert [answer.state for answer in answers] == [State.FOUND, State.NOT_OBSERVED]
    assert "look around more" in answers[1].message
    # Asked about the seen part alone, "not found" is an answer again.
    among = torch.zeros(3 * EACH, dtype=torch.bool)
    among[:EACH] = True
    answer = segmenter_of(extractor, unseen=2 * EACH).ask(["blue"], among=among)[0]
    assert answer.state is State.NOT_FOUND
    assert answer.coverage == 1.0


def test_the_rule_of_states() -> None:
    assert decide(opacity=5.0, coverage=0.0) is State.FOUND
    assert decide(opacity=4.9, coverage=0.49) is State.NOT_OBSERVED
    assert decide(opacity=4.9, coverage=0.5) is State.NOT_FOUND


def test_a_thing_is_found_by_its_opacity_not_by_its_number(extractor: Extractor) -> None:
    """Sixty Gaussians of 0.05 are three opaque ones: too few."""
    faint = blobs()
    faint = replace(faint, opacities=torch.full_like(faint.opacities, 0.05))
    (answer,) = Segmenter(faint, field_of(faint, extractor), extractor).ask(["red"])
    assert int(answer.mask.sum()) == EACH
    assert answer.state is State.NOT_FOUND


def test_unseen_gaussians_are_never_part_of_an_answer(extractor: Extractor) -> None:
    segmenter = segmenter_of(extractor, unseen=EACH)
    answer = segmenter.ask(["red"], threshold=-1)[0]
    assert not bool(answer.mask[-EACH:].any())
    assert not bool(answer.similarity[-EACH:].any())


def test_examples_and_their_negatives(extractor: Extractor) -> None:
    segmenter = segmenter_of(extractor)
    features = segmenter.field.features
    answer = segmenter.ask_example(features[:5], features[EACH : EACH + 5])
    assert torch.equal(answer.mask.nonzero()[:, 0], torch.arange(EACH))
    either = segmenter.ask_example(torch.stack([features[0], features[2 * EACH]]))  # the nearest of the two counts
    assert torch.equal(either.mask, torch.arange(3 * EACH) // EACH != 1)
    for wrong, fault in (
        (torch.zeros(0, 3), ("prompt.shape",)),
        (torch.zeros(2, 4), ("prompt.shape",)),
        (torch.full((1, 3), float("nan")), ("prompt.not-finite",)),
    ):
        with raises(*fault):
            segmenter.ask_example(wrong)


def test_masks_of_a_rendered_view(extractor: Extractor) -> None:
    """Eq. 7: each blob's pixels get its label, what the map leaves empty gets none."""
    segmenter = segmenter_of(extractor)
    camera = Camera(120, 60, 40, 40, 60, 30)
    pose = np.eye(4)
    pose[2, 3] = 2.0
    view = rasterizer.view(segmenter.gaussians, camera, pose)
    similarities, coverage = segment_view(segmenter, view, WORDS)
    labels = mask_labels(similarities, 0.5)
    for k, x in enumerate((-1.0, 0.0, 1.0)):
        assert labels[30, round(40 * x / 2 + 60)] == k + 1
    assert labels[2, 2] == 0
    assert coverage[30, 60] == pytest.approx(1.0, abs=1e-4)
    assert coverage[2, 2] == 0


def test_rendered_scores_are_of_the_seen() -> None:
    """A Gaussian that nobody saw, in front of one that was, lowers the coverage and not the similarity."""
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0, 1], [0, 0, 2]]),
        torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4),
        torch.full((2, 3), 0.5),
        torch.tensor([0.5, 0.9]),
        torch.zeros(2, 1, 3),
    )
    view = rasterizer.view(gaussians, Camera(11, 11, 30, 30, 5.5, 5.5), np.eye(4))
    image, coverage = render_similarities(view, torch.tensor([[9.0], [0.7]]), torch.tensor([False, True]))
    assert float(image[5, 5, 0]) == pytest.approx(0.7, rel=1e-4)
    assert float(coverage[5, 5]) == pytest.approx(0.5 * 0.9 / (0.5 + 0.5 * 0.9), rel=1e-3)


def test_a_score_of_rendered_features_is_of_the_seen_ones() -> None:
    """Eq. 7 with an extractor whose scores are distances: half of the weight was seen, and it is red to the full."""
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0, 1], [0, 0, 2]]),
        torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4),
        torch.full((2, 3), 0.5),
        torch.tensor([0.5, 0.9]),
        torch.zeros(2, 1, 3),
    )
    color, seen = make_extractor("color"), torch.tensor([0, 1], dtype=torch.int32)
    features = torch.cat([torch.zeros(1, 3), color.embed(["red"])])
    field = FeatureField(features, seen.float(), seen, color.identity, Provenance(gaussians.checksum))
    view = rasterizer.view(gaussians, Camera(11, 11, 30, 30, 5.5, 5.5), np.eye(4))
    scores, coverage = segment_view(Segmenter(gaussians, field, color), view, ["red"])
    assert float(scores[5, 5, 0]) == pytest.approx(1.0, abs=1e-4)
    assert float(coverage[5, 5]) == pytest.approx(0.5 * 0.9 / (0.5 + 0.5 * 0.9), rel=1e-3)


def test_a_label_is_that_of_the_best_prompt_unless_a_negative_wins() -> None:
    similarities = torch.tensor([[0.9, 0.2, 0.1], [0.3, 0.8, 0.7], [0.4, 0.6, 0.9], [0.4, 0.3, 0.2], [0.5, 0.1, 0.1]])
    assert mask_labels(similarities, 0.5, prompts=2).tolist() == [1, 2, 0, 0, 0]  # 0.5 isn't over the threshold
    assert mask_labels(similarities, 0.5).tolist() == [1, 2, 3, 0, 0]


def test_bands_give_the_whole_image(extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = segmenter_of(extractor)
    camera, pose = random_camera(4, 64, 100)
    view = rasterizer.view(segmenter.gaussians, camera, pose)
    whole, coverage = segment_view(segmenter, view, WORDS)
    monkeypatch.setattr("feature_gs_ros.query.masks_2d.BAND_BYTES", 1)
    banded, banded_coverage = segment_view(segmenter, view, WORDS)
    assert torch.equal(whole, banded)
    assert torch.equal(coverage, banded_coverage)


def test_bad_prompts_are_named(extractor: Extractor) -> None:
    segmenter = segmenter_of(extractor)
    with raises("prompt.empty"):
        segmenter.ask(["  "])
    with raises("prompt.empty"):
        segmenter.ask([])
    with raises("prompt.range", "1001", "1000"):
        segmenter.ask(["x" * 1001])
    with raises("prompt.characters"):
        segmenter.ask(["mug\x00"])
    with raises("prompt.value"):
        segmenter.ask(["red"], threshold=float("nan"))
    with raises("prompt.unknown"):
        segmenter.ask(["violet"])


def test_a_segmenter_refuses_what_is_not_its_own(extractor: Extractor, tmp_path: Path) -> None:
    gaussians = blobs()
    field = field_of(gaussians, extractor)
    with raises("field.mismatch"):
        Segmenter(blobs(3), field, extractor)
    np.save(tmp_path / "0.npy", np.zeros((2, 2, 3), np.float32))
    with raises("field.mismatch"):
        Segmenter(gaussians, field, PrecomputedExtractor(tmp_path, teacher="another"))
    with raises("field.mismatch"):
        Segmenter(gaussians, field, extractor, GaussianGraph(gaussians.select(torch.arange(2))))


def test_a_second_question_reuses_what_the_first_prepared(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, calls = extractor.prepare, []
    monkeypatch.setattr(extractor, "prepare", lambda features: calls.append(len(features)) or prepare(features))
    segmenter = segmenter_of(extractor)
    segmenter.ask(["red"])
    first = len(calls)
    segmenter.ask(["green"])
    assert len(calls) == first > 0
    start = time.perf_counter()
    answer = segmenter.ask(["blue"])[0]
    assert 0 < answer.seconds <= time.perf_counter() - start
