"""Editing by words: clouds, boxes and pictures show the edited map; saved with the field; undone without a trace."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import ColorRGBA

from feature_gs_ros.msg import Answer
from feature_gs_ros.srv import Edit, Load, QueryText, RenderView, Save
from ros.harness import LATCHED, Robot, Starter, Watch, info_message, wait_until
from ros.scene import BLOCKS, CAMERA, camera_from_map, take_picture, transform_of
from ros.test_queries import pixels_of, points_of, pose_message, values

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
    options.setdefault("scale", 1.0)
    request = Edit.Request(operation=operation, text=text, **options)
    request.moved.rotation.w = 1.0
    return robot.call(Edit, "/feature_map/edit", request)


def ask(robot: Robot, text: str) -> QueryText.Response:
    return robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text=text))


def picture(robot: Robot) -> np.ndarray:
    place, turn = transform_of(camera_from_map(0.1))
    request = RenderView.Request(
        content=RenderView.Request.COLOR, pose=pose_message(place, turn), camera_info=info_message(CAMERA, 0)
    )
    image = robot.call(RenderView, "/feature_map/render_view", request).image
    return pixels_of(image, np.uint8, 3).astype(int)


@pytest.fixture(scope="module")
def clouds(robot: Robot, node) -> list[PointCloud2]:  # noqa: ARG001
    """Every ~/map_cloud from now on, the last one first sent included."""
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    return clouds


def test_deleting_and_undoing(robot, clouds):
    before, whole = picture(robot), clouds[-1]
    response = edit(robot, DO.DELETE, "red")
    assert response.answer.state == Answer.FOUND, response.answer.message
    assert response.gaussians > 50
    assert "delete 'red'" in response.undo
    assert ask(robot, "red").answer.state == Answer.NOT_FOUND
    assert ask(robot, "blue").answer.state == Answer.FOUND
    wait_until(lambda: clouds[-1].width == whole.width - response.gaussians)
    without = picture(robot)
    assert redness(before) > 3 * redness(without)  # what no view saw well stays as a rim
    undone = edit(robot, DO.UNDO)
    assert undone.answer.state == Answer.FOUND
    assert undone.undo == ""
    assert np.array_equal(picture(robot), before)
    assert ask(robot, "red").answer.state == Answer.FOUND
    assert edit(robot, DO.REDO).undo == response.undo
    edit(robot, DO.UNDO)


def redness(image: np.ndarray) -> int:
    return int(((image[:, :, 0] > 120) & (image[:, :, 1] < 80) & (image[:, :, 2] < 80)).sum())


def test_moving_moves_the_answers(robot):
    request = Edit.Request(operation=DO.MOVE, text="blue", scale=1.0)
    request.moved.rotation.w = 1.0
    request.moved.translation.y, request.moved.translation.z = 0.1, 0.05
    before = points_of(ask(robot, "blue").cloud)
    assert robot.call(Edit, "/feature_map/edit", request).answer.state == Answer.FOUND
    after = ask(robot, "blue")
    assert np.allclose(points_of(after.cloud) - before, [0.0, 0.1, 0.05], atol=1e-4)
    box = after.detections.detections[0].bbox.center.position
    expected = np.array(BLOCKS["blue"][0]) + [0.0, 0.1, 0.05]
    assert np.allclose([box.x, box.y, box.z], expected, atol=0.015)
    edit(robot, DO.UNDO)


def test_a_recoloured_map_is_saved_and_loaded_with_its_field(robot, clouds):
    original = values(clouds[-1])["rgb"].copy()
    painted = edit(robot, DO.RECOLOR, "green", color=ColorRGBA(r=0.9, g=0.1, b=0.8, a=1.0), keep_shading=False)
    assert painted.answer.state == Answer.FOUND, painted.answer.message
    wait_until(lambda: not np.array_equal(values(clouds[-1])["rgb"], original))
    shown = picture(robot)
    assert robot.call(Save, "/feature_map/save", Save.Request(path="painted.safetensors")).success
    edit(robot, DO.UNDO)
    assert not np.array_equal(picture(robot), shown)
    assert robot.call(Load, "/feature_map/load", Load.Request(path="painted.safetensors")).success
    assert np.array_equal(picture(robot), shown)
    edit(robot, DO.UNDO)


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
