"""The bond with a lifecycle manager such as nav2's, with bond_core's own Python as the manager's side."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from rclpy.duration import Duration

from ros.harness import ACTIVATE, CONFIGURE, DEACTIVATE, Robot, Starter, wait_until
from ros.scene import CAMERA

bondpy = pytest.importorskip("bondpy.bondpy")
from bond.msg import Status  # noqa: E402

PATIENCE = Duration(seconds=60)


@pytest.fixture
def manager() -> Iterator[Callable[[str], object]]:
    """Makes the manager's side of a bond, as it does when it has activated a node."""
    bonds = []

    def bond(name: str) -> object:
        robot = Robot(CAMERA, name=f"manager_{len(bonds)}")  # bondpy takes away what the executor waits for
        made = bondpy.Bond(robot.node, "bond", name)
        made.connect_timeout = 60.0
        made.start()
        bonds.append((made, robot))
        return made

    yield bond
    for made, robot in bonds:
        made.is_shutdown = True  # its thread ends
        for timer in (made.connect_timer, made.heartbeat_timer, made.disconnect_timer):
            timer.cancel()
        robot.close()


def publishes_bond(robot: Robot, name: str) -> bool:
    return "/bond" in dict(robot.node.get_publisher_names_and_types_by_node(name, "/"))


@pytest.mark.parametrize("program", ["feature_map", "feature_extractor"])
def test_a_bond_is_formed_on_activation_and_broken_on_deactivation(robot, start: Starter, manager, program):
    path = f"/{program}"
    node = start.program(program, **(start.defaults if program == "feature_map" else {"extractor": "color"}))
    assert robot.change_state(CONFIGURE, path)
    assert not publishes_bond(robot, program)
    for _ in range(2):
        assert robot.change_state(ACTIVATE, path)
        bond = manager(program)
        assert bond.wait_until_formed(PATIENCE)
        assert publishes_bond(robot, program)
        assert robot.change_state(DEACTIVATE, path)
        assert bond.wait_until_broken(PATIENCE)
    assert node.stop() == 0
    assert "Traceback" not in node.log.read_text()


def test_signs_of_life_tell_after_which_silence_a_node_is_dead(robot, start: Starter):
    heard = robot.collect(Status, "/bond", 100)
    node = start.active(bond_heartbeat_period=0.05)
    wait_until(lambda: len(heard) >= 5, what="signs of life")
    assert {(m.id, m.instance_id, m.active) for m in heard} == {("feature_map", heard[0].instance_id, True)}
    assert heard[0].heartbeat_period == pytest.approx(0.05)
    assert heard[0].heartbeat_timeout == 4.0
    assert node.stop() == 0
    wait_until(lambda: not heard[-1].active, what="its farewell")


def test_a_bond_that_the_manager_breaks_is_agreed_to_and_the_node_lives(robot, start: Starter, manager):
    node = start.active()
    bond = manager("feature_map")
    assert bond.wait_until_formed(PATIENCE)
    heard = robot.collect(Status, "/bond", 100)
    bond.break_bond()
    wait_until(lambda: any(m.instance_id != bond.instance_id and not m.active for m in heard), what="its agreement")
    assert bond.wait_until_broken(PATIENCE)
    assert robot.state() == "active"
    assert node.running


def test_without_heartbeats_there_is_no_bond(robot, start: Starter):
    start.active(bond_heartbeat_period=0.0)
    assert not publishes_bond(robot, "feature_map")
