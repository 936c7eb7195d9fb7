"""What one training run is made of, by known answers: the loss, the schedule, Adam, the mean of the iterates."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.geometry import rotated, rotation_from_quat_wxyz
from feature_gs_ros.training import stereo
from feature_gs_ros.training.checkpoint import resume_training, save_training
from feature_gs_ros.training.densification import DensityOptions, split_gaussians
from feature_gs_ros.training.losses import rgb_loss, ssim
from feature_gs_ros.training.parameters import Adam, SplatParameters
from feature_gs_ros.training.stereo import StereoView
from feature_gs_ros.training.trainer import RATES, Trainer, TrainingOptions
from feature_gs_ros.training.views import TrainingView

pytestmark = pytest.mark.slow

STILL = DensityOptions(start=2.0, end=3.0, every=1000)  # nothing is cloned, split or pruned


def parameters(count: int = 30) -> SplatParameters:
    generator = torch.Generator().manual_seed(0)
    points, colors = torch.randn(count, 3, generator=generator), torch.rand(count, 3, generator=generator)
    return SplatParameters.of_points(points, colors, torch.full((count,), 0.2), torch.full((count,), 0.5), 1)


def views(count: int = 3) -> list[TrainingView]:
    """Cameras side by side, looking at the origin's neighbourhood from 4 away."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        pose = np.eye(4)
        pose[:3, 3] = [0.5 * number, 0.0, 4.0]
        image = torch.rand(24, 32, 3, generator=generator)
        found.append(TrainingView(str(number), image, Camera(32, 24, 30.0, 30.0, 16.0, 12.0), pose))
    return found


def trainer(**options: object) -> Trainer:
    return Trainer(parameters(), views(), TrainingOptions(density=STILL, **options))  # type: ignore[arg-type]


def test_the_loss_is_four_fifths_l1_and_one_fifth_ssim() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(20, 30, 3, generator=generator) for _ in range(2))
    expected = 0.8 * float((a - b).abs().mean()) + 0.2 * (1 - float(ssim(a, b)))
    assert float(rgb_loss(a, b)) == pytest.approx(expected, abs=1e-6)


def test_the_means_rate_falls_a_hundredfold_evenly_in_logarithms() -> None:
    run = trainer()
    assert run.extent == pytest.approx(1.1 * 0.5)  # of the cameras about their middle
    rates = [run.rates(share)["means"] / run.extent for share in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([1.6e-4, 1.6e-5, 1.6e-6])
    assert {name: rate for name, rate in run.rates(0.3).items() if name != "means"} == RATES


def test_images_grow_from_coarse_to_fine() -> None:
    run = trainer(coarse=(0.4, 0.4))
    shares = (0.0, 0.39, 0.41, 0.79, 0.81, 1.0)
    assert [run.level(share) for share in shares] == [2, 2, 1, 1, 0, 0]
    assert [run.levels[level][0].camera.width for level in (0, 1, 2)] == [32, 16, 8]


def test_adam_is_torchs() -> None:
    ours = parameters()
    theirs = {name: tensor.detach().clone().requires_grad_() for name, tensor in ours.items()}
    rates = RATES | {"means": 1e-3}
    torchs = torch.optim.Adam([{"params": [theirs[name]], "lr": rates[name]} for name in theirs], eps=1e-15)
    adam, generator = Adam(ours), torch.Generator().manual_seed(3)
    for _ in range(5):
        for name, tensor in ours.items():
            theirs[name].grad = torch.randn(tensor.shape, generator=generator)
            tensor.grad = theirs[name].grad.clone()  # type: ignore[union-attr]
        adam.step(ours, rates)
        torchs.step()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], rtol=1e-5, atol=1e-6), name


def test_the_result_is_the_mean_of_the_last_iterates() -> None:
    run = trainer(iterations=10, average_from=0.5, exposure=False, coarse=())
    iterates = []
    while run.iteration < 10:
        share = run.iteration / 10
        run.step()
        if share >= 0.5:
            iterates.append({name: tensor.detach().clone() for name, tensor in run.parameters.items()})
    assert len(iterates) == 5
    for name, tensor in run.result().items():
        mean = torch.stack([iterate[name] for iterate in iterates]).mean(dim=0)
        assert torch.allclose(tensor.detach(), mean, rtol=1e-5, atol=1e-6), name
    assert not torch.allclose(iterates[0]["sh_dc"], iterates[-1]["sh_dc"], atol=1e-3)


def test_a_run_goes_on_in_the_middle_of_its_mean(tmp_path: Path) -> None:
    whole, first, second = (trainer(iterations=10, average_from=0.5, coarse=()) for _ in range(3))
    whole.run()
    first.run(lambda moment: moment.iteration == 8)
    save_training(first, tmp_path / "run")
    resume_training(second, tmp_path / "run")
    second.run()
    for name, tensor in whole.result().items():
        assert torch.equal(tensor, getattr(second.result(), name)), name


