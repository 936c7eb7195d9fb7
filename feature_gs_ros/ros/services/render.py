"""The service ~/render_view: an image of the map from any pose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from geometry_msgs.msg import Transform, Vector3
from numpy.typing import NDArray
from rclpy.time import Time

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import CameraError, NoTransformError, PromptError
from feature_gs_ros.core.geometry import rotation_from_quat_wxyz
from feature_gs_ros.io.messages.camera_info import camera_from_info
from feature_gs_ros.io.messages.transform import pose_from_transform, stamp_ns
from feature_gs_ros.msg import Answer
from feature_gs_ros.pictures import principal_colors, to_image
from feature_gs_ros.query.masks_2d import mask_labels, render_similarities, segment_view
from feature_gs_ros.query.prompt import TextPrompts
from feature_gs_ros.rasterizer import View
from feature_gs_ros.ros.convert.answers import StepTimes, header_message
from feature_gs_ros.ros.convert.images import Pixels, image_message
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.guard import answering
from feature_gs_ros.ros.services.queries import check_texts, threshold_of
from feature_gs_ros.ros.services.service_group import ServiceGroup
from feature_gs_ros.srv import RenderView

MAX_PIXELS = 1 << 24  # of an image: 4096 × 4096
COVERED = 0.5  # Σ w of a pixel from which its depth is known


class RenderService:
    """Images don't wait for queries: a callback group of their own."""

    def __init__(self, node: Any, session: Callable[[], Session]) -> None:
        self._node, self._session = node, session
        self._services = ServiceGroup(node, {"render_view": (RenderView, self._render)})

    def close(self) -> None:
        self._services.close()

    def _render(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            camera, camera_from_map, header = _viewpoint(session, request)
            with times.step("view"):
                view = session.field.map.view(camera, camera_from_map, session.field.shown.gaussians)
            with times.step("render"):
                encoding, pixels, coverage = _rendered(session, view, request)
            response.image = image_message(pixels, encoding, header)
            answer = response.answer
            answer.state, answer.coverage, answer.timing = Answer.FOUND, coverage, times.messages
            answer.views = session.field.views
            answer.message = f"{camera.width}×{camera.height} pixels, {encoding}"
        return response


def _viewpoint(session: Session, request: Any) -> tuple[Camera, NDArray[np.float64], Any]:
    """Camera, its pose [4, 4] and the image's header.

    Raises:
        CameraError, NoTransformError, ParameterError: what isn't given isn't known either.
    """
    source = session.camera(request.camera) if request.camera else None
    info = request.camera_info
    if info.width or info.height:
        if int(info.width) * int(info.height) > MAX_PIXELS:
            raise CameraError(
                f"an image of {info.width}×{info.height} pixels is too large, at most {MAX_PIXELS}", code="camera.range"
            )
        camera = camera_from_info(info, int(info.width), int(info.height))
    elif source is None:
        raise CameraError("neither camera nor camera_info is given", code="camera.missing")
    else:
        known = source.camera()
        if known is None:
            raise CameraError(f"camera '{request.camera}' has no camera_info yet", code="camera.missing")
        camera = known
    frame = request.pose.header.frame_id
    if frame:
        camera_from_map = _pose(session, request.pose)
        header = header_message(frame, request.pose.header.stamp)
    elif source is None or source.last is None:
        raise NoTransformError("no pose is given, and no frame of this camera was used yet", code="transform.no-frame")
    else:
        camera_from_map = source.last.camera_from_map
        header = header_message(source.last.frame_id, Time(nanoseconds=source.last.stamp).to_msg())
    return replace(camera, distortion=None), camera_from_map, header


def _pose(session: Session, stamped: Any) -> NDArray[np.float64]:
    """``camera_from_map`` [4, 4] of a PoseStamped of the optical frame."""
    frame, map_frame = stamped.header.frame_id, session.settings.map_frame
    frame_from_camera = np.eye(4)
    position = stamped.pose.position
    transform = Transform(
        translation=Vector3(x=position.x, y=position.y, z=position.z), rotation=stamped.pose.orientation
    )
    xyz, quat_wxyz = pose_from_transform(transform)
    frame_from_camera[:3, :3] = rotation_from_quat_wxyz(quat_wxyz)
    frame_from_camera[:3, 3] = xyz
    camera_from_frame = np.asarray(np.linalg.inv(frame_from_camera), dtype=np.float64)
    if frame == map_frame:
        return camera_from_frame
    return camera_from_frame @ session.poses.lookup(frame, map_frame, stamp_ns(stamped.header.stamp))


def _rendered(session: Session, view: View, request: Any) -> tuple[str, Pixels, float]:
    """Encoding, pixels and coverage."""
    if request.content == RenderView.Request.COLOR:
        depth = view.render_depth()
        return "rgb8", to_image(view.render_color()), _mean(depth[:, :, 1])
    if request.content == RenderView.Request.DEPTH:
        depth = view.render_depth()
        weight = depth[:, :, 1]
        metres = depth[:, :, 0] / weight.clamp_min(1e-6) / session.settings.splat_from_map.scale
        return "32FC1", torch.where(weight >= COVERED, metres, torch.nan).numpy(), _mean(weight)
    if request.content == RenderView.Request.FEATURES:
        field = session.field.snapshot().segmenter.field
        colors, coverage = render_similarities(view, principal_colors(field.features.cpu(), field.weight), field.seen)
        return "rgb8", to_image(colors * (coverage > COVERED).unsqueeze(2)), _mean(coverage)
    if request.content not in (RenderView.Request.SIMILARITY, RenderView.Request.MASK):
        raise PromptError(f"content {request.content} is unknown; choose 0 to 4", code="prompt.unknown")
    segmenter = session.field.snapshot().segmenter
    texts = check_texts([request.text, *request.negatives])
    question = TextPrompts.of(segmenter.extractor.text_rule, texts[:1], texts[1:], threshold_of(request.threshold))
    similarities, coverage = segment_view(segmenter, view, question.texts)
    if request.content == RenderView.Request.SIMILARITY:
        return "32FC1", similarities[:, :, 0].contiguous().numpy(), _mean(coverage)
    mask = mask_labels(similarities, question.threshold, 1) == 1
    return "mono8", (mask.to(torch.uint8) * 255).numpy(), _mean(coverage)


def _mean(values: torch.Tensor) -> float:
    return float(values.clamp(0, 1).mean())
