"""A program with one callback, which is under way when the program is to end and then finds its handle destroyed."""

from __future__ import annotations

import threading
import time

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node

from feature_gs_ros.ros.runtime.run import run


class LateNode(Node):
    """What `run` needs of a node."""

    def __init__(self) -> None:
        super().__init__("late_node")
        self._closing = threading.Event()
        self._timer = self.create_timer(0.05, self._report)

    def close(self) -> None:
        """Let the callback go on, and wait a little for its end."""
        self._closing.set()
        time.sleep(0.5)

    def _report(self) -> None:
        self.get_logger().info("reporting")
        self._closing.wait()
        raise InvalidHandle("it was destroyed")


if __name__ == "__main__":
    run(LateNode)
