"""Several cameras with lenses and compression, queues that overflow, time that jumps back, grids from another host."""

from __future__ import annotations

import array
import time
from dataclasses import replace

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.camera import Distortion
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.io.messages.transform import stamp_ns
from feature_gs_ros.msg import Answer, FeatureGrid
from feature_gs_ros.rasterizer import view
from feature_gs_ros.srv import QueryPoints, QueryText, RenderView, Save
from ros.gate import Gate
from ros.harness import ACTIVATE, CONFIGURE, LATCHED, RELIABLE, Robot, Starter, Watch, info_message, wait_until
from ros.scene import CAMERA, SPLAT_FROM_MAP, camera_from_map, take_picture, transform_of
from ros.test_streaming import set_parameter

BARREL = replace(CAMERA, distortion=Distortion("plumb_bob", (-0.3, 0.08, 0.0, 0.0, 0.0)))


def distorted(picture: np.ndarray) -> np.ndarray:
    """The picture as the barrel lens would take it; black beyond what the straight picture shows."""
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width].astype(np.float32)
    matrix = CAMERA.matrix
    matrix[:2, 2] -= 0.5
    coefficients = np.array(BARREL.distortion.coefficients)
    points = cv2.undistortPoints(np.stack([u, v], -1).reshape(-1, 1, 2), matrix, coefficients, P=matrix)
    straight = points.reshape(CAMERA.height, CAMERA.width, 2).astype(np.float32)
    return cv2.remap(picture, straight[:, :, 0], straight[:, :, 1], cv2.INTER_LINEAR)


def lift(gaussians, bend) -> FeatureField:
    """The field of both cameras' frames, with what ``bend`` makes of the front camera's straight pictures."""
    extractor = make_extractor("color", cell=4)
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension)
    for k in range(16):
        pose = camera_from_map(k / 16)
        picture = take_picture(gaussians, pose)
        seen = view(gaussians, CAMERA, SPLAT_FROM_MAP.camera_from_splat(pose))
        projector.add(seen, extractor.extract(bend(picture) if k < 8 else picture))
    return projector.field()


def differing(one: FeatureField, other: FeatureField) -> float:
    """Share of the Gaussians whose colours differ by more than ΔE 5."""
    return float(((one.features - other.features).norm(dim=1) > 5).float().mean())


def test_two_cameras_one_with_a_lens_one_compressed(robot, start: Starter, gaussians):
    start.active(
        cameras=["front", "wrist"],
        front__image="front/image",
        front__camera_info="front/camera_info",
        wrist__image="wrist/image",
        wrist__camera_info="wrist/camera_info",
        wrist__input="compressed",
    )
    front = robot.node.create_publisher(Image, "front/image", RELIABLE)
    front_info = robot.node.create_publisher(CameraInfo, "front/camera_info", RELIABLE)
    wrist = robot.node.create_publisher(CompressedImage, "wrist/image/compressed", RELIABLE)
    wrist_info = robot.node.create_publisher(CameraInfo, "wrist/camera_info", RELIABLE)
    wait_until(lambda: all(p.get_subscription_count() for p in (front, front_info, wrist, wrist_info)))
    watch = Watch(robot)
    front_info.publish(info_message(BARREL, robot.now()))
    wrist_info.publish(info_message(CAMERA, robot.now()))
    robot.images = front
    for k in range(8):
        pose = camera_from_map(k / 16)
        robot.publish_posed(distorted(take_picture(gaussians, pose)), pose, frame="front_optical")
        pose = camera_from_map(0.5 + k / 16)
        stamp = robot.now()
        robot.publish_tf(stamp, *transform_of(pose), child="wrist_optical")
        picture = CompressedImage(format="jpeg")
        picture.header.stamp, picture.header.frame_id = Time(nanoseconds=stamp).to_msg(), "wrist_optical"
        _, data = cv2.imencode(".jpg", take_picture(gaussians, pose)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        picture.data = array.array("B", data.tobytes())
        wrist.publish(picture)
    assert watch.outcome(16) == (16, {})
    stamp = robot.now()
    robot.publish_tf(stamp, *transform_of(camera_from_map(0.03)), child="wrist_optical")
    picture.header.stamp, picture.data = Time(nanoseconds=stamp).to_msg(), picture.data[:2000]
    wrist.publish(picture)
    used, left_out = watch.outcome(1)
    assert used == 0
    assert "JPEG" in next(iter(left_out))
    blue = robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="blue"))
    assert blue.answer.state == Answer.FOUND
    box = blue.detections.detections[0].bbox
    np.testing.assert_allclose(
        [box.center.position.x, box.center.position.y, box.center.position.z], [0.15, -0.03, 0.04], atol=0.01
    )
    np.testing.assert_allclose(sorted([box.size.x, box.size.y, box.size.z]), [0.06, 0.08, 0.1], atol=0.02)
    field = _saved(robot, start)
    straight, raw = (lift(gaussians, bend) for bend in (lambda picture: picture, distorted))
    assert differing(field, straight) < 0.02 < 0.1 < differing(field, raw)  # the lens was taken out
    frames = field.provenance.frames
    assert sum(name.endswith("_front") for name in frames) == 8
    assert sum(name.endswith("_wrist") for name in frames) == 8


