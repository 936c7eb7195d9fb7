"""From a recording to a field: alignment, lenses, masks, and streams that are not of this map."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.ingest import Report, choose_frames, ingest, known_views, rectified_grid
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.camera import Camera, Distortion, rectified
from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.core.feature_grid import FeatureGrid, Interpolation
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from tests.errors import raises
from tests.little_scene import two_halves, write_stream


def lifted(
    scene: Path, stream: str, extractor: str = "labels", alignment: Sim3 | None = None, masks: Path | None = None
) -> tuple[FeatureField, Report]:
    gaussians = load_map(scene / "map.ply")
    options = {"masks": masks or scene / "masks", "labels": scene / "labels.yaml"} if extractor == "labels" else {}
    model = make_extractor(extractor, **options)
    source = open_stream(scene / stream)
    projector = BackProjector(
        gaussians,
        model.identity,
        model.dimension,
        provenance=Provenance(gaussians.checksum, splat_from_map=alignment or load_alignment(scene / "alignment.yaml")),
    )
    report = ingest(source, source.names(), model, projector)
    return projector.field(), report


def label_accuracy(field: FeatureField, scene: Path) -> float:
    """Share of the well seen Gaussians whose strongest label is the true one."""
    truth = load_file(scene / "ground_truth.safetensors")["object_labels"]
    strong = field.weight > 2.0
    return float((field.features.argmax(dim=1)[strong] == truth[strong]).float().mean())


def test_masks_of_views_label_the_gaussians(small_scene: Path) -> None:
    """2D ground truth through bag, tf, alignment and Wᵀ arrives at the right Gaussians."""
    field, report = lifted(small_scene, "stream")
    assert len(report.used) == 8
    assert not report.skipped
    assert label_accuracy(field, small_scene) > 0.96
    assert set(report.seconds) >= {"read", "decode", "network", "back-projection"}
    assert "network" in report.table()


def test_a_wrong_alignment_labels_them_wrongly(small_scene: Path) -> None:
    """The check above can fail: turned by 20° about z, it does."""
    right = load_alignment(small_scene / "alignment.yaml")
    turn = Sim3(1.0, np.array([np.cos(np.pi / 18), 0, 0, np.sin(np.pi / 18)]), np.zeros(3))
    field, _ = lifted(small_scene, "stream", alignment=right @ turn)
    assert label_accuracy(field, small_scene) < 0.85


def test_images_through_a_lens_are_rectified(small_scene: Path) -> None:
    straight, _ = lifted(small_scene, "stream", "color")
    through_lens, report = lifted(small_scene, "stream_distorted", "color")
    assert len(report.used) == 8
    both = (straight.weight > 1) & (through_lens.weight > 1)
    difference = (straight.features[both] - through_lens.features[both]).abs().mean()
    spread = straight.features[both].std()
    assert both.float().mean() > 0.3
    assert difference < 0.25 * spread


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_grids_of_the_image_as_taken_are_moved_as_the_lens_is_rectified(interpolation: Interpolation) -> None:
    """A grid that holds its own coordinates says after the move where each cell came from: the lens's formula."""
    k1, fx, cx, cy = -0.25, 90.0, 61.0, 38.0
    camera = Camera(120, 80, fx, fx, cx, cy, Distortion("plumb_bob", (k1, 0.0, 0.0, 0.0, 0.0)))
    rows, columns = np.meshgrid(np.arange(80) + 0.5, np.arange(120) + 0.5, indexing="ij")
    values = torch.from_numpy(np.stack([columns, rows], axis=2)).float()
    moved = rectified_grid(FeatureGrid(values, interpolation=interpolation), camera).values
    for row, column in ((10, 15), (40, 60), (70, 100), (5, 110)):
        x, y = (column + 0.5 - cx) / fx, (row + 0.5 - cy) / fx
        scale = 1 + k1 * (x * x + y * y)
        expected = [fx * x * scale + cx, fx * y * scale + cy]
        off = 0.02 if interpolation == "bilinear" else 0.51
        assert moved[row, column].tolist() == pytest.approx(expected, abs=off)
    assert abs(float(moved[5, 110, 0]) - 110.5) > 3  # the move is not nothing


def test_pixels_that_the_lens_does_not_show_count_for_nothing(tmp_path: Path) -> None:
    """A lens that stretches the corners out of the image: what lies there is seen by nobody."""
    write_stream(tmp_path, frames=("0000",))
    content = json.loads((tmp_path / "cameras.json").read_text())
    content["frames"][0]["distortion"] = {"model": "plumb_bob", "coefficients": [2.0, 0, 0, 0]}
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    stream, gaussians, extractor = open_stream(tmp_path), two_halves(), make_extractor("color")
    (frame,) = stream.frames()
    _, camera, valid = rectified(frame.image, frame.camera)
    assert 0.5 < valid.mean() < 0.95
    ones = FeatureGrid(torch.ones(1, 1, 1))
    view = rasterizer.view(gaussians, camera, frame.camera_from_world)
    counted, everywhere = (view.backproject(ones, mask)[1] for mask in (torch.tensor(valid), None))
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension)
    ingest(stream, stream.names(), extractor, projector)
    assert torch.allclose(projector.field().weight, counted, rtol=1e-4, atol=1e-4)
    assert float(counted.sum()) < 0.98 * float(everywhere.sum())


