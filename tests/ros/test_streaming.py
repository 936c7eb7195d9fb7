"""Live images into the map: tf at their stamps, encodings, calibrations, keyframes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.msg import Answer
from feature_gs_ros.rasterizer import view
from feature_gs_ros.srv import QueryText, RenderView, Save
from ros.harness import NodeProcess, Robot, Starter, Watch, wait_until
from ros.scene import CAMERA, SPLAT_FROM_MAP, camera_from_map, take_picture, transform_of


@pytest.fixture(scope="module")
def node(start_once: Starter) -> NodeProcess:
    return start_once.active(tf_timeout=3.0)


@pytest.fixture(scope="module")
def watch_once(robot: Robot, node: NodeProcess) -> Watch:
    wait_until(lambda: robot.images.get_subscription_count() == 1 and robot.infos.get_subscription_count() == 1)
    assert node.running
    return Watch(robot)


@pytest.fixture
def watch(robot: Robot, watch_once: Watch, node: NodeProcess) -> Watch:
    """A field without views, a good calibration, and counts from here."""
    assert robot.call(Trigger, "/feature_map/reset", Trigger.Request()).success
    robot.publish_info(robot.now())
    watch_once.mark()
    yield watch_once
    assert node.running


def set_parameter(robot: Robot, name: str, value: float) -> str:
    """Of feature_map; the refusal's reason, empty where it was taken."""
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return robot.call(SetParameters, "/feature_map/set_parameters", request).results[0].reason


def saved_field(robot: Robot, start_once: Starter) -> FeatureField:
    response = robot.call(Save, "/feature_map/save", Save.Request(path="now.safetensors"))
    assert response.success, response.message
    return FeatureField.load(start_once.data / "now.safetensors")


def lifted(gaussians, poses: dict[str, np.ndarray], pictures: dict[str, np.ndarray]) -> FeatureField:
    """The field of these frames, made here by the library."""
    extractor = make_extractor("color", cell=4)
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension)
    for name, pose in poses.items():
        seen = view(gaussians, CAMERA, SPLAT_FROM_MAP.camera_from_splat(pose))
        projector.add(seen, extractor.extract(pictures[name]), None, name)
    return projector.field()


def test_the_map_learns_what_the_library_learns_from_the_same_frames(robot, watch, start_once, gaussians):
    poses, pictures = {}, {}
    for k in range(12):
        pose = camera_from_map(k / 12)
        picture = take_picture(gaussians, pose)
        name = str(robot.publish_posed(picture, pose))
        poses[name], pictures[name] = pose, picture
    assert watch.outcome(12) == (12, {})
    answer = robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="red"))
    assert answer.answer.state == Answer.FOUND
    assert answer.answer.views == 12
    field, expected = saved_field(robot, start_once), lifted(gaussians, poses, pictures)
    assert field.provenance.frames == tuple(poses)  # in order, each once
    for known, (name, pose) in zip(field.provenance.views, poses.items(), strict=True):  # which side is outside
        assert known.name == name
        np.testing.assert_allclose(known.camera_from_splat, SPLAT_FROM_MAP.camera_from_splat(pose), atol=1e-6)
    torch.testing.assert_close(field.view_count, expected.view_count)
    torch.testing.assert_close(field.features, expected.features, atol=1e-2, rtol=1e-3)


def test_frames_wait_for_tf_and_take_it_interpolated_at_their_stamp(robot, watch, start_once, gaussians):
    """tf comes after the image, on both sides of its stamp; between them the camera moves."""
    middle = camera_from_map(0.25)
    place, turn = transform_of(middle)
    stamp = robot.now()
    robot.publish_image(take_picture(gaussians, middle), stamp)
    offset = np.array([0.06, -0.02, 0.03])
    robot.publish_tf(stamp - 20_000_000, place - offset, turn)
    with pytest.raises(AssertionError):
        watch.outcome(1, timeout=0.4)  # the newest tf is not taken instead
    robot.publish_tf(stamp + 20_000_000, place + offset, turn)
    assert watch.outcome(1) == (1, {})
    field = saved_field(robot, start_once)
    expected = lifted(gaussians, {"a": middle}, {"a": take_picture(gaussians, middle)})
    agree = field.view_count == expected.view_count
    assert float(agree.float().mean()) > 0.999
    seen = agree & expected.seen
    torch.testing.assert_close(field.features[seen], expected.features[seen], atol=0.5, rtol=1e-2)


