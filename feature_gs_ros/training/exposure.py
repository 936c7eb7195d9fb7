"""Exposure while training: a gain and an offset a view and channel. What of them depends on where a view looks goes
into the map at the end: a camera that exposes by its image's brightness, or a sheen, returns in other views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from feature_gs_ros.core.gaussians import SH_C0
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.training.parameters import SplatParameters
from feature_gs_ros.training.views import TrainingView

RATE = 1e-3
DRIFT_COST = 10.0  # of the mean of all exposures: the map's own is theirs
STIFFNESS = 0.03  # ridge, in views, on how exposure changes with direction
ACROSS, DOWN = 8, 5  # directions by which a view is represented
SH_C1 = 0.4886025119029199


class Exposures:
    """Log gains and offsets [V, 2, 3] of the views, by Adam, on a device."""

    def __init__(self, views: Sequence[TrainingView], device: torch.device = HOST) -> None:
        self.values = torch.zeros(len(views), 2, 3, device=device, requires_grad=True)
        self._adam = torch.optim.Adam([self.values], lr=RATE)
        rays = torch.stack([_rays(view) for view in views])  # [V, P, 4]
        self._means, self._squares = rays.mean(1), (rays.transpose(1, 2) @ rays).sum(0) / rays.shape[1]

    def __len__(self) -> int:
        return len(self.values)

    def exposed(self, image: Tensor, index: int) -> Tensor:
        """What the camera of a view makes of an image [H, W, 3]."""
        gain, offset = self.values[index]
        exposed: Tensor = image * gain.exp() + offset
        return exposed

    def cost(self) -> Tensor:
        """Keeps their mean at nothing."""
        cost: Tensor = DRIFT_COST * self.values.mean(0).square().sum()
        return cost

    def step(self) -> None:
        """Move against the gradient, and drop it."""
        self._adam.step()
        self._adam.zero_grad()

    def by_direction(self) -> Tensor:
        """Least squares over all views' rays: gain − 1 and offset as ``w₀ + wᵀ direction``, [4, 2, 3] on the host."""
        values = self.values.detach().to(HOST).double()
        wanted = torch.stack([values[:, 0].exp() - 1, values[:, 1]], dim=1).flatten(1)  # [V, 6]
        ridge = STIFFNESS * torch.diag(torch.tensor([0.0, 1, 1, 1], dtype=torch.float64))
        weights: Tensor = torch.linalg.solve(self._squares + ridge, self._means.T @ wanted)
        return weights.reshape(4, 2, 3).float()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, and what the map of this state needs."""
        adam = self._adam.state.get(self.values, {})
        return {
            "exposures": self.values,
            "exposures.first": adam.get("exp_avg", torch.zeros_like(self.values)),
            "exposures.second": adam.get("exp_avg_sq", torch.zeros_like(self.values)),
            "exposures.by_direction": self.by_direction(),
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from `state` after a number of steps."""
        self.values.copy_(state["exposures"])
        self._adam.state[self.values] = {
            "step": torch.tensor(float(steps)),
            "exp_avg": state["exposures.first"].to(self.values.device),
            "exp_avg_sq": state["exposures.second"].to(self.values.device),
        }


def _rays(view: TrainingView) -> Tensor:
    """1 and the unit direction in the splat's frame [P, 4] of points all over the image."""
    camera = view.camera
    u, v = np.meshgrid(
        (np.arange(ACROSS) + 0.5) / ACROSS * camera.width, (np.arange(DOWN) + 0.5) / DOWN * camera.height
    )
    local = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1).reshape(-1, 3)
    directions = local / np.linalg.norm(local, axis=1, keepdims=True) @ view.camera_from_splat[:3, :3]
    return torch.from_numpy(np.concatenate([np.ones((len(directions), 1)), directions], axis=1))


@torch.no_grad()
def seen_exposed(parameters: SplatParameters, by_direction: Tensor) -> SplatParameters:
    """The map with exposure as a linear function of direction in its harmonics of degree 0 and 1.

    A colour ``c₀ + cᵀd`` becomes ``(c₀ + cᵀd)(1 + g₀) + c₀ gᵀd + o₀ + oᵀd``, without the product of two small slopes.
    Harmonics of degree 0 alone keep the constant part.
    """
    gain, offset = by_direction.to(parameters.means.device).unbind(1)  # [4, 3]
    base = SH_C0 * parameters.sh_dc[:, 0] + 0.5
    changed = dict(parameters.items())
    changed["sh_dc"] = ((base * (1 + gain[0]) + offset[0] - 0.5) / SH_C0)[:, None]
    rest = parameters.sh_rest * (1 + gain[0])
    if rest.shape[1] >= 3:
        slope = (base[:, None] * gain[1:] + offset[1:]) / SH_C1  # [N, xyz, 3]
        rest[:, :3] += torch.stack([-slope[:, 1], slope[:, 2], -slope[:, 0]], dim=1)
    changed["sh_rest"] = rest
    return SplatParameters(**changed)
