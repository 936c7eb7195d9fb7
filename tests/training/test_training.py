"""Training: the loss's gradient, stereo's depth, densification, checkpoints that go on bit for bit, divergence."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import TrainingError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.io.tensors import load_tensors
from feature_gs_ros.training.checkpoint import resume_training, save_training, saved_parameters
from feature_gs_ros.training.densification import Density, DensityOptions
from feature_gs_ros.training.losses import rgb_loss, ssim
from feature_gs_ros.training.parameters import Adam, SplatParameters
from feature_gs_ros.training.session import SessionOptions, save_pictures, set_aside, train_map
from feature_gs_ros.training.start import StartOptions, start_from_points
from feature_gs_ros.training.stereo import StereoView, sweep_points
from feature_gs_ros.training.trainer import Trainer, TrainingOptions, measure, render
from feature_gs_ros.training.views import TrainingView, load_views
from tests.disk import largest_file
from tests.errors import raises

pytestmark = pytest.mark.slow


def dense_ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of [H, W, 3] from its definition, float64."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(window, window) / window.sum() ** 2

    def blur(image: Tensor) -> Tensor:
        channels = image.permute(2, 0, 1)[:, None]
        return torch.nn.functional.conv2d(channels, window[None, None], padding=5)[:, 0].permute(1, 2, 0)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    above = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
    return (above / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean()


def test_ssim_and_its_gradient_are_the_definition_s() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(20, 30, 3, generator=generator) for _ in range(2))
    a.requires_grad_()
    double = a.detach().double().requires_grad_()
    ours, dense = ssim(a, b), dense_ssim(double, b.double())
    ours.backward()
    dense.backward()
    assert float(ours.detach()) == pytest.approx(float(dense.detach()), abs=1e-5)
    assert a.grad is not None
    assert double.grad is not None
    assert (a.grad - double.grad).norm() < 1e-3 * double.grad.norm()
    assert float(ssim(b, b)) == pytest.approx(1.0, abs=1e-5)
    assert float(rgb_loss(b, b)) == pytest.approx(0.0, abs=1e-5)


def slanted_view(x: float, texture: np.ndarray, camera: Camera) -> StereoView:
    """A camera at (x, 0, 0) looking along z at the textured plane z = 4 + y/2, ray cast."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    ray_x, ray_y = (columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy
    depth = 4 / (1 - 0.5 * ray_y)
    u, v = (ray_x * depth + x) * 40 + 256, ray_y * depth * 40 + 256
    image = texture[np.clip(v.astype(int), 0, 511), np.clip(u.astype(int), 0, 511)]
    pose = np.eye(4)
    pose[0, 3] = -x
    return StereoView(np.repeat(image[:, :, None], 3, 2).astype(np.float32), camera, pose)


def test_stereo_finds_a_slanted_plane() -> None:
    rng = np.random.default_rng(0)
    texture = np.asarray(rng.random((64, 64)).repeat(8, 0).repeat(8, 1), np.float32)
    camera = Camera(96, 72, 90.0, 90.0, 48.0, 36.0)
    views = [slanted_view(x, texture, camera) for x in (-0.3, 0.0, 0.3, 0.6)]
    known = np.stack([rng.uniform(-1, 1, 60), rng.uniform(-1, 1, 60), np.zeros(60)], 1)
    known[:, 2] = 4 + known[:, 1] / 2
    points, colors = sweep_points(views, known)
    assert len(points) > 2000
    assert colors.shape == points.shape
    errors = np.abs(points[:, 2] - 4 - points[:, 1] / 2)
    assert np.median(errors) < 0.06  # of 4: the planes are 0.07 apart there
    assert np.quantile(errors, 0.95) < 0.2


def some_parameters(count: int = 50) -> SplatParameters:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, 3, generator=generator)
    return SplatParameters.of_points(
        points, torch.rand(count, 3), torch.full((count,), 0.05), torch.full((count,), 0.5), 1
    )


def test_density_clones_the_small_splits_the_large_and_prunes_the_faint() -> None:
    parameters = some_parameters()
    with torch.no_grad():
        parameters.means[:4] = torch.tensor([[10.0, 0, 0], [20, 0, 0], [30, 0, 0], [0, 0, -5]])
        parameters.log_scales[1] = float(np.log(0.5))
        parameters.logits[2] = -20.0
    options = DensityOptions(gradient=0.1, small=0.02, large=10.0, most=1000)
    density = Density(50, options, extent=10.0, centres=torch.tensor([[0.0, 0, -5]]), near=0.5)
    density.grad2d[0:2], density.seen[:] = 1.0, 1.0
    adam = Adam(parameters)
    adam.first["means"][0] = 7.0
    density.densify(parameters, adam, torch.Generator().manual_seed(0))
    xs = parameters.means.detach()[:, 0]
    assert int((xs == 10).sum()) == 2  # cloned where it was
    assert int(((xs - 20).abs() < 3).sum()) == 2  # split around where it was
    assert not bool(((xs - 20).abs() == 0).any())
    assert torch.allclose(parameters.log_scales.detach().amax(1).topk(2).values.exp(), torch.tensor(0.5 / 1.6))
    assert int(((xs - 30).abs() < 1).sum()) == 0  # faint
    assert not bool((parameters.means.detach()[:, 2] == -5).any())  # on the camera
    assert len(parameters) == 50 + 1 + 1 - 2
    moments = adam.first["means"][(xs == 10).nonzero()[:, 0], 0]
    assert sorted(moments.tolist()) == [0.0, 7.0]  # the clone starts without moments


