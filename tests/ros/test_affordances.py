"""Parts that afford something: marked on a picture or on the camera's last frame, found on the map, kept on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rclpy.time import Time
from sensor_msgs.msg import RegionOfInterest
from sensor_msgs_py import point_cloud2
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from feature_gs_ros.affordance import Library
from feature_gs_ros.io.messages.point_cloud import FIELDS
from feature_gs_ros.msg import Answer
from feature_gs_ros.srv import AddAffordance, TransferAffordance
from ros.harness import LATCHED, Robot, Starter, Watch, image_message, wait_until
from ros.scene import BLOCKS, camera_from_map, take_picture

VIEWS = 12
LAST = camera_from_map((VIEWS - 1) / VIEWS)
LIBRARY = "parts.safetensors"


@pytest.fixture(scope="module")
def stamps(start_once: Starter, robot: Robot, gaussians) -> list[int]:
    """Of the frames of a node that has learned, the last one's too."""
    start_once.active(affordances=LIBRARY)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    poses = [camera_from_map(k / VIEWS) for k in range(VIEWS)]
    stamps = [robot.publish_posed(take_picture(gaussians, pose), pose) for pose in poses]
    assert watch.outcome(VIEWS) == (VIEWS, {})
    return stamps


@pytest.fixture(autouse=True)
def _no_library(stamps, start_once: Starter):
    """Each test begins with an empty library, and the node lives."""
    assert stamps
    (start_once.data / LIBRARY).unlink(missing_ok=True)
    yield
    assert all(node.running for node in start_once.started)


def add(robot: Robot, **request: object) -> AddAffordance.Response:
    return robot.call(AddAffordance, "/feature_map/add_affordance", AddAffordance.Request(**request))


def transfer(robot: Robot, **request: object) -> TransferAffordance.Response:
    options = {"k": 5, "smooth": True, **request}
    return robot.call(TransferAffordance, "/feature_map/transfer_affordance", TransferAffordance.Request(**options))


def block_in_the_picture(gaussians, name: str) -> np.ndarray:
    """Where a block is in the last frame, [H, W] bool."""
    picture = take_picture(gaussians, LAST).astype(float)
    chroma = picture - picture.mean(axis=2, keepdims=True)
    color = np.array(BLOCKS[name][2], float)
    direction = (color - color.mean()) / np.linalg.norm(color - color.mean())
    length = np.linalg.norm(chroma, axis=2)
    return (length > 25) & (chroma @ direction > 0.9 * length)


def mark(robot: Robot, gaussians, name: str, stamp: int = 0, **request: object) -> AddAffordance.Response:
    """Mark a block on the camera's last frame."""
    mask = image_message(block_in_the_picture(gaussians, name).astype(np.uint8) * 255, stamp, encoding="mono8")
    return add(robot, **{"affordance": f"{name} part", "camera": "camera", "mask": mask, **request})


def test_what_is_marked_on_the_last_frame_is_found_with_a_pose_for_a_gripper(robot, gaussians, stamps, start_once):
    response = mark(robot, gaussians, "blue", stamps[-1], object="brick")
    assert (response.answer.state, response.sources) == (Answer.FOUND, 1), response.answer.message
    assert [step.step for step in response.answer.timing] == ["image", "embed", "save"]
    response = transfer(robot)
    assert response.answer.state == Answer.FOUND, response.answer.message
    assert response.answer.views == VIEWS
    region = response.regions[0]
    center, size, _ = BLOCKS["blue"]
    assert (region.region_id, region.affordance_id, region.affordance) == (1, 1, "blue part")
    place, turn = region.pose.position, region.pose.orientation
    np.testing.assert_allclose([place.x, place.y, place.z], center, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm([turn.w, turn.x, turn.y, turn.z]), 1, atol=1e-6)
    np.testing.assert_allclose(sorted([region.size.x, region.size.y, region.size.z]), sorted(size), atol=0.015)
    approach = np.array([region.approach.x, region.approach.y, region.approach.z])
    assert np.linalg.norm(approach) == pytest.approx(1, abs=1e-5)
    major = 2 * np.array(  # first column of the rotation
        [0.5 - turn.y**2 - turn.z**2, turn.x * turn.y + turn.w * turn.z, turn.x * turn.z - turn.w * turn.y]
    )
    assert abs(approach @ major) < 1e-3  # at right angles to it
    assert min(size) - 0.01 < region.gripper_width < np.linalg.norm(size) + 0.02
    assert approach[2] < 0.2  # not from below: it stands on the table
    assert 0.9 < region.coverage <= 1
    assert 0.9 < region.similarity <= 1
    assert Library.load(start_once.data / LIBRARY).sources[0].object == "brick"


