"""Programs that are feature_map with one thing changed in them: an extractor that waits, a step that fails.

They run as the installed ones do, in a process of their own, so that a test can reach a moment that is hard to meet.
"""

from __future__ import annotations

from pathlib import Path

from ros.harness import wait_until

MAIN = """
from feature_gs_ros.ros.nodes.feature_map import main

main()
"""


GATED = """
from feature_gs_ros.extractors.color import ColorExtractor

class Gated(ColorExtractor):
    def extract(self, image, name=""):
        pass_gate()
        return super().extract(image, name)
"""


def altered_map(folder: Path, change: str) -> str:
    """The path of a program, for `Starter`, that does ``change``, in Python, and then what feature_map does."""
    path = folder / "altered_map"
    path.write_text(change + MAIN)
    return str(path)


class Gate:
    """Holds up an altered program wherever its change calls ``pass_gate()``, while the gate is shut."""

    CODE = """
import time
from pathlib import Path

def pass_gate():
    while Path({closed!r}).exists():
        Path({reached!r}).touch()
        time.sleep(0.01)
"""

    def __init__(self, folder: Path) -> None:
        self._folder, self._closed, self._reached = folder, folder / "closed", folder / "reached"

    def map(self, change: str) -> str:
        """feature_map after a change that calls ``pass_gate()``."""
        code = self.CODE.format(closed=str(self._closed), reached=str(self._reached))
        return altered_map(self._folder, code + change)

    def extractor(self) -> Path:
        """A folder for PYTHONPATH with an extractor package of one's own, ``gated``: color's, held up at each image."""
        site = self._folder / "site"
        package = site / "gated_extractor-1.0.dist-info"
        package.mkdir(parents=True, exist_ok=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: gated-extractor\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("[feature_gs_ros.extractors]\ngated = gated_extractor:Gated\n")
        code = self.CODE.format(closed=str(self._closed), reached=str(self._reached))
        (site / "gated_extractor.py").write_text(code + GATED)
        return site

    def shut(self) -> None:
        """Hold up who comes next."""
        self._reached.unlink(missing_ok=True)
        self._closed.touch()

    def wait(self) -> None:
        """Until somebody is held up."""
        wait_until(self._reached.exists, 30, "somebody at the gate")

    def open(self) -> None:
        """Let everybody through."""
        self._closed.unlink(missing_ok=True)
