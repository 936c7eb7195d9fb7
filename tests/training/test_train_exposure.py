"""Exposure: planted gains come back, and a map that was seen exposed shows them in every direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.rasterizer.cpu.spherical_harmonics import colors_from_sh
from feature_gs_ros.training.exposure import Exposures, seen_exposed
from feature_gs_ros.training.parameters import SplatParameters
from feature_gs_ros.training.views import TrainingView


def views_around(count: int) -> list[TrainingView]:
    """Narrow cameras that look in many directions."""
    rng = np.random.default_rng(0)
    views = []
    for number in range(count):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        pose = np.eye(4)
        pose[:3, :3] = rotation * np.sign(np.linalg.det(rotation))
        views.append(TrainingView(f"{number}", torch.zeros(8, 8, 3), Camera(8, 8, 400.0, 400.0, 4.0, 4.0), pose))
    return views


def test_gains_that_depend_on_direction_are_found() -> None:
    views = views_around(200)
    exposures = Exposures(views)
    looking = torch.tensor(np.array([view.camera_from_splat[2, :3] for view in views]), dtype=torch.float32)
    slope = torch.tensor([[0.1, 0.0, -0.05], [0.0, 0.2, 0.0], [-0.1, 0.0, 0.1]])
    with torch.no_grad():
        exposures.values[:, 0] = (1.05 + looking @ slope).log()
        exposures.values[:, 1] = 0.02 - looking @ slope / 5
    found = exposures.by_direction()
    assert torch.allclose(found[0, 0], torch.full((3,), 0.05), atol=1e-3)
    assert torch.allclose(found[1:, 0], slope, atol=1e-3)
    assert torch.allclose(found[0, 1], torch.full((3,), 0.02), atol=1e-3)
    assert torch.allclose(found[1:, 1], -slope / 5, atol=1e-3)


def test_few_views_say_little_about_directions() -> None:
    views = views_around(1)
    exposures = Exposures(views)
    with torch.no_grad():
        exposures.values[0, 1] = 0.1
    found = exposures.by_direction()
    ahead = torch.from_numpy(views[0].camera_from_splat[2, :3]).float()
    assert torch.allclose(found[0, 1] + ahead @ found[1:, 1], torch.full((3,), 0.1), atol=1e-3)
    assert float(found[1:].abs().max()) < 1e-3


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_map_shows_the_exposure_from_everywhere(degree: int) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 50
    parameters = SplatParameters.of_points(
        torch.randn(count, 3, generator=generator),
        0.3 + 0.4 * torch.rand(count, 3, generator=generator),
        torch.full((count,), 0.05),
        torch.full((count,), 0.5),
        degree,
    )
    by_direction = 0.05 * torch.randn(4, 2, 3, generator=generator)
    exposed = seen_exposed(parameters, by_direction)
    for eye in np.array([[3.0, 0, 0], [0, -4, 1], [0, 0, 2]], np.float32):
        before, after = (
            colors_from_sh(
                torch.cat([each.sh_dc, each.sh_rest], 1).detach().numpy(),
                each.means.detach().numpy(),
                eye,
                np.arange(count, dtype=np.int32),
            )
            for each in (parameters, exposed)
        )
        away = torch.nn.functional.normalize(parameters.means.detach() - torch.from_numpy(eye), dim=1)
        rays = torch.cat([torch.ones(count, 1), away if degree else torch.zeros(count, 3)], dim=1)
        gain, offset = 1 + rays @ by_direction[:, 0], rays @ by_direction[:, 1]
        assert torch.allclose(torch.from_numpy(after), torch.from_numpy(before) * gain + offset, atol=1e-5)


def test_no_exposure_leaves_the_map_as_it_is() -> None:
    parameters = SplatParameters.of_points(
        torch.randn(5, 3), torch.rand(5, 3), torch.full((5,), 0.1), torch.full((5,), 0.5), 1
    )
    same = seen_exposed(parameters, Exposures(views_around(3)).by_direction())
    assert torch.allclose(same.sh_dc, parameters.sh_dc, atol=1e-6)
    assert torch.equal(same.sh_rest, parameters.sh_rest)
