"""Figures that papers published, in percent: printed beside ours and marked as such, never measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """One method's figures, by metric or by "scene metric"."""

    method: str
    figures: Mapping[str, float]
    source: str


_BACK_PROJECTION = "Joseph et al., table 2"


def _lerf_mask(method: str, figurines: float, ramen: float, teatime: float, mean: float) -> PublishedRow:
    figures = {"figurines mIoU": figurines, "ramen mIoU": ramen, "teatime mIoU": teatime, "mean mIoU": mean}
    return PublishedRow(method, figures, _BACK_PROJECTION)


LERF_MASK = (
    _lerf_mask("DEVA", 46.2, 56.8, 54.3, 52.4),
    _lerf_mask("LERF", 33.5, 28.3, 49.7, 37.2),
    _lerf_mask("SA3D", 24.9, 7.4, 42.5, 24.9),
    _lerf_mask("LangSplat", 52.8, 50.4, 69.5, 57.6),
    _lerf_mask("Gaussian Grouping", 69.7, 77.0, 71.7, 72.8),
    _lerf_mask("feature back-projection", 73.5, 72.7, 74.1, 73.4),
)

REPLICA = (
    PublishedRow("NeRF-DFF", {"mIoU": 63.6, "accuracy": 86.4}, "Zhou et al., table 2, mean of the scenes"),
    PublishedRow("Feature 3DGS", {"mIoU": 78.7, "accuracy": 94.3}, "Zhou et al., table 2, mean of the scenes"),
    PublishedRow(
        "Feature 3DGS, speed-up", {"mIoU": 78.2, "accuracy": 94.3}, "Zhou et al., table 2, mean of the scenes"
    ),
)
