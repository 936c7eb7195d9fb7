"""``feature-gs synth``: the demo's tabletop."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.core.progress import ProgressBar, say


def synth(
    directory: Path,
    /,
    *,
    views: int = 24,
    width: int = 640,
    height: int = 480,
    gaussians: int = 60_000,
    distorted: bool = False,
) -> int:
    """Make a tabletop with ground truth: a splat map, a rosbag2 recording of it, masks and the alignment.

    Args:
        directory: folder to write.
        views: number of images in the recording.
        width: image width, pixels.
        height: image height, pixels.
        gaussians: approximate size of the map.
        distorted: also record through a distorting lens.
    """
    from feature_gs_ros.synthetic import record, tabletop

    with ProgressBar("ray marching", "view").running() as progress:
        record(
            directory,
            tabletop(),
            views=views,
            width=width,
            height=height,
            gaussians=gaussians,
            distorted=distorted,
            progress=progress,
        )
    ending = " (stopped early: the streams end with the last view)" if progress.interrupted else ""
    say(f"wrote map.ply, stream, masks, parts, alignment.yaml and ground_truth.safetensors to {directory}{ending}")
    return 130 if progress.interrupted else 0
