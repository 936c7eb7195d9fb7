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


def sh_rotation(
    rotation: NDArray[np.float64],  # [3, 3]
    degree: int,
) -> NDArray[np.float64]:
    """Matrix D [K, K] that turns coefficients with their Gaussian: ``SH(D c; d) = SH(c; Rᵀ d)`` for every direction d.

    Rotations mix the coefficients of one degree only, so D is block diagonal. Each block is solved from the basis at
    more directions than it has unknowns.
    """
    matrix = np.eye((degree + 1) ** 2)
    directions = np.random.default_rng(0).normal(size=(32, 3))
    ahead, turned = _basis(directions, degree), _basis(directions @ rotation, degree)  # rows Rᵀ d
    for first, last in ((n * n, (n + 1) ** 2) for n in range(1, degree + 1)):
        matrix[first:last, first:last] = np.linalg.lstsq(ahead[:, first:last], turned[:, first:last], rcond=None)[0]
    return matrix


def _basis(directions: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """The kernel's own basis [M, K] at directions [M, 3], read off the colours that single coefficients give."""
    count, coefficients = len(directions), (degree + 1) ** 2
    small = 0.125  # every |Yₖ| < 4: no colour reaches the clamp at 0
    sh = np.zeros((coefficients * count, coefficients, 3), np.float32)
    sh[np.arange(coefficients * count), np.repeat(np.arange(coefficients), count)] = small
    means = np.tile(directions, (coefficients, 1)).astype(np.float32)
    colors = colors_from_sh(sh, means, np.zeros(3, np.float32), np.arange(len(sh), dtype=np.int32))
    basis: NDArray[np.float64] = (colors[:, 0].astype(np.float64) - 0.5).reshape(coefficients, count).T / small
    return basis
