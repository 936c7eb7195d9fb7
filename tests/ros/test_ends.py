"""Ends at bad moments: transitions during an answer, callbacks that fail, fields that can't be saved."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from lifecycle_msgs.srv import ChangeState

from feature_gs_ros.field import FeatureField
from feature_gs_ros.msg import Answer
from feature_gs_ros.srv import QueryText
from ros.altered import Gate, altered_map
from ros.harness import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, Robot, Starter, Watch, wait_for_future, wait_until
from ros.scene import camera_from_map, take_picture
from ros.test_lifecycle import teach

SLOW_ANSWERS = """
from feature_gs_ros.extractors.color import ColorExtractor
from feature_gs_ros.ros import service_group

embed = ColorExtractor.embed

def wait_and_embed(self, prompts):
    pass_gate()
    return embed(self, prompts)

ColorExtractor.embed = wait_and_embed
"""


@pytest.mark.parametrize("patience", ["15.0", "0.1"])
def test_cleaning_up_waits_for_the_answer_under_way_or_the_node_lives_without(
    robot: Robot, start: Starter, gaussians, tmp_path: Path, patience
):
    gate = Gate(tmp_path)
    node = start.active(gate.map(f"{SLOW_ANSWERS}\nservice_group.PATIENCE = {patience}\n"))
    teach(robot, gaussians)
    asking = robot.node.create_client(QueryText, "/feature_map/query_text")
    assert asking.wait_for_service(10)
    gate.shut()
    answer = asking.call_async(QueryText.Request(text="red"))
    gate.wait()
    assert robot.change_state(DEACTIVATE)
    changing = robot.node.create_client(ChangeState, "/feature_map/change_state")
    assert changing.wait_for_service(10)
    request = ChangeState.Request()
    request.transition.id = CLEANUP
    cleaned = changing.call_async(request)
    time.sleep(0.5)
    assert cleaned.done() is (patience == "0.1")
    gate.open()
    assert wait_for_future(cleaned, 20, "cleanup").success
    if patience == "15.0":
        assert wait_for_future(answer, 20, "the question").answer.state == Answer.FOUND
        assert "Traceback" not in node.log.read_text()
    else:
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
from feature_gs_ros.ros import feature_map

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
    assert node.process.wait(20) == 1
    assert "this report is broken" in node.log.read_text()
    assert len(FeatureField.load(start.data / "field.safetensors").provenance.frames) == 3


@pytest.mark.parametrize(
    ("place", "name", "method"),
    [
        ("ros.poses", "Poses", "camera_from_map"),
        ("ros.live_field", "LiveField", "flush"),
        ("backprojection", "BackProjector", "_accumulate"),
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
    assert watch.outcome(6) == (0, {"MemoryError in the teacher or the map, see the log": 6})
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
    assert "what was learned is lost" in said
    assert "Traceback" not in said
