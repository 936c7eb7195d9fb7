"""Which Gaussians an edit selects, and with what weight each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feature_gs_ros.core.errors import EditError
from feature_gs_ros.query.masks_3d import Answer, Segmenter, State
from feature_gs_ros.query.prompt import check_threshold


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of the map with their fraction of an edit; all others take none of it."""

    rows: Tensor  # [M] int64, ascending
    amounts: Tensor  # [M] float32 in (0, 1]; 1 within a hard edge

    def dense(self, count: int) -> Tensor:
        """Amounts [count] float32 of all rows."""
        amounts = torch.zeros(count)
        amounts[self.rows] = self.amounts
        return amounts


def select_text(
    segmenter: Segmenter,
    text: str,
    negatives: Sequence[str] = (),
    threshold: float | None = None,
    soft_edge: float = 0.0,
    present: Tensor | None = None,
) -> Selection:
    """The Gaussians that the words find, as an edit takes them.

    Args:
        threshold: similarity from which on a Gaussian takes the whole edit; the extractor's own by default.
        soft_edge: similarity over which the edit fades in below it; 0 is a hard edge.
        present: [N] bool, the Gaussians that are still in the map.

    Raises:
        EditError: nothing is found, or ``soft_edge`` is not in 0..1.
        PromptError: as `Segmenter.ask`.
    """
    full = check_threshold(threshold, segmenter.extractor.text_rule)
    answer = segmenter.ask([text], negatives, full - check_soft_edge(soft_edge), present, extent="part")[0]
    return _of_answer(answer, full, soft_edge)


def select_example(
    segmenter: Segmenter,
    examples: Tensor,  # [E, D]
    prompt: str,
    threshold: float | None = None,
    soft_edge: float = 0.0,
    present: Tensor | None = None,
) -> Selection:
    """The Gaussians like the examples' features: of clicked Gaussians, or of a picture. Otherwise as `select_text`."""
    full = check_threshold(threshold, segmenter.extractor.example_rule)
    start = full - check_soft_edge(soft_edge)
    return _of_answer(segmenter.ask_example(examples, None, start, present, prompt), full, soft_edge)


def _of_answer(answer: Answer, threshold: float, soft_edge: float) -> Selection:
    """An answer that was asked with the threshold ``threshold − soft_edge``."""
    if answer.state is not State.FOUND:
        raise EditError(f"there is nothing to edit: {answer.message}", code="edit.empty")
    rows = answer.mask.nonzero()[:, 0]
    amounts = torch.ones(len(rows))
    if soft_edge > 0:
        amounts = ((answer.similarity[rows] - (threshold - soft_edge)) / soft_edge).clamp(0.0, 1.0)
        rows, amounts = rows[amounts > 0], amounts[amounts > 0]
    return Selection(rows, amounts.float())


def check_soft_edge(soft_edge: float) -> float:
    """A soft edge that can be used.

    Raises:
        EditError: outside 0..1, or NaN.
    """
    if not 0 <= soft_edge <= 1:
        raise EditError(
            f"soft edge {soft_edge} is out of range; give 0 (hard) to 1, in units of the similarity", code="edit.range"
        )
    return soft_edge
