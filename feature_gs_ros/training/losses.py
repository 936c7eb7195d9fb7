"""How far a rendered image is from a photograph: L1, and SSIM with its gradient."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.numerics.runtime import parallel_for

Floats = NDArray[np.float32]
WINDOW, SIGMA = 11, 1.5  # of the Gaussian window, pixels
C1, C2 = 0.01**2, 0.03**2  # for values in 0 … 1
SSIM_SHARE = 0.2  # of the loss; the rest is L1


def rgb_loss(rendered: Tensor, photograph: Tensor) -> Tensor:
    """``0.8 L1 + 0.2 (1 − SSIM)`` of 3DGS; images [H, W, 3]."""
    return (1 - SSIM_SHARE) * (rendered - photograph).abs().mean() + SSIM_SHARE * (1 - ssim(rendered, photograph))


def ssim(rendered: Tensor, photograph: Tensor) -> Tensor:
    """Mean structural similarity of two images [H, W, 3] in 0 … 1, zero beyond the border; gradient to the first."""
    value: Tensor = _Ssim.apply(rendered, photograph)  # type: ignore[no-untyped-call]
    return value


class _Ssim(torch.autograd.Function):
    """With a = rendering, b = photograph and blurred moments, SSIM is a function of E a, E a² and E ab per pixel.

    Its gradient is blurred back: ∂/∂a = B(∂E a) + 2a B(∂E a²) + b B(∂E ab), as the window is symmetric.
    """

    @staticmethod
    def forward(ctx: Any, rendered: Tensor, photograph: Tensor) -> Tensor:
        a, b = _contiguous(rendered), _contiguous(photograph)
        mean_a, mean_b, aa, bb, ab = _blurred([a, b, a * a, b * b, a * b])
        above1, above2 = 2 * mean_a * mean_b + C1, 2 * (ab - mean_a * mean_b) + C2
        below1, below2 = mean_a * mean_a + mean_b * mean_b + C1, aa - mean_a**2 + bb - mean_b**2 + C2
        similarity = above1 * above2 / (below1 * below2)
        if rendered.requires_grad:
            scale = 1 / similarity.size
            d_aa = -similarity / below2 * scale
            d_ab = 2 * above1 / (below1 * below2) * scale
            d_mean = 2 * scale * (mean_b * (above2 - above1) - similarity * mean_a * (below2 - below1))
            d_mean /= below1 * below2
            parts = _blurred([np.asarray(part, np.float32) for part in (d_mean, d_aa, d_ab)])
            ctx.gradient = torch.from_numpy(parts[0] + 2 * a * parts[1] + b * parts[2])
        return torch.tensor(float(similarity.mean()), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor, None]:
        return d_value * ctx.gradient, None


@lru_cache(maxsize=1)
def _window() -> Floats:
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    window: Floats = (weights / weights.sum()).astype(np.float32)
    return window


def _blurred(images: list[Floats]) -> list[Floats]:
    results = [np.empty_like(image) for image in images]

    def blur(first: int, last: int) -> None:
        for k in range(first, last):
            cv2.sepFilter2D(images[k], cv2.CV_32F, _window(), _window(), dst=results[k], borderType=cv2.BORDER_CONSTANT)

    parallel_for(len(images), 1, blur)
    return results


def _contiguous(image: Tensor) -> Floats:
    array: Floats = np.ascontiguousarray(image.detach().numpy(), dtype=np.float32)
    return array
