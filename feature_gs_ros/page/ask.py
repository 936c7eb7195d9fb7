"""Questions of a page: similarities are kept, so that another threshold only makes the masks again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.extractors.base import ScoringRule
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.limits import MAX_PROMPTS
from feature_gs_ros.query.masks_3d import Answer, ScoredPrompts, Segmenter, State
from feature_gs_ros.query.prompt import TextPrompts

CLICKED = "what was clicked"


@dataclass(frozen=True, eq=False)
class Asked:
    """A question with its answers."""

    scored: ScoredPrompts
    answers: tuple[Answer, ...]
    in_words: bool = True  # else by example
    settled: bool = True  # False: the second look, where there is one, is still to be taken

    @property
    def question(self) -> TextPrompts:
        return self.scored.question

    def at(self, segmenter: Segmenter, threshold: float, among: Tensor | None = None) -> Asked:
        """The same question at another threshold, at once: nothing is scored again, nor looked at again.

        What the last second look denied stays denied until `settle`.

        Args:
            among: [N] bool, the Gaussians that are still in the map.
        """
        scored = self.scored.at(threshold)
        fresh = segmenter.answers_of(scored, among, verify=False)
        kept = [old if _denied(old) else new for old, new in zip(self.answers, fresh, strict=True)]
        return Asked(scored, tuple(kept), self.in_words, scored.judge is None)

    def settle(self, segmenter: Segmenter, among: Tensor | None = None) -> Asked:
        """With the second looks that are still to be taken."""
        if self.settled:
            return self
        return Asked(self.scored, tuple(segmenter.answers_of(self.scored, among)), self.in_words)


def prompts_of(text: str) -> list[str]:
    """Prompts of a line of text; commas part them.

    Raises:
        PromptError: there are too many.
    """
    prompts = [prompt.strip() for prompt in text.split(",") if prompt.strip()]
    if len(prompts) > MAX_PROMPTS:
        raise PromptError(
            f"{len(prompts)} prompts at once, at most {MAX_PROMPTS} are taken; ask for fewer", code="prompt.range"
        )
    return prompts


def ask_words(
    segmenter: Segmenter,
    prompts: Sequence[str],
    negatives: Sequence[str] = (),
    threshold: float | None = None,
    among: Tensor | None = None,
) -> Asked:
    """Ask in words, as `Segmenter.ask` does.

    Raises:
        UnknownPromptError: the extractor doesn't know a word; it names the nearest known ones.
        PromptError: an empty or overlong prompt, or a threshold that is not a number.
    """
    start = time.perf_counter()
    scored = segmenter.score(prompts, negatives, threshold)
    return Asked(scored, tuple(segmenter.answers_of(scored, among, start=start)))


def ask_examples(
    segmenter: Segmenter,
    examples: Sequence[Tensor],  # [D] each
    negatives: Sequence[Tensor] = (),
    threshold: float | None = None,
    among: Tensor | None = None,
) -> Asked:
    """Ask by features of what was clicked, as `Segmenter.ask_example` does.

    Raises:
        PromptError: there is no example.
    """
    if not examples:
        raise PromptError("no click on the object yet; click it first", code="prompt.missing")
    start = time.perf_counter()
    not_meant = torch.stack(list(negatives)) if negatives else None
    scored = segmenter.score_examples(torch.stack(list(examples)), not_meant, threshold, CLICKED)
    return Asked(scored, tuple(segmenter.answers_of(scored, among, start=start)), in_words=False)


def command_of(content: Content, asked: Asked, index: int) -> str:
    """The command that repeats one answer to a question in words; the other prompts are its negatives.

    Raises:
        PromptError: the question was not in words.
    """
    if not asked.in_words:
        raise PromptError(
            "a click has no text, so no command repeats it; feature-gs edit takes points",
            code="prompt.missing",
        )
    own = _own_negative(content)
    prompt = asked.question.asked[index]
    others = [text for text in asked.question.texts if text not in (prompt, own)]
    words = ["feature-gs", "query", str(content.source), prompt]
    for other in others:
        words += ["--negative", other]
    words += ["--threshold", f"{asked.question.threshold:g}", *content.command_options]
    return shlex.join([*words, "--cloud", f"{prompt.replace(' ', '_')}.ply"])


def suggestions(words: Sequence[str], typed: str, count: int = 6) -> tuple[str, ...]:
    """Known words that the last prompt of what is typed may become: those that begin so, then those that hold it."""
    last = typed.rpartition(",")[2].strip().lower()
    if not last:
        return ()
    beginning = [word for word in words if word.lower().startswith(last)]
    holding = [word for word in words if last in word.lower() and not word.lower().startswith(last)]
    return tuple(sorted(beginning, key=len) + sorted(holding, key=len))[:count]


def threshold_range(rule: ScoringRule) -> tuple[float, float]:
    """Ends of the slider for a rule's similarities: fractions and probabilities are 0..1, others may not be."""
    return (min(0.0, 2 * rule.threshold), 1.0) if abs(rule.threshold) <= 1 else (0.0, 2 * abs(rule.threshold))


def _own_negative(content: Content) -> str:
    return content.segmenter.extractor.text_rule.other if content.segmenter else ""


def _denied(answer: Answer) -> bool:
    return bool(answer.second_looks) and answer.state is not State.FOUND
