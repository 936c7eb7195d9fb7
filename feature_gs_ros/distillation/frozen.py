"""Distillation with frozen geometry by steps, as Feature 3DGS trains: ``L_f = ‖F_teacher − F_rendered‖₁``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from feature_gs_ros.core.errors import GridError, TrainingError
from feature_gs_ros.distillation.decoder import Decoder
from feature_gs_ros.distillation.targets import DistillationTarget
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.numerics.streams import upload
from feature_gs_ros.rasterizer import CellOperator

KEEP_EVERY = 50  # steps between two copies of what is good

Progress = Callable[[int, int, str], bool | None]  # steps done, steps in all, what to show; True stops


@dataclass(frozen=True)
class FrozenOptions:
    """How features are trained."""

    iterations: int = 2000
    rate: float = (
        2e-2  # of the features, in units of the teacher's deviation; 1e-3 for LSeg's, as the paper's code has it
    )
    decoder_rate: float = 1e-3
    seed: int = 0


class FeatureTrainer:
    """Features [N, K], and a decoder if there is one, by Adam over one view a step."""

    def __init__(
        self,
        targets: Sequence[DistillationTarget],
        options: FrozenOptions,
        decoder: Decoder | None = None,
        start: Tensor | None = None,  # [N, K]; zeros by default
        device: torch.device = HOST,
    ) -> None:
        """
        Args:
            device: where features and decoder are trained: best the one of the targets' operators.

        Raises:
            FieldError: the decoder is for another teacher's dimension.
            GridError: no target, or a start of another shape.
        """
        if not targets:
            raise GridError("no view to distil from", code="grid.empty")
        dimension, count = targets[0].wanted.shape[1], targets[0].operator.gaussians
        if decoder is not None:
            decoder.check(dimension)
            dimension = decoder.dimension
        if start is not None and tuple(start.shape) != (count, dimension):
            raise GridError(
                f"the start has shape {tuple(start.shape)}, expected ({count}, {dimension})", code="grid.shape"
            )
        self.targets, self.options, self.decoder = targets, options, decoder
        begin = torch.zeros(count, dimension) if start is None else start
        self.features = begin.to(device, copy=True).requires_grad_()
        if decoder is not None:
            decoder.move_to(device)
        deviation = float(torch.cat([target.wanted.flatten()[:100_000] for target in targets]).std().clamp_min(1e-12))
        groups: list[dict[str, Any]] = [{"params": [self.features], "lr": options.rate * deviation}]
        if decoder is not None:
            groups.append({"params": [decoder.basis, decoder.bias], "lr": options.decoder_rate})
            groups[0]["lr"] = options.rate * deviation * math.sqrt(decoder.teacher_dimension / decoder.dimension)
        self.adam = torch.optim.Adam(groups, eps=1e-15)
        self.iteration = 0
        self._generator = torch.Generator().manual_seed(options.seed)
        self._queue: list[int] = []
        self._good = self._copies()

    def step(self) -> float:
        """One view; the loss.

        Raises:
            TrainingError: the loss is not finite; features and decoder are put back to the last good ones.
        """
        if not self._queue:
            self._queue = torch.randperm(len(self.targets), generator=self._generator).tolist()
        target = self.targets[self._queue.pop()]
        shown: Tensor = _Show.apply(self.features, target.operator)  # type: ignore[no-untyped-call]
        wanted = upload(target.wanted, shown.device)
        loss = ((self.decoder(shown) if self.decoder else shown) - wanted).abs().mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            self._restore()
            raise TrainingError(
                f"the loss is {value} at step {self.iteration}; features of the last good step are kept",
                code="training.diverged",
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        self.adam.zero_grad()
        self.iteration += 1
        if self.iteration % KEEP_EVERY == 0 and all(bool(torch.isfinite(tensor).all()) for tensor in self._copies()):
            self._good = self._copies()
        return value

    def run(self, progress: Progress | None = None) -> bool:
        """Train to the end; False where progress stopped it.

        Raises:
            TrainingError: as `step`.
        """
        while self.iteration < self.options.iterations:
            loss = self.step()
            if progress is not None and progress(self.iteration, self.options.iterations, f"loss {loss:.4f}"):
                return False
        return True

    def _copies(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._tensors()]

    def _tensors(self) -> list[Tensor]:
        return [self.features] + ([self.decoder.basis, self.decoder.bias] if self.decoder else [])

    @torch.no_grad()
    def _restore(self) -> None:
        for tensor, good in zip(self._tensors(), self._good, strict=True):
            tensor.copy_(good)


class _Show(torch.autograd.Function):
    """A f, with gradient Aᵀ g."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, operator: CellOperator) -> Tensor:
        ctx.operator = operator
        return operator.forward(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.adjoint(gradient), None
