"""``feature-gs evaluate affordance --baseline``: views as ingestion takes them, and frames that must be there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_gs_ros.backprojection.ingest import Report
from feature_gs_ros.cli.evaluate_affordance import frame_views
from feature_gs_ros.core.camera import Distortion, rectified_labels
from feature_gs_ros.core.feature_grid import upsample
from feature_gs_ros.extractors.labels import LabelsExtractor
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png
from tests.command_line import run

pytestmark = pytest.mark.slow


def test_the_views_of_a_distorting_lens_are_those_of_ingestion(small_scene: Path) -> None:
    """Label images of frames as they were taken are moved with the image; what the lens doesn't show isn't counted."""
    gaussians, masks = load_map(small_scene / "map.ply"), MaskFolder(small_scene / "masks")
    extractor = LabelsExtractor(small_scene / "masks", small_scene / "labels.yaml")
    alignment = load_alignment(small_scene / "alignment.yaml")
    report = Report()
    taken = next(iter(open_stream(small_scene / "stream").frames()))
    pincushion = Distortion("plumb_bob", (0.25, 0.0, 0.0, 0.0, 0.0))
    frame = replace(taken, camera=replace(taken.camera, distortion=pincushion))
    ((view, grid, valid),) = frame_views(gaussians, iter([frame]), extractor, alignment, "cpu", report)
    true = rectified_labels(masks.load(frame.name), frame.camera, outside=255).astype(np.int64)
    assert report.used == [frame.name]
    assert valid is not None
    assert torch.equal(valid, torch.from_numpy(true != 255))
    told = upsample(grid, *true.shape).argmax(dim=2)
    assert float((told == torch.from_numpy(true))[valid].float().mean()) > 0.995
    assert view.camera.distortion is None


@pytest.mark.parametrize("baseline", [False, True])
def test_a_stream_without_the_fields_frames(baseline: bool, small_scene: Path, tmp_path: Path) -> None:
    """The transfer needs none of them; the baseline says so instead of scoring nothing with 0."""
    image, mask = np.full((60, 80, 3), 120, np.uint8), np.zeros((60, 80), np.uint8)
    image[20:40, 20:50], mask[20:40, 20:50] = (200, 20, 30), 1
    save_png(image, tmp_path / "photo.png")
    save_png(mask, tmp_path / "mask.png")
    field, library = tmp_path / "field", tmp_path / "grips"
    run("affordance", "add", tmp_path / "photo.png", tmp_path / "mask.png", "--library", library, "--affordance", "mug",
        "--extractor", "color")  # fmt: skip
    run("backproject", small_scene / "map.ply", small_scene / "stream", "--out", field, "--extractor", "color",
        "--alignment", small_scene / "alignment.yaml", "--every", 8)  # fmt: skip
    frame = next(iter(open_stream(small_scene / "stream").frames()))
    camera, other = frame.camera, tmp_path / "other"
    entry = {key: getattr(camera, key) for key in ("width", "height", "fx", "fy", "cx", "cy")}
    entry |= {"image": "elsewhere.png", "camera_from_world": frame.camera_from_world.tolist()}
    save_png(frame.image, other / "elsewhere.png")
    (other / "cameras.json").write_text(json.dumps([entry]))
    (other / "masks").mkdir()
    shutil.copy(small_scene / "masks" / f"{frame.name}.png", other / "masks" / "elsewhere.png")
    words = ["--library", library, "--stream", other, "--masks", other / "masks",
             "--labels", small_scene / "labels.yaml", *(["--baseline"] if baseline else [])]  # fmt: skip
    said = run("evaluate", "affordance", field, *words, code=2 if baseline else 0)
    assert ("needs the field's own frames" in said.stderr) == baseline
