"""Scoring rules: how an extractor's scores become a selection of Gaussians; and the scores that extractors share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.numerics.products import inner_products

_MIN_NORM = 1e-12


@dataclass(frozen=True)
class ScoringRule:
    """From scores [N, P] to similarities in which one threshold serves every prompt.

    A relative rule divides a prompt's scores by their peak over the map: a weak extractor's probabilities differ by
    a factor of fifty from word to word, and where they fall off relative to the peak does not. Such a rule has
    to know when a prompt is absent, and scores 0 everywhere: its peak stays below ``minimum``, or doesn't stand out
    ``contrast`` times from what the median Gaussian scores, unless it exceeds ``peak_override``; or what it selects is
    something else, see `beaten_by_competitor`.
    """

    threshold: float  # a similarity above it passes
    relative: bool = False  # similarity is the share of the prompt's peak, else the score itself
    minimum: float = 0.0  # of the peak, in units of the score
    contrast: float = 0.0  # of the peak, in medians of the scores
    peak_override: float = float("inf")  # a peak above it needs no contrast: the thing may fill most of the map
    smoothing_rate: float = 0.0  # rate of `GaussianGraph.smooth` that the scores need first; 0: none
    competitors: Tensor | None = field(default=None, compare=False, repr=False)  # [K, D] of all the words there are
    competitor_fraction: float = (
        0.0  # of the likeliest competitor's score, that a prompt must reach over what it selects
    )
    other: str = ""  # the negative that every question gets besides its own; empty: none

    @property
    def plain(self) -> bool:
        """Whether the similarity is the score itself, Gaussian by Gaussian."""
        return not self.relative and self.minimum == 0 and self.contrast == 0

    def similarities(self, scores: Tensor) -> Tensor:  # [N, P] -> [N, P]
        """Scores of the seen Gaussians, already spread, as similarities; prompts that are absent get 0."""
        if scores.shape[0] == 0:
            return scores
        if self.plain:
            return scores
        peaks = scores.amax(dim=0)
        similarities = scores / peaks.clamp_min(torch.finfo(scores.dtype).tiny) if self.relative else scores
        if self.minimum == 0 and self.contrast == 0:
            return similarities
        outstanding = (peaks >= self.contrast * scores.median(dim=0).values) | (peaks >= self.peak_override)
        return torch.where((peaks >= self.minimum) & outstanding, similarities, 0.0)

    def beaten_by_competitor(self, embedding: Tensor, scores: Tensor, weights: Tensor) -> bool:
        """Whether what a prompt selects is rather something else: another word scores far more there, on average.

        Args:
            embedding: [D] of the prompt; competitors that have part in it are its own.
            scores: [M, K] of the competitors at the Gaussians selected.
            weights: [M] of these Gaussians.
        """
        assert self.competitors is not None
        means, own = weights @ scores, self.competitors @ embedding > 0
        if bool(own.all()):
            return False
        return bool(means[own].sum() < self.competitor_fraction * means[~own].max())


def cosine(features: Tensor, others: Tensor, norms: Tensor | None = None) -> Tensor:  # [M, D], [P, D] -> [M, P]
    """Cosine similarity, Eq. 6; a zero vector is similar to nothing. ``norms`` [M] of the features, where known."""
    norms = torch.linalg.vector_norm(features, dim=1) if norms is None else norms
    return inner_products(features, functional.normalize(others, dim=1)) / norms.clamp_min(_MIN_NORM).unsqueeze(1)
