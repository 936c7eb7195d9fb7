"""After an edit every answer is of the map as it is shown: nothing names what is gone, or where things were."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import Point
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from feature_gs_ros.msg import Answer
from feature_gs_ros.srv import AddAffordance, Edit, QueryPoints, RenderView, TransferAffordance
from ros.harness import LATCHED, Robot, Starter, image_message, info_message, wait_until
from ros.scene import BLOCKS, CAMERA, camera_from_map, transform_of
from ros.test_affordances import block_in_the_picture
from ros.test_edits import DO, edit
from ros.test_lifecycle import teach
from ros.test_queries import pixels_of, points_of, pose_message

VIEWS = 12
LAST = camera_from_map((VIEWS - 1) / VIEWS)
BY = np.array([0.0, 0.1, 0.05])  # m that the blue block is moved


@pytest.fixture(scope="module")
def _learned(start_once: Starter, robot: Robot, gaussians):
    """A node that has learned, with the blue block marked as an affordance."""
    node = start_once.active()
    teach(robot, gaussians, VIEWS)
    mask = image_message(block_in_the_picture(gaussians, "blue").astype(np.uint8) * 255, 0, encoding="mono8")
    request = AddAffordance.Request(affordance="grip", camera="camera", mask=mask)
    assert robot.call(AddAffordance, "/feature_map/add_affordance", request).sources == 1
    yield
    assert node.running


@pytest.fixture
def edited(robot: Robot, _learned, request) -> np.ndarray:
    """The edit that the test asks for, undone after it; points [N, 3] of the map as it is shown then."""
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    count = len(clouds)
    change = Edit.Request(operation=request.param, text="blue", scale=1.0)
    change.moved.rotation.w = 1.0
    change.moved.translation.x, change.moved.translation.y, change.moved.translation.z = BY
    response = robot.call(Edit, "/feature_map/edit", change)
    assert response.answer.state == Answer.FOUND, response.answer.message
    wait_until(lambda: len(clouds) > count, what="the edited map")
    yield points_of(clouds[-1])
    assert edit(robot, DO.UNDO).undo == ""


def rows(points: np.ndarray) -> set[tuple[int, ...]]:
    """Points [M, 3] to a tenth of a millimetre."""
    return {tuple(point) for point in np.round(points * 1e4).astype(int).tolist()}


def click(robot: Robot, place: np.ndarray, camera: str = "") -> QueryPoints.Response:
    """Click at a place of the map frame, or at where the camera's last image has it."""
    request = QueryPoints.Request(header=Header(frame_id="map"), points=[Point(x=place[0], y=place[1], z=place[2])])
    if camera:
        at = LAST[:3, :3] @ place + LAST[:3, 3]
        u, v = CAMERA.fx * at[0] / at[2] + CAMERA.cx - 0.5, CAMERA.fy * at[1] / at[2] + CAMERA.cy - 0.5
        request = QueryPoints.Request(camera=camera, points=[Point(x=u, y=v)])
    return robot.call(QueryPoints, "/feature_map/query_points", request)


def transfer(robot: Robot) -> TransferAffordance.Response:
    request = TransferAffordance.Request(k=5, smooth=True)
    return robot.call(TransferAffordance, "/feature_map/transfer_affordance", request)


def xyz(point: object) -> np.ndarray:
    return np.array([getattr(point, axis) for axis in "xyz"])


TOP = np.array(BLOCKS["blue"][0]) + [0.0, 0.0, BLOCKS["blue"][1][2] / 2]


@pytest.mark.parametrize("edited", [DO.MOVE], indirect=True)
@pytest.mark.parametrize("camera", ["", "camera"])
def test_a_click_finds_a_moved_thing_where_it_is_shown(robot, edited, camera):
    response = click(robot, TOP + BY, camera)
    assert response.answer.state == Answer.FOUND, response.answer.message
    np.testing.assert_allclose(xyz(response.points[0]), TOP + BY, atol=0.006)
    np.testing.assert_allclose(
        xyz(response.detections.detections[0].bbox.center.position), np.array(BLOCKS["blue"][0]) + BY, atol=0.015
    )
    assert rows(points_of(response.cloud)) <= rows(edited)


@pytest.mark.parametrize("edited", [DO.DELETE], indirect=True)
def test_a_click_goes_through_what_was_deleted(robot, edited):
    before = click(robot, TOP, "camera")
    assert xyz(before.points[0])[2] < 0.06  # what is left of the block, or the table
    assert rows(points_of(before.cloud)) <= rows(edited)


@pytest.mark.parametrize("edited", [DO.DELETE], indirect=True)
def test_no_affordance_is_found_on_what_was_deleted(robot, edited):
    assert rows(points_of(transfer(robot).cloud)) <= rows(edited)  # a rim that no view saw well may be left


@pytest.mark.parametrize("edited", [DO.MOVE], indirect=True)
def test_an_affordance_is_found_where_the_thing_was_moved_to(robot, edited):
    response = transfer(robot)
    assert response.answer.state == Answer.FOUND, response.answer.message
    (region,) = (region for region in response.regions if region.region_id == 1)
    expected = np.array(BLOCKS["blue"][0]) + BY
    np.testing.assert_allclose(xyz(region.pose.position), expected, atol=0.01)
    np.testing.assert_allclose(xyz(region.centroid), expected, atol=0.01)
    assert 0.9 < region.coverage <= 1
    assert rows(points_of(response.cloud)) <= rows(edited)


@pytest.mark.parametrize("edited", [DO.DELETE, DO.MOVE], indirect=True)
def test_the_picture_of_a_mask_shows_the_edited_map(robot, edited):
    """Its pixels are blue in the picture of colours from the same pose."""
    asked = {"pose": pose_message(*transform_of(LAST)), "camera_info": info_message(CAMERA, 0), "text": "blue"}
    images = [
        robot.call(RenderView, "/feature_map/render_view", RenderView.Request(content=content, **asked)).image
        for content in (RenderView.Request.MASK, RenderView.Request.COLOR)
    ]
    mask, color = pixels_of(images[0], np.uint8)[:, :, 0] > 0, pixels_of(images[1], np.uint8, 3).astype(int)
    assert len(edited)
    blue = color @ [-1, -1, 2] > 120
    assert (mask & ~blue).sum() <= 0.1 * mask.sum(), (mask.sum(), blue.sum())
