"""Parts that afford something: ~/add_affordance marks one on an image, ~/transfer_affordance finds them on the map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from geometry_msgs.msg import PoseArray
from vision_msgs.msg import Detection3DArray

from feature_gs_ros.action import TransferAffordance as TransferAction
from feature_gs_ros.affordance import Library, Region, Settings, find_regions, make_source, transfer
from feature_gs_ros.affordance.library import check_name
from feature_gs_ros.affordance.transfer import Transfer, only
from feature_gs_ros.core.errors import AffordanceError, PromptError
from feature_gs_ros.io.locks import locked
from feature_gs_ros.live.live_field import Snapshot
from feature_gs_ros.msg import AffordanceRegion, AffordanceRegions, Answer
from feature_gs_ros.query.masks_3d import State, decide
from feature_gs_ros.ros.convert.answers import (
    STATES,
    Progress,
    StepTimes,
    detection_message,
    point_message,
    pose_message,
    unwatched,
    vector_message,
)
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.guard import answering
from feature_gs_ros.ros.runtime.publishers import Publishers
from feature_gs_ros.ros.services.answer_messages import AnswerMessages
from feature_gs_ros.ros.services.marked_images import MARK, marked_image
from feature_gs_ros.ros.services.queries import check_texts
from feature_gs_ros.ros.services.service_group import Callbacks, ServiceGroup
from feature_gs_ros.ros.services.slow_action import SlowAction
from feature_gs_ros.srv import AddAffordance, TransferAffordance

MAX_NEIGHBOURS = 100
LOCK_TIMEOUT = 10.0  # s to wait for a command that changes the library
ARROW = 0.08  # m, of a marker


class Affordances:
    """One at a time, in a callback group of their own; the library of marked images lies below data_dir."""

    def __init__(self, node: Any, publishers: Publishers, session: Callable[[], Session]) -> None:
        self._node, self._publishers, self._session = node, publishers, session
        callbacks: Callbacks = {
            "add_affordance": (AddAffordance, self._add),
            "transfer_affordance": (TransferAffordance, self._transfer),
        }
        self._services = ServiceGroup(node, callbacks)
        self.action = SlowAction(node, session, TransferAction, "transfer_affordance", self._do_transfer)

    def close(self) -> None:
        self._services.close()
        self.action.close()

    def _add(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            affordance, target = check_name(request.affordance.strip(), "affordance"), request.object.strip()
            with times.step("image"):
                marked = marked_image(session, request)
            extractor = session.field.map.extractor
            with locked(session.settings.library, LOCK_TIMEOUT):
                library = _library(session)
                with times.step("embed"):
                    source = make_source(
                        marked.image,
                        marked.labels,
                        {MARK: affordance},
                        extractor,
                        name=library.free_name(affordance, target),
                        object_word=target,
                        frame=marked.name,
                    )
                library = library.add(source)
                with times.step("save"):
                    library.save(session.settings.library)
            response.sources = len(library)
            answer = response.answer
            answer.state, answer.timing, answer.views = Answer.FOUND, times.messages, session.field.views
            answer.message = f"added '{source.name}', {len(source.features)} patches, to '{session.settings.library}'"
        return response

    def _transfer(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            self._do_transfer(request, response)
        return response

    def _do_transfer(self, request: Any, response: Any, progress: Progress = unwatched) -> None:
        """
        Raises:
            FeatureGsError: there is nothing to transfer, or it can't be asked so.
            StoppedError: the progress stopped it.
        """
        session, times = self._session(), StepTimes(progress)
        settings, library = _settings(request), _library(session)
        with times.step("snapshot"):
            snapshot = session.field.snapshot()
        shown, target = snapshot.shown, None
        if request.object_text:
            with times.step("similarity"):
                target = snapshot.segmenter.ask(check_texts([request.object_text]), among=shown.present)[0]
        with times.step("transfer"):
            among = shown.present if target is None else target.mask
            found = _transferred(snapshot, library, settings, among, request, progress)
        outcome = AnswerMessages(self._node, self._publishers, session, shown, times)
        with times.step("regions"):
            field = shown.field(snapshot.segmenter.field)
            regions = find_regions(shown.gaussians, field, found, outcome.radius)
            regions.sort(key=lambda region: -region.opacity)
        ids = session.region_ids.match([r.rows for r in regions], [r.affordance for r in regions])
        response.regions = [
            region_message(number, identifier, region, outcome.header)
            for number, (identifier, region) in enumerate(zip(ids, regions, strict=True), start=1)
        ]
        response.cloud = _publish(outcome, snapshot, found, regions, ids)
        self._publishers.send_regions(
            session,
            AffordanceRegions(header=outcome.header, regions=response.regions),
            _grasps(regions, outcome.header),
        )
        answer = response.answer
        state = State.FOUND if regions else decide(0.0, found.coverage)
        answer.state, answer.coverage = STATES[state], found.coverage
        answer.message = found.message(shown.gaussians)
        if target is not None and target.state is not State.FOUND:
            answer.state, answer.message, answer.coverage = STATES[target.state], target.message, target.coverage
        answer.views, answer.timing, answer.warnings = snapshot.views, times.messages, list(session.doubts)


def region_message(number: int, identifier: str, region: Region, header: Any) -> Any:
    """One region as a planner needs it."""
    message = AffordanceRegion(header=header, id=identifier, region_id=number)
    message.affordance_id, message.affordance = region.label, region.affordance
    message.pose = pose_message(region.center, region.quat_wxyz)
    message.centroid, message.size = point_message(region.centroid), vector_message(region.extent)
    message.approach, message.gripper_width = vector_message(region.approach), region.gripper_width
    message.similarity, message.coverage = region.similarity, region.coverage
    return message


def _grasps(regions: Sequence[Region], header: Any) -> Any:
    """A gripper's pose at each region: z is the approach, y the way the fingers close."""
    poses = [pose_message(region.center, region.gripper_quat_wxyz) for region in regions]
    return PoseArray(header=header, poses=poses)