def test_cloud_boxes_and_arrows_of_two_affordances(robot):
    box = RegionOfInterest(x_offset=20, y_offset=10, width=20, height=20)
    for sources, name in enumerate(("red", "blue"), start=1):
        picture = np.full((40, 60, 3), 128, np.uint8)
        picture[10:30, 20:40] = BLOCKS[name][2]
        response = add(robot, affordance=f"{name} part", image=image_message(picture, 0), box=box)
        assert (response.answer.state, response.sources) == (Answer.FOUND, sources)
    response = transfer(robot)
    named = {region.affordance: region for region in response.regions}
    assert set(named) == {"red part", "blue part"}
    for block, region in (("red", named["red part"]), ("blue", named["blue part"])):
        place = region.pose.position
        np.testing.assert_allclose([place.x, place.y, place.z], BLOCKS[block][0], atol=0.012)
    assert tuple(field.name for field in response.cloud.fields) == (*FIELDS, "affordance_id", "region_id")
    assert response.cloud.header.frame_id == "map"
    cloud = point_cloud2.read_points(response.cloud)
    for region in response.regions:
        of_region = cloud[cloud["region_id"] == region.region_id]
        assert len(of_region) > 50
        assert (of_region["affordance_id"] == region.affordance_id).all()
        centroid = [of_region[axis].mean() for axis in "xyz"]  # all opacities are equal here
        np.testing.assert_allclose(centroid, [getattr(region.centroid, axis) for axis in "xyz"], atol=1e-4)
    objects = robot.collect(Detection3DArray, "/feature_map/objects", LATCHED)
    markers = robot.collect(MarkerArray, "/feature_map/markers", LATCHED)
    wait_until(lambda: objects and markers, what="latched answers")
    assert [d.results[0].hypothesis.class_id for d in objects[-1].detections] == [
        r.affordance for r in response.regions
    ]
    arrows = [marker for marker in markers[-1].markers if marker.ns == "approaches"]
    assert len(arrows) == len(response.regions)
    assert all(arrow.type == Marker.ARROW for arrow in arrows)
    for arrow, region in zip(arrows, response.regions, strict=True):
        start, end = (np.array([point.x, point.y, point.z]) for point in arrow.points)
        np.testing.assert_allclose(end, [getattr(region.pose.position, axis) for axis in "xyz"], atol=1e-6)
        direction = (end - start) / np.linalg.norm(end - start)
        np.testing.assert_allclose(direction, [getattr(region.approach, axis) for axis in "xyz"], atol=1e-5)
    only = transfer(robot, affordance="blue part")
    assert {region.affordance for region in only.regions} == {"blue part"}


def test_the_search_can_be_limited_to_what_words_find(robot, gaussians):
    mark(robot, gaussians, "red")
    response = transfer(robot, object_text="red")
    assert response.answer.state == Answer.FOUND
    response = transfer(robot, object_text="green")
    assert response.answer.state == Answer.NOT_FOUND
    assert not response.regions
    assert response.cloud.width == 0
    response = transfer(robot, object_text="orange")
    assert response.answer.state == Answer.NOT_FOUND
    assert "'orange'" in response.answer.message


