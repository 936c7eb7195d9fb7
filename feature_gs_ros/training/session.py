"""A training run as a person starts it: progress, pictures, checkpoints; what was good is never lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_gs_ros.core.errors import OutOfMemoryError, TrainingError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.io.files import file_name_of
from feature_gs_ros.pictures import save_png, side_by_side, to_image
from feature_gs_ros.training.checkpoint import save_training, saved_parameters
from feature_gs_ros.training.trainer import Progress, Trainer, TrainingMetrics, render
from feature_gs_ros.training.views import TrainingView

Note = Callable[[str], None]


@dataclass(frozen=True)
class SessionOptions:
    """What a run leaves behind on its way."""

    checkpoint: Path
    checkpoint_every: int = 250
    pictures: Path | None = None
    picture_every: int = 250


def train_map(
    trainer: Trainer,
    shown: Sequence[TrainingView],
    options: SessionOptions,
    progress: Progress | None = None,
    note: Note | None = None,
) -> tuple[GaussianMap, bool]:
    """Train to the end, or until progress stops it; the map, and whether it is finished.

    The checkpoint is written every few iterations and when the run stops early; who has saved the map of a finished
    run removes it. Training that diverges ends with the map of the last checkpoint of this run. Where memory ends it
    stops early, at the last checkpoint where there is none left even to write another.

    Args:
        shown: views of which a picture is drawn now and then, beside what they should be.
        note: takes lines for a person.

    Raises:
        TrainingError: it diverged before the first checkpoint, or a file can't be written.
        OutOfMemoryError: memory ended before the first checkpoint, or it doesn't suffice for reading that back.
    """
    kept = trainer.iteration > 0  # resumed: the checkpoint is of this run

    def keep() -> None:
        nonlocal kept
        save_training(trainer, options.checkpoint)
        kept = True

    def after(metrics: TrainingMetrics) -> bool | None:
        if metrics.iteration % options.checkpoint_every == 0:
            keep()
        if options.pictures is not None and metrics.iteration % options.picture_every == 0:
            save_pictures(trainer, shown, options.pictures)
        return progress(metrics) if progress is not None else None

    note = note or (lambda _line: None)
    try:
        with memory_errors():
            finished = _run(trainer, after, note)
            if not finished:
                keep()
            return trainer.result().to_map(), finished
    except TrainingError as error:
        if not kept or not options.checkpoint.is_file():
            raise TrainingError(
                f"{error}; there is no checkpoint to go back to: check images and poses", code="training.diverged"
            ) from error
        reason = str(error)
    except OutOfMemoryError as error:
        if not kept or not options.checkpoint.is_file():
            raise
        reason = str(error)
    with memory_errors():
        last = saved_parameters(options.checkpoint).to_map()
    note(f"{reason}: the map is the one of the last checkpoint, '{options.checkpoint}'")
    return last, False


def _run(trainer: Trainer, progress: Progress, note: Note) -> bool:
    try:
        with memory_errors():
            return trainer.run(progress)
    except OutOfMemoryError as error:
        note(f"{error}; training stops at iteration {trainer.iteration}")
    return False


def set_aside(checkpoint: Path) -> Path | None:
    """Rename an earlier run's checkpoint, so that a new run neither loses it nor takes it for its own.

    Returns:
        Its new name, ``<name>.1`` or the next that is free; None where there was none.

    Raises:
        TrainingError: it can't be renamed.
    """
    if not checkpoint.exists():
        return None
    names = (checkpoint.with_name(f"{checkpoint.name}.{number}") for number in itertools.count(1))
    free = next(name for name in names if not name.exists())
    try:
        return checkpoint.rename(free)
    except OSError as error:
        raise TrainingError(
            f"can't set the earlier run '{checkpoint}' aside: {error.strerror or error}", code="training.unwritable"
        ) from error


def save_pictures(trainer: Trainer, views: Sequence[TrainingView], folder: Path) -> None:
    """Photograph and rendering of each view side by side, one file a view and iteration."""
    degree = trainer.options.sh_degree
    for view in views:
        rendered = render(trainer.result(), view, degree, backend=trainer.backend).color.detach().cpu()
        images = [np.asarray(to_image(view.image)), to_image(rendered)]
        picture = side_by_side(images, [f"{view.name}", f"iteration {trainer.iteration}"])
        save_png(picture, folder / f"{file_name_of(view.name)}_{trainer.iteration:06d}.png")
