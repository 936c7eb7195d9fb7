"""Colours by another basis than the package's own; W and U have their oracle in the backend `reference`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def dense_colors(sh: Tensor, means: Tensor, pose: np.ndarray) -> Tensor:
    """Colour max(SH(direction) + ½, 0) [N, 3] float64: the real basis from associated Legendre functions."""
    eye = torch.as_tensor(-pose[:3, :3].T @ pose[:3, 3], dtype=torch.float64)
    x, y, z = torch.nn.functional.normalize(means.to(torch.float64) - eye, dim=1).unbind(1)
    one = torch.ones_like(x)
    # Polynomials of degree l, order m = −l … l; their norms are √((2l+1)/4π · …), with the sign (−1)ᵐ that 3DGS uses.
    pi = np.pi
    basis = [
        one * 0.5 * np.sqrt(1 / pi),
        -y * np.sqrt(3 / (4 * pi)),
        z * np.sqrt(3 / (4 * pi)),
        -x * np.sqrt(3 / (4 * pi)),
        x * y * 0.5 * np.sqrt(15 / pi),
        -y * z * 0.5 * np.sqrt(15 / pi),
        (3 * z * z - 1) * 0.25 * np.sqrt(5 / pi),
        -x * z * 0.5 * np.sqrt(15 / pi),
        (x * x - y * y) * 0.25 * np.sqrt(15 / pi),
        -y * (3 * x * x - y * y) * 0.25 * np.sqrt(35 / (2 * pi)),
        x * y * z * 0.5 * np.sqrt(105 / pi),
        -y * (5 * z * z - 1) * 0.25 * np.sqrt(21 / (2 * pi)),
        (5 * z * z * z - 3 * z) * 0.25 * np.sqrt(7 / pi),
        -x * (5 * z * z - 1) * 0.25 * np.sqrt(21 / (2 * pi)),
        z * (x * x - y * y) * 0.25 * np.sqrt(105 / pi),
        -x * (x * x - 3 * y * y) * 0.25 * np.sqrt(35 / (2 * pi)),
    ]
    values = torch.stack(basis[: sh.shape[1]], 1)
    return (torch.einsum("nk,nkc->nc", values, sh.to(torch.float64)) + 0.5).clamp_min(0.0)
