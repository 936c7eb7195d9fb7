"""CameraInput: one camera's images or grids, their calibration and masks, queued until they can be used."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from feature_gs_ros.core.camera import Camera, rectified
from feature_gs_ros.core.camera import Image as RgbImage
from feature_gs_ros.core.errors import CameraError, ImageError, ParameterError
from feature_gs_ros.io.images import load_image
from feature_gs_ros.io.messages.camera_info import camera_from_info
from feature_gs_ros.io.messages.image import decode_image, image_dimensions, image_kind
from feature_gs_ros.io.messages.transform import stamp_ns
from feature_gs_ros.live.keyframes import JUMP_NS
from feature_gs_ros.live.statistics import Statistics
from feature_gs_ros.msg import FeatureGrid
from feature_gs_ros.ros.ingest.subscriptions import subscribe, subscribe_counting
from feature_gs_ros.ros.runtime.parameters import chosen, value
from feature_gs_ros.ros.runtime.qos import LATCHED, image_qos

try:
    from vision_msgs.msg import LabelInfo
except ImportError:  # older than 4.1
    LabelInfo = None

MESSAGES = {"raw": Image, "compressed": CompressedImage, "grid": FeatureGrid}
MASKS_KEPT = 60

Mask = NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True)
class CameraSettings:
    """The parameters of one camera."""

    name: str
    image: str
    camera_info: str
    kind: str  # a key of MESSAGES
    is_rectified: bool
    mask_image: str
    mask_topic: str
    labels_topic: str = ""
    labels_info: str = ""
    labels_detections: str = ""

    @staticmethod
    def read(node: Any, name: str) -> CameraSettings:
        """Read and check.

        Raises:
            ParameterError: a topic without a name, an unknown kind of input.
        """
        settings = CameraSettings(
            name,
            value(node, f"{name}.image"),
            value(node, f"{name}.camera_info"),
            chosen(node, f"{name}.input", list(MESSAGES)),
            value(node, f"{name}.rectified"),
            value(node, f"{name}.mask_image"),
            value(node, f"{name}.mask_topic"),
            value(node, f"{name}.labels_topic"),
            value(node, f"{name}.labels_info"),
            value(node, f"{name}.labels_detections"),
        )
        if not settings.image or not settings.camera_info:
            raise ParameterError(
                f"parameters {name}.image and {name}.camera_info must name topics", code="parameter.missing"
            )
        if settings.mask_image and not Path(settings.mask_image).expanduser().is_file():
            raise ParameterError(
                f"parameter {name}.mask_image: there is no file '{settings.mask_image}'", code="parameter.unreadable"
            )
        settings.check_labels()
        return settings

    def check_labels(self) -> None:
        """
        Raises:
            ParameterError: names without labels, two sources of names, labels of grids, or no LabelInfo in this ROS.
        """
        if (self.labels_info or self.labels_detections) and not self.labels_topic:
            raise ParameterError(
                f"parameters {self.name}.labels_info and .labels_detections name the labels of "
                f"{self.name}.labels_topic, which is empty",
                code="parameter.missing",
            )
        if self.labels_info and self.labels_detections:
            raise ParameterError(
                f"parameters {self.name}.labels_info and .labels_detections are both given; leave one out",
                code="parameter.conflict",
            )
        if self.labels_topic and self.kind == "grid":
            raise ParameterError(
                f"parameter {self.name}.labels_topic: {self.name}.input is grid, which has features of its own",
                code="parameter.conflict",
            )
        if self.labels_info and LabelInfo is None:
            raise ParameterError(
                f"parameter {self.name}.labels_info: this ROS' vision_msgs has no LabelInfo; use "
                f"{self.name}.labels_detections, or vision_msgs 4.1",
                code="parameter.unsupported",
            )


class Arrival(NamedTuple):
    """A message that waits."""

    message: Any
    stamp: int  # ns
    received: float  # s, monotonic


class LabelMessages(NamedTuple):
    """What a detector says of an image."""

    labels: Any
    names: Any  # LabelInfo or Detection2DArray; None where the values are the classes'


@dataclass
class LastFrame:
    """Of the frame that was used last: for questions about "the camera" without a stamp."""

    name: str
    stamp: int  # ns
    frame_id: str
    lens: Camera  # as the image came, with its distortion
    camera_from_map: NDArray[np.float64] = field(repr=False)  # [4, 4]
    image: RgbImage | None = field(repr=False)  # rectified; None where grids come
    counts: Mask | None = field(repr=False)  # pixels of it that count, all where None


class CameraInput:
    """Callbacks only store what comes; the worker asks for it. Shared state is guarded by ``changed``."""

    def __init__(
        self,
        node: Any,
        settings: CameraSettings,
        changed: threading.Condition,
        statistics: Statistics,
        on_jump: Callable[[str], None],
    ) -> None:
        """Subscribe.

        Raises:
            ImageError: the mask image can't be read.
        """
        self.settings = settings
        self.pending: deque[Arrival] = deque()
        self.last: LastFrame | None = None
        self.frame_id = ""
        self._node, self._changed, self._statistics, self._on_jump = node, changed, statistics, on_jump
        self._limit = int(value(node, "queue_size"))
        self._last_stamp = 0
        self._info: Any = None
        self._size: tuple[int, int] | None = None  # of the last image: (width, height)
        self._cameras: dict[tuple[int, int], Camera] = {}  # of this info, by the image's size
        self._masks: OrderedDict[int, Any] = OrderedDict()  # messages by stamp
        self._labels: OrderedDict[int, Any] = OrderedDict()  # likewise
        self._detections: OrderedDict[int, Any] = OrderedDict()
        self._label_info: Any = None
        path = settings.mask_image
        self._static_mask = load_image(Path(path).expanduser()).any(axis=2) if path else None
        self._subscriptions = self._subscribe()

    def close(self) -> None:
        """Undo the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    @property
    def has_info(self) -> bool:
        """Whether a camera_info has come."""
        return self._info is not None

    def forget(self) -> int:
        """Drop what waits, after a time jump; how many frames those were."""
        with self._changed:
            count = len(self.pending)
            self.pending.clear()
            self._masks.clear()
            self._labels.clear()
            self._detections.clear()
            self._last_stamp = 0
        return count

    def camera_for(self, message: Any) -> Camera | None:
        """The camera of an image or grid, None while there is no camera_info.

        Raises:
            CameraError: the camera_info can't be used, or is of another size.
            ImageError: the image is damaged, or of an encoding that is not an image.
        """
        if self.settings.kind == "grid":
            size = int(message.width), int(message.height)
        else:
            image_kind(message)
            size = image_dimensions(message, self.settings.image)
        self._size = size
        return self._camera_of_size(size)

    def camera(self) -> Camera | None:
        """The camera as its last image was, which may be smaller than camera_info says; None while there is no info.

        Raises:
            CameraError: the camera_info can't be used, or is of another size.
        """
        return self._camera_of_size(self._size)

    def _camera_of_size(self, size: tuple[int, int] | None) -> Camera | None:
        """The camera of images of a (width, height); None: of the camera_info's own."""
        info, cameras = self._info, self._cameras
        if info is None:
            return None
        size = size or (int(info.width), int(info.height))
        if size not in cameras:
            if len(cameras) > 8:
                cameras.clear()
            cameras[size] = camera_from_info(info, *size, is_rectified=self.settings.is_rectified)
        return cameras[size]

    def image(self, message: Any, camera: Camera) -> Callable[[], Any]:
        """What decodes an image message."""
        return partial(decode_image, message, self.settings.image, camera)

    def mask_near(self, stamp: int, tolerance: float, patient: bool) -> Any:
        """The mask message nearest to a stamp, within ``tolerance`` seconds; None where there is none yet.

        Where all that came are earlier a nearer one may still come: who is ``patient`` gets None then, too.
        """
        if not self._masks or (patient and max(self._masks) < stamp):
            return None
        nearest = min(self._masks, key=lambda other: abs(other - stamp))
        return self._masks[nearest] if abs(nearest - stamp) <= tolerance * 1e9 else None

    def labels_at(self, stamp: int) -> LabelMessages | str:
        """The label image of a stamp and what names its values, or what is missing yet."""
        settings = self.settings
        if stamp not in self._labels:
            return f"no labels on '{settings.labels_topic}'"
        if settings.labels_info and self._label_info is None:
            return f"no LabelInfo on '{settings.labels_info}'"
        if settings.labels_detections and stamp not in self._detections:
            return f"no detections on '{settings.labels_detections}'"
        names = self._label_info if settings.labels_info else self._detections.get(stamp)
        return LabelMessages(self._labels[stamp], names)

    def ignored(self, camera: Camera, message: Any) -> Mask | None:
        """True where pixels of the rectified image don't count, by the static mask and a mask message.

        Raises:
            ImageError: a mask can't be decoded, or is of another size than the image.
        """
        masks = [] if self._static_mask is None else [self._static_mask]
        if message is not None:
            masks.append(decode_image(message, self.settings.mask_topic).any(axis=2))
        ignored: Mask | None = None
        for mask in masks:
            if mask.shape != (camera.height, camera.width):
                raise ImageError(
                    f"mask is {mask.shape[1]}×{mask.shape[0]} pixels, the image {camera.width}×{camera.height}",
                    code="image.size",
                )
            straight = rectified(mask.astype(np.uint8) * 255, camera)[0] > 0
            ignored = straight if ignored is None else ignored | straight
        return ignored

    def _subscribe(self) -> list[Any]:
        node, settings = self._node, self.settings
        group = MutuallyExclusiveCallbackGroup()
        quality = image_qos(str(value(node, "image_reliability")), self._limit)
        topic = node.resolve_topic_name(settings.image)
        if settings.kind == "compressed" and not topic.endswith("/compressed"):
            topic += "/compressed"
        kind = MESSAGES[settings.kind]
        of_frames = image_qos("reliable", self._limit) if settings.kind == "grid" else quality
        found = [
            subscribe_counting(node, kind, topic, self._on_frame, of_frames, group, self._on_lost),
            subscribe(node, CameraInfo, settings.camera_info, self._on_info, quality, group),
        ]
        if settings.mask_topic:
            found.append(subscribe(node, Image, settings.mask_topic, self._on_mask, quality, group))
        if settings.labels_topic:
            on_labels = partial(self._keep_by_stamp, self._labels)
            found.append(subscribe(node, Image, settings.labels_topic, on_labels, quality, group))
        if settings.labels_info:
            found.append(subscribe(node, LabelInfo, settings.labels_info, self._on_label_info, LATCHED, group))
        if settings.labels_detections:
            on_detections = partial(self._keep_by_stamp, self._detections)
            found.append(subscribe(node, Detection2DArray, settings.labels_detections, on_detections, quality, group))
        return found

    def _on_frame(self, message: Any) -> None:
        self._statistics.see()
        stamp = stamp_ns(message.header.stamp)
        if stamp <= 0:
            self._statistics.skip("image without a stamp")
            return
        if self._last_stamp - stamp > JUMP_NS:
            self._on_jump(f"stamps of '{self.settings.image}' went back")
        with self._changed:
            self._last_stamp = stamp
            self.frame_id = message.header.frame_id
            if len(self.pending) >= self._limit:
                self.pending.popleft()
                self._statistics.skip("queue was full: the oldest frame was dropped")
            self.pending.append(Arrival(message, stamp, time.monotonic()))
            self._changed.notify()

    def _on_info(self, message: Any) -> None:
        if _same_calibration(self._info, message):
            return
        with self._changed:
            self._info, self._cameras = message, {}
            self._changed.notify()
        try:
            self._camera_of_size(None)
        except CameraError as error:
            self._statistics.refuse()
            self._node.get_logger().warning(f"'{self.settings.camera_info}': {error}", throttle_duration_sec=10.0)

    def _on_mask(self, message: Any) -> None:
        self._keep_by_stamp(self._masks, message)

    def _keep_by_stamp(self, kept: OrderedDict[int, Any], message: Any) -> None:
        with self._changed:
            kept[stamp_ns(message.header.stamp)] = message
            while len(kept) > MASKS_KEPT:
                kept.popitem(last=False)
            self._changed.notify()

    def _on_label_info(self, message: Any) -> None:
        with self._changed:
            self._label_info = message
            self._changed.notify()

    def _on_lost(self, count: int) -> None:
        """Images that the middleware lost never reached a callback; they are counted all the same."""
        self._statistics.see(count)
        self._statistics.skip("lost on the network", count)


def _same_calibration(one: Any, other: Any) -> bool:
    def same(name: str) -> bool:
        return bool(np.array_equal(getattr(one, name), getattr(other, name)))

    names = ("d", "k", "p", "width", "height", "distortion_model", "binning_x", "binning_y")
    return one is not None and one.roi == other.roi and all(same(name) for name in names)
