"""``feature-gs query``: text queries to a field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import tyro

from feature_gs_ros.backprojection.opening import find_map
from feature_gs_ros.cli.checks import check_kind, check_outputs, files_of
from feature_gs_ros.cli.common import CloudFrame, in_frame, length_unit, print_json
from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.core.memory import MemoryLimit
from feature_gs_ros.core.progress import note, say, told_when_slow
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.query.answers import as_json, objects_of
from feature_gs_ros.query.extent import Extent
from feature_gs_ros.query.masks_3d import Answer, Segmenter, State
from feature_gs_ros.query.opening import open_segmenter


def query(
    field: Path,
    text: tuple[str, ...],
    /,
    *,
    negative: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    threshold: float | None = None,
    verify: bool = True,
    extent: Extent | None = None,
    cloud: Path | None = None,
    cloud_frame: CloudFrame = "splat",
    picture: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    memory: str | None = None,
    backend: str = "auto",
    json: bool = False,
) -> int:
    """Find what a text describes: its Gaussians, objects and positions in the map frame.

    Args:
        field: a field, written by feature-gs backproject.
        text: what to look for; several are answered in one pass, each as if it were asked alone.
        negative: competing text; a Gaussian goes to the most similar one. May be repeated.
        threshold: minimum similarity; the extractor's own by default.
        verify: report what is found without checking it in the images that the field keeps.
        extent: object (grow the result to the whole free-standing object) or part; by default object if the extractor's
            words name objects.
        cloud: write the found Gaussians as a 3DGS PLY, with their similarity; by its name also as .compressed.ply or
            .spz, without.
        cloud_frame: splat (as in the map's file, so that the cloud lies on the map) or map (where the boxes are, in
            metres).
        picture: write a picture of the map with what was found.
        map: the map file, if it has moved since the field was made.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        memory: stay within this much memory, e.g. 8GiB, with a field and a chunked map that are larger.
        backend: where the question is worked out and the picture drawn: auto, cpu, cuda (cuda:1: the second card),
            warp-cpu or reference. With auto the question stays on the host: one is answered sooner than a field copied.
        json: print one JSON object; of several texts, {"answers": [...]}.
    """
    device = _device_of(backend, picture)
    limit = None if memory is None else MemoryLimit.parse(memory)
    outputs = {"--cloud": cloud, "--picture": picture}
    if len(text) != 1 and (not text or cloud is not None or picture is not None):
        raise OptionError(
            "no text is given; give a text to look for, e.g. 'coffee mug'"
            if not text
            else f"--cloud and --picture show one text's answer, {len(text)} are given; ask for one",
            code="option.missing",
        )
    check_outputs(outputs, [field, map, weights, *files_of(option)])
    with told_when_slow(f"reading '{field}' and its map"):
        segmenter = open_segmenter(field, map, weights, option, device, limit)
    check_outputs(outputs, [find_map(field, segmenter.field, map)])
    if cloud is not None:
        from feature_gs_ros.io.splats.registry import check_written

        check_written(cloud)
    check_kind("--picture", picture, ".png")
    unit = length_unit(segmenter.field.provenance.splat_from_map)
    with told_when_slow(f"asking {len(segmenter.gaussians)} Gaussians"):
        answers = segmenter.ask_many(text, negative, threshold, verify=verify, extent=extent)
        objects = [objects_of(segmenter, answer) for answer in answers]
    _write(segmenter, answers[0], cloud, cloud_frame, picture, backend)
    doubts = segmenter.field.provenance.doubts
    for doubt in doubts:
        note(f"warning: {doubt}")
    if json:
        contents = [as_json(answer, found) for answer, found in zip(answers, objects, strict=True)]
        print_json(
            {**(contents[0] if len(contents) == 1 else {"answers": contents}), "unit": unit, "warnings": list(doubts)}
        )
        return 0
    for answer, found in zip(answers, objects, strict=True):
        say(answer.message)
        for index, one in enumerate(found):
            box = one.box
            say(
                f"  object {index + 1}: centre ({_numbers(box.center)}) {unit}, size ({_numbers(box.size)}) {unit}, "
                f"{len(one.rows)} Gaussians, similarity {one.score:.2f}"
            )
    if cloud is not None:
        say(
            f"wrote {cloud}, in the {cloud_frame} frame"
            if answers[0].state is State.FOUND
            else f"nothing found, so '{cloud}' was not written"
        )
    if picture is not None:
        say(f"wrote {picture}")
    return 0


def _device_of(backend: str, picture: Path | None) -> torch.device:
    """Of the question. Only a picture and a card need the rasteriser; it is not loaded for less."""
    if picture is None and backend == "auto":
        return HOST
    from feature_gs_ros import rasterizer

    device = rasterizer.get_backend(backend).device
    return HOST if backend == "auto" else device


def _write(
    segmenter: Segmenter,
    answer: Answer,
    cloud: Path | None,
    cloud_frame: CloudFrame,
    picture: Path | None,
    backend: str,
) -> None:
    """The files that were asked for; nothing is imported for those that weren't."""
    if cloud is not None and answer.state is State.FOUND:
        from feature_gs_ros.io.splats.registry import save_map

        splat_from_map = segmenter.field.provenance.splat_from_map
        found_part = in_frame(segmenter.gaussians.select(answer.mask), cloud_frame, splat_from_map)
        save_map(found_part, cloud, {"similarity": answer.similarity[answer.mask]})
    if picture is not None:
        from feature_gs_ros.pictures import save_png
        from feature_gs_ros.query.answer_picture import answer_picture

        save_png(answer_picture(segmenter, answer, backend), picture)


def _numbers(values: object) -> str:
    return ", ".join(f"{value:.3f}" for value in values)  # type: ignore[attr-defined]