def test_pixels_that_do_not_count_pull_at_nothing() -> None:
    """Whatever stands beyond the mask, the step is the same."""
    valid = torch.zeros(24, 32, dtype=torch.bool)
    valid[6:18, 8:24] = True
    after = []
    for beyond in (0.0, 1.0):
        (view,) = views(1)
        masked = replace(view, image=torch.where(valid[:, :, None], view.image, torch.tensor(beyond)), valid=valid)
        run = Trainer(parameters(), [masked], TrainingOptions(density=STILL, coarse=()))
        run.step()
        after.append(run.parameters)
    for (name, one), (_, other) in zip(after[0].items(), after[1].items(), strict=True):
        assert torch.equal(one, other), name
    assert not torch.equal(after[0].sh_dc, parameters().sh_dc)


def test_halves_of_a_split_lie_along_its_own_axes() -> None:
    """A needle along its x axis, a quarter turn about z: the halves lie along the scene's y."""
    needle = SplatParameters(
        torch.zeros(200, 3), torch.tensor([[2.0, 0, 0, 2.0]]).expand(200, 4),
        torch.tensor([[1.0, 1e-4, 1e-4]]).log().expand(200, 3), torch.zeros(200), torch.zeros(200, 1, 3),
        torch.zeros(200, 0, 3),
    )  # fmt: skip
    halves = split_gaussians(needle, torch.ones(200, dtype=torch.bool), torch.Generator().manual_seed(0)).means
    assert halves[:, 1].std() == pytest.approx(1.0, abs=0.15)
    assert halves[:, [0, 2]].abs().max() < 1e-2
    w, x, y, z = 0.5, 0.5, 0.5, 0.5  # x to y, y to z, z to x
    turned = rotated(torch.tensor([[w, x, y, z]]).expand(3, 4) * 3, torch.eye(3))
    assert torch.allclose(turned, torch.eye(3)[[1, 2, 0]], atol=1e-6)


def test_a_views_centre_is_where_its_camera_stands() -> None:
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quat_wxyz([0.5, 0.1, -0.7, 0.3])
    pose[:3, 3] = [1.0, -2.0, 3.0]
    view = replace(views(1)[0], camera_from_splat=pose)
    assert pose @ [*view.centre.tolist(), 1.0] == pytest.approx([0, 0, 0, 1], abs=1e-6)


def test_a_reduced_pixel_counts_where_all_that_it_is_made_of_does() -> None:
    view = views(1)[0]
    valid = torch.ones(24, 32, dtype=torch.bool)
    valid[5, 8] = False
    small = replace(view, valid=valid).halved(1)
    expected = torch.ones(12, 16, dtype=torch.bool)
    expected[2, 4] = False
    assert torch.equal(small.valid, expected)  # type: ignore[arg-type]
    assert torch.allclose(small.image, view.image.reshape(12, 2, 16, 2, 3).mean(dim=(1, 3)), atol=1e-5)
    assert small.camera == view.camera.resized(16, 12)


def small_stereo(camera: Camera, image: np.ndarray) -> StereoView:
    return StereoView(np.repeat(image[:, :, None], 3, axis=2).astype(np.float32), camera, np.eye(4))


def test_stereos_pixels_are_counted_from_the_corner() -> None:
    """A pixel's centre comes back to itself; and an image of twice the resolution, averaged, is the same image."""
    camera = Camera(20, 16, 22.0, 21.0, 9.0, 8.5)
    fine = np.random.default_rng(0).random((32, 40))
    coarse = small_stereo(camera, fine.reshape(16, 2, 20, 2).mean(axis=(1, 3)))
    rows, columns = np.array([0, 7, 15]), np.array([0, 11, 19])
    x, y, z = stereo.project(coarse, stereo.unproject(coarse, rows, columns, np.full(3, 2.5, np.float32)))
    np.testing.assert_allclose(np.stack([x, y, z]), [columns + 0.5, rows + 0.5, [2.5] * 3])
    other = small_stereo(camera.resized(40, 32), fine)
    mean, variance = stereo.moments(coarse.gray, 7)
    alike = stereo.correlation(coarse, coarse.gray, mean, variance, other, other.gray, 3.0, 7)
    assert alike[4:-4, 4:-4].min() > 0.99


def test_a_view_is_not_taken_twice_before_every_one_was() -> None:
    run = trainer()
    taken = [run.next_view() for _ in range(9)]
    assert all(sorted(taken[first : first + 3]) == [0, 1, 2] for first in (0, 3, 6))


def test_opacities_come_down_to_the_ceiling_and_not_up() -> None:
    run = trainer()
    with torch.no_grad():
        run.parameters.logits[:2] = torch.tensor([-6.0, 3.0])
    run.density.reset(run.parameters, run.adam)
    ceiling = math.log(0.05 / 0.95)
    assert run.parameters.logits.detach()[:3].tolist() == pytest.approx([-6.0, ceiling, ceiling])
