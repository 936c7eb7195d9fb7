"""The second look: cut-outs of kept images decide whether what a prompt selects is it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.looks import Looks
from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, Judgement, ScoringRule, image_judge
from feature_gs_ros.extractors.imagenet import ImageNetExtractor
from feature_gs_ros.query.masks_3d import Segmenter, State
from feature_gs_ros.query.verify import cut_out, passes, second_look

EACH = 80
CAMERA = Camera(160, 120, 150.0, 150.0, 80.0, 60.0)
NO_KIN = torch.zeros(4, dtype=torch.bool)


def two_blobs() -> GaussianMap:
    """Opaque clusters at x = −1 (red) and x = 1 (blue)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]).repeat_interleave(EACH, 0)
    return GaussianMap.from_tensors(
        centres + 0.1 * torch.randn(2 * EACH, 3, generator=generator),
        torch.tensor([[1.0, 0, 0, 0]]).expand(2 * EACH, 4),
        torch.full((2 * EACH, 3), 0.06),
        torch.full((2 * EACH,), 0.95),
        torch.tensor([[1.5, -1.5, -1.5], [-1.5, -1.5, 1.5]]).repeat_interleave(EACH, 0).unsqueeze(1),
    )


class RedOrBlue(Extractor):
    """Everything is "red" on the map; of an image it says the colour that is there."""

    identity = ExtractorIdentity("red or blue")
    dimension = 1
    text_rule = example_rule = candidate_rule = ScoringRule(threshold=0.5)

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002
        return FeatureGrid(torch.ones(1, 1, 1))

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), 1)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return features @ embeddings.T

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        return features @ examples.T

    def judge(self, images: Sequence[Image], prompt: str) -> Judgement:
        means = torch.tensor(np.array([image.reshape(-1, 3).mean(axis=0) for image in images]))
        fractions = (means[:, [0, 2]] + 1) / (means[:, [0, 2]] + 1).sum(dim=1, keepdim=True)
        columns = fractions if prompt == "red" else fractions.flip(1)
        return Judgement(columns.log(), (prompt, "blue" if prompt == "red" else "red"), torch.zeros(2).bool())


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    gaussians, looks = two_blobs(), Looks()
    for index, x in enumerate((-0.3, 0.0, 0.3)):
        pose = np.eye(4)
        pose[:3, 3] = x, 0.0, 4.0
        view = rasterizer.view(gaussians, CAMERA, pose)
        image = (view.render_color().clamp(0, 1) * 255).to(torch.uint8).numpy()
        looks = looks.with_view(view, image, str(index))
    ones = torch.ones(2 * EACH)
    extractor = RedOrBlue()
    field = FeatureField(
        ones.unsqueeze(1), ones, ones.int(), extractor.identity, Provenance(gaussians.checksum), looks=looks
    )
    return Segmenter(gaussians, field, extractor)


def test_a_cut_out_shows_the_object_and_little_else(segmenter: Segmenter) -> None:
    red = torch.arange(2 * EACH) < EACH
    cutouts = cut_out(segmenter.gaussians, segmenter.field.looks.kept, red)
    assert {cutout.look for cutout in cutouts} == {"0", "1", "2"}
    for cutout in cutouts:
        left, top, right, bottom = cutout.box
        assert cutout.image.shape == (bottom - top, right - left, 3)
        assert 15 < right - left < 60  # about 25 pixels large, with half as much around it
        assert cutout.image[..., 0].mean() > 4 * cutout.image[..., 2].mean()


def test_what_the_looks_contradict_is_not_selected(segmenter: Segmenter) -> None:
    unverified = segmenter.ask(["red"], verify=False)[0]
    assert bool(unverified.mask.all())
    answer = segmenter.ask(["red"])[0]
    assert answer.state is State.FOUND
    assert torch.equal(answer.mask, torch.arange(2 * EACH) < EACH)
    assert sorted(look.confirmed for look in answer.second_looks) == [False, True]
    rejected = next(look for look in answer.second_looks if not look.confirmed)
    assert rejected.rival == "blue"
    assert rejected.agreeing == 0
    assert answer.seconds > sum(look.seconds for look in answer.second_looks)


class Unsure(RedOrBlue):
    """Takes every image rather for a bucket."""

    def judge(self, images: Sequence[Image], prompt: str) -> Judgement:
        rows = torch.tensor([[0.3, 0.7]]).expand(len(images), 2)
        return Judgement(rows.log(), (prompt, "bucket"), torch.zeros(2).bool())


def test_looks_that_agree_though_another_word_is_likelier_are_told_apart(segmenter: Segmenter) -> None:
    red = torch.arange(2 * EACH) < EACH
    looks = segmenter.field.looks.kept
    unsure = second_look(segmenter.gaussians, looks, Unsure(), "red", red)
    assert unsure.agreeing == len(unsure.otherwise) == len(unsure.looks) == 3
    assert "'bucket'" in unsure.summary
    sure = second_look(segmenter.gaussians, looks, RedOrBlue(), "red", red)
    assert (sure.agreeing, sure.otherwise) == (3, ())
    assert "blue" not in sure.summary


def test_what_no_look_confirms_is_not_found(segmenter: Segmenter) -> None:
    red = torch.arange(2 * EACH) < EACH
    answer = segmenter.ask(["blue"], among=red)[0]
    assert answer.state is State.NOT_FOUND
    assert not bool(answer.mask.any())
    assert "'red'" in answer.message


def test_without_images_there_is_no_second_look(segmenter: Segmenter) -> None:
    field = segmenter.field
    bare = FeatureField(field.features, field.weight, field.view_count, field.extractor, field.provenance)
    answer = Segmenter(segmenter.gaussians, bare, segmenter.extractor).ask(["red"])[0]
    assert answer.state is State.FOUND
    assert answer.second_looks == ()


@pytest.mark.parametrize(
    ("probabilities", "kin", "expected"),
    [
        ([0.5, 0.2, 0.2, 0.1], [], True),
        ([0.1, 0.7, 0.2, 0.0], [], False),  # another word is far likelier
        ([0.2, 0.7, 0.1, 0.0], [1], True),  # but not one that means the same
        ([0.06, 0.9, 0.04, 0.0], [1], False),  # unless that is by far the likelier of the two
        ([0.05, 0.3, 0.4, 0.0], [1], True),  # both together against the third
        ([0.01, 0.01, 0.01, 0.0], [], False),  # nothing is likely
    ],
)
def test_the_rule(probabilities: list[float], kin: list[int], expected: bool) -> None:
    alike = NO_KIN.clone()
    alike[kin] = True
    assert passes(torch.tensor(probabilities), alike) is expected


def test_imagenet_judges_whole_images() -> None:
    extractor = ImageNetExtractor(pixels=64**2)
    assert image_judge(extractor) is extractor
    images = [np.full((40, 60, 3), 128, np.uint8), np.zeros((200, 90, 3), np.uint8)]
    judgement = extractor.judge(images, "coffee mug")
    words = len(judgement.words)
    assert judgement.log_probabilities.shape == (2, words) == (2, 1000)
    assert torch.allclose(judgement.log_probabilities.exp().sum(dim=1), torch.ones(2), atol=1e-4)
    assert judgement.words[0] == "coffee mug"
    assert "cup" in {word for word, kin in zip(judgement.words, judgement.kin.tolist(), strict=True) if kin}
    assert not bool(judgement.kin[0])
    several = extractor.judge(images, "bottle")  # five classes are bottles
    assert len(several.words) < words
    assert torch.allclose(several.log_probabilities.exp().sum(dim=1), torch.ones(2), atol=1e-4)
