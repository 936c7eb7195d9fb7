"""How a stream is read: what the command line, the nodes and a program may choose. No recording is opened for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BagOptions:
    """How a stream is read; all but `images` belong to recordings."""

    map_frame: str = "map"  # recordings: the tf frame that poses are given in
    image_topics: tuple[str, ...] = ()  # recordings: image topics; by default one per colour camera with a camera_info
    camera_info_topics: tuple[str, ...] = ()  # recordings: one per image topic; by default named as ROS usually does
    camera_info_file: Path | None = None  # recordings: calibration file to use instead of camera_info
    rectified: bool | None = None  # recordings: images are already undistorted; by default for topics image_rect*
    tf: Path | None = None  # recordings: static transforms they lack, as a YAML list or a URDF with fixed joints
    images: Path | None = None  # other streams: folder of the images, if not the usual one
