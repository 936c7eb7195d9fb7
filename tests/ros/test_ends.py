"""Ends at bad moments: transitions during an answer, callbacks that fail, fields that can't be saved."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.msg import Answer
from feature_gs_ros.srv import QueryText
from ros.gate import Gate
from ros.harness import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    TIMEOUT,
    Robot,
    Starter,
    Watch,
    wait_for_future,
    wait_until,
)
from ros.processes import NodeProcess
from ros.scene import camera_from_map, take_picture
from ros.test_lifecycle import teach
from ros.test_recordings import VIEWS, Recordings, write_flight

NOT_ACTIVE = "~/backproject_bag is rejected: feature_map is not active"
OUT_OF_MEMORY = "MemoryError in the extractor or the map, see the log"
PATIENCE = 15.0  # s that a cleanup waits for the answer under way


@pytest.mark.parametrize("late", [False, True])
def test_cleaning_up_waits_for_the_answer_under_way_or_the_node_lives_without(
    robot: Robot, start: Starter, gaussians, tmp_path: Path, late
):
    gate = Gate(tmp_path)
    node = gate.active(start)
    teach(robot, gaussians)
    asking = robot.node.create_client(QueryText, "/feature_map/query_text")
    assert asking.wait_for_service(60)
    gate.shut("embed")
    answer = asking.call_async(QueryText.Request(text="red"))
    gate.wait()
    assert robot.change_state(DEACTIVATE)
    changing = robot.node.create_client(ChangeState, "/feature_map/change_state")
    assert changing.wait_for_service(60)
    request = ChangeState.Request()
    request.transition.id = CLEANUP
    asked = time.monotonic()
    cleaned = changing.call_async(request)
    if late:
        assert wait_for_future(cleaned, TIMEOUT, "cleanup").success
        assert time.monotonic() - asked > PATIENCE - 1
        gate.open()
        wait_until(lambda: robot.state() and "came too late" in node.log.read_text(), what="a word about the answer")
    else:
        time.sleep(0.5)
        assert not cleaned.done()
        gate.open()
        assert wait_for_future(cleaned, TIMEOUT, "cleanup").success
        found = wait_for_future(answer, TIMEOUT, "the question").answer
        assert found.state == Answer.FOUND, found
        assert "Traceback" not in node.log.read_text()
    assert robot.state() == "unconfigured"
    assert robot.change_state(CONFIGURE)
    assert robot.change_state(ACTIVATE)
    assert node.stop() == 0


def test_a_callback_that_fails_ends_the_program_with_the_field_saved(
    robot: Robot, start: Starter, gaussians, tmp_path: Path
):
    """A report names the extractor, and its name isn't to be had."""
    gate = Gate(tmp_path)
    node = gate.active(start, save_on_deactivate=True)
    teach(robot, gaussians)
    gate.fail("identity", times=1)
    assert node.process.wait(TIMEOUT) == 1
    assert "no room" in node.log.read_text()
    assert len(FeatureField.load(start.data / "field.safetensors").provenance.frames) == 3


def test_no_failure_of_the_extractor_ends_the_ingestion_and_every_frame_is_counted(
    robot: Robot, start: Starter, gaussians, tmp_path: Path
):
    gate = Gate(tmp_path)
    node = gate.active(start)
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    gate.fail("extract", times=6)
    for k in range(7):
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / 7)), camera_from_map(k / 7))
    assert watch.outcome(7) == (1, {OUT_OF_MEMORY: 6})
    assert "no room" in node.log.read_text()


def test_a_field_that_cannot_be_saved_stays_until_it_can(robot: Robot, start: Starter, gaussians):
    node = start.active(save_on_deactivate=True)
    teach(robot, gaussians)
    in_the_way = start.data / "field.safetensors" / "anything"
    in_the_way.mkdir(parents=True)
    assert not robot.change_state(DEACTIVATE)
    assert robot.state() == "active"
    assert "field.safetensors" in node.log.read_text()
    teach(robot, gaussians, views=5)  # it still learns
    in_the_way.rmdir()
    in_the_way.parent.rmdir()
    assert robot.change_state(DEACTIVATE)
    assert robot.state() == "inactive"
    frames = FeatureField.load(start.data / "field.safetensors").provenance.frames
    assert len(frames) >= 7  # of the 8, one may be where the camera was before
    assert "Traceback" not in node.log.read_text()


