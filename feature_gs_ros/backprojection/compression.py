"""Smaller fields: principal components in whole numbers of eight bits, K bytes per Gaussian."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.codec import fit_pca
from feature_gs_ros.core.errors import FieldError

DEFAULT_CHANNELS = 64
SAMPLE = 20_000  # Gaussians to which the components are fitted
CHUNK = 16384  # Gaussians encoded at once
LARGEST = 127  # code of either sign


@dataclass(frozen=True)
class Compressed:
    """A field of eight-bit codes, and how much of the features they keep."""

    field: FeatureField
    kept: float  # fraction of the sample's variance


def compress_field(field: FeatureField, channels: int = DEFAULT_CHANNELS) -> Compressed:
    """The field with K = ``channels`` bytes per Gaussian instead of 4 D.

    Codes are principal components, fitted to Gaussians that were seen, each divided by 1/127 of its largest value and
    rounded. The scale is part of the codec, which stays linear: whatever works with a PCA codec works with these codes,
    and queries are answered from them without decoding where the extractor's scores allow it (`needed_directions`).

    Raises:
        FieldError: the field stores codes of labels or objects, eight-bit codes already, or nothing that was seen;
            ``channels`` is out of range.
    """
    if field.features.dtype == torch.int8:
        raise FieldError(
            f"the field stores {field.features.shape[1]} bytes per Gaussian already; compress the one that it was made "
            "of",
            code="field.conflict",
        )
    if field.codec is not None and field.codec.kind == "codes":
        raise FieldError(
            f"the field stores {field.codec.dimension} numbers per Gaussian, codes of labels, whose distances would "
            "suffer; leave it as it is",
            code="field.conflict",
        )
    seen = field.seen.nonzero()[:, 0]
    if len(seen) < 2:
        raise FieldError("no view saw the field's Gaussians, so there is nothing to compress", code="field.empty")
    sample = field.decoded(seen[:: max(1, len(seen) // SAMPLE)])
    codec = fit_pca(sample, channels)
    largest = torch.zeros(channels)
    for first in range(0, len(field), CHUNK):
        rows = slice(first, first + CHUNK)
        components = codec.encode(field.decoded(rows))[field.seen[rows]]
        if len(components):
            largest = torch.maximum(largest, components.abs().amax(dim=0))
    codec = codec.rescaled(largest.clamp_min(torch.finfo(torch.float32).tiny * LARGEST * 2) / LARGEST)
    codes = torch.zeros(len(field), channels, dtype=torch.int8)
    for first in range(0, len(field), CHUNK):
        rows = slice(first, first + CHUNK)
        components = codec.encode(field.decoded(rows)) * field.seen[rows].unsqueeze(1)  # 0 is the mean
        codes[rows] = components.round().clamp(-LARGEST, LARGEST).to(torch.int8)
    lost = (codec.decode(codec.encode(sample).round()) - sample).square().sum()
    total = (sample - sample.mean(dim=0)).square().sum()
    kept = 1 - float(lost / total) if total > 0 else 1.0
    return Compressed(replace(field, features=codes, codec=codec), kept)
