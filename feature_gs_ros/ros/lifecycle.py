"""Lifecycle transitions that say why they failed and can be tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import TransitionCallbackReturn

from feature_gs_ros.ros.guard import explain


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
