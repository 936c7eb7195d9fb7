"""Session: what exists only while feature_map is active: the map, its field, tf, cameras and the worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import ParameterError
from feature_gs_ros.extractors.labels import LabelsExtractor
from feature_gs_ros.io.atomic import remove_abandoned
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.live.health import Health
from feature_gs_ros.live.live_field import LiveField, LiveMap
from feature_gs_ros.live.object_ids import ObjectIds
from feature_gs_ros.live.statistics import Statistics
from feature_gs_ros.numerics.runtime import set_thread_count
from feature_gs_ros.ros.convert.answers import Progress, unwatched
from feature_gs_ros.ros.ingest.camera_input import CameraInput
from feature_gs_ros.ros.ingest.poses import Poses
from feature_gs_ros.ros.ingest.worker import IngestionWorker
from feature_gs_ros.ros.runtime.parameters import value
from feature_gs_ros.ros.runtime.settings import Settings, check_replaceable, extractor_of_settings, ingestion_limits


class Session:
    """Loaded and subscribed on activation; `close` undoes it in the reverse order."""

    def __init__(self, node: Any, settings: Settings) -> None:
        """Load the map and the extractor, go on from a saved field, subscribe, and start the worker.

        Raises:
            FeatureGsError: a file can't be used; what was begun is undone.
        """
        self.settings = settings
        self.left = False  # by a deactivation: what is answered late is for who asked, and for no topic any more
        self._undo: list[Callable[[], Any]] = []
        try:
            self._open(node, settings)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Undo what was begun, the last step first."""
        self.left = True
        while self._undo:
            self._undo.pop()()

    def camera(self, name: str) -> CameraInput:
        """A camera by its name.

        Raises:
            ParameterError: there is none of this name.
        """
        for camera in self.worker.cameras:
            if camera.settings.name == name:
                return camera
        known = ", ".join(camera.settings.name for camera in self.worker.cameras)
        raise ParameterError(f"there is no camera '{name}'; there are {known or 'none'}", code="parameter.missing")

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is doubtful about the poses of the views learned: those of a loaded field, and live ones."""
        return self.field.doubted(self.worker.pose_check.findings).doubts

    def save(self, name: str = "", progress: Progress = unwatched) -> Path:
        """Save the field below data_dir, by default under the parameter field.

        Raises:
            FieldError: the name leads out of data_dir or to another kind of file, or the file can't be written.
            StoppedError: ``progress`` stopped it; what was there stays.
        """
        path = self.settings.field_path(name)
        check_replaceable(path)
        remove_abandoned(path.parent)
        self.field.keep_findings(self.worker.pose_check.findings)
        self.field.save(path, lambda step: progress(step, 0.0))
        return path

    def _open(self, node: Any, settings: Settings) -> None:
        if settings.threads > 0:
            set_thread_count(settings.threads)
        saved = settings.field_path()
        for folder in {settings.data.path, saved.parent, settings.library.parent}:
            remove_abandoned(folder)
        if value(node, "save_on_deactivate"):
            check_replaceable(saved)  # now, not when all has been learned
        learned = FeatureField.load(saved) if value(node, "load_on_activate") and saved.exists() else None
        self.field = LiveField(
            LiveMap(
                load_map(settings.map_path),
                settings.map_path,
                settings.splat_from_map,
                extractor_of_settings(settings, learned),
                settings.backend,
                settings.budget,
                settings.looks,
            )
        )
        if learned is not None:
            self.field.resume(learned)
            self.field.load_edits(saved)
        self.object_ids, self.region_ids = ObjectIds(), ObjectIds(of_any_label=False)
        self.statistics, self.health = Statistics(), Health(settings.health)
        self.poses = Poses(node, settings.map_frame)
        self._undo.append(self.poses.close)
        self.worker = IngestionWorker(
            self.field,
            self.poses,
            self.statistics,
            partial(ingestion_limits, node),
            lambda: int(node.get_clock().now().nanoseconds),
            node.get_logger(),
        )
        for camera in settings.cameras:
            if camera.labels_topic and not isinstance(self.field.map.extractor, LabelsExtractor):
                raise ParameterError(
                    f"parameter {camera.name}.labels_topic is for the extractor labels, not for "
                    f"'{self.field.map.extractor.identity.name}'",
                    code="parameter.conflict",
                )
            source = CameraInput(node, camera, self.worker.changed, self.statistics, self.worker.on_jump)
            self._undo.append(source.close)
            self.worker.cameras.append(source)
        # A jump back of more than a moment: a recording that began again under use_sim_time.
        back = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-0.1), on_clock_change=False)
        handle = node.get_clock().create_jump_callback(
            back, post_callback=lambda _: self.worker.on_jump("the clock went back")
        )
        self._undo.append(handle.unregister)
        self._undo.append(self.worker.stop)
        self.worker.start()
