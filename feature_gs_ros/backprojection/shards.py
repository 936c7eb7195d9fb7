"""Parts of a stream for many jobs, and the fields of such parts added up: accumulators are linear.

Jobs need not know of one another: each back-projects its shard of the views, and a merge adds the fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField, expected_features
from feature_gs_ros.backprojection.ingest import evenly_spaced, some
from feature_gs_ros.backprojection.provenance import Provenance
from feature_gs_ros.core.errors import FieldError, OptionError

BLOCK_BYTES = 1 << 19  # of the sums added up at once: they stay in a second-level cache for all fields
MIN_ROWS = 64
PROGRESS_BLOCKS = 32  # after which a merge's progress is reported
MAX_SHARDS = 100_000

Item = TypeVar("Item")
Progress = Callable[[int, int], object]  # rows done, rows in all


@dataclass(frozen=True)
class Shard:
    """The k-th of n parts of something in order: ``3/16``, counted from 1. All parts together are the whole."""

    number: int  # from 1
    count: int

    @staticmethod
    def parse(text: str) -> Shard:
        """
        Raises:
            OptionError: not k/n with 1 ≤ k ≤ n ≤ `MAX_SHARDS`.
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MAX_SHARDS:
            raise OptionError(
                f"shard '{text}' is not k/n with 1 ≤ k ≤ n ≤ {MAX_SHARDS}, e.g. 3/16 for the third of sixteen parts",
                code="option.shard",
            )
        return Shard(int(match[1]), int(match[2]))

    def of(self, items: Sequence[Item]) -> list[Item]:
        """This part: neighbours in order, so that a recording is read in one stretch; sizes differ by one at most."""
        first, end = ((k * len(items)) // self.count for k in (self.number - 1, self.number))
        return list(items[first:end])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def merge_fields(
    fields: Sequence[FeatureField], features: Tensor | None = None, progress: Progress | None = None
) -> FeatureField:
    """The field of all views: ``f = Σ_k w_k f_k / Σ_k w_k`` (Eq. 4), weights and view counts added up.

    Each field is read once, a block of rows at a time, so fields may be memory-mapped files.

    Args:
        features: [N, K] float32 to write to; a new tensor by default.
        progress: called with the rows done and all rows.

    Raises:
        FieldError: no field, or fields of different maps, alignments, extractors or codecs.
    """
    first = check_mergeable(fields)
    shape = (len(first), first.features.shape[1])
    total = torch.empty(shape) if features is None else features
    weight, view_count = torch.zeros(len(first)), torch.zeros(len(first), dtype=torch.int32)
    block = max(MIN_ROWS, BLOCK_BYTES // (4 * shape[1]))
    for number, start in enumerate(range(0, len(first), block)):
        rows = slice(start, start + block)
        numerator = torch.zeros_like(total[rows])
        for field in fields:
            numerator.addcmul_(field.features[rows].to(torch.float32), field.weight[rows].unsqueeze(1))
            weight[rows] += field.weight[rows]
            view_count[rows] += field.view_count[rows].to(torch.int32)
        total[rows] = expected_features(numerator, weight[rows])
        if progress is not None and (number % PROGRESS_BLOCKS == 0 or start + block >= len(first)):
            progress(min(start + block, len(first)), len(first))
    provenance = reduce(Provenance.joined, (field.provenance for field in fields))
    return replace(
        first,
        features=total,
        weight=weight,
        view_count=view_count,
        provenance=replace(provenance, views=evenly_spaced(provenance.views)),
        looks=reduce(lambda looks, field: looks.with_looks(field.looks.kept), fields[1:], first.looks),
    )


def check_mergeable(fields: Sequence[FeatureField]) -> FeatureField:
    """The first of fields that may be added up.

    Raises:
        FieldError: there is none, or they are of different maps, alignments, extractors or codecs.
    """
    if not fields:
        raise FieldError("no field is given to merge", code="field.merge")
    first = fields[0]
    for field in fields[1:]:
        if field.provenance.map_checksum != first.provenance.map_checksum or len(field) != len(first):
            raise FieldError(
                f"fields of different maps can't be merged: '{first.provenance.map_path}' (checksum "
                f"{first.provenance.map_checksum[:12]}) and '{field.provenance.map_path}' "
                f"({field.provenance.map_checksum[:12]})",
                code="field.merge",
            )
        first.check_extractor(field.extractor)
        if not (first.codec.same_as(field.codec) if first.codec else field.codec is None):
            raise FieldError(
                "fields with different codecs can't be merged; make all with the same codec", code="field.merge"
            )
    return first


def check_no_view_twice(fields: Sequence[FeatureField], sources: Sequence[str]) -> None:
    """Raise a FieldError if a view of one stream is in two of the fields, which come from ``sources``."""
    owners: dict[tuple[str, str], str] = {}
    for field, source in zip(fields, sources, strict=True):
        twice = [view for view in views_of(field) if view in owners]
        if twice:
            stream, _ = twice[0]
            names = some([name for _, name in twice])
            raise FieldError(
                f"'{owners[twice[0]]}' and '{source}' both hold views of '{stream}': {names}; leave one of them out",
                code="field.merge",
            )
        owners |= dict.fromkeys(views_of(field), source)


def views_of(field: FeatureField) -> list[tuple[str, str]]:
    """Stream and frame of every view that a field holds."""
    provenance = field.provenance
    streams = [*(recording.stream for recording in provenance.earlier), provenance.stream]
    return [(stream, name) for stream in dict.fromkeys(streams) for name in provenance.taken_from(stream)]
