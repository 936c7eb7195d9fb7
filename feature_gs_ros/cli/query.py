"""``feature-gs query``: ask a field in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import KnownView
from feature_gs_ros.cli.checks import check_kind, check_outputs, files_of
from feature_gs_ros.cli.common import CloudFrame, find_map, in_frame, length_unit, open_segmenter, print_json
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.splats.registry import save_ply
from feature_gs_ros.pictures import heat, overlay_mask, save_png, side_by_side, to_image
from feature_gs_ros.query.masks_2d import render_similarities
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


def answer_picture(segmenter: Segmenter, answer: Answer, backend: str = "auto") -> Image:
    """The map from the remembered camera that sees most of what was found: the mask, and the similarity.

    Raises:
        FieldError: the field remembers no camera.
    """
    known = best_view(segmenter.gaussians, segmenter.field.provenance.views, answer.mask)
    view = rasterizer.view(segmenter.gaussians, known.camera, known.camera_from_splat, backend)
    image = to_image(view.render_color())
    columns = torch.stack([answer.similarity, answer.mask.to(torch.float32)], dim=1)
    rendered, _ = render_similarities(view, columns, segmenter.field.seen)
    mask = (rendered[:, :, 1] > 0.5).numpy()
    title = f"{answer.prompt}: {answer.state.value} (view {known.name})"
    return side_by_side([overlay_mask(image, mask), heat(rendered[:, :, 0])], [title, "similarity"])


def best_view(gaussians: GaussianMap, views: tuple[KnownView, ...], mask: torch.Tensor) -> KnownView:
    """The camera in which the masked Gaussians are large and whole; most of the map where none is masked."""
    if not views:
        raise FieldError("the field remembers no camera to draw a picture from; back-project a stream again")
    shown = mask if bool(mask.any()) else torch.ones_like(mask)
    values = shown.to(torch.float32).unsqueeze(1)
    points = gaussians.means[shown].numpy().astype(np.float64)

    def worth(known: KnownView) -> float:
        camera = known.camera
        small = camera.resized(max(1, camera.width // 8), max(1, camera.height // 8))
        area = float(rasterizer.view(gaussians, small, known.camera_from_splat).render(values).mean())
        return area * _share_inside(points, known) ** 4  # cut off at the border it is hard to recognise

    return max(views, key=worth)


def _share_inside(points: NDArray[np.float64], known: KnownView) -> float:
    """Share of points [M, 3] that project into the image."""
    seen = points @ known.camera_from_splat[:3, :3].T + known.camera_from_splat[:3, 3]
    camera, front = known.camera, seen[:, 2] > 0
    z = np.where(front, seen[:, 2], 1.0)
    x, y = camera.fx * seen[:, 0] / z + camera.cx, camera.fy * seen[:, 1] / z + camera.cy
    return float((front & (x > 0) & (x < camera.width) & (y > 0) & (y < camera.height)).mean())


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
