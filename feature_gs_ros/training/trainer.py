"""3DGS training: views in, a map out, ``L_rgb = 0.8 L1 + 0.2 (1 − SSIM)`` (Feature 3DGS, Eq. of L_rgb)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from feature_gs_ros.core.errors import TrainingError
from feature_gs_ros.evaluation.metrics import psnr
from feature_gs_ros.rasterizer import BackendChoice, Rendering, get_backend
from feature_gs_ros.training.densification import Density, DensityOptions
from feature_gs_ros.training.exposure import Exposures, seen_exposed
from feature_gs_ros.training.losses import rgb_loss
from feature_gs_ros.training.parameters import Adam, SplatParameters
from feature_gs_ros.training.views import TrainingView

RATES = {"quats_wxyz": 1e-3, "log_scales": 1e-2, "logits": 0.05, "sh_dc": 2.5e-3, "sh_rest": 2.5e-3 / 20}
MEANS_RATE, MEANS_RATE_END = 1.6e-4, 1.6e-6  # times the scene's extent


@dataclass(frozen=True)
class TrainingOptions:
    """How a map is trained; the defaults are for tens of views and minutes on a CPU."""

    iterations: int = 2000
    sh_degree: int = 1
    sh_from: float = 0.4  # fraction of the run from which harmonics beyond degree 0 grow
    coarse: tuple[float, ...] = (0.4, 0.4)  # fractions of the run trained at 1/2ⁿ of the size, coarsest first
    exposure: bool = True  # a gain and an offset a view and channel; the map keeps what depends on direction
    opacity_cost: float = 0.0
    scale_cost: float = 0.0
    slimness: float = 10.0  # ratio of the longest to the middle axis beyond which slim_cost counts
    slim_cost: float = 0.0
    random_background: bool = True
    average_from: float = 0.8  # fraction of the run from which the iterates are averaged
    seed: int = 0
    density: DensityOptions = field(default_factory=DensityOptions)


@dataclass(frozen=True, eq=False)
class TrainingMetrics:
    """Where training stands, for progress."""

    iteration: int
    iterations: int
    loss: float
    psnr: float  # of the views trained on lately
    count: int


Progress = Callable[[TrainingMetrics], bool | None]  # True stops and keeps what is done


class Trainer:
    """One training run; `run` goes on from where it stands.

    All that a step works on lies on the backend's device: parameters, moments, photographs, losses.
    """

    def __init__(
        self,
        parameters: SplatParameters,
        views: Sequence[TrainingView],
        options: TrainingOptions,
        near: float = 0.0,
        backend: BackendChoice = "auto",
    ) -> None:
        """
        Args:
            near: distance from a camera under which nothing may be, splat units.
            backend: what renders.

        Raises:
            TrainingError: no view.
        """
        if not views:
            raise TrainingError("no view to train on", code="training.empty")
        self.options, self.backend = options, get_backend(backend)
        self.device = self.backend.device
        self.parameters = parameters.on(self.device)
        self.names = [view.name for view in views]
        self.iteration = 0
        self.generator = torch.Generator().manual_seed(options.seed)
        self.adam = Adam(self.parameters)
        centres = torch.stack([view.centre for view in views]).to(self.device)
        self.extent = max(1.1 * float((centres - centres.mean(0)).norm(dim=1).max()), 1e-6)
        self.density = Density(len(parameters), options.density, self.extent, centres, near)
        self.exposures = Exposures(views, self.device)
        halvings = range(len(options.coarse) + 1)
        self.levels = [[view.halved(times).on(self.device) for view in views] for times in halvings]
        self._queue: list[int] = []
        self._average: dict[str, Tensor] | None = None
        self._averaged = 0

    def run(self, progress: Progress | None = None) -> bool:
        """Train to the end; False where progress stopped it.

        Raises:
            TrainingError: the loss is not finite.
        """
        recent: list[float] = []
        while self.iteration < self.options.iterations:
            loss, quality = self.step()
            recent = [*recent, quality][-20:]
            metrics = TrainingMetrics(
                self.iteration, self.options.iterations, loss, sum(recent) / len(recent), len(self.parameters)
            )
            if progress is not None and progress(metrics):
                return False
        return True

    def step(self) -> tuple[float, float]:
        """One view forward and backward; loss, and PSNR of that view."""
        options, done = self.options, self.iteration / self.options.iterations
        self.iteration += 1
        index = self.next_view()
        view = self.levels[self.level(done)][index]
        means2d = torch.zeros(len(self.parameters), 2, device=self.device, requires_grad=True)
        degree = 0 if done < options.sh_from else options.sh_degree
        rendering = render(self.parameters, view, degree, means2d, self.backend)
        image = rendering.color
        if options.exposure:
            image = self.exposures.exposed(image, index)
        if options.random_background and done < options.average_from:
            background = torch.rand(3, generator=self.generator).to(self.device)
            image = image + (1 - rendering.opacity)[:, :, None] * background
        target = view.image
        if view.valid is not None:
            image, target = image * view.valid[:, :, None], target * view.valid[:, :, None]
        loss = rgb_loss(image, target) + self._costs(rendering)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at iteration {self.iteration}", code="training.diverged")
        loss.backward()  # type: ignore[no-untyped-call]
        assert means2d.grad is not None
        self.density.note(rendering, means2d.grad, view.camera.width, view.camera.height)
        self.adam.step(self.parameters, self.rates(done))
        if options.exposure:
            self.exposures.step()
        self._change_density(done)
        self._take_average(done)
        return value, psnr(image.detach(), target, view.valid)

    def _costs(self, rendering: Rendering) -> Tensor:
        options, rows = self.options, rendering.rows
        cost = torch.zeros((), device=self.device)
        if options.exposure:
            cost = cost + self.exposures.cost()
        if options.opacity_cost:
            cost = cost + options.opacity_cost * self.parameters.logits[rows].sigmoid().mean()
        if options.scale_cost:
            cost = cost + options.scale_cost * self.parameters.log_scales[rows].exp().mean() / self.extent
        if options.slim_cost:
            axes = self.parameters.log_scales[rows].sort(dim=1).values
            cost = cost + options.slim_cost * (axes[:, 2] - axes[:, 1] - math.log(options.slimness)).clamp_min(0).mean()
        return cost

    def rates(self, done: float) -> dict[str, float]:
        means = math.exp((1 - done) * math.log(MEANS_RATE) + done * math.log(MEANS_RATE_END)) * self.extent
        return RATES | {"means": means}

    def level(self, done: float) -> int:
        """How often the views are halved at this point of the run."""
        passed = 0.0
        for number, part in enumerate(self.options.coarse):
            passed += part
            if done < passed:
                return len(self.options.coarse) - number
        return 0

    def next_view(self) -> int:
        if not self._queue:
            self._queue = torch.randperm(len(self.exposures), generator=self.generator).tolist()
        return self._queue.pop()

    def _change_density(self, done: float) -> None:
        density, total = self.options.density, self.options.iterations
        if density.start <= done <= density.end and self.iteration % density.every == 0:
            self.density.densify(self.parameters, self.adam, self.generator)
        elif density.end < done < self.options.average_from and self.iteration % (5 * density.every) == 0:
            self.density.prune(self.parameters, self.adam)
        if any(self.iteration == round(at * total) for at in density.reset):
            self.density.reset(self.parameters, self.adam)

    @torch.no_grad()
    def _take_average(self, done: float) -> None:
        """Mean of the iterates: steps along the valley cancel, those across it too."""
        if done < self.options.average_from:
            return
        self._averaged += 1
        if self._average is None:
            self._average = {name: tensor.detach().clone() for name, tensor in self.parameters.items()}
        for name, tensor in self.parameters.items():
            self._average[name].lerp_(tensor, 1 / self._averaged)

    def result(self) -> SplatParameters:
        """The averaged parameters, or the last ones where averaging hasn't begun, as the cameras would expose them."""
        parameters = self.parameters if self._average is None else SplatParameters(**self._average)
        return seen_exposed(parameters, self.exposures.by_direction())

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, where it lies."""
        tables = {
            "parameters": dict(self.parameters.items()),
            "first": self.adam.first,
            "second": self.adam.second,
            "average": self._average or {},
        }
        state = {f"{kind}.{name}": tensor for kind, table in tables.items() for name, tensor in table.items()}
        return {
            **state,
            **self.exposures.state(),
            "density.pull": self.density.grad2d,
            "density.seen": self.density.seen,
            "generator": self.generator.get_state(),
            "queue": torch.tensor(self._queue, dtype=torch.int64),
            "counts": torch.tensor([self.adam.steps, self._averaged]),
        }

    def restore(self, state: Mapping[str, Tensor], iteration: int) -> None:
        """Go on from `state` of a trainer of the same views and options at an iteration, wherever that ran."""
        kept = ("generator", "queue", "counts", "exposures.by_direction")  # on the host
        state = {name: tensor if name in kept else tensor.to(self.device) for name, tensor in state.items()}
        names = [name for name, _ in self.parameters.items()]
        for name in names:
            setattr(self.parameters, name, state[f"parameters.{name}"].clone())
            self.adam.first[name], self.adam.second[name] = state[f"first.{name}"], state[f"second.{name}"]
        self.parameters.requires_grad()
        averaged = "average.means" in state
        self._average = {name: state[f"average.{name}"] for name in names} if averaged else None
        self.adam.steps, self._averaged = state["counts"].tolist()
        self.exposures.restore(state, iteration)
        self.density.grad2d, self.density.seen = state["density.pull"], state["density.seen"]
        self.generator.set_state(state["generator"])
        self._queue = state["queue"].tolist()
        self.iteration = iteration


def render(
    parameters: SplatParameters,
    view: TrainingView,
    degree: int,
    means2d: Tensor | None = None,
    backend: BackendChoice = "auto",
) -> Rendering:
    """A view of the parameters; see `Backend.render_with_gradients`."""
    return get_backend(backend).render_with_gradients(
        parameters.means,
        parameters.quats_wxyz,
        parameters.log_scales.exp(),
        parameters.logits.sigmoid(),
        parameters.active_sh(degree),
        view.camera,
        view.camera_from_splat,
        means2d=means2d,
    )


@torch.no_grad()
def measure(parameters: SplatParameters, views: Sequence[TrainingView]) -> dict[str, float]:
    """PSNR of each view, as rendered, over the pixels that count; a view without any is left out."""
    degree = math.isqrt(1 + parameters.sh_rest.shape[1]) - 1
    return {
        view.name: psnr(render(parameters, view, degree).color.to(view.image.device), view.image, view.valid)
        for view in views
        if view.valid is None or bool(view.valid.any())
    }
