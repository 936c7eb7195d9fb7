"""``feature-gs merge``: add up the fields of many jobs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.shards import check_mergeable, check_no_view_twice, merge_fields, views_of
from feature_gs_ros.cli.checks import check_outputs
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.memory import available_bytes, gigabytes
from feature_gs_ros.core.progress import ProgressBar, note, say
from feature_gs_ros.io.locks import locked

IN_MEMORY = 0.5  # of the free memory: a larger result is collected in a file beside the output


def merge(
    fields: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    out: Path,
    resume: bool = False,
    json: bool = False,
) -> int:
    """Add up fields of one map: shards of one stream, or several streams.

    Args:
        fields: fields, written by feature-gs backproject, all with the same map, extractor and codec.
        out: the field to write.
        resume: add to the field at --out; parts that it already contains are skipped.
        json: print one JSON object.
    """
    check_outputs({"--out": out}, list(fields))
    if not fields:
        raise FieldError("no field is given; name those to add up", code="field.merge")
    sources = [str(path) for path in fields]
    parts = [FeatureField.load(path) for path in fields]
    with locked(out):
        if resume and out.exists():
            parts, sources = _still_to_add(FeatureField.load(out), parts, sources, out)
        check_mergeable(parts)
        check_no_view_twice(parts, sources)
        shape = (len(parts[0]), parts[0].features.shape[1])
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as folder:
            features = _room_for(shape, Path(folder))
            with ProgressBar("merging", "Gaussian", quiet=json, keep_partial=False).running() as progress:
                merged = merge_fields(parts, features, progress)
            merged.save(out)
    views = len(merged.provenance.frames)
    if json:
        print_json({"field": str(out), "fields": len(parts), "views": views, "seen": int(merged.seen.sum())})
    else:
        say(f"{len(parts)} fields, {views} views, {int(merged.seen.sum())} of {len(merged)} Gaussians seen")
        say(f"wrote {out}")
    return 0


def _still_to_add(
    before: FeatureField, parts: list[FeatureField], sources: list[str], out: Path
) -> tuple[list[FeatureField], list[str]]:
    """The field that is there, and the parts of which it holds nothing."""
    held = set(views_of(before))
    left = [(part, source) for part, source in zip(parts, sources, strict=True) if not held >= set(views_of(part))]
    note(f"'{out}' holds {len(parts) - len(left)} of the {len(parts)} fields already")
    return [before, *(part for part, _ in left)], [str(out), *(source for _, source in left)]


def _room_for(shape: tuple[int, int], folder: Path) -> Tensor:
    """Where the result is collected, [N, K]: memory, or a file where it would take most of that."""
    needed, free = 4 * shape[0] * shape[1], available_bytes()
    if free is None or needed <= IN_MEMORY * free:
        return torch.empty(shape)
    note(f"the result of {gigabytes(needed)} is collected on disk: {gigabytes(free)} of memory are free")
    return torch.from_numpy(np.memmap(folder / "features", np.float32, "w+", shape=shape))
