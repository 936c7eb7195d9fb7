"""Questions to a map that has learned: words, clicks, examples, pictures; and every question that can't be answered."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rclpy
from ament_index_python.packages import get_package_prefix
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from feature_gs_ros.core.errors import NoTransformError, ParameterError, PromptError
from feature_gs_ros.io.messages.point_cloud import FIELDS
from feature_gs_ros.msg import Answer
from feature_gs_ros.rasterizer import view
from feature_gs_ros.ros.convert.plain import MapAnswer, Outcome
from feature_gs_ros.srv import QueryExample, QueryText, RenderView
from ros.harness import EVENT, LATCHED, Robot, Starter, Watch, image_message, info_message, wait_until
from ros.scene import BLOCKS, CAMERA, SPACING, SPLAT_FROM_MAP, camera_from_map, take_picture, transform_of

VIEWS = 12


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


def ask(robot: Robot, text: str, **options: object) -> QueryText.Response:
    return robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text=text, **options))


def values(cloud: PointCloud2) -> np.ndarray:
    """Fields of a cloud by name, read by ROS's own reader."""
    return point_cloud2.read_points(cloud)


def points_of(cloud: PointCloud2) -> np.ndarray:
    read = values(cloud)
    return np.stack([read["x"], read["y"], read["z"]], axis=1).astype(float)


def test_words_give_a_cloud_and_a_box_in_the_map_frame(robot):
    response = ask(robot, "red")
    answer = response.answer
    assert answer.state == Answer.FOUND
    assert answer.views == VIEWS
    assert 0.9 < answer.coverage <= 1
    assert [step.step for step in answer.timing] == ["snapshot", "similarity", "objects", "cloud", "publish"]
    assert all(step.seconds >= 0 for step in answer.timing)
    cloud = response.cloud
    assert tuple(field.name for field in cloud.fields) == FIELDS
    assert all(field.datatype == PointField.FLOAT32 and field.count == 1 for field in cloud.fields)
    assert (cloud.header.frame_id, cloud.height, cloud.point_step) == ("map", 1, 4 * len(FIELDS))
    center, size, color = BLOCKS["red"]
    read, points = values(cloud), points_of(cloud)
    assert (np.abs(points - center) <= np.array(size) / 2 + SPACING).all()
    for axis in "xyz":
        np.testing.assert_allclose(read[f"scale_{axis}"], 0.55 * SPACING, rtol=1e-4)  # metres, not splat units
        np.testing.assert_allclose(read[f"rot_{axis}"], 0, atol=1e-5)
    np.testing.assert_allclose(np.abs(read["rot_w"]), 1, atol=1e-5)
    np.testing.assert_allclose(read["opacity"], 0.95, atol=1e-4)
    packed = read["rgb"].copy().view(np.uint32)
    assert np.median(packed) == color[0] << 16 | color[1] << 8 | color[2]  # some of the table's may pass, too
    assert (read["similarity"] > 0.7).all()
    detection = response.detections.detections[0]
    assert detection.results[0].hypothesis.class_id == "red"
    assert 0.7 < detection.results[0].hypothesis.score <= 1
    place, extent = detection.bbox.center.position, detection.bbox.size
    np.testing.assert_allclose([place.x, place.y, place.z], center, atol=0.008)
    np.testing.assert_allclose(sorted([extent.x, extent.y, extent.z]), sorted(size), atol=0.012)


def test_the_topics_tell_a_late_subscriber_the_last_answer(robot):
    response = ask(robot, "blue")
    clouds = robot.collect(PointCloud2, "/feature_map/segmented_cloud", LATCHED)
    objects = robot.collect(Detection3DArray, "/feature_map/objects", LATCHED)
    markers = robot.collect(MarkerArray, "/feature_map/markers", LATCHED)
    wait_until(lambda: clouds and objects and markers, what="latched answers")
    assert clouds[-1].data == response.cloud.data
    assert objects[-1] == response.detections
    box = next(marker for marker in markers[-1].markers if marker.type == Marker.CUBE)
    assert (box.pose, box.scale) == (objects[-1].detections[0].bbox.center, objects[-1].detections[0].bbox.size)
    assert any("blue" in marker.text for marker in markers[-1].markers)
    assert ask(robot, "yellow").answer.state == Answer.NOT_FOUND
    wait_until(lambda: clouds[-1].width == 0 and not objects[-1].detections, what="the empty answer")
    assert clouds[-1].header.frame_id == "map"


