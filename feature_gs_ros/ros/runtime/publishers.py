"""The topics that feature_map publishes, from configuration to cleanup."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rclpy.time import Time
from sensor_msgs.msg import PointCloud2
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.messages.point_cloud import gaussian_cloud
from feature_gs_ros.live.live_field import LiveField
from feature_gs_ros.msg import AffordanceRegions, Status
from feature_gs_ros.ros.convert.answers import cloud_message, header_message
from feature_gs_ros.ros.ingest.camera_input import LastFrame
from feature_gs_ros.ros.runtime.qos import EVENT, LATCHED, STATUS
from feature_gs_ros.ros.runtime.sender import Sender


class Scene(Protocol):
    """Takes what was found for planners; see `CollisionScene`."""

    def update(self, session: Any, label: str, found: Any, ids: Any, points: Any) -> None: ...
    def forget(self) -> None: ...
    def close(self) -> None: ...


class Publishers:
    """Small messages go out at once, clouds by a thread of their own."""

    def __init__(self, node: Any, scene: Scene) -> None:
        self._node, self.scene = node, scene
        create = node.create_publisher
        self._map_cloud = create(PointCloud2, "~/map_cloud", LATCHED)
        self._cloud = create(PointCloud2, "~/segmented_cloud", LATCHED)
        self._camera_cloud = create(PointCloud2, "~/segmented_cloud/camera_frame", EVENT)
        self._objects = create(Detection3DArray, "~/objects", LATCHED)
        self._markers = create(MarkerArray, "~/markers", LATCHED)
        self._regions = create(AffordanceRegions, "~/affordance_regions", LATCHED)
        self._grasps = create(PoseArray, "~/grasp_candidates", LATCHED)
        self._status = create(Status, "~/status", STATUS)
        self._diagnostics = create(DiagnosticArray, "/diagnostics", STATUS)
        self._sender = Sender()
        self._lock = threading.Lock()  # of what follows
        self._last: tuple[Any, Any, Any, Any] | None = None  # cloud, camera cloud, detections, markers

    def close(self) -> None:
        """Undo what `__init__` did."""
        self._sender.stop()
        self.scene.close()
        for publisher in (
            self._map_cloud,
            self._cloud,
            self._camera_cloud,
            self._objects,
            self._markers,
            self._regions,
            self._grasps,
            self._status,
            self._diagnostics,
        ):
            self._node.destroy_publisher(publisher)

    def send_map(self, field: LiveField, frame: str) -> int:
        """The whole map in its colours, as it was edited; how many Gaussians."""
        shown = field.shown
        rows = None if shown.present is None else shown.present.nonzero()[:, 0]
        map_from_splat = field.map.splat_from_map.inverse()
        cloud = gaussian_cloud(shown.gaussians, map_from_splat, rows=rows, extra=field.cloud_fields())
        self._sender.send(self._map_cloud, cloud_message(cloud, header_message(frame, self._now())))
        return cloud.width

    def send_answer(self, session: Any, cloud: Any, camera_cloud: Any, detections: Any, markers: Any) -> None:
        """A question's outcome: its cloud, in the camera's frame too where there is one, and its objects.

        One that comes when its session was left goes to nobody but who asked.
        """
        with self._lock:
            if not session.left:
                self._last = (cloud, camera_cloud, detections, markers)
                self._send_answer(*self._last)

    def _send_answer(self, cloud: Any, camera_cloud: Any, detections: Any, markers: Any) -> None:
        self._sender.send(self._cloud, cloud)
        if camera_cloud is not None:
            self._sender.send(self._camera_cloud, camera_cloud)
        self._objects.publish(detections)
        self._markers.publish(markers)

    def send_regions(self, session: Any, regions: Any, grasps: Any) -> None:
        """What an answer about affordances is to a planner: regions, and a gripper's pose at each."""
        with self._lock:
            if not session.left:
                self._regions.publish(regions)
                self._grasps.publish(grasps)

    def repeat_answer(self) -> bool:
        """Send the last outcome again; whether there was one."""
        with self._lock:
            if self._last is not None:
                self._send_answer(*self._last)
            return self._last is not None

    def forget_answer(self) -> None:
        """The map was left: there is nothing to repeat."""
        with self._lock:
            self._last = None
        self.scene.forget()

    def send_status(self, status: Any, diagnostics: Any) -> None:
        self._status.publish(status)
        self._diagnostics.publish(diagnostics)

    def _now(self) -> Any:
        return self._node.get_clock().now().to_msg()


def camera_frame_cloud(
    gaussians: GaussianMap,
    splat_from_map: Sim3,
    last: LastFrame,
    similarity: torch.Tensor,
    rows: torch.Tensor,
    extra: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """The cloud in the frame of a camera's last image, from whose origin octomap's updaters cast their rays."""
    camera_from_splat = Sim3.from_matrix(last.camera_from_map) @ splat_from_map.inverse()
    cloud = gaussian_cloud(gaussians, camera_from_splat, similarity, rows, extra)
    return cloud_message(cloud, header_message(last.frame_id, Time(nanoseconds=last.stamp).to_msg()))
