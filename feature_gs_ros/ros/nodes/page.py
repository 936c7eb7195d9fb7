"""The node page: a running feature_map in a browser, with the camera's last image and pose."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from feature_gs_ros.core.camera import rectified
from feature_gs_ros.core.errors import EditError, FeatureGsError, NoTransformError, OptionError
from feature_gs_ros.live.statistics import Statistics
from feature_gs_ros.msg import Status
from feature_gs_ros.page.limits import is_local
from feature_gs_ros.page.live import EditName, LiveAnswer, LiveFrame, LivePage
from feature_gs_ros.query.masks_3d import State
from feature_gs_ros.query.objects import OrientedBox
from feature_gs_ros.ros.client import FeatureMapClient
from feature_gs_ros.ros.convert.plain import DetectedObject, EditResult, MapAnswer, Outcome, cloud_fields, status_of
from feature_gs_ros.ros.ingest.camera_input import Arrival, CameraInput, CameraSettings
from feature_gs_ros.ros.ingest.poses import Poses
from feature_gs_ros.ros.ingest.subscriptions import subscribe
from feature_gs_ros.ros.runtime.parameter_table import PAGE
from feature_gs_ros.ros.runtime.parameters import chosen, declare, value
from feature_gs_ros.ros.runtime.qos import LATCHED, STATUS
from feature_gs_ros.ros.runtime.run import run

STATES = {Outcome.FOUND: State.FOUND, Outcome.NOT_FOUND: State.NOT_FOUND, Outcome.NOT_OBSERVED: State.NOT_OBSERVED}
PATIENCE = 1.0  # s that an image's tf is waited for; then it is shown without a pose


class NodeAsRobot:
    """What a page asks, as requests to a feature_map's services. Implements `page.live.Robot`."""

    def __init__(self, client: FeatureMapClient) -> None:
        self._client = client

    def ask(self, prompts: Sequence[str], negatives: Sequence[str], threshold: float) -> list[LiveAnswer]:
        answers = self._client.ask_all(prompts, negatives, threshold=threshold)
        return [live_answer(prompt, answer) for prompt, answer in answers.items()]

    def edit(self, operation: EditName, text: str) -> str:
        client = self._client
        jobs: dict[str, Callable[[], EditResult]] = {
            "delete": partial(client.delete, text),
            "extract": partial(client.extract, text),
            "undo": client.undo,
            "redo": client.redo,
        }
        if operation not in jobs:
            raise EditError(f"operation '{operation}' is unknown; choose {', '.join(jobs)}", code="edit.value")
        return jobs[operation]().message


