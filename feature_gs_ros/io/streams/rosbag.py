"""A recording (of ROS 2 or 1, or Foxglove's) as a stream: images, their camera_info, and tf at their stamps."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Frame, check_pose
from feature_gs_ros.core.errors import CameraError, ImageError, NoTransformError, StreamError
from feature_gs_ros.io.messages.camera_info import Calibration, CameraInfo, camera_from_info, load_calibration
from feature_gs_ros.io.messages.image import brightest_of_16_bits, decode_image, image_dimensions, image_kind
from feature_gs_ros.io.messages.transform import pose_from_transform, stamp_ns
from feature_gs_ros.io.streams.bit_depth import bits_of_stream
from feature_gs_ros.io.streams.frame_names import check_names, check_not_empty
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.rosbag_file import TF, Bag
from feature_gs_ros.io.streams.rosbag_topics import CameraTopic, choose_cameras
from feature_gs_ros.io.streams.static_transforms import load_static_transforms
from feature_gs_ros.io.streams.tf_tree import TfTree

log = logging.getLogger(__name__)
_LOOKED_AT = 8  # images of a topic of 16 bits, for how many of them are in use
_BAD_TRANSFORM = "transform with NaN, Inf or a zero quaternion in tf"


class RosbagStream:
    """Frames of a bag in the order of recording; poses are those of the images' own frame_id in `map_frame`.

    A frame is named by its header's stamp in nanoseconds; where several cameras are read, by the stamp and
    the camera's namespace (``1700000000000000000_stereo_left``). A frame holds the recorded bytes of its
    image, so keep no more frames than you need. tf and camera_info are read first and kept.

    Left out and counted in `skipped` (as of the last whole pass): images without tf on both sides of their
    stamp, without a calibration that fits, of an unknown encoding, with a stamp that was there before; and
    transforms that aren't finite.

    Raises:
        StreamError: a damaged bag, no image topic that can be used, no tf, a map frame that tf doesn't have.
        CameraError: the calibration file can't be read.
    """

    def __init__(self, path: str | Path, options: BagOptions | None = None) -> None:
        self.source = str(path)
        self.options = options or BagOptions()
        self._bag = Bag(path)
        cameras, self.ignored_topics = choose_cameras(self._bag, self.options)
        self._cameras = {camera.image: camera for camera in cameras}
        self._frame_ids: dict[str, str] = {}  # of the images, by topic
        self._bad_transforms = 0
        self._tf = TfTree()
        self._hint = ""  # what the recording lacks for poses
        self._calibrations = {camera.camera_info: _Calibrations() for camera in cameras}
        self._read_tf_and_camera_info()
        self._bits = {topic: self._bits_in_use(topic) for topic in self._cameras}
        self._names: list[str] | None = None
        self.skipped: Counter[str] = self._new_counter()

    def names(self) -> list[str]:
        """Names of all posed frames, in order; the first call reads through the images without decoding them.

        Raises:
            StreamError: a damaged bag, or not a single posed frame.
        """
        if self._names is None:
            for _ in self._whole_pass():
                pass
        return list(self._names or ())

    def frames(self, names: Collection[str] | None = None) -> Iterator[Frame]:
        """All frames, or the named ones, in the order of recording.

        Raises:
            StreamError: a name that the stream doesn't have; while reading: a damaged bag, or not a single
                posed frame.
        """
        if names is None:
            return self._whole_pass()
        check_names(names, self.names(), self.source)
        return self._some(set(names))

    def camera_from_map(self, frame: Frame, stamp_ns: int) -> NDArray[np.float64]:
        """Where tf has a frame's camera at another stamp [4, 4].

        Raises:
            NoTransformError: tf has no transform then.
        """
        return self._tf.lookup(self._frame_ids[frame.source], self.options.map_frame, stamp_ns)

    def tf_gap(self, frame: Frame) -> float:
        """Seconds between the tf samples that a frame's pose is interpolated from; 0 where there is one at its stamp.

        Raises:
            NoTransformError: tf has no transform then.
        """
        assert frame.stamp_ns is not None
        return self._tf.gap(self._frame_ids[frame.source], self.options.map_frame, frame.stamp_ns) * 1e-9

    def _whole_pass(self) -> Iterator[Frame]:
        names: list[str] = []
        self.skipped = self._new_counter()
        for frame in self._posed(self.skipped):
            names.append(frame.name)
            yield frame
        check_not_empty(len(names), self.skipped, self.source, self._hint)
        self._names = names

    def _some(self, wanted: set[str]) -> Iterator[Frame]:
        for frame in self._posed(Counter()) if wanted else ():
            if frame.name in wanted:
                wanted.remove(frame.name)
                yield frame
            if not wanted:
                return

    def _posed(self, skipped: Counter[str]) -> Iterator[Frame]:
        seen: set[str] = set()
        for topic, message in self._bag.messages(self._cameras):
            frame, reason = self._frame(self._cameras[topic], message)
            if frame is not None and frame.name in seen:
                frame, reason = None, "stamp was there before"
            if frame is None:
                skipped[reason] += 1
            else:
                seen.add(frame.name)
                yield frame

    def _frame(self, topic: CameraTopic, message: Any) -> tuple[Frame | None, str]:
        """The frame, or why there is none."""
        if message is None:
            return None, "message is damaged"
        stamp = stamp_ns(message.header.stamp)
        source = f"{topic.image} at {stamp}"
        try:
            image_kind(message)
        except ImageError as error:
            return None, str(error)
        try:
            size = image_dimensions(message, source)
        except ImageError:
            return None, "image is damaged"
        try:
            camera = self._calibrations[topic.camera_info].camera(stamp, size, topic.is_rectified)
            frame_id = self._frame_ids[topic.image] = message.header.frame_id
            pose = check_pose(self._tf.lookup(frame_id, self.options.map_frame, stamp), f"'{frame_id}' in tf")
        except (CameraError, NoTransformError) as error:
            return None, str(error)
        load = partial(decode_image, message, source, camera, self._bits[topic.image])
        name = f"{stamp}_{topic.name}" if topic.name else str(stamp)
        return Frame(name, camera, pose, load, stamp, topic.image), ""

    def _bits_in_use(self, topic: str) -> int:
        """How many of 16 bits a topic's images use, by the brightest value of a few over the whole recording."""
        brightest = 0
        for message in self._bag.spread_messages(topic, _LOOKED_AT):
            try:
                here = None if message is None else brightest_of_16_bits(message, topic)
            except ImageError:
                continue
            if here is None and message is not None:
                return 16
            brightest = max(brightest, here or 0)
        return bits_of_stream(brightest, topic)

    def _read_tf_and_camera_info(self) -> None:
        tf_topics = self._bag.names(TF)
        usual = [topic for topic in tf_topics if topic in ("/tf", "/tf_static")]
        if usual and not self._bag.is_foxglove:  # else a robot's own namespace, or Foxglove's, which names none
            tf_topics = usual
        if self.options.camera_info_file is not None:
            self._calibrations[""].add(0, load_calibration(self.options.camera_info_file))
        for topic, message in self._bag.messages([*tf_topics, *self._calibrations]):
            if message is None:
                continue
            if topic in self._calibrations:
                self._calibrations[topic].add(stamp_ns(message.header.stamp), message)
            else:
                self._add_transforms(message, is_static=topic.endswith("tf_static"))
        if self._bag.is_foxglove:
            self._tf.hold_singles()
        if self.options.tf is not None:
            for transform in load_static_transforms(self.options.tf):
                self._tf.add_static(*transform)
        elif not any(topic.endswith("tf_static") for topic in tf_topics):
            self._hint = (
                "; the recording has no /tf_static, which usually leads from the robot to its cameras: record it, or "
                "give what it lacks as --tf FILE (a YAML list of transforms, or a URDF with fixed joints)"
            )
        if not tf_topics:
            raise StreamError(
                f"'{self.source}' holds no /tf or /tf_static, so its images have no poses: record both topics",
                code="stream.tf",
            )
        if not self._tf.frames():
            raise StreamError(
                f"no transform in {' and '.join(tf_topics)} of '{self.source}' can be used, so its images have no "
                "poses: record both /tf and /tf_static",
                code="stream.tf",
            )
        for child, count in self._tf.conflicts().items():
            log.warning(
                "tf of '%s' has %d transforms of '%s' that contradict another one of the same stamp (the first of a "
                "stamp counts, of /tf_static the last): two nodes publish it; record with one of them",
                self.source, count, child,
            )  # fmt: skip
        if self.options.map_frame not in self._tf:
            raise StreamError(
                f"tf of '{self.source}' has no frame '{self.options.map_frame}'; "
                f"set map_frame (--map-frame) to one of {', '.join(self._tf.frames())}{self._hint}",
                code="stream.missing",
            )

    def _add_transforms(self, message: Any, *, is_static: bool) -> None:
        for stamped in message.transforms:
            try:
                xyz, quat_wxyz = pose_from_transform(stamped.transform)
            except NoTransformError:
                self._bad_transforms += 1
                continue
            parent, child = stamped.header.frame_id, stamped.child_frame_id
            if is_static:
                self._tf.add_static(parent, child, xyz, quat_wxyz)
            else:
                self._tf.add_moving(parent, child, stamp_ns(stamped.header.stamp), xyz, quat_wxyz)

    def _new_counter(self) -> Counter[str]:
        return Counter({_BAD_TRANSFORM: self._bad_transforms} if self._bad_transforms else {})


