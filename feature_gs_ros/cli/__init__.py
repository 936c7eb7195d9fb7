"""``feature-gs``: the package without ROS. 0 done, 2 bad input with one line on stderr, 130 interrupted."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from feature_gs_ros.core.errors import FeatureGsError, OptionError, StoppedError
from feature_gs_ros.core.memory import keep_freed_memory

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    keep_freed_memory()
    try:
        logging.basicConfig(level=_log_level(), format="%(levelname)s %(message)s")
        from feature_gs_ros.cli.commands import run  # takes seconds, in which Ctrl-C is heard, too

        sys.exit(run(words))
    except (KeyboardInterrupt, StoppedError):
        print("feature-gs: interrupted", file=sys.stderr)
        sys.exit(130)
    except FeatureGsError as error:
        print(f"feature-gs: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `feature-gs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # names that are too long, folders that may not be looked into: even asking for them fails
        cause = f"can't use '{error.filename}': {error.strerror}" if error.filename else str(error)
        print(f"feature-gs: {cause}", file=sys.stderr)
        sys.exit(2)


def _log_level() -> str:
    level = os.environ.get("FEATURE_GS_LOG", "WARNING").upper()
    if level not in LOG_LEVELS:
        raise OptionError(f"FEATURE_GS_LOG={level} is no level of messages; choose {', '.join(LOG_LEVELS)}")
    return level
