"""Shared by all tests: the dense oracle's random scenes, and where the real recording stands."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import BackendError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.rasterizer import Backend, get_backend

# No test is timed: how long an example takes is the machine's.
settings.register_profile("all", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=20)
SLOW = pytest.mark.slow


def pytest_configure(config: pytest.Config) -> None:
    """Without the slow tests, properties are tried on fewer examples."""
    settings.load_profile("fast" if config.option.markexpr == "not slow" else "all")


@pytest.fixture(
    scope="session",
    params=["cpu", "reference", pytest.param("warp-cpu", marks=SLOW), pytest.param("cuda", marks=SLOW)],
)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend that can run here, one after the other."""
    try:
        return get_backend(request.param)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tabletop() -> Path:
    """Folder of the recorded tabletop; its tests are skipped where it isn't."""
    folder = os.environ.get("FEATURE_GS_TABLETOP", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FEATURE_GS_TABLETOP names no folder: no recorded tabletop here")
    return Path(folder)


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """torch's own numbers are those of each run, whatever ran before: no test depends on its luck or its place."""
    torch.manual_seed(0)


def random_map(seed: int, count: int = 200, degree: int = 0) -> GaussianMap:
    """Gaussians around the origin; some behind any camera, some larger than the image, some below a pixel."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(-2.5, 0.8, (count, 3)))
    scales[: count // 20] *= 30
    scales[count // 20 : count // 8] *= 0.02
    return GaussianMap.from_tensors(
        torch.from_numpy(rng.normal(0, 1, (count, 3))),
        torch.from_numpy(rng.normal(size=(count, 4))),
        torch.from_numpy(scales),
        torch.from_numpy(rng.beta(2, 1, count)),
        torch.from_numpy(rng.normal(0, 0.3, (count, (degree + 1) ** 2, 3))),
    )


def random_camera(seed: int, width: int = 70, height: int = 45) -> tuple[Camera, np.ndarray]:
    """Off-centre, fx ≠ fy, looking at the origin from about two units away: some Gaussians lie behind it."""
    rng = np.random.default_rng(seed + 1000)
    camera = Camera(
        width,
        height,
        fx=float(rng.uniform(0.6, 1.4)) * width,
        fy=float(rng.uniform(0.6, 1.4)) * width,
        cx=float(rng.uniform(0.2, 0.8)) * width,
        cy=float(rng.uniform(0.2, 0.8)) * height,
    )
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if np.linalg.det(rotation) < 0:
        rotation[:, 0] *= -1
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = [0.1, -0.2, float(rng.uniform(1.2, 2.5))]
    return camera, pose


@pytest.fixture(scope="session")
def small_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic tabletop, recorded small: map, bag (also through a lens), masks, alignment, ground truth."""
    return recorded_once(tmp_path_factory, "scene", views=8, width=240, height=180, gaussians=15_000)


@pytest.fixture(scope="session")
def posed_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic tabletop, recorded with enough detail to find cameras by their images; also through a lens."""
    return recorded_once(tmp_path_factory, "posed_scene", views=12, width=320, height=240, gaussians=25_000)


def recorded_once(factory: pytest.TempPathFactory, name: str, **options: int) -> Path:
    """The synthetic tabletop in a folder that all of xdist's workers share: the first that wants it records it."""
    from feature_gs_ros.io.locks import locked
    from feature_gs_ros.synthetic import record, tabletop

    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with locked(folder, timeout=600):
        if not (folder / "recorded").exists():
            record(folder, tabletop(), **options, distorted=True)
            (folder / "recorded").touch()
    return folder
