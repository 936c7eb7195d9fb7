"""The action ~/backproject_bag: a whole recording onto the map, with progress; cancelled, what is done stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from feature_gs_ros.action import BackprojectBag
from feature_gs_ros.backprojection.ingest import Report, choose_frames, ingest
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.msg import Count, StepTime
from feature_gs_ros.numerics.streams import on
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.services.exclusive_action import ExclusiveAction


class BagAction(ExclusiveAction):
    """A recording below data_dir."""

    def __init__(self, node: Any, session: Callable[[], Session]) -> None:
        super().__init__(node, session, BackprojectBag, "backproject_bag")

    def work(self, goal: Any, result: Any) -> None:
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
            return self.ending(goal)

        live_map = session.field.map
        with on("ingestion", live_map.backend.device):
            _fill(result, ingest(stream, names, live_map.extractor, session.field, progress=progress))


def _fill(result: Any, report: Report) -> None:
    result.used = len(report.used)
    result.frames_skipped = [Count(reason=reason, count=count) for reason, count in report.skipped.items()]
    result.timing = [StepTime(step=step, seconds=seconds) for step, seconds in report.seconds.items()]
    result.success = not report.cancelled
    done = "cancelled, what was done stays" if report.cancelled else "done"
    result.message = f"{done}: {result.used} frames used, {sum(report.skipped.values())} skipped"
