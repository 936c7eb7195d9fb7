"""Answers as messages: states, clouds, oriented boxes, markers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import Marker, MarkerArray

from feature_gs_ros.core.errors import StoppedError
from feature_gs_ros.identity.answers import IdentifiedObject
from feature_gs_ros.io.messages.point_cloud import FIELD_BYTES, CloudBytes
from feature_gs_ros.msg import Answer, StepTime
from feature_gs_ros.pictures import LABEL_COLORS
from feature_gs_ros.query.masks_3d import Answer as FoundAnswer
from feature_gs_ros.query.masks_3d import State
from feature_gs_ros.query.objects import FoundObject, OrientedBox

STATES = {State.FOUND: Answer.FOUND, State.NOT_FOUND: Answer.NOT_FOUND, State.NOT_OBSERVED: Answer.NOT_OBSERVED}
LABEL_HEIGHT = 0.03  # m of a marker's text
ARROW_WIDTH = 0.008  # m of a marker's shaft


Progress = Callable[[str, float], bool]  # gets a step's name and the fraction done; True: stop


def unwatched(step: str, fraction: float) -> bool:  # noqa: ARG001
    """The progress of what nobody watches, or stops."""
    return False


class StepTimes:
    """How long each step of an answer takes; ``progress`` hears of each as it begins, and may stop it."""

    def __init__(self, progress: Progress = unwatched) -> None:
        self.messages: list[Any] = []
        self._progress = progress

    @contextmanager
    def step(self, name: str, *, may_stop: bool = True) -> Iterator[None]:
        """Time the block.

        Raises:
            StoppedError: before it begins; where it must be done once begun, ``may_stop`` is false.
        """
        if self._progress(name, 0.0) and may_stop:
            raise StoppedError(f"stopped before the step '{name}'")
        start = time.perf_counter()
        try:
            yield
        finally:
            self.messages.append(StepTime(step=name, seconds=time.perf_counter() - start))

    def split(self, name: str, seconds: float) -> None:
        """Tell a part of the last step as a step of its own, where it took any time."""
        if seconds > 0:
            self.messages[-1].seconds = max(0.0, self.messages[-1].seconds - seconds)
            self.messages.append(StepTime(step=name, seconds=seconds))


def fill_answer(message: Any, found: FoundAnswer, views: int, warnings: Sequence[str]) -> None:
    """What a question to the map was answered; how long it took is the caller's to add."""
    message.state, message.message, message.coverage = STATES[found.state], found.message, found.coverage
    message.views, message.warnings, message.rival = views, list(warnings), found.rival
    grown = found.selected is not None and bool((found.mask & ~found.selected).any())
    message.extent = "object" if grown else "part"
    message.looks = sum(len(look.looks) for look in found.second_looks)
    message.looks_agreeing = sum(look.agreeing for look in found.second_looks)


def cloud_message(cloud: CloudBytes, header: Any) -> Any:
    """A PointCloud2 of one row, all fields FLOAT32."""
    message = PointCloud2(header=header, height=1, width=cloud.width, is_bigendian=False, is_dense=True)
    message.fields = [
        PointField(name=name, offset=FIELD_BYTES * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate(cloud.fields)
    ]
    message.point_step = cloud.point_step
    message.row_step = cloud.point_step * cloud.width
    message.data = cloud.data  # by the property: an array passes without a copy, bytes would be taken one by one
    return message


def detections_message(
    found: Sequence[FoundObject], label: str, ids: Sequence[str], spreads: Sequence[NDArray[np.float64]], header: Any
) -> Any:
    """Oriented boxes with scores, an id each, and the covariance [3, 3] of their position in m²."""
    message = Detection3DArray(header=header)
    for entry, identifier, covariance in zip(found, ids, spreads, strict=True):
        detection = detection_message(pose_of(entry.box), entry.box.size, label, entry.score, identifier, header)
        whole = np.zeros((6, 6))
        whole[:3, :3] = covariance
        detection.results[0].pose.covariance = whole.ravel().tolist()
        message.detections.append(detection)
    return message


def identities_message(objects: Sequence[IdentifiedObject], header: Any) -> Any:
    """Annotated objects: their ids, names, confidences and extents. One of which too little was seen has no box."""
    message = Detection3DArray(header=header)
    message.detections = [
        detection_message(pose_of(entry.box), entry.box.size, entry.name, entry.confidence, str(entry.value), header)
        for entry in objects
        if entry.box is not None
    ]
    return message


def detection_message(
    pose: Any, size: NDArray[np.float64], label: str, score: float, identifier: str, header: Any
) -> Any:
    """One box of a ``size`` [3] m, with what it is and how surely."""
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = label, score
    hypothesis.pose.pose = pose
    box = BoundingBox3D(center=pose, size=vector_message(size))
    return Detection3D(header=header, results=[hypothesis], bbox=box, id=identifier)


def markers_message(detections: Any, arrows: Sequence[tuple[Any, Any]] = ()) -> Any:
    """Boxes with their labels for RViz, and arrows from and to points; the first marker clears the last answer's."""
    header = detections.header
    markers = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    for index, detection in enumerate(detections.detections):
        color = [float(c) / 255 for c in LABEL_COLORS[index % len(LABEL_COLORS)]]
        box = Marker(header=header, ns="boxes", id=index, type=Marker.CUBE, action=Marker.ADD)
        box.pose, box.scale, box.color = detection.bbox.center, detection.bbox.size, ColorRGBA(**_rgba(color, 0.35))
        text = Marker(header=header, ns="labels", id=index, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
        hypothesis = detection.results[0].hypothesis
        text.text = f"{hypothesis.class_id} {hypothesis.score:.2f}"
        text.scale.z, text.color = LABEL_HEIGHT, ColorRGBA(**_rgba([1.0, 1.0, 1.0], 1.0))
        position = detection.bbox.center.position
        text.pose.position = Point(x=position.x, y=position.y, z=position.z + detection.bbox.size.z / 2 + LABEL_HEIGHT)
        markers.markers += [box, text]
    for index, ends in enumerate(arrows):
        arrow = Marker(header=header, ns="approaches", id=index, type=Marker.ARROW, action=Marker.ADD)
        arrow.points, arrow.color = list(ends), ColorRGBA(**_rgba([1.0, 1.0, 1.0], 0.9))
        arrow.scale = Vector3(x=ARROW_WIDTH, y=2 * ARROW_WIDTH, z=0.0)
        markers.markers.append(arrow)
    return markers


def pose_message(xyz: NDArray[np.float64], quat_wxyz: NDArray[np.float64]) -> Any:
    """A position [3] and an orientation [4]."""
    w, x, y, z = (float(v) for v in quat_wxyz)
    return Pose(position=point_message(xyz), orientation=Quaternion(x=x, y=y, z=z, w=w))


def point_message(xyz: NDArray[np.float64]) -> Any:
    """A point [3]."""
    return Point(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))


def vector_message(xyz: NDArray[np.float64]) -> Any:
    """A vector [3]."""
    return Vector3(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))


def header_message(frame: str, stamp: Any) -> Any:
    """A header."""
    return Header(frame_id=frame, stamp=stamp)


def pose_of(box: OrientedBox) -> Any:
    """A box's middle and axes."""
    return pose_message(box.center, box.quat_wxyz)


def _rgba(rgb: Sequence[float], alpha: float) -> dict[str, float]:
    return dict(zip("rgba", (*rgb, alpha), strict=True))
