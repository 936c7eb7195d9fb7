"""``backproject --resume``: the same recording goes on, another one is added, and nothing is taken twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.provenance import Provenance, Recording
from feature_gs_ros.backprojection.shards import merge_fields
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.io.structured import Table
from tests.command_line import run
from tests.little_scene import FRAMES, write_scene, write_stream

OTHERS = ("a", "b", "c")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


def lift(scene: Path, stream: Path, out: Path, *words: object, code: int = 0) -> dict[str, object]:
    told = run(
        "backproject", scene / "map.ply", stream, "--out", out, "--extractor", "color", "--json", *words, code=code
    )
    return json.loads(told.stdout) if code == 0 else {"error": told.stderr}


@pytest.mark.slow
@pytest.mark.parametrize("names", [OTHERS, FRAMES[:3]])
def test_a_second_recording_adds_its_views(names: tuple[str, ...], scene: Path, tmp_path: Path) -> None:
    """Frames of other names, and of the same: either way the field is the sum of both recordings."""
    second = write_stream(tmp_path / "second", names, aside=0.3)
    out = tmp_path / "field"
    assert lift(scene, scene, out)["views"] == 6
    assert lift(scene, second, out, "--resume")["views"] == 3
    both = FeatureField.load(out)
    assert both.provenance.frames == (*FRAMES, *names)
    assert both.provenance.stream == str(second)
    assert both.provenance.taken_from(str(scene)) == FRAMES
    assert [view.name for view in both.provenance.views] == [*FRAMES, *names]
    lift(scene, scene, tmp_path / "first")
    lift(scene, second, tmp_path / "alone")
    summed = merge_fields([FeatureField.load(tmp_path / name) for name in ("first", "alone")])
    assert torch.equal(both.view_count, summed.view_count)
    assert torch.allclose(both.features, summed.features, atol=1e-5)
    assert summed.provenance.taken_from(str(second)) == names
    # Both again: all is taken.
    assert lift(scene, second, out, "--resume")["views"] == 0
    assert lift(scene, scene, out, "--resume")["views"] == 0
    assert torch.equal(FeatureField.load(out).view_count, both.view_count)
    facts = json.loads(run("info", out, "--json").stdout)
    assert (facts["stream"], facts["earlier_streams"]) == (str(scene), [str(second)])


def test_a_resumed_field_keeps_its_transform_and_codec(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "moved.yaml").write_text(
        "splat_from_map:\n  scale: 1\n  rotation_wxyz: [1, 0, 0, 0]\n  translation: [0.1, 0, 0]\n"
    )
    (tmp_path / "none.yaml").write_text(
        "splat_from_map:\n  scale: 1\n  rotation_wxyz: [1, 0, 0, 0]\n  translation: [0, 0, 0]\n"
    )
    out = tmp_path / "field"
    lift(scene, scene, out, "--codec", "random:2", "--every", 2)
    before = out.read_bytes()
    for words, message in [
        (("--alignment", tmp_path / "moved.yaml"), "is another transform than that of the field"),
        (("--codec", "random:1"), "stores random:2; leave it out"),
        (("--codec", "pca:2"), "stores random:2; leave it out"),
    ]:
        assert message in str(lift(scene, scene, out, "--resume", *words, code=2)["error"])
        assert out.read_bytes() == before
    same = ("--alignment", tmp_path / "none.yaml", "--codec", "random:2")
    assert lift(scene, scene, out, "--resume", *same)["views"] == 3


def test_frames_are_known_by_recording_and_name() -> None:
    first = Provenance("map", stream="one", frames=("0", "1"))
    both = first.going_on_with("two")
    assert both.taken_from("two") == ()
    assert both.earlier == (Recording("one", ("0", "1")),)
    assert both.going_on_with("two") is both
    assert both.taken_from("three") == ()
    again = both.going_on_with("one")
    assert (again.taken_from("one"), again.earlier) == (("0", "1"), ())
    joined = first.joined(Provenance("map", stream="two", frames=("1", "2")))
    assert joined.frames == ("0", "1", "1", "2")
    assert (joined.taken_from("one"), joined.taken_from("two")) == (("0", "1"), ("1", "2"))
    assert (
        Provenance.from_table(Table(json.loads(json.dumps(joined.as_json())), "it", FieldError)).earlier
        == joined.earlier
    )
