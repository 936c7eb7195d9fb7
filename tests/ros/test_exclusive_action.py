"""An action of one goal at a time, in the test's own process: a goal between its acceptance and its beginning."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor

from feature_gs_ros.action import BackprojectBag
from feature_gs_ros.ros.services.exclusive_action import ExclusiveAction
from ros.harness import Robot


class Observed(SingleThreadedExecutor):
    """Says so when something is put into its queue, as an accepted goal is."""

    queued: Callable[[], None] = staticmethod(lambda: None)

    def create_task(self, *arguments: object, **options: object) -> object:
        self.queued()
        return super().create_task(*arguments, **options)


class Recorded(ExclusiveAction):
    """Does nothing, and says that it did."""

    def __init__(self, node: object) -> None:
        super().__init__(node, lambda: None, BackprojectBag, "backproject_bag")
        self.worked = 0

    def work(self, goal: object, result: BackprojectBag.Result) -> None:  # noqa: ARG002
        self.worked += 1
        result.success = True


def test_a_goal_that_begins_after_deactivation_did_is_aborted(robot: Robot) -> None:
    node = rclpy.create_node("acting", context=robot.context)
    action, executor = Recorded(node), Observed(context=robot.context)
    action.begin()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    client = ActionClient(robot.node, BackprojectBag, "/acting/backproject_bag")
    assert client.wait_for_server(60)

    def outcome() -> tuple[int, BackprojectBag.Result]:
        handle = robot.ask_where_it_spins(partial(client.send_goal_async, BackprojectBag.Goal()), 60, "the action")
        assert handle.accepted
        wrapped = robot.ask_where_it_spins(handle.get_result_async, 60, "the result")
        return wrapped.status, wrapped.result

    assert outcome() == (GoalStatus.STATUS_SUCCEEDED, BackprojectBag.Result(success=True))
    executor.queued = action.refuse
    status, result = outcome()
    assert (status, result.success, action.worked) == (GoalStatus.STATUS_ABORTED, False, 1)
    assert "not active" in result.message
    done = threading.Event()
    robot.executor.create_task(client.destroy).add_done_callback(lambda _: done.set())
    assert done.wait(60)
    executor.shutdown()
    spinning.join(60)
    action.close()
    node.destroy_node()
