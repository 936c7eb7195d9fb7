"""Files that say something about one another are replaced together, wherever a writer is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.editing import Delete, Edit, EditStack, Selection
from feature_gs_ros.io.atomic import atomic_files, atomic_path, finish_interrupted
from feature_gs_ros.io.splats.registry import load_map, save_ply
from tests.disk import largest_file

# Ends as a kill does at the n-th of the calls that change what is in the folder.
KILLED = """
import os, pathlib, sys
from feature_gs_ros.io import atomic
left = int(sys.argv[2])
def counted(call):
    def counting(*arguments, **options):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return call(*arguments, **options)
    return counting
for name in ("rename", "replace", "unlink", "rmdir", "chmod", "write_text"):
    setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
first = pathlib.Path(sys.argv[1])
with atomic.atomic_files(first, first.with_name("map.ply.edits")) as paths:
    for path in paths:
        with path.open("w") as file:
            file.write("new")
"""


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_both_old_or_both_new(tmp_path: Path) -> None:
    seen = set()
    for step in range(20):
        folder = tmp_path / str(step)
        folder.mkdir()
        first, second = folder / "map.ply", folder / "map.ply.edits"
        first.write_text("old")
        second.write_text("old")
        code = subprocess.run([sys.executable, "-c", KILLED, str(first), str(step)], check=False).returncode
        finish_interrupted(first)
        assert first.read_text() == second.read_text()
        seen.add((code, first.read_text()))
        with atomic_files(first, second) as paths:  # the next writer leaves nothing of the killed one
            for path in paths:
                path.write_text("next")
        assert contents(folder) == {"map.ply": "next", "map.ply.edits": "next"}
        if code == 0:
            break
    assert seen == {(9, "old"), (9, "new"), (0, "new")}


def test_a_failed_write_leaves_both_old(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "a.edits"
    first.write_text("old")
    second.write_text("old")

    def write(size: int) -> None:
        with atomic_files(first, second) as paths:
            paths[0].write_text("new")
            paths[1].write_bytes(b"x" * (size // (size < 1 << 20)))

    with pytest.raises(ZeroDivisionError):
        write(1 << 20)
    with largest_file(4096), pytest.raises(OSError, match="File too large"):
        write(1 << 19)
    assert contents(tmp_path) == {"a": "old", "a.edits": "old"}


def test_links_keep_leading_where_they_led(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "map.ply"
    link.symlink_to("there/real.ply")
    with atomic_files(link, tmp_path / "map.ply.edits") as paths:
        for path in paths:
            path.write_text("new")
    assert link.is_symlink()
    assert link.read_text() == (tmp_path / "map.ply.edits").read_text() == "new"


@pytest.mark.parametrize("names", [["../out"], ["other"], ["map.ply", "/etc/x"], "map.ply", [3], None, ["map.ply/x"]])
def test_a_folder_that_came_with_the_data_replaces_nothing_else(names: object, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    first = folder / "map.ply"
    for path in (first, folder / "other", tmp_path / "out"):
        path.write_text("old")
    planted = next_complete(first)
    planted.mkdir()
    (planted / "files.json").write_text(json.dumps(names))
    for name in ("other", "out", "x"):
        (planted / name).write_text("planted")
    finish_interrupted(first)
    assert {(folder / "other").read_text(), (tmp_path / "out").read_text(), first.read_text()} == {"old"}


def next_complete(first: Path) -> Path:
    """The folder that a killed writer leaves, as a writer killed on purpose shows it."""
    probe = first.parent / "probe"
    probe.mkdir()
    (probe / first.name).write_text("old")
    for step in range(20):
        subprocess.run([sys.executable, "-c", KILLED, str(probe / first.name), str(step)], check=False)
        found = list(probe.glob(".*.complete"))
        if found:
            name = found[0].name
            break
    for path in sorted(probe.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    probe.rmdir()
    return first.with_name(name)


def test_what_killed_writers_left_goes_with_the_next_of_the_same_name(tmp_path: Path) -> None:
    code = f"""
import os
from feature_gs_ros.io.atomic import atomic_path
with atomic_path({str(tmp_path / "field")!r}) as temporary:
    temporary.write_bytes(bytes(1000))
    os._exit(9)
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=False)
    with atomic_path(tmp_path / "other") as temporary:
        temporary.write_text("x")
    assert len(list(tmp_path.iterdir())) == 2  # of the name 'field' still one: the last killed
    with atomic_path(tmp_path / "field") as temporary:
        temporary.write_text("x")
    assert contents(tmp_path) == {"field": "x", "other": "x"}


def small_map() -> GaussianMap:
    generator = torch.Generator().manual_seed(0)
    return GaussianMap.from_tensors(
        torch.rand(200, 3, generator=generator), torch.rand(200, 4, generator=generator) + 0.1,
        torch.full((200, 3), 0.1), torch.full((200,), 0.5), torch.rand(200, 1, 3, generator=generator), "it",
    )  # fmt: skip


def test_one_selection_in_two_edits_is_saved(tmp_path: Path) -> None:
    save_ply(small_map(), tmp_path / "map.ply")
    gaussians = load_map(tmp_path / "map.ply")
    selection = Selection(torch.arange(50), torch.full((50,), 0.5))
    stack = EditStack(gaussians)
    stack.push(Edit(Delete(), "half", selection))
    stack.push(Edit(Delete(), "half again", selection))
    stack.save(tmp_path / "edits")
    again = EditStack.load(tmp_path / "edits", gaussians)
    assert [edit.prompt for edit in again.edits] == ["half", "half again"]
    assert torch.equal(again.edited().gaussians.opacities, stack.edited().gaussians.opacities)


def test_many_edits_are_applied_once_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_ply(small_map(), tmp_path / "map.ply")
    stack = EditStack(load_map(tmp_path / "map.ply"))
    calls, apply = [], Delete.apply
    monkeypatch.setattr(Delete, "apply", lambda *arguments: calls.append(1) or apply(*arguments))  # type: ignore[func-returns-value]
    for row in range(40):
        stack.push(Edit(Delete(), str(row), Selection(torch.tensor([row]), torch.ones(1))))
    assert len(calls) == 40
    assert int(stack.edited().present.sum()) == 160
    stack.undo()
    assert int(stack.edited().present.sum()) == 161
    stack.redo()
    assert int(stack.edited().present.sum()) == 160
