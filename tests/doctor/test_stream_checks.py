"""Nothing wrong in silence: commands look at a few images before they take from a stream."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.diagnosis import diagnose
from feature_gs_ros.doctor.quick import ViewVerdict, check_pairs, check_stream, findings_of
from feature_gs_ros.io.alignment import load_alignment, save_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import save_png
from feature_gs_ros.synthetic.faults import FAULTS, AlteredStream, mildly_noisy
from tests.command_line import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def off(posed_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An alignment that is 6 cm off."""
    path = tmp_path_factory.mktemp("alignments") / "off.yaml"
    change = Sim3(1.0, np.array([1.0, 0, 0, 0]), np.array([0.04, -0.045, 0.0]))
    save_alignment(load_alignment(posed_scene / "alignment.yaml") @ change, path)
    return path


def test_wrong_poses_are_refused_and_a_field_that_trusts_them_says_so(
    posed_scene: Path, off: Path, tmp_path: Path
) -> None:
    field = tmp_path / "f.field"
    words = [
        "backproject", posed_scene / "map.ply", posed_scene / "stream", "--extractor", "color", "--every", "3",
        "--out", field,
    ]  # fmt: skip
    refused = run(*words, "--alignment", off, code=2)
    assert "feature-gs doctor" in refused.stderr
    assert "--trust-poses" in refused.stderr
    assert not field.exists()
    trusted = run(*words, "--alignment", off, "--trust-poses", "--json")
    assert json.loads(trusted.stdout)["findings"][0]["code"] == "poses.mismatch"
    assert json.loads(run("info", field, "--json").stdout)["findings"][0]["code"] == "poses.mismatch"
    answer = run("query", field, "red", "--json")
    assert json.loads(answer.stdout)["warnings"]
    assert "doubtful poses" in answer.stderr
    good = run(*words, "--alignment", posed_scene / "alignment.yaml", "--json")
    assert json.loads(good.stdout)["findings"] == []
    assert "images looked at show the map where their poses say" in good.stderr


@pytest.mark.parametrize("command", ["identity", "distill", "train"])
def test_other_commands_refuse_as_well(posed_scene: Path, off: Path, tmp_path: Path, command: str) -> None:
    given, stream, out = posed_scene / "map.ply", posed_scene / "stream", tmp_path / "out.ply"
    words = {
        "identity": ["identity", given, stream, "--masks", posed_scene / "masks"],
        "distill": ["distill", given, stream, "--extractor", "color"],
        "train": ["train", stream, "--init", given],
    }[command]
    refused = run(*words, "--out", out, "--alignment", off, code=2)
    assert "from elsewhere than their poses say" in refused.stderr


def test_what_is_checked(posed_scene: Path) -> None:
    """Wrong from the seventh image on, and no alarm where poses and exposure are only a little noisy."""
    gaussians, alignment = load_map(posed_scene / "map.ply"), load_alignment(posed_scene / "alignment.yaml")
    frames = list(open_stream(posed_scene / "stream_distorted").frames())
    aside = np.eye(4)
    aside[:3, 3] = [0.05, 0.0, 0.03]
    moved = [replace(frame, camera_from_world=aside @ frame.camera_from_world) for frame in frames[6:]]
    late = AlteredStream("late", [*frames[:6], *moved])
    verdict = check_stream(late, late.names(), gaussians, alignment)
    assert [finding.code for finding in verdict.findings] == ["poses.mismatch"]
    assert set(verdict.findings[0].frames) <= {frame.name for frame in frames[6:]}
    for seed in range(2):
        noisy = mildly_noisy(frames, seed)
        assert check_stream(noisy, noisy.names(), gaussians, alignment).findings == ()


