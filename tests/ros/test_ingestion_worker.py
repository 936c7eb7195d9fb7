"""The thread of the ingestion, in the test's own process: nothing that fails in it ends it."""

from __future__ import annotations

import numpy as np
import pytest
import rclpy
from rclpy.parameter import Parameter

from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.live.live_field import LiveField, LiveMap
from feature_gs_ros.live.statistics import Statistics
from feature_gs_ros.rasterizer import get_backend
from feature_gs_ros.ros.ingest.camera_input import CameraInput, CameraSettings
from feature_gs_ros.ros.ingest.worker import IngestionWorker
from feature_gs_ros.ros.runtime.parameter_table import FEATURE_MAP, camera_parameters
from feature_gs_ros.ros.runtime.parameters import declare
from feature_gs_ros.ros.runtime.settings import ingestion_limits
from ros.harness import Robot, wait_until
from ros.scene import SPLAT_FROM_MAP, camera_from_map, take_picture

FRAMES = 6
OUT_OF_MEMORY = "MemoryError in the extractor or the map, see the log"


class Poses:
    """Of a camera that flies on with each frame."""

    map_frame = "map"

    def __init__(self, fails: bool) -> None:
        self.fails, self.asked = fails, 0

    def camera_from_map(self, *_: object) -> np.ndarray:
        if self.fails:
            raise MemoryError("no room")
        self.asked += 1
        return camera_from_map(self.asked / (2 * FRAMES + 1))


class Field(LiveField):
    """Accumulates nothing while it fails, neither a full batch nor the rest of one."""

    fails = ""

    def add(self, *arguments: object) -> None:
        super().add(*arguments)
        if self.fails == "add":
            raise MemoryError("no room")

    def flush(self) -> None:
        if self.fails == "flush":
            raise MemoryError("no room")
        super().flush()


@pytest.fixture
def node(robot: Robot):
    reliable = Parameter("image_reliability", value="reliable")
    node = rclpy.create_node("ingesting", context=robot.context, parameter_overrides=[reliable])
    declare(node, FEATURE_MAP)
    declare(node, camera_parameters("camera"))
    robot.executor.add_node(node)
    yield node
    robot.executor.remove_node(node)
    node.destroy_node()


@pytest.mark.parametrize("failing", ["poses", "add", "flush"])
def test_no_failure_ends_the_ingestion_and_every_frame_is_counted(robot: Robot, node, gaussians, failing):
    poses, statistics = Poses(failing == "poses"), Statistics()
    field = Field(LiveMap(gaussians, "", SPLAT_FROM_MAP, make_extractor("color", cell=4), get_backend("cpu"), None))
    field.fails = failing
    worker = IngestionWorker(field, poses, statistics, lambda: ingestion_limits(node), robot.now, node.get_logger())
    settings = CameraSettings("camera", "image", "camera_info", "raw", False, "", "")
    camera = CameraInput(node, settings, worker.changed, statistics, worker.on_jump)
    worker.cameras.append(camera)
    worker.start()
    wait_until(lambda: robot.images.get_subscription_count() == 1)
    wait_until(lambda: robot.infos.get_subscription_count() == 1)
    robot.publish_info(robot.now())
    wait_until(lambda: camera.has_info, what="the camera's calibration")

    def outcome(frames: int) -> tuple[int, dict[str, int]]:
        """How many were used so far, and why the others were not."""
        expected = statistics.report().seen + frames
        for _ in range(frames):
            robot.publish_image(take_picture(gaussians, camera_from_map(0)), robot.now())

        def settled() -> bool:
            report = statistics.report()
            return report.seen == expected == report.used + sum(report.skipped.values())

        wait_until(settled, what=f"the outcome of {frames} frames")
        report = statistics.report()
        return report.used, report.skipped

    try:
        assert outcome(FRAMES) == (0, {OUT_OF_MEMORY: FRAMES})
        poses.fails = False
        field.fails = ""
        assert outcome(1) == (1, {OUT_OF_MEMORY: FRAMES})
    finally:
        worker.stop()
        camera.close()
