"""ExclusiveAction: an action of one goal at a time, while the node is active; it may be cancelled between steps."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import RCLError
from rclpy.callback_groups import ReentrantCallbackGroup

from feature_gs_ros.core.errors import UnavailableError
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.guard import guarding, succeeded

INACTIVE = "feature_map is not active, or is being deactivated; activate it first"


class ExclusiveAction(ABC):
    """A subclass does the work; live frames and queries go on beside it."""

    def __init__(self, node: Any, session: Callable[[], Session], kind: Any, name: str) -> None:
        """``kind`` is the action's type; its result has an answer, or success, message and code."""
        self._node, self._session = node, session
        self._kind, self._name = kind, name
        self._busy = threading.Lock()
        self._stopping = threading.Event()  # goals are refused, and one under way ends; until `begin`
        self._stopping.set()
        self._server = ActionServer(
            node,
            kind,
            f"~/{name}",
            self._execute,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self._accept,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    @abstractmethod
    def work(self, goal: Any, result: Any) -> None:
        """Do it, and fill the result.

        Raises:
            FeatureGsError: it can't be done.
        """

    def ending(self, goal: Any) -> bool:
        """Whether a goal under way must end after its step at hand."""
        return bool(goal.is_cancel_requested) or self._stopping.is_set()

    def begin(self) -> None:
        """Take goals from now on."""
        self._stopping.clear()

    def refuse(self) -> None:
        """Take goals no more, and end one that is under way as if it were cancelled."""
        self._stopping.set()

    def interrupt(self) -> None:
        """The same, and wait for its step at hand."""
        self.refuse()
        with self._busy:
            pass

    def close(self) -> None:
        self.interrupt()
        self._server.destroy()

    def _accept(self, _: Any) -> Any:
        log = self._node.get_logger()
        if self._stopping.is_set():
            log.warning(f"~/{self._name} is rejected: {INACTIVE}")
            return GoalResponse.REJECT
        if self._busy.locked():
            log.warning(f"~/{self._name} is rejected: {self._occupied}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _execute(self, goal: Any) -> Any:
        result = self._kind.Result()
        if not self._busy.acquire(blocking=False):
            goal.abort()
            with guarding(result, self._node.get_logger()):
                raise UnavailableError(self._occupied)
            return result
        try:
            with guarding(result, self._node.get_logger()):
                if self._stopping.is_set():  # since it was accepted
                    raise UnavailableError(INACTIVE)
                self.work(goal, result)
            self._finish(goal, result)
        finally:
            self._busy.release()
        return result

    @property
    def _occupied(self) -> str:
        return f"another goal of ~/{self._name} is under way; cancel it or wait"

    def _finish(self, goal: Any, result: Any) -> None:
        try:
            if succeeded(result):  # also where it was to be cancelled, and was done before
                goal.succeed()
            elif goal.is_cancel_requested:
                goal.canceled()
            else:
                goal.abort()
        except RCLError as error:  # the node is being shut down: nobody is left to hear of it
            self._node.get_logger().warning(f"the goal's end could not be reported: {error}")
