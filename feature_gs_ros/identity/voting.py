"""Masked-gradient voting: one binary mask a view selects the Gaussians of one object, without codes or features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import IdentityError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.rasterizer import View


@dataclass(frozen=True, eq=False)
class Vote:
    """What the masks say of each Gaussian."""

    inside: Tensor  # [N] Σ_v Wᵀ M
    outside: Tensor  # [N] Σ_v Wᵀ (1 − M)

    @property
    def selected(self) -> Tensor:
        """[N] bool: ``Wᵀ M > Wᵀ (1 − M)``."""
        return self.inside > self.outside

    @property
    def confidence(self) -> Tensor:
        """Share [N] of a Gaussian's weight that lies inside, 0 where nothing saw it."""
        return self.inside / (self.inside + self.outside).clamp_min(torch.finfo(torch.float32).tiny)


def vote(masked_views: Iterable[tuple[View, NDArray[np.bool_]]]) -> Vote:
    """Sum the votes of views with their masks [H, W].

    Raises:
        IdentityError: no view, or a mask of another size than its camera's.
    """
    inside: Tensor | None = None
    total: Tensor | None = None
    for view, mask in masked_views:
        camera = view.camera
        if mask.shape != (camera.height, camera.width):
            raise IdentityError(
                f"a mask is {mask.shape}, its view {camera.height}×{camera.width}: not the same size",
                code="identity.size",
            )
        grid = FeatureGrid(torch.from_numpy(mask).to(torch.float32).unsqueeze(2), interpolation="nearest")
        numerator, weight = view.backproject(grid)
        inside = numerator[:, 0] if inside is None else inside + numerator[:, 0]
        total = weight if total is None else total + weight
    if inside is None or total is None:
        raise IdentityError("no masked view to vote with", code="identity.empty")
    return Vote(inside, (total - inside).clamp_min(0.0))
