"""The action ~/backproject_bag: a whole recording onto the map, with progress; cancelled, what is done stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import RCLError
from rclpy.callback_groups import ReentrantCallbackGroup

from feature_gs_ros.action import BackprojectBag
from feature_gs_ros.backprojection.ingest import Report, choose_frames, ingest
from feature_gs_ros.core.errors import UnavailableError
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.msg import Count, StepTime
from feature_gs_ros.numerics.streams import on
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.guard import reporting

INACTIVE = "feature_map is not active, or is being deactivated; activate it first"


class BagAction:
    """One goal at a time, while the node is active; live frames and queries go on beside it."""

    def __init__(self, node: Any, session: Callable[[], Session]) -> None:
        self._node, self._session = node, session
        self._busy = threading.Lock()
        self._stopping = threading.Event()  # goals are refused, and one under way ends; until `begin`
        self._stopping.set()
        self._server = ActionServer(
            node,
            BackprojectBag,
            "~/backproject_bag",
            self._execute,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=self._accept,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def begin(self) -> None:
        """Take goals from now on."""
        self._stopping.clear()

    def interrupt(self) -> None:
        """Take goals no more, and end one that is under way as if it were cancelled; wait for its frame at hand."""
        self._stopping.set()
        with self._busy:
            pass

    def close(self) -> None:
        self.interrupt()
        self._server.destroy()

    def _accept(self, request: Any) -> Any:
        log = self._node.get_logger()
        if self._stopping.is_set():
            log.warning(f"'{request.path}' is rejected: {INACTIVE}")
            return GoalResponse.REJECT
        if self._busy.locked():
            log.warning(f"'{request.path}' is rejected: another recording is under way; cancel it or wait")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _execute(self, goal: Any) -> Any:
        result = BackprojectBag.Result()
        if not self._busy.acquire(blocking=False):
            goal.abort()
            result.message = "another recording is under way; cancel it or wait"
            return result
        try:
            with reporting(result, self._node.get_logger()):
                if self._stopping.is_set():  # since it was accepted
                    raise UnavailableError(INACTIVE)
                report = self._backproject(goal)
                _fill(result, report)
            self._finish(goal, result)
        finally:
            self._busy.release()
        return result

    def _backproject(self, goal: Any) -> Report:
        """
        Raises:
            FeatureGsError: the recording can't be read, or sees nothing of the map.
        """
        session, request = self._session(), goal.request
        options = BagOptions(map_frame=session.settings.map_frame, image_topics=tuple(request.image_topics))
        stream = open_stream(session.settings.data(request.path), bag=options)
        names = choose_frames(stream, max(1, request.every))
        start = time.monotonic()

        def progress(done: int, total: int, name: str) -> bool:
            remaining = (time.monotonic() - start) / done * (total - done)
            goal.publish_feedback(BackprojectBag.Feedback(done=done, total=total, frame=name, remaining=remaining))
            return bool(goal.is_cancel_requested) or self._stopping.is_set()

        live_map = session.field.map
        with on("ingestion", live_map.backend.device):
            return ingest(stream, names, live_map.extractor, session.field, progress=progress)

    def _finish(self, goal: Any, result: Any) -> None:
        try:
            if goal.is_cancel_requested:
                goal.canceled()
            elif result.success:
                goal.succeed()
            else:
                goal.abort()
        except RCLError as error:  # the node is being shut down: nobody is left to hear of it
            self._node.get_logger().warning(f"the goal's result could not be reported: {error}")


def _fill(result: Any, report: Report) -> None:
    result.used = len(report.used)
    result.frames_skipped = [Count(reason=reason, count=count) for reason, count in report.skipped.items()]
    result.timing = [StepTime(step=step, seconds=seconds) for step, seconds in report.seconds.items()]
    result.success = not report.cancelled
    done = "cancelled, what was done stays" if report.cancelled else "done"
    result.message = f"{done}: {result.used} frames used, {sum(report.skipped.values())} skipped"