class MapPage(Node):
    """Subscribes to what a feature_map publishes and to a camera, and passes it on; asks by `FeatureMapClient`."""

    def __init__(self, **options: Any) -> None:
        """
        Raises:
            OptionError: viser is missing, or the host or port can't be listened on.
            ParameterError: parameters that can't be used.
        """
        super().__init__("page", **options)
        if importlib.util.find_spec("viser") is None:
            raise OptionError(
                "the page needs viser, which is not installed: pip install 'feature_gs_ros[viewer]'",
                code="option.package",
            )
        declare(self, PAGE)
        target = self.resolve_topic_name(str(value(self, "node")))
        self._changed = threading.Condition()
        self._statistics = Statistics()
        self._stopping = False
        kind = chosen(self, "input", ("raw", "compressed"))
        chosen(self, "image_reliability", ("best_effort", "reliable"))
        settings = CameraSettings(
            "camera", value(self, "image"), value(self, "camera_info"), kind, value(self, "rectified"), "", ""
        )
        self._client = FeatureMapClient(target, name=f"{self.get_name()}_client")
        try:
            self._page = LivePage(NodeAsRobot(self._client), target, value(self, "host"), int(value(self, "port")))
        except OptionError:
            self._client.close()  # or its thread would outlive the program's end
            raise
        self._poses = Poses(self, str(value(self, "map_frame")))
        self._camera = CameraInput(self, settings, self._changed, self._statistics, self._on_jump)
        group = MutuallyExclusiveCallbackGroup()
        subscribe(self, PointCloud2, f"{target}/map_cloud", self._on_map, LATCHED, group)
        subscribe(self, Status, f"{target}/status", self._on_status, STATUS, group)
        self._worker = threading.Thread(target=self._run, name="page-images", daemon=True)
        self._worker.start()
        if not is_local(self._page.host):
            self.get_logger().warning(
                f"host {self._page.host}: anybody who reaches port {self._page.port} may edit the map"
            )
        self.get_logger().info(f"open {self._page.address} in a browser")

    def close(self) -> None:
        """End the page, the worker and the client."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._worker.join()
        self._camera.close()
        self._poses.close()
        self._page.close()
        self._client.close()

    def _on_map(self, message: Any) -> None:
        self._page.show_map(cloud_fields(message))

    def _on_status(self, message: Any) -> None:
        status = status_of(message)
        self._page.show_status(
            f"{status.frames_used} of {status.frames_seen} frames used ({status.rate_used:.1f} Hz), "
            f"{status.views} views, {status.coverage:.0%} of {status.gaussians} Gaussians observed, "
            f"extractor {status.extractor}"
        )

    def _on_jump(self, reason: str) -> None:
        self.get_logger().warning(f"{reason}: waiting images are forgotten")
        self._camera.forget()
        self._poses.clear()

    def _run(self) -> None:
        """Show the newest image that can be placed, at most so often."""
        shown = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._camera.pending, 0.5)
                if self._stopping:
                    return
                waiting = list(self._camera.pending)
            pause = shown + 1.0 / float(value(self, "image_rate")) - time.monotonic()
            if not waiting or self._sleeps(max(pause, 0.0)):
                continue
            found = self._placed(waiting)
            if found is None:
                self._sleeps(0.05)  # tf comes a little later than images
                continue
            with self._changed:  # what is older is shown no more
                while self._camera.pending and self._camera.pending[0].stamp <= found[0].stamp:
                    self._camera.pending.popleft()
            shown = time.monotonic()
            try:
                self._show(*found)
            except FeatureGsError as error:
                self.get_logger().warning(f"an image can't be shown: {error}", throttle_duration_sec=10.0)

    def _sleeps(self, seconds: float) -> bool:
        """Wait so long, or to the end of the node; whether it ends."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopping, seconds) if seconds > 0 else self._stopping

    def _placed(self, waiting: Sequence[Arrival]) -> tuple[Arrival, Any] | None:
        """The newest image whose pose is known, with it; one whose tf doesn't come, with None; or nothing yet."""
        for arrival in reversed(waiting):
            try:
                frame = arrival.message.header.frame_id
                return arrival, self._poses.camera_from_map(frame, arrival.stamp, float(value(self, "tf_max_gap")))
            except NoTransformError:
                continue
        late = waiting[0].received + PATIENCE < time.monotonic()
        return (waiting[-1], None) if late else None

    def _show(self, arrival: Arrival, camera_from_map: Any) -> None:
        """
        Raises:
            CameraError, ImageError: the image or its calibration can't be used.
        """
        camera = self._camera.camera_for(arrival.message)
        if camera is None:
            return
        image, pinhole, _ = rectified(self._camera.image(arrival.message, camera)(), camera)
        self._page.show_frame(LiveFrame(image, pinhole, camera_from_map, arrival.stamp))


def live_answer(prompt: str, answer: MapAnswer) -> LiveAnswer:
    """A feature_map's answer as a page shows it."""
    cloud = answer.cloud
    fields = [cloud[name] for name in ("x", "y", "z")] if len(cloud.get("x", ())) else []
    return LiveAnswer(
        prompt,
        STATES[answer.outcome],
        answer.message,
        answer.coverage,
        sum(answer.seconds.values()),
        np.stack(fields, axis=1) if fields else np.empty((0, 3), np.float32),
        tuple(_box(found) for found in answer.objects),
    )


def _box(found: DetectedObject) -> OrientedBox:
    return OrientedBox(found.center, np.roll(found.quat_xyzw, 1), found.size)


def main() -> None:
    """The program page."""
    run(MapPage)
