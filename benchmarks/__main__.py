"""``python -m benchmarks [NAME]… [--json FILE]``: all, or the named; seven others have options, see `main`."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from pathlib import Path

from feature_gs_ros.core.memory import keep_freed_memory

NAMES = ("startup", "backprojection", "queries", "tabletop", "affordance", "sam", "training", "distillation", "page")


def main() -> None:
    words = sys.argv[1:]
    if words[:1] in (["gpu"], ["found"], ["doctor"], ["align"], ["refine"], ["codecs"], ["scale"]):
        sys.exit(importlib.import_module(f"benchmarks.{words[0]}").command(words[1:]))
    target = Path(words.pop(words.index("--json") + 1)) if "--json" in words else None
    names = [word for word in words if word != "--json"] or list(NAMES)
    results: dict[str, float] = {}
    keep_freed_memory()  # as our programs do
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    for name in names:
        print(f"\n== {name}")
        results |= importlib.import_module(f"benchmarks.{name}").main()
    if target is not None:
        target.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
