"""Runs a node as a program: threads, signals, and an end that leaves nothing behind."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from feature_gs_ros.errors import FeatureGsError
from feature_gs_ros.ros.parameters import value

HEARING = 0.2  # s after which a signal is noticed


def run(make_node: Callable[[], Any], threads: int) -> None:
    """Spin a node until SIGINT, SIGTERM or its own end, then `close` it.

    Exits with 2 where its parameters can't be used. Signals don't invalidate ROS's context here, as they do by
    default: a node may still log, answer and publish while it closes. A second one does not end a save.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        node = make_node()
    except (FeatureGsError, ParameterException) as error:
        print(f"error: {error}", file=sys.stderr)
        rclpy.shutdown()
        sys.exit(2)
    # Here and not by launch: after a crash its request might go to the dead node, which discovery still lists.
    autostart = isinstance(node, LifecycleNode) and value(node, "autostart")
    if autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()
    executor = MultiThreadedExecutor(num_threads=threads)
    executor.add_node(node)
    while not stopping.is_set() and not getattr(node, "finished", False):
        executor.spin_once(timeout_sec=HEARING)
    node.close()
    executor.shutdown(timeout_sec=2.0)
    node.destroy_node()
    rclpy.shutdown()
