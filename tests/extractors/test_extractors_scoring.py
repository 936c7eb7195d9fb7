"""Scoring rules, the word list, and spreading over neighbours: hand-worked numbers and properties."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_gs_ros.core.errors import UnknownPromptError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.base import ScoringRule
from feature_gs_ros.extractors.imagenet import EVERYDAY_FILE, WORDS_FILE
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.extractors.words import WordList
from feature_gs_ros.query.smoothing import GaussianGraph
from tests.errors import raises

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def imagenet_words() -> WordList:
    return WordList.from_file(WORDS_FILE, "imagenet")


def test_relative_rule_divides_by_the_peak_and_silences_absent_prompts() -> None:
    scores = torch.tensor([[0.02, 0.8, 0.001], [0.01, 0.2, 0.004]])
    rule = ScoringRule(threshold=0.5, relative=True, minimum=0.01)
    expected = torch.tensor([[1.0, 1.0, 0.0], [0.5, 0.25, 0.0]])
    torch.testing.assert_close(rule.similarities(scores), expected)


def test_a_prompt_stands_out_from_the_median_or_is_certain() -> None:
    """Peaks of 0.5, 0.5 and 0.9 over medians of 0.1, 0.2 and 0.8: of these only the first is three times as high."""
    scores = torch.tensor([[0.5, 0.5, 0.9], [0.1, 0.2, 0.8], [0.06, 0.1, 0.7]])
    rule = ScoringRule(threshold=0.5, relative=True, contrast=3.0, peak_override=0.9)
    expected = torch.tensor([[1.0, 0.0, 1.0], [0.2, 0.0, 0.8 / 0.9], [0.12, 0.0, 0.7 / 0.9]])
    torch.testing.assert_close(rule.similarities(scores), expected)
    doubtful = replace(rule, peak_override=0.91).similarities(scores)
    assert doubtful[0].tolist() == [1.0, 0.0, 0.0]


def test_a_prompt_is_outdone_by_a_word_far_more_likely_where_it_is_best() -> None:
    rule = ScoringRule(threshold=0.5, competitors=torch.eye(4), competitor_fraction=0.1)
    scores, weights = torch.tensor([[0.04, 0.02, 0.5, 0.0], [0.0, 0.02, 0.7, 0.0]]), torch.tensor([3.0, 1.0])
    # Means are 0.03, 0.02, 0.55 and 0: alone each of the first two is under a tenth of the third, as one word not.
    assert rule.beaten_by_competitor(torch.tensor([1.0, 0, 0, 0]), scores, weights)
    assert rule.beaten_by_competitor(torch.tensor([0.0, 1, 0, 0]), scores, weights)
    assert not rule.beaten_by_competitor(torch.tensor([1.0, 1, 0, 0]), scores + 0.01, weights)
    assert not rule.beaten_by_competitor(torch.tensor([0.0, 0, 1, 0]), scores, weights)
    assert not rule.beaten_by_competitor(torch.ones(4), scores, weights)  # no other word is left


def test_absolute_rule_keeps_scores() -> None:
    scores = torch.tensor([[0.02, -0.8]])
    torch.testing.assert_close(ScoringRule(threshold=0.5).similarities(scores), scores)


def test_rules_take_empty_maps_and_scores_of_zero() -> None:
    rule = ScoringRule(threshold=0.5, relative=True)
    assert rule.similarities(torch.zeros(0, 2)).shape == (0, 2)
    assert torch.isfinite(rule.similarities(torch.zeros(3, 2))).all()


def test_cosine_of_known_angles_and_of_nothing() -> None:
    features = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    expected = torch.tensor([[1.0], [math.sqrt(0.5)], [0.0]])
    torch.testing.assert_close(cosine(features, torch.tensor([[5.0, 0.0]])), expected)


@pytest.mark.parametrize(
    "prompt", ["coffee mug", "a coffee mug", "Coffee Mugs", "coffee_mug", "the coffee-mug", "mug", "  mugs "]
)
def test_words_tolerate_case_plural_article_and_underscores(imagenet_words: WordList, prompt: str) -> None:
    assert imagenet_words.classes(prompt) == (504,)


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("coffee mug!", "coffee mug"),
        ("the 'coffee mug'.", "coffee mug"),
        ("mice", "mouse"),
        ("timber wolves?", "timber wolf"),
    ],
)
def test_words_tolerate_punctuation_and_irregular_plurals(imagenet_words: WordList, prompt: str, plain: str) -> None:
    assert imagenet_words.classes(prompt) == imagenet_words.classes(plain)


def test_a_colour_is_named_as_what_is_not_known(imagenet_words: WordList) -> None:
    with raises("prompt.unknown", "'green'"):
        imagenet_words.classes("the green mug")
    assert imagenet_words.classes("black widow")  # a word of its own


@pytest.mark.parametrize(
    ("prompt", "classes"),
    [
        ("screwdriver", (784,)),
        ("water bottle", (898,)),
        ("toaster", (859,)),
        ("cup", (968,)),  # not the measuring cup
        ("tin opener", (473,)),  # a synonym
        ("crane", (134, 517)),  # a bird and a machine
        ("bottle", (440, 720, 737, 898, 907)),  # beer, pill, pop, water and wine
    ],
)
def test_words_have_the_class_indices_of_imagenet(
    imagenet_words: WordList, prompt: str, classes: tuple[int, ...]
) -> None:
    assert imagenet_words.classes(prompt) == classes


@pytest.mark.parametrize(
    ("prompt", "classes"),
    [
        ("fridges", (760,)),
        ("a TV", (851,)),
        ("sofa", (831,)),
        ("plastic bottle", (737, 898)),
        ("phone", (487, 528, 707)),  # still any phone
    ],
)
def test_everyday_words_stand_for_classes(prompt: str, classes: tuple[int, ...]) -> None:
    words = WordList.from_file(WORDS_FILE, "imagenet")
    words.add_everyday_words(EVERYDAY_FILE)
    assert words.classes(prompt) == classes


def test_an_everyday_word_for_nothing_known_is_refused(imagenet_words: WordList, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("grabber: pliers\n")
    with raises("prompt.unknown"):
        imagenet_words.add_everyday_words(tmp_path / "words.txt")


def test_every_synonym_finds_its_own_class(imagenet_words: WordList) -> None:
    assert len(imagenet_words) == 1000
    for index, synonyms in enumerate(imagenet_words.synonyms):
        for word in synonyms:
            assert index in imagenet_words.classes(word), word


@pytest.mark.parametrize(
    ("prompt", "near"), [("red mug", "coffee mug"), ("toster", "toaster"), ("scewdriver", "screwdriver")]
)
def test_unknown_word_names_the_nearest(imagenet_words: WordList, prompt: str, near: str) -> None:
    with raises("prompt.unknown", near) as caught:
        imagenet_words.classes(prompt)
    assert near in caught.value.nearest


@pytest.mark.parametrize("prompt", ["", "  ", "_", "the", "\N{SNOWMAN}"])
def test_prompt_without_words_is_unknown(imagenet_words: WordList, prompt: str) -> None:
    with pytest.raises(UnknownPromptError):
        imagenet_words.classes(prompt)


def test_missing_word_file_is_an_error(tmp_path: Path) -> None:
    with raises("extractor.unreadable", "none.txt"):
        WordList.from_file(tmp_path / "none.txt", "x")


def plane_of_two_colors(side: int = 24) -> tuple[GaussianMap, torch.Tensor]:
    """A flat patch of Gaussians, its left half red and its right half blue; and which are red."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    count = side * side
    means = torch.stack([columns.flatten(), rows.flatten(), torch.zeros(count)], dim=1).float()
    red = means[:, 0] < side / 2
    color = torch.where(red[:, None], torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.8]))
    gaussians = GaussianMap.from_tensors(
        means,
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.full((count, 3), 0.5),
        torch.full((count,), 0.9),
        ((color - 0.5) / 0.28209479177387814)[:, None],
    )
    return gaussians, red