def test_a_mask_of_another_frame_is_refused(robot, gaussians, stamps):
    answer = mark(robot, gaussians, "red", stamps[0]).answer
    assert answer.state == Answer.INVALID
    assert "send the image along" in answer.message
    assert "library is empty" in transfer(robot).answer.message


def test_a_library_of_another_extractor_is_refused_and_kept(robot, gaussians, start_once):
    mark(robot, gaussians, "red")
    path = start_once.data / LIBRARY
    library = Library.load(path)
    replace(library, extractor=replace(library.extractor, name="imagenet")).save(path)
    before = path.read_bytes()
    for answer in (mark(robot, gaussians, "red").answer, transfer(robot).answer):
        assert answer.state == Answer.INVALID
        assert "extractor" in answer.message
    path.write_bytes(before[:500])
    assert mark(robot, gaussians, "red").answer.state == Answer.INVALID
    assert path.read_bytes() == before[:500]


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"affordance": ""}, "0 characters"),
        ({"affordance": "../x"}, "file name"),
        ({"affordance": "h" * 101}, "101 characters"),
        ({"object": "a/b"}, "file name"),
        ({"camera": "other"}, "no camera 'other'"),
        ({"box": RegionOfInterest()}, "nothing is marked"),
        ({"box": RegionOfInterest(x_offset=500, width=9, height=9)}, "no pixel"),
        ({"mask": image_message(np.ones((5, 6), np.uint8), 0, encoding="mono8")}, "6×5"),
        ({"mask": image_message(np.zeros((20, 30), np.uint8), 0, encoding="mono8")}, "marks nothing"),
        ({"mask": image_message(np.ones((20, 30), np.uint8), 0, encoding="of my own")}, "of my own"),
        ({"image": image_message(np.zeros((0, 0, 3), np.uint8), 0)}, "0×0"),
    ],
)
def test_a_picture_that_cannot_be_added_is_answered_invalid(robot, start_once, request_, complaint):
    picture = image_message(np.zeros((20, 30, 3), np.uint8), 0)
    box = RegionOfInterest(x_offset=2, y_offset=2, width=9, height=9)
    answer = add(robot, **{"affordance": "handle", "image": picture, "box": box, **request_}).answer
    assert answer.state == Answer.INVALID
    assert complaint in answer.message
    assert not (start_once.data / LIBRARY).exists()


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"k": 101}, "k is 101"),
        ({"floor": 1.5}, "floor"),
        ({"floor": float("nan")}, "floor"),
        ({"affordance": "lid"}, "it has red part"),
        ({"object_text": "rad"}, "red"),
        ({"object_text": "m" * 1001}, "1001 characters"),
    ],
)
def test_a_transfer_that_cannot_be_asked_is_answered_invalid(robot, gaussians, request_, complaint):
    assert mark(robot, gaussians, "red").sources == 1
    answer = transfer(robot, **request_).answer
    assert answer.state == Answer.INVALID
    assert complaint in answer.message


def test_no_k_is_the_default(robot, gaussians):
    assert mark(robot, gaussians, "red").sources == 1
    by_default, asked = transfer(robot, k=0), transfer(robot, k=5)
    assert by_default.answer.state == Answer.FOUND, by_default.answer.message
    for region in (*by_default.regions, *asked.regions):
        region.header.stamp = Time().to_msg()  # they are two answers
    assert by_default.regions == asked.regions


def test_a_floor_lets_everything_abstain(robot):
    patch = np.full((30, 30, 3), BLOCKS["green"][2], np.uint8)
    box = RegionOfInterest(width=15, height=30)
    assert add(robot, affordance="part", image=image_message(patch // 2, 0), box=box).sources == 1
    response = transfer(robot, floor=1.0)
    assert response.answer.state == Answer.NOT_FOUND
    assert "abstain" in response.answer.message
