"""Lifecycle transitions that are refused where a state has none, say why they failed, and can be tried again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from feature_gs_ros.ros.runtime.guard import explain


class RefusingLifecycleNode(LifecycleNode):
    """A lifecycle node whose change_state answers no to a transition that its state doesn't have.

    rclpy would raise, which leaves the caller without a response and ends the program.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        service = self._service_change_state
        service.callback = partial(self._change_state, service.callback)

    def _change_state(self, inherited: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        machine, asked = self._state_machine, request.transition
        possible = {number: label for number, label, *_ in machine.available_transitions}
        # Where both are given the label counts, as it does for rclpy.
        found = asked.label in possible.values() if asked.label else asked.id in possible
        if found:
            return inherited(request, response)
        names = {number: label for number, label, *_ in machine.transition_graph}
        name = f"'{asked.label}'" if asked.label else f"{asked.id} ('{names.get(asked.id, 'unknown')}')"
        self.get_logger().warning(f"the state '{machine.current_state[1]}' has no transition {name}: rejected")
        response.success = False
        return response


def transition(
    node: Any,
    step: Callable[[], None],
    inherited: Callable[[Any], Any],
    state: Any,
    undo: Callable[[], None] | None = None,
) -> Any:
    """Do a step, then what the base class does; where it fails undo what was begun, and stay in the state before.

    rclpy would swallow the exception.
    """
    try:
        step()
    except Exception as error:  # whatever it is, it is said here or nowhere
        node.get_logger().error(explain(error, node.get_logger()))
        if undo is not None:
            undo()
        return TransitionCallbackReturn.FAILURE
    return inherited(state)
