"""Services that ask the map: by words, by clicks, by an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from vision_msgs.msg import Detection3DArray

from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.core.text import shown
from feature_gs_ros.identity.answers import IdentifiedObject
from feature_gs_ros.io.messages.image import decode_image
from feature_gs_ros.live.live_field import Snapshot
from feature_gs_ros.msg import Answer, QueryResult
from feature_gs_ros.query import masks_3d as segmentation
from feature_gs_ros.query.clicks import feature_of, picture_example
from feature_gs_ros.query.extent import Extent
from feature_gs_ros.query.prompt import check_prompt
from feature_gs_ros.ros.convert.answers import StepTimes, fill_answer, identities_message, point_message
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.runtime.guard import answering
from feature_gs_ros.ros.runtime.parameters import value
from feature_gs_ros.ros.runtime.publishers import Publishers
from feature_gs_ros.ros.services.answer_messages import AnswerMessages
from feature_gs_ros.ros.services.pointing import Points, locate, objects_at
from feature_gs_ros.ros.services.sam_clicks import asks_sam, sam_answer
from feature_gs_ros.ros.services.service_group import Callbacks, ServiceGroup
from feature_gs_ros.srv import QueryExample, QueryPoints, QueryText, QueryTexts

MAX_TEXTS = 100
MAX_POINTS = 100
MAX_NEGATIVES = 100
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what rclpy decodes bytes to that are not UTF-8
NOWHERE = np.full(3, np.nan)


class Queries:
    """One at a time, in a callback group of their own; each on a snapshot of the field."""

    def __init__(self, node: Any, publishers: Publishers, session: Callable[[], Session]) -> None:
        self._node, self._publishers, self._session = node, publishers, session
        callbacks: Callbacks = {
            "query_text": (QueryText, self._query_text),
            "query_texts": (QueryTexts, self._query_texts),
            "query_points": (QueryPoints, self._query_points),
            "query_example": (QueryExample, self._query_example),
        }
        self._services = ServiceGroup(node, callbacks)

    def close(self) -> None:
        self._services.close()

    @property
    def _verify(self) -> bool:
        return bool(value(self._node, "verify"))

    def _query_text(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            texts = check_texts([request.text, *request.negatives])
            with times.step("snapshot"):
                snapshot = session.field.question()
            with times.step("similarity"):
                threshold = threshold_of(request.threshold)
                found = snapshot.segmenter.ask(
                    texts[:1], texts[1:], threshold, snapshot.shown.present, self._verify, extent_of(request.extent)
                )[0]
            times.split("verify", found.verify_seconds)
            self._answer(session, snapshot, found, request.max_objects, times, response)
        return response

    def _query_texts(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            if not 1 <= len(request.texts) <= MAX_TEXTS:
                raise PromptError(
                    f"the request holds {len(request.texts)} texts, expected 1 to {MAX_TEXTS}", code="prompt.range"
                )
            texts, negatives = [check_texts([text])[0] for text in request.texts], check_texts(request.negatives)
            with times.step("snapshot"):
                snapshot = session.field.question()
            with times.step("similarity"):
                threshold = threshold_of(request.threshold)
                found = snapshot.segmenter.ask_many(
                    texts, negatives, threshold, snapshot.shown.present, self._verify, extent_of(request.extent)
                )
            times.split("verify", sum(one.verify_seconds for one in found))
            outcome = AnswerMessages(self._node, self._publishers, session, snapshot.shown, times)
            with times.step("objects"):
                response.results = [self._result(session, outcome, snapshot, one, request.max_objects) for one in found]
            masks = torch.stack([_mask(one) for one in found])
            highest = torch.stack([one.similarity for one in found]).amax(dim=0)
            everything = Detection3DArray(header=outcome.header)
            everything.detections = [one for result in response.results for one in result.detections.detections]
            rows = masks.any(dim=0).nonzero()[:, 0]
            outcome.publish(rows, highest, lambda: everything, snapshot.cloud_fields)
            answer, states = response.answer, {result.answer.state for result in response.results}
            answer.state = next(s for s in (Answer.FOUND, Answer.NOT_OBSERVED, Answer.NOT_FOUND) if s in states)
            hits = [result.text for result in response.results if result.answer.state == Answer.FOUND]
            answer.message = f"{len(hits)} of {len(texts)} prompts found: {', '.join(hits)}"
            answer.coverage, answer.views, answer.timing = found[0].coverage, snapshot.views, times.messages
            answer.warnings = list(session.doubts)
        return response

    def _query_points(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            for name, points, fewest in (("points", request.points, 1), ("negatives", request.negatives, 0)):
                if not fewest <= len(points) <= MAX_POINTS:
                    raise PromptError(
                        f"the request holds {len(points)} {name}, expected {fewest} to {MAX_POINTS}",
                        code="prompt.value",
                    )
            threshold = threshold_of(request.threshold)
            snapshot = _snapshot(session, times)
            with times.step("points"):
                located, weights = locate(session, snapshot.shown, request, [*request.points, *request.negatives])
                count = len(request.points)
                map_from_splat = session.settings.splat_from_map.inverse()
                positions = [None if at is None else map_from_splat.apply(at) for at in located]
                response.points = [point_message(NOWHERE if at is None else at) for at in positions[:count]]
                field = snapshot.segmenter.field
                features = [feature_of(w, field) if bool(w.any()) else None for w in weights]
                positives, negatives = _known(features[:count]), _known(features[count:])
            if positives is None:
                _nothing_under_points(located[:count], snapshot, response.answer)
                response.answer.timing = times.messages
            elif asks_sam(session, request):
                with times.step("sam"):
                    answer = sam_answer(session, snapshot, request)
                self._answer(session, snapshot, answer, request.max_objects, times, response)
            elif snapshot.identities is not None:
                with times.step("identities"):
                    found = objects_at(snapshot.identities, weights[:count], weights[count:])
                self._answer_identities(
                    session, snapshot, found, threshold or 0.0, request.max_objects, times, response
                )
            else:
                with times.step("similarity"):
                    answer = snapshot.segmenter.ask_example(
                        positives, negatives, threshold, snapshot.shown.present, "what was clicked"
                    )
                self._answer(session, snapshot, answer, request.max_objects, times, response)
        return response

    def _query_example(self, request: Any, response: Any) -> Any:
        with answering(response.answer, self._node.get_logger()):
            session, times = self._session(), StepTimes()
            with times.step("embed"):
                example, alike = _image_example(session, request.image, request.mask)
            snapshot = _snapshot(session, times)
            with times.step("similarity"):
                found = snapshot.segmenter.ask_example(
                    example[None], None, threshold_of(request.threshold) or alike, snapshot.shown.present
                )
            self._answer(session, snapshot, found, request.max_objects, times, response)
        return response

    def _result(
        self,
        session: Session,
        outcome: AnswerMessages,
        snapshot: Snapshot,
        found: segmentation.Answer,
        max_objects: int,
    ) -> QueryResult:
        """One of several answers."""
        mask = _mask(found)
        result = QueryResult(text=found.prompt)
        result.cloud = outcome.cloud(mask.nonzero()[:, 0], found.similarity, snapshot.cloud_fields)
        result.detections = outcome.objects(found.prompt, mask, found.similarity, max_objects)
        fill_answer(result.answer, found, snapshot.views, session.doubts)
        return result

    def _answer(
        self,
        session: Session,
        snapshot: Snapshot,
        found: segmentation.Answer,
        max_objects: int,
        times: StepTimes,
        response: Any,
    ) -> None:
        """Fill the response and publish the same."""
        outcome = AnswerMessages(self._node, self._publishers, session, snapshot.shown, times)
        mask = _mask(found)
        response.cloud, response.detections = outcome.publish(
            mask.nonzero()[:, 0],
            found.similarity,
            lambda: outcome.objects(found.prompt, mask, found.similarity, max_objects),
            snapshot.cloud_fields,
        )
        fill_answer(response.answer, found, snapshot.views, session.doubts)
        response.answer.timing = times.messages

    def _answer_identities(
        self,
        session: Session,
        snapshot: Snapshot,
        objects: list[IdentifiedObject],
        threshold: float,
        max_objects: int,
        times: StepTimes,
        response: Any,
    ) -> None:
        """The same for the objects that were clicked, where the field knows which object is which."""
        identities = snapshot.identities
        assert identities is not None
        outcome = AnswerMessages(self._node, self._publishers, session, snapshot.shown, times)
        objects = objects[: outcome.most(max_objects)]
        mask = torch.zeros(len(session.field.gaussians), dtype=torch.bool)
        for entry in objects:
            mask |= identities.mask(entry.value) & (identities.confidence > threshold)
        response.cloud, response.detections = outcome.publish(
            mask.nonzero()[:, 0],
            identities.confidence,
            lambda: identities_message(objects, outcome.header),
            snapshot.cloud_fields,
        )
        answer = response.answer
        answer.state = Answer.FOUND if objects else Answer.NOT_FOUND
        names = [f"'{entry.name}' (object {entry.value}, {entry.gaussians} Gaussians)" for entry in objects]
        answer.message = f"clicked: {', '.join(names)}" if names else "only background is under these points"
        answer.coverage, answer.views = snapshot.segmenter.field.coverage(snapshot.shown.gaussians), snapshot.views
        answer.timing = times.messages


def check_texts(texts: Sequence[str]) -> list[str]:
    """Prompts as they came over the wire, fit to be asked.

    Raises:
        PromptError: too many, empty, too long, or not UTF-8.
    """
    if len(texts) > 1 + MAX_NEGATIVES:
        raise PromptError(
            f"the request holds {len(texts) - 1} negatives, at most {MAX_NEGATIVES} are taken", code="prompt.range"
        )
    for text in texts:
        if REPLACEMENT in text:
            raise PromptError("the prompt is not text in UTF-8", code="prompt.characters")
    return [check_prompt(text) for text in texts]


def threshold_of(requested: float) -> float | None:
    """A request's threshold; 0 is the extractor's own.

    Raises:
        PromptError: outside 0..1, or NaN.
    """
    if not 0 <= requested <= 1:
        raise PromptError(
            f"threshold {requested} is out of range; give 0 (the extractor's own) to 1", code="prompt.range"
        )
    return float(requested) or None


def extent_of(requested: str) -> Extent | None:
    """How far a request wants answers to reach; empty is the extractor's own.

    Raises:
        PromptError: another word.
    """
    if requested == "":
        return None
    if requested in ("object", "part"):
        return cast(Extent, requested)
    raise PromptError(
        f"extent is {shown(requested)}; choose object or part, or leave it empty (the extractor's own)",
        code="prompt.value",
    )


def _mask(found: segmentation.Answer) -> Tensor:
    """The Gaussians [N] of an answer, none where it isn't that something was found."""
    return found.mask if found.state is segmentation.State.FOUND else torch.zeros_like(found.mask)


