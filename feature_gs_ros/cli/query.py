"""``feature-gs query``: ask a field in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from feature_gs_ros import rasterizer
from feature_gs_ros.cli.checks import check_kind, check_outputs, files_of
from feature_gs_ros.cli.common import CloudFrame, find_map, in_frame, length_unit, open_segmenter, print_json
from feature_gs_ros.io.splats.registry import save_ply
from feature_gs_ros.pictures import save_png
from feature_gs_ros.query.answer_picture import answer_picture
from feature_gs_ros.query.masks_3d import Answer, Segmenter, State
from feature_gs_ros.query.objects import FoundObject, find_objects


def query(
    field: Path,
    text: str,
    /,
    *,
    negative: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    threshold: float | None = None,
    cloud: Path | None = None,
    cloud_frame: CloudFrame = "splat",
    picture: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    backend: str = "auto",
    json: bool = False,
) -> int:
    """Ask where something is: which Gaussians, which objects, where in the map frame.

    Args:
        field: written by feature-gs backproject.
        text: what to look for.
        negative: what else there is; a Gaussian goes to the likeliest. May be repeated.
        threshold: on the similarity; the extractor's own by default.
        cloud: write the found Gaussians as a 3DGS PLY, with their similarity.
        cloud_frame: splat (as in the map's file, so that the cloud lies on the map) or map (where the boxes are, in
            metres).
        picture: write a picture of the map with what was found.
        map: the map, where it isn't where the field remembers it.
        weights: the extractor's weights, where they are not at their usual place.
        option: KEY=VALUE for the extractor, what asking needs: embeddings=FILE for 'precomputed'. May be repeated.
        backend: auto, cpu, cuda (cuda:1 for a certain card), warp-cpu or reference.
        json: print one JSON object.
    """
    rasterizer.get_backend(backend)
    outputs = {"--cloud": cloud, "--picture": picture}
    check_outputs(outputs, [field, map, weights, *files_of(option)])
    segmenter = open_segmenter(field, map, weights, option)
    check_outputs(outputs, [find_map(field, segmenter.field, map)])
    check_kind("--cloud", cloud, ".ply")
    check_kind("--picture", picture, ".png")
    splat_from_map = segmenter.field.provenance.splat_from_map
    unit = length_unit(splat_from_map)
    answer = segmenter.ask([text], negative, threshold)[0]
    objects = _objects(segmenter, answer)
    if cloud is not None and answer.state is State.FOUND:
        found_part = in_frame(segmenter.gaussians.select(answer.mask), cloud_frame, splat_from_map)
        save_ply(found_part, cloud, {"similarity": answer.similarity[answer.mask]})
    if picture is not None:
        save_png(answer_picture(segmenter, answer, backend), picture)
    if json:
        print_json({**as_json(answer, objects), "unit": unit})
        return 0
    print(answer.message)
    for index, found in enumerate(objects):
        box = found.box
        print(
            f"  object {index + 1}: centre ({_numbers(box.center)}) {unit}, size ({_numbers(box.size)}) {unit}, "
            f"{len(found.rows)} Gaussians, similarity {found.score:.2f}"
        )
    if cloud is not None:
        print(
            f"wrote {cloud}, in the {cloud_frame} frame"
            if answer.state is State.FOUND
            else f"nothing found, so '{cloud}' was not written"
        )
    if picture is not None:
        print(f"wrote {picture}")
    return 0


def _objects(segmenter: Segmenter, answer: Answer) -> list[FoundObject]:
    """Of what was found; a few Gaussians that pass by chance are no object."""
    if answer.state is not State.FOUND:
        return []
    map_from_splat = segmenter.field.provenance.splat_from_map.inverse()
    return find_objects(segmenter.gaussians, answer.mask, answer.similarity, map_from_splat)


def as_json(answer: Answer, objects: list[FoundObject]) -> dict[str, object]:
    """An answer for machines; lengths in the map frame, in metres where the field's alignment gives them."""
    return {
        "prompt": answer.prompt,
        "state": answer.state.value,
        "message": answer.message,
        "gaussians": int(answer.mask.sum()),
        "coverage": round(answer.coverage, 6),
        "threshold": answer.threshold,
        "best_similarity": round(float(answer.similarity.max()), 6),
        "seconds": round(answer.seconds, 4),
        "objects": [
            {
                "center": found.box.center.round(6).tolist(),
                "quat_wxyz": found.box.quat_wxyz.round(6).tolist(),
                "size": found.box.size.round(6).tolist(),
                "gaussians": len(found.rows),
                "score": round(found.score, 6),
            }
            for found in objects
        ],
    }


def _numbers(values: object) -> str:
    return ", ".join(f"{value:.3f}" for value in values)  # type: ignore[attr-defined]
