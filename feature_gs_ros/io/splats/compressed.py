"""PlayCanvas' compressed PLY (SuperSplat): 16 bytes per Gaussian, quantised within the bounds of chunks of 256."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import SH_C0, SH_COEFFICIENTS, GaussianMap
from feature_gs_ros.io.splats.gaussian_ply import as_antialiased, rest_count, sh_rest_names, stated_blur
from feature_gs_ros.io.splats.ply import PlyFile, Rows

CHUNK_ROWS = 256

_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_BOUNDS = {
    f"{end}_{quantity}": tuple(f"{end}_{axis}" for axis in axes)
    for quantity, axes in {
        "position": ("x", "y", "z"),
        "scale": ("scale_x", "scale_y", "scale_z"),
        "color": ("r", "g", "b"),
    }.items()
    for end in ("min", "max")
}
# Of a quaternion's components wxyz, the three that are stored where the one of the row's number is left out.
_STORED = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
# A byte of f_rest stands for the middle of its 256th of −4..4, but the first and last for the ends.
_SH_OF_LEVEL = ((np.arange(256) + 0.5) / 32 - 4).astype(np.float32)
_SH_OF_LEVEL[[0, 255]] = -4, 4

_Floats = NDArray[np.float64]
_Words = NDArray[np.uint32]


def is_compressed_ply(ply: PlyFile) -> bool:
    """Whether the rows are packed."""
    return _PACKED[0] in ply.element("vertex").names


def load_compressed_ply(ply: PlyFile) -> GaussianMap:
    """Unpack positions (11-10-11 bits), rotations (2-10-10-10), log scales, colours (8-8-8-8) and SH (8 bits).

    Raises:
        MapError: an element is missing, too short or of another type, or no row can be used.
    """
    bounds = _read_bounds(ply)
    blocks = ply.blocks("vertex")
    count = ply.element("vertex").count
    means, scales = np.empty((count, 3), np.float32), np.empty((count, 3), np.float32)
    quats_wxyz, opacities = np.empty((count, 4), np.float32), np.empty(count, np.float32)
    sh = _read_sh(ply)
    start = 0
    for block in blocks:
        rows = slice(start, start + len(block))
        with np.errstate(over="ignore", invalid="ignore"):  # not finite bounds: the Gaussians are dropped
            means[rows], scales[rows], quats_wxyz[rows], sh[rows, 0], opacities[rows] = _unpack(block, start, bounds)
        start = rows.stop
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(means),
        torch.from_numpy(quats_wxyz),
        torch.from_numpy(scales),
        torch.from_numpy(opacities),
        torch.from_numpy(sh),
        f"'{ply.path}'",
    )
    blur = stated_blur(ply)
    return gaussians if blur is None else as_antialiased(gaussians, blur)


def _read_bounds(ply: PlyFile) -> dict[str, _Floats]:
    """Bounds [chunks, 3] of positions, log scales and colours; colours are 0..1 in older files."""
    vertex, chunk = ply.element("vertex"), ply.element("chunk")
    ply.require("vertex", _PACKED)
    if any(vertex.dtype[name].kind != "u" or vertex.dtype[name].itemsize != 4 for name in _PACKED):
        raise MapError(
            f"'{ply.path}' packs into {vertex.dtype}, expected 'uint' for each; export the map again", code="map.format"
        )
    chunks = -(-vertex.count // CHUNK_ROWS)
    if chunk.count < chunks:
        raise MapError(
            f"'{ply.path}' has {chunk.count} chunks for {vertex.count} Gaussians, {chunks} of {CHUNK_ROWS} are needed; "
            "export the map again",
            code="map.value",
        )
    old = "min_r" not in chunk.names
    read = ply.columns("chunk", {key: names for key, names in _BOUNDS.items() if not (old and "color" in key)})
    bounds = {key: values.astype(np.float64) for key, values in read.items()}
    if old:
        bounds |= {"min_color": np.zeros((chunk.count, 3)), "max_color": np.ones((chunk.count, 3))}
    return bounds


def _read_sh(ply: PlyFile) -> NDArray[np.float32]:
    """SH [N, K, 3] with f_rest_* of the element 'sh', where there is one; the first coefficient is still to be set."""
    vertex, element = ply.element("vertex"), ply.element("sh")
    rest = rest_count(element.names, f"element 'sh' of '{ply.path}'")
    names = sh_rest_names(rest)[: 3 * (SH_COEFFICIENTS[-1] - 1)]
    sh = np.empty((vertex.count, 1 + len(names) // 3, 3), np.float32)
    if rest == 0:
        return sh
    if element.count != vertex.count:
        raise MapError(
            f"'{ply.path}' has SH for {element.count} of {vertex.count} Gaussians; export the map again",
            code="map.value",
        )
    if any(element.dtype[name] != np.uint8 for name in names):
        raise MapError(
            f"'{ply.path}' has SH of type {element.dtype}, expected 'uchar' for each; export the map again",
            code="map.format",
        )
    start = 0
    for block in ply.blocks("sh"):
        levels = np.stack([block[name] for name in names], axis=1)
        sh[start : start + len(block), 1:] = _SH_OF_LEVEL[levels].reshape(len(block), -1, 3)
        start += len(block)
    return sh


def _unpack(block: Rows, start: int, bounds: dict[str, _Floats]) -> tuple[_Floats, _Floats, _Floats, _Floats, _Floats]:
    """Means, scales, quaternions, first SH coefficients and opacities of the rows from ``start``."""
    chunk = (start + np.arange(len(block))) // CHUNK_ROWS
    position, rotation, scale, color = (block[name].astype(np.uint32) for name in _PACKED)
    means = _between(_unit_11_10_11(position), bounds["min_position"][chunk], bounds["max_position"][chunk])
    log_scales = _between(_unit_11_10_11(scale), bounds["min_scale"][chunk], bounds["max_scale"][chunk])
    rgba = np.stack([_unit(color, shift, 8) for shift in (24, 16, 8, 0)], axis=1)
    rgb = _between(rgba[:, :3], bounds["min_color"][chunk], bounds["max_color"][chunk])
    return means, np.exp(log_scales), _smallest_three(rotation), (rgb - 0.5) / SH_C0, rgba[:, 3]


def _unit(words: _Words, shift: int, bits: int) -> _Floats:
    """The bits from ``shift`` up of each word as a number from 0 to 1."""
    largest = (1 << bits) - 1
    unit: _Floats = ((words >> np.uint32(shift)) & np.uint32(largest)) / largest
    return unit


def _unit_11_10_11(words: _Words) -> _Floats:
    return np.stack([_unit(words, 21, 11), _unit(words, 11, 10), _unit(words, 0, 11)], axis=1)


def _between(unit: _Floats, low: _Floats, high: _Floats) -> _Floats:
    return low * (1 - unit) + high * unit


def _smallest_three(words: _Words) -> _Floats:
    """Quaternions wxyz [B, 4]: two bits say which component is largest, the others lie within ±√½."""
    largest = (words >> 30).astype(np.intp)
    others = np.stack([_unit(words, shift, 10) for shift in (20, 10, 0)], axis=1) * np.sqrt(2) - np.sqrt(0.5)
    quats_wxyz = np.empty((len(words), 4))
    np.put_along_axis(quats_wxyz, _STORED[largest], others, axis=1)
    rest = np.sqrt(np.maximum(0.0, 1 - (others**2).sum(axis=1)))
    np.put_along_axis(quats_wxyz, largest[:, None], rest[:, None], axis=1)
    return quats_wxyz
