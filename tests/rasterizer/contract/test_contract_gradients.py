"""Gradients of every backend against autograd through the dense oracle, and its images against its views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_camera
from oracle import dense_colors
from torch import Tensor

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer import Backend, Rendering
from feature_gs_ros.rasterizer.reference import dense_w
from tests.errors import raises

NAMES = ("means", "quats_wxyz", "scales", "opacities", "sh", "extra")


def smooth_scene(seed: int, channels: int, degree: int = 3, count: int = 60) -> dict[str, Tensor]:
    """So few Gaussians, none opaque, that no ray ends early: the image is smooth but for the skirts at 1/255."""
    rng = np.random.default_rng(seed)
    values = {
        "means": rng.normal(0, 0.5, (count, 3)),
        "quats_wxyz": rng.normal(size=(count, 4)),
        "scales": np.exp(rng.normal(-1.8, 0.5, (count, 3))),
        "opacities": rng.uniform(0.1, 0.8, count),
        "sh": rng.normal(0, 0.4, (count, (degree + 1) ** 2, 3)),
        "extra": rng.normal(size=(count, channels)),
    }
    return {name: torch.from_numpy(value.astype(np.float32)).requires_grad_() for name, value in values.items()}


def rendered(backend: Backend, scene: dict[str, Tensor], seed: int, means2d: Tensor | None = None) -> Rendering:
    camera, pose = random_camera(seed)
    return backend.render_with_gradients(*list(scene.values())[:5], camera, pose, scene["extra"], means2d)


def dense(scene: dict[str, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    camera, pose = random_camera(seed)
    unit = torch.nn.functional.normalize(scene["quats_wxyz"], dim=1)
    gaussians = GaussianMap(scene["means"], unit, scene["scales"], scene["opacities"], scene["sh"])
    weights = dense_w(gaussians, camera, pose)
    size = (camera.height, camera.width, -1)
    color = (weights @ dense_colors(scene["sh"], scene["means"], pose)).reshape(size)
    return color, weights.sum(1).reshape(size)[:, :, 0], (weights @ scene["extra"]).reshape(size)


@pytest.mark.parametrize(
    ("seed", "channels", "degree"),
    [(0, 3, 3), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((1, 70, 1), (2, 1, 0), (3, 5, 2)))],
)
def test_gradients_are_the_dense_oracle_s(backend: Backend, seed: int, channels: int, degree: int) -> None:
    scene = smooth_scene(seed, channels, degree)
    ours = rendered(backend, scene, seed)
    assert ours.extra is not None
    generator = torch.Generator().manual_seed(seed)
    wanted = [torch.randn(image.shape, generator=generator) for image in (ours.color, ours.opacity, ours.extra)]
    sum(
        (image * want).sum() for image, want in zip((ours.color, ours.opacity, ours.extra), wanted, strict=True)
    ).backward()
    double = {name: tensor.detach().double().requires_grad_() for name, tensor in scene.items()}
    color, opacity, extra = dense(double, seed)
    sum((image * want.double()).sum() for image, want in zip((color, opacity, extra), wanted, strict=True)).backward()
    for name in NAMES:
        expected, found = double[name].grad, scene[name].grad
        assert expected is not None
        assert found is not None
        assert expected.norm() > 0
        assert (found - expected).norm() < 2e-3 * expected.norm(), name


def test_gradients_of_opaque_gaussians_that_end_rays(backend: Backend) -> None:
    scene = smooth_scene(4, 2, count=120)
    with torch.no_grad():
        scene["opacities"][::2] = 1.0  # clipped at 0.999 around their middles
    ours = rendered(backend, scene, 4)
    (ours.color.square().sum() + ours.opacity.sum()).backward()
    double = {name: tensor.detach().double().requires_grad_() for name, tensor in scene.items()}
    color, opacity, _ = dense(double, 4)
    (color.square().sum() + opacity.sum()).backward()
    for name in NAMES[:5]:
        expected, found = double[name].grad, scene[name].grad
        assert expected is not None
        assert found is not None
        assert (found - expected).norm() < 1e-2 * expected.norm(), name


def test_extra_signals_may_leave_the_geometry_alone(backend: Backend) -> None:
    camera, pose = random_camera(3)
    scene = smooth_scene(3, 4)
    ours = backend.render_with_gradients(*list(scene.values())[:5], camera, pose, scene["extra"], extra_shapes=False)
    assert ours.extra is not None
    ours.extra.square().sum().backward()
    gradients = [scene[name].grad for name in NAMES[:5]]
    assert all(gradient is None or float(gradient.abs().sum()) == 0 for gradient in gradients)
    assert float(scene["extra"].grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_images_are_the_view_s(backend: Backend) -> None:
    camera, pose = random_camera(5)
    scene = {name: tensor.detach() for name, tensor in smooth_scene(5, 6).items()}
    gaussians = GaussianMap.from_tensors(*list(scene.values())[:5])
    ours, plain = rendered(backend, scene, 5), backend.view(gaussians, camera, pose)
    assert ours.extra is not None
    assert torch.allclose(ours.color, plain.render_color(), atol=1e-5)
    assert torch.allclose(ours.opacity, plain.render_depth()[:, :, 1], atol=1e-5)
    assert torch.allclose(ours.extra, plain.render(scene["extra"]), atol=1e-5)


def test_gradient_of_means2d_moves_the_image_as_the_principal_point_does(backend: Backend) -> None:
    scene = {name: tensor.detach() for name, tensor in smooth_scene(6, 1).items()}
    scene["means"] *= 0.3  # the clamp of the Jacobian's tangents moves with cx too: none must be clamped
    means2d = torch.zeros(len(scene["means"]), 2, requires_grad=True)
    ours = rendered(backend, scene, 6, means2d)
    ours.color.square().sum().backward()
    assert means2d.grad is not None
    camera, pose = random_camera(6)
    double = {name: tensor.double() for name, tensor in scene.items()}
    centre = torch.tensor([camera.cx, camera.cy], dtype=torch.float64, requires_grad=True)

    class Shifted:  # the oracle reads cx and cy as numbers: give it a camera whose principal point has a gradient
        width, height, fx, fy = camera.width, camera.height, camera.fx, camera.fy
        cx, cy = centre[0], centre[1]

    gaussians = GaussianMap(
        double["means"],
        torch.nn.functional.normalize(double["quats_wxyz"], dim=1),
        double["scales"],
        double["opacities"],
        double["sh"],
    )
    colors = dense_colors(double["sh"], double["means"], pose)
    (dense_w(gaussians, Shifted, pose) @ colors).square().sum().backward()  # type: ignore[arg-type]
    assert torch.allclose(means2d.grad.sum(0).double(), centre.grad, rtol=5e-3)  # type: ignore[arg-type]


def test_gradients_need_fitting_shapes(backend: Backend) -> None:
    scene = smooth_scene(8, 2)
    camera, pose = random_camera(8)
    arrays = list(scene.values())
    with raises("grid.shape"):
        backend.render_with_gradients(*arrays[:5], camera, pose, extra_signals=torch.zeros(3, 2))
    with raises("map.shape"):
        backend.render_with_gradients(arrays[0], arrays[1], arrays[2][:-1], arrays[3], arrays[4], camera, pose)


def test_an_empty_view_has_zero_gradients(backend: Backend) -> None:
    scene = smooth_scene(9, 2)
    camera, pose = random_camera(9)
    away = pose.copy()
    away[2, 3] = -50.0  # everything is behind the camera
    ours = backend.render_with_gradients(*list(scene.values())[:5], camera, away, scene["extra"])
    assert ours.extra is not None
    (ours.color.sum() + ours.extra.sum()).backward()
    assert len(ours.rows) == 0
    assert all(float(scene[name].grad.abs().sum()) == 0 for name in NAMES)  # type: ignore[union-attr]
