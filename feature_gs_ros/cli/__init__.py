"""``feature-gs``: the package without ROS.

Exit codes: 0 done, 2 bad input with one line on stderr that ends with the error's code, 70 a bug of ours with one line
and a log file, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from feature_gs_ros.core.errors import FeatureGsError, OptionError, StoppedError
from feature_gs_ros.core.memory import keep_freed_memory, memory_error
from feature_gs_ros.core.text import MAX_MESSAGE, printable

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
BAD_INPUT, BUG, INTERRUPTED = 2, 70, 130  # 70: EX_SOFTWARE of sysexits.h


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    with _usable_streams():
        sys.exit(_code(list(sys.argv[1:] if arguments is None else arguments)))


def _code(words: list[str]) -> int:
    """The exit code of a command, which has printed what it has to say."""
    keep_freed_memory()
    try:
        _configure_messages()
        from feature_gs_ros.cli.commands import run  # takes seconds, in which Ctrl-C is heard, too

        return run(words)
    except (KeyboardInterrupt, StoppedError):
        return _failed("interrupted", INTERRUPTED)
    except FeatureGsError as error:
        return _failed(error, BAD_INPUT)
    except BrokenPipeError:  # `feature-gs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # names that are too long, folders that may not be looked into: even asking for them fails
        told = f"can't use '{error.filename}': {error.strerror}" if error.filename else error
        return _failed(memory_error(error) or told, BAD_INPUT)
    except Exception as error:
        short = memory_error(error)
        return _failed(short, BAD_INPUT) if short is not None else _bug(error)


def _failed(reason: object, code: int) -> int:
    kind = f" [{reason.code}]" if isinstance(reason, FeatureGsError) else ""
    print(f"feature-gs: {printable(reason, limit=MAX_MESSAGE)}{kind}", file=sys.stderr)
    return code


def _bug(error: Exception) -> int:
    trace = "".join(traceback.format_exception(error))
    kind = f"{type(error).__name__}: {printable(error, limit=200)}"
    try:
        path = _write_log(trace)
    except OSError:
        sys.stderr.write(printable(trace, lines=True))
        return _failed(f"internal error, {kind}; this is a bug: please report it with the lines above", BUG)
    return _failed(f"internal error, {kind}; this is a bug: please report it with '{path}'", BUG)


def _write_log(trace: str) -> Path:
    """A file of the user's for a traceback, with what was asked for.

    Raises:
        OSError: it can't be written anywhere.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    text = f"{stamp}\n{sys.argv!r}\nPython {sys.version}\n\n{trace}"
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    for folder in (Path(state, "feature_gs_ros"), Path(tempfile.gettempdir())):
        with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
            folder = folder.expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f"feature-gs-{stamp}-", suffix=".log", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return Path(name)
    raise OSError("no folder for a log file")


class _OneLine(logging.Formatter):
    """Messages hold names from files: what a terminal would act on is written out."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


def _configure_messages() -> None:
    level = os.environ.get("FEATURE_GS_LOG", "WARNING").upper()
    if level not in LOG_LEVELS:
        raise OptionError(
            f"FEATURE_GS_LOG={level} is not a log level; choose {', '.join(LOG_LEVELS)}", code="option.unknown"
        )
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Lossy:
    """stderr as a command sees it: where nobody reads any more, what is written is lost, and the work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _usable_streams() -> Iterator[None]:
    """Let nothing that is printed stop the work, nor get into a file of ours.

    A stream that the caller has closed (``2>&-``) is None in Python, and its number would go to the next file opened.
    """
    before = sys.stdout, sys.stderr
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process lives
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    with suppress(AttributeError, ValueError):  # a stream of a test's own
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr = _Lossy(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
