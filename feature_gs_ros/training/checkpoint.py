"""A training run on disk: everything that the next step depends on, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from feature_gs_ros.core.errors import TrainingError
from feature_gs_ros.io.structured import Table
from feature_gs_ros.io.tensors import read_tensor_file, write_tensor_file
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.training.exposure import seen_exposed
from feature_gs_ros.training.parameters import SplatParameters
from feature_gs_ros.training.trainer import Trainer

FORMAT = "feature_gs_ros training 2"
ROWS_OF_GAUSSIANS = ("parameters", "first", "second", "average", "density")  # kinds of tensors with a row for each


def save_training(trainer: Trainer, path: str | Path) -> None:
    """Write the run; the file appears whole or not at all.

    Raises:
        TrainingError: a parameter is not finite or the state isn't whole, so that the earlier file is kept, or the
            file can't be written.
    """
    state = trainer.state()
    rows = {len(tensor) for name, tensor in state.items() if name.partition(".")[0] in ROWS_OF_GAUSSIANS}
    if len(rows) != 1:  # memory ended while the Gaussians were being replaced
        raise TrainingError(f"at iteration {trainer.iteration} the state is of {len(rows)} maps of different size")
    if not all(bool(torch.isfinite(tensor).all()) for name, tensor in state.items() if tensor.is_floating_point()):
        raise TrainingError(f"parameters are not finite at iteration {trainer.iteration}", code="training.not-finite")
    content = {"iteration": trainer.iteration, "options": asdict(trainer.options), "views": trainer.names}
    try:
        tensors = {name: tensor.detach().to(HOST, copy=True) for name, tensor in state.items()}
        write_tensor_file(path, FORMAT, tensors, content)
    except OSError as error:
        raise TrainingError(
            f"can't write the checkpoint '{path}': {error.strerror or error}", code="training.unwritable"
        ) from error


def read_training(path: str | Path) -> tuple[dict[str, Tensor], Table]:
    """Tensors, and iteration, options and views of a saved run.

    Raises:
        TrainingError: missing, damaged, or something else.
    """
    return read_tensor_file(path, FORMAT, TrainingError, "start anew without --resume")


def resume_training(trainer: Trainer, path: str | Path) -> None:
    """Put a saved run's state into a trainer of the same views and options.

    Raises:
        TrainingError: damaged, or a run of other views or options.
    """
    tensors, content = read_training(path)
    ours = json.loads(json.dumps({"options": asdict(trainer.options), "views": trainer.names}))
    for name, value in ours.items():
        if content.get(name) != value:
            raise TrainingError(
                f"'{path}' is of a run with other {name}; give the same ones, or leave out --resume",
                code="training.mismatch",
            )
    try:
        _check_tensors(tensors, trainer, path)
        trainer.restore(tensors, content.whole("iteration", least=0))
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(
            f"'{path}' is damaged: {error}; start anew without --resume", code="training.damaged"
        ) from error


def _check_tensors(tensors: Mapping[str, Tensor], trainer: Trainer, path: str | Path) -> None:
    """What belongs to the Gaussians has a row for each, of the shape that the trainer's own has, and is finite.

    Raises:
        TrainingError: something hasn't.
    """
    count = len(tensors["parameters.means"])
    for name, parameter in trainer.parameters.items():
        wanted = (count, *parameter.shape[1:])
        for kind in ("parameters", "first", "second", *(["average"] if "average.means" in tensors else [])):
            tensor = tensors[f"{kind}.{name}"]
            if tuple(tensor.shape) != wanted or tensor.dtype != parameter.dtype:
                raise TrainingError(
                    f"'{kind}.{name}' of '{path}' has shape {tuple(tensor.shape)} and type {tensor.dtype}, expected "
                    f"{wanted} and {parameter.dtype}; start anew without --resume",
                    code="training.shape",
                )
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"'{kind}.{name}' of '{path}' is not finite; start anew without --resume",
                    code="training.not-finite",
                )
    for name, own in trainer.state().items():
        if name.partition(".")[0] in ("parameters", "first", "second", "average", "queue"):
            continue
        wanted = (count, *own.shape[1:]) if name.startswith("density.") else tuple(own.shape)
        if tuple(tensors[name].shape) != wanted or tensors[name].dtype != own.dtype:
            raise TrainingError(
                f"'{name}' of '{path}' has shape {tuple(tensors[name].shape)}, expected {wanted}; "
                "start anew without --resume",
                code="training.shape",
            )
    queue = tensors["queue"]
    if queue.dim() != 1 or queue.dtype != torch.int64 or bool(((queue < 0) | (queue >= len(trainer.names))).any()):
        raise TrainingError(
            f"'queue' of '{path}' names views that there aren't; start anew without --resume", code="training.value"
        )


def saved_parameters(path: str | Path) -> SplatParameters:
    """The map of a saved run.

    Raises:
        TrainingError: missing or damaged.
    """
    tensors, _ = read_training(path)
    kind = "average" if "average.means" in tensors else "parameters"
    names = ("means", "quats_wxyz", "log_scales", "logits", "sh_dc", "sh_rest")
    try:
        parameters = SplatParameters(**{name: tensors[f"{kind}.{name}"] for name in names})
        return seen_exposed(parameters, tensors["exposures.by_direction"])
    except KeyError as error:
        raise TrainingError(f"'{path}' is damaged: it lacks {error}; start anew", code="training.damaged") from error
