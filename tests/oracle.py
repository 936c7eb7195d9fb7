"""The dense oracle: W [pixels, N] and U [pixels, cells] written out in plain torch, float64, differentiable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap


def dense_w(gaussians: GaussianMap, camera: Camera, pose: np.ndarray) -> Tensor:
    """W [H · W, N] of Eq. (1)–(3), straight from the definitions."""
    double = torch.float64
    rotation, shift = torch.as_tensor(pose[:3, :3], dtype=double), torch.as_tensor(pose[:3, 3], dtype=double)
    points = gaussians.means.to(double) @ rotation.T + shift
    x, y, z = points.unbind(1)
    front = z >= 0.01
    safe = torch.where(front, z, torch.ones_like(z))
    limit = 0.15
    tx = (x / safe).clamp(
        -camera.cx / camera.fx - limit * camera.width / camera.fx,
        (camera.width - camera.cx) / camera.fx + limit * camera.width / camera.fx,
    )
    ty = (y / safe).clamp(
        -camera.cy / camera.fy - limit * camera.height / camera.fy,
        (camera.height - camera.cy) / camera.fy + limit * camera.height / camera.fy,
    )
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([camera.fx / safe, zero, -camera.fx * tx / safe], 1),
            torch.stack([zero, camera.fy / safe, -camera.fy * ty / safe], 1),
        ],
        1,
    )
    half = jacobian @ rotation @ rotations(gaussians.quats_wxyz.to(double)) * gaussians.scales.to(double)[:, None, :]
    covariance = half @ half.transpose(1, 2) + 0.3 * torch.eye(2, dtype=double)
    conic = torch.linalg.inv(covariance)
    mean = torch.stack([camera.fx * x / safe + camera.cx, camera.fy * y / safe + camera.cy], 1)
    rows, columns = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    pixels = torch.stack([columns.reshape(-1), rows.reshape(-1)], 1).to(double) + 0.5
    offset = pixels[:, None, :] - mean[None]
    sigma = 0.5 * torch.einsum("pni,nij,pnj->pn", offset, conic, offset)
    alpha = (gaussians.opacities.to(double) * torch.exp(-sigma)).clamp(max=0.999)
    alpha = torch.where((alpha >= 1 / 255) & front, alpha, torch.zeros_like(alpha))
    order = torch.argsort(z, stable=True)
    alpha = alpha[:, order]
    after = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    # The ray ends before the Gaussian that would bring its transmittance to 1e-4 or less.
    alive = torch.cumprod((after > 1e-4).to(double), dim=1)
    weights = torch.zeros_like(alpha)
    weights[:, order] = alpha * before * alive
    return weights


def dense_u(grid: FeatureGrid, width: int, height: int) -> Tensor:
    """U [H · W, rows · columns]: bilinear or nearest, border cells repeated outwards."""
    x = _axis(width, grid.columns, grid.left, grid.right, grid.interpolation)
    y = _axis(height, grid.rows, grid.top, grid.bottom, grid.interpolation)
    return torch.einsum("yr,xc->yxrc", y, x).reshape(height * width, grid.rows * grid.columns)


def _axis(pixels: int, cells: int, begin: float, end: float, interpolation: str) -> Tensor:
    matrix = torch.zeros(pixels, cells, dtype=torch.float64)
    for pixel in range(pixels):
        position = ((pixel + 0.5) / pixels - begin) / (end - begin) * cells - 0.5
        position = min(max(position, 0.0), cells - 1.0)
        if interpolation == "nearest":
            matrix[pixel, int(np.floor(position + 0.5))] = 1
            continue
        lower = int(np.floor(position))
        matrix[pixel, lower] += 1 - (position - lower)
        matrix[pixel, min(lower + 1, cells - 1)] += position - lower
    return matrix


def rotations(quats: Tensor) -> Tensor:
    w, x, y, z = quats.unbind(1)
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
        ],
        1,
    )


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
