"""The service and action ~/edit: changes what the map shows, by words; what was learned stays as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from feature_gs_ros.action import Edit as EditAction
from feature_gs_ros.core.errors import EditError
from feature_gs_ros.editing import Delete, Edit, Extract, Move, Operation, Recolor, select_text
from feature_gs_ros.msg import Answer
from feature_gs_ros.ros.convert.answers import Progress, StepTimes, unwatched
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.guard import answering
from feature_gs_ros.ros.runtime.publishers import Publishers
from feature_gs_ros.ros.services.queries import check_texts, threshold_of
from feature_gs_ros.ros.services.service_group import ServiceGroup
from feature_gs_ros.ros.services.slow_action import SlowAction
from feature_gs_ros.srv import Edit as EditService

Request = EditService.Request


class Edits:
    """One at a time, as a service or an action; saved with the field, and applied again when it is loaded."""

    def __init__(self, node: Any, publishers: Publishers, session: Callable[[], Session]) -> None:
        self._node, self._publishers, self._session = node, publishers, session
        self._editing = threading.Lock()
        self._services = ServiceGroup(node, {"edit": (EditService, self._edit)})
        self.action = SlowAction(node, session, EditAction, "edit", self._do)

    def close(self) -> None:
        self._services.close()
        self.action.close()

    def _edit(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            self._do(request, response)
        return response

    def _do(self, request: Any, response: Any, progress: Progress = unwatched) -> None:
        """
        Raises:
            EditError: there is nothing to edit, undo or do again, or a value is out of range.
            StoppedError: before anything was changed.
        """
        session, times = self._session(), StepTimes(progress)
        with self._editing:
            field, response.undo = session.field, _undo_text(session)  # also where nothing comes of it
            if request.operation == Request.UNDO:
                done, verb = field.edits.undo(), "undid"
            elif request.operation == Request.REDO:
                done, verb = field.edits.redo(), "did again"
            else:
                done, verb = self._push(session, request, times), "did"
            with times.step("apply", may_stop=False):
                field.show_edits()
            with times.step("publish", may_stop=False):
                self._publishers.forget_answer()  # its Gaussians may be gone, or elsewhere
                self._publishers.send_map(field, session.settings.map_frame)
            response.gaussians, response.undo = len(done.selection.rows), _undo_text(session)
        answer = response.answer
        answer.state, answer.message, answer.timing = Answer.FOUND, f"{verb} {done.summary}", times.messages
        answer.views, answer.coverage = field.views, field.coverage()

    def _push(self, session: Session, request: Any, times: StepTimes) -> Edit:
        operation, field = _operation(request), session.field
        texts = check_texts([request.text, *request.negatives])
        threshold = threshold_of(request.threshold)
        with times.step("snapshot"):
            snapshot = field.snapshot()
        with times.step("similarity"):
            present = snapshot.shown.present
            selection = select_text(snapshot.segmenter, texts[0], texts[1:], threshold, request.soft_edge, present)
        edit = Edit(operation, texts[0], selection)
        with times.step("edit"):
            field.edits.push(edit)
        return edit


def _undo_text(session: Session) -> str:
    edits = session.field.edits.edits
    return edits[-1].summary if edits else ""


def _operation(request: Any) -> Operation:
    """
    Raises:
        EditError: the operation is unknown, or its values are out of range.
    """
    if request.operation == Request.DELETE:
        return Delete()
    if request.operation == Request.EXTRACT:
        return Extract()
    if request.operation == Request.RECOLOR:
        color = request.color
        return Recolor((color.r, color.g, color.b), "hue" if request.keep_shading else "flat")
    if request.operation == Request.MOVE:
        by, turn = request.moved.translation, request.moved.rotation
        return Move((by.x, by.y, by.z), (turn.w, turn.x, turn.y, turn.z), request.scale)
    raise EditError(f"operation {request.operation} is unknown; choose 0 to 5", code="edit.unknown")
