"""The action ~/align: splat_from_map by images, and the static transform of the splat's frame that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import radians
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from scipy.spatial.transform import Rotation
from tf2_ros import StaticTransformBroadcaster

from feature_gs_ros.action import Align
from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.core.geometry import Sim3, camera_centre
from feature_gs_ros.frames.relocalise import align_images
from feature_gs_ros.frames.report import AlignmentReport
from feature_gs_ros.io.alignment import load_alignment, save_alignment
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.parameters import value
from feature_gs_ros.ros.services.exclusive_action import ExclusiveAction

MIN_LIVE = 4  # images


class AlignAction(ExclusiveAction):
    """The node's own alignment stays: what it has learned rests on it."""

    def __init__(self, node: Any, session: Callable[[], Session]) -> None:
        super().__init__(node, session, Align, "align")
        self._broadcaster = StaticTransformBroadcaster(node)

    def close(self) -> None:
        super().close()
        self._node.destroy_publisher(self._broadcaster.pub_tf)

    def work(self, goal: Any, result: Any) -> None:
        """
        Raises:
            FeatureGsError: there are too few images, or they show nothing of the map; or the file can't be written.
        """
        session, request = self._session(), goal.request
        path = _file(session, request.save) if request.save else None
        frames = self._frames(session, request)
        own = session.settings.splat_from_map

        def progress(done: int, total: int, step: str) -> bool:
            goal.publish_feedback(Align.Feedback(done=done, total=total, step=step))
            return self.ending(goal)

        report = align_images(session.field.map.gaussians, frames, None if request.search else own, progress)
        _fill(result, report, own, frames)
        if path is not None:
            save_alignment(report.splat_from_map, path, report.summary())
            result.message += f"; wrote '{path}'"
        self._publish(session.settings.map_frame, report.splat_from_map)

    def _frames(self, session: Session, request: Any) -> list[Frame]:
        """
        Raises:
            FeatureGsError: the recording can't be read, or there are too few live images.
        """
        if request.path:
            options = BagOptions(map_frame=session.settings.map_frame, image_topics=tuple(request.image_topics))
            return list(open_stream(session.settings.data(request.path), bag=options).frames())
        frames = session.worker.recent.frames()
        if len(frames) < MIN_LIVE:
            raise AlignmentError(
                f"only {len(frames)} live images were taken so far and {MIN_LIVE} are needed: move the camera around "
                "what the map shows, or give a recording"
            )
        return frames

    def _publish(self, map_frame: str, splat_from_map: Sim3) -> None:
        """The splat's axes in the map frame. tf knows no scale: coordinates there are splat units over the scale."""
        pose = splat_from_map.inverse()
        stamped = TransformStamped(child_frame_id=str(value(self._node, "splat_frame")))
        stamped.header.frame_id = map_frame
        stamped.header.stamp = self._node.get_clock().now().to_msg()
        stamped.transform = _transform(pose.quat_wxyz, pose.translation)
        self._broadcaster.sendTransform(stamped)


def _file(session: Session, name: str) -> Path:
    """
    Raises:
        FeatureGsError: the name leads out of data_dir, or to another kind of file.
    """
    path = session.settings.data(name)
    if path.suffix not in (".yaml", ".yml"):
        raise AlignmentError(f"save is '{name}'; an alignment file is called NAME.yaml")
    if path.exists():
        try:
            load_alignment(path)
        except AlignmentError as error:
            raise AlignmentError(
                f"'{path}' is there and is no alignment, so it isn't replaced; choose another name",
                code="alignment.unwritable",
            ) from error
    return path


def _fill(result: Any, report: AlignmentReport, own: Sim3, frames: Sequence[Frame]) -> None:
    found = report.splat_from_map
    result.splat_from_map = _transform(found.quat_wxyz, found.translation)
    result.scale, result.scale_sigma = found.scale, report.scale_sigma
    result.rotation_sigma, result.rms_rotation = radians(report.rotation_sigma), radians(report.rms_degrees)
    result.rms_position = report.rms_millimetres / 1000
    result.rms_pixels, result.outliers = report.rms_pixels, list(report.outliers)
    result.views = len(report.views) - len(report.outliers)
    change = own.inverse() @ found
    middle = np.median([camera_centre(frame.camera_from_world) for frame in frames], axis=0)
    result.moved = float(np.linalg.norm(change.apply(middle) - middle))
    result.turned = float(Rotation.from_matrix(change.rotation).magnitude())
    result.success, result.message = True, report.summary()


def _transform(quat_wxyz: Any, translation: Any) -> Any:
    w, x, y, z = (float(part) for part in quat_wxyz)
    place = Vector3(**dict(zip("xyz", map(float, translation), strict=True)))
    return Transform(translation=place, rotation=Quaternion(w=w, x=x, y=y, z=z))
