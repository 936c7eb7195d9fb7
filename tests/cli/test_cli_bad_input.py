"""What the outside world can get wrong for any command is one line and exit code 2, never a traceback."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import pytest

import feature_gs_ros.cli.commands  # noqa: F401 - all of it, while every file can be read
from feature_gs_ros.cli import main
from feature_gs_ros.core.cache_folder import cache_folder
from feature_gs_ros.numerics import runtime as kernels
from tests.command_line import run
from tests.little_scene import write_scene

LONG = "n" * 300  # file systems take 255


@pytest.mark.parametrize(
    "words",
    [
        ("query", LONG, "mug"),
        ("info", LONG),
        ("backproject", LONG, "stream", "--out", "field"),
        ("backproject", "map.ply", LONG, "--out", "field"),
        ("backproject", "map.ply", ".", "--out", LONG, "--extractor", "color"),
        ("backproject", "map.ply", ".", "--out", "field", "--extractor", "color", "--alignment", LONG),
        ("backproject", "map.ply", ".", "--out", "field", "--masks", LONG, "--labels", "labels.yaml"),
        ("backproject", "map.ply", ".", "--out", "field", "--extractor", "imagenet", "--weights", LONG),
        ("backproject", "map.ply", ".", "--out", "field", "--cache", LONG),
        ("identity", "map.ply", ".", "--masks", LONG, "--out", "field"),
        ("train", ".", "--out", LONG, "--init", LONG),
        ("affordance", "list", LONG),
    ],
)
def test_names_that_no_file_can_have(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scene(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = [line for line in run(*words, code=2).stderr.splitlines() if line.startswith("feature-gs: ")]
    assert len(said) == 1
    assert not (tmp_path / "field").exists()


@pytest.mark.parametrize(
    ("words", "code", "other"),
    [
        (("edit", "field", "--out", "new.ply", "--delete", "mug", "--by", "1", "0", "0"), "edit.conflict", "--move"),
        (("distill", "map.ply", ".", "--out", "field", "--frozen-by-features"), "training.conflict", "--joint"),
        (("train", ".", "--out", "new.ply", "--alignment", "alignment.yaml"), "training.conflict", "--init"),
    ],
)
def test_options_that_would_change_nothing(
    words: tuple[str, ...], code: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(tmp_path)
    monkeypatch.chdir(tmp_path)
    said = run(*words, code=2)
    assert said.error_code == code
    assert other in said.stderr


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    root = os.geteuid() == 0
    if root:  # whom no mode keeps out
        os.seteuid(65534)
    try:
        said = run("query", closed / "field", "mug", code=2).stderr
    finally:
        if root:
            os.seteuid(0)
    assert said == f"feature-gs: can't use '{closed / 'field'}': Permission denied\n"


@pytest.mark.parametrize("level", ["debug", "Info", "ERROR"])
def test_levels_of_messages_in_any_case(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = logging.getLogger()
    monkeypatch.setattr(messages, "handlers", [])  # pytest's own: with one, nothing is configured
    monkeypatch.setattr(messages, "level", messages.level)
    monkeypatch.setenv("FEATURE_GS_LOG", level)
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert messages.level == getattr(logging, level.upper())


def test_an_environment_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.addfinalizer(lambda: kernels.set_thread_count(None))
    scene = write_scene(tmp_path)
    words = ("backproject", scene / "map.ply", scene, "--out", scene / "field", "--extractor", "color")
    for count in ("abc", "-2", "1.5", "²"):
        kernels.set_thread_count(None)
        monkeypatch.setenv("FEATURE_GS_THREADS", count)
        said = run(*words, code=2)
        assert said.error_code == "option.range"
        assert f"FEATURE_GS_THREADS={count}" in said.stderr
    monkeypatch.setenv("FEATURE_GS_THREADS", "3")
    kernels.set_thread_count(None)
    assert kernels.thread_count() == 3
    monkeypatch.setenv("FEATURE_GS_LOG", "loud")
    said = run(*words, code=2)
    assert said.error_code == "option.unknown"
    assert "FEATURE_GS_LOG=LOUD" in said.stderr


def test_a_user_without_a_home_has_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container that runs under a number: the cache goes to a folder that is this user's alone."""
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)  # nobody's number
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RuntimeError):
        Path.home()
    folder = cache_folder("numba")
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0
