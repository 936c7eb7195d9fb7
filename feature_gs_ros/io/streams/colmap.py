"""A COLMAP reconstruction as a stream: its world is the model's own frame and scale."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.io.streams.colmap_model import is_model, read_cameras, read_images
from feature_gs_ros.io.streams.frame_names import unique_names
from feature_gs_ros.io.streams.posed_images import PosedImage, PosedImageStream


def find_model(path: Path) -> Path | None:
    """The sparse model at a folder or in its usual places below, None where there is none."""
    return next((folder for folder in (path, path / "sparse" / "0", path / "sparse") if is_model(folder)), None)


def open_colmap(path: str | Path, images: str | Path | None = None) -> PosedImageStream:
    """Posed images of a COLMAP reconstruction, sorted by path; world → camera as COLMAP stores it.

    Args:
        path: the project's folder with ``sparse/0`` or ``sparse``, or the model's folder itself.
        images: folder of the images; relative to the project's folder, ``images`` by default. Reduced
            copies (``images_2``) do, too.

    Raises:
        StreamError: no model, damaged files, no image with a pose.
        CameraError: a camera model without a counterpart here.
    """
    path = Path(path)
    model = find_model(path)
    if model is None:
        raise StreamError(f"'{path}' holds no COLMAP model: no cameras and images (.bin or .txt) in sparse/0 or sparse")
    folder = _images_folder(model, images)
    cameras = read_cameras(model)
    listed = read_images(model)
    missing = sorted({image.camera_id for image in listed} - set(cameras))
    if missing:
        raise StreamError(f"images in '{model}' ask for camera {missing[0]}, which cameras doesn't have")
    names = unique_names([image.path for image in listed])
    return PosedImageStream(
        str(path),
        [
            PosedImage(name, folder / image.path, cameras[image.camera_id], image.camera_from_world)
            for name, image in zip(names, listed, strict=True)
        ],
    )


def _images_folder(model: Path, images: str | Path | None) -> Path:
    model = model.absolute()
    project = next((folder.parent for folder in (model, model.parent) if folder.name == "sparse"), model)
    folder = project / (images or "images")
    if not folder.is_dir():
        raise StreamError(f"no images folder '{folder}'; name it (images=…)")
    return folder
