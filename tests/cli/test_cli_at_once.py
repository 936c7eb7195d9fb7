"""Commands that read a file, change it and write it back, several at once: no change is lost, and all are done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from feature_gs_ros.affordance.library import Library
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.editing import EditStack
from feature_gs_ros.io.locks import locked
from feature_gs_ros.io.splats.registry import load_map
from tests.command_line import run
from tests.little_scene import FRAMES, write_scene, write_stream

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-c", "from feature_gs_ros.cli import main; main()"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_scene(tmp_path_factory.mktemp("scene"))
    run("backproject", folder / "map.ply", folder, "--extractor", "color", "--out", folder / "field")
    return folder


def at_once(*commands: list[object]) -> None:
    """Run them at the same time; all must end well."""
    processes = [
        subprocess.Popen([*COMMAND, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for words in commands
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(commands), said


def nothing_left(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_edits(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "edited.ply"
    points = ("@0.3,0.1,0.0", "@-0.3,0.1,0.0", "@0.1,-0.2,0.0")
    at_once(*(["edit", scene / "field", "--recolor", point, "--out", out] for point in points))
    stack = EditStack.load(tmp_path / "edited.ply.edits", load_map(scene / "map.ply"))
    assert sorted(edit.prompt for edit in stack.edits) == sorted(points)
    assert nothing_left(tmp_path)


def test_additions_to_a_library(scene: Path, tmp_path: Path) -> None:
    library, picture, mask = tmp_path / "library", scene / "images" / "0000.png", scene / "masks" / "0000.png"
    words = ["affordance", "add", picture, mask, "--extractor", "color", "--affordance", "grip", "--library", library]
    at_once(*([*words, "--name", name] for name in ("a", "b", "c")))
    assert sorted(source.name for source in Library.load(library).sources) == ["a", "b", "c"]
    assert nothing_left(tmp_path)


def test_recordings_onto_one_field(scene: Path, tmp_path: Path) -> None:
    names = ("a", "b", "c")
    streams = [write_stream(tmp_path / name, (f"{name}0", f"{name}1")) for name in names]
    out = tmp_path / "field"
    out.write_bytes((scene / "field").read_bytes())
    color = ["--extractor", "color", "--resume", "--out", out]
    at_once(*(["backproject", scene / "map.ply", stream, *color] for stream in streams))
    assert sorted(FeatureField.load(out).provenance.frames) == sorted(
        [*FRAMES, *(f"{n}{k}" for n in names for k in "01")]
    )
    assert nothing_left(tmp_path)


def test_merges_into_one_field(scene: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"part{k}" for k in (1, 2, 3)]
    for number, part in enumerate(parts, start=1):
        run("backproject", scene / "map.ply", scene, "--extractor", "color", "--shard", f"{number}/3", "--out", part)
    at_once(*(["merge", part, "--resume", "--out", tmp_path / "field"] for part in parts))
    assert sorted(FeatureField.load(tmp_path / "field").provenance.frames) == sorted(FRAMES)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("backproject", "map.ply", ".", "--extractor", "color", "--resume", "--out", "field"),
        ("merge", "part", "--resume", "--out", "field"),
        ("distill", "map.ply", ".", "--extractor", "color", "--start", "field", "--out", "field"),
        ("train", ".", "--init", "map.ply", "--iterations", 1, "--resume", "--out", "field.ply"),
        ("edit", "field", "--undo", "--out", "field.ply"),
        ("affordance", "remove", "a", "--library", "field"),
        ("affordance", "merge", "field", "part", "--out", "field"),
    ],
)
def test_who_waits_too_long_changes_nothing(
    words: tuple[str, ...], scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(tmp_path)
    for name in ("field", "part"):
        (tmp_path / name).write_bytes((scene / "field").read_bytes())
    before = (tmp_path / "field").read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locked, "__defaults__", (0.0,))
    monkeypatch.setattr(locked.__wrapped__, "__defaults__", (0.0,))  # type: ignore[attr-defined]
    with locked(Path(words[-1])):
        assert "another process has been changing" in run(*words, code=2).stderr
    assert (tmp_path / "field").read_bytes() == before
    assert json.loads((tmp_path / "cameras.json").read_text())
