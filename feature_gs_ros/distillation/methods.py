"""The ways in which ``feature-gs distill`` comes to features: least squares, steps, and steps that move the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.ingest import extract, pinhole_view
from feature_gs_ros.backprojection.least_squares import solve_cells
from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.errors import OutOfMemoryError, TrainingError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.core.progress import ProgressBar, note
from feature_gs_ros.distillation import (
    Decoder,
    DistillationTarget,
    FeatureTrainer,
    FrozenOptions,
    JointOptions,
    JointTrainer,
    useful_passes,
)
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.rasterizer import BackendChoice, get_backend
from feature_gs_ros.training.views import load_views

MAX_PASSES = 4  # over all views


@dataclass(frozen=True, eq=False)
class DistillJob:
    """What every way of distilling begins with."""

    gaussians: GaussianMap
    stream: Stream
    names: list[str]
    teacher: Extractor
    provenance: Provenance
    quiet: bool
    backend: BackendChoice = "auto"


@dataclass(frozen=True, eq=False)
class DistillResult:
    """What it ends with."""

    features: Tensor  # [N, K]
    codec: Codec | None
    products: int  # with A or Aᵀ of one view
    finished: bool
    gaussians: GaussianMap  # another map where the geometry was trained


def solve(
    work: DistillJob,
    targets: Sequence[DistillationTarget],
    codec: Codec | None,
    earlier: FeatureField | None,
    iterations: int | None,
) -> DistillResult:
    begin = None if earlier is None else earlier.features.float()
    if iterations is None:
        try:
            with memory_errors():
                iterations = useful_passes(targets, MAX_PASSES)
            note(f"{iterations} passes gain on views left out for this")
        except OutOfMemoryError as error:
            note(f"{error}; no pass is tried")
            iterations = 0
    pairs = [(target.operator, target.wanted) for target in targets]
    with ProgressBar("solving", "pass", quiet=work.quiet).running() as bar:
        solution = solve_cells(pairs, start=begin, iterations=iterations, progress=bar)
        finished = not bar.interrupted and solution.stopped_by is None
    if solution.stopped_by is not None:
        note(f"{solution.stopped_by}; kept are the features after {len(solution.residual) - 1} passes")
    return DistillResult(solution.features, codec, products(targets), finished, work.gaussians)


def train(
    work: DistillJob,
    targets: Sequence[DistillationTarget],
    codec: Codec | None,
    earlier: FeatureField | None,
    iterations: int | None,
) -> DistillResult:
    decoder = None if codec is None else Decoder.of_codec(codec)
    begin = None if earlier is None else earlier.features.float()
    options = FrozenOptions(iterations=FrozenOptions.iterations if iterations is None else iterations)
    trainer = FeatureTrainer(targets, options, decoder, begin, get_backend(work.backend).device)
    with ProgressBar("training", "step", quiet=work.quiet).running() as bar:
        finished = _run(trainer, bar)
    return DistillResult(
        trainer.features.detach().cpu(),
        decoder.codec() if decoder else None,
        products(targets),
        finished,
        work.gaussians,
    )


def train_jointly(
    work: DistillJob,
    targets: Sequence[DistillationTarget],
    codec: Codec | None,
    earlier: FeatureField | None,
    options: JointOptions,
    size: int,
) -> DistillResult:
    used = [target.name for target in targets]
    # The start: what frozen geometry says, so that the geometry isn't pulled by features that are nowhere near.
    if earlier is not None:
        begin = earlier.features.float()
    else:
        wanted = [codec.encode(target.wanted) if codec else target.wanted for target in targets]
        pairs = [(target.operator, values) for target, values in zip(targets, wanted, strict=True)]
        begin = solve_cells(pairs, iterations=0).features
    views = load_views(work.stream, used, work.provenance.splat_from_map, size)
    grids = [
        extract(work.teacher, pinhole_view(frame, work.provenance.splat_from_map).image, frame)
        for frame in work.stream.frames(used)
    ]
    decoder = None if codec is None else Decoder.of_codec(codec)
    trainer = JointTrainer(work.gaussians, begin, views, grids, options, decoder, work.backend)
    with ProgressBar("training", "step", quiet=work.quiet).running() as bar:
        finished = _run(trainer, bar)
    trained = trainer.parameters.to_map()
    features = trainer.features.detach().cpu()[trained.file_rows]
    return DistillResult(features, decoder.codec() if decoder else None, products(targets), finished, trained)


def _run(trainer: FeatureTrainer | JointTrainer, bar: ProgressBar) -> bool:
    """Whether training came to its end; where it diverges, or memory ends, the trainer holds what is worth keeping."""
    try:
        with memory_errors():
            return trainer.run(bar)
    except OutOfMemoryError as error:
        note(f"{error}; what was trained in {trainer.iteration} steps is kept")
    except TrainingError as error:
        note(str(error))
    return False


def products(targets: Sequence[DistillationTarget]) -> int:
    return sum(target.operator.products for target in targets)
