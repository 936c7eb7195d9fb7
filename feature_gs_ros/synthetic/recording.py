"""A folder like a real robot's, with ground truth: splat map, alignment, recorded stream, masks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from safetensors.numpy import save

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.io.alignment import save_alignment
from feature_gs_ros.io.splats.registry import save_ply
from feature_gs_ros.synthetic.bag import BagWriter
from feature_gs_ros.synthetic.camera_path import (
    BARREL,
    START_NS,
    TF_PERIOD_NS,
    pose_at,
    recorded_views,
    tabletop_camera,
)
from feature_gs_ros.synthetic.distance import Floats
from feature_gs_ros.synthetic.ray_march import render_view
from feature_gs_ros.synthetic.scene import Labels, Scene, turned
from feature_gs_ros.synthetic.splats import SPLAT_FROM_MAP, LabelledMap, sample_gaussians

MAX_VIEWS = 100_000
MAX_PIXELS = 1 << 24  # of an image; a pixel takes about 90 bytes while it is rendered
TF_MARGIN = 2  # samples of tf before the first image and after the last

# Where the robot stands: beside the table, turned towards it.
MAP_FROM_BASE: Floats = np.eye(4)
MAP_FROM_BASE[:3, :3], MAP_FROM_BASE[:3, 3] = turned(z=25.0), (-0.62, -0.31, -0.04)

Progress = Callable[[int, int, str], bool | None]  # views done, views in all, name; True cancels


def record(
    directory: str | Path,
    scene: Scene,
    views: int = 24,
    width: int = 640,
    height: int = 480,
    *,
    gaussians: int = 60_000,
    distorted: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write ``directory`` with all that the demo and the tests need of a scene.

    ============================  =================================================================
    ``map.ply``                   3DGS map in the splat's frame
    ``alignment.yaml``            ``splat_from_map``
    ``stream/``                   rosbag2 (MCAP): JPEG images, camera_info, tf at 50 Hz, tf_static
    ``stream_distorted/``         the same through a barrel lens, with ``distorted``
    ``masks/<stamp>.png``         object labels of each view, names in ``labels.yaml``
    ``parts/<stamp>.png``         part labels, names in ``parts.yaml``
    ``ground_truth.safetensors``  ``object_labels``, ``part_labels`` of the Gaussians, [N] int32
    ============================  =================================================================

    Args:
        scene: to record.
        views: images in the stream, one at least.
        width: of an image, pixels.
        height: of an image, pixels.
        gaussians: in the map, about.
        distorted: also record through a distorting lens.
        seed: of the map's samples; all else is the same each time.
        progress: called after each view; if it returns True the stream ends with that view.

    Raises:
        StreamError: ``views`` or the image size is out of range, the folder holds a recording already or can't be
            written.
        MapError: ``gaussians`` is out of range.
    """
    if not 1 <= views <= MAX_VIEWS:
        raise StreamError(f"views={views}; choose 1 to {MAX_VIEWS}", code="stream.range")
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise StreamError(f"images of {width}×{height} pixels; choose 1 to {MAX_PIXELS} in all", code="stream.range")
    directory = Path(directory)
    cameras = {"stream": tabletop_camera(width, height)}
    if distorted:
        cameras["stream_distorted"] = tabletop_camera(width, height, BARREL)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _refuse_to_overwrite(directory)
        # Everything appears at once when it is complete.
        with tempfile.TemporaryDirectory(prefix=".recording.", dir=directory) as scratch:
            unfinished = Path(scratch)
            _write_map(unfinished, scene, sample_gaussians(scene, gaussians, seed))
            done = 0

            def stop_after(view: str) -> bool:
                nonlocal done
                done += 1
                return progress is not None and bool(progress(done, views * len(cameras), view))

            for name, camera in cameras.items():
                if not _write_stream(unfinished / name, scene, camera, views, stop_after):
                    break
            for path in sorted(unfinished.iterdir()):
                path.rename(directory / path.name)
    except OSError as error:
        raise StreamError(
            f"can't write the recording to '{directory}': {error.strerror}", code="stream.unwritable"
        ) from error


def _write_map(folder: Path, scene: Scene, truth: LabelledMap) -> None:
    save_ply(truth.gaussians, folder / "map.ply")
    labels = {"object_labels": truth.object_labels.astype(np.int32), "part_labels": truth.part_labels.astype(np.int32)}
    (folder / "ground_truth.safetensors").write_bytes(save(labels))
    save_alignment(SPLAT_FROM_MAP, folder / "alignment.yaml", "map: metres, z up")
    _write_yaml(folder / "labels.yaml", scene.labels, "# pixel values of masks/*.png\n")
    _write_yaml(folder / "parts.yaml", scene.parts, "# pixel values of parts/*.png\n")


def _write_stream(folder: Path, scene: Scene, camera: Camera, views: int, stop_after: Callable[[str], bool]) -> bool:
    """Render and record the views; masks only beside a stream without distortion. False if stopped."""
    tf_stamp = START_NS - TF_MARGIN * TF_PERIOD_NS
    stopped = False
    with BagWriter(folder, MAP_FROM_BASE, camera) as bag:
        bag.write_static(tf_stamp)
        for posed in recorded_views(views):
            view = render_view(scene, camera, posed.camera_from_map)
            while tf_stamp < posed.stamp_ns:
                bag.write_pose(tf_stamp, pose_at(tf_stamp))
                tf_stamp += TF_PERIOD_NS
            bag.write_image(posed.stamp_ns, view.image)
            if camera.distortion is None:
                write_labels(folder.parent / "masks" / f"{posed.name}.png", view.object_labels)
                write_labels(folder.parent / "parts" / f"{posed.name}.png", view.part_labels)
            stopped = stop_after(posed.name)
            if stopped:
                break
        for _ in range(TF_MARGIN):
            bag.write_pose(tf_stamp, pose_at(tf_stamp))
            tf_stamp += TF_PERIOD_NS
    return not stopped


def write_labels(path: Path, labels: Labels) -> None:
    """A label image [H, W] as PNG with one channel, of 8 bits where they do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    narrow = labels.astype(np.uint8) if labels.max(initial=0) <= 255 else labels
    _, data = cv2.imencode(".png", narrow)
    path.write_bytes(data.tobytes())


def _refuse_to_overwrite(directory: Path) -> None:
    names = "map.ply ground_truth.safetensors alignment.yaml labels.yaml parts.yaml masks parts stream stream_distorted"
    present = [name for name in names.split() if (directory / name).exists()]
    if present:
        raise StreamError(
            f"'{directory}' holds {', '.join(present)} already and nothing is overwritten: "
            "choose another folder or delete them",
            code="stream.exists",
        )


def _write_yaml(path: Path, content: Mapping[Any, object], comment: str) -> None:
    path.write_text(comment + yaml.safe_dump(content, sort_keys=False, default_flow_style=None), encoding="utf-8")
