"""The contract of a 2D extractor: images to feature grids, prompts to embeddings in the same space, and their score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.scoring import ScoringRule


@dataclass(frozen=True)
class ExtractorIdentity:
    """What a field must know of its extractor: two fields with equal identities may be merged and queried alike."""

    name: str
    weights: str = ""  # SHA-256 of the weights file, empty where there is none
    preprocessing: Mapping[str, object] = field(default_factory=dict)  # sizes, normalisation, …; JSON values


class Extractor(Protocol):
    """A 2D extractor. One file each in this folder; third-party ones come by entry point."""

    identity: ExtractorIdentity
    dimension: int
    text_rule: ScoringRule  # turns `scores` of prompts into a selection
    example_rule: ScoringRule  # turns `similarities` to examples into a selection

    def extract(self, image: Image, name: str = "") -> FeatureGrid:
        """Image [H, W, 3] uint8 RGB, already rectified, to a grid [rows, columns, dimension].

        ``name`` is the frame's: extractors that read files by name (labels, precomputed arrays) need it.

        Raises:
            ExtractorError: the image is of no use to this extractor, or there is no file of this name.
        """
        ...

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to embeddings [P, dimension] float32.

        Raises:
            UnknownPromptError: the extractor has no embedding for one of them, or none at all.
        """
        ...

    def prepare(self, features: Tensor) -> Tensor:
        """What `scores` needs of features [M, dimension] whatever the prompt, to keep: [M], a norm or the like."""
        ...

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """How well features [M, dimension] fit prompts' embeddings [P, dimension]: [M, P], larger is better.

        ``prepared`` is `prepare` of the same features; computed anew where it isn't given.
        """
        ...

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """How alike features [M, dimension] are to other features [P, dimension]: [M, P], larger is better."""
        ...
