"""IngestionWorker: the thread that takes queued frames, in order, through the extractor and onto the map."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from feature_gs_ros.backprojection.ingest import PinholeView, extract, pinhole_view, rectified_grid
from feature_gs_ros.core.camera import Camera, Frame, Image
from feature_gs_ros.core.errors import FeatureGsError, NoTransformError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.extractors.labels import LabelsExtractor
from feature_gs_ros.io.messages.feature_grid import grid_from_message
from feature_gs_ros.io.messages.label_image import decode_labels, names_of_values, with_classes
from feature_gs_ros.live.ignored_pixels import counted_pixels
from feature_gs_ros.live.keyframes import KeyframeGate, KeyframeLimits
from feature_gs_ros.live.live_field import BATCH, LiveField
from feature_gs_ros.live.pose_check import LivePoseCheck
from feature_gs_ros.live.recent_images import RecentImages
from feature_gs_ros.live.statistics import Statistics
from feature_gs_ros.numerics.streams import follow, on, stay_on
from feature_gs_ros.ros.ingest.camera_input import Arrival, CameraInput, LabelMessages, LastFrame
from feature_gs_ros.ros.ingest.poses import GAP, Matrix, Poses

RETRY = 0.01  # s between looks at frames that wait for tf
JUMPED = "time jumped back"


@dataclass(frozen=True, eq=False)
class IngestionLimits:
    """The parameters that may change while the node runs."""

    tf_timeout: float  # s
    tf_max_gap: float  # s
    mask_tolerance: float  # s
    keyframes: KeyframeLimits


@dataclass(frozen=True, eq=False)
class ReadyFrame:
    """A frame with all that belongs to it."""

    source: CameraInput
    arrival: Arrival
    camera: Camera
    camera_from_map: Matrix
    mask: Any  # message, None where there is none
    labels: LabelMessages | None  # of a detector, where they are the features
    epoch: int  # how often time had jumped back when it was completed


class IngestionWorker:
    """Frames of each camera go in the order of their arrival: one that waits for tf holds up those behind it."""

    def __init__(
        self,
        field: LiveField,
        poses: Poses,
        statistics: Statistics,
        limits: Callable[[], IngestionLimits],
        now: Callable[[], int],  # ns, of the clock that stamps are compared with
        log: Any,
    ) -> None:
        self.changed = threading.Condition()
        self.cameras: list[CameraInput] = []  # filled before `start`
        self._field, self._poses, self._statistics = field, poses, statistics
        self.limits, self._now, self._log = limits, now, log
        self.pose_check, self.recent = LivePoseCheck(), RecentImages()
        self._gates: dict[str, KeyframeGate] = {}
        self._epoch = 0  # how often time jumped back; guarded by `changed`
        self._waiting_for_flush: list[int] = []  # stamps, ns
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take frames until `stop`; may be called again after it."""
        for camera in self.cameras:
            self._gates.setdefault(camera.settings.name, KeyframeGate())
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ingestion")
        self._thread.start()

    def stop(self) -> None:
        """Finish the frame at hand and end; what waits goes on waiting."""
        with self.changed:
            self._stopping = True
            self.changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def on_jump(self, reason: str) -> None:
        """Time went back: forget tf, what waits, what is in the extractor and the last keyframes, and go on."""
        self._log.warning(f"{reason}: tf and waiting frames are discarded")
        self.recent.clear()
        with self.changed:
            self._epoch += 1
            self._poses.clear()
            for camera in self.cameras:
                dropped = camera.forget()
                if dropped:
                    self._statistics.skip(JUMPED, dropped)
            for gate in self._gates.values():
                gate.reset()

    def take_next_frame(self) -> None:
        """Let each camera's next frame pass the keyframe gate: the field was emptied."""
        with self.changed:
            for gate in self._gates.values():
                gate.reset()

    def _run(self) -> None:
        stay_on("ingestion", self._field.backend.device)
        while not self._stopping:
            try:
                self._step()
            except Exception:  # or the node would stay active and learn nothing
                self._log.error(f"the ingestion failed: {traceback.format_exc()}", throttle_duration_sec=10.0)
                time.sleep(RETRY)
        self._flush()

    def _step(self) -> None:
        """One frame, or a wait for the next."""
        ready = self._next()
        if ready is None:
            self._flush()
            self._wait()
            return
        try:
            self._accumulate(ready)
        except Exception as error:  # a network may raise anything
            self._leave_out(error)

    def _leave_out(self, error: Exception, frames: int = 1) -> None:
        """Count frames that an error cost; one that nobody foresaw goes to the log, too."""
        if isinstance(error, FeatureGsError):
            self._statistics.skip(str(error), frames)
            return
        self._statistics.skip(f"{type(error).__name__} in the extractor or the map, see the log", frames)
        said = "".join(traceback.format_exception(error))
        self._log.error(f"{frames} frames are dropped: {said}", throttle_duration_sec=10.0)

    def _wait(self) -> None:
        with self.changed:
            if not self._stopping:
                self.changed.wait(RETRY if any(camera.pending for camera in self.cameras) else 0.5)

    def _next(self) -> ReadyFrame | None:
        """The first frame that has all it needs; those that waited too long or can't be used are counted on the way."""
        limits = self.limits()
        with self.changed:
            for camera in sorted(self.cameras, key=_waiting_since):
                while camera.pending:
                    arrival = camera.pending[0]
                    try:
                        found = self._complete(camera, arrival, limits)
                    except Exception as error:  # it would be the next one for ever
                        camera.pending.popleft()
                        self._leave_out(error)
                        continue
                    if isinstance(found, ReadyFrame):
                        camera.pending.popleft()
                        return found
                    if time.monotonic() - arrival.received <= limits.tf_timeout:
                        break
                    camera.pending.popleft()
                    self._statistics.skip(f"{found} within tf_timeout")
        return None

    def _complete(self, camera: CameraInput, arrival: Arrival, limits: IngestionLimits) -> ReadyFrame | str:
        """The frame with camera, pose and mask, or what is missing yet.

        Raises:
            CameraError, ImageError, NoTransformError: it will never be complete.
        """
        frame_id = arrival.message.header.frame_id
        model = camera.camera_for(arrival.message)
        if model is None:
            return f"no camera_info on '{camera.settings.camera_info}'"
        try:
            pose = self._poses.camera_from_map(frame_id, arrival.stamp, limits.tf_max_gap)
        except NoTransformError as error:
            if error.code == GAP:
                raise
            return f"no tf from '{self._poses.map_frame}' to '{frame_id}'"
        mask = None
        if camera.settings.mask_topic:
            patient = time.monotonic() - arrival.received < limits.tf_timeout / 2
            mask = camera.mask_near(arrival.stamp, limits.mask_tolerance, patient)
            if mask is None:
                return f"no mask on '{camera.settings.mask_topic}'"
        labels = camera.labels_at(arrival.stamp) if camera.settings.labels_topic else None
        if isinstance(labels, str):
            return labels
        return ReadyFrame(camera, arrival, model, pose, mask, labels, self._epoch)

    def _accumulate(self, ready: ReadyFrame) -> None:
        """Extractor and back-projection of one frame.

        Raises:
            FeatureGsError: it can't be used.
        """
        settings, stamp = ready.source.settings, ready.arrival.stamp
        gate = self._gates[settings.name]
        refusal = gate.refusal(stamp, ready.camera_from_map, self.limits().keyframes)
        if refusal is not None:
            self._statistics.skip(refusal)
            return
        name = str(stamp) if len(self.cameras) == 1 else f"{stamp}_{settings.name}"
        pinhole, grid = self._features(ready, name)
        valid = pinhole.valid
        ignored = ready.source.ignored(ready.camera, ready.mask)
        if ignored is not None:
            counts = torch.from_numpy(counted_pixels(ignored, grid))
            valid = counts if valid is None else valid & counts
        view = self._field.map.view(pinhole.camera, ready.camera_from_map)
        if ready.epoch != self._epoch:  # time jumped back while the extractor had it
            self._statistics.skip(JUMPED)
            return
        try:
            self._field.add(view, grid, valid, name, pinhole.image)
        except FeatureGsError:  # of this frame
            raise
        except Exception as error:  # of the batch that it completed
            self._lose_waiting(error)
            raise
        self._remember(ready, name, pinhole, valid)
        self._compare_with_map(ready, name, pinhole)
        self._waiting_for_flush.append(stamp)
        if len(self._waiting_for_flush) >= BATCH:
            self._flush()

    def _compare_with_map(self, ready: ReadyFrame, name: str, pinhole: PinholeView) -> None:
        """Now and then, whether the image shows the map where tf says: wrong poses would else go unnoticed."""
        if ready.source.settings.kind != "grid":
            frame = Frame(name, pinhole.camera, ready.camera_from_map, lambda: pinhole.image)
            self.recent.keep(frame)
            self.pose_check.look(self._field.gaussians, frame, self._field.map.splat_from_map)

    def _remember(self, ready: ReadyFrame, name: str, pinhole: PinholeView, valid: torch.Tensor | None) -> None:
        """The frame was used: later ones are compared with it, unless time jumped back since."""
        last = LastFrame(
            name,
            ready.arrival.stamp,
            ready.arrival.message.header.frame_id,
            ready.camera,
            ready.camera_from_map,
            None if ready.source.settings.kind == "grid" else pinhole.image,
            None if valid is None else valid.numpy() > 0,
        )
        with self.changed:
            if ready.epoch == self._epoch:
                self._gates[ready.source.settings.name].take(last.stamp, last.camera_from_map)
                ready.source.last = last

    def _features(self, ready: ReadyFrame, name: str) -> tuple[PinholeView, FeatureGrid]:
        message, extractor = ready.arrival.message, self._field.map.extractor
        is_grid = ready.source.settings.kind == "grid"
        load = partial(_blank, ready.camera) if is_grid else ready.source.image(message, ready.camera)
        frame = Frame(name, ready.camera, ready.camera_from_map, load, ready.arrival.stamp)
        pinhole = pinhole_view(frame, self._field.map.splat_from_map)
        if is_grid:
            return pinhole, grid_from_message(message, extractor.identity)
        if ready.labels is not None:
            return pinhole, _labelled(extractor, ready.labels, ready)
        device = self._field.backend.device
        with on("extractor", device):
            grid = extract(extractor, pinhole.image, frame)
        follow("extractor", device, grid.values)
        return pinhole, grid

    def _flush(self) -> None:
        """Nothing else is ready: accumulate what waits for a batch, so that no frame waits for the next one."""
        if not self._waiting_for_flush:
            return
        try:
            self._field.flush()
        except Exception as error:  # memory may run out
            self._lose_waiting(error)
            return
        now = self._now()
        for stamp in self._waiting_for_flush:
            self._statistics.use((now - stamp) * 1e-9)
        self._waiting_for_flush.clear()

    def _lose_waiting(self, error: Exception) -> None:
        """A batch failed: its frames are gone."""
        if self._waiting_for_flush:
            self._leave_out(error, len(self._waiting_for_flush))
        self._waiting_for_flush.clear()


def _labelled(extractor: Extractor, messages: LabelMessages, ready: ReadyFrame) -> FeatureGrid:
    """The features of a detector's label image, moved as the lens is rectified.

    Raises:
        ImageError, ExtractorError: it can't be used.
    """
    assert isinstance(extractor, LabelsExtractor)
    topic, camera = ready.source.settings.labels_topic, ready.camera
    labels = decode_labels(messages.labels, topic)
    if messages.names is not None:
        labels = with_classes(labels, names_of_values(messages.names), extractor.names)
    grid = extractor.grid(labels, camera.height, camera.width, topic)
    return grid if camera.distortion is None else rectified_grid(grid, camera)


def _waiting_since(camera: CameraInput) -> float:
    return camera.pending[0].received if camera.pending else float("inf")


def _blank(camera: Camera) -> Image:
    """Stands for the image that a grid was made of: only the lens is asked about."""
    return np.zeros((camera.height, camera.width, 3), np.uint8)
