"""``feature-gs doctor``: find faults in a stream."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.cli.checks import check_number, check_outputs
from feature_gs_ros.cli.common import alignment_or_identity, print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.core.progress import note
from feature_gs_ros.doctor.arm_mask import arm_mask
from feature_gs_ros.doctor.diagnosis import diagnose
from feature_gs_ros.doctor.evidence import VIEWS, Evidence
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png


def doctor(
    stream: Path,
    /,
    *,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    alignment: Path | None = None,
    views: int = VIEWS,
    mask: Path | None = None,
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Check a stream for wrong poses, scale, intrinsics, images or timestamps. Exit code 1 if anything is wrong.

    Args:
        stream: rosbag2 folder or file, COLMAP folder, nerfstudio folder, or folder with cameras.json.
        map: splat map that the images should show; without it only stamps, poses and image quality are checked.
        alignment: splat_from_map file, if the stream's poses are not in the map's frame.
        views: number of images checked, spread over the stream.
        mask: PNG to write: 255 where all images are the same (the robot's own arm).
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    check_number("--views", views, 2, 1000)
    if alignment is not None and map is None:
        raise OptionError("--alignment leads to the frame of --map: give the map, too", code="option.conflict")
    check_outputs({"--mask": mask}, [stream, map, alignment])
    gaussians = None if map is None else load_map(map)
    source = open_stream(stream, bag=bag)
    diagnosis = diagnose(source, gaussians, alignment_or_identity(alignment), views)
    if mask is not None:
        pixels = arm_mask(Evidence.of(source, None, alignment_or_identity(alignment), views))
        if pixels is None:
            note("no pixels are the same in all images: no mask is written")
        else:
            save_png(pixels, mask)
    if json:
        print_json(diagnosis.as_json())
    else:
        print(diagnosis)
    return 0 if diagnosis.is_good else 1
