"""``feature-gs align``: estimate ``splat_from_map`` and write the alignment file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from feature_gs_ros.cli.checks import check_number, check_outputs
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.core.progress import ProgressBar, note, say
from feature_gs_ros.frames.comparison import comparison_picture
from feature_gs_ros.frames.features import spread_frames
from feature_gs_ros.frames.hand_eye import align_hand_eye
from feature_gs_ros.frames.markers import align_markers, find_markers, load_markers
from feature_gs_ros.frames.matching import MatchBy
from feature_gs_ros.frames.plane import align_plane
from feature_gs_ros.frames.points import align_points, load_point_pairs
from feature_gs_ros.frames.pose_alignment import align_poses
from feature_gs_ros.frames.poses import load_poses
from feature_gs_ros.frames.relocalise import align_images
from feature_gs_ros.frames.report import AlignmentReport
from feature_gs_ros.io.alignment import load_alignment, save_alignment, sim3_as_mapping
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png

PICTURED = 4  # frames in a picture


def poses(
    stream: Path,
    reference: Path,
    /,
    *,
    out: Path,
    by: MatchBy = "auto",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Align by camera poses of the same images in both frames; a minority may be wrong.

    Args:
        stream: poses in the map frame: a recording with tf, a folder of NAME.npy, or a TUM trajectory.
        reference: poses in the splat's frame: COLMAP folder, transforms.json, or as above.
        out: the alignment file to write.
        by: match poses by name, by stamp (the clock offset is estimated) or by the shape of the motion.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    check_outputs({"--out": out}, [stream, reference])
    return _finish(align_poses(load_poses(stream, bag), load_poses(reference), by), out, json)


def hand_eye(
    flange: Path,
    reference: Path,
    /,
    *,
    out: Path,
    by: MatchBy = "auto",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Align by poses of the arm's flange; also calibrates the camera's pose on the flange.

    Args:
        flange: base_from_flange poses: a folder of NAME.npy (4x4, metres), a TUM trajectory, or a stream whose poses
            are the flange's.
        reference: camera poses in the splat's frame: COLMAP folder or transforms.json.
        out: the alignment file to write; it also holds flange_from_camera.
        by: match by name or by stamp.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    check_outputs({"--out": out}, [flange, reference])
    return _finish(align_hand_eye(load_poses(flange, bag), load_poses(reference), by), out, json)


def images(
    map: Path,  # noqa: A002 - the word of the command line
    stream: Path,
    /,
    *,
    out: Path,
    start: Path | None = None,
    picture: Path | None = None,
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Align by images alone: localise them in the map, globally or from a start near by.

    Args:
        map: splat map.
        stream: posed images in the map frame.
        out: the alignment file to write.
        start: alignment within some 20 cm and 20 degrees; without it the whole map is searched.
        picture: PNG of live and rendered images side by side and blended.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    check_outputs({"--out": out, "--picture": picture}, [map, stream, start])
    gaussians, frames = load_map(map), list(open_stream(stream, bag=bag).frames())
    with ProgressBar("aligning", "step", quiet=json, keep_partial=False).running() as progress:
        report = align_images(gaussians, frames, None if start is None else load_alignment(start), progress)
    if picture is not None:
        chosen = [frames[index] for index in spread_frames(frames, PICTURED)]
        save_png(comparison_picture(gaussians, chosen, report.splat_from_map), picture)
    return _finish(report, out, json)


def points(pairs: Path, /, *, out: Path, json: bool = False) -> int:
    """Align by three or more pairs of points.

    Args:
        pairs: YAML with points: {NAME: {map: [x, y, z], splat: [x, y, z]}}.
        out: the alignment file to write.
        json: print one JSON object.
    """
    check_outputs({"--out": out}, [pairs])
    return _finish(align_points(*load_point_pairs(pairs)), out, json)


def markers(
    reference: Path,
    known: Path,
    /,
    *,
    out: Path,
    json: bool = False,
) -> int:
    """Align by ArUco markers or AprilTags whose pose in the map frame is known.

    Args:
        reference: images with poses in the splat's frame that show the markers, from two sides or more.
        known: YAML with dictionary, size and markers: {ID: {translation, rotation_wxyz}} (map_from_marker; x right,
            y up, z out of it).
        out: the alignment file to write.
        json: print one JSON object.
    """
    check_outputs({"--out": out}, [reference, known])
    return _finish(align_markers(find_markers(open_stream(reference).frames(), load_markers(known))), out, json)


def plane(
    map: Path,  # noqa: A002 - the word of the command line
    reference: Path,
    /,
    *,
    out: Path,
    camera_height: Annotated[tuple[str, ...], tyro.conf.UseAppendAction],
    height: float = 0.0,
    start: Path | None = None,
    json: bool = False,
) -> int:
    """Align by a table top or floor at a known height, and known heights of cameras above it.

    Args:
        map: splat map whose largest plane is the known one.
        reference: camera poses in the splat's frame, all above the plane.
        out: the alignment file to write.
        camera_height: NAME=METRES of a frame above the plane, for the scale; may be repeated.
        height: of the plane in the map frame, z in metres.
        start: alignment whose heading and horizontal position are kept.
        json: print one JSON object.
    """
    check_outputs({"--out": out}, [map, reference, start])
    heights = dict(_height(text) for text in camera_height)
    given = None if start is None else load_alignment(start)
    return _finish(align_plane(load_map(map), load_poses(reference), height, heights, given), out, json)


def _height(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        metres = float(value)
    except ValueError:
        metres = float("nan")
    if not name or metres != metres:
        raise OptionError(f"--camera-height '{text}' is not NAME=METRES, e.g. 0001=0.45", code="option.value")
    check_number("--camera-height", metres, 0, above=True)
    return name, metres


def _finish(report: AlignmentReport, out: Path, json: bool) -> int:
    """Write the file, and print what is known about it."""
    extra: dict[str, object] = {}
    if report.flange_from_camera is not None:
        rigid = Sim3(1.0, quat_wxyz_from_rotation(report.flange_from_camera[:3, :3]), report.flange_from_camera[:3, 3])
        extra["flange_from_camera"] = {name: value for name, value in sim3_as_mapping(rigid).items() if name != "scale"}
    save_alignment(report.splat_from_map, out, report.summary(), **extra)
    for warning in report.warnings:
        note(f"warning: {warning}")
    if json:
        print_json({"alignment": str(out), **report.as_json()})
    else:
        say(report.table())
        say(f"wrote {out}")
    return 0
