"""Live images beside the map: the first few, then a few per thousand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.live.pose_check import EVERY, FIRST, LivePoseCheck

pytestmark = pytest.mark.slow

ASIDE = Sim3(1.0, np.array([1.0, 0, 0, 0]), np.array([0.05, 0.03, 0.0]))  # metres


def test_wrong_poses_are_an_error_and_few_images_are_looked_at(posed_scene: Path) -> None:
    gaussians, alignment = load_map(posed_scene / "map.ply"), load_alignment(posed_scene / "alignment.yaml")
    frames = list(open_stream(posed_scene / "stream").frames())
    good, bad = LivePoseCheck(), LivePoseCheck()
    for frame in frames:
        good.look(gaussians, frame, alignment)
        bad.look(gaussians, frame, alignment @ ASIDE)
    assert good.findings == ()
    assert [finding.severity for finding in bad.findings] == ["error"]
    looks, elsewhere = bad.counts.values()
    assert looks == FIRST
    assert elsewhere >= FIRST - 1  # an image may tell nothing
    for _ in range(EVERY - len(frames)):
        good.look(gaussians, frames[0], alignment)
    assert list(good.counts.values()) == [FIRST + 1, 0]
