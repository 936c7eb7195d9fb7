"""What answers say beside what was found: second looks, the likelier word, extent, doubts about the poses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from feature_gs_ros import FeatureMapClient
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.msg import Answer
from feature_gs_ros.query.masks_3d import Answer as FoundAnswer
from feature_gs_ros.query.masks_3d import State
from feature_gs_ros.query.verify import Cutout, JudgedLook, SecondLook
from feature_gs_ros.ros.convert.answers import fill_answer
from feature_gs_ros.ros.convert.plain import answer_of
from ros.harness import Robot, Starter, Watch, wait_until
from ros.scene import camera_from_map, take_picture
from ros.test_lifecycle import teach


def second_look(agreeing: int, of: int, confirmed: bool) -> SecondLook:
    cutout = Cutout("view", (0, 0, 2, 2), np.zeros((2, 2, 3), np.uint8))
    looks = tuple(JudgedLook(cutout, 0.5, "mug", 0.5, k < agreeing, True) for k in range(of))
    return SecondLook("mug", looks, 0.5, "pot", 0.2, (), confirmed, 0.1)


def answer(state: State, mask: list[bool], **more: object) -> FoundAnswer:
    found = torch.tensor(mask)
    return FoundAnswer("mug", state, found, found.float(), 0.8, 0.5, 0.1, "a line", **more)


def test_looks_rival_extent_and_warnings_of_an_answer_are_in_its_message_and_in_the_clients_answer():
    grown = answer(
        State.FOUND,
        [True, True, False],
        selected=torch.tensor([True, False, False]),
        second_looks=(second_look(3, 4, True), second_look(0, 2, False)),
    )
    message = Answer()
    fill_answer(message, grown, 7, ["the poses are doubtful"])
    assert (message.state, message.views, message.extent) == (Answer.FOUND, 7, "object")
    assert (message.looks, message.looks_agreeing, message.rival) == (6, 3, "")
    assert list(message.warnings) == ["the poses are doubtful"]
    plain = answer_of(SimpleNamespace(answer=message))
    assert (plain.extent, plain.looks, plain.looks_agreeing, plain.rival) == ("object", 6, 3, "")
    assert plain.warnings == ("the poses are doubtful",)


def test_what_is_not_found_names_the_likelier_word_and_what_did_not_grow_is_a_part():
    nothing, part = Answer(), Answer()
    fill_answer(nothing, answer(State.NOT_FOUND, [False, False], rival="pot"), 1, ())
    assert (nothing.state, nothing.rival, nothing.looks) == (Answer.NOT_FOUND, "pot", 0)
    mask = [True, False]
    fill_answer(part, answer(State.FOUND, mask, selected=torch.tensor(mask)), 1, ())
    assert (part.extent, part.warnings) == ("part", [])


def test_doubts_about_live_poses_are_in_answers_and_stay_with_the_saved_field(
    robot: Robot, start: Starter, client: FeatureMapClient, gaussians
):
    """tf says that the camera is 25 mm beside where its images are taken."""
    node = start.active()
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    watch = Watch(robot)
    robot.publish_info(robot.now())
    for k in range(8):
        aside = camera_from_map(k / 8)
        image = take_picture(gaussians, aside)
        aside[1, 3] += 0.025
        robot.publish_posed(image, aside)
    assert watch.outcome(8) == (8, {})
    (doubt,) = client.ask("red").warnings
    assert "from elsewhere" in doubt
    assert client.ask_all(["red", "blue"])["blue"].warnings == (doubt,)
    path = client.save("doubtful.safetensors")
    assert FeatureField.load(path).provenance.doubts == (doubt,)
    assert client.click([[-0.15, 0.0, 0.1]]).warnings == (doubt,)
    assert node.stop() == 0


def test_doubts_of_a_loaded_field_are_in_answers_and_extent_may_be_chosen(
    robot: Robot, start: Starter, client: FeatureMapClient, gaussians
):
    start.active()
    teach(robot, gaussians, 8)
    assert client.ask("red").warnings == ()
    field = FeatureField.load(client.save())
    found = Finding("clocks", "warning", 0.9, "the clocks of camera and tf differ", "look")
    replace(field, provenance=field.provenance.with_findings((found,))).save(start.data / "doubtful")
    client.load("doubtful")
    (doubt,) = client.ask("red").warnings
    assert "the clocks of camera and tf differ" in doubt
    for extent in ("part", "object"):
        assert client.ask("red", extent=extent)
        assert client.ask_all(["red"], extent=extent)["red"]
    with pytest.raises(PromptError, match="choose object or part"):
        client.ask("red", extent="whole")