def test_label_images_through_a_lens_label_the_gaussians(small_scene: Path) -> None:
    field, report = lifted(small_scene, "stream_distorted")
    assert len(report.used) == 8
    assert label_accuracy(field, small_scene) > 0.93


def test_a_stream_in_another_frame_is_refused_with_the_cause(small_scene: Path) -> None:
    away = Sim3(1.0, np.array([1.0, 0, 0, 0]), np.array([500.0, 0.0, 0.0]))
    with raises("camera.elsewhere", "--alignment FILE"):
        lifted(small_scene, "stream", "color", alignment=away)


def test_cancelling_keeps_what_is_done(small_scene: Path) -> None:
    gaussians = load_map(small_scene / "map.ply")
    extractor = make_extractor("color")
    source = open_stream(small_scene / "stream")
    provenance = Provenance(gaussians.checksum, splat_from_map=load_alignment(small_scene / "alignment.yaml"))
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension, provenance=provenance)
    seen: list[tuple[int, int, str]] = []

    def stop_after_three(done: int, total: int, name: str) -> bool:
        seen.append((done, total, name))
        return done == 3

    report = ingest(source, source.names(), extractor, projector, progress=stop_after_three)
    assert report.cancelled
    assert projector.field().provenance.frames == tuple(source.names()[:3])
    assert [(done, total) for done, total, _ in seen] == [(1, 8), (2, 8), (3, 8)]


def test_frames_are_chosen_by_name(small_scene: Path) -> None:
    stream = open_stream(small_scene / "stream")
    names = stream.names()
    assert choose_frames(stream, every=3) == names[::3]
    assert choose_frames(stream, skip=[names[0]]) == names[1:]
    with raises("stream.missing", "nobody", names[0]):
        choose_frames(stream, skip=["nobody"])
    with raises("stream.range", "every=0"):
        choose_frames(stream, every=0)
    with raises("stream.empty", str(len(names))):
        choose_frames(stream, skip=names)
    views = known_views(stream, names, Sim3.identity(), count=3)
    assert [view.name for view in views] == [names[0], names[2], names[5]]


def test_a_field_remembers_cameras_rectified_and_in_the_maps_frame(small_scene: Path) -> None:
    stream, alignment = open_stream(small_scene / "stream_distorted"), load_alignment(small_scene / "alignment.yaml")
    (known,) = known_views(stream, stream.names()[3:4], alignment)
    (frame,) = stream.frames([known.name])
    assert frame.camera.distortion is not None
    assert known.camera == replace(frame.camera, distortion=None)
    # The middle of the table, 1 cm over the map frame's origin, has the same ray either way.
    in_metres = (frame.camera_from_world @ [0.0, 0.0, 0.01, 1.0])[:3]
    in_splat_units = (known.camera_from_splat @ [*alignment.apply([0.0, 0.0, 0.01]), 1.0])[:3]
    assert in_splat_units == pytest.approx(alignment.scale * in_metres, rel=1e-6)


def test_a_damaged_image_is_skipped_and_counted(small_scene: Path) -> None:
    gaussians = load_map(small_scene / "map.ply")
    extractor = make_extractor("color")

    class OneBroken:
        """The recording, one of its images unreadable."""

        def __init__(self) -> None:
            self._stream = open_stream(small_scene / "stream")
            self.source, self.skipped = self._stream.source, self._stream.skipped

        def names(self) -> list[str]:
            return self._stream.names()

        def frames(self, names=None):  # type: ignore[no-untyped-def]
            def broken() -> np.ndarray:
                raise StreamError("the JPEG ends early")

            for index, frame in enumerate(self._stream.frames(names)):
                yield replace(frame, load_image=broken) if index == 1 else frame

    provenance = Provenance(gaussians.checksum, splat_from_map=load_alignment(small_scene / "alignment.yaml"))
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension, provenance=provenance)
    stream = OneBroken()
    report = ingest(stream, stream.names(), extractor, projector)
    assert len(report.used) == 7
    assert report.skipped["the JPEG ends early"] == 1


@pytest.mark.slow
def test_the_real_tabletop_by_bag_and_by_colmap(tabletop: Path) -> None:
    """The same pictures by two roads: robot poses through the alignment, and COLMAP's own frame."""
    gaussians: GaussianMap = load_map(tabletop / "map.ply")
    extractor = make_extractor("color", space="rgb")
    fields = []
    for stream, alignment in (("stream", load_alignment(tabletop / "alignment.yaml")), ("colmap", Sim3.identity())):
        source = open_stream(tabletop / stream)
        projector = BackProjector(
            gaussians,
            extractor.identity,
            extractor.dimension,
            provenance=Provenance(gaussians.checksum, splat_from_map=alignment),
        )
        report = ingest(source, source.names()[::6] if stream == "stream" else ["15", "1", "10"], extractor, projector)
        assert len(report.used) == 3
        fields.append(projector.field())
    assert torch.allclose(fields[0].weight, fields[1].weight, rtol=1e-3, atol=0.05)
    assert torch.allclose(fields[0].features, fields[1].features, atol=1e-3)
    # Mean colours of the photographs are the map's own, as far as cells of 8 px and shadows let them.
    well_seen = fields[0].weight > 5
    assert int(well_seen.sum()) > 20_000
    colors = (gaussians.sh[:, 0] * SH_C0 + 0.5).clamp(0, 1)
    assert float((fields[0].features - colors)[well_seen].abs().median()) < 0.1
