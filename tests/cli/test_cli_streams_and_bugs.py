"""What a command prints, where, and what becomes of a bug: nothing is lost, and nothing acts on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.cli import commands, main
from tests.command_line import run
from tests.little_scene import FRAMES, write_scene

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from feature_gs_ros.cli import main; main()"]


def broken(error: BaseException) -> object:
    def command(*_: object) -> NoReturn:
        raise error

    return command


def test_a_bug_is_one_line_and_a_log_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(commands, "run", broken(KeyError("\x1b[2J deep inside")))
    told = run("info", "x", code=70)
    (line,) = told.stderr.splitlines()
    assert "\x1b" not in line
    (log,) = (tmp_path / "feature_gs_ros").iterdir()
    assert str(log) in line
    assert "Traceback" in log.read_text()
    assert "deep inside" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_a_bug_without_a_place_for_its_log_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/x")
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/dev/null/x")
    monkeypatch.setattr(commands, "run", broken(KeyError("deep inside")))
    with pytest.raises(SystemExit) as end:
        main(["info", "x"])
    assert end.value.code == 70
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "deep inside" in told


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError("Could not load 'libllvmlite.so': failed to map segment from shared object"),
    ],
)
def test_a_failed_allocation_is_no_bug(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run", broken(error))
    assert "memory" in run("info", "x", code=2).stderr


def test_closed_or_unread_streams_cost_no_field(tmp_path: Path) -> None:
    """Without stderr its number would go to the next file opened, and what is printed into that."""
    scene = write_scene(tmp_path)
    words = ["backproject", str(scene / "map.ply"), str(scene), "--extractor", "color"]
    closed = f"exec {sys.executable} -c 'from feature_gs_ros.cli import main; main()' \"$@\" 2>&- >&-"
    shell = ["bash", "-c", closed, "bash", *words, "--out", str(tmp_path / "closed")]
    assert subprocess.run(shell, timeout=300, check=False).returncode == 0
    reading, writing = os.pipe()
    os.close(reading)  # as of a pager that was left
    unread = subprocess.run(
        [*COMMAND, *words, "--out", str(tmp_path / "unread")], stderr=writing, timeout=300, check=False
    )
    os.close(writing)
    assert unread.returncode == 0
    for name in ("closed", "unread"):
        assert len(FeatureField.load(tmp_path / name).provenance.frames) == len(FRAMES)


def test_names_in_any_bytes_are_written_and_read(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    out = tmp_path / os.fsdecode(b"caf\xe9 \x1b[31m")
    run("backproject", scene / "map.ply", scene, "--extractor", "color", "--out", out)
    told = run("info", out)
    assert "\x1b" not in told.stdout + told.stderr
    odd = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    plain = subprocess.run(
        [*COMMAND, "info", "--json", os.fsencode(tmp_path) + b"/caf\xe9 \x1b[31m"],
        env=odd, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    assert json.loads(plain.stdout)


def test_escapes_in_files_are_not_printed(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    map_path = scene / "a\x1b]0;title\x07.ply"
    (scene / "map.ply").rename(map_path)
    told = run("backproject", map_path, scene, "--extractor", "color", "--out", tmp_path / "field")
    more = run("info", tmp_path / "field")
    map_path.unlink()
    lost = run("query", tmp_path / "field", "red", code=2)
    for outcome in (told, more, lost):
        assert "\x1b" not in outcome.stdout + outcome.stderr
        assert "\x07" not in outcome.stdout + outcome.stderr
    assert "\\x1b]0;title\\x07.ply" in lost.stderr


def test_pipes_loops_of_links_and_folders_as_files_are_refused(tmp_path: Path) -> None:
    scene = write_scene(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for words in (
        ("info", tmp_path / "pipe"),
        ("backproject", tmp_path / "pipe", scene, "--out", tmp_path / "f"),
        ("backproject", scene / "map.ply", tmp_path / "pipe", "--out", tmp_path / "f"),
        ("backproject", scene / "map.ply", scene, "--alignment", tmp_path / "pipe", "--out", tmp_path / "f"),
        ("backproject", scene / "map.ply", scene, "--out", "."),
        ("backproject", scene / "map.ply", scene, "--out", tmp_path / "loop"),
        ("backproject", tmp_path / "loop", scene, "--out", tmp_path / "f"),
        ("train", scene, "--out", "."),
        ("edit", tmp_path / "none", "--delete", "mug", "--out", "."),
        ("distill", scene / "map.ply", scene, "--out", "/"),
        ("affordance", "list", tmp_path / "pipe"),
    ):
        assert len(run(*words, code=2).stderr.splitlines()) == 1