def test_density_keeps_to_its_limit_and_resets_opacities() -> None:
    parameters = some_parameters()
    density = Density(50, DensityOptions(gradient=0.1, small=1.0, most=55), 10.0, torch.zeros(1, 3), near=0.0)
    density.grad2d[:], density.seen[:] = torch.arange(50.0) + 1, 1.0
    adam = Adam(parameters)
    density.densify(parameters, adam, torch.Generator())
    assert len(parameters) == 55
    density.reset(parameters, adam)
    assert float(parameters.logits.detach().sigmoid().max()) == pytest.approx(0.05, abs=1e-6)


@pytest.fixture(scope="module")
def scene_views(small_scene: Path) -> list[TrainingView]:
    stream = open_stream(small_scene / "stream")
    return load_views(stream, stream.names(), Sim3.identity(), 96)


def small_trainer(views: list[TrainingView], **options: object) -> Trainer:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform([-0.4, -0.3, 0], [0.4, 0.3, 0.02], (400, 3)), rng.uniform(-0.4, 0.4, (20, 3))])
    colors = rng.integers(0, 255, (len(points), 3)).astype(np.uint8)
    chosen = TrainingOptions(iterations=40, coarse=(0.3,), density=DensityOptions(every=10, most=900))
    start = start_from_points(points, colors, views, 1, StartOptions(stereo=0, background_sphere=100))
    return Trainer(start, views, replace(chosen, **options))  # type: ignore[arg-type]


def test_training_brings_the_images_closer(scene_views: list[TrainingView]) -> None:
    trainer = small_trainer(scene_views)
    before = np.mean(list(measure(trainer.parameters, scene_views).values()))
    assert trainer.run()
    after = np.mean(list(measure(trainer.result(), scene_views).values()))
    assert after > before + 1
    assert len(trainer.result().to_map()) == len(trainer.parameters)


def test_pixels_beyond_the_lens_are_not_measured(scene_views: list[TrainingView]) -> None:
    """Whatever stands there, the PSNR is that of the pixels that count; training's own progress says the same."""
    view, trainer = scene_views[0], small_trainer(scene_views[:1], random_background=False, coarse=(), exposure=False)
    valid = torch.zeros(view.image.shape[:2], dtype=torch.bool)
    valid[10:40, 20:60] = True
    rendered = render(trainer.parameters, view, 1).color.detach().clamp(0, 1)
    error = float(((rendered - view.image)[10:40, 20:60] ** 2).mean())
    told = []
    for beyond in (0.0, 1.0):
        image = torch.where(valid[:, :, None], view.image, torch.tensor(beyond))
        masked = replace(view, image=image, valid=valid)
        told += list(measure(trainer.parameters, [masked]).values())
        told.append(Trainer(copy.deepcopy(trainer.parameters), [masked], trainer.options).step()[1])
    assert told == pytest.approx([-10 * np.log10(error)] * 4, abs=1e-3)
    assert measure(trainer.parameters, [replace(view, valid=torch.zeros_like(valid))]) == {}


def test_a_resumed_run_is_the_uninterrupted_one(scene_views: list[TrainingView], tmp_path: Path) -> None:
    whole = small_trainer(scene_views)
    whole.run()
    first = small_trainer(scene_views)
    first.run(lambda moment: moment.iteration == 17)
    save_training(first, tmp_path / "run")
    second = small_trainer(scene_views)
    resume_training(second, tmp_path / "run")
    assert second.iteration == 17
    second.run()
    for name, tensor in whole.result().items():
        assert torch.equal(tensor, getattr(second.result(), name)), name
    with raises("training.mismatch"):
        resume_training(small_trainer(scene_views, iterations=50), tmp_path / "run")


