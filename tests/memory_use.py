"""How much memory a few lines take at most, seen from a process of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

_PROGRAM = """
import resource
{setup}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {lines}
    outcome = "done"
except Exception as error:
    outcome = getattr(error, "code", type(error).__name__)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, outcome)
"""


def peak_megabytes(setup: str, lines: str) -> tuple[float, str]:
    """Megabytes by which the process's largest size grew over ``lines``, and "done" or the error's code."""
    program = _PROGRAM.format(
        setup=textwrap.dedent(setup), lines=textwrap.dedent(lines).strip().replace("\n", "\n    ")
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    kilobytes, outcome = told.stdout.split()
    return int(kilobytes) / 1024, outcome
