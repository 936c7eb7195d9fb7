"""A saved field, ready for queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from feature_gs_ros.backprojection.opening import open_field
from feature_gs_ros.core.memory import MemoryLimit
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.options import parse_options
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.query.masks_3d import Segmenter


def open_segmenter(
    path: Path,
    map_path: Path | None = None,
    weights: Path | None = None,
    options: Sequence[str] = (),
    device: torch.device = HOST,
    memory: MemoryLimit | None = None,
) -> Segmenter:
    """A field with its map and its extractor.

    Args:
        options: ``KEY=VALUE`` for the extractor, in addition to those stored in the field.
        device: where questions are worked out: a backend's.
        memory: to stay within.

    Raises:
        ExtractorError: the extractor's weights are not here, or it doesn't take an option.
        FieldError: another extractor's weights, or an option that makes another extractor of it.
        OutOfMemoryError: the device has no room for the features.
    """
    field, gaussians = open_field(path, map_path)
    extractor = extractor_of(field.extractor, weights, parse_options(options))
    return Segmenter(gaussians, field.on(device), extractor, memory=memory)
