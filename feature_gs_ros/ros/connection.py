"""NodeConnection: services and actions of a node, called from a plain Python program, whose refusals are our errors."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from feature_gs_ros.core.errors import FeatureGsError, UnavailableError, error_of_code
from feature_gs_ros.ros.runtime.guard import succeeded
from feature_gs_ros.ros.runtime.qos import SERVICES

NOT_SAID = "unavailable.timeout"  # the code where no answer came in time
INTRODUCTION = 5.0  # s after which a target that doesn't say so is taken to know a client
SPIN_PERIOD = 0.1  # s after which it is noticed that the end has come


class NodeConnection:
    """A node of its own, which spins in a thread of its own; every method may be called from any thread.

    Args:
        target: the whole name of the node that is called.
        name: of the connection's own node.
    """

    def __init__(self, target: str, name: str) -> None:
        self.target = target
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        # By its own name, also in a program whose node was renamed on the command line.
        renamed = ["--ros-args", "-r", f"__node:={name}"]
        self.node = rclpy.create_node(name, context=self._context, cli_args=renamed)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._lock = threading.Lock()
        self._services: dict[str, Any] = {}
        self._actions: dict[str, Any] = {}
        self._known: set[Any] = set()  # clients that the target has discovered
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)

    def start(self) -> None:
        """Spin, once the node has its subscriptions."""
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        rclpy.shutdown(context=self._context)
        self._thread.join(5)

    def call(self, kind: Any, name: str, request: Any, timeout: float) -> Any:
        """A service's response, whatever it says.

        Raises:
            UnavailableError: there is no such service, or no response within ``timeout`` s.
        """
        with self._lock:
            if name not in self._services:
                path = f"{self.target}/{name}"
                self._services[name] = self.node.create_client(kind, path, qos_profile=SERVICES)
            client = self._services[name]
        if not client.wait_for_service(timeout):
            raise UnavailableError(
                f"no service '{self.target}/{name}' after {timeout:g} s; start the node, and configure it",
                code=NOT_SAID,
            )
        self._introduce(client, timeout)
        return self._wait(client.call_async(request), name, timeout)

    def act(
        self, kind: Any, name: str, goal: dict[str, Any], on_feedback: Callable[[Any], bool], timeout: float
    ) -> Any:
        """An action's result, whatever it says.

        Args:
            kind: the action's type.
            name: of the action.
            goal: the goal's fields.
            on_feedback: gets each feedback message; True cancels the goal, and its result is waited for all the same.
            timeout: s.

        Raises:
            UnavailableError: there is no such action, the goal is refused, or no result comes in time.
        """
        with self._lock:
            if name not in self._actions:
                self._actions[name] = ActionClient(self.node, kind, f"{self.target}/{name}")
            client = self._actions[name]
        if not client.wait_for_server(timeout):
            raise UnavailableError(
                f"no action '{self.target}/{name}' after {timeout:g} s; start the node, and configure it", code=NOT_SAID
            )
        self._introduce(client, timeout)
        cancelled = threading.Event()
        handle: Any = None

        def hear(message: Any) -> None:  # in the thread that spins, as `cancel_goal_async` must be called
            if on_feedback(message.feedback):
                cancelled.set()
            if cancelled.is_set() and handle is not None:
                handle.cancel_goal_async()

        # In the thread that spins, too: the request is noted after it was sent, and an answer that another thread
        # hears before would be dropped.
        send = self._executor.create_task(partial(client.send_goal_async, kind.Goal(**goal), hear))
        handle = self._wait(self._wait(send, name, timeout), name, timeout)
        if not handle.accepted:
            raise UnavailableError(
                f"'{self.target}' refuses a goal of {name} now; its log says why", code="unavailable.refused"
            )
        if cancelled.is_set():
            self._executor.create_task(handle.cancel_goal_async)
        asked = self._wait(self._executor.create_task(handle.get_result_async), name, timeout)
        return self._wait(asked, name, timeout).result

    def _introduce(self, client: Any, timeout: float) -> None:
        """Wait until the target knows a client: what it answers to one that it hasn't discovered yet is lost.

        Discovery is in order, so where a client that is made later gets an answer, this one is known. It asks for the
        lifecycle's state, which may be asked for as often as it takes. While a transition is under way there is no
        answer to that; so after a while this one counts as known.
        """
        if client in self._known:
            return
        later = self.node.create_client(GetState, f"{self.target}/get_state")
        end = time.monotonic() + min(timeout, INTRODUCTION)
        answered = threading.Event()
        while time.monotonic() < end and not answered.is_set():
            if later.service_is_ready():
                later.call_async(GetState.Request()).add_done_callback(lambda _: answered.set())
            answered.wait(INTRODUCTION / 10)
        self._known.add(client)

    def _wait(self, future: Any, what: str, timeout: float) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(timeout):
            raise UnavailableError(f"no answer of '{self.target}' to {what} within {timeout:g} s", code=NOT_SAID)
        return future.result()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while self._context.ok():
                self._executor.spin_once(timeout_sec=SPIN_PERIOD)


def done(response: Any) -> Any:
    """A response or result that says that what was asked for was done, or answered.

    Raises:
        FeatureGsError: it says something else.
    """
    if succeeded(response):
        return response
    raise refusal(getattr(response, "answer", response))


def refusal(answer: Any) -> FeatureGsError:
    """The error that an Answer, or a response with success, message and perhaps a code, stands for."""
    return error_of_code(getattr(answer, "code", "") or UnavailableError.code, answer.message)
