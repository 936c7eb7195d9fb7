"""What the nodes are made of and needs no ROS: the keyframe gate, the counts, the folder of files."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from conftest import random_map

from feature_gs_ros.backprojection.field import FeatureField, KnownView, Provenance
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.io.data_folder import DataFolder
from feature_gs_ros.live.ignored_pixels import counted_pixels
from feature_gs_ros.live.keyframes import KeyframeGate, KeyframeLimits
from feature_gs_ros.live.live_field import LIVE, REMEMBERED, LiveField, LiveMap, remembering
from feature_gs_ros.live.statistics import MAX_REASONS, Statistics
from feature_gs_ros.rasterizer import get_backend
from feature_gs_ros.rasterizer.reference import dense_u
from feature_gs_ros.ros.runtime.sender import Sender
from tests.errors import raises

LIMITS = KeyframeLimits(translation=0.1, rotation=np.radians(5.0), min_interval=0.5, max_interval=10.0)
SECOND = 1_000_000_000


def moved(x: float = 0.0, degrees: float = 0.0) -> np.ndarray:
    """``camera_from_map`` of a camera that turned about its own y axis, then went along x."""
    pose = np.eye(4)
    angle = np.radians(degrees)
    pose[0, 0], pose[0, 2], pose[2, 0], pose[2, 2] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    pose[0, 3] = x
    return pose


@pytest.mark.parametrize(
    ("seconds", "pose", "passes"),
    [
        (1.0, moved(), False),
        (1.0, moved(x=0.099), False),
        (1.0, moved(x=0.101), True),
        (1.0, moved(degrees=4.9), False),
        (1.0, moved(degrees=5.1), True),
        (0.4, moved(x=5.0), False),  # too soon
        (10.0, moved(), True),  # long enough
        (9.9, moved(), False),
    ],
)
def test_the_gate_compares_with_the_last_frame_taken(seconds, pose, passes):
    gate = KeyframeGate()
    assert gate.refusal(0, moved(), LIMITS) is None
    gate.take(0, moved())
    assert (gate.refusal(int(seconds * SECOND), pose, LIMITS) is None) is passes
    gate.reset()
    assert gate.refusal(0, moved(), LIMITS) is None


@pytest.mark.parametrize(("seconds", "passes"), [(-0.9, False), (-1.1, True), (-3600.0, True)])
def test_a_stamp_long_before_the_last_one_is_a_new_beginning(seconds, passes):
    gate = KeyframeGate()
    gate.take(7200 * SECOND, moved())
    assert (gate.refusal(7200 * SECOND + int(seconds * SECOND), moved(x=5.0), LIMITS) is None) is passes


def test_translation_is_how_far_the_camera_went_not_the_maps_origin():
    """A turn on the spot, far from the map's origin, moves the pose's last column but not the camera."""
    gate = KeyframeGate()
    far = np.eye(4)
    far[:3, 3] = [0.0, 0.0, 100.0]
    gate.take(0, far)
    turned = moved(degrees=1.0) @ far
    assert gate.refusal(SECOND, turned, LIMITS) is not None


def test_counts_and_rates(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("feature_gs_ros.live.statistics.time.monotonic", lambda: now[0])
    statistics = Statistics()
    statistics.see(3)
    statistics.skip("a")
    statistics.skip("a")
    statistics.skip("b", 0)
    statistics.use(0.25)
    now[0] += 2.0
    report = statistics.report()
    assert (report.seen, report.used, report.skipped) == (3, 1, {"a": 2})
    assert report.latency == 0.25
    assert (report.rate_seen, report.rate_used) == (1.5, 0.5)
    for latency in range(1, 100):
        statistics.use(float(latency))
    now[0] += 9.0
    later = statistics.report()  # what came since the last report
    assert (later.rate_seen, later.rate_used) == (0.0, 11.0)
    assert later.latency == pytest.approx(94.05)  # 95% of the way from 0.25 to 99
    assert math.isnan(Statistics().report().latency)


class Slow:
    """Publishes to somebody who doesn't read."""

    def __init__(self) -> None:
        self.reading, self.begun = threading.Event(), threading.Event()
        self.sent: list[str] = []

    def publish(self, message: str) -> None:
        self.begun.set()
        assert self.reading.wait(30)
        self.sent.append(message)


