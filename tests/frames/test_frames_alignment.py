"""Alignments from poses, points, flange poses, markers and a plane, against known similarities."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.frames.hand_eye import align_hand_eye
from feature_gs_ros.frames.markers import MarkerSet, Observation, align_markers, find_markers, marker_corners
from feature_gs_ros.frames.plane import align_plane
from feature_gs_ros.frames.points import align_points
from feature_gs_ros.frames.pose_alignment import align_poses
from feature_gs_ros.frames.poses import Poses, load_poses
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.synthetic.camera_path import looking_at, pose_at, tabletop_camera
from tests.command_line import run
from tests.errors import raises

pytestmark = pytest.mark.slow

TRUTH = Sim3(3.7, np.array([0.8, -0.4, 0.2, 0.4]), np.array([1.3, -0.7, 2.1]))


def camera_poses(count: int = 20, start: float = 0.0, step: float = 0.4) -> Poses:
    """Cameras on the synthetic sweep, in the map, with stamps."""
    stamps = 1.7e9 + start + step * np.arange(count)
    poses = np.stack([np.linalg.inv(pose_at(round(stamp * 1e9))) for stamp in stamps])
    return Poses(tuple(f"{stamp:.3f}" for stamp in stamps), poses, stamps, "map")


def in_splat(poses: Poses, truth: Sim3 = TRUTH, source: str = "splat") -> Poses:
    moved = poses.world_from_body.copy()
    moved[:, :3, :3] = truth.rotation @ moved[:, :3, :3]
    moved[:, :3, 3] = truth.apply(moved[:, :3, 3])
    return Poses(poses.names, moved, poses.stamps, source)


def disturbed(poses: Poses, metres: float, degrees: float, seed: int) -> Poses:
    rng = np.random.default_rng(seed)
    noisy = poses.world_from_body.copy()
    noisy[:, :3, :3] = (
        noisy[:, :3, :3] @ Rotation.from_rotvec(rng.normal(0, np.radians(degrees), (len(poses), 3))).as_matrix()
    )
    noisy[:, :3, 3] += rng.normal(0, metres, (len(poses), 3))
    return Poses(poses.names, noisy, poses.stamps, poses.source)


def errors(found: Sim3, truth: Sim3, middle: np.ndarray) -> tuple[float, float, float]:
    """Relative scale, degrees, and millimetres at a point of the map [3]."""
    change = truth.inverse() @ found
    turn = np.degrees(np.linalg.norm(Rotation.from_matrix(change.rotation).as_rotvec()))
    return abs(change.scale - 1), float(turn), 1000 * float(np.linalg.norm(change.apply(middle) - middle))


@pytest.mark.parametrize("by", ["name", "stamp", "shape"])
def test_a_fifth_of_the_poses_may_be_wrong(by: str) -> None:
    good = camera_poses()
    rng = np.random.default_rng(3)
    wrong = rng.choice(len(good), 4, replace=False)
    poses = good.world_from_body.copy()
    poses[wrong, :3, 3] += rng.normal(0, 0.05, (4, 3))
    poses[wrong, :3, :3] = Rotation.random(4, random_state=1).as_matrix()
    reference = in_splat(good)
    if by == "shape":
        order = rng.permutation(len(good))
        reference = Poses(tuple(f"image_{k}" for k in order), reference.world_from_body[order], None, "splat")
    report = align_poses(Poses(good.names, poses, good.stamps, "map"), reference, by)
    scale, degrees, millimetres = errors(report.splat_from_map, TRUTH, good.positions.mean(axis=0))
    assert (scale < 1e-5, degrees < 1e-3, millimetres < 0.01) == (True, True, True)
    assert set(report.outliers) == {good.names[row] for row in wrong}


def test_the_offset_of_two_clocks_is_found() -> None:
    """Cameras at other moments and by another clock: what is between them is interpolated."""
    stream, fine = camera_poses(20, start=1.0), camera_poses(240, start=0.0, step=0.05)
    assert fine.stamps is not None
    late = Poses(fine.names, fine.world_from_body, fine.stamps + 3.217, "splat")
    report = align_poses(stream, in_splat(late), "stamp")
    assert report.time_offset == pytest.approx(3.217, abs=0.004)
    assert errors(report.splat_from_map, TRUTH, stream.positions.mean(axis=0))[2] < 2.0


def test_flange_poses_taken_for_the_cameras_are_named() -> None:
    camera = camera_poses()
    flange_from_camera = np.eye(4)
    flange_from_camera[:3, :3] = Rotation.from_euler("xyz", [10, 20, 85], degrees=True).as_matrix()
    flange = Poses(camera.names, camera.world_from_body @ np.linalg.inv(flange_from_camera), None, "flange")
    report = align_poses(flange, in_splat(camera))
    assert any("hand-eye" in warning for warning in report.warnings)


@pytest.mark.parametrize("noisy", ["flange", "camera"])
def test_hand_eye_reaches_the_cramer_rao_bound(noisy: str) -> None:
    """With 2 mm and 0.2° of noise, over 25 arms: errors in units of the bound that the report states."""
    ratios = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        flange_from_camera = np.eye(4)
        flange_from_camera[:3, :3] = Rotation.random(random_state=seed).as_matrix()
        flange_from_camera[:3, 3] = rng.normal(0, 0.07, 3)
        poses = np.tile(np.eye(4), (20, 1, 1))
        poses[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.6, (20, 3))).as_matrix()
        poses[:, :3, 3] = rng.normal(0, 0.2, (20, 3))
        flange = Poses(tuple(map(str, range(20))), poses, None, "arm")
        camera = Poses(flange.names, poses @ flange_from_camera, None, "camera")
        if noisy == "flange":
            flange = disturbed(flange, 0.002, 0.2, seed)
        else:
            camera = disturbed(camera, 0.002, 0.2, seed)
        report = align_hand_eye(flange, in_splat(camera))
        assert report.flange_from_camera is not None
        assert report.flange_from_camera_sigma is not None
        change = np.linalg.inv(flange_from_camera) @ report.flange_from_camera
        scale = abs(np.log(report.splat_from_map.scale / TRUTH.scale)) / report.scale_sigma
        turn = np.degrees(np.linalg.norm(Rotation.from_matrix(change[:3, :3]).as_rotvec()))
        offset = 1000 * np.linalg.norm(change[:3, 3])
        sigma = report.flange_from_camera_sigma
        ratios.append([scale, turn / sigma[0], offset / sigma[1]])
    assert (np.sqrt((np.array(ratios) ** 2).mean(axis=0)) < 1.5).all()


@pytest.mark.parametrize(("axis", "amount", "named"), [("z", 0.6, "one axis"), ("xyz", 0.04, "too little motion")])
def test_weak_geometry_is_named(axis: str, amount: float, named: str) -> None:
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (15, 1, 1))
    turns = rng.normal(0, amount, (15, 3)) * [letter in axis for letter in "xyz"]
    poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_rotvec(turns).as_matrix(), rng.normal(0, 0.2, (15, 3))
    flange = Poses(tuple(map(str, range(15))), poses, None, "arm")
    report = align_hand_eye(disturbed(flange, 0.001, 0.1, 1), in_splat(flange))
    assert any(named in warning for warning in report.warnings)


def test_the_recorded_arm(tabletop: Path, tmp_path: Path) -> None:
    """Flange poses of a real arm, taken for the camera's 41 mm and 85° off."""
    out = tmp_path / "alignment.yaml"
    answer = json.loads(
        run("align", "hand-eye", tabletop / "recorded_poses", tabletop / "colmap", "--out", out, "--json").stdout
    )
    assert answer["rms_mm"] < 6
    assert answer["rms_deg"] < 0.6
    assert load_alignment(out).scale == pytest.approx(load_alignment(tabletop / "alignment.yaml").scale, rel=0.01)