def test_the_whole_map_is_latched_too(robot, gaussians):
    clouds = robot.collect(PointCloud2, "/feature_map/map_cloud", LATCHED)
    wait_until(lambda: clouds)
    assert clouds[0].width == len(gaussians)


def test_the_camera_frame_cloud_is_the_same_cloud_seen_from_the_last_frame(robot):
    clouds = robot.collect(PointCloud2, "/feature_map/segmented_cloud/camera_frame", EVENT)
    wait_until(lambda: robot.node.count_publishers("/feature_map/segmented_cloud/camera_frame") == 1)
    wait_until(lambda: bool(ask(robot, "green").cloud.width) and clouds, what="a cloud in the camera's frame")
    cloud = clouds[-1]
    assert cloud.header.frame_id == "camera"
    map_from_camera = np.linalg.inv(camera_from_map((VIEWS - 1) / VIEWS))
    back = points_of(cloud) @ map_from_camera[:3, :3].T + map_from_camera[:3, 3]
    np.testing.assert_allclose(back, points_of(ask(robot, "green").cloud), atol=1e-5)


def test_what_is_not_there_is_not_found(robot):
    response = ask(robot, "orange")
    assert response.answer.state == Answer.NOT_FOUND
    assert response.cloud.width == 0
    assert not response.detections.detections


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (QueryText.Request(text=""), "empty"),
        (QueryText.Request(text="  \t "), "empty"),
        (QueryText.Request(text="m" * 1001), "1001 characters"),
        (QueryText.Request(text="red\x07"), "can't be printed"),
        (QueryText.Request(text="rad"), "red"),  # names what comes close
        (QueryText.Request(text="red", negatives=[""]), "empty"),
        (QueryText.Request(text="red", negatives=["blue"] * 101), "101 negatives"),
        (QueryText.Request(text="red", threshold=float("nan")), "threshold"),
        (QueryText.Request(text="red", threshold=1.5), "threshold"),
        (QueryText.Request(text="red", threshold=-0.5), "threshold"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_answered_invalid(robot, request_, complaint):
    answer = robot.call(QueryText, "/feature_map/query_text", request_).answer
    assert answer.state == Answer.INVALID
    assert complaint in answer.message


def test_a_prompt_that_is_not_utf8_is_answered_invalid(robot):
    """Python's client sends no such bytes, so rcl does, under it."""
    asking = rclpy.create_node("asking_in_bytes", context=robot.context)  # spun by nobody: its response is taken here
    client = asking.create_client(QueryText, "/feature_map/query_text")
    assert client.wait_for_service(60)
    interfaces = ctypes.CDLL(
        str(Path(get_package_prefix("feature_gs_ros")) / "lib" / "libfeature_gs_ros__rosidl_generator_c.so")
    )
    create = interfaces.feature_gs_ros__srv__QueryText_Request__create
    create.restype = ctypes.c_void_p
    request = create()
    assign = ctypes.CDLL("librosidl_runtime_c.so").rosidl_runtime_c__String__assign
    assign.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    assert assign(request, b"red \xff\xfe mug")  # text is the request's first field
    send = ctypes.CDLL("librcl.so").rcl_send_request
    send.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)]

    def ask_in_bytes() -> QueryText.Response | None:
        """The response, None where none comes within a second: the node may not know the client yet."""
        with client.handle:
            assert send(client.handle.pointer, request, ctypes.byref(ctypes.c_int64())) == 0
        for _ in range(20):
            time.sleep(0.05)
            with client.handle:
                _, response = client.handle.take_response(QueryText.Response)
            if response is not None:
                return response
        return None

    answer = wait_until(ask_in_bytes, 60, "an answer to a prompt that is not UTF-8").answer
    asking.destroy_node()
    assert answer.state == Answer.INVALID
    assert "UTF-8" in answer.message


RED_TOP = (-0.15, 0.0, 0.1)  # the middle of the red block's top


def pixel(place: Sequence[float], pose: np.ndarray) -> tuple[float, float]:
    """Of a place in the map frame, seen from a pose; (0, 0) is the top left pixel's centre."""
    at = pose[:3, :3] @ np.array(place) + pose[:3, 3]
    return CAMERA.fx * at[0] / at[2] + CAMERA.cx - 0.5, CAMERA.fy * at[1] / at[2] + CAMERA.cy - 0.5


def test_a_click_in_the_map_frame_finds_the_thing(client):
    answer = client.click([RED_TOP])
    assert answer
    np.testing.assert_allclose(answer.points[0], RED_TOP, atol=1e-5)
    np.testing.assert_allclose(answer.objects[0].center[:2], [-0.15, 0.0], atol=0.01)


