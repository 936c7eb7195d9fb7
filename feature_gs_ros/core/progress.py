"""Progress of long work on stderr, and Ctrl-C that stops it in good order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from types import FrameType

from tqdm import tqdm

from feature_gs_ros.core.errors import StoppedError
from feature_gs_ros.core.text import printable


class ProgressBar:
    """A bar on stderr with rate and remaining time; its call is the callback of long work.

    Ctrl-C once asks the work to stop, twice ends the process.
    """

    def __init__(self, what: str, unit: str, quiet: bool = False, *, keep_partial: bool = True) -> None:
        """``keep_partial``: whether what is done by then is of use; else a stop ends the command."""
        self._bar = tqdm(desc=what, unit=unit, file=sys.stderr, disable=quiet or None)
        self._keep_partial = keep_partial
        self.interrupted = False

    def __call__(self, done: int, total: int, name: str = "") -> bool:
        self._bar.total = total
        self._bar.n = done
        self._bar.set_postfix_str(printable(name), refresh=False)
        self._bar.refresh()
        return self.interrupted

    @contextmanager
    def running(self) -> Iterator[ProgressBar]:
        """Take over Ctrl-C for the time of the block.

        Raises:
            StoppedError: Ctrl-C stopped work that keeps nothing.
        """
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)
            self._bar.close()
        if self.interrupted and not self._keep_partial:
            raise StoppedError("interrupted")

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        kept = " after this view; what is done is kept" if self._keep_partial else ""
        self._bar.write(f"stopping{kept} (Ctrl-C again to quit at once)", file=sys.stderr)


@contextmanager
def told_when_slow(text: str, seconds: float = 1.0) -> Iterator[None]:
    """Say on stderr what takes long, once the block has taken so many seconds."""
    timer = Timer(seconds, note, [f"{text} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def note(text: str) -> None:
    """A line for a person on stderr, so that stdout stays the answer's; what a terminal would act on is written out."""
    print(printable(text, lines=True), file=sys.stderr)


def say(text: str = "") -> None:
    """Lines of the answer, on stdout; what a terminal would act on is written out."""
    print(printable(text, lines=True))
