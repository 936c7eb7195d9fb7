"""Several processes that change one file at once: every change lasts, and nobody waits for ever."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from feature_gs_ros.core.errors import BusyError
from feature_gs_ros.io.locks import locked

COUNT = """
import sys
from pathlib import Path
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.locks import locked
path = Path(sys.argv[1])
for _ in range(20):
    with locked(path):
        number = int(path.read_text())
        with atomic_path(path) as temporary:
            temporary.write_text(str(number + 1))
"""


@pytest.mark.slow
def test_no_change_of_several_processes_is_lost(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(counter)]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "60"
    assert list(tmp_path.iterdir()) == [counter]


def test_threads_wait_too_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with locked(tmp_path / "it"):
            begun.set()
            go_on.wait(30)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(30)
    with caplog.at_level(logging.WARNING):
        with pytest.raises(BusyError) as caught, locked(tmp_path / "it", timeout=0.0):
            pass
        assert caught.value.code == "busy"
        with pytest.raises(BusyError), locked(tmp_path / "it", timeout=0.05):
            pass
    assert "waiting for another process" in caplog.text
    go_on.set()
    with locked(tmp_path / "it"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = f"""
import os
from feature_gs_ros.io.locks import locked
with locked({str(tmp_path / "it")!r}):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with locked(tmp_path / "it", timeout=0.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_of_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "it").touch()
    (tmp_path / "link").symlink_to("it")
    with locked(tmp_path / "link"), pytest.raises(BusyError), locked(tmp_path / "it", timeout=0.0):
        pass


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".it.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), locked(tmp_path / "it", timeout=0.0):  # noqa: PT011 - ELOOP
        pass
    assert not os.path.lexists(tmp_path / "elsewhere")
