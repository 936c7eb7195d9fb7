"""The public protocols: layouts read from small look-alikes, their commands, and what their figures leave out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.cli.evaluate_protocols import protocol_segmenter as command_segmenter
from feature_gs_ros.core.camera import Camera, Distortion, Frame, rectified_labels
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.evaluation.protocols.lerf_mask import evaluate_lerf_mask, lerf_mask_views
from feature_gs_ros.evaluation.protocols.lerf_ovs import evaluate_lerf_ovs, lerf_ovs_views
from feature_gs_ros.evaluation.protocols.published import LERF_MASK, REPLICA
from feature_gs_ros.evaluation.protocols.replica import MERGED, evaluate_replica, replica_tests, teacher_labels
from feature_gs_ros.evaluation.protocols.three_d_ovs import evaluate_three_d_ovs, three_d_ovs_views
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.labels import LabelsExtractor
from feature_gs_ros.identity.codes import orthogonal_codes
from feature_gs_ros.identity.encoding import Annotation, encode_identities
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.splats.registry import save_ply
from feature_gs_ros.query.masks_3d import Segmenter
from tests.command_line import run
from tests.errors import raises

CAMERA = Camera(64, 48, 60.0, 60.0, 32.0, 24.0)
NAMES = {0: "background", 1: "green apple", 2: "old camera"}


class Stream:
    """Ten frames on a line before a wall."""

    source = "made here"
    skipped: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, prefix: str = "frame_") -> None:
        self.prefix = prefix

    def names(self) -> list[str]:
        return [f"{self.prefix}{number:05d}" for number in range(10)]

    def frames(self, names: list[str] | None = None):  # type: ignore[no-untyped-def]
        for number, name in enumerate(self.names()):
            if names is None or name in names:
                yield Frame(name, CAMERA, pose(number), lambda: np.zeros((48, 64, 3), np.uint8))


def pose(number: int) -> NDArray[np.float64]:
    result = np.eye(4)
    result[:3, 3] = [0.02 * number, 0.0, 1.0]
    return result


@pytest.fixture(scope="module")
def scene() -> tuple[Segmenter, list[NDArray[np.int64]]]:
    """A wall with two squares, its field, and the true labels of every frame."""
    side = torch.linspace(-1.5, 1.5, 80)
    y, x = torch.meshgrid(side * 0.75, side, indexing="ij")
    means = torch.stack([x.reshape(-1), y.reshape(-1), torch.ones(6400)], dim=1)
    truth = torch.zeros(6400, dtype=torch.int64)
    truth[(means[:, 0] < -0.1) & (means[:, 0] > -0.5) & (means[:, 1].abs() < 0.2)] = 1
    truth[(means[:, 0] > 0.15) & (means[:, 0] < 0.45) & (means[:, 1].abs() < 0.3)] = 2
    gaussians = GaussianMap.from_tensors(
        means, torch.tensor([1.0, 0, 0, 0]).expand(6400, 4), torch.full((6400, 3), 0.02),
        torch.full((6400,), 0.95), torch.rand(6400, 1, 3, generator=torch.Generator().manual_seed(0)),
    )  # fmt: skip
    labels = []
    views = [rasterizer.view(gaussians, CAMERA, pose(number)) for number in range(10)]
    for view in views:
        image = view.render(torch.nn.functional.one_hot(truth, 3).float())
        labels.append(image.argmax(dim=2).numpy())
    annotations = [Annotation(str(n), views[n], labels[n].astype(np.uint16)) for n in (0, 5, 9)]
    field = encode_identities(gaussians, annotations, NAMES, orthogonal_codes(3)).field
    return Segmenter(gaussians, field, extractor_of(field.extractor)), labels


def write(path: Path, mask: NDArray[np.bool_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask.astype(np.uint8) * 255)


def test_lerf_mask(scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path) -> None:
    segmenter, labels = scene
    folder = tmp_path / "figurines"
    for view, number in (("0", 0), ("1", 8), ("frame_00003", 3)):
        for value in (1, 2):
            write(folder / "test_mask" / view / f"{NAMES[value]}.png", labels[number] == value)
    write(folder / "test_mask" / "7" / "green apple.png", labels[0] == 1)  # no such test view
    write(folder / "test_mask" / "0" / "rubber duck.png", labels[0] == 1)  # no such object
    (folder / "test_mask" / "1" / "old camera.png").write_bytes(b"damaged")
    (folder / "test_mask" / "empty").mkdir()
    result = evaluate_lerf_mask(segmenter, folder, stream=Stream())
    assert result.views == 3
    assert lerf_mask_views(folder, Stream()) == ["frame_00000", "frame_00003", "frame_00008"]
    assert set(result.prompts) == {"green apple", "old camera"}
    assert result.metrics["mIoU"] > 0.9
    assert result.metrics["mBIoU"] > 0.8
    assert {"7", "rubber duck", "empty", "frame_00008: old camera"} == set(result.skipped)
    assert (result.scored, result.asked, result.complete) == (2, 3, False)
    told = result.as_json()
    assert (told["prompts_scored"], told["prompts_asked"], told["comparable"]) == (2, 3, False)
    table = result.table(LERF_MASK)
    (line,) = [line for line in table.splitlines() if line.startswith("this map")]
    assert line.endswith("  2 of 3 prompts were scored: not comparable with published figures")
    (folder / "test_mask" / "0" / "rubber duck.png").unlink()
    whole = evaluate_lerf_mask(segmenter, folder, stream=Stream())
    assert whole.as_json()["comparable"]
    assert whole.metrics == result.metrics
    assert "not comparable" not in whole.table(LERF_MASK)
    assert "Gaussian Grouping (published)" in table
    assert "69.7" in table
    assert result.as_json()["scene"] == "figurines"
    with raises("evaluation.unreadable"):
        evaluate_lerf_mask(segmenter, tmp_path / "nowhere", stream=Stream())


def test_lerf_mask_of_another_size_and_crop(scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path) -> None:
    segmenter, labels = scene
    mask = labels[0] == 1
    write(tmp_path / "test_mask" / "0" / "green apple.png", np.kron(mask, np.ones((2, 2))).astype(np.bool_))
    assert evaluate_lerf_mask(segmenter, tmp_path, stream=Stream()).metrics["mIoU"] > 0.9
    write(tmp_path / "test_mask" / "0" / "green apple.png", mask[:20])
    with raises("evaluation.empty"):
        evaluate_lerf_mask(segmenter, tmp_path, stream=Stream())


def test_three_d_ovs(scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path) -> None:
    segmenter, labels = scene
    folder = tmp_path / "bed" / "segmentations"
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("old camera\ngreen apple\nbackground\n")
    for value, name in NAMES.items():
        write(folder / "04" / f"{name}.png", labels[4] == value)
    write(folder / "07" / "green apple.png", labels[7] == 1)
    write(folder / "44" / "green apple.png", labels[7] == 1)
    result = evaluate_three_d_ovs(segmenter, tmp_path / "bed", stream=Stream())
    assert result.views == 2
    assert result.complete
    assert result.metrics["mIoU"] > 0.9
    assert result.skipped["view 07"] == "has no mask of old camera, background"
    assert "44" in result.skipped
    assert three_d_ovs_views(tmp_path / "bed", Stream()) == ["frame_00004", "frame_00007"]
    (folder / "classes.txt").write_text("\n")
    with raises("evaluation.empty"):
        evaluate_three_d_ovs(segmenter, tmp_path / "bed", stream=Stream())
    (folder / "classes.txt").unlink()
    with raises("evaluation.unreadable"):
        evaluate_three_d_ovs(segmenter, tmp_path / "bed", stream=Stream())


def test_lerf_ovs(scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path) -> None:
    segmenter, labels = scene
    folder = tmp_path / "label" / "ramen"
    folder.mkdir(parents=True)
    (tmp_path / "ramen").mkdir()

    def box(mask: NDArray[np.bool_]) -> list[list[int]]:
        (top, left), (bottom, right) = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)
        return [[int(left), int(top)], [int(right), int(top)], [int(right), int(bottom)], [int(left), int(bottom)]]

    langsplat = {
        "info": {"name": "frame_00002.jpg", "width": 64, "height": 48},
        "objects": [{"category": "green apple", "segmentation": box(labels[2] == 1)}],
    }
    labelme = {
        "imageWidth": 64, "imageHeight": 48,
        "shapes": [{"label": "old camera", "points": box(labels[6] == 2)}],
    }  # fmt: skip
    (folder / "frame_00002.json").write_text(json.dumps(langsplat))
    (folder / "frame_00006.json").write_text(json.dumps(labelme))
    (folder / "frame_00099.json").write_text(json.dumps(labelme))
    (folder / "frame_00007.json").write_text("{")
    result = evaluate_lerf_ovs(segmenter, tmp_path / "ramen", stream=Stream())
    assert result.views == 2
    assert result.metrics["mIoU"] > 0.85
    assert set(result.skipped) == {"frame_00099", "frame_00007.json"}
    assert lerf_ovs_views(tmp_path / "ramen", Stream()) == ["frame_00002", "frame_00006", "frame_00007"]
    assert lerf_ovs_views(tmp_path / "ramen", Stream(), tmp_path / "ramen") == []


def test_replica_against_label_images(scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path) -> None:
    segmenter, labels = scene
    write(tmp_path / "02.png", labels[0] == 1)
    masks = tmp_path / "masks"
    masks.mkdir()
    cv2.imwrite(str(masks / "frame_00002.png"), labels[2].astype(np.uint8))
    classes = {**NAMES, 7: "unicorn"}
    result = evaluate_replica(segmenter, tmp_path, classes, truth=MaskFolder(masks), stream=Stream())
    assert result.views == 1
    assert result.metrics["accuracy"] > 0.98
    assert result.metrics["mIoU"] > 0.9
    assert "unicorn" in result.skipped
    assert "3 of 4 prompts were scored" in result.table(REPLICA)
    assert "NeRF-DFF (published)" in result.table(REPLICA)
    with raises("evaluation.unknown"):
        evaluate_replica(segmenter, tmp_path, {7: "unicorn"}, stream=Stream())
    (masks / "frame_00002.png").rename(masks / "frame_00004.png")
    with raises("evaluation.empty"):
        evaluate_replica(segmenter, tmp_path, NAMES, truth=MaskFolder(masks), stream=Stream())


def test_replica_merges_classes_before_it_counts(
    scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truth that calls both things by one name, as their script does with rug and floor."""
    segmenter, labels = scene
    cv2.imwrite(str(tmp_path / "frame_00002.png"), np.where(labels[2] == 2, 1, labels[2]).astype(np.uint8))
    apart = evaluate_replica(segmenter, tmp_path, NAMES, truth=MaskFolder(tmp_path), stream=Stream())
    monkeypatch.setitem(MERGED, "old camera", "green apple")
    merged = evaluate_replica(segmenter, tmp_path, NAMES, truth=MaskFolder(tmp_path), stream=Stream())
    assert apart.metrics["mIoU"] < 0.7
    assert merged.metrics["mIoU"] > 0.9


