"""The public protocols: layouts read from small look-alikes, figures against hand-worked cases and second code."""

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
from feature_gs_ros.cameras import Camera, Distortion, Frame, rectified_labels
from feature_gs_ros.cli.evaluate_protocols import _segmenter as command_segmenter
from feature_gs_ros.errors import EvaluationError
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.labels import LabelsExtractor
from feature_gs_ros.field import FeatureField, Provenance
from feature_gs_ros.gaussians import GaussianMap
from feature_gs_ros.identity.codes import orthogonal_codes
from feature_gs_ros.identity.encoding import Annotation, encode_identities
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.splat_files import save_ply
from feature_gs_ros.protocols.lerf_mask import evaluate_lerf_mask, lerf_mask_views
from feature_gs_ros.protocols.lerf_ovs import evaluate_lerf_ovs, lerf_ovs_views, read_polygons
from feature_gs_ros.protocols.prediction import read_mask, resized
from feature_gs_ros.protocols.published import LERF_MASK, REPLICA
from feature_gs_ros.protocols.replica import evaluate_replica, frequent_iou, replica_tests, teacher_labels, upsampled
from feature_gs_ros.protocols.scoring import PromptScores
from feature_gs_ros.protocols.three_d_ovs import evaluate_three_d_ovs, three_d_ovs_views
from feature_gs_ros.rasterizer import FeatureGrid
from feature_gs_ros.segmentation import Segmenter
from tests.command_line import run

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
    return Segmenter(gaussians, field, extractor_of(field.teacher)), labels


def write(path: Path, mask: NDArray[np.bool_]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask.astype(np.uint8) * 255)


def gaussian_grouping(gt: NDArray[np.bool_], dt: NDArray[np.bool_]) -> tuple[float, float]:
    """In plain numpy: a pixel is in the band if the square of 2d + 1 around it leaves the mask."""
    distance = max(1, round(0.02 * float(np.hypot(*gt.shape))))
    bands = []
    for mask in (gt, dt):
        padded = np.pad(mask, distance)
        inner = np.ones_like(mask)
        for dy in range(2 * distance + 1):
            for dx in range(2 * distance + 1):
                inner &= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
        bands.append(mask & ~inner)
    ratio = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    return float((gt & dt).sum() / (gt | dt).sum()), float(ratio)


def test_scores_are_those_of_a_second_implementation() -> None:
    rng = np.random.default_rng(0)
    scores, by_prompt = PromptScores(), {"a": [], "b": []}  # type: ignore[var-annotated]
    for prompt in ("a", "a", "b"):
        true = cv2.GaussianBlur(rng.random((60, 80)), (0, 0), 5) > 0.5
        predicted = cv2.GaussianBlur(true.astype(np.float64), (0, 0), 2) > 0.55
        scores.add(prompt, predicted, true)
        by_prompt[prompt].append(gaussian_grouping(true, predicted))
    for prompt, pairs in by_prompt.items():
        assert scores.iou()[prompt] == pytest.approx(np.mean([pair[0] for pair in pairs]))
        assert scores.boundary()[prompt] == pytest.approx(np.mean([pair[1] for pair in pairs]))


def test_iou_by_hand() -> None:
    """A 4×4 square against the same moved by one column: 12 of 20 pixels."""
    true, predicted = np.zeros((100, 100), np.bool_), np.zeros((100, 100), np.bool_)
    true[10:14, 10:14], predicted[10:14, 11:15] = True, True
    scores = PromptScores()
    scores.add("x", predicted, true)
    assert scores.iou()["x"] == pytest.approx(12 / 20)
    assert scores.boundary()["x"] == pytest.approx(12 / 20)  # a band of 3 pixels fills the square
    with pytest.raises(EvaluationError, match="not the same size"):
        scores.add("x", predicted[:5], true)


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
    table = result.table(LERF_MASK)
    assert "Gaussian Grouping (published)" in table
    assert "69.7" in table
    assert result.as_json()["scene"] == "figurines"
    with pytest.raises(EvaluationError, match="there is no"):
        evaluate_lerf_mask(segmenter, tmp_path / "nowhere", stream=Stream())


def test_lerf_mask_of_another_size_and_crop(scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path) -> None:
    segmenter, labels = scene
    mask = labels[0] == 1
    write(tmp_path / "test_mask" / "0" / "green apple.png", np.kron(mask, np.ones((2, 2))).astype(np.bool_))
    assert evaluate_lerf_mask(segmenter, tmp_path, stream=Stream()).metrics["mIoU"] > 0.9
    write(tmp_path / "test_mask" / "0" / "green apple.png", mask[:20])
    with pytest.raises(EvaluationError, match="another crop"):
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
    assert result.metrics["mIoU"] > 0.9
    assert result.skipped["view 07"] == "has no mask of old camera, background"
    assert "44" in result.skipped
    assert three_d_ovs_views(tmp_path / "bed", Stream()) == ["frame_00004", "frame_00007"]
    (folder / "classes.txt").write_text("\n")
    with pytest.raises(EvaluationError, match="names no class"):
        evaluate_three_d_ovs(segmenter, tmp_path / "bed", stream=Stream())
    (folder / "classes.txt").unlink()
    with pytest.raises(EvaluationError, match="class list"):
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no table"),
        ({"imageWidth": 10**6, "imageHeight": 10**6, "shapes": []}, "image size"),
        ({"imageWidth": 8, "imageHeight": 8, "shapes": []}, "no polygon"),
        ({"imageWidth": 8, "imageHeight": 8, "shapes": [{"label": "a", "points": [[0, 0], [1, 1]]}]}, "three points"),
        ({"imageWidth": 8, "imageHeight": 8, "shapes": [{"label": 3, "points": [[0, 0], [1, 1], [2, 0]]}]}, "without"),
    ],
)
def test_damaged_polygons(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "frame_1.json"
    path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=message):
        read_polygons(path)


