"""Editing by words: clouds, boxes and pictures show the edited map; saved with the field; undone without a trace."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import ColorRGBA

from feature_gs_ros import FeatureMapClient
from feature_gs_ros.msg import Answer
from feature_gs_ros.ros.convert.plain import MapAnswer
from feature_gs_ros.srv import Edit
from ros.harness import LATCHED, Robot, Starter, Watch, info_message, wait_until
from ros.scene import BLOCKS, CAMERA, camera_from_map, take_picture
from ros.test_queries import values

VIEWS = 8
DO = Edit.Request


@pytest.fixture(scope="module")
def node(start_once: Starter, robot: Robot, gaussians):
    node = start_once.active()
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    for k in range(VIEWS):
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / VIEWS)), camera_from_map(k / VIEWS))
    assert watch.outcome(VIEWS) == (VIEWS, {})
    return node


@pytest.fixture(autouse=True)
def _lives(node):
    yield
    assert node.running


def edit(robot: Robot, operation: int, text: str = "", **options: object) -> Edit.Response:
    """As a program without the client asks."""
    options.setdefault("scale", 1.0)
    request = Edit.Request(operation=operation, text=text, **options)
    request.moved.rotation.w = 1.0
    return robot.call(Edit, "/feature_map/edit", request)


def picture(client: FeatureMapClient) -> np.ndarray:
    pose = np.linalg.inv(camera_from_map(0.1))
    return client.render(map_from_camera=pose, camera_info=info_message(CAMERA, 0)).astype(int)


@pytest.fixture(scope="module")
def clouds(robot: Robot, node) -> list[PointCloud2]:  # noqa: ARG001
    """Every ~/map_cloud from now on, the last one first sent included."""
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    return clouds


def test_deleting_and_undoing(client, clouds):
    before, whole = picture(client), clouds[-1]
    done = client.delete("red")
    assert done.gaussians > 50
    assert "delete 'red'" in done.undo
    assert not client.ask("red")
    assert client.ask("blue")
    wait_until(lambda: clouds[-1].width == whole.width - done.gaussians)
    without = picture(client)
    assert redness(before) > 3 * redness(without)  # what no view saw well stays as a rim
    assert client.undo().undo == ""
    assert np.array_equal(picture(client), before)
    assert client.ask("red")
    assert client.redo().undo == done.undo
    client.undo()


def redness(image: np.ndarray) -> int:
    return int(((image[:, :, 0] > 120) & (image[:, :, 1] < 80) & (image[:, :, 2] < 80)).sum())


def places(answer: MapAnswer) -> np.ndarray:
    """[M, 3] metres"""
    return np.stack([answer.cloud[axis] for axis in "xyz"], axis=1)


def test_moving_moves_the_answers(client):
    before = places(client.ask("blue"))
    client.move("blue", (0.0, 0.1, 0.05))
    after = client.ask("blue")
    assert np.allclose(places(after) - before, [0.0, 0.1, 0.05], atol=1e-4)
    assert np.allclose(after.objects[0].center, np.array(BLOCKS["blue"][0]) + [0.0, 0.1, 0.05], atol=0.015)
    client.undo()


def test_a_recoloured_map_is_saved_and_loaded_with_its_field(client, clouds):
    original = values(clouds[-1])["rgb"].copy()
    client.recolor("green", (0.9, 0.1, 0.8))
    wait_until(lambda: not np.array_equal(values(clouds[-1])["rgb"], original))
    shown = picture(client)
    client.save("painted.safetensors")
    client.undo()
    assert not np.array_equal(picture(client), shown)
    client.load("painted.safetensors")
    assert np.array_equal(picture(client), shown)
    client.undo()


def test_an_edit_that_cannot_be_done_says_what_undo_would_take_back(robot, client):
    done = client.delete("red")
    refused = edit(robot, DO.DELETE, "white")
    assert (refused.answer.state, refused.undo) == (Answer.INVALID, done.undo)
    client.undo()


@pytest.mark.parametrize(
    ("operation", "text", "options", "complaint"),
    [
        (DO.DELETE, "white", {}, "nothing to edit"),
        (DO.DELETE, "", {}, "empty"),
        (DO.DELETE, "red", {"soft_edge": 2.0}, "soft edge"),
        (DO.DELETE, "red", {"threshold": 7.0}, "threshold"),
        (DO.RECOLOR, "red", {"color": ColorRGBA(r=2.0)}, "colour"),
        (DO.MOVE, "red", {"scale": 0.0}, "scale"),
        (99, "red", {}, "operation 99"),
        (DO.UNDO, "", {}, "no edit to undo"),
        (DO.REDO, "nothing", {}, ""),
    ],
)
def test_edits_that_cannot_be_done(robot, operation, text, options, complaint):
    if operation == DO.REDO:
        edit(robot, DO.DELETE, "red")  # forgets what was undone
        edit(robot, DO.UNDO)
        edit(robot, DO.REDO)
        complaint = "no undone edit"
    answer = edit(robot, operation, text, **options).answer
    if operation == DO.REDO:
        edit(robot, DO.UNDO)
    assert answer.state == Answer.INVALID
    assert complaint in answer.message