def test_replicas_extractor_answers_on_the_rectified_image(
    scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path
) -> None:
    """An extractor that reads label images of frames as they were taken: moved with the image, blank where it is."""
    rows, columns = np.mgrid[:48, :64]
    gaussians, labels = scene[0].gaussians, ((rows // 8 + columns // 8) % 3).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "4.png"), labels)
    (tmp_path / "labels.yaml").write_text("".join(f"{value}: {name}\n" for value, name in NAMES.items()))
    extractor = LabelsExtractor(tmp_path, tmp_path / "labels.yaml")
    seen = torch.ones(len(gaussians), dtype=torch.int32)
    provenance = Provenance(gaussians.checksum)
    field = FeatureField(torch.zeros(len(gaussians), 3), seen.float(), seen, extractor.identity, provenance)
    lens = Distortion("plumb_bob", (0.3, 0.0, 0.0, 0.0, 0.0))
    frame = Frame("4", replace(CAMERA, distortion=lens), pose(4), lambda: np.zeros((48, 64, 3), np.uint8))
    told, counted = teacher_labels(Segmenter(gaussians, field, extractor), frame, list(NAMES.values()))
    true = rectified_labels(labels, frame.camera, outside=255)
    assert 0 < np.count_nonzero(~counted) < counted.size / 2
    assert np.array_equal(counted, true != 255)
    assert (told[counted] == true[counted]).mean() > 0.99
    assert (told[counted] == labels[counted]).mean() < 0.95


def test_the_command_makes_a_field_of_all_but_the_test_views(
    scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path
) -> None:
    save_ply(scene[0].gaussians, tmp_path / "map.ply")
    tests = replica_tests(Stream())
    assert tests == ["frame_00002"]
    segmenter = command_segmenter(Stream(), tests, None, tmp_path / "map.ply", "color", None, "cpu")
    assert len(segmenter.field.provenance.frames) == 9
    assert not set(tests) & set(segmenter.field.provenance.frames)
    with raises("evaluation.conflict"):
        command_segmenter(Stream(), (), None, None, None, None, "cpu")
    with raises("evaluation.conflict", "--extractor", "'color'"):
        command_segmenter(Stream(), (), tmp_path / "f", None, "color", None, "cpu")


@pytest.mark.parametrize("protocol", ["3d-ovs", "lerf-ovs", "lerf-mask"])
def test_the_commands_make_no_field_of_frames_that_they_score(
    protocol: str, scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path
) -> None:
    """A scene of two frames, both of them annotated: nothing is left to make a field of."""
    folder = tmp_path / "bed"
    save_ply(scene[0].gaussians, tmp_path / "map.ply")
    cameras = []
    for name in ("0001", "0002"):
        write(folder / "images" / f"{name}.png", np.zeros((48, 64), np.bool_))
        cameras.append({"image": f"images/{name}.png", "width": 64, "height": 48, "fx": 60, "fy": 60, "cx": 32,
                        "cy": 24, "camera_from_world": pose(0).tolist()})  # fmt: skip
        for layout in ("segmentations", "test_mask"):
            write(folder / layout / name / "red.png", np.ones((48, 64), np.bool_))
        (folder / f"{name}.json").write_text("{}")
    (folder / "cameras.json").write_text(json.dumps(cameras))
    (folder / "segmentations" / "classes.txt").write_text("red")
    said = run("evaluate", protocol, folder, "--map", tmp_path / "map.ply", "--extractor", "color", code=2)
    assert "every frame of" in said.stderr
    assert said.stdout == ""