class _Calibrations:
    """The camera_info messages of one topic; equal ones in a row are kept once."""

    def __init__(self) -> None:
        self._stamps: list[int] = []  # ascending
        self._infos: list[CameraInfo] = []
        self._last: tuple[object, ...] = ()
        self._cameras: dict[tuple[int, tuple[int, int], bool], Camera] = {}

    def add(self, stamp: int, info: CameraInfo) -> None:
        content = _content(info)
        if content == self._last and self._stamps[-1] <= stamp:
            return
        self._last = content
        index = bisect_right(self._stamps, stamp)
        self._stamps.insert(index, stamp)
        self._infos.insert(index, info)

    def camera(self, stamp: int, size: tuple[int, int], is_rectified: bool) -> Camera:
        """By the last camera_info before or at the stamp, else the first one.

        Raises:
            CameraError: there is none, or it doesn't fit.
        """
        if not self._infos:
            raise CameraError("no camera_info", code="camera.missing")
        index = max(0, bisect_right(self._stamps, stamp) - 1)
        key = index, size, is_rectified
        if key not in self._cameras:
            info = self._infos[index]
            if isinstance(info, Calibration) and (info.width, info.height) != size:
                # A driver's camera_info may be of the image before it was reduced; a file may be of another camera.
                raise CameraError(
                    f"the calibration file is for {info.width}×{info.height} pixels, the image has "
                    f"{size[0]}×{size[1]}; if it is this camera's, divide the file's sizes, K and P by "
                    f"{info.width / size[0]:g}",
                    code="camera.size",
                )
            self._cameras[key] = camera_from_info(info, *size, is_rectified=is_rectified)
        return self._cameras[key]


def _content(info: CameraInfo) -> tuple[object, ...]:
    arrays = (np.asarray(values, dtype=np.float64).tobytes() for values in (info.d, info.k, info.p))
    roi = info.roi
    region = (roi.x_offset, roi.y_offset, roi.height, roi.width, roi.do_rectify)
    return (info.height, info.width, info.distortion_model, info.binning_x, info.binning_y, *arrays, *region)