def test_pixels_of_images_smaller_than_camera_info_says_are_their_own(robot, start: Starter, gaussians):
    """A node that halves images may leave their camera_info alone."""
    start.active()
    robot = robot_with_default_topics(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.infos.publish(info_message(CAMERA.resized(2 * CAMERA.width, 2 * CAMERA.height), robot.now()))
    pose = camera_from_map(0.2)
    robot.publish_posed(take_picture(gaussians, pose), pose)
    assert watch.outcome(1) == (1, {})
    picture = robot.call(RenderView, "/feature_map/render_view", RenderView.Request(camera="camera")).image
    assert (picture.width, picture.height) == (CAMERA.width, CAMERA.height)
    at = pose[:3, :3] @ np.array([-0.15, 0.0, 0.1]) + pose[:3, 3]  # the middle of the red block's top
    u, v = CAMERA.fx * at[0] / at[2] + CAMERA.cx - 0.5, CAMERA.fy * at[1] / at[2] + CAMERA.cy - 0.5
    later = robot.now() + 1_000_000
    robot.publish_tf(later, *transform_of(pose))
    for stamp in (0, later):  # the last frame's, and one that tf knows
        request = QueryPoints.Request(camera="camera", points=[Point(x=u, y=v)])
        request.header.stamp = Time(nanoseconds=stamp).to_msg()
        answers = []

        def found(request=request, answers=answers) -> bool:
            answers.append(robot.call(QueryPoints, "/feature_map/query_points", request))
            return answers[-1].answer.state == Answer.FOUND

        wait_until(found, what="an answer at the stamp")
        place = answers[-1].points[0]
        np.testing.assert_allclose([place.x, place.y, place.z], [-0.15, 0.0, 0.1], atol=0.006)


def test_a_full_queue_drops_the_oldest_and_counts_them(robot, start: Starter, gaussians):
    start.active(queue_size=3)
    robot = robot_with_default_topics(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    stamps = []
    for k in range(8):  # tf is late, so all of them wait
        stamps.append(robot.now())
        robot.publish_image(take_picture(gaussians, camera_from_map(k / 8)), stamps[-1])
        time.sleep(0.02)
    reason = "queue was full: the oldest frame was dropped"
    wait_until(lambda: any(c.reason == reason and c.count == 5 for c in watch.statuses[-1].frames_skipped))
    for k, stamp in enumerate(stamps):
        robot.publish_tf(stamp, *transform_of(camera_from_map(k / 8)))
    assert watch.outcome(8) == (3, {reason: 5})
    assert _saved(robot, start).provenance.frames == tuple(str(stamp) for stamp in stamps[-3:])


def test_a_looped_recording_under_sim_time_goes_on(robot, start: Starter, gaussians):
    """Without clearing tf, a stamp of the first round lies before what the buffer holds of the second."""
    node = start.active(use_sim_time=True)
    robot = robot_with_default_topics(robot)
    clock = robot.node.create_publisher(Clock, "/clock", RELIABLE)
    wait_until(lambda: robot.images.get_subscription_count() == 1 and clock.get_subscription_count() == 1)
    watch = Watch(robot)
    begin = 1_700_000_000_000_000_000
    for lap in range(2):
        robot.publish_info(begin)
        for k in range(6):
            stamp = begin + k * 5_000_000_000  # a recording longer than tf's memory of 10 s
            clock.publish(Clock(clock=Time(nanoseconds=stamp).to_msg()))
            if lap and k == 0:  # before the new tf comes
                wait_until(lambda: "the clock went back" in node.log.read_text(), what="the jump")
            pose = camera_from_map(k / 6 + lap / 12)
            robot.publish_tf(stamp, *transform_of(pose))
            robot.publish_image(take_picture(gaussians, pose), stamp)
            assert watch.outcome(1) == (1, {}), f"lap {lap}, frame {k}"


def test_a_looped_recording_without_a_clock_goes_on(robot, start: Starter, gaussians):
    """The stamps show it; what of tf came before the first image of the second lap is lost, and counted."""
    start.active(tf_timeout=5.0)
    robot = robot_with_default_topics(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    begin = robot.now() - 60_000_000_000
    robot.publish_info(begin)
    for lap in range(2):
        for k in range(4):
            pose = camera_from_map(k / 4 + lap / 8)
            stamp = begin + k * 5_000_000_000
            robot.publish_image(take_picture(gaussians, pose), stamp)
            time.sleep(0.1)
            robot.publish_tf(stamp, *transform_of(pose))
        used, left_out = watch.outcome(4)
        assert used >= 4 - lap, left_out
        assert used + sum(left_out.values()) == 4


def test_a_frame_that_time_jumps_over_in_the_extractor_leaves_no_trace(robot, start: Starter, gaussians, tmp_path):
    """Or all frames of the new lap would be older than the last one that was taken, and refused."""
    gate = Gate(tmp_path)
    node = gate.active(start)
    robot = robot_with_default_topics(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    end = robot.now()
    robot.publish_info(end)
    gate.shut("extract")
    robot.publish_tf(end, *transform_of(camera_from_map(0.9)))
    robot.publish_image(take_picture(gaussians, camera_from_map(0.9)), end)
    gate.wait()
    stamps = [end - 60_000_000_000 + 100_000_000 * k for k in range(5)]
    robot.publish_image(take_picture(gaussians, camera_from_map(0.0)), stamps[0])
    wait_until(lambda: "went back" in node.log.read_text(), what="the jump")  # which clears tf
    for k, stamp in enumerate(stamps):
        robot.publish_tf(stamp, *transform_of(camera_from_map(k / 5)))
        if k > 0:
            robot.publish_image(take_picture(gaussians, camera_from_map(k / 5)), stamp)
    gate.open()
    assert watch.outcome(6) == (5, {"time jumped back": 1})
    assert _saved(robot, start).provenance.frames == tuple(str(stamp) for stamp in stamps)
    request = RenderView.Request(camera="camera")  # from where the last frame was taken
    header = robot.call(RenderView, "/feature_map/render_view", request).image.header
    assert stamp_ns(header.stamp) == stamps[-1]


def test_the_extractor_may_run_on_another_host(robot, start: Starter, gaussians):
    """feature_extractor makes grids of images; feature_map takes them, reliably, and never sees an image."""
    extractor = start.program("feature_extractor", extractor="color", extractor_options="{cell: 4}")
    start.active(camera__input="grid", camera__image="/feature_extractor/features", image_reliability="best_effort")
    assert robot.change_state(CONFIGURE, "/feature_extractor"), extractor.log.read_text()
    assert robot.change_state(ACTIVATE, "/feature_extractor"), extractor.log.read_text()
    robot = robot_with_default_topics(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1 and robot.infos.get_subscription_count() == 2)
    grids = robot.collect(FeatureGrid, "/feature_extractor/features", RELIABLE)
    watch = Watch(robot)
    for k in range(6):
        pose = camera_from_map(k / 6)
        robot.publish_posed(take_picture(gaussians, pose), pose)
        if k == 0:  # an image that overtakes the calibration is not lost
            robot.publish_info(robot.now())
        wait_until(lambda count=k + 1: len(grids) == count, what="a grid")
    assert watch.outcome(6) == (6, {})
    ends = robot.node.get_publishers_info_by_topic("/feature_extractor/features")
    ends += robot.node.get_subscriptions_info_by_topic("/feature_extractor/features")
    assert [end.qos_profile.reliability for end in ends] == [ReliabilityPolicy.RELIABLE] * 3  # the test's own is one
    grid = grids[0]
    assert (grid.rows, grid.columns, grid.dimension) == (30, 40, 3)
    assert (grid.width, grid.height, len(grid.data)) == (160, 120, 30 * 40 * 3 * 2)
    assert grid.extractor.name == "color"
    red = robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="red"))
    assert red.answer.state == Answer.FOUND
    # A grid of another extractor, or one whose sizes lie, is counted.
    again = robot.node.create_publisher(FeatureGrid, "/feature_extractor/features", RELIABLE)
    wait_until(lambda: again.get_subscription_count() >= 2)
    for change in ({"rows": 31}, {"extractor": "other"}, {"interpolation": 7}, {"right": -1.0}):
        pose, stamp = camera_from_map(0.04 + 0.01 * len(change)), robot.now()
        robot.publish_tf(stamp, *transform_of(pose))
        bad = FeatureGrid(
            width=160, height=120, rows=30, columns=40, dimension=3, right=1.0, bottom=1.0, extractor=grid.extractor
        )
        bad.header.stamp, bad.header.frame_id, bad.data = Time(nanoseconds=stamp).to_msg(), "camera", grid.data
        if "extractor" in change:
            bad.extractor = type(grid.extractor)(name="other")
        else:
            setattr(bad, *next(iter(change.items())))
        again.publish(bad)
        used, left_out = watch.outcome(1)
        assert used == 0
        assert "grid" in next(iter(left_out)), left_out


def robot_with_default_topics(robot: Robot) -> Robot:
    robot.images = robot.node.create_publisher(Image, "image", RELIABLE)
    return robot


def _saved(robot: Robot, start: Starter) -> FeatureField:
    assert robot.call(Save, "/feature_map/save", Save.Request(path="now.safetensors")).success
    field = FeatureField.load(start.data / "now.safetensors")
    assert field.provenance.splat_from_map.scale == SPLAT_FROM_MAP.scale
    return field


def test_no_pose_is_interpolated_across_a_silence_of_tf(robot, start: Starter, gaussians):
    start.active()
    robot = robot_with_default_topics(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    begin = robot.now()
    robot.publish_info(begin)
    pose = camera_from_map(0.2)
    for after in (0, 100, 4100, 4200):  # ms; silent for four seconds
        robot.publish_tf(begin + after * 1_000_000, *transform_of(pose))
    for after in range(200, 4100, 100):  # what tf2 refuses is no sign of life
        robot.publish_tf(begin + after * 1_000_000, [np.nan, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])
    for after in (50, 2000):
        robot.publish_image(take_picture(gaussians, pose), begin + after * 1_000_000)
    assert watch.outcome(2) == (1, {"tf of 'camera' was silent for longer than tf_max_gap": 1})
    for name, value in (("tf_max_gap", 5.0), ("keyframe.max_interval", 0.001)):
        assert set_parameter(robot, name, value) == ""
    robot.publish_image(take_picture(gaussians, pose), begin + 2_500_000_000)
    assert watch.outcome(1) == (1, {})


def test_a_static_transform_that_changes_while_running_is_reported(robot, start: Starter):
    node = start.active()
    kept = QoSProfile(depth=10, reliability=LATCHED.reliability, durability=LATCHED.durability)  # all three messages
    static = robot.node.create_publisher(TFMessage, "/tf_static", kept)
    wait_until(lambda: static.get_subscription_count() >= 1)
    for x in (0.1, 0.1, 0.2):
        transform = TransformStamped()
        transform.header.frame_id, transform.child_frame_id = "base", "mount"
        transform.transform.translation.x, transform.transform.rotation.w = x, 1.0
        static.publish(TFMessage(transforms=[transform]))
    wait_until(lambda: "the static transform of 'mount' changed" in node.log.read_text(), what="the report")
    assert node.log.read_text().count("the static transform of") == 1


def test_qos_overrides_count_for_images_and_calibration(robot, start: Starter):
    overrides = {
        "image.subscription.reliability": "best_effort",
        "camera_info.subscription.durability": "transient_local",
    }
    start.active(**{f"qos_overrides./{name}": value for name, value in overrides.items()})

    def quality(topic: str) -> list[QoSProfile]:
        return [info.qos_profile for info in robot.node.get_subscriptions_info_by_topic(topic)]

    wait_until(lambda: quality("/image") and quality("/camera_info"), what="the subscriptions")
    (image,), (calibration,) = quality("/image"), quality("/camera_info")
    assert image.reliability == ReliabilityPolicy.BEST_EFFORT
    assert image.durability == DurabilityPolicy.VOLATILE
    assert calibration.reliability == ReliabilityPolicy.RELIABLE  # as image_reliability says
    assert calibration.durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_diagnostics_judge_the_last_period(robot, start: Starter, gaussians):
    start.active(diagnostics__period=2.0, tf_timeout=0.5)
    robot = robot_with_default_topics(robot)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    reports = robot.collect(DiagnosticArray, "/diagnostics", 10)
    robot.publish_info(robot.now())
    picture = take_picture(gaussians, camera_from_map(0.0))
    wait_until(lambda: reports, what="a report")

    def used() -> bool:
        values = {entry.key: entry.value for entry in reports[-1].status[0].values}
        return int(values["frames used"]) > 0

    def level() -> bytes:
        return reports[-1].status[0].level

    at = iter(np.linspace(0.05, 0.95, 1000))

    def well() -> bool:
        robot.publish_posed(picture, camera_from_map(next(at)))
        time.sleep(0.1)
        return used() and level() == DiagnosticStatus.OK

    wait_until(well, what="OK while frames are used")

    def lost() -> bool:
        robot.publish_image(picture, robot.now())  # without tf
        time.sleep(0.1)
        return level() == DiagnosticStatus.ERROR

    wait_until(lost, what="ERROR once tf is lost, whatever was before")
    wait_until(well, what="OK again")
