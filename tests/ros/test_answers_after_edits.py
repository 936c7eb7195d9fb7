"""After an edit every answer is of the map as it is shown: nothing names what is gone, or where things were."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2

from feature_gs_ros import FeatureMapClient
from feature_gs_ros.ros.convert.plain import MapAnswer
from ros.harness import LATCHED, Robot, Starter, info_message, wait_until
from ros.scene import BLOCKS, CAMERA, camera_from_map
from ros.test_affordances import block_in_the_picture
from ros.test_lifecycle import teach
from ros.test_queries import points_of

VIEWS = 12
LAST = camera_from_map((VIEWS - 1) / VIEWS)
BY = np.array([0.0, 0.1, 0.05])  # m that the blue block is moved


@pytest.fixture(scope="module")
def _learned(start_once: Starter, robot: Robot, client: FeatureMapClient, gaussians):
    """A node that has learned, with the blue block marked as an affordance."""
    node = start_once.active()
    teach(robot, gaussians, VIEWS)
    assert client.add_affordance("grip", block_in_the_picture(gaussians, "blue"), camera="camera") == 1
    yield
    assert node.running


@pytest.fixture
def edited(robot: Robot, client: FeatureMapClient, _learned, request) -> np.ndarray:
    """The edit that the test asks for, undone after it; points [N, 3] of the map as it is shown then."""
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    count = len(clouds)
    if request.param == "move":
        client.move("blue", BY)
    else:
        client.delete("blue")
    wait_until(lambda: len(clouds) > count, what="the edited map")
    yield points_of(clouds[-1])
    assert client.undo().undo == ""


def rows(points: np.ndarray) -> set[tuple[int, ...]]:
    """Points [M, 3] to a tenth of a millimetre."""
    return {tuple(point) for point in np.round(points * 1e4).astype(int).tolist()}


def click(client: FeatureMapClient, place: np.ndarray, camera: str = "") -> MapAnswer:
    """Click at a place of the map frame, or at where the camera's last image has it."""
    if not camera:
        return client.click([place])
    at = LAST[:3, :3] @ place + LAST[:3, 3]
    u, v = CAMERA.fx * at[0] / at[2] + CAMERA.cx - 0.5, CAMERA.fy * at[1] / at[2] + CAMERA.cy - 0.5
    return client.click([[u, v]], camera=camera)


def cloud_rows(answer: MapAnswer) -> set[tuple[int, ...]]:
    """The same of an answer's cloud."""
    return rows(np.stack([answer.cloud[axis] for axis in "xyz"], axis=1).astype(float))


TOP = np.array(BLOCKS["blue"][0]) + [0.0, 0.0, BLOCKS["blue"][1][2] / 2]


@pytest.mark.parametrize("edited", ["move"], indirect=True)
@pytest.mark.parametrize("camera", ["", "camera"])
def test_a_click_finds_a_moved_thing_where_it_is_shown(client, edited, camera):
    answer = click(client, TOP + BY, camera)
    assert answer, answer.message
    np.testing.assert_allclose(answer.points[0], TOP + BY, atol=0.006)
    np.testing.assert_allclose(answer.objects[0].center, np.array(BLOCKS["blue"][0]) + BY, atol=0.015)
    assert cloud_rows(answer) <= rows(edited)


@pytest.mark.parametrize("edited", ["delete"], indirect=True)
def test_a_click_goes_through_what_was_deleted(client, edited):
    answer = click(client, TOP, "camera")
    assert answer.points[0][2] < 0.06  # what is left of the block, or the table
    assert cloud_rows(answer) <= rows(edited)


@pytest.mark.parametrize("edited", ["delete"], indirect=True)
def test_no_affordance_is_found_on_what_was_deleted(client, edited):
    assert cloud_rows(client.find_affordances(k=5)) <= rows(edited)  # a rim that no view saw well may be left


@pytest.mark.parametrize("edited", ["move"], indirect=True)
def test_an_affordance_is_found_where_the_thing_was_moved_to(client, edited):
    answer = client.find_affordances(k=5)
    assert answer, answer.message
    region = answer.regions[0]
    expected = np.array(BLOCKS["blue"][0]) + BY
    np.testing.assert_allclose(region.center, expected, atol=0.01)
    np.testing.assert_allclose(region.centroid, expected, atol=0.01)
    assert 0.9 < region.coverage <= 1
    assert cloud_rows(answer) <= rows(edited)


@pytest.mark.parametrize("edited", ["delete", "move"], indirect=True)
def test_the_picture_of_a_mask_shows_the_edited_map(client, edited):
    """Its pixels are blue in the picture of colours from the same pose."""
    asked = {"map_from_camera": np.linalg.inv(LAST), "camera_info": info_message(CAMERA, 0)}
    mask = client.render("mask", text="blue", **asked) > 0
    color = client.render("color", **asked).astype(int)
    assert len(edited)
    blue = color @ [-1, -1, 2] > 120
    assert (mask & ~blue).sum() <= 0.1 * mask.sum(), (mask.sum(), blue.sum())
