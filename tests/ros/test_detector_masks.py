"""A detector's label images on a topic, with the names of their values, become a segmented map."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rclpy.time import Time
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray, LabelInfo, ObjectHypothesisWithPose, VisionClass

from feature_gs_ros.msg import Answer
from feature_gs_ros.srv import QueryText
from ros.harness import ACTIVATE, CONFIGURE, LATCHED, RELIABLE, Robot, Starter, Watch, image_message, wait_until
from ros.scene import BLOCKS, camera_from_map, take_picture, transform_of

VIEWS = 10
CLASSES = "{classes: {0: background, 1: red block, 2: green block}}"
NUMBERS = {"red": 700, "green": 9}  # the detector's own


def labels_of(picture: np.ndarray) -> np.ndarray:
    """What a detector finds in a picture, [H, W] uint16."""
    red, green, blue = (picture[:, :, channel].astype(int) for channel in range(3))
    labels = np.zeros(picture.shape[:2], np.uint16)
    labels[(red > 1.5 * green) & (red > 1.5 * blue)] = NUMBERS["red"]
    labels[(green > 1.5 * red) & (green > 1.5 * blue)] = NUMBERS["green"]
    return labels


def info_of(names: dict[int, str]) -> LabelInfo:
    return LabelInfo(class_map=[VisionClass(class_id=value, class_name=name) for value, name in names.items()])


def detections_of(names: dict[int, str], stamp: int) -> Detection2DArray:
    message = Detection2DArray()
    message.header.stamp = Time(nanoseconds=stamp).to_msg()
    for value, name in names.items():
        detection = Detection2D(id=str(value))
        for score, claim in ((0.2, "something else"), (0.7, name)):
            result = ObjectHypothesisWithPose()
            result.hypothesis.class_id, result.hypothesis.score = claim, score
            detection.results.append(result)
        message.detections.append(detection)
    return message


def fly(robot: Robot, gaussians, labels, detections=None, names: dict[int, str] | None = None) -> None:
    begin = robot.now()
    robot.publish_info(begin)
    for k in range(VIEWS):
        pose, stamp = camera_from_map(k / VIEWS), begin + 10_000_000 * k
        picture = take_picture(gaussians, pose)
        robot.publish_tf(stamp, *transform_of(pose))
        robot.publish_image(picture, stamp)
        time.sleep(0.05)  # a detector is later than its image
        labels.publish(image_message(labels_of(picture), stamp, encoding="mono16"))
        if detections is not None:
            detections.publish(detections_of(names or {}, stamp))


def ask(robot: Robot, text: str):
    return robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text=text))


def place_of(response) -> np.ndarray:
    place = response.detections.detections[0].bbox.center.position
    return np.array([place.x, place.y, place.z])


@pytest.mark.parametrize("named_by", ["labels_info", "labels_detections"])
def test_label_images_become_a_segmented_map(robot, start: Starter, gaussians, named_by):
    start.active(
        extractor="labels", extractor_options=CLASSES, tf_timeout=5.0, camera__labels_topic="/labels",
        **{f"camera__{named_by}": "/label_names"},
    )  # fmt: skip
    names = {NUMBERS["red"]: "red block", NUMBERS["green"]: "green block"}
    labels = robot.node.create_publisher(Image, "/labels", RELIABLE)
    detections = None
    if named_by == "labels_info":
        latched = robot.node.create_publisher(LabelInfo, "/label_names", LATCHED)
        latched.publish(info_of(names))
    else:
        detections = robot.node.create_publisher(Detection2DArray, "/label_names", RELIABLE)
        wait_until(lambda: detections.get_subscription_count() == 1)
    watch = Watch(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1 and labels.get_subscription_count() == 1)
    fly(robot, gaussians, labels, detections, names)
    assert watch.outcome(VIEWS) == (VIEWS, {})
    for name in ("red", "green"):
        response = ask(robot, f"{name} block")
        assert response.answer.state == Answer.FOUND
        np.testing.assert_allclose(place_of(response), BLOCKS[name][0], atol=0.02)
    assert ask(robot, "stethoscope").answer.state == Answer.INVALID


def test_a_frame_without_labels_is_not_used_and_bad_labels_are_named(robot, start: Starter, gaussians):
    start.active(extractor="labels", extractor_options=CLASSES, tf_timeout=1.0, camera__labels_topic="/labels")
    labels = robot.node.create_publisher(Image, "/labels", RELIABLE)
    watch = Watch(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1 and labels.get_subscription_count() == 1)
    pose = camera_from_map(0.0)
    picture = take_picture(gaussians, pose)
    robot.publish_info(robot.now())
    robot.publish_posed(picture, pose)
    assert watch.outcome(1) == (0, {"no labels on '/labels' within tf_timeout": 1})
    stamp = robot.publish_posed(picture, pose)
    labels.publish(image_message(picture, stamp))
    used, left_out = watch.outcome(1)
    assert used == 0
    assert "encoding 'rgb8'" in next(iter(left_out))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"camera__labels_topic": "/labels"}, "is for the extractor labels, not for 'color'"),
        ({"camera__labels_info": "/names"}, "camera.labels_topic, which is empty"),
        ({"camera__labels_topic": "/labels", "camera__input": "grid"}, "features of its own"),
    ],
)
def test_parameters_that_contradict_are_named(robot, start: Starter, parameters, message):
    node = start.feature_map(**parameters)
    wait_until(lambda: not node.running or robot.serves(), 180, "the node's services")
    assert not (robot.change_state(CONFIGURE) and robot.change_state(ACTIVATE))
    assert message in node.log.read_text()
