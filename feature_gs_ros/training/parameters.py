"""What training changes: the map's parameters as 3DGS optimises them, with Adam's moments row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from feature_gs_ros.core.errors import TrainingError
from feature_gs_ros.core.gaussians import SH_C0, SH_COEFFICIENTS, GaussianMap
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.numerics.sorting import morton_order

MAX_LOGIT = 10.0  # of a pretrained map's opacities: beyond it nothing would ever move
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-15


@dataclass(eq=False)
class SplatParameters:
    """N Gaussians; leaves of autograd between `Adam.step` and the next."""

    means: Tensor  # [N, 3]
    quats_wxyz: Tensor  # [N, 4] any length but zero
    log_scales: Tensor  # [N, 3]
    logits: Tensor  # [N] of opacities
    sh_dc: Tensor  # [N, 1, 3]
    sh_rest: Tensor  # [N, K − 1, 3]

    def __len__(self) -> int:
        return len(self.means)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, in a fixed order."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))

    def active_sh(self, degree: int) -> Tensor:
        """The spherical harmonics up to a degree, [N, K', 3]."""
        return torch.cat([self.sh_dc, self.sh_rest[:, : (degree + 1) ** 2 - 1]], dim=1)

    def to_map(self) -> GaussianMap:
        """The map as it stands.

        Raises:
            MapError: nothing is left, or nothing is finite.
        """
        here = {name: tensor.detach().to(HOST) for name, tensor in self.items()}
        sh = torch.cat([here["sh_dc"], here["sh_rest"]], dim=1)
        return GaussianMap.from_parameters(
            here["means"], here["quats_wxyz"], here["log_scales"], here["logits"], sh, "the trained map"
        )

    def on(self, device: torch.device) -> SplatParameters:
        """The same on a device, as leaves; no copies where they lie there."""
        return SplatParameters(**{name: tensor.detach().to(device) for name, tensor in self.items()}).requires_grad()

    @staticmethod
    def of_map(gaussians: GaussianMap, degree: int) -> SplatParameters:
        """A pretrained map's parameters, its harmonics cut or filled with zeros to ``degree``.

        Raises:
            TrainingError: the map was trained with antialiasing, whose gradients aren't here.
        """
        if gaussians.antialiased:
            raise TrainingError(
                "the map was trained with antialiasing (opacity compensation), and training goes on without: it would "
                "change what every Gaussian weighs. Train it where it was trained, or features alone (distill without "
                "--joint)",
                code="training.unsupported",
            )
        sh = torch.zeros(len(gaussians), SH_COEFFICIENTS[degree], 3)
        shared = min(sh.shape[1], gaussians.sh.shape[1])
        sh[:, :shared] = gaussians.sh[:, :shared]
        return SplatParameters(
            gaussians.means.clone(),
            gaussians.quats_wxyz.clone(),
            gaussians.scales.log(),
            gaussians.opacities.logit().clamp(-MAX_LOGIT, MAX_LOGIT),
            sh[:, :1].clone(),
            sh[:, 1:].clone(),
        ).requires_grad()

    @staticmethod
    def of_points(
        points: Tensor,  # [N, 3]
        colors: Tensor,  # [N, 3] in 0 … 1
        sizes: Tensor,  # [N] standard deviations, splat units
        opacity: Tensor,  # [N]
        degree: int,
    ) -> SplatParameters:
        """Round Gaussians on points."""
        count = len(points)
        quats = torch.zeros(count, 4)
        quats[:, 0] = 1
        return SplatParameters(
            points.float().clone(),
            quats,
            sizes.float().log()[:, None].repeat(1, 3),
            opacity.float().logit(),
            ((colors.float() - 0.5) / SH_C0)[:, None, :].contiguous(),
            torch.zeros(count, SH_COEFFICIENTS[degree] - 1, 3),
        ).requires_grad()

    def requires_grad(self) -> SplatParameters:
        """Make every tensor a leaf with a gradient."""
        for name, tensor in self.items():
            setattr(self, name, tensor.detach().requires_grad_())
        return self


class Adam:
    """Adam over the rows of `SplatParameters`, whose number changes."""

    def __init__(self, parameters: SplatParameters) -> None:
        self.steps = 0
        self.first = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self.second = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}

    @torch.no_grad()
    def step(self, parameters: SplatParameters, rates: Mapping[str, float]) -> None:
        """Move every tensor against its gradient, and drop the gradient."""
        self.steps += 1
        bias1, bias2 = 1 - BETA1**self.steps, 1 - BETA2**self.steps
        for name, tensor in parameters.items():
            if tensor.grad is None or tensor.numel() == 0:
                continue
            first, second = self.first[name], self.second[name]
            first.lerp_(tensor.grad, 1 - BETA1)
            second.mul_(BETA2).addcmul_(tensor.grad, tensor.grad, value=1 - BETA2)
            tensor.addcdiv_(first, (second / bias2).sqrt_().add_(EPSILON), value=-rates[name] / bias1)
            tensor.grad = None

    @torch.no_grad()
    def replace_rows(self, parameters: SplatParameters, kept: Tensor, new: SplatParameters | None) -> Tensor:
        """Keep rows ``kept`` [M], append new ones without moments, and walk all of them along a Z-curve.

        Returns:
            Where each row comes from [N'], an index into the kept rows followed by the new ones.
        """
        means = parameters.means[kept] if new is None else torch.cat([parameters.means[kept], new.means])
        order = torch.from_numpy(morton_order(means.detach().to(HOST).numpy())).long().to(means.device)
        fresh = {} if new is None else dict(new.items())
        for name, tensor in parameters.items():
            added = fresh.get(name, tensor[:0])
            setattr(parameters, name, torch.cat([tensor[kept], added])[order].detach().requires_grad_())
            for moments in (self.first, self.second):
                moments[name] = torch.cat([moments[name][kept], torch.zeros_like(added)])[order]
        return order
