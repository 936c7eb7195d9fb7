"""Messages as plain objects: strings, numbers and numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.io.messages.buffers import byte_array
from feature_gs_ros.msg import Answer

Array = NDArray[np.float64]
TYPES = {"32FC1": np.float32, "mono8": np.uint8, "rgb8": np.uint8}  # of a rendered image's values


class Outcome(Enum):
    """What became of a question that could be answered."""

    FOUND = "found"
    NOT_FOUND = "not found"
    NOT_OBSERVED = "not observed"


OUTCOMES = {
    Answer.FOUND: Outcome.FOUND,
    Answer.NOT_FOUND: Outcome.NOT_FOUND,
    Answer.NOT_OBSERVED: Outcome.NOT_OBSERVED,
}


@dataclass(frozen=True, eq=False)
class DetectedObject:
    """An oriented box in the map frame: ``x_map = R(quat_xyzw) · x_box + center``, |x_box| ≤ size / 2."""

    id: str  # stays the same over answers while the object does
    label: str
    score: float  # 0..1
    center: Array  # [3] m
    quat_xyzw: Array  # [4] unit
    size: Array  # [3] m
    covariance: Array  # [3, 3] m², the spread of its Gaussians


@dataclass(frozen=True, eq=False)
class GraspRegion:
    """A part that affords something, in the map frame; see AffordanceRegion.msg."""

    id: str
    affordance: str
    center: Array  # [3] m
    quat_xyzw: Array  # [4] map from region: x along the longest principal axis, z outward
    size: Array  # [3] m
    centroid: Array  # [3] m
    approach: Array  # [3] unit, the way a gripper comes
    gripper_width: float  # m
    similarity: float  # 0..1
    coverage: float  # 0..1


@dataclass(frozen=True, eq=False)
class MapAnswer:
    """What became of a question."""

    outcome: Outcome
    message: str  # for a person
    frame_id: str  # of all that is in it
    coverage: float  # 0..1
    views: int
    seconds: Mapping[str, float]  # by step
    objects: tuple[DetectedObject, ...] = ()  # largest first
    regions: tuple[GraspRegion, ...] = ()  # largest first
    cloud: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # [M] by field: x, y, z [m], similarity, …
    points: Array = field(default_factory=lambda: np.empty((0, 3)))  # [K, 3] m: where clicks lie, NaN where on nothing
    rival: str = ""  # where it is not found: the word that is likelier in its place, if one is known
    extent: str = "part"  # "object" where what passes was grown to whole objects
    looks: int = 0  # kept images that took a second look
    looks_agreeing: int = 0  # of these, in how many it is likely enough
    warnings: tuple[str, ...] = ()  # what is doubtful about the poses that the views were taken from

    def __bool__(self) -> bool:
        """Whether it was found."""
        return self.outcome is Outcome.FOUND


@dataclass(frozen=True)
class EditResult:
    """What an edit did."""

    message: str  # for a person
    gaussians: int  # selected
    undo: str  # what an undo would take back now; empty: nothing


@dataclass(frozen=True, eq=False)
class FoundAlignment:
    """``x_splat = scale · R(quat_xyzw) · x_map + translation``, as images say, and how good it is."""

    scale: float  # splat units per metre
    quat_xyzw: Array  # [4] unit
    translation: Array  # [3] splat units
    message: str  # for a person
    scale_sigma: float  # one standard deviation, relative
    rotation_sigma: float  # one standard deviation, degrees
    rms_position: float  # m, of the images' own poses from theirs by this alignment
    rms_rotation: float  # degrees, the same
    rms_pixels: float  # of matched points
    views: int  # images that it rests on
    outliers: tuple[str, ...]  # names of images that contradict it
    moved: float  # m at the cameras, from the node's own alignment
    turned: float  # degrees, the same


@dataclass(frozen=True)
class NodeStatus:
    """What the node has taken in since it was activated."""

    frames_seen: int
    frames_used: int
    frames_skipped: Mapping[str, int]  # by reason
    rate_used: float  # Hz
    latency: float  # s
    gaussians: int
    views: int
    coverage: float  # 0..1
    extractor: str


def answer_of(response: Any) -> MapAnswer:
    """A response of the services that ask, whatever they return beside the answer."""
    answer = response.answer
    cloud, detections = getattr(response, "cloud", None), getattr(response, "detections", None)
    points = [(point.x, point.y, point.z) for point in getattr(response, "points", ())]
    return MapAnswer(
        OUTCOMES[answer.state],
        answer.message,
        "" if cloud is None else cloud.header.frame_id,
        answer.coverage,
        answer.views,
        {step.step: step.seconds for step in answer.timing},
        () if detections is None else tuple(_object(detection) for detection in detections.detections),
        tuple(_region(region) for region in getattr(response, "regions", ())),
        {} if cloud is None else cloud_fields(cloud),
        np.array(points, dtype=np.float64).reshape(-1, 3),
        answer.rival,
        answer.extent,
        answer.looks,
        answer.looks_agreeing,
        tuple(answer.warnings),
    )


def alignment_of(result: Any) -> FoundAlignment:
    """A result of the action align that succeeded."""
    turn = result.splat_from_map.rotation
    return FoundAlignment(
        result.scale,
        np.array([turn.x, turn.y, turn.z, turn.w]),
        _xyz(result.splat_from_map.translation),
        result.message,
        result.scale_sigma,
        result.rotation_sigma,
        result.rms_position,
        result.rms_rotation,
        result.rms_pixels,
        int(result.views),
        tuple(result.outliers),
        result.moved,
        result.turned,
    )


def status_of(message: Any) -> NodeStatus:
    """A Status message."""
    return NodeStatus(
        message.frames_seen,
        message.frames_used,
        {count.reason: count.count for count in message.frames_skipped},
        message.rate_used,
        message.latency,
        message.gaussians,
        message.views,
        message.coverage,
        message.extractor.name,
    )


def cloud_fields(cloud: Any) -> dict[str, NDArray[np.float32]]:
    """The FLOAT32 fields [M] of a PointCloud2 of feature_map, by name."""
    if cloud.width == 0:
        return {entry.name: np.empty(0, np.float32) for entry in cloud.fields}
    rows = byte_array(cloud.data, "the cloud").reshape(cloud.width, cloud.point_step)
    values = np.ascontiguousarray(rows).view("<f4")
    return {entry.name: values[:, entry.offset // 4].copy() for entry in cloud.fields}


def pixels_of(image: Any) -> NDArray[Any]:
    """A rendered image: [H, W, 3] uint8 of colours, [H, W] uint8 of a mask, [H, W] float32 of depth or similarity."""
    values: NDArray[Any] = byte_array(image.data, "the image").view(TYPES[image.encoding])
    values = values.reshape(image.height, image.width, -1)
    pixels: NDArray[Any] = values if image.encoding == "rgb8" else values[:, :, 0]
    copied: NDArray[Any] = pixels.copy()
    return copied


def _object(detection: Any) -> DetectedObject:
    center, quat = _pose(detection.bbox.center)
    hypothesis = detection.results[0]
    covariance = np.array(hypothesis.pose.covariance).reshape(6, 6)[:3, :3]
    label, score = hypothesis.hypothesis.class_id, hypothesis.hypothesis.score
    return DetectedObject(detection.id, label, score, center, quat, _xyz(detection.bbox.size), covariance)


def _region(region: Any) -> GraspRegion:
    return GraspRegion(
        region.id,
        region.affordance,
        *_pose(region.pose),
        _xyz(region.size),
        _xyz(region.centroid),
        _xyz(region.approach),
        region.gripper_width,
        region.similarity,
        region.coverage,
    )


def _pose(pose: Any) -> tuple[Array, Array]:
    turn = pose.orientation
    return _xyz(pose.position), np.array([turn.x, turn.y, turn.z, turn.w])


def _xyz(vector: Any) -> Array:
    return np.array([vector.x, vector.y, vector.z])
