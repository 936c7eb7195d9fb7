"""How programs start: Ctrl-C ends them also while they are still being imported."""

from __future__ import annotations

import os
import signal
from importlib import import_module


def start(module: str) -> None:
    """Import a node's module and do its `main`; until that hears signals itself, Ctrl-C ends with 130.

    By the signal's handler and not by KeyboardInterrupt, which an import may swallow or make something else of. There
    is nothing to be undone yet.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    import_module(f"feature_gs_ros.ros.nodes.{module}").main()
