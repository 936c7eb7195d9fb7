"""Masks m(p) of pixels that count, as kernels take them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import GridError

NO_MASK = np.zeros((0, 0), np.float32)  # all pixels count


def check_valid(valid: Tensor | None, camera: Camera) -> Tensor | None:
    """The mask, or a GridError if its size isn't the image's."""
    if valid is not None and tuple(valid.shape) != (camera.height, camera.width):
        raise GridError(
            f"the mask of pixels that count is {tuple(valid.shape)}, the image {camera.height}×{camera.width}",
            code="grid.size",
        )
    return valid


def mask_array(valid: Tensor | None, camera: Camera) -> NDArray[np.float32]:
    """m(p) [H, W] float32, or `NO_MASK`; raises as `check_valid`."""
    valid = check_valid(valid, camera)
    return NO_MASK if valid is None else np.ascontiguousarray(valid.to("cpu", torch.float32).numpy())