def _known(features: Sequence[Tensor | None]) -> Tensor | None:
    """The features [E, D] that there are, None where there are none."""
    found = [feature for feature in features if feature is not None]
    return torch.stack(found) if found else None


def _snapshot(session: Session, times: StepTimes) -> Snapshot:
    with times.step("snapshot"):
        return session.field.snapshot()


def _nothing_under_points(points: Points, snapshot: Snapshot, answer: Any) -> None:
    """The points lie beside the map, or on what no camera has seen."""
    answer.coverage = snapshot.segmenter.field.coverage(snapshot.shown.gaussians)
    answer.views = snapshot.views
    if all(point is None for point in points):
        answer.state, answer.message = Answer.NOT_FOUND, "there is nothing of the map under these points"
    else:
        answer.state, answer.message = Answer.NOT_OBSERVED, "no camera has seen what is under these points yet"


def _image_example(session: Session, image: Any, mask: Any) -> tuple[Tensor, float]:
    """What an image shows, or its mask marks on it, and the similarity from which on objects are like it."""
    pixels, marked = decode_image(image, "the example"), None
    if mask.width or mask.height:
        marked = torch.from_numpy(decode_image(mask, "the mask").any(axis=2))
        if marked.shape != pixels.shape[:2]:
            raise PromptError(
                f"the mask is {marked.shape[1]}×{marked.shape[0]} pixels, "
                f"its image {pixels.shape[1]}×{pixels.shape[0]}",
                code="prompt.size",
            )
    return picture_example(session.field.map.extractor, pixels, marked, "example")
