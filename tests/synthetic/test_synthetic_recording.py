"""The recorded folder, read with rosbags, OpenCV and scipy alone: poses, lens and labels must agree with the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from safetensors.numpy import load_file
from scipy.spatial.transform import Rotation, Slerp

from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.synthetic import (
    Scene,
    held_out_views,
    record,
    recorded_views,
    render_view,
    tabletop,
    tabletop_camera,
)
from tests.errors import raises

VIEWS, WIDTH, HEIGHT = 4, 320, 240
SCENE = tabletop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "recording"
    record(folder, SCENE, VIEWS, WIDTH, HEIGHT, gaussians=8000, distorted=True)
    return folder


class Messages:
    """All messages of a bag by topic, deserialised by rosbags alone."""

    def __init__(self, folder: Path) -> None:
        store = get_typestore(Stores.ROS2_HUMBLE)
        self.by_topic: dict[str, list[tuple[int, Any]]] = {}
        with Reader(folder) as reader:
            for connection, stamp_ns, data in reader.messages():
                message = store.deserialize_cdr(data, connection.msgtype)
                self.by_topic.setdefault(connection.topic, []).append((stamp_ns, message))

    def images(self) -> list[tuple[int, Any]]:
        return self.by_topic["/camera/color/image_raw/compressed"]

    def infos(self) -> list[tuple[int, Any]]:
        return self.by_topic["/camera/color/camera_info"]

    def camera_from_map(self, stamp_ns: int) -> np.ndarray:
        """The pose [4, 4] by interpolating tf between its two neighbours in time."""
        static = {
            (transform.header.frame_id, transform.child_frame_id): matrix(transform.transform)
            for _, message in self.by_topic["/tf_static"]
            for transform in message.transforms
        }
        moving = [message.transforms[0] for _, message in self.by_topic["/tf"]]
        assert {(t.header.frame_id, t.child_frame_id) for t in moving} == {("base_link", "camera_link")}
        times = np.array([t.header.stamp.sec * 10**9 + t.header.stamp.nanosec - stamp_ns for t in moving], dtype=float)
        poses = np.array([matrix(t.transform) for t in moving])
        link = np.eye(4)
        link[:3, :3] = Slerp(times, Rotation.from_matrix(poses[:, :3, :3]))(0.0).as_matrix()
        link[:3, 3] = [np.interp(0.0, times, poses[:, axis, 3]) for axis in range(3)]
        optical = static["camera_link", "camera_color_optical_frame"]
        return np.linalg.inv(static["map", "base_link"] @ link @ optical)


def matrix(transform: Any) -> np.ndarray:
    pose = np.eye(4)
    q, t = transform.rotation, transform.translation
    pose[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    pose[:3, 3] = t.x, t.y, t.z
    return pose


def decoded(message: Any) -> np.ndarray:
    return cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)[:, :, ::-1]


def test_the_bag_has_metadata_that_humble_reads(folder: Path) -> None:
    content = yaml.safe_load((folder / "stream" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert content["version"] == 8
    assert content["storage_identifier"] == "mcap"
    counts = {entry["topic_metadata"]["name"]: entry["message_count"] for entry in content["topics_with_message_count"]}
    assert counts["/camera/color/image_raw/compressed"] == counts["/camera/color/camera_info"] == VIEWS
    assert counts["/tf_static"] == 1


def test_interpolated_tf_is_the_true_pose(folder: Path) -> None:
    bag = Messages(folder / "stream")
    tf_stamps = {stamp_ns for stamp_ns, _ in bag.by_topic["/tf"]}
    for (stamp_ns, _), posed in zip(bag.images(), recorded_views(VIEWS), strict=True):
        assert stamp_ns == posed.stamp_ns
        assert stamp_ns not in tf_stamps  # a reader must interpolate
        error = bag.camera_from_map(stamp_ns) @ np.linalg.inv(posed.camera_from_map)
        assert np.linalg.norm(error[:3, 3]) < 2e-4
        assert Rotation.from_matrix(error[:3, :3]).magnitude() < 2e-4


def test_tf_runs_at_50_hz_from_before_the_first_image_to_after_the_last(folder: Path) -> None:
    bag = Messages(folder / "stream")
    stamps = np.array([stamp_ns for stamp_ns, _ in bag.by_topic["/tf"]])
    assert (np.diff(stamps) == 20_000_000).all()
    assert stamps[0] < bag.images()[0][0]
    assert stamps[-1] > bag.images()[-1][0]


def test_images_and_calibration_are_the_cameras(folder: Path) -> None:
    bag, camera = Messages(folder / "stream"), tabletop_camera(WIDTH, HEIGHT)
    for (_, image), (_, info), posed in zip(bag.images(), bag.infos(), recorded_views(VIEWS), strict=True):
        assert info.header.stamp == image.header.stamp
        # ROS counts pixels from their centres, the camera from the image's corner.
        expected = [camera.fx, 0, camera.cx - 0.5, 0, camera.fy, camera.cy - 0.5, 0, 0, 1]
        np.testing.assert_allclose(info.k, expected, rtol=1e-12)
        assert not np.any(info.d)
        truth = render_view(SCENE, camera, posed.camera_from_map).image
        assert np.abs(decoded(image).astype(float) - truth).mean() < 3.0  # JPEG's loss


def test_means_of_gaussians_fall_on_pixels_of_their_label(folder: Path) -> None:
    """Map, alignment, tf, camera_info and masks in one: where the depth agrees, so does the label."""
    bag = Messages(folder / "stream")
    truth = load_file(folder / "ground_truth.safetensors")
    means = load_alignment(folder / "alignment.yaml").inverse().apply(load_map(folder / "map.ply").means.numpy())
    for (stamp_ns, _), (_, info) in zip(bag.images(), bag.infos(), strict=True):
        pose, k = bag.camera_from_map(stamp_ns), np.array(info.k).reshape(3, 3)
        points = means @ pose[:3, :3].T + pose[:3, 3]
        depth = render_view(SCENE, tabletop_camera(WIDTH, HEIGHT), pose).depth
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = np.rint((points @ k.T)[:, :2] / points[:, 2:])
        inside = (points[:, 2] > 0.05) & (pixels >= 0).all(axis=1) & (pixels < [WIDTH, HEIGHT]).all(axis=1)
        columns, rows = pixels[inside].astype(int).T
        visible = np.abs(depth[rows, columns] - points[inside, 2]) < 0.004
        for kind, labels in (("masks", truth["object_labels"]), ("parts", truth["part_labels"])):
            mask = cv2.imread(str(folder / kind / f"{stamp_ns}.png"), cv2.IMREAD_UNCHANGED)
            # A pixel at an outline may show either side of it.
            settled = visible & (cv2.erode(mask, np.ones((3, 3))) == cv2.dilate(mask, np.ones((3, 3))))[rows, columns]
            assert (settled & (labels[inside] > 0)).sum() > 20
            np.testing.assert_array_equal(mask[rows, columns][settled], labels[inside][settled])


def test_undistorted_the_distorted_stream_is_the_other_one(folder: Path) -> None:
    straight, bent = Messages(folder / "stream"), Messages(folder / "stream_distorted")
    assert len(bent.images()) == VIEWS
    for (_, expected), (_, image), (_, info) in zip(straight.images(), bent.images(), bent.infos(), strict=True):
        assert info.distortion_model == "plumb_bob"
        assert info.d[0] < -0.1
        rectified = cv2.undistort(decoded(image), np.array(info.k).reshape(3, 3), info.d).astype(float)
        inner = (slice(20, -20), slice(20, -20))
        as_recorded = np.abs(decoded(image).astype(float) - decoded(expected))[inner].mean()
        straightened = np.abs(rectified - decoded(expected))[inner].mean()
        assert straightened < 4.0 < as_recorded


def test_names_of_labels_are_written_beside_the_masks(folder: Path) -> None:
    labels = yaml.safe_load((folder / "labels.yaml").read_text())
    assert labels == {0: "background", 1: "mug", 2: "bottle", 3: "orange", 4: "banana", 5: "screwdriver"}
    parts = yaml.safe_load((folder / "parts.yaml").read_text())
    assert parts == {0: "none", 1: "mug_handle", 2: "bottle_neck", 3: "screwdriver_handle"}
    truth = load_file(folder / "ground_truth.safetensors")
    assert set(truth["object_labels"]) == set(labels)
    assert len(truth["part_labels"]) == len(load_map(folder / "map.ply"))


def test_held_out_views_are_none_of_the_recorded() -> None:
    recorded = {posed.name for posed in recorded_views(24)}
    for posed in held_out_views(6):
        assert posed.name not in recorded
        eye = -posed.camera_from_map[:3, :3].T @ posed.camera_from_map[:3, 3]
        assert 0.4 < np.linalg.norm(eye) < 1.0


def test_nothing_is_overwritten(folder: Path) -> None:
    before = (folder / "map.ply").stat().st_mtime_ns
    with raises("stream.exists", "map.ply"):
        record(folder, SCENE, 1, 32, 24, gaussians=500)
    assert (folder / "map.ply").stat().st_mtime_ns == before


def test_progress_is_told_and_can_stop_the_recording(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, name: str) -> bool:
        told.append((done, total, name))
        return done == 2

    record(tmp_path, SCENE, 4, 32, 24, gaussians=500, distorted=True, progress=progress)
    names = [posed.name for posed in recorded_views(4)]
    assert told == [(1, 8, names[0]), (2, 8, names[1])]
    assert len(Messages(tmp_path / "stream").images()) == 2
    assert not (tmp_path / "stream_distorted").exists()
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [f"{name}.png" for name in names[:2]]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_interrupted_recording_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, SCENE, 2, 32, 24, gaussians=500, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"views": 0}, ("stream.range", "views=0")),
        ({"width": 0}, ("stream.range", "0×24")),
        ({"width": 10**6, "height": 10**6}, ("stream.range", "16777216")),
        ({"gaussians": 0}, ("map.range",)),
        ({"gaussians": 10**9}, ("map.range", "5000000")),
    ],
)
def test_sizes_out_of_range_are_refused(tmp_path: Path, options: dict[str, int], fault: tuple[str, ...]) -> None:
    with raises(*fault):
        record(tmp_path, SCENE, **({"views": 1, "width": 32, "height": 24, "gaussians": 500} | options))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises("stream.unwritable"):
        record(tmp_path / "file" / "deep", SCENE, 1, 32, 24, gaussians=500)


def test_a_scene_without_names_records_background_only(tmp_path: Path) -> None:
    record(tmp_path, Scene((SCENE.objects[0],)), 1, 32, 24, gaussians=500)
    mask = cv2.imread(str(next((tmp_path / "masks").iterdir())), cv2.IMREAD_UNCHANGED)
    assert not mask.any()
    assert yaml.safe_load((tmp_path / "labels.yaml").read_text()) == {0: "background"}
