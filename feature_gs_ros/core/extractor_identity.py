"""ExtractorIdentity: which 2D model features are of; fields, grids and libraries carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExtractorIdentity:
    """What a field must know of its extractor: two fields with equal identities may be merged and queried alike."""

    name: str
    weights: str = ""  # SHA-256 of the weights file, empty where there is none
    preprocessing: Mapping[str, object] = field(default_factory=dict)  # sizes, normalisation, …; JSON values
