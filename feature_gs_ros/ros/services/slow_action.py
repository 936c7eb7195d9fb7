"""SlowAction: what a service does as an action of the same name, with progress, and cancelled between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feature_gs_ros.ros.convert.answers import Progress
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.services.exclusive_action import ExclusiveAction

Work = Callable[[Any, Any, Progress], None]  # request, response to fill, progress


class SlowAction(ExclusiveAction):
    """Its goal has the fields of the service's request, and its result those of the response."""

    def __init__(self, node: Any, session: Callable[[], Session], kind: Any, name: str, do: Work) -> None:
        super().__init__(node, session, kind, name)
        self._do = do

    def work(self, goal: Any, result: Any) -> None:
        """
        Raises:
            FeatureGsError: it can't be done.
            StoppedError: it was cancelled, or the node is being deactivated.
        """

        def progress(step: str, fraction: float) -> bool:
            goal.publish_feedback(self._kind.Feedback(step=step, fraction=fraction))
            return self.ending(goal)

        self._do(goal.request, result, progress)
