"""Services that ask the map: by words, by clicks, by an example; and those that are still to come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from torch import Tensor

from feature_gs_ros import segmentation
from feature_gs_ros.clicks import (
    feature_of,
    feature_under_mask,
    point_of_pixel,
    straight_pixel,
    weights_near,
    weights_of_pixel,
)
from feature_gs_ros.errors import CameraError, NoTransformError, PromptError
from feature_gs_ros.messages.image import decode_image
from feature_gs_ros.messages.point_cloud import gaussian_cloud
from feature_gs_ros.messages.transform import stamp_ns
from feature_gs_ros.msg import Answer
from feature_gs_ros.objects import find_objects
from feature_gs_ros.ros.answers import (
    STATES,
    StepTimes,
    cloud_message,
    detections_message,
    header_message,
    point_message,
)
from feature_gs_ros.ros.guard import UnavailableError, answering
from feature_gs_ros.ros.parameters import value
from feature_gs_ros.ros.publishers import Publishers, camera_frame_cloud
from feature_gs_ros.ros.session import Session
from feature_gs_ros.segmentation import Segmenter
from feature_gs_ros.srv import AddAffordance, Edit, QueryExample, QueryPoints, QueryText, TransferAffordance

MOST_POINTS = 100
MOST_NEGATIVES = 100
CLICK_REACH = 0.05  # m around a 3D point in which there must be a Gaussian
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what rclpy decodes bytes to that are not UTF-8

Points = list[NDArray[np.float64] | None]


class Queries:
    """One at a time, in a callback group of their own; each on a snapshot of the field."""

    def __init__(self, node: Any, publishers: Publishers, session: Callable[[], Session]) -> None:
        self._node, self._publishers, self._session = node, publishers, session
        group = MutuallyExclusiveCallbackGroup()
        callbacks = {
            "query_text": (QueryText, self._query_text),
            "query_points": (QueryPoints, self._query_points),
            "query_example": (QueryExample, self._query_example),
            "transfer_affordance": (TransferAffordance, self._transfer_affordance),
            "add_affordance": (AddAffordance, self._add_affordance),
            "edit": (Edit, self._edit),
        }
        self._services = [
            node.create_service(kind, f"~/{name}", callback, callback_group=group)
            for name, (kind, callback) in callbacks.items()
        ]

    def close(self) -> None:
        for service in self._services:
            self._node.destroy_service(service)

    def _query_text(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            texts = check_texts([request.text, *request.negatives])
            segmenter = self._snapshot(session, times)
            with times.step("similarity"):
                found = segmenter.ask(texts[:1], texts[1:], threshold_of(request.threshold))[0]
            self._answer(session, segmenter, found, request.max_objects, times, response)
        return response

    def _query_points(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            for name, points, fewest in (("points", request.points, 1), ("negatives", request.negatives, 0)):
                if not fewest <= len(points) <= MOST_POINTS:
                    raise PromptError(f"the request holds {len(points)} {name}, expected {fewest} to {MOST_POINTS}")
            segmenter = self._snapshot(session, times)
            with times.step("points"):
                locate = self._pixels if request.camera else self._places
                points, weights = locate(session, request, [*request.points, *request.negatives])
                count = len(request.points)
                map_from_splat = session.settings.splat_from_map.inverse()
                response.points = [
                    point_message(np.full(3, np.nan) if p is None else map_from_splat.apply(p)) for p in points[:count]
                ]
                features = [feature_of(w, segmenter.field) if bool(w.any()) else None for w in weights]
                positives, negatives = _known(features[:count]), _known(features[count:])
            if positives is None:
                _nothing_under_points(points[:count], segmenter, response.answer)
                response.answer.timing = times.messages
                return response
            with times.step("similarity"):
                threshold = threshold_of(request.threshold)
                found = segmenter.ask_example(positives, negatives, threshold, prompt="what was clicked")
            self._answer(session, segmenter, found, request.max_objects, times, response)
        return response

    def _query_example(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            with times.step("embed"):
                examples = _example_features(session, request.image, request.mask)
            segmenter = self._snapshot(session, times)
            with times.step("similarity"):
                found = segmenter.ask_example(examples, None, threshold_of(request.threshold))
            self._answer(session, segmenter, found, request.max_objects, times, response)
        return response

    def _transfer_affordance(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            if not 1 <= request.k <= 100:
                raise PromptError(f"k is {request.k}, expected 1 to 100 neighbours")
            raise UnavailableError("affordance transfer is not in this version")
        return response

    def _add_affordance(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        with answering(response.answer, self._node.get_logger()):
            raise UnavailableError("affordance transfer is not in this version")
        return response

    def _edit(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        with answering(response.answer, self._node.get_logger()):
            raise UnavailableError("editing is not in this version")
        return response

    def _snapshot(self, session: Session, times: StepTimes) -> Segmenter:
        with times.step("snapshot"):
            return session.field.segmenter()

    def _answer(
        self,
        session: Session,
        segmenter: Segmenter,
        found: segmentation.Answer,
        max_objects: int,
        times: StepTimes,
        response: Any,
    ) -> None:
        """Fill the response and publish the same."""
        live_map, frame = session.field.map, session.settings.map_frame
        header = header_message(frame, self._node.get_clock().now().to_msg())
        map_from_splat = live_map.splat_from_map.inverse()
        hit = found.state is segmentation.State.FOUND
        mask = found.mask if hit else torch.zeros_like(found.mask)
        rows = mask.nonzero()[:, 0]
        with times.step("objects"):
            reach = float(value(self._node, "objects.reach")) or None
            objects = find_objects(live_map.gaussians, mask, found.similarity, map_from_splat, reach)
            most = max_objects or int(value(self._node, "objects.max_count"))
            detections = detections_message(objects[:most], found.prompt, header)
        with times.step("cloud"):
            cloud = cloud_message(gaussian_cloud(live_map.gaussians, map_from_splat, found.similarity, rows), header)
            last = next((camera.last for camera in session.worker.cameras if camera.last is not None), None)
            seen_from = None if last is None else camera_frame_cloud(live_map, last, found.similarity, rows)
        with times.step("publish"):
            self._publishers.send_answer(cloud, seen_from, detections)
        answer = response.answer
        answer.state, answer.message, answer.coverage = STATES[found.state], found.message, found.coverage
        answer.views, answer.timing = len(segmenter.field.provenance.frames), times.messages
        response.detections = detections
        response.cloud = cloud

    def _places(self, session: Session, request: Any, points: Sequence[Any]) -> tuple[Points, list[Tensor]]:
        """3D points: where they are in the splat's frame, and the weights [N] of the Gaussians there."""
        frame, to_splat = request.header.frame_id, session.settings.splat_from_map
        if not frame:
            raise PromptError(f"header.frame_id is empty; name the points' frame, e.g. '{session.settings.map_frame}'")
        map_from_frame = np.eye(4)
        if frame != session.settings.map_frame:
            map_from_frame = session.poses.lookup(session.settings.map_frame, frame, stamp_ns(request.header.stamp))
        located: Points = []
        weights = []
        for point in points:
            xyz = map_from_frame[:3, :3] @ np.array([point.x, point.y, point.z]) + map_from_frame[:3, 3]
            at = to_splat.apply(xyz)
            weight = weights_near(session.field.gaussians, at, CLICK_REACH * to_splat.scale)
            located.append(at if bool(weight.any()) else None)
            weights.append(weight)
        return located, weights

    def _pixels(self, session: Session, request: Any, points: Sequence[Any]) -> tuple[Points, list[Tensor]]:
        """Pixels of a camera's image: where their rays meet the map, and their rows of W."""
        source = session.camera(request.camera)
        camera = source.camera_of_size()
        if camera is None:
            raise CameraError(f"camera '{request.camera}' has no camera_info yet")
        stamp = stamp_ns(request.header.stamp) or (source.last.stamp if source.last else 0)
        if not source.frame_id or stamp == 0:
            raise NoTransformError(f"camera '{request.camera}' has no image yet, so its pose is not known")
        pose = session.poses.camera_from_map(source.frame_id, stamp)
        view = session.field.map.view(replace(camera, distortion=None), pose)
        located: Points = []
        weights = []
        for point in points:
            u, v = straight_pixel(camera, point.x + 0.5, point.y + 0.5)
            weight = weights_of_pixel(view, u, v)
            at = point_of_pixel(view, weight, u, v)
            located.append(at)
            weights.append(weight if at is not None else torch.zeros_like(weight))
        return located, weights