def test_a_recording_against_its_reconstruction(tabletop: Path) -> None:
    """Names and order differ, so they are matched by shape; four of eighteen poses are wrong."""
    stream, truth = load_poses(tabletop / "stream"), load_alignment(tabletop / "alignment.yaml")
    poses = stream.world_from_body.copy()
    poses[[2, 7, 11, 16], :3, 3] += [0.02, -0.01, 0.03]
    report = align_poses(Poses(stream.names, poses, stream.stamps, "bag"), load_poses(tabletop / "colmap"))
    scale, degrees, millimetres = errors(report.splat_from_map, truth, np.zeros(3))
    assert (scale < 1e-3, degrees < 0.1, millimetres < 1.0) == (True, True, True)


def test_named_points(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    in_map = rng.normal(0, 0.3, (8, 3))
    target = TRUTH.apply(in_map)
    target[5] += 1.0
    report = align_points(tuple("abcdefgh"), in_map, target)
    assert report.outliers == ("f",)
    assert errors(report.splat_from_map, TRUTH, np.zeros(3))[2] < 1e-6
    listed = {
        "points": {
            name: {"map": a.tolist(), "splat": b.tolist()} for name, a, b in zip("abc", in_map, target, strict=False)
        }
    }
    (tmp_path / "pairs.json").write_text(json.dumps(listed))
    run("align", "points", tmp_path / "pairs.json", "--out", tmp_path / "a.yaml")
    assert np.allclose(load_alignment(tmp_path / "a.yaml").matrix, TRUTH.matrix)


def test_points_on_a_line_are_refused() -> None:
    line = np.outer(np.arange(4.0), [1, 2, 3])
    with raises("alignment.degenerate"):
        align_points(tuple("abcd"), line, TRUTH.apply(line))


def test_markers_within_two_millimetres() -> None:
    """Corners of one marker of 8 cm at 0.3 px of noise, in 12 views."""
    corners = marker_corners(0.08) + [0.1, 0.05, 0.0]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        observations = []
        for k in range(12):
            camera, pose = tabletop_camera(), pose_at(1_700_000_000_000_000_000 + k * 900_000_000)
            points = corners @ pose[:3, :3].T + pose[:3, 3]
            pixels = points[:, :2] / points[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
            pixels += rng.normal(0, 0.3, pixels.shape) + (30 if k == 7 else 0)
            observations.append(Observation(f"{k}", camera, TRUTH.camera_from_splat(pose), corners, pixels))
        report = align_markers(observations)
        assert report.outliers == ("7",)
        _, degrees, millimetres = errors(report.splat_from_map, TRUTH, corners.mean(axis=0))
        assert degrees < 0.3
        assert millimetres < 2


def test_markers_are_found_in_images() -> None:
    """A drawn marker, warped into two views by its plane's homography."""
    if not hasattr(cv2, "aruco"):
        pytest.skip("this OpenCV has no markers")
    tag = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), 3, 240)
    paper = np.full((320, 320), 255, np.uint8)
    paper[40:280, 40:280] = tag
    camera, corners = Camera(640, 480, 600.0, 600.0, 320.0, 240.0), marker_corners(0.1)
    from feature_gs_ros.core.camera import Frame

    frames = []
    for k, eye in enumerate(([0.3, 0.1, 0.4], [-0.2, 0.3, 0.4], [0.05, -0.35, 0.5])):
        pose = looking_at(np.array(eye), np.zeros(3))
        points = corners @ pose[:3, :3].T + pose[:3, 3]
        pixels = points[:, :2] / points[:, 2:] * 600.0 + [320.0, 240.0]
        drawn = np.array([[40, 40], [280, 40], [280, 280], [40, 280]], np.float32)
        # Both count from the corner of their image; OpenCV's warp from the first pixel's centre.
        warp = cv2.getPerspectiveTransform(drawn - 0.5, (pixels - 0.5).astype(np.float32))
        grey = cv2.warpPerspective(paper, warp, (640, 480), flags=cv2.INTER_AREA, borderValue=120)
        image = np.repeat(grey[:, :, None], 3, axis=2)
        frames.append(Frame(str(k), camera, TRUTH.camera_from_splat(pose), lambda image=image: image))
    report = align_markers(find_markers(frames, MarkerSet("DICT_4X4_50", {3: corners})))
    _, degrees, millimetres = errors(report.splat_from_map, TRUTH, np.zeros(3))
    assert report.rms_pixels < 0.5
    assert (degrees < 0.3, millimetres < 2) == (True, True)


