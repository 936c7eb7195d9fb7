"""Training where a card's backend renders, played on torch's CPU device; and gsplat's rasteriser in its place."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.numerics import device
from feature_gs_ros.rasterizer import Rendering, get_backend
from feature_gs_ros.rasterizer.gsplat_training import GsplatBackend
from feature_gs_ros.training.checkpoint import resume_training, save_training
from feature_gs_ros.training.losses import rgb_loss, ssim
from feature_gs_ros.training.parameters import SplatParameters
from feature_gs_ros.training.trainer import Trainer, TrainingOptions
from feature_gs_ros.training.views import TrainingView
from tests.errors import raises

pytestmark = pytest.mark.slow


def loss_and_gradient(size: tuple[int, int]) -> tuple[float, float, Tensor]:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(*size, 3, generator=generator) for _ in range(2))
    one.requires_grad_()
    loss = rgb_loss(one, other)
    loss.backward()  # type: ignore[no-untyped-call]
    assert one.grad is not None
    return float(loss.detach()), float(ssim(one, other).detach()), one.grad


@pytest.mark.parametrize("size", [(40, 53), (5, 30), (11, 11)])
def test_losses_are_those_of_the_host(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = loss_and_gradient(size)
    monkeypatch.setattr(device, "NUMBA", frozenset())
    found = loss_and_gradient(size)
    assert found[:2] == pytest.approx(expected[:2], abs=1e-6)
    torch.testing.assert_close(found[2], expected[2], atol=1e-8, rtol=1e-4)


def trainer_of(backend: str, iterations: int = 12) -> Trainer:
    gaussians = random_map(4, 300, 1)
    views = []
    for seed in range(3):
        camera, pose = random_camera(seed, 64, 48)
        image = get_backend("cpu").view(gaussians, camera, pose).render_color().clamp(0, 1)
        valid = torch.ones(48, 64, dtype=torch.bool)
        valid[:5] = False
        views.append(TrainingView(f"{seed}", image, camera, pose, valid))
    generator = torch.Generator().manual_seed(0)
    moved = gaussians.means + 0.02 * torch.randn(gaussians.means.shape, generator=generator)
    start = GaussianMap.from_tensors(moved, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh)
    options = TrainingOptions(iterations=iterations, opacity_cost=0.01, scale_cost=0.01, slim_cost=0.01)
    return Trainer(SplatParameters.of_map(start, 1), views, options, backend=backend)


def test_a_run_is_that_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    host = trainer_of("cpu")
    host.run()
    monkeypatch.setattr(device, "NUMBA", frozenset())
    card = trainer_of("warp-cpu")
    card.run()
    for (name, ours), (_, theirs) in zip(card.result().items(), host.result().items(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-2, msg=lambda text, name=name: f"{name}: {text}")


def test_a_run_goes_on_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """What was trained on a card goes on on the host."""
    whole = trainer_of("cpu")
    whole.run()
    monkeypatch.setattr(device, "NUMBA", frozenset())
    first = trainer_of("warp-cpu")
    for _ in range(6):
        first.step()
    save_training(first, tmp_path / "run")
    monkeypatch.undo()
    second = trainer_of("cpu")
    resume_training(second, tmp_path / "run")
    second.run()
    torch.testing.assert_close(second.result().means, whole.result().means, atol=2e-3, rtol=1e-2)


class PlayedGsplat(SimpleNamespace):
    """gsplat's two functions by the dense reference, with its shapes."""

    def __init__(self) -> None:
        super().__init__(asked=None)

    @staticmethod
    def spherical_harmonics(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
        reference = pytest.importorskip("gsplat.cuda._torch_impl")
        found: Tensor = reference._spherical_harmonics(degree, directions, coefficients)
        return found

    def rasterization(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, pose: Tensor,
        intrinsics: Tensor, width: int, height: int, **options: Any,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:  # fmt: skip
        camera, camera_pose = self.asked
        assert (width, height) == (camera.width, camera.height)
        assert options == {
            "near_plane": pytest.approx(0.01), "eps2d": pytest.approx(0.3), "packed": False,
            "rasterize_mode": "classic",
        }  # fmt: skip
        assert np.allclose(pose[0].numpy(), camera_pose, atol=1e-6)
        assert np.allclose(intrinsics[0].numpy(), camera.matrix)
        means2d = torch.zeros(1, len(means), 2, requires_grad=True) * 1
        drawn = get_backend("reference").render_with_gradients(
            means, quats, scales, opacities, torch.zeros(len(means), 1, 3), camera, camera_pose, colors, means2d[0]
        )
        assert drawn.extra is not None
        radii = torch.zeros(1, len(means), 2, dtype=torch.int32)
        radii[0, drawn.rows] = 3
        return drawn.extra[None], drawn.opacity[None, :, :, None], {"means2d": means2d, "radii": radii}


@pytest.mark.parametrize("shapes", [True, False])
def test_gsplat_in_place_of_our_own_gives_the_same_gradients(shapes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gsplat.cuda._torch_impl")
    played = PlayedGsplat()
    monkeypatch.setitem(sys.modules, "gsplat", played)
    gaussians, (camera, pose) = random_map(2, 80, 2), random_camera(2, 40, 30)
    played.asked = camera, pose
    found = []
    for backend in (GsplatBackend(get_backend("cpu")), get_backend("reference")):
        names = ("means", "quats_wxyz", "scales", "opacities", "sh")
        leaves = [getattr(gaussians, name).clone().requires_grad_() for name in names]
        generator = torch.Generator().manual_seed(0)
        extra = torch.randn(80, 4, generator=generator).requires_grad_()
        means2d = torch.zeros(80, 2, requires_grad=True)
        drawn: Rendering = backend.render_with_gradients(*leaves, camera, pose, extra, means2d, shapes)
        assert drawn.extra is not None
        loss = (drawn.color * torch.randn(30, 40, 3, generator=generator)).sum()
        loss = loss + (drawn.opacity * torch.randn(30, 40, generator=generator)).sum()
        loss = loss + (drawn.extra * torch.randn(30, 40, 4, generator=generator)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [leaf.grad for leaf in (*leaves, extra, means2d)]
        found.append([drawn.color.detach(), drawn.opacity.detach(), drawn.extra.detach(), *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


def test_gsplat_without_a_card_or_not_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with raises("backend.unusable", "gsplat"):
        rasterizer.training_backend("cpu", "gsplat")
    with raises("backend.unknown", "'inria'"):
        rasterizer.training_backend("cpu", "inria")
    assert rasterizer.training_backend("cpu").name == "cpu"
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with raises("backend.unusable", "pip install gsplat"):
        GsplatBackend(get_backend("cpu"))


def test_gsplat_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("No CUDA toolkit found")

    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(spherical_harmonics=fails))
    gaussians, (camera, pose) = random_map(2, 10), random_camera(2)
    columns = (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh)
    with raises("backend.unusable", "No CUDA toolkit found"):
        GsplatBackend(get_backend("cpu")).render_with_gradients(*columns, camera, pose)
