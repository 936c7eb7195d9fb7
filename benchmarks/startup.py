"""What starting costs: importing the package, and the help of the command line; medians over processes.

The package aims at 50 ms for the import beside the interpreter's own start, and 0.4 s for the help.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

RUNS = 7


def main() -> dict[str, float]:
    """Print and return wall and processor seconds."""
    programs = {
        "python": ["-c", "pass"],
        "import feature_gs_ros": ["-c", "import feature_gs_ros"],
        "feature-gs --help": ["-m", "feature_gs_ros.cli", "--help"],
    }
    results = {}
    print(f"{'':<24}{'wall':>8}{'processor':>12}")
    for name, words in programs.items():
        runs = [_seconds(words) for _ in range(RUNS)]
        wall, processor = (statistics.median(values) for values in zip(*runs, strict=True))
        results |= {f"startup: {name}, wall": wall, f"startup: {name}, processor": processor}
        print(f"{name:<24}{wall:>6.3f} s{processor:>10.3f} s")
    return results


def _seconds(words: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one Python process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
