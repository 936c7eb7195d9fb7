"""Adaptive density of 3DGS: clone what is small and pulled hard, split what is large, prune, reset opacities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from feature_gs_ros.core.geometry import rotated
from feature_gs_ros.rasterizer import Rendering
from feature_gs_ros.training.parameters import Adam, SplatParameters

SPLIT_SHRINK = 1.6  # of the two halves of a split Gaussian


@dataclass(frozen=True)
class DensityOptions:
    """When and how the number of Gaussians changes; iterations as fractions of the whole run."""

    grow: bool = True  # clone and split; else only prune
    start: float = 0.1
    end: float = 0.6
    every: int = 100  # iterations
    gradient: float = 2e-4  # of the mean on the image, in half images, over which a Gaussian is densified
    small: float = 0.01  # of the scene's extent: up to this a Gaussian is cloned, beyond it split
    large: float = 0.25  # of the scene's extent, or of the distance from the cameras: beyond it a Gaussian is pruned
    faint: float = 0.005  # opacity under which a Gaussian is pruned
    reset: tuple[float, ...] = ()  # when opacities are lowered to `reset_to`
    reset_to: float = 0.05
    most: int = 100_000  # Gaussians


class Density:
    """Statistics between two densifications, and the densification."""

    def __init__(self, count: int, options: DensityOptions, extent: float, centres: Tensor, near: float) -> None:
        """
        Args:
            extent: of the scene, splat units.
            centres: the cameras' centres [V, 3], where the parameters lie; what comes nearer than ``near`` to one is
                pruned.
        """
        self.options, self.extent, self.centres, self.near = options, extent, centres, near
        self._clear(count)

    def _clear(self, count: int) -> None:
        self.grad2d, self.seen = torch.zeros(2, count, device=self.centres.device)

    def note(self, rendering: Rendering, means2d_gradient: Tensor, width: int, height: int) -> None:
        """Take in one view's gradient [N, 2] of the means on the image, in pixels."""
        rows = rendering.rows
        norms = (means2d_gradient[rows] * means2d_gradient.new_tensor([width / 2, height / 2])).norm(dim=1)
        self.grad2d[rows] += norms
        self.seen[rows] += norms > 0

    @torch.no_grad()
    def densify(self, parameters: SplatParameters, adam: Adam, generator: torch.Generator) -> None:
        """Clone, split and prune by what was noted since the last time."""
        options = self.options
        grad2d = self.grad2d / self.seen.clamp_min(1)
        largest = parameters.log_scales.exp().amax(dim=1)
        wanted = (grad2d > options.gradient) & options.grow
        room = options.most - len(parameters)
        if int(wanted.sum()) > room:
            wanted &= grad2d >= (grad2d.topk(room).values[-1] if room > 0 else math.inf)
        split = wanted & (largest > options.small * self.extent)
        new = _joined(_cloned(parameters, wanted & ~split), split_gaussians(parameters, split, generator))
        kept = ~split & ~self._superfluous(parameters, largest)
        adam.replace_rows(parameters, kept.nonzero()[:, 0], new)
        self._clear(len(parameters))

    def _superfluous(self, parameters: SplatParameters, largest: Tensor) -> Tensor:
        faint = parameters.logits.sigmoid() < self.options.faint
        distance = torch.cdist(parameters.means, self.centres).amin(dim=1)
        return faint | (distance < self.near) | (largest > self.options.large * distance.clamp_min(self.extent))

    @torch.no_grad()
    def prune(self, parameters: SplatParameters, adam: Adam) -> None:
        """Only drop what is superfluous."""
        largest = parameters.log_scales.exp().amax(dim=1)
        adam.replace_rows(parameters, (~self._superfluous(parameters, largest)).nonzero()[:, 0], None)
        self._clear(len(parameters))

    @torch.no_grad()
    def reset(self, parameters: SplatParameters, adam: Adam) -> None:
        """Lower all opacities: what is needed comes back, what isn't is pruned."""
        ceiling = math.log(self.options.reset_to / (1 - self.options.reset_to))
        parameters.logits.clamp_(max=ceiling)
        adam.first["logits"].zero_()
        adam.second["logits"].zero_()


def _cloned(parameters: SplatParameters, mask: Tensor) -> SplatParameters:
    return SplatParameters(**{name: tensor[mask] for name, tensor in parameters.items()})


def split_gaussians(parameters: SplatParameters, mask: Tensor, generator: torch.Generator) -> SplatParameters:
    """Two Gaussians for one, drawn from it."""
    halves = {name: torch.cat([tensor[mask]] * 2) for name, tensor in parameters.items()}
    drawn = torch.randn(halves["means"].shape, generator=generator).to(halves["means"].device)
    along = drawn * halves["log_scales"].exp()
    halves["means"] = halves["means"] + rotated(halves["quats_wxyz"], along)
    halves["log_scales"] = halves["log_scales"] - math.log(SPLIT_SHRINK)
    return SplatParameters(**halves)


def _joined(one: SplatParameters, other: SplatParameters) -> SplatParameters:
    return SplatParameters(
        **{
            name: torch.cat([tensor, more])
            for (name, tensor), (_, more) in zip(one.items(), other.items(), strict=True)
        }
    )
