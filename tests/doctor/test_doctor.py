"""The doctor names faults put into good recordings, and says nothing about good ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.diagnosis import Diagnosis, diagnose
from feature_gs_ros.doctor.findings import Finding, ranked
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.io.streams.rosbag import RosbagStream
from feature_gs_ros.io.structured import Table
from feature_gs_ros.synthetic.faults import FAULTS, AlteredStream, LateStream, mildly_noisy
from tests.command_line import run

pytestmark = pytest.mark.slow

Scene = tuple[GaussianMap, Sim3, list[Frame]]
VIEWS = 6  # looked at: fewer than usual, to be quick
# Every family on the straight or the distorted recording; docs/frames.md has them all on full-size recordings.
STRAIGHT = (
    "OpenGL axes", "flange poses", "mm for m", "scale 6 to 40% off", "alignment 3 to 12 cm off", "frozen poses",
    "stamps out of order", "half the resolution", "crop", "mirrored", "red and blue swapped", "own arm",
    "motion blur", "under-exposed", "distortion applied twice", "pose of the next frame", "transposed",
    "shuffled poses", "one image again and again", "another camera's intrinsics", "each pose off by 1 to 2 cm",
    "repeated stamps", "negatives",
)  # fmt: skip
DISTORTED = ("inverse poses", "principal point 3 to 10% off", "distortion not applied")


@pytest.fixture(scope="module")
def straight(posed_scene: Path) -> Scene:
    frames = list(open_stream(posed_scene / "stream").frames())
    return load_map(posed_scene / "map.ply"), load_alignment(posed_scene / "alignment.yaml"), frames


@pytest.fixture(scope="module")
def distorted(posed_scene: Path, straight: Scene) -> Scene:
    return straight[0], straight[1], list(open_stream(posed_scene / "stream_distorted").frames())


def examined(scene: Scene, stream: AlteredStream) -> Diagnosis:
    return diagnose(stream, scene[0], scene[1], VIEWS)


@pytest.mark.parametrize("name", STRAIGHT)
def test_faults_are_named_first(straight: Scene, name: str) -> None:
    diagnosis = examined(straight, FAULTS[name].apply(straight[2]))
    assert diagnosis.findings, str(diagnosis)
    assert diagnosis.findings[0].code in FAULTS[name].codes, str(diagnosis)


@pytest.mark.parametrize("name", DISTORTED)
def test_faults_behind_a_lens_are_named_first(distorted: Scene, name: str) -> None:
    diagnosis = examined(distorted, FAULTS[name].apply(distorted[2]))
    assert diagnosis.findings, str(diagnosis)
    assert diagnosis.findings[0].code in FAULTS[name].codes, str(diagnosis)


def test_good_recordings_raise_no_alarm(straight: Scene, distorted: Scene) -> None:
    for scene in (straight, distorted):
        assert examined(scene, AlteredStream("good", scene[2])).findings == ()
        assert examined(scene, mildly_noisy(scene[2], seed=1)).findings == ()


def test_the_offset_of_the_clocks_is_estimated(posed_scene: Path, straight: Scene) -> None:
    """tf at 50 Hz has the poses between the images."""
    recording = open_stream(posed_scene / "stream")
    assert isinstance(recording, RosbagStream)
    diagnosis = examined(straight, LateStream(recording, 0.2))
    assert diagnosis.findings[0].code == "time.offset"
    assert diagnosis.findings[0].values["offset_ms"] == pytest.approx(-200, abs=15)


def test_without_a_map_stamps_and_images_speak(straight: Scene) -> None:
    assert diagnose(AlteredStream("good", straight[2])).findings == ()
    for name in ("stamps out of order", "frozen poses", "own arm", "motion blur"):
        first = diagnose(FAULTS[name].apply(straight[2])).findings[0]
        assert first.code in FAULTS[name].codes


def test_the_command_line(posed_scene: Path) -> None:
    words = ["doctor", posed_scene / "stream", "--map", posed_scene / "map.ply", "--views", "4", "--json"]
    good = run(*words, "--alignment", posed_scene / "alignment.yaml")
    assert json.loads(good.stdout)["good"] is True
    bad = run(*words, code=1)  # no alignment: the poses are in another frame
    assert json.loads(bad.stdout)["findings"][0]["code"] in ("alignment.off", "scale", "scene.other")


def test_findings_come_back_from_json() -> None:
    finding = Finding("scale", "warning", 0.7, "the scale is off", "divide", ("a", "b"), {"factor": 1.1})
    written = Table(json.loads(json.dumps(finding.as_json())), "a finding", FieldError)
    assert Finding.from_table(written) == finding
    grave = Finding("poses.inverse", "error", 0.6, "", "")
    assert ranked([finding, grave]) == (grave, finding)


def test_the_recorded_tabletop_is_good(tabletop: Path) -> None:
    """A map trained from real images, blurred here and there, and its recording."""
    stream, gaussians = open_stream(tabletop / "stream"), load_map(tabletop / "map.ply")
    diagnosis = diagnose(stream, gaussians, load_alignment(tabletop / "alignment.yaml"))
    assert diagnosis.findings == ()
    assert np.isfinite(diagnosis.supported)
