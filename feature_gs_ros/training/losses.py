"""How far a rendered image is from a photograph, where both lie: L1, and SSIM with its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.numerics.device import in_torch
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
        a, b = (image.detach().to(torch.float32).contiguous() for image in (rendered, photograph))
        mean_a, mean_b, aa, bb, ab = _blurred([a, b, a * a, b * b, a * b])
        above1, above2 = 2 * mean_a * mean_b + C1, 2 * (ab - mean_a * mean_b) + C2
        below1, below2 = mean_a * mean_a + mean_b * mean_b + C1, aa - mean_a**2 + bb - mean_b**2 + C2
        similarity = above1 * above2 / (below1 * below2)
        if rendered.requires_grad:
            scale = 1 / similarity.numel()
            d_aa = -similarity / below2 * scale
            d_ab = 2 * above1 / (below1 * below2) * scale
            d_mean = 2 * scale * (mean_b * (above2 - above1) - similarity * mean_a * (below2 - below1))
            d_mean /= below1 * below2
            parts = _blurred([d_mean, d_aa, d_ab])
            ctx.gradient = parts[0] + 2 * a * parts[1] + b * parts[2]
        return similarity.mean()

    @staticmethod
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor, None]:
        return d_value * ctx.gradient, None


@cache
def _window() -> Floats:
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    window: Floats = (weights / weights.sum()).astype(np.float32)
    return window


def _blurred(images: Sequence[Tensor]) -> Sequence[Tensor]:
    """Images [H, W, 3], each under the window."""
    if in_torch(images[0].device):
        return _blurred_there(images)
    results = [torch.empty_like(image) for image in images]
    arrays = [(image.numpy(), result.numpy()) for image, result in zip(images, results, strict=True)]

    def blur(first: int, last: int) -> None:
        for image, result in arrays[first:last]:
            cv2.sepFilter2D(image, cv2.CV_32F, _window(), _window(), dst=result, borderType=cv2.BORDER_CONSTANT)

    parallel_for(len(images), 1, blur)
    return results


def _blurred_there(images: Sequence[Tensor]) -> Sequence[Tensor]:
    """The same by torch: all images and channels at once, along rows, then along columns."""
    window = torch.from_numpy(_window()).to(images[0].device).reshape(1, 1, 1, -1)
    planes = torch.stack(list(images)).permute(0, 3, 1, 2).flatten(0, 1)[:, None]  # [images · 3, 1, H, W]
    along = functional.conv2d(planes, window, padding=(0, WINDOW // 2))
    both = functional.conv2d(along, window.transpose(2, 3), padding=(WINDOW // 2, 0))
    height, width, channels = images[0].shape
    blurred: Tensor = both.reshape(len(images), channels, height, width).permute(0, 2, 3, 1)
    return list(blurred)
