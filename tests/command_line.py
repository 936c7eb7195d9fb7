"""``feature-gs`` in the test's own process, with what it prints and its exit code."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from feature_gs_ros.cli import main


@dataclass(frozen=True)
class Outcome:
    stdout: str
    stderr: str

    @property
    def error_code(self) -> str:
        """The stable code of the error that ended the command, from the end of its one line; empty if there is none."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("feature-gs: ")]
        assert len(lines) <= 1, self.stderr
        return lines[0].rpartition("[")[2].rstrip("]") if lines and lines[0].endswith("]") else ""


def run(*words: object, code: int = 0) -> Outcome:
    """The command in this process: what it prints and its exit code are those of the console script."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    outcome = Outcome(out.getvalue(), err.getvalue())
    assert (end.value.code or 0) == code, outcome
    assert "Traceback" not in outcome.stderr
    return outcome