@pytest.mark.parametrize(
    ("name", "code", "severity"),
    [
        ("mm for m", "poses.mismatch", "error"),
        ("transposed rotations", "poses.mismatch", "error"),
        ("mirrored vertically", "poses.mismatch", "error"),
        ("pose of the next frame", "poses.mismatch", "error"),
        ("red and blue swapped", "images.red-blue-swapped", "warning"),
        ("under-exposed", "images.exposure", "warning"),
    ],
)
def test_what_is_not_recognised_is_looked_for(posed_scene: Path, name: str, code: str, severity: str) -> None:
    """Images that match nothing by their poses aren't taken for uninformative ones."""
    gaussians, alignment = load_map(posed_scene / "map.ply"), load_alignment(posed_scene / "alignment.yaml")
    frames = list(open_stream(posed_scene / "stream").frames())
    wrong = FAULTS[name].apply(frames, seed=1)
    verdict = check_stream(wrong, wrong.names(), gaussians, alignment)
    assert [(finding.code, finding.severity) for finding in verdict.findings] == [(code, severity)], str(verdict)


def test_without_a_map_neighbours_are_compared(posed_scene: Path) -> None:
    """A wrong convention is certain, and what all poses share can't be seen."""
    frames = list(open_stream(posed_scene / "stream_distorted").frames())
    for good in (AlteredStream("good", frames), mildly_noisy(frames, seed=3)):
        verdict = check_pairs(good, good.names())
        assert verdict.findings == ()
        assert sum(view.state == "fits" for view in verdict.views) > 3
    bad = FAULTS["inverse poses"].apply(frames)
    assert [finding.severity for finding in check_pairs(bad, bad.names()).findings] == ["error"]
    assert diagnose(bad).findings[0].code == "poses.inverse"
    scaled = FAULTS["mm for m"].apply(frames)
    assert check_pairs(scaled, scaled.names()).findings == ()
    few = AlteredStream("few", frames[:1])
    assert check_pairs(few, few.names()).findings == ()


def test_training_from_nothing_refuses_poses_that_disagree(posed_scene: Path, tmp_path: Path) -> None:
    """Poses of OpenGL cameras in a nerfstudio file that says they are OpenCV ones, as an exporter gets them wrong."""
    frames = list(open_stream(posed_scene / "stream").frames())
    (tmp_path / "images").mkdir()
    entries = []
    for frame in frames:
        save_png(frame.image, tmp_path / "images" / f"{frame.name}.png")
        pose = np.linalg.inv(frame.camera_from_world)  # the file's cameras are OpenGL ones: y and z not flipped
        entries.append({"file_path": f"images/{frame.name}.png", "transform_matrix": pose.tolist()})
    camera = frames[0].camera
    content = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy, "w": camera.width,
               "h": camera.height, "frames": entries}  # fmt: skip
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    words = ["train", tmp_path, "--out", tmp_path / "map.ply", "--iterations", "1", "--gaussians", "500"]
    refused = run(*words, code=2)
    assert "disagree with their neighbours" in refused.stderr
    assert "--trust-poses" in refused.stderr
    assert not (tmp_path / "map.ply").exists()


def test_views_that_tell_nothing_raise_no_alarm() -> None:
    unknown = ViewVerdict("a", "unknown", 0, 3)
    fits, elsewhere = ViewVerdict("b", "fits", 30, 31), ViewVerdict("c", "elsewhere", 2, 30)
    assert findings_of([unknown, unknown]) == ()
    assert findings_of([fits, unknown]) == ()
    unseen, strange = ViewVerdict("d", "unseen", 0, 0), ViewVerdict("e", "unrecognised", 1, 3)
    assert [finding.severity for finding in findings_of([unseen, unseen], is_whole=True)] == ["error"]
    assert [finding.code for finding in findings_of([strange, fits])] == ["scene.unrecognised"]
    assert findings_of([strange, *[fits] * 5]) == ()
    assert [finding.severity for finding in findings_of([fits, fits, elsewhere])] == ["warning"]
    assert [finding.severity for finding in findings_of([fits, elsewhere, elsewhere])] == ["error"]
