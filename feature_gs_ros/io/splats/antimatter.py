"""antimatter15's .splat: 32 bytes per Gaussian and nothing else, so only the size can tell a damaged file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap

ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat_wxyz", "u1", 4)])


def load_antimatter_splat(path: Path) -> GaussianMap:
    """Gaussians of SH degree 0; scales are linear, a quaternion's byte b stands for (b − 128) / 128.

    Raises:
        MapError: the size is not a multiple of 32 bytes, or no row can be used.
        OSError: the file can't be read.
    """
    size = path.stat().st_size
    if size % ROW.itemsize:
        raise MapError(
            f"'{path}' has {size} bytes, not a multiple of {ROW.itemsize}: cut off at Gaussian {size // ROW.itemsize}, "
            "or not a .splat file; copy it again",
            code="map.damaged",
        )
    rows = np.fromfile(path, ROW)
    rgba = torch.from_numpy(rows["rgba"].astype(np.float32)) / 255
    return GaussianMap.from_tensors(
        torch.from_numpy(rows["position"].astype(np.float32)),
        torch.from_numpy(rows["quat_wxyz"].astype(np.float32)) / 128 - 1,
        torch.from_numpy(rows["scale"].astype(np.float32)),
        rgba[:, 3],
        ((rgba[:, :3] - 0.5) / SH_C0)[:, None],
        f"'{path}'",
    )


class AntimatterSplat:
    """See `SplatFormat`."""

    name = ".splat"

    def matches(self, path: Path, start: bytes) -> bool:
        return path.suffix.lower() == ".splat" and start != b""

    def load(self, path: Path) -> GaussianMap:
        return load_antimatter_splat(path)
