"""Every parameter of the nodes: default, description, range, unit, and whether it may change while they run.

Imports nothing of ROS.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

MAX_TURN = 1.0  # rad of keyframe.rotation: degrees, as 0.1 took them, are beyond

Value = bool | int | float | str | list[str] | list[float]


@dataclass(frozen=True)
class Parameter:
    """One parameter. A range is inclusive; a read-only parameter is changed by starting the node again."""

    name: str
    default: Value
    description: str  # with the unit
    low: float | None = None
    high: float | None = None
    read_only: bool = True
    hint: str = ""  # for a value that is out of range


MAP = (
    Parameter("map", "", "Path of the pretrained splat map."),
    Parameter("map_frame", "map", "tf frame that poses are taken from and answers are given in."),
    Parameter("alignment", "", "Path of a file with splat_from_map; empty: the three parameters below."),
    Parameter("splat_from_map.scale", 1.0, "Splat units per metre.", 1e-6, 1e6),
    Parameter("splat_from_map.rotation_xyzw", [0.0, 0.0, 0.0, 1.0], "Unit quaternion x y z w."),
    Parameter(
        "splat_from_map.rotation_wxyz",
        [1.0, 0.0, 0.0, 0.0],
        "The same as w x y z, as in 0.1; leave one of the two out.",
    ),
    Parameter("splat_from_map.translation", [0.0, 0.0, 0.0], "Splat units."),
    Parameter("splat_frame", "splat", "tf frame of the splat's axes, below map_frame, that ~/align publishes."),
    Parameter("backend", "auto", "Rasteriser: auto, cpu, cuda, cuda:N, warp-cpu or reference."),
    Parameter("threads", 0, "Threads of the kernels; 0: all cores.", 0, 1024),
    Parameter("memory_budget", 0.0, "GB that the field may take; 0: most of what is free.", 0.0, 1e5),
    Parameter("looks", 24, "Small images that the field keeps at most, to verify answers; 0: none.", 0, 1000),
    Parameter("data_dir", "~/.ros/feature_gs_ros", "Folder below which services read and write files."),
    Parameter("field", "field.safetensors", "File of the learned field, relative to data_dir."),
    Parameter("affordances", "affordances.safetensors", "File of the marked images, relative to data_dir."),
    Parameter("load_on_activate", False, "Continue the learned field of an earlier run, if there is one."),
    Parameter("save_on_deactivate", False, "Save the learned field when the node is deactivated, stopped or killed."),
)
EXTRACTOR = (
    Parameter("extractor", "imagenet", "Name of the 2D extractor; saved (feature_map only): the loaded field's."),
    Parameter("extractor_options", "{}", "Options of the extractor, as a YAML mapping."),
)
CAMERAS = (
    Parameter("cameras", ["camera"], "Names of the cameras; each has the parameters <camera>.image and so on."),
    Parameter(
        "image_reliability", "best_effort", "Of the images' subscriptions: best_effort or reliable (as grids are)."
    ),
    Parameter("queue_size", 10, "Frames per camera that may wait for tf and for the extractor.", 1, 1000),
    Parameter("tf_timeout", 1.0, "s that a frame waits for tf, camera_info and its mask.", 0.0, 60.0, read_only=False),
    Parameter(
        "tf_max_gap",
        0.2,
        "Longest gap in s of a dynamic transform that poses are interpolated across; at least three of its usual "
        "periods.",
        0.0,
        60.0,
        read_only=False,
    ),
    Parameter("mask_tolerance", 0.02, "s between an image's stamp and its mask's.", 0.0, 1.0, read_only=False),
    Parameter(
        "keyframe.translation", 0.02, "m that a camera must move before its next frame is used.", 0.0, 100.0, False
    ),
    Parameter(
        "keyframe.rotation",
        0.035,
        "rad that a camera must turn before its next frame is used.",
        0.0,
        MAX_TURN,
        read_only=False,
        hint="it is in radians since 0.2, in degrees before: multiply by 0.01745, so that 2 degrees become 0.035",
    ),
    Parameter("keyframe.min_interval", 0.0, "Minimum interval in s between a camera's frames.", 0.0, 3600.0, False),
    Parameter(
        "keyframe.max_interval", 0.0, "s after which a frame of a still camera is used; 0: never.", 0.0, 3600.0, False
    ),
)
ANSWERS = (
    Parameter("verify", True, "Verify text answers in the images that the field keeps.", read_only=False),
    Parameter(
        "objects.reach", 0.0, "m within which Gaussians are one object; 0: by the map's density.", 0.0, 100.0, False
    ),
    Parameter("objects.max_count", 20, "Maximum number of objects per answer.", 1, 10000, read_only=False),
    Parameter("collision.shape", "box", "Of MoveIt's collision objects: box or hull (convex, at most 64 faces)."),
    Parameter(
        "collision.support_plane", True, "Also publish the map's largest plane as a collision object.", read_only=False
    ),
    Parameter("publish_map_cloud", True, "Publish the whole map once, on activation and by ~/republish."),
    Parameter("status_rate", 1.0, "Hz of ~/status and /diagnostics.", 0.01, 100.0),
    Parameter("diagnostics.period", 5.0, "Period in s that /diagnostics covers.", 0.1, 3600.0),
    Parameter(
        "diagnostics.max_dropped",
        0.2,
        "Fraction of dropped frames above which /diagnostics warns; frames of a still camera don't count.",
        0.0,
        1.0,
    ),
    Parameter(
        "diagnostics.max_latency",
        2.0,
        "95th percentile of the latency from stamp to map in s, above which /diagnostics warns.",
        0.0,
        3600.0,
    ),
    Parameter("warmup", True, "Compile the kernels on configuration, so that the first frame doesn't wait."),
)
START = (
    Parameter("autostart", False, "Configure and activate automatically when the program starts."),
    Parameter(
        "bond_heartbeat_period",
        0.1,
        "s between signs of life to nav2's lifecycle manager, where the package bond is installed; 0: none.",
        0.0,
        10.0,
    ),
)
FEATURE_MAP = (*START, *MAP, *EXTRACTOR, *CAMERAS, *ANSWERS)
FEATURE_EXTRACTOR = (
    *START,
    *EXTRACTOR,
    Parameter("image", "image", "Topic of the images."),
    Parameter("camera_info", "camera_info", "Topic of their calibration."),
    Parameter("queue_size", 100, "Images that may wait; of the waiting ones, the newest is processed.", 1, 1000),
    Parameter("rectified", False, "Images are already undistorted: P of camera_info is used."),
    Parameter("input", "raw", "raw, or compressed: then <image>/compressed is subscribed."),
    Parameter("image_reliability", "best_effort", "Of the image's subscription: best_effort or reliable."),
    Parameter("min_interval", 0.0, "Minimum interval in s between grids.", 0.0, 3600.0, read_only=False),
)
BAG_PLAYER = (
    Parameter("bag", "", "Path of a rosbag2 recording, MCAP or sqlite3."),
    Parameter("rate", 1.0, "Speed: 1 is real time.", 0.01, 100.0),
    Parameter("loop", False, "Restart at the end."),
    Parameter("clock", False, "Publish /clock from the recording's stamps, for use_sim_time."),
    Parameter("restamp", True, "Shift stamps to the time of playing; not with clock."),
    Parameter("delay", 1.0, "s before the first message, for subscribers to connect.", 0.0, 3600.0),
)
PAGE = (
    Parameter("node", "feature_map", "Name of the feature_map that is shown and asked, in this node's namespace."),
    Parameter("host", "localhost", "To listen on; anything but localhost lets others in, who then may edit the map."),
    Parameter("port", 8080, "To listen on; 0 for any that is free, which the log says.", 0, 65535),
    Parameter("map_frame", "map", "tf frame of feature_map's answers."),
    Parameter("image", "image", "Topic of the camera's images."),
    Parameter("camera_info", "camera_info", "Topic of their calibration."),
    Parameter("input", "raw", "raw, or compressed: then <image>/compressed is subscribed."),
    Parameter("rectified", False, "The images need no undistortion: P of camera_info counts."),
    Parameter("queue_size", 10, "Images that may wait for their tf; the newest that can be placed is shown.", 1, 1000),
    Parameter("image_reliability", "best_effort", "Of the image's subscription: best_effort or reliable."),
    Parameter("image_rate", 2.0, "Hz: of the images no more are shown.", 0.1, 30.0),
    Parameter("tf_max_gap", 1.0, "s of tf's silence that is interpolated across.", 0.0, 60.0),
)


def camera_parameters(camera: str) -> tuple[Parameter, ...]:
    """The parameters of one camera."""
    return (
        Parameter(f"{camera}.image", "image", "Topic of the images or grids."),
        Parameter(f"{camera}.camera_info", "camera_info", "Topic of their calibration."),
        Parameter(f"{camera}.input", "raw", "raw, compressed (<image>/compressed is subscribed) or grid."),
        Parameter(f"{camera}.rectified", False, "Images are already undistorted: P of camera_info is used."),
        Parameter(
            f"{camera}.mask_image", "", "Path of a grey PNG of the image's size: pixels that aren't black are ignored."
        ),
        Parameter(
            f"{camera}.mask_topic", "", "Topic of mono8 masks with the images' stamps: nonzero pixels are ignored."
        ),
        Parameter(
            f"{camera}.labels_topic",
            "",
            "Topic of a detector's label images (mono8, mono16) with the images' stamps, for the extractor labels.",
        ),
        Parameter(f"{camera}.labels_info", "", "Topic of vision_msgs/LabelInfo that names the labels' classes."),
        Parameter(
            f"{camera}.labels_detections",
            "",
            "Topic of vision_msgs/Detection2DArray with the images' stamps that names the labels' objects by their id.",
        ),
    )


def config_text(node: str, parameters: Sequence[Parameter]) -> str:
    """The file config/<node>.yaml: every parameter with its default, what it means, its range, and if it may change."""
    lines = [f"# Every parameter of the node {node} with its default. Read-only ones are changed by a restart.", ""]
    lines += [f"/**/{node}:", "  ros__parameters:"]
    for parameter in parameters:
        notes = [parameter.description]
        if parameter.low is not None and parameter.high is not None:
            notes.append(f"From {parameter.low:g} to {parameter.high:g}.")
        if parameter.read_only:
            notes.append("Read-only.")
        lines += [f"    # {' '.join(notes)}", f"    {parameter.name}: {json.dumps(parameter.default)}"]
    return "\n".join(lines) + "\n"
