"""Edits as small records on an undo and redo stack, saved beside the map and applied again on load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feature_gs_ros.core.errors import EditError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.editing.operations import Delete, EditedMap, Extract, Move, Operation, Recolor
from feature_gs_ros.editing.selection import Selection
from feature_gs_ros.io.splats.registry import copy_ply_rows, save_map, suffix_of
from feature_gs_ros.io.structured import Table
from feature_gs_ros.io.tensors import read_tensor_file, write_tensor_file

FORMAT = "feature_gs_ros edits 1"
OPERATIONS: dict[str, type[Any]] = {"delete": Delete, "extract": Extract, "recolor": Recolor, "move": Move}
NAMES = {kind: name for name, kind in OPERATIONS.items()}


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit: what was asked, what it did, and to which Gaussians."""

    operation: Operation
    prompt: str  # for a person
    selection: Selection

    @property
    def summary(self) -> str:
        """A line such as ``delete 'coffee mug' (812 Gaussians)``."""
        return f"{NAMES[type(self.operation)]} '{self.prompt}' ({len(self.selection.rows)} Gaussians)"


@dataclass(eq=False)
class EditStack:
    """The edits of one map. The map itself is never changed: after undoing all, it is the same to the last bit."""

    gaussians: GaussianMap
    map_from_splat: Sim3 = field(default_factory=Sim3.identity)
    edits: list[Edit] = field(default_factory=list)  # those that count, oldest first
    undone: list[Edit] = field(default_factory=list)  # those that `redo` brings back, last undone last
    # Of the last `edited`: the edits and what they gave, so that one more edit isn't all of them again.
    _applied_last: tuple[list[Edit], EditedMap | None] = field(default=([], None), init=False, repr=False)

    def edited(self) -> EditedMap:
        """The map with all edits applied."""
        done, shown = self._applied_last
        if (
            shown is None
            or len(done) > len(self.edits)
            or any(a is not b for a, b in zip(done, self.edits, strict=False))
        ):
            done, shown = [], EditedMap.of(self.gaussians)
        shown = reduce(self._applied, self.edits[len(done) :], shown)
        self._applied_last = list(self.edits), shown
        return shown

    def push(self, edit: Edit) -> EditedMap:
        """Add an edit and apply it; what was undone is forgotten.

        Raises:
            EditError: a row is not of this map or is gone, or the edit would leave no Gaussian; then nothing happened.
        """
        before = self.edited()
        rows = edit.selection.rows
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.gaussians):
            raise EditError(
                f"the selection has rows up to {int(rows.max())}, the map {len(self.gaussians)}", code="edit.value"
            )
        whole = edit.selection.dense(len(self.gaussians))[before.present] == 1
        if not bool(before.present[rows].any()):
            raise EditError(f"'{edit.prompt}' selects nothing that is still in the map", code="edit.empty")
        if bool(whole.all()):
            raise EditError(
                f"{edit.summary}: the selection is the whole map; raise the threshold", code="edit.everything"
            )
        after = self._applied(before, edit)
        if not bool(after.present.any()):
            raise EditError(f"{edit.summary} would leave no Gaussian; select less", code="edit.everything")
        self.edits.append(edit)
        self.undone.clear()
        self._applied_last = list(self.edits), after
        return after

    def undo(self) -> Edit:
        """Take the last edit back.

        Raises:
            EditError: there is none.
        """
        if not self.edits:
            raise EditError("there is no edit to undo; this is the map as it was", code="edit.history")
        self.undone.append(self.edits.pop())
        return self.undone[-1]

    def redo(self) -> Edit:
        """Do the edit again that was undone last.

        Raises:
            EditError: there is none.
        """
        if not self.undone:
            raise EditError("there is no undone edit to do again", code="edit.history")
        self.edits.append(self.undone.pop())
        return self.edits[-1]

    def export(self, target: str | Path, source: str | Path | None = None) -> int:
        """Write the edited map in the format that the target's name says; returns the number of its Gaussians.

        Args:
            source: the map's own PLY: then, in a PLY, untouched rows and properties unknown here keep their bytes.

        Raises:
            MapError: the target can't be written.
        """
        edited = self.edited()
        if source is None or suffix_of(target) != ".ply":
            save_map(edited.visible(), target)
        else:
            changed = edited.changed & edited.present
            rows = self.gaussians.file_rows
            values = edited.gaussians.select(changed) if bool(changed.any()) else None
            copy_ply_rows(source, target, rows[edited.present], values, rows[changed] if values is not None else None)
        return int(edited.present.sum())

    def save(self, path: str | Path) -> None:
        """Write the stack as a safetensors file, whole or not at all.

        Raises:
            EditError: the file can't be written.
        """
        records, tensors = [], {"count": torch.tensor(len(self.gaussians))}
        for index, edit in enumerate([*self.edits, *reversed(self.undone)]):
            records.append(
                {"operation": NAMES[type(edit.operation)], "prompt": edit.prompt, "values": asdict(edit.operation)}  # type: ignore[call-overload]
            )
            tensors[f"{index}.rows"], tensors[f"{index}.amounts"] = edit.selection.rows, edit.selection.amounts
        content = {"map": self.gaussians.checksum, "done": len(self.edits), "records": records}
        try:
            write_tensor_file(path, FORMAT, tensors, content)
        except OSError as error:
            raise EditError(
                f"can't write the edits '{path}': {error.strerror or error}", code="edit.unwritable"
            ) from error

    @staticmethod
    def load(path: str | Path, gaussians: GaussianMap, map_from_splat: Sim3 | None = None) -> EditStack:
        """Read the edits of this map.

        Raises:
            EditError: the file is missing, damaged, or belongs to another map.
        """
        tensors, content = read_tensor_file(path, FORMAT, EditError, "edit anew")
        done, checksum = content.whole("done"), content.text("map")
        edits = [_from_record(record, index, tensors) for index, record in enumerate(content.tables("records"))]
        if checksum != gaussians.checksum:
            raise EditError(
                f"'{path}' holds edits of another map (checksum {checksum[:12]}, not {gaussians.checksum[:12]})",
                code="edit.mismatch",
            )
        if not 0 <= done <= len(edits):
            raise EditError(f"'{path}' is damaged: {done} of {len(edits)} edits are done", code="edit.damaged")
        for edit in edits:
            _check_rows(edit.selection, len(gaussians), str(path))
        return EditStack(gaussians, map_from_splat or Sim3.identity(), edits[:done], edits[done:][::-1])

    def _applied(self, edited: EditedMap, edit: Edit) -> EditedMap:
        return edit.operation.apply(edited, edit.selection, self.map_from_splat)


