"""Distillation: A against the dense oracle, least squares against the optimum, training, decoders, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.least_squares import solve_cells
from feature_gs_ros.cli import main
from feature_gs_ros.core.codec import fit_pca
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.distillation import (
    Decoder,
    DistillationTarget,
    FeatureTrainer,
    FrozenOptions,
    JointOptions,
    JointTrainer,
    rendered_cosine,
    useful_passes,
)
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.rasterizer import CellOperator, view
from feature_gs_ros.training.views import TrainingView
from tests.errors import raises

GRIDS = {"coarse": (3, 5, {}), "fine": (22, 35, {}), "a pixel a cell": (45, 70, {}), "padded": (4, 4, {"bottom": 1.5})}


def some_targets(dimension: int = 3) -> list[tuple[CellOperator, Tensor]]:
    gaussians = random_map(5, 60)
    generator = torch.Generator().manual_seed(1)
    found = []
    for seed in range(4):
        camera, pose = random_camera(seed)
        grid = FeatureGrid(torch.randn(9, 14, dimension, generator=generator))
        operator = view(gaussians, camera, pose).cell_operator(grid)
        found.append((operator, operator.target(grid)))
    return found


def loss_of(features: Tensor, targets: list[tuple[CellOperator, Tensor]]) -> float:
    return sum(float((operator.forward(features) - wanted).double().square().sum()) for operator, wanted in targets)


def test_solving_cells_reaches_the_least_squares_optimum() -> None:
    targets = some_targets()
    dense = torch.cat([operator.forward(torch.eye(60)) for operator, _ in targets]).double()
    wanted = torch.cat([wanted for _, wanted in targets]).double()
    best = torch.linalg.lstsq(dense, wanted, driver="gelsd").solution
    lowest = float((dense @ best - wanted).square().sum())
    few = solve_cells(targets, iterations=4)
    many = solve_cells(targets, iterations=200, tolerance=1e-7)
    start = solve_cells(targets, iterations=0).features
    assert loss_of(many.features, targets) < lowest * 1.001
    assert loss_of(few.features, targets) - lowest < 0.25 * (loss_of(start, targets) - lowest)
    assert many.residual[-1] < 1e-3
    held_back = solve_cells(targets, iterations=200, ridge=1e4, tolerance=1e-7).features
    assert (held_back - start).norm() < 1e-2 * start.norm()
    # In between a Gaussian is held back by its own weight: the normal equations, solved densely.
    some = solve_cells(targets, iterations=200, ridge=0.1, tolerance=1e-7).features
    weight = dense.sum(dim=0)
    seen = weight > 1e-3
    matrix, anchor = dense[:, seen], 0.1 * torch.diag(weight[seen])
    expected = torch.linalg.solve(matrix.T @ matrix + anchor, matrix.T @ wanted + anchor @ start[seen].double())
    assert (some[seen] - expected).norm() < 1e-3 * expected.norm()


def test_solving_cells_refuses_what_does_not_fit() -> None:
    targets = some_targets()
    with raises("grid.empty"):
        solve_cells([])
    with raises("grid.shape"):
        solve_cells([targets[0], (targets[1][0], targets[1][1][:, :2])])
    with raises("grid.shape"):
        solve_cells(targets, start=torch.zeros(60, 2))


def some_distillation_targets(dimension: int = 12) -> list[DistillationTarget]:
    """Features of rank 3 that the map can render, so that a decoder of three numbers is enough."""
    generator = torch.Generator().manual_seed(2)
    truth = torch.randn(60, 3, generator=generator) @ torch.randn(3, dimension, generator=generator)
    return [
        DistillationTarget(str(k), operator, operator.forward(truth)) for k, (operator, _) in enumerate(some_targets())
    ]


def test_passes_that_only_fit_noise_are_not_taken() -> None:
    targets = [*some_distillation_targets(), *some_distillation_targets(), *some_distillation_targets()]
    assert useful_passes(targets, 4) == 4  # the map can render the truth: every pass gains
    generator = torch.Generator().manual_seed(4)
    noisy = [replace(one, wanted=torch.randn(one.wanted.shape, generator=generator)) for one in targets]
    assert useful_passes(noisy, 4) < 4
    assert useful_passes(targets[:1], 4) == 0


def test_training_approaches_what_solving_finds() -> None:
    targets = some_distillation_targets()
    solved = solve_cells([(target.operator, target.wanted) for target in targets], iterations=30)
    trainer = FeatureTrainer(targets, FrozenOptions(iterations=300, rate=2e-2))
    first = trainer.step()
    assert trainer.run()
    assert trainer.step() < 0.3 * first
    trained, best = (rendered_cosine(features, targets) for features in (trainer.features, solved.features))
    assert 0.9 < trained <= best + 0.01


def test_a_decoder_is_trained_with_the_codes_and_stored_as_a_codec() -> None:
    targets = some_distillation_targets()
    cells = torch.cat([target.wanted for target in targets])
    decoder = Decoder.of_codec(fit_pca(cells, 3))
    before = decoder.basis.detach().clone()
    trainer = FeatureTrainer(targets, FrozenOptions(iterations=300, rate=2e-2), decoder)
    assert trainer.run()
    assert not torch.equal(decoder.basis.detach(), before)
    codec = decoder.codec()
    assert codec.kind == "decoder"
    assert rendered_cosine(trainer.features, targets, codec.decode) > 0.9
    codes = torch.randn(7, 3)
    assert torch.allclose(codec.encode(codec.decode(codes)), codes, atol=1e-4)


def test_a_decoder_of_another_dimension_is_refused() -> None:
    targets = some_distillation_targets(12)
    decoder = Decoder(torch.randn(3, 11), torch.zeros(11))
    with raises("field.shape", "11", "12"):
        FeatureTrainer(targets, FrozenOptions(), decoder)


def test_diverging_features_are_put_back() -> None:
    targets = some_distillation_targets()
    trainer = FeatureTrainer(targets, FrozenOptions(iterations=200))
    for _ in range(60):
        trainer.step()
    with torch.no_grad():
        trainer.features[:] = float("nan")
    with raises("training.diverged"):
        trainer.run()
    assert bool(torch.isfinite(trainer.features).all())
    assert float(trainer.features.detach().abs().max()) > 0


def joint_trainer(**options: object) -> JointTrainer:
    gaussians = random_map(5, 60)
    views, grids = [], []
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(60, 4, generator=generator)
    for seed in range(3):
        camera, pose = random_camera(seed)
        drawn = view(gaussians, camera, pose)
        valid = torch.rand(camera.height, camera.width, generator=generator) > 0.1
        views.append(TrainingView(str(seed), drawn.render_color().clamp(0, 1), camera, pose, valid if seed else None))
        empty = FeatureGrid(torch.zeros(9, 14, 4))
        operator = drawn.cell_operator(empty, views[-1].valid)
        values = torch.zeros(126, 4)
        values[operator.cells] = operator.forward(features)
        grids.append(FeatureGrid(values.reshape(9, 14, 4)))
    return JointTrainer(gaussians, 0.5 * features, views, grids, JointOptions(**options))  # type: ignore[arg-type]


@pytest.mark.slow
def test_joint_training_learns_features_and_keeps_the_colours() -> None:
    trainer = joint_trainer(iterations=60, rate=3e-2)
    first, before = trainer.step()
    assert trainer.run()
    last, after = trainer.step()
    assert last < 0.7 * first
    assert after > min(before, 35.0) - 3


def test_the_features_loss_shapes_geometry_only_where_it_may() -> None:
    moved = {}
    for shaped in (True, False):
        trainer = joint_trainer(iterations=1, gamma=1e4, shaped_by_features=shaped)
        trainer.step()
        moved[shaped] = trainer.optimizer.first["means"].norm()
    assert moved[True] > 100 * moved[False]


def test_joint_divergence_is_put_back() -> None:
    trainer = joint_trainer(iterations=10, keep_every=2)
    for _ in range(4):
        trainer.step()
    good = trainer.parameters.means.detach().clone()
    with torch.no_grad():
        trainer.features[:] = float("inf")
    with raises("training.diverged"):
        trainer.step()
    assert torch.equal(trainer.parameters.means.detach(), good)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    return int(str(stopped.value.code))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["solve", "train"])
def test_the_command_distils_and_measures(
    method: str, small_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = "1700000000007300000"
    words = [
        "distill", str(small_scene / "map.ply"), str(small_scene / "stream"), "--out", str(tmp_path / "f.fgs"),
        "--alignment", str(small_scene / "alignment.yaml"), "--extractor", "color", "--method", method,
        "--dims", "2", "--hold-out", held, "--option", "cell=6", "--json",
    ]  # fmt: skip
    assert run(*words, *(["--iterations", "40"] if method == "train" else [])) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stored"] == 2
    assert told["dimension"] == 3
    assert told["held_out_cosine"] > 0.95
    field = FeatureField.load(tmp_path / "f.fgs")
    assert field.extractor.preprocessing["cell"] == 6
    field.check_map(load_map(small_scene / "map.ply"))
    assert field.codec is not None
    assert field.codec.kind == ("decoder" if method == "train" else "pca")
    assert held not in field.provenance.frames
    assert field.decoded().shape[1] == 3


@pytest.mark.slow
def test_the_command_trains_jointly_and_writes_the_changed_map(small_scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.fgs"
    words = [
        "distill", str(small_scene / "map.ply"), str(small_scene / "stream"), "--out", str(out), "--extractor", "color",
        "--alignment", str(small_scene / "alignment.yaml"), "--method", "train", "--joint", "--iterations", "3",
        "--size", "96", "--json",
    ]  # fmt: skip
    skipped = open_stream(small_scene / "stream").names()[1]
    assert run(*words, "--skip", skipped) == 0
    field, trained = FeatureField.load(out), load_map(out.with_suffix(".ply"))
    assert skipped not in field.provenance.frames
    field.check_map(trained)
    assert not np.array_equal(trained.means.numpy(), load_map(small_scene / "map.ply").means.numpy())


def test_the_command_refuses_what_makes_no_sense(
    small_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["distill", str(small_scene / "map.ply"), str(small_scene / "stream"), "--out", str(tmp_path / "f.fgs")]
    assert run(*words, "--extractor", "color", "--joint") == 2
    assert "--method train" in capsys.readouterr().err
    assert run(*words, "--extractor", "color", "--dims", "9") == 2
    assert "3 dimensions" in capsys.readouterr().err