def test_polygons_of_one_category_add_up(tmp_path: Path) -> None:
    shapes = [
        {"label": "a", "points": [[0, 0], [2, 0], [2, 2], [0, 2]]},
        {"label": "a", "points": [[5, 5], [7, 5], [7, 7]]},
    ]
    (tmp_path / "f.json").write_text(json.dumps({"imageWidth": 8, "imageHeight": 8, "shapes": shapes}))
    mask = read_polygons(tmp_path / "f.json")["a"]
    assert mask[:3, :3].all()
    assert mask.sum() == 9 + 6


def test_replica_counts_the_seven_most_frequent_labels() -> None:
    """By hand: label 0 has 3 of 5, label 1 has 1 of 4, label 9 has 0 of 1; where two count the last drops."""
    teacher, student = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 0, 9])
    assert frequent_iou(teacher, student, 2) == pytest.approx((3 / 5 + 1 / 4) / 2)
    assert frequent_iou(teacher, student) == pytest.approx((3 / 5 + 1 / 4 + 0) / 3)
    assert frequent_iou(np.array([255, 300]), np.array([255, 300])) == 1.0


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
    assert "NeRF-DFF (published)" in result.table(REPLICA)
    with pytest.raises(EvaluationError, match="knows none"):
        evaluate_replica(segmenter, tmp_path, {7: "unicorn"}, stream=Stream())
    (masks / "frame_00002.png").rename(masks / "frame_00004.png")
    with pytest.raises(EvaluationError, match="no test view"):
        evaluate_replica(segmenter, tmp_path, NAMES, truth=MaskFolder(masks), stream=Stream())


def test_replicas_teacher_answers_on_the_rectified_image(
    scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path
) -> None:
    """A teacher that reads label images of frames as they were taken: moved with the image, blank where it is."""
    rows, columns = np.mgrid[:48, :64]
    gaussians, labels = scene[0].gaussians, ((rows // 8 + columns // 8) % 3).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "4.png"), labels)
    (tmp_path / "labels.yaml").write_text("".join(f"{value}: {name}\n" for value, name in NAMES.items()))
    teacher = LabelsExtractor(tmp_path, tmp_path / "labels.yaml")
    seen = torch.ones(len(gaussians), dtype=torch.int32)
    provenance = Provenance(gaussians.checksum)
    field = FeatureField(torch.zeros(len(gaussians), 3), seen.float(), seen, teacher.identity, provenance)
    lens = Distortion("plumb_bob", (0.3, 0.0, 0.0, 0.0, 0.0))
    frame = Frame("4", replace(CAMERA, distortion=lens), pose(4), lambda: np.zeros((48, 64, 3), np.uint8))
    told, counted = teacher_labels(Segmenter(gaussians, field, teacher), frame, list(NAMES.values()))
    true = rectified_labels(labels, frame.camera, outside=255)
    assert 0 < np.count_nonzero(~counted) < counted.size / 2
    assert np.array_equal(counted, true != 255)
    assert (told[counted] == true[counted]).mean() > 0.99
    assert (told[counted] == labels[counted]).mean() < 0.95


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_upsampling_is_the_operators_own(interpolation: str) -> None:
    """Against torch's interpolation for a grid that covers the image."""
    values = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(2))
    mode = "nearest-exact" if interpolation == "nearest" else interpolation
    expected = torch.nn.functional.interpolate(values.permute(2, 0, 1)[None], size=(48, 64), mode=mode)
    grid = FeatureGrid(values, interpolation=interpolation)  # type: ignore[arg-type]
    torch.testing.assert_close(upsampled(grid, 48, 64), expected[0].permute(1, 2, 0), atol=1e-5, rtol=0)


def test_masks_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    cv2.imwrite(str(path), np.array([[0, 128, 129, 255]], np.uint8))
    assert read_mask(path).tolist() == [[False, False, True, True]]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + (2**31 - 1).to_bytes(4, "big") * 2 + bytes(20))
    with pytest.raises(EvaluationError, match="2147483647"):
        read_mask(path)
    path.write_bytes(b"")
    with pytest.raises(EvaluationError, match="damaged"):
        read_mask(path)
    with pytest.raises(EvaluationError, match="can't read"):
        read_mask(tmp_path / "none.png")
    small = np.array([[True, False], [False, True]])
    assert (resized(small, (4, 4)) == np.kron(small, np.ones((2, 2), np.bool_))).all()


def test_the_command_makes_a_field_of_all_but_the_test_views(
    scene: tuple[Segmenter, list[NDArray[np.int64]]], tmp_path: Path
) -> None:
    save_ply(scene[0].gaussians, tmp_path / "map.ply")
    tests = replica_tests(Stream())
    assert tests == ["frame_00002"]
    segmenter = command_segmenter(Stream(), tests, None, tmp_path / "map.ply", "color", None, "cpu")
    assert len(segmenter.field.provenance.frames) == 9
    assert not set(tests) & set(segmenter.field.provenance.frames)
    with pytest.raises(EvaluationError, match="neither a field nor a map"):
        command_segmenter(Stream(), (), None, None, None, None, "cpu")
    with pytest.raises(EvaluationError, match="leave out --extractor 'color'"):
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
