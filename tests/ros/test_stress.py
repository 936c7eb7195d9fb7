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
from ros.gate import Gate
from ros.harness import TIMEOUT, Robot, Starter, Watch, info_message, wait_for_future, wait_until
from ros.scene import CAMERA, SPLAT_FROM_MAP, camera_from_map, take_picture
from ros.test_queries import pose_message, transform_of

VIEWS = 60


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


def test_a_long_answer_holds_up_no_image(robot, start: Starter, gaussians, tmp_path):
    """All are seen and used while a picture is under way; without callback groups of their own they'd wait for it."""
    gate = Gate(tmp_path)
    gate.active(start)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    request = RenderView.Request(content=RenderView.Request.MASK, text="red", camera_info=info_message(CAMERA, 0))
    request.pose = pose_message(*transform_of(camera_from_map(0.1)))
    gate.shut("embed")
    answer = robot.client(RenderView, "/feature_map/render_view").call_async(request)
    gate.wait()
    for k in range(VIEWS):
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / VIEWS)), camera_from_map(k / VIEWS))
    assert watch.outcome(VIEWS) == (VIEWS, {})
    assert not answer.done()
    gate.open()
    assert wait_for_future(answer, TIMEOUT, "the picture").answer.state == Answer.FOUND


def test_beside_the_largest_pictures_every_image_is_used_or_counted(robot, watch, gaussians):
    picture = take_picture(gaussians, camera_from_map(0))
    width = 4080  # as large as it may be
    camera = CAMERA.resized(width, width * 3 // 4)
    request = RenderView.Request(content=RenderView.Request.COLOR, camera_info=info_message(camera, 0))
    request.pose = pose_message(*transform_of(camera_from_map(0.1)))
    answers = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            answers.append(robot.call(RenderView, "/feature_map/render_view", request, 120).answer.state)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    sent = 0
    while sent < 100 or not answers:
        robot.publish_posed(picture, camera_from_map(sent / 150))
        sent += 1
        time.sleep(1 / 30)
    stop.set()
    asking.join()
    used, left_out = watch.outcome(sent)
    assert set(answers) == {Answer.FOUND}
    assert used + sum(left_out.values()) == sent
    assert set(left_out) <= {"queue was full: the oldest frame was dropped"}


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
        for k in range(6):  # each would wait for good, while it is stopped
            assert robot.call(Trigger, "/feature_map/republish", Trigger.Request()).success
            robot.publish_posed(take_picture(gaussians, camera_from_map(k / 6)), camera_from_map(k / 6))
            answer = robot.call(QueryText, "/feature_map/query_text", QueryText.Request(text="red")).answer
            assert answer.state in (Answer.FOUND, Answer.NOT_OBSERVED, Answer.NOT_FOUND)
        assert watch.outcome(6) == (6, {})
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
        if k % 10 == 9:  # or all may come before the first save
            wait_until(lambda seen=k - 8: saved and len(saved[-1].provenance.frames) > seen, what="a save with them")
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
