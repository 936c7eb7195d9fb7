"""Poses corrected view by view: nearer to the truth where they were noisy, and hardly touched where they were right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.geometry import camera_centre
from feature_gs_ros.frames.refined_stream import MAX_OF_DEPTH, RefinedStream
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.synthetic.faults import AlteredStream

pytestmark = pytest.mark.slow


def degrees(first: Frame, second: Frame) -> float:
    """Angle between two cameras."""
    change = first.camera_from_world[:3, :3] @ second.camera_from_world[:3, :3].T
    return float(np.degrees(np.linalg.norm(Rotation.from_matrix(change).as_rotvec())))


def test_noisy_poses_come_nearer_to_the_truth(posed_scene: Path) -> None:
    gaussians, alignment = load_map(posed_scene / "map.ply"), load_alignment(posed_scene / "alignment.yaml")
    frames = list(open_stream(posed_scene / "stream").frames())[::2]
    rng = np.random.default_rng(0)
    noisy = []
    for frame in frames:
        change = np.eye(4)
        change[:3, :3] = Rotation.from_rotvec(rng.normal(0, np.radians(0.7), 3)).as_matrix()
        change[:3, 3] = rng.normal(0, 0.004, 3)
        noisy.append(replace(frame, camera_from_world=change @ frame.camera_from_world))
    refined = RefinedStream(AlteredStream("noisy", noisy), gaussians, alignment)
    off = [degrees(after, frame) for after, frame in zip(refined.frames(), frames, strict=True)]
    before = [degrees(given, frame) for given, frame in zip(noisy, frames, strict=True)]
    assert np.median(off) < 0.6 * np.median(before)
    assert all(correction.metres <= MAX_OF_DEPTH * 1.5 for correction in refined.corrections.values())
    right = RefinedStream(AlteredStream("right", frames), gaussians, alignment)
    moved = [
        np.linalg.norm(camera_centre(after.camera_from_world) - camera_centre(frame.camera_from_world))
        for after, frame in zip(right.frames(), frames, strict=True)
    ]
    assert np.median(moved) < 0.003
