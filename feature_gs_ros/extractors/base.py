"""The contract of a 2D extractor, all of it: images to feature grids, prompts to embeddings in the same space, scores.

Importing this file loads neither kernels nor a rasteriser. A class that derives from `Extractor` inherits what is
optional; one that only has the members works as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import UnknownPromptError
from feature_gs_ros.core.extractor_identity import ExtractorIdentity
from feature_gs_ros.core.feature_grid import FeatureGrid

if TYPE_CHECKING:
    from feature_gs_ros.extractors.weights import WeightsFile

__all__ = [
    "Extractor",
    "ExtractorIdentity",
    "FeatureGrid",
    "ImageJudge",
    "Judgement",
    "Requirements",
    "ScoringRule",
    "image_judge",
    "known_words",
    "reads_files",
]


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
    relative: bool = False  # similarity is the fraction of the prompt's peak, else the score itself
    minimum: float = 0.0  # of the peak, in units of the score
    contrast: float = 0.0  # of the peak, in medians of the scores
    peak_override: float = float("inf")  # a peak above it needs no contrast: the object may fill most of the map
    smoothing_rate: float = 0.0  # rate of `GaussianGraph.smooth` that the scores need first; 0: none
    competitors: Tensor | None = field(default=None, compare=False, repr=False)  # [K, D] of all the words there are
    competitor_names: tuple[str, ...] = field(default=(), compare=False, repr=False)  # [K], for messages
    competitor_fraction: float = (
        0.0  # of the likeliest competitor's score, that a prompt must reach over what it selects
    )
    names_objects: bool = False  # whether words are of whole objects, so that answers grow to these by default
    other: str = ""  # the negative that every question gets besides its own; empty: none

    @property
    def plain(self) -> bool:
        """Whether the similarity is the score itself, Gaussian by Gaussian."""
        return not self.relative and self.minimum == 0 and self.contrast == 0

    def similarities(self, scores: Tensor) -> Tensor:  # [N, P] -> [N, P]
        """Scores of the seen Gaussians, already smoothed, as similarities; prompts that are absent get 0."""
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
        return self.winning_competitor(embedding, scores, weights) is not None

    def winning_competitor(self, embedding: Tensor, scores: Tensor, weights: Tensor) -> int | None:
        """Index of the competitor by which a prompt is beaten, see `beaten_by_competitor`; None where it is not."""
        assert self.competitors is not None
        means, own = weights @ scores, self.competitors @ embedding > 0
        if bool(own.all()):
            return None
        others = means.masked_fill(own, -torch.inf)
        return int(others.argmax()) if bool(means[own].sum() < self.competitor_fraction * others.max()) else None


@dataclass(frozen=True)
class Requirements:
    """An extractor in a line, and what must be there."""

    about: str
    dimension: str
    text: bool  # answers words
    libraries: tuple[tuple[str, str], ...] = ()  # import name, name for pip
    weights: tuple[WeightsFile, ...] = ()  # any one of them; see extractors/weights.py
    words_weights: tuple[WeightsFile, ...] = ()  # any one of them, to ask in words only


class Extractor(Protocol):
    """A 2D model. One file each in this folder; third-party ones come by entry point."""

    identity: ExtractorIdentity
    dimension: int  # D, channels of a feature
    text_rule: ScoringRule  # turns `scores` of prompts into a selection
    example_rule: ScoringRule  # turns `similarities` to examples into a selection
    # Optional: whether features are of files by the frame's name, of the image as it was taken, not as it is rectified.
    reads_files: bool = False
    # Optional: whether scores are of a feature's direction alone, as cosines are; sums need no division then.
    scale_invariant: bool = False
    # Optional: whether `scores` and `similarities` are both plain cosines, and `prepare` gives norms.
    plain_cosines: bool = False
    # Optional: whether embeddings mark channels, and scores need, beside what `prepare` gives, these channels alone.
    marks_channels: bool = False
    # Optional: whether every feature is of unit length, so that the length of their mean tells how much they agree.
    unit_features: bool = False

    def __init__(self) -> None:
        """A class's options are the arguments of its own ``__init__``; without one it has none."""

    def extract(self, image: Image, name: str = "") -> FeatureGrid:
        """Image [H, W, 3] uint8 RGB, already rectified, to a grid [rows, columns, D].

        ``name`` is the frame's: extractors that read files by name (labels, precomputed arrays) need it.

        Raises:
            ExtractorError: the image is of no use to this extractor, or there is no file of this name.
        """
        ...

    def prepare(self, features: Tensor) -> Tensor:
        """What `scores` needs of features [M, D] whatever the prompt, to keep: [M], a norm or the like."""
        return torch.zeros(len(features), device=features.device)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """How well features [M, D] fit prompts' embeddings [P, D]: [M, P], larger is better.

        ``prepared`` is `prepare` of the same features; computed anew where it isn't given.
        """
        ...

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """How alike features [M, D] are to other features [P, D]: [M, P], larger is better."""
        ...

    # --- optional: what follows has a default ---

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to embeddings [P, D] float32. By default no word is known.

        Raises:
            UnknownPromptError: the extractor has no embedding for one of them, or none at all.
        """
        raise UnknownPromptError(
            f"the extractor '{self.identity.name}' does not take text, so not '{', '.join(prompts)}'; "
            "ask by point or example"
        )

    def known_words(self) -> tuple[str, ...]:
        """Words to suggest to who asks; none where it knows none, or knows any."""
        return ()

    @staticmethod
    def requirements() -> Requirements | None:
        """What has to be installed or given before it works, without creating one; None: nothing."""
        return None


@dataclass(frozen=True, eq=False)
class Judgement:
    """What some images, each seen as a whole, are said to show: a prompt, or one of other words."""

    log_probabilities: Tensor  # [B, 1 + K] of the prompt, then of each other word, in each image
    words: tuple[str, ...]  # [1 + K], the prompt first
    kin: Tensor  # [1 + K] bool, the words that the extractor can't well tell from the prompt


@runtime_checkable
class ImageJudge(Protocol):
    """What an extractor has besides if it can say what a whole image shows; `query.verify` asks it.

    A class whose options decide whether it can has an attribute ``can_judge``.
    """

    candidate_rule: ScoringRule  # `text_rule` where a second look follows: it may let more pass

    def judge(self, images: Sequence[Image], prompt: str) -> Judgement:
        """Hold a prompt against other words in images [H, W, 3] of any size.

        Raises:
            UnknownPromptError: as `Extractor.embed`.
        """
        ...


def image_judge(extractor: Extractor) -> ImageJudge | None:
    """The extractor, or the one that it stands for (``wrapped``), where that can judge whole images."""
    inner = getattr(extractor, "wrapped", extractor)
    return inner if isinstance(inner, ImageJudge) and getattr(inner, "can_judge", True) else None


def reads_files(extractor: Extractor) -> bool:
    """`Extractor.reads_files`, also of a class that doesn't derive from `Extractor` and leaves it out."""
    return bool(getattr(extractor, "reads_files", False))


def needed_directions(extractor: Extractor, embeddings: Tensor) -> Tensor | None:
    """Orthonormal directions [D, Q] to which `Extractor.scores`, given ``prepared``, can be confined; None: all D.

    ``scores(features @ directions, embeddings @ directions, prepared)`` are the scores of the features [M, D] for the
    embeddings [P, D]. Compressed features need not be decoded then.
    """
    if getattr(extractor, "marks_channels", False):
        marked = embeddings.any(dim=0).nonzero()[:, 0]
        return torch.eye(embeddings.shape[1], device=embeddings.device)[:, marked]
    if getattr(extractor, "plain_cosines", False) and len(embeddings) < embeddings.shape[1]:
        directions: Tensor = torch.linalg.qr(embeddings.float().T)[0]
        return directions
    return None


def has_unit_features(extractor: Extractor) -> bool:
    """`Extractor.unit_features`, also of a class that doesn't derive from `Extractor` and leaves it out."""
    return bool(getattr(extractor, "unit_features", False))


def known_words(extractor: Extractor) -> tuple[str, ...]:
    """`Extractor.known_words`, also of a class that doesn't derive from `Extractor` and leaves it out."""
    listed = getattr(extractor, "known_words", None)
    return () if listed is None else tuple(listed())