def test_tf_that_never_comes_is_counted_by_its_frames(robot, watch, gaussians):
    robot.publish_image(take_picture(gaussians, camera_from_map(0)), robot.now(), frame="nowhere")
    assert watch.outcome(1) == (0, {"no tf from 'map' to 'nowhere' within tf_timeout": 1})


def test_a_pose_that_is_not_finite_never_becomes_a_view(robot, watch, gaussians):
    stamp = robot.now()
    robot.publish_tf(stamp, [np.nan, 0, 0], [1, 0, 0, 0], child="camera_nan")
    robot.publish_image(take_picture(gaussians, camera_from_map(0)), stamp, frame="camera_nan")
    assert watch.outcome(1) == (0, {"no tf from 'map' to 'camera_nan' within tf_timeout": 1})


def test_an_image_without_a_stamp_is_counted(robot, watch, gaussians):
    robot.publish_image(take_picture(gaussians, camera_from_map(0)), 0)
    assert watch.outcome(1) == (0, {"image without a stamp": 1})


ENCODINGS = {
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: rgb[:, :, ::-1],
    "rgba8": lambda rgb: np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]),
    "bgra8": lambda rgb: np.dstack([rgb[:, :, ::-1], np.full(rgb.shape[:2], 255, np.uint8)]),
    "8UC3": lambda rgb: rgb[:, :, ::-1],
    "8UC4": lambda rgb: np.dstack([rgb[:, :, ::-1], np.full(rgb.shape[:2], 255, np.uint8)]),
    "rgb16": lambda rgb: rgb.astype(np.uint16) * 257,
    "bgr16": lambda rgb: rgb[:, :, ::-1].astype(np.uint16) * 257,
    "rgba16": lambda rgb: np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]).astype(np.uint16) * 257,
    "bgra16": lambda rgb: np.dstack([rgb[:, :, ::-1], np.full(rgb.shape[:2], 255, np.uint8)]).astype(np.uint16) * 257,
    "mono8": lambda rgb: rgb[:, :, 1],
    "8UC1": lambda rgb: rgb[:, :, 1],
    "mono16": lambda rgb: rgb[:, :, 1].astype(np.uint16) * 257,
    "bayer_rggb8": lambda rgb: rgb[:, :, 1],
    "bayer_bggr8": lambda rgb: rgb[:, :, 1],
    "bayer_gbrg8": lambda rgb: rgb[:, :, 1],
    "bayer_grbg8": lambda rgb: rgb[:, :, 1],
    "bayer_rggb16": lambda rgb: rgb[:, :, 1].astype(np.uint16) * 257,
    "bayer_bggr16": lambda rgb: rgb[:, :, 1].astype(np.uint16) * 257,
    "bayer_gbrg16": lambda rgb: rgb[:, :, 1].astype(np.uint16) * 257,
    "bayer_grbg16": lambda rgb: rgb[:, :, 1].astype(np.uint16) * 257,
    "uyvy": lambda rgb: rgb[:, :, :2],
    "yuv422": lambda rgb: rgb[:, :, :2],
    "yuyv": lambda rgb: rgb[:, :, :2],
    "yuv422_yuy2": lambda rgb: rgb[:, :, :2],
    "nv21": lambda rgb: rgb[:, :, 1].repeat(2, axis=0)[: rgb.shape[0] * 3 // 2],
}
NO_PICTURES = ("16UC1", "32FC1", "64FC1", "16SC1", "32SC1", "8SC1", "32FC3", "nv24", "", "no such encoding")


def test_every_encoding_that_ros_knows_is_used_or_counted_by_name(robot, watch, gaussians):
    rgb = take_picture(gaussians, camera_from_map(0))
    for k, (encoding, convert) in enumerate(ENCODINGS.items()):
        pixels = np.ascontiguousarray(convert(rgb))
        robot.publish_posed(pixels, camera_from_map(k / 30), encoding=encoding, height=rgb.shape[0])
    assert watch.outcome(len(ENCODINGS)) == (len(ENCODINGS), {})
    for k, encoding in enumerate(NO_PICTURES):
        robot.publish_posed(rgb, camera_from_map(k / 20), encoding=encoding)
    expected = {f"encoding '{encoding}' is not an image that can be read": 1 for encoding in NO_PICTURES}
    assert watch.outcome(len(NO_PICTURES)) == (0, expected)


