"""Runs a node as a program: threads, signals, and an end that leaves nothing behind."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import rclpy
from rclpy.exceptions import InvalidHandle, ParameterException
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.core.memory import keep_freed_memory
from feature_gs_ros.ros.runtime.parameters import value

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal, or the ssh session, is gone
SIGNAL_POLL_PERIOD = 0.2  # s after which a signal is noticed
LAST_CALLBACKS = 2.0  # s that callbacks under way have at the end
MAX_THREADS = 1024  # more than a node has callback groups


def run(make_node: Callable[[], Any]) -> None:
    """Spin a node until SIGINT, SIGTERM, SIGHUP or its own end, then `close` it, also where a callback fails.

    Exits with 2 where its parameters can't be used, with 1 where a callback, the end or its work failed. Signals don't
    invalidate ROS's context here, as they do by default: a node may still log, answer and publish while it closes. A
    second one does not end a save.
    """
    keep_freed_memory()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopping = threading.Event()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, lambda *_: stopping.set())
    try:
        node = make_node()
    except (FeatureGsError, ParameterException) as error:
        print(f"error: {error}", file=sys.stderr)
        rclpy.shutdown()
        sys.exit(2)
    executor = make_executor()
    done = _succeeds(node, partial(_spin, node, executor, stopping))
    # Each of them, whatever became of the others: what was learned is to be saved, and no thread left.
    shut_down = partial(executor.shutdown, LAST_CALLBACKS)
    for step in (node.close, shut_down, partial(_hear_last, executor), node.destroy_node, rclpy.shutdown):
        done &= _succeeds(node, step)
    if not done or getattr(node, "failed", False):
        sys.exit(1)


def make_executor(context: Any = None) -> MultiThreadedExecutor:
    """An executor with a thread for each callback group that is busy, however many a node registers and whenever.

    Its pool starts a thread when a callback is due and all others are busy; of an exclusive group one callback runs at
    a time. So there come to be no more threads than groups, and none has to wait for another group's callback.
    """
    return MultiThreadedExecutor(num_threads=MAX_THREADS, context=context)


def _spin(node: Any, executor: MultiThreadedExecutor, stopping: threading.Event) -> None:
    # Here and not by launch: after a crash its request might go to the dead node, which discovery still lists.
    if isinstance(node, LifecycleNode):
        if not value(node, "autostart"):
            node.get_logger().info("waiting to be configured and activated, as the parameter autostart is false")
        elif node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
    executor.add_node(node)
    while not stopping.is_set() and not getattr(node, "finished", False):
        try:
            executor.spin_once(timeout_sec=SIGNAL_POLL_PERIOD)
        except InvalidHandle as error:  # a transition took something away that was just about to be used
            node.get_logger().warning(f"a message came too late: {error}")


def _hear_last(executor: MultiThreadedExecutor) -> None:
    """Raise what a callback raised that ended after the last spin; that it came too late is not a failure.

    rclpy would print that nobody asked.
    """
    for callback in list(getattr(executor, "_futures", ())):
        if callback.done():
            with suppress(InvalidHandle):
                callback.result()


def _succeeds(node: Any, step: Callable[[], Any]) -> bool:
    """Do it; what is raised goes to the log."""
    try:
        step()
    except Exception:
        node.get_logger().fatal(traceback.format_exc())
        return False
    return True
