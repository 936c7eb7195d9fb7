"""Recordings as labs make them, through the commands: another root of tf, several cameras, calibrations in files."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from feature_gs_ros.cli.commands import COMMANDS, GROUPS
from feature_gs_ros.io.splats.gaussian_ply import save_ply
from feature_gs_ros.pictures import save_png
from tests.command_line import run
from tests.little_scene import BLUE, RED, two_halves
from tests.recordings import HEIGHT, START, STEP, WIDTH, Recorder, camera_info, image, tf_message

WITHOUT = {"lerf-mask", "lerf-ovs", "3d-ovs", "replica"}  # data sets are no recordings


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map, and a bag of two cameras on an arm whose tf begins at 'world'; the ceiling's sees green, from nowhere."""
    folder = tmp_path_factory.mktemp("arm")
    save_ply(two_halves(), folder / "map.ply")
    halves = np.where(np.arange(WIDTH)[None, :, None] < WIDTH // 2, BLUE, RED).astype(np.uint8)
    wrist = np.ascontiguousarray(np.broadcast_to(halves, (HEIGHT, WIDTH, 3)))
    ceiling = np.full((HEIGHT, WIDTH, 3), (20, 200, 20), np.uint8)
    camera = np.eye(4)
    camera[2, 3] = -1.5
    with Recorder(folder / "bag", "sqlite3") as recorder:
        recorder.write("/tf_static", tf_message(("world", "camera_optical", 0, camera)), START)
        for topic in ("/wrist", "/ceiling"):
            recorder.write(f"{topic}/camera_info", camera_info(START), START)
        for stamp in (START, START + STEP):
            recorder.write("/wrist/image_raw", image(wrist, stamp), stamp)
            recorder.write("/ceiling/image_raw", image(ceiling, stamp), stamp)
    return folder


def test_the_frame_and_the_cameras_of_a_recording_are_options(arm: Path, tmp_path: Path) -> None:
    lost = run("info", arm / "bag", code=2)
    assert lost.error_code == "stream.missing"
    assert "--map-frame" in lost.stderr
    assert "camera_optical, world" in lost.stderr
    world = ["--map-frame", "world"]
    assert json.loads(run("info", arm / "bag", "--json", *world).stdout)["frames"] == 4
    wrist = [*world, "--image-topics", "/wrist/image_raw"]
    field = tmp_path / "f.field"
    made = run("backproject", arm / "map.ply", arm / "bag", "--out", field, "--extractor", "color", "--json", *wrist)
    assert json.loads(made.stdout)["views"] == 2
    assert json.loads(run("query", field, "blue", "--json").stdout)["state"] == "found"
    assert json.loads(run("query", field, "green", "--json").stdout)["state"] == "not found"
    run("render", field, "--stream", arm / "bag", "--index", START, "--out", tmp_path / "pictures", *wrist)
    assert (tmp_path / "pictures" / "image.png").is_file()


def test_a_calibration_file_takes_the_place_of_camera_info(arm: Path, tmp_path: Path) -> None:
    matrix = {"rows": 3, "cols": 3, "data": [60.0, 0, 15.5, 0, 60.0, 11.5, 0, 0, 1]}
    content = {"image_width": WIDTH, "image_height": HEIGHT, "camera_matrix": matrix, "distortion_model": "plumb_bob"}
    content["distortion_coefficients"] = {"rows": 1, "cols": 5, "data": [0.0] * 5}
    (tmp_path / "wrist.yaml").write_text(json.dumps(content))
    words = ["info", arm / "bag", "--json", "--map-frame", "world", "--camera-info-file", tmp_path / "wrist.yaml"]
    assert "--image-topics" in run(*words, code=2).stderr
    assert json.loads(run(*words, "--image-topics", "/wrist/image_raw").stdout)["fx_fy_cx_cy"][0] == 60.0


def test_every_command_that_reads_a_stream_takes_them() -> None:
    commands = COMMANDS | {name: command for group in GROUPS.values() for name, command in group.items()}
    parameters = {name: inspect.signature(command.load()).parameters for name, command in commands.items()}
    taking = {name for name in commands if "bag" in parameters[name]}
    reading = {name for name in commands if "stream" in parameters[name]}
    assert taking == reading - WITHOUT | {"info", "hand-eye"}


def test_static_transforms_and_images_are_named_on_the_command_line(arm: Path, tmp_path: Path) -> None:
    """A recording that lacks the way to its camera, and COLMAP images in a folder of their own name."""
    camera = np.eye(4)
    camera[2, 3] = -1.5
    halves = np.where(np.arange(WIDTH)[None, :, None] < WIDTH // 2, BLUE, RED).astype(np.uint8)
    picture = np.ascontiguousarray(np.broadcast_to(halves, (HEIGHT, WIDTH, 3)))
    with Recorder(tmp_path / "bag", "mcap") as recorder:
        for stamp in (START, START + STEP):
            recorder.write("/tf", tf_message(("world", "base", stamp, camera)), stamp)
            recorder.write("/wrist/camera_info", camera_info(stamp), stamp)
            recorder.write("/wrist/image_raw", image(picture, stamp), stamp)
    words = ["--map-frame", "world", "--extractor", "color", "--json", "--out", tmp_path / "field"]
    lacking = run("backproject", arm / "map.ply", tmp_path / "bag", *words, code=2).stderr
    assert "--tf FILE" in lacking
    (tmp_path / "tf.yaml").write_text(
        "- {parent: base, child: camera_optical, translation: [0, 0, 0], rpy: [0, 0, 0]}\n"
    )
    made = run("backproject", arm / "map.ply", tmp_path / "bag", *words, "--tf", tmp_path / "tf.yaml")
    assert json.loads(made.stdout)["views"] == 2

    model = tmp_path / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} 30 31 16 12\n")
    (model / "images.txt").write_text("1 1 0 0 0 0 0 1.5 1 a.png\n\n")
    save_png(picture, tmp_path / "elsewhere" / "a.png")
    words = ["--extractor", "color", "--json", "--out", tmp_path / "second"]
    assert "--images" in run("backproject", arm / "map.ply", tmp_path / "colmap", *words, code=2).stderr
    named = ["--images", tmp_path / "elsewhere"]
    made = run("backproject", arm / "map.ply", tmp_path / "colmap", *words, *named)
    assert json.loads(made.stdout)["views"] == 1
    assert "leave out images" in run("backproject", arm / "map.ply", tmp_path / "bag", *words, *named, code=2).stderr
