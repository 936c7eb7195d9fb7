"""Recordings: the action ~/backproject_bag, and bag_player as a camera."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage

from feature_gs_ros import FeatureMapClient
from feature_gs_ros.action import BackprojectBag
from feature_gs_ros.synthetic.bag import BagWriter
from ros.harness import RELIABLE, TIMEOUT, Robot, Starter, Watch, wait_until
from ros.scene import CAMERA, camera_from_map, take_picture

VIEWS = 16
START = 1_700_000_000_000_000_000
STEP = 100_000_000  # ns between images
IMAGE, INFO = "/camera/color/image_raw", "/camera/color/camera_info"


@pytest.fixture(scope="module")
def bag(gaussians, tmp_path_factory) -> Path:
    return write_flight(tmp_path_factory.mktemp("bags") / "flight", gaussians)


def write_flight(folder: Path, gaussians) -> Path:
    """1.6 s of flying around the table, tf at 50 Hz."""
    with BagWriter(folder, np.eye(4), CAMERA) as writer:
        writer.write_static(START)
        ticks = VIEWS * 5 + 2
        for tick in range(ticks):
            stamp = START + tick * STEP // 5
            writer.write_pose(stamp, camera_from_map(tick / ticks))
            if tick % 5 == 0 and tick < VIEWS * 5:
                writer.write_image(stamp, take_picture(gaussians, camera_from_map(tick / ticks)))
    return folder


@pytest.fixture(scope="module")
def node(start_once: Starter, bag: Path):
    node = start_once.active()
    shutil.copytree(bag, start_once.data / "flight")
    return node


class Recordings:
    """A client of the action."""

    def __init__(self, robot: Robot):
        self._robot = robot
        self._client = ActionClient(robot.node, BackprojectBag, "/feature_map/backproject_bag")
        assert self._client.wait_for_server(20)

    def send(self, feedback=None, **options: object):
        goal = BackprojectBag.Goal(**{"path": "flight", **options})
        ask = partial(self._client.send_goal_async, goal, feedback_callback=feedback)
        return self._robot.ask_where_it_spins(ask, 30, "the action")

    def result_of(self, handle):
        wrapped = self._robot.ask_where_it_spins(handle.get_result_async, 90, "the action's result")
        return wrapped.status, wrapped.result

    def cancel(self, handle) -> None:
        self._robot.ask_where_it_spins(handle.cancel_goal_async, 30, "the cancellation")


@pytest.fixture(scope="module")
def recordings(robot: Robot, node) -> Recordings:
    assert node.running
    return Recordings(robot)


def test_a_recording_goes_onto_the_map_with_progress(recordings, client):
    heard = []
    handle = recordings.send(lambda message: heard.append(message.feedback))
    assert handle.accepted
    status, result = recordings.result_of(handle)
    assert (status, result.success, result.used) == (GoalStatus.STATUS_SUCCEEDED, True, VIEWS)
    assert not result.frames_skipped
    assert {step.step for step in result.timing} >= {"decode", "network", "back-projection"}
    wait_until(lambda: len(heard) == VIEWS, what="all feedback")
    assert [(f.done, f.total) for f in heard] == [(k + 1, VIEWS) for k in range(VIEWS)]
    assert heard[0].frame == str(START)
    assert heard[-1].remaining == 0
    answer = client.ask("blue")
    assert (bool(answer), answer.views) == (True, VIEWS)
    np.testing.assert_allclose(answer.objects[0].center, [0.15, -0.03, 0.04], atol=0.01)


def test_every_nth_frame(recordings):
    _, result = recordings.result_of(recordings.send(every=4))
    assert result.used == VIEWS // 4


def test_cancelled_what_is_done_stays_and_a_second_goal_waits_its_turn(recordings, client, start_once):
    before = client.ask("blue").views
    long = start_once.data / "long"
    with BagWriter(long, np.eye(4), CAMERA) as writer:
        writer.write_static(START)
        for tick in range(1200):
            stamp = START + tick * STEP
            writer.write_pose(stamp, camera_from_map(tick / 400))
            writer.write_image(stamp, np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8))
        writer.write_pose(START + 1200 * STEP, camera_from_map(3))
    heard = []
    handle = recordings.send(lambda message: heard.append(message.feedback), path="long")
    assert handle.accepted
    wait_until(lambda: len(heard) >= 3, what="some progress")
    assert not recordings.send().accepted, "one goal at a time"
    recordings.cancel(handle)
    status, result = recordings.result_of(handle)
    assert (status, result.success) == (GoalStatus.STATUS_CANCELED, False)
    assert 3 <= result.used < 1200
    assert "what was done stays" in result.message
    assert client.ask("blue").views == before + result.used
    assert recordings.result_of(recordings.send(every=VIEWS))[1].success


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": "../elsewhere"}, "leads out of data_dir"),
        ({"path": "/tmp"}, "leads out of data_dir"),
        ({"path": ""}, "can't name a file"),
        ({"path": "nothing"}, "no stream"),
        ({"path": "flight", "image_topics": ["/other"]}, "no image topic '/other'"),
    ],
)
def test_a_recording_that_cannot_be_read_aborts_with_the_reason(recordings, options, complaint):
    handle = recordings.send(**options)
    status, result = recordings.result_of(handle)
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert complaint in result.message


@pytest.mark.usefixtures("node")
def test_the_player_is_a_camera_that_the_map_learns_from(robot, start, bag):
    """A second feature_map under another name listens to the player: compressed images, camera_info, tf, tf_static."""
    player = start.program("bag_player", bag=str(bag), rate=2.0, delay=2.0, loop=True)
    images = robot.collect(CompressedImage, f"{IMAGE}/compressed", RELIABLE)
    start.program(
        "feature_map",
        remap={"__node": "listener", "image": IMAGE, "camera_info": INFO},
        **{**start.defaults, "camera__input": "compressed", "autostart": True, "data_dir": str(start.folder / "other")},
    )
    watch = Watch(robot, "/listener")
    wait_until(lambda: watch.statuses[-1].frames_used >= VIEWS // 2, what="half a lap")
    with FeatureMapClient("/listener") as listener:
        assert listener.ask("blue")
    stamps = [image.header.stamp.sec + image.header.stamp.nanosec * 1e-9 for image in images]
    assert abs(stamps[-1] - time.time()) < 1000  # stamps of now, not of the recording
    steps = np.diff(stamps[:VIEWS])
    np.testing.assert_allclose(steps, 0.05, atol=1e-3)  # twice the recording's speed
    assert player.running


def test_the_player_keeps_stamps_and_gives_the_clock_for_sim_time(robot, start, bag):
    clocks = robot.collect(Clock, "/clock", RELIABLE)
    images = robot.collect(CompressedImage, f"{IMAGE}/compressed", RELIABLE)
    player = start.program("bag_player", bag=str(bag), rate=4.0, delay=1.0, clock=True)
    assert player.process.wait(TIMEOUT) == 0  # it ends with the recording
    assert images[0].header.stamp.sec * 1_000_000_000 + images[0].header.stamp.nanosec == START
    assert clocks[0].clock.sec == START // 1_000_000_000
    assert clocks[-1].clock.sec > clocks[0].clock.sec


@pytest.mark.parametrize(("path", "complaint"), [("", "empty"), ("/no/such/bag", "no recording")])
def test_the_player_says_why_it_cannot_play(start, path, complaint):
    player = start.program("bag_player", bag=path)
    assert player.process.wait(TIMEOUT) == 2
    assert complaint in player.log.read_text()
    assert "Traceback" not in player.log.read_text()


def recording(folder: Path, topic: str, kind: str, data: bytes) -> Path:
    """Of one message."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(folder, version=8) as writer:
        writer.write(writer.add_connection(topic, kind, typestore=store), START, data)
    return folder


def test_the_player_refuses_a_recording_with_nothing_to_play(start, tmp_path):
    bag = recording(tmp_path / "words", "/words", "std_msgs/msg/String", b"\0\1\0\0\2\0\0\0a\0\0\0")
    player = start.program("bag_player", bag=str(bag), loop=True)
    assert player.process.wait(TIMEOUT) == 2
    assert "no images, camera_info or tf to play; it has /words" in player.log.read_text()


def test_the_player_ends_where_it_cannot_go_on(start, tmp_path):
    """A message whose bytes say that its frame_id is longer than they are."""
    bag = recording(tmp_path / "broken", IMAGE, "sensor_msgs/msg/Image", b"\0\1\0\0" + b"\xff" * 16)
    player = start.program("bag_player", bag=str(bag), loop=True, delay=0.1)
    assert player.process.wait(TIMEOUT) == 1
    assert "failed" in player.log.read_text()
