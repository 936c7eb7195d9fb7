"""OpenUSD's ParticleField3DGaussianSplat (``.usd``, ``.usda``, ``.usdc``, ``.usdz``) through ``usd-core``.

The file's own layer is read, without what it refers to: nothing outside of it is opened. Values are linear, in the
prim's own frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import SH_COEFFICIENTS, GaussianMap
from feature_gs_ros.io.splats.extras import check_linear, need

PRIM = "ParticleField3DGaussianSplat"
_SUFFIXES = (".usd", ".usda", ".usdc", ".usdz")
_RADIANCE = "radiance:sphericalHarmonicsCoefficients"
_DEGREE = "radiance:sphericalHarmonicsDegree"


class Usd:
    """See `SplatFormat`."""

    name = f"OpenUSD {PRIM}"

    def matches(self, path: Path, start: bytes) -> bool:
        return start[:8] == b"PXR-USDC" or start[:5] == b"#usda" or path.suffix.lower() in _SUFFIXES

    def load(self, path: Path) -> GaussianMap:
        sdf = need("pxr.Sdf", f"'{path}', an OpenUSD file,")
        tf = need("pxr.Tf", f"'{path}', an OpenUSD file,")
        try:
            layer = sdf.Layer.OpenAsAnonymous(str(path))
        except tf.ErrorException as error:
            reason = (str(error).strip().splitlines() or ["damaged"])[-1].strip()
            raise MapError(
                f"'{path}' can't be read as OpenUSD: {reason[:200]}; export it again", code="map.format"
            ) from error
        if layer is None:
            raise MapError(f"'{path}' can't be read as OpenUSD; export it again", code="map.format")
        prims = [prim for root in layer.rootPrims for prim in _below(root) if prim.typeName == PRIM]
        if len(prims) != 1:
            raise MapError(
                f"'{path}' holds {len(prims)} prims {PRIM}, expected one"
                + ("" if prims else "; what it refers to is not followed: usdcat --flatten FILE -o flat.usdc"),
                code="map.format",
            )
        return _gaussians(prims[0], path)


def _below(prim: Any) -> Iterator[Any]:
    """A prim and all in it, however deep."""
    waiting = [prim]
    while waiting:
        prim = waiting.pop()
        yield prim
        waiting.extend(prim.nameChildren)


def _gaussians(prim: Any, path: Path) -> GaussianMap:
    means = _values(prim, "positions", path, 3)
    count = len(means)
    quats = _values(prim, "orientations", path, 4)
    scales = _values(prim, "scales", path, 3)
    opacities = _values(prim, "opacities", path, 1)
    sh = _values(prim, _RADIANCE, path, 3)
    declared = prim.attributes[_DEGREE].default if _DEGREE in prim.attributes else 3
    per = len(sh) // max(count, 1)
    if not isinstance(declared, int) or per != (declared + 1) ** 2 or per * count != len(sh):
        raise MapError(
            f"'{path}' has {len(sh)} coefficients {_RADIANCE} of degree {declared} for {count} Gaussians; "
            "export it again",
            code="map.value",
        )
    notes = []
    if per > SH_COEFFICIENTS[-1]:
        notes.append(f"its spherical harmonics of degree {declared} are read up to 3")
    if any(name.startswith("xformOp") for name in prim.attributes.keys()):  # noqa: SIM118 - USD's own kind of mapping
        notes.append("its prim is placed by xformOps, which are left out: the map is in the prim's own frame")
    check_linear(scales, opacities, f"'{path}'")
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(means),
        torch.from_numpy(quats[:, [3, 0, 1, 2]].copy()),  # USD keeps the imaginary part first
        torch.from_numpy(scales),
        torch.from_numpy(opacities[:, 0].copy()),
        torch.from_numpy(sh.reshape(count, per, 3)[:, : SH_COEFFICIENTS[-1]].copy()),
        f"'{path}'",
    )
    return replace(gaussians, notes=tuple(notes))


def _values(prim: Any, name: str, path: Path, width: int) -> NDArray[np.float32]:
    """Values [N, width] of an attribute, in single precision or half."""
    for key in (name, f"{name}h"):
        value = prim.attributes[key].default if key in prim.attributes else None
        if value is not None and len(value):
            array = np.asarray(value, dtype=np.float32)
            if array.size == len(array) * width:
                return np.array(array.reshape(-1, width))
    raise MapError(f"'{path}' has a {PRIM} without {name}, or of another shape; export it again", code="map.missing")
