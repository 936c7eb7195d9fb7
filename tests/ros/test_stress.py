"""Under stress: long answers beside a fast stream, subscribers that don't read, snapshots while views are added."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from std_srvs.srv import Trigger

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.msg import Answer
from feature_gs_ros.rasterizer import view
from feature_gs_ros.srv import QueryText, RenderView, Save
from ros.harness import Robot, Starter, Watch, info_message, wait_until
from ros.scene import CAMERA, SPLAT_FROM_MAP, camera_from_map, take_picture
from ros.test_queries import pose_message, transform_of


@pytest.fixture(scope="module")
def node(start_once: Starter, robot: Robot):
    node = start_once.active(queue_size=100)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    return node


@pytest.fixture
def watch(robot: Robot, node) -> Watch:
    assert robot.call(Trigger, "/feature_map/reset", Trigger.Request()).success
    watch = Watch(robot)
    robot.publish_info(robot.now())
    yield watch
    assert node.running


def test_a_long_answer_costs_a_30_hz_stream_no_message(robot, watch, gaussians):
    """Every image is seen, and counted, while a huge picture is rendered; without groups of their own they'd wait."""
    picture = take_picture(gaussians, camera_from_map(0))
    width = 4080  # as large as it may be
    camera = CAMERA.resized(width, width * 3 // 4)
    request = RenderView.Request(content=RenderView.Request.COLOR, camera_info=info_message(camera, 0))
    request.pose = pose_message(*transform_of(camera_from_map(0.1)))
    seconds: list[float] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            begin = time.monotonic()
            answer = robot.call(RenderView, "/feature_map/render_view", request, 60).answer
            assert answer.state == Answer.FOUND
            seconds.append(time.monotonic() - begin)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    sent, begin = 0, time.monotonic()
    during: list[int] = []
    while sent < 150 or not seconds:
        robot.publish_posed(picture, camera_from_map(sent / 150))
        sent += 1
        during.append(watch.statuses[-1].frames_seen - watch.before.frames_seen)
        time.sleep(max(0.0, begin + sent / 30 - time.monotonic()))
    stop.set()
    asking.join()
    used, left_out = watch.outcome(sent, 60)
    longest = max(seconds)
    assert longest > 0.5, f"the answers took {seconds} s, too short to tell"
    assert used + sum(left_out.values()) == sent
    assert set(left_out) <= {"queue was full: the oldest frame was dropped"}
    # They were seen while the answers were made, not afterwards: then most of an answer's time would be missing.
    behind = [k + 1 - seen for k, seen in enumerate(during)]
    assert np.percentile(behind, 95) < max(10, 0.6 * 30 * longest), (longest, behind)


VIEWS = 60  # while it is saved

SILENT_SUBSCRIBER = """
import sys, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy, DurabilityPolicy
from sensor_msgs.msg import PointCloud2
rclpy.init()
node = rclpy.create_node("silent")
latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(PointCloud2, "/feature_map/map_cloud", lambda _: None, latched)
node.create_subscription(PointCloud2, "/feature_map/segmented_cloud", lambda _: None, latched)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_a_subscriber_that_never_reads_blocks_nothing(robot, watch, gaussians, frozen):
    """Neither one that doesn't spin, nor one whose process is stopped, so that nothing is acknowledged."""
    silent = subprocess.Popen(
        [sys.executable, "-c", SILENT_SUBSCRIBER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    )
    try:
        assert silent.stdout.readline() == b"ready\n"
        wait_until(lambda: robot.node.count_subscribers("/feature_map/map_cloud") >= 1)
        if frozen:
            silent.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        for k in range(6):
            assert robot.call(Trigger, "/feature_map/republish", Trigger.Request(), 10).success
            robot.publish_posed(take_picture(gaussians, camera_from_map(k / 6)), camera_from_map(k / 6))
            answer = robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="red"), 10).answer
            assert answer.state in (Answer.FOUND, Answer.NOT_OBSERVED, Answer.NOT_FOUND)
        assert watch.outcome(6) == (6, {})
        assert time.monotonic() - begin < 8
    finally:
        silent.send_signal(signal.SIGCONT)
        silent.kill()
        silent.wait()


def test_what_is_saved_while_views_are_added_is_of_whole_views(robot, watch, gaussians, start_once):
    poses: dict[str, np.ndarray] = {}
    saved: list[FeatureField] = []
    stop = threading.Event()

    def keep_saving() -> None:
        while not stop.is_set():
            path = f"during_{len(saved)}.safetensors"
            assert robot.call(Save, "/feature_map/save", Save.Request(path=path)).success
            saved.append(FeatureField.load(start_once.data / path))

    saving = threading.Thread(target=keep_saving)
    pictures = [take_picture(gaussians, camera_from_map(k / VIEWS)) for k in range(VIEWS)]
    saving.start()
    for k, picture in enumerate(pictures):
        pose = camera_from_map(k / VIEWS)
        poses[str(robot.publish_posed(picture, pose))] = pose
        time.sleep(0.01)
    assert watch.outcome(VIEWS) == (VIEWS, {})
    stop.set()
    saving.join()
    extractor = make_extractor("color", cell=4)
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension)
    counts = {0: torch.zeros(len(gaussians), dtype=torch.int32)}
    for number, (pose, picture) in enumerate(zip(poses.values(), pictures, strict=True), start=1):
        seen = view(gaussians, CAMERA, SPLAT_FROM_MAP.camera_from_splat(pose))
        projector.add(seen, extractor.extract(picture))
        counts[number] = projector.field().view_count
    sizes = [len(field.provenance.frames) for field in saved]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) >= 5, sizes
    for field in saved:
        assert field.provenance.frames == tuple(poses)[: len(field.provenance.frames)]
        torch.testing.assert_close(field.view_count, counts[len(field.provenance.frames)])