def check_texts(texts: Sequence[str]) -> list[str]:
    """Prompts as they came over the wire, fit to be asked.

    Raises:
        PromptError: too many, empty, too long, or not UTF-8.
    """
    if len(texts) > 1 + MOST_NEGATIVES:
        raise PromptError(f"the request holds {len(texts) - 1} negatives, at most {MOST_NEGATIVES} are taken")
    for text in texts:
        if REPLACEMENT in text:
            raise PromptError("the prompt is not text in UTF-8")
    return [segmentation.check_prompt(text) for text in texts]


def threshold_of(requested: float) -> float | None:
    """A request's threshold; 0 is the teacher's own.

    Raises:
        PromptError: outside 0..1, or NaN.
    """
    if not 0 <= requested <= 1:
        raise PromptError(f"threshold {requested} is out of range; give 0 (the teacher's own) to 1")
    return float(requested) or None


def _known(features: Sequence[Tensor | None]) -> Tensor | None:
    """The features [E, D] that there are, None where there are none."""
    found = [feature for feature in features if feature is not None]
    return torch.stack(found) if found else None


def _nothing_under_points(points: Points, segmenter: Segmenter, answer: Any) -> None:
    """The points lie beside the map, or on what no camera has seen."""
    answer.coverage = segmenter.field.coverage(segmenter.gaussians)
    answer.views = len(segmenter.field.provenance.frames)
    if all(point is None for point in points):
        answer.state, answer.message = Answer.NOT_FOUND, "there is nothing of the map under these points"
    else:
        answer.state, answer.message = Answer.NOT_OBSERVED, "no camera has seen what is under these points yet"


def _example_features(session: Session, image: Any, mask: Any) -> Tensor:
    """The mean feature [1, D] of an image's cells, weighted by how much of each the mask covers."""
    pixels = decode_image(image, "the example")
    marked = torch.ones(pixels.shape[:2], dtype=torch.bool)
    if mask.width or mask.height:
        marked = torch.from_numpy(decode_image(mask, "the mask").any(axis=2))
        if marked.shape != pixels.shape[:2]:
            raise PromptError(
                f"the mask is {marked.shape[1]}×{marked.shape[0]} pixels, the image {pixels.shape[1]}×{pixels.shape[0]}"
            )
    return feature_under_mask(session.field.map.extractor.extract(pixels, "example"), marked).unsqueeze(0)
