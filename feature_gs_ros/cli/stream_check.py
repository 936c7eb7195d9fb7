"""What commands do before they take from a stream: look at a few of its images."""

from __future__ import annotations

from collections.abc import Sequence

from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.progress import note
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.doctor.quick import check_pairs, check_stream
from feature_gs_ros.io.streams.registry import Stream


def checked(
    stream: Stream, names: Sequence[str], gaussians: GaussianMap | None, splat_from_map: Sim3, trust_poses: bool
) -> tuple[Finding, ...]:
    """Findings about a few of the named frames, after a line for a person with the figures.

    Args:
        gaussians: the map that the images should show; None compares neighbouring images with each other.
        trust_poses: go on whatever is found.

    Raises:
        StreamError: the poses are certainly wrong.
    """
    if gaussians is None:
        verdict = check_pairs(stream, names)
    else:
        verdict = check_stream(stream, names, gaussians, splat_from_map)
    if verdict.views:
        note(str(verdict))
    for finding in verdict.findings:
        if finding.severity == "error" and not trust_poses:
            raise StreamError(
                f"'{stream.source}': {finding.what} ({', '.join(finding.frames[:3])} …). {finding.advice}; "
                "--trust-poses goes on all the same",
                code="stream.poses",
            )
        note(f"warning: {finding.what}. {finding.advice}")
    return verdict.findings
