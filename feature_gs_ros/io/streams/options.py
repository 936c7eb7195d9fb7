"""How a stream is read: what the command line, the nodes and a program may choose. No recording is opened for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BagOptions:
    """How a stream is read; all but `images` belong to recordings."""

    map_frame: str = "map"  # of a recording: the tf frame in which poses are given
    image_topics: tuple[str, ...] = ()  # of a recording; by default one of each colour camera that has a camera_info
    camera_info_topics: tuple[str, ...] = ()  # one for each of the image topics; by ROS's usual names by default
    camera_info_file: Path | None = None  # a calibration file instead of the recorded camera_info
    rectified: bool | None = None  # the images need no undistortion; by default where the topic is named image_rect*
    tf: Path | None = None  # static transforms that the recording lacks: a YAML list, or a URDF with fixed joints
    images: Path | None = None  # not of a recording: folder of the images, where it isn't the usual one