def test_divergence_ends_with_the_last_good_map(scene_views: list[TrainingView], tmp_path: Path) -> None:
    trainer = small_trainer(scene_views)
    options = SessionOptions(tmp_path / "run", checkpoint_every=5, pictures=tmp_path / "pictures", picture_every=5)

    def poison(_: object) -> None:
        if trainer.iteration == 13:
            with torch.no_grad():
                trainer.parameters.sh_dc[:] = float("nan")

    lines: list[str] = []
    kept, finished = train_map(trainer, scene_views[:1], options, poison, lines.append)
    assert not finished
    assert "not finite" in lines[0] or "nan" in lines[0]
    good = saved_parameters(tmp_path / "run").to_map()
    assert kept.checksum == good.checksum
    assert bool(torch.isfinite(kept.sh).all())
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_a_cancelled_run_keeps_what_is_done(scene_views: list[TrainingView], tmp_path: Path) -> None:
    trainer = small_trainer(scene_views)
    kept, finished = train_map(trainer, [], SessionOptions(tmp_path / "run"), lambda moment: moment.iteration == 7)
    assert not finished
    assert trainer.iteration == 7
    assert kept.checksum == saved_parameters(tmp_path / "run").to_map().checksum


def test_pictures_of_views_with_hostile_names_stay_in_their_folder(
    scene_views: list[TrainingView], tmp_path: Path
) -> None:
    views = [replace(scene_views[0], name=name) for name in ("../../outside", "/tmp/outside", "plain")]
    save_pictures(small_trainer(scene_views), views, tmp_path / "deep" / "pictures")
    assert len(list((tmp_path / "deep" / "pictures").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_divergence_before_any_checkpoint_is_an_error(scene_views: list[TrainingView], tmp_path: Path) -> None:
    trainer = small_trainer(scene_views)
    with torch.no_grad():
        trainer.parameters.sh_dc[:] = float("inf")
    with raises("training.diverged"):
        train_map(trainer, [], SessionOptions(tmp_path / "run"))


def test_an_earlier_runs_checkpoint_is_not_this_ones(scene_views: list[TrainingView], tmp_path: Path) -> None:
    """A run that diverges at once is an error, beside whatever checkpoint; and `set_aside` loses none."""
    path = tmp_path / "run"
    train_map(small_trainer(scene_views), [], SessionOptions(path), lambda moment: moment.iteration == 2)
    earlier = path.read_bytes()
    trainer = small_trainer(scene_views)
    with torch.no_grad():
        trainer.parameters.sh_dc[:] = float("inf")
    with raises("training.diverged"):
        train_map(trainer, [], SessionOptions(path))
    assert path.read_bytes() == earlier
    assert [set_aside(path), set_aside(path)] == [tmp_path / "run.1", None]
    path.write_bytes(b"later")
    assert set_aside(path) == tmp_path / "run.2"
    assert (tmp_path / "run.1").read_bytes() == earlier


def test_a_full_disk_leaves_the_earlier_checkpoint(scene_views: list[TrainingView], tmp_path: Path) -> None:
    trainer, path = small_trainer(scene_views), tmp_path / "run"
    save_training(trainer, path)
    before = path.read_bytes()
    trainer.step()
    with largest_file(4096), raises("training.unwritable"):
        save_training(trainer, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_checkpoints_are_errors(scene_views: list[TrainingView], tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(TrainingError) as caught:
        resume_training(small_trainer(scene_views), path)
    assert caught.value.code == "training.unreadable"


@pytest.mark.parametrize("damage", ["shape", "missing", "type", "nan", "queue", "iteration", "generator"])
def test_checkpoints_that_do_not_fit_are_errors(damage: str, scene_views: list[TrainingView], tmp_path: Path) -> None:
    path = tmp_path / "run"
    trainer = small_trainer(scene_views)
    trainer.step()
    save_training(trainer, path)
    tensors, metadata = load_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if damage == "shape":
        tensors["first.sh_dc"] = tensors["first.sh_dc"][:-1].clone()
    elif damage == "missing":
        del tensors["second.means"]
    elif damage == "type":
        tensors["parameters.means"] = tensors["parameters.means"].double()
    elif damage == "nan":
        tensors["parameters.logits"][0] = float("nan")
    elif damage == "queue":
        tensors["queue"] = torch.tensor([10**6])
    elif damage == "generator":
        tensors["generator"] = tensors["generator"][:8].clone()
    else:
        metadata["content"] = metadata["content"].replace('"iteration": 1', '"iteration": [1e400]')
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(TrainingError):
        resume_training(small_trainer(scene_views), path)


def test_a_pretrained_map_keeps_its_look(small_scene: Path) -> None:
    gaussians = load_map(small_scene / "map.ply")
    again = SplatParameters.of_map(gaussians, 2).to_map()
    assert torch.allclose(again.scales, gaussians.scales, rtol=1e-5)
    assert torch.allclose(again.opacities, gaussians.opacities.clamp(4.6e-5, 1 - 4.6e-5), atol=1e-5)
    assert torch.equal(again.sh[:, : gaussians.sh.shape[1]], gaussians.sh)