def test_a_click_in_another_frame_goes_through_tf(client):
    pose = camera_from_map((VIEWS - 1) / VIEWS)
    answer = client.click([pose[:3, :3] @ np.array(RED_TOP) + pose[:3, 3]], frame_id="camera")
    assert answer
    np.testing.assert_allclose(answer.points[0], RED_TOP, atol=1e-5)


def test_a_click_in_the_image_finds_the_thing_through_the_weights(client):
    answer = client.click([pixel(RED_TOP, camera_from_map((VIEWS - 1) / VIEWS))], camera="camera")
    assert answer
    np.testing.assert_allclose(answer.points[0], RED_TOP, atol=0.006)
    assert answer.objects[0].center[0] == pytest.approx(-0.15, abs=0.01)


def test_a_click_beside_the_map_is_not_found(client):
    answer = client.click([(3.0, 3.0, 3.0)])
    assert answer.outcome is Outcome.NOT_FOUND
    assert np.isnan(answer.points[0]).all()


@pytest.mark.parametrize(
    ("points", "options", "kind", "complaint"),
    [
        ([], {}, PromptError, "0 points"),
        ([RED_TOP] * 101, {}, PromptError, "101 points"),
        ([(np.nan, 0, 0)], {}, PromptError, "not finite"),
        ([RED_TOP], {"frame_id": ""}, PromptError, "frame_id is empty"),
        ([RED_TOP], {"frame_id": "nowhere"}, NoTransformError, "nowhere"),
        ([(10, 10)], {"camera": "other"}, ParameterError, "no camera 'other'"),
        ([(-5, 10)], {"camera": "camera"}, PromptError, "outside the image"),
        ([(np.nan, 10)], {"camera": "camera"}, PromptError, "outside the image"),
        ([RED_TOP], {"threshold": 3.0}, PromptError, "threshold"),
    ],
)
def test_a_click_that_cannot_be_asked_is_refused_with_the_reason(client, points, options, kind, complaint):
    with pytest.raises(kind, match=complaint):
        client.click(points, **options)


def test_an_example_finds_what_looks_like_it(client):
    crop = np.full((20, 30, 3), BLOCKS["green"][2], np.uint8)
    assert client.ask_example(crop).objects[0].center[1] == pytest.approx(0.12, abs=0.01)
    half = np.full((40, 40, 3), BLOCKS["blue"][2], np.uint8)
    half[:, :20] = BLOCKS["red"][2]
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    assert client.ask_example(half, mask).objects[0].center[0] == pytest.approx(-0.15, abs=0.01)


def show(robot: Robot, image, mask=None) -> QueryExample.Response:
    request = QueryExample.Request(image=image)
    if mask is not None:
        request.mask = mask
    return robot.call(QueryExample, "/feature_map/query_example", request)


def test_an_example_that_cannot_be_used_is_answered_invalid(robot):
    """Messages that the client doesn't send."""
    picture = image_message(np.zeros((20, 30, 3), np.uint8), 0)
    for image, mask, complaint in (
        (image_message(np.zeros((0, 0, 3), np.uint8), 0), None, "0×0"),
        (image_message(np.zeros((20, 30, 3), np.uint8), 0, encoding="32FC1"), None, "32FC1"),
        (picture, image_message(np.ones((5, 6), np.uint8), 0, encoding="mono8"), "6×5"),
        (picture, image_message(np.zeros((20, 30), np.uint8), 0, encoding="mono8"), "marks nothing"),
    ):
        answer = show(robot, image, mask).answer
        assert answer.state == Answer.INVALID
        assert complaint in answer.message


def render(robot: Robot, content: int, pose=None, info=None, frame: str = "map", **options: object):
    request = RenderView.Request(content=content, **options)
    if pose is not None:
        place, turn = transform_of(pose)
        request.pose = pose_message(place, turn, frame)
    if info is not None:
        request.camera_info = info
    return robot.call(RenderView, "/feature_map/render_view", request)


def pose_message(place, quat_wxyz, frame: str = "map") -> PoseStamped:
    pose = PoseStamped(header=Header(frame_id=frame))
    position, turn = pose.pose.position, pose.pose.orientation
    position.x, position.y, position.z = (float(v) for v in place)
    turn.w, turn.x, turn.y, turn.z = (float(v) for v in quat_wxyz)
    return pose


def pixels_of(image, kind: type, channels: int = 1) -> np.ndarray:
    return np.frombuffer(image.data, kind).reshape(image.height, image.width, channels)