def test_spread_stops_at_a_border_between_colors() -> None:
    """The step across the border, against that in a map of the same shape and one colour."""
    gaussians, red = plane_of_two_colors()
    plain = replace(gaussians, sh=torch.zeros_like(gaussians.sh))
    blob = torch.exp(-((gaussians.means[:, :2] - torch.tensor([9.0, 12.0])) ** 2).sum(dim=1) / 32)[:, None]
    next_to_border = (gaussians.means[:, 0] - 11.5).abs() < 1

    def step(which: GaussianMap) -> float:
        spread = GaussianGraph(which).smooth(blob, rate=1e-2)[:, 0]
        return float(spread[red & next_to_border].mean() / spread[~red & next_to_border].mean())

    assert step(plain) < 1.3
    assert step(gaussians) > 2


def test_spread_keeps_constants_range_and_order_of_columns() -> None:
    gaussians, _ = plane_of_two_colors(12)
    graph = GaussianGraph(gaussians)
    scores = torch.rand(len(gaussians), 3, generator=torch.Generator().manual_seed(0))
    scores[:, 1] = 0.7
    spread = graph.smooth(scores, rate=1e-2)
    torch.testing.assert_close(spread[:, 1], scores[:, 1], atol=5e-3, rtol=0)
    assert spread.min() > scores.min() - 5e-3
    assert spread.max() < scores.max() + 5e-3
    torch.testing.assert_close(graph.smooth(scores[:, 2:], rate=1e-2), spread[:, 2:], atol=5e-3, rtol=0)


