"""The contract of a 2D teacher: images to feature grids, prompts to embeddings in the same space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from feature_gs_ros.cameras import Image
from feature_gs_ros.rasterizer.grid import FeatureGrid


@dataclass(frozen=True)
class ExtractorIdentity:
    """What a field must know of its teacher: two fields with equal identities may be merged and queried alike."""

    name: str
    weights: str = ""  # SHA-256 of the weights file, empty where there is none
    preprocessing: Mapping[str, object] = field(default_factory=dict)  # sizes, normalisation, …; JSON values


class Extractor(Protocol):
    """A 2D teacher. One file each in this folder; third-party ones come by entry point."""

    identity: ExtractorIdentity
    dimension: int

    def extract(self, image: Image) -> FeatureGrid:
        """Image [H, W, 3] uint8 RGB, already rectified, to a grid [rows, columns, dimension]."""
        ...

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to embeddings [P, dimension] float32.

        Raises:
            UnknownPromptError: the teacher has no embedding for one of them, or none at all.
        """
        ...

    def scores(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Teacher's declared scoring rule: features [M, dimension] × embeddings [P, dimension] -> [M, P]."""
        ...
