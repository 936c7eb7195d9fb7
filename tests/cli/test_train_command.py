"""`feature-gs train` as a person runs it: stopped by Ctrl-C and gone on with, opacities reset."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png, to_image
from feature_gs_ros.training.checkpoint import read_training, save_training, saved_parameters
from feature_gs_ros.training.trainer import Trainer
from feature_gs_ros.training.views import TrainingView, load_views
from tests.command_line import run
from tests.disk import largest_file

pytestmark = pytest.mark.slow

PATIENCE = 60.0  # seconds that a loaded machine may take


@pytest.fixture(scope="module")
def scene_views(small_scene: Path) -> list[TrainingView]:
    stream = open_stream(small_scene / "stream")
    return load_views(stream, stream.names(), Sim3.identity(), 96)


def colmap_folder(folder: Path, views: list[TrainingView]) -> Path:
    """A COLMAP text model of the views, with points on the table, as structure from motion would leave it."""
    sparse, images = folder / "sparse" / "0", folder / "images"
    sparse.mkdir(parents=True)
    images.mkdir()
    lines = []
    for number, view in enumerate(views, start=1):
        quat = quat_wxyz_from_rotation(view.camera_from_splat[:3, :3])
        values = [*quat, *view.camera_from_splat[:3, 3]]
        lines += [f"{number} {' '.join(map(str, values))} 1 {number:03d}.png", ""]
        save_png(to_image(view.image), images / f"{number:03d}.png")
    camera = views[0].camera
    (sparse / "cameras.txt").write_text(
        f"1 PINHOLE {camera.width} {camera.height} {camera.fx} {camera.fy} {camera.cx} {camera.cy}\n"
    )
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.4, -0.3, 0], [0.4, 0.3, 0.02], (200, 3))
    (sparse / "points3D.txt").write_text(
        "".join(f"{k} {x} {y} {z} 128 128 128 0.5\n" for k, (x, y, z) in enumerate(points))
    )
    return folder


def test_the_command_trains_a_map_and_measures_what_it_left_out(
    scene_views: list[TrainingView], tmp_path: Path
) -> None:
    stream, out = colmap_folder(tmp_path / "colmap", scene_views), tmp_path / "map.ply"
    words = ["train", stream, "--out", out, "--iterations", 30, "--stereo", 2000, "--json", "--hold-out", "003"]
    told = json.loads(run(*words, "--pictures", tmp_path / "p", "--picture-every", 15).stdout)
    assert told["finished"]
    assert set(told["psnr"]) == {"003"}
    assert told["mean_psnr"] > 12
    assert len(load_map(out)) == told["gaussians"]
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["003_000015.png", "003_000030.png"]
    assert not out.with_name("map.ply.training").exists()


def test_the_command_needs_points_or_a_map_to_start_from(small_scene: Path, tmp_path: Path) -> None:
    words = ["train", small_scene / "stream", "--out", tmp_path / "map.ply"]
    assert "--init" in run(*words, code=2).stderr
    start = ["--init", small_scene / "map.ply", "--alignment", small_scene / "alignment.yaml"]
    run(*words, *start, "--iterations", 3, "--size", 96, "--json")
    assert "nobody" in run(*words, *start, "--skip", "nobody", code=2).stderr
    assert "--sh-degree 7" in run(*words, "--sh-degree", 7, code=2).stderr
    assert run(*words, *start, "--reset-opacity", 0.3, 1.5, code=2).error_code == "training.value"


def test_opacities_are_reset_where_it_is_asked_for(scene_views: list[TrainingView], tmp_path: Path) -> None:
    stream = colmap_folder(tmp_path / "colmap", scene_views)
    opacities = {}
    for name, reset in (("kept", []), ("reset", ["--reset-opacity", 0.3, 0.7])):
        out = tmp_path / f"{name}.ply"
        run("train", stream, "--out", out, "--iterations", 10, "--stereo", 0, "--json", *reset)
        opacities[name] = float(load_map(out).opacities.max())
    assert opacities["kept"] > 0.85  # the shell's start
    assert opacities["reset"] < 0.1  # 0.05, and three steps of 0.05 in the logit


def test_a_map_that_cannot_be_written_loses_no_run(scene_views: list[TrainingView], tmp_path: Path) -> None:
    """The disk fills up after the first checkpoint: the run stays, and goes on when there is room again."""
    stream, out = colmap_folder(tmp_path / "colmap", scene_views), tmp_path / "map.ply"
    checkpoint = out.with_name("map.ply.training")
    checkpoint.write_bytes(b"an earlier run")
    words = ["train", stream, "--out", out, "--iterations", 450, "--stereo", 0, "--size", 64]
    with ExitStack() as disk, pytest.MonkeyPatch.context() as patch:

        def save_and_fill(trainer: Trainer, path: Path) -> None:
            save_training(trainer, path)
            disk.enter_context(largest_file(1000))

        patch.setattr("feature_gs_ros.training.session.save_training", save_and_fill)
        said = run(*words, code=2)
    assert f"the run is kept in '{checkpoint}'" in said.stderr
    assert "an earlier run's checkpoint is now" in said.stderr
    assert checkpoint.with_name("map.ply.training.1").read_bytes() == b"an earlier run"
    assert not out.exists()
    assert "of 450" in run(*words, "--resume").stderr
    assert len(load_map(out)) > 0
    assert not checkpoint.exists()


def test_control_c_ends_in_a_map_and_a_run_to_go_on_with(scene_views: list[TrainingView], tmp_path: Path) -> None:
    stream, out = colmap_folder(tmp_path / "colmap", scene_views), tmp_path / "map.ply"
    checkpoint = out.with_name("map.ply.training")
    words = ["train", stream, "--out", out, "--iterations", 500, "--stereo", 0, "--size", 64]
    program = [sys.executable, "-c", "from feature_gs_ros.cli import main; main()", *map(str, words)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as training:
        end = time.monotonic() + PATIENCE
        while not checkpoint.is_file():
            assert training.poll() is None, training.communicate()
            assert time.monotonic() < end, "no checkpoint"
            time.sleep(0.01)
        training.send_signal(signal.SIGINT)
        told, noted = training.communicate(timeout=PATIENCE)
    assert training.returncode == 130, noted
    assert "Traceback" not in noted
    assert "stopped early; go on with --resume" in told
    reached = read_training(checkpoint)[1].whole("iteration")
    assert 250 <= reached < 500
    assert f"after {reached} iterations" in told
    stopped = load_map(out)
    assert torch.allclose(stopped.means, saved_parameters(checkpoint).to_map().means)
    outcome = run(*words, "--resume")
    assert f"resuming after {reached} of 500" in outcome.stderr
    assert "after 500 iterations" in outcome.stdout
    assert not checkpoint.exists()
    assert not torch.equal(load_map(out).means[:100], stopped.means[:100])
