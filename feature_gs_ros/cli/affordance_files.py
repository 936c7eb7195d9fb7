"""What ``feature-gs affordance transfer`` writes: regions as JSON, the cloud, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.affordance import Library, Region, Transfer
from feature_gs_ros.affordance.pictures import source_picture, transfer_picture
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.ingest import evenly_spaced, known_views, pinhole_view
from feature_gs_ros.backprojection.pose_check import LOOKED_AT
from feature_gs_ros.cli.common import CloudFrame, alignment_of_view, in_frame, length_unit
from feature_gs_ros.cli.stale_outputs import remove_stale_outputs
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.files import file_name_of
from feature_gs_ros.io.splats.registry import save_ply
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.pictures import save_png
from feature_gs_ros.query.answer_picture import best_view

REGIONS, CLOUD = "regions.json", "affordances.ply"  # the first by every run
OWN = (CLOUD, "map.png", "overlay.png")


@dataclass(frozen=True, eq=False)
class Found:
    """A transfer with its regions."""

    gaussians: GaussianMap
    field: FeatureField
    transferred: Transfer
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False)
class Photographed:
    """Real images to draw what was found on; their poses needn't be in the frame that the field's are in."""

    stream: Stream
    splat_from_map: Sim3  # of this stream's poses
    index: str | None  # the frame's name; the one that shows it best where there is none

    @staticmethod
    def of(
        stream: Stream, index: str | None, alignment: Path | None, field: FeatureField, gaussians: GaussianMap
    ) -> Photographed:
        """Raises:
        StreamError: no frame of that name.
        CameraError: the frames see nothing of the map.
        """
        names = (
            evenly_spaced(stream.names(), LOOKED_AT)
            if index is None
            else [frame.name for frame in stream.frames([index])]
        )
        return Photographed(stream, alignment_of_view(alignment, field, gaussians, stream, names), index)


def as_json(found: Found) -> dict[str, object]:
    """A transfer for machines; lengths in the map frame, in metres where the field's alignment gives them."""
    transferred, gaussians = found.transferred, found.gaussians
    return {
        "affordances": {
            word: {"id": 1 + index, "state": transferred.state(word, gaussians).value}
            for index, word in enumerate(transferred.affordances)
        },
        "unit": length_unit(found.field.provenance.splat_from_map),
        "message": transferred.message(gaussians),
        "coverage": round(transferred.coverage, 6),
        "abstained": int(transferred.abstained.sum()),
        "seconds": round(transferred.seconds, 4),
        "regions": [
            {
                "affordance": region.affordance,
                "id": region.label,
                "center": region.center.round(6).tolist(),
                "centroid": region.centroid.round(6).tolist(),
                "quat_wxyz": region.quat_wxyz.round(6).tolist(),
                "extent": region.extent.round(6).tolist(),
                "normal": region.normal.round(6).tolist(),
                "approach": region.approach.round(6).tolist(),
                "closing": region.closing.round(6).tolist(),
                "gripper_quat_wxyz": region.gripper_quat_wxyz.round(6).tolist(),
                "gripper_width": round(region.gripper_width, 6),
                "similarity": round(region.similarity, 6),
                "probability": round(region.probability, 6),
                "coverage": round(region.coverage, 6),
                "gaussians": len(region.rows),
                "opacity": round(region.opacity, 4),
            }
            for region in found.regions
        ],
    }


def write_files(
    out: Path,
    found: Found,
    sources: Library,
    photographed: Photographed | None,
    backend: str,
    cloud_frame: CloudFrame = "splat",
) -> list[str]:
    """Write regions.json, affordances.ply (where there are any), and pictures of sources, map and a real view.

    Of these, what an earlier run left in the folder and this one doesn't write is removed.

    Returns:
        Names of the files.

    Raises:
        AffordanceError: the folder can't be written.
        OptionError: a file of an earlier run can't be removed.
    """
    label = found.transferred.label
    marked = label > 0
    written, used_before = [REGIONS], (out / REGIONS).is_file()
    try:
        with atomic_path(out / REGIONS) as temporary:
            temporary.write_text(json.dumps(as_json(found), indent=1), encoding="utf-8")
    except OSError as error:
        raise AffordanceError(
            f"can't write to '{out}': {error.strerror or error}", code="affordance.unwritable"
        ) from error
    if used_before:
        kept = (bool(marked.any()), bool(found.field.provenance.views), photographed is not None)
        remove_stale_outputs(out, [name for name, again in zip(OWN, kept, strict=True) if not again])
    if bool(marked.any()):
        extra = {"affordance_id": label[marked].float(), "similarity": found.transferred.similarity[marked]}
        part = in_frame(found.gaussians.select(marked), cloud_frame, found.field.provenance.splat_from_map)
        save_ply(part, out / CLOUD, extra)
        written.append(CLOUD)
    pictures = {f"source_{source.name}": source_picture(source) for source in sources.sources}
    if found.field.provenance.views:
        known = best_view(found.gaussians, found.field.provenance.views, marked)
        view = rasterizer.view(found.gaussians, known.camera, known.camera_from_splat, backend)
        pictures["map"] = _picture(found, view)
    if photographed is not None:
        pictures["overlay"] = _overlay(found, photographed, marked, backend)
    for name, image in pictures.items():
        save_png(image, out / f"{file_name_of(name)}.png")
        written.append(f"{file_name_of(name)}.png")
    return written


def numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _overlay(found: Found, photographed: Photographed, marked: Tensor, backend: str) -> Image:
    stream, splat_from_map = photographed.stream, photographed.splat_from_map
    index = photographed.index
    if index is None:
        index = best_view(found.gaussians, known_views(stream, stream.names(), splat_from_map), marked).name
    pinhole = pinhole_view(next(iter(stream.frames([index]))), splat_from_map)
    camera = replace(pinhole.camera, distortion=None)
    view = rasterizer.view(found.gaussians, camera, pinhole.camera_from_splat, backend)
    return _picture(found, view, pinhole.image)


def _picture(found: Found, view: rasterizer.View, image: Image | None = None) -> Image:
    return transfer_picture(view, found.transferred, found.regions, found.field.provenance.splat_from_map, image)