def _library(session: Session) -> Library:
    """What was added so far; empty at first.

    Raises:
        AffordanceError: the file is damaged, or of another extractor.
    """
    path, extractor = session.settings.library, session.field.map.extractor
    if not path.exists():
        return Library.of(extractor)
    library = Library.load(path)
    library.check_extractor(extractor.identity)
    return library


def _settings(request: Any) -> Settings:
    """
    Raises:
        PromptError: k or floor is out of range.
    """
    if request.k > MAX_NEIGHBOURS:
        raise PromptError(
            f"k is {request.k}, expected 1 to {MAX_NEIGHBOURS} neighbours, or 0 (the default)", code="prompt.range"
        )
    if not 0 <= request.floor <= 1:
        raise PromptError(
            f"floor {request.floor} is out of range; give 0 (the extractor's own) to 1", code="prompt.range"
        )
    usual = Settings()
    rate = usual.smoothing_rate if request.smooth else 0.0
    return Settings(k=request.k or usual.k, floor=float(request.floor) or None, smoothing_rate=rate)


def _transferred(
    snapshot: Snapshot,
    library: Library,
    settings: Settings,
    among: torch.Tensor | None,
    request: Any,
    progress: Progress,
) -> Transfer:
    """
    Raises:
        AffordanceError: there is nothing to transfer, or k is larger than it.
        StoppedError: the progress stopped it.
    """
    if not library.sources:
        raise AffordanceError("the library is empty; mark something by ~/add_affordance first", code="affordance.empty")
    if request.affordance and request.affordance not in library.affordances:
        known = ", ".join(library.affordances)
        raise AffordanceError(
            f"the library has no affordance '{request.affordance}'; it has {known}", code="affordance.missing"
        )
    # Sources of the object asked about know it best; where there are none, those of other objects are taken.
    word = request.object_text.strip()
    known_words = {source.object.lower() for source in library.sources}
    segmenter = snapshot.segmenter
    found = transfer(
        segmenter.gaussians,
        segmenter.field,
        library,
        settings,
        among=among,
        object_word=word if word.lower() in known_words else "",
        graph=lambda: segmenter.graph,
        progress=lambda done, total: progress("transfer", done / total),
    )
    return only(found, [request.affordance]) if request.affordance else found


def _publish(
    outcome: AnswerMessages, snapshot: Snapshot, found: Transfer, regions: Sequence[Region], ids: Sequence[str]
) -> Any:
    """The regions' cloud, which is also returned; boxes, and arrows along which a gripper comes."""
    of_region = torch.zeros(len(snapshot.segmenter.gaussians))
    of_affordance = torch.zeros_like(of_region)
    for number, region in enumerate(regions, start=1):
        of_region[region.rows], of_affordance[region.rows] = float(number), float(region.label)

    def detections() -> Any:
        message = Detection3DArray(header=outcome.header)
        for identifier, region in zip(ids, regions, strict=True):
            pose = pose_message(region.center, region.quat_wxyz)
            kind, score = region.affordance, region.similarity
            box = detection_message(pose, region.extent, kind, score, identifier, outcome.header)
            message.detections.append(box)
        return message

    cloud, _ = outcome.publish(
        of_region.nonzero()[:, 0],
        found.similarity,
        detections,
        {**snapshot.cloud_fields, "affordance_id": of_affordance, "region_id": of_region},
        [(point_message(r.center - ARROW * r.approach), point_message(r.center)) for r in regions],
    )
    return cloud
