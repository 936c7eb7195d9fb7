"""Real spherical harmonics, degrees 0 to 3, in the basis of Inria's 3DGS and gsplat, and how they turn."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

C0 = 0.28209479177387814  # ½ √(1/π)
C1 = 0.4886025119029199  # ½ √(3/π)
C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)

Array = TypeVar("Array", NDArray[np.float64], Tensor)


def sh_basis(x: Array, y: Array, z: Array, degree: int) -> list[Array]:
    """The (degree + 1)² functions at unit directions whose coordinates have any one shape, each of that shape."""
    basis = [C0 + 0 * x]
    if degree > 0:
        basis += [-C1 * y, C1 * z, -C1 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            C2[0] * x * y,
            -C2[0] * y * z,
            C2[1] * (2 * zz - xx - yy),
            -C2[0] * x * z,
            C2[2] * (xx - yy),
        ]
        if degree > 2:
            basis += [
                -C3[0] * y * (3 * xx - yy),
                C3[1] * x * y * z,
                -C3[2] * y * (4 * zz - xx - yy),
                C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
                -C3[2] * x * (4 * zz - xx - yy),
                C3[4] * z * (xx - yy),
                -C3[0] * x * (xx - 3 * yy),
            ]
    return basis


def sh_rotation(rotation: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Matrix D [K, K] that turns coefficients with their Gaussian: ``SH(D c; d) = SH(c; Rᵀ d)`` for every direction d.

    Rotations mix the coefficients of one degree only, so D is block diagonal. Each block is solved from the basis at
    more directions than it has unknowns.

    Args:
        rotation: R [3, 3].
    """
    matrix = np.eye((degree + 1) ** 2)
    directions = np.random.default_rng(0).normal(size=(32, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ahead, turned = (
        np.stack(sh_basis(at[:, 0], at[:, 1], at[:, 2], degree), axis=1) for at in (directions, directions @ rotation)
    )
    for first, last in ((n * n, (n + 1) ** 2) for n in range(1, degree + 1)):
        matrix[first:last, first:last] = np.linalg.lstsq(ahead[:, first:last], turned[:, first:last], rcond=None)[0]
    return matrix