def _from_record(record: Table, index: int, tensors: Mapping[str, Tensor]) -> Edit:
    kind = OPERATIONS[record.choice("operation", tuple(OPERATIONS))]
    values = record.table("values")
    rows, amounts = tensors.get(f"{index}.rows"), tensors.get(f"{index}.amounts")
    if rows is None or amounts is None:
        raise EditError(f"{record.source} has no selection: the file is damaged; edit anew", code="edit.damaged")
    operation: Operation = kind(**{one.name: _value(values, one) for one in fields(kind) if one.name in values})
    return Edit(operation, record.text("prompt"), Selection(rows, amounts))


def _value(values: Table, of: Field[Any]) -> object:
    """An operation's value, of the kind that its default or type says."""
    if of.name == "paint":
        return values.text(of.name)
    return values.number(of.name) if isinstance(of.default, float) else values.numbers(of.name)


def _check_rows(selection: Selection, count: int, source: str) -> None:
    rows, amounts = selection.rows, selection.amounts
    fits = rows.dim() == 1 and rows.shape == amounts.shape and rows.dtype == torch.int64
    fits = fits and amounts.dtype == torch.float32
    if not fits or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count):
        raise EditError(
            f"'{source}' is damaged: a selection's rows don't fit the map's {count} Gaussians", code="edit.damaged"
        )
    if not bool(((amounts > 0) & (amounts <= 1)).all()):
        raise EditError(f"'{source}' is damaged: a selection's amounts are not in 0..1", code="edit.damaged")
