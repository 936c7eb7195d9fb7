"""Where memory ends in the midst of work, what was done by then is written; the exit code says that it isn't all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from feature_gs_ros.affordance.library import Library
from feature_gs_ros.backprojection import least_squares
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import OutOfMemoryError
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.distillation import FeatureTrainer, JointTrainer, targets
from feature_gs_ros.identity import annotations, encoding
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.query.smoothing import GaussianGraph
from feature_gs_ros.rasterizer.reference import ReferenceCellOperator
from feature_gs_ros.training.checkpoint import read_training
from feature_gs_ros.training.parameters import Adam
from feature_gs_ros.training.trainer import Trainer
from tests.command_line import run
from tests.little_scene import FRAMES, write_scene

TORCH = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
OPENCV = cv2.error("OpenCV(4.10) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 3 bytes")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a function find no memory from its n-th call on."""

    def install(owner: Any, name: str, at: int, error: Exception = TORCH) -> None:
        whole, calls = getattr(owner, name), []

        def failing(*args: Any, **options: Any) -> Any:
            calls.append(None)
            if len(calls) >= at:
                raise error
            return whole(*args, **options)

        monkeypatch.setattr(owner, name, failing)

    return install


@pytest.mark.parametrize("error", [MemoryError(), TORCH, OPENCV, OSError(12, "Cannot allocate memory")])
def test_failed_allocations_are_told_from_other_errors(error: Exception) -> None:
    with pytest.raises(OutOfMemoryError), memory_errors():
        raise error
    with pytest.raises(RuntimeError, match="shapes"), memory_errors():
        raise RuntimeError("shapes don't fit")


def train(scene: Path, *words: object, code: int) -> str:
    told = run(
        "train", scene, "--init", scene / "map.ply", "--out", scene / "t.ply", "--iterations", 12, *words, code=code
    )
    return told.stdout + told.stderr


@pytest.mark.slow
@pytest.mark.parametrize("error", [TORCH, OPENCV])
def test_training_keeps_its_map_and_goes_on(error: Exception, scene: Path, fails: Callable[..., None]) -> None:
    fails(Trainer, "_costs", 6, error)
    assert "training stops at iteration 6" in train(scene, code=130)
    assert len(load_map(scene / "t.ply"))
    assert read_training(scene / "t.ply.training")[1].whole("iteration") == 6


@pytest.mark.slow
def test_training_ends_at_its_checkpoint_where_the_state_is_torn(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory ends while rows are replaced, after the first checkpoint: some tensors have more than others."""
    whole, calls = Adam.replace_rows, []

    def torn(adam: Adam, parameters: Any, *rest: Any) -> torch.Tensor:
        calls.append(None)
        if len(calls) < 3:
            return whole(adam, parameters, *rest)
        parameters.means = parameters.means[:-1].detach().requires_grad_()
        raise MemoryError

    monkeypatch.setattr(Adam, "replace_rows", torn)
    words = ["--init", scene / "map.ply", "--out", scene / "t.ply", "--iterations", 500, "--densify"]
    assert "last checkpoint" in run("train", scene, *words, code=130).stderr
    assert len(load_map(scene / "t.ply"))
    assert read_training(scene / "t.ply.training")[1].whole("iteration") == 250


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "at", "words"),
    [
        (ReferenceCellOperator, "forward", 9, ("--iterations", 4, "--backend", "reference")),  # in the first pass
        (ReferenceCellOperator, "adjoint", 8, ("--iterations", 4, "--backend", "reference")),  # before it
        (FeatureTrainer, "step", 5, ("--method", "train", "--iterations", 9)),
        (JointTrainer, "step", 5, ("--method", "train", "--joint", "--iterations", 9)),
    ],
)
def test_distilling_keeps_the_features_so_far(
    owner: Any, name: str, at: int, words: tuple[object, ...], scene: Path, fails: Callable[..., None]
) -> None:
    fails(owner, name, at)
    told = run("distill", scene / "map.ply", scene, "--extractor", "color", "--out", scene / "field", *words, code=130)
    assert "memory" in told.stderr
    field = FeatureField.load(scene / "field")
    assert field.provenance.frames == FRAMES
    assert bool(torch.isfinite(field.features).all())


def test_distilling_goes_on_with_the_views_that_memory_was_there_for(scene: Path, fails: Callable[..., None]) -> None:
    fails(targets, "extract", 4)
    run("distill", scene / "map.ply", scene, "--extractor", "color", "--out", scene / "field", "--iterations", 1)
    assert FeatureField.load(scene / "field").provenance.frames == FRAMES[:3]


@pytest.mark.parametrize(
    ("owner", "name", "views"),
    [
        (GaussianGraph, "smooth", 6),
        (least_squares, "_conjugate_gradients", 6),
        (encoding, "rendered_classes", 6),
    ],
)
def test_identities_are_saved_less_refined(
    owner: Any, name: str, views: int, scene: Path, fails: Callable[..., None]
) -> None:
    fails(owner, name, 1)
    words = ["--masks", scene / "masks", "--labels", scene / "labels.yaml", "--out", scene / "field"]
    told = run("identity", scene / "map.ply", scene, *words, code=130)
    assert "memory" in told.stderr
    assert len(FeatureField.load(scene / "field").provenance.frames) == views


def test_identities_of_the_views_that_memory_was_there_for(scene: Path, fails: Callable[..., None]) -> None:
    fails(annotations, "_labels", 3, MemoryError())
    words = ["--masks", scene / "masks", "--labels", scene / "labels.yaml", "--out", scene / "field"]
    told = run("identity", scene / "map.ply", scene, *words, code=130)
    assert "memory" in told.stdout
    assert FeatureField.load(scene / "field").provenance.frames == FRAMES[:2]


def test_affordances_are_written_without_regularising(scene: Path, fails: Callable[..., None]) -> None:
    color = ["--extractor", "color"]
    run("backproject", scene / "map.ply", scene, *color, "--out", scene / "field")
    picture, mask = scene / "images" / "0000.png", scene / "masks" / "0000.png"
    run("affordance", "add", picture, mask, *color, "--library", scene / "library", "--affordance", "grip")
    fails(GaussianGraph, "smooth", 1)
    words = ["affordance", "transfer", scene / "field", "--library", scene / "library", "--out", scene / "answer"]
    assert "not regularised" in run(*words, code=130).stderr
    assert json.loads((scene / "answer" / "regions.json").read_text())
    assert len(Library.load(scene / "library")) == 1
