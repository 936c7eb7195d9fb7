"""``feature-gs edit``: delete, extract, recolour or move what a prompt finds; undo and redo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.opening import find_map
from feature_gs_ros.cli.checks import check_kind, check_outputs, files_of
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import EditError
from feature_gs_ros.core.progress import say
from feature_gs_ros.editing import Delete, Edit, EditStack, Extract, Move, Operation, Recolor, Selection
from feature_gs_ros.editing.operations import EditedMap, Paint
from feature_gs_ros.editing.prompts import select
from feature_gs_ros.io.atomic import atomic_files, finish_interrupted
from feature_gs_ros.io.locks import locked
from feature_gs_ros.io.splats.registry import check_written, plain_ply
from feature_gs_ros.pictures import save_png, side_by_side, to_image
from feature_gs_ros.query.answer_picture import best_view
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.opening import open_segmenter


def edit(
    field: Path,
    /,
    *,
    out: Path,
    delete: str | None = None,
    extract: str | None = None,
    recolor: str | None = None,
    move: str | None = None,
    undo: bool = False,
    redo: bool = False,
    color: tuple[float, float, float] = (0.9, 0.2, 0.1),
    paint: Paint = "hue",
    by: tuple[float, float, float] = (0.0, 0.0, 0.0),
    turn: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
    scale: float = 1.0,
    negative: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    threshold: float | None = None,
    soft_edge: float = 0.0,
    picture: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    json: bool = False,
) -> int:
    """Edit the map of a field by text prompts and write it as a PLY; the field's own map stays unchanged.

    A prompt is words ("coffee mug"), a point of the map frame in metres (@0.1,-0.2,0.05), or an image of the
    object (@mug.png). The edits are kept beside the output (OUT.edits): the next command with the same --out adds to
    them, and --undo undoes the last one.

    Args:
        field: a field, written by feature-gs backproject.
        out: the edited map: a 3DGS PLY, in which rows that no edit touched keep their bytes; or, by its name, a
            compressed PLY (.compressed.ply) or SPZ (.spz).
        delete: prompt for what to remove.
        extract: prompt for what to keep; the rest is removed.
        recolor: prompt for what to recolour, see --color and --paint.
        move: prompt for what to move, see --by, --turn and --scale.
        undo: undo the last edit.
        redo: redo the last undone edit.
        color: R G B, each 0 to 1.
        paint: hue (keeps each Gaussian's brightness, and so the shading), flat, or brightness (keeps the hue).
        by: metres along x y z of the map frame.
        turn: rotation about the selection's centroid, quaternion w x y z.
        scale: about the selection's centroid.
        negative: competing text, not part of the selection; may be repeated.
        threshold: minimum similarity; the extractor's own by default.
        soft_edge: similarity over which the edit fades in below the threshold.
        picture: PNG of the map before and after.
        map: the map file, if it has moved since the field was made.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        json: print one JSON object.
    """
    asked = _operation(delete, extract, recolor, move, Recolor(color, paint), Move(by, turn, scale))
    if (asked is not None) + undo + redo != 1:
        raise EditError(
            "give one of --delete, --extract, --recolor, --move PROMPT, --undo, --redo", code="edit.conflict"
        )
    check_outputs({"--out": out}, [])
    edits_path = out.with_name(out.name + ".edits")
    outputs = {"--out": out, "the file of the edits": edits_path, "--picture": picture}
    example = None if asked is None or not asked[1].startswith("@") else Path(asked[1][1:])
    check_outputs(outputs, [field, map, weights, example, *files_of(option)])
    segmenter = open_segmenter(field, map, weights, option)
    own = find_map(field, segmenter.field, map)
    check_outputs(outputs, [own])
    check_written(out)
    check_kind("--picture", picture, ".png")
    with locked(out):
        finish_interrupted(out)
        stack = _stack(edits_path, segmenter)
        before = stack.edited()
        if asked is not None:
            operation, prompt = asked
            selection = select(segmenter, before, prompt, negative, threshold, soft_edge)
            done = Edit(operation, prompt, selection)
            stack.push(done)
        else:
            done = stack.undo() if undo else stack.redo()
        with atomic_files(out, edits_path) as (map_file, edits_file):
            left = stack.export(map_file, plain_ply(own))
            stack.save(edits_file)
    if picture is not None:
        save_png(_picture(segmenter, before, stack.edited(), done.selection), picture)
    what = f"{'undid' if undo else 'did'} {done.summary}"
    if json:
        names = [edit.summary for edit in stack.edits]
        print_json({"edit": done.summary, "undone": undo, "gaussians": left, "edits": names, "out": str(out)})
        return 0
    say(f"{what}; {len(stack.edits)} edits, {left} of {len(stack.gaussians)} Gaussians")
    say(f"wrote {out}" + (f" and {picture}" if picture else ""))
    return 0


def _operation(
    delete: str | None, extract: str | None, recolor: str | None, move: str | None, painted: Recolor, moved: Move
) -> tuple[Operation, str] | None:
    """The one that was asked for, with its prompt."""
    given: list[tuple[Operation, str | None]] = [
        (Delete(), delete), (Extract(), extract), (painted, recolor), (moved, move),
    ]  # fmt: skip
    asked = [(operation, prompt) for operation, prompt in given if prompt is not None]
    if len(asked) > 1:
        raise EditError(
            f"{len(asked)} edits at once; give one prompt a command, and the same --out for the next",
            code="edit.conflict",
        )
    if asked and isinstance(asked[0][0], Move) and moved == Move():
        raise EditError("--move needs a motion; give --by X Y Z, --turn W X Y Z or --scale S", code="edit.conflict")
    if moved != Move() and move is None:
        raise EditError(
            "--by, --turn and --scale say where to --move something; give it a prompt", code="edit.conflict"
        )
    return asked[0] if asked else None


def _stack(edits_path: Path, segmenter: Segmenter) -> EditStack:
    map_from_splat = segmenter.field.provenance.splat_from_map.inverse()
    if edits_path.exists():
        return EditStack.load(edits_path, segmenter.gaussians, map_from_splat)
    return EditStack(segmenter.gaussians, map_from_splat)


def _picture(segmenter: Segmenter, before: EditedMap, after: EditedMap, selection: Selection) -> Image:
    """Before and after, from the field's camera that sees most of what was edited."""
    touched = selection.dense(len(before.present)) > 0
    known = best_view(segmenter.gaussians, segmenter.field.provenance.views, touched)
    drawn = [
        to_image(rasterizer.view(edited.visible(), known.camera, known.camera_from_splat).render_color())
        for edited in (before, after)
    ]
    return side_by_side(drawn, ["before", "after"])