def test_a_field_that_cannot_be_saved_at_the_end_is_lost_with_a_word(robot: Robot, start: Starter, gaussians):
    node = start.active(save_on_deactivate=True)
    teach(robot, gaussians)
    (start.data / "field.safetensors" / "anything").mkdir(parents=True)
    assert node.stop(signal.SIGINT) == 0
    said = node.log.read_text()
    assert "is lost" in said
    assert "Traceback" not in said


def test_a_callback_that_comes_too_late_at_the_end_is_no_failure(start: Starter):
    node = start.program(str(Path(__file__).with_name("late_node.py")))
    wait_until(lambda: "reporting" in node.log.read_text(), what="its callback")
    assert node.stop() == 0
    said = node.log.read_text()
    assert "never retrieved" not in said
    assert "Traceback" not in said


def deactivating(robot: Robot):
    """A future of the response."""
    client = robot.client(ChangeState, "/feature_map/change_state")
    return client.call_async(ChangeState.Request(transition=Transition(id=DEACTIVATE)))


def refused(recordings: Recordings, node: NodeProcess) -> bool:
    """Whether goals are refused because a deactivation has begun."""
    return not recordings.send(path="none").accepted and NOT_ACTIVE in node.log.read_text()


def test_goals_are_refused_from_deactivation_on_until_the_node_is_active_again(robot, start, gaussians, tmp_path):
    gate = Gate(tmp_path)
    node = gate.active(start, save_on_deactivate=True)
    write_flight(start.data / "flight", gaussians)
    recordings, target, heard = Recordings(robot), start.data / "field.safetensors", []
    target.mkdir()
    (target / "anything").touch()
    assert recordings.result_of(recordings.send(every=VIEWS))[1].used == 1
    assert not robot.change_state(DEACTIVATE), "it can't save"
    (target / "anything").unlink()
    target.rmdir()
    gate.shut("extract", after=2)
    handle = recordings.send(lambda message: heard.append(message.feedback))
    assert handle.accepted, "it is still active"
    wait_until(lambda: len(heard) >= 2, what="some progress")
    gate.wait()
    deactivated = deactivating(robot)
    wait_until(lambda: refused(recordings, node), what="goals to be refused")
    assert not deactivated.done()
    gate.open()
    status, result = recordings.result_of(handle)
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert 2 <= result.used < VIEWS
    assert wait_for_future(deactivated, 60, "deactivation").success
    assert len(FeatureField.load(target).provenance.frames) == 1 + result.used
    assert not recordings.send().accepted
    assert robot.change_state(ACTIVATE)
    status, result = recordings.result_of(recordings.send(every=VIEWS // 2))
    assert (status, result.used) == (GoalStatus.STATUS_SUCCEEDED, 2)
    assert node.stop() == 0


def test_ctrl_c_during_a_deactivation_waits_for_its_save_and_does_not_save_again(robot, start, gaussians, tmp_path):
    gate = Gate(tmp_path)
    node = gate.active(start, save_on_deactivate=True)
    recordings = Recordings(robot)
    teach(robot, gaussians)
    gate.shut("extract")
    robot.publish_posed(take_picture(gaussians, camera_from_map(0.5)), camera_from_map(0.5))
    gate.wait()
    deactivating(robot)
    wait_until(lambda: refused(recordings, node), what="the deactivation, which waits for the frame at hand")
    node.process.send_signal(signal.SIGINT)
    time.sleep(0.5)  # it is heard
    assert node.running
    gate.open()
    assert node.process.wait(TIMEOUT) == 0
    assert node.log.read_text().count("saved 4 views") == 1
