"""What starting costs: importing the package, the help of the command line, and a question; medians over processes.

The package aims at 50 ms for the import beside the interpreter's own start, 0.4 s for the help, and 1.5 s from shell to
answer. ``python -m benchmarks.startup FIELD [WORD]`` also asks a field, and describes it; the first run of each fills
the caches. Importing torch, which both need, is printed beside them.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

RUNS = 7
TARGETS = {"feature-gs --help": 0.4, "feature-gs query": 1.5, "feature-gs query --json": 1.5}  # wall seconds


def main(field: str | None = None, word: str = "coffee mug") -> dict[str, float]:
    """Print and return wall and processor seconds."""
    command = ["-m", "feature_gs_ros.cli"]
    programs: dict[str, list[str]] = {
        "python": ["-c", "pass"],
        "import feature_gs_ros": ["-c", "import feature_gs_ros"],
        "feature-gs --help": ["-m", "feature_gs_ros.cli", "--help"],
    }
    if field is not None:
        programs |= {
            "import torch": ["-c", "import torch"],
            "feature-gs query": [*command, "query", field, word],
            "feature-gs query --json": [*command, "query", field, word, "--json"],
            "feature-gs info": [*command, "info", field],
        }
        _seconds(programs["feature-gs query"])
    results = {}
    print(f"{'':<24}{'wall':>8}{'processor':>12}")
    for name, words in programs.items():
        runs = [_seconds(words) for _ in range(RUNS)]
        wall, processor = (statistics.median(values) for values in zip(*runs, strict=True))
        results |= {f"startup: {name}, wall": wall, f"startup: {name}, processor": processor}
        aim = f"   (target {TARGETS[name]} s)" if name in TARGETS else ""
        print(f"{name:<24}{wall:>6.3f} s{processor:>10.3f} s{aim}")
    return results


def _seconds(words: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one Python process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:3])
