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
from ros.altered import Gate, altered_map
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
from ros.scene import camera_from_map, take_picture
from ros.test_lifecycle import teach
from ros.test_recordings import VIEWS, Recordings, write_flight

SLOW_ANSWERS = """
from feature_gs_ros.extractors.color import ColorExtractor
from feature_gs_ros.ros.services import service_group

embed = ColorExtractor.embed

def wait_and_embed(self, prompts):
    pass_gate()
    return embed(self, prompts)

ColorExtractor.embed = wait_and_embed
"""


@pytest.mark.parametrize("patience", ["120.0", "0.1"])
def test_cleaning_up_waits_for_the_answer_under_way_or_the_node_lives_without(
    robot: Robot, start: Starter, gaussians, tmp_path: Path, patience
):
    gate = Gate(tmp_path)
    node = start.active(gate.map(f"{SLOW_ANSWERS}\nservice_group.ANSWER_TIMEOUT = {patience}\n"))
    teach(robot, gaussians)
    asking = robot.node.create_client(QueryText, "/feature_map/query_text")
    assert asking.wait_for_service(60)
    gate.shut()
    answer = asking.call_async(QueryText.Request(text="red"))
    gate.wait()
    assert robot.change_state(DEACTIVATE)
    changing = robot.node.create_client(ChangeState, "/feature_map/change_state")
    assert changing.wait_for_service(60)
    request = ChangeState.Request()
    request.transition.id = CLEANUP
    cleaned = changing.call_async(request)
    if patience == "120.0":
        time.sleep(0.5)
        assert not cleaned.done()
        gate.open()
        assert wait_for_future(cleaned, TIMEOUT, "cleanup").success
        late = wait_for_future(answer, TIMEOUT, "the question").answer
        assert late.state == Answer.FOUND, late
        assert "Traceback" not in node.log.read_text()
    else:
        assert wait_for_future(cleaned, TIMEOUT, "cleanup").success
        gate.open()
        wait_until(lambda: robot.state() and "came too late" in node.log.read_text(), what="a word about the answer")
    assert robot.state() == "unconfigured"
    assert robot.change_state(CONFIGURE)
    assert robot.change_state(ACTIVATE)
    assert node.stop() == 0


def test_a_callback_that_fails_ends_the_program_with_the_field_saved(
    robot: Robot, start: Starter, gaussians, tmp_path: Path
):
    broken = tmp_path / "broken"
    change = f"""
from pathlib import Path
from feature_gs_ros.ros.nodes import feature_map

status_message = feature_map.status_message

def fail(*arguments):
    if Path({str(broken)!r}).exists():
        raise RuntimeError("this report is broken")
    return status_message(*arguments)

feature_map.status_message = fail
"""
    node = start.active(altered_map(tmp_path, change), save_on_deactivate=True)
    teach(robot, gaussians)
    broken.touch()
    assert node.process.wait(TIMEOUT) == 1
    assert "this report is broken" in node.log.read_text()
    assert len(FeatureField.load(start.data / "field.safetensors").provenance.frames) == 3


@pytest.mark.parametrize(
    ("place", "name", "method"),
    [
        ("ros.ingest.poses", "Poses", "camera_from_map"),
        ("live.live_field", "LiveField", "flush"),
        ("backprojection.projector", "BackProjector", "_accumulate"),
    ],
)
def test_no_failure_of_the_ingestion_ends_it_and_every_frame_is_counted(
    robot: Robot, start: Starter, gaussians, tmp_path: Path, place, name, method
):
    broken = tmp_path / "broken"
    change = f"""
from pathlib import Path
from feature_gs_ros.{place} import {name}

sound = {name}.{method}

def fail(*arguments, **options):
    if Path({str(broken)!r}).exists():
        raise MemoryError("no room")
    return sound(*arguments, **options)

{name}.{method} = fail
"""
    node = start.active(altered_map(tmp_path, change))
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    broken.touch()
    for k in range(6):
        robot.publish_posed(take_picture(gaussians, camera_from_map(k / 6)), camera_from_map(k / 6))
    assert watch.outcome(6) == (0, {"MemoryError in the extractor or the map, see the log": 6})
    assert "no room" in node.log.read_text()
    broken.unlink()
    robot.publish_posed(take_picture(gaussians, camera_from_map(0.5)), camera_from_map(0.5))
    assert watch.outcome(1) == (1, {})


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


