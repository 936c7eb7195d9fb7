"""A training run on disk: everything that the next step depends on, in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feature_gs_ros.core.errors import TrainingError
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.training.exposure import seen_exposed
from feature_gs_ros.training.parameters import SplatParameters
from feature_gs_ros.training.trainer import Trainer

FORMAT = "feature_gs_ros training 2"


def save_training(trainer: Trainer, path: str | Path) -> None:
    """Write the run; the file appears whole or not at all.

    Raises:
        TrainingError: a parameter is not finite, so that the earlier file is kept, or the file can't be written.
    """
    state = trainer.state()
    if not all(bool(torch.isfinite(tensor).all()) for name, tensor in state.items() if tensor.is_floating_point()):
        raise TrainingError(f"parameters are not finite at iteration {trainer.iteration}")
    content = {"iteration": trainer.iteration, "options": asdict(trainer.options), "views": trainer.names}
    try:
        with atomic_path(path) as temporary:
            tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
            save_file(tensors, temporary, metadata={"format": FORMAT, "content": json.dumps(content)})
    except OSError as error:
        raise TrainingError(f"can't write the checkpoint '{path}': {error.strerror or error}") from error


def read_training(path: str | Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors, and iteration, options and views of a saved run.

    Raises:
        TrainingError: missing, damaged, or something else.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"'{path}' is no checkpoint of training: {error}; start anew without --resume") from error
    if metadata.get("format") != FORMAT:
        raise TrainingError(f"'{path}' holds format '{metadata.get('format')}', expected '{FORMAT}'")
    return tensors, json.loads(metadata["content"])


def resume_training(trainer: Trainer, path: str | Path) -> None:
    """Put a saved run's state into a trainer of the same views and options.

    Raises:
        TrainingError: damaged, or a run of other views or options.
    """
    tensors, content = read_training(path)
    ours = json.loads(json.dumps({"options": asdict(trainer.options), "views": trainer.names}))
    for name, value in ours.items():
        if content.get(name) != value:
            raise TrainingError(f"'{path}' is of a run with other {name}; give the same ones, or leave out --resume")
    try:
        trainer.restore(tensors, int(str(content["iteration"])))
    except (KeyError, RuntimeError) as error:
        raise TrainingError(f"'{path}' is damaged: {error}; start anew without --resume") from error


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
        raise TrainingError(f"'{path}' is damaged: it lacks {error}; start anew") from error
