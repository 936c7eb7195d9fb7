"""The commands of ``feature-gs`` by name, and how one is run; what a command needs is imported when it is asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import tyro

import feature_gs_ros.cli

Command = Callable[..., Any]


class Entry(NamedTuple):
    """Where a command lies, and the first line of its help, so that a list of all imports none."""

    module: str  # below feature_gs_ros.cli
    function: str
    summary: str

    def load(self) -> Command:
        """The command, imported."""
        # Importing torch makes half a million objects and frees next to none: looking for cycles among them, again and
        # again, took a tenth of the import.
        gc.disable()
        try:
            command: Command = getattr(import_module(f"{feature_gs_ros.cli.__name__}.{self.module}"), self.function)
        finally:
            gc.enable()
        gc.freeze()
        return command

    def listed(self) -> Command:
        """A line of a help that lists commands."""

        def line() -> None: ...

        line.__doc__ = self.summary
        return line


COMMANDS: dict[str, Entry] = {
    "synth": Entry(
        "synth",
        "synth",
        "Make a tabletop with ground truth: a splat map, a rosbag2 recording of it, masks and the alignment.",
    ),
    "train": Entry("train", "train", "Train a 3D Gaussian map from posed images, and save it as a 3DGS PLY."),
    "distill": Entry("distill", "distill", "Distil a teacher's features into the map, and save them as a field."),
    "backproject": Entry(
        "backproject",
        "backproject",
        "Back-project an extractor's features of every posed image onto the map, and save them as a field.",
    ),
    "chunk": Entry(
        "chunk", "chunk", "Write a splat map in chunks along a Z-curve, for maps that are larger than the memory."
    ),
    "merge": Entry("merge", "merge", "Add up fields of one map: shards of one stream, or several streams."),
    "compress": Entry(
        "compress", "compress", "Store a field in fewer bytes per Gaussian: principal components, eight bits each."
    ),
    "identity": Entry("identity", "identity", "Assign every Gaussian to an object, from masks of some views."),
    "instances": Entry(
        "instances", "instances", "Split a map into objects without words or masks: cluster its features and positions."
    ),
    "query": Entry(
        "query", "query", "Find what a text describes: its Gaussians, objects and positions in the map frame."
    ),
    "render": Entry(
        "render",
        "render",
        "Render a frame's view: image, colour, depth, features as colours; with a query also similarity and mask.",
    ),
    "edit": Entry(
        "edit",
        "edit",
        "Edit the map of a field by text prompts and write it as a PLY; the field's own map stays unchanged.",
    ),
    "doctor": Entry(
        "doctor",
        "doctor",
        "Check a stream for wrong poses, scale, intrinsics, images or timestamps. Exit code 1 if anything is wrong.",
    ),
    "view": Entry(
        "view",
        "view",
        "Serve a web page that shows the map and answers text queries and clicks, with edits and downloads.",
    ),
    "info": Entry("info", "info", "Describe a file or folder: a splat map or checkpoint, a field, or a stream."),
    "extractors": Entry(
        "extractors",
        "extractors",
        "List the extractors: purpose, dimension, and what each still needs on this machine.",
    ),
    "warmup": Entry(
        "warmup",
        "warmup",
        "Compile the rasteriser's kernels in advance, so that the first view doesn't wait for the compiler.",
    ),
}
GROUPS: dict[str, dict[str, Entry]] = {
    "evaluate": {
        "segmentation": Entry(
            "evaluate",
            "segmentation",
            "Mean IoU of the masks that the field predicts, against label images of a stream's frames.",
        ),
        "affordance": Entry(
            "evaluate_affordance",
            "affordance",
            "Mean IoU and recall of transferred affordances, rendered, against part labels of a stream's frames.",
        ),
        "lerf-mask": Entry(
            "evaluate_protocols",
            "lerf_mask",
            "LERF-Mask of Gaussian Grouping: mIoU and boundary IoU of test_mask/<view>/<prompt>.png.",
        ),
        "lerf-ovs": Entry(
            "evaluate_protocols",
            "lerf_ovs",
            "LERF-OVS of LangSplat: mIoU of label/<scene>/frame_*.json, polygons by category.",
        ),
        "3d-ovs": Entry(
            "evaluate_protocols",
            "three_d_ovs",
            "3D-OVS: mIoU and boundary IoU of segmentations/<view>/<class>.png, each pixel of one class.",
        ),
        "replica": Entry(
            "evaluate_protocols",
            "replica",
            "Replica as Feature 3DGS uses it: rendered features' labels against the extractor's on the test images.",
        ),
    },
    "align": {
        "poses": Entry(
            "align", "poses", "Align by camera poses of the same images in both frames; a minority may be wrong."
        ),
        "hand-eye": Entry(
            "align", "hand_eye", "Align by poses of the arm's flange; also calibrates the camera's pose on the flange."
        ),
        "images": Entry(
            "align",
            "images",
            "Align by images alone: localise them in the map, globally or from a start near by.",
        ),
        "points": Entry("align", "points", "Align by three or more pairs of points."),
        "markers": Entry(
            "align", "markers", "Align by ArUco markers or AprilTags whose pose in the map frame is known."
        ),
        "plane": Entry(
            "align", "plane", "Align by a table top or floor at a known height, and known heights of cameras above it."
        ),
    },
    "affordance": {
        "add": Entry("affordance_library", "add", "Add an annotated image to a library of sources."),
        "transfer": Entry(
            "affordance",
            "transfer",
            "Find a library's affordances on a map: regions with poses in the map frame, a cloud, pictures.",
        ),
        "list": Entry("affordance_library", "list_sources", "List a library's sources."),
        "remove": Entry("affordance_library", "remove", "Remove a source from a library."),
        "merge": Entry("affordance_library", "merge", "Merge two libraries of one extractor."),
    },
}


def run(words: list[str]) -> int:
    """Parse a command line and run its command; the exit code."""
    group = GROUPS.get(words[0]) if words else None
    if group is not None:
        prog, entries, words = f"feature-gs {words[0]}", group, words[1:]
    else:
        prog, entries = "feature-gs", COMMANDS | {name: _group(name) for name in GROUPS}
    asked = words[0] if words else ""
    result = tyro.extras.subcommand_cli_from_dict(
        {name: entry.load() if name == asked else entry.listed() for name, entry in entries.items()},
        prog=prog,
        description=feature_gs_ros.cli.__doc__ if group is None else None,
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return int(result or 0)


def _group(name: str) -> Entry:
    """A line of the main help for a group of commands; their own help is one level down."""
    return Entry("", "", f"{', '.join(GROUPS[name])}: see feature-gs {name} --help")