def test_a_plane_and_a_height() -> None:
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.uniform(-0.5, 0.5, (3000, 2)), np.full(3000, 0.7)])
    clutter = rng.uniform([-0.4, -0.4, 0.7], [0.4, 0.4, 0.9], (800, 3))
    means = torch.from_numpy(TRUTH.apply(np.concatenate([table, clutter])))
    count = len(means)
    gaussians = GaussianMap.from_tensors(
        means, torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1), torch.full((count, 3), 0.01), torch.ones(count),
        torch.zeros(count, 1, 3),
    )  # fmt: skip
    poses = np.stack([np.linalg.inv(looking_at(np.array([x, 0.3, 1.3]), np.array([0.0, 0, 0.7]))) for x in (0.1, 0.4)])
    reference = in_splat(Poses(("left", "right"), poses, None, "map"))
    near = Sim3(TRUTH.scale * 1.1, quat_wxyz_from_rotation(TRUTH.rotation), TRUTH.translation)
    found = align_plane(gaussians, reference, 0.7, {"left": 0.6}, near).splat_from_map
    assert found.scale == pytest.approx(TRUTH.scale, rel=1e-3)
    assert errors(found, TRUTH, np.zeros(3))[1] < 0.1
    assert (found.inverse().apply(TRUTH.apply(table)))[:, 2] == pytest.approx(0.7, abs=1e-3)
