"""Colour from spherical harmonics, degrees 0 to 3, in the basis of Inria's 3DGS and gsplat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.rasterizer.cpu.kernels import spherical_harmonics as kernels


def colors_from_sh(
    sh: NDArray[np.float32],  # [N, K, 3]
    means: NDArray[np.float32],  # [N, 3] splat frame
    eye: NDArray[np.float32],  # [3] the camera's centre, splat frame
    rows: NDArray[np.int32],  # [V]
) -> NDArray[np.float32]:
    """Colour ``max(SH(direction) + ½, 0)`` [V, 3] of the given rows, seen from ``eye``."""
    colors = np.empty((len(rows), 3), np.float32)
    parallel_for(len(rows), 16384, lambda i, j: kernels.colors(i, j, sh, means, eye, rows, colors))
    return colors
