"""Which transform a stream's views see a map by, and refusal where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.pose_check import covered, fitting_alignment
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png
from tests.command_line import run
from tests.errors import raises
from tests.little_scene import FRAMES, two_halves, write_scene, write_stream

ELSEWHERE = Sim3(0.5, np.array([0.0, 0, 1, 0]), np.array([9.0, 0, 0]))  # puts the little scene's cameras off the map


@pytest.mark.parametrize(("opacity", "share"), [(0.4, 0.0), (0.8, 1.0)])
def test_a_pixel_shows_the_map_where_it_hides_half_of_what_is_behind(opacity: float, share: float) -> None:
    """One Gaussian, wide enough to be the same all over the image."""
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0, 2]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 50.0), torch.tensor([opacity]),
        torch.zeros(1, 1, 3),
    )  # fmt: skip
    assert covered(rasterizer.view(gaussians, Camera(64, 48, 60.0, 60.0, 32.0, 24.0), np.eye(4))) == share


def test_the_own_alignment_is_kept_where_it_sees_the_map(tmp_path: Path) -> None:
    stream = open_stream(write_stream(tmp_path))
    nearly = Sim3(1.02, np.array([1.0, 0, 0, 0]), np.array([0.01, 0, 0]))
    assert fitting_alignment(two_halves(), nearly, stream, FRAMES) is nearly


def test_poses_in_the_maps_frame_need_none(tmp_path: Path) -> None:
    stream = open_stream(write_stream(tmp_path))
    assert np.allclose(fitting_alignment(two_halves(), ELSEWHERE, stream, FRAMES[:1]).matrix, np.eye(4))


def test_frames_that_see_nothing_either_way_are_refused(tmp_path: Path) -> None:
    stream = open_stream(write_stream(tmp_path, aside=50.0))
    with raises("camera.elsewhere", "0.0", "--alignment"):
        fitting_alignment(two_halves(), ELSEWHERE, stream, FRAMES)


def test_cameras_in_the_wrong_frame_that_graze_the_map_are_told_by_their_images(tmp_path: Path) -> None:
    """Both by the field's alignment and without it they see some of the map; only one looks like the images."""
    stream = open_stream(write_stream(tmp_path))
    beside = Sim3(1.0, np.array([1.0, 0, 0, 0]), np.array([0.25, 0.0, 0]))
    turned = Sim3(1.0, np.array([0.0, 0, 0, 1]), np.zeros(3))  # red where the images are blue
    for wrong in (beside, turned):
        assert np.allclose(fitting_alignment(two_halves(), wrong, stream, FRAMES).matrix, np.eye(4))
    robot = open_stream(write_stream(tmp_path / "robot", aside=0.3))
    right = Sim3(1.0, np.array([1.0, 0, 0, 0]), np.array([0.3, 0, 0]))
    assert fitting_alignment(two_halves(), right, robot, FRAMES) is right


def test_images_that_do_not_look_like_the_map_are_doubted(tmp_path: Path) -> None:
    """Views by a wrong transform that still see the map: the field is made, and a line says what is odd."""
    scene = write_scene(tmp_path / "scene")
    turned = {"splat_from_map": {"scale": 1.0, "rotation_wxyz": [0, 0, 0, 1], "translation": [0, 0, 0]}}
    (scene / "turned.yaml").write_text(yaml.safe_dump(turned))
    words = ["backproject", scene / "map.ply", scene, "--extractor", "color", "--out", tmp_path / "f.field"]
    assert "look little like the map" not in run(*words).stderr
    doubted = run(*words, "--alignment", scene / "turned.yaml").stderr
    assert "the first 5 images of" in doubted
    assert "look little like the map" in doubted
    for path in (scene / "images").iterdir():
        save_png(np.full((48, 64, 3), 90, np.uint8), path)
    assert "look little like the map" not in run(*words).stderr  # there is nothing to compare


def test_a_field_of_a_robots_recording_is_scored_on_the_reconstruction(tmp_path: Path) -> None:
    """The same images with poses in metres and in the map's frame: the same scores, without a word about frames."""
    scene, robot = write_scene(tmp_path / "scene"), write_stream(tmp_path / "robot")
    metric = json.loads((robot / "cameras.json").read_text())
    for entry in metric["frames"]:
        pose = np.array(entry["camera_from_world"])
        pose[:3, 3] = (pose[:3, 3] + [40.0, 0, 0]) / 4.0  # a metre is four units of the map
        entry["camera_from_world"] = pose.tolist()
    (robot / "cameras.json").write_text(json.dumps(metric))
    (robot / "alignment.yaml").write_text(
        yaml.safe_dump({"splat_from_map": {"scale": 4.0, "rotation_wxyz": [1, 0, 0, 0], "translation": [40, 0, 0]}})
    )
    made = ["backproject", str(scene / "map.ply"), str(robot), "--alignment", str(robot / "alignment.yaml")]
    masks = ["--masks", str(scene / "masks"), "--labels", str(scene / "labels.yaml")]
    run(*made, *masks, "--out", str(tmp_path / "f.field"))
    scores = [
        run("evaluate", "segmentation", str(tmp_path / "f.field"), "--stream", str(stream), *masks, "--json")
        for stream in (robot, scene)
    ]
    assert [json.loads(score.stdout)["miou"] > 0.7 for score in scores] == [True, True]
    assert scores[0].stdout == scores[1].stdout
    assert "alignment is left out" not in scores[0].stderr
    assert "alignment is left out" in scores[1].stderr


def test_a_reconstructions_view_that_grazes_the_map_by_the_robots_alignment(tabletop: Path) -> None:
    """Of the recorded tabletop's first image, the field's alignment puts 2.4% of the pixels onto the map."""
    aligned = load_alignment(tabletop / "alignment.yaml")
    gaussians = load_map(tabletop / "map.ply")
    reconstruction, recording = open_stream(tabletop / "colmap"), open_stream(tabletop / "stream")
    assert np.allclose(fitting_alignment(gaussians, aligned, reconstruction, ["15"]).matrix, np.eye(4))
    assert fitting_alignment(gaussians, aligned, recording, recording.names()[:1]) is aligned
