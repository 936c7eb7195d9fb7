"""A COLMAP reconstruction as a stream: its world is the model's own frame and scale."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.io.files import is_file
from feature_gs_ros.io.streams.colmap_model import ColmapImage, count_images, is_model, read_cameras, read_images
from feature_gs_ros.io.streams.frame_names import unique_names
from feature_gs_ros.io.streams.posed_images import PosedImage, PosedImageStream, images_folder

# Where images lie beside a model: COLMAP's own, Inria's and data sets' folders, the project itself.
_USUAL_IMAGES = ("images", "input", "rgb", "color", "frames", ".")

log = logging.getLogger(__name__)


def find_models(path: Path) -> list[Path]:
    """The sparse models at a folder or in the usual folders below; COLMAP writes one per connected part."""
    if is_model(path):
        return [path]
    for folder in (path / "sparse", path):
        numbered = sorted(below for below in folder.iterdir() if below.name.isdigit()) if folder.is_dir() else []
        models = [below for below in (*numbered, folder) if is_model(below)]
        if models:
            return models
    return []


def find_model(path: Path) -> Path | None:
    """The one of `find_models` with the most images, None where there is none; a warning names the others.

    Raises:
        StreamError: one of several is damaged.
    """
    models = find_models(path)
    if len(models) < 2:
        return models[0] if models else None
    counts = {model: count_images(model) for model in models}
    largest = max(models, key=lambda model: counts[model])
    others = ", ".join(f"'{model}' ({counts[model]})" for model in models if model != largest)
    log.warning(
        "'%s' holds %d COLMAP models, each in a frame of its own: reading '%s' with %d images, not %s; "
        "name a model's folder to read that one",
        path, len(models), largest, counts[largest], others,
    )  # fmt: skip
    return largest


def open_colmap(path: str | Path, images: str | Path | None = None) -> PosedImageStream:
    """Posed images of a COLMAP reconstruction, sorted by path; world → camera as COLMAP stores it.

    Args:
        path: the project's folder with ``sparse/0`` or ``sparse``, or the model's folder itself. Of several models
            the one with the most images is read.
        images: folder of the images, relative to the project's folder or the working directory; by default the usual
            one that holds them. Reduced copies (``images_2``) do, too.

    Raises:
        StreamError: no model, damaged files, no image with a pose.
        CameraError: a camera model without a counterpart here.
    """
    path = Path(path)
    model = find_model(path)
    if model is None:
        raise StreamError(
            f"'{path}' holds no COLMAP model: no cameras and images (.bin or .txt) in sparse/0 or sparse",
            code="stream.format",
        )
    cameras = read_cameras(model)
    listed = read_images(model)
    folder = _images_folder(model, images, listed)
    missing = sorted({image.camera_id for image in listed} - set(cameras))
    if missing:
        raise StreamError(
            f"images in '{model}' ask for camera {missing[0]}, which cameras doesn't have", code="stream.damaged"
        )
    names = unique_names([image.path for image in listed])
    return PosedImageStream(
        str(path),
        [
            PosedImage(name, folder / image.path, cameras[image.camera_id], image.camera_from_world)
            for name, image in zip(names, listed, strict=True)
        ],
    )


def _images_folder(model: Path, images: str | Path | None, listed: Sequence[ColmapImage]) -> Path:
    """The folder that the images' paths are relative to."""
    model = model.absolute()
    project = next((folder.parent for folder in (model, model.parent) if folder.name == "sparse"), model)
    if images is not None:
        return images_folder(project, images)
    usual = [project / name for name in _USUAL_IMAGES]
    some = listed[:: max(1, len(listed) // 50)]  # any may be missing, not all
    holding = next((folder for folder in usual if any(is_file(folder / image.path) for image in some)), None)
    if holding is None and not usual[0].is_dir():
        raise StreamError(
            f"none of the {len(listed)} images of '{model}', e.g. '{listed[0].path if listed else ''}', is in "
            f"{', '.join(_USUAL_IMAGES)} of '{project}'; name their folder (--images)",
            code="stream.missing",
        )
    return holding or usual[0]
