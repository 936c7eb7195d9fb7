"""The chunked map: a file of Gaussians along a Z-curve, memory-mapped, of which a view reads what it may see.

Chunks are `CURVE_BLOCK` Gaussians side by side on the curve; the file holds their bounds. It is made by `chunk_map`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import (
    CURVE_BLOCK,
    SH_COEFFICIENTS,
    CurveBlocks,
    GaussianMap,
    checksum_of,
)
from feature_gs_ros.core.memory import release_mapped
from feature_gs_ros.io.checked_once import mark_of, remember
from feature_gs_ros.io.tensors import read_tensor_file

FORMAT = "feature_gs_ros chunked map 1"
CHECK = "chunked map 1: values, bounds and checksum"  # what the whole file is read for, once
REMEDY = "make it anew: feature-gs chunk MAP --out FILE"
COLUMNS = {"means": 3, "quats_wxyz": 4, "scales": 3, "opacities": 1}  # numbers per Gaussian
ROWS = 1 << 18  # checked at once, a multiple of CURVE_BLOCK


class Chunked:
    """See `SplatFormat`."""

    name = "chunked map"

    def matches(self, path: Path, start: bytes) -> bool:  # noqa: ARG002
        return FORMAT.encode() in start

    def load(self, path: Path) -> GaussianMap:
        mark = mark_of(path, CHECK)
        known = mark is not None and mark.exists()
        tensors, content = read_tensor_file(path, FORMAT, MapError, REMEDY)
        try:
            _check_shapes(tensors)
            gaussians = GaussianMap(
                tensors["means"],
                tensors["quats_wxyz"],
                tensors["scales"],
                tensors["opacities"],
                tensors["sh"],
                notes=content.texts("notes"),
                antialiased=content.get("antialiased") is True,
                blur=content.number("blur"),
            )
            blocks = CurveBlocks(*(tensors[name].numpy() for name in ("low", "high", "largest")))
            checksum = content.text("checksum")
            if not known:
                _check_values(gaussians, blocks, checksum)
        except (KeyError, TypeError, ValueError) as error:
            raise MapError(f"'{path}' is damaged: {error}; {REMEDY}", code="map.damaged") from error
        if not known:
            remember(path, CHECK, mark)
        return gaussians.along_curve(blocks, checksum)


def _check_shapes(tensors: Mapping[str, Tensor]) -> None:
    """Raise a ValueError where the tensors don't fit together."""
    count, blocks = len(tensors["opacities"]), -(-len(tensors["opacities"]) // CURVE_BLOCK)
    wanted: dict[str, tuple[int, ...]] = {
        name: (count,) if width == 1 else (count, width) for name, width in COLUMNS.items()
    }
    wanted |= {"low": (blocks, 3), "high": (blocks, 3), "largest": (blocks,)}
    sh = tuple(tensors["sh"].shape)
    wanted["sh"] = (count, sh[1] if len(sh) == 3 and sh[1] in SH_COEFFICIENTS else 1, 3)
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape or tensors[name].dtype != torch.float32 or count == 0:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)} {tensors[name].dtype}, expected {shape} float32")


def _check_values(gaussians: GaussianMap, blocks: CurveBlocks, checksum: str) -> None:
    """Raise a ValueError where a value is none that can be rasterised, or lies outside its chunk's bounds."""
    for first in range(0, len(gaussians), ROWS):
        rows = slice(first, first + ROWS)
        own = CurveBlocks.of(gaussians.means[rows].numpy(), gaussians.scales[rows].numpy())
        there = slice(first // CURVE_BLOCK, first // CURVE_BLOCK + len(own.scale))
        exact = (own.low == blocks.low[there]).all() and (own.high == blocks.high[there]).all()
        if not exact or not (own.scale == blocks.scale[there]).all():
            raise ValueError(f"bounds of the Gaussians from {first} on are not theirs")
        for name in (*COLUMNS, "sh"):
            low, high = getattr(gaussians, name)[rows].aminmax()
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                raise ValueError(f"{name} holds NaN or Inf")
        length = gaussians.quats_wxyz[rows].norm(dim=1)
        opacity = gaussians.opacities[rows]
        if bool((gaussians.scales[rows] <= 0).any()) or bool(((length - 1).abs() > 1e-3).any()):
            raise ValueError("scales are not positive, or quaternions are not of length 1")
        if bool(((opacity < 0) | (opacity > 1)).any()):
            raise ValueError("opacities are not from 0 to 1")
        release_mapped(gaussians.means)
    if (
        checksum_of(lambda name: getattr(gaussians, name).split(ROWS), gaussians.antialiased, gaussians.blur)
        != checksum
    ):
        raise ValueError("its checksum is not that of its Gaussians")
    release_mapped(gaussians.means)
