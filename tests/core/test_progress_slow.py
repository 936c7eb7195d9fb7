"""What takes long says so, and what doesn't is silent."""

from __future__ import annotations

from threading import Event

import pytest

from feature_gs_ros.core import progress


def test_slow_work_is_told_and_quick_work_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Event()
    shown = progress.note
    monkeypatch.setattr(progress, "note", lambda text: (shown(text), told.set()))
    with progress.told_when_slow("reading", seconds=0.0):
        assert told.wait(10)
    with progress.told_when_slow("counting", seconds=3600):
        pass
    assert capsys.readouterr().err == "reading …\n"
