"""Provenance: where a field's features come from, and its JSON in the field's file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, check_pose
from feature_gs_ros.core.errors import CameraError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.io.alignment import sim3_from_mapping
from feature_gs_ros.io.images import MAX_PIXELS
from feature_gs_ros.io.structured import Table

_DOUBTFUL = {"images": "images", "intrinsics": "intrinsics"}  # by the first word of a finding's code


@dataclass(frozen=True, eq=False)
class KnownView:
    """A camera that the field's features came through; pictures are drawn from it."""

    name: str
    camera: Camera  # rectified
    camera_from_splat: NDArray[np.float64]  # [4, 4]

    def as_json(self) -> dict[str, object]:
        camera = self.camera
        return {
            "name": self.name,
            "size": [camera.width, camera.height],
            "intrinsics": [camera.fx, camera.fy, camera.cx, camera.cy],
            "camera_from_splat": self.camera_from_splat.tolist(),
        }

    @staticmethod
    def from_table(content: Table) -> KnownView:
        """What `as_json` gave.

        Raises:
            FeatureGsError: the table's error: it didn't.
            CameraError: the camera or pose is none.
        """
        name = content.text("name")
        width, height = (int(side) for side in content.numbers("size", 2))
        if not 0 < width * height <= MAX_PIXELS:
            raise CameraError(
                f"view '{name}' of the field has {width}×{height} pixels; 1 to {MAX_PIXELS} are possible",
                code="camera.range",
            )
        fx, fy, cx, cy = content.numbers("intrinsics", 4)
        pose = content.array("camera_from_splat", (4, 4))
        camera = Camera(width, height, fx, fy, cx, cy)
        return KnownView(name, camera, check_pose(pose, f"view '{name}' of the field"))


@dataclass(frozen=True)
class Recording:
    """A stream that was taken from, with the names of its frames."""

    stream: str
    frames: tuple[str, ...]


@dataclass(frozen=True)
class Provenance:
    """Where a field comes from, so that it refuses another map and can be added to."""

    map_checksum: str  # `GaussianMap.checksum`
    map_path: str = ""
    stream: str = ""  # the recording taken from last
    splat_from_map: Sim3 = field(default_factory=Sim3.identity)
    frames: tuple[str, ...] = ()  # names of the views accumulated, in order, of all recordings
    views: tuple[KnownView, ...] = ()  # some of them, for pictures
    earlier: tuple[Recording, ...] = ()  # recordings other than `stream`; frames of two may have the same name
    findings: tuple[Finding, ...] = ()  # what was doubtful about the recordings when they were taken from
    map_notes: tuple[str, ...] = ()  # `GaussianMap.notes`: what was concluded when the map was read

    @property
    def doubts(self) -> tuple[str, ...]:
        """A line for each finding, for people."""
        return tuple(
            f"the field rests on doubtful {_DOUBTFUL.get(finding.code.split('.')[0], 'poses')}: {finding.what}"
            for finding in self.findings
            if finding.severity != "note"
        )

    def taken_from(self, stream: str) -> tuple[str, ...]:
        """Names of the frames accumulated of one recording."""
        if stream != self.stream:
            return tuple(name for recording in self.earlier if recording.stream == stream for name in recording.frames)
        others = Counter(name for recording in self.earlier for name in recording.frames)
        return tuple((Counter(self.frames) - others).elements())

    def going_on_with(self, stream: str) -> Provenance:
        """The same, the next frames being those of this recording."""
        if stream == self.stream:
            return self
        others = tuple(recording for recording in self.earlier if recording.stream != stream)
        own = self.taken_from(self.stream)
        return replace(self, stream=stream, earlier=(*others, *([Recording(self.stream, own)] if own else [])))

    def joined(self, other: Provenance) -> Provenance:
        """Of the views of both."""
        taken: dict[str, tuple[str, ...]] = {}
        for part in (self, other):
            for stream in (*(recording.stream for recording in part.earlier), part.stream):
                taken[stream] = taken.get(stream, ()) + part.taken_from(stream)
        earlier = tuple(Recording(stream, names) for stream, names in taken.items() if stream != self.stream and names)
        frames, views = self.frames + other.frames, self.views + other.views
        return replace(self, frames=frames, views=views, earlier=earlier).with_findings(other.findings)

    def with_findings(self, findings: tuple[Finding, ...]) -> Provenance:
        """With these, too."""
        new = tuple(finding for finding in findings if finding not in self.findings)
        return replace(self, findings=self.findings + new)

    def as_json(self) -> dict[str, object]:
        alignment = self.splat_from_map
        return {
            "map_checksum": self.map_checksum,
            "map_path": self.map_path,
            "map_notes": self.map_notes,
            "stream": self.stream,
            "frames": self.frames,
            "earlier": [{"stream": recording.stream, "frames": recording.frames} for recording in self.earlier],
            "splat_from_map": {
                "scale": alignment.scale,
                "rotation_wxyz": np.asarray(alignment.quat_wxyz).tolist(),
                "translation": np.asarray(alignment.translation).tolist(),
            },
            "views": [view.as_json() for view in self.views],
            "findings": [finding.as_json() for finding in self.findings],
        }

    @staticmethod
    def from_table(content: Table) -> Provenance:
        """What `as_json` gave.

        Raises:
            FeatureGsError: the table's error: it didn't.
            AlignmentError: the transform is none.
            CameraError: a view's camera or pose is none.
        """
        return Provenance(
            map_checksum=content.text("map_checksum"),
            map_path=content.text("map_path"),
            map_notes=content.texts("map_notes") if "map_notes" in content else (),
            stream=content.text("stream"),
            splat_from_map=sim3_from_mapping(content.get("splat_from_map"), "the field"),
            frames=content.texts("frames"),
            views=tuple(KnownView.from_table(view) for view in content.tables("views")),
            earlier=tuple(
                Recording(recording.text("stream"), recording.texts("frames"))
                for recording in (content.tables("earlier") if "earlier" in content else ())  # of one there is none
            ),
            findings=tuple(
                Finding.from_table(finding) for finding in (content.tables("findings") if "findings" in content else ())
            ),
        )