def test_an_image_with_too_few_bytes_is_counted(robot, watch, gaussians):
    rgb = take_picture(gaussians, camera_from_map(0))
    robot.publish_posed(rgb[:50], camera_from_map(0), height=rgb.shape[0])
    used, left_out = watch.outcome(1)
    assert used == 0
    assert "bytes" in next(iter(left_out))


def test_a_calibration_that_cannot_be_used_is_counted_and_a_good_one_mends_it(robot, watch, gaussians):
    rgb = take_picture(gaussians, camera_from_map(0))
    bad = {
        "focal length": {"k": [0.0, 0.0, 80.0, 0.0, 140.0, 60.0, 0.0, 0.0, 1.0]},
        "no K": {"k": [0.0] * 9},
        "not finite": {"k": [float("nan"), 0.0, 80.0, 0.0, 140.0, 60.0, 0.0, 0.0, 1.0]},
        "distortion model": {"distortion_model": "of my own", "d": [0.1, 0.0, 0.0, 0.0, 0.0]},
        "camera_info describes 333×222": {"width": 333, "height": 222},
    }

    def heard(complaint: str) -> bool:
        """Images and calibrations come by two topics, in any order."""
        request = RenderView.Request(camera="camera")
        return complaint in robot.call(RenderView, "/feature_map/render_view", request).answer.message

    for k, (complaint, changes) in enumerate(bad.items()):
        robot.publish_info(robot.now(), **changes)
        wait_until(lambda complaint=complaint: heard(complaint), what="the calibration")
        robot.publish_posed(rgb, camera_from_map(k / 10))
        used, left_out = watch.outcome(1)
        assert used == 0
        assert complaint in next(iter(left_out)), left_out
    robot.publish_info(robot.now())
    wait_until(lambda: not any(heard(complaint) for complaint in bad), what="the good calibration")
    robot.publish_posed(rgb, camera_from_map(0))
    assert watch.outcome(1) == (1, {})


def test_a_still_camera_gives_one_frame_until_it_moves_turns_or_time_passes(robot, watch, gaussians):
    pose = camera_from_map(0.1)
    picture = take_picture(gaussians, pose)
    still = "camera moved less than keyframe.translation and keyframe.rotation"
    for _ in range(3):
        robot.publish_posed(picture, pose)
    assert watch.outcome(3) == (1, {still: 2})
    moved, turned = pose.copy(), pose.copy()
    moved[:3, 3] += [0.025, 0.0, 0.0]  # keyframe.translation is 0.02
    robot.publish_posed(picture, moved)
    assert watch.outcome(1) == (1, {})
    turned[:3, :3] = cv2.Rodrigues(np.array([0.0, np.radians(2.5), 0.0]))[0] @ moved[:3, :3]
    turned[:3, 3] = cv2.Rodrigues(np.array([0.0, np.radians(2.5), 0.0]))[0] @ moved[:3, 3]
    robot.publish_posed(picture, turned)
    assert watch.outcome(1) == (1, {})
    assert set_parameter(robot, "keyframe.max_interval", 0.1) == ""
    robot.publish_posed(picture, turned)
    assert watch.outcome(1) == (1, {})
    assert set_parameter(robot, "keyframe.max_interval", 0.0) == ""
    assert set_parameter(robot, "keyframe.min_interval", 100.0) == ""
    robot.publish_posed(picture, pose)
    assert watch.outcome(1) == (0, {"sooner than keyframe.min_interval": 1})
    assert set_parameter(robot, "keyframe.min_interval", 0.0) == ""


@pytest.mark.usefixtures("watch")
def test_a_parameter_out_of_range_is_refused_with_the_range(robot):
    assert "Min: 0.0, Max: 1.0" in set_parameter(robot, "keyframe.rotation", 2.0)
    assert "Min: 0.0, Max: 60.0" in set_parameter(robot, "tf_timeout", -1.0)
    assert "read-only" in set_parameter(robot, "status_rate", 5.0)
