"""The node feature_extractor: images to feature grids, so that the extractor may run on another host than the map."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType

from feature_gs_ros.backprojection.ingest import extract
from feature_gs_ros.core.camera import Frame, rectified
from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.extractors import extractor_names, make_extractor
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.messages.feature_grid import fill_grid
from feature_gs_ros.live.statistics import Statistics
from feature_gs_ros.msg import FeatureGrid
from feature_gs_ros.ros.convert.answers import header_message
from feature_gs_ros.ros.ingest.camera_input import Arrival, CameraInput, CameraSettings
from feature_gs_ros.ros.runtime.bond import Bond
from feature_gs_ros.ros.runtime.lifecycle import RefusingLifecycleNode, transition
from feature_gs_ros.ros.runtime.parameter_table import FEATURE_EXTRACTOR
from feature_gs_ros.ros.runtime.parameters import chosen, declare, value
from feature_gs_ros.ros.runtime.qos import GRIDS, STATUS
from feature_gs_ros.ros.runtime.run import run
from feature_gs_ros.ros.runtime.settings import extractor_options

INFO_TIMEOUT = 1.0  # s that images wait for camera_info


class FeatureExtractor(RefusingLifecycleNode):
    """Takes the newest image whenever the extractor is free; what came in between is counted."""

    def __init__(self, **options: Any) -> None:
        super().__init__("feature_extractor", **options)
        declare(self, FEATURE_EXTRACTOR)
        self._changed = threading.Condition()
        self._statistics = Statistics()
        self._settings: CameraSettings | None = None
        self._input: CameraInput | None = None
        self._grids: Any = None
        self._diagnostics: Any = None
        self._timer: Any = None
        self._worker: threading.Thread | None = None
        self._bond: Bond | None = None
        self._stopping = False

    def on_configure(self, state: Any) -> Any:
        """Parameters and publishers."""
        return transition(self, self._configure, super().on_configure, state, undo=self._clean_up)

    def on_activate(self, state: Any) -> Any:
        """The extractor, subscriptions and the worker."""
        return transition(self, self._activate, super().on_activate, state, undo=self._deactivate)

    def on_deactivate(self, state: Any) -> Any:
        """Undo what activation did."""
        return transition(self, self._deactivate, super().on_deactivate, state)

    def on_cleanup(self, state: Any) -> Any:
        """Publishers go."""
        return transition(self, self._clean_up, super().on_cleanup, state)

    def on_shutdown(self, state: Any) -> Any:
        """All of it, from any state."""
        return transition(self, self.close, super().on_shutdown, state)

    def close(self) -> None:
        """Undo whatever was done."""
        self._deactivate()
        self._clean_up()

    def _configure(self) -> None:
        kind = chosen(self, "input", ("raw", "compressed"))
        chosen(self, "image_reliability", ("best_effort", "reliable"))
        extractor_options(self)
        self._settings = CameraSettings(
            "camera", value(self, "image"), value(self, "camera_info"), kind, value(self, "rectified"), "", ""
        )
        self._grids = self.create_publisher(FeatureGrid, "~/features", GRIDS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATUS)

    def _activate(self) -> None:
        assert self._settings is not None
        extractor = make_extractor(chosen(self, "extractor", extractor_names()), **extractor_options(self))
        self._stopping = False
        self._statistics = Statistics()
        self._input = CameraInput(self, self._settings, self._changed, self._statistics, self._on_jump)
        clock, group = Clock(clock_type=ClockType.STEADY_TIME), MutuallyExclusiveCallbackGroup()
        self._timer = self.create_timer(1.0, self._report, callback_group=group, clock=clock)
        self._worker = threading.Thread(target=self._run, args=(extractor, self._input), name="extractor")
        self._worker.start()
        self._bond = Bond(self)

    def _deactivate(self) -> None:
        if self._bond is not None:
            self._bond.close()
            self._bond = None
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        if self._input is not None:
            self._input.close()
            self._input = None

    def _clean_up(self) -> None:
        for publisher in (self._grids, self._diagnostics):
            if publisher is not None:
                self.destroy_publisher(publisher)
        self._grids = self._diagnostics = None

    def _on_jump(self, reason: str) -> None:
        self.get_logger().warning(f"{reason}: waiting images are discarded")
        if self._input is not None:
            self._statistics.skip("time jumped back", self._input.forget())

    def _run(self, extractor: Extractor, source: CameraInput) -> None:
        last = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: source.pending or self._stopping)
                # An image may overtake the calibration, which comes by another topic.
                self._changed.wait_for(lambda: source.has_info or self._stopping, INFO_TIMEOUT)
                if self._stopping:
                    return
                if not source.pending:  # time jumped back
                    continue
                arrival = source.pending.pop()
                self._statistics.skip("newer image came while the extractor was busy", len(source.pending))
                source.pending.clear()
            if 0 <= arrival.stamp - last < 1e9 * float(value(self, "min_interval")):
                self._statistics.skip("sooner than min_interval")
                continue
            last = arrival.stamp
            try:
                self._publish(extractor, source, arrival)
            except FeatureGsError as error:
                self._statistics.skip(str(error))
            except Exception as error:  # a network may raise anything, and the thread must live
                self._statistics.skip(f"{type(error).__name__} in the extractor, see the log")
                self.get_logger().error(f"an image is dropped: {traceback.format_exc()}")

    def _publish(self, extractor: Extractor, source: CameraInput, arrival: Arrival) -> None:
        """
        Raises:
            FeatureGsError: the image can't be used.
        """
        camera = source.camera_for(arrival.message)
        if camera is None:
            self._statistics.skip(f"no camera_info on '{source.settings.camera_info}'")
            return
        frame = Frame(str(arrival.stamp), camera, np.eye(4), source.image(arrival.message, camera), arrival.stamp)
        image, _, _ = rectified(frame.image, camera)
        grid = extract(extractor, image, frame)
        header = arrival.message.header
        message = FeatureGrid(header=header_message(header.frame_id, header.stamp))
        message.width, message.height = camera.width, camera.height
        fill_grid(message, grid, extractor.identity)
        self._grids.publish(message)
        self._statistics.use(self.get_clock().now().nanoseconds * 1e-9 - arrival.stamp * 1e-9)

    def _report(self) -> None:
        report = self._statistics.report()
        idle = report.seen > 0 and report.used == 0
        level = DiagnosticStatus.WARN if idle else DiagnosticStatus.OK
        entry = DiagnosticStatus(level=level, name=self.get_fully_qualified_name(), message=f"{report.used} grids")
        values = {"images seen": report.seen, "grids": report.used, "latency p95 [s]": round(report.latency, 3)}
        values |= {f"skipped: {reason}": count for reason, count in report.skipped.items()}
        entry.values = [KeyValue(key=key, value=str(content)) for key, content in values.items()]
        now = self.get_clock().now().to_msg()
        self._diagnostics.publish(DiagnosticArray(header=header_message("", now), status=[entry]))


def main() -> None:
    """The program feature_extractor."""
    run(FeatureExtractor)
