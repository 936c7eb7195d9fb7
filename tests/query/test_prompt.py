"""TextPrompts: what is asked, in the order of the similarities' columns."""

from __future__ import annotations

import pytest

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.extractors.base import ScoringRule
from feature_gs_ros.query.prompt import MAX_PROMPT_CHARACTERS, TextPrompts
from tests.errors import raises

RULE = ScoringRule(threshold=0.4, other="other")


def test_the_rules_negative_comes_last_and_once() -> None:
    assert TextPrompts.of(RULE, [" mug "], ["table"]).texts == ["mug", "table", "other"]
    assert TextPrompts.of(RULE, ["mug"], ["other", "table"]).texts == ["mug", "other", "table"]


def test_a_prompt_among_its_own_negatives_is_refused() -> None:
    with raises("prompt.negative", "'mug'") as raised:
        TextPrompts.of(RULE, ["mug", "cup"], ["table", " mug"])
    assert raised.value.code == "prompt.negative"


def test_the_rules_negative_may_be_asked_for() -> None:
    asked = TextPrompts.of(RULE, ["other"])
    assert (asked.asked, asked.negatives) == (("other",), ())
    assert TextPrompts.of(ScoringRule(threshold=0.4), ["mug"]).texts == ["mug"]


def test_the_threshold_is_the_rules_unless_given() -> None:
    assert TextPrompts.of(RULE, ["mug"]).threshold == 0.4
    assert TextPrompts.of(RULE, ["mug"], threshold=0.7).threshold == 0.7


@pytest.mark.parametrize("bad", [[], [""], ["  "], ["a" * (MAX_PROMPT_CHARACTERS + 1)], ["a\0b"]])
def test_what_cannot_be_asked(bad: list[str]) -> None:
    with pytest.raises(PromptError):
        TextPrompts.of(RULE, bad)
    if bad:
        with pytest.raises(PromptError):
            TextPrompts.of(RULE, ["mug"], bad)
    with pytest.raises(PromptError):
        TextPrompts.of(RULE, ["mug"], threshold=float("nan"))
