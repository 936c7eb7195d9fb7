"""Joint distillation of Feature 3DGS: ``L = L_rgb + γ L_f`` over one rasterisation of colour and features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from feature_gs_ros.core.errors import GridError, TrainingError
from feature_gs_ros.core.feature_grid import FeatureGrid, pixel_weights
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.distillation.decoder import Decoder
from feature_gs_ros.evaluation.metrics import psnr
from feature_gs_ros.rasterizer import BackendChoice, get_backend
from feature_gs_ros.training.losses import rgb_loss
from feature_gs_ros.training.parameters import Adam, SplatParameters
from feature_gs_ros.training.trainer import MEANS_RATE_END, RATES
from feature_gs_ros.training.views import TrainingView

Progress = Callable[[int, int, str], bool | None]  # steps done, steps in all, what to show; True stops


@dataclass(frozen=True)
class JointOptions:
    """How colour and features are trained together; the map is a trained one, so its rates are the late ones."""

    iterations: int = 1000
    gamma: float = 1.0  # weight of L_f
    shaped_by_features: bool = True  # whether L_f's gradient reaches the geometry
    rate: float = (
        2e-2  # of the features, in units of the teacher's deviation; 1e-3 for LSeg's, as the paper's code has it
    )
    decoder_rate: float = 1e-3
    keep_every: int = 50  # steps between two copies of what is good
    seed: int = 0


class JointTrainer:
    """A map's parameters, its features and a decoder if there is one, by Adam over one view per step.

    All that a step works on lies on the backend's device.
    """

    def __init__(
        self,
        gaussians: GaussianMap,
        features: Tensor,  # [N, K] to start from
        views: Sequence[TrainingView],
        grids: Sequence[FeatureGrid],
        options: JointOptions,
        decoder: Decoder | None = None,
        backend: BackendChoice = "auto",
    ) -> None:
        """
        Raises:
            FieldError: the decoder is for another teacher's dimension.
            GridError: views, grids and features don't fit together.
        """
        if not views or len(views) != len(grids) or len(features) != len(gaussians):
            raise GridError(
                f"{len(views)} views, {len(grids)} grids and {len(features)} features "
                f"don't fit {len(gaussians)} Gaussians",
                code="grid.shape",
            )
        if decoder is not None:
            decoder.check(grids[0].dimension)
        elif features.shape[1] != grids[0].dimension:
            raise GridError(
                f"features of {features.shape[1]} dimensions need a decoder to {grids[0].dimension}", code="grid.value"
            )
        self.options, self.decoder, self.backend = options, decoder, get_backend(backend)
        device = self.backend.device
        self.views = [view.on(device) for view in views]
        self.parameters = SplatParameters.of_map(gaussians, gaussians.sh_degree).on(device)
        self.features = features.detach().to(device, copy=True).requires_grad_()
        if decoder is not None:
            decoder.move_to(device)
        centres = torch.stack([view.centre for view in views])
        extent = max(1.1 * float((centres - centres.mean(0)).norm(dim=1).max()), 1e-6)
        self._rates = RATES | {"means": MEANS_RATE_END * 10 * extent}
        self.optimizer = Adam(self.parameters)
        deviation = float(torch.cat([grid.values.flatten()[:100_000].float() for grid in grids]).std().clamp_min(1e-12))
        dims = features.shape[1]
        groups = [{"params": [self.features], "lr": options.rate * deviation * math.sqrt(grids[0].dimension / dims)}]
        if decoder is not None:
            groups.append({"params": [decoder.basis, decoder.bias], "lr": options.decoder_rate})
        self._feature_adam = torch.optim.Adam(groups, eps=1e-15)
        self._pools = [_Pool(view, grid) for view, grid in zip(self.views, grids, strict=True)]
        self.iteration = 0
        self._generator = torch.Generator().manual_seed(options.seed)
        self._queue: list[int] = []
        self._good = self._copies()

    def step(self) -> tuple[float, float]:
        """One view; loss, and the PSNR of its colours.

        Raises:
            TrainingError: the loss is not finite; everything is put back to the last good state.
        """
        if not self._queue:
            self._queue = torch.randperm(len(self.views), generator=self._generator).tolist()
        index = self._queue.pop()
        view, pool, parameters = self.views[index], self._pools[index], self.parameters
        drawn = self.backend.render_with_gradients(
            parameters.means,
            parameters.quats_wxyz,
            parameters.log_scales.exp(),
            parameters.logits.sigmoid(),
            torch.cat([parameters.sh_dc, parameters.sh_rest], dim=1),
            view.camera,
            view.camera_from_splat,
            extra_signals=self.features,
            extra_shapes=self.options.shaped_by_features,
        )
        assert drawn.extra is not None
        shown = pool.cells(drawn.extra)
        features = self.decoder(shown) if self.decoder else shown
        image, target = drawn.color, view.image
        if view.valid is not None:
            image, target = image * view.valid[:, :, None], target * view.valid[:, :, None]
        loss = rgb_loss(image, target) + self.options.gamma * (features - pool.wanted).abs().mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            self._restore()
            raise TrainingError(
                f"the loss is {value} at step {self.iteration}; the last good state is kept", code="training.diverged"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(parameters, self._rates)
        self._feature_adam.step()
        self._feature_adam.zero_grad()
        self.iteration += 1
        if self.iteration % self.options.keep_every == 0:
            copies = self._copies()
            if all(bool(torch.isfinite(tensor).all()) for tensor in copies):
                self._good = copies
        return value, psnr(image.detach(), target, view.valid)

    def run(self, progress: Progress | None = None) -> bool:
        """Train to the end; False where progress stopped it.

        Raises:
            TrainingError: as `step`.
        """
        while self.iteration < self.options.iterations:
            loss, quality = self.step()
            shown = f"loss {loss:.4f}, PSNR {quality:.2f} dB"
            if progress is not None and progress(self.iteration, self.options.iterations, shown):
                return False
        return True

    def _tensors(self) -> list[Tensor]:
        decoder = [self.decoder.basis, self.decoder.bias] if self.decoder else []
        return [tensor for _, tensor in self.parameters.items()] + [self.features, *decoder]

    def _copies(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._tensors()]

    @torch.no_grad()
    def _restore(self) -> None:
        for tensor, good in zip(self._tensors(), self._good, strict=True):
            tensor.copy_(good)


class _Pool:
    """``diag(Uᵀ m)⁻¹ Uᵀ M`` of one view: a rendered image averaged over the teacher's cells."""

    def __init__(self, view: TrainingView, grid: FeatureGrid) -> None:
        across, down = pixel_weights(grid, view.camera.width, view.camera.height)
        there = view.image.device
        self._rows, self._columns = (torch.from_numpy(axis.dense()).to(there) for axis in (down, across))
        self._valid = None if view.valid is None else view.valid.float()
        whole = torch.ones(view.camera.height, view.camera.width, device=there)
        counts = whole if self._valid is None else self._valid
        self._total = (self._rows.T @ counts @ self._columns).reshape(-1, 1)
        self._counting = self._total[:, 0] > 1e-3
        self.wanted = grid.values.to(there).reshape(-1, grid.dimension)[self._counting].float()

    def cells(self, image: Tensor) -> Tensor:
        """[H, W, K] to the cells that count [C, K]."""
        if self._valid is not None:
            image = image * self._valid[:, :, None]
        height, width, channels = image.shape
        narrow = (self._rows.T @ image.reshape(height, -1)).reshape(-1, width, channels)  # [rows, W, K]
        cells = torch.einsum("rwk,wc->rck", narrow, self._columns).reshape(-1, channels)
        return cells[self._counting] / self._total[self._counting]
