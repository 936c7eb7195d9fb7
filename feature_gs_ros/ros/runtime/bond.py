"""Bond: signs of life for a lifecycle manager such as nav2's, where the package `bond` is installed."""

from __future__ import annotations

import uuid
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType

from feature_gs_ros.ros.runtime.parameters import value
from feature_gs_ros.ros.runtime.qos import STATUS

try:
    from bond.msg import Status
except ImportError:
    Status = None

HEARTBEAT_TIMEOUT = 4.0  # s without a sign of life after which the manager takes the node for dead


class Bond:
    """The node's side of a bond: from activation to deactivation.

    The manager's side listens on the topic ``bond`` of its namespace for the node's name. It takes a node for dead that
    says so, or nothing. It may break the bond itself, and waits for the node to agree. Without ``bond``, or with the
    parameter bond_heartbeat_period 0, nothing is published.
    """

    def __init__(self, node: Any) -> None:
        self._node, self._instance = node, str(uuid.uuid4())
        self._period = float(value(node, "bond_heartbeat_period"))
        self._timer: Any = None
        if Status is None or self._period == 0:
            return
        group = MutuallyExclusiveCallbackGroup()
        self._publisher = node.create_publisher(Status, "bond", STATUS)
        self._subscription = node.create_subscription(Status, "bond", self._hear, STATUS, callback_group=group)
        # On the steady clock: under use_sim_time a pause of the simulation is no death.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(self._period, lambda: self._say(True), callback_group=group, clock=clock)

    def close(self) -> None:
        """Say that the node lives no longer, as far as the manager is concerned."""
        if self._timer is None:
            return
        self._node.destroy_timer(self._timer)
        self._timer = None
        self._say(False)
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    def _say(self, active: bool) -> None:
        message = Status(id=self._node.get_name(), instance_id=self._instance, active=active)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.heartbeat_period, message.heartbeat_timeout = self._period, HEARTBEAT_TIMEOUT
        self._publisher.publish(message)

    def _hear(self, message: Any) -> None:
        """The manager breaks the bond: agree."""
        if message.id == self._node.get_name() and message.instance_id != self._instance and not message.active:
            self._say(False)