def test_spread_with_a_large_rate_returns_what_was_given() -> None:
    gaussians, _ = plane_of_two_colors(8)
    scores = torch.rand(len(gaussians), 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(GaussianGraph(gaussians).smooth(scores, rate=1e4), scores, atol=5e-3, rtol=0)


def test_unseen_gaussians_follow_their_neighbours() -> None:
    gaussians, _ = plane_of_two_colors(10)
    seen = torch.ones(len(gaussians), dtype=torch.bool)
    seen[33] = False
    scores = torch.ones(len(gaussians), 1)
    scores[33] = 1e6
    assert GaussianGraph(gaussians).smooth(scores, rate=1e-2, seen=seen)[33, 0] == pytest.approx(1.0, abs=0.02)


def test_spread_is_the_dense_solution_of_its_equation() -> None:
    """Edges by nearness and opacity, written out: grey Gaussians that all know each other, some unseen or doubted."""
    rng = np.random.default_rng(4)
    count, rate = 12, 0.3
    means, opacities = rng.normal(size=(count, 3)), rng.uniform(0.02, 1.0, count)
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(means),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.ones(count, 3),
        torch.from_numpy(opacities),
        torch.zeros(count, 1, 3),
    )
    distance = np.linalg.norm(means[:, None] - means[None], axis=2)
    spacing = distance.sum(axis=1) / (count - 1)
    edges = np.exp(-(distance**2) / (2 * np.outer(spacing, spacing))) * np.outer(opacities, opacities)
    np.fill_diagonal(edges, 0)
    degree = edges.sum(axis=1)
    scores, seen, trust = rng.random((count, 2)), np.arange(count) % 4 != 0, rng.uniform(0.2, 1.0, count)
    restart = np.where(seen, rate * trust, rate * 1e-6) * degree
    expected = np.linalg.solve(np.diag(restart + degree) - edges, restart[:, None] * np.where(seen[:, None], scores, 0))
    spread = GaussianGraph(gaussians, neighbours=count - 1).smooth(
        torch.from_numpy(scores), rate, torch.from_numpy(seen), torch.from_numpy(trust)
    )
    np.testing.assert_allclose(spread.numpy(), expected, atol=0.01)
    assert np.ptp(expected) > 0.3


def test_spread_solves_its_equation_as_a_dense_solver_does() -> None:
    gaussians, _ = plane_of_two_colors(6)
    graph = GaussianGraph(gaussians, neighbours=4)
    identity = torch.eye(len(gaussians))
    operator = graph.smooth(identity, rate=0.05).double().numpy()  # (rate D + L)⁻¹ rate D
    # The inverse of the operator is 1 + D⁻¹ L / rate, whose rows sum to 1 and reach only neighbours.
    inverse = np.linalg.inv(operator)
    np.testing.assert_allclose(inverse.sum(axis=1), 1.0, atol=0.05)
    distances = torch.cdist(gaussians.means, gaussians.means).numpy()
    assert np.abs(inverse[distances > 3]).max() < 0.05 * np.abs(inverse).max()
    assert (inverse[~np.eye(len(gaussians), dtype=bool)] < 0.05 * np.abs(inverse).max()).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tiny_maps_and_coinciding_gaussians_can_be_spread(count: int) -> None:
    gaussians = GaussianMap.from_tensors(
        torch.zeros(count, 3),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.ones(count, 3),
        torch.full((count,), 0.5),
        torch.zeros(count, 1, 3),
    )
    spread = GaussianGraph(gaussians).smooth(torch.full((count, 1), 0.3), rate=1e-3)
    torch.testing.assert_close(spread, torch.full((count, 1), 0.3), atol=5e-3, rtol=0)


def test_spread_refuses_bad_rates_and_foreign_scores() -> None:
    graph = GaussianGraph(plane_of_two_colors(4)[0])
    with raises("prompt.range"):
        graph.smooth(torch.zeros(16, 1), rate=0.0)
    with raises("prompt.shape", "16"):
        graph.smooth(torch.zeros(15, 1), rate=0.1)