def test_a_publisher_that_blocks_holds_up_nobody_and_keeps_the_newest():
    slow, quick, sender = Slow(), Slow(), Sender()
    quick.reading.set()
    sender.send(slow, "first")
    assert slow.begun.wait(30)
    for message in ("second", "third"):
        sender.send(slow, message)  # returns at once, though "first" is still on its way
    sender.send(quick, "other")
    assert slow.sent == []
    slow.reading.set()
    sender.stop(30.0)
    assert slow.sent == ["first", "third"]
    assert quick.sent == ["other"]


def test_frames_after_a_loaded_field_are_not_credited_to_its_recording():
    gaussians, extractor = random_map(0, 40), make_extractor("color")
    ones = torch.ones(40, dtype=torch.int32)
    provenance = Provenance(gaussians.checksum, stream="/data/bag", frames=("7", "8"))
    field = FeatureField(torch.rand(40, extractor.dimension), ones.float(), ones, extractor.identity, provenance)
    live = LiveField(LiveMap(gaussians, "", Sim3.identity(), extractor, get_backend("cpu"), None))
    live.resume(field)
    learned = live.provenance
    assert (learned.stream, learned.taken_from(LIVE), learned.taken_from("/data/bag")) == (LIVE, (), ("7", "8"))


def test_a_long_flight_is_remembered_by_some_cameras_spread_over_it():
    provenance = Provenance("map")
    camera = Camera(8, 6, fx=8.0, fy=8.0, cx=4.0, cy=3.0)
    for number in range(500):
        provenance = remembering(provenance, KnownView(str(number), camera, np.eye(4)))
    numbers = [int(known.name) for known in provenance.views]
    assert numbers == sorted(set(numbers))
    assert REMEMBERED / 2 <= len(numbers) <= REMEMBERED
    assert numbers[0] == 0
    assert numbers[-1] == 499


def test_reasons_that_a_stranger_makes_up_do_not_grow_the_table():
    statistics = Statistics()
    for number in range(10 * MAX_REASONS):
        statistics.skip(f"encoding '{number}'")
    report = statistics.report()
    assert len(report.skipped) == MAX_REASONS + 1
    assert sum(report.skipped.values()) == 10 * MAX_REASONS


def test_pixels_whose_feature_is_mixed_of_ignored_ones_do_not_count():
    """Against U itself: no pixel that counts takes anything of a cell that shows some of the arm."""
    grid = FeatureGrid(torch.zeros(6, 8, 1), left=-0.1, top=0.0, right=1.05, bottom=1.2)
    ignored = np.zeros((60, 80), np.bool_)
    ignored[20:28, 33:47] = True
    y, x = np.mgrid[:60, :80] + 0.5
    cell = (np.floor(y / 60 / 1.2 * 6) * 8 + np.floor((x / 80 + 0.1) / 1.15 * 8)).astype(int)
    touched = np.isin(np.arange(48), cell[ignored])
    assert touched.sum() == 4
    mixed = (dense_u(grid, 80, 60).numpy()[:, touched].sum(axis=1) > 1e-6).reshape(60, 80)
    np.testing.assert_array_equal(counted_pixels(ignored, grid), ~ignored & ~mixed)
    whole = FeatureGrid(torch.zeros(60, 80, 1), interpolation="nearest")  # as labels come
    np.testing.assert_array_equal(counted_pixels(ignored, whole), ~ignored)


@pytest.mark.parametrize("name", ["", " ", "..", "../x", "/etc/passwd", "a/../../x", "a\0b", "link/x", ".", "~/x"])
def test_no_path_leaves_the_folder(tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    with pytest.raises(FieldError):
        DataFolder(str(tmp_path / "data"))(name)


def test_paths_below_the_folder(tmp_path):
    data = DataFolder(str(tmp_path / "new" / "data"))
    assert data("rooms/kitchen") == data.path / "rooms" / "kitchen"
    assert data(str(data.path / "x")) == data.path / "x"
    with raises("parameter.value"):
        DataFolder("/proc/version/data")
