"""Slow work as actions: affordances of a whole map, edits, saves; with progress, and cancelled without a trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from action_msgs.msg import GoalStatus, GoalStatusArray

from feature_gs_ros import FeatureMapClient
from feature_gs_ros.core.errors import EditError, FieldError, StoppedError, StreamError, UnavailableError
from ros.gate import Gate
from ros.harness import LATCHED, Robot, Starter, Watch, wait_until
from ros.scene import BLOCKS, camera_from_map, take_picture
from ros.test_lifecycle import teach

VIEWS = 8
Slow = Callable[[FeatureMapClient, Callable[[str, float], bool]], object]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """Holds up an action after its first step has begun; see `PLACES`."""
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module", autouse=True)
def _learned(start_once: Starter, robot: Robot, client: FeatureMapClient, gaussians, gate: Gate) -> Iterator[None]:
    node = gate.active(start_once)
    teach(robot, gaussians, VIEWS)
    picture = np.full((40, 60, 3), 128, np.uint8)
    mask = np.zeros((40, 60), bool)
    picture[10:30, 20:40], mask[10:30, 20:40] = BLOCKS["blue"][2], True
    assert client.add_affordance("grip", mask, image=picture) == 1
    yield
    assert node.running
    assert "Traceback" not in node.log.read_text()


class Heard:
    """Progress as it came; cancels where it is told to."""

    def __init__(self, cancel: bool = False) -> None:
        self.steps: list[str] = []
        self.fractions: dict[str, list[float]] = {}
        self._cancel = cancel

    def __call__(self, step: str, fraction: float) -> bool:
        if step not in self.steps:
            self.steps.append(step)
        self.fractions.setdefault(step, []).append(fraction)
        return self._cancel


def test_affordances_are_found_as_by_the_service_with_progress(client):
    heard = Heard()
    by_service, by_action = client.find_affordances("grip"), client.find_affordances("grip", progress=heard)
    assert by_action
    assert [region.id for region in by_action.regions] == [region.id for region in by_service.regions]
    np.testing.assert_array_equal(by_action.regions[0].center, by_service.regions[0].center)
    assert heard.steps == list(by_action.seconds)
    fractions = heard.fractions["transfer"]
    assert fractions[0] == 0
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_an_edit_with_progress_is_undone_by_the_service_and_the_other_way_round(client):
    heard = Heard()
    done = client.delete("red", progress=heard)
    assert done.gaussians > 50
    assert heard.steps == ["snapshot", "similarity", "edit", "apply", "publish"]
    assert not client.ask("red")
    assert client.undo().undo == ""
    assert client.redo(progress=Heard()).undo == done.undo
    assert client.undo(progress=Heard()).undo == ""
    assert client.ask("red")


def test_a_save_with_progress_is_loaded_by_the_service(client, start_once):
    heard = Heard()
    path = client.save("kept.safetensors", progress=heard)
    assert path == start_once.data / "kept.safetensors"
    assert heard.steps == ["snapshot", "write", "replace"]
    assert str(VIEWS) in client.load("kept.safetensors")


def test_what_cannot_be_done_is_the_same_error_as_from_the_service(client):
    for ask, kind in (
        (lambda: client.delete("white", progress=Heard()), EditError),
        (lambda: client.undo(progress=Heard()), EditError),
        (lambda: client.save("../out", progress=Heard()), FieldError),
    ):
        with pytest.raises(kind):
            ask()


SLOW: dict[str, Slow] = {
    "transfer_affordance": lambda client, progress: client.find_affordances(on="blue", progress=progress),
    "edit": lambda client, progress: client.delete("red", progress=progress),
    "save": lambda client, progress: client.save("cancelled.safetensors", progress=progress),
}
# Where each asks the extractor something after its first step has begun: a word, or who it is, of a new copy.
PLACES = {"transfer_affordance": "embed", "edit": "embed", "save": "identity"}


@pytest.mark.parametrize("name", SLOW)
def test_cancelled_nothing_is_changed(client, robot, gaussians, gate, start_once, name):
    see_one_more(robot, gaussians, list(SLOW).index(name))
    goals = robot.collect(GoalStatusArray, f"/feature_map/{name}/_action/status", LATCHED)

    def last() -> int:
        return goals[-1].status_list[-1].status if goals else GoalStatus.STATUS_UNKNOWN

    gate.shut(PLACES[name])
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(SLOW[name], client, Heard(cancel=True))
        cancelled = (GoalStatus.STATUS_CANCELING, GoalStatus.STATUS_CANCELED)  # or already between two steps
        wait_until(lambda: last() in cancelled, what="the cancellation")
        gate.open()
        with pytest.raises(StoppedError) as caught:
            ended.result(60)
    assert caught.value.code == "stopped"
    wait_until(lambda: last() == GoalStatus.STATUS_CANCELED, what="its end")
    assert client.ask("red")
    with pytest.raises(EditError):
        client.undo()
    assert not (start_once.data / "cancelled.safetensors").exists()


def see_one_more(robot: Robot, gaussians, index: int) -> None:
    """A view that there was not yet: the field has to be copied anew."""
    watch, pose = Watch(robot), camera_from_map((index + 0.5) / VIEWS)
    robot.publish_posed(take_picture(gaussians, pose), pose)
    assert watch.outcome(1) == (1, {})


@pytest.mark.parametrize("name", SLOW)
def test_one_goal_at_a_time_and_a_deactivation_ends_it(client, robot, gaussians, gate, name):
    gate.shut(PLACES[name])
    begun = threading.Event()

    def hear(_: str, __: float) -> bool:
        begun.set()
        return False

    with ThreadPoolExecutor(2) as pool:
        ended = pool.submit(SLOW[name], client, hear)
        assert begun.wait(60)
        with pytest.raises(UnavailableError, match="refuses"):
            SLOW[name](client, Heard())
        deactivated = pool.submit(client.change_state, "deactivate")
        wait_until(lambda: _refuses(client), what="the deactivation to begin")
        gate.open()
        with pytest.raises(StoppedError):
            ended.result(60)
        assert deactivated.result(60)
    with pytest.raises(UnavailableError):
        SLOW[name](client, Heard())
    wait_until(lambda: robot.images.get_subscription_count() == 0, what="the subscriptions to go")
    assert client.change_state("activate")
    teach(robot, gaussians, VIEWS)


def _refuses(client: FeatureMapClient) -> bool:
    """Whether goals of another action are refused, as they are from the beginning of a deactivation on."""
    try:
        client.backproject_bag("nothing")
    except UnavailableError:
        return True
    except StreamError:  # it was looked for
        return False
    raise AssertionError("there is no recording 'nothing'")