def test_pictures_of_a_pose(robot, gaussians):
    pose, info = camera_from_map(0.3), info_message(CAMERA, 0)
    color = render(robot, RenderView.Request.COLOR, pose, info)
    assert color.answer.state == Answer.FOUND
    assert (color.image.encoding, color.image.header.frame_id) == ("rgb8", "map")
    np.testing.assert_allclose(pixels_of(color.image, np.uint8, 3), take_picture(gaussians, pose), atol=1)
    depth = pixels_of(render(robot, RenderView.Request.DEPTH, pose, info).image, np.float32)[:, :, 0]
    expected = view(gaussians, CAMERA, SPLAT_FROM_MAP.camera_from_splat(pose)).render_depth().numpy()
    solid = expected[:, :, 1] > 0.9
    metres = expected[:, :, 0] / np.maximum(expected[:, :, 1], 1e-6) / SPLAT_FROM_MAP.scale
    np.testing.assert_allclose(depth[solid], metres[solid], rtol=1e-3)
    assert 0.3 < np.nanmin(depth) < np.nanmax(depth) < 1.2
    assert np.isnan(depth[expected[:, :, 1] < 0.4]).all()
    features = render(robot, RenderView.Request.FEATURES, pose, info).image
    assert (features.encoding, len(features.data)) == ("rgb8", 160 * 120 * 3)
    similarity = pixels_of(render(robot, RenderView.Request.SIMILARITY, pose, info, text="red").image, np.float32)
    mask = pixels_of(render(robot, RenderView.Request.MASK, pose, info, text="red").image, np.uint8)[:, :, 0] > 0
    reddish = (take_picture(gaussians, pose).astype(int) @ [1, -1, -1]) > 60
    assert (mask & reddish).sum() / (mask | reddish).sum() > 0.8
    assert similarity[mask].min() > 0.7


def test_a_picture_without_a_pose_is_the_cameras_last(robot, gaussians):
    response = render(robot, RenderView.Request.COLOR, camera="camera")
    last = camera_from_map((VIEWS - 1) / VIEWS)
    np.testing.assert_allclose(pixels_of(response.image, np.uint8, 3), take_picture(gaussians, last), atol=1)
    assert response.image.header.frame_id == "camera"


def test_a_picture_that_cannot_be_made_is_answered_invalid(robot):
    pose, info = camera_from_map(0.3), info_message(CAMERA, 0)
    no_focus = info_message(CAMERA, 0, k=[0.0, 0.0, 80.0, 0.0, 140.0, 60.0, 0.0, 0.0, 1.0])
    for options, complaint in (
        ({"pose": pose}, "neither camera nor camera_info"),
        ({"pose": pose, "info": no_focus}, "focal length"),
        ({"pose": pose, "info": CameraInfo(width=640, height=480)}, "no calibration"),
        ({"pose": pose, "info": info_message(CAMERA, 0, width=100_000, height=100_000)}, "too large"),
        ({"pose": pose, "info": info, "frame": "nowhere"}, "nowhere"),
        ({"info": info}, "no pose"),
        ({"pose": pose, "info": info, "content": 9}, "content 9"),
        ({"pose": pose, "info": info, "content": RenderView.Request.MASK}, "empty"),
        ({"camera": "other"}, "no camera 'other'"),
    ):
        answer = render(robot, **{"content": RenderView.Request.COLOR, **options}).answer
        assert answer.state == Answer.INVALID, options
        assert complaint in answer.message
    for place, turn in (((np.nan, 0, 0), (1, 0, 0, 0)), ((0, 0, 1), (0, 0, 0, 0))):
        request = RenderView.Request(camera_info=info, pose=pose_message(place, turn))
        answer = robot.call(RenderView, "/feature_map/render_view", request).answer
        assert answer.state == Answer.INVALID
        assert "NaN" in answer.message


def test_clicks_take_tf_at_the_stamp_of_the_image(robot, client):
    """A later pose of the camera must not move what was clicked."""
    stamp = robot.now()
    old, new = camera_from_map(0.2), camera_from_map(0.7)
    robot.publish_tf(stamp, *transform_of(old))
    robot.publish_tf(stamp + 500_000_000, *transform_of(new))

    def found() -> MapAnswer | None:
        try:
            return client.click([pixel(RED_TOP, old)], camera="camera", stamp_ns=stamp)
        except NoTransformError:  # tf is still on its way
            return None

    np.testing.assert_allclose(wait_until(found, what="tf at the stamp").points[0], RED_TOP, atol=0.006)
