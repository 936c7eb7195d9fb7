"""Services that keep the field: ~/save (an action, too), ~/load, ~/reset; and ~/republish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from std_srvs.srv import Trigger

from feature_gs_ros.action import Save as SaveAction
from feature_gs_ros.ros.convert.answers import Progress, unwatched
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.guard import reporting
from feature_gs_ros.ros.runtime.publishers import Publishers
from feature_gs_ros.ros.services.service_group import Callbacks, ServiceGroup
from feature_gs_ros.ros.services.slow_action import SlowAction
from feature_gs_ros.srv import Load, Save


class FieldServices:
    """One at a time, in a callback group of their own."""

    def __init__(self, node: Any, publishers: Publishers, session: Callable[[], Session]) -> None:
        self._node, self._publishers, self._session = node, publishers, session
        callbacks: Callbacks = {
            "save": (Save, self._save),
            "load": (Load, self._load),
            "reset": (Trigger, self._reset),
            "republish": (Trigger, self._republish),
        }
        self._services = ServiceGroup(node, callbacks)
        self.action = SlowAction(node, session, SaveAction, "save", self._do_save)

    def close(self) -> None:
        self._services.close()
        self.action.close()

    def _save(self, request: Any, response: Any) -> Any:
        with reporting(response, self._node.get_logger()):
            self._do_save(request, response)
        return response

    def _do_save(self, request: Any, response: Any, progress: Progress = unwatched) -> None:
        """
        Raises:
            FieldError: the file can't be written.
            StoppedError: before it was there.
        """
        response.message = str(self._session().save(request.path, progress))
        response.success = True

    def _load(self, request: Any, response: Any) -> Any:
        with reporting(response, self._node.get_logger()):
            session = self._session()
            path = session.settings.field_path(request.path)
            session.field.load(path)
            response.success, response.message = True, f"{session.field.views} views from '{path}'"
        return response

    def _reset(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        with reporting(response, self._node.get_logger()):
            session = self._session()
            views = session.field.reset()
            session.worker.take_next_frame()
            response.success, response.message = True, f"{views} views forgotten"
        return response

    def _republish(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        with reporting(response, self._node.get_logger()):
            session = self._session()
            field, frame = session.field, session.settings.map_frame
            count = self._publishers.send_map(field, frame)
            again = " and the last answer" if self._publishers.repeat_answer() else ""
            response.success, response.message = True, f"map of {count} Gaussians{again}"
        return response
