"""Writes PlayCanvas' compressed PLY: a third of a 3DGS PLY without SH, a fifteenth with degree 3; see compressed.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.splats.compressed import CHUNK_ROWS
from feature_gs_ros.io.splats.gaussian_ply import antialiased_comment

MAX_LOG_SCALE = 20.0  # of either sign, as viewers clamp them
_BITS = {"position": (11, 10, 11), "scale": (11, 10, 11)}
_AXES = {"position": ("x", "y", "z"), "scale": ("scale_x", "scale_y", "scale_z"), "color": ("r", "g", "b")}
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")

_Floats = NDArray[np.float64]
_Words = NDArray[np.uint32]


def save_compressed_ply(gaussians: GaussianMap, path: str | Path) -> None:
    """Write a compressed PLY that SuperSplat and web viewers open. It is lossy: 11-10-11 bits within chunks of 256.

    The Gaussians are written along a Z-curve, so that a chunk is small; their order is not kept.

    Raises:
        MapError: the map is empty, or the file can't be written.
    """
    from feature_gs_ros.numerics.sorting import morton_order  # brings the compiler, which reading maps doesn't need

    path = Path(path)
    if len(gaussians) == 0:
        raise MapError(f"no Gaussian is left to write to '{path}'; a splat file can't be empty", code="map.empty")
    gaussians = gaussians.select(torch.from_numpy(morton_order(gaussians.means.numpy())).long())
    values: dict[str, _Floats] = {
        "position": gaussians.means.numpy().astype(np.float64),
        "scale": np.clip(gaussians.scales.double().log().numpy(), -MAX_LOG_SCALE, MAX_LOG_SCALE),
        "color": gaussians.sh[:, 0].double().numpy() * SH_C0 + 0.5,
    }
    starts = np.arange(0, len(gaussians), CHUNK_ROWS)
    chunk_of_row = np.arange(len(gaussians)) // CHUNK_ROWS
    bounds, units = [], {}
    for key, rows in values.items():
        low, high = (end.reduceat(rows, starts).astype(np.float32) for end in (np.minimum, np.maximum))
        bounds += [low, high]
        width = np.maximum(high.astype(np.float64) - low, 1e-30)
        units[key] = np.clip((rows - low[chunk_of_row]) / width[chunk_of_row], 0.0, 1.0)
    alpha = gaussians.opacities.double().numpy()[:, None]
    words = np.stack(
        [
            _packed(units["position"], _BITS["position"]),
            _smallest_three(gaussians.quats_wxyz.double().numpy()),
            _packed(units["scale"], _BITS["scale"]),
            _packed(np.concatenate([units["color"], alpha], axis=1), (8, 8, 8, 8)),
        ],
        axis=1,
    )
    rest = gaussians.sh[:, 1:].transpose(1, 2).flatten(1).double().numpy()
    levels = np.clip(np.trunc((rest / 8 + 0.5) * 256), 0, 255).astype(np.uint8)
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(_header(len(gaussians), len(starts), levels.shape[1], antialiased_comment(gaussians)))
            for table, kind in ((np.concatenate(bounds, axis=1), "<f4"), (words, "<u4"), (levels, "u1")):
                file.write(table.astype(kind).tobytes())
    except OSError as error:
        raise MapError(f"can't write '{path}': {error.strerror}", code="map.unwritable") from error


def _header(count: int, chunks: int, rest: int, comments: list[str]) -> bytes:
    names = [f"{end}_{axis}" for axes in _AXES.values() for end in ("min", "max") for axis in axes]
    lines = ["ply", "format binary_little_endian 1.0", *comments]
    lines += [f"element chunk {chunks}", *(f"property float {name}" for name in names)]
    lines += [f"element vertex {count}", *(f"property uint {name}" for name in _PACKED)]
    if rest:
        lines += [f"element sh {count}", *(f"property uchar f_rest_{index}" for index in range(rest))]
    return "\n".join([*lines, "end_header", ""]).encode("ascii")


def _packed(units: _Floats, bits: tuple[int, ...]) -> _Words:
    """Numbers from 0 to 1 [N, parts] in one word each, the first in the highest bits."""
    words = np.zeros(len(units), np.uint32)
    for unit, width in zip(units.T, bits, strict=True):
        largest = (1 << width) - 1
        words = (words << np.uint32(width)) | np.rint(unit * largest).astype(np.uint32)
    return words


def _smallest_three(quats_wxyz: _Floats) -> _Words:
    """Two bits for which component is largest, ten for each of the others."""
    largest = np.abs(quats_wxyz).argmax(axis=1)
    signs = np.sign(np.take_along_axis(quats_wxyz, largest[:, None], axis=1))
    quats = quats_wxyz * np.where(signs == 0, 1.0, signs)
    others = quats[np.arange(4) != largest[:, None]].reshape(-1, 3)
    units = np.clip((others + np.sqrt(0.5)) / np.sqrt(2), 0.0, 1.0)
    words: _Words = _packed(units, (10, 10, 10)) | (largest.astype(np.uint32) << np.uint32(30))
    return words