def test_a_callback_that_comes_too_late_at_the_end_is_no_failure(start: Starter, tmp_path: Path):
    late = tmp_path / "late"
    change = f"""
import threading
import time
from pathlib import Path
from rclpy.exceptions import InvalidHandle
from feature_gs_ros.ros.nodes import feature_map

closing = threading.Event()
status_message, close = feature_map.status_message, feature_map.FeatureMap.close

def come_late(*arguments):
    if Path({str(late)!r}).exists():
        closing.wait()
        raise InvalidHandle("it was destroyed")
    return status_message(*arguments)

def wait_and_close(self):
    closing.set()
    time.sleep(0.5)
    close(self)

feature_map.status_message, feature_map.FeatureMap.close = come_late, wait_and_close
"""
    node = start.active(altered_map(tmp_path, change))
    late.touch()
    time.sleep(0.5)  # the next report
    assert node.stop() == 0
    said = node.log.read_text()
    assert "never retrieved" not in said
    assert "Traceback" not in said


SLOW_SAVES = """
from feature_gs_ros.extractors.color import ColorExtractor
from feature_gs_ros.ros.nodes.session import Session

save, extract = Session.save, ColorExtractor.extract

def wait_and_save(*arguments):
    pass_gate()
    return save(*arguments)

def take_a_while(*arguments):
    time.sleep(0.2)
    return extract(*arguments)

Session.save, ColorExtractor.extract = wait_and_save, take_a_while
"""


def deactivating(robot: Robot):
    """A future of the response."""
    client = robot.client(ChangeState, "/feature_map/change_state")
    return client.call_async(ChangeState.Request(transition=Transition(id=DEACTIVATE)))


def test_goals_are_refused_from_deactivation_on_until_the_node_is_active_again(robot, start, gaussians, tmp_path):
    gate = Gate(tmp_path)
    node = start.active(gate.map(SLOW_SAVES), save_on_deactivate=True)
    write_flight(start.data / "flight", gaussians)
    recordings, target, heard = Recordings(robot), start.data / "field.safetensors", []
    target.mkdir()
    (target / "anything").touch()
    assert recordings.result_of(recordings.send(every=VIEWS))[1].used == 1
    assert not robot.change_state(DEACTIVATE), "it can't save"
    (target / "anything").unlink()
    target.rmdir()
    handle = recordings.send(lambda message: heard.append(message.feedback))
    assert handle.accepted, "it is still active"
    wait_until(lambda: len(heard) >= 2, what="some progress")
    gate.shut()
    deactivated = deactivating(robot)
    status, result = recordings.result_of(handle)
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert 2 <= result.used < VIEWS
    gate.wait()
    assert not recordings.send().accepted
    gate.open()
    assert wait_for_future(deactivated, 60, "deactivation").success
    assert len(FeatureField.load(target).provenance.frames) == 1 + result.used
    assert not recordings.send().accepted
    assert "~/backproject_bag is rejected: feature_map is not active" in node.log.read_text()
    assert robot.change_state(ACTIVATE)
    status, result = recordings.result_of(recordings.send(every=VIEWS // 2))
    assert (status, result.used) == (GoalStatus.STATUS_SUCCEEDED, 2)
    assert node.stop() == 0


def test_a_goal_that_begins_after_deactivation_did_is_aborted(robot, start, gaussians, tmp_path):
    saving = tmp_path / "saving"
    change = f"""
from feature_gs_ros.ros.services.bag_action import BagAction
from feature_gs_ros.ros.nodes.session import Session

execute, save = BagAction._execute, Session.save

def wait_and_execute(self, goal):
    pass_gate()
    return execute(self, goal)

def save_for_long(*arguments):
    Path({str(saving)!r}).touch()
    time.sleep(3)
    return save(*arguments)

BagAction._execute, Session.save = wait_and_execute, save_for_long
"""
    gate = Gate(tmp_path)
    start.active(gate.map(change), save_on_deactivate=True)
    write_flight(start.data / "flight", gaussians)
    recordings = Recordings(robot)
    gate.shut()
    handle = recordings.send(every=VIEWS)
    assert handle.accepted
    gate.wait()
    deactivated = deactivating(robot)
    wait_until(saving.exists, what="the save")
    gate.open()
    status, result = recordings.result_of(handle)
    assert (status, result.success, result.used) == (GoalStatus.STATUS_ABORTED, False, 0)
    assert "not active" in result.message
    assert wait_for_future(deactivated, 60, "deactivation").success


def test_ctrl_c_during_a_deactivation_waits_for_its_save_and_does_not_save_again(robot, start, gaussians, tmp_path):
    gate = Gate(tmp_path)
    node = start.active(gate.map(SLOW_SAVES), save_on_deactivate=True)
    teach(robot, gaussians)
    gate.shut()
    deactivating(robot)
    gate.wait()
    node.process.send_signal(signal.SIGINT)
    time.sleep(0.5)  # it is heard
    assert node.running
    gate.open()
    assert node.process.wait(TIMEOUT) == 0
    assert node.log.read_text().count("saved 3 views") == 1
