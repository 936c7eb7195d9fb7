"""Points that a request names: where they lie on the map, what Gaussians are there, and which objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, zeros_like

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import CameraError, NoTransformError, PromptError
from feature_gs_ros.identity.answers import IdentifiedObject, Identities
from feature_gs_ros.io.messages.transform import stamp_ns
from feature_gs_ros.live.shown_map import ShownMap
from feature_gs_ros.query.clicks import CLICK_RADIUS, point_of_pixel, straight_pixel, weights_near, weights_of_pixel
from feature_gs_ros.rasterizer import View
from feature_gs_ros.ros.nodes.session import Session

Points = list[NDArray[np.float64] | None]  # [3] each; None: on nothing


def locate(session: Session, shown: ShownMap, request: Any, points: Sequence[Any]) -> tuple[Points, list[Tensor]]:
    """Where a request's points are in the splat's frame, and the weights [N] of the Gaussians shown there.

    Raises:
        FeatureGsError: a point can't be meant: not finite, outside the image, in an unknown frame.
    """
    return (_pixels if request.camera else _places)(session, shown, request, points)


def objects_at(
    identities: Identities, weights: Sequence[Tensor], negatives: Sequence[Tensor]
) -> list[IdentifiedObject]:
    """What Gaussians of these weights [N] each are, in their order, without what the negatives are."""
    excluded = {entry.value for entry in _objects(identities, negatives)}
    return [entry for entry in _objects(identities, weights) if entry.value not in excluded]


def _objects(identities: Identities, weights: Sequence[Tensor]) -> list[IdentifiedObject]:
    found = (identities.at_weights(of_point) for of_point in weights)
    return list({entry.value: entry for entry in found if entry is not None}.values())


def _places(session: Session, shown: ShownMap, request: Any, points: Sequence[Any]) -> tuple[Points, list[Tensor]]:
    """3D points in any frame of tf."""
    frame, to_splat = request.header.frame_id, session.settings.splat_from_map
    if not frame:
        raise PromptError(
            f"header.frame_id is empty; name the points' frame, e.g. '{session.settings.map_frame}'",
            code="prompt.empty",
        )
    positions = [np.array([point.x, point.y, point.z]) for point in points]
    for position in positions:
        if not np.isfinite(position).all():
            raise PromptError(
                f"the point {tuple(position.tolist())} is not finite; give its position in metres",
                code="prompt.not-finite",
            )
    map_from_frame = np.eye(4)
    if frame != session.settings.map_frame:
        map_from_frame = session.poses.lookup(session.settings.map_frame, frame, stamp_ns(request.header.stamp))
    located: Points = []
    weights = []
    for position in positions:
        at = to_splat.apply(map_from_frame[:3, :3] @ position + map_from_frame[:3, 3])
        weight = shown.of_all(weights_near(shown.visible, at, CLICK_RADIUS * to_splat.scale))
        located.append(at if bool(weight.any()) else None)
        weights.append(weight)
    return located, weights


def camera_view(session: Session, shown: ShownMap, request: Any) -> tuple[Camera, View]:
    """The camera that a request names, distorted as it is, and its rectified view of the map at the request's stamp.

    Of the last frame the pose is known even when tf has long forgotten it.

    Raises:
        CameraError, NoTransformError, ParameterError: there is no such camera, or nothing was heard of it yet.
    """
    source = session.camera(request.camera)
    stamp, last = stamp_ns(request.header.stamp), source.last
    if last is not None and stamp in (0, last.stamp):
        camera, pose = last.lens, last.camera_from_map
    else:
        current = source.camera()
        if current is None:
            raise CameraError(f"camera '{request.camera}' has no camera_info yet", code="camera.missing")
        if not source.frame_id or stamp == 0:
            raise NoTransformError(
                f"camera '{request.camera}' has no image yet, so its pose is not known", code="transform.no-frame"
            )
        max_gap = session.worker.limits().tf_max_gap
        camera, pose = current, session.poses.camera_from_map(source.frame_id, stamp, max_gap)
    return camera, session.field.map.view(replace(camera, distortion=None), pose, shown.gaussians)


def _pixels(session: Session, shown: ShownMap, request: Any, points: Sequence[Any]) -> tuple[Points, list[Tensor]]:
    """Pixels of a camera's image: where their rays meet the map, and their rows of W."""
    camera, view = camera_view(session, shown, request)
    located: Points = []
    weights = []
    for point in points:
        u, v = straight_pixel(camera, point.x + 0.5, point.y + 0.5)
        weight = weights_of_pixel(view, u, v)
        at = point_of_pixel(view, weight, u, v)
        located.append(at)
        weights.append(weight if at is not None else zeros_like(weight))
    return located, weights
