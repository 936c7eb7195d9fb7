"""The harness of `make fuzz`: it reads every format's sound file, passes a few damaged ones, and finds what it must."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.fuzz import TARGETS, Hang, Target, fuzz, hang

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_every_format_is_read_and_a_few_damaged_files_pass(tmp_path: Path) -> None:
    outcomes, failed = fuzz(60.0, 1, tmp_path, most=4 * len(TARGETS))
    assert outcomes.total() == 4 * len(TARGETS)
    assert not failed


def test_what_a_reader_lets_through_is_found_and_kept(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if path.read_bytes() != b"sound":
            raise KeyError("not ours")

    def slow(path: Path) -> None:
        while path.read_bytes() != b"sound":
            signal.raise_signal(signal.SIGALRM)  # as the timer does

    before = signal.signal(signal.SIGALRM, hang)
    try:
        for reader in (read, slow):
            target = Target("planted", "it", lambda path: path.write_bytes(b"sound"), reader)
            outcomes, failed = fuzz(30.0, 0, tmp_path / reader.__name__, (target,), most=5)
            assert outcomes["planted: FAILED"] == len(failed) >= 3
            assert all(path.is_file() for path in failed)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert issubclass(Hang, BaseException)
