"""TextPrompts: prompts with negatives and threshold, checked once for command line, ROS and evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.extractors.base import ScoringRule

MAX_PROMPT_CHARACTERS = 1000


@dataclass(frozen=True)
class TextPrompts:
    """Prompts and negatives; a Gaussian or pixel goes to the likeliest of `texts`, if that is over the threshold."""

    asked: tuple[str, ...]
    negatives: tuple[str, ...]  # what else there is, the rule's own ("other") last
    threshold: float  # on the similarity

    @staticmethod
    def of(
        rule: ScoringRule, prompts: Sequence[str], negatives: Sequence[str] = (), threshold: float | None = None
    ) -> TextPrompts:
        """Checked prompts, asked by an extractor's rule.

        Args:
            rule: its negative is added, unless it is asked for or named already; its threshold is the default.

        Raises:
            PromptError: no prompt, an empty, overlong or unprintable one, or a threshold that is not a number.
        """
        if not prompts:
            raise PromptError("no prompt given; give a text, e.g. 'coffee mug'", code="prompt.empty")
        asked = tuple(check_prompt(text) for text in prompts)
        others = tuple(check_prompt(text) for text in negatives)
        both = sorted(set(asked) & set(others))
        if both:
            raise PromptError(
                f"'{both[0]}' is both prompt and negative, so it can't be found; leave out one of the two",
                code="prompt.negative",
            )
        if rule.other and rule.other not in (*asked, *others):
            others = (*others, rule.other)
        return TextPrompts(asked, others, check_threshold(threshold, rule))

    @property
    def texts(self) -> list[str]:
        """Prompts, then negatives: the order of similarities' columns."""
        return [*self.asked, *self.negatives]

    def competitors(self, index: int, other: str) -> list[int]:
        """Columns that a prompt competes with where each is asked alone: the negatives, and ``other`` of the rule."""
        asked = [column for column, text in enumerate(self.asked) if text == other and self.asked[index] != other]
        return [*asked[:1], *range(len(self.asked), len(self.texts))]


def check_prompt(text: str) -> str:
    """A prompt fit to be asked.

    Raises:
        PromptError: empty, too long, or not printable.
    """
    stripped = text.strip()
    if not stripped:
        raise PromptError("the prompt is empty; give a text, e.g. 'coffee mug'", code="prompt.empty")
    if len(stripped) > MAX_PROMPT_CHARACTERS:
        raise PromptError(
            f"the prompt has {len(stripped)} characters, at most {MAX_PROMPT_CHARACTERS} are taken", code="prompt.range"
        )
    if any(not character.isprintable() for character in stripped):
        raise PromptError(
            f"the prompt {stripped[:40]!r} holds characters that can't be printed", code="prompt.characters"
        )
    return stripped


def check_threshold(threshold: float | None, rule: ScoringRule) -> float:
    """The threshold asked for, or the rule's.

    Raises:
        PromptError: NaN or infinite.
    """
    if threshold is None:
        return rule.threshold
    if not abs(threshold) < float("inf"):
        raise PromptError(
            f"threshold {threshold} is not a number; the default is {rule.threshold}", code="prompt.value"
        )
    return threshold


def parse_pixels(text: str, count: int) -> list[float]:
    """A point ``U,V`` (count 2) or a box ``U0,V0,U1,V1`` (count 4) in pixels.

    Raises:
        PromptError: other than ``count`` finite numbers.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise PromptError(
            f"'{text}' is not {'U,V' if count == 2 else 'U0,V0,U1,V1'} in pixels, e.g. 320,240", code="prompt.value"
        )
    return numbers
