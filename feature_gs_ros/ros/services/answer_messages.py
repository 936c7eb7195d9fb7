"""What a question selects: published on the topics, and returned in its response."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from feature_gs_ros.io.messages.point_cloud import gaussian_cloud
from feature_gs_ros.live.object_ids import position_covariance
from feature_gs_ros.live.shown_map import ShownMap
from feature_gs_ros.query.objects import find_objects
from feature_gs_ros.ros.convert.answers import (
    StepTimes,
    cloud_message,
    detections_message,
    header_message,
    markers_message,
)
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.parameters import value
from feature_gs_ros.ros.runtime.publishers import Publishers, camera_frame_cloud


class AnswerMessages:
    """Gathers one answer; `publish` sends it."""

    def __init__(self, node: Any, publishers: Publishers, session: Session, shown: ShownMap, times: StepTimes) -> None:
        self._node, self._publishers, self._session = node, publishers, session
        self.shown, self.times = shown, times
        self.header = header_message(session.settings.map_frame, node.get_clock().now().to_msg())
        self.map_from_splat = session.field.map.splat_from_map.inverse()

    @property
    def radius(self) -> float | None:
        """Metres within which Gaussians are one object; None: by the map's density."""
        return float(value(self._node, "objects.reach")) or None

    def most(self, requested: int) -> int:
        """How many objects the answer may hold."""
        return requested or int(value(self._node, "objects.max_count"))

    def objects(self, label: str, mask: Tensor, similarity: Tensor, requested: int) -> Any:
        """Clusters of the Gaussians in a mask [N] as detections, whose ids stay with them; the largest first."""
        gaussians = self.shown.gaussians
        found = find_objects(gaussians, mask, similarity, self.map_from_splat, self.radius, self.most(requested))
        ids = self._session.object_ids.match([entry.rows for entry in found], [label] * len(found))
        self._publishers.scene.update(
            self._session, label, found, ids, lambda rows: self.map_from_splat.apply(gaussians.means[rows].numpy())
        )
        covariances = [position_covariance(gaussians, entry.rows, self.map_from_splat) for entry in found]
        return detections_message(found, label, ids, covariances, self.header)

    def cloud(self, rows: Tensor, similarity: Tensor, extra: Mapping[str, Tensor]) -> Any:
        """Some rows [M] of the map, with similarities [N] and further fields [N]."""
        points = gaussian_cloud(self.shown.gaussians, self.map_from_splat, similarity, rows, extra)
        return cloud_message(points, self.header)

    def publish(
        self,
        rows: Tensor,  # [M] int64 of the map
        similarity: Tensor,  # [N]
        detections: Callable[[], Any],
        extra: Mapping[str, Tensor],  # further fields of the cloud, [N] each
        arrows: Sequence[tuple[Any, Any]] = (),
    ) -> tuple[Any, Any]:
        """Cloud and detections as messages, and both on their topics."""
        session = self._session
        with self.times.step("objects"):
            found = detections()
        with self.times.step("cloud"):
            cloud = self.cloud(rows, similarity, extra)
            last = next((camera.last for camera in session.worker.cameras if camera.last is not None), None)
            seen_from = None
            if last is not None:
                splat_from_map = session.field.map.splat_from_map
                seen_from = camera_frame_cloud(self.shown.gaussians, splat_from_map, last, similarity, rows, extra)
        with self.times.step("publish"):
            self._publishers.send_answer(session, cloud, seen_from, found, markers_message(found, arrows))
        return cloud, found
