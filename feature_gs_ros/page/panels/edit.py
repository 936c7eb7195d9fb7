"""Edit what an answer selects: delete, extract, recolour, move; undo, redo, and save as a PLY."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from feature_gs_ros.core.errors import EditError
from feature_gs_ros.editing import Delete, Edit, Extract, Move, Operation, Recolor, Selection
from feature_gs_ros.editing.operations import Paint
from feature_gs_ros.io.atomic import atomic_files
from feature_gs_ros.io.locks import locked
from feature_gs_ros.io.splats.registry import WRITTEN
from feature_gs_ros.page.limits import MAX_NAME_CHARACTERS
from feature_gs_ros.page.session import Session
from feature_gs_ros.query.masks_3d import State

if TYPE_CHECKING:
    import viser


class EditPanel:
    """The same stack of edits as `feature-gs edit`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        gui = session.client.gui
        with session.tabs.add_tab("Edit"):
            self._answer = gui.add_dropdown("answer", ("none yet",), hint="the one to edit or export")
            delete, extract = gui.add_button("Delete"), gui.add_button("Keep only this")
            self._color = gui.add_rgb("colour", (230, 60, 30))
            self._paint = gui.add_dropdown("paint", ("hue", "flat", "brightness"))
            recolor = gui.add_button("Recolour")
            self._by = gui.add_vector3("move by", (0.0, 0.0, 0.1), step=0.01, hint="x y z in the map frame, metres")
            move = gui.add_button("Move")
            undo, redo = gui.add_button("Undo"), gui.add_button("Redo")
            self._list = gui.add_markdown("no edits")
            self._name = gui.add_text("file", "edited.ply", hint=f"in {session.content.folder.path}")
            save = gui.add_button("Save the map")
        self._answer.on_update(session.guarded(self._choose))
        delete.on_click(session.guarded(lambda _: self._push(Delete())))
        extract.on_click(session.guarded(lambda _: self._push(Extract())))
        recolor.on_click(session.guarded(lambda _: self._push(self._recolor())))
        move.on_click(session.guarded(lambda _: self._push(Move(self._by.value))))
        undo.on_click(session.guarded(lambda _: self._back()))
        redo.on_click(session.guarded(lambda _: self._again()))
        save.on_click(session.guarded(lambda _: self._save()))
        session.on_answers.append(self._list_answers)
        session.on_edits.append(self._list_edits)

    def _recolor(self) -> Recolor:
        red, green, blue = (value / 255 for value in self._color.value)
        return Recolor((red, green, blue), cast("Paint", self._paint.value))

    def _push(self, operation: Operation) -> None:
        session = self._session
        with session.lock:
            answer = session.answer
            if answer is None or answer.state is not State.FOUND:
                raise EditError("nothing is found that could be edited; ask or click first", code="edit.empty")
            rows = torch.nonzero(answer.mask)[:, 0]
            edit = Edit(operation, answer.prompt, Selection(rows, torch.ones(len(rows))))
            session.stack.push(edit)
            session.edits_changed()
        session.say(f"did {edit.summary}")
        session.settle()

    def _back(self) -> None:
        with self._session.lock:
            undone = self._session.stack.undo()
            self._session.edits_changed()
        self._session.say(f"undid {undone.summary}")
        self._session.settle()

    def _again(self) -> None:
        with self._session.lock:
            done = self._session.stack.redo()
            self._session.edits_changed()
        self._session.say(f"did {done.summary}")
        self._session.settle()

    def _save(self) -> None:
        session = self._session
        path = self._target()
        edits_path = path.with_name(path.name + ".edits")
        with session.lock, locked(path), atomic_files(path, edits_path) as (map_file, edits_file):
            left = session.stack.export(map_file, session.content.plain_ply)
            session.stack.save(edits_file)
        session.say(f"wrote {path}: {left} Gaussians; feature-gs edit --out {path} goes on from there")

    def _target(self) -> Path:
        """The file to write: a map of a format that is written, below the folder, and none that the page shows.

        Raises:
            EditError: another kind of file, or one of the page's own.
            FieldError: the name leads out of the folder.
        """
        name, content = self._name.value.strip(), self._session.content
        if len(name) > MAX_NAME_CHARACTERS or not name.lower().endswith(tuple(WRITTEN)):
            raise EditError(
                f"maps are written as {', '.join(WRITTEN)}; name it so, in up to {MAX_NAME_CHARACTERS} characters",
                code="edit.name",
            )
        path = content.folder(name)
        own = {file.resolve() for file in (content.source, content.map_path) if file is not None}
        if path in own or path.with_name(path.name + ".edits") in own:
            raise EditError(f"'{name}' is a file that this page shows; choose another name", code="edit.exists")
        return path

    def _choose(self, event: viser.GuiEvent[Any]) -> None:
        if event.client is not None and self._answer.value in self._answer.options:
            self._session.chosen = self._answer.options.index(self._answer.value)
            self._session.repaint()

    def _list_answers(self) -> None:
        names = tuple(answer.prompt for answer in self._session.answers) or ("none yet",)
        if tuple(self._answer.options) != names:
            self._answer.options = names
            self._session.chosen = 0

    def _list_edits(self) -> None:
        stack = self._session.stack
        lines = [f"{number}. {type(edit.operation).__name__.lower()}, {len(edit.selection.rows)} Gaussians"
                 for number, edit in enumerate(stack.edits, start=1)]  # fmt: skip
        left = int(self._session.edited.present.sum())
        self._list.content = "\n".join(lines or ["no edits"]) + f"\n\n{left} of {len(stack.gaussians)} Gaussians"
