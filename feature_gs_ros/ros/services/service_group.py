"""ServiceGroup: services that answer one at a time, and are taken away when the answer under way has gone out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

from feature_gs_ros.ros.runtime.qos import SERVICES

ANSWER_TIMEOUT = 15.0  # s that an answer under way is waited for

Callbacks = Mapping[str, tuple[type, Callable[[Any, Any], Any]]]  # service's name -> its type, who answers


class ServiceGroup(MutuallyExclusiveCallbackGroup):
    """A callback group with its services, below the node's own name.

    A service that is destroyed while it answers can't send its response: rclpy raises InvalidHandle then.
    """

    def __init__(self, node: Any, callbacks: Callbacks) -> None:
        super().__init__()
        self._node = node
        self._changed = threading.Condition()
        self._answering = self._closing = False
        self._services = [
            node.create_service(kind, f"~/{name}", callback, qos_profile=SERVICES, callback_group=self)
            for name, (kind, callback) in callbacks.items()
        ]

    def can_execute(self, entity: Any) -> bool:
        """Whether a request may be answered now."""
        return not self._closing and bool(super().can_execute(entity))

    def beginning_execution(self, entity: Any) -> bool:
        """Whether it may begin; from then on the group is busy."""
        with self._changed:
            begun = not self._closing and bool(super().beginning_execution(entity))
            self._answering |= begun
        return begun

    def ending_execution(self, entity: Any) -> None:
        """The response has gone out."""
        super().ending_execution(entity)
        with self._changed:
            self._answering = False
            self._changed.notify_all()

    def close(self) -> None:
        """Answer nothing more, wait for the answer under way, and take the services away."""
        with self._changed:
            self._closing = True
            if not self._changed.wait_for(lambda: not self._answering, ANSWER_TIMEOUT):
                self._node.get_logger().warning(f"an answer that takes longer than {ANSWER_TIMEOUT:.0f} s is dropped")
        for service in self._services:
            self._node.destroy_service(service)
