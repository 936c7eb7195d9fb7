"""Alignment from images alone, on the synthetic scene: from a start 10 cm and 10° off, and from none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.frames.relocalise import align_images
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from tests.command_line import run
from tests.errors import raises
from tests.frames.test_frames_alignment import errors

pytestmark = pytest.mark.slow

MIDDLE = np.array([0.0, 0.0, 0.05])  # of the table


def off_by(metres: float, degrees: float, seed: int) -> Sim3:
    """A change of the map frame that turns and moves its middle."""
    rng = np.random.default_rng(seed)
    axis, direction = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
    turn = quat_wxyz_from_rotation(Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix())
    about = Sim3(1.0, turn, np.zeros(3))
    return Sim3(1.0, turn, MIDDLE - about.apply(MIDDLE) + metres * direction)


@pytest.mark.parametrize("stream", ["stream", "stream_distorted"])
def test_from_ten_centimetres_and_ten_degrees(posed_scene: Path, stream: str) -> None:
    truth, gaussians = load_alignment(posed_scene / "alignment.yaml"), load_map(posed_scene / "map.ply")
    frames = list(open_stream(posed_scene / stream).frames())
    report = align_images(gaussians, frames, truth @ off_by(0.1, 10.0, seed=1))
    scale, degrees, millimetres = errors(report.splat_from_map, truth, MIDDLE)
    assert (degrees < 0.3, millimetres < 3) == (True, True)
    assert report.outliers == ()
    assert scale < 3 * report.scale_sigma  # what is stated holds, also of what the soft map does to all views
    assert report.scale_sigma < 0.01


def test_without_a_start(posed_scene: Path) -> None:
    """The stream in a frame of its own, turned any way and of another unit of length."""
    truth, gaussians = load_alignment(posed_scene / "alignment.yaml"), load_map(posed_scene / "map.ply")
    own_from_map = Sim3(
        2.3, quat_wxyz_from_rotation(Rotation.random(random_state=5).as_matrix()), np.array([1.0, -4, 2])
    )
    frames = [
        replace(frame, camera_from_world=own_from_map.camera_from_splat(frame.camera_from_world))
        for frame in open_stream(posed_scene / "stream").frames()
    ]
    report = align_images(gaussians, frames)
    _, degrees, millimetres = errors(report.splat_from_map @ own_from_map, truth, MIDDLE)
    assert (degrees < 0.3, millimetres < 3) == (True, True)


def test_images_of_something_else_are_refused(posed_scene: Path) -> None:
    gaussians = load_map(posed_scene / "map.ply")
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    frames = [replace(frame, load_image=lambda: noise) for frame in open_stream(posed_scene / "stream").frames()][:4]
    with raises("alignment.not-found"):
        align_images(gaussians, frames)


def test_the_command_line(posed_scene: Path, tmp_path: Path) -> None:
    """A file and a picture are written from a start that is off."""
    from feature_gs_ros.io.alignment import save_alignment

    truth = load_alignment(posed_scene / "alignment.yaml")
    save_alignment(truth @ off_by(0.05, 5.0, seed=2), tmp_path / "start.yaml")
    out, picture = tmp_path / "a.yaml", tmp_path / "a.png"
    run(
        "align", "images", posed_scene / "map.ply", posed_scene / "stream", "--start", tmp_path / "start.yaml",
        "--out", out, "--picture", picture,
    )  # fmt: skip
    assert errors(load_alignment(out), truth, MIDDLE)[2] < 3
    assert picture.stat().st_size > 10_000
