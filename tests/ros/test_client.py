"""A robot's program as it would be written, with FeatureMapClient: questions, edits, images, files; many at once."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

from feature_gs_ros import FeatureMapClient
from feature_gs_ros.core.errors import (
    AffordanceError,
    CameraError,
    EditError,
    FieldError,
    ImageError,
    NoTransformError,
    ParameterError,
    PromptError,
    UnavailableError,
    UnknownPromptError,
)
from feature_gs_ros.msg import AffordanceRegions
from feature_gs_ros.ros.convert.plain import Outcome
from feature_gs_ros.ros.runtime.run import make_executor
from ros.harness import LATCHED, Robot, Starter, Watch, info_message, wait_until
from ros.scene import BLOCKS, CAMERA, SPACING, camera_from_map, take_picture

VIEWS = 12
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ros_client.py"


@pytest.fixture(scope="module")
def client(start_once: Starter, robot: Robot, gaussians) -> Iterator[FeatureMapClient]:
    """Of a node that has learned."""
    start_once.active()
    with FeatureMapClient(timeout=120.0) as client:
        client.wait_until_active()
        wait_until(lambda: robot.images.get_subscription_count() == 1)
        watch = Watch(robot)
        robot.publish_info(robot.now())
        for k in range(VIEWS):
            robot.publish_posed(take_picture(gaussians, camera_from_map(k / VIEWS)), camera_from_map(k / VIEWS))
        assert watch.outcome(VIEWS) == (VIEWS, {})
        yield client


def test_words_give_objects_and_a_cloud_as_arrays(client):
    answer = client.ask("red")
    assert answer
    assert (answer.outcome, answer.frame_id, answer.views) == (Outcome.FOUND, "map", VIEWS)
    assert set(answer.seconds) == {"snapshot", "similarity", "objects", "cloud", "publish"}
    center, size, _ = BLOCKS["red"]
    found = answer.objects[0]
    assert found.label == "red"
    np.testing.assert_allclose(found.center, center, atol=0.008)
    np.testing.assert_allclose(np.sort(found.size), np.sort(size), atol=0.012)
    assert np.linalg.norm(found.quat_xyzw) == pytest.approx(1)
    points = np.stack([answer.cloud[axis] for axis in "xyz"], axis=1)
    assert (np.abs(points - center) <= np.array(size) / 2 + SPACING).all()
    np.testing.assert_allclose(found.covariance, np.cov(points.T, ddof=0), rtol=0.1, atol=1e-5)
    assert (answer.cloud["similarity"] > 0.7).all()
    nothing = client.ask("yellow")
    assert (bool(nothing), nothing.outcome, nothing.objects) == (False, Outcome.NOT_FOUND, ())
    assert len(nothing.cloud["x"]) == 0


def test_several_prompts_in_one_pass_are_answered_as_if_asked_together(client):
    answers = client.ask_all(["red", "yellow", "blue"])
    assert [answer.outcome for answer in answers.values()] == [Outcome.FOUND, Outcome.NOT_FOUND, Outcome.FOUND]
    for name in ("red", "blue"):
        np.testing.assert_allclose(answers[name].objects[0].center, BLOCKS[name][0], atol=0.008)
    with pytest.raises(PromptError):
        client.ask_all([])
    with pytest.raises(UnknownPromptError):
        client.ask_all(["red", "rad"])


def test_an_object_keeps_its_id_however_it_is_asked_for(client):
    (red,), (blue,) = client.ask("red").objects, client.ask("blue").objects
    assert red.id != blue.id
    both = client.ask_all(["blue", "red"])
    assert [both[name].objects[0].id for name in ("red", "blue")] == [red.id, blue.id]
    clicked = client.click([[-0.15, 0.0, 0.1]])
    assert clicked.objects[0].id == red.id
    np.testing.assert_allclose(clicked.points, [[-0.15, 0.0, 0.1]], atol=0.01)
    crop = np.full((20, 30, 3), BLOCKS["blue"][2], np.uint8)
    assert client.ask_example(crop).objects[0].id == blue.id


def test_what_cannot_be_answered_is_the_error_that_the_library_would_raise(client):
    crop = np.zeros((20, 30, 3), np.uint8)
    for ask, kind in (
        (lambda: client.ask("rad"), UnknownPromptError),
        (lambda: client.ask(""), PromptError),
        (lambda: client.ask("red", threshold=2.0), PromptError),
        (lambda: client.click([[np.nan, 0, 0]]), PromptError),
        (lambda: client.click([[0, 0, 0]], frame_id="nowhere"), NoTransformError),
        (lambda: client.click([[10_000, 0]], camera="camera"), PromptError),
        (lambda: client.click([[1, 1]], camera="other"), ParameterError),
        (lambda: client.ask_example(np.zeros((0, 0, 3), np.uint8)), ImageError),
        (lambda: client.ask_example(crop, np.zeros((20, 30), bool)), PromptError),
        (lambda: client.add_affordance("handle", np.zeros((20, 30), bool), image=crop), AffordanceError),
        (client.find_affordances, AffordanceError),
        (client.undo, EditError),
        (lambda: client.render(map_from_camera=np.eye(4)), CameraError),
        (lambda: client.save("../out"), FieldError),
        (lambda: client.load("nothing.safetensors"), FieldError),
        (lambda: client.set_parameter("objects.max_count", 0), ParameterError),
    ):
        with pytest.raises(kind) as caught:
            ask()
        assert caught.value.code == kind.code or caught.value.code.startswith(f"{kind.code}.")
        assert str(caught.value)


def test_regions_and_grasps_are_published_with_ids_that_stay(client, robot):
    picture = np.full((40, 60, 3), 128, np.uint8)
    mask = np.zeros((40, 60), bool)
    picture[10:30, 20:40], mask[10:30, 20:40] = BLOCKS["blue"][2], True
    assert client.add_affordance("blue part", mask, image=picture, object_name="brick") == 1
    regions = robot.collect(AffordanceRegions, "/feature_map/affordance_regions", LATCHED)
    grasps = robot.collect(PoseArray, "/feature_map/grasp_candidates", LATCHED)
    first, second = client.find_affordances(), client.find_affordances("blue part", k=3)
    assert first.regions[0].id == second.regions[0].id
    region = second.regions[0]
    np.testing.assert_allclose(region.center, BLOCKS["blue"][0], atol=0.01)
    wait_until(lambda: len(regions) == len(grasps) == 2, what="both answers on the topics")
    message, poses = regions[-1], grasps[-1]
    assert (message.header.frame_id, poses.header) == ("map", message.header)
    assert [entry.id for entry in message.regions] == [entry.id for entry in second.regions]
    assert all(entry.header == message.header for entry in message.regions)
    assert len(poses.poses) == len(message.regions)
    turn = poses.poses[0].orientation
    approach = 2 * np.array(  # third column of the rotation
        [turn.x * turn.z + turn.w * turn.y, turn.y * turn.z - turn.w * turn.x, 0.5 - turn.x**2 - turn.y**2]
    )
    np.testing.assert_allclose(approach, region.approach, atol=1e-5)


def test_edits_are_undone_and_a_refused_one_changes_nothing(client):
    done = client.delete("green")
    assert done.gaussians > 100
    assert "green" in done.undo
    assert not client.ask("green")
    with pytest.raises(EditError):
        client.delete("green")
    client.move("red", (0.0, 0.0, 0.1))
    np.testing.assert_allclose(client.ask("red").objects[0].center, np.add(BLOCKS["red"][0], [0, 0, 0.1]), atol=0.01)
    client.undo()
    client.undo()
    assert client.ask("green")
    assert client.redo().undo == done.undo
    client.undo()


def test_images_come_as_arrays(client, gaussians):
    pose, info = camera_from_map(0.3), info_message(CAMERA, 0)
    view = {"map_from_camera": np.linalg.inv(pose), "camera_info": info}
    np.testing.assert_allclose(client.render(**view), take_picture(gaussians, pose), atol=1)
    depth = client.render("depth", **view)
    assert (depth.shape, depth.dtype) == ((120, 160), np.float32)
    assert 0.3 < np.nanmin(depth) < np.nanmax(depth) < 1.2
    mask = client.render("mask", text="red", **view)
    assert set(np.unique(mask)) == {0, 255}


def test_the_field_is_saved_forgotten_and_loaded(client, start_once):
    path = client.save("kept.safetensors")
    assert path == start_once.data / "kept.safetensors"
    client.reset()
    assert client.wait_for_status(lambda status: status.views == 0).frames_used == VIEWS
    (start_once.data / "no-field").write_bytes(b"something else")
    with pytest.raises(FieldError):
        client.load("no-field")
    client.load("kept.safetensors")
    assert client.wait_for_views(VIEWS).coverage > 0.9


@pytest.mark.usefixtures("client")
def test_a_hundred_questions_at_once_from_five_programs_are_all_answered():
    others = [FeatureMapClient(timeout=600.0, name=f"asker_{k}") for k in range(5)]
    try:
        with ThreadPoolExecutor(100) as pool:
            asked = [pool.submit(other.ask, "red") for other in others for _ in range(20)]
            assert all(answer.result() for answer in asked)
    finally:
        for other in others:
            other.close()


def test_the_example_asks_the_node(client):
    assert client.state() == "active"
    end = subprocess.run([sys.executable, str(EXAMPLE), "red"], capture_output=True, text=True, timeout=120)
    assert end.returncode == 0, end.stderr
    assert "'red' found" in end.stdout
    assert "centre" in end.stdout


@pytest.mark.usefixtures("client")
def test_the_documents_program_runs(capsys):
    (program,) = re.findall(
        r"^```py\n(.*?)^```", (ROOT / "docs" / "ros.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    for word, here in (("coffee mug", "red"), ("plate", "green"), ("book", "blue")):
        program = program.replace(word, here)
    names: dict[str, object] = {}
    exec(program, names)
    assert "red" in capsys.readouterr().out
    assert set(names["several"]) == {"red", "green", "blue"}
    assert names["depth"].shape == (CAMERA.height, CAMERA.width)


def test_a_node_that_is_not_there_or_not_active_is_unavailable(client):
    with FeatureMapClient("/nobody", timeout=0.5, name="lost") as lost:
        for ask in (lambda: lost.ask("red"), lost.wait_until_active, lost.state):
            with pytest.raises(UnavailableError) as caught:
                ask()
            assert caught.value.code == "unavailable.timeout"
    assert client.change_state("deactivate")
    with pytest.raises(UnavailableError) as caught:
        client.ask("red")
    assert caught.value.code == "unavailable"
    assert client.change_state("activate")


def test_as_many_callbacks_run_at_once_as_there_are_groups():
    """However many cameras a node has, none waits for another's callback, or for a question."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("many_groups", context=context)
    groups = 24
    together = threading.Barrier(groups + 1)

    def meet() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # at the end
            together.wait(30)

    for _ in range(groups):
        node.create_timer(0.01, meet, callback_group=MutuallyExclusiveCallbackGroup())
    executor = make_executor(context)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    try:
        together.wait(30)
    finally:
        together.abort()
        executor.shutdown()
        rclpy.shutdown(context=context)
        spinning.join(10)
